// StepTracker: evaluation batches, what is known of a root, and whether operators have to be heard for it.
#include "probe/core/step_tracker.h"

#include <algorithm>

namespace ikkuna::probe {

// ---------------------------------------------------------------------------------------------------------------
// Evaluation

void StepTracker::EvaluationWalked(int root_index, ThreadId thread, TaskId task) {
  std::lock_guard lock(mutex_);
  constexpr size_t kKept = 64;
  std::vector<TaskId>& walked = At(root_index).evaluation_walked;
  const TaskId outermost = Outermost(thread, task);
  if (std::find(walked.begin(), walked.end(), outermost) != walked.end()) return;
  if (walked.size() >= kKept) walked.erase(walked.begin());
  walked.push_back(outermost);
}

bool StepTracker::EvaluationLayer(int root_index, ThreadId thread, int module, bool opened, bool continues) {
  std::lock_guard lock(mutex_);
  Root& root = At(root_index);
  ThreadPart& part = PartOf(root_index, thread);
  part.writing = false;
  if (opened) {
    part.evaluation_first = module;
    part.evaluation_calls = 0;
  } else if (module != part.evaluation_first) {
    return false;
  }
  const uint32_t unit = root.unit == 0 || root.unit_varies ? 1 : root.unit;
  const bool begins = !continues && (part.evaluation_calls == 0 || part.evaluation_calls >= unit);
  if (begins) part.evaluation_calls = 0;
  ++part.evaluation_calls;
  // No loop evaluates for that long between the writes of one step.
  if (begins && ++root.late_batches > kListenAgain) {
    for (Lane& lane : root.lanes) lane.late_write = false;
  }
  return begins;
}

void StepTracker::FirstModuleCalled(int root, ThreadId thread) {
  std::lock_guard lock(mutex_);
  ++PartOf(root, thread).unit_calls;
}

// ---------------------------------------------------------------------------------------------------------------
// What is known

uint64_t StepTracker::NextStep(int root) const {
  std::lock_guard lock(mutex_);
  return At(root).next_step;
}

uint32_t StepTracker::LaneOf(int root, ThreadId thread) const {
  std::lock_guard lock(mutex_);
  const ThreadPart* part = FindPart(root, thread);
  return part == nullptr ? 0 : part->lane;
}

std::optional<uint64_t> StepTracker::OpenStep(int root, ThreadId thread) const {
  const uint32_t index = LaneOf(root, thread);
  std::lock_guard lock(mutex_);
  const Lane& lane = At(root).lanes[index];
  return lane.open ? std::optional(lane.step) : std::nullopt;
}

std::optional<uint64_t> StepTracker::OpenStepOf(int root, uint32_t index) const {
  std::lock_guard lock(mutex_);
  const Lane& lane = At(root).lanes[index];
  return lane.open ? std::optional(lane.step) : std::nullopt;
}

bool StepTracker::Accumulates(int root) const {
  std::lock_guard lock(mutex_);
  return At(root).accumulates;
}

bool StepTracker::Waits(int root, ThreadId thread) const {
  const uint32_t index = LaneOf(root, thread);
  std::lock_guard lock(mutex_);
  const Lane& lane = At(root).lanes[index];
  return std::any_of(lane.walks.begin(), lane.walks.end(),
                     [](const Walk& walk) { return walk.accumulated && !walk.claimed; });
}

bool StepTracker::LaneInUse(int root, uint32_t index) const {
  std::lock_guard lock(mutex_);
  return index < At(root).lanes.size() && At(root).lanes[index].used;
}

size_t StepTracker::ThreadsThatTrain(int root) const {
  std::lock_guard lock(mutex_);
  size_t count = 0;
  for (const auto& [id, thread] : threads_) {
    const ThreadPart* part = thread.parts[static_cast<size_t>(root)].get();
    count += part != nullptr && (part->active || part->writes_itself);
  }
  return count;
}

bool StepTracker::Learning(int root_index) const {
  std::lock_guard lock(mutex_);
  const Root& root = At(root_index);
  return root.ended < 1 || (root.ended < kLearningSteps && !root.arithmetic && !root.manual);
}

bool StepTracker::WeightsMayMove(int root) const {
  std::lock_guard lock(mutex_);
  const Root& of = At(root);
  return of.manual || !of.seen || of.side_by_side || of.inferred != 0 || of.skipped != 0;
}

uint64_t StepTracker::steps_ended(int root) const {
  std::lock_guard lock(mutex_);
  return At(root).ended;
}

bool StepTracker::manual(int root) const {
  std::lock_guard lock(mutex_);
  return At(root).manual;
}

bool StepTracker::writes_arithmetic(int root) const {
  std::lock_guard lock(mutex_);
  return At(root).arithmetic;
}

bool StepTracker::trains_in_evaluation(int root) const {
  std::lock_guard lock(mutex_);
  return At(root).evaluation_trains;
}

bool StepTracker::side_by_side(int root) const {
  std::lock_guard lock(mutex_);
  return At(root).side_by_side;
}

bool StepTracker::WatchesWeights(int root_index) const {
  std::lock_guard lock(mutex_);
  const Root& root = At(root_index);
  if (!root.manual && root.seen && root.skipped == 0) return false;
  return std::any_of(root.lanes.begin(), root.lanes.end(), [](const Lane& lane) { return !lane.walks.empty(); });
}

bool StepTracker::OthersWrite(int root, ThreadId thread) const {
  std::lock_guard lock(mutex_);
  return At(root).side_by_side && OthersWriteLocked(root, thread, true);
}

void StepTracker::SetDue(int root, uint32_t lane, bool due, bool next_due) {
  std::lock_guard lock(mutex_);
  At(root).lanes[lane].due = due && At(root).lanes[lane].open;
  At(root).next_due = next_due;
}

void StepTracker::SetWatching(int root, bool watching) {
  std::lock_guard lock(mutex_);
  At(root).watching = watching;
}

bool StepTracker::Watching(int root) const {
  std::lock_guard lock(mutex_);
  return At(root).watching;
}

void StepTracker::Rest(int root) {
  std::lock_guard lock(mutex_);
  if (At(root).ended == 0) At(root).resting = true;
}

void StepTracker::EndRest(int root) {
  std::lock_guard lock(mutex_);
  At(root).resting = false;
}

bool StepTracker::Resting(int root) const {
  std::lock_guard lock(mutex_);
  return At(root).resting;
}

bool StepTracker::Doze(int root_index, ThreadId thread) {
  std::lock_guard lock(mutex_);
  Root& root = At(root_index);
  const Lane& lane = root.lanes.front();
  const bool usual = root.arithmetic && !root.manual && root.inferred == 0 && root.skipped == 0;
  const bool alone = std::none_of(root.lanes.begin() + 1, root.lanes.end(), [](const Lane& other) { return other.used; }) &&
                     std::none_of(threads_.begin(), threads_.end(), [&](const auto& other) {
                       const ThreadPart* const part = other.second.parts[static_cast<size_t>(root_index)].get();
                       return other.first != thread && part != nullptr && (part->active || part->writes_itself);
                     });
  const bool waits = lane.open && !lane.walks.empty() &&
                     std::all_of(lane.walks.begin(), lane.walks.end(), [&](const Walk& walk) {
                       return walk.accumulated && walk.ended && walk.thread == thread && !walk.claimed;
                     });
  const bool wanted = lane.due || root.next_due || root.watching || lane.closing || lane.late_write;
  root.dozing = usual && alone && waits && !wanted;
  return root.dozing;
}

void StepTracker::Stir(int root) {
  std::lock_guard lock(mutex_);
  At(root).dozing = false;
}

bool StepTracker::Awake(int root_index) const {
  std::lock_guard lock(mutex_);
  const Root& root = At(root_index);
  if (root.dozing) return false;
  bool open = false;
  for (const Lane& lane : root.lanes) {
    if (!lane.used) continue;
    if (lane.closing && !root.resting) return true;
    if (lane.late_write && !root.resting) return true;
    open |= lane.open;
    if (lane.open && lane.due && !root.resting) return true;
    // Gradients that wait for their write. Where writes are not seen nobody waits; now and then one listens again.
    const bool waits = root.inferred == 0 || root.ended % kListenAgain == 0;
    for (const Walk& walk : lane.walks) {
      if (walk.accumulated && waits && !(walk.claimed && root.resting)) return true;
    }
  }
  // A step that ends as inferred stays open until the next gradient: an evaluation comes within it.
  if (root.watching && (!open || root.inferred != 0)) return true;
  if (root.resting) return false;
  if (root.next_due && (!open || root.inferred != 0 || root.side_by_side)) return true;
  if (root.ended != 0 && !root.accumulates && !root.manual) return true;  // only its passes are heard of
  return root.ended < 1 || (root.ended < kLearningSteps && !root.arithmetic && !root.manual);
}

}  // namespace ikkuna::probe
