// Recorded: runs as they are kept, to be read: by the daemon that writes them (sinks/store.h) and without one from a
// data directory or a file of one run (sinks/stored_runs.h).
//
// Thread rule: every method from any thread; they may read files. A SeriesReader may outlive its Recorded's run, not
// the Recorded.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "daemon/model/query.h"
#include "daemon/model/run.h"
#include "daemon/model/status.h"
#include "shared/base/result.h"

namespace ikkuna {

class Recorded {
 public:
  virtual ~Recorded() = default;

  // Newest first, by start time. Costs nothing: from the catalogue.
  virtual Result<std::vector<RunInfo>> ListRuns() = 0;
  // Those whose run_id or display name is `name`, newest first; empty: every run but the daemon's own.
  virtual Result<std::vector<RunInfo>> FindRuns(const std::string& name) = 0;
  // kNotFound: no such run.
  virtual Result<std::vector<ModuleInfo>> ListModules(const RunKey& run) = 0;
  // kInvalidArgument: the page is not one of ours.
  virtual Result<SeriesPage> ListSeries(const SeriesQuery& query) = 0;
  // Series in the order of ListSeries. What the filter matches is fixed here; values that come later are not read.
  virtual Result<std::unique_ptr<SeriesReader>> Read(const ReadQuery& query) = 0;
  // Ascending by id; the last ones by time.
  virtual Result<EventList> ListEvents(const EventQuery& query) = 0;
};

}  // namespace ikkuna
