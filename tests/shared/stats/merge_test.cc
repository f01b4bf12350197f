#include "shared/stats/merge.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "shared/stats/derive.h"
#include "shared/stats/stats_pass.h"
#include "tests/shared/stats/reference.h"

namespace ikkuna {
namespace {

TensorStats Of(const std::vector<double>& x) { return ComputeStats(x.data(), DType::kF64, x.size()); }

std::vector<double> Concatenated(std::vector<double> a, const std::vector<double>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

std::vector<double> Normal(size_t n, double mean, double std, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(mean, std);
  std::vector<double> x(n);
  for (double& v : x) v = normal(random);
  return x;
}

// Moments of the same elements about another shift, from their definition.
TensorStats About(const std::vector<double>& x, double shift) {
  TensorStats s = Of(x);
  s.shift = shift;
  s.sum1 = s.sum2 = s.sum3 = s.sum4 = 0;
  for (const double v : x) {
    const double d = v - shift;
    s.sum1 += d;
    s.sum2 += d * d;
    s.sum3 += d * d * d;
    s.sum4 += d * d * d * d;
  }
  return s;
}

TEST(MergeStats, RandomSplitsGiveTheWhole) {
  std::mt19937 random(3);
  for (const auto& [mean, std] : {std::pair{0.0, 1.0}, {1e3, 1.0}, {-1e6, 1e-1}, {1e-20, 1e-20}, {1e30, 1e29}}) {
    const std::vector<double> x = Normal(5000, mean, std, 7);
    TensorStats merged;
    for (size_t done = 0; done < x.size();) {
      const size_t n = std::min<size_t>(x.size() - done, random() % 900);
      merged = MergeStats(merged, ComputeStats(x.data() + done, DType::kF64, n));
      done += n;
    }
    ExpectMatches(merged, x, "mean " + std::to_string(mean), 1e-3);
    EXPECT_TRUE(ValidateStats(merged).ok());
  }
}

TEST(MergeStats, FarApart) {
  for (const double distance : {1.0, 1e3, 1e8, -1e12}) {
    for (const auto& [na, nb] : {std::pair<size_t, size_t>{1, 1}, {1, 10'000}, {10'000, 3}, {400, 500}}) {
      const std::vector<double> a = Normal(na, 0, 1, 1), b = Normal(nb, distance, 2, 2);
      const std::string what = std::to_string(distance) + " " + std::to_string(na) + " " + std::to_string(nb);
      ExpectMatches(MergeStats(Of(a), Of(b)), Concatenated(a, b), what, 1e-3);
      ExpectMatches(MergeStats(Of(b), Of(a)), Concatenated(a, b), what + " swapped", 1e-3);
    }
  }
}

TEST(MergeStats, ManyPiecesOneByOne) {
  const std::vector<double> x = Normal(20'000, 1e4, 1, 9);
  TensorStats merged;
  for (const double v : x) merged = MergeStats(merged, Of({v}));
  ExpectMatches(merged, x, "one by one", 1e-2);
}

TEST(MergeStats, EmptyAndNonFiniteParts) {
  const std::vector<std::vector<double>> parts = {{},          {5.0, 6.0},    {kNan}, {kInf, 3.0}, {-kInf, -kInf},
                                                  {0.0, -0.0}, {kNan, -kInf}, {-1e9}};
  for (const auto& a : parts) {
    for (const auto& b : parts) {
      const TensorStats merged = MergeStats(Of(a), Of(b));
      ExpectMatches(merged, Concatenated(a, b), testing::PrintToString(a) + testing::PrintToString(b), 1e-3);
      EXPECT_TRUE(ValidateStats(merged).ok()) << ValidateStats(merged).error().text;
    }
  }
  EXPECT_EQ(MergeStats(TensorStats{}, TensorStats{}).min, kInf);
}

TEST(MergeStats, AnyShiftOfTheWriters) {
  const std::vector<double> a = Normal(300, 10, 1, 1), b = Normal(200, 12, 3, 2);
  for (const double shift_a : {0.0, 10.0, -50.0}) {
    for (const double shift_b : {0.0, 12.0, 200.0}) {
      ExpectMatches(MergeStats(About(a, shift_a), About(b, shift_b)), Concatenated(a, b),
                    std::to_string(shift_a) + " " + std::to_string(shift_b), 0.1);
    }
  }
}

TEST(MergeStats, EqualConstantsKeepZeroVariance) {
  const std::vector<double> constant(10, 0.1);
  const TensorStats merged = MergeStats(Of(constant), Of(constant));
  EXPECT_EQ(stats::Variance(merged), 0);
  EXPECT_TRUE(std::isnan(stats::Skewness(merged)));
}

TEST(MergeStats, SurvivesWhatOnlyALiarSends) {
  TensorStats liar;
  liar.n = liar.finite_n = liar.zeros = liar.nans = std::numeric_limits<uint64_t>::max();
  liar.shift = 1e308;
  liar.sum1 = liar.sum2 = kInf;
  liar.sum3 = kNan;
  const TensorStats merged = MergeStats(liar, liar);
  EXPECT_EQ(merged.n, liar.n);
  EXPECT_EQ(merged.zeros, liar.zeros);
  EXPECT_TRUE(std::isfinite(MergeStats(liar, Of({1.0})).shift));
}

// As a writer leaves out what nobody asked.
TensorStats Without(TensorStats s, uint64_t moments) {
  s.left_out = moments;
  if ((moments & kMomentFirst) != 0) s.sum1 = 0;
  if ((moments & kMomentSecond) != 0) s.sum2 = 0;
  if ((moments & kMomentThird) != 0) s.sum3 = 0;
  if ((moments & kMomentFourth) != 0) s.sum4 = 0;
  if ((moments & kMomentAbs) != 0) s.abs_sum = 0;
  if ((moments & kMomentSquare) != 0) s.square_sum = 0;
  if ((moments & kMomentBounds) != 0) s.min = kInf, s.max = -kInf;
  return s;
}

TEST(MergeStats, WhatEitherLeavesOutIsLeftOutAndTheRestIsAsBefore) {
  const std::vector<double> a = Normal(300, 5, 1, 1), b = Normal(400, -7, 2, 2);
  const TensorStats whole = MergeStats(Of(a), Of(b));
  constexpr uint64_t kPowersFrom[] = {0, kMomentFourth, kMomentThird | kMomentFourth,
                                      kMomentSecond | kMomentThird | kMomentFourth,
                                      kMomentFirst | kMomentSecond | kMomentThird | kMomentFourth};
  for (const uint64_t powers : kPowersFrom) {
    for (const uint64_t others : {uint64_t{0}, uint64_t{kMomentAbs}, uint64_t{kMomentSquare | kMomentBounds}}) {
      for (const bool swapped : {false, true}) {
        const TensorStats less = Without(Of(a), powers), other = Without(Of(b), others);
        const TensorStats merged = swapped ? MergeStats(other, less) : MergeStats(less, other);
        EXPECT_EQ(merged.left_out, powers | others);
        EXPECT_TRUE(ValidateStats(merged).ok()) << powers << " " << others << ValidateStats(merged).error().text;
        EXPECT_EQ(merged.n, whole.n);
        if (Has(merged, kMomentFirst)) {
          EXPECT_NEAR(stats::Mean(merged), stats::Mean(whole), 1e-12);
        }
        if (Has(merged, kMomentSecond)) {
          EXPECT_NEAR(stats::Variance(merged), stats::Variance(whole), 1e-10);
        }
        if (Has(merged, kMomentThird)) {
          EXPECT_NEAR(stats::Skewness(merged), stats::Skewness(whole), 1e-10);
        }
        if (Has(merged, kMomentSquare)) {
          EXPECT_NEAR(stats::Norm2(merged), stats::Norm2(whole), 1e-10);
        }
        if (Has(merged, kMomentBounds)) {
          EXPECT_EQ(stats::Max(merged), stats::Max(whole));
        }
      }
    }
  }
}

TEST(ValidateStats, AcceptsWhatTensorsGive) {
  const std::vector<std::vector<double>> tensors = {
      {}, {1.0}, {0.0}, {kNan}, {kInf, -kInf, kNan, 1.0}, {1e200, -1e200, 3}, {1e308, 1e308}, Normal(1000, 1e5, 1, 1)};
  for (const auto& x : tensors) {
    const Result<TensorStats> result = ValidateStats(Of(x));
    ASSERT_TRUE(result.ok()) << testing::PrintToString(x) << result.error().text;
    EXPECT_EQ(result->n, x.size());
  }
}

TEST(ValidateStats, Malicious) {
  struct Lie {
    const char* name;
    std::function<void(TensorStats&)> tell;
  };
  const std::vector<Lie> lies = {
      {"no such moment left out", [](TensorStats& s) { s.left_out = kAllMoments + 1; }},
      {"a sum of what is left out", [](TensorStats& s) { s.left_out = kMomentFourth; }},
      {"a square sum of what is left out", [](TensorStats& s) { s.left_out = kMomentSquare; }},
      {"bounds of what is left out", [](TensorStats& s) { s.left_out = kMomentBounds; }},
      {"a third power without the second", [](TensorStats& s) { s.left_out = kMomentSecond, s.sum2 = 0; }},
      {"a second power without the first",
       [](TensorStats& s) {
         s.left_out = kMomentFirst | kMomentThird | kMomentFourth;
         s.sum1 = s.sum3 = s.sum4 = 0;
       }},
      {"n", [](TensorStats& s) { s.n = 7; }},
      {"huge n", [](TensorStats& s) { s.n = s.finite_n = uint64_t{1} << 60; }},
      {"finite beyond n", [](TensorStats& s) { s.finite_n = 1000; }},
      {"counts that wrap",
       [](TensorStats& s) {
         s.nans = std::numeric_limits<uint64_t>::max();
         s.positive_infinities = 1;
       }},
      {"nans", [](TensorStats& s) { s.nans = 2; }},
      {"+inf", [](TensorStats& s) { s.positive_infinities = 2; }},
      {"-inf", [](TensorStats& s) { s.negative_infinities = 2; }},
      {"zeros", [](TensorStats& s) { s.zeros = s.finite_n + 1; }},
      {"zeros outside", [](TensorStats& s) { s.zeros = 1, s.min = 0.5; }},
      {"shift NaN", [](TensorStats& s) { s.shift = kNan; }},
      {"shift inf", [](TensorStats& s) { s.shift = -kInf; }},
      {"sum2", [](TensorStats& s) { s.sum2 = -1; }},
      {"sum4", [](TensorStats& s) { s.sum4 = -1e-30; }},
      {"abs_sum", [](TensorStats& s) { s.abs_sum = -1; }},
      {"square_sum", [](TensorStats& s) { s.square_sum = -1; }},
      {"min above max", [](TensorStats& s) { s.min = s.max + 1; }},
      {"min NaN", [](TensorStats& s) { s.min = kNan; }},
      {"max inf", [](TensorStats& s) { s.max = kInf; }},
  };
  const TensorStats honest = Of({1.0, 2.0, 3.0, 4.0});
  ASSERT_TRUE(ValidateStats(honest).ok());
  for (const Lie& lie : lies) {
    TensorStats s = honest;
    lie.tell(s);
    const Result<TensorStats> result = ValidateStats(s);
    ASSERT_FALSE(result.ok()) << lie.name;
    EXPECT_EQ(result.error().code, ErrorCode::kCorrupt) << lie.name;
    EXPECT_FALSE(result.error().text.empty()) << lie.name;
  }
  TensorStats none = Of({kNan});
  none.sum2 = 1;
  EXPECT_FALSE(ValidateStats(none).ok());
  none = Of({kNan});
  none.max = 1;
  EXPECT_FALSE(ValidateStats(none).ok());
  // All zero is no tensor: bounds of an empty one are infinite.
  EXPECT_FALSE(ValidateStats(TensorStats{}).ok());
}

}  // namespace
}  // namespace ikkuna
