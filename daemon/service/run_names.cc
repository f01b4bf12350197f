#include "daemon/service/run_names.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

namespace ikkuna::service {
namespace {

constexpr size_t kNamesInText = 5;  // what a person reads in an error

Error NoSuchRun(const std::string& text, const std::vector<RunInfo>& runs) {
  if (std::all_of(runs.begin(), runs.end(), [](const RunInfo& run) { return IsDaemonRun(run.key); })) {
    return {ErrorCode::kNotFound, "no run has been recorded yet"};
  }
  std::string names;
  std::set<std::string> seen;
  for (const RunInfo& run : runs) {
    if (IsDaemonRun(run.key)) continue;
    const std::string& name = run.run.empty() ? run.key.run_id : run.run;
    if (!seen.insert(name).second) continue;
    if (seen.size() > kNamesInText) {
      names += ", ...";
      break;
    }
    names += (names.empty() ? "" : ", ") + name;
  }
  return {ErrorCode::kNotFound, "no run is called '" + text + "'; there are: " + names};
}

}  // namespace

void SortRuns(std::vector<RunInfo>* runs) {
  std::sort(runs->begin(), runs->end(), [](const RunInfo& a, const RunInfo& b) {
    return std::tie(b.start_unix_ns, a.key.run_id, b.key.attempt, a.key.rank) <
           std::tie(a.start_unix_ns, b.key.run_id, a.key.attempt, b.key.rank);
  });
}

Result<std::vector<RunInfo>> FindRun(Monitor& monitor, const std::string& text) {
  Result<std::vector<RunInfo>> listed = monitor.ListRuns();
  if (!listed) return listed.error();
  std::vector<RunInfo> runs = std::move(*listed);
  SortRuns(&runs);
  std::string run_id;
  if (text.empty() || text == "latest") {
    auto training = std::find_if(runs.begin(), runs.end(), [](const RunInfo& run) { return !IsDaemonRun(run.key); });
    if (training != runs.end()) run_id = training->key.run_id;
  } else {
    auto by_id = std::find_if(runs.begin(), runs.end(), [&](const RunInfo& run) { return run.key.run_id == text; });
    auto by_name = std::find_if(runs.begin(), runs.end(), [&](const RunInfo& run) { return run.run == text; });
    if (by_id != runs.end()) {
      run_id = by_id->key.run_id;
    } else if (by_name != runs.end()) {
      run_id = by_name->key.run_id;
    }
  }
  std::vector<RunInfo> found;
  std::copy_if(runs.begin(), runs.end(), std::back_inserter(found),
               [&](const RunInfo& run) { return run.key.run_id == run_id; });
  if (found.empty()) return NoSuchRun(text, runs);
  std::sort(found.begin(), found.end(), [](const RunInfo& a, const RunInfo& b) {
    return std::tie(b.key.attempt, a.key.rank) < std::tie(a.key.attempt, b.key.rank);
  });
  return found;
}

Result<std::vector<RunInfo>> FindRanks(Monitor& monitor, const std::string& text, std::optional<uint32_t> attempt,
                                       std::optional<uint32_t> rank) {
  Result<std::vector<RunInfo>> found = FindRun(monitor, text);
  if (!found) return found.error();
  const std::string name = found->front().run.empty() ? found->front().key.run_id : found->front().run;
  uint32_t wanted = attempt.value_or(found->front().key.attempt);
  std::vector<RunInfo> ranks;
  for (RunInfo& run : *found) {
    if (run.key.attempt == wanted && (!rank || run.key.rank == *rank)) ranks.push_back(std::move(run));
  }
  if (ranks.empty()) {
    std::string text_of_rank = rank ? " rank " + std::to_string(*rank) : "";
    return Error{ErrorCode::kNotFound, "run '" + name + "' has no attempt " + std::to_string(wanted) + text_of_rank};
  }
  return ranks;
}

}  // namespace ikkuna::service
