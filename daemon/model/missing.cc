#include "daemon/model/missing.h"

#include <string>
#include <utility>

#include "daemon/model/counted.h"

namespace ikkuna {

std::string_view MissReasonName(MissReason reason) {
  static constexpr std::string_view kNames[kMissReasonCount] = {
      "withheld",   "incomplete",  "no_tensor", "unnamed", "discarded", "silent",    "repeated",
      "queue_full", "memory_full", "cancelled", "threw",   "refused",   "suppressed", "no_step",
      "late",       "failed"};
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

std::string UnrecordedText(std::string_view reason, uint64_t values) {
  static constexpr std::pair<std::string_view, std::string_view> kTexts[] = {
      {"queue_full", "came faster than could be written"},
      {"paused", "came while recording was paused, for want of room on the disk"},
      {"disk", "came while the disk took nothing"},
      {"repeated", "were for a step that has a value already"},
      {"no_series", "were of no series of that type"},
      {"refused", "were refused by the file"},
      {"failed", "made the store fail"},
      {"closed", "came when the store was being closed"},
      {"file_removed", "were in a file that somebody deleted or moved"},
      {"file_broken", "were in a file that broke"},
  };
  for (const auto& [name, text] : kTexts) {
    if (name != reason) continue;
    constexpr std::string_view kWere = "were ";
    return text.starts_with(kWere) ? Were(values) + std::string(text.substr(kWere.size() - 1)) : std::string(text);
  }
  return Were(values) + " not kept, for a reason that this version does not know";
}

}  // namespace ikkuna
