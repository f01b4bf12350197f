#include "probe/core/session.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <system_error>

#include "shared/handshake.h"

namespace ikkuna::probe {

namespace {

constexpr int kServicePeriodMs = 50;  // demand for whole tensors is noticed within this
constexpr int kReconnectMinMs = 50;
constexpr int kReconnectMaxMs = 1000;
constexpr uint64_t kTickNs = 250'000'000;

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

shm::RegistryEntry ParamEntry(uint32_t id, uint16_t root, uint32_t module, const std::string& name,
                              const TensorShape& shape, uint32_t flags) {
  shm::RegistryEntry entry;
  entry.type = shm::EntryType::kParam;
  entry.root = root;
  entry.id = id;
  entry.parent = module;
  entry.flags = flags;
  entry.dtype = shape.dtype;
  entry.name = name;
  entry.value = 1;
  for (int i = 0; i < shape.ndim; ++i) {
    entry.value *= static_cast<uint64_t>(shape.sizes[i]);
    if (static_cast<size_t>(i) < kMaxDims) {
      entry.sizes.push_back(shape.sizes[i]);
    } else {
      entry.sizes.back() *= shape.sizes[i];
    }
  }
  return entry;
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
    std::fprintf(stderr, "ikkuna: this process is being watched already; the second probe does nothing\n");
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

bool Session::CreateSegments() {
  uint64_t arena_mb = options_.arena_mb != 0 ? options_.arena_mb : EnvironmentNumber("IKKUNA_ARENA_MB");
  if (arena_mb == 0) arena_mb = shm::kDefaultArenaBytes >> 20;
  arena_bytes_ = std::min(arena_mb << 20, shm::kMaxArenaBytes);
  shm::PubSizes sizes;
  sizes.ring_slots = options_.ring_slots;
  sizes.arena_bytes = arena_bytes_;
  auto pub = shm::PubWriter::Create(sizes);
  if (!pub) {
    std::fprintf(stderr, "ikkuna: off, training is not watched: %s\n", pub.error().text.c_str());
    return false;
  }
  pub_ = std::move(pub).value();
  wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  g_pub_fd.store(pub_->fd());
  g_wake_fd.store(wake_.get());
  static const int kRegistered = ::pthread_atfork(nullptr, nullptr, &CloseInChild);
  (void)kRegistered;

  shm::PubStatus& status = pub_->status();
  shm::StoreRelaxed(status.attempt, identity_.attempt.value_or(0));
  shm::StoreRelaxed(status.control, static_cast<uint32_t>(options_.control));
  shm::StoreRelaxed(status.state, static_cast<uint32_t>(shm::ProducerState::kRunning));
  budget_.SetAllowance(options_.budget_ppm);
  shm::StoreRelaxed(status.budget_ppm, options_.budget_ppm);
  pub_->WriteClock();
  for (const auto& [key, value] : ProcessFacts()) AddFact(key, value);

  sigset_t all, old;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &old);  // the trainer's signals stay on the trainer's threads
  try {
    service_ = std::thread([this] { Serve(); });
  } catch (const std::system_error& error) {
    std::fprintf(stderr, "ikkuna: off, training is not watched: no thread can be made: %s\n", error.what());
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
  if (!fork_guard_.in_owner() || stop_.exchange(true)) return;
  off_.store(true);
  const uint64_t one = 1;
  // Should it fail, the poll's timeout ends the thread as well.
  if (wake_) (void)!::write(wake_.get(), &one, sizeof one);
  if (service_.joinable()) service_.join();
  g_socket_fd.store(-1);
  g_pub_fd.store(-1);
  g_wake_fd.store(-1);
  Session* self = this;
  g_session.compare_exchange_strong(self, nullptr);
}

void Session::SwitchOff(const std::string& reason) noexcept {
  if (off_.exchange(true)) return;
  std::fprintf(stderr, "ikkuna: off for the rest of this run, training goes on unwatched: %s\n", reason.c_str());
  if (pub_) {
    shm::StoreRelaxed(pub_->status().state, static_cast<uint32_t>(shm::ProducerState::kSwitchedOff));
    try {
      AddNote("switched itself off: " + reason);
    } catch (...) {
    }
  }
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
  g_socket_fd.store(-1);
  socket_.reset();
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
    PrintSaid();
    if (now >= next_tick_ns) {
      next_tick_ns = now + kTickNs;
      pub_->WriteClock();
      std::lock_guard lock(tick_mutex_);
      if (tick_) tick_();
    }
  }
  PrintSaid();
}

void Session::Say(const std::string& text) {
  std::lock_guard lock(said_mutex_);
  said_ += "ikkuna: " + text + "\n";
}

void Session::PrintSaid() {
  std::string lines;
  {
    std::lock_guard lock(said_mutex_);
    lines.swap(said_);
  }
  if (!lines.empty()) std::fputs(lines.c_str(), stderr);
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
  if (!socket) return;
  shm::Hello hello;
  std::memcpy(hello.uuid.data(), pub_->header().uuid, hello.uuid.size());
  hello.run_id = identity_.run_id;
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
  if (!shm::SendHello(socket->get(), hello, pub_->fd())) return;
  socket_ = std::move(socket).value();
  g_socket_fd.store(socket_.get());
  refused_.store(false);
}

void Session::ReadAnswer() {
  auto answer = shm::ReceiveAnswer(socket_.get());
  if (!answer) {
    if (answer.error().code != ErrorCode::kUnavailable) Disconnect();
    return;
  }
  if (auto* reject = std::get_if<shm::Reject>(&answer.value())) {
    Refused("refused this run: " + reject->reason);
    return;
  }
  auto& welcome = std::get<shm::ReceivedWelcome>(answer.value());
  auto view = shm::CtlView::Open(std::move(welcome.ctl_fd));
  if (!view || !pub_->AcceptHeads((*view)->heads())) {
    Refused("gave an answer that makes no sense: " +
            (view ? "its positions lie outside of what was published" : view.error().text));
    return;
  }
  SetCtl(std::shared_ptr<const shm::CtlView>(std::move(view).value()));
  connected_.store(true);
}

// It may have been full, or another will take its place: it is asked again, in no hurry.
void Session::Refused(const std::string& why) {
  if (why != refusal_) {
    std::fprintf(stderr, "ikkuna: training goes on unwatched, since the daemon %s; it is asked again every %d s\n",
                 why.c_str(), options_.retry_refused_ms / 1000);
    refusal_ = why;
  }
  refused_.store(true);
  Disconnect();
}

void Session::SetCtl(std::shared_ptr<const shm::CtlView> ctl) {
  pub_->SetHeadSource(ctl);
  std::lock_guard lock(session_mutex_);
  if (ctl_) retired_.push_back(ctl_);
  if (retired_.size() > kMaxRetired) retired_.pop_front();
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
  if (connected_.exchange(false)) SetCtl(nullptr);
  g_socket_fd.store(-1);
  socket_.reset();
}

// Memory is taken when whole tensors are first asked for, and by this thread: a first touch costs milliseconds.
void Session::BackArenaIfAsked() {
  if (arena_tried_.load()) return;
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

void Session::SetTick(std::function<void()> tick) {
  std::lock_guard lock(tick_mutex_);
  tick_ = std::move(tick);
}

// ---------------------------------------------------------------------------------------------------------------
// Demand

uint64_t Session::DemandVersion() const {
  const uint64_t session = session_count_.load(std::memory_order_acquire);
  const shm::CtlView* ctl = live_ctl_.load(std::memory_order_acquire);
  return (session << 32) | (ctl == nullptr ? 0 : (ctl->demand_generation() & 0xffffffffu));
}

void Session::RefreshDemand(DemandCopy& copy) {
  const uint64_t version = DemandVersion();
  if (copy.table && copy.version == version) return;
  std::unique_lock lock(session_mutex_, std::try_to_lock);
  if (!lock) return;
  if (table_version_ != version) {
    if (!ctl_) {
      table_ = std::make_shared<DemandTable>(std::vector<shm::DemandItem>{});
    } else {
      auto items = ctl_->CopyDemand(modules_.load(std::memory_order_relaxed) + 1);
      if (!items) return;  // being written: the old copy holds for one more step
      table_ = std::make_shared<DemandTable>(std::move(*items));
    }
    table_version_ = version;
  }
  copy.table = table_;
  copy.version = version;
}

void Session::WaitForDaemon() {
  // Of several training threads that begin together none makes a step before the wait is over.
  if (wait_ms_ != 0) std::call_once(waited_, [this] { WaitForDemand(wait_ms_); });
}

void Session::WaitForDemand(uint64_t wait_ms) {
  const uint64_t deadline = MonotonicNs() + wait_ms * 1'000'000;
  while (MonotonicNs() < deadline && !refused_.load()) {
    DemandCopy copy;
    RefreshDemand(copy);
    bool known = false;
    {
      std::lock_guard lock(session_mutex_);
      known = ctl_ && ctl_->demand_generation() != 0 && ctl_->registry_seen() >= entries_.load();
    }
    if (known && copy.table && (!copy.table->NeedsArena() || arena_tried_.load())) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Names

bool Session::Append(const shm::RegistryEntry& entry) {
  if (!pub_->Append(entry)) return false;
  entries_.fetch_add(1);
  return true;
}

uint16_t Session::AddRoot(const std::string& name) {
  std::lock_guard lock(names_mutex_);
  if (next_root_ > kMaxRoots) return 0;
  shm::RegistryEntry entry;
  entry.type = shm::EntryType::kRoot;
  entry.root = next_root_;
  entry.id = next_root_;
  entry.name = name;
  return Append(entry) ? next_root_++ : 0;
}

uint32_t Session::AddModule(uint16_t root, const std::string& path, const std::string& type, uint32_t flags) {
  std::lock_guard lock(names_mutex_);
  if (next_module_ >= kMaxModules) return 0;
  shm::RegistryEntry entry;
  entry.type = shm::EntryType::kModule;
  entry.root = root;
  entry.id = next_module_;
  entry.flags = flags;
  entry.name = path;
  entry.second = type;
  if (!Append(entry)) return 0;
  modules_.store(next_module_, std::memory_order_relaxed);
  return next_module_++;
}

uint32_t Session::AddParam(uint16_t root, uint32_t module, const std::string& name, const TensorShape& shape,
                           uint32_t flags) {
  std::lock_guard lock(names_mutex_);
  if (next_param_ >= kMaxParams) return 0;
  return Append(ParamEntry(next_param_, root, module, name, shape, flags)) ? next_param_++ : 0;
}

void Session::RenewParam(uint32_t id, uint16_t root, uint32_t module, const std::string& name, const TensorShape& shape,
                         uint32_t flags) {
  if (id != 0) Append(ParamEntry(id, root, module, name, shape, flags));
}

uint16_t Session::TagId(const std::string& name) {
  if (name.empty() || name == "default") return kTagDefault;
  if (name == "test") return kTagTest;
  if (name == "no_grad") return kTagNoGrad;
  std::lock_guard lock(names_mutex_);
  if (auto found = tags_.find(name); found != tags_.end()) return found->second;
  const size_t id = 3 + tags_.size();
  if (id >= kMaxTags) return kTagTest;
  shm::RegistryEntry entry;
  entry.type = shm::EntryType::kTag;
  entry.id = static_cast<uint32_t>(id);
  entry.name = name;
  if (!Append(entry)) return kTagTest;
  return tags_[name] = static_cast<uint16_t>(id);
}

uint32_t Session::NameId(const std::string& name) {
  std::lock_guard lock(names_mutex_);
  if (auto found = names_.find(name); found != names_.end()) return found->second;
  if (names_.size() >= kMaxModules) return 0;
  shm::RegistryEntry entry;
  entry.type = shm::EntryType::kName;
  entry.id = static_cast<uint32_t>(names_.size() + 1);
  entry.name = name;
  if (!Append(entry)) return 0;
  return names_[name] = entry.id;
}

void Session::AddFact(const std::string& key, const std::string& value) {
  // One that is said anew at every step must not take the room of names.
  constexpr size_t kMaxFactEntries = 10'000;
  std::lock_guard lock(names_mutex_);
  if (fact_entries_ >= kMaxFactEntries) return;
  const auto [known, fresh] = facts_.try_emplace(key, static_cast<uint32_t>(facts_.size() + 1), value);
  if (!fresh && known->second.second == value) return;
  known->second.second = value;
  ++fact_entries_;
  shm::RegistryEntry entry;
  entry.type = shm::EntryType::kFact;
  entry.id = known->second.first;
  entry.name = key;
  entry.second = value;
  Append(entry);
}

void Session::AddNote(const std::string& text) {
  constexpr size_t kMaxNotes = 1000;  // a model of a thousand odd layers; the registry is for names first
  std::lock_guard lock(names_mutex_);
  if (notes_.size() >= kMaxNotes || !notes_.emplace(text, true).second) return;
  shm::RegistryEntry entry;
  entry.type = shm::EntryType::kNote;
  entry.id = static_cast<uint32_t>(notes_.size());
  entry.second = text;
  Append(entry);
}

}  // namespace ikkuna::probe
