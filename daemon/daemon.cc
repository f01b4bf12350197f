// The parts: how they are put together, and in which order they end.
#include "daemon/daemon.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "daemon/event_log.h"
#include "daemon/graph/graph.h"
#include "daemon/ingest/producer_session.h"
#include "daemon/sinks/tensorboard/tensorboard.h"
#include "shared/base/clock.h"
#include "shared/daemon_note.h"
#include "shared/places.h"

namespace ikkuna {

namespace {

using std::chrono::steady_clock;

// Values that the store dropped in this life are not kept, however well the rest was written. Those of a step that has
// one already are none that were missing; what left later, by its limits or by somebody's hand, was kept until then.
Status StoreLostNothing(const sinks::Store& store) {
  std::string reasons;
  for (const Count& drop : store.Counters().drops) {
    const auto is = [&](const char* reason) { return drop.reason == reason; };
    if (is("repeated") || is("deleted") || is("retired") || is("file_removed")) continue;
    reasons += (reasons.empty() ? "" : ", ") + drop.reason + " " + std::to_string(drop.count);
  }
  if (reasons.empty()) return {};
  return Error{ErrorCode::kResourceExhausted,
               "the store dropped values since it started (" + reasons + "); 'ikkuna events' says when and why"};
}

constexpr std::chrono::seconds kFlushTime{20};       // of each sink, at the end: a slow disk, a large queue
constexpr std::chrono::seconds kQueueTime{2};        // of the graph's threads, behind what ingest gave them
constexpr std::chrono::milliseconds kJobsEvery{50};  // as job_graph.h asks
constexpr std::chrono::seconds kKeepEvery{10};       // how much of what sinks counted a kill may cost
constexpr uint64_t kMiB = 1 << 20;

}  // namespace

Result<std::unique_ptr<Daemon>> Daemon::Start(const Config& config, const std::string& version) {
  std::unique_ptr<Daemon> daemon(new Daemon(config));
  if (auto started = daemon->StartParts(version); !started) return started.error();
  return daemon;
}

Status Daemon::StartParts(const std::string& version) {
  if (auto taken = TakeDirectory(); !taken) return taken;
  if (auto opened = OpenSinks(); !opened) return opened;
  if (auto added = AddSubscribers(config_, subscribers_); !added) return added;
  kept_subscriptions_ = std::make_unique<KeptSubscriptions>(host_directory_, subscribers_,
                                                            [this](Event event) { sinks_.Offer(std::move(event)); });
  kept_subscriptions_->Restore();
  StartGraph();
  StartIngest(version);
  if (auto served = StartService(version); !served) return served;
  if (config_.health) StartHealth();
  if (auto opened = OpenDoor(); !opened) return opened;
  Note(shm::DaemonState::kServing, "");
  Tell(Severity::kInfo, "daemon_started", "ikkuna-daemon " + version + " serves " + directory_);
  return {};
}

Status Daemon::TakeDirectory() {
  auto data_directory = DataDirectory(config_.data_dir);
  if (!data_directory) return data_directory.error();
  config_.data_dir = *data_directory;
  host_directory_ = HostDirectory(config_.data_dir);
  directory_ = config_.dir.empty() ? shm::DefaultDirectory() : config_.dir;
  if (auto prepared = shm::PrepareDirectory(directory_, !config_.allow_uid.empty()); !prepared) {
    Error error = prepared.error();
    if (error.text.find("IKKUNA_DIR") == std::string::npos) error.text += "; pass --dir or set IKKUNA_DIR";
    return error;
  }
  auto lock = shm::DirectoryLock::Take(directory_);
  if (!lock) return lock.error();
  lock_.emplace(std::move(lock).value());
  Note(shm::DaemonState::kStarting, "");
  if (auto made = MakePrivateDirectories(host_directory_); !made) {
    return Error{made.error().code, made.error().text + "; pass --data-dir"};
  }
  linger_ = std::make_unique<Linger>(directory_, config_.linger, [this] {
    return Linger::Use{ingest_->connected(), ingest_->admitted(), core_->activity().SecondsUnused()};
  });
  return {};
}

// The list of sinks, in the order in which they are offered a batch. A new sink is a line here.
Status Daemon::OpenSinks() {
  const auto report = [this](Event event) { sinks_.Offer(std::move(event)); };
  kept_counters_ = std::make_unique<KeptCounters>(host_directory_, report);
  sinks_.Add(MakeEventLog());
  sinks_.Restore(kept_counters_->Load());

  sinks::StoreOptions options;
  options.data_dir = config_.data_dir;
  if (config_.store_max_mb >= 0) options.bytes_max = static_cast<uint64_t>(config_.store_max_mb) * kMiB;
  if (config_.store_min_free_mb >= 0) {
    options.free_bytes_min = static_cast<uint64_t>(config_.store_min_free_mb) * kMiB;
    // Who lets it take more of the disk lets it take all of that.
    options.free_bytes_pause = std::min(options.free_bytes_pause, *options.free_bytes_min);
  }
  options.age_max = std::chrono::hours(24 * static_cast<int64_t>(config_.store_max_age_days));
  options.nice = config_.nice;
  options.on_committed = [door = door_](const RunKey& run, uint64_t done_seq) {
    std::lock_guard hold(door->mutex);
    if (door->ingest != nullptr) door->ingest->OnCommitted(run, done_seq);
  };
  options.on_kept = [this](const std::shared_ptr<const Batch>& batch) { sinks_.OfferKept(batch); };
  // It keeps its own events itself; the others get them from here.
  options.on_event = [this](const Event& event) { sinks_.Offer(event, "store"); };
  auto store = sinks::Store::Open(std::move(options));
  if (!store) return store.error();
  store_ = std::move(store).value();
  sinks_.SetEventIds([store = store_.get()] { return store->TakeEventId(); });
  sinks_.Add(store_);

  if (config_.tensorboard) {
    sinks::TensorBoardOptions files;
    files.logdir = config_.TensorBoardDir();
    files.configuration = PrintConfig(config_);
    files.topics = config_.tensorboard_topics;
    files.bytes_max = config_.tensorboard_max_mb * kMiB;
    // The store's limits: TensorBoard's files hold nothing that the store has not.
    files.free_bytes_min = config_.store_min_free_mb >= 0 ? static_cast<uint64_t>(config_.store_min_free_mb) * kMiB
                                                          : sinks::Store::FreeBytesMinDefault(files.logdir);
    files.free_bytes_pause = std::min(sinks::StoreOptions{}.free_bytes_pause, files.free_bytes_min);
    files.nice = config_.nice;
    files.report = report;
    auto tensorboard = sinks::OpenTensorBoard(files);
    if (!tensorboard) return tensorboard.error();
    sinks_.Add(std::move(tensorboard).value(), Takes::kKept);
    if (store_->was_unclosed()) {
      Tell(Severity::kWarning, "tensorboard_behind",
           "the daemon before this one was killed: TensorBoard's files may lack values of its last second, which the "
           "store has, and 'ikkuna plot', 'read' and 'export' show");
    }
  }

  sinks::WatchOptions watches;
  watches.report = report;
  watch_hub_ = std::make_shared<sinks::WatchHub>(watches);
  sinks_.Add(watch_hub_);  // the last: see watch_hub.h
  return {};
}

void Daemon::StartGraph() {
  actions_ = std::make_unique<Actions>([this](const RunKey& run, const Action& action) { return Act(run, action); },
                                       [this](Event event) { sinks_.Offer(std::move(event)); });
  memory_ = std::make_unique<graph::MemoryBudget>(config_.memory_mb * kMiB);
  queue_ = std::make_unique<graph::WorkQueue>(
      config_.threads == 0 ? graph::WorkQueue::DefaultThreads() : config_.threads, config_.nice);
  graph::JobParts parts;
  parts.subscribers = &subscribers_;
  parts.memory = memory_.get();
  parts.queue = queue_.get();
  parts.open = [this](const ProducerInfo& all) { return OpenJobRun(all); };
  parts.close = [this](const Run& run) {
    ProducerStatus status;
    status.info = *run.info();
    status.state = RunState::kFinished;
    store_->SaveProducer(status);
  };
  parts.emit = [this](Batch batch) { sinks_.Offer(std::make_shared<const Batch>(std::move(batch))); };
  parts.act = [this](const Run& run, const Event& event, const Action& action) {
    actions_->Take(run.key(), event, action);
  };
  jobs_ = std::make_unique<graph::JobGraphs>(std::move(parts));
}

void Daemon::StartIngest(const std::string& version) {
  graph::GraphParts parts;
  parts.subscribers = &subscribers_;
  parts.queue = queue_.get();
  parts.memory = memory_.get();
  parts.jobs = jobs_.get();
  parts.act = [this](const Run& run, const Event& event, const Action& action) {
    actions_->Take(run.key(), event, action);
  };
  ingest::IngestContext context;
  context.make_graph = graph::MakeGraph(std::move(parts));
  context.store = store_.get();
  context.sinks = {&sinks_};
  context.budget_ppm = config_.budget_ppm;
  context.several_users = !UidsOf(config_).empty();
  context.unready_ns = config_.unready_s * 1'000'000'000;
  context.version = version;
  ingest_ = std::make_unique<ingest::Ingest>(std::move(context));
  control_ = std::make_unique<ingest::Control>(*ingest_);
  {
    std::lock_guard hold(door_->mutex);
    door_->ingest = ingest_.get();
  }
  job_ticker_ = std::make_unique<Ticker>("ikkuna-jobs", kJobsEvery, [this] { jobs_->Tick(MonotonicNs()); });
}

Status Daemon::StartService(const std::string& version) {
  CoreParts parts;
  parts.ingest = ingest_.get();
  parts.control = control_.get();
  parts.subscribers = &subscribers_;
  parts.queue = queue_.get();
  parts.memory = memory_.get();
  parts.recorded = store_.get();
  parts.runs = store_.get();
  parts.store = CallsOf(*store_);
  parts.watch_hub = watch_hub_.get();
  parts.sinks = sinks_.sinks();
  parts.on_subscriptions = [this] { kept_subscriptions_->Save(); };
  parts.version = version;
  parts.directory = directory_;
  parts.data_directory = config_.data_dir;
  parts.tensorboard_directory = config_.tensorboard ? config_.TensorBoardDir() : std::string();
  parts.health_run = config_.health ? kDaemonRunId : std::string();
  parts.staging_directory = host_directory_ + "/staging";
  parts.linger_seconds = config_.linger;
  core_ = std::make_unique<CoreMonitor>(std::move(parts));
  auto server = service::Server::Start(ServerOptionsOf(config_, directory_), core_->monitor());
  if (!server) return server.error();
  server_ = std::move(server).value();
  keep_ticker_ = std::make_unique<Ticker>("ikkuna-keep", kKeepEvery, [this] {
    kept_counters_->Save(sinks_.Export());
    core_->Tick();
    TellRefusals();
  });
  return {};
}

void Daemon::StartHealth() {
  auto run = store_->Begin(HealthProducer());
  if (!run) {
    return Tell(Severity::kWarning, "health_not_kept", "the daemon's own health is not kept: " + run.error().text);
  }
  health_run_ = std::move(run).value();
  uint64_t last_step = 0;
  if (auto kept = store_->FindRuns(kDaemonRunId)) {
    for (const RunInfo& info : *kept) last_step = std::max(last_step, info.last_step);
  }
  auto read = [this] {
    const service::RefusedConnections refused = server_->refused_connections();
    return HealthReading{
        core_->monitor().status.GetStatus(),
        subscribers_.List(),
        {{"users", refused.users}, {"too_many", refused.too_many}, {"failed", refused.failed}}};
  };
  health_ = std::make_unique<HealthSampler>(std::move(read), health_run_, last_step, sinks_);
}

std::vector<uid_t> Daemon::UidsOf(const Config& config) {
  std::vector<uid_t> uids;
  for (const service::AllowedUser& user : config.AllowedUsers()) uids.push_back(user.uid);
  return uids;
}

// One event for all since the last: a peer that goes on trying does not fill the log.
void Daemon::TellRefusals() {
  const service::RefusedConnections now = server_->refused_connections();
  const uint64_t users = now.users - refused_told_.users;
  const uint64_t too_many = now.too_many - refused_told_.too_many;
  const uint64_t failed = now.failed - refused_told_.failed;
  if (users + too_many + failed == 0) return;
  refused_told_ = now;
  std::string text = "clients' connections were refused:";
  if (users > 0) text += " " + std::to_string(users) + " of users that --allow-uid does not name,";
  if (too_many > 0) text += " " + std::to_string(too_many) + " beyond what one user, one host or all may have at a time,";
  if (failed > 0) text += " " + std::to_string(failed) + " for want of memory or threads,";
  text.pop_back();
  Tell(Severity::kWarning, "client_refused", std::move(text));
}

Status Daemon::OpenDoor() {
  ingest::AcceptorOptions options;
  options.directory = directory_;
  options.allow_uids = UidsOf(config_);
  auto acceptor = ingest::Acceptor::Start(options, *ingest_);
  if (!acceptor) return acceptor.error();
  acceptor_ = std::move(acceptor).value();
  return {};
}

Status Daemon::Stop() {
  if (!lock_) return {};
  if (acceptor_) Tell(Severity::kInfo, "daemon_stopped", "ikkuna-daemon ends as it was asked to");
  if (store_) store_->EndCopies();
  acceptor_.reset();
  if (actions_) actions_->End();
  if (ingest_) ingest_->Stop();
  if (queue_) queue_->Close(steady_clock::now() + kQueueTime);
  job_ticker_.reset();
  if (jobs_) jobs_->Tick(MonotonicNs());  // no rank is left: it closes its runs
  const bool counted = keep_ticker_ != nullptr;
  if (std::exchange(keep_ticker_, nullptr)) TellRefusals();
  health_.reset();
  if (health_run_) {
    ProducerStatus status;
    status.info = *health_run_->info();
    status.state = RunState::kFinished;
    store_->SaveProducer(status);
    health_run_.reset();
  }
  Status kept = sinks_.Flush(steady_clock::now() + kFlushTime);
  server_.reset();
  core_.reset();
  // Clients may have published until now. Where the disk refuses it was said already.
  if (kept) kept = sinks_.Flush(steady_clock::now() + kFlushTime);
  if (kept && store_ != nullptr) kept = StoreLostNothing(*store_);
  if (!kept) {
    Event event;
    event.severity = Severity::kError;
    event.kind = "not_kept";
    event.text = kept.error().text;
    LogEvent(event);
  }
  {
    std::lock_guard hold(door_->mutex);
    door_->ingest = nullptr;
  }
  ingest_.reset();
  control_.reset();
  jobs_.reset();
  queue_.reset();
  actions_.reset();
  sinks_.Close();
  // One that did not come so far has not all of its sinks.
  if (counted) kept_counters_->Save(sinks_.Export());
  Note(kept ? shm::DaemonState::kEnded : shm::DaemonState::kNotKept, kept ? "" : kept.error().text);
  lock_.reset();
  return kept;
}

Daemon::~Daemon() { static_cast<void>(Stop()); }

std::shared_ptr<Run> Daemon::OpenJobRun(const ProducerInfo& all) {
  auto run = store_->Begin(all);
  if (run) return std::move(run).value();
  Tell(Severity::kWarning, "run_not_recorded",
       "what is computed over all ranks of run '" + all.run + "' is not recorded: " + run.error().text);
  return nullptr;
}

Result<std::string> Daemon::Act(const RunKey& run, const Action& action) {
  const ingest::Caller daemon{{}, true};
  const ingest::ControlTarget target{run.run_id, run.attempt, {}};
  switch (action.type) {
    case Action::Type::kStop:
      return control_->Stop(daemon, target);
    case Action::Type::kFreeze:
      return control_->Freeze(daemon, target, action.modules);
    case Action::Type::kCapture:
    case Action::Type::kExec:
      break;
  }
  return Error{ErrorCode::kFailedPrecondition, "this daemon does not do that"};
}

void Daemon::Tell(Severity severity, const std::string& kind, std::string text) {
  Event event;
  event.unix_ns = UnixNs();
  event.severity = severity;
  event.kind = kind;
  event.text = std::move(text);
  sinks_.Offer(std::move(event));
}

// Where it cannot be written those who start and end daemons go by the lock alone.
void Daemon::Note(shm::DaemonState state, const std::string& text) {
  static_cast<void>(shm::WriteDaemonNote(*lock_, {::getpid(), state, config_.data_dir, text}));
}

}  // namespace ikkuna
