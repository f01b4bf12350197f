#include "daemon/service/watch_reactor.h"

#include <algorithm>
#include <utility>

#include "daemon/service/convert.h"

namespace ikkuna::service {

std::shared_ptr<WatchReactor> WatchReactor::Create(WorkerPool& pumps, std::function<void(WatchReactor*)> on_done) {
  std::shared_ptr<WatchReactor> reactor(new WatchReactor(pumps, std::move(on_done)));
  reactor->self_ = reactor;
  return reactor;
}

WatchReactor::WatchReactor(WorkerPool& pumps, std::function<void(WatchReactor*)> on_done)
    : pumps_(pumps), on_done_(std::move(on_done)) {}

void WatchReactor::Begin(std::unique_ptr<Watcher> watcher) {
  // A sink's thread may still be inside the callback when this stream is gone.
  watcher->SetWakeUp([weak = weak_from_this()] {
    std::shared_ptr<WatchReactor> self = weak.lock();
    if (!self || self->pump_waiting_.exchange(true)) return;
    bool taken = self->pumps_.Post([weak] {
      std::shared_ptr<WatchReactor> reactor = weak.lock();
      if (!reactor) return;
      reactor->pump_waiting_ = false;
      reactor->Pump();
    });
    if (!taken) self->pump_waiting_ = false;
  });
  {
    std::lock_guard lock(mutex_);
    if (end_) return;
    watcher_ = std::move(watcher);
    StartSendInitialMetadata();
  }
  Pump();
}

void WatchReactor::End(const grpc::Status& status) {
  {
    std::lock_guard lock(mutex_);
    if (!end_) end_ = status;
    at_once_ = true;
  }
  Pump();
}

void WatchReactor::EndWhenEmpty(const grpc::Status& status) {
  {
    std::lock_guard lock(mutex_);
    if (!end_) end_ = status;
  }
  Pump();
}

void WatchReactor::OnWriteDone(bool ok) {
  {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) {
      if (!end_) end_ = grpc::Status(grpc::StatusCode::CANCELLED, "the client has gone");
      at_once_ = true;
    }
  }
  Pump();
}

void WatchReactor::OnCancel() { End(grpc::Status(grpc::StatusCode::CANCELLED, "the client has gone")); }

void WatchReactor::OnDone() {
  on_done_(this);
  self_.reset();
}

void WatchReactor::Pump() {
  // The calls into gRPC are made without the lock; writing_ and finished_ keep others from making them meanwhile.
  std::unique_ptr<Watcher> ended;
  std::optional<grpc::Status> end;
  {
    std::lock_guard lock(mutex_);
    if (writing_ || finished_) return;
    if (!at_once_ && FillLocked()) {
      writing_ = true;
    } else if (end_) {
      finished_ = true;
      ended = std::move(watcher_);
      end = end_;
    } else {
      return;
    }
  }
  if (end) {
    ended.reset();
    Finish(*end);
  } else {
    StartWrite(&response_);
  }
}

bool WatchReactor::FillLocked() {
  if (!watcher_) return false;
  if (announced_ >= pending_.new_series.size()) {
    pending_ = watcher_->Take(kMaxSamples);
    announced_ = 0;
    if (pending_.new_series.empty() && pending_.samples.empty() && pending_.events.empty() &&
        pending_.dropped == dropped_sent_) {
      return false;
    }
  }
  response_.Clear();
  size_t end = std::min(announced_ + kMaxNewSeries, pending_.new_series.size());
  for (; announced_ < end; ++announced_) Convert(pending_.new_series[announced_], response_.add_new_series());
  if (announced_ >= pending_.new_series.size()) {
    // Samples go with the last of their series.
    for (const Sample& sample : pending_.samples) Convert(sample, response_.add_samples());
    for (const Event& event : pending_.events) Convert(event, response_.add_events());
    dropped_sent_ = pending_.dropped;
    pending_ = {};
    announced_ = 0;
  }
  response_.set_dropped(dropped_sent_);
  return true;
}

}  // namespace ikkuna::service
