// The step tracker: its table row by row, the loops that people write, and random schedules against a slow reference.
#include "probe/core/step_tracker.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace ikkuna::probe {
namespace {

using Passes = std::vector<PassId>;

// One thread's loop over one tracker, as a front end would tell it.
struct Loop {
  explicit Loop(StepTracker& of, int root = 0) : tracker(of), thread(of.AddThread()), model(root) {}

  StepTracker::PassBegun Forward(bool moved = false) {
    StepTracker::PassOptions options;
    options.recorded = true;
    options.moved = moved;
    options.now_ns = now;
    auto begun = tracker.BeginPass(model, thread, options);
    if (begun.ended) ends.push_back(*begun.ended);
    pass = begun.pass;
    return begun;
  }
  void Walk(PassId of, TaskId task) { tracker.Walked(model, thread, of, task, false); }
  StepTracker::GradientCame Gradient(TaskId task, GradientState state = GradientState::kKept, bool moved = false) {
    StepTracker::GradientOptions options{state, moved, now};
    auto came = tracker.Gradient(model, thread, task, options);
    if (came.ended) ends.push_back(*came.ended);
    return came;
  }
  // A whole backward pass over these passes.
  StepTracker::GradientCame Backward(const Passes& passes, GradientState state = GradientState::kKept,
                                     bool moved = false) {
    const TaskId task = NextTask();
    for (const PassId of : passes) Walk(of, task);
    auto came = Gradient(task, state, moved);
    tracker.EndBackward(thread, task);
    return came;
  }
  bool Write(WriteKind kind = WriteKind::kArithmetic, bool has_gradient = true) {
    auto seen = tracker.Written(model, thread, kind, has_gradient);
    if (seen.ended) ends.push_back(*seen.ended);
    return seen.ended.has_value();
  }
  static TaskId NextTask() {
    static std::atomic<TaskId> task{0};
    return ++task;
  }

  StepTracker& tracker;
  const ThreadId thread;
  const int model;
  PassId pass = 0;
  uint64_t now = 1;
  std::vector<StepEnd> ends;
};

class Tracker : public ::testing::Test {
 protected:
  Tracker() { tracker.AddRoot(0, false); }
  StepTracker tracker;
};

constexpr auto kCleared = GradientState::kCleared;

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
  EXPECT_TRUE(tracker.CloseSteps(0, other.thread, false).empty());
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
  EXPECT_TRUE(tracker.writes_unseen(0));
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
      loop.Backward({loop.pass}, kCleared);
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
    const auto seen = tracker.Written(1, thread, WriteKind::kArithmetic, true);
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
    EXPECT_TRUE(tracker.Written(1, first.thread, WriteKind::kArithmetic, true).ended);
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
  tracker.HoldClosing(0, 0, loop.ends.back().step);
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

TEST_F(Tracker, TrainingInEvaluationModeIsKnownByItsFirstStep) {
  Loop loop(tracker);
  tracker.EvaluationLayer(0, loop.thread, 7, true);
  EXPECT_FALSE(tracker.trains_in_evaluation(0));
  tracker.EvaluationWalked(0);
  loop.Backward({}, kCleared);
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
// Several threads

TEST_F(Tracker, WhoeverWritesEndsTheStepOfThosePassesThatBackwardWalked) {
  Loop main(tracker), a(tracker), b(tracker);
  // A warm-up step on the main thread, then workers.
  main.Forward();
  main.Backward({main.pass}, kCleared);
  ASSERT_TRUE(main.Write());
  for (uint64_t step = 1; step < 5; ++step) {
    EXPECT_EQ(a.Forward().step, step);
    EXPECT_EQ(b.Forward().step, step);
    b.Backward({b.pass}, kCleared);
    a.Backward({a.pass});
    ASSERT_TRUE(main.Write());
    EXPECT_EQ(main.ends.back().step, step);
    EXPECT_EQ(main.ends.back().passes, (Passes{a.pass, b.pass}));
  }
  EXPECT_TRUE(a.ends.empty() && b.ends.empty());
  EXPECT_FALSE(tracker.side_by_side(0));
}

TEST_F(Tracker, WorkersThatWarmedUpByThemselvesAreFollowedToo) {
  Loop main(tracker), a(tracker);
  a.Forward();
  a.Backward({a.pass}, kCleared);
  ASSERT_TRUE(a.Write());
  for (int i = 0; i < 3; ++i) {
    a.Forward();
    a.Backward({a.pass}, kCleared);
    ASSERT_TRUE(main.Write());
    EXPECT_EQ(main.ends.back().passes, Passes{a.pass});
  }
}

TEST_F(Tracker, ThreadsThatTrainSideBySideLoseNoStep) {
  Loop a(tracker), b(tracker);
  for (int i = 0; i < 6; ++i) {
    a.Forward();
    b.Forward();
    a.Backward({a.pass}, i == 0 ? kCleared : GradientState::kKept);
    b.Backward({b.pass});
    ASSERT_TRUE(a.Write());
    ASSERT_TRUE(b.Write());
    if (i < 2) continue;
    EXPECT_EQ(a.ends.back().passes, Passes{a.pass});
    EXPECT_EQ(b.ends.back().passes, Passes{b.pass});
  }
  EXPECT_TRUE(tracker.side_by_side(0));
  EXPECT_EQ(tracker.steps_ended(0), 12u);
  std::set<uint64_t> steps;
  for (const Loop* loop : {&a, &b}) {
    for (const StepEnd& end : loop->ends) steps.insert(end.step);
  }
  EXPECT_EQ(steps.size(), 12u);
  EXPECT_EQ(*steps.rbegin(), 11u);
}

TEST_F(Tracker, AnUpdateThatSpansAnothersWriteSaysSo) {
  Loop a(tracker), b(tracker);
  for (int i = 0; i < 3; ++i) {
    a.Forward();
    b.Forward();
    a.Backward({a.pass});
    b.Backward({b.pass});
    a.Write();
    b.Write();
  }
  a.Forward();
  a.Backward({a.pass});
  EXPECT_TRUE(tracker.OthersWrite(0, a.thread)) << "nothing of b was seen since its write";
  ASSERT_TRUE(a.Write());
  tracker.HoldClosing(0, a.ends.back().lane, a.ends.back().step);
  b.Forward();
  EXPECT_FALSE(tracker.OthersWrite(0, a.thread));
  b.Backward({b.pass});
  ASSERT_TRUE(b.Write());
  const auto begun = a.Forward();
  ASSERT_EQ(begun.to_close.size(), 1u);
  EXPECT_TRUE(begun.to_close[0].spanned);
}

TEST_F(Tracker, ThreadsThatComeAndGoLeaveTheirUpdateToTheNext) {
  for (uint64_t i = 0; i < 20; ++i) {
    Loop loop(tracker);
    const auto begun = loop.Forward();
    EXPECT_EQ(begun.step, i);
    EXPECT_EQ(begun.to_close.size(), i == 0 ? 0u : 1u);
    if (i != 0) {
      EXPECT_FALSE(begun.to_close[0].spanned);
    }
    loop.Backward({loop.pass}, kCleared);
    ASSERT_TRUE(loop.Write());
    tracker.HoldClosing(0, loop.ends.back().lane, i);
    tracker.PassesTold(0, loop.ends.back().passes);
    tracker.EndThread(loop.thread);
  }
}

TEST_F(Tracker, AThreadOfSeveralThatEndsLeavesNothingBehind) {
  Loop a(tracker);
  for (int i = 0; i < 50; ++i) {
    Loop b(tracker);
    for (int j = 0; j < 3; ++j) {
      a.Forward();
      b.Forward();
      a.Backward({a.pass});
      b.Backward({b.pass});
      ASSERT_TRUE(a.Write());
      ASSERT_TRUE(b.Write());
      for (Loop* loop : {&a, &b}) tracker.PassesTold(0, loop->ends.back().passes);
    }
    tracker.HoldClosing(0, b.ends.back().lane, b.ends.back().step);
    tracker.EndThread(b.thread);
    EXPECT_EQ(a.Forward().to_close.size(), 1u) << "what b left open";
    tracker.PassGone(0, a.pass);
  }
  EXPECT_LE(tracker.LaneOf(0, a.thread), 2u);
}

// A rollout thread that evaluates, logs and goes takes no number and keeps nothing awake.
TEST_F(Tracker, AThreadThatDoesNotTrainKeepsNothingAwake) {
  Loop loop(tracker);
  for (int i = 0; i < 10; ++i) {
    loop.Backward({}, kCleared);
    loop.Write();
  }
  ASSERT_FALSE(tracker.Awake(0));
  const ThreadId rollout = tracker.AddThread();
  tracker.EvaluationLayer(0, rollout, 1, true);
  tracker.CloseSteps(0, rollout, false);
  EXPECT_FALSE(tracker.Awake(0));
  tracker.EndThread(rollout);
  EXPECT_EQ(tracker.NextStep(0), 10u);
}

TEST_F(Tracker, PassesThatATrainerKeepsForEverAreBounded) {
  Loop loop(tracker);
  for (size_t i = 0; i < 3 * StepTracker::kMaxOpenPasses; ++i) loop.Forward();
  EXPECT_GE(tracker.LowestOpen(0), 2 * StepTracker::kMaxOpenPasses);
}

// ---------------------------------------------------------------------------------------------------------------
// Random schedules

// What a loop on one thread with several models does, as a list; the reference reads it from its beginning each time.
struct Happened {
  enum What { kForward, kBackward, kWrite, kGone } what;
  int model;
  PassId pass = 0;                             // kForward, kGone
  std::vector<std::pair<int, PassId>> walked;  // kBackward: model and pass
  bool cleared = false;                        // kBackward: of each model walked, gradients are cleared before
};

// The steps of one model, by definition: gradients are the sum of the backward passes since they were cleared; a write
// makes a step of those; gradients that are cleared before a write make a skipped one, unless another model's write
// made use of the same backward passes.
std::vector<std::pair<uint16_t, Passes>> Reference(const std::vector<Happened>& history, int model) {
  std::vector<std::pair<uint16_t, Passes>> steps;
  struct Sum {
    std::vector<size_t> backwards;  // indices into the history
    Passes passes;
  } sum;
  const auto used_elsewhere = [&](size_t backward, size_t until) {
    for (size_t other = 0; other < 3; ++other) {
      if (static_cast<int>(other) == model) continue;
      std::vector<size_t> pending;
      for (size_t i = 0; i < until; ++i) {
        const Happened& event = history[i];
        if (event.what == Happened::kBackward) {
          const bool of_it = std::any_of(event.walked.begin(), event.walked.end(),
                                         [&](const auto& walked) { return walked.first == static_cast<int>(other); });
          if (of_it && event.cleared) pending.clear();
          if (of_it) pending.push_back(i);
        } else if (event.what == Happened::kWrite && event.model == static_cast<int>(other)) {
          if (std::count(pending.begin(), pending.end(), backward) != 0) return true;
          pending.clear();
        }
      }
    }
    return false;
  };
  for (size_t i = 0; i < history.size(); ++i) {
    const Happened& event = history[i];
    if (event.what == Happened::kBackward) {
      Passes walked;
      for (const auto& [of, pass] : event.walked) {
        if (of == model) walked.push_back(pass);
      }
      if (walked.empty()) continue;
      if (event.cleared && !sum.backwards.empty()) {
        const bool for_others = std::all_of(sum.backwards.begin(), sum.backwards.end(),
                                            [&](size_t backward) { return used_elsewhere(backward, i); });
        if (!for_others) steps.push_back({kFlagStepSkipped, sum.passes});
        sum = {};
      }
      sum.backwards.push_back(i);
      sum.passes.insert(sum.passes.end(), walked.begin(), walked.end());
    } else if (event.what == Happened::kWrite && event.model == model && !sum.backwards.empty()) {
      steps.push_back({0, sum.passes});
      sum = {};
    }
  }
  for (auto& [flags, passes] : steps) std::sort(passes.begin(), passes.end());
  return steps;
}

TEST(TrackerModel, RandomLoopsOfSeveralModelsOnOneThread) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const auto pick = [&](size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random); };
    constexpr int kModels = 3;
    StepTracker tracker;
    for (int m = 0; m < kModels; ++m) tracker.AddRoot(0, false);
    const ThreadId thread = tracker.AddThread();
    std::vector<Happened> history;
    std::array<std::vector<std::pair<uint16_t, Passes>>, kModels> got;
    std::array<Passes, kModels> open;
    std::array<PassId, kModels> lowest{};
    std::array<uint64_t, kModels> next{};
    const auto note = [&](int model, const StepEnd& end) {
      EXPECT_EQ(end.step, next[static_cast<size_t>(model)]++);
      for (const PassId pass : end.passes) EXPECT_GE(pass, lowest[static_cast<size_t>(model)]);
      got[static_cast<size_t>(model)].push_back({end.flags(), end.passes});
      if (pick(2) == 0) tracker.PassesTold(model, end.passes);
    };
    for (int event = 0; event < 120; ++event) {
      const int model = static_cast<int>(pick(kModels));
      Passes& mine = open[static_cast<size_t>(model)];
      switch (pick(6)) {
        case 0:
        case 1: {
          StepTracker::PassOptions options;
          options.recorded = true;
          const auto begun = tracker.BeginPass(model, thread, options);
          EXPECT_FALSE(begun.ended);
          mine.push_back(begun.pass);
          history.push_back({Happened::kForward, model, begun.pass, {}, false});
          break;
        }
        case 2: {  // a graph is destroyed before backward
          if (mine.empty()) break;
          const size_t index = pick(mine.size());
          tracker.PassGone(model, mine[index]);
          mine.erase(mine.begin() + static_cast<std::ptrdiff_t>(index));
          break;
        }
        case 3: {  // over passes of one model, or of several; none is walked twice here
          Happened backward{Happened::kBackward, model, 0, {}, pick(2) == 0};
          const TaskId task = Loop::NextTask();
          for (int m = 0; m < kModels; ++m) {
            if (m != model && pick(2) == 0) continue;
            Passes& passes = open[static_cast<size_t>(m)];
            std::shuffle(passes.begin(), passes.end(), random);
            const size_t count = passes.empty() ? 0 : 1 + pick(passes.size());
            for (size_t i = 0; i < count; ++i) {
              backward.walked.push_back({m, passes.back()});
              passes.pop_back();
            }
          }
          std::set<int> models;
          for (const auto& [m, pass] : backward.walked) {
            tracker.Walked(m, thread, pass, task, false);
            models.insert(m);
          }
          for (const int m : models) {
            const auto came = tracker.Gradient(
                m, thread, task, {backward.cleared ? GradientState::kCleared : GradientState::kKept, false, 0});
            if (came.ended) note(m, *came.ended);
          }
          tracker.EndBackward(thread, task);
          for (const auto& [m, pass] : backward.walked) {
            if (pick(2) == 0) tracker.PassGone(m, pass);
          }
          history.push_back(backward);
          break;
        }
        default: {
          history.push_back({Happened::kWrite, model, 0, {}, false});
          const auto seen = tracker.Written(model, thread, WriteKind::kArithmetic, true);
          if (seen.ended) note(model, *seen.ended);
        }
      }
      for (int m = 0; m < kModels; ++m) {
        const PassId now = tracker.LowestOpen(m);
        EXPECT_GE(now, lowest[static_cast<size_t>(m)]) << "what was given up is not taken back";
        lowest[static_cast<size_t>(m)] = now;
      }
    }
    for (int m = 0; m < kModels; ++m) EXPECT_EQ(got[static_cast<size_t>(m)], Reference(history, m)) << "model " << m;
    if (HasFailure()) return;
  }
}

// Threads that hand their passes to one that writes, in any order: each step is made of exactly what they gave to it.
TEST(TrackerModel, RandomSchedulesOfWorkersAndOneThatWrites) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const auto pick = [&](size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random); };
    StepTracker tracker;
    tracker.AddRoot(0, false);
    Loop writer(tracker);
    std::vector<std::unique_ptr<Loop>> workers;
    for (uint64_t step = 0; step < 12; ++step) {
      while (workers.size() < 4) workers.push_back(std::make_unique<Loop>(tracker));
      if (pick(3) == 0) writer.Forward(), tracker.PassGone(0, writer.pass);  // a pass for nothing
      struct Task {
        Loop* loop;
        int stage = 0;
        TaskId id = 0;
      };
      std::vector<Task> tasks;
      for (auto& worker : workers) tasks.push_back({worker.get(), 0, 0});
      if (pick(2) == 0) tasks.push_back({&writer, 0, 0});
      Passes want;
      bool first = true;
      while (!tasks.empty()) {
        const size_t index = pick(tasks.size());
        Task& task = tasks[index];
        switch (task.stage++) {
          case 0:
            task.loop->Forward();
            want.push_back(task.loop->pass);
            break;
          case 1:
            task.loop->Walk(task.loop->pass, task.id = Loop::NextTask());
            break;
          case 2:
            task.loop->Gradient(task.id, std::exchange(first, false) ? kCleared : GradientState::kKept);
            break;
          default:
            tracker.EndBackward(task.loop->thread, task.id);
            tasks.erase(tasks.begin() + static_cast<std::ptrdiff_t>(index));
        }
      }
      ASSERT_TRUE(writer.Write());
      EXPECT_EQ(writer.ends.back().step, step);
      std::sort(want.begin(), want.end());
      EXPECT_EQ(writer.ends.back().passes, want);
      tracker.PassesTold(0, want);
      for (auto& worker : workers) EXPECT_TRUE(worker->ends.empty());
      if (pick(2) == 0) {
        tracker.EndThread(workers[0]->thread);
        workers.erase(workers.begin());
      }
    }
    if (HasFailure()) return;
  }
}

// Threads side by side, each with steps of its own, beside other models that it shares with nobody: under the thread
// sanitizer this is what shows that the tracker holds its lock.
TEST(TrackerModel, ThreadsTrainSideBySide) {
  constexpr int kThreads = 4, kSteps = 400;
  StepTracker tracker;
  tracker.AddRoot(0, false);
  for (int t = 0; t < kThreads; ++t) tracker.AddRoot(0, false);
  std::vector<std::vector<StepEnd>> shared(kThreads), alone(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      Loop common(tracker, 0);
      const auto index = static_cast<size_t>(t);
      for (int step = 0; step < kSteps; ++step) {
        const auto begun = common.Forward();
        for (const StepToClose& closed : begun.to_close) EXPECT_LT(closed.step, uint64_t{kThreads} * kSteps);
        common.Backward({common.pass});
        ASSERT_TRUE(common.Write());
        tracker.HoldClosing(0, common.ends.back().lane, common.ends.back().step);
        tracker.PassesTold(0, common.ends.back().passes);
        const int mine = t + 1;
        const auto own = tracker.BeginPass(mine, common.thread, {true, false, false, 0});
        const TaskId task = Loop::NextTask();
        tracker.Walked(mine, common.thread, own.pass, task, false);
        tracker.Gradient(mine, common.thread, task, {kCleared, false, 0});
        tracker.EndBackward(common.thread, task);
        const auto seen = tracker.Written(mine, common.thread, WriteKind::kArithmetic, true);
        ASSERT_TRUE(seen.ended);
        EXPECT_EQ(seen.ended->step, static_cast<uint64_t>(step));
        EXPECT_EQ(seen.ended->passes, Passes{own.pass});
        tracker.PassesTold(mine, seen.ended->passes);
        static_cast<void>(tracker.Awake(0));
      }
      shared[index] = common.ends;
      tracker.EndThread(common.thread);
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<uint64_t> steps;
  std::set<PassId> named;
  size_t ends = 0, passes = 0;
  for (const auto& of_thread : shared) {
    for (const StepEnd& end : of_thread) {
      steps.insert(end.step);
      named.insert(end.passes.begin(), end.passes.end());
      ++ends;
      passes += end.passes.size();
    }
  }
  EXPECT_EQ(ends, size_t{kThreads} * kSteps) << "no write is lost";
  EXPECT_EQ(steps.size(), ends) << "each step has a number of its own";
  EXPECT_EQ(named.size(), passes) << "no pass is named twice";
}

}  // namespace
}  // namespace ikkuna::probe
