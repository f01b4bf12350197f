// spectral_norm and stable_rank against the singular values by one-sided Jacobi rotations.
#include "metrics/spectral.h"

#include <random>

#include "tests/metrics/metric_probe.h"

namespace ikkuna::metrics {
namespace {

using Values = std::vector<double>;

// Of an m x n matrix, descending (Golub and Van Loan, section 8.6.3): columns are turned until all are at right angles.
std::vector<long double> SingularValues(const Values& matrix, size_t m, size_t n) {
  std::vector<std::vector<long double>> columns(n, std::vector<long double>(m));
  for (size_t i = 0; i < m * n; ++i) columns[i % n][i / n] = matrix[i];
  const auto dot = [&](size_t a, size_t b) {
    long double sum = 0;
    for (size_t i = 0; i < m; ++i) sum += columns[a][i] * columns[b][i];
    return sum;
  };
  for (int sweep = 0; sweep < 60; ++sweep) {
    long double worst = 0;
    for (size_t p = 0; p + 1 < n; ++p) {
      for (size_t q = p + 1; q < n; ++q) {
        const long double pp = dot(p, p), qq = dot(q, q), pq = dot(p, q);
        if (pq == 0) continue;
        worst = std::max(worst, std::fabs(pq) / std::sqrt(pp * qq));
        const long double zeta = (qq - pp) / (2 * pq);
        const long double t = (zeta >= 0 ? 1 : -1) / (std::fabs(zeta) + std::sqrt(1 + zeta * zeta));
        const long double c = 1 / std::sqrt(1 + t * t), s = c * t;
        for (size_t i = 0; i < m; ++i) {
          const long double x = columns[p][i], y = columns[q][i];
          columns[p][i] = c * x - s * y;
          columns[q][i] = s * x + c * y;
        }
      }
    }
    if (worst < 1e-17L) break;
  }
  std::vector<long double> values;
  for (size_t i = 0; i < n; ++i) values.push_back(std::sqrt(dot(i, i)));
  std::sort(values.rbegin(), values.rend());
  return values;
}

double Step(Subscriber& subscriber, const TestTensor& tensor) {
  const Payload payload{tensor.view()};
  Input input;
  input.subject = {3, 4};
  input.payload = &payload;
  const auto recorder = std::make_shared<Recorder>();
  subscriber.OnStep({}, {&input, 1}, recorder);
  EXPECT_EQ(recorder->values.size(), 1u);
  return recorder->values.empty() ? kNan : recorder->values[0];
}

Values Random(size_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  Values values(n);
  for (double& value : values) value = normal(random);
  return values;
}

TEST(SpectralTest, SettlesOnTheGreatestSingularValue) {
  for (const auto& sizes : std::vector<std::vector<int64_t>>{
           {1, 1}, {1, 7}, {7, 1}, {5, 3}, {3, 5}, {20, 20}, {16, 3, 3, 3}, {40, 2, 5}, {30}}) {
    size_t n = 1;
    for (const int64_t size : sizes) n *= static_cast<size_t>(size);
    const Values x = Random(n, n);
    const auto rows = static_cast<size_t>(sizes[0]);
    const std::vector<long double> sigma = SingularValues(x, rows, n / rows);
    long double squares = 0;
    for (const double value : x) squares += static_cast<long double>(value) * value;
    const TestTensor tensor = TestTensor::Of(DType::kF64, x, sizes);
    const auto norm = Define("spectral_norm", {"weights"}, {"1000"}).create();
    EXPECT_NEAR(Step(*norm, tensor), static_cast<double>(sigma[0]), 1e-9 * static_cast<double>(sigma[0]));
    const auto rank = Define("stable_rank", {"weights"}, {"1000"}).create();
    const auto want = static_cast<double>(squares / (sigma[0] * sigma[0]));
    EXPECT_NEAR(Step(*rank, tensor), want, 1e-9 * want);
    // The same over many steps of few rounds, always from below.
    const auto slow = Define("spectral_norm", {"weights"}, {"1"}).create();
    double before = 0;
    for (int step = 0; step < 600; ++step) {
      const double now = Step(*slow, tensor);
      EXPECT_GE(now, before * (1 - 1e-12));
      before = now;
    }
    EXPECT_NEAR(before, static_cast<double>(sigma[0]), 1e-7 * static_cast<double>(sigma[0]));
  }
}

TEST(SpectralTest, OfEveryDataTypeAndRankOneAtOnce) {
  for (const DType dtype :
       {DType::kF32, DType::kF64, DType::kF16, DType::kBF16, DType::kI8, DType::kI64, DType::kBool}) {
    const auto norm = Define("spectral_norm", {"weights"}).create();
    EXPECT_NEAR(Step(*norm, TestTensor::Of(dtype, {1, 1, 1, 1, 1, 1}, {2, 3})), std::sqrt(6.0), 1e-12);
    const auto rank = Define("stable_rank", {"weights"}).create();
    EXPECT_NEAR(Step(*rank, TestTensor::Of(dtype, {1, 1, 1, 1, 1, 1}, {2, 3})), 1, 1e-12);
  }
  const auto rank = Define("stable_rank", {"weights"}, {"50"}).create();
  EXPECT_NEAR(Step(*rank, TestTensor::Of(DType::kF32, {2, 0, 0, 0, 2, 0, 0, 0, 2}, {3, 3})), 3, 1e-12);
}

// The first update of a run is all zeros: what was kept then must not stay so.
TEST(SpectralTest, BeginsAnewWhereTheVectorVanishes) {
  const auto norm = Define("spectral_norm", {"weight_updates"}, {"100"}).create();
  const Values x = Random(12, 5);
  const auto want = static_cast<double>(SingularValues(x, 3, 4)[0]);
  const TestTensor tensor = TestTensor::Of(DType::kF64, x, {3, 4});
  EXPECT_EQ(Step(*norm, TestTensor::Of(DType::kF64, Values(12), {3, 4})), 0);
  EXPECT_NEAR(Step(*norm, tensor), want, 1e-6 * want);
  Values bad = x;
  bad[5] = kNan;
  EXPECT_TRUE(std::isnan(Step(*norm, TestTensor::Of(DType::kF64, bad, {3, 4}))));
  EXPECT_NEAR(Step(*norm, tensor), want, 1e-6 * want);
  bad[5] = kInf;
  EXPECT_FALSE(std::isfinite(Step(*norm, TestTensor::Of(DType::kF64, bad, {3, 4}))));
  EXPECT_NEAR(Step(*norm, tensor), want, 1e-6 * want);
  // Another width begins anew, too.
  EXPECT_NEAR(Step(*norm, TestTensor::Of(DType::kF64, {3, 4}, {1, 2})), 5, 1e-12);
}

TEST(SpectralTest, EndsOfItsRange) {
  const auto norm = Define("spectral_norm", {"weights"}, {"20"}).create();
  const auto rank = Define("stable_rank", {"weights"}, {"20"}).create();
  for (const TestTensor& none : {TestTensor::Of(DType::kF32, {}, {0, 3}), TestTensor::Of(DType::kF32, {}, {3, 0})}) {
    EXPECT_EQ(Step(*norm, none), 0);
    EXPECT_TRUE(std::isnan(Step(*rank, none)));
  }
  EXPECT_TRUE(std::isnan(Step(*rank, TestTensor::Of(DType::kF32, {0, 0}, {1, 2}))));
  EXPECT_EQ(Step(*norm, TestTensor::Of(DType::kF32, {-7}, {})), 7) << "a tensor of no dimension";
  // A vector whose squares vanish, or are no doubles.
  EXPECT_NEAR(Step(*norm, TestTensor::Of(DType::kF64, {3e-140, 4e-140}, {1, 2})), 5e-140, 1e-152);
  EXPECT_NEAR(Step(*norm, TestTensor::Of(DType::kF64, {3e120, 4e120}, {1, 2})), 5e120, 1e108);
  const std::vector<std::string> inputs = {"weights"};
  for (const char* bad : {"0", "1001", "-3", "2.5", ""}) {
    const std::vector<std::string> values = {bad};
    EXPECT_FALSE(FindDescriptor("spectral_norm")->define(inputs, values).ok()) << bad;
    EXPECT_FALSE(FindDescriptor("stable_rank")->define(inputs, values).ok()) << bad;
  }
}

}  // namespace
}  // namespace ikkuna::metrics
