// Statistics that lack a moment, as a step brings them that began before it was asked.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/daemon/graph/site.h"
#include "tests/daemon/graph/test_metrics.h"

namespace ikkuna::graph {
namespace {

// Sum of the fourth moments of every message that flows in; how many there were.
class Fourth : public Subscriber {
 public:
  void OnMessage(const Input& input, const Payload*) override { Add(input); }
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    for (const Input& input : inputs) {
      if (input.stats != nullptr) Add(input);
    }
    results->Put(inputs.size() == 1 ? inputs[0].subject : metrics::Subject{}, sum_);
    sum_ = 0;
  }
  void Merge(Subscriber& pass) override { sum_ += static_cast<Fourth&>(pass).sum_; }
  void Reset() override { sum_ = 0; }

 private:
  void Add(const Input& input) {
    EXPECT_TRUE(Has(*input.stats, kMomentFourth));
    sum_ += input.stats->sum4;
  }
  double sum_ = 0;
};

using Written = std::span<const std::string>;

template <Delivery delivery, Scope scope, Runs runs>
Result<Definition> DefineFourth(Written inputs, Written) {
  Definition d = Make<Fourth>(inputs, "fourth");
  d.delivery = delivery;
  d.scope = scope;
  d.runs = runs;
  return d;
}

const Descriptor kFourths[] = {
    {.name = "fourth_at_once",
     .publishes = "{kind}_fourth",
     .help = "-",
     .define = DefineFourth<Delivery::kEachMessage, Scope::kSeries, Runs::kInline>},
    {.name = "fourth_queued",
     .publishes = "{kind}_fourth",
     .help = "-",
     .define = DefineFourth<Delivery::kEachMessage, Scope::kSeries, Runs::kQueue>},
    {.name = "fourth_merged",
     .publishes = "{kind}_fourth",
     .help = "-",
     .define = DefineFourth<Delivery::kMerged, Scope::kSeries, Runs::kInline>},
    {.name = "fourth_last",
     .publishes = "{kind}_fourth",
     .help = "-",
     .define = DefineFourth<Delivery::kLast, Scope::kSeries, Runs::kInline>},
    {.name = "fourth_of_step",
     .publishes = "{kind}_fourth",
     .help = "-",
     .define = DefineFourth<Delivery::kMerged, Scope::kRoot, Runs::kInline>},
};

class MomentsTest : public testing::TestWithParam<const char*> {
 protected:
  MomentsTest() {
    for (const Descriptor& descriptor : kFourths) {
      if (metrics::FindDescriptor(descriptor.name) == nullptr) {
        EXPECT_TRUE(metrics::RegisterDescriptor(descriptor).ok());
      }
    }
  }
  shm::Message Weights(Site& site, uint64_t step, uint32_t param, uint64_t moments) {
    const std::vector<double> values{1, 2, 4, 9};
    const uint32_t module = param == Site::kW1 ? Site::kFc1 : Site::kFc2;
    shm::Message message = site.Summary(Kind::kWeights, {.step = step}, module, param, values);
    message.record.stats = ComputeStats(values.data(), DType::kF64, values.size(), moments);
    return message;
  }
  // A step of two parameters, of which the first has these moments.
  void Step(Site& site, uint64_t step, uint64_t moments) {
    site.Start({.step = step});
    site.Handle(Weights(site, step, Site::kW1, moments));
    site.Handle(Weights(site, step, Site::kW2, kAllMoments));
    site.Finish({.step = step});
  }
  void ExpectNothingMissing(Site& site) {
    for (const Count& count : site.graph->Missing()) EXPECT_EQ(count.count, 0u) << count.reason;
  }
};

TEST_P(MomentsTest, WhatWasNotAskedIsAbsentAndNotMissing) {
  Site site({std::string(GetParam()) + "(weights, as=x)", "mean(weights)", "variance(weights)"});
  const std::string topic = "/weights_fourth@x";
  const bool whole = std::string(GetParam()) == "fourth_of_step";
  const std::string first = whole ? topic.substr(1) : "fc1.weight" + topic, second = whole ? first : "fc2.weight" + topic;
  Step(site, 0, kCheapMoments);
  Step(site, 1, kAllMoments);
  ASSERT_TRUE(site.Settled());
  EXPECT_FALSE(site.has(first, 0));
  if (!whole) {
    EXPECT_TRUE(site.has(second, 0));
  }
  EXPECT_TRUE(site.has(first, 1));
  for (uint64_t step : {0, 1}) {
    EXPECT_EQ(site.value("fc1.weight/weights_mean", step), 4);
    EXPECT_TRUE(site.has("fc1.weight/weights_variance", step));
  }
  ExpectNothingMissing(site);
}

// The second message of a series lacks it: half a sum is no result.
TEST_P(MomentsTest, OneMessageWithoutItTakesTheSeriesAway) {
  if (std::string(GetParam()) == "fourth_last") GTEST_SKIP() << "only the last message counts";
  Site site({std::string(GetParam()) + "(weights, as=x)", "norm(weights)"});
  for (const bool first_lacks : {true, false}) {
    const uint64_t step = first_lacks ? 0 : 1;
    site.Start({.step = step});
    site.Handle(Weights(site, step, Site::kW1, first_lacks ? kCheapMoments : kAllMoments));
    site.Handle(Weights(site, step, Site::kW1, first_lacks ? kAllMoments : kCheapMoments));
    site.Finish({.step = step});
  }
  ASSERT_TRUE(site.Settled());
  EXPECT_EQ(site.published().size(), 1u);
  EXPECT_TRUE(site.has("fc1.weight/weights_norm2", 0));
  EXPECT_TRUE(site.has("fc1.weight/weights_norm2", 1));
  ExpectNothingMissing(site);
}

INSTANTIATE_TEST_SUITE_P(Ways, MomentsTest,
                         testing::Values("fourth_at_once", "fourth_queued", "fourth_merged", "fourth_last",
                                         "fourth_of_step"),
                         [](const auto& info) { return std::string(info.param); });

TEST_F(MomentsTest, APairNeedsBothSidesMoments) {
  Site site({"ratio(weights, weight_gradients)"});
  const std::vector<double> values{3, 4};
  for (const uint64_t moments : {kAllMoments & ~uint64_t{kMomentSquare}, kAllMoments}) {
    const uint64_t step = moments == kAllMoments ? 1 : 0;
    site.Start({.step = step});
    shm::Message weights = site.Summary(Kind::kWeights, {.step = step}, Site::kFc1, Site::kW1, values);
    if (moments != kAllMoments) {
      weights.record.stats.left_out = kMomentSquare;
      weights.record.stats.square_sum = 0;
    }
    site.Handle(weights);
    site.Handle(site.Summary(Kind::kWeightGradients, {.step = step}, Site::kFc1, Site::kW1, values));
    site.Finish({.step = step});
  }
  EXPECT_EQ(site.published(), (Published{{"fc1.weight/weights_weight_gradients_ratio", {{1, 1}}}}));
  ExpectNothingMissing(site);
}

// A step of which one series alone lacks it has no number over all of them, and nothing was withheld.
TEST_F(MomentsTest, WhatRestsOnATopicOfWhichSomeWereNotAskedIsAbsentToo) {
  Site site({"kurtosis(weights)", "message_mean(weights_kurtosis)", "fourth_at_once(weights, as=x)",
             "message_mean(weights_fourth@x)"});
  Step(site, 0, kCheapMoments);
  Step(site, 1, kAllMoments);
  ASSERT_TRUE(site.Settled());
  EXPECT_TRUE(site.has("fc2.weight/weights_kurtosis", 0));
  for (const char* topic : {"weights_kurtosis_message_mean", "weights_fourth@x_message_mean"}) {
    EXPECT_FALSE(site.has(topic, 0)) << topic;
  }
  EXPECT_TRUE(site.has("weights_kurtosis_message_mean", 1));
  ExpectNothingMissing(site);
}

TEST_F(MomentsTest, ARuleThatCountsNeedsNone) {
  Site site({"non_finite(weights)"});
  const std::vector<double> values{1, std::numeric_limits<double>::infinity()};
  site.Start({});
  shm::Message weights = site.Summary(Kind::kWeights, {}, Site::kFc1, Site::kW1, values);
  weights.record.stats = ComputeStats(values.data(), DType::kF64, 2, 0);
  site.Handle(weights);
  site.Finish({});
  EXPECT_EQ(site.events.size(), 1u);
}

}  // namespace
}  // namespace ikkuna::graph
