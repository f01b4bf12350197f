// Numbers of the written form: read whole or not at all, written the one shortest way.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "shared/base/result.h"

namespace ikkuna::metrics {

// A decimal number or "inf"; nothing else may stand in the text.
std::optional<double> ParseNumber(std::string_view text);
// Shortest digits that give the number back, without an exponent; "inf" for infinity.
std::string FormatNumber(double number);
// Decimal digits only.
std::optional<uint64_t> ParseCount(std::string_view text);
// A parameter of a metric that is a whole number from 1 to `most`; kInvalidArgument names both.
Result<uint64_t> ParseParameter(const std::string& metric, const std::string& parameter, const std::string& text,
                                uint64_t most);

}  // namespace ikkuna::metrics
