// A status is never behind what was committed of it.
#include "daemon/model/status.h"

#include <gtest/gtest.h>

namespace ikkuna {
namespace {

ProducerStatus Saved(RunState state) {
  ProducerStatus status;
  status.state = state;
  status.attempted = 10;
  status.handled = 8;
  status.dropped_total = 2;
  return status;
}

TEST(CatchUp, WhatWasCommittedAfterTheLastSaveIsCounted) {
  ProducerStatus status = Saved(RunState::kRunning);
  CatchUp(status, {30, 4, 1});
  EXPECT_EQ(status.lost_in_daemon, 4u);
  EXPECT_EQ(status.killed, 1u);
  EXPECT_EQ(status.handled, 26u);
  EXPECT_EQ(status.attempted, 26u + 2 + 4 + 1);
  EXPECT_EQ(status.in_flight, 0u);
}

TEST(CatchUp, WhatWasNotHandledYetIsInFlight) {
  ProducerStatus status = Saved(RunState::kDisconnected);
  status.attempted = 50;
  CatchUp(status, {30, 0, 0});
  EXPECT_EQ(status.attempted, 50u);
  EXPECT_EQ(status.in_flight, 18u);
}

TEST(CatchUp, StepsAreThoseOfTheCommitAndAddUp) {
  ProducerStatus status = Saved(RunState::kDisconnected);
  status.steps_total = status.steps_while_connected = 10;
  status.coverage = 1;
  CatchUp(status, {30, 0, 0, 40, 30});
  EXPECT_EQ(status.steps_total, 40u);
  EXPECT_EQ(status.steps_while_connected, 30u);
  EXPECT_EQ(status.coverage, 0.75);
  // The status may be the newer one.
  CatchUp(status, {30, 0, 0, 20, 20});
  EXPECT_EQ(status.steps_total, 40u);
  EXPECT_EQ(status.steps_while_connected, 30u);
}

TEST(CatchUp, TheOnlyRootHasMadeTheStepsThatWereCounted) {
  ProducerStatus status = Saved(RunState::kDied);
  status.info.start_step = 100;
  status.roots.resize(1);
  status.roots[0].step = 120;
  CatchUp(status, {30, 0, 0, 40, 30});
  EXPECT_EQ(status.roots[0].step, 140u);
  CatchUp(status, {30, 0, 0, 10, 10});
  EXPECT_EQ(status.roots[0].step, 140u);
}

// It is saved each second, and results are committed more often.
TEST(CatchUp, StepsThatWereKeptAreObserved) {
  ProducerStatus status = Saved(RunState::kDisconnected);
  status.roots.resize(2);
  status.roots[0].name = "model";
  status.roots[0].steps_due = status.roots[0].steps_observed = 5;
  status.roots[1].name = "critic";
  status.roots[1].steps_due = status.roots[1].steps_observed = 9;  // newer than the commit: 3 of them are read again
  Progress progress{30, 0, 0};
  progress.steps_observed = {{"critic", 6}, {"late", 1}, {"model", 7}};
  status.missing = {{"discarded", 4}, {"withheld", 2}};
  progress.missing = {{"discarded", 3}, {"void", 1}};
  CatchUp(status, progress);
  ASSERT_EQ(status.roots.size(), 3u);
  EXPECT_EQ(status.roots[0].steps_observed, 7u);
  EXPECT_EQ(status.roots[0].steps_due, 7u);
  EXPECT_EQ(status.roots[1].steps_observed, 6u);
  EXPECT_EQ(status.roots[1].steps_due, 9u);
  EXPECT_EQ(status.roots[2].name, "late");
  EXPECT_EQ(status.roots[2].steps_observed, 1u);
  EXPECT_EQ(status.missing, (std::vector<Count>{{"discarded", 3}, {"void", 1}}));
}

// Its last word was said with everything counted.
TEST(CatchUp, OneThatIsOverStaysAsItWasSaved) {
  ProducerStatus status = Saved(RunState::kFinished);
  CatchUp(status, {30, 4, 1});
  EXPECT_EQ(status.handled, 8u);
  EXPECT_EQ(status.attempted, 10u);
  EXPECT_EQ(status.in_flight, 0u);
}

}  // namespace
}  // namespace ikkuna
