// SeriesFilter: which series are meant, over all runs.
//
// A plain value; const methods from any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "daemon/model/run.h"
#include "daemon/model/series.h"

namespace ikkuna {

// Empty fields match all. tag, root, module, param and topic take the patterns of daemon/model/names.h; run is a run_id
// or a display name, as it is ("latest" is resolved by the service). Empty: every run but the daemon's own.
struct SeriesFilter {
  std::string run;
  bool run_is_id = false;  // `run` is a run_id and nothing else: another run may have it as its display name
  std::optional<uint32_t> attempt;
  std::optional<uint32_t> rank;
  std::string tag;
  std::string root;
  std::string module;
  std::string param;
  std::string topic;
  bool operator==(const SeriesFilter&) const = default;

  // `display` is the display name of the run.
  bool MatchesRun(const RunKey& key, const std::string& display) const;
  bool MatchesSeries(const SeriesName& name) const;
};

}  // namespace ikkuna
