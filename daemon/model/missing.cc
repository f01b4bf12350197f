#include "daemon/model/missing.h"

#include <string>

namespace ikkuna {

std::string_view MissReasonName(MissReason reason) {
  static constexpr std::string_view kNames[kMissReasonCount] = {
      "withheld",   "incomplete",  "no_tensor", "unnamed", "discarded", "silent",    "repeated",
      "queue_full", "memory_full", "cancelled", "threw",   "refused",   "suppressed", "no_step"};
  const auto index = static_cast<size_t>(reason);
  return index < kMissReasonCount ? kNames[index] : "invalid";
}

std::vector<Count> CountsOf(const MissCounts& missing) {
  std::vector<Count> counts;
  for (size_t i = 0; i < missing.size(); ++i) {
    if (missing[i] != 0) counts.push_back({std::string(MissReasonName(static_cast<MissReason>(i))), missing[i]});
  }
  return counts;
}

}  // namespace ikkuna
