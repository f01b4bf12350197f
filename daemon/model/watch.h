// Watching: what was recorded of runs, as it comes. daemon/sinks/watch_hub.h has it; the service encodes it.
//
// WatchUpdates are immutable and shared: all watchers of one filter get the same objects, so that what is made of one
// (its encoding) is made once. Thread rule: a Watcher by one caller at a time; updates from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "daemon/model/batch.h"
#include "daemon/model/run.h"
#include "daemon/model/series.h"

namespace ikkuna {

// A place in the stream of all batches of one daemon's life. Ask for it before a read: a watch that begins there misses
// nothing of what the read did not have; what came while it was read may come again.
struct WatchCursor {
  Uuid daemon{};          // of one life of a daemon
  uint64_t position = 0;  // batches before it
  bool operator==(const WatchCursor&) const = default;
};

// A part of what a filter lets through: series that begin, or the values of one step and events.
struct WatchUpdate {
  uint64_t position = 0;  // a watch that had this goes on from here; 0 where series are announced: that is no place
  // Whose: a number for each run, unique in the daemon's life, from 1; series ids are the run's. 0: the daemon's
  // events.
  uint64_t run_number = 0;
  std::shared_ptr<const ProducerInfo> run;  // null where run_number is 0

  // Every series is announced to a watcher before its first value.
  std::vector<std::shared_ptr<const Series>> new_series;
  // What passes: the batch as it was, or a copy of a part. Null where series are announced.
  std::shared_ptr<const Batch> batch;

  WatchUpdate() = default;
  WatchUpdate(const WatchUpdate&) = delete;
  WatchUpdate& operator=(const WatchUpdate&) = delete;

  // What the first caller makes of it (`make` returns a T), for all that follow. One type T in a program.
  template <typename T, typename Make>
  std::shared_ptr<const T> Once(Make&& make) const {
    std::call_once(made_once_, [&] { made_ = std::make_shared<const T>(make(*this)); });
    return std::static_pointer_cast<const T>(made_);
  }

 private:
  mutable std::once_flag made_once_;
  mutable std::shared_ptr<const void> made_;
};

struct WatchTaken {
  std::vector<std::shared_ptr<const WatchUpdate>> updates;  // in their order
  uint64_t dropped = 0;         // values that this watcher lost so far because it was too slow
  uint64_t events_dropped = 0;  // events likewise
  bool ended = false;           // the daemon shuts down: nothing more will come, and `updates` is empty
};

class Watcher {
 public:
  virtual ~Watcher() = default;
  // What waits, oldest first, until `values_max` values are reached (one update always fits). Call it again until it
  // gives no update; only then is the wake-up armed again.
  virtual WatchTaken Take(size_t values_max) = 0;
  // `wake_up` runs on a thread of the hub once there is something new to take, or the end; it may call Take but not
  // SetWakeUp, and should only schedule. What came before it was set wakes nobody: call Take once behind SetWakeUp.
  // After SetWakeUp(nullptr) or the destructor it is not running.
  virtual void SetWakeUp(std::function<void()> wake_up) = 0;
};

}  // namespace ikkuna
