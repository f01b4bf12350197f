// RunMonitor: recorded runs: which there are, what is missing of them, and what becomes of them.
//
// Thread rule: every method from any thread; they may read files. A RunFiles or RunImport by one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/model/run.h"
#include "daemon/model/status.h"
#include "daemon/monitor/answer.h"
#include "daemon/monitor/caller.h"
#include "daemon/monitor/why.h"

namespace ikkuna {

// A run_id, a display name or `latest`; empty: `latest`, or every run where that is said.
struct RunChoice {
  std::string run = {};
  std::optional<uint32_t> attempt = {};
  std::optional<uint32_t> rank = {};
};

struct RunQuery {
  std::string run;  // empty: every run
  std::vector<std::string> tags;
  std::vector<RunState> states;  // empty: any
  uint32_t limit = 200;
  std::string page;  // of an earlier answer
};
struct RunPage {
  std::vector<RunInfo> runs;  // the one that started last first
  std::string next;           // empty: no more
};

struct ModuleQuery {
  RunChoice run;       // no attempt: the last one; no rank: the lowest
  std::string module;  // patterns
  uint32_t limit = 1000;
  std::string page;
};
struct ModulePage {
  RunKey run;
  std::vector<ModuleInfo> modules;
  std::string next;
};

struct WhyQuery {
  RunChoice run;       // no attempt: the last one; no rank: every rank
  std::string module;  // patterns
  std::string kind;    // patterns
};
struct MissingValue {
  RunKey run;
  WhyLine line;
};
struct WhyAnswer {
  static constexpr size_t kMissingMax = 2000;  // what a person reads, and more; a few hundred bytes each
  std::vector<MissingValue> missing;
  bool more = false;
};

struct DeletedRuns {
  std::vector<RunKey> runs;
  uint64_t bytes = 0;
};
struct RunTags {
  std::string run_id;
  std::vector<std::string> tags;
};

// The files of some runs, one after another.
class RunFiles {
 public:
  struct File {
    RunKey run;
    std::string name;  // without a folder
    uint64_t bytes = 0;
  };
  virtual ~RunFiles() = default;
  // Begins the next one; nothing: that was all.
  virtual Answer<std::optional<File>> NextFile() = 0;
  // The next bytes of it, at most `bytes_max`; empty: its end.
  virtual Answer<std::string> Read(size_t bytes_max) = 0;
};

// One file that comes in. What was not finished is removed with it.
class RunImport {
 public:
  virtual ~RunImport() = default;
  virtual Status Write(const std::string& bytes) = 0;
  virtual Answer<RunInfo> Finish() = 0;
};

class RunMonitor {
 public:
  virtual ~RunMonitor() = default;
  virtual Answer<RunPage> ListRuns(const RunQuery& query) = 0;
  // The attempts and ranks that are meant, newest attempt first, ranks ascending; never none.
  virtual Answer<std::vector<RunInfo>> FindRuns(const RunChoice& choice) = 0;
  virtual Answer<ModulePage> ListModules(const ModuleQuery& query) = 0;
  virtual Answer<WhyAnswer> Why(const WhyQuery& query) = 0;
  // Named without doubt: `latest` and a display name of several runs are refused.
  virtual Answer<DeletedRuns> DeleteRun(const Caller& caller, const RunChoice& choice) = 0;
  virtual Answer<RunTags> TagRun(const Caller& caller, const std::string& run, const std::vector<std::string>& add,
                                 const std::vector<std::string>& remove) = 0;
  virtual Answer<std::unique_ptr<RunFiles>> ExportRun(const RunChoice& choice) = 0;
  virtual Answer<std::unique_ptr<RunImport>> ImportRun(const Caller& caller) = 0;
};

}  // namespace ikkuna
