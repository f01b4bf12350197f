// WorkerPool: a few threads that run the calls, so that a query that waits for the disk never holds a thread of gRPC.
//
// Owner: Server. Thread rule: Post from any thread; Stop once, from the owner's.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace ikkuna::service {

class WorkerPool {
 public:
  // Tasks that may wait. A client has at most kMaxCallsPerConnection calls in the air, so a crowd is needed to reach
  // it.
  static constexpr size_t kMaxWaiting = 1024;

  explicit WorkerPool(size_t threads);
  ~WorkerPool() { Stop(); }
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // False: too many wait already, or the pool stops; the task was not taken. Tasks do not throw.
  bool Post(std::function<void()> task);

  // Runs what was posted to its end.
  void Stop();

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;

  std::vector<std::thread> threads_;
};

}  // namespace ikkuna::service
