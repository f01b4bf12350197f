#include "tests/shared/stats/reference.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "shared/stats/derive.h"

namespace ikkuna {
namespace {

template <typename T>
T At(const void* data, size_t i) {
  T value;
  std::memcpy(&value, static_cast<const char*>(data) + i * sizeof(T), sizeof(T));
  return value;
}

double DecodeSmall(int sign, int exponent, int mantissa, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1, top = (1 << exponent_bits) - 1;
  double magnitude;
  if (exponent == top) {
    magnitude = mantissa != 0 ? kNan : kInf;
  } else if (exponent == 0) {
    magnitude = std::ldexp(mantissa, 1 - bias - mantissa_bits);
  } else {
    magnitude = std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
  }
  return sign != 0 ? -magnitude : magnitude;
}

// The nearest of a sorted list of magnitudes whose index is their bit pattern; beyond the half-way point to what would
// follow the last finite one, infinity.
double Nearest(double x, double (*decode)(uint16_t), uint16_t infinity_bits) {
  if (std::isnan(x)) return x;
  const double magnitude = std::fabs(x);
  const double last = decode(infinity_bits - 1), step = last - decode(infinity_bits - 2);
  uint16_t low = 0, high = infinity_bits;
  while (high - low > 1) {
    const auto middle = static_cast<uint16_t>((low + high) / 2);
    (decode(middle) <= magnitude ? low : high) = middle;
  }
  const double below = decode(low), above = high == infinity_bits ? last + step : decode(high);
  bool up = magnitude - below > above - magnitude;
  if (magnitude - below == above - magnitude) up = low % 2 == 1;
  if (magnitude == kInf) up = true;
  const double nearest = up ? decode(high) : below;
  return std::signbit(x) ? -nearest : nearest;
}

// |difference| within `bound`; NaN matches NaN, infinities themselves.
void ExpectWithin(double actual, double expected, double bound, const std::string& what) {
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(actual)) << what << ": " << actual << ", expected NaN";
  } else if (std::isinf(expected)) {
    EXPECT_EQ(actual, expected) << what;
  } else {
    EXPECT_LE(std::fabs(actual - expected), bound) << what << ": " << actual << ", expected " << expected;
  }
}

}  // namespace

double DecodeHalf(uint16_t b) { return DecodeSmall(b >> 15, (b >> 10) & 31, b & 1023, 5, 10); }
double DecodeBrain(uint16_t b) { return DecodeSmall(b >> 15, (b >> 7) & 255, b & 127, 8, 7); }
double NearestHalf(double x) { return Nearest(x, DecodeHalf, 0x7c00); }
double NearestBrain(double x) { return Nearest(x, DecodeBrain, 0x7f80); }

std::vector<double> Decode(const void* data, DType dtype, size_t n) {
  std::vector<double> x(n);
  for (size_t i = 0; i < n; ++i) {
    switch (dtype) {
      case DType::kF32:
        x[i] = At<float>(data, i);
        break;
      case DType::kF64:
        x[i] = At<double>(data, i);
        break;
      case DType::kF16:
        x[i] = DecodeHalf(At<uint16_t>(data, i));
        break;
      case DType::kBF16:
        x[i] = DecodeBrain(At<uint16_t>(data, i));
        break;
      case DType::kI8:
        x[i] = At<int8_t>(data, i);
        break;
      case DType::kU8:
        x[i] = At<uint8_t>(data, i);
        break;
      case DType::kI16:
        x[i] = At<int16_t>(data, i);
        break;
      case DType::kI32:
        x[i] = At<int32_t>(data, i);
        break;
      case DType::kI64:
        x[i] = static_cast<double>(At<int64_t>(data, i));
        break;
      case DType::kBool:
        x[i] = At<uint8_t>(data, i) != 0 ? 1 : 0;
        break;
      case DType::kInvalid:
        ADD_FAILURE() << "no data type";
        break;
    }
  }
  return x;
}

Reference ReferenceOf(const std::vector<double>& x) {
  using Real = long double;
  const Real n = static_cast<Real>(x.size());
  Real sum = 0, abs_sum = 0, squares = 0, zeros = 0, nans = 0, infinities = 0;
  double min = x.empty() ? kNan : x[0], max = min;
  for (const double v : x) {
    sum += v;
    abs_sum += std::fabs(v);
    squares += static_cast<Real>(v) * v;
    zeros += v == 0 ? 1 : 0;
    nans += std::isnan(v) ? 1 : 0;
    infinities += std::isinf(v) ? 1 : 0;
    min = std::isnan(v) || std::isnan(min) ? kNan : std::min(min, v);
    max = std::isnan(v) || std::isnan(max) ? kNan : std::max(max, v);
  }
  // The mean from distances: that of data far from 0 loses digits even here. And equal elements have no variance.
  const Real pivot = min;
  Real distance = 0;
  for (const double v : x) distance += v - pivot;
  const Real mean = min == max ? 0 : distance / n;
  Real m2 = 0, m3 = 0, m4 = 0;
  for (const double v : x) {
    const Real d = (v - pivot) - mean;
    m2 += d * d;
    m3 += d * d * d;
    m4 += d * d * d * d;
  }
  Reference r;
  r.sum = static_cast<double>(sum);
  r.mean = static_cast<double>(sum / n);
  r.variance = x.size() < 2 ? kNan : static_cast<double>(m2 / (n - 1));
  r.std = std::sqrt(r.variance);
  r.min = min;
  r.max = max;
  r.abs_max = std::max(std::fabs(min), std::fabs(max));
  if (std::isnan(min)) r.abs_max = kNan;
  r.abs_mean = static_cast<double>(abs_sum / n);
  r.rms = static_cast<double>(std::sqrt(squares / n));
  r.zero_fraction = static_cast<double>(zeros / n);
  r.nan_count = static_cast<double>(nans);
  r.inf_count = static_cast<double>(infinities);
  r.skewness = m2 == 0 ? kNan : static_cast<double>((m3 / n) / std::pow(m2 / n, 1.5L));
  r.kurtosis = m2 == 0 ? kNan : static_cast<double>((m4 / n) / ((m2 / n) * (m2 / n)) - 3);
  r.norm0 = static_cast<double>(n - zeros);
  r.norm1 = static_cast<double>(abs_sum);
  r.norm2 = static_cast<double>(std::sqrt(squares));
  r.norm_inf = x.empty() ? 0 : r.abs_max;
  return r;
}

void ExpectMatches(const TensorStats& s, const std::vector<double>& x, const std::string& what, double slack) {
  const Reference r = ReferenceOf(x);
  const double e = 1e-6 * slack;
  const auto relative = [&](double actual, double expected, const char* name) {
    ExpectWithin(actual, expected, e * std::fabs(expected), what + " " + name);
  };
  ASSERT_EQ(s.n, x.size()) << what;
  EXPECT_EQ(s.left_out, 0u) << what;
  EXPECT_EQ(s.finite_n + s.nans + s.positive_infinities + s.negative_infinities, s.n) << what;
  ExpectWithin(stats::Sum(s), r.sum, e * r.norm1, what + " sum");
  ExpectWithin(stats::Mean(s), r.mean, e * r.abs_mean, what + " mean");
  ExpectWithin(stats::Variance(s), r.variance, e * std::max(r.variance, 1e-6 * r.mean * r.mean), what + " variance");
  ExpectWithin(stats::Std(s), r.std, e * std::max(r.std, 1e-3 * std::fabs(r.mean)), what + " std");
  ExpectWithin(stats::Min(s), r.min, 0, what + " min");
  ExpectWithin(stats::Max(s), r.max, 0, what + " max");
  ExpectWithin(stats::AbsMax(s), r.abs_max, 0, what + " abs_max");
  relative(stats::AbsMean(s), r.abs_mean, "abs_mean");
  relative(stats::Rms(s), r.rms, "rms");
  ExpectWithin(stats::ZeroFraction(s), r.zero_fraction, 1e-15, what + " zero_fraction");
  ExpectWithin(stats::NanCount(s), r.nan_count, 0, what + " nan_count");
  ExpectWithin(stats::InfCount(s), r.inf_count, 0, what + " inf_count");
  ExpectWithin(stats::Skewness(s), r.skewness, 10 * e * (1 + std::fabs(r.skewness)), what + " skewness");
  ExpectWithin(stats::Kurtosis(s), r.kurtosis, 10 * e * (1 + std::fabs(r.kurtosis)), what + " kurtosis");
  ExpectWithin(stats::Norm0(s), r.norm0, 0, what + " norm0");
  relative(stats::Norm1(s), r.norm1, "norm1");
  relative(stats::Norm2(s), r.norm2, "norm2");
  ExpectWithin(stats::NormInf(s), r.norm_inf, 0, what + " norm_inf");
}

std::vector<StatsPath> AvailablePaths() {
  std::vector<StatsPath> paths;
  for (const StatsPath path : {StatsPath::kPortable, StatsPath::kAvx2, StatsPath::kAvx512}) {
    const StatsPath before = CurrentStatsPath();
    if (ForceStatsPath(path)) paths.push_back(path);
    ForceStatsPath(before);
  }
  return paths;
}

std::string PathName(StatsPath path) {
  switch (path) {
    case StatsPath::kPortable:
      return "Portable";
    case StatsPath::kAvx2:
      return "Avx2";
    case StatsPath::kAvx512:
      return "Avx512";
  }
  return "";
}

PathScope::PathScope(StatsPath path) : before_(CurrentStatsPath()) {
  EXPECT_TRUE(ForceStatsPath(path));
  EXPECT_EQ(CurrentStatsPath(), path);
}
PathScope::~PathScope() { ForceStatsPath(before_); }

}  // namespace ikkuna
