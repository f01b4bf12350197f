// How a session ends.
#include "daemon/ingest/producer_session.h"

#include <poll.h>

#include <algorithm>
#include <exception>

#include "daemon/ingest/process_age.h"
#include "shared/base/clock.h"

namespace ikkuna::ingest {

void ProducerSession::Quarantine(const std::string& why) {
  if (quarantined()) return;
  quarantined_.store(true, std::memory_order_release);
  static_cast<void>(ctl_->SetDemand({}, view_->registry_read()));  // no entries: nothing that could be refused
  publisher_->OfferEvent(Severity::kError, "quarantined",
                         "run '" + run_->info()->run + "' (" + PidText(credentials_.pid) +
                             ") is no longer read, its training goes on: " + why);
  AddNote("quarantined: " + why);
  AddNote("what it attempted after the last record that was handled is not read and not counted");
  FinishGraph();
}

// Not the trainer's fault: it may come back, and a daemon that is short of memory now may have some then.
void ProducerSession::Fail(const std::string& why) {
  end_ = End::kFailed;
  failed_.store(true, std::memory_order_release);
  publisher_->OfferEvent(Severity::kError, "ingest_failed",
                         "the daemon failed while it read run '" + run_->info()->run + "', whose training goes on: " +
                             why + "; it is read again in a minute");
  AddNote("the daemon failed while it read this run: " + why);
}

// A trainer that has gone needs its seat no more. Whoever waits for its run to end has then all of it; a daemon that is
// to end itself does not wait for that.
void ProducerSession::AwaitComputed() {
  if (end_ != End::kDied && end_ != End::kClosed) return;
  const uint64_t deadline = MonotonicNs() + kComputeNs;
  for (uint64_t now = 0; graph_->computes() && (now = MonotonicNs()) < deadline;) {
    if (static_cast<End>(requested_.load()) != End::kNone) return;
    ::poll(nullptr, 0, kBusyPollMs);
    graph_->Tick(now);
    publisher_->OfferEmitted(CurrentProgress());
  }
}

// Once: what the graph still holds is given, or given up.
void ProducerSession::FinishGraph() {
  if (!graph_ || !drain_ || graph_finished_) return;
  graph_finished_ = true;
  try {
    drain_->FinishLate(MonotonicNs() + kFinishNs);
    AwaitComputed();
    graph_->Finish(MonotonicNs() + kFinishNs);
  } catch (const std::exception& error) {
    AddNote(std::string("its last results are lost: ") + error.what());
  }
  publisher_->OfferEmitted(CurrentProgress());
  publisher_->OfferProgress(CurrentProgress(), true);
  TakeNumbers();  // the state is shown by whoever ends it, after its event
}

// Handles what is committed before ring position `end`. Of a dead producer the holes too: nobody will fill them. A daemon
// that ends does so for kStopNs: what a producer that lives has published the next one reads, what is left of one that
// has gone is lost, and counted.
void ProducerSession::DrainTo(uint64_t end) {
  const bool dead = end_ == End::kDied;
  const uint64_t deadline = MonotonicNs() + kPayloadWaitNs;
  uint64_t stop_by = UINT64_MAX;
  while (!quarantined()) {
    if (stop_by == UINT64_MAX && static_cast<End>(requested_.load()) == End::kStop) stop_by = MonotonicNs() + kStopNs;
    if (MonotonicNs() > stop_by) {
      if (end_ != End::kDied && end_ != End::kClosed) return;
      const uint64_t lost = drain_->AbandonWaiting() + (end - drain_->position());
      working_.lost_in_daemon += lost;
      working_.done_seq = end;  // nobody reads them any more
      publisher_->OfferEvent(Severity::kWarning, "records_lost",
                             "the daemon ended before it had read the last " + std::to_string(lost) +
                                 " records of run '" + run_->info()->run + "'");
      return;
    }
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
    if (end_ != End::kFailed) DrainLast();
  }
  if (!quarantined()) {
    if (end_ == End::kDied) CountKilled();
    FinishGraph();
    if (end_ != End::kFailed && drain_->waiting() == 0) {
      working_.done_seq = std::max(working_.done_seq, drain_->position());
    }
  }
  TakeNumbers();
  publisher_->OfferProgress(CurrentProgress(), true);
  // Whoever sees the state finds its event, and both in the store.
  const RunState state = StateNow();
  if (end_ == End::kDied || end_ == End::kClosed) OfferRunEnded(state);
  SaveNow(state);
  ShowState(state);
}

void ProducerSession::OfferRunEnded(RunState state) {
  const bool bad = state == RunState::kDied;
  const std::string how = bad                       ? "died"
                          : state == RunState::kFinished     ? "ended"
                          : state == RunState::kSwitchedOff ? "ended with its probe switched off"
                                                    : "ended, no longer read since it broke the format,";
  publisher_->OfferEvent(bad ? Severity::kWarning : Severity::kInfo, kRunEnded,
                         "run '" + run_->info()->run + "' " + how + " after " +
                             std::to_string(shm::StepsMade(numbers_.pub.status)) + " steps");
}

}  // namespace ikkuna::ingest
