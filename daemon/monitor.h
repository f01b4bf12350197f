// Monitor: everything a client may ask of the daemon, in plain types. The gRPC service is an edge over it; the daemon's
// core implements it (daemon/core_monitor.*).
//
// Thread rule: every method from any thread. Errors are Results whose text can be shown to a person as it is.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/sample.h"
#include "shared/base/result.h"

namespace ikkuna {

struct RootStatusInfo {
  std::string name;
  std::string phase;  // idle, train, evaluate
  uint64_t step = 0;
  uint32_t epoch = 0;
  uint64_t samples_seen = 0;
  uint64_t steps_due = 0;       // steps for which something was demanded
  uint64_t steps_observed = 0;  // steps that were closed with their records complete
  double seconds_since_step = 0;
  double steps_per_second = 0;  // over the last seconds
};

struct DropCount {
  std::string reason;
  uint64_t count = 0;
};

// One producer, connected or not. Accounting identity at rest, in records:
// handled + dropped_total + lost_in_daemon + killed == attempted.
struct ProducerStatus {
  ProducerInfo info;
  std::string state;  // running, finished, died, disconnected, quarantined, switched_off
  uint64_t attempted = 0;
  uint64_t handled = 0;
  uint64_t dropped_total = 0;
  std::vector<DropCount> drops;
  uint64_t lost_in_daemon = 0;
  uint64_t killed = 0;
  uint64_t in_flight = 0;    // published or being published, not yet handled
  uint64_t steps_total = 0;  // steps of all roots since the run began
  uint64_t steps_while_connected = 0;
  double coverage = 0;  // share of the steps that a daemon saw
  uint64_t incomplete_bundles = 0;
  double probe_cost = 0;              // share of the step time spent in our callbacks
  double probe_cost_fixed = 0;        // that of it at steps of which nothing was asked; not stored
  double budget = 0;                  // share allowed; 0: no budget
  uint32_t period_factor_tensor = 1;  // delivered period / asked period
  uint32_t period_factor_summary = 1;
  uint32_t period_factor_scalar = 1;
  uint32_t ring_slots = 0;
  uint32_t ring_used = 0;
  uint64_t arena_bytes = 0;  // usable
  uint64_t arena_used = 0;
  bool allow_control = false;  // stop at least
  bool allow_freeze = false;
  std::vector<RootStatusInfo> roots;
  std::vector<std::string> notes;  // what is not captured and why; weaker guarantees of this kernel
};

struct ModuleInfo {
  std::string root;
  std::string name;
  std::string type;
  bool functional = false;
  struct Param {
    std::string name;
    std::string dtype;
    std::vector<int64_t> sizes;
    bool bias = false;
    bool trainable = true;
    bool buffer = false;
  };
  std::vector<Param> params;
};

struct RunInfo {
  RunKey key;
  std::string run;
  std::string state;
  int64_t start_unix_ns = 0;
  int64_t last_unix_ns = 0;
  uint64_t last_step = 0;
  uint64_t series = 0;
  uint64_t samples = 0;
  std::vector<std::pair<std::string, std::string>> facts;
};

// Catalogue entry of a metric; see metrics/subscriber.h.
struct MetricInfo {
  std::string name;
  std::string help;
  std::string unit;
  std::string cost;
  std::string publishes;  // pattern of the topic, such as "{kind}_norm{order}"
  struct Parameter {
    std::string name;
    std::string default_value;
    std::string help;
  };
  std::vector<Parameter> parameters;
};

struct SubscriberInfo {
  uint64_t id = 0;
  std::string text;    // the written form, complete
  std::string source;  // default, config, flag, client
  std::vector<std::string> topics;
  uint64_t computed = 0;    // results published
  uint64_t incomplete = 0;  // bundles discarded
  double cpu_seconds = 0;
  std::string module = {};  // shell patterns of module paths, separated by '|'; empty: every module
};

// Which series: empty fields match all; module, param, tag, root and topic take shell patterns (* and ?).
struct SeriesFilter {
  // Also a display name; empty: every run but the daemon's own ("latest" is resolved by the caller of ListRuns).
  std::string run_id;
  std::optional<uint32_t> attempt;
  std::optional<uint32_t> rank;
  std::string tag;
  std::string root;
  std::string module;
  std::string param;
  std::string topic;
};

struct SeriesInfo {
  Series series;
  uint64_t count = 0;
  uint64_t first_step = 0;
  uint64_t last_step = 0;
  std::optional<Sample> last;
};

struct ReadQuery {
  uint64_t series_id = 0;
  std::optional<uint64_t> step_min;
  std::optional<uint64_t> step_max;
  uint32_t max_points = 0;  // 0: all; else min/max buckets, so that spikes survive
};

struct ReadAnswer {
  Series series;
  std::vector<Sample> samples;  // ascending steps
  bool reduced = false;         // buckets were used
};

struct EventQuery {
  std::string run_id;
  uint64_t after_id = 0;
  uint32_t limit = 1000;
};

struct WatchUpdate {
  std::vector<Series> new_series;  // every series is announced before its first sample
  std::vector<Sample> samples;
  std::vector<Event> events;
  uint64_t dropped = 0;  // samples this watcher lost so far because it was too slow
};

// A watcher's bounded queue. The callback is called from a sink's thread after something was queued (coalesced) and
// must only schedule a Take().
class Watcher {
 public:
  virtual ~Watcher() = default;
  virtual WatchUpdate Take(size_t samples_max) = 0;
  virtual void SetWakeUp(std::function<void()> wake_up) = 0;
};

struct DaemonStatus {
  std::string version;
  int32_t pid = 0;
  int64_t start_unix_ns = 0;
  std::string directory;  // of the sockets
  std::string data_directory;
  std::string tensorboard_directory;
  std::vector<ProducerStatus> producers;
  std::vector<SinkCounters> sinks;
  uint64_t series = 0;
  uint64_t series_refused = 0;
  uint64_t store_bytes = 0;
  uint64_t store_bytes_max = 0;
  uint64_t resident_bytes = 0;
  std::string health_run;  // run of the daemon's own series; empty: none are kept
};

struct SubscribeAnswer {
  std::vector<SubscriberInfo> subscribers;  // those of the text
  std::vector<SubscriberInfo> replaced;     // of the default set, that published the same topics
  std::vector<std::string> warnings;        // what was asked and cannot come to anything now, for a person
};

struct UnsubscribeAnswer {
  std::vector<SubscriberInfo> removed;
  std::vector<SubscriberInfo> restored;  // of the default set, that one of those removed had replaced
};

struct ControlAnswer {
  std::string text;  // what will happen and when, for a person
};

class Monitor {
 public:
  virtual ~Monitor() = default;
  virtual DaemonStatus GetStatus() = 0;
  virtual Result<std::vector<RunInfo>> ListRuns() = 0;
  virtual Result<std::vector<ModuleInfo>> ListModules(const RunKey& run) = 0;
  virtual std::vector<MetricInfo> ListMetrics() = 0;
  virtual Result<std::vector<SeriesInfo>> ListSeries(const SeriesFilter& filter) = 0;
  virtual Result<ReadAnswer> Read(const ReadQuery& query) = 0;
  virtual Result<std::vector<Event>> ListEvents(const EventQuery& query) = 0;
  virtual Result<std::unique_ptr<Watcher>> Watch(const SeriesFilter& filter) = 0;
  virtual std::vector<SubscriberInfo> ListSubscribers() = 0;
  // `text` in written form; may give several subscribers separated by ';'. All or nothing.
  virtual Result<SubscribeAnswer> Subscribe(const std::string& text) = 0;
  // By id, or by the exact written form, or by topic.
  virtual Result<UnsubscribeAnswer> Unsubscribe(const std::string& what) = 0;
  virtual Result<ControlAnswer> Freeze(const RunKey& run, const std::string& module_pattern, bool freeze) = 0;
  virtual Result<ControlAnswer> Stop(const RunKey& run) = 0;
};

}  // namespace ikkuna
