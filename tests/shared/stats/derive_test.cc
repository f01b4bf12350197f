#include "shared/stats/derive.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "shared/stats/stats_pass.h"
#include "tests/shared/stats/reference.h"

namespace ikkuna {
namespace {

struct Metric {
  const char* name;
  double (*value)(const TensorStats&) noexcept;
  double empty;
  double tolerance;  // relative to 1 + |expected|, or to |expected| from 1e20 on
};

const std::vector<Metric> kMetrics = {
    {"sum", stats::Sum, 0, 1e-6},
    {"mean", stats::Mean, kNan, 1e-6},
    {"variance", stats::Variance, kNan, 1e-6},
    {"std", stats::Std, kNan, 1e-6},
    {"min", stats::Min, kNan, 0},
    {"max", stats::Max, kNan, 0},
    {"abs_max", stats::AbsMax, kNan, 0},
    {"abs_mean", stats::AbsMean, kNan, 1e-6},
    {"rms", stats::Rms, kNan, 1e-6},
    {"zero_fraction", stats::ZeroFraction, kNan, 1e-15},
    {"nan_count", stats::NanCount, 0, 0},
    {"inf_count", stats::InfCount, 0, 0},
    {"skewness", stats::Skewness, kNan, 1e-6},
    {"kurtosis", stats::Kurtosis, kNan, 1e-6},
    {"norm0", stats::Norm0, 0, 0},
    {"norm1", stats::Norm1, 0, 1e-6},
    {"norm2", stats::Norm2, 0, 1e-6},
    {"norm_inf", stats::NormInf, 0, 0},
};

// What numpy 2.4 gives in float64 for the float32 values, metrics in the order above: x.sum() x.mean() x.var(ddof=1)
// x.std(ddof=1) x.min() x.max() abs(x).max() abs(x).mean() sqrt((x**2).mean()) (x==0).mean() isnan(x).sum()
// isinf(x).sum(), moments of x - x.mean(), and linalg.norm(x, 0 | 1 | 2 | inf).
struct Golden {
  const char* name;
  std::vector<float> x;
  std::vector<double> expected;
};

const std::vector<Golden> kGolden = {
    {"one", {2.5f}, {2.5, 2.5, kNan, kNan, 2.5, 2.5, 2.5, 2.5, 2.5, 0.0, 0.0, 0.0, kNan, kNan, 1.0, 2.5, 2.5, 2.5}},
    {"pair",
     {-1, 3},
     {2.0, 1.0, 8.0, 2.8284271247461903, -1.0, 3.0, 3.0, 2.0, 2.23606797749979, 0.0, 0.0, 0.0, 0.0, -2.0, 2.0, 4.0,
      3.1622776601683795, 3.0}},
    {"four",
     {1, 2, 3, 4},
     {10.0, 2.5, 1.6666666666666667, 1.2909944487358056, 1.0, 4.0, 4.0, 2.5, 2.7386127875258306, 0.0, 0.0, 0.0, 0.0,
      -1.36, 4.0, 10.0, 5.477225575051661, 4.0}},
    {"skewed",
     {0, 0, 0, 1, 10, -2, 0.5f, -0.0f},
     {9.5, 1.1875, 13.424107142857142, 3.663892348699282, -2.0, 10.0, 10.0, 1.6875, 3.627154532136727, 0.5, 0.0, 0.0,
      2.0026537179851798, 2.5650462632971793, 4.0, 13.5, 10.259142264341596, 10.0}},
    {"constant",
     {7, 7, 7},
     {21.0, 7.0, 0.0, 0.0, 7.0, 7.0, 7.0, 7.0, 7.0, 0.0, 0.0, 0.0, kNan, kNan, 3.0, 21.0, 12.12435565298214, 7.0}},
    {"zeros",
     {0, -0.0f},
     {0.0, 0.0, 0.0, 0.0, -0.0, -0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, kNan, kNan, 0.0, 0.0, 0.0, 0.0}},
    {"nan",
     {1, kNanF, 3},
     {kNan, kNan, kNan, kNan, kNan, kNan, kNan, kNan, kNan, 0.0, 1.0, 0.0, kNan, kNan, 3.0, kNan, kNan, kNan}},
    {"plus_inf",
     {1, kInfF, -2},
     {kInf, kInf, kNan, kNan, -2.0, kInf, kInf, kInf, kInf, 0.0, 0.0, 1.0, kNan, kNan, 3.0, kInf, kInf, kInf}},
    {"minus_inf",
     {-kInfF, 0, 2},
     {-kInf, -kInf, kNan, kNan, -kInf, 2.0, kInf, kInf, kInf, 0.3333333333333333, 0.0, 1.0, kNan, kNan, 2.0, kInf, kInf,
      kInf}},
    {"both_inf",
     {kInfF, -kInfF, 1},
     {kNan, kNan, kNan, kNan, -kInf, kInf, kInf, kInf, kInf, 0.0, 0.0, 2.0, kNan, kNan, 3.0, kInf, kInf, kInf}},
    {"nan_and_inf",
     {kNanF, kInfF},
     {kNan, kNan, kNan, kNan, kNan, kNan, kNan, kNan, kNan, 0.0, 1.0, 1.0, kNan, kNan, 2.0, kNan, kNan, kNan}},
    {"only_inf",
     {kInfF, kInfF},
     {kInf, kInf, kNan, kNan, kInf, kInf, kInf, kInf, kInf, 0.0, 0.0, 2.0, kNan, kNan, 2.0, kInf, kInf, kInf}},
    {"only_minus_inf",
     {-kInfF},
     {-kInf, -kInf, kNan, kNan, -kInf, -kInf, kInf, kInf, kInf, 0.0, 0.0, 1.0, kNan, kNan, 1.0, kInf, kInf, kInf}},
    {"only_nan",
     {kNanF},
     {kNan, kNan, kNan, kNan, kNan, kNan, kNan, kNan, kNan, 0.0, 1.0, 0.0, kNan, kNan, 1.0, kNan, kNan, kNan}},
    {"large",
     {1e+30f, -2e+30f, 5e+29f},
     {-5.000000075237331e+29, -1.666666691745777e+29, 2.583333411078576e+60, 1.6072751510175774e+30,
      -2.0000000300949324e+30, 1.0000000150474662e+30, 2.0000000300949324e+30, 1.1666666842220439e+30,
      1.322875675438222e+30, 0.0, 0.0, 0.0, -0.6309038567106238, -1.5, 3.0, 3.500000052666132e+30,
      2.2912878819559964e+30, 2.0000000300949324e+30}},
    {"far",
     {1000001, 1000002, 1000004},
     {3000007.0, 1000002.3333333334, 2.333333333333333, 1.5275252316519465, 1000001.0, 1000004.0, 1000004.0,
      1000002.3333333334, 1000002.3333341111, 0.0, 0.0, 0.0, 0.3818017740672664, -1.500000000047516, 3.0, 3000007.0,
      1732054.8490221088, 1000004.0}},
};

TEST(Derive, NumpyAgreesOnEveryMetric) {
  for (const Golden& golden : kGolden) {
    ASSERT_EQ(golden.expected.size(), kMetrics.size());
    const TensorStats s = ComputeStats(golden.x.data(), DType::kF32, golden.x.size());
    for (size_t i = 0; i < kMetrics.size(); ++i) {
      const double actual = kMetrics[i].value(s), expected = golden.expected[i];
      const auto what = std::string(kMetrics[i].name) + " of " + golden.name;
      if (std::isnan(expected)) {
        EXPECT_TRUE(std::isnan(actual)) << what << ": " << actual;
      } else if (std::isinf(expected)) {
        EXPECT_EQ(actual, expected) << what;
      } else {
        const double scale = std::fabs(expected) < 1e20 ? 1 + std::fabs(expected) : std::fabs(expected);
        EXPECT_NEAR(actual, expected, kMetrics[i].tolerance * scale) << what;
      }
    }
  }
}

TEST(Derive, EmptyTensor) {
  const TensorStats s = ComputeStats(nullptr, DType::kF32, 0);
  for (const Metric& metric : kMetrics) {
    if (std::isnan(metric.empty)) {
      EXPECT_TRUE(std::isnan(metric.value(s))) << metric.name;
    } else {
      EXPECT_EQ(metric.value(s), metric.empty) << metric.name;
    }
  }
}

TEST(Derive, DefaultStatsAreEmptyOnes) {
  for (const Metric& metric : kMetrics) {
    EXPECT_EQ(std::isnan(metric.value(TensorStats{})), std::isnan(metric.empty)) << metric.name;
  }
}

TEST(Derive, AgreesWithTwoPassesOverDoubles) {
  const std::vector<double> x = {3.5, -1e-3, 4e5, 0, 17, -2e5, 1e-300};
  ExpectMatches(ComputeStats(x.data(), DType::kF64, x.size()), x, "doubles", 1e-6);
}

// The writer may keep moments about any shift; a zero variance is still seen as one.
TEST(Derive, AnyShiftOfTheWriter) {
  const std::vector<double> x = {3, 3, 3, 3};
  TensorStats s = ComputeStats(x.data(), DType::kF64, x.size());
  s.shift = 0.1;
  const double d = 3 - 0.1;
  s.sum1 = 4 * d;
  s.sum2 = 4 * d * d;
  s.sum3 = 4 * d * d * d;
  s.sum4 = 4 * d * d * d * d;
  EXPECT_EQ(stats::Variance(s), 0);
  EXPECT_TRUE(std::isnan(stats::Skewness(s)));
  EXPECT_TRUE(std::isnan(stats::Kurtosis(s)));
  EXPECT_DOUBLE_EQ(stats::Mean(s), 3);
  EXPECT_DOUBLE_EQ(stats::Sum(s), 12);
}

TEST(Derive, NormByOrder) {
  const std::vector<float> x = {3, -4, 0};
  const TensorStats s = ComputeStats(x.data(), DType::kF32, x.size());
  EXPECT_EQ(stats::Norm(s, 0), 2);
  EXPECT_DOUBLE_EQ(stats::Norm(s, 1), 7);
  EXPECT_DOUBLE_EQ(stats::Norm(s, 2), 5);
  EXPECT_EQ(stats::Norm(s, kInf), 4);
  for (const double order : {0.0, 1.0, 2.0, kInf}) EXPECT_TRUE(stats::HasNorm(order));
  for (const double order : {0.5, 3.0, -kInf, -1.0, kNan}) {
    EXPECT_FALSE(stats::HasNorm(order));
    EXPECT_TRUE(std::isnan(stats::Norm(s, order)));
  }
}

}  // namespace
}  // namespace ikkuna
