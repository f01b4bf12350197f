// WatchHub: hands fresh samples and events to those who watch, each through a bounded queue of its own.
//
// Owner: the daemon's core; watchers may outlive the hub. Thread rule: Offer from any ingest thread, Watch and counters
// from any thread, one caller at a time per Watcher. A slow watcher loses its oldest samples, counted in its updates;
// it never holds up an Offer. Without watchers an Offer costs one atomic load.
//
// Watcher: call SetWakeUp, then Take. Take: call it again until an update is empty; only then is the wake-up armed
// again. The wake-up runs on the offering thread, may call Take, but not SetWakeUp. After SetWakeUp(nullptr) or the
// destructor it is not running.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "daemon/monitor.h"
#include "daemon/sample.h"
#include "daemon/series_catalogue.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

class WatchQueue;

class WatchHub : public SampleSink {
 public:
  static constexpr size_t kWatchersMax = 64;           // a page each for a whole team; every one costs a pass a batch
  static constexpr size_t kSamplesQueuedMax = 65'536;  // 3.5 MB a watcher: seconds of the fullest stream
  static constexpr size_t kEventsQueuedMax = 1'024;    // events are rare, and the store has them all
  static constexpr size_t kSeriesQueuedMax = 65'536;   // announcements waiting; a sample not announced is dropped

  explicit WatchHub(const SeriesCatalogue& catalogue) : catalogue_(catalogue) {}

  void Offer(std::shared_ptr<const Batch> batch) override;
  // From now on; the past is read from the store.
  Result<std::unique_ptr<Watcher>> Watch(const SeriesFilter& filter);

  size_t watchers();  // without those that left
  // Over all watchers that there were: offered counts a sample once for each watcher whose filter it passes.
  // written: taken by a watcher. queued: samples that wait. What waited when a watcher left is dropped.
  SinkCounters counters();

 private:
  void PruneLocked();

  // Constant after construction.
  const SeriesCatalogue& catalogue_;
  // Relaxed: a watcher that is just arriving may miss a batch, as if it had come a moment later.
  std::atomic<size_t> watcher_count_{0};
  std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<std::shared_ptr<WatchQueue>> queues_;
  SinkCounters departed_;  // sums of the watchers that left
};

}  // namespace ikkuna::sinks
