// One thread's loop over one step tracker, as a front end would tell it.
#pragma once

#include <atomic>
#include <vector>

#include "probe/core/step_tracker.h"

namespace ikkuna::probe {

using Passes = std::vector<PassId>;

constexpr auto kCleared = GradientState::kCleared;

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
  bool Write(WriteKind kind = WriteKind::kArithmetic, bool has_gradient = true, int parameter = 0) {
    auto seen = tracker.Written(model, thread, kind, has_gradient, parameter, has_gradient);
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

}  // namespace ikkuna::probe
