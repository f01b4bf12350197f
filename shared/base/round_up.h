// RoundUp: where the next region of a segment begins.
#pragma once

#include <cstdint>

namespace ikkuna {

// The least multiple of `align` (not 0) that is not below `value`; wraps where there is none.
constexpr uint64_t RoundUp(uint64_t value, uint64_t align) { return (value + align - 1) / align * align; }

}  // namespace ikkuna
