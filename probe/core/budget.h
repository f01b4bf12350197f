// Budget: keeps the probe's share of the step time below what is allowed by stretching periods.
//
// The cost of each class of message and the time of the steps are summed over a window; when the share is above the
// allowance, the dearest class is stretched by the power of two that would fit, whole tensors first and scalars last.
// What a class costs unstretched is remembered; as soon as that would fit, stretches are taken back, scalars first:
// waiting for a window that holds due steps of a class stretched a thousandfold would take hours. What the probe costs
// on steps of which nothing is due counts too, but no stretch can help it. Being awake costs scalars what it costs when
// they are alone; statistics that come in the same step cost what is beyond that, or it would count twice. Owner: the
// session; thread rule: any thread, one mutex.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <mutex>

#include "probe/core/demand.h"

namespace ikkuna::probe {

// In the order in which they are stretched.
enum class CostClass : uint8_t { kTensor = 0, kSummary = 1, kScalar = 2 };
constexpr size_t kCostClasses = 3;

// A share of the step time in parts per million; 0, no budget, for what is not above zero.
constexpr uint32_t BudgetPpm(double share) {
  return share > 0 ? static_cast<uint32_t>(std::clamp(share, 1e-6, 1.0) * 1e6) : 0;
}

class Budget {
 public:
  // A window is judged after at least this much of both, so that one slow step decides nothing.
  static constexpr uint64_t kWindowSteps = 128;  // longer than the longest default period
  static constexpr uint64_t kWindowNs = 250'000'000;
  static constexpr uint32_t kMaxShift = 20;

  // Parts per million of the step time; 0: no budget.
  void SetAllowance(uint32_t ppm);
  uint32_t allowance_ppm() const;

  // For whom the probe was awake in a step.
  enum class Awake { kNobody, kScalars, kStatistics, kBoth };
  // What one finished step took, what of it the probe spent on each class, and on being awake. Returns the shifts to use
  // from now on.
  PeriodShifts StepFinished(uint64_t step_ns, std::array<uint64_t, kCostClasses> cost_ns, uint64_t awake_ns = 0,
                            Awake awake = Awake::kNobody);
  PeriodShifts shifts() const;

 private:
  void Measure();
  void Stretch(double allowed);
  bool GiveBack(double allowed);
  void StartWindow();
  double Expected(size_t i) const;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  uint32_t allowance_ppm_ = 0;
  uint64_t steps_ = 0;
  uint64_t step_ns_ = 0;
  uint64_t fixed_ns_ = 0;
  uint64_t looked_at_ = 0;  // steps of the window at the last look for room
  std::array<uint64_t, kCostClasses> cost_ns_{};
  std::array<double, kCostClasses> unstretched_ns_{};  // a step, as last measured
  std::array<uint32_t, kCostClasses> shift_{};
  double awake_for_scalars_ns_ = 0;  // of steps of which nothing else was due, of late
};

}  // namespace ikkuna::probe
