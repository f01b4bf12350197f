// Ticker: calls something again and again on a thread of its own, until it ends.
//
// Owner: the daemon. Thread rule: construct and destroy by the owner. What the call throws is logged, and the next call
// comes all the same.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace ikkuna {

class Ticker {
 public:
  // `name`: the thread's, 15 bytes at most.
  Ticker(std::string name, std::chrono::milliseconds every, std::function<void()> call);
  // Joins: no call is on its way afterwards.
  ~Ticker();
  Ticker(const Ticker&) = delete;
  Ticker& operator=(const Ticker&) = delete;

 private:
  void Run();

  // Constant after construction.
  const std::string name_;
  const std::chrono::milliseconds every_;
  const std::function<void()> call_;

  std::mutex mutex_;
  std::condition_variable wakes_;
  bool ending_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace ikkuna
