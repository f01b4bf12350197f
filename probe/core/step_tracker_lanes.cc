// StepTracker: the lanes of a root, and how a lane's step ends.
#include <algorithm>
#include <utility>

#include "probe/core/step_tracker.h"
#include "shared/passes.h"

namespace ikkuna::probe {

bool StepTracker::Accumulated(const Lane& lane) {
  return std::any_of(lane.walks.begin(), lane.walks.end(), [](const Walk& walk) { return walk.accumulated; });
}

// Whether another thread writes for itself in this root; `now`: and may be in the midst of it.
bool StepTracker::OthersWriteLocked(int root, ThreadId thread, bool now) const {
  for (const auto& [id, other] : threads_) {
    const ThreadPart* part = other.parts[static_cast<size_t>(root)].get();
    if (id != thread && part != nullptr && part->writes_itself && (part->writing || !now)) return true;
  }
  return false;
}

// The lane that a pass or a backward pass of this thread joins.
uint32_t StepTracker::LaneFor(int root_index, ThreadId thread) {
  Root& root = At(root_index);
  ThreadPart& part = PartOf(root_index, thread);
  // It goes on without having written for what it did before: another thread writes for it.
  if (part.robbed || part.doubted) {
    part.writes_itself = false;
    if (part.lane != 0) MergeIntoShared(root_index, part.lane);
    part.lane = 0;
  }
  part.robbed = part.left = part.doubted = part.writing = false;
  part.active = true;
  if (part.lane != 0 || !root.side_by_side || !part.writes_itself) return part.lane;
  if (!OthersWriteLocked(root_index, thread, false)) return part.lane;
  // What its backward has made in everybody's lane is one step with what it does now.
  for (const Walk& walk : root.lanes[0].walks) {
    if (walk.thread == thread) return part.lane;
  }
  part.lane = LaneOfItsOwn(root, thread);
  // What it has begun before and not walked yet comes with it.
  for (Pass& pass : root.passes) {
    if (pass.thread != thread || pass.lane != 0 || pass.state != PassState::kOpen) continue;
    pass.lane = part.lane;
    pass.step = UINT64_MAX;  // numbers of other lanes say nothing there
  }
  return part.lane;
}

uint32_t StepTracker::LaneOfItsOwn(Root& root, ThreadId thread) {
  size_t free = 1;
  while (free < root.lanes.size() && root.lanes[free].used) ++free;
  if (free == root.lanes.size()) root.lanes.emplace_back();
  root.lanes[free] = {};
  root.lanes[free].used = true;
  root.lanes[free].owner = thread;
  return static_cast<uint32_t>(free);
}

// A thread whose pass was not heard writes while another's backward is under way in the lane: the step that is open
// there is the other's, and this write's is one of its own.
uint32_t StepTracker::SplitUnheard(int root_index, uint32_t index, ThreadId writer) {
  Root& root = At(root_index);
  if (const ThreadPart* part = FindPart(root_index, writer); part != nullptr && part->heard) return index;
  bool others = false;
  for (const Walk& walk : root.lanes[index].walks) {
    if (walk.thread != writer && !walk.ended) others = true;
    if ((walk.thread == writer || walk.ended) && (walk.thread != writer || !walk.passes.empty())) return index;
  }
  if (!others) return index;
  const uint32_t own = LaneOfItsOwn(root, 0);
  auto& walks = root.lanes[index].walks;
  for (auto walk = walks.begin(); walk != walks.end();) {
    if (walk->thread != writer) {
      ++walk;
      continue;
    }
    root.lanes[own].walks.push_back(std::move(*walk));
    walk = walks.erase(walk);
  }
  return own;
}

// What the lane holds becomes everybody's. An update that is open stays with it until somebody closes it.
void StepTracker::MergeIntoShared(int root_index, uint32_t index) {
  Root& root = At(root_index);
  Lane& lane = root.lanes[index];
  Lane& shared = root.lanes[0];
  if (lane.open && !shared.open) {
    shared.open = true;
    shared.step = lane.step;
    shared.opened_ns = lane.opened_ns;
    shared.writes_at_open = lane.writes_at_open;
    shared.others_wrote_at_open = lane.others_wrote_at_open;
    shared.due |= lane.due;
  }
  shared.trained += lane.trained;
  shared.evaluated += lane.evaluated;
  for (Walk& walk : lane.walks) shared.walks.push_back(std::move(walk));
  for (Pass& pass : root.passes) {
    if (pass.lane != index) continue;
    pass.lane = 0;
    pass.step = UINT64_MAX;  // numbers of other lanes say nothing there
  }
  lane.walks.clear();
  lane.open = lane.due = false;
  lane.owner = 0;
  lane.used = lane.closing;
}

// True: it had no number until now.
bool StepTracker::Open(int root_index, uint32_t index, ThreadId thread, uint64_t now_ns) {
  Root& root = At(root_index);
  Lane& lane = root.lanes[index];
  if (lane.open) return false;
  lane.open = true;
  lane.late_write = false;
  lane.step = root.next_step++;
  lane.opened_ns = now_ns;
  lane.writes_at_open = root.writes;
  lane.others_wrote_at_open = root.side_by_side && OthersWriteLocked(root_index, thread, true);
  return true;
}

bool StepTracker::TakeClosing(int root_index, uint32_t index, ThreadId closer, std::vector<StepToClose>* to_close) {
  const Root& root = At(root_index);
  Lane& lane = At(root_index).lanes[index];
  if (!lane.closing) return false;
  lane.closing = false;
  const ThreadPart* const writer = lane.closing_writer == closer ? nullptr : FindPart(root_index, lane.closing_writer);
  to_close->push_back({index, lane.closing_step, lane.closing_spanned || root.writes != lane.closing_writes,
                       writer != nullptr && writer->writing});
  if (index != 0 && lane.owner == 0) lane.used = false;
  return true;
}

// Walks that were for nothing: their passes belong to no step. True: some had given gradients.
bool StepTracker::Forget(Root& root, Lane& lane, TaskId except) {
  bool any = false;
  for (auto walk = lane.walks.begin(); walk != lane.walks.end();) {
    if (walk->task == except || walk->used) {
      ++walk;
      continue;
    }
    for (const WalkedPass& pass : walk->passes) {
      DropPass(root, pass.pass, false);
      DropPass(root, pass.number, false);
    }
    any |= walk->accumulated;
    walk = lane.walks.erase(walk);
  }
  return any;
}

void StepTracker::Claim(int root_index, TaskId task) {
  for (Lane& lane : At(root_index).lanes) {
    for (Walk& walk : lane.walks) walk.claimed |= walk.task == task;
  }
}

// Threads whose backward the step takes over, or whose pass it leaves behind.
void StepTracker::NoteOtherThreads(int root_index, const Lane& lane, ThreadId writer) {
  const auto index = static_cast<uint32_t>(&lane - At(root_index).lanes.data());
  for (auto& [id, other] : threads_) {
    ThreadPart* part = other.parts[static_cast<size_t>(root_index)].get();
    if (id == writer || part == nullptr || part->lane != index || !part->active) continue;
    bool ended = false;
    bool under_way = false;
    for (const Walk& walk : lane.walks) {
      if (walk.thread == id && walk.accumulated) (walk.ended ? ended : under_way) = true;
    }
    part->robbed |= ended && !under_way;
    part->left |= under_way || !ended;
    part->active = !part->robbed;
  }
}

// The lane's step is over. What of it is still under way (a pass that no backward has reached, another thread's
// backward) stays for the next; so does the backward pass `except`, whose first gradient ended the step.
StepEnd StepTracker::End(int root_index, uint32_t index, StepEndCause cause, ThreadId writer, TaskId except) {
  Root& root = At(root_index);
  Lane& lane = root.lanes[index];
  StepEnd end;
  end.step = lane.step;
  end.lane = index;
  end.cause = cause;
  const bool written = cause == StepEndCause::kWritten || cause == StepEndCause::kBoundary;
  if (written && writer != 0) NoteOtherThreads(root_index, lane, writer);
  // Gradients that came make the step; a backward pass that gave none (of a penalty, a saliency) is not one of them,
  // unless this loop never gets its gradients by hooks.
  bool any_accumulated = false;
  bool under_evaluation = false;
  for (const Walk& walk : lane.walks) {
    any_accumulated |= walk.accumulated && walk.task != except;
    under_evaluation |= walk.of_evaluation;
  }
  const auto ends_with = [&](const Walk& walk) {
    return walk.task != except && (walk.ended || walk.thread == writer || !written);
  };
  const auto counts = [&](const Walk& walk) {
    return (walk.accumulated || !any_accumulated) && !walk.after_clear;
  };
  std::vector<WalkedPass> named;
  const auto same = [&](PassId pass) {
    return std::find_if(named.begin(), named.end(), [&](const WalkedPass& other) { return other.pass == pass; });
  };
  for (const Walk& walk : lane.walks) {
    if (!ends_with(walk) || !counts(walk)) continue;
    for (const WalkedPass& walked : walk.passes) {
      if (const auto before = same(walked.pass); before == named.end()) {
        named.push_back(walked);
      } else {  // the last walk before the write counts
        DropPass(root, std::exchange(before->number, walked.number), false);
      }
    }
  }
  for (const Walk& walk : lane.walks) {
    if (!ends_with(walk) || counts(walk)) continue;
    for (const WalkedPass& walked : walk.passes) {
      DropPass(root, walked.number, false);
      if (same(walked.pass) == named.end()) DropPass(root, walked.pass, true);
    }
  }
  bool ahead = false;
  bool trained = lane.trained != 0;
  bool evaluated = lane.evaluated != 0;
  for (const WalkedPass& walked : named) {
    for (const PassId pass : {walked.pass, walked.number}) {
      Pass* const found = FindPass(root, pass);
      if (found == nullptr) continue;
      ahead |= pass == walked.pass && found->thread == writer && found->step < lane.step;
      found->state = PassState::kNamed;
      (found->evaluating ? evaluated : trained) = true;
      end.passes.push_back(pass);
    }
  }
  end.runs_ahead = (root.runs_ahead || ahead) && !root.side_by_side;
  if (!named.empty()) root.runs_ahead = ahead;
  end.written = cause == StepEndCause::kWritten || lane.written;
  // One that rested was not listened to when its first pass began; what went out as an evaluation is under that tag.
  end.unheard = (root.heard || root.resting || under_evaluation) && named.empty() && any_accumulated &&
                lane.trained + lane.evaluated == 0;
  end.handed_on = !written && except != kNoTask && lane.fresh != 0;
  if (!written) {  // what has begun since is of the step that comes, and did not begin ahead of it
    for (Pass& pass : root.passes) {
      if (pass.lane == index && pass.state != PassState::kNamed) pass.step = UINT64_MAX;
    }
  }
  std::sort(end.passes.begin(), end.passes.end(), shm::PassBefore);
  bool own_backward = false;
  bool of_evaluation = false;
  std::vector<TaskId> tasks;
  for (auto walk = lane.walks.begin(); walk != lane.walks.end();) {
    if (!ends_with(*walk)) {
      ++walk;
      continue;
    }
    own_backward |= walk->thread == writer;
    of_evaluation |= walk->of_evaluation;
    if (walk->accumulated) tasks.push_back(walk->task);
    walk = lane.walks.erase(walk);
  }
  if (written) {
    ++root.writes;
    for (Lane& other : root.lanes) {
      for (Walk& walk : other.walks) walk.amid = writer;
    }
    for (size_t other = 0; other < roots_.size(); ++other) {
      if (static_cast<int>(other) == root_index) continue;
      for (const TaskId task : tasks) Claim(static_cast<int>(other), task);
    }
    // What the passes of this step were says whether evaluation mode is how this root trains.
    if (trained) {
      root.evaluation_trains = false;
      root.training_trains = true;
    } else if (evaluated || of_evaluation) {
      root.evaluation_trains = true;
      root.training_trains = false;
    }
    if (cause == StepEndCause::kWritten) root.seen = true;
    root.inferred = root.skipped = 0;
    if (!tasks.empty()) root.without_hooks = 0;
    if (writer != 0) {
      ThreadPart& part = PartOf(root_index, writer);
      if (part.robbed || part.left) root.side_by_side = true;
      if (!tasks.empty()) root.writer_apart = !own_backward && !part.robbed && !root.side_by_side;
      part.writes_itself |= own_backward || part.robbed || part.left;
      part.robbed = part.left = part.doubted = part.active = part.heard = false;
      part.writing = true;
    }
  } else if (cause == StepEndCause::kInferred) {
    ++root.inferred;
  } else {
    ++root.skipped;
  }
  std::erase_if(root.evaluation_walked, [&](TaskId task) {
    return std::none_of(threads_.begin(), threads_.end(), [&](const auto& thread) {
      const auto& under_way = thread.second.tasks;
      return std::find(under_way.begin(), under_way.end(), task) != under_way.end();
    });
  });
  lane.closing_spanned = lane.others_wrote_at_open || root.writes != lane.writes_at_open + (written ? 1 : 0);
  lane.closing_writer = writer;
  lane.closing_writes = root.writes;
  lane.closing_doubtful = false;
  lane.open = lane.due = lane.cleared = lane.written = false;
  lane.trained = lane.evaluated = 0;
  if (index != 0 && lane.owner == 0 && lane.walks.empty()) lane.used = false;
  ++root.ended;
  root.others_ended = 0;
  root.resting = false;
  for (size_t other = 0; other < roots_.size(); ++other) {
    Root& of = roots_[other];
    if (static_cast<int>(other) == root_index || ++of.others_ended < kStepsOfOthers) continue;
    end.others_rest |= !std::exchange(of.resting, true);
  }
  if (Accumulated(lane)) Open(root_index, index, writer, lane.opened_ns);
  return end;
}

}  // namespace ikkuna::probe
