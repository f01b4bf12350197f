// Batch: what leaves a graph at one time, on its way to every sink: the values of one step of one timeline, events, and
// how far the graph is.
//
// Plain values; immutable once offered, shared by the sinks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/model/run.h"
#include "daemon/model/series.h"
#include "metrics/event.h"
#include "metrics/value.h"

namespace ikkuna {

// Of a value that is read, beside its RecordFlags: values of its series at steps around it, or before it, are gone,
// since the store thinned them away. Stands in no record and in no file.
inline constexpr uint16_t kFlagThinned = 1 << 15;
// Of a value of all ranks: one or more had no part in it. Stands in no record, but is kept.
inline constexpr uint16_t kFlagRanksMissing = 1 << 14;

// What belongs to a step as a whole. Stored once for a step, whatever the number of its values.
struct StepStamp {
  TimelineId timeline = 0;
  uint64_t step = 0;  // global_step
  uint32_t epoch = 0;
  int64_t unix_ns = 0;        // when it ended
  uint64_t samples_seen = 0;  // training samples up to it; 0: unknown
  uint16_t flags = 0;         // RecordFlag of shared/codes.h, of the step as a whole
};

// A number. NaN and infinities are data.
struct Sample {
  uint32_t series = 0;  // id in the run's catalogue
  uint16_t flags = 0;   // RecordFlag, of the messages it was made of; those of the step are not repeated
  double value = 0;
};

// Anything else. Of texts a series may have several a step: all stay, in their order.
struct OtherValue {
  uint32_t series = 0;
  uint16_t flags = 0;
  Value value;
};

// Kinds that parts of the daemon act on, beside those that only people read.
inline constexpr char kRunEnded[] = "run_ended";      // its process is gone, and the graph has given all it had of it
inline constexpr char kRunResumed[] = "run_resumed";  // the daemon goes on with a process that an earlier one served
inline constexpr char kPublished[] = "published";      // whose a topic of the run is: stays for as long as the run

struct Event {
  uint64_t id = 0;  // set by the store, from 1, ascending over all runs of one daemon; 0: not stored yet
  int64_t unix_ns = 0;
  Severity severity = Severity::kInfo;
  RunKey run;        // empty run_id: the daemon's own
  std::string kind;  // run_started, run_ended, quarantined, non_finite, uncaptured, subscription_failed, ...
  std::string text;  // one sentence for a person
  uint64_t step = 0;
};

// How far the graph is with a producer's records. The store commits it in the transaction of the samples.
struct Progress {
  uint64_t done_seq = 0;        // every record up to here has left all its results in this or an earlier batch
  uint64_t lost_in_daemon = 0;  // records released by an earlier daemon but never committed
  uint64_t killed = 0;          // reserved, never committed by a trainer that died
  // When that was so: the producer's steps, of all roots, and those that were made while a daemon was connected.
  uint64_t steps_total = 0;
  uint64_t steps_connected = 0;
  // Every record up to here was read, `done_seq` or beyond, and what came of them is counted: of each root, by name,
  // the steps that lacked nothing; and what came to nothing, by reason (ProducerStatus::missing).
  uint64_t read_seq = 0;
  std::vector<std::pair<std::string, uint64_t>> steps_observed = {};
  std::vector<std::pair<std::string, uint64_t>> missing = {};
  // Of the records behind `done_seq`, up to `read_seq`, those whose results have left as well, at least: a step that stays
  // open, such as a long evaluation, holds back `done_seq`, but nothing that other steps brought.
  uint64_t done_beyond = 0;
  bool operator==(const Progress&) const = default;

  // Records whose results have left.
  uint64_t handled() const { return done_seq + done_beyond - lost_in_daemon; }
};

struct Batch {
  std::shared_ptr<Run> run;  // null: only events of the daemon itself
  StepStamp stamp;           // where samples or others are
  std::vector<Sample> samples;
  std::vector<OtherValue> others;
  std::vector<Event> events;
  std::optional<Progress> progress;

  uint64_t values() const { return samples.size() + others.size(); }
};
// What it takes in memory, roughly: what queues bound.
size_t BytesOf(const Batch& batch);

}  // namespace ikkuna
