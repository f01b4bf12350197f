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

// Parts of TensorStats that a pass may leave out because nobody asked. Counts and the shift are always there.
enum Moment : uint64_t {
  kMomentFirst = 1 << 0,   // sum1
  kMomentSecond = 1 << 1,  // sum2
  kMomentThird = 1 << 2,   // sum3
  kMomentFourth = 1 << 3,  // sum4
  kMomentAbs = 1 << 4,     // abs_sum
  kMomentSquare = 1 << 5,  // square_sum
  kMomentBounds = 1 << 6,  // min, max
};
constexpr uint64_t kAllMoments = 0x7f;
// Those that cost next to nothing where the elements are read at all; the others take half as long again.
constexpr uint64_t kCheapMoments = kAllMoments & ~uint64_t{kMomentThird | kMomentFourth};

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
  uint64_t left_out = 0;  // Moment set: not taken; their sums are 0, their bounds those of no element. 0: all were taken
};
static_assert(sizeof(TensorStats) == 128);
static_assert(offsetof(TensorStats, shift) == 16 && offsetof(TensorStats, min) == 72 &&
              offsetof(TensorStats, zeros) == 88);
static_assert(std::is_trivially_copyable_v<TensorStats>);

// Whether all of these were taken: a number that rests on others does not exist.
constexpr bool Has(const TensorStats& stats, uint64_t moments) { return (stats.left_out & moments) == 0; }

}  // namespace ikkuna
