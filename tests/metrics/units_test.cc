// dead_fraction against its definition, by index.
#include "metrics/units.h"

#include <random>

#include "tests/metrics/metric_probe.h"

namespace ikkuna::metrics {
namespace {

using Values = std::vector<double>;

double Dead(const std::vector<TestTensor>& messages, const std::string& axis = "auto") {
  return RunOnce("dead_fraction", {axis}, messages);
}

double ByIndex(const Values& x, const std::vector<int64_t>& sizes, size_t axis) {
  std::vector<bool> alive(static_cast<size_t>(sizes[axis]));
  for (size_t i = 0; i < x.size(); ++i) {
    size_t rest = i;
    for (size_t d = sizes.size() - 1; d > axis; --d) rest /= static_cast<size_t>(sizes[d]);
    if (x[i] != 0) alive[rest % alive.size()] = true;
  }
  return static_cast<double>(std::count(alive.begin(), alive.end(), false)) / static_cast<double>(alive.size());
}

TEST(DeadFractionTest, OfEveryAxisIsItsDefinition) {
  std::mt19937 random(1);
  for (const std::vector<int64_t>& sizes : std::vector<std::vector<int64_t>>{
           {7}, {3, 5}, {2, 300}, {4, 3, 5}, {2, 6, 3, 3}, {1, 1, 1, 1}, {3, 2, 2, 2, 5}, {2, 3, 1, 2, 2, 1, 1, 3}}) {
    size_t n = 1;
    for (const int64_t size : sizes) n *= static_cast<size_t>(size);
    Values x(n);
    for (double& value : x) value = random() % 4 == 0 ? 1 : 0;
    const TestTensor tensor = TestTensor::Of(DType::kF32, x, sizes);
    const int dimensions = static_cast<int>(sizes.size());
    for (int axis = 0; axis < dimensions; ++axis) {
      const double want = ByIndex(x, sizes, static_cast<size_t>(axis));
      EXPECT_EQ(Dead({tensor}, std::to_string(axis)), want);
      EXPECT_EQ(Dead({tensor}, std::to_string(axis - dimensions)), want);
    }
    if (dimensions < 2) continue;
    EXPECT_EQ(Dead({tensor}), ByIndex(x, sizes, dimensions >= 4 ? 1 : sizes.size() - 1));
  }
}

TEST(DeadFractionTest, AUnitLivesWhereAnyMessageHasIt) {
  const TestTensor first = TestTensor::Of(DType::kF32, {0, 0, 1, 0}, {1, 4});
  const TestTensor second = TestTensor::Of(DType::kF32, {0, -2, 0, 0, 0, 0, 0, 0}, {2, 4});
  EXPECT_EQ(Dead({first}), 0.75);
  EXPECT_EQ(Dead({first, second}), 0.5);
  const Definition definition = Define("dead_fraction", {"activations"});
  const auto one = definition.create(), other = definition.create(), none = definition.create();
  for (const auto& [subscriber, tensor] : {std::pair(one.get(), &first), std::pair(other.get(), &second)}) {
    const Payload payload{tensor->view()};
    subscriber->OnMessage({}, &payload);
  }
  none->Merge(*one);
  none->Merge(*other);
  Input input;
  const auto recorder = std::make_shared<Recorder>();
  none->OnStep({}, {&input, 1}, recorder);
  EXPECT_EQ(recorder->values, Values{0.5});
}

TEST(DeadFractionTest, EdgesOfIt) {
  EXPECT_EQ(Dead({TestTensor::Of(DType::kF32, {0, -0.0, kNan, 0}, {2, 2})}), 0.5) << "NaN is not 0";
  EXPECT_EQ(Dead({TestTensor::Of(DType::kF32, {0}, {})}), 1) << "a tensor of no dimension is one unit";
  EXPECT_EQ(Dead({TestTensor::Of(DType::kBool, {0, 1, 0})}), 0) << "so is one of one";
  EXPECT_TRUE(std::isnan(Dead({TestTensor::Of(DType::kF32, {}, {0, 4})})));
  EXPECT_TRUE(std::isnan(Dead({TestTensor::Of(DType::kF32, {}, {4, 0})})));
  EXPECT_EQ(Dead({TestTensor::Of(DType::kF32, {}, {0, 4}), TestTensor::Of(DType::kF32, {1, 0}, {1, 2})}), 0.5);
}

TEST(DeadFractionTest, WhatDoesNotFitTogetherGivesNothingAndIsCounted) {
  for (const auto& [messages, axis] : std::vector<std::pair<std::vector<TestTensor>, std::string>>{
           {{TestTensor::Of(DType::kF32, {1, 0}, {1, 2}), TestTensor::Of(DType::kF32, {1, 0, 0}, {1, 3})}, "auto"},
           {{TestTensor::Of(DType::kF32, {1, 0}, {1, 2})}, "2"},
           {{TestTensor::Of(DType::kF32, {1}, {})}, "0"}}) {
    const auto subscriber = Define("dead_fraction", {"activations"}, {axis}).create();
    for (const TestTensor& message : messages) {
      const Payload payload{message.view()};
      subscriber->OnMessage({}, &payload);
    }
    Input input;
    const auto recorder = std::make_shared<Recorder>();
    subscriber->OnStep({}, {&input, 1}, recorder);
    EXPECT_TRUE(recorder->values.empty());
    EXPECT_EQ(recorder->incomplete, 1);
    subscriber->Reset();
    EXPECT_EQ(subscriber->bytes(), 0u);
  }
  const std::vector<std::string> inputs = {"activations"};
  for (const char* bad : {"8", "-9", "x", "1.0", ""}) {
    const std::vector<std::string> values = {bad};
    EXPECT_FALSE(FindDescriptor("dead_fraction")->define(inputs, values).ok()) << bad;
  }
}

}  // namespace
}  // namespace ikkuna::metrics
