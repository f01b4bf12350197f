#include "probe/core/session.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <utility>

#include "shared/handshake.h"

namespace ikkuna::probe {

namespace {

constexpr int kServicePeriodMs = 50;  // demand for whole tensors is noticed within this
constexpr int kReconnectMinMs = 50;
constexpr int kReconnectMaxMs = 1000;
constexpr uint64_t kTickNs = 250'000'000;
constexpr uint64_t kLeastArenaBytes = 4 << 20;     // a smaller one is none
constexpr int kLastPrintMs = 200;                  // for whoever reads stderr, at the end
constexpr uint64_t kExitWaitNs = 2'000'000'000;

// The one session of this process; see Session::Open.
std::atomic<Session*> g_session{nullptr};
// Descriptors a forked child must not keep: they would hold the daemon's socket and the memory file alive.
std::atomic<int> g_socket_fd{-1};
std::atomic<int> g_pub_fd{-1};
std::atomic<int> g_wake_fd{-1};

void CloseInChild() {
  for (auto* fd : {&g_socket_fd, &g_pub_fd, &g_wake_fd}) {
    const int value = fd->exchange(-1);
    if (value >= 0) ::close(value);
  }
}

uint64_t EnvironmentNumber(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
}

bool SwitchedOffByUser() {
  const char* text = std::getenv("IKKUNA");
  return text != nullptr && (std::strcmp(text, "off") == 0 || std::strcmp(text, "0") == 0);
}

}  // namespace

std::unique_ptr<Session> Session::Open(const SessionOptions& options) {
  if (SwitchedOffByUser()) return nullptr;
  std::unique_ptr<Session> session(new Session(options));
  Session* expected = nullptr;
  if (!g_session.compare_exchange_strong(expected, session.get())) {
    PrintNow("this process is being watched already; the second probe does nothing");
    return nullptr;
  }
  if (!session->CreateSegments()) {
    g_session.store(nullptr);
    return nullptr;
  }
  return session;
}

Session::Session(const SessionOptions& options)
    : options_(options),
      identity_(ResolveIdentity(options.identity)),
      directory_(options.directory.empty() ? shm::DefaultDirectory() : options.directory),
      wait_ms_(EnvironmentNumber("IKKUNA_WAIT_MS")),
      table_(std::make_shared<DemandTable>(std::vector<shm::DemandItem>{})) {}

// With a limit on files or address space there may be no room for the whole arena, and yet for all but whole tensors.
bool Session::CreatePub() {
  shm::PubSizes sizes;
  sizes.ring_slots = options_.ring_slots;
  sizes.arena_bytes = arena_bytes_;
  sizes.late_bytes = std::min(options_.late_bytes, shm::kMaxLateBytes);
  auto pub = shm::PubWriter::Create(sizes);
  const std::string short_of = pub ? std::string() : pub.error().text;
  while (!pub && pub.error().code == ErrorCode::kResourceExhausted && sizes.arena_bytes != 0) {
    sizes.arena_bytes = sizes.arena_bytes > kLeastArenaBytes ? sizes.arena_bytes / 4 : 0;
    pub = shm::PubWriter::Create(sizes);
  }
  if (!pub) {
    PrintNow("off, training is not watched: " + pub.error().text);
    return false;
  }
  pub_ = std::move(pub).value();
  names_ = std::make_unique<Names>(*pub_, notices_);
  arena_bytes_ = sizes.arena_bytes;
  if (!short_of.empty()) {
    AddNote("whole tensors have " + std::to_string(arena_bytes_ >> 20) + " MiB, the rest of them is not captured: " +
            short_of);
  }
  if (const uint64_t late_bytes = pub_->header().late_bytes; late_bytes < sizes.late_bytes) {
    AddNote("values that come late have " + std::to_string(late_bytes >> 10) + " of " +
            std::to_string(sizes.late_bytes >> 10) + " KiB: there is no memory for more");
  }
  if (!pub_->segment().wiped_on_fork()) {
    AddNote("this kernel has no MADV_WIPEONFORK: a child made by a raw clone() is not told from the trainer itself");
  }
  return true;
}

bool Session::CreateSegments() {
  uint64_t arena_mb = options_.arena_mb != 0 ? options_.arena_mb : EnvironmentNumber("IKKUNA_ARENA_MB");
  if (arena_mb == 0) arena_mb = shm::kDefaultArenaBytes >> 20;
  arena_bytes_ = std::min(arena_mb, shm::kMaxArenaBytes >> 20) << 20;
  if (!CreatePub()) return false;
  wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  g_pub_fd.store(pub_->fd());
  g_wake_fd.store(wake_.get());
  static const int kRegistered = ::pthread_atfork(nullptr, nullptr, &CloseInChild);
  (void)kRegistered;
  // Of each session anew: it runs before the end of whatever is there already.
  std::atexit(&EndAtExit);

  shm::PubStatus& status = pub_->status();
  shm::StoreRelaxed(status.attempt, identity_.attempt.value_or(0));
  shm::StoreRelaxed(status.control, static_cast<uint32_t>(options_.control));
  shm::StoreRelaxed(status.state, static_cast<uint32_t>(shm::ProducerState::kRunning));
  budget_.SetAllowance(options_.budget_ppm);
  shm::StoreRelaxed(status.budget_ppm, options_.budget_ppm);
  pub_->WriteClock();
  for (const auto& [key, value] : ProcessFacts()) AddFact(key, value);
  names_->NoteIfRenamed(identity_.run_id);
  if (identity_.run != identity_.run_id) names_->NoteIfRenamed(identity_.run);

  sigset_t all, old;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &old);  // the trainer's signals stay on the trainer's threads
  try {
    service_ = std::thread([this] { Serve(); });
  } catch (const std::system_error& error) {
    PrintNow(std::string("off, training is not watched: no thread can be made: ") + error.what());
  }
  ::pthread_sigmask(SIG_SETMASK, &old, nullptr);
  return service_.joinable();
}

Session::~Session() {
  if (!fork_guard_.in_owner()) {
    // A forked child: the thread and the mappings are the parent's.
    if (service_.joinable()) service_.detach();
    (void)socket_.release();
    (void)wake_.release();
    (void)pub_.release();
    return;
  }
  Close();
}

void Session::Close() {
  if (!fork_guard_.in_owner() || closed_.exchange(true)) return;
  off_.store(true);
  stop_.store(true);
  Wake();
  JoinService();
  g_socket_fd.store(-1);
  g_pub_fd.store(-1);
  g_wake_fd.store(-1);
  Session* self = this;
  g_session.compare_exchange_strong(self, nullptr);
}

void Session::SwitchOff(const std::string& reason) noexcept {
  if (off_.exchange(true) || !in_owner() || !pub_) return;
  shm::StoreRelaxed(pub_->status().state, static_cast<uint32_t>(shm::ProducerState::kSwitchedOff));
  try {
    Say("off for the rest of this run, training goes on unwatched: " + reason);
    AddNote("switched itself off: " + reason);
  } catch (...) {
  }
}

// A probe that is never destroyed, or destroyed too late: its thread must not outlive what the process takes down. The
// thread may be in a callback that waits for the one which exits: it is not waited for any longer than this.
void Session::EndAtExit() {
  Session* session = g_session.load();
  if (session == nullptr || !session->in_owner()) return;
  session->SetFinished();
  if (session->stop_.exchange(true)) return;  // another of these handlers has waited
  session->Wake();
  const uint64_t until = MonotonicNs() + kExitWaitNs;
  while (!session->ended_.load(std::memory_order_acquire) && MonotonicNs() < until) ::poll(nullptr, 0, 1);
  if (session->ended_.load(std::memory_order_acquire)) session->JoinService();
}

// Close() and the end of the process may come together.
void Session::JoinService() {
  std::lock_guard lock(join_mutex_);
  if (service_.joinable()) service_.join();
}

void Session::Wake() {
  const uint64_t one = 1;
  // Should it fail, the poll's timeout ends the thread as well.
  if (wake_) (void)!::write(wake_.get(), &one, sizeof one);
}

// ---------------------------------------------------------------------------------------------------------------
// Service thread

// Nothing that goes wrong here may end the trainer.
void Session::Serve() noexcept {
  ::pthread_setname_np(::pthread_self(), "ikkuna-probe");
  try {
    ServeUntilStopped();
    Disconnect();
  } catch (const std::exception& error) {
    SwitchOff(error.what());
  } catch (...) {
    SwitchOff("unknown error");
  }
  try {
    CallSwitchedOff();
    notices_.PrintLast(kLastPrintMs);
  } catch (...) {
  }
  g_socket_fd.store(-1);
  socket_.reset();
  ended_.store(true, std::memory_order_release);
}

void Session::ServeUntilStopped() {
  int backoff_ms = kReconnectMinMs;
  uint64_t next_connect_ns = 0;
  uint64_t next_tick_ns = 0;
  while (!stop_.load()) {
    const uint64_t now = MonotonicNs();
    if (!socket_ && now >= next_connect_ns) {
      Connect();
      backoff_ms = socket_ ? kReconnectMinMs : std::min(backoff_ms * 2, kReconnectMaxMs);
      next_connect_ns = now + static_cast<uint64_t>(backoff_ms) * 1'000'000;
    }
    // A daemon that does not answer is waited for: it is hung, and a new meeting would only queue behind this one.
    const bool met = socket_.valid();
    WatchSocket(kServicePeriodMs);
    if (met && !socket_ && refused_.load()) {
      next_connect_ns = now + static_cast<uint64_t>(options_.retry_refused_ms) * 1'000'000;
    }
    TakeCommandsOnService();
    BackArenaIfAsked();
    if (pub_->RegistryRunsShort()) pub_->BackRegistry();
    notices_.Print();
    if (off_.load(std::memory_order_relaxed)) CallSwitchedOff();
    if (now >= next_tick_ns) {
      next_tick_ns = now + kTickNs;
      Tick();
    }
  }
}

void Session::Tick() {
  pub_->WriteClock();
  if (ctl_) {
    LookAtDaemon();
  } else {
    CountUnwatched();
  }
  std::lock_guard lock(tick_mutex_);
  if (tick_) tick_();
}

// What is wrong with a daemon and would not be seen by the trainer otherwise. Only this thread changes ctl_.
void Session::LookAtDaemon() {
  if (pub_->peer_lied() && !std::exchange(lie_noted_, true)) {
    AddNote("the daemon showed positions that cannot be, which were ignored: what finds no room is dropped");
  }
  const uint64_t beat = ctl_->heartbeat_ns();
  const bool silent = beat != 0 && MonotonicNs() > beat + kSilentDaemonNs;
  if (silent && !std::exchange(silence_said_, true)) {
    Say("the daemon has not moved for " + std::to_string(kSilentDaemonNs / 1'000'000'000) +
        " s: it hangs or was stopped; what finds no room is dropped and counted, training goes on");
  }
  if (!silent) silence_said_ = false;
}

void Session::CallSwitchedOff() {
  std::lock_guard lock(tick_mutex_);
  if (!switched_off_ || !off_.load() || closed_.load()) return;
  std::exchange(switched_off_, {})();
}

void Session::WatchSocket(int timeout_ms) {
  pollfd fds[2] = {{wake_.get(), POLLIN, 0}, {socket_.get(), POLLIN, 0}};
  if (::poll(fds, socket_ ? 2 : 1, timeout_ms) <= 0 || !socket_) return;
  if ((fds[1].revents & POLLIN) != 0 && !connected()) {
    ReadAnswer();
  } else if (fds[1].revents != 0) {
    Disconnect();  // the daemon sends nothing after its answer: this is its end
  }
}

void Session::Connect() {
  auto socket = shm::ConnectToDaemon(directory_);
  if (!socket) {
    if (socket.error().code != ErrorCode::kUnavailable) Unreachable(socket.error().text);
    return;
  }
  shm::Hello hello;
  std::memcpy(hello.uuid.data(), pub_->header().uuid, hello.uuid.size());
  hello.run_id = identity_.run_id;
  hello.run_id_made_up = identity_.run_id_made_up;
  hello.run = identity_.run;
  hello.has_attempt = identity_.attempt.has_value();
  hello.attempt = identity_.attempt.value_or(0);
  hello.rank = identity_.rank;
  hello.world_size = identity_.world_size;
  hello.resume = identity_.resume;
  hello.start_step = identity_.start_step;
  hello.job_address = identity_.job_address;
  hello.job_port = identity_.job_port;
  hello.feature_bits = pub_->header().feature_bits;
  hello.heads = pub_->heads();
  if (auto sent = shm::SendHello(socket->get(), hello, pub_->fd()); !sent) {
    if (sent.error().code != ErrorCode::kUnavailable) Unreachable(sent.error().text);
    return;
  }
  unreachable_.clear();
  socket_ = std::move(socket).value();
  g_socket_fd.store(socket_.get());
  refused_.store(false);
}

// Not that none is there, which may be meant: it is there or not, and we cannot get to it.
void Session::Unreachable(const std::string& why) {
  refused_.store(true);
  if (why == unreachable_) return;
  unreachable_ = why;
  Say("training goes on unwatched: " + why);
  AddNote("no daemon could be reached for a time, and what came then is not captured: " + why);
}

void Session::ReadAnswer() {
  auto answer = shm::ReceiveAnswer(socket_.get());
  if (!answer) {
    if (answer.error().code == ErrorCode::kUnavailable) return;
    if (answer.error().code == ErrorCode::kFailedPrecondition) return Disconnect();  // it left
    Refused("gave an answer that cannot be used: " + answer.error().text);
    return;
  }
  if (auto* reject = std::get_if<shm::Reject>(&answer.value())) {
    Refused("refused this run: " + reject->reason);
    return;
  }
  auto& welcome = std::get<shm::ReceivedWelcome>(answer.value());
  auto view = shm::CtlView::Open(std::move(welcome.ctl_fd));
  if (!view || !pub_->AcceptHeads((*view)->heads())) {
    Refused("gave an answer that cannot be used: " +
            (view ? "its positions lie outside of what was published" : view.error().text));
    return;
  }
  features_.store(welcome.welcome.feature_bits & pub_->header().feature_bits, std::memory_order_relaxed);
  if (!takes(shm::kFeatureArena)) {
    AddNote("the daemon takes no whole tensors of this trainer: their statistics are sent, the rest is not captured");
  }
  lie_noted_ = silence_said_ = false;
  CountUnwatched();
  SetCtl(std::shared_ptr<const shm::CtlView>(std::move(view).value()));
  connected_.store(true);
}

// By whom a step was watched only this side knows: a daemon that is killed takes along what it had seen last.
void Session::CountUnwatched() {
  const uint64_t steps = shm::StepsMade(pub_->status());
  if (steps > steps_looked_at_) shm::AddRelaxed(pub_->status().steps_unwatched, steps - steps_looked_at_);
  steps_looked_at_ = steps;
}

// It may have been full, or another will take its place: it is asked again, in no hurry.
void Session::Refused(const std::string& why) {
  if (why != refusal_) {
    Say("training goes on unwatched, since the daemon " + why + "; it is asked again every " +
        std::to_string(options_.retry_refused_ms / 1000) + " s");
    refusal_ = why;
  }
  refused_.store(true);
  Disconnect();
}

void Session::SetCtl(std::shared_ptr<const shm::CtlView> ctl) {
  pub_->SetHeadSource(ctl);
  std::shared_ptr<const shm::CtlView> oldest;  // ends behind the lock: unmapping is a system call
  std::lock_guard lock(session_mutex_);
  if (ctl_) retired_.push_back(ctl_);
  if (retired_.size() > kMaxRetired) {
    oldest = std::move(retired_.front());
    retired_.pop_front();
  }
  ctl_ = std::move(ctl);
  if (ctl_) {
    const uint32_t daemon_ppm = ctl_->budget_ppm();
    const uint32_t own_ppm = options_.budget_ppm;
    const uint32_t ppm = daemon_ppm == 0 ? 0 : (own_ppm == 0 ? daemon_ppm : std::min(own_ppm, daemon_ppm));
    budget_.SetAllowance(ppm);
    shm::StoreRelaxed(pub_->status().budget_ppm, ppm);
  }
  live_ctl_.store(ctl_.get(), std::memory_order_release);
  session_count_.fetch_add(1, std::memory_order_release);
}

void Session::Disconnect() {
  if (!socket_) return;
  if (connected_.load()) {
    steps_looked_at_ = shm::StepsMade(pub_->status());
    connected_.store(false);
    SetCtl(nullptr);
  }
  g_socket_fd.store(-1);
  socket_.reset();
}

// Memory is taken when whole tensors are first asked for, and by this thread: a first touch costs milliseconds.
void Session::BackArenaIfAsked() {
  if (arena_tried_.load() || !takes(shm::kFeatureArena)) return;
  DemandCopy copy;
  RefreshDemand(copy);
  if (!copy.table || !copy.table->NeedsArena()) return;
  const uint64_t extent = pub_->BackArena(arena_bytes_);
  arena_tried_.store(true, std::memory_order_release);
  if (extent < arena_bytes_) {
    AddNote("arena for whole tensors has " + std::to_string(extent >> 20) + " of " +
            std::to_string(arena_bytes_ >> 20) + " MiB: memory is short; free some or lower IKKUNA_ARENA_MB");
  }
  session_count_.fetch_add(1, std::memory_order_release);  // due tensors can travel from the next step on
}

void Session::SetTick(std::function<void()> tick, std::function<void()> switched_off) {
  std::lock_guard lock(tick_mutex_);
  tick_ = std::move(tick);
  switched_off_ = std::move(switched_off);
}

// ---------------------------------------------------------------------------------------------------------------
// Demand

uint64_t Session::DemandVersion() const {
  const uint64_t session = session_count_.load(std::memory_order_acquire);
  const shm::CtlView* ctl = live_ctl_.load(std::memory_order_acquire);
  return (session << 32) | (ctl == nullptr ? 0 : (ctl->demand_generation() & 0xffffffffu));
}

uint64_t Session::demand_generation() const {
  const PeriodShifts shifts = budget_.shifts();
  const uint64_t thinned = shifts.tensor << 10 | shifts.summary << 5 | shifts.scalar;  // each below 32
  return DemandVersion() * 0x8000 + thinned;
}

bool Session::RefreshDemand(DemandCopy& copy) {
  const uint64_t version = DemandVersion();
  if (copy.table && copy.version == version) return true;
  std::unique_lock lock(session_mutex_, std::defer_lock);
  // Whoever waited for the demand (IKKUNA_WAIT_MS) has it from the first step on, whatever holds the lock just now.
  if (wait_ms_ != 0 && !copy.table) {
    lock.lock();
  } else if (!lock.try_lock()) {
    return false;
  }
  if (table_version_ != version) {
    if (!ctl_) {
      table_ = std::make_shared<DemandTable>(std::vector<shm::DemandItem>{});
    } else {
      auto items = ctl_->CopyDemand(names_->modules() + 1);
      if (!items) return false;  // being written: the old copy holds for one more step
      table_ = std::make_shared<DemandTable>(std::move(*items));
    }
    table_version_ = version;
  }
  copy.table = table_;
  copy.version = version;
  return true;
}

void Session::WaitForDaemon() {
  // Of several training threads that begin together none makes a step before the wait is over.
  if (wait_ms_ != 0) std::call_once(waited_, [this] { WaitForDemand(wait_ms_); });
}

void Session::WaitForDemand(uint64_t wait_ms) {
  const uint64_t deadline = MonotonicNs() + wait_ms * 1'000'000;
  while (MonotonicNs() < deadline && !refused_.load()) {
    const uint64_t version = DemandVersion();
    bool known = false;
    {
      std::lock_guard lock(session_mutex_);
      known = ctl_ && ctl_->demand_generation() != 0 && ctl_->registry_seen() >= names_->entries();
    }
    DemandCopy copy;
    RefreshDemand(copy);
    const bool backed = copy.table && (!copy.table->NeedsArena() || arena_ready());
    // What was found is of the demand that was copied, and that is the newest.
    if (known && backed && copy.version == version && DemandVersion() == version) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace ikkuna::probe
