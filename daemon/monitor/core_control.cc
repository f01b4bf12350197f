#include "daemon/monitor/core_control.h"

#include <algorithm>
#include <utility>

#include "daemon/monitor/run_names.h"

namespace ikkuna {
namespace {

// What an Error of ingest's control means to a program.
Failure ControlFailure(const Error& error, const std::string& run) {
  Reason reason = Reason::kUnspecified;
  switch (error.code) {
    case ErrorCode::kNotFound:
      reason = Reason::kRunNotLive;
      break;
    case ErrorCode::kPermissionDenied:
      reason = Reason::kTrainerRefuses;
      break;
    case ErrorCode::kFailedPrecondition:
      reason = Reason::kRanksMissing;
      break;
    default:
      return Failure(error);
  }
  return Failure(error.code, error.text, reason, run);
}

}  // namespace

Answer<std::string> CoreControl::Do(const Caller& caller, const ControlChoice& choice, const Act& act) {
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
  if (!done) return ControlFailure(done.error(), target.run_id);
  return *std::move(done);
}

Answer<std::string> CoreControl::Freeze(const Caller& caller, const ControlChoice& choice, const std::string& modules) {
  return Do(caller, choice, [&](const ingest::Caller& who, const ingest::ControlTarget& target) {
    return parts_.control->Freeze(who, target, modules);
  });
}

Answer<std::string> CoreControl::Unfreeze(const Caller& caller, const ControlChoice& choice,
                                          const std::string& modules) {
  return Do(caller, choice, [&](const ingest::Caller& who, const ingest::ControlTarget& target) {
    return parts_.control->Unfreeze(who, target, modules);
  });
}

Answer<std::string> CoreControl::Stop(const Caller& caller, const ControlChoice& choice) {
  return Do(caller, choice, [&](const ingest::Caller& who, const ingest::ControlTarget& target) {
    return parts_.control->Stop(who, target);
  });
}

}  // namespace ikkuna
