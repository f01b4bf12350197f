// A pass that leaves out the third and fourth moment: what it takes is what the whole pass takes, on every path.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "shared/stats/merge.h"
#include "shared/stats/stats_pass.h"
#include "tests/shared/stats/reference.h"

namespace ikkuna {
namespace {

// `what` is off by rounding alone, relative to `size`.
void ExpectNear(double value, double whole, double size, const std::string& what) {
  EXPECT_NEAR(value, whole, 1e-6 * (size + std::numeric_limits<double>::min())) << what;
}

void ExpectCheapOf(const TensorStats& cheap, const TensorStats& whole, const std::string& what) {
  EXPECT_EQ(cheap.left_out, kMomentThird | kMomentFourth) << what;
  EXPECT_EQ(whole.left_out, 0u) << what;
  EXPECT_EQ(cheap.sum3, 0) << what;
  EXPECT_EQ(cheap.sum4, 0) << what;
  EXPECT_TRUE(ValidateStats(cheap).ok()) << what << ValidateStats(cheap).error().text;
  EXPECT_EQ(cheap.n, whole.n) << what;
  EXPECT_EQ(cheap.finite_n, whole.finite_n) << what;
  EXPECT_EQ(cheap.zeros, whole.zeros) << what;
  EXPECT_EQ(cheap.nans, whole.nans) << what;
  EXPECT_EQ(cheap.positive_infinities, whole.positive_infinities) << what;
  EXPECT_EQ(cheap.negative_infinities, whole.negative_infinities) << what;
  EXPECT_EQ(cheap.min, whole.min) << what;
  EXPECT_EQ(cheap.max, whole.max) << what;
  ExpectNear(cheap.abs_sum, whole.abs_sum, whole.abs_sum, what + " abs_sum");
  ExpectNear(cheap.square_sum, whole.square_sum, whole.square_sum, what + " square_sum");
  const auto n = static_cast<double>(whole.finite_n);
  ExpectNear(cheap.sum1 + n * cheap.shift, whole.sum1 + n * whole.shift, whole.abs_sum, what + " sum");
}

TEST(Moments, ThoseThatAreTakenAreAsWithAll) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const StatsPath path : AvailablePaths()) {
    const PathScope scope(path);
    for (const size_t n : {0, 1, 7, 64, 513, 4097, 20'000}) {
      std::vector<std::vector<float>> tensors(5, std::vector<float>(n));
      for (size_t i = 0; i < n; ++i) {
        tensors[0][i] = normal(random);
        tensors[1][i] = 1e4f + normal(random);
        tensors[2][i] = random() % 50 == 0 ? 100 * normal(random) : 0;
        tensors[3][i] = i % 5 == 0 ? kNanF : i % 7 == 0 ? -kInfF : normal(random);
        tensors[4][i] = i == 1 ? 1e9f : i == 2 ? -1e9f : normal(random);
      }
      for (size_t t = 0; t < tensors.size(); ++t) {
        const std::vector<float>& x = tensors[t];
        const std::string what = PathName(path) + " " + std::to_string(n) + " tensor " + std::to_string(t);
        for (const uint64_t asked : {uint64_t{0}, uint64_t{kMomentSquare}, kCheapMoments}) {
          ExpectCheapOf(ComputeStats(x.data(), DType::kF32, n, asked), ComputeStats(x.data(), DType::kF32, n), what);
        }
        const std::vector<double> wide(x.begin(), x.end());
        ExpectCheapOf(ComputeStats(wide.data(), DType::kF64, n, kMomentFirst),
                      ComputeStats(wide.data(), DType::kF64, n), what + " f64");
        StatsPass cheap(kMomentBounds), whole;
        cheap.AddDifference(x.data(), tensors[0].data(), DType::kF32, n);
        whole.AddDifference(x.data(), tensors[0].data(), DType::kF32, n);
        ExpectCheapOf(cheap.Finish(), whole.Finish(), what + " difference");
      }
    }
  }
}

TEST(Moments, WhoAsksOneOfTheDearOnesGetsAll) {
  const float x[] = {1, 2, 4};
  for (const uint64_t asked : {uint64_t{kMomentThird}, uint64_t{kMomentFourth}, kAllMoments}) {
    EXPECT_EQ(ComputeStats(x, DType::kF32, 3, asked).left_out, 0u);
  }
}

}  // namespace
}  // namespace ikkuna
