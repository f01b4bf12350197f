#include "daemon/daemon.h"

#include <time.h>

#include <utility>

#include "shared/base/clock.h"

namespace ikkuna {

Result<std::unique_ptr<Daemon>> Daemon::Start(const Config& config, const std::string& version) {
  std::unique_ptr<Daemon> daemon(new Daemon(config));
  if (auto started = daemon->StartParts(version); !started) return started.error();
  return daemon;
}

Status Daemon::StartParts(const std::string& version) {
  directory_ = config_.dir.empty() ? shm::DefaultDirectory() : config_.dir;
  if (auto prepared = shm::PrepareDirectory(directory_, !config_.allow_uid.empty()); !prepared) {
    Error error = prepared.error();
    if (error.text.find("IKKUNA_DIR") == std::string::npos) error.text += "; pass --dir or set IKKUNA_DIR";
    return error;
  }
  auto lock = shm::DirectoryLock::Take(directory_);
  if (!lock) return lock.error();
  lock_.emplace(std::move(lock).value());
  if (auto opened = OpenSinks(); !opened) return opened;
  if (auto added = AddSubscribers(config_, subscribers_); !added) return added;

  ingest::IngestContext context;
  context.catalogue = &catalogue_;
  context.subscribers = &subscribers_;
  context.store = store_.get();
  context.sinks = {store_.get(), &watch_hub_, &event_log_};
  if (tensorboard_) context.sinks.push_back(tensorboard_.get());
  context.budget_ppm = config_.budget_ppm;
  context.version = version;
  ingest_ = std::make_unique<ingest::Ingest>(std::move(context));
  {
    std::lock_guard hold(door_->mutex);
    door_->ingest = ingest_.get();
  }
  monitor_ = std::make_unique<CoreMonitor>(
      DaemonParts{ingest_.get(), &subscribers_, &catalogue_, store_.get(), &watch_hub_, tensorboard_.get(), version,
                  directory_, config_.data_dir, tensorboard_ ? config_.TensorBoardDir() : std::string(),
                  config_.health ? kDaemonRunId : std::string()});
  service::ServerOptions options;
  options.directory = directory_;
  options.allow_uids = config_.allow_uid;
  options.listen = config_.listen;
  options.token_file = config_.token_file;
  options.tls_cert_file = config_.tls_cert;
  options.tls_key_file = config_.tls_key;
  auto server = service::Server::Start(options, *monitor_);
  if (!server) return server.error();
  server_ = std::move(server).value();

  ingest::AcceptorOptions door;
  door.directory = directory_;
  door.allow_uids = config_.allow_uid;
  auto acceptor = ingest::Acceptor::Start(door, *ingest_);
  if (!acceptor) return acceptor.error();
  acceptor_ = std::move(acceptor).value();
  started_ns_ = MonotonicNs();
  if (config_.health) StartHealth();
  ingest_->OfferEvent(Severity::kInfo, "daemon_started", "ikkuna-daemon " + version + " serves " + directory_);
  return {};
}

void Daemon::StartHealth() {
  auto read = [this] {
    HealthReading reading;
    reading.status = monitor_->Collect();
    reading.subscribers = subscribers_.List();
    reading.cpu_seconds = static_cast<double>(ClockNs(CLOCK_PROCESS_CPUTIME_ID)) * 1e-9;
    return reading;
  };
  // Not to TensorBoard: its files are those of the runs, and these series are of all runs.
  health_ =
      std::make_unique<HealthSampler>(std::move(read), catalogue_, std::vector<SampleSink*>{store_.get(), &watch_hub_});
}

Status Daemon::OpenSinks() {
  sinks::StoreOptions options;
  options.data_dir = config_.data_dir;
  options.bytes_max = config_.store_max_mb << 20;
  options.on_committed = [door = door_](const Uuid& producer, uint64_t done_seq) {
    std::lock_guard hold(door->mutex);
    if (door->ingest != nullptr) door->ingest->OnCommitted(producer, done_seq);
  };
  // The store keeps its own events itself; the others get them from here.
  options.on_event = [this](const Event& event) {
    auto batch = std::make_shared<Batch>();
    batch->events.push_back(event);
    watch_hub_.Offer(batch);
    LogEvent(event);
  };
  auto store = sinks::Store::Open(options, catalogue_);
  if (!store) return store.error();
  store_ = std::move(store).value();
  if (!config_.tensorboard) return {};
  auto tensorboard = sinks::TensorBoard::Open({config_.TensorBoardDir(), PrintConfig(config_)}, catalogue_);
  if (!tensorboard) return tensorboard.error();
  tensorboard_ = std::move(tensorboard).value();
  return {};
}

Status Daemon::Stop() {
  Status kept;
  if (acceptor_) ingest_->OfferEvent(Severity::kInfo, "daemon_stopped", "ikkuna-daemon ends as it was asked to");
  acceptor_.reset();
  if (ingest_) ingest_->Stop();
  health_.reset();
  if (store_) {
    kept = store_->Flush();
    if (!kept) {
      Event event;
      event.severity = Severity::kError;
      event.kind = "store_failed";
      event.text = kept.error().text;
      LogEvent(event);
    }
  }
  if (tensorboard_) tensorboard_->Flush();
  server_.reset();
  monitor_.reset();
  {
    std::lock_guard hold(door_->mutex);
    door_->ingest = nullptr;
  }
  ingest_.reset();
  tensorboard_.reset();
  store_.reset();
  lock_.reset();
  return kept;
}

Daemon::~Daemon() { static_cast<void>(Stop()); }

bool Daemon::IdleFor(double seconds) {
  // Before the look at who is connected: one that is admitted in between shows in neither, instead of as one that left.
  const bool somebody_came = ingest_->admitted() > 0;
  if (ingest_->connected() > 0 || watch_hub_.watchers() > 0 || monitor_->SecondsUnused() < seconds) return false;
  if (somebody_came) return true;
  return static_cast<double>(MonotonicNs() - started_ns_) * 1e-9 >= kFirstTrainerSeconds;
}

}  // namespace ikkuna
