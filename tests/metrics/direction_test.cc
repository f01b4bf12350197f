// cosine and distance_from_start against their definitions, over steps.
#include "metrics/direction.h"

#include <random>

#include "tests/metrics/metric_probe.h"

namespace ikkuna::metrics {
namespace {

using Values = std::vector<double>;

// What a step with this tensor publishes; its bytes are gone when somebody holds nothing of them.
std::vector<double> Step(Subscriber& subscriber, const TestTensor& tensor) {
  const auto held = std::make_shared<TestTensor>(tensor);
  const Payload payload{held->view(), Space::kHostArena, -1, held};
  Input input;
  input.subject = {3, 4};
  input.payload = &payload;
  const auto recorder = std::make_shared<Recorder>();
  subscriber.OnStep({}, {&input, 1}, recorder);
  return recorder->values;
}

double Dot(const Values& a, const Values& b) {
  long double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<long double>(a[i]) * b[i];
  return static_cast<double>(sum);
}

TEST(DirectionTest, AreTheirDefinitionsOverSteps) {
  for (const size_t n : {1u, 3u, 256u, 1'000u}) {
    const auto cosine = Define("cosine", {"weights"}).create();
    const auto distance = Define("distance_from_start", {"weights"}).create();
    std::mt19937 random(n);
    std::normal_distribution<double> normal;
    Values first, before;
    for (int step = 0; step < 5; ++step) {
      Values now(n);
      for (double& x : now) x = normal(random);
      const TestTensor tensor = TestTensor::Of(DType::kF64, now);
      const std::vector<double> cosines = Step(*cosine, tensor), distances = Step(*distance, tensor);
      if (step == 0) {
        EXPECT_TRUE(cosines.empty() && distances.empty()) << "there is nothing to compare it with";
        first = now;
      } else {
        ASSERT_EQ(cosines.size(), 1u);
        ASSERT_EQ(distances.size(), 1u);
        EXPECT_NEAR(cosines[0], Dot(now, before) / std::sqrt(Dot(now, now) * Dot(before, before)), 1e-12);
        Values moved = now;
        for (size_t i = 0; i < n; ++i) moved[i] -= first[i];
        EXPECT_NEAR(distances[0], std::sqrt(Dot(moved, moved)), 1e-12 * distances[0]);
      }
      before = now;
    }
  }
}

TEST(DirectionTest, KnownAngles) {
  const auto cosine = Define("cosine", {"weight_gradients"}).create();
  EXPECT_EQ(Step(*cosine, TestTensor::Of(DType::kF32, {3, 4})), Values{});
  EXPECT_EQ(Step(*cosine, TestTensor::Of(DType::kF32, {6, 8})), Values{1});
  EXPECT_EQ(Step(*cosine, TestTensor::Of(DType::kF16, {-8, 6})), Values{0}) << "of another type, at a right angle";
  EXPECT_EQ(Step(*cosine, TestTensor::Of(DType::kF32, {16, -12})), Values{-1});
  EXPECT_TRUE(std::isnan(Step(*cosine, TestTensor::Of(DType::kF32, {0, 0}))[0]));
  EXPECT_TRUE(std::isnan(Step(*cosine, TestTensor::Of(DType::kF32, {1, 1}))[0]));
  EXPECT_NEAR(Step(*cosine, TestTensor::Of(DType::kF32, {1, 1}))[0], 1, 1e-15) << "it has recovered";
  EXPECT_EQ(Step(*cosine, TestTensor::Of(DType::kF32, {1, 1, 1})), Values{}) << "of another size it begins anew";
  EXPECT_NEAR(Step(*cosine, TestTensor::Of(DType::kF32, {1, 1, 1}))[0], 1, 1e-15);
  EXPECT_TRUE(std::isnan(Step(*cosine, TestTensor::Of(DType::kF32, {kInf, 1, 1}))[0]));
}

TEST(DirectionTest, TheStartIsTheFirstOfItsSize) {
  const auto distance = Define("distance_from_start", {"weights"}).create();
  EXPECT_EQ(Step(*distance, TestTensor::Of(DType::kF32, {1, 1})), Values{});
  EXPECT_EQ(Step(*distance, TestTensor::Of(DType::kF32, {1, 1})), Values{0});
  EXPECT_EQ(Step(*distance, TestTensor::Of(DType::kF32, {4, 5})), Values{5});
  EXPECT_TRUE(std::isnan(Step(*distance, TestTensor::Of(DType::kF32, {kNan, 5}))[0]));
  EXPECT_EQ(Step(*distance, TestTensor::Of(DType::kF32, {7})), Values{});
  EXPECT_EQ(Step(*distance, TestTensor::Of(DType::kF32, {4})), Values{3});
}

}  // namespace
}  // namespace ikkuna::metrics
