#include "daemon/model/filter.h"

#include "daemon/model/names.h"

namespace ikkuna {

bool SeriesFilter::MatchesRun(const RunKey& key, const std::string& display) const {
  if (run.empty()) {
    if (IsDaemonRun(key)) return false;
  } else if (run != key.run_id && (run_is_id || run != display)) {
    return false;
  }
  if (attempt && *attempt != key.attempt) return false;
  return !rank || *rank == key.rank;
}

bool SeriesFilter::MatchesSeries(const SeriesName& name) const {
  return MatchesPatterns(tag, name.timeline.tag) && MatchesPatterns(root, name.timeline.root) &&
         MatchesPatterns(module, name.module) && MatchesPatterns(param, name.param) &&
         MatchesPatterns(topic, name.topic);
}

}  // namespace ikkuna
