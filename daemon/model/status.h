// Status: what the daemon shows of a producer and of a run.
//
// Plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/model/batch.h"
#include "daemon/model/run.h"

namespace ikkuna {

enum class RootPhase : uint8_t { kIdle = 1, kTrain = 2, kEvaluate = 3 };

struct RootStatusInfo {
  std::string name;
  RootPhase phase = RootPhase::kIdle;
  uint64_t step = 0;
  uint32_t epoch = 0;
  uint64_t samples_seen = 0;
  uint64_t steps_due = 0;       // steps for which something was demanded
  uint64_t steps_observed = 0;  // steps that were closed with their records complete
  double seconds_since_step = 0;
  double steps_per_second = 0;  // over the last seconds
  bool operator==(const RootStatusInfo&) const = default;
};

// Something that was counted, by reason.
struct Count {
  std::string reason;
  uint64_t count = 0;
  bool operator==(const Count&) const = default;
};

// One producer, connected or not. Accounting identity at rest, in records:
// handled + dropped_total + lost_in_daemon + killed == attempted.
struct ProducerStatus {
  ProducerInfo info;
  RunState state = RunState::kRunning;
  uint64_t attempted = 0;
  uint64_t handled = 0;
  uint64_t dropped_total = 0;
  std::vector<Count> drops;
  uint64_t lost_in_daemon = 0;
  uint64_t killed = 0;
  uint64_t in_flight = 0;    // published or being published, not yet handled
  uint64_t steps_total = 0;  // steps of all roots since the run began
  uint64_t steps_while_connected = 0;
  double coverage = 0;  // share of the steps that a daemon saw
  // What the graph read and nothing came of, by reason: see GraphCounters (daemon/model/message_graph.h).
  std::vector<Count> missing;
  uint64_t kinds_asked = 0;           // set of kinds (KindBit) that were ever demanded of it
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

double CoverageOf(const ProducerStatus& status);

// What is known of a producer from its last commit, `progress`, where its last saved status may be older: a killed daemon
// kept its results with each commit and the producer's own counters each second. `attempted` cannot be less than what is
// accounted for; how much more it was, the producer says if it comes back.
void CatchUp(ProducerStatus& status, const Progress& progress);

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

// A run as the store knows it.
struct RunInfo {
  ProducerInfo info;
  RunState state = RunState::kRunning;
  std::string host;  // whose daemon wrote it
  int64_t last_unix_ns = 0;
  uint64_t last_step = 0;
  uint64_t series = 0;
  uint64_t values = 0;      // kept: numbers, texts, histograms, tensors
  uint64_t thinned = 0;     // numbers that were thinned away to keep to the store's cap
  uint64_t bytes = 0;       // of its file
  std::vector<std::string> tags;  // given by users
  std::vector<Count> unrecorded;  // values that the store did not keep, by reason; of all daemons
};

}  // namespace ikkuna
