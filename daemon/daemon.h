// Daemon: all parts of ikkuna-daemon, in the order in which they start and stop.
//
// Start: directory and its lock; store; TensorBoard, watch hub, log; subscribers; ingest; gRPC; at last the probe
// socket, so that a trainer that gets in finds everything ready, and the health of it all. Stop: the probe socket;
// ingest (asks for nothing more, handles what is committed); health has its last look; store and TensorBoard write it
// down; gRPC (watchers have seen it); the producers' sockets close; TensorBoard and store close; the lock goes. So a
// trainer sees the end of the daemon only after everything that was read of it is kept.
//
// Owner: main, or a test. Thread rule: Start, Stop and the destructor from one thread.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "daemon/config.h"
#include "daemon/core_monitor.h"
#include "daemon/event_log.h"
#include "daemon/health.h"
#include "daemon/ingest/acceptor.h"
#include "daemon/service/server.h"
#include "shared/base/result.h"
#include "shared/handshake.h"

namespace ikkuna {

class Daemon {
 public:
  static Result<std::unique_ptr<Daemon>> Start(const Config& config, const std::string& version);
  // Everything above in its order; nothing when it is stopped already. An error says why not everything that was read
  // could be kept.
  Status Stop();
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  CoreMonitor& monitor() { return *monitor_; }
  const service::Server& server() const { return *server_; }
  const std::string& directory() const { return directory_; }
  // A trainer was here, or nobody came within a minute, none is connected now, and nobody asked anything for `seconds`.
  bool IdleFor(double seconds);

 private:
  // How long the first trainer may take to come: importing a framework from a slow disk is tens of seconds.
  static constexpr double kFirstTrainerSeconds = 60;

  // Lets the store's thread reach ingest while there is one.
  struct CommitDoor {
    std::mutex mutex;
    ingest::Ingest* ingest = nullptr;
  };

  explicit Daemon(const Config& config) : config_(config) {}
  Status StartParts(const std::string& version);
  Status OpenSinks();
  void StartHealth();

  // Constant after construction.
  const Config config_;
  std::string directory_;

  // In the order of their start.
  std::optional<shm::DirectoryLock> lock_;
  std::shared_ptr<CommitDoor> door_ = std::make_shared<CommitDoor>();
  SeriesCatalogue catalogue_;
  EventLog event_log_;
  sinks::WatchHub watch_hub_{catalogue_};
  std::unique_ptr<sinks::Store> store_;
  std::unique_ptr<sinks::TensorBoard> tensorboard_;
  graph::SubscriberSet subscribers_;
  std::unique_ptr<ingest::Ingest> ingest_;
  std::unique_ptr<CoreMonitor> monitor_;
  std::unique_ptr<service::Server> server_;
  std::unique_ptr<ingest::Acceptor> acceptor_;
  std::unique_ptr<HealthSampler> health_;
  uint64_t started_ns_ = 0;  // CLOCK_MONOTONIC
};

}  // namespace ikkuna
