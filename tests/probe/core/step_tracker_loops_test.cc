// The step tracker: loops whose backward passes and writes say little of where a step ends.
#include <gtest/gtest.h>

#include "tests/probe/core/tracker_loop.h"

namespace ikkuna::probe {
namespace {

class TrackerLoops : public ::testing::Test {
 protected:
  TrackerLoops() { tracker.AddRoot(0, false); }
  StepTracker tracker;
};

// Replicas run backward, and their gradients are assigned.
TEST_F(TrackerLoops, GradientsThatAreMadeElsewhere) {
  Loop loop(tracker);
  int ended = 0;
  for (int round = 0; round < 6; ++round) {
    for (int parameter = 0; parameter < 3; ++parameter) ended += loop.Write(WriteKind::kArithmetic, true, parameter);
  }
  EXPECT_EQ(ended, 4) << "from the third round on";
  // A round of the same gradients goes on with it: weight decay of its own, a mask.
  for (int parameter = 0; parameter < 3; ++parameter) {
    EXPECT_FALSE(tracker.Written(0, loop.thread, WriteKind::kArithmetic, true, parameter, false).ended);
  }
  EXPECT_EQ(loop.ends.back().step, 3u);
  EXPECT_FALSE(loop.ends.back().unheard);
}

TEST_F(TrackerLoops, FurtherRoundsOfWritesInALoopThatHasBackwardAreNoSteps) {
  Loop loop(tracker);
  for (int step = 0; step < 4; ++step) {
    loop.Forward();
    loop.Backward({loop.pass}, kCleared);
    ASSERT_TRUE(loop.Write(WriteKind::kArithmetic, true, 0));
    for (int round = 0; round < 5; ++round) {
      for (int parameter = 0; parameter < 3; ++parameter) {
        EXPECT_FALSE(loop.Write(WriteKind::kArithmetic, true, parameter));
      }
    }
  }
}

// An optimizer in a hook of backward writes, and takes the gradients away, before backward has ended.
TEST_F(TrackerLoops, GradientsThatAreUsedWithinBackward) {
  Loop loop(tracker);
  for (uint64_t step = 0; step < 3; ++step) {
    loop.Forward();
    const TaskId task = Loop::NextTask();
    loop.Walk(loop.pass, task);
    loop.Gradient(task);
    EXPECT_FALSE(tracker.GradientsUsed(0, task).ended) << "it has not ended";
    tracker.EndBackward(loop.thread, task);
    const auto used = tracker.GradientsUsed(0, task);
    ASSERT_TRUE(used.ended);
    EXPECT_EQ(used.ended->step, step);
    EXPECT_EQ(used.ended->passes, Passes{loop.pass});
    EXPECT_EQ(used.ended->flags(), kFlagStepInferred);
    EXPECT_FALSE(tracker.Pending(0));
    EXPECT_FALSE(tracker.GradientsUsed(0, task).ended);
  }
}

TEST(ManualTracker, ABackwardWhoseGradientsAreThrownAwayIsOfNoStep) {
  StepTracker tracker;
  tracker.AddRoot(0, true);
  Loop loop(tracker);
  loop.Forward();
  const PassId thrown_away = loop.pass;
  loop.Backward({thrown_away}, kCleared);
  loop.Forward();
  loop.Backward({loop.pass}, kCleared);
  const auto said = tracker.Boundary(0, loop.thread);
  ASSERT_TRUE(said.ended);
  EXPECT_EQ(said.ended->passes, Passes{loop.pass});
  // Where the weights have moved in between, the optimizer evaluates: the first counts.
  loop.Forward();
  const PassId first = loop.pass;
  loop.Backward({first}, kCleared, false);
  loop.Forward();
  loop.Backward({loop.pass}, kCleared, true);
  EXPECT_EQ(tracker.Boundary(0, loop.thread).ended->passes, Passes{first});
}

TEST(ManualTracker, SaysWhetherAWriteWasSeenBeforeTheEnd) {
  StepTracker tracker;
  tracker.AddRoot(0, true);
  Loop loop(tracker);
  loop.Forward();
  loop.Backward({loop.pass}, kCleared);
  EXPECT_FALSE(loop.Write());
  EXPECT_TRUE(tracker.Boundary(0, loop.thread).ended->written);
  loop.Forward();
  loop.Backward({loop.pass}, kCleared);
  EXPECT_FALSE(tracker.Boundary(0, loop.thread).ended->written);
}

TEST_F(TrackerLoops, AnUpdateThatAnotherOptimizerIsStillToWriteStaysOpenOverAnEvaluation) {
  for (const bool late : {false, true}) {
    Loop loop(tracker);
    loop.Forward();
    loop.Backward({loop.pass}, kCleared);
    ASSERT_TRUE(loop.Write());
    tracker.HoldClosing(0, 0, loop.ends.back().step, late);
    EXPECT_EQ(tracker.CloseSteps(0, loop.thread, StepTracker::CloseAt::kEvaluation).size(), late ? 0u : 1u);
    EXPECT_EQ(tracker.CloseSteps(0, loop.thread, StepTracker::CloseAt::kEpoch).size(), late ? 1u : 0u);
    loop.Forward();
    loop.Backward({loop.pass}, kCleared);
    ASSERT_TRUE(loop.Write());
  }
}

// An optimizer that nobody attached, whose write comes when the step is taken for closed: heard to be told, for a while.
TEST_F(TrackerLoops, BehindAnEvaluationThatClosedAStepALateWriteIsListenedForAFewTimes) {
  Loop loop(tracker);
  const auto evaluate = [&](uint64_t batches) {
    for (uint64_t batch = 0; batch < batches; ++batch) tracker.EvaluationLayer(0, loop.thread, 7, batch == 0);
  };
  for (uint64_t step = 0; step < 2 * StepTracker::kLearningSteps; ++step) {
    loop.Forward();
    loop.Backward({loop.pass}, kCleared);
    ASSERT_TRUE(loop.Write());
    tracker.HoldClosing(0, 0, step, false);
    ASSERT_EQ(tracker.CloseSteps(0, loop.thread, StepTracker::CloseAt::kEvaluation).size(), 1u);
    const bool listens = step < StepTracker::kLearningSteps;
    EXPECT_EQ(tracker.Awake(0), listens) << step;
    evaluate(step == 0 ? StepTracker::kListenAgain : 1);
    EXPECT_EQ(tracker.Awake(0), listens) << step;
    if (step != 1) continue;
    evaluate(StepTracker::kListenAgain);  // that is no pause between two writes any more
    EXPECT_FALSE(tracker.Awake(0));
  }
}

// Nobody listened any more when its first pass began.
TEST_F(TrackerLoops, TheFirstStepOfARootThatRestedSaysThatItsPassWasNotHeard) {
  Loop loop(tracker);
  tracker.Rest(0);
  loop.Backward({});
  ASSERT_TRUE(loop.Write());
  EXPECT_TRUE(loop.ends.back().unheard);
}

}  // namespace
}  // namespace ikkuna::probe
