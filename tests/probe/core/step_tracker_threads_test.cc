// The step tracker where several threads run passes, backward and writes.
#include <gtest/gtest.h>

#include <set>

#include "tests/probe/core/tracker_loop.h"

namespace ikkuna::probe {
namespace {

class TrackerThreads : public ::testing::Test {
 protected:
  TrackerThreads() { tracker.AddRoot(0, false); }
  StepTracker tracker;
};

TEST_F(TrackerThreads, WhoeverWritesEndsTheStepOfThosePassesThatBackwardWalked) {
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

TEST_F(TrackerThreads, WorkersThatWarmedUpByThemselvesAreFollowedToo) {
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

TEST_F(TrackerThreads, ThreadsThatTrainSideBySideLoseNoStep) {
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

TEST_F(TrackerThreads, ABackwardThatEndsAmidAnothersRoundOfWritesIsNotThatRounds) {
  Loop a(tracker), b(tracker);
  a.Forward();
  b.Forward();
  const TaskId task = Loop::NextTask();
  b.Walk(b.pass, task);
  b.Gradient(task);
  a.Backward({a.pass});
  ASSERT_TRUE(a.Write(WriteKind::kArithmetic, true, 0));
  tracker.EndBackward(b.thread, task);
  EXPECT_FALSE(a.Write(WriteKind::kArithmetic, true, 0)) << "weight decay, then the update";
  EXPECT_FALSE(a.Write(WriteKind::kArithmetic, true, 1));
  EXPECT_FALSE(a.Write(WriteKind::kArithmetic, true, 2));
  ASSERT_TRUE(b.Write());
  EXPECT_EQ(b.ends.back().passes, Passes{b.pass});
  EXPECT_EQ(tracker.steps_ended(0), 2u);
}

TEST_F(TrackerThreads, OneThatWritesForWorkersWhoseBackwardOverlapsItsWritesCountsEachRound) {
  Loop writer(tracker), a(tracker), b(tracker);
  a.Forward();
  a.Backward({a.pass});
  Loop* const workers[2] = {&a, &b};
  for (int i = 0; i < 6; ++i) {
    Loop& worker = *workers[(i + 1) % 2];
    worker.Forward();
    const TaskId task = Loop::NextTask();
    worker.Walk(worker.pass, task);
    worker.Gradient(task);
    ASSERT_TRUE(writer.Write(WriteKind::kArithmetic, true, 0)) << i;
    tracker.EndBackward(worker.thread, task);
    EXPECT_FALSE(writer.Write(WriteKind::kArithmetic, true, 1)) << i;
  }
}

TEST_F(TrackerThreads, GradientsThatAnotherThreadClearedForItselfSkipNothing) {
  Loop a(tracker), b(tracker);
  for (int i = 0; i < 5; ++i) {
    a.Forward();
    a.Backward({a.pass}, kCleared);
    b.Forward();
    b.Backward({b.pass}, kCleared);
    ASSERT_TRUE(a.Write());
    ASSERT_TRUE(b.Write());
  }
  EXPECT_EQ(tracker.steps_ended(0), 10u);
  for (const Loop* loop : {&a, &b}) {
    for (const StepEnd& end : loop->ends) EXPECT_EQ(end.cause, StepEndCause::kWritten);
  }
}

TEST_F(TrackerThreads, AThreadWhosePassWasNotHeardHasAStepOfItsOwn) {
  Loop a(tracker), late(tracker);
  a.Forward();
  const TaskId task = Loop::NextTask();
  a.Walk(a.pass, task);
  a.Gradient(task);
  late.Backward({});
  const auto seen = tracker.Written(0, late.thread, WriteKind::kArithmetic, true, 0);
  ASSERT_TRUE(seen.ended);
  EXPECT_TRUE(seen.unheard);
  EXPECT_EQ(seen.ended->step, 1u);
  EXPECT_TRUE(seen.ended->passes.empty());
  tracker.EndBackward(a.thread, task);
  ASSERT_TRUE(a.Write());
  EXPECT_EQ(a.ends.back().step, 0u);
  EXPECT_EQ(a.ends.back().passes, Passes{a.pass});
}

TEST_F(TrackerThreads, AnUpdateThatSpansAnothersWriteSaysSo) {
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
  tracker.HoldClosing(0, a.ends.back().lane, a.ends.back().step, false);
  b.Forward();
  EXPECT_FALSE(tracker.OthersWrite(0, a.thread));
  b.Backward({b.pass});
  ASSERT_TRUE(b.Write());
  const auto begun = a.Forward();
  ASSERT_EQ(begun.to_close.size(), 1u);
  EXPECT_TRUE(begun.to_close[0].spanned);
}

TEST_F(TrackerThreads, ThreadsThatComeAndGoLeaveTheirUpdateToTheNext) {
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
    tracker.HoldClosing(0, loop.ends.back().lane, i, false);
    tracker.PassesTold(0, loop.ends.back().passes);
    tracker.EndThread(loop.thread);
  }
}

TEST_F(TrackerThreads, AThreadOfSeveralThatEndsLeavesNothingBehind) {
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
    tracker.HoldClosing(0, b.ends.back().lane, b.ends.back().step, false);
    tracker.EndThread(b.thread);
    EXPECT_EQ(a.Forward().to_close.size(), 1u) << "what b left open";
    tracker.PassGone(0, a.pass);
  }
  EXPECT_LE(tracker.LaneOf(0, a.thread), 2u);
}

// A thread writes while another is amid its writes, and nobody knew before that they train side by side.
TEST_F(TrackerThreads, TheFirstUpdatesOfThreadsSideBySideAreSpanned) {
  Loop a(tracker), b(tracker);
  a.Forward();
  b.Forward();
  a.Backward({a.pass});
  b.Backward({b.pass});
  ASSERT_TRUE(a.Write());
  tracker.HoldClosing(0, a.ends[0].lane, a.ends[0].step, false);
  const auto seen = tracker.Written(0, b.thread, WriteKind::kArithmetic, true, 0);
  ASSERT_TRUE(seen.ended);
  ASSERT_EQ(seen.to_close.size(), 1u);
  EXPECT_TRUE(seen.to_close[0].spanned);
  tracker.HoldClosing(0, seen.ended->lane, seen.ended->step, false);
  const auto left = tracker.CloseSteps(0, b.thread, StepTracker::CloseAt::kAll);
  ASSERT_EQ(left.size(), 1u);
  EXPECT_TRUE(left[0].spanned);
}

// Whether one that has written hands over to another, or is in the midst of its writes, only the front end can tell.
TEST_F(TrackerThreads, AnUpdateThatAnotherThreadClosesSaysThatItsWriterMayGoOn) {
  Loop a(tracker), b(tracker);
  const auto write = [&](Loop& loop) {
    loop.Forward();
    loop.Backward({loop.pass}, kCleared);
    ASSERT_TRUE(loop.Write());
    tracker.HoldClosing(0, loop.ends.back().lane, loop.ends.back().step, false);
  };
  const auto writing = [](const std::vector<StepToClose>& to_close) {
    EXPECT_EQ(to_close.size(), 1u);
    return !to_close.empty() && to_close[0].writing;
  };
  write(a);
  auto begun = b.Forward();
  EXPECT_TRUE(writing(begun.to_close));
  EXPECT_FALSE(begun.to_close[0].spanned);
  write(b);
  EXPECT_FALSE(writing(b.Forward().to_close)) << "its own";
  write(b);
  tracker.EvaluationLayer(0, b.thread, 7, true);
  EXPECT_FALSE(writing(a.Forward().to_close)) << "it evaluates by now";
  write(a);
  EXPECT_TRUE(writing(tracker.CloseSteps(0, b.thread, StepTracker::CloseAt::kAll)));
  write(a);
  tracker.EndThread(a.thread);
  EXPECT_FALSE(writing(b.Forward().to_close)) << "it is gone";
}

// A rollout thread that evaluates, logs and goes takes no number and keeps nothing awake.
TEST_F(TrackerThreads, AThreadThatDoesNotTrainKeepsNothingAwake) {
  Loop loop(tracker);
  for (int i = 0; i < 10; ++i) {
    loop.Backward({}, kCleared);
    loop.Write();
  }
  ASSERT_FALSE(tracker.Awake(0));
  const ThreadId rollout = tracker.AddThread();
  tracker.EvaluationLayer(0, rollout, 1, true);
  tracker.CloseSteps(0, rollout, StepTracker::CloseAt::kEvaluation);
  EXPECT_FALSE(tracker.Awake(0));
  tracker.EndThread(rollout);
  EXPECT_EQ(tracker.NextStep(0), 10u);
}

}  // namespace
}  // namespace ikkuna::probe
