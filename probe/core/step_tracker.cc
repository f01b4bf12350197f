#include "probe/core/step_tracker.h"

#include <algorithm>
#include <utility>

#include "shared/passes.h"

namespace ikkuna::probe {

// ---------------------------------------------------------------------------------------------------------------
// Roots, threads, passes

int StepTracker::AddRoot(uint64_t start_step, bool manual) {
  std::lock_guard lock(mutex_);
  Root& root = roots_.emplace_back();
  root.next_step = start_step;
  root.manual = manual;
  root.lanes.emplace_back().used = true;
  return static_cast<int>(roots_.size()) - 1;
}

ThreadId StepTracker::AddThread() {
  std::lock_guard lock(mutex_);
  threads_.emplace(next_thread_, Thread());
  return next_thread_++;
}

void StepTracker::EndThread(ThreadId thread) {
  std::lock_guard lock(mutex_);
  const auto found = threads_.find(thread);
  if (found == threads_.end()) return;
  for (size_t r = 0; r < roots_.size(); ++r) {
    const ThreadPart* part = found->second.parts[r].get();
    if (part != nullptr && part->lane != 0) MergeIntoShared(static_cast<int>(r), part->lane);
    // A pass that nobody published anything of is open for nobody.
  }
  threads_.erase(found);
}

StepTracker::ThreadPart& StepTracker::PartOf(int root, ThreadId thread) {
  std::unique_ptr<ThreadPart>& part = threads_[thread].parts[static_cast<size_t>(root)];
  if (!part) part = std::make_unique<ThreadPart>();
  return *part;
}

StepTracker::ThreadPart* StepTracker::FindPart(int root, ThreadId thread) {
  return const_cast<ThreadPart*>(std::as_const(*this).FindPart(root, thread));
}

const StepTracker::ThreadPart* StepTracker::FindPart(int root, ThreadId thread) const {
  const auto found = threads_.find(thread);
  return found == threads_.end() ? nullptr : found->second.parts[static_cast<size_t>(root)].get();
}

StepTracker::Pass* StepTracker::FindPass(Root& root, PassId pass) {
  return const_cast<Pass*>(FindPass(std::as_const(root), pass));
}

const StepTracker::Pass* StepTracker::FindPass(const Root& root, PassId pass) {
  const auto found = std::lower_bound(root.passes.begin(), root.passes.end(), pass,
                                      [](const Pass& left, PassId id) { return shm::PassBefore(left.id, id); });
  return found == root.passes.end() || found->id != pass ? nullptr : &*found;
}

PassId StepTracker::AddPass(Root& root, ThreadId thread, uint32_t lane, PassState state) {
  if (root.passes.size() >= kMaxOpenPasses) {
    const auto oldest = std::find_if(root.passes.begin(), root.passes.end(),
                                     [](const Pass& pass) { return pass.state == PassState::kOpen; });
    if (oldest != root.passes.end()) root.passes.erase(oldest);
  }
  const PassId pass = std::exchange(root.next_pass, shm::NextPass(root.next_pass));
  const auto owner = threads_.find(thread);
  const size_t index = static_cast<size_t>(&root - roots_.data());
  const ThreadPart* const part = owner == threads_.end() ? nullptr : owner->second.parts[index].get();
  root.passes.push_back({pass, thread, lane, state, false, part != nullptr && part->evaluating, root.lanes[lane].step});
  return pass;
}

void StepTracker::DropPass(Root& root, PassId pass, bool only_if_gone) {
  Pass* const found = FindPass(root, pass);
  if (found == nullptr) return;
  if (only_if_gone && !found->gone) {
    found->state = PassState::kOpen;
    return;
  }
  const auto at = std::lower_bound(root.passes.begin(), root.passes.end(), pass,
                                   [](const Pass& left, PassId id) { return shm::PassBefore(left.id, id); });
  root.passes.erase(at);
}

PassId StepTracker::RecordPass(int root, ThreadId thread, uint32_t lane) {
  std::lock_guard lock(mutex_);
  return AddPass(At(root), thread, lane, PassState::kOpen);
}

PassId StepTracker::NextPass(int root) {
  std::lock_guard lock(mutex_);
  return AddPass(At(root), 0, 0, PassState::kNamed);
}

bool StepTracker::Knows(int root, PassId pass) const {
  std::lock_guard lock(mutex_);
  return FindPass(At(root), pass) != nullptr;
}

void StepTracker::PassGone(int root, PassId pass) {
  std::lock_guard lock(mutex_);
  Pass* const found = FindPass(At(root), pass);
  if (found == nullptr) return;
  found->gone = true;
  if (found->state == PassState::kOpen) DropPass(At(root), pass, true);
}

void StepTracker::PassesTold(int root, const std::vector<PassId>& passes) {
  std::lock_guard lock(mutex_);
  for (const PassId pass : passes) DropPass(At(root), pass, false);
}

PassId StepTracker::LowestOpen(int root) const {
  std::lock_guard lock(mutex_);
  return At(root).passes.empty() ? At(root).next_pass : At(root).passes.front().id;
}

// ---------------------------------------------------------------------------------------------------------------
// Events

StepTracker::PassBegun StepTracker::BeginPass(int root_index, ThreadId thread, const PassOptions& options) {
  std::lock_guard lock(mutex_);
  Root& root = At(root_index);
  PassBegun begun;
  begun.lane = LaneFor(root_index, thread);
  ThreadPart& part = PartOf(root_index, thread);
  part.runs_passes = part.heard = root.heard = true;
  part.evaluating = options.evaluating;
  for (size_t i = 0; i < root.lanes.size(); ++i) {
    Lane& lane = root.lanes[i];
    // Also what this thread wrote before it had a lane of its own.
    if (i == begun.lane || lane.closing_writer == thread || (i != 0 && lane.used && lane.owner == 0)) {
      TakeClosing(root_index, static_cast<uint32_t>(i), thread, &begun.to_close);
    }
  }
  Lane& lane = root.lanes[begun.lane];
  if (lane.open) {
    const bool waits = std::any_of(lane.walks.begin(), lane.walks.end(), [](const Walk& walk) { return walk.ended; });
    const bool bounded = lane.walks.size() >= kMaxAccumulated && options.now_ns - lane.opened_ns >= kMaxAccumulationNs;
    if (waits && ((options.moved && !root.manual) || bounded)) {
      begun.ended = End(root_index, begun.lane, StepEndCause::kInferred, 0, kNoTask);
    }
  }
  Lane& joined = root.lanes[begun.lane];
  joined.written_without_hooks = false;
  begun.opened = Open(root_index, begun.lane, thread, options.now_ns);
  joined.written &= !begun.opened;
  begun.step = joined.step;
  ++(options.evaluating ? joined.evaluated : joined.trained);
  ++joined.fresh;
  if (options.recorded) begun.pass = AddPass(root, thread, begun.lane, PassState::kOpen);
  return begun;
}

// The backward pass that this one runs within, as checkpointing does; itself where there is none.
TaskId StepTracker::Outermost(ThreadId thread, TaskId task) {
  std::vector<TaskId>& tasks = threads_[thread].tasks;
  if (std::find(tasks.begin(), tasks.end(), task) == tasks.end()) tasks.push_back(task);
  return tasks.front();
}

StepTracker::Walk& StepTracker::WalkIn(Lane& lane, ThreadId thread, TaskId task) {
  for (Walk& walk : lane.walks) {
    if (walk.task == task) return walk;
  }
  Walk& walk = lane.walks.emplace_back();
  walk.task = task;
  walk.thread = thread;
  return walk;
}

PassId StepTracker::Walked(int root_index, ThreadId thread, PassId pass, TaskId task, bool numbered) {
  std::lock_guard lock(mutex_);
  Root& root = At(root_index);
  const TaskId outermost = Outermost(thread, task);
  Pass* const found = FindPass(root, pass);
  root.without_backward = 0;
  if (found == nullptr || found->state == PassState::kNamed) return 0;  // of a step that has ended
  found->state = PassState::kWalked;
  // Its thread may have got a lane of its own since it began, and the gradients of its last layers came first.
  for (size_t i = 0; i < root.lanes.size() && found->thread == thread; ++i) {
    for (const Walk& walk : root.lanes[i].walks) {
      if (walk.task == outermost) found->lane = static_cast<uint32_t>(i);
    }
  }
  const uint32_t lane = found->lane;
  Walk& walk = WalkIn(root.lanes[lane], thread, outermost);
  walk.after_clear |= root.lanes[lane].cleared && !walk.accumulated;
  auto walked =
      std::find_if(walk.passes.begin(), walk.passes.end(), [&](const WalkedPass& other) { return other.pass == pass; });
  if (walked == walk.passes.end()) walked = walk.passes.insert(walk.passes.end(), {pass, 0});
  if (numbered && walked->number == 0) {
    const bool evaluating = found->evaluating;
    walked->number = AddPass(root, thread, lane, PassState::kWalked);
    root.passes.back().evaluating = evaluating;  // the pass's, whichever thread walks it
  }
  return walked->number;
}

StepTracker::GradientCame StepTracker::Gradient(int root_index, ThreadId thread, TaskId task,
                                                const GradientOptions& options) {
  std::lock_guard lock(mutex_);
  Root& root = At(root_index);
  const TaskId outermost = Outermost(thread, task);
  GradientCame came;
  came.lane = UINT32_MAX;
  for (size_t i = 0; i < root.lanes.size(); ++i) {
    for (const Walk& walk : root.lanes[i].walks) {
      if (walk.task == outermost) came.lane = static_cast<uint32_t>(i);
    }
  }
  // Of a pass that was not heard.
  if (came.lane == UINT32_MAX) came.lane = LaneFor(root_index, thread);
  Lane& lane = root.lanes[came.lane];
  root.accumulates = true;
  if (WalkIn(lane, thread, outermost).accumulated) {
    came.step = lane.step;
    return came;
  }
  size_t before = 0;
  bool all_claimed = true;
  // Threads that train side by side clear each other's gradients, which says nothing of a step. Where one writes for
  // all, or passes and backward run on threads apart, it does.
  bool says = true;
  const bool apart = root.writer_apart || !PartOf(root_index, thread).runs_passes;
  for (const Walk& walk : lane.walks) {
    if (!walk.accumulated) continue;
    ++before;
    all_claimed &= walk.claimed || (walk.of_evaluation && root.training_trains);
    says &= walk.thread == thread || (walk.ended && apart);
  }
  if (root.manual && options.moved) {
    for (Walk& walk : lane.walks) walk.used |= walk.accumulated;
  }
  const bool cleared = options.state == GradientState::kCleared && says;
  const bool bounded = before >= kMaxAccumulated && options.now_ns - lane.opened_ns >= kMaxAccumulationNs;
  if (before != 0 && cleared && root.manual) {
    // An optimizer that evaluates several times moves the weights in between. Where they stand, the loop has thrown the
    // gradients away; those that moved them before are still the step's.
    came.forgotten = Forget(root, lane, outermost);
    lane.cleared = Accumulated(lane);
  }
  if (before != 0 && all_claimed && (bounded || (cleared && !root.manual))) {
    Forget(root, lane, outermost);
  } else if (before != 0 && (bounded || (cleared && !root.manual))) {
    const bool skipped = cleared && !options.moved && !root.manual;
    TakeClosing(root_index, came.lane, thread, &came.to_close);
    came.ended = End(root_index, came.lane, skipped ? StepEndCause::kSkipped : StepEndCause::kInferred, 0, outermost);
  }
  Lane& joined = root.lanes[came.lane];
  Walk& walk = WalkIn(joined, thread, outermost);
  walk.accumulated = true;
  walk.after_clear = joined.cleared;
  joined.fresh = 0;
  came.opened = Open(root_index, came.lane, thread, options.now_ns);
  joined.written &= !came.opened;
  came.step = joined.step;
  return came;
}

StepTracker::GradientCame StepTracker::GradientsUsed(int root_index, TaskId task) {
  std::lock_guard lock(mutex_);
  Root& root = At(root_index);
  GradientCame came;
  for (size_t i = 0; i < root.lanes.size() && !root.manual && !came.ended; ++i) {
    Lane& lane = root.lanes[i];
    const auto used = std::find_if(lane.walks.begin(), lane.walks.end(), [&](const Walk& walk) {
      return walk.task == task && walk.accumulated && walk.ended && !walk.of_evaluation;
    });
    if (used == lane.walks.end()) continue;
    TakeClosing(root_index, static_cast<uint32_t>(i), used->thread, &came.to_close);
    came.ended = End(root_index, static_cast<uint32_t>(i), StepEndCause::kInferred, 0, kNoTask);
  }
  return came;
}

bool StepTracker::EndBackward(ThreadId thread, TaskId task) {
  std::lock_guard lock(mutex_);
  for (auto& [id, other] : threads_) std::erase(other.tasks, task);
  for (size_t r = 0; r < roots_.size(); ++r) {
    Root& root = roots_[r];
    for (Lane& lane : root.lanes) {
      for (Walk& walk : lane.walks) {
        if (walk.task != task) continue;
        walk.ended = true;
        walk.of_evaluation = walk.passes.empty() && std::find(root.evaluation_walked.begin(), root.evaluation_walked.end(),
                                                              task) != root.evaluation_walked.end();
        if (!walk.accumulated) continue;
        const auto found = threads_.find(thread);
        ThreadPart* part = found == threads_.end() ? nullptr : found->second.parts[r].get();
        if (part == nullptr || part->unit_calls == 0) continue;
        const uint32_t calls = std::exchange(part->unit_calls, 0);
        if (root.ended != 0 && !lane.due) continue;  // some may not have been heard
        root.unit_varies = root.unit != 0 && root.unit != calls;
        root.unit = calls;
      }
    }
  }
  const auto found = threads_.find(thread);
  return found == threads_.end() || found->second.tasks.empty();
}

bool StepTracker::Pending(int root) const {
  std::lock_guard lock(mutex_);
  const auto& lanes = At(root).lanes;
  return std::any_of(lanes.begin(), lanes.end(), [](const Lane& lane) { return Accumulated(lane); });
}

// Whose step a write of this thread ends: its own, else everybody's, else the only other that waits for one.
std::optional<uint32_t> StepTracker::LaneToEnd(int root_index, ThreadId thread, bool arithmetic, int parameter,
                                               bool new_gradient) {
  Root& root = At(root_index);
  const ThreadPart* part = FindPart(root_index, thread);
  const uint32_t own = part == nullptr ? 0 : part->lane;
  if (own != 0 && Accumulated(root.lanes[own])) return own;
  // Others' backward may be under way in the shared lane: a step is made of what has ended, or is the writer's. A round
  // of writes that goes on has ended its step, and is for nothing that ends meanwhile.
  const bool writing = part != nullptr && part->writing;
  const bool goes_on = writing && parameter != part->round_first;
  const bool may_go_on = writing && part->last_written == part->round_first;
  const auto& walks = root.lanes[0].walks;
  if (std::any_of(walks.begin(), walks.end(), [&](const Walk& walk) {
        if (!walk.accumulated) return false;
        return walk.thread == thread || (walk.ended && !goes_on && !(may_go_on && walk.amid == thread));
      })) {
    return 0;
  }
  // Its own backward was part of the step that another thread's write has ended: the number of writes is kept right.
  if (part != nullptr && part->robbed && arithmetic) return own;
  std::optional<uint32_t> only;
  size_t waiting = 0;
  for (size_t i = 1; i < root.lanes.size(); ++i) {
    if (i == own || !Accumulated(root.lanes[i])) continue;
    only = static_cast<uint32_t>(i);
    ++waiting;
  }
  if (waiting == 1 && !root.side_by_side) {
    MergeIntoShared(root_index, *only);
    return 0;
  }
  if (waiting != 0) {
    for (auto& [id, other] : threads_) {
      ThreadPart* of = other.parts[static_cast<size_t>(root_index)].get();
      if (id != thread && of != nullptr && of->lane != 0 && Accumulated(root.lanes[of->lane])) of->doubted = true;
    }
    return std::nullopt;
  }
  // A loop that puts its gradients where they belong by itself.
  for (const uint32_t index : {own, 0u}) {
    Lane& lane = root.lanes[index];
    const bool walked =
        std::any_of(lane.walks.begin(), lane.walks.end(), [](const Walk& walk) { return walk.ended; });
    if (!arithmetic || !walked) continue;
    if (!std::exchange(lane.written_without_hooks, true) && ++root.without_hooks >= kWithoutHooks) {
      root.accumulates = false;
    }
    if (!root.accumulates) return index;
  }
  // One whose gradients are made elsewhere: those of replicas, averaged or handed over.
  const bool begins = root.without_backward == 0 || parameter == root.without_backward_first;
  if (arithmetic && new_gradient && begins && !root.accumulates) {
    root.without_backward_first = parameter;
    if (++root.without_backward >= kWithoutHooks) return own;
  }
  return std::nullopt;
}

StepTracker::WriteSeen StepTracker::Written(int root_index, ThreadId thread, WriteKind kind, bool has_gradient,
                                            int parameter, bool new_gradient) {
  std::lock_guard lock(mutex_);
  Root& root = At(root_index);
  WriteSeen seen;
  const bool optimizer = kind == WriteKind::kArithmetic && has_gradient;
  // Arithmetic on a parameter with a gradient is an optimizer; an assignment is one only in a loop that has no other.
  const bool counts = !root.manual && (optimizer || (kind == WriteKind::kAssign && !root.arithmetic));
  std::optional<uint32_t> ending =
      counts ? LaneToEnd(root_index, thread, optimizer, parameter, new_gradient) : std::nullopt;
  root.arithmetic |= optimizer;
  if (ending) {
    const uint32_t shared = *ending;
    ending = SplitUnheard(root_index, shared, thread);
    seen.unheard = *ending != shared;
    seen.lane = *ending;
    Lane& lane = root.lanes[*ending];
    // The step that closes here may be another thread's, which is in the midst of its writes: so is this one's.
    const ThreadPart* const writer =
        lane.closing && lane.closing_writer != thread ? FindPart(root_index, lane.closing_writer) : nullptr;
    const bool amid = writer != nullptr && writer->writing;
    lane.closing_spanned |= amid;
    TakeClosing(root_index, *ending, thread, &seen.to_close);
    Open(root_index, *ending, thread, 0);
    seen.ended = End(root_index, *ending, StepEndCause::kWritten, thread, kNoTask);
    root.lanes[*ending].closing_doubtful = kind == WriteKind::kAssign;
    root.lanes[*ending].closing_spanned |= amid;
    ThreadPart& part = PartOf(root_index, thread);
    part.round_first = part.last_written = parameter;
    return seen;
  }
  ThreadPart* const part = FindPart(root_index, thread);
  if (part != nullptr) part->last_written = parameter;
  seen.lane = part == nullptr ? 0 : part->lane;
  root.lanes[seen.lane].written |= kind != WriteKind::kOther && !root.lanes[seen.lane].closing;
  for (const uint32_t lane : {seen.lane, 0u}) {
    if (!seen.closing && root.lanes[lane].closing) seen.closing = lane;
  }
  return seen;
}

StepTracker::WriteSeen StepTracker::Boundary(int root_index, ThreadId thread) {
  std::lock_guard lock(mutex_);
  Root& root = At(root_index);
  WriteSeen seen;
  const bool first = !std::exchange(root.manual, true);
  const ThreadPart* part = FindPart(root_index, thread);
  seen.lane = part == nullptr ? 0 : part->lane;
  Lane& lane = root.lanes[seen.lane];
  TakeClosing(root_index, seen.lane, thread, &seen.to_close);
  // The write of this very step may have ended it already, before anybody knew that Step() would come.
  if (first && !lane.open) return seen;
  Open(root_index, seen.lane, thread, 0);
  seen.ended = End(root_index, seen.lane, StepEndCause::kBoundary, thread, kNoTask);
  return seen;
}

bool StepTracker::TakeStep(int root_index, ThreadId thread, uint64_t step) {
  std::lock_guard lock(mutex_);
  Root& root = At(root_index);
  if (step < root.next_step) return false;
  root.next_step = step;
  return Open(root_index, LaneFor(root_index, thread), thread, 0);
}

std::vector<StepToClose> StepTracker::CloseSteps(int root_index, ThreadId thread, CloseAt at) {
  std::lock_guard lock(mutex_);
  Root& root = At(root_index);
  std::vector<StepToClose> to_close;
  for (uint32_t index = 0; index < root.lanes.size(); ++index) {
    Lane& lane = root.lanes[index];
    if (at != CloseAt::kAll) {
      // Another thread may be in the midst of its writes.
      if (lane.closing_writer != thread && threads_.count(lane.closing_writer) != 0) continue;
      if (lane.closing_late && at == CloseAt::kEvaluation) continue;
      // It may not have ended at all, while it is not known how this loop writes.
      if (lane.closing_doubtful && !root.arithmetic) continue;
    }
    if (!TakeClosing(root_index, index, thread, &to_close) || at != CloseAt::kEvaluation || lane.open) continue;
    if (root.late_looks++ >= kLearningSteps) continue;
    lane.late_write = true;
    root.late_batches = 0;
  }
  return to_close;
}

void StepTracker::HoldClosing(int root, uint32_t index, uint64_t step, bool late) {
  std::lock_guard lock(mutex_);
  Lane& lane = At(root).lanes[index];
  lane.closing_late = late;
  lane.used = lane.closing = true;
  lane.closing_step = step;
}

}  // namespace ikkuna::probe
