#include "probe/core/budget.h"

#include <algorithm>
#include <cmath>
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

PeriodShifts Budget::StepFinished(uint64_t step_ns, std::array<uint64_t, kCostClasses> cost_ns, uint64_t awake_ns,
                                  Awake awake) {
  std::lock_guard lock(mutex_);
  ++steps_;
  step_ns_ += step_ns;
  constexpr auto kSummary = static_cast<size_t>(CostClass::kSummary), kScalar = static_cast<size_t>(CostClass::kScalar);
  const auto alone = static_cast<double>(awake_ns);
  uint64_t for_scalars = 0;
  switch (awake) {
    case Awake::kNobody:
      fixed_ns_ += awake_ns;
      break;
    case Awake::kScalars:
      cost_ns[kScalar] += awake_ns;
      awake_for_scalars_ns_ += (alone - awake_for_scalars_ns_) / (awake_for_scalars_ns_ == 0 ? 1 : 8);
      break;
    case Awake::kBoth:
      for_scalars = static_cast<uint64_t>(std::min(alone, awake_for_scalars_ns_));
      cost_ns[kScalar] += for_scalars;
      [[fallthrough]];
    case Awake::kStatistics:
      cost_ns[kSummary] += awake_ns - for_scalars;
      break;
  }
  for (size_t i = 0; i < kCostClasses; ++i) cost_ns_[i] += cost_ns[i];
  if (steps_ - looked_at_ < kWindowSteps || step_ns_ < kWindowNs) return {shift_[0], shift_[1], shift_[2]};
  looked_at_ = steps_;
  const double allowed = static_cast<double>(step_ns_) * allowance_ppm_ * 1e-6;
  // A window must hold due steps of every stretched class, or it would always look as if there was room.
  const uint32_t longest = *std::max_element(shift_.begin(), shift_.end());
  const bool whole = steps_ >= uint64_t{4} << longest;
  if (whole) Measure();
  if (allowance_ppm_ != 0 && !GiveBack(allowed) && whole) Stretch(allowed);
  if (whole) StartWindow();
  return {shift_[0], shift_[1], shift_[2]};
}

void Budget::StartWindow() {
  steps_ = looked_at_ = step_ns_ = fixed_ns_ = 0;
  cost_ns_.fill(0);
}

// A class that happened not to be due is not free: what is remembered of it fades.
void Budget::Measure() {
  for (size_t i = 0; i < kCostClasses; ++i) {
    const double now = std::ldexp(static_cast<double>(cost_ns_[i]) / static_cast<double>(steps_), shift_[i]);
    unstretched_ns_[i] = now >= unstretched_ns_[i] ? now : (unstretched_ns_[i] + now) / 2;
  }
}

// What the steps of this window cost of class i at its present stretch.
double Budget::Expected(size_t i) const {
  return std::ldexp(unstretched_ns_[i] * static_cast<double>(steps_), -static_cast<int>(shift_[i]));
}

void Budget::Stretch(double allowed) {
  double total = static_cast<double>(std::accumulate(cost_ns_.begin(), cost_ns_.end(), fixed_ns_));
  for (size_t i = 0; i < kCostClasses && total > allowed; ++i) {
    double cost = static_cast<double>(cost_ns_[i]);
    const double others = total - cost;
    // Where even the rest is above the allowance, this class shrinks as far as that still helps: to a sixteenth of it.
    const double room = std::max(allowed - others, allowed / 16);
    while (cost > room && shift_[i] < kMaxShift) {
      cost /= 2;
      ++shift_[i];
    }
    total = others + cost;
  }
}

// Taking back one factor of two doubles that class at most: only when even that stays well inside.
bool Budget::GiveBack(double allowed) {
  double total = static_cast<double>(fixed_ns_);
  for (size_t i = 0; i < kCostClasses; ++i) {
    // Before the first whole window of a stretch the memory is all there is; after it the larger of the two counts.
    total += std::max(Expected(i), static_cast<double>(cost_ns_[i]));
  }
  bool gave = false;
  for (size_t i = kCostClasses; i-- > 0;) {
    while (shift_[i] > 0 && total + Expected(i) < 0.8 * allowed) {
      total += Expected(i);
      --shift_[i];
      gave = true;
    }
    if (shift_[i] > 0) break;
  }
  if (gave) StartWindow();
  return gave;
}

}  // namespace ikkuna::probe
