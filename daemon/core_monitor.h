// CoreMonitor: answers what clients ask, from ingest, subscriptions, store and watch hub.
//
// Owner: the daemon's main; all that it refers to outlives it. Thread rule: as Monitor, every method from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "daemon/graph/subscriber_set.h"
#include "daemon/ingest/ingest.h"
#include "daemon/monitor.h"
#include "daemon/series_catalogue.h"
#include "daemon/sinks/store.h"
#include "daemon/sinks/tensorboard.h"
#include "daemon/sinks/watch_hub.h"

namespace ikkuna {

// The parts of a daemon and what is said about it.
struct DaemonParts {
  ingest::Ingest* ingest = nullptr;
  graph::SubscriberSet* subscribers = nullptr;
  SeriesCatalogue* catalogue = nullptr;
  sinks::Store* store = nullptr;
  sinks::WatchHub* watch_hub = nullptr;
  sinks::TensorBoard* tensorboard = nullptr;  // null: none is written
  std::string version;
  std::string directory;
  std::string data_directory;
  std::string tensorboard_directory;
  std::string health_run;
};

class CoreMonitor : public Monitor {
 public:
  explicit CoreMonitor(DaemonParts parts);

  DaemonStatus GetStatus() override;
  // The same for the daemon's own use: no sign of a client.
  DaemonStatus Collect() const;
  Result<std::vector<RunInfo>> ListRuns() override;
  Result<std::vector<ModuleInfo>> ListModules(const RunKey& run) override;
  std::vector<MetricInfo> ListMetrics() override;
  Result<std::vector<SeriesInfo>> ListSeries(const SeriesFilter& filter) override;
  Result<ReadAnswer> Read(const ReadQuery& query) override;
  Result<std::vector<Event>> ListEvents(const EventQuery& query) override;
  Result<std::unique_ptr<Watcher>> Watch(const SeriesFilter& filter) override;
  std::vector<SubscriberInfo> ListSubscribers() override;
  Result<SubscribeAnswer> Subscribe(const std::string& text) override;
  Result<UnsubscribeAnswer> Unsubscribe(const std::string& what) override;
  Result<ControlAnswer> Freeze(const RunKey& run, const std::string& module_pattern, bool freeze) override;
  Result<ControlAnswer> Stop(const RunKey& run) override;

  // Seconds since somebody last asked anything.
  double SecondsUnused() const;

 private:
  void Touch();
  std::vector<std::string> Warnings(const std::vector<SubscriberInfo>& subscribers) const;
  Result<std::shared_ptr<ingest::ProducerSession>> Controllable(const RunKey& run, const std::string& what) const;

  // Constant after construction.
  const DaemonParts parts_;
  const int64_t start_unix_ns_;

  std::atomic<uint64_t> last_call_ns_;  // CLOCK_MONOTONIC
};

}  // namespace ikkuna
