// TensorStats: what one pass over a tensor leaves behind, enough for every metric that needs no second look.
//
// Shared by probe and daemon and part of the wire format (128 bytes inside a record): little-endian, no padding.
// `shift` is any finite value the writer picks; moments are kept about it because power sums about zero lose the
// variance of data with a large mean. Sums are over finite elements only; the counts of the others stand beside them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace ikkuna {

struct TensorStats {
  uint64_t n = 0;         // elements
  uint64_t finite_n = 0;  // elements that are neither NaN nor infinite
  double shift = 0;       // finite
  double sum1 = 0;        // sum of (x - shift)   over finite x
  double sum2 = 0;        // sum of (x - shift)^2
  double sum3 = 0;        // sum of (x - shift)^3
  double sum4 = 0;        // sum of (x - shift)^4
  double abs_sum = 0;     // sum of |x|           over finite x
  double square_sum = 0;  // sum of x^2           over finite x
  double min = 0;         // least finite x; +infinity when there is none
  double max = 0;         // greatest finite x; -infinity when there is none
  uint64_t zeros = 0;     // x == 0, of either sign
  uint64_t nans = 0;
  uint64_t positive_infinities = 0;
  uint64_t negative_infinities = 0;
  uint64_t reserved = 0;  // 0
};
static_assert(sizeof(TensorStats) == 128);
static_assert(offsetof(TensorStats, shift) == 16 && offsetof(TensorStats, min) == 72 &&
              offsetof(TensorStats, zeros) == 88);
static_assert(std::is_trivially_copyable_v<TensorStats>);

}  // namespace ikkuna
