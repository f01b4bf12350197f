#include "daemon/monitor/activity.h"

#include "shared/base/clock.h"

namespace ikkuna {

Activity::Activity() : last_ns_(MonotonicNs()) {}

void Activity::Begin() {
  calls_.fetch_add(1, std::memory_order_relaxed);
  open_.fetch_add(1, std::memory_order_relaxed);
}

void Activity::End() {
  last_ns_.store(MonotonicNs(), std::memory_order_relaxed);
  open_.fetch_sub(1, std::memory_order_relaxed);
}

double Activity::SecondsUnused() const {
  if (open_.load(std::memory_order_relaxed) > 0) return 0;
  return static_cast<double>(MonotonicNs() - last_ns_.load(std::memory_order_relaxed)) * 1e-9;
}

}  // namespace ikkuna
