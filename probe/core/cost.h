// What watching costs: one step's account and the timer that adds to it. Thread rule: values of one thread.
#pragma once

#include <cstdint>

#include "shared/base/clock.h"

namespace ikkuna::probe {

// What the probe spent of one step.
struct StepCost {
  uint64_t total_ns = 0;
  uint64_t tensor_ns = 0;  // of it, on whole tensors
  uint64_t scalar_ns = 0;  // of it, on scalars
};

// Adds the time of a scope to one of a step's sums.
class CostTimer {
 public:
  explicit CostTimer(uint64_t& sum_ns) : sum_ns_(sum_ns), begin_ns_(MonotonicNs()) {}
  ~CostTimer() { sum_ns_ += MonotonicNs() - begin_ns_; }
  CostTimer(const CostTimer&) = delete;
  CostTimer& operator=(const CostTimer&) = delete;

 private:
  uint64_t& sum_ns_;
  const uint64_t begin_ns_;
};

}  // namespace ikkuna::probe
