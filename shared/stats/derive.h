// The metrics that TensorStats answers, each a pure function, with the meaning that IEEE arithmetic gives them.
//
// Common rules, not repeated below. Any NaN among the elements gives NaN (but for the counts and norm 0, which counts a
// NaN or an infinity as non-zero). An infinity gives what the defining formula gives in IEEE arithmetic: +inf and -inf
// together sum to NaN, anything that subtracts the mean is NaN. "Empty" says what n = 0 gives: what numpy gives where
// it gives a number, NaN where it raises an error. Thread rule: none, no state.
#pragma once

#include "shared/stats/tensor_stats.h"

namespace ikkuna::stats {

// What the metrics below rest on beside the counts (Moment sets).
constexpr uint64_t kRestsOnMean = kMomentFirst;
constexpr uint64_t kRestsOnVariance = kMomentFirst | kMomentSecond;
constexpr uint64_t kRestsOnSkewness = kRestsOnVariance | kMomentThird;
constexpr uint64_t kRestsOnKurtosis = kRestsOnSkewness | kMomentFourth;
constexpr uint64_t kRestsOnAbs = kMomentAbs;
constexpr uint64_t kRestsOnSquare = kMomentSquare;
constexpr uint64_t kRestsOnBounds = kMomentBounds;
constexpr uint64_t kRestsOnCounts = 0;

double Mean(const TensorStats& s) noexcept;          // sum(x) / n. Empty: NaN
double Sum(const TensorStats& s) noexcept;           // sum(x). Empty: 0
double Variance(const TensorStats& s) noexcept;      // sum((x - mean)^2) / (n - 1). Empty and n = 1: NaN
double Std(const TensorStats& s) noexcept;           // sqrt(Variance). Empty and n = 1: NaN
double Min(const TensorStats& s) noexcept;           // Empty: NaN
double Max(const TensorStats& s) noexcept;           // Empty: NaN
double AbsMax(const TensorStats& s) noexcept;        // max |x|. Empty: NaN
double AbsMean(const TensorStats& s) noexcept;       // sum |x| / n. Empty: NaN
double Rms(const TensorStats& s) noexcept;           // sqrt(sum(x^2) / n). Empty: NaN
double ZeroFraction(const TensorStats& s) noexcept;  // share of x == 0 among all n, never NaN for n > 0. Empty: NaN
double NanCount(const TensorStats& s) noexcept;      // Empty: 0
double InfCount(const TensorStats& s) noexcept;      // of either sign. Empty: 0
double Skewness(const TensorStats& s) noexcept;      // population, m3 / m2^1.5. Empty and zero variance: NaN
double Kurtosis(const TensorStats& s) noexcept;      // population, excess, m4 / m2^2 - 3. Empty and zero variance: NaN

double Norm0(const TensorStats& s) noexcept;    // how many x != 0. Empty: 0
double Norm1(const TensorStats& s) noexcept;    // sum |x|. Empty: 0
double Norm2(const TensorStats& s) noexcept;    // sqrt(sum x^2). Empty: 0
double NormInf(const TensorStats& s) noexcept;  // max |x|. Empty: 0

// The norms above by their order; statistics answer 0, 1, 2 and infinity only.
bool HasNorm(double order) noexcept;
// NaN for an order that HasNorm() refuses.
double Norm(const TensorStats& s, double order) noexcept;

}  // namespace ikkuna::stats
