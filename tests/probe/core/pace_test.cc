// What comes rarely is taken whatever the budget stretches; what comes often is taken once in each window.
#include "probe/core/pace.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <vector>

#include "probe/core/demand.h"

namespace ikkuna::probe {
namespace {

constexpr uint16_t kRoot = 1;

// The steps, of `steps`, at which something that comes at each `every`-th is taken.
std::vector<uint64_t> Taken(uint64_t every, uint64_t window, uint64_t steps, uint64_t first = 0) {
  Pace pace;
  std::vector<uint64_t> taken;
  for (uint64_t step = 0; step < steps; ++step) {
    const Pace::Thing thing{kRoot, kTagTest, 0, 0};
    if (step % every == first % every && (pace.IsRare(thing) || pace.TakesFirst(thing, 0, window))) {
      taken.push_back(step);
    }
    pace.StepFinished();
  }
  return taken;
}

TEST(Pace, AnEvaluationOnceAnEpochIsNeverThinned) {
  for (const uint64_t every : {469, 100, 17, 16}) {
    const auto taken = Taken(every, 1 << 20, 100 * every);
    EXPECT_EQ(taken.size(), 100u) << every;
  }
}

TEST(Pace, WhatComesAtEachStepIsThinnedToItsWindow) {
  const auto taken = Taken(1, 64, 6400);
  // All but the first few, before anything is known of it, are the first of their windows.
  size_t firsts = 0;
  for (const uint64_t step : taken) firsts += step % 64 == 0 ? 1 : 0;
  EXPECT_EQ(firsts, 100u);
  EXPECT_LE(taken.size(), 100u + Pace::kBurst);
}

TEST(Pace, ABurstAfterAQuietTimeIsTakenWhole) {
  Pace pace;
  const Pace::Thing thing{kRoot, kTagDefault, static_cast<uint8_t>(Kind::kScalar), 3};
  for (int epoch = 0; epoch < 5; ++epoch) {
    for (size_t i = 0; i < Pace::kBurst; ++i) {
      EXPECT_TRUE(pace.IsRare(thing)) << epoch << " " << i;
      pace.StepFinished();
    }
    for (int i = 0; i < 200; ++i) pace.StepFinished();
  }
}

// Several looks within one step, of several passes or values, have one answer.
TEST(Pace, WithinAStepTheAnswerStays) {
  Pace pace;
  const Pace::Thing thing{kRoot, kTagTest, 0, 0};
  for (int step = 0; step < 300; ++step) {
    const bool rare = pace.IsRare(thing);
    const bool first = pace.TakesFirst(thing, 1, 32);
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(pace.IsRare(thing), rare);
      EXPECT_EQ(pace.TakesFirst(thing, 1, 32), first);
    }
    pace.StepFinished();
  }
}

TEST(Pace, ThingsAreToldApart) {
  Pace pace;
  std::set<const void*> seen;
  const Pace::Thing often{kRoot, kTagTest, 0, 0};
  for (int i = 0; i < 100; ++i) {
    pace.IsRare(often);
    pace.StepFinished();
  }
  EXPECT_FALSE(pace.IsRare(often));
  EXPECT_TRUE(pace.IsRare({2, kTagTest, 0, 0}));
  EXPECT_TRUE(pace.IsRare({kRoot, kTagNoGrad, 0, 0}));
  EXPECT_TRUE(pace.IsRare({kRoot, kTagTest, static_cast<uint8_t>(Kind::kScalar), 0}));
  EXPECT_TRUE(pace.IsRare({kRoot, kTagTest, static_cast<uint8_t>(Kind::kScalar), 1}));
}

// ---- A demand whose periods are stretched a thousandfold.

shm::DemandItem Item(uint64_t kinds, uint32_t period, uint16_t tag) {
  shm::DemandItem item;
  item.kinds = kinds | KindBit(Kind::kBatchStarted) | KindBit(Kind::kBatchFinished);
  item.period = period;
  item.tag = tag;
  return item;
}

constexpr PeriodShifts kStretched{.tensor = 10, .summary = 10, .scalar = 10};

TEST(RareDemand, AnEvaluationEach469StepsIsDue) {
  const auto table = std::make_shared<DemandTable>(std::vector{
      Item(KindBit(Kind::kLoss), 1, kTagTest), Item(KindBit(Kind::kActivations), 1, kTagTest)});
  Pace pace;
  for (uint64_t step = 1; step <= 4690; ++step) {
    pace.StepFinished();
    if (step % 469 != 0) continue;
    const StepDemand demand(table, kRoot, kTagTest, step, kStretched, true, &pace);
    EXPECT_TRUE(demand.AnyOf(Kind::kLoss)) << step;
    EXPECT_TRUE(demand.AnyOf(Kind::kActivations)) << step;
    EXPECT_TRUE(demand.rare());
  }
}

// It was asked for multiples of 10: the rare one at 469 is none.
TEST(RareDemand, TheAskedPeriodHolds) {
  const auto table = std::make_shared<DemandTable>(std::vector{Item(KindBit(Kind::kLoss), 10, kTagTest)});
  Pace pace;
  EXPECT_FALSE(StepDemand(table, kRoot, kTagTest, 469, kStretched, true, &pace).any());
  EXPECT_TRUE(StepDemand(table, kRoot, kTagTest, 470, kStretched, true, &pace).any());
}

// A teacher that evaluates at every step is thinned, and its own step, which stands still, does not hide it.
TEST(RareDemand, APassAtEachStepIsThinnedByPeriod) {
  const auto table = std::make_shared<DemandTable>(std::vector{Item(KindBit(Kind::kLoss), 1, kTagNoGrad)});
  Pace pace;
  int due = 0;
  for (uint64_t step = 0; step < 10'240; ++step) {
    due += StepDemand(table, kRoot, kTagNoGrad, 0, kStretched, true, &pace).any() ? 1 : 0;
    pace.StepFinished();
  }
  EXPECT_GE(due, 10);
  EXPECT_LE(due, 10 + static_cast<int>(Pace::kBurst) + 1);
}

TEST(RareDemand, AValueLoggedOnceAnEpochIsTaken) {
  const auto table = std::make_shared<DemandTable>(std::vector{Item(KindBit(Kind::kScalar), 1, kTagDefault)});
  Pace pace;
  int often = 0;
  int rarely = 0;
  for (uint64_t step = 0; step < 4690; ++step) {
    StepDemand demand(table, kRoot, kTagDefault, step, kStretched, true, &pace);
    EXPECT_FALSE(demand.any()) << "nothing was logged yet";
    EXPECT_TRUE(demand.AnyOf(Kind::kScalar));
    if (demand.TakesLogged(Kind::kScalar, 1)) ++often;
    const bool taken = step % 469 == 468 && demand.TakesLogged(Kind::kScalar, 2);
    rarely += taken ? 1 : 0;
    if (taken) {
      EXPECT_TRUE(demand.any()) << "the markers of the step come with it";
      EXPECT_TRUE(StepDemand(demand).any()) << "copies know it, too";
    }
    pace.StepFinished();
  }
  EXPECT_EQ(rarely, 10);
  EXPECT_GE(often, 5);
  EXPECT_LE(often, 5 + static_cast<int>(Pace::kBurst) + 1);
}

TEST(RareDemand, LoggedValuesKeepTheAskedPeriodAndTheEndsOfEpochsNeedNone) {
  const auto table = std::make_shared<DemandTable>(
      std::vector{Item(KindBit(Kind::kScalar) | KindBit(Kind::kEpochStarted), 10, kTagDefault)});
  Pace pace;
  for (uint64_t step = 0; step < 41; ++step) {
    StepDemand demand(table, kRoot, kTagDefault, step, {}, true, &pace);
    EXPECT_EQ(demand.TakesLogged(Kind::kScalar, 1), step % 10 == 0) << step;
    EXPECT_TRUE(demand.TakesLogged(Kind::kEpochStarted, 0));
    EXPECT_FALSE(demand.TakesLogged(Kind::kText, 1)) << "nobody asked for it";
    pace.StepFinished();
  }
}

}  // namespace
}  // namespace ikkuna::probe
