// Numbers of the written form: read whole or not at all, written the one shortest way.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace ikkuna::metrics {

// A decimal number or "inf"; nothing else may stand in the text.
std::optional<double> ParseNumber(std::string_view text);
// Shortest digits that give the number back, without an exponent; "inf" for infinity.
std::string FormatNumber(double number);
// Decimal digits only.
std::optional<uint64_t> ParseCount(std::string_view text);

}  // namespace ikkuna::metrics
