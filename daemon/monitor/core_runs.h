// CoreRuns: recorded runs, from the store and, where they go on, from ingest.
//
// Owner: CoreMonitor. Thread rule: as RunMonitor.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/monitor/core_parts.h"
#include "daemon/monitor/run_monitor.h"

namespace ikkuna {

class CoreRuns : public RunMonitor {
 public:
  explicit CoreRuns(const CoreParts& parts);
  Answer<RunPage> ListRuns(const RunQuery& query) override;
  Answer<std::vector<RunInfo>> FindRuns(const RunChoice& choice) override;
  Answer<ModulePage> ListModules(const ModuleQuery& query) override;
  Answer<WhyAnswer> Why(const WhyQuery& query) override;
  Answer<DeletedRuns> DeleteRun(const Caller& caller, const RunChoice& choice) override;
  Answer<RunTags> TagRun(const Caller& caller, const std::string& run, const std::vector<std::string>& add,
                         const std::vector<std::string>& remove) override;
  Answer<std::unique_ptr<RunFiles>> ExportRun(const RunChoice& choice) override;
  Answer<std::unique_ptr<RunImport>> ImportRun(const Caller& caller) override;

  // What was asked of one run.
  struct Known {
    std::vector<Asked> asked;
    bool asked_known = true;
  };

 protected:
  // From ingest and the store; of recorded runs alone: stored_monitor.h.
  virtual Answer<std::vector<ModuleInfo>> ModulesOf(const RunKey& run) const;
  virtual Known KnownOf(const ProducerInfo& run) const;
  virtual Answer<std::vector<ProducerStatus>> KnownProducers() const;  // all, those that are connected first

 private:
  Answer<std::vector<RunInfo>> OfLastAttempt(const RunChoice& choice) const;
  std::optional<Failure> NoSuchModule(const std::vector<RunInfo>& runs, const std::string& pattern) const;

  const CoreParts& parts_;
  const int64_t start_unix_ns_;  // of this daemon
};

}  // namespace ikkuna
