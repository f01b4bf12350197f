#include "daemon/monitor/stored_monitor.h"

#include <utility>

#include "daemon/monitor/core_events.h"
#include "daemon/monitor/core_parts.h"
#include "daemon/monitor/core_runs.h"
#include "daemon/monitor/core_series.h"

namespace ikkuna {
namespace {

Failure NeedsADaemon(const std::string& what) {
  return {ErrorCode::kFailedPrecondition, what + " needs a daemon: here recorded runs are read, and nothing else"};
}

CoreParts PartsOf(sinks::StoredRuns& stored) {
  CoreParts parts;
  parts.recorded = &stored;
  return parts;
}

class StoredRunMonitor : public CoreRuns {
 public:
  StoredRunMonitor(const CoreParts& parts, sinks::StoredRuns& stored) : CoreRuns(parts), stored_(stored) {}
  Answer<DeletedRuns> DeleteRun(const Caller&, const RunChoice&) override { return NeedsADaemon("deleting a run"); }
  Answer<RunTags> TagRun(const Caller&, const std::string&, const std::vector<std::string>&,
                         const std::vector<std::string>&) override {
    return NeedsADaemon("tagging a run");
  }
  Answer<std::unique_ptr<RunFiles>> ExportRun(const RunChoice&) override {
    return NeedsADaemon("copying a run's file (copy the file itself)");
  }
  Answer<std::unique_ptr<RunImport>> ImportRun(const Caller&) override { return NeedsADaemon("importing a run"); }

 protected:
  Answer<std::vector<ModuleInfo>> ModulesOf(const RunKey& run) const override { return stored_.ListModules(run); }
  Known KnownOf(const ProducerInfo&) const override {
    Known known;
    known.asked_known = false;  // that is of a daemon
    return known;
  }
  Answer<std::vector<ProducerStatus>> KnownProducers() const override { return stored_.LoadProducers(); }

 private:
  sinks::StoredRuns& stored_;
};

class StoredSeriesMonitor : public CoreSeries {
 public:
  explicit StoredSeriesMonitor(const CoreParts& parts) : CoreSeries(parts, nullptr) {}
  Answer<WatchAnswer> Watch(const SeriesFilter&, const std::optional<WatchCursor>&) override {
    return NeedsADaemon("watching");
  }
  Answer<PublishAnswer> Publish(const Caller&, const PublishRequest&) override { return NeedsADaemon("publishing"); }
};

class NoStatus : public StatusMonitor {
 public:
  DaemonStatus GetStatus() override { return {}; }
};

class NoSubscribers : public SubscriberMonitor {
 public:
  std::vector<MetricInfo> ListMetrics() override { return {}; }
  Answer<std::vector<SubscriberInfo>> ListSubscribers(const std::string&) override {
    return NeedsADaemon("listing subscribers");
  }
  Answer<SubscribeAnswer> AddSubscribers(const Caller&, const std::string&) override {
    return NeedsADaemon("subscribing");
  }
  Answer<UnsubscribeAnswer> RemoveSubscribers(const Caller&, const SubscriberChoice&) override {
    return NeedsADaemon("unsubscribing");
  }
};

class NoControl : public ControlMonitor {
 public:
  Answer<std::string> Freeze(const Caller&, const ControlChoice&, const std::string&) override {
    return NeedsADaemon("freezing");
  }
  Answer<std::string> Unfreeze(const Caller&, const ControlChoice&, const std::string&) override {
    return NeedsADaemon("unfreezing");
  }
  Answer<std::string> Stop(const Caller&, const ControlChoice&) override { return NeedsADaemon("stopping"); }
};

}  // namespace

struct StoredMonitor::Parts {
  explicit Parts(sinks::StoredRuns& stored)
      : parts(PartsOf(stored)), runs(parts, stored), series(parts), events(parts) {}

  const CoreParts parts;
  NoStatus status;
  StoredRunMonitor runs;
  StoredSeriesMonitor series;
  NoSubscribers subscribers;
  CoreEvents events;
  NoControl control;
  Activity activity;
  Monitor monitor{status, runs, series, subscribers, events, control, activity};
};

StoredMonitor::StoredMonitor(sinks::StoredRuns& stored) : parts_(std::make_unique<Parts>(stored)) {}
StoredMonitor::~StoredMonitor() = default;

Monitor& StoredMonitor::monitor() { return parts_->monitor; }

}  // namespace ikkuna
