#include "daemon/monitor/overtaken.h"

#include <algorithm>

namespace ikkuna {

std::map<RunKey, uint64_t> OvertakenFrom(const std::vector<RunInfo>& runs) {
  // A continuation has the greater attempt: seen from the last, each knows already how much is left of itself.
  std::map<RunKey, const ProducerInfo*> all;
  for (const RunInfo& run : runs) all[run.info.run_key] = &run.info;
  std::map<RunKey, uint64_t> overtaken_from;
  for (auto run = all.rbegin(); run != all.rend(); ++run) {
    const ProducerInfo& info = *run->second;
    if (!info.continues || *info.continues >= info.run_key.attempt) continue;
    uint64_t from = info.start_step;
    if (const auto own = overtaken_from.find(info.run_key); own != overtaken_from.end())
      from = std::min(from, own->second);
    RunKey before = info.run_key;
    before.attempt = *info.continues;
    const auto [place, fresh] = overtaken_from.try_emplace(before, from);
    if (!fresh) place->second = std::min(place->second, from);
  }
  return overtaken_from;
}

}  // namespace ikkuna
