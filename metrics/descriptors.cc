// The catalogue: one line a metric.
#include <algorithm>

#include "metrics/accuracy.h"
#include "metrics/averages.h"
#include "metrics/direction.h"
#include "metrics/histogram.h"
#include "metrics/logged.h"
#include "metrics/loss.h"
#include "metrics/message_mean.h"
#include "metrics/non_finite.h"
#include "metrics/norm.h"
#include "metrics/ratio.h"
#include "metrics/spectral.h"
#include "metrics/statistics.h"
#include "metrics/subscriber.h"
#include "metrics/units.h"

namespace ikkuna::metrics {

namespace {

void Sort(std::vector<const Descriptor*>& all) {
  std::sort(all.begin(), all.end(), [](const auto* a, const auto* b) { return a->name < b->name; });
}

std::vector<const Descriptor*> OwnDescriptors() {
  std::vector<const Descriptor*> all;
  for (const Descriptor& descriptor : StatisticsDescriptors()) all.push_back(&descriptor);
  all.insert(all.end(), {&kNorm, &kHistogram, &kDeadFraction, &kSpectralNorm, &kStableRank, &kCosine,
                         &kDistanceFromStart, &kAverageValue, &kMovingAverage, &kRatio, &kMessageMean, &kLoss,
                         &kTrainAccuracy, &kTestAccuracy, &kLearningRate, &kScalar, &kText, &kNonFinite});
  Sort(all);
  return all;
}

std::vector<const Descriptor*>& AllDescriptors() {
  static std::vector<const Descriptor*> all = OwnDescriptors();
  return all;
}

}  // namespace

std::string_view CostName(Cost cost) { return cost == Cost::kCheap ? "cheap" : "heavy"; }

std::span<const Descriptor* const> Descriptors() { return AllDescriptors(); }

Status RegisterDescriptor(const Descriptor& descriptor) {
  const std::string name(descriptor.name);
  if (FindDescriptor(name) != nullptr) {
    return Error{ErrorCode::kAlreadyExists, "there is a metric '" + name + "' already; give this one another name"};
  }
  std::vector<std::string> values;
  for (const Parameter& parameter : descriptor.parameters) values.emplace_back(parameter.default_value);
  const std::vector<std::string> inputs(descriptor.inputs_max, "kind");
  if (descriptor.define == nullptr) {
    return Error{ErrorCode::kInvalidArgument, "the metric '" + name + "' says nothing of what it is"};
  }
  auto definition = descriptor.define(inputs, values);
  if (!definition) return definition.error();
  const size_t count = descriptor.inputs_max == 0 ? descriptor.default_inputs.size() : descriptor.inputs_max;
  const bool topics = descriptor.accepts == Inputs::kTopics;
  if (auto checked = CheckDefinition(definition.value(), {topics ? 0 : count, topics ? count : 0}); !checked) {
    return checked;
  }
  AllDescriptors().push_back(&descriptor);
  Sort(AllDescriptors());
  return {};
}

const Descriptor* FindDescriptor(std::string_view name) {
  for (const Descriptor* descriptor : Descriptors()) {
    if (descriptor->name == name) return descriptor;
  }
  return nullptr;
}

}  // namespace ikkuna::metrics
