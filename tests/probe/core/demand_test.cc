// What of a demand is due at a step, at which level, for which module.
#include "probe/core/demand.h"

#include <gtest/gtest.h>

#include <random>

namespace ikkuna::probe {
namespace {

shm::DemandItem Item(uint64_t kinds, uint32_t period, Level level) {
  shm::DemandItem item;
  item.kinds = kinds;
  item.period = period;
  item.level = level;
  return item;
}

StepDemand At(std::vector<shm::DemandItem> items, uint64_t step, PeriodShifts shifts = {}, bool arena = true,
              uint16_t root = 1, uint16_t tag = kTagDefault) {
  return StepDemand(std::make_shared<DemandTable>(std::move(items)), root, tag, step, shifts, arena);
}

TEST(StepDemand, NothingWithoutATable) {
  EXPECT_FALSE(StepDemand().any());
  EXPECT_EQ(StepDemand().Wanted(Kind::kWeights, 1).level, Level::kInvalid);
  EXPECT_FALSE(StepDemand(nullptr, 1, kTagDefault, 0, {}, true).any());
}

TEST(StepDemand, MultiplesOfThePeriod) {
  const auto item = Item(KindBit(Kind::kWeights), 10, Level::kSummary);
  for (uint64_t step = 0; step < 41; ++step) EXPECT_EQ(At({item}, step).any(), step % 10 == 0) << step;
}

TEST(StepDemand, TheHigherLevelWins) {
  const StepDemand both =
      At({Item(KindBit(Kind::kWeights), 1, Level::kSummary), Item(KindBit(Kind::kWeights), 5, Level::kTensor)}, 5);
  EXPECT_EQ(both.Wanted(Kind::kWeights, 3).level, Level::kTensor);
  EXPECT_EQ(both.Wanted(Kind::kBiases, 3).level, Level::kInvalid);
  const StepDemand one =
      At({Item(KindBit(Kind::kWeights), 1, Level::kSummary), Item(KindBit(Kind::kWeights), 5, Level::kTensor)}, 6);
  EXPECT_EQ(one.Wanted(Kind::kWeights, 3).level, Level::kSummary);
}

TEST(StepDemand, MomentsAreThoseThatAnyEntryAsks) {
  auto mean = Item(KindBit(Kind::kWeights) | KindBit(Kind::kActivations), 1, Level::kSummary);
  mean.moments = kMomentFirst;
  auto norm = Item(KindBit(Kind::kWeights), 2, Level::kSummary);
  norm.moments = kMomentSquare;
  auto kurtosis = Item(KindBit(Kind::kActivations), 1, Level::kSummary);
  kurtosis.all_modules = false;
  kurtosis.modules = {uint64_t{1} << 3};
  const StepDemand odd = At({mean, norm, kurtosis}, 1), even = At({mean, norm, kurtosis}, 2);
  EXPECT_EQ(odd.Wanted(Kind::kWeights, 3).moments, kMomentFirst);
  EXPECT_EQ(even.Wanted(Kind::kWeights, 3).moments, kMomentFirst | kMomentSquare);
  EXPECT_EQ(odd.Wanted(Kind::kActivations, 3).moments, kAllMoments);
  EXPECT_EQ(odd.Wanted(Kind::kActivations, 4).moments, kMomentFirst);
  EXPECT_EQ(odd.Wanted(Kind::kBiases, 3).moments, 0u);
  const StepDemand whole = At({mean, Item(KindBit(Kind::kWeights), 1, Level::kTensor)}, 1);
  EXPECT_EQ(whole.Wanted(Kind::kWeights, 1).moments, kAllMoments);  // where the tensor is too large to travel
  // A pass that began before the norm was asked brings less.
  EXPECT_EQ(even.NotIn(odd), KindBit(Kind::kWeights));
  EXPECT_EQ(odd.NotIn(even), 0u);
}

TEST(StepDemand, ModuleSets) {
  auto item = Item(KindBit(Kind::kActivations), 1, Level::kSummary);
  item.all_modules = false;
  item.modules = {uint64_t{1} << 3, uint64_t{1} << 1};  // modules 3 and 65
  const StepDemand demand = At({item}, 7);
  EXPECT_TRUE(demand.AnyOf(Kind::kActivations));
  EXPECT_EQ(demand.Wanted(Kind::kActivations, 3).level, Level::kSummary);
  EXPECT_EQ(demand.Wanted(Kind::kActivations, 65).level, Level::kSummary);
  EXPECT_EQ(demand.Wanted(Kind::kActivations, 4).level, Level::kInvalid);
  EXPECT_EQ(demand.Wanted(Kind::kActivations, 64000).level, Level::kInvalid);
}

TEST(StepDemand, AKindOfASetThatIsNotDueIsNotWanted) {
  auto item = Item(KindBit(Kind::kActivations) | KindBit(Kind::kLoss), 1, Level::kSummary);
  item.all_modules = false;
  item.modules = {~uint64_t{0}};
  const StepDemand demand = At({item}, 1, {.summary = 1});
  EXPECT_EQ(demand.Wanted(Kind::kLoss, 0).level, Level::kSummary);
  EXPECT_EQ(demand.Wanted(Kind::kActivations, 1).level, Level::kInvalid);
}

TEST(StepDemand, RootsAndTags) {
  auto item = Item(KindBit(Kind::kLoss), 1, Level::kSummary);
  item.root = 2;
  item.tag = kTagTest;
  EXPECT_FALSE(At({item}, 0).any());
  EXPECT_FALSE(At({item}, 0, {}, true, 2).any());
  EXPECT_FALSE(At({item}, 0, {}, true, 1, kTagTest).any());
  EXPECT_TRUE(At({item}, 0, {}, true, 2, kTagTest).any());
  const DemandTable table({item});
  EXPECT_TRUE(table.WatchesEvaluation(2));
  EXPECT_FALSE(table.WatchesEvaluation(1));
}

TEST(StepDemand, TheBudgetStretchesEachClassByItself) {
  const auto stats = Item(KindBit(Kind::kWeights) | KindBit(Kind::kLoss), 3, Level::kSummary);
  const auto whole = Item(KindBit(Kind::kActivations) | KindBit(Kind::kNetworkOutput), 3, Level::kTensor);
  const PeriodShifts shifts{.tensor = 2, .summary = 1, .scalar = 0};
  for (uint64_t step = 0; step <= 24; ++step) {
    const StepDemand demand = At({stats, whole}, step, shifts);
    EXPECT_EQ(demand.AnyOf(Kind::kLoss), step % 3 == 0) << step;
    EXPECT_EQ(demand.AnyOf(Kind::kNetworkOutput), step % 3 == 0) << step;
    EXPECT_EQ(demand.AnyOf(Kind::kWeights), step % 6 == 0) << step;
    EXPECT_EQ(demand.AnyOf(Kind::kActivations), step % 12 == 0) << step;
  }
}

TEST(StepDemand, MarkersAloneMakeNoStepDue) {
  auto item = Item(KindBit(Kind::kWeights) | KindBit(Kind::kBatchStarted) | KindBit(Kind::kBatchFinished), 5,
                   Level::kSummary);
  for (uint64_t step = 0; step < 50; ++step) EXPECT_EQ(At({item}, step, {.summary = 1}).any(), step % 10 == 0) << step;
  EXPECT_TRUE(At({item}, 10, {.summary = 1}).AnyOf(Kind::kBatchStarted));
}

TEST(DemandQuestions, NextDueIsTheFirstStepOfWhichAnythingIsDue) {
  std::mt19937 random(5);
  const uint64_t kinds[] = {KindBit(Kind::kWeights), KindBit(Kind::kLoss) | KindBit(Kind::kActivations),
                            KindBit(Kind::kNetworkOutput), KindBit(Kind::kBatchStarted)};
  for (int round = 0; round < 200; ++round) {
    std::vector<shm::DemandItem> items;
    for (size_t i = random() % 4; i > 0; --i) {
      items.push_back(Item(kinds[random() % 4] | KindBit(Kind::kBatchFinished), 1 + static_cast<uint32_t>(random() % 12),
                           random() % 2 == 0 ? Level::kSummary : Level::kTensor));
      if (random() % 4 == 0) items.back().root = 2;
      if (random() % 4 == 0) items.back().tag = kTagTest;
    }
    const auto below = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
    const PeriodShifts shifts{.tensor = below(3), .summary = below(3), .scalar = below(2)};
    const DemandTable table(items);
    for (const uint16_t tag : {kTagDefault, kTagTest}) {
      uint64_t next = UINT64_MAX;
      for (uint64_t step = 60; step-- > 0;) {
        const StepDemand due = At(items, step, shifts, true, 1, tag);
        EXPECT_EQ(table.DueAt(1, tag, step, shifts), due.due_kinds());
        if (due.any()) next = step;
        if (next != UINT64_MAX) {
          EXPECT_EQ(table.NextDue(1, tag, step, shifts), next);
        }
      }
      if (next == UINT64_MAX) {
        EXPECT_GE(table.NextDue(1, tag, 0, shifts), 60u);
      }
    }
  }
  const DemandTable thousandth({Item(KindBit(Kind::kLoss), 1000, Level::kSummary)});
  EXPECT_EQ(thousandth.NextDue(1, kTagDefault, UINT64_MAX - 1, {}), UINT64_MAX) << "beyond the last there is none";
}

// Whoever asks for statistics of the same kind has them meanwhile, and who needs the tensors is told what it lacks.
TEST(StepDemand, WholeTensorsGoAsStatisticsUntilTheArenaIsThere) {
  auto item = Item(KindBit(Kind::kActivations) | KindBit(Kind::kBatchStarted), 1, Level::kTensor);
  const Want want = At({item}, 0, {}, false).Wanted(Kind::kActivations, 1);
  EXPECT_EQ(want.level, Level::kSummary);
  EXPECT_EQ(want.moments, kAllMoments);
  auto filtered = item;
  filtered.all_modules = false;
  filtered.modules = {uint64_t{1} << 1};
  EXPECT_EQ(At({filtered}, 0, {}, false).Wanted(Kind::kActivations, 1).level, Level::kSummary);
  EXPECT_EQ(At({filtered}, 0, {}, false).Wanted(Kind::kActivations, 2).level, Level::kInvalid);
  EXPECT_EQ(At({item}, 0, {}, true).Wanted(Kind::kActivations, 1).level, Level::kTensor);
  EXPECT_TRUE(DemandTable({item}).NeedsArena());
  EXPECT_FALSE(DemandTable({Item(1, 1, Level::kSummary)}).NeedsArena());
}

TEST(StepDemand, WhatIsLeftOfItInTheMidstOfAStep) {
  auto filtered = Item(KindBit(Kind::kLayerGradients), 1, Level::kTensor);
  filtered.all_modules = false;
  filtered.modules = {uint64_t{1} << 3};
  const auto weights = Item(KindBit(Kind::kWeights), 1, Level::kTensor);
  const auto activations = Item(KindBit(Kind::kActivations) | KindBit(Kind::kLoss), 1, Level::kSummary);
  const auto buffers = Item(KindBit(Kind::kBuffers), 1, Level::kSummary);
  const StepDemand whole = At({weights, activations, filtered}, 4);
  const DemandTable same({weights, activations, filtered});
  // Nobody asks for the activations any more, and somebody for what was not asked before.
  StepDemand less = whole.Reduced(DemandTable({weights, filtered, buffers}), {}, {});
  EXPECT_EQ(whole.NotIn(less), KindBit(Kind::kActivations) | KindBit(Kind::kLoss));
  EXPECT_EQ(less.Wanted(Kind::kWeights, 1).level, Level::kTensor);
  EXPECT_EQ(less.Wanted(Kind::kBuffers, 1).level, Level::kInvalid);
  // The budget has stretched whole tensors, then summaries, then scalars.
  less = whole.Reduced(same, {}, {.tensor = 1});
  EXPECT_EQ(whole.NotIn(less), KindBit(Kind::kWeights) | KindBit(Kind::kLayerGradients));
  less = whole.Reduced(same, {.tensor = 1}, {.tensor = 1, .summary = 2});
  EXPECT_EQ(whole.NotIn(less), KindBit(Kind::kActivations));
  EXPECT_EQ(less.Wanted(Kind::kLayerGradients, 3).level, Level::kTensor);
  less = whole.Reduced(same, {}, {.tensor = 3, .summary = 2, .scalar = 1});
  EXPECT_EQ(whole.NotIn(less), whole.due_kinds());
  EXPECT_TRUE(less.any()) << "the markers of the step stay";
}

}  // namespace
}  // namespace ikkuna::probe
