#include "daemon/ingest/producer_session.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "daemon/ingest/process_age.h"
#include "daemon/model/names.h"
#include "shared/base/clock.h"

namespace ikkuna::ingest {

namespace {

uint64_t RandomId() {
  uint64_t id = 0;
  if (::getrandom(&id, sizeof id, 0) != sizeof id || id == 0) id = MonotonicNs();
  return id;
}

}  // namespace

Result<std::unique_ptr<ProducerSession>> ProducerSession::Start(const IngestContext& context, Peer peer, Seat seat) {
  const shm::Heads heads = peer.hello.heads;
  if (auto started = peer.view->StartAt(heads); !started) return started.error();
  if (peer.view->reserved() < seat.before.done_seq) {
    return Error{ErrorCode::kCorrupt, "this producer has published less than an earlier daemon kept of it"};
  }
  std::unique_ptr<ProducerSession> session(new ProducerSession(context, std::move(peer), std::move(seat)));
  session->session_id_ = RandomId();
  session->wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!session->wake_) return PosixError("cannot make an eventfd for a producer", errno);
  // Where the probe stands, or further when nothing is left between; it accepts no head behind its own.
  const shm::PubView& view = *session->view_;
  auto ctl = shm::CtlWriter::Create(
      session->session_id_, {view.ring_position(), view.arena_position(), view.late_position()}, context.budget_ppm);
  if (!ctl) return ctl.error();
  session->ctl_ = std::move(ctl).value();
  ProducerSession* self = session.get();
  session->thread_ = std::thread([self] { self->Serve(); });
  return session;
}

ProducerSession::ProducerSession(const IngestContext& context, Peer peer, Seat seat)
    : context_(context),
      uuid_(peer.hello.uuid),
      run_(std::move(seat.run)),
      publisher_(std::make_shared<Publisher>(run_, context.sinks)),
      known_(seat.known),
      working_(std::move(seat.before)),
      place_notes_(std::move(seat.notes)) {
  socket_ = std::move(peer.socket);
  credentials_ = std::move(peer.credentials);
  view_ = std::move(peer.view);
  feature_bits_ = peer.hello.feature_bits & view_->header().feature_bits &
                  (shm::kFeatureArena | shm::kFeatureCommands | shm::kFeatureLateBytes);
  // An earlier daemon released these and ended before their results were kept, but for those that it has told of. Which
  // they were is not known: as many as are read once more are handled once more.
  const uint64_t position = view_->ring_position();
  const uint64_t told = std::exchange(working_.done_beyond, 0);
  const uint64_t kept = Above(told, Above(working_.read_seq, position));
  working_.handled -= told - kept;
  lost_at_start_ = Above(position, working_.done_seq + kept);
  working_.lost_in_daemon += lost_at_start_;
  working_.done_seq = std::max(working_.done_seq, position);
  handled_before_ = working_.handled;
  // What an earlier session has learnt of its start may have been a guess.
  const auto info = run_->info();
  if (info->continues && peer.hello.start_step == 0 && info->start_step > 0) guessed_start_ = info->start_step;
  numbers_.ledger = working_;
  own_notes_ = place_notes_;
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

bool ProducerSession::alive() const {
  if (ended()) return false;
  pollfd died{credentials_.pidfd.get(), POLLIN, 0};
  if (credentials_.pidfd ? ::poll(&died, 1, 0) > 0 : peer_gone()) return false;
  // Its word as it is now: the thread may have read an older one, and a next probe of the process be at the door.
  const auto said = static_cast<shm::ProducerState>(view_->ReadState());
  return said != shm::ProducerState::kFinished && (said != shm::ProducerState::kSwitchedOff || !peer_gone());
}

ProducerStatus ProducerSession::status() const {
  std::lock_guard lock(mutex_);
  ProducerStatus status = MakeReport(*run_->info(), state_, numbers_, names_, meter_, view_->header().ring_slots);
  status.notes.insert(status.notes.end(), own_notes_.begin(), own_notes_.end());
  return status;
}

Ledger ProducerSession::ledger() const {
  std::lock_guard lock(mutex_);
  Ledger ledger = numbers_.ledger;
  for (const auto& [id, name] : names_.roots()) {
    if (id >= 1 && id <= kMaxRoots) ledger.steps_observed[name] += numbers_.steps_observed[id - 1u];
  }
  for (const Count& count : numbers_.missing) ledger.missing[count.reason] += count.count;
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

std::vector<ProducerSession::Root> ProducerSession::Roots() const {
  std::lock_guard lock(mutex_);
  std::vector<Root> roots;
  for (const auto& [id, name] : names_.roots()) {
    if (id < 1 || id > kMaxRoots) continue;
    roots.push_back({id, name, std::min(numbers_.pub.status.roots[id - 1u].step, kMaxStep),
                     meter_.StepsPerSecond(id - 1u), meter_.UsualStepsPerSecond(id - 1u)});
  }
  return roots;
}

Result<uint64_t> ProducerSession::PushCommands(const std::vector<shm::Command>& commands, const std::string& what) {
  auto ticket = commands_.Push(commands, what);
  if (ticket) Wake();
  return ticket;
}

// ---------------------------------------------------------------------------------------------------------------
// Ingest thread

void ProducerSession::Serve() {
  ::pthread_setname_np(::pthread_self(), "ikkuna-ingest");
  try {
    Begin();
    while (end_ == End::kNone) {
      const bool busy = MonotonicNs() - last_record_ns_ < kBusyForNs && !quarantined();
      LookAtPeer(more_ ? 0 : (busy ? kBusyPollMs : kIdlePollMs));
      Turn();
    }
  } catch (const std::exception& error) {
    Fail(error.what());
  }
  try {
    FinishLast();
  } catch (const std::exception& error) {
    ShowState(StateNow());
    AddNote(std::string("internal error at its end: ") + error.what());
  }
  ended_.store(true, std::memory_order_release);
}

void ProducerSession::Begin() {
  if (working_.done_seq > 0) run_->SetRereadUntil(view_->reserved());
  run_->SetCountedUntil(working_.read_seq);
  graph_ = context_.make_graph(run_, [publisher = publisher_](Batch batch) { publisher->Emit(std::move(batch)); });
  std::vector<std::unique_ptr<PayloadSource>> sources;
  if (context_.make_sources) {
    sources = context_.make_sources();
  } else {
    sources.push_back(std::make_unique<HostArenaSource>());
  }
  drain_ = std::make_unique<Drain>(*view_, *ctl_, std::move(sources), working_.done_seq, working_.read_seq,
                                   context_.unready_ns, [this](const shm::Message& message) {
                                     if (!start_known_) GuessStart(message.record.global_step);
                                     graph_->Handle(message);
                                     if (publisher_->waits()) publisher_->OfferEmitted(CurrentProgress());
                                   });
  const auto registry = TakeRegistry();
  graph_->Refresh();
  UpdateDemand();
  if (!registry) {
    static_cast<void>(shm::SendReject(socket_.get(), {registry.error().text}));
    Quarantine(registry.error().text);
  } else if (auto sent = shm::SendWelcome(socket_.get(), {session_id_, feature_bits_, context_.version}, ctl_->fd());
             !sent) {
    socket_closed_ = true;  // it is gone already; LookAtPeer() learns how
  }
  publisher_->OfferEvent(Severity::kInfo, known_ ? kRunResumed : "run_started",
                         "run '" + run_->info()->run + "' (" + PidText(credentials_.pid) + ") " +
                             (known_ ? "is connected again" : "is connected as " + Describe(run_->key())));
  for (const std::string& note : place_notes_) publisher_->OfferEvent(Severity::kWarning, "run_placed", note);
  if (lost_at_start_ > 0) {
    publisher_->OfferEvent(
        Severity::kWarning, "records_lost",
        std::to_string(lost_at_start_) + " records were read by a daemon that ended before it kept their results");
  }
  // Of a producer that comes back most of it has been told, and status has it all.
  if (known_) news_ = {};
  TellNews();
  publisher_->OfferProgress(CurrentProgress(), true);
  Snapshot();
  last_record_ns_ = MonotonicNs();  // a producer that comes is about to train
}

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

// The peer's state was read before, in LookAtPeer(): what a dead producer committed is all visible now.
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
  }
  const uint64_t committed = committed_.load(std::memory_order_relaxed);
  if (committed != committed_told_) {
    ctl_->SetCommitted(committed);
    committed_told_ = committed;
  }
  ctl_->Beat(MonotonicNs());
  Snapshot();
  if (!quarantined()) ServeCommands();
  publisher_->OfferProgress(CurrentProgress(), false);
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
  if (!start_known_) LearnStart();
  TellNews();
  const bool grew = view_->registry_read() != entries;
  if (graph_->Refresh() || grew) UpdateDemand();
  auto done = drain_->Run(records_max, end);
  if (const uint64_t now = MonotonicNs(); now - ticked_ns_ >= kTickNs) {
    ticked_ns_ = now;
    graph_->Tick(now);
    NoteStartsApart();
  }
  if (publisher_->waits()) publisher_->OfferEmitted(CurrentProgress());
  return done;
}

// Before its first record is handled, so that nothing is drawn as overtaken that is not.
void ProducerSession::LearnStart() {
  const auto info = run_->info();
  if (!info->continues || (info->start_step > 0 && !guessed_start_)) {
    start_known_ = true;
    return;
  }
  uint64_t first = UINT64_MAX;
  for (const shm::RootStatus& root : view_->ReadStatus().status.roots) {
    // One that trains, or has: it may be through by now.
    const bool trains = root.phase == static_cast<uint32_t>(shm::Phase::kTrain) || root.step > root.start_step;
    if (trains) first = std::min(first, root.start_step);
  }
  if (first == UINT64_MAX) return;
  start_known_ = true;
  SetStart(first);
  if (first == 0) {
    const std::string note =
        "it goes on with attempt " + std::to_string(*info->continues) +
        " and counts its steps from 0 on, so that nothing of that one is left in the line of both: where it "
        "goes on from a checkpoint give it the step of that, its start step";
    AddNote(note);
    if (!known_) publisher_->OfferEvent(Severity::kWarning, "note", note);  // else an earlier session told it
  }
}

// None trains yet: until one does, the first step that is evaluated is taken for the one that it goes on from.
void ProducerSession::GuessStart(uint64_t step) {
  if (guessed_start_ && step >= *guessed_start_) return;
  guessed_start_ = step;
  SetStart(step);
}

void ProducerSession::SetStart(uint64_t first) {
  ProducerInfo info = *run_->info();
  info.start_step = std::min(first, kMaxStep);
  run_->SetInfo(std::move(info));
  // Saved before any value that was made of it: whatever kills this daemon, the file does not say that it goes on from 0.
  TakeNumbers();
  SaveNow(state_);
}

// Attempts are drawn as one line from one step on, which is one for all models of a process.
void ProducerSession::NoteStartsApart() {
  if (!start_known_ || starts_apart_noted_) return;
  const auto info = run_->info();
  if (!info->continues) return;
  for (const shm::RootStatus& root : view_->ReadStatus().status.roots) {
    if (root.step <= root.start_step || root.start_step == info->start_step) continue;
    starts_apart_noted_ = true;
    AddNote("its models go on from different steps, " + std::to_string(info->start_step) + " and " +
            std::to_string(root.start_step) + ": attempt " + std::to_string(*info->continues) + " is left at step " +
            std::to_string(info->start_step) +
            " by all of them, so that the line of some has a gap there, or steps of both; see --attempt");
    return;
  }
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
    ProducerInfo info = *run_->info();
    info.facts = names_.Facts();
    run_->SetInfo(std::move(info));
  }
  return {};
}

// What the trainer says of itself in the registry, as events.
void ProducerSession::TellNews() {
  constexpr size_t kNamed = 8;
  const RegistryNames::News news = std::exchange(news_, {});
  if (!news.frozen.empty())
    publisher_->OfferEvent(Severity::kInfo, "frozen", "does not train any more: " + Listed(news.frozen, kNamed));
  if (!news.thawed.empty())
    publisher_->OfferEvent(Severity::kInfo, "thawed", "trains again: " + Listed(news.thawed, kNamed));
  for (const std::string& note : news.notes) {
    if (notes_told_++ < kNotesToldMax) publisher_->OfferEvent(Severity::kWarning, "note", note);
  }
}

void ProducerSession::UpdateDemand() {
  const auto items = graph_->Demand();
  if (auto set = ctl_->SetDemand(items, view_->registry_read()); set) {
    demand_full_told_ = false;
    for (const shm::DemandItem& item : items) working_.kinds_asked |= item.kinds;
  } else if (!demand_full_told_) {
    demand_full_told_ = true;
    publisher_->OfferEvent(Severity::kError, "demand_refused", set.error().text + "; what was asked before stays in force");
  }
}

void ProducerSession::ServeCommands() {
  commands_.Send(*ctl_, numbers_.pub.status);
  if (const std::string late = commands_.TakeLate(numbers_.pub.status); !late.empty()) {
    publisher_->OfferEvent(Severity::kError, "split",
                           Describe(run_->key()) + " learned too late of " + late +
                               ": it did nothing while others acted; ask again, or for this rank alone");
  }
}

}  // namespace ikkuna::ingest
