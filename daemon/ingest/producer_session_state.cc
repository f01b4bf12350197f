// What is shown and kept of a session.
#include "daemon/ingest/producer_session.h"

#include <algorithm>

#include "shared/base/clock.h"

namespace ikkuna::ingest {

Progress ProducerSession::CurrentProgress() {
  // What waits for late bytes was overtaken: it is not done, whatever the graph has seen.
  const uint64_t late_seq = drain_ ? drain_->first_late_seq() : UINT64_MAX;
  if (graph_) working_.done_seq = std::max(working_.done_seq, std::min(graph_->done_seq(), late_seq - 1));
  if (drain_) working_.read_seq = std::max(working_.read_seq, drain_->read_seq());
  const uint64_t steps = shm::StepsMade(numbers_.pub.status);
  Progress progress{working_.done_seq,
                    working_.lost_in_daemon,
                    working_.killed,
                    std::min(steps, kMaxStep),
                    std::min(Above(steps, numbers_.pub.status.steps_unwatched), kMaxStep),
                    std::max(working_.read_seq, working_.done_seq)};
  // Of what this session has read: what it has yet to read once more is known by what was told before.
  if (graph_ && drain_) progress.done_beyond = Above(drain_->read_seq(), progress.done_seq + graph_->held());
  std::map<std::string, uint64_t> observed = working_.steps_observed;
  for (const auto& [id, name] : names_.roots()) {
    if (graph_ && id >= 1 && id <= kMaxRoots) observed[name] += graph_->steps_observed(id);
  }
  progress.steps_observed.assign(observed.begin(), observed.end());
  std::map<std::string, uint64_t> missing = working_.missing;
  for (const Count& count : Missing()) missing[count.reason] += count.count;
  progress.missing.assign(missing.begin(), missing.end());
  return progress;
}

// Of this session; what the one before had counted is not in it.
std::vector<Count> ProducerSession::Missing() const {
  std::vector<Count> missing;
  if (graph_) missing = graph_->Missing();
  if (drain_ && drain_->voids() != 0) missing.push_back({"void", drain_->voids()});
  if (drain_ && drain_->unready() != 0) missing.push_back({"unready", drain_->unready()});
  if (drain_ && drain_->crowded() != 0) missing.push_back({"crowded", drain_->crowded()});
  return missing;
}

void ProducerSession::AddNote(const std::string& note) {
  std::lock_guard lock(mutex_);
  own_notes_.push_back(note);
}

void ProducerSession::Snapshot() {
  TakeNumbers();
  ShowState(StateNow());
}

void ProducerSession::ShowState(RunState state) {
  std::lock_guard lock(mutex_);
  state_ = state;
}

// `handled` is taken before the producer's counters, so that no record is handled that they do not count.
void ProducerSession::TakeNumbers() {
  if (!graph_ || !drain_) return;  // it failed before it had them: there is nothing to number
  working_.handled = handled_before_ + drain_->handled();
  std::lock_guard lock(mutex_);
  numbers_.ledger = working_;
  numbers_.missing = Missing();
  if (!quarantined()) {
    numbers_.pub = view_->ReadStatus();
  } else if (!numbers_.closed) {
    // Records were handled since it was last asked: once more, if its answer makes sense, and never again.
    numbers_.closed = true;
    const shm::StatusSnapshot last = view_->ReadStatus();
    const bool sound = Follows(last.status, numbers_.pub.status, drain_->position(), view_->header().ring_slots);
    if (sound) numbers_.pub = last;
  }
  numbers_.ring_position = drain_->position();
  numbers_.arena_position = view_->arena_position();
  numbers_.now_ns = MonotonicNs();
  for (const auto& [id, name] : names_.roots()) {
    if (id < 1 || id > kMaxRoots) continue;
    const uint64_t observed = numbers_.steps_observed[id - 1u] = graph_->steps_observed(id);
    // Its own word of that may be missing: what we saw, it made.
    shm::RootStatus& root = numbers_.pub.status.roots[id - 1u];
    if (numbers_.closed && observed > 0 && root.step < root.start_step + observed) root.step = root.start_step + observed;
  }
  meter_.Update(numbers_.pub.status, numbers_.now_ns);
}

RunState ProducerSession::StateNow() const {
  if (quarantined()) return RunState::kQuarantined;
  const auto said = static_cast<shm::ProducerState>(numbers_.pub.status.state);
  if (said == shm::ProducerState::kSwitchedOff) return RunState::kSwitchedOff;
  if (end_ == End::kDied || end_ == End::kClosed) {
    return said == shm::ProducerState::kFinished ? RunState::kFinished : RunState::kDied;
  }
  return socket_closed_ || end_ == End::kStop || end_ == End::kReplaced || end_ == End::kFailed
             ? RunState::kDisconnected
             : RunState::kRunning;
}

void ProducerSession::SaveSometimes() {
  const uint64_t now = MonotonicNs();
  if (now - saved_ns_ < kSaveNs) return;
  const bool moved = numbers_.pub.status.attempted != saved_attempted_ || working_.handled != saved_handled_ ||
                     numbers_.pub.status.steps_timed != saved_steps_ || names_.modules_version() != modules_saved_ ||
                     state_ != saved_state_;
  if (moved) SaveNow(state_);
}

void ProducerSession::SaveNow(RunState state) {
  saved_ns_ = MonotonicNs();
  saved_attempted_ = numbers_.pub.status.attempted;
  saved_handled_ = working_.handled;
  saved_steps_ = numbers_.pub.status.steps_timed;
  saved_state_ = state;
  ProducerStatus saved = status();
  saved.state = state;
  context_.store->SaveProducer(saved);
  if (names_.modules_version() != modules_saved_) {
    modules_saved_ = names_.modules_version();
    context_.store->SaveModules(run_->key(), Modules());
  }
}

}  // namespace ikkuna::ingest
