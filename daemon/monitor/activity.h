// Activity: whether anybody asks anything of the daemon, for one that ends when nobody needs it.
//
// Thread rule: every method from any thread.
#pragma once

#include <atomic>
#include <cstdint>

namespace ikkuna {

class Activity {
 public:
  Activity();
  // A call begins, a stream among them.
  void Begin();
  // It has ended, after Begin.
  void End();

  // Since the last call ended; 0 while there is one.
  double SecondsUnused() const;
  uint64_t calls() const { return calls_.load(std::memory_order_relaxed); }  // that began, ever

 private:
  // Relaxed: they order nothing.
  std::atomic<uint64_t> calls_{0};
  std::atomic<uint64_t> open_{0};
  std::atomic<uint64_t> last_ns_;  // CLOCK_MONOTONIC
};

}  // namespace ikkuna
