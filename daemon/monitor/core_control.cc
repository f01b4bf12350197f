#include "daemon/monitor/core_control.h"

#include <algorithm>
#include <utility>

#include "daemon/ingest/producer_session.h"
#include "daemon/model/names.h"
#include "daemon/monitor/run_names.h"

namespace ikkuna {
namespace {

constexpr size_t kNamed = 8;  // ranks in a subject

// Of the ranks that are meant those that are not connected.
std::vector<std::string> MissingRanks(const ingest::Ingest& ingest, const ingest::ControlTarget& target) {
  const auto live = ingest.FindLive(target.run_id, target.attempt);
  std::vector<uint32_t> meant = target.ranks;
  if (meant.empty()) {
    // The producer's own word: no more ranks than any job has are counted one by one.
    constexpr uint32_t kWorldMax = 65'536;
    uint32_t world_size = 0;
    for (const auto& session : live) world_size = std::max(world_size, session->run()->info()->world_size);
    for (uint32_t rank = 0; rank < std::min(world_size, kWorldMax); ++rank) meant.push_back(rank);
  }
  std::vector<std::string> missing;
  for (const uint32_t rank : meant) {
    const auto is_it = [rank](const auto& session) { return session->run_key().rank == rank; };
    if (std::none_of(live.begin(), live.end(), is_it)) missing.push_back(std::to_string(rank));
  }
  return missing;
}

// What an Error of ingest's control means to a program.
Failure ControlFailure(const ingest::Ingest& ingest, const Error& error, const ingest::ControlTarget& target,
                       const std::string& modules) {
  switch (error.code) {
    case ErrorCode::kNotFound:
      // Either the run or a module; of a run that is there it is the module.
      if (!ingest.FindLive(target.run_id, target.attempt).empty()) {
        return Failure(error.code, error.text, Reason::kNoSuchObject, modules);
      }
      return Failure(error.code, error.text, Reason::kRunNotLive, target.run_id);
    case ErrorCode::kPermissionDenied:
      return Failure(error.code, error.text, Reason::kTrainerRefuses, target.run_id);
    case ErrorCode::kFailedPrecondition: {
      const std::vector<std::string> missing = MissingRanks(ingest, target);
      if (missing.empty()) return Failure(error);
      return Failure(error.code, error.text, Reason::kRanksMissing, Listed(missing, kNamed));
    }
    default:
      return Failure(error);
  }
}

}  // namespace

Answer<std::string> CoreControl::Do(const Caller& caller, const ControlChoice& choice, const std::string& modules,
                                    const Act& act) {
  Answer<std::vector<RunInfo>> runs = FindRun(*parts_.recorded, choice.run);
  if (!runs) return runs.failure();
  const uint32_t attempt = choice.attempt.value_or(runs->front().info.run_key.attempt);
  runs = Narrow(std::move(*runs), attempt, {});
  if (!runs) return runs.failure();
  for (const RunInfo& run : *runs) {
    const bool meant = choice.ranks.empty() ||
                       std::find(choice.ranks.begin(), choice.ranks.end(), run.info.run_key.rank) != choice.ranks.end();
    if (!meant || caller.MayChange(run.info.uid)) continue;
    return Failure{ErrorCode::kPermissionDenied,
                   "run " + Describe(run.info.run_key) + " is of uid " + std::to_string(run.info.uid) + ", and " +
                       caller.name + " may control runs of their own only",
                   Reason::kRole, caller.name};
  }
  const ingest::ControlTarget target{runs->front().info.run_key.run_id, attempt, choice.ranks};
  Result<std::string> done = act({caller.uid, caller.role == Role::kControl}, target);
  if (!done) return ControlFailure(*parts_.ingest, done.error(), target, modules);
  return *std::move(done);
}

Answer<std::string> CoreControl::Freeze(const Caller& caller, const ControlChoice& choice, const std::string& modules) {
  return Do(caller, choice, modules, [&](const ingest::Caller& who, const ingest::ControlTarget& target) {
    return parts_.control->Freeze(who, target, modules);
  });
}

Answer<std::string> CoreControl::Unfreeze(const Caller& caller, const ControlChoice& choice,
                                          const std::string& modules) {
  return Do(caller, choice, modules, [&](const ingest::Caller& who, const ingest::ControlTarget& target) {
    return parts_.control->Unfreeze(who, target, modules);
  });
}

Answer<std::string> CoreControl::Stop(const Caller& caller, const ControlChoice& choice) {
  return Do(caller, choice, {}, [&](const ingest::Caller& who, const ingest::ControlTarget& target) {
    return parts_.control->Stop(who, target);
  });
}

}  // namespace ikkuna
