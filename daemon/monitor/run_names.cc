#include "daemon/monitor/run_names.h"

#include <algorithm>
#include <functional>
#include <set>
#include <tuple>
#include <utility>

#include "daemon/model/names.h"
#include "shared/base/clock.h"
#include "shared/base/utf8.h"
#include "shared/codes.h"

namespace ikkuna {
namespace {

constexpr size_t kNamesInText = 5;  // what a person reads in an error

const std::string& NameOf(const RunInfo& run) { return run.info.run.empty() ? run.info.run_key.run_id : run.info.run; }

Failure NoSuchRun(Recorded& recorded, const std::string& text) {
  Result<std::vector<RunInfo>> runs = recorded.ListRuns();
  if (!runs) return runs.error();
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const RunInfo& run : *runs) {
    if (!IsDaemonRun(run.info.run_key) && seen.insert(NameOf(run)).second) names.push_back(NameOf(run));
  }
  if (names.empty()) return {ErrorCode::kNotFound, "no run has been recorded yet", Reason::kNoSuchRun, text};
  const std::string there = Listed(names, kNamesInText);
  return {ErrorCode::kNotFound, "no run is called '" + text + "'; there are: " + there, Reason::kNoSuchRun, text,
          there};
}

void SortOneRun(std::vector<RunInfo>* runs) {
  std::sort(runs->begin(), runs->end(), [](const RunInfo& a, const RunInfo& b) {
    return std::tie(b.info.run_key.attempt, a.info.run_key.rank) <
           std::tie(a.info.run_key.attempt, b.info.run_key.rank);
  });
}

// Of runs that are there. The order in which they came to the daemon is none: a trainer may have run long before it
// did, and an imported run is old. A run that is over and began in what is the future now began before the clock was
// set back; it would be the newest until the clock has come there again.
const RunInfo& Newest(const std::vector<RunInfo>& runs) {
  const int64_t now = UnixNs();
  const auto place = [now](const RunInfo& run) {
    return std::pair(IsOpen(run.state) || run.info.start_unix_ns <= now, run.info.start_unix_ns);
  };
  return *std::max_element(runs.begin(), runs.end(),
                           [&](const RunInfo& a, const RunInfo& b) { return place(a) < place(b); });
}

Answer<std::vector<RunInfo>> Latest(Recorded& recorded) {
  Result<std::vector<RunInfo>> runs = recorded.ListRuns();
  if (!runs) return runs.error();
  std::erase_if(*runs, [](const RunInfo& run) { return IsDaemonRun(run.info.run_key); });
  if (runs->empty()) return NoSuchRun(recorded, kLatestRun);
  const std::string run_id = Newest(*runs).info.run_key.run_id;
  std::erase_if(*runs, [&](const RunInfo& run) { return run.info.run_key.run_id != run_id; });
  SortOneRun(&*runs);
  return std::move(*runs);
}

// Whose run_id it is, else all whose display name it is.
Answer<std::vector<RunInfo>> Named(Recorded& recorded, const std::string& said) {
  const std::string text = WireName(said, kMaxNameBytes);  // as its trainer sent it
  Result<std::vector<RunInfo>> runs = recorded.FindRuns(text);
  if (!runs) return runs.error();
  if (runs->empty()) return NoSuchRun(recorded, text);
  const auto has_id = [&](const RunInfo& run) { return run.info.run_key.run_id == text; };
  if (std::any_of(runs->begin(), runs->end(), has_id)) std::erase_if(*runs, std::not_fn(has_id));
  return std::move(*runs);
}

}  // namespace

bool ComesBefore(const RunInfo& a, const RunInfo& b) {
  const RunKey& key_a = a.info.run_key;
  const RunKey& key_b = b.info.run_key;
  return std::tie(b.info.start_unix_ns, key_a.run_id, key_b.attempt, key_a.rank) <
         std::tie(a.info.start_unix_ns, key_b.run_id, key_a.attempt, key_b.rank);
}

Answer<std::vector<RunInfo>> FindRun(Recorded& recorded, const std::string& text) {
  if (text.empty() || text == kLatestRun) return Latest(recorded);
  Answer<std::vector<RunInfo>> runs = Named(recorded, text);
  if (!runs) return runs;
  const std::string run_id = Newest(*runs).info.run_key.run_id;
  std::erase_if(*runs, [&](const RunInfo& run) { return run.info.run_key.run_id != run_id; });
  SortOneRun(&*runs);
  return runs;
}

Answer<std::vector<RunInfo>> FindRunForSure(Recorded& recorded, const std::string& text) {
  if (text.empty() || text == kLatestRun) {
    return Failure{ErrorCode::kInvalidArgument, "which run is meant must be said by its run_id, or by a display name",
                   Reason::kBadField, "run"};
  }
  Answer<std::vector<RunInfo>> runs = Named(recorded, text);
  if (!runs) return runs;
  std::set<std::string> ids;
  for (const RunInfo& run : *runs) ids.insert(run.info.run_key.run_id);
  if (ids.size() > 1) {
    const std::string listed = Listed(std::vector<std::string>(ids.begin(), ids.end()), kNamesInText);
    return Failure{ErrorCode::kFailedPrecondition,
                   "several runs are called '" + text + "'; say which one by its run_id: " + listed,
                   Reason::kAmbiguousRun, text, listed};
  }
  SortOneRun(&*runs);
  return runs;
}

Answer<std::vector<RunInfo>> Narrow(std::vector<RunInfo> runs, const std::optional<uint32_t>& attempt,
                                    const std::optional<uint32_t>& rank) {
  if (runs.empty()) return Failure{ErrorCode::kNotFound, "no such run", Reason::kNoSuchRun};
  const std::string name = NameOf(runs.front());
  std::erase_if(runs, [&](const RunInfo& run) {
    return (attempt && run.info.run_key.attempt != *attempt) || (rank && run.info.run_key.rank != *rank);
  });
  if (!runs.empty()) return runs;
  std::string what = attempt ? " attempt " + std::to_string(*attempt) : "";
  if (rank) what += " rank " + std::to_string(*rank);
  return Failure{ErrorCode::kNotFound, "run '" + name + "' has no" + what, Reason::kNoSuchRun, name};
}

}  // namespace ikkuna
