#include "daemon/service/monitor_service.h"

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "daemon/service/answers.h"
#include "daemon/service/convert.h"

namespace ikkuna::service {
namespace {

constexpr size_t kCallThreads = 4;  // a few queries that wait for the disk, and one more

grpc::Status Stopping() { return {grpc::StatusCode::UNAVAILABLE, "ikkuna-daemon is stopping"}; }
grpc::Status Overloaded() {
  return {grpc::StatusCode::RESOURCE_EXHAUSTED,
          std::to_string(WorkerPool::kMaxWaiting) + " calls wait already; try again"};
}

// The edge: what a library throws (out of memory, the store's) becomes an answer.
template <typename Work>
grpc::Status Guarded(Work work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return {grpc::StatusCode::RESOURCE_EXHAUSTED, "the answer does not fit the daemon's memory; ask for less"};
  } catch (const std::exception& error) {
    return {grpc::StatusCode::INTERNAL, std::string("the daemon failed to answer: ") + error.what()};
  }
}

}  // namespace

MonitorService::MonitorService(ikkuna::Monitor& monitor) : monitor_(monitor), calls_(kCallThreads), pumps_(1) {}

template <typename Request, typename Response>
grpc::ServerUnaryReactor* MonitorService::Post(grpc::CallbackServerContext* context, const Request* request,
                                               Response* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  bool taken = calls_.Post([this, context, reactor, request, response] {
    if (context->IsCancelled()) {
      reactor->Finish({grpc::StatusCode::CANCELLED, "the client has gone"});
      return;
    }
    reactor->Finish(Guarded([&] { return Answer(monitor_, *request, response); }));
  });
  if (!taken) reactor->Finish(Overloaded());
  return reactor;
}

grpc::ServerWriteReactor<v1::WatchResponse>* MonitorService::Watch(grpc::CallbackServerContext*,
                                                                   const v1::WatchRequest* request) {
  std::shared_ptr<WatchReactor> reactor = WatchReactor::Create(pumps_, [this](WatchReactor* gone) { Forget(gone); });
  grpc::Status refusal;
  {
    std::lock_guard lock(mutex_);
    if (ending_) {
      refusal = Stopping();
    } else if (watches_.size() >= kMaxWatches) {
      refusal = {grpc::StatusCode::RESOURCE_EXHAUSTED,
                 std::to_string(kMaxWatches) + " watches are open, which is the most; end one first"};
    } else {
      watches_.emplace(reactor.get(), reactor);
    }
  }
  if (!refusal.ok()) {
    reactor->End(refusal);
    return reactor.get();
  }
  // A reactor lives until OnDone, which follows its End: the raw pointer stays good for gRPC.
  bool taken = calls_.Post([this, reactor, copy = *request] {
    grpc::Status status = Guarded([&]() -> grpc::Status {
      Result<std::unique_ptr<Watcher>> watcher = StartWatch(monitor_, copy);
      if (!watcher) return ToGrpc(watcher.error());
      reactor->Begin(std::move(*watcher));
      return grpc::Status::OK;
    });
    if (!status.ok()) reactor->End(status);
  });
  if (!taken) reactor->End(Overloaded());
  return reactor.get();
}

void MonitorService::Forget(WatchReactor* reactor) {
  std::lock_guard lock(mutex_);
  watches_.erase(reactor);
  if (watches_.empty()) none_left_.notify_all();
}

bool MonitorService::EndWatches(std::chrono::steady_clock::time_point until) {
  std::vector<std::shared_ptr<WatchReactor>> live;
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
    for (auto& [raw, weak] : watches_) {
      if (std::shared_ptr<WatchReactor> reactor = weak.lock()) live.push_back(std::move(reactor));
    }
  }
  for (const std::shared_ptr<WatchReactor>& reactor : live) reactor->EndWhenEmpty(Stopping());
  const bool any = !live.empty();
  live.clear();
  std::unique_lock lock(mutex_);
  return none_left_.wait_until(lock, until, [this] { return watches_.empty(); }) && any;
}

void MonitorService::StopWorkers() {
  calls_.Stop();
  pumps_.Stop();
}

}  // namespace ikkuna::service
