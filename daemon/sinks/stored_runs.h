// StoredRuns: recorded runs without a daemon: a data directory, or a file of one run, read-only.
//
// Owner: whoever reads (`ikkuna --data-dir`). Thread rule: every method from any thread. Runs that a daemon has open
// now are listed in unread(), and are read through it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "daemon/model/recorded.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

class StoredRuns : public Recorded {
 public:
  // `path`: a data directory (all hosts under it) or a run's file. Nothing there is changed, made or locked for long.
  static Result<std::unique_ptr<StoredRuns>> Open(const std::string& path);
  ~StoredRuns() override;
  StoredRuns(const StoredRuns&) = delete;
  StoredRuns& operator=(const StoredRuns&) = delete;

  Result<std::vector<RunInfo>> ListRuns() override;
  Result<std::vector<RunInfo>> FindRuns(const std::string& name) override;
  Result<std::vector<ModuleInfo>> ListModules(const RunKey& run) override;
  Result<SeriesPage> ListSeries(const SeriesQuery& query) override;
  Result<std::unique_ptr<SeriesReader>> Read(const ReadQuery& query) override;
  Result<EventList> ListEvents(const EventQuery& query) override;

  // As RunStore has it: the last known state and counters of each.
  Result<std::vector<ProducerStatus>> LoadProducers();

  // Files that are not part of the answers, each with the reason, in one sentence.
  const std::vector<std::string>& unread() const;

 private:
  class Impl;
  explicit StoredRuns(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace ikkuna::sinks
