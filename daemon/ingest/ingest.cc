#include "daemon/ingest/ingest.h"

#include <algorithm>
#include <map>
#include <utility>

#include "daemon/ingest/process_age.h"
#include "daemon/ingest/producer_session.h"
#include "shared/base/clock.h"

namespace ikkuna::ingest {

namespace {

// The rest is not taken from the status last saved but from what was committed with the samples: see LedgerOf.
Ledger FromStore(const ProducerStatus& status) {
  Ledger ledger;
  ledger.kinds_asked = status.kinds_asked;
  return ledger;
}

// How a producer ended that was connected to no daemon then.
std::string UnseenEnd(const ProducerStatus& status) {
  const bool unknown = status.info.pid == kPidUnknown;
  return std::string(unknown ? "runs in another container, where this daemon cannot see it, and has not come back: it "
                             : "") +
         "ended while no daemon was connected to it: whether it finished or died, and how many steps it made after the " +
         std::to_string(status.steps_total) + " that were counted, is not known; coverage is of these";
}

// Of one whose probe said that it is through nothing more comes, whether its process lives or not.
bool MayLive(RunState state) { return state != RunState::kFinished && state != RunState::kDied; }

RunRegistry::Member MemberOf(const ProducerInfo& info, bool alive) {
  RunRegistry::Member member;
  member.uuid = info.uuid;
  member.key = info.run_key;
  member.job = info.job;
  member.world_size = info.world_size;
  member.continues = info.continues;
  member.line = LineOf(info);
  member.unnamed = info.unnamed;
  if (info.restarts >= 0 && info.restarts <= RunRegistry::kAttemptMax) member.count = static_cast<uint32_t>(info.restarts);
  member.alive = alive;
  member.parent = alive ? ParentOf(info.pid) : 0;
  member.uid = info.uid;
  return member;
}

Applicant ApplicantOf(const Peer& peer) {
  const shm::Hello& hello = peer.hello;
  Applicant applicant;
  applicant.uuid = hello.uuid;
  applicant.name = hello.run_id;
  if (applicant.name == kLatestRun) applicant.name += "~1";  // nobody could name it
  if (hello.has_attempt && hello.attempt <= RunRegistry::kAttemptMax) applicant.count = hello.attempt;
  applicant.rank = hello.rank;
  applicant.world_size = hello.world_size;
  applicant.job = {hello.job_address, hello.job_port};
  applicant.resume = hello.resume;
  applicant.start_step = hello.start_step;
  applicant.parent = ParentOf(peer.credentials.pid);
  applicant.unnamed = hello.run_id_made_up;
  applicant.uid = peer.credentials.uid;
  return applicant;
}

ProducerInfo InfoOf(const Peer& peer, const Placement& placement) {
  ProducerInfo info;
  info.uuid = peer.hello.uuid;
  info.run_key = placement.key;
  info.run = peer.hello.run.empty() ? placement.key.run_id : peer.hello.run;
  info.world_size = peer.hello.world_size;
  info.job = {peer.hello.job_address, peer.hello.job_port};
  info.pid = peer.credentials.pid > 0 ? peer.credentials.pid : kPidUnknown;
  info.uid = peer.credentials.uid;
  // The producer's own word, but a start in the future would sort before every other run for ever.
  info.start_unix_ns = std::clamp<int64_t>(peer.view->header().start_unix_ns, 0, UnixNs());
  info.continues = placement.continues;
  info.line = placement.line;
  info.start_step = peer.hello.start_step;
  info.unnamed = peer.hello.run_id_made_up;
  if (peer.hello.has_attempt) info.restarts = peer.hello.attempt;
  return info;
}

}  // namespace

Ingest::Ingest(IngestContext context) : context_(std::move(context)) {
  registry_.SetSeveralUsers(context_.several_users);
  LoadPast();
}

void Ingest::ExpectSeveralUsers() {
  std::lock_guard lock(mutex_);
  registry_.SetSeveralUsers(true);
}

Ingest::~Ingest() { Stop(); }

// Every key that is kept counts for the numbering of attempts; only the latest are shown.
void Ingest::LoadPast() {
  auto stored = context_.store->LoadProducers();
  if (!stored) {
    OfferEvent(Severity::kWarning, "store_unreadable", stored.error().text);
    return;
  }
  const size_t skip = stored->size() > kPastMax ? stored->size() - kPastMax : 0;
  for (size_t i = 0; i < stored->size(); ++i) TakePast(std::move((*stored)[i]), i >= skip);
}

// One that is kept, and not connected.
void Ingest::TakePast(ProducerStatus status, bool shown) {
  Past past;
  past.status = std::move(status);
  // Those of no process are no producers: all ranks together, a client's own run, the daemon's. They end with a daemon,
  // and go on with the next as soon as something comes for them.
  const bool has_process = past.status.info.pid != 0;
  if (IsOpen(past.status.state)) {
    past.status.state = has_process ? RunState::kDisconnected : RunState::kDied;
    past.away_until_ns = MonotonicNs() + context_.unseen_grace_ns;
    if (has_process && CloseIfDead(past)) OfferUnseenEnd(past.status);
    context_.store->SaveProducer(past.status);
  }
  const bool alive = MayLive(past.status.state) && Lives(past);
  registry_.Add(MemberOf(past.status.info, alive));
  if ((!shown && !alive) || !has_process) return;
  past.ledger = FromStore(past.status);
  past_.push_back(std::move(past));
  BoundPast();
}

// Those that may come back are the last to go.
void Ingest::BoundPast() {
  while (past_.size() > kPastMax) {
    const auto over = [](const Past& one) { return !MayLive(one.status.state); };
    const auto oldest = std::find_if(past_.begin(), past_.end(), over);
    past_.erase(oldest == past_.end() ? past_.begin() : oldest);
  }
}

// Their files could not be read when this daemon began, or were imported since.
void Ingest::LearnFound() {
  for (ProducerStatus& status : context_.store->TakeFound()) {
    const Past* past = FindPast(status.info.uuid);
    if (past != nullptr && past->status.info.run_key == status.info.run_key) continue;  // it was away, and is back
    if (!IsKnown(status.info.uuid)) {
      TakePast(std::move(status), true);
      continue;
    }
    // Its producer did not wait for it, and goes on under another key: no more comes of it under this one.
    AddStranger(status.info.run_key);
    if (!IsOpen(status.state)) continue;
    status.state = RunState::kDied;
    status.attempted -= std::exchange(status.in_flight, 0);
    const std::string why = "its file could not be read when its process came back, which goes on under another key";
    status.notes.push_back(why);
    OfferEvent(Severity::kWarning, kRunEnded, "run '" + status.info.run + "' ended: " + why, status.info.run_key);
    context_.store->SaveProducer(status);
  }
}

bool Ingest::IsKnown(const Uuid& uuid) const {
  const auto session = [&](const auto& one) { return one->uuid() == uuid; };
  const auto past = [&](const Past& one) { return one.status.info.uuid == uuid; };
  return std::any_of(sessions_.begin(), sessions_.end(), session) || std::any_of(past_.begin(), past_.end(), past);
}

void Ingest::AddStranger(const RunKey& key) {
  RunRegistry::Member other;
  for (size_t byte = 0; byte < sizeof(int); ++byte) other.uuid[byte] = static_cast<unsigned char>(strangers_ >> 8 * byte);
  ++strangers_;
  other.key = key;
  other.line = key.attempt;
  registry_.Add(other);
}

// Of a producer that is not connected.
bool Ingest::Lives(const Past& past) {
  const ProducerInfo& info = past.status.info;
  if (info.pid == kPidUnknown) return MonotonicNs() < past.away_until_ns;
  return ProcessLivesSince(info.pid, info.start_unix_ns);
}

// Of a producer that is not connected: has it died meanwhile? Its memory went with it, and with that what no daemon
// kept, and how far it came.
bool Ingest::CloseIfDead(Past& past) const {
  if (Lives(past)) return false;
  ProducerStatus& status = past.status;
  status.state = RunState::kDied;
  status.lost_in_daemon += std::exchange(status.in_flight, 0);
  status.notes.push_back(UnseenEnd(status));
  return true;
}

Ingest::Past* Ingest::FindPast(const Uuid& uuid) {
  for (Past& past : past_) {
    if (past.status.info.uuid == uuid) return &past;
  }
  return nullptr;
}

// Of a producer this daemon served, what its last session left; else what the store committed.
Ledger Ingest::LedgerOf(const Uuid& uuid, const RunKey& run) {
  Ledger ledger;
  if (Past* past = FindPast(uuid)) {
    ledger = past->ledger;
    if (ledger.done_seq != 0) return ledger;
  }
  if (auto progress = context_.store->LoadProgress(run)) {
    ledger.done_seq = progress->done_seq;
    ledger.done_beyond = progress->done_beyond;
    ledger.read_seq = progress->read_seq;
    ledger.handled = progress->handled();
    ledger.lost_in_daemon = progress->lost_in_daemon;
    ledger.killed = progress->killed;
    ledger.steps_observed = {progress->steps_observed.begin(), progress->steps_observed.end()};
    ledger.missing = {progress->missing.begin(), progress->missing.end()};
  }
  return ledger;
}

// The producer is back on another socket: what the session before handled is kept first.
Status Ingest::EndSessionOf(const Uuid& uuid) {
  for (size_t i = 0; i < sessions_.size(); ++i) {
    if (sessions_[i]->uuid() != uuid) continue;
    if (sessions_[i]->quarantined()) {
      return Error{ErrorCode::kPermissionDenied, "this producer broke the format before and is no longer read"};
    }
    if (!sessions_[i]->peer_gone()) {
      return Error{ErrorCode::kAlreadyExists,
                   "this producer is connected already (" + PidText(sessions_[i]->pid()) + ")"};
    }
    sessions_[i]->RequestEnd(true);
    sessions_[i]->Join();
    Keep(*sessions_[i]);
    sessions_.erase(sessions_.begin() + static_cast<std::ptrdiff_t>(i));
    break;
  }
  return {};
}

Status Ingest::MayEnter(const Peer& peer) {
  if (stopping_.load()) return Error{ErrorCode::kUnavailable, "the daemon is ending"};
  if (IsDaemonRun({peer.hello.run_id, 0, 0})) {
    return Error{ErrorCode::kInvalidArgument,
                 "the run id '" + peer.hello.run_id + "' is that of the daemon's own series: give the run another"};
  }
  if (peer.hello.rank == kAllRanks) {
    return Error{ErrorCode::kInvalidArgument,
                 "rank " + std::to_string(kAllRanks) + " stands for all ranks of a run: no process has it"};
  }
  if (registry_.IsAnothers(peer.hello.uuid, peer.credentials.uid)) {
    return Error{ErrorCode::kPermissionDenied, "what it says it is, by its uuid, is a run of another user"};
  }
  if (auto ended = EndSessionOf(peer.hello.uuid); !ended) return ended;
  if (sessions_.size() >= kMaxProducers) {
    return Error{ErrorCode::kResourceExhausted,
                 "this daemon serves " + std::to_string(kMaxProducers) + " producers already, its maximum"};
  }
  const Past* past = FindPast(peer.hello.uuid);
  if (past != nullptr && past->status.state == RunState::kQuarantined) {
    return Error{ErrorCode::kPermissionDenied, "this producer broke the format before and is no longer read"};
  }
  if (past != nullptr && past->paused_until_ns > MonotonicNs()) {
    return Error{ErrorCode::kUnavailable, "the daemon failed while it read this producer; it is read again in a minute"};
  }
  return {};
}

// A process has one probe at a time: whoever was it before is through, whether we have noticed or not. Only a number
// tells that: the kernel shows every process of another container as 0.
void Ingest::SeeWhoLives(pid_t applicant) {
  std::map<pid_t, const ProducerSession*> latest;
  for (const auto& session : sessions_) latest[session->pid()] = session.get();
  for (const auto& session : sessions_) {
    const bool superseded =
        session->pid() > 0 && (session->pid() == applicant || latest[session->pid()] != session.get());
    registry_.SetAlive(session->uuid(), !superseded && session->alive());
  }
  for (const Past& past : past_) {
    const ProducerInfo& info = past.status.info;
    const bool superseded = info.pid > 0 && (info.pid == applicant || latest.contains(info.pid));
    registry_.SetAlive(info.uuid, !superseded && MayLive(past.status.state) && Lives(past));
  }
}

Result<std::shared_ptr<Run>> Ingest::BeginRun(const Peer& peer, Placement& placement) {
  constexpr int kTriesMax = 16;  // files that nobody could list, one after another
  const Applicant applicant = ApplicantOf(peer);
  for (int i = 0;; ++i) {
    LearnFound();
    placement = registry_.Place(applicant);
    if (peer.hello.run_id == kLatestRun && !placement.known) {
      placement.notes.push_back("its run id is 'latest', which means the newest run wherever one is named: it is '" +
                                placement.key.run_id + "'");
    }
    if (peer.hello.has_attempt && !applicant.count && !placement.known) {
      placement.notes.push_back("its attempt, " + std::to_string(peer.hello.attempt) + ", is above " +
                                std::to_string(RunRegistry::kAttemptMax) + ": it is numbered here, as attempt " +
                                std::to_string(placement.key.attempt));
    }
    ProducerInfo info = InfoOf(peer, placement);
    // Where it begins was learnt of it.
    const Past* past = placement.known && info.continues && info.start_step == 0 ? FindPast(info.uuid) : nullptr;
    if (past != nullptr) info.start_step = past->status.info.start_step;
    auto run = context_.store->Begin(info);
    if (run) {
      // Its file could not be read when this daemon began, and can be since a moment ago.
      LearnFound();
      const auto stored = context_.store->LoadProgress(placement.key);
      placement.known = placement.known || (stored && stored->read_seq > 0);
      RunRegistry::Member member = MemberOf(info, true);
      member.parent = applicant.parent;
      registry_.Add(member);
      return run;
    }
    if (run.error().code != ErrorCode::kAlreadyExists || placement.known || i == kTriesMax) return run.error();
    // The key is another's whom we did not know of. Now we do.
    AddStranger(placement.key);
  }
}

Status Ingest::Admit(Peer& peer) {
  std::lock_guard lock(mutex_);
  ReapLocked();
  if (auto may = MayEnter(peer); !may) return may;
  SeeWhoLives(peer.credentials.pid);
  Placement placement;
  auto run = BeginRun(peer, placement);
  if (!run) return run.error();
  const Uuid uuid = peer.hello.uuid;
  Seat seat;
  seat.run = *run;
  seat.known = placement.known;
  if (placement.known) seat.before = LedgerOf(uuid, placement.key);
  seat.notes = placement.notes;
  Result<std::unique_ptr<ProducerSession>> session = Error{ErrorCode::kSystem, ""};
  try {
    session = ProducerSession::Start(context_, std::move(peer), std::move(seat));
  } catch (...) {
    if (!placement.known) Forget(**run);
    throw;
  }
  if (!session) {
    if (!placement.known) Forget(**run);
    return session.error();
  }
  std::erase_if(past_, [&](const Past& past) { return past.status.info.uuid == uuid; });
  sessions_.push_back(std::move(session).value());
  admitted_.fetch_add(1, std::memory_order_relaxed);
  return {};
}

// A life that began here and cannot be served: its name is free again, and its file is not one of a run that goes on.
void Ingest::Forget(const Run& run) {
  ProducerStatus status;
  status.info = *run.info();
  status.state = RunState::kDied;
  registry_.SetAlive(status.info.uuid, false);
  context_.store->SaveProducer(status);
}

void Ingest::Keep(const ProducerSession& session) {
  const uint64_t now = MonotonicNs();
  Past past{session.status(), session.ledger(), session.failed() ? now + kFailedPauseNs : 0};
  if (past.status.state == RunState::kDisconnected) past.away_until_ns = now + context_.unseen_grace_ns;
  std::erase_if(past_, [&](const Past& other) { return other.status.info.uuid == past.status.info.uuid; });
  past_.push_back(std::move(past));
  BoundPast();
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
  LearnFound();
  const uint64_t now = MonotonicNs();
  if (now - past_checked_ns_ < kPastCheckNs) return;
  past_checked_ns_ = now;
  for (Past& past : past_) {
    if (past.status.state != RunState::kDisconnected || !CloseIfDead(past)) continue;
    OfferUnseenEnd(past.status);
    context_.store->SaveProducer(past.status);
  }
}

void Ingest::OfferUnseenEnd(const ProducerStatus& status) {
  OfferEvent(Severity::kWarning, kRunEnded, "run '" + status.info.run + "' " + UnseenEnd(status), status.info.run_key);
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
  const auto connected = std::stable_partition(
      result.begin(), result.end(), [](const ProducerStatus& status) { return status.state == RunState::kRunning; });
  const auto by_start = [](const ProducerStatus& a, const ProducerStatus& b) {
    return a.info.start_unix_ns < b.info.start_unix_ns;
  };
  std::sort(result.begin(), connected, by_start);
  const size_t rest = static_cast<size_t>(connected - result.begin());
  for (const Past& past : past_) result.push_back(past.status);
  std::sort(result.begin() + static_cast<std::ptrdiff_t>(rest), result.end(), by_start);
  return result;
}

std::optional<std::vector<ModuleInfo>> Ingest::Modules(const RunKey& run) const {
  std::lock_guard lock(mutex_);
  for (const auto& session : sessions_) {
    if (session->run_key() == run && !session->ended()) return session->Modules();
  }
  return std::nullopt;
}

std::vector<std::shared_ptr<ProducerSession>> Ingest::FindLive(const std::string& run_id, uint32_t attempt) const {
  std::vector<std::shared_ptr<ProducerSession>> found;
  std::lock_guard lock(mutex_);
  for (const auto& session : sessions_) {
    const RunKey& key = session->run_key();
    if (key.run_id == run_id && key.attempt == attempt && !session->ended()) found.push_back(session);
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a->run_key().rank < b->run_key().rank; });
  return found;
}

void Ingest::OnCommitted(const RunKey& run, uint64_t done_seq) {
  // The store's thread must not wait for an Admit that waits for a session: then this one is told at the next commit.
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock) return;
  for (const auto& session : sessions_) {
    if (session->run_key() == run) session->SetCommitted(done_seq);
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
  for (Sink* sink : context_.sinks) sink->Offer(batch);
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
