#include "probe/core/budget.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace ikkuna::probe {

void Budget::SetAllowance(uint32_t ppm) {
  std::lock_guard lock(mutex_);
  if (ppm == allowance_ppm_) return;
  allowance_ppm_ = ppm;
  if (ppm == 0) shift_.fill(0);
}

uint32_t Budget::allowance_ppm() const {
  std::lock_guard lock(mutex_);
  return allowance_ppm_;
}

PeriodShifts Budget::shifts() const {
  std::lock_guard lock(mutex_);
  return {shift_[0], shift_[1], shift_[2]};
}

PeriodShifts Budget::StepFinished(uint64_t step_ns, const std::array<uint64_t, kCostClasses>& cost_ns) {
  std::lock_guard lock(mutex_);
  ++steps_;
  step_ns_ += step_ns;
  for (size_t i = 0; i < kCostClasses; ++i) cost_ns_[i] += cost_ns[i];
  // A window must hold a due step of every stretched class, or it would always look as if there was room.
  const uint32_t longest = *std::max_element(shift_.begin(), shift_.end());
  const uint64_t window_steps = std::max(kWindowSteps, uint64_t{4} << longest);
  if (steps_ >= window_steps && step_ns_ >= kWindowNs) {
    Judge();
    steps_ = 0;
    step_ns_ = 0;
    cost_ns_.fill(0);
  }
  return {shift_[0], shift_[1], shift_[2]};
}

void Budget::Judge() {
  if (allowance_ppm_ == 0) return;
  const double allowed = static_cast<double>(step_ns_) * allowance_ppm_ * 1e-6;
  double total = static_cast<double>(std::accumulate(cost_ns_.begin(), cost_ns_.end(), uint64_t{0}));
  if (total > allowed) {
    for (size_t i = 0; i < kCostClasses && total > allowed; ++i) {
      const double others = total - static_cast<double>(cost_ns_[i]);
      // Where even the rest is above the allowance, this class shrinks as far as that still helps: to a sixteenth of
      // it.
      const double room = std::max(allowed - others, allowed / 16);
      uint32_t added = 0;
      double cost = static_cast<double>(cost_ns_[i]);
      while (cost > room && shift_[i] + added < kMaxShift) {
        cost /= 2;
        ++added;
      }
      shift_[i] += added;
      total = others + cost;
    }
    return;
  }
  // Taking back one factor of two doubles that class at most: only when even that stays well inside.
  for (size_t i = kCostClasses; i-- > 0;) {
    if (shift_[i] == 0) continue;
    if (total + static_cast<double>(cost_ns_[i]) < 0.8 * allowed) --shift_[i];
    return;
  }
}

}  // namespace ikkuna::probe
