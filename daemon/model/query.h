// What is asked of recorded runs, and what comes back.
//
// Plain values, but for SeriesReader.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/model/batch.h"
#include "daemon/model/filter.h"
#include "daemon/model/series.h"
#include "shared/base/result.h"

namespace ikkuna {

// A series of some run, with what is kept of it.
struct SeriesInfo {
  std::shared_ptr<const ProducerInfo> run;
  std::shared_ptr<const Series> series;
  uint64_t count = 0;    // values
  uint64_t thinned = 0;  // numbers that were thinned away
  uint64_t first_step = 0;
  uint64_t last_step = 0;
  std::optional<double> last;  // of numbers
};

struct SeriesQuery {
  SeriesFilter filter;
  uint32_t limit = 10'000;   // most series in the answer
  std::string page = {};     // of an earlier answer: goes on behind it
};
struct SeriesPage {
  std::vector<SeriesInfo> series;  // newest run first; within a run ascending by id
  std::string next;                // empty: no more
  std::vector<std::string> unread;  // a sentence for each run that is left out, since it cannot be read
};

// What a bucket of reduced points keeps: the first, the last, the least and the greatest.
constexpr uint32_t kPointsMin = 4;

struct ReadQuery {
  SeriesFilter filter;
  std::optional<uint64_t> step_min;
  std::optional<uint64_t> step_max;
  std::map<RunKey, uint64_t> cut_from;  // runs of which only steps before this one are read
  std::vector<ValueType> types;         // of series; empty: all
  uint32_t max_points = 0;              // of numbers, a series, kPointsMin or more; 0: all
  bool oldest_first = false;            // the run that started first comes first; else last
};

// A part of one series, as columns of one length: ascending steps, or equal ones (texts).
struct SeriesColumns {
  std::shared_ptr<const ProducerInfo> run;
  std::shared_ptr<const Series> series;
  std::vector<uint64_t> steps;
  std::vector<uint32_t> epochs;
  std::vector<int64_t> unix_ns;
  std::vector<uint64_t> samples_seen;
  std::vector<uint16_t> flags;  // those of the step included
  std::vector<double> numbers;  // of a series of numbers
  std::vector<Value> others;    // of any other
  bool reduced = false;         // points were left out to keep to max_points
  bool thinned = false;         // the store had thinned some of these steps
};

// The answer to a ReadQuery, a part at a time, so that nobody holds all of it. One thread at a time.
class SeriesReader {
 public:
  // Points of one part: 1 MB of columns.
  static constexpr size_t kPointsMax = 16'384;
  virtual ~SeriesReader() = default;
  // Nothing: that was all. Parts of one series come one after another.
  virtual Result<std::optional<SeriesColumns>> Next() = 0;
};

struct EventQuery {
  SeriesFilter filter;         // its run part; an empty run: all runs and the daemon's own
  uint64_t after_id = 0;       // ascending from here
  std::string kind;            // of this kind alone; empty: any
  std::optional<uint32_t> last;  // instead: those that happened last, ascending by time
  uint32_t limit = 1000;
};
struct EventList : std::vector<Event> {
  std::vector<std::string> unread;  // a sentence for each run that is left out, since its file cannot be read
};

}  // namespace ikkuna
