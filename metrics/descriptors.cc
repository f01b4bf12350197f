// The catalogue: one line a metric.
#include <algorithm>

#include "metrics/accuracy.h"
#include "metrics/logged.h"
#include "metrics/loss.h"
#include "metrics/message_mean.h"
#include "metrics/non_finite.h"
#include "metrics/norm.h"
#include "metrics/ratio.h"
#include "metrics/statistics.h"
#include "metrics/subscriber.h"

namespace ikkuna::metrics {

namespace {

std::vector<const Descriptor*> AllDescriptors() {
  std::vector<const Descriptor*> all;
  for (const Descriptor& descriptor : StatisticsDescriptors()) all.push_back(&descriptor);
  all.insert(all.end(), {&kNorm, &kRatio, &kMessageMean, &kLoss, &kTrainAccuracy, &kTestAccuracy, &kLearningRate,
                         &kScalar, &kText, &kNonFinite});
  std::sort(all.begin(), all.end(), [](const auto* a, const auto* b) { return a->name < b->name; });
  return all;
}

}  // namespace

std::string_view CostName(Cost cost) { return cost == Cost::kCheap ? "cheap" : "heavy"; }

std::span<const Descriptor* const> Descriptors() {
  static const std::vector<const Descriptor*> all = AllDescriptors();
  return all;
}

const Descriptor* FindDescriptor(std::string_view name) {
  for (const Descriptor* descriptor : Descriptors()) {
    if (descriptor->name == name) return descriptor;
  }
  return nullptr;
}

}  // namespace ikkuna::metrics
