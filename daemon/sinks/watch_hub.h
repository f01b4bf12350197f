// WatchHub: hands fresh values and events to those who watch.
//
// Owner: the daemon's list of sinks, as its last: what a cursor leaves out every other sink has been offered. Watchers
// may outlive it. Thread rule: every method from any thread; one caller at a time per Watcher.
//
// Offer queues a pointer. The hub's thread keeps the batches of the last while (a ring, so that a watch can begin where
// a read ended) and filters them: watchers of equal filters are one group, which matches once and has one update for
// all. A group keeps what its slowest watcher has not taken, up to a maximum; then the oldest go, counted for each
// watcher that had not taken them. Announcements of series are never dropped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "daemon/model/filter.h"
#include "daemon/model/sink.h"
#include "daemon/model/watch.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

struct WatchOptions {
  size_t past_bytes_max = size_t{64} << 20;  // of batches that a cursor may reach back over
  // Of what watchers have not taken, with the encodings that the service makes of it; the group that has most pays.
  size_t waiting_bytes_max = size_t{128} << 20;
  std::function<void(Event)> report = {};  // see queued_sink.h
};

class WatchHub : public Sink {
 public:
  static constexpr size_t kWatchersMax = 256;  // a page each for a large team; a watch costs a stream and some memory

  explicit WatchHub(const WatchOptions& options = {});
  ~WatchHub() override;  // closes

  std::string name() const override { return "watch"; }
  void Offer(std::shared_ptr<const Batch> batch) override;
  // Values once for each watcher whose filter they pass; written: taken by a watcher. What a watcher leaves when it
  // goes is dropped ("left").
  SinkCounters Counters() const override;
  Status Flush(std::chrono::steady_clock::time_point deadline) override;  // until all offered before can be taken
  void Close() override;  // watchers may take what is there, then they see the end

  // Behind everything offered so far.
  WatchCursor Cursor() const;
  // From the cursor on; without one, from now on. kFailedPrecondition: the cursor is of another daemon or too old.
  Result<std::unique_ptr<Watcher>> Watch(const SeriesFilter& filter, const std::optional<WatchCursor>& from = {});
  size_t watchers() const;

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace ikkuna::sinks
