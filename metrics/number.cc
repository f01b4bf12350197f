#include "metrics/number.h"

#include <charconv>
#include <cmath>
#include <limits>

namespace ikkuna::metrics {

std::optional<double> ParseNumber(std::string_view text) {
  if (text == "inf") return std::numeric_limits<double>::infinity();
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(number)) return std::nullopt;
  return number;
}

std::string FormatNumber(double number) {
  if (std::isinf(number)) return "inf";
  char buffer[512];  // a double written out has at most 309 digits before the point or 324 + 17 after it
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, number, std::chars_format::fixed);
  return error == std::errc() ? std::string(buffer, end) : std::string();
}

std::optional<uint64_t> ParseCount(std::string_view text) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

Result<uint64_t> ParseParameter(const std::string& metric, const std::string& parameter, const std::string& text,
                                uint64_t most) {
  const std::optional<uint64_t> number = ParseCount(text);
  if (number && *number >= 1 && *number <= most) return *number;
  return Error{ErrorCode::kInvalidArgument,
               parameter + "='" + text + "' of " + metric + " is not a whole number from 1 to " + std::to_string(most)};
}

}  // namespace ikkuna::metrics
