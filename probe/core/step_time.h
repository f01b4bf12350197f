// StepTime: what the steps of one loop take, without the pauses between them. Thread rule: one thread.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ikkuna::probe {

class StepTime {
 public:
  // A step that takes this many times the usual one held an evaluation pass, a checkpoint or a stopped process. Counted
  // whole it would hide the probe's share. A loop that really became slower is followed within a few steps.
  static constexpr uint64_t kPauseFactor = 4;

  // How much of the time since the step before counts as this step's.
  uint64_t Count(uint64_t elapsed_ns) {
    if (usual_ns_ == 0) usual_ns_ = elapsed_ns;
    const uint64_t counted_ns = std::min(elapsed_ns, kPauseFactor * usual_ns_);
    usual_ns_ = (7 * usual_ns_ + counted_ns) / 8;
    return counted_ns;
  }
  // Moving average; 0 before the first step.
  uint64_t usual_ns() const { return usual_ns_; }

 private:
  uint64_t usual_ns_ = 0;
};

}  // namespace ikkuna::probe
