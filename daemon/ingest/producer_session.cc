#include "daemon/ingest/producer_session.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "daemon/graph/names.h"
#include "shared/base/clock.h"

namespace ikkuna::ingest {

namespace {

uint64_t RandomId() {
  uint64_t id = 0;
  if (::getrandom(&id, sizeof id, 0) != sizeof id || id == 0) id = MonotonicNs();
  return id;
}

std::shared_ptr<const ProducerInfo> MakeInfo(const Peer& peer, const RunKey& key) {
  auto info = std::make_shared<ProducerInfo>();
  info->uuid = peer.hello.uuid;
  info->run_key = key;
  info->run = peer.hello.run.empty() ? key.run_id : peer.hello.run;
  info->world_size = peer.hello.world_size;
  info->pid = peer.credentials.pid;
  info->uid = peer.credentials.uid;
  // The producer's own word, but a start in the future would sort before every other run for ever.
  info->start_unix_ns = std::clamp<int64_t>(peer.view->header().start_unix_ns, 0, UnixNs());
  return info;
}

}  // namespace

Result<std::unique_ptr<ProducerSession>> ProducerSession::Start(const IngestContext& context, Peer peer,
                                                                const Ledger& before, bool resumed) {
  const shm::Heads heads = peer.hello.heads;
  if (auto started = peer.view->StartAt(heads); !started) return started.error();
  if (peer.view->reserved() < before.done_seq) {
    return Error{ErrorCode::kCorrupt, "this producer has published less than an earlier daemon kept of it"};
  }
  std::unique_ptr<ProducerSession> session(new ProducerSession(context, std::move(peer), before, resumed));
  session->session_id_ = RandomId();
  session->wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!session->wake_) return PosixError("cannot make an eventfd for a producer", errno);
  // Where the probe stands, or further when nothing is left between; it accepts no head behind its own.
  const shm::PubView& view = *session->view_;
  auto ctl =
      shm::CtlWriter::Create(session->session_id_, {view.ring_position(), view.arena_position()}, context.budget_ppm);
  if (!ctl) return ctl.error();
  session->ctl_ = std::move(ctl).value();
  ProducerSession* self = session.get();
  session->thread_ = std::thread([self] { self->Run(); });
  return session;
}

ProducerSession::ProducerSession(const IngestContext& context, Peer peer, const Ledger& before, bool resumed)
    : context_(context),
      uuid_(peer.hello.uuid),
      run_key_{peer.hello.run_id, peer.hello.attempt, peer.hello.rank},
      resumed_(resumed),
      working_(before),
      meter_(before.steps_connected) {
  info_working_ = MakeInfo(peer, run_key_);
  info_ = info_working_;
  socket_ = std::move(peer.socket);
  credentials_ = std::move(peer.credentials);
  view_ = std::move(peer.view);
  feature_bits_ = peer.hello.feature_bits & view_->header().feature_bits & (shm::kFeatureArena | shm::kFeatureCommands);
  // An earlier daemon released these and ended before their results were kept.
  if (view_->ring_position() > working_.done_seq) {
    lost_at_start_ = view_->ring_position() - working_.done_seq;
    working_.lost_in_daemon += lost_at_start_;
    working_.done_seq = view_->ring_position();
  }
  handled_before_ = working_.handled;
  incomplete_before_ = working_.incomplete_bundles;
  numbers_.ledger = working_;
  if (!credentials_.pidfd) {
    own_notes_.push_back("no pidfd on this kernel: the end of the process is seen as the end of its socket");
  }
  if (!view_->future_write_sealed()) {
    own_notes_.push_back("the segment has no future-write seal: the process itself could map it writable elsewhere");
  }
}

ProducerSession::~ProducerSession() {
  RequestEnd(false);
  Join();
}

void ProducerSession::RequestEnd(bool replaced) {
  int expected = static_cast<int>(End::kNone);
  requested_.compare_exchange_strong(expected, static_cast<int>(replaced ? End::kReplaced : End::kStop));
  Wake();
}

void ProducerSession::Join() {
  if (thread_.joinable()) thread_.join();
}

void ProducerSession::Wake() {
  const uint64_t one = 1;
  // A full counter wakes as well.
  if (::write(wake_.get(), &one, sizeof one) < 0) return;
}

bool ProducerSession::peer_gone() const {
  pollfd fd{socket_.get(), POLLRDHUP, 0};
  return ::poll(&fd, 1, 0) > 0 && (fd.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0;
}

ProducerStatus ProducerSession::status() const {
  std::lock_guard lock(mutex_);
  ProducerStatus status = MakeReport(*info_, state_, numbers_, names_, meter_, view_->header().ring_slots);
  status.notes.insert(status.notes.end(), own_notes_.begin(), own_notes_.end());
  return status;
}

Ledger ProducerSession::ledger() const {
  std::lock_guard lock(mutex_);
  Ledger ledger = numbers_.ledger;
  ledger.steps_connected = meter_.steps_connected();
  for (const auto& [id, name] : names_.roots()) {
    if (id >= 1 && id <= kMaxRoots) ledger.steps_observed[name] += numbers_.steps_observed[id - 1u];
  }
  return ledger;
}

std::vector<ModuleInfo> ProducerSession::Modules() const {
  std::lock_guard lock(mutex_);
  return names_.Modules();
}

Result<std::vector<RegistryNames::Target>> ProducerSession::FindTargets(const std::string& pattern) const {
  std::lock_guard lock(mutex_);
  return names_.FindTargets(pattern);
}

Status ProducerSession::PushCommands(const std::vector<shm::Command>& commands) {
  {
    std::lock_guard lock(mutex_);
    if (commands_.size() + commands.size() > kCommandsWaitingMax) {
      return Error{
          ErrorCode::kResourceExhausted,
          std::to_string(commands_.size()) + " commands wait for this run already; it takes them at its steps"};
    }
    commands_.insert(commands_.end(), commands.begin(), commands.end());
  }
  Wake();
  return {};
}

// ---------------------------------------------------------------------------------------------------------------
// Ingest thread

void ProducerSession::Run() {
  ::pthread_setname_np(::pthread_self(), "ikkuna-ingest");
  try {
    if (Begin()) {
      while (end_ == End::kNone) {
        Wait(MonotonicNs() - last_record_ns_ < kBusyForNs);
        Turn();
      }
    }
  } catch (const std::exception& error) {
    Quarantine(std::string("internal error while reading it: ") + error.what());
    end_ = End::kFailed;
  }
  try {
    FinishLast();
  } catch (const std::exception& error) {
    ShowState(StateText());
    std::lock_guard lock(mutex_);
    own_notes_.push_back(std::string("internal error at its end: ") + error.what());
  }
  ended_.store(true, std::memory_order_release);
}

bool ProducerSession::Begin() {
  {
    std::lock_guard lock(mutex_);
    meter_.Begin(view_->ReadStatus().status);
  }
  graph_ = std::make_unique<graph::Graph>(info_working_, *context_.catalogue, *context_.subscribers,
                                          [this](Batch batch) { emitted_.push_back(std::move(batch)); });
  std::vector<std::unique_ptr<PayloadSource>> sources;
  if (context_.make_sources) {
    sources = context_.make_sources();
  } else {
    sources.push_back(std::make_unique<HostArenaSource>());
  }
  drain_ = std::make_unique<Drain>(*view_, *ctl_, std::move(sources), working_.done_seq,
                                   [this](const shm::Message& message) {
                                     graph_->Handle(message);
                                     if (!emitted_.empty()) OfferEmitted();
                                   });
  const auto registry = TakeRegistry();
  graph_->Refresh();
  UpdateDemand();
  context_.store->UpsertRun(*info_working_, "running");
  if (!registry) {
    static_cast<void>(shm::SendReject(socket_.get(), {registry.error().text}));
    Quarantine(registry.error().text);
  } else if (auto sent = shm::SendWelcome(socket_.get(), {session_id_, feature_bits_, context_.version}, ctl_->fd());
             !sent) {
    socket_closed_ = true;  // it is gone already; Wait() learns how
  }
  OfferEvent(Severity::kInfo, resumed_ ? "run_resumed" : "run_started",
             "run '" + info_working_->run + "' (pid " + std::to_string(info_working_->pid) + ") " +
                 (resumed_ ? "is connected again" : "is connected"));
  if (lost_at_start_ > 0) {
    OfferEvent(
        Severity::kWarning, "records_lost",
        std::to_string(lost_at_start_) + " records were read by a daemon that ended before it kept their results");
  }
  // Of a producer that comes back most of it has been told, and status has it all.
  if (resumed_) news_ = {};
  TellNews();
  OfferProgress(true);
  Snapshot();
  last_record_ns_ = MonotonicNs();  // a producer that comes is about to train
  return true;
}

void ProducerSession::Wait(bool busy) { LookAtPeer(more_ ? 0 : (busy && !quarantined() ? kBusyPollMs : kIdlePollMs)); }

// Waits for a wake-up or for news of the peer; true: it has died or closed its socket since the last look.
bool ProducerSession::LookAtPeer(int timeout_ms) {
  pollfd fds[3] = {{wake_.get(), POLLIN, 0},
                   {peer_died_ ? -1 : credentials_.pidfd.get(), POLLIN, 0},
                   {socket_closed_ ? -1 : socket_.get(), POLLRDHUP, 0}};
  if (::poll(fds, 3, timeout_ms) <= 0) return false;
  if (fds[0].revents != 0) {
    uint64_t count;
    if (::read(wake_.get(), &count, sizeof count) < 0) count = 0;  // another turn saw it
  }
  if (fds[1].revents != 0) peer_died_ = true;
  if (fds[2].revents != 0) socket_closed_ = true;
  // Without a pidfd the end of the socket is all there is.
  if (socket_closed_ && !credentials_.pidfd) peer_died_ = true;
  return fds[1].revents != 0 || fds[2].revents != 0;
}

// Its socket was found closed before: what it said and published until then is all visible now.
bool ProducerSession::LeftInOrder() {
  if (!socket_closed_ || quarantined() || view_->pending() != 0 || drain_->waiting() != 0) return false;
  const auto said = static_cast<shm::ProducerState>(view_->ReadStatus().status.state);
  return said == shm::ProducerState::kFinished || said == shm::ProducerState::kSwitchedOff;
}

// The peer's state was read before, in Wait(): what a dead producer committed is all visible now.
void ProducerSession::Turn() {
  more_ = false;
  if (!quarantined()) {
    auto pumped = Pump(kRecordsPerTurn, view_->reserved());
    if (!pumped) {
      Quarantine(pumped.error().text);
    } else if (*pumped > 0) {
      last_record_ns_ = MonotonicNs();
      more_ = *pumped >= kRecordsPerTurn;
    }
    SendCommands();
  }
  const uint64_t committed = committed_.load(std::memory_order_relaxed);
  if (committed != committed_told_) {
    ctl_->SetCommitted(committed);
    committed_told_ = committed;
  }
  ctl_->Beat(MonotonicNs());
  Snapshot();
  OfferProgress(false);
  SaveSometimes();

  // A trainer's end and the daemon's often come together: what the peer did goes before the wish to stop.
  const auto requested = static_cast<End>(requested_.load());
  if (requested == End::kReplaced) {
    end_ = End::kReplaced;
  } else if (peer_died_) {
    end_ = End::kDied;
  } else if (LeftInOrder()) {
    end_ = End::kClosed;
  } else {
    end_ = requested;
  }
}

// `end` was read before the registry is, so that every name of a record before it is known when the record is handled.
Result<uint64_t> ProducerSession::Pump(uint64_t records_max, uint64_t end) {
  const uint64_t entries = view_->registry_read();
  if (auto taken = TakeRegistry(); !taken) return taken.error();
  TellNews();
  const bool grew = view_->registry_read() != entries;
  if (graph_->Refresh() || grew) UpdateDemand();
  auto done = drain_->Run(records_max, end);
  if (!emitted_.empty()) OfferEmitted();
  return done;
}

Status ProducerSession::TakeRegistry() {
  auto entries = view_->ReadRegistry();
  if (!entries) return entries.error();
  if (entries->empty()) return {};
  if (auto added = drain_->AddEntries(*entries); !added) return added;
  graph_->AddRegistry(*entries);
  std::lock_guard lock(mutex_);
  const uint64_t facts = names_.facts_version();
  news_ = names_.Add(*entries);
  if (names_.facts_version() != facts) {
    auto info = std::make_shared<ProducerInfo>(*info_);
    info->facts = names_.Facts();
    info_ = info;
    info_working_ = info;
  }
  return {};
}

// What the trainer says of itself in the registry, as events.
void ProducerSession::TellNews() {
  constexpr size_t kNamed = 8;
  const RegistryNames::News news = std::exchange(news_, {});
  if (!news.frozen.empty())
    OfferEvent(Severity::kInfo, "frozen", "does not train any more: " + graph::Listed(news.frozen, kNamed));
  if (!news.thawed.empty())
    OfferEvent(Severity::kInfo, "thawed", "trains again: " + graph::Listed(news.thawed, kNamed));
  for (const std::string& note : news.notes) {
    if (notes_told_++ < kNotesToldMax) OfferEvent(Severity::kWarning, "note", note);
  }
}

void ProducerSession::UpdateDemand() {
  const auto items = graph_->Demand();
  if (auto set = ctl_->SetDemand(items, view_->registry_read()); set) {
    demand_full_told_ = false;
  } else if (!demand_full_told_) {
    demand_full_told_ = true;
    OfferEvent(Severity::kError, "demand_refused", set.error().text + "; what was asked before stays in force");
  }
}

void ProducerSession::SendCommands() {
  std::lock_guard lock(mutex_);
  while (!commands_.empty()) {
    uint64_t done = numbers_.pub.status.command_done;
    if (command_last_ != 0) done = std::min(done, command_last_);  // the producer's word
    auto pushed = ctl_->Push(commands_.front(), done);
    if (!pushed) return;
    command_last_ = *pushed;
    commands_.pop_front();
  }
}

}  // namespace ikkuna::ingest
