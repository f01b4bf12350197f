// What leaves a session, and how it ends.
#include "daemon/ingest/producer_session.h"

#include <poll.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "shared/base/clock.h"

namespace ikkuna::ingest {

// Only the last batch may say how far the graph is: the results of those records may be in any of them.
void ProducerSession::OfferEmitted() {
  std::vector<Batch> batches = std::exchange(emitted_, {});
  const uint64_t before = working_.done_seq;
  working_.done_seq = std::max(before, graph_->done_seq());
  for (size_t i = 0; i < batches.size(); ++i) {
    Batch& batch = batches[i];
    const bool last = i + 1 == batches.size();
    batch.producer = info_working_;
    batch.progress = {uuid_, last ? working_.done_seq : before, working_.lost_in_daemon, working_.killed};
    auto shared = std::make_shared<const Batch>(std::move(batch));
    for (SampleSink* sink : context_.sinks) sink->Offer(shared);
  }
  progress_offered_seq_ = working_.done_seq;
  progress_offered_ns_ = MonotonicNs();
}

void ProducerSession::OfferProgress(bool even_if_unmoved) {
  if (!graph_) return;  // it failed before it had one
  working_.done_seq = std::max(working_.done_seq, graph_->done_seq());
  const uint64_t now = MonotonicNs();
  const bool moved = working_.done_seq != progress_offered_seq_ && now - progress_offered_ns_ >= kProgressNs;
  if (!moved && !even_if_unmoved) return;
  auto batch = std::make_shared<Batch>();
  batch->producer = info_working_;
  batch->progress = {uuid_, working_.done_seq, working_.lost_in_daemon, working_.killed};
  context_.store->Offer(std::move(batch));
  progress_offered_seq_ = working_.done_seq;
  progress_offered_ns_ = now;
}

void ProducerSession::OfferEvent(Severity severity, const std::string& kind, const std::string& text) {
  auto batch = std::make_shared<Batch>();
  batch->producer = info_working_;
  batch->progress = {uuid_, working_.done_seq, working_.lost_in_daemon, working_.killed};
  Event event;
  event.unix_ns = UnixNs();
  event.severity = severity;
  event.run = run_key_;
  event.kind = kind;
  event.text = text;
  batch->events.push_back(std::move(event));
  for (SampleSink* sink : context_.sinks) sink->Offer(batch);
}

void ProducerSession::Snapshot() {
  TakeNumbers();
  ShowState(StateText());
}

void ProducerSession::ShowState(const std::string& state) {
  std::lock_guard lock(mutex_);
  state_ = state;
}

// `handled` is taken before the producer's counters, so that no record is handled that they do not count.
void ProducerSession::TakeNumbers() {
  if (!graph_ || !drain_) return;  // it failed before it had them: there is nothing to number
  working_.handled = handled_before_ + drain_->handled();
  working_.incomplete_bundles = incomplete_before_ + graph_->counters().incomplete_bundles;
  std::lock_guard lock(mutex_);
  numbers_.ledger = working_;
  if (!quarantined()) numbers_.pub = view_->ReadStatus();
  numbers_.ring_position = drain_->position();
  numbers_.arena_position = view_->arena_position();
  numbers_.now_ns = MonotonicNs();
  for (const auto& [id, name] : names_.roots()) {
    if (id >= 1 && id <= kMaxRoots) numbers_.steps_observed[id - 1u] = graph_->steps_observed(id);
  }
  // Once more when the socket is found closed: the steps up to then were made with us there.
  if (!meter_ended_) meter_.Update(numbers_.pub.status, numbers_.now_ns);
  meter_ended_ = socket_closed_;
}

std::string ProducerSession::StateText() const {
  if (quarantined()) return "quarantined";
  const auto said = static_cast<shm::ProducerState>(numbers_.pub.status.state);
  if (said == shm::ProducerState::kSwitchedOff) return "switched_off";
  if (end_ == End::kDied || end_ == End::kClosed) {
    return said == shm::ProducerState::kFinished ? "finished" : "died";
  }
  return socket_closed_ || end_ == End::kStop || end_ == End::kReplaced ? "disconnected" : "running";
}

void ProducerSession::SaveSometimes() {
  const uint64_t now = MonotonicNs();
  if (now - saved_ns_ < kSaveNs) return;
  const bool moved = numbers_.pub.status.attempted != saved_attempted_ || working_.handled != saved_handled_ ||
                     numbers_.pub.status.steps_timed != saved_steps_ || names_.modules_version() != modules_saved_ ||
                     names_.facts_version() != facts_saved_ || state_ != saved_state_;
  if (moved) SaveNow(state_);
}

void ProducerSession::SaveNow(const std::string& state) {
  saved_ns_ = MonotonicNs();
  saved_attempted_ = numbers_.pub.status.attempted;
  saved_handled_ = working_.handled;
  saved_steps_ = numbers_.pub.status.steps_timed;
  saved_state_ = state;
  if (names_.facts_version() != facts_saved_) {
    facts_saved_ = names_.facts_version();
    context_.store->UpsertRun(*info_working_, state);
  }
  ProducerStatus saved = status();
  saved.state = state;
  context_.store->SaveProducer(saved);
  if (names_.modules_version() != modules_saved_) {
    modules_saved_ = names_.modules_version();
    context_.store->SaveModules(run_key_, Modules());
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Ends

void ProducerSession::Quarantine(const std::string& why) {
  if (quarantined()) return;
  quarantined_.store(true, std::memory_order_release);
  static_cast<void>(ctl_->SetDemand({}, view_->registry_read()));  // no entries: nothing that could be refused
  OfferEvent(Severity::kError, "quarantined",
             "run '" + info_working_->run + "' (pid " + std::to_string(info_working_->pid) +
                 ") is no longer read, its training goes on: " + why);
  {
    std::lock_guard lock(mutex_);
    own_notes_.push_back("quarantined: " + why);
  }
  if (!graph_ || !drain_) return;
  try {
    graph_->Finish();
  } catch (const std::exception& error) {
    std::lock_guard lock(mutex_);
    own_notes_.push_back(std::string("its last results are lost: ") + error.what());
  }
  OfferEmitted();
  OfferProgress(true);
  Snapshot();
}

// Handles what is committed before ring position `end`. Of a dead producer the holes too: nobody will fill them.
void ProducerSession::DrainTo(uint64_t end) {
  const bool dead = end_ == End::kDied;
  const uint64_t deadline = MonotonicNs() + kPayloadWaitNs;
  while (!quarantined()) {
    auto done = Pump(kRecordsPerTurn, end);
    if (!done) return Quarantine(done.error().text);
    if (*done > 0) continue;
    if (dead && drain_->position() < end && drain_->waiting() < Drain::kWaitingMax) {
      const uint64_t holes = drain_->SkipHole();
      working_.killed += holes;
      if (holes > 0) continue;
    }
    if (drain_->waiting() == 0) return;
    if (MonotonicNs() > deadline) {
      if (dead) working_.lost_in_daemon += drain_->AbandonWaiting();
      return;
    }
    pollfd wake{-1, 0, 0};
    ::poll(&wake, 1, kBusyPollMs);
  }
}

// Threads that had counted an attempt and died before they reserved or dropped it.
void ProducerSession::CountKilled() {
  const shm::StatusSnapshot last = view_->ReadStatus();
  const uint64_t accounted = last.dropped_total + last.status.reserved;
  if (last.status.attempted > accounted) working_.killed += last.status.attempted - accounted;
}

// When the daemon stops, nobody will look at the peer again while its memory is still here. So it is looked at after
// the drain, and news (there are two pieces at most, closed and died) bring another drain: only then what it wrote is
// whole.
void ProducerSession::DrainLast() {
  do {
    if (end_ == End::kStop && peer_died_) end_ = End::kDied;
    // What is pending now and no more: a producer that shows a tail far ahead for a moment, and goes on publishing,
    // would hold this thread and whoever waits for it.
    DrainTo(view_->ring_position() + view_->pending());
  } while (end_ == End::kStop && LookAtPeer(0));
  if (end_ == End::kStop && LeftInOrder()) end_ = End::kClosed;
}

void ProducerSession::FinishLast() {
  if (!quarantined()) {
    static_cast<void>(ctl_->SetDemand({}, view_->registry_read()));  // as in Quarantine()
    DrainLast();
  }
  if (!quarantined()) {
    if (end_ == End::kDied) CountKilled();
    graph_->Finish();
    if (drain_->waiting() == 0) working_.done_seq = std::max(working_.done_seq, drain_->position());
    if (!emitted_.empty()) OfferEmitted();
  }
  TakeNumbers();
  OfferProgress(true);
  // Whoever sees the state finds its event, and both in the store.
  const std::string state = StateText();
  if (end_ == End::kDied || end_ == End::kClosed) OfferRunEnded(state);
  SaveNow(state);
  ShowState(state);
}

void ProducerSession::OfferRunEnded(const std::string& state) {
  const bool bad = state == "died";
  const std::string how = bad                       ? "died"
                          : state == "finished"     ? "ended"
                          : state == "switched_off" ? "ended with its probe switched off"
                                                    : "ended, no longer read since it broke the format,";
  OfferEvent(bad ? Severity::kWarning : Severity::kInfo, "run_ended",
             "run '" + info_working_->run + "' " + how + " after " +
                 std::to_string(StepMeter::StepsTotal(numbers_.pub.status)) + " steps");
}

}  // namespace ikkuna::ingest
