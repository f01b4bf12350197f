#include "daemon/core_monitor.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <utility>

#include "daemon/graph/names.h"
#include "shared/base/clock.h"
#include "shared/base/suggestion.h"

namespace ikkuna {

namespace {

uint64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t total_pages = 0;
  uint64_t resident_pages = 0;
  if (!(file >> total_pages >> resident_pages)) return 0;
  return resident_pages * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

std::string Describe(const RunKey& run) {
  return "'" + run.run_id + "' (attempt " + std::to_string(run.attempt) + ", rank " + std::to_string(run.rank) + ")";
}

constexpr size_t kNamed = 8;  // modules of a list in a sentence

std::string Names(const std::vector<ingest::RegistryNames::Target>& targets) {
  std::vector<std::string> names;
  for (const auto& target : targets) names.push_back(target.name);
  return graph::Listed(names, kNamed);
}

}  // namespace

CoreMonitor::CoreMonitor(DaemonParts parts)
    : parts_(std::move(parts)), start_unix_ns_(UnixNs()), last_call_ns_(MonotonicNs()) {}

void CoreMonitor::Touch() { last_call_ns_.store(MonotonicNs(), std::memory_order_relaxed); }

double CoreMonitor::SecondsUnused() const {
  return static_cast<double>(MonotonicNs() - last_call_ns_.load(std::memory_order_relaxed)) * 1e-9;
}

DaemonStatus CoreMonitor::GetStatus() {
  Touch();
  return Collect();
}

DaemonStatus CoreMonitor::Collect() const {
  DaemonStatus status;
  status.version = parts_.version;
  status.pid = ::getpid();
  status.start_unix_ns = start_unix_ns_;
  status.directory = parts_.directory;
  status.data_directory = parts_.data_directory;
  status.tensorboard_directory = parts_.tensorboard_directory;
  status.producers = parts_.ingest->Producers();
  status.sinks.push_back(parts_.store->counters());
  if (parts_.tensorboard != nullptr) status.sinks.push_back(parts_.tensorboard->counters());
  status.sinks.push_back(parts_.watch_hub->counters());
  status.series = parts_.catalogue->size();
  status.series_refused = parts_.catalogue->refused();
  status.store_bytes = parts_.store->store_bytes();
  status.store_bytes_max = parts_.store->bytes_max();
  status.resident_bytes = ResidentBytes();
  status.health_run = parts_.health_run;
  return status;
}

Result<std::vector<RunInfo>> CoreMonitor::ListRuns() {
  Touch();
  return parts_.store->ListRuns();
}

Result<std::vector<ModuleInfo>> CoreMonitor::ListModules(const RunKey& run) {
  Touch();
  if (auto session = parts_.ingest->FindLive(run)) return session->Modules();
  return parts_.store->ListModules(run);
}

std::vector<MetricInfo> CoreMonitor::ListMetrics() {
  Touch();
  return parts_.subscribers->Metrics();
}

Result<std::vector<SeriesInfo>> CoreMonitor::ListSeries(const SeriesFilter& filter) {
  Touch();
  return parts_.store->ListSeries(filter);
}

Result<ReadAnswer> CoreMonitor::Read(const ReadQuery& query) {
  Touch();
  return parts_.store->Read(query);
}

Result<std::vector<Event>> CoreMonitor::ListEvents(const EventQuery& query) {
  Touch();
  return parts_.store->ListEvents(query);
}

Result<std::unique_ptr<Watcher>> CoreMonitor::Watch(const SeriesFilter& filter) {
  Touch();
  return parts_.watch_hub->Watch(filter);
}

std::vector<SubscriberInfo> CoreMonitor::ListSubscribers() {
  Touch();
  return parts_.subscribers->List();
}

// Of subscribers whose modules no connected run has. With no run connected nothing can be said.
std::vector<std::string> CoreMonitor::Warnings(const std::vector<SubscriberInfo>& subscribers) const {
  std::vector<std::string> names;
  for (const ProducerStatus& producer : parts_.ingest->Producers()) {
    const auto session = parts_.ingest->FindLive(producer.info.run_key);
    if (!session) continue;
    for (const ModuleInfo& module : session->Modules()) names.push_back(module.name);
  }
  std::vector<std::string> warnings;
  if (names.empty()) return warnings;
  for (const SubscriberInfo& subscriber : subscribers) {
    const auto matches = [&](const std::string& name) { return graph::MatchesPatterns(subscriber.module, name); };
    if (std::any_of(names.begin(), names.end(), matches)) continue;
    warnings.push_back("module=" + subscriber.module + " matches no module of a run that is connected" +
                       Suggestion(subscriber.module, names) + " There are " + graph::Listed(names, kNamed));
  }
  return warnings;
}

Result<SubscribeAnswer> CoreMonitor::Subscribe(const std::string& text) {
  Touch();
  auto added = parts_.subscribers->Add(text, graph::Source::kClient);
  if (!added) return added;
  parts_.ingest->WakeAll();
  added->warnings = Warnings(added->subscribers);
  return added;
}

Result<UnsubscribeAnswer> CoreMonitor::Unsubscribe(const std::string& what) {
  Touch();
  auto removed = parts_.subscribers->Remove(what);
  if (removed) parts_.ingest->WakeAll();
  return removed;
}

// The session of a run that is there and lets itself be controlled.
Result<std::shared_ptr<ingest::ProducerSession>> CoreMonitor::Controllable(const RunKey& run,
                                                                           const std::string& what) const {
  auto session = parts_.ingest->FindLive(run);
  if (!session) {
    return Error{ErrorCode::kFailedPrecondition,
                 "cannot " + what + ": run " + Describe(run) + " is not connected to this daemon now"};
  }
  const ProducerStatus status = session->status();
  if (status.state != "running") {
    return Error{ErrorCode::kFailedPrecondition, "cannot " + what + ": run " + Describe(run) + " is " + status.state};
  }
  if (!status.allow_control) {
    return Error{ErrorCode::kPermissionDenied, "cannot " + what + ": the trainer of run " + Describe(run) +
                                                   " does not allow control; it has to set allow_control in its "
                                                   "probe's options"};
  }
  return session;
}

Result<ControlAnswer> CoreMonitor::Freeze(const RunKey& run, const std::string& module_pattern, bool freeze) {
  Touch();
  const std::string verb = freeze ? "freeze" : "unfreeze";
  auto session = Controllable(run, verb);
  if (!session) return session.error();
  if (!(*session)->status().allow_freeze) {
    return Error{ErrorCode::kFailedPrecondition,
                 "cannot " + verb + ": the trainer of run " + Describe(run) +
                     " publishes through the C interface, which can be stopped, but has no hold of the parameters"};
  }
  auto targets = (*session)->FindTargets(module_pattern);
  if (!targets) return Error{targets.error().code, "cannot " + verb + ": " + targets.error().text};
  std::vector<shm::Command> commands;
  for (const auto& target : *targets) {
    shm::Command command{};
    command.type = static_cast<uint32_t>(freeze ? shm::CommandType::kFreeze : shm::CommandType::kUnfreeze);
    command.module = target.module;
    command.root = target.root;
    commands.push_back(command);
  }
  if (auto pushed = (*session)->PushCommands(commands); !pushed) return pushed.error();
  const std::string text = verb + " of " + Names(*targets) + " asked of run " + Describe(run) +
                           "; the trainer does it at the boundary of its next step, and an event tells what changed";
  parts_.ingest->OfferEvent(Severity::kInfo, verb, text, run);
  return ControlAnswer{text};
}

Result<ControlAnswer> CoreMonitor::Stop(const RunKey& run) {
  Touch();
  auto session = Controllable(run, "stop");
  if (!session) return session.error();
  shm::Command command{};
  command.type = static_cast<uint32_t>(shm::CommandType::kStop);
  if (auto pushed = (*session)->PushCommands({command}); !pushed) return pushed.error();
  const std::string text = "stop asked of run " + Describe(run) +
                           "; its probe answers true to StopRequested() from the next step on, and the trainer ends "
                           "where it asks";
  parts_.ingest->OfferEvent(Severity::kInfo, "stop", text, run);
  return ControlAnswer{text};
}

}  // namespace ikkuna
