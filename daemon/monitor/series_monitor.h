// SeriesMonitor: values of runs: read, watched, published.
//
// Thread rule: every method from any thread; they may read files. The run of a filter is a run_id, a display name or
// `latest`.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/model/query.h"
#include "daemon/model/watch.h"
#include "daemon/monitor/answer.h"
#include "daemon/monitor/caller.h"
#include "metrics/value.h"

namespace ikkuna {

struct ReadOptions {
  ReadQuery query;
  bool merge_attempts = false;  // leaves out what a later attempt of the same line overtook
};
struct ReadAnswer {
  std::unique_ptr<SeriesReader> reader;
  WatchCursor cursor;  // for a watch that begins where this read ended
};

struct WatchAnswer {
  std::unique_ptr<Watcher> watcher;
  Uuid daemon{};  // of the cursors that its updates are places of
};

struct PublishedValue {
  SeriesName name;  // its timeline is the step's
  std::string unit;
  Value value;
};
struct PublishedStep {
  StepStamp stamp;  // unix_ns 0: now; its timeline is not used
  Timeline timeline;
  std::vector<PublishedValue> values;
};
struct PublishRequest {
  std::string run;      // that is live; or
  std::string own_run;  // of the client's own
  std::optional<uint32_t> attempt;
  std::optional<uint32_t> rank;
  std::vector<PublishedStep> steps;
  bool end = false;  // of own_run: it has finished
};
struct PublishAnswer {
  RunKey run;
  uint64_t values = 0;
};

class SeriesMonitor {
 public:
  virtual ~SeriesMonitor() = default;
  virtual Answer<SeriesPage> ListSeries(const SeriesQuery& query) = 0;
  virtual Answer<ReadAnswer> ReadSamples(const ReadOptions& options) = 0;
  // Without a cursor from now on. A run of which nobody has heard may be yet to come, under that id or display name.
  virtual Answer<WatchAnswer> Watch(const SeriesFilter& filter, const std::optional<WatchCursor>& cursor) = 0;
  virtual Answer<PublishAnswer> Publish(const Caller& caller, const PublishRequest& request) = 0;
};

}  // namespace ikkuna
