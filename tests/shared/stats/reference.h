// What the tests of shared/stats/ compare with: every metric from its definition, two passes in long double over the
// elements, and readers of each data type that go by the value of their bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "shared/codes.h"
#include "shared/stats/stats_pass.h"
#include "shared/stats/tensor_stats.h"

namespace ikkuna {

inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
inline constexpr double kInf = std::numeric_limits<double>::infinity();
inline constexpr float kNanF = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInfF = std::numeric_limits<float>::infinity();

// The bytes of a tensor, read as values. Decodes halves with ldexp, not with shifts.
std::vector<double> Decode(const void* data, DType dtype, size_t n);
double DecodeHalf(uint16_t bits);
double DecodeBrain(uint16_t bits);

// The half float, or bfloat16, nearest to x, found by search over all of them; ties to the even one.
double NearestHalf(double x);
double NearestBrain(double x);

struct Reference {
  double sum, mean, variance, std, min, max, abs_max, abs_mean, rms, zero_fraction, nan_count, inf_count, skewness,
      kurtosis, norm0, norm1, norm2, norm_inf;
};
Reference ReferenceOf(const std::vector<double>& x);

// What a comparison needs: how far each metric may be off, as the product promises it for float32 (relative, for sum
// and mean relative to |x|, ...), times `slack`.
void ExpectMatches(const TensorStats& stats, const std::vector<double>& x, const std::string& what, double slack = 1);

// The paths that this machine can run.
std::vector<StatsPath> AvailablePaths();
std::string PathName(StatsPath path);

// Takes `path` for a scope.
class PathScope {
 public:
  explicit PathScope(StatsPath path);
  ~PathScope();
  PathScope(const PathScope&) = delete;
  PathScope& operator=(const PathScope&) = delete;

 private:
  StatsPath before_;
};

}  // namespace ikkuna
