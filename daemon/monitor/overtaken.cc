#include "daemon/monitor/overtaken.h"

#include <algorithm>

namespace ikkuna {

std::map<RunKey, uint64_t> OvertakenFrom(const std::vector<RunInfo>& runs) {
  // A continuation has the greater attempt: seen from the last, each knows already how much is left of itself.
  std::map<RunKey, const RunInfo*> all;
  for (const RunInfo& run : runs) all[run.info.run_key] = &run;
  std::map<RunKey, uint64_t> overtaken_from;
  for (auto run = all.rbegin(); run != all.rend(); ++run) {
    const ProducerInfo& info = run->second->info;
    if (!info.continues || *info.continues >= info.run_key.attempt) continue;
    const auto own = overtaken_from.find(info.run_key);
    const bool has_any = run->second->values + run->second->thinned > 0;
    if (!has_any && own == overtaken_from.end()) continue;
    uint64_t from = has_any ? info.start_step : own->second;
    if (own != overtaken_from.end()) from = std::min(from, own->second);
    RunKey before = info.run_key;
    before.attempt = *info.continues;
    const auto [place, fresh] = overtaken_from.try_emplace(before, from);
    if (!fresh) place->second = std::min(place->second, from);
  }
  return overtaken_from;
}

}  // namespace ikkuna
