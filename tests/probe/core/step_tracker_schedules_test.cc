// The step tracker under random schedules of several threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/probe/core/tracker_loop.h"

namespace ikkuna::probe {
namespace {

// Threads that hand their passes to one that writes, in any order: each step is made of exactly what they gave to it.
TEST(TrackerSchedules, RandomSchedulesOfWorkersAndOneThatWrites) {
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
TEST(TrackerSchedules, ThreadsTrainSideBySide) {
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
        tracker.HoldClosing(0, common.ends.back().lane, common.ends.back().step, false);
        tracker.PassesTold(0, common.ends.back().passes);
        const int mine = t + 1;
        const auto own = tracker.BeginPass(mine, common.thread, {true, false, false, 0});
        const TaskId task = Loop::NextTask();
        tracker.Walked(mine, common.thread, own.pass, task, false);
        tracker.Gradient(mine, common.thread, task, {kCleared, false, 0});
        tracker.EndBackward(common.thread, task);
        const auto seen = tracker.Written(mine, common.thread, WriteKind::kArithmetic, true, 0);
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
