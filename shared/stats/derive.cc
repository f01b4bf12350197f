#include "shared/stats/derive.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ikkuna::stats {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

bool AllFinite(const TensorStats& s) { return s.finite_n == s.n; }
bool HasInf(const TensorStats& s) { return s.positive_infinities != 0 || s.negative_infinities != 0; }

// What the infinities and NaN of the tensor make of its sum; 0 when there are none.
double NonFiniteSum(const TensorStats& s) {
  if (s.nans != 0 || (s.positive_infinities != 0 && s.negative_infinities != 0)) return kNan;
  if (s.positive_infinities != 0) return kInf;
  return s.negative_infinities != 0 ? -kInf : 0.0;
}

// `of_finite` unless a NaN or an infinity decides; for sums of non-negative terms.
double NonNegative(const TensorStats& s, double of_finite) {
  if (s.nans != 0) return kNan;
  return HasInf(s) ? kInf : of_finite;
}

// Moments about the mean, from those about the shift.
struct Central {
  double m2, m3, m4;
};

Central CentralMoments(const TensorStats& s) {
  const double n = static_cast<double>(s.n);
  const double d = s.sum1 / n;
  const double r2 = s.sum2 / n, r3 = s.sum3 / n, r4 = s.sum4 / n;
  // Squares of doubles beyond 1e154: as in IEEE arithmetic the variance is infinite, and what is divided by it NaN.
  if (r2 == kInf) return {kInf, kNan, kNan};
  Central c;
  c.m2 = r2 - d * d;
  // What is left of a constant tensor seen from afar is the rounding of r2, not a variance.
  if (c.m2 <= 4 * std::numeric_limits<double>::epsilon() * r2) c.m2 = 0;
  c.m3 = r3 - 3 * d * r2 + 2 * d * d * d;
  c.m4 = r4 - 4 * d * r3 + 6 * d * d * r2 - 3 * d * d * d * d;
  return c;
}

}  // namespace

double Sum(const TensorStats& s) noexcept {
  if (!AllFinite(s)) return NonFiniteSum(s);
  return s.sum1 + s.shift * static_cast<double>(s.n);
}

double Mean(const TensorStats& s) noexcept {
  if (s.n == 0) return kNan;
  if (!AllFinite(s)) return NonFiniteSum(s);
  return s.shift + s.sum1 / static_cast<double>(s.n);
}

double Variance(const TensorStats& s) noexcept {
  if (s.n < 2 || !AllFinite(s)) return kNan;
  const double n = static_cast<double>(s.n);
  return CentralMoments(s).m2 * (n / (n - 1));
}

double Std(const TensorStats& s) noexcept { return std::sqrt(Variance(s)); }

double Min(const TensorStats& s) noexcept {
  if (s.n == 0 || s.nans != 0) return kNan;
  return s.negative_infinities != 0 ? -kInf : s.min;  // +inf already when no element is finite
}

double Max(const TensorStats& s) noexcept {
  if (s.n == 0 || s.nans != 0) return kNan;
  return s.positive_infinities != 0 ? kInf : s.max;
}

double AbsMax(const TensorStats& s) noexcept {
  if (s.n == 0) return kNan;
  return NonNegative(s, std::max(std::fabs(s.min), std::fabs(s.max)));
}

double AbsMean(const TensorStats& s) noexcept {
  if (s.n == 0) return kNan;
  return NonNegative(s, s.abs_sum / static_cast<double>(s.n));
}

double Rms(const TensorStats& s) noexcept {
  if (s.n == 0) return kNan;
  return NonNegative(s, std::sqrt(s.square_sum / static_cast<double>(s.n)));
}

double ZeroFraction(const TensorStats& s) noexcept {
  return s.n == 0 ? kNan : static_cast<double>(s.zeros) / static_cast<double>(s.n);
}

double NanCount(const TensorStats& s) noexcept { return static_cast<double>(s.nans); }

double InfCount(const TensorStats& s) noexcept {
  return static_cast<double>(s.positive_infinities) + static_cast<double>(s.negative_infinities);
}

double Skewness(const TensorStats& s) noexcept {
  if (s.n == 0 || !AllFinite(s)) return kNan;
  const Central c = CentralMoments(s);
  return c.m2 > 0 ? c.m3 / (c.m2 * std::sqrt(c.m2)) : kNan;
}

double Kurtosis(const TensorStats& s) noexcept {
  if (s.n == 0 || !AllFinite(s)) return kNan;
  const Central c = CentralMoments(s);
  return c.m2 > 0 ? c.m4 / (c.m2 * c.m2) - 3 : kNan;
}

double Norm0(const TensorStats& s) noexcept { return static_cast<double>(s.n - s.zeros); }
double Norm1(const TensorStats& s) noexcept { return NonNegative(s, s.abs_sum); }
double Norm2(const TensorStats& s) noexcept { return NonNegative(s, std::sqrt(s.square_sum)); }
double NormInf(const TensorStats& s) noexcept { return s.n == 0 ? 0 : AbsMax(s); }

bool HasNorm(double order) noexcept { return order == 0 || order == 1 || order == 2 || order == kInf; }

double Norm(const TensorStats& s, double order) noexcept {
  if (order == 0) return Norm0(s);
  if (order == 1) return Norm1(s);
  if (order == 2) return Norm2(s);
  return order == kInf ? NormInf(s) : kNan;
}

}  // namespace ikkuna::stats
