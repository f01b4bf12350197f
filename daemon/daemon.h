// Daemon: all parts of ikkuna-daemon, in the order in which they start and stop.
//
// Start: directory and its lock; the sinks, the store first; subscribers; the graph's threads; ingest; gRPC; the health
// of it all; at last the probe socket, so that a trainer that gets in finds everything ready. Stop: the probe socket;
// what subscribers asked for; ingest (asks for nothing more, handles what is committed); the graph's threads; health has
// its last look; the sinks write it down; gRPC (watchers have seen it); the sinks once more, with what clients published
// meanwhile; the producers' sockets close; the sinks close; the lock goes. So a trainer sees the end of the daemon only
// after everything that was read of it is kept.
//
// Owner: main, or a test. Thread rule: every method from one thread.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "daemon/actions.h"
#include "daemon/config.h"
#include "daemon/graph/job_graph.h"
#include "daemon/graph/memory_budget.h"
#include "daemon/graph/subscriber_set.h"
#include "daemon/graph/work_queue.h"
#include "daemon/health.h"
#include "daemon/ingest/acceptor.h"
#include "daemon/ingest/control.h"
#include "daemon/kept_state.h"
#include "daemon/linger.h"
#include "daemon/monitor/core_monitor.h"
#include "daemon/service/server.h"
#include "daemon/sink_list.h"
#include "daemon/sinks/store.h"
#include "daemon/sinks/watch_hub.h"
#include "daemon/ticker.h"
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

  Monitor& monitor() { return core_->monitor(); }
  const service::Server& server() const { return *server_; }
  const std::string& directory() const { return directory_; }
  // As it is in force, the directory of data filled in.
  const Config& config() const { return config_; }

  // The configuration was read again (SIGHUP). Takes over what can change at run time, tokens and certificates even
  // where their paths are the same, and what failed the last time; an event says what did, and what waits for the next
  // start. An error, here or in the configuration, leaves all as it was, with an event.
  void Reload(const Result<Config>& fresh);

  // Nobody needs the daemon any more (linger.h). From then on it must end.
  bool LingerIsOver() { return linger_->IsOver(); }

 private:
  // Lets the store's thread reach ingest while there is one.
  struct CommitDoor {
    std::mutex mutex;
    ingest::Ingest* ingest = nullptr;
  };

  explicit Daemon(const Config& config) : config_(config) {}
  Status StartParts(const std::string& version);
  Status TakeDirectory();
  Status OpenSinks();
  void StartGraph();
  void StartIngest(const std::string& version);
  Status StartService(const std::string& version);
  void StartHealth();
  Status OpenDoor();
  static std::vector<uid_t> UidsOf(const Config& config);  // that may connect besides our own
  void TellRefusals();
  void SwitchSubscribers(const Config& fresh);
  std::shared_ptr<Run> OpenJobRun(const ProducerInfo& all);
  Result<std::string> Act(const RunKey& run, const Action& action);
  void Tell(Severity severity, const std::string& kind, std::string text);
  void Note(shm::DaemonState state, const std::string& text);

  Config config_;
  // Constant after Start.
  std::string directory_;
  std::string host_directory_;

  // In the order of their start.
  std::unique_ptr<Linger> linger_;
  std::optional<shm::DirectoryLock> lock_;
  std::shared_ptr<CommitDoor> door_ = std::make_shared<CommitDoor>();
  SinkList sinks_;
  std::unique_ptr<KeptCounters> kept_counters_;
  std::shared_ptr<sinks::Store> store_;
  std::shared_ptr<sinks::WatchHub> watch_hub_;
  graph::SubscriberSet subscribers_;
  bool subscribed_all_ = true;  // of config_; else the next Reload tries again, whether that has changed or not
  std::unique_ptr<KeptSubscriptions> kept_subscriptions_;
  std::unique_ptr<graph::MemoryBudget> memory_;
  std::unique_ptr<Actions> actions_;
  std::unique_ptr<graph::WorkQueue> queue_;
  std::unique_ptr<graph::JobGraphs> jobs_;
  std::unique_ptr<ingest::Ingest> ingest_;
  std::unique_ptr<ingest::Control> control_;
  std::unique_ptr<CoreMonitor> core_;
  std::unique_ptr<service::Server> server_;
  service::RefusedConnections refused_told_;  // of keep_ticker_; of Stop() when that is gone
  std::shared_ptr<Run> health_run_;
  std::unique_ptr<HealthSampler> health_;
  std::unique_ptr<Ticker> job_ticker_;
  std::unique_ptr<Ticker> keep_ticker_;
  std::unique_ptr<ingest::Acceptor> acceptor_;
};

}  // namespace ikkuna
