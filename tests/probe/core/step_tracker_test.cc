// The step tracker: its table row by row, and the loops that people write with one thread.
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "tests/probe/core/tracker_loop.h"

namespace ikkuna::probe {
namespace {

class Tracker : public ::testing::Test {
 protected:
  Tracker() { tracker.AddRoot(0, false); }
  StepTracker tracker;
};

// ---------------------------------------------------------------------------------------------------------------
// The table

TEST_F(Tracker, AWriteWithoutGradientsEndsNothing) {
  Loop loop(tracker);
  EXPECT_FALSE(loop.Write());
  loop.Forward();
  EXPECT_FALSE(loop.Write());
  EXPECT_EQ(tracker.steps_ended(0), 0u);
  EXPECT_EQ(tracker.NextStep(0), 1u) << "the pass has taken number 0";
}

TEST_F(Tracker, OneLoop) {
  Loop loop(tracker);
  for (uint64_t step = 0; step < 5; ++step) {
    const auto begun = loop.Forward();
    EXPECT_TRUE(begun.opened);
    EXPECT_EQ(begun.step, step);
    loop.Backward({loop.pass}, kCleared);
    EXPECT_TRUE(tracker.Pending(0));
    ASSERT_TRUE(loop.Write());
    EXPECT_FALSE(loop.Write()) << "the next parameter of the same optimizer";
    EXPECT_EQ(loop.ends.back().step, step);
    EXPECT_EQ(loop.ends.back().passes, Passes{loop.pass});
    EXPECT_EQ(loop.ends.back().flags(), 0);
    EXPECT_FALSE(tracker.Pending(0));
  }
}

TEST_F(Tracker, WritesThatAreNoOptimizers) {
  Loop loop(tracker);
  loop.Forward();
  loop.Backward({loop.pass});
  EXPECT_FALSE(loop.Write(WriteKind::kOther));
  EXPECT_FALSE(loop.Write(WriteKind::kArithmetic, false));
  ASSERT_TRUE(loop.Write());
  loop.Forward();
  loop.Backward({loop.pass});
  EXPECT_FALSE(loop.Write(WriteKind::kAssign)) << "this loop's optimizer writes arithmetically";
  EXPECT_TRUE(loop.Write());
}

TEST_F(Tracker, AnAssignmentIsAnOptimizerWhereThereIsNoOther) {
  Loop loop(tracker);
  for (int i = 0; i < 3; ++i) {
    loop.Forward();
    loop.Backward({loop.pass});
    EXPECT_TRUE(loop.Write(WriteKind::kAssign));
  }
}

TEST_F(Tracker, AStepTakesItsNumberWithItsFirstPassAndNotBefore) {
  Loop loop(tracker), other(tracker);
  EXPECT_EQ(tracker.NextStep(0), 0u);
  EXPECT_FALSE(tracker.OpenStep(0, other.thread));
  EXPECT_TRUE(tracker.CloseSteps(0, other.thread, StepTracker::CloseAt::kEvaluation).empty());
  EXPECT_TRUE(tracker.EvaluationLayer(0, other.thread, 3, true));
  EXPECT_EQ(tracker.NextStep(0), 0u);
  loop.Forward();
  EXPECT_EQ(tracker.OpenStep(0, other.thread), 0u) << "what others say is of the open step";
}

TEST_F(Tracker, MicroBatchesAreOneStep) {
  Loop loop(tracker);
  Passes passes;
  for (int micro = 0; micro < 64; ++micro) {
    loop.Forward();
    passes.push_back(loop.pass);
    loop.Backward({loop.pass}, micro == 0 ? kCleared : GradientState::kKept);
  }
  ASSERT_TRUE(loop.Write());
  EXPECT_EQ(loop.ends.size(), 1u);
  EXPECT_EQ(loop.ends[0].passes, passes);
}

TEST_F(Tracker, TwoForwardPassesAndOneBackwardAreOneStep) {
  Loop loop(tracker);
  loop.Forward();
  const PassId first = loop.pass;
  loop.Forward();
  loop.Backward({loop.pass, first});
  ASSERT_TRUE(loop.Write());
  EXPECT_EQ(loop.ends[0].passes, (Passes{first, loop.pass}));
}

TEST_F(Tracker, APassThatNoBackwardReachedIsNamedByNoStep) {
  Loop loop(tracker);
  loop.Forward();
  const PassId skipped = loop.pass;
  EXPECT_EQ(tracker.LowestOpen(0), skipped);
  loop.Forward();
  loop.Backward({loop.pass});
  ASSERT_TRUE(loop.Write());
  EXPECT_EQ(loop.ends[0].passes, Passes{loop.pass});
  EXPECT_EQ(tracker.LowestOpen(0), skipped);
  tracker.PassGone(0, skipped);
  EXPECT_EQ(tracker.LowestOpen(0), loop.pass) << "until its marker is published";
  tracker.PassGone(0, loop.pass);
  EXPECT_EQ(tracker.LowestOpen(0), loop.pass) << "also when its graph is destroyed before";
  tracker.PassesTold(0, loop.ends[0].passes);
  EXPECT_EQ(tracker.LowestOpen(0), loop.pass + 1);
}

TEST_F(Tracker, APassBegunBeforeTheWriteAndWalkedAfterItIsOfTheNextStep) {
  Loop loop(tracker);
  loop.Forward();
  const PassId first = loop.pass;
  loop.Forward();
  loop.Backward({first});
  ASSERT_TRUE(loop.Write());
  loop.Backward({loop.pass}, kCleared);
  ASSERT_TRUE(loop.Write());
  EXPECT_EQ(loop.ends[1].passes, Passes{loop.pass});
}

TEST_F(Tracker, AStepThatAScalerSkipsHasANumberOfItsOwn) {
  Loop loop(tracker);
  for (int i = 0; i < 6; ++i) {
    loop.Forward();
    loop.Backward({loop.pass}, kCleared, false);
    if (i % 3 != 0) {
      ASSERT_TRUE(loop.Write());
    }
  }
  ASSERT_EQ(loop.ends.size(), 6u);
  for (uint64_t i = 0; i < 6; ++i) {
    EXPECT_EQ(loop.ends[i].step, i);
    EXPECT_EQ(loop.ends[i].passes, Passes{static_cast<PassId>(i + 1)});
    EXPECT_EQ(loop.ends[i].flags(), i % 3 == 0 ? kFlagStepSkipped : 0) << i;
  }
}

TEST_F(Tracker, AWriteThatIsNotSeenIsInferredWhereGradientsAreCleared) {
  Loop loop(tracker);
  for (int i = 0; i < 5; ++i) {
    loop.Forward();
    loop.Backward({loop.pass}, kCleared, true);
  }
  ASSERT_EQ(loop.ends.size(), 4u);
  for (uint64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(loop.ends[i].step, i);
    EXPECT_EQ(loop.ends[i].passes, Passes{static_cast<PassId>(i + 1)});
    EXPECT_EQ(loop.ends[i].flags(), kFlagStepInferred);
  }
}

TEST_F(Tracker, AnOptimizerThatIsNotSeenAfterOneThatWasIsInferredFromTheSecondStepOn) {
  Loop loop(tracker);
  for (int i = 0; i < 3; ++i) {
    loop.Forward();
    loop.Backward({loop.pass}, kCleared);
    ASSERT_TRUE(loop.Write());
  }
  EXPECT_FALSE(tracker.WatchesWeights(0));
  for (int i = 0; i < 4; ++i) {
    loop.Forward();
    loop.Backward({loop.pass}, kCleared, tracker.WatchesWeights(0));
  }
  ASSERT_EQ(loop.ends.size(), 6u);
  EXPECT_EQ(loop.ends[3].cause, StepEndCause::kSkipped);
  EXPECT_EQ(loop.ends[4].cause, StepEndCause::kInferred);
  EXPECT_EQ(loop.ends[5].cause, StepEndCause::kInferred);
  // A write that is seen again is the next step's.
  ASSERT_TRUE(loop.Write());
  EXPECT_EQ(loop.ends.back().cause, StepEndCause::kWritten);
  EXPECT_FALSE(tracker.WatchesWeights(0));
}

TEST_F(Tracker, ALoopThatStopsToGetItsGradientsByHooksIsFollowed) {
  Loop loop(tracker);
  loop.Forward();
  loop.Backward({loop.pass});
  ASSERT_TRUE(loop.Write());
  size_t ended = 0;
  for (int i = 0; i < 6; ++i) {
    loop.Forward();
    const TaskId task = Loop::NextTask();
    loop.Walk(loop.pass, task);
    tracker.EndBackward(loop.thread, task);
    for (int parameter = 0; parameter < 3; ++parameter) ended += loop.Write(WriteKind::kArithmetic, true, parameter);
  }
  EXPECT_EQ(ended, 6u + 1 - StepTracker::kWithoutHooks);
  EXPECT_EQ(loop.ends.back().passes, Passes{loop.pass});
}

TEST_F(Tracker, WeightsThatMovedBeforeThePassEndTheStepAtOnce) {
  Loop loop(tracker);
  for (int i = 0; i < 5; ++i) {
    const auto begun = loop.Forward(i != 0);
    EXPECT_EQ(begun.step, static_cast<uint64_t>(i));
    const TaskId task = Loop::NextTask();
    loop.Walk(loop.pass, task);  // no gradient ever comes by a hook
    tracker.EndBackward(loop.thread, task);
    EXPECT_TRUE(tracker.WatchesWeights(0));
  }
  EXPECT_EQ(loop.ends.size(), 4u);
}

TEST_F(Tracker, GradientsThatTheLoopAssignsItself) {
  Loop loop(tracker);
  for (int i = 0; i < 3; ++i) {
    loop.Forward();
    const TaskId task = Loop::NextTask();
    loop.Walk(loop.pass, task);
    tracker.EndBackward(loop.thread, task);
    ASSERT_TRUE(loop.Write());
    EXPECT_EQ(loop.ends.back().passes, Passes{loop.pass});
  }
}

TEST_F(Tracker, WhatKeepsAccumulatingIsBoundedByPassesAndTime) {
  Loop loop(tracker);
  for (uint32_t i = 0; i < 2 * StepTracker::kMaxAccumulated; ++i) {
    loop.Forward();
    loop.Backward({loop.pass});
  }
  EXPECT_TRUE(loop.ends.empty()) << "it may be a long accumulation";
  loop.now += StepTracker::kMaxAccumulationNs;
  loop.Forward();
  ASSERT_EQ(loop.ends.size(), 1u);
  EXPECT_EQ(loop.ends[0].cause, StepEndCause::kInferred);
  EXPECT_EQ(loop.ends[0].passes.size(), 2u * StepTracker::kMaxAccumulated);
}

TEST_F(Tracker, AGraphWalkedTwiceKeepsItsLastWalk) {
  Loop loop(tracker);
  loop.Forward();
  const TaskId first = Loop::NextTask(), second = Loop::NextTask();
  const PassId of_first = tracker.Walked(0, loop.thread, loop.pass, first, true);
  EXPECT_EQ(tracker.Walked(0, loop.thread, loop.pass, first, true), of_first);
  loop.Gradient(first);
  tracker.EndBackward(loop.thread, first);
  const PassId of_second = tracker.Walked(0, loop.thread, loop.pass, second, true);
  EXPECT_NE(of_first, of_second);
  loop.Gradient(second);
  tracker.EndBackward(loop.thread, second);
  ASSERT_TRUE(loop.Write());
  EXPECT_EQ(loop.ends[0].passes, (Passes{loop.pass, of_second}));
}

TEST_F(Tracker, AWalkThatGaveNoGradientsIsNotTheSteps) {
  Loop loop(tracker);
  loop.Forward();
  const TaskId penalty = Loop::NextTask(), whole = Loop::NextTask();
  tracker.Walked(0, loop.thread, loop.pass, penalty, true);
  tracker.EndBackward(loop.thread, penalty);
  const PassId of_whole = tracker.Walked(0, loop.thread, loop.pass, whole, true);
  loop.Gradient(whole);
  tracker.EndBackward(loop.thread, whole);
  // One more, after backward: what it gives is published, and named by nobody.
  const TaskId saliency = Loop::NextTask();
  tracker.Walked(0, loop.thread, loop.pass, saliency, true);
  tracker.EndBackward(loop.thread, saliency);
  ASSERT_TRUE(loop.Write());
  EXPECT_EQ(loop.ends[0].passes, (Passes{loop.pass, of_whole}));
  tracker.PassesTold(0, loop.ends[0].passes);
  EXPECT_GT(tracker.LowestOpen(0), of_whole);
  // Nor does a write that follows only such a walk end a step.
  loop.Forward();
  const TaskId look = Loop::NextTask();
  loop.Walk(loop.pass, look);
  tracker.EndBackward(loop.thread, look);
  EXPECT_FALSE(loop.Write());
}

TEST_F(Tracker, BackwardWithinBackwardIsOne) {
  Loop loop(tracker);
  loop.Forward();
  const TaskId outer = Loop::NextTask(), inner = Loop::NextTask();
  loop.Walk(loop.pass, outer);
  loop.Gradient(inner);
  tracker.EndBackward(loop.thread, inner);
  loop.Gradient(outer, kCleared);  // what the inner one brought is of the same
  tracker.EndBackward(loop.thread, outer);
  ASSERT_TRUE(loop.Write());
  EXPECT_EQ(loop.ends[0].passes, Passes{loop.pass});
  EXPECT_EQ(loop.ends.size(), 1u);
}

TEST_F(Tracker, StepIsTheOnlyBoundaryOnceItIsSaid) {
  StepTracker manual;
  manual.AddRoot(10, true);
  Loop loop(manual);
  for (uint64_t step = 10; step < 13; ++step) {
    loop.Forward();
    const PassId first = loop.pass;
    loop.Backward({loop.pass}, kCleared);
    for (int evaluation = 0; evaluation < 3; ++evaluation) {
      EXPECT_FALSE(loop.Write());
      loop.Forward();
      loop.Backward({loop.pass}, kCleared, true);
    }
    const auto seen = manual.Boundary(0, loop.thread);
    ASSERT_TRUE(seen.ended);
    EXPECT_EQ(seen.ended->step, step);
    EXPECT_EQ(seen.ended->passes, Passes{first}) << "the first evaluation's";
    EXPECT_EQ(seen.ended->flags(), 0);
  }
  EXPECT_TRUE(loop.ends.empty());
}

TEST_F(Tracker, TheFirstStepThatIsSaidMayHaveEndedAlready) {
  Loop loop(tracker);
  loop.Forward();
  loop.Backward({loop.pass});
  ASSERT_TRUE(loop.Write());
  EXPECT_FALSE(tracker.Boundary(0, loop.thread).ended);
  loop.Forward();
  loop.Backward({loop.pass});
  EXPECT_FALSE(loop.Write());
  ASSERT_TRUE(tracker.Boundary(0, loop.thread).ended);
}

// ---------------------------------------------------------------------------------------------------------------
// Several models

TEST_F(Tracker, APassForAnotherModelsStepIsNoSkippedStep) {
  tracker.AddRoot(0, false);
  Loop critic(tracker, 0);
  const ThreadId thread = critic.thread;
  for (uint64_t i = 0; i < 4; ++i) {
    critic.Forward();
    critic.Backward({critic.pass}, kCleared);
    ASSERT_TRUE(critic.Write());
    EXPECT_EQ(critic.ends.back().step, i);
    EXPECT_EQ(critic.ends.back().passes, Passes{critic.pass});
    // The generator's step runs through the critic.
    StepTracker::PassOptions options;
    options.recorded = true;
    const auto of_generator = tracker.BeginPass(1, thread, options);
    critic.Forward();
    const TaskId task = Loop::NextTask();
    tracker.Walked(0, thread, critic.pass, task, false);
    tracker.Walked(1, thread, of_generator.pass, task, false);
    critic.Gradient(task);
    tracker.Gradient(1, thread, task, {kCleared, false, 1});
    tracker.EndBackward(thread, task);
    const auto seen = tracker.Written(1, thread, WriteKind::kArithmetic, true, 0);
    ASSERT_TRUE(seen.ended);
    EXPECT_EQ(seen.ended->step, i);
  }
  EXPECT_EQ(critic.ends.size(), 4u);
}

TEST_F(Tracker, OneBackwardAndTwoOptimizersAreAStepOfEach) {
  tracker.AddRoot(0, false);
  Loop first(tracker, 0);
  for (int i = 0; i < 3; ++i) {
    const TaskId task = Loop::NextTask();
    first.Gradient(task, kCleared);
    tracker.Gradient(1, first.thread, task, {kCleared, false, 1});
    tracker.EndBackward(first.thread, task);
    EXPECT_TRUE(tracker.Written(1, first.thread, WriteKind::kArithmetic, true, 0).ended);
    EXPECT_TRUE(first.Write());
  }
}

TEST_F(Tracker, AModelThatNeverTrainsIsNotListenedFor) {
  tracker.AddRoot(0, false);
  Loop loop(tracker, 0);
  EXPECT_TRUE(tracker.Awake(1));
  for (uint64_t i = 0; i < StepTracker::kStepsOfOthers; ++i) {
    loop.Backward({}, kCleared);
    loop.Write();
  }
  EXPECT_FALSE(tracker.Awake(1));
  EXPECT_FALSE(tracker.Awake(0));
  // A gradient of its own, and it is heard again.
  tracker.Gradient(1, loop.thread, Loop::NextTask(), {kCleared, false, 1});
  EXPECT_TRUE(tracker.Awake(1));
}

TEST_F(Tracker, SleepsBetweenStepsAndHearsTheWrite) {
  Loop loop(tracker);
  EXPECT_TRUE(tracker.Awake(0)) << "the first step";
  for (int i = 0; i < 3; ++i) {
    loop.Backward({}, kCleared);
    EXPECT_TRUE(tracker.Awake(0));
    loop.Write();
    EXPECT_FALSE(tracker.Awake(0));
  }
  tracker.SetDue(0, 0, false, true);
  EXPECT_TRUE(tracker.Awake(0));
  loop.Forward();
  tracker.SetDue(0, 0, false, false);
  EXPECT_FALSE(tracker.Awake(0));
  tracker.SetDue(0, 0, true, false);
  EXPECT_TRUE(tracker.Awake(0));
  loop.Backward({loop.pass}, kCleared);
  loop.Write();
  EXPECT_FALSE(tracker.Awake(0));
  tracker.HoldClosing(0, 0, loop.ends.back().step, false);
  EXPECT_TRUE(tracker.Awake(0));
  EXPECT_EQ(loop.Forward().to_close.size(), 1u);
  EXPECT_FALSE(tracker.Awake(0));
}

// ---------------------------------------------------------------------------------------------------------------
// Evaluation

TEST_F(Tracker, EvaluationBatchesBeginWithTheFirstModule) {
  Loop loop(tracker);
  EXPECT_TRUE(tracker.EvaluationLayer(0, loop.thread, 7, true));
  EXPECT_FALSE(tracker.EvaluationLayer(0, loop.thread, 8, false));
  EXPECT_TRUE(tracker.EvaluationLayer(0, loop.thread, 7, false));
}

TEST_F(Tracker, ABatchThatCallsItsFirstModuleTwiceIsOne) {
  Loop loop(tracker);
  loop.Forward();
  tracker.FirstModuleCalled(0, loop.thread);
  loop.Forward();
  tracker.FirstModuleCalled(0, loop.thread);
  loop.Backward({loop.pass, loop.pass - 1});
  EXPECT_TRUE(tracker.EvaluationLayer(0, loop.thread, 7, true));
  EXPECT_FALSE(tracker.EvaluationLayer(0, loop.thread, 7, false));
  EXPECT_TRUE(tracker.EvaluationLayer(0, loop.thread, 7, false));
  EXPECT_FALSE(tracker.EvaluationLayer(0, loop.thread, 7, false));
}

TEST_F(Tracker, ABatchThatGoesOnForLongerThanTrainingsIsOne) {
  Loop loop(tracker);
  for (int call = 0; call < 2; ++call) {
    loop.Forward();
    tracker.FirstModuleCalled(0, loop.thread);
  }
  loop.Backward({loop.pass, loop.pass - 1});
  for (int batch = 0; batch < 3; ++batch) {
    EXPECT_TRUE(tracker.EvaluationLayer(0, loop.thread, 7, batch == 0));
    for (int call = 0; call < 4; ++call) EXPECT_FALSE(tracker.EvaluationLayer(0, loop.thread, 7, false, true));
  }
}

// The step of a loop whose writes are not seen is open until the next gradient, and an evaluation comes before that.
TEST_F(Tracker, AnEvaluationWithinAnInferredStepIsListenedFor) {
  Loop loop(tracker);
  for (int i = 0; i < 12; ++i) loop.Backward({}, kCleared, true);
  ASSERT_EQ(loop.ends.back().cause, StepEndCause::kInferred);
  EXPECT_FALSE(tracker.Awake(0));
  tracker.SetWatching(0, true);
  EXPECT_TRUE(tracker.Watching(0));
  EXPECT_TRUE(tracker.Awake(0));
  EXPECT_TRUE(tracker.WeightsMayMove(0));
}

// A robustness test: gradients of an evaluation reach the parameters, and are cleared.
TEST_F(Tracker, GradientsOfAnEvaluationAreNoStepsOfARootThatTrainsOtherwise) {
  Loop loop(tracker);
  for (uint64_t step = 0; step < 3; ++step) {
    loop.Forward();
    loop.Backward({loop.pass}, kCleared);
    ASSERT_TRUE(loop.Write());
    EXPECT_EQ(loop.ends.back().step, step);
    for (int attack = 0; attack < 5; ++attack) {
      tracker.EvaluationLayer(0, loop.thread, 7, attack == 0);
      const TaskId task = Loop::NextTask();
      loop.Gradient(task, kCleared);
      tracker.EvaluationWalked(0, loop.thread, task);
      tracker.EndBackward(loop.thread, task);
    }
  }
  EXPECT_EQ(loop.ends.size(), 3u);
  EXPECT_FALSE(tracker.trains_in_evaluation(0));
}

TEST_F(Tracker, TrainingInEvaluationModeIsKnownByItsFirstStep) {
  Loop loop(tracker);
  tracker.EvaluationLayer(0, loop.thread, 7, true);
  EXPECT_FALSE(tracker.trains_in_evaluation(0));
  const TaskId task = Loop::NextTask();
  loop.Gradient(task, kCleared);
  tracker.EvaluationWalked(0, loop.thread, task);
  tracker.EndBackward(loop.thread, task);
  ASSERT_TRUE(loop.Write());
  EXPECT_TRUE(tracker.trains_in_evaluation(0));
  StepTracker::PassOptions options;
  options.evaluating = true;
  tracker.BeginPass(0, loop.thread, options);
  loop.Backward({}, kCleared);
  ASSERT_TRUE(loop.Write());
  EXPECT_TRUE(tracker.trains_in_evaluation(0));
  loop.Forward();  // training mode again
  loop.Backward({}, kCleared);
  ASSERT_TRUE(loop.Write());
  EXPECT_FALSE(tracker.trains_in_evaluation(0));
}

// ---------------------------------------------------------------------------------------------------------------
// Passes that are kept

TEST_F(Tracker, ALoopThatRunsAheadIsKnown) {
  Loop loop(tracker);
  loop.Forward();
  PassId next = loop.pass;
  for (int i = 0; i < 4; ++i) {
    const PassId now = std::exchange(next, (loop.Forward(), loop.pass));
    loop.Backward({now}, i == 0 ? GradientState::kKept : kCleared);
    ASSERT_TRUE(loop.Write());
    EXPECT_EQ(loop.ends.back().passes, Passes{now});
    EXPECT_EQ(loop.ends.back().runs_ahead, i != 0);
  }
  for (int i = 0; i < 3; ++i) {
    loop.Forward();
    loop.Backward({loop.pass}, kCleared);
    ASSERT_TRUE(loop.Write());
    EXPECT_EQ(loop.ends.back().runs_ahead, i == 0);
  }
}

TEST_F(Tracker, PassesThatATrainerKeepsForEverAreBounded) {
  Loop loop(tracker);
  for (size_t i = 0; i < 3 * StepTracker::kMaxOpenPasses; ++i) loop.Forward();
  EXPECT_GE(tracker.LowestOpen(0), 2 * StepTracker::kMaxOpenPasses);
}

}  // namespace
}  // namespace ikkuna::probe
