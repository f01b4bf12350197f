// Which runs a client means by a text: a run_id, a display name, or `latest`.
//
// Thread rule: functions without state.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daemon/monitor.h"
#include "shared/base/result.h"

namespace ikkuna::service {

// The one that started last first; attempts descending, ranks ascending.
void SortRuns(std::vector<RunInfo>* runs);

// All attempts and ranks of the run that `text` names; of several with one display name the one that started last.
// Empty text means `latest`, which is never the daemon's own run. kNotFound names the runs that there are.
Result<std::vector<RunInfo>> FindRun(Monitor& monitor, const std::string& text);

// As FindRun, but of one attempt (absent: the last) and of one rank (absent: all).
Result<std::vector<RunInfo>> FindRanks(Monitor& monitor, const std::string& text, std::optional<uint32_t> attempt,
                                       std::optional<uint32_t> rank);

}  // namespace ikkuna::service
