#include "daemon/model/run.h"

namespace ikkuna {

namespace {

constexpr std::string_view kStates[] = {"running", "finished", "died", "disconnected", "quarantined", "switched_off"};

}  // namespace

std::string UuidText(const Uuid& uuid) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : uuid) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::optional<Uuid> ParseUuid(std::string_view text) {
  Uuid uuid{};
  if (text.size() != 2 * uuid.size()) return std::nullopt;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return std::nullopt;
    uuid[i / 2] = static_cast<unsigned char>(uuid[i / 2] << 4 | digit);
  }
  return uuid;
}

std::string Describe(const RunKey& run) {
  std::string text = "'" + run.run_id + "' (attempt " + std::to_string(run.attempt) + ", ";
  return text + (run.rank == kAllRanks ? "all ranks)" : "rank " + std::to_string(run.rank) + ")");
}

std::string_view RunStateName(RunState state) {
  const auto index = static_cast<size_t>(state) - 1;
  return index < std::size(kStates) ? kStates[index] : "invalid";
}

std::optional<RunState> ParseRunState(std::string_view name) {
  for (size_t i = 0; i < std::size(kStates); ++i) {
    if (kStates[i] == name) return static_cast<RunState>(i + 1);
  }
  return std::nullopt;
}

}  // namespace ikkuna
