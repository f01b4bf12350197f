#include "probe/core/pace.h"

namespace ikkuna::probe {

// The caller holds mutex_.
Pace::History& Pace::Of(const Thing& thing) {
  uint64_t key = uint64_t{thing.name} << 32 | uint64_t{thing.kind} << 24 | uint64_t{thing.tag & 0xffu} << 16 |
                 thing.root;
  if (histories_.size() >= kMaxThings && histories_.count(key) == 0) key = UINT64_MAX;
  return histories_[key];
}

bool Pace::IsRare(const Thing& thing) {
  const uint64_t now = step_.load(std::memory_order_relaxed) + 1;
  std::lock_guard lock(mutex_);
  History& history = Of(thing);
  const uint64_t latest = history.last[(history.next + kBurst - 1) % kBurst];
  if (latest == now) return history.rare;
  const uint64_t oldest = history.last[history.next];
  history.rare = oldest == 0 || now - oldest >= kBurst * kRareSteps;
  history.last[history.next] = now;
  history.next = (history.next + 1) % kBurst;
  return history.rare;
}

bool Pace::TakesFirst(const Thing& thing, size_t lane, uint64_t window) {
  const uint64_t now = step_.load(std::memory_order_relaxed) + 1;
  std::lock_guard lock(mutex_);
  uint64_t& taken = Of(thing).taken[lane];
  if (taken == now) return true;
  if (taken != 0 && window > 1 && (taken - 1) / window == (now - 1) / window) return false;
  taken = now;
  return true;
}

}  // namespace ikkuna::probe
