// What of a demand is due at a step, at which level, for which module.
#include "probe/core/demand.h"

#include <gtest/gtest.h>

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
  EXPECT_EQ(StepDemand().Wanted(Kind::kWeights, 1), Level::kInvalid);
  EXPECT_FALSE(StepDemand(nullptr, 1, kTagDefault, 0, {}, true).any());
}

TEST(StepDemand, MultiplesOfThePeriod) {
  const auto item = Item(KindBit(Kind::kWeights), 10, Level::kSummary);
  for (uint64_t step = 0; step < 41; ++step) EXPECT_EQ(At({item}, step).any(), step % 10 == 0) << step;
}

TEST(StepDemand, TheHigherLevelWins) {
  const StepDemand both =
      At({Item(KindBit(Kind::kWeights), 1, Level::kSummary), Item(KindBit(Kind::kWeights), 5, Level::kTensor)}, 5);
  EXPECT_EQ(both.Wanted(Kind::kWeights, 3), Level::kTensor);
  EXPECT_EQ(both.Wanted(Kind::kBiases, 3), Level::kInvalid);
  const StepDemand one =
      At({Item(KindBit(Kind::kWeights), 1, Level::kSummary), Item(KindBit(Kind::kWeights), 5, Level::kTensor)}, 6);
  EXPECT_EQ(one.Wanted(Kind::kWeights, 3), Level::kSummary);
}

TEST(StepDemand, ModuleSets) {
  auto item = Item(KindBit(Kind::kActivations), 1, Level::kSummary);
  item.all_modules = false;
  item.modules = {uint64_t{1} << 3, uint64_t{1} << 1};  // modules 3 and 65
  const StepDemand demand = At({item}, 7);
  EXPECT_TRUE(demand.AnyOf(Kind::kActivations));
  EXPECT_EQ(demand.Wanted(Kind::kActivations, 3), Level::kSummary);
  EXPECT_EQ(demand.Wanted(Kind::kActivations, 65), Level::kSummary);
  EXPECT_EQ(demand.Wanted(Kind::kActivations, 4), Level::kInvalid);
  EXPECT_EQ(demand.Wanted(Kind::kActivations, 64000), Level::kInvalid);
}

TEST(StepDemand, AKindOfASetThatIsNotDueIsNotWanted) {
  auto item = Item(KindBit(Kind::kActivations) | KindBit(Kind::kLoss), 1, Level::kSummary);
  item.all_modules = false;
  item.modules = {~uint64_t{0}};
  const StepDemand demand = At({item}, 1, {.summary = 1});
  EXPECT_EQ(demand.Wanted(Kind::kLoss, 0), Level::kSummary);
  EXPECT_EQ(demand.Wanted(Kind::kActivations, 1), Level::kInvalid);
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

TEST(StepDemand, WholeTensorsWaitForTheArena) {
  const auto item = Item(KindBit(Kind::kActivations) | KindBit(Kind::kBatchStarted), 1, Level::kTensor);
  EXPECT_EQ(At({item}, 0, {}, false).Wanted(Kind::kActivations, 1), Level::kInvalid);
  EXPECT_EQ(At({item}, 0, {}, false).Wanted(Kind::kBatchStarted, 0), Level::kTensor);
  EXPECT_EQ(At({item}, 0, {}, true).Wanted(Kind::kActivations, 1), Level::kTensor);
  EXPECT_TRUE(DemandTable({item}).NeedsArena());
  EXPECT_FALSE(DemandTable({Item(1, 1, Level::kSummary)}).NeedsArena());
}

}  // namespace
}  // namespace ikkuna::probe
