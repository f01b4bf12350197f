// What each metric says it rests on: enough to give its number, and none of it too much.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/metrics/metric_probe.h"

namespace ikkuna::metrics {
namespace {

struct Part {
  Moment moment;
  std::vector<double TensorStats::*> fields;
};
const Part kParts[] = {{kMomentFirst, {&TensorStats::sum1}},   {kMomentSecond, {&TensorStats::sum2}},
                       {kMomentThird, {&TensorStats::sum3}},   {kMomentFourth, {&TensorStats::sum4}},
                       {kMomentAbs, {&TensorStats::abs_sum}},  {kMomentSquare, {&TensorStats::square_sum}},
                       {kMomentBounds, {&TensorStats::min, &TensorStats::max}}};

// With another number in the place of these moments.
TensorStats Spoiled(TensorStats stats, uint64_t moments) {
  for (const Part& part : kParts) {
    for (const auto field : part.fields) {
      if ((moments & part.moment) != 0) stats.*field = stats.*field * 3 + 1;
    }
  }
  return stats;
}

// Values and events, as text.
std::string Answer(const Definition& definition, const std::vector<TensorStats>& inputs) {
  auto subscriber = definition.create();
  std::vector<Input> all(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    all[i].index = i;
    all[i].kind = Kind::kWeights;
    all[i].stats = &inputs[i];
  }
  const auto results = std::make_shared<Recorder>();
  if (definition.delivery == Delivery::kEachMessage) {
    for (const Input& input : all) subscriber->OnMessage(input, nullptr);
    all.clear();
  }
  subscriber->OnStep({}, all, results);
  std::string answer;
  for (const double value : results->values) answer += std::to_string(value) + ";";
  for (const std::string& event : results->events) answer += event + ";";
  return answer;
}

TEST(MomentsOfMetrics, AreWhatTheNumberRestsOn) {
  const double x[] = {1, -2.5, 4, 0, 7}, y[] = {3, 1, kInf};
  size_t checked = 0;
  for (const Descriptor* descriptor : Descriptors()) {
    std::vector<std::vector<std::string>> parameters;
    std::vector<std::string> defaults;
    for (const Parameter& parameter : descriptor->parameters) defaults.emplace_back(parameter.default_value);
    parameters.push_back(defaults);
    if (descriptor->name == "norm") parameters = {{"0"}, {"1"}, {"2"}, {"inf"}};
    std::vector<std::string> inputs(std::max<size_t>(descriptor->inputs_min, 1), "weights");
    if (descriptor->accepts == Inputs::kTopics) continue;
    for (const auto& values : parameters) {
      const auto definition = descriptor->define(inputs, values);
      if (!definition.ok() || definition->content != Content::kStatistics) continue;
      const std::string what = std::string(descriptor->name) + (values.empty() ? "" : values[0]);
      for (const TensorStats& stats : {ComputeStats(x, DType::kF64, 5), ComputeStats(y, DType::kF64, 3)}) {
        const auto answer = [&](uint64_t spoiled) {
          return Answer(*definition, std::vector<TensorStats>(inputs.size(), Spoiled(stats, spoiled)));
        };
        EXPECT_EQ(answer(kAllMoments & ~definition->moments), answer(0)) << what;
      }
      const TensorStats finite = ComputeStats(x, DType::kF64, 5);
      for (const Part& part : kParts) {
        if ((definition->moments & part.moment) == 0) continue;
        // One side of several alone, or a ratio stays what it is.
        std::vector<TensorStats> one(inputs.size(), finite);
        one[0] = Spoiled(finite, part.moment);
        EXPECT_NE(Answer(*definition, one), Answer(*definition, std::vector<TensorStats>(inputs.size(), finite)))
            << what << " does not rest on moment " << part.moment;
      }
      ++checked;
    }
  }
  EXPECT_GE(checked, 14u + 4 + 2);  // the one-pass group, norms, ratio, non_finite
}

}  // namespace
}  // namespace ikkuna::metrics
