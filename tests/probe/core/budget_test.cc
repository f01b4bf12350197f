// The budget against a made-up trainer whose costs follow the shifts that it is told.
#include "probe/core/budget.h"

#include <gtest/gtest.h>

#include <array>

namespace ikkuna::probe {
namespace {

constexpr uint64_t kStepNs = 10'000'000;

// Runs `steps` steps; a class costs what it says on the steps its stretched period hits.
struct Trainer {
  Budget budget;
  PeriodShifts shifts;
  uint64_t step = 0;
  uint64_t step_ns = kStepNs;
  uint64_t spent_ns = 0;
  uint64_t fixed_ns = 0;  // spent at every step, whatever the shifts

  void Run(uint64_t steps, const std::array<uint64_t, kCostClasses>& cost) {
    spent_ns = 0;
    for (uint64_t end = step + steps; step < end; ++step) {
      const std::array<uint32_t, kCostClasses> shift{shifts.tensor, shifts.summary, shifts.scalar};
      std::array<uint64_t, kCostClasses> now{};
      for (size_t i = 0; i < kCostClasses; ++i) now[i] = step % (uint64_t{1} << shift[i]) == 0 ? cost[i] : 0;
      for (uint64_t ns : now) spent_ns += ns;
      shifts = budget.StepFinished(step_ns, now, fixed_ns);
    }
  }
  double share(uint64_t steps) const {
    return static_cast<double>(spent_ns) / (static_cast<double>(steps) * static_cast<double>(step_ns));
  }
};

TEST(Budget, WithoutAllowanceNothingIsStretched) {
  Trainer trainer;
  trainer.Run(2000, {5'000'000, 5'000'000, 1'000'000});
  EXPECT_EQ(trainer.shifts, PeriodShifts{});
}

TEST(Budget, WithinTheAllowanceNothingIsStretched) {
  Trainer trainer;
  trainer.budget.SetAllowance(10'000);
  trainer.Run(2000, {10'000, 50'000, 20'000});
  EXPECT_EQ(trainer.shifts, PeriodShifts{});
}

TEST(Budget, TensorsGiveWayFirst) {
  Trainer trainer;
  trainer.budget.SetAllowance(10'000);  // 100 us of each 10 ms
  trainer.Run(2000, {2'000'000, 40'000, 10'000});
  EXPECT_GE(trainer.shifts.tensor, 4u);
  EXPECT_EQ(trainer.shifts.summary, 0u);
  EXPECT_EQ(trainer.shifts.scalar, 0u);
  trainer.Run(4096, {2'000'000, 40'000, 10'000});
  EXPECT_LE(trainer.share(4096), 0.0105);
}

TEST(Budget, ScalarsAreLast) {
  Trainer trainer;
  trainer.budget.SetAllowance(10'000);
  trainer.Run(4000, {3'000'000, 3'000'000, 60'000});
  EXPECT_GT(trainer.shifts.tensor, 0u);
  EXPECT_GT(trainer.shifts.summary, 0u);
  EXPECT_EQ(trainer.shifts.scalar, 0u);
}

TEST(Budget, RecoversWhenStepsGrowLonger) {
  Trainer trainer;
  trainer.budget.SetAllowance(10'000);
  const std::array<uint64_t, kCostClasses> cost{0, 400'000, 1'000};
  trainer.Run(2000, cost);
  const uint32_t stretched = trainer.shifts.summary;
  EXPECT_GE(stretched, 2u);
  trainer.step_ns = 100 * kStepNs;
  trainer.Run(4000, cost);
  EXPECT_EQ(trainer.shifts.summary, 0u);
  trainer.step_ns = kStepNs;
  trainer.Run(2000, cost);
  EXPECT_GE(trainer.shifts.summary, 2u);
}

// What no stretch can help must not stretch for ever: nothing would come back within hours.
TEST(Budget, FixedCostsAboveTheAllowanceStretchNoFurtherThanHelps) {
  Trainer trainer;
  trainer.budget.SetAllowance(10'000);
  trainer.step_ns = 100'000;
  trainer.fixed_ns = 8'000;
  trainer.Run(1'000'000, {0, 40'000, 0});
  EXPECT_GE(trainer.shifts.summary, 9u);  // a sixteenth of 1 us a step
  EXPECT_LE(trainer.shifts.summary, 11u);
}

TEST(Budget, GivesBackWithinFewStepsWhateverTheStretchWas) {
  Trainer trainer;
  trainer.budget.SetAllowance(10'000);
  trainer.step_ns = 100'000;
  trainer.Run(1'000'000, {60'000, 40'000, 20'000});
  EXPECT_GE(trainer.shifts.tensor, 9u);
  EXPECT_GE(trainer.shifts.scalar, 4u);
  trainer.step_ns = 20'000'000;
  trainer.Run(600, {60'000, 40'000, 20'000});
  EXPECT_EQ(trainer.shifts, PeriodShifts{});
}

TEST(Budget, StaysInsideWhereASteadyLoopIsNearTheLimit) {
  Trainer trainer;
  trainer.budget.SetAllowance(10'000);
  trainer.Run(20'000, {0, 350'000, 60'000});
  const PeriodShifts settled = trainer.shifts;
  trainer.Run(20'000, {0, 350'000, 60'000});
  EXPECT_EQ(trainer.shifts, settled) << "it swings";
  EXPECT_LE(trainer.share(20'000), 0.0105);
}

// A loss at each step keeps the probe awake; statistics of the same step do not pay for that a second time.
TEST(Budget, BeingAwakeCountsOnceWhereScalarsAndStatisticsShareAStep) {
  constexpr uint64_t kScalarsNs = 40'000, kBothNs = 70'000;  // of 100 us that are allowed
  Budget budget;
  budget.SetAllowance(10'000);
  PeriodShifts shifts;
  const auto run = [&](uint64_t steps, uint64_t step_ns) {
    uint64_t spent = 0;
    for (uint64_t step = 0; step < steps; ++step) {
      const bool both = step % (uint64_t{1} << shifts.summary) == 0;
      spent += both ? kBothNs : kScalarsNs;
      shifts = budget.StepFinished(step_ns, {}, both ? kBothNs : kScalarsNs,
                                   both ? Budget::Awake::kBoth : Budget::Awake::kScalars);
    }
    return static_cast<double>(spent) / (static_cast<double>(steps) * static_cast<double>(step_ns));
  };
  run(2'000, kStepNs / 2);
  EXPECT_GE(shifts.summary, 1u);
  EXPECT_EQ(shifts.scalar, 0u);
  EXPECT_LE(run(2'000, kStepNs / 2), 0.0105);
  run(2'000, kStepNs);
  EXPECT_EQ(shifts, PeriodShifts{});
}

TEST(Budget, TakenAwayItGivesEverythingBackAtOnce) {
  Trainer trainer;
  trainer.budget.SetAllowance(1'000);
  trainer.Run(2000, {2'000'000, 2'000'000, 0});
  EXPECT_NE(trainer.shifts, PeriodShifts{});
  trainer.budget.SetAllowance(0);
  EXPECT_EQ(trainer.budget.shifts(), PeriodShifts{});
}

}  // namespace
}  // namespace ikkuna::probe
