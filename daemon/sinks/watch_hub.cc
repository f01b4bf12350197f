#include "daemon/sinks/watch_hub.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "daemon/sinks/sample_filter.h"

namespace ikkuna::sinks {

// What one watcher has not taken yet. The hub offers, the watcher takes.
class WatchQueue {
 public:
  explicit WatchQueue(const SeriesFilter& filter) : filter_(filter) {}

  void Offer(const Batch& batch, const SeriesCatalogue& catalogue);
  WatchUpdate Take(size_t samples_max);
  void SetWakeUp(std::function<void()> wake_up);
  void AddCounts(SinkCounters& counters) const;
  // The watcher has gone; the hub forgets this queue at its next look.
  void Leave() { gone_.store(true, std::memory_order_relaxed); }
  bool gone() const { return gone_.load(std::memory_order_relaxed); }

 private:
  enum class Verdict : unsigned char { kUnknown = 0, kRefused, kAnnounced };

  bool Passes(uint64_t series_id, std::string_view run, const SeriesCatalogue& catalogue);
  void PushLocked(const Sample& sample);

  // Constant after construction.
  const SampleFilter filter_;
  std::atomic<bool> gone_{false};  // relaxed: it guards nothing, a batch more or less does not matter

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<Verdict> verdicts_;  // by series id
  std::vector<Series> new_series_;
  std::deque<Sample> samples_;
  std::deque<Event> events_;
  uint64_t offered_ = 0;
  uint64_t dropped_ = 0;
  bool armed_ = true;  // the next thing queued wakes the watcher up

  std::mutex wake_mutex_;  // held while the callback runs; taken without mutex_
  // Guarded by wake_mutex_.
  std::function<void()> wake_up_;
};

bool WatchQueue::Passes(uint64_t series_id, std::string_view run, const SeriesCatalogue& catalogue) {
  if (series_id < verdicts_.size() && verdicts_[series_id] != Verdict::kUnknown) {
    return verdicts_[series_id] == Verdict::kAnnounced;
  }
  std::optional<Series> series = catalogue.Find(series_id);
  if (!series) return false;
  if (series_id >= verdicts_.size()) verdicts_.resize(series_id + 1, Verdict::kUnknown);
  Verdict& verdict = verdicts_[series_id];
  if (!filter_.Matches(series->key, run)) {
    verdict = Verdict::kRefused;
    return false;
  }
  if (new_series_.size() >= WatchHub::kSeriesQueuedMax) {
    // It cannot be announced yet, so it cannot be shown yet.
    ++offered_;
    ++dropped_;
    return false;
  }
  new_series_.push_back(*std::move(series));
  verdict = Verdict::kAnnounced;
  return true;
}

void WatchQueue::PushLocked(const Sample& sample) {
  ++offered_;
  if (samples_.size() >= WatchHub::kSamplesQueuedMax) {
    samples_.pop_front();
    ++dropped_;
  }
  samples_.push_back(sample);
}

void WatchQueue::Offer(const Batch& batch, const SeriesCatalogue& catalogue) {
  const std::string_view run = batch.producer ? std::string_view(batch.producer->run) : std::string_view();
  bool wake;
  {
    std::lock_guard lock(mutex_);
    for (const Sample& sample : batch.samples) {
      if (Passes(sample.series_id, run, catalogue)) PushLocked(sample);
    }
    for (const Event& event : batch.events) {
      if (!event.run.run_id.empty() && !filter_.MatchesRun(event.run, run)) continue;
      if (events_.size() >= WatchHub::kEventsQueuedMax) events_.pop_front();
      events_.push_back(event);
    }
    wake = armed_ && !(samples_.empty() && events_.empty());
    if (wake) armed_ = false;
  }
  if (!wake) return;
  std::lock_guard lock(wake_mutex_);
  if (wake_up_) wake_up_();
}

WatchUpdate WatchQueue::Take(size_t samples_max) {
  std::lock_guard lock(mutex_);
  WatchUpdate update;
  update.new_series = std::exchange(new_series_, {});
  const auto count = static_cast<std::ptrdiff_t>(std::min(samples_max, samples_.size()));
  update.samples.assign(samples_.begin(), samples_.begin() + count);
  samples_.erase(samples_.begin(), samples_.begin() + count);
  update.events.assign(events_.begin(), events_.end());
  events_.clear();
  update.dropped = dropped_;
  if (update.new_series.empty() && update.samples.empty() && update.events.empty() && samples_.empty()) armed_ = true;
  return update;
}

void WatchQueue::SetWakeUp(std::function<void()> wake_up) {
  {
    std::lock_guard lock(wake_mutex_);
    wake_up_ = std::move(wake_up);
  }
  // What was queued before had nobody to wake.
  std::lock_guard lock(mutex_);
  armed_ = true;
}

void WatchQueue::AddCounts(SinkCounters& counters) const {
  std::lock_guard lock(mutex_);
  counters.offered += offered_;
  counters.dropped += dropped_;
  counters.queued += samples_.size();
}

namespace {

class HubWatcher : public Watcher {
 public:
  explicit HubWatcher(std::shared_ptr<WatchQueue> queue) : queue_(std::move(queue)) {}
  ~HubWatcher() override {
    queue_->SetWakeUp(nullptr);
    queue_->Leave();
  }
  WatchUpdate Take(size_t samples_max) override { return queue_->Take(samples_max); }
  void SetWakeUp(std::function<void()> wake_up) override { queue_->SetWakeUp(std::move(wake_up)); }

 private:
  const std::shared_ptr<WatchQueue> queue_;
};

}  // namespace

void WatchHub::Offer(std::shared_ptr<const Batch> batch) {
  if (watcher_count_.load(std::memory_order_relaxed) == 0) return;
  std::vector<std::shared_ptr<WatchQueue>> queues;
  {
    std::lock_guard lock(mutex_);
    PruneLocked();
    queues = queues_;
  }
  for (const auto& queue : queues) queue->Offer(*batch, catalogue_);
}

void WatchHub::PruneLocked() {
  std::erase_if(queues_, [this](const auto& queue) {
    if (!queue->gone()) return false;
    // What still waited nobody will take.
    SinkCounters left;
    queue->AddCounts(left);
    departed_.offered += left.offered;
    departed_.dropped += left.dropped + left.queued;
    return true;
  });
  watcher_count_.store(queues_.size(), std::memory_order_relaxed);
}

size_t WatchHub::watchers() {
  std::lock_guard lock(mutex_);
  PruneLocked();
  return queues_.size();
}

SinkCounters WatchHub::counters() {
  std::lock_guard lock(mutex_);
  PruneLocked();
  SinkCounters counters = departed_;
  for (const auto& queue : queues_) queue->AddCounts(counters);
  counters.name = "watch";
  counters.written = counters.offered - counters.dropped - counters.queued;
  return counters;
}

Result<std::unique_ptr<Watcher>> WatchHub::Watch(const SeriesFilter& filter) {
  std::lock_guard lock(mutex_);
  PruneLocked();
  if (queues_.size() >= kWatchersMax) {
    return Error{ErrorCode::kResourceExhausted, "cannot watch: " + std::to_string(kWatchersMax) +
                                                    " clients watch already, which is the most; close one of them"};
  }
  auto queue = std::make_shared<WatchQueue>(filter);
  queues_.push_back(queue);
  watcher_count_.store(queues_.size(), std::memory_order_relaxed);
  return std::unique_ptr<Watcher>(std::make_unique<HubWatcher>(std::move(queue)));
}

}  // namespace ikkuna::sinks
