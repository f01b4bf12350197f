// Which runs are meant by a text: a run_id, a display name, or `latest`.
//
// Thread rule: functions without state; they ask Recorded.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daemon/model/recorded.h"
#include "daemon/monitor/answer.h"
#include "daemon/monitor/run_monitor.h"

namespace ikkuna {

// All attempts and ranks of the run that `text` names, newest attempt first, ranks ascending; never none. A run_id goes
// before a display name; of several runs with one display name the one that started last is meant. Empty text means
// `latest`, the one that started last of all, by the clock of its trainer; never the daemon's own run, nor one that is
// over and started later than it is now, where there is another. kNoSuchRun names the runs that there are.
Answer<std::vector<RunInfo>> FindRun(Recorded& recorded, const std::string& text);

// The same, but a text that leaves a doubt is refused: `latest`, an empty one, a display name of several runs.
Answer<std::vector<RunInfo>> FindRunForSure(Recorded& recorded, const std::string& text);

// Of these (all of one run) those of the attempt and the rank; kNoSuchRun where there is none.
Answer<std::vector<RunInfo>> Narrow(std::vector<RunInfo> runs, const std::optional<uint32_t>& attempt,
                                    const std::optional<uint32_t>& rank);

// The one that started last first; then by run, newest attempt first, ranks ascending.
bool ComesBefore(const RunInfo& a, const RunInfo& b);

}  // namespace ikkuna
