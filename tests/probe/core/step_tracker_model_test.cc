// The step tracker under random schedules of threads and models, against a slow reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/probe/core/tracker_loop.h"

namespace ikkuna::probe {
namespace {

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
          const auto seen = tracker.Written(model, thread, WriteKind::kArithmetic, true, 0);
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
