#include "daemon/ingest/ingest.h"

#include <algorithm>
#include <utility>

#include "daemon/ingest/process_age.h"
#include "shared/base/clock.h"

namespace ikkuna::ingest {

namespace {

// The counters of records are not taken from the status last saved but from what was committed with the samples.
Ledger FromStore(const ProducerStatus& status) {
  Ledger ledger;
  ledger.steps_connected = status.steps_while_connected;
  ledger.incomplete_bundles = status.incomplete_bundles;
  for (const auto& root : status.roots) ledger.steps_observed[root.name] = root.steps_observed;
  return ledger;
}

// Of a producer that is not connected: has it died meanwhile? Its memory went with it, and with that what no daemon
// kept.
bool CloseIfDead(ProducerStatus& status) {
  const uint64_t accounted = status.handled + status.dropped_total + status.lost_in_daemon + status.killed;
  status.in_flight = status.attempted > accounted ? status.attempted - accounted : 0;
  if (ProcessLivesSince(status.info.pid, status.info.start_unix_ns)) return false;
  status.state = "died";
  status.lost_in_daemon += std::exchange(status.in_flight, 0);
  return true;
}

bool IsOpen(const std::string& state) { return state == "running" || state == "disconnected" || state.empty(); }

}  // namespace

Ingest::Ingest(IngestContext context) : context_(std::move(context)) { LoadPast(); }

Ingest::~Ingest() { Stop(); }

void Ingest::LoadPast() {
  auto stored = context_.store->LoadProducers();
  if (!stored) {
    OfferEvent(Severity::kWarning, "store_unreadable", stored.error().text);
    return;
  }
  // Those that are not shown any more keep their attempts all the same.
  for (const ProducerStatus& status : *stored) {
    const bool alive = IsOpen(status.state) && ProcessLivesSince(status.info.pid, status.info.start_unix_ns);
    registry_.Add({status.info.uuid, status.info.run_key, {}, status.info.world_size, std::nullopt, 0, alive});
  }
  const size_t skip = stored->size() > kPastMax ? stored->size() - kPastMax : 0;
  for (size_t i = skip; i < stored->size(); ++i) {
    Past past;
    past.status = std::move((*stored)[i]);
    if (IsOpen(past.status.state)) {
      past.status.state = "disconnected";
      CloseIfDead(past.status);
      context_.store->SaveProducer(past.status);
    }
    past.ledger = FromStore(past.status);
    past_.push_back(std::move(past));
  }
}

Ingest::Past* Ingest::FindPast(const Uuid& uuid) {
  for (Past& past : past_) {
    if (past.status.info.uuid == uuid) return &past;
  }
  return nullptr;
}

// Of a producer this daemon served, what its last session left; else what the store committed.
Ledger Ingest::LedgerOf(const Uuid& uuid, bool& known) {
  Ledger ledger;
  if (Past* past = FindPast(uuid)) {
    ledger = past->ledger;
    known = true;
    if (ledger.done_seq != 0) return ledger;
  }
  if (auto progress = context_.store->LoadProgress(uuid)) {
    known = true;
    ledger.done_seq = progress->progress.done_seq;
    ledger.handled = progress->handled;
    ledger.lost_in_daemon = progress->progress.lost_in_daemon;
    ledger.killed = progress->progress.killed;
  }
  return ledger;
}

// Gives the peer the place where its values are kept: its own run, attempt and rank, which no other life has.
Status Ingest::PlaceRun(Peer& peer) {
  shm::Hello& hello = peer.hello;
  if (IsDaemonRun({hello.run_id, 0, 0})) {
    return Error{ErrorCode::kInvalidArgument,
                 "the run id '" + hello.run_id + "' is that of the daemon's own series: give the run another"};
  }
  Applicant applicant;
  applicant.uuid = hello.uuid;
  applicant.name = hello.run_id;
  if (hello.has_attempt) applicant.count = hello.attempt;
  applicant.rank = hello.rank;
  applicant.world_size = hello.world_size;
  applicant.job = {hello.job_address, hello.job_port};
  applicant.resume = hello.resume;
  applicant.start_step = hello.start_step;
  const Placement placement = registry_.Place(applicant);
  hello.run_id = placement.key.run_id;
  hello.attempt = placement.key.attempt;
  if (!placement.known) {
    registry_.Add({hello.uuid, placement.key, applicant.job, hello.world_size, placement.continues, 0, true});
    for (const std::string& note : placement.notes) {
      OfferEvent(Severity::kWarning, "note", note, placement.key);
    }
    if (placement.continues) {
      OfferEvent(Severity::kInfo, "run_continues",
                 "attempt " + std::to_string(placement.key.attempt) + " goes on with attempt " +
                     std::to_string(*placement.continues) + " from step " + std::to_string(hello.start_step),
                 placement.key);
    }
  }
  return {};
}

Status Ingest::Admit(Peer& peer) {
  std::lock_guard lock(mutex_);
  if (stopping_.load()) return Error{ErrorCode::kUnavailable, "the daemon is ending"};
  ReapLocked();
  for (size_t i = 0; i < sessions_.size(); ++i) {
    if (sessions_[i]->uuid() != peer.hello.uuid) continue;
    if (sessions_[i]->quarantined()) {
      return Error{ErrorCode::kPermissionDenied, "this producer broke the format before and is no longer read"};
    }
    if (!sessions_[i]->peer_gone()) {
      return Error{ErrorCode::kAlreadyExists,
                   "this producer is connected already (pid " + std::to_string(sessions_[i]->status().info.pid) + ")"};
    }
    sessions_[i]->RequestEnd(true);
    sessions_[i]->Join();
    Keep(*sessions_[i]);
    sessions_.erase(sessions_.begin() + static_cast<std::ptrdiff_t>(i));
    break;
  }
  if (sessions_.size() >= kMaxProducers) {
    return Error{ErrorCode::kResourceExhausted,
                 "this daemon serves " + std::to_string(kMaxProducers) + " producers already, its maximum"};
  }
  bool known = false;
  const Ledger ledger = LedgerOf(peer.hello.uuid, known);
  if (Past* past = FindPast(peer.hello.uuid); past != nullptr && past->status.state == "quarantined") {
    return Error{ErrorCode::kPermissionDenied, "this producer broke the format before and is no longer read"};
  }
  if (auto placed = PlaceRun(peer); !placed) return placed;
  const Uuid uuid = peer.hello.uuid;
  auto session = ProducerSession::Start(context_, std::move(peer), ledger, known);
  if (!session) {
    registry_.SetAlive(uuid, false);
    return session.error();
  }
  registry_.SetAlive(uuid, true);
  std::erase_if(past_, [&](const Past& past) { return past.status.info.uuid == uuid; });
  sessions_.push_back(std::move(session).value());
  admitted_.fetch_add(1, std::memory_order_relaxed);
  return {};
}

void Ingest::Keep(const ProducerSession& session) {
  Past past{session.status(), session.ledger()};
  registry_.SetAlive(past.status.info.uuid, IsOpen(past.status.state));
  std::erase_if(past_, [&](const Past& other) { return other.status.info.uuid == past.status.info.uuid; });
  past_.push_back(std::move(past));
  if (past_.size() > kPastMax) past_.pop_front();
}

void Ingest::ReapLocked() {
  for (auto it = sessions_.begin(); it != sessions_.end();) {
    if (!(*it)->ended()) {
      ++it;
      continue;
    }
    (*it)->Join();
    Keep(**it);
    it = sessions_.erase(it);
  }
}

void Ingest::Reap() {
  std::lock_guard lock(mutex_);
  if (stopping_.load()) return;
  ReapLocked();
  const uint64_t now = MonotonicNs();
  if (now - past_checked_ns_ < kPastCheckNs) return;
  past_checked_ns_ = now;
  for (Past& past : past_) {
    if (past.status.state != "disconnected" || !CloseIfDead(past.status)) continue;
    registry_.SetAlive(past.status.info.uuid, false);
    context_.store->SaveProducer(past.status);
  }
}

void Ingest::Stop() {
  stopping_.store(true);
  std::lock_guard lock(mutex_);
  for (const auto& session : sessions_) session->RequestEnd(false);
  for (const auto& session : sessions_) session->Join();
}

std::vector<ProducerStatus> Ingest::Producers() const {
  std::vector<ProducerStatus> result;
  std::lock_guard lock(mutex_);
  for (const auto& session : sessions_) result.push_back(session->status());
  const auto connected = std::stable_partition(result.begin(), result.end(),
                                               [](const ProducerStatus& status) { return status.state == "running"; });
  const auto by_start = [](const ProducerStatus& a, const ProducerStatus& b) {
    return a.info.start_unix_ns < b.info.start_unix_ns;
  };
  std::sort(result.begin(), connected, by_start);
  const size_t rest = static_cast<size_t>(connected - result.begin());
  for (const Past& past : past_) result.push_back(past.status);
  std::sort(result.begin() + static_cast<std::ptrdiff_t>(rest), result.end(), by_start);
  return result;
}

std::shared_ptr<ProducerSession> Ingest::FindLive(const RunKey& run) const {
  std::lock_guard lock(mutex_);
  for (const auto& session : sessions_) {
    if (session->run_key() == run && !session->ended()) return session;
  }
  return nullptr;
}

void Ingest::OnCommitted(const Uuid& producer, uint64_t done_seq) {
  // The store's thread must not wait for an Admit that waits for a session: then this one is told at the next commit.
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock) return;
  for (const auto& session : sessions_) {
    if (session->uuid() == producer) session->SetCommitted(done_seq);
  }
}

void Ingest::WakeAll() {
  std::lock_guard lock(mutex_);
  for (const auto& session : sessions_) session->Wake();
}

void Ingest::OfferEvent(Severity severity, const std::string& kind, const std::string& text, const RunKey& run) {
  auto batch = std::make_shared<Batch>();
  Event event;
  event.unix_ns = UnixNs();
  event.severity = severity;
  event.run = run;
  event.kind = kind;
  event.text = text;
  batch->events.push_back(std::move(event));
  for (SampleSink* sink : context_.sinks) sink->Offer(batch);
}

size_t Ingest::live() const {
  std::lock_guard lock(mutex_);
  return static_cast<size_t>(
      std::count_if(sessions_.begin(), sessions_.end(), [](const auto& session) { return !session->ended(); }));
}

size_t Ingest::connected() const {
  std::lock_guard lock(mutex_);
  return static_cast<size_t>(std::count_if(sessions_.begin(), sessions_.end(), [](const auto& session) {
    return !session->ended() && !session->peer_gone();
  }));
}

}  // namespace ikkuna::ingest
