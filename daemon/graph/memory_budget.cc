#include "daemon/graph/memory_budget.h"

#include <atomic>
#include <utility>

namespace ikkuna::graph {

struct MemoryBudget::State {
  explicit State(uint64_t most) : bytes_max(most) {}
  const uint64_t bytes_max;
  std::atomic<uint64_t> used{0};
  std::atomic<uint64_t> peak{0};
  std::atomic<uint64_t> refused{0};
};

MemoryBudget::Reservation::Reservation(std::shared_ptr<State> state, uint64_t bytes)
    : state_(std::move(state)), bytes_(bytes) {}

MemoryBudget::Reservation::Reservation(Reservation&& other) noexcept
    : state_(std::move(other.state_)), bytes_(std::exchange(other.bytes_, 0)) {}

MemoryBudget::Reservation& MemoryBudget::Reservation::operator=(Reservation&& other) noexcept {
  if (this == &other) return *this;
  Release();
  state_ = std::move(other.state_);
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

void MemoryBudget::Reservation::Release() {
  // Relaxed here as everywhere below: a sum guards no other memory.
  if (state_ != nullptr) state_->used.fetch_sub(bytes_, std::memory_order_relaxed);
  state_ = nullptr;
  bytes_ = 0;
}

MemoryBudget::MemoryBudget(uint64_t bytes_max) : state_(std::make_shared<State>(bytes_max)) {}

std::optional<MemoryBudget::Reservation> MemoryBudget::Reserve(uint64_t bytes) {
  State& state = *state_;
  uint64_t used = state.used.load(std::memory_order_relaxed);
  do {
    if (bytes > state.bytes_max - used) {
      state.refused.fetch_add(1, std::memory_order_relaxed);
      return std::nullopt;
    }
  } while (!state.used.compare_exchange_weak(used, used + bytes, std::memory_order_relaxed));
  uint64_t peak = state.peak.load(std::memory_order_relaxed);
  while (peak < used + bytes && !state.peak.compare_exchange_weak(peak, used + bytes, std::memory_order_relaxed)) {
  }
  return Reservation(state_, bytes);
}

uint64_t MemoryBudget::bytes_max() const { return state_->bytes_max; }
uint64_t MemoryBudget::used() const { return state_->used.load(std::memory_order_relaxed); }
uint64_t MemoryBudget::peak() const { return state_->peak.load(std::memory_order_relaxed); }
uint64_t MemoryBudget::refused() const { return state_->refused.load(std::memory_order_relaxed); }

}  // namespace ikkuna::graph
