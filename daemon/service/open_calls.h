// OpenCalls: what all doors of the service share: the threads that calls run on, so that none of gRPC's ever waits for a
// disk or a trainer, and the watches that are open, so that they can be ended.
//
// Owner: Server, which stops it after gRPC. Thread rule: every method from any thread; StopWorkers once.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "daemon/service/worker_pool.h"

namespace ikkuna::service {

class WatchReactor;

// Calls that wait for one thing do not stand in the way of those that wait for another.
enum class Lane : uint8_t {
  kQuick,    // looks at memory alone: answered whatever the disk does
  kFiles,    // may read files
  kWhole,    // copies and checks files of runs as a whole, minutes: nobody who reads waits for it
  kControl,  // waits for trainers, seconds
  kWatches,  // what watchers are sent
};

class OpenCalls {
 public:
  OpenCalls();

  // False: too many wait in the lane, or the service ends; the task was not taken. Tasks do not throw.
  bool Post(Lane lane, std::function<void()> task);

  // False: the service ends.
  bool Add(const std::shared_ptr<WatchReactor>& watch);
  void Forget(WatchReactor* watch);

  // Ends every watch once its client has been sent all that waits, and every new one at once. True when there were some
  // and all are through before `until`.
  bool EndWatches(std::chrono::steady_clock::time_point until);
  // Joins the threads; after gRPC's shutdown.
  void StopWorkers();

 private:
  WorkerPool& Of(Lane lane);

  WorkerPool quick_;
  WorkerPool files_;
  WorkerPool whole_;
  WorkerPool control_;
  WorkerPool pumps_;

  std::mutex mutex_;
  // Guarded by mutex_.
  std::unordered_map<WatchReactor*, std::weak_ptr<WatchReactor>> watches_;
  bool ending_ = false;
  std::condition_variable none_left_;
};

}  // namespace ikkuna::service
