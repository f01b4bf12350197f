// What leaves the graph: samples, events and texts of one producer, in batches, on their way to every sink.
//
// Plain values; a Batch is immutable once offered and shared by the sinks.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace ikkuna {

using Uuid = std::array<unsigned char, 16>;

// A run of one rank. `attempt` is the scheduler's restart count.
struct RunKey {
  std::string run_id;
  uint32_t attempt = 0;
  uint32_t rank = 0;
  auto operator<=>(const RunKey&) const = default;
};

// The run of the daemon's own series (daemon/health.h). No trainer gets this id. "Every run" means every training: this
// one is meant only where it is named.
inline constexpr char kDaemonRunId[] = "ikkuna-daemon";
inline constexpr char kDaemonTag[] = "daemon";
inline bool IsDaemonRun(const RunKey& run) { return run.run_id == kDaemonRunId; }

// What is known of a producer; identity (pid, uid) is the kernel's.
struct ProducerInfo {
  Uuid uuid{};
  RunKey run_key;
  std::string run;  // display name
  uint32_t world_size = 1;
  int32_t pid = 0;
  uint32_t uid = 0;
  int64_t start_unix_ns = 0;
  std::vector<std::pair<std::string, std::string>> facts;  // command line, hyperparameters, host, ...
};

// Names one series. Empty strings where a part does not apply (META topics have no module).
struct SeriesKey {
  RunKey run;
  std::string tag;     // default, test, no_grad, or the caller's
  std::string root;    // model, model1, ...
  std::string module;  // dotted path
  std::string param;   // weight, bias, weight_ih_l0; the name of a scalar logged by the trainer
  std::string topic;   // weights_norm2, loss, scalar, ...
  auto operator<=>(const SeriesKey&) const = default;
};

struct Series {
  uint64_t id = 0;  // stable within one store, from 1
  SeriesKey key;
  std::string module_type;  // Linear, Conv2d, ...
  std::string unit;         // empty: none
};

// Bits of Sample::flags are RecordFlag of shared/codes.h.
struct Sample {
  uint64_t series_id = 0;
  uint64_t step = 0;  // global_step
  uint32_t epoch = 0;
  uint16_t flags = 0;
  int64_t unix_ns = 0;
  uint64_t samples_seen = 0;
  double value = 0;  // NaN and infinities are data
};

struct TextSample {
  uint64_t series_id = 0;
  uint64_t step = 0;
  int64_t unix_ns = 0;
  std::string text;
};

enum class Severity : uint8_t { kInfo = 1, kWarning = 2, kError = 3 };

struct Event {
  uint64_t id = 0;  // set by the store, from 1
  int64_t unix_ns = 0;
  Severity severity = Severity::kInfo;
  RunKey run;        // empty run_id: the daemon's own
  std::string kind;  // run_started, run_ended, quarantined, non_finite, uncaptured, subscription_failed, ...
  std::string text;  // one sentence for a person
  uint64_t step = 0;
};

// How far the graph is with a producer's records. The store commits it in the transaction of the samples.
struct Progress {
  Uuid producer{};
  uint64_t done_seq = 0;        // every record up to here has left all its results in this or an earlier batch
  uint64_t lost_in_daemon = 0;  // records released by an earlier daemon but never committed
  uint64_t killed = 0;          // reserved, never committed by a trainer that died
};

struct Batch {
  std::shared_ptr<const ProducerInfo> producer;  // null: the daemon's own samples
  std::vector<Sample> samples;
  std::vector<TextSample> texts;
  std::vector<Event> events;
  Progress progress;
};

// A destination of batches. Offer is called from ingest threads; it never blocks and never fails: what it cannot take
// it drops and counts, so that computed == written + dropped holds for each sink.
class SampleSink {
 public:
  virtual ~SampleSink() = default;
  virtual void Offer(std::shared_ptr<const Batch> batch) = 0;
};

struct SinkCounters {
  std::string name;
  uint64_t offered = 0;  // samples
  uint64_t written = 0;
  uint64_t dropped = 0;
  uint64_t queued = 0;     // batches waiting
  double lag_seconds = 0;  // age of the oldest batch waiting
};

}  // namespace ikkuna
