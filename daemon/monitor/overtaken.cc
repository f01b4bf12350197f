#include "daemon/monitor/overtaken.h"

#include <algorithm>
#include <string>
#include <tuple>

namespace ikkuna {

std::map<RunKey, uint64_t> OvertakenFrom(const std::vector<RunInfo>& runs) {
  std::map<RunKey, const RunInfo*> all;
  for (const RunInfo& run : runs) all[run.info.run_key] = &run;
  std::map<std::tuple<std::string, uint32_t, uint32_t>, uint64_t> begun;  // by run, rank and line: where later ones begin
  std::map<RunKey, uint64_t> overtaken_from;
  for (auto run = all.rbegin(); run != all.rend(); ++run) {
    const ProducerInfo& info = run->second->info;
    const RunKey& key = info.run_key;
    uint64_t& later = begun.try_emplace({key.run_id, key.rank, LineOf(info)}, UINT64_MAX).first->second;
    if (later != UINT64_MAX) overtaken_from[key] = later;
    if (run->second->values + run->second->thinned > 0) later = std::min(later, info.start_step);
  }
  return overtaken_from;
}

}  // namespace ikkuna
