#include "shared/stats/merge.h"

#include <cmath>
#include <limits>
#include <string>

namespace ikkuna {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

// More elements than any address space holds; keeps sums of a few counts far from overflow.
constexpr uint64_t kElementsMax = uint64_t{1} << 56;

uint64_t SaturatingAdd(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? std::numeric_limits<uint64_t>::max() : sum;
}

// The moments of `s` about `shift`: the binomial expansion of (x - s.shift + d)^k.
void MoveShift(TensorStats& s, double shift) {
  const double n = static_cast<double>(s.finite_n);
  const double d = s.shift - shift;
  if (d == 0) return;
  const double s1 = s.sum1, s2 = s.sum2, s3 = s.sum3, s4 = s.sum4;
  s.shift = shift;
  s.sum1 = s1 + n * d;
  s.sum2 = s2 + d * (2 * s1 + n * d);
  s.sum3 = s3 + d * (3 * s2 + d * (3 * s1 + n * d));
  s.sum4 = s4 + d * (4 * s3 + d * (6 * s2 + d * (4 * s1 + n * d)));
  // Even powers that have overflowed are infinite, whatever they are moved by.
  if (std::isnan(s.sum2)) s.sum2 = kInf;
  if (std::isnan(s.sum4)) s.sum4 = kInf;
}

// The shift both are moved to: the mean of the whole, about which no moment loses digits. Falls back to the larger
// part's own shift where that mean cannot be computed.
double CommonShift(const TensorStats& a, const TensorStats& b) {
  if (a.shift == b.shift) return a.shift;
  const double na = static_cast<double>(a.finite_n), nb = static_cast<double>(b.finite_n);
  const double mean_a = a.shift + a.sum1 / na, mean_b = b.shift + b.sum1 / nb;
  const double share = nb / (na + nb);
  const double mean = mean_a * (1 - share) + mean_b * share;
  if (std::isfinite(mean)) return mean;
  return na >= nb ? a.shift : b.shift;
}

// What is left out is not a number: nothing of it remains.
void LeaveOut(TensorStats& s) {
  if (s.left_out == 0) return;
  if (!Has(s, kMomentFirst)) s.sum1 = 0;
  if (!Has(s, kMomentSecond)) s.sum2 = 0;
  if (!Has(s, kMomentThird)) s.sum3 = 0;
  if (!Has(s, kMomentFourth)) s.sum4 = 0;
  if (!Has(s, kMomentAbs)) s.abs_sum = 0;
  if (!Has(s, kMomentSquare)) s.square_sum = 0;
  if (!Has(s, kMomentBounds)) s.min = kInf, s.max = -kInf;
}

bool LeavesNothingIn(const TensorStats& s) {
  const auto none = [&](Moment moment, bool empty) { return Has(s, moment) || empty; };
  return none(kMomentFirst, s.sum1 == 0) && none(kMomentSecond, s.sum2 == 0) && none(kMomentThird, s.sum3 == 0) &&
         none(kMomentFourth, s.sum4 == 0) && none(kMomentAbs, s.abs_sum == 0) &&
         none(kMomentSquare, s.square_sum == 0) && none(kMomentBounds, s.min == kInf && s.max == -kInf);
}

// A power sum is moved to another shift with the help of those below it.
bool HasThoseBelow(const TensorStats& s) {
  constexpr Moment kPowers[] = {kMomentFirst, kMomentSecond, kMomentThird, kMomentFourth};
  bool gone = false;
  for (const Moment power : kPowers) {
    if (gone && Has(s, power)) return false;
    gone |= !Has(s, power);
  }
  return true;
}

double Clamped(double sum) { return sum < 0 ? 0 : sum; }

Error Implausible(const char* what) {
  return Error{ErrorCode::kCorrupt, std::string("tensor statistics from a peer: ") + what};
}

}  // namespace

TensorStats MergeStats(const TensorStats& a, const TensorStats& b) noexcept {
  TensorStats x = a, y = b;
  if (x.finite_n == 0) x.shift = y.shift;
  if (y.finite_n == 0) y.shift = x.shift;
  if (x.finite_n != 0 && y.finite_n != 0) {
    const double shift = CommonShift(x, y);
    MoveShift(x, shift);
    MoveShift(y, shift);
    x.min = y.min < x.min ? y.min : x.min;
    x.max = y.max > x.max ? y.max : x.max;
  } else if (x.finite_n == 0) {
    x.min = y.finite_n == 0 ? kInf : y.min;
    x.max = y.finite_n == 0 ? -kInf : y.max;
  }
  x.n = SaturatingAdd(x.n, y.n);
  x.finite_n = SaturatingAdd(x.finite_n, y.finite_n);
  x.sum1 += y.sum1;
  x.sum2 = Clamped(x.sum2 + y.sum2);
  x.sum3 += y.sum3;
  x.sum4 = Clamped(x.sum4 + y.sum4);
  x.abs_sum += y.abs_sum;
  x.square_sum += y.square_sum;
  x.zeros = SaturatingAdd(x.zeros, y.zeros);
  x.nans = SaturatingAdd(x.nans, y.nans);
  x.positive_infinities = SaturatingAdd(x.positive_infinities, y.positive_infinities);
  x.negative_infinities = SaturatingAdd(x.negative_infinities, y.negative_infinities);
  x.left_out |= y.left_out;
  LeaveOut(x);
  return x;
}

Result<TensorStats> ValidateStats(const TensorStats& stats_untrusted) {
  const TensorStats& s = stats_untrusted;
  if ((s.left_out & ~kAllMoments) != 0) return Implausible("moments that do not exist are left out");
  if (!LeavesNothingIn(s)) return Implausible("something in the place of what is left out");
  if (!HasThoseBelow(s)) return Implausible("a power without those below it");
  if (s.n > kElementsMax) return Implausible("more elements than memory can hold");
  // Each is at most n first, so that their sum cannot wrap.
  if (s.finite_n > s.n || s.nans > s.n || s.positive_infinities > s.n || s.negative_infinities > s.n ||
      s.finite_n + s.nans + s.positive_infinities + s.negative_infinities != s.n) {
    return Implausible("counts do not add up to n");
  }
  if (s.zeros > s.finite_n) return Implausible("more zeros than finite elements");
  if (!std::isfinite(s.shift)) return Implausible("shift is not finite");
  if (s.sum2 < 0 || s.sum4 < 0 || s.abs_sum < 0 || s.square_sum < 0) return Implausible("negative sum of even powers");
  if (s.finite_n == 0) {
    if (s.min != kInf || s.max != -kInf) return Implausible("bounds without a finite element");
    if (s.sum1 != 0 || s.sum2 != 0 || s.sum3 != 0 || s.sum4 != 0 || s.abs_sum != 0 || s.square_sum != 0) {
      return Implausible("sums without a finite element");
    }
    return s;
  }
  if (!Has(s, kMomentBounds)) return s;
  if (!std::isfinite(s.min) || !std::isfinite(s.max) || s.min > s.max) return Implausible("bounds out of order");
  if (s.zeros != 0 && (s.min > 0 || s.max < 0)) return Implausible("zeros outside the bounds");
  return s;
}

}  // namespace ikkuna
