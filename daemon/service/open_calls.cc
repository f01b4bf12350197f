#include "daemon/service/open_calls.h"

#include <utility>
#include <vector>

#include "daemon/service/failures.h"
#include "daemon/service/watch_reactor.h"

namespace ikkuna::service {
namespace {

constexpr size_t kQuickThreads = 1;
constexpr size_t kFilesThreads = 4;    // a few queries that wait for the disk, and one more
constexpr size_t kWholeThreads = 1;    // an export or import after another: they share one disk
constexpr size_t kControlThreads = 2;  // two runs that are stopped at one time
constexpr size_t kPumpThreads = 1;     // it encodes once for each filter, and copies pointers

}  // namespace

OpenCalls::OpenCalls()
    : quick_(kQuickThreads), files_(kFilesThreads), whole_(kWholeThreads), control_(kControlThreads), pumps_(kPumpThreads) {}

WorkerPool& OpenCalls::Of(Lane lane) {
  switch (lane) {
    case Lane::kQuick:
      return quick_;
    case Lane::kFiles:
      return files_;
    case Lane::kWhole:
      return whole_;
    case Lane::kControl:
      return control_;
    case Lane::kWatches:
      break;
  }
  return pumps_;
}

bool OpenCalls::Post(Lane lane, std::function<void()> task) { return Of(lane).Post(std::move(task)); }

bool OpenCalls::Add(const std::shared_ptr<WatchReactor>& watch) {
  std::lock_guard lock(mutex_);
  if (ending_) return false;
  watches_.emplace(watch.get(), watch);
  return true;
}

void OpenCalls::Forget(WatchReactor* watch) {
  std::lock_guard lock(mutex_);
  watches_.erase(watch);
  if (watches_.empty()) none_left_.notify_all();
}

bool OpenCalls::EndWatches(std::chrono::steady_clock::time_point until) {
  std::vector<std::shared_ptr<WatchReactor>> live;
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
    for (auto& [raw, weak] : watches_) {
      if (std::shared_ptr<WatchReactor> watch = weak.lock()) live.push_back(std::move(watch));
    }
  }
  for (const std::shared_ptr<WatchReactor>& watch : live) watch->EndWhenEmpty(Stopping());
  const bool any = !live.empty();
  live.clear();
  std::unique_lock lock(mutex_);
  return none_left_.wait_until(lock, until, [this] { return watches_.empty(); }) && any;
}

void OpenCalls::StopWorkers() {
  for (const Lane lane : {Lane::kQuick, Lane::kFiles, Lane::kWhole, Lane::kControl, Lane::kWatches}) Of(lane).Stop();
}

}  // namespace ikkuna::service
