// What becomes of the records of a step: merging, topics, bundles, accuracy, texts, events.
#include "daemon/graph/graph.h"

#include <time.h>

#include <gmock/gmock.h>

#include "tests/daemon/graph/site.h"

namespace ikkuna::graph {
namespace {

TEST(Graph, StatisticsOfOneMessage) {
  Site site({"mean(weights)", "norm(weights, order=1)", "max(weights)"});
  site.Start({});
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc1, Site::kW1, {1, -2, 4}));
  EXPECT_TRUE(site.batches.empty());  // nothing before the step is whole
  site.Finish({});
  EXPECT_EQ(site.published(), (Published{{"fc1.weight/weights_mean", {{0, 1}}},
                                         {"fc1.weight/weights_norm1", {{0, 7}}},
                                         {"fc1.weight/weights_max", {{0, 4}}}}));
  EXPECT_EQ(site.batches.size(), 1u);
  EXPECT_EQ(site.graph->steps_observed(1), 1u);
  EXPECT_EQ(site.graph->steps_observed(2), 0u);
}

TEST(Graph, MergesCallsAndPasses) {
  Site site({"mean(activations)", "variance(activations)", "norm(activations, order=3)"});
  site.Start({});
  site.StartPass({}, 1);
  site.Handle(Site::At(site.Tensor(Kind::kActivations, {}, Site::kFc1, 0, {1, 2}), 1, 0));
  site.Handle(Site::At(site.Tensor(Kind::kActivations, {}, Site::kFc2, 0, {10}), 1, 0));
  site.Handle(Site::At(site.Tensor(Kind::kActivations, {}, Site::kFc1, 0, {3}), 1, 1));
  site.StartPass({}, 2);
  site.Handle(Site::At(site.Tensor(Kind::kActivations, {}, Site::kFc1, 0, {4, 5}), 2, 0));
  site.Finish({}, {1, 2}, 3);
  EXPECT_DOUBLE_EQ(site.value("fc1/activations_mean", 0), 3);
  EXPECT_DOUBLE_EQ(site.value("fc1/activations_variance", 0), 2.5);
  EXPECT_DOUBLE_EQ(site.value("fc1/activations_norm3", 0), std::cbrt(1.0 + 8 + 27 + 64 + 125));
  EXPECT_DOUBLE_EQ(site.value("fc2/activations_mean", 0), 10);
  EXPECT_TRUE(std::isnan(site.value("fc2/activations_variance", 0)));
}

TEST(Graph, TensorsAndSummariesGiveTheSame) {
  Site site({"std(weights)", "skewness(weights)"});
  const std::vector<double> x{1, 2, 4, 8, -3};
  site.Start({1, 0, 0});
  site.Handle(site.Summary(Kind::kWeights, {1, 0, 0}, Site::kFc1, Site::kW1, x));
  site.Finish({1, 0, 0});
  site.Start({1, 0, 1});
  site.Handle(site.Tensor(Kind::kWeights, {1, 0, 1}, Site::kFc1, Site::kW1, x));
  site.Finish({1, 0, 1});
  for (const char* name : {"fc1.weight/weights_std", "fc1.weight/weights_skewness"}) {
    EXPECT_EQ(site.value(name, 0), site.value(name, 1));
  }
}

TEST(Graph, OnlyWhatIsSubscribedAtThatStep) {
  Site site({"mean(weights, subsample=10)", "loss"});
  for (uint64_t step : {9, 10, 15, 20}) {
    const Where where{1, 0, step};
    site.Start(where);
    site.Handle(site.Summary(Kind::kWeights, where, Site::kFc1, Site::kW1, {1}));
    site.Handle(site.Summary(Kind::kBiases, where, Site::kFc1, Site::kB1, {1}));  // nobody asked
    site.Handle(site.Scalar(Kind::kLoss, where, 0.5));
    site.Finish(where);
  }
  EXPECT_EQ(site.published(), (Published{{"fc1.weight/weights_mean", {{10, 1}, {20, 1}}},
                                         {"loss", {{9, .5}, {10, .5}, {15, .5}, {20, .5}}}}));
}

TEST(Graph, TagsAndRootsAreApart) {
  Site site({"loss", "loss(tag=test)", "mean(activations, tag=test, root=model1)"});
  for (const Where where : {Where{1, kTagDefault, 4}, Where{1, kTagTest, 4}, Where{2, kTagDefault, 7},
                            Where{2, kTagTest, 7}, Where{1, kTagNoGrad, 4}}) {
    site.Start(where);
    site.Handle(site.Scalar(Kind::kLoss, where, where.root * 10 + where.tag));
    site.Handle(site.Summary(Kind::kActivations, where, where.root == 1 ? Site::kFc1 : Site::kOther, 0, {1}));
    site.Finish(where);
  }
  EXPECT_EQ(site.published(), (Published{{"loss", {{4, 10}}},
                                         {"test:loss", {{4, 11}}},
                                         {"model1:loss", {{7, 20}}},
                                         {"test:model1:loss", {{7, 21}}},
                                         {"test:model1:other/activations_mean", {{7, 1}}}}));
  EXPECT_EQ(site.graph->steps_observed(1), 1u);
}

TEST(Graph, LossIsTheMeanOfItsCallsAndBatches) {
  Site site({"loss", "mean(loss)", "loss(tag=test)"});
  site.Start({});
  site.StartPass({}, 1);
  site.Handle(Site::At(site.Scalar(Kind::kLoss, {}, 1), 1, 0));
  site.Handle(Site::At(site.Scalar(Kind::kLoss, {}, 2), 1, 1));
  site.StartPass({}, 2);
  site.Handle(Site::At(site.Scalar(Kind::kLoss, {}, 6), 2, 0));
  site.Finish({}, {1, 2}, 3);
  EXPECT_DOUBLE_EQ(site.value("loss", 0), 3);
  EXPECT_DOUBLE_EQ(site.value("loss_mean", 0), 3);
}

TEST(Graph, NamesLoggedByTheTrainer) {
  Site site({"scalar", "learning_rate", "text"});
  site.Start({});
  site.Handle(site.Scalar(Kind::kScalar, {}, 1, Site::kAlpha));
  site.Handle(site.Scalar(Kind::kScalar, {}, 2, Site::kBeta));
  site.Handle(site.Scalar(Kind::kScalar, {}, 3, Site::kAlpha));
  site.Handle(site.Scalar(Kind::kLearningRate, {}, 0.1, Site::kAlpha));
  site.Handle(site.Text({}, "hello", Site::kAlpha));
  site.Handle(site.Text({}, "", Site::kBeta));
  site.Handle(site.Text({}, "again", Site::kAlpha));
  site.Finish({});
  EXPECT_EQ(site.published(),
            (Published{{".alpha/scalar", {{0, 3}}}, {".beta/scalar", {{0, 2}}}, {".alpha/learning_rate", {{0, .1}}}}));
  EXPECT_EQ(site.texts, (std::vector<std::string>{".alpha/text=hello", ".alpha/text=again", ".beta/text="}));
}

TEST(Graph, AccuracyOverPassesOfTrainingAndEvaluation) {
  Site site({"train_accuracy", "test_accuracy", "train_accuracy(top=2, as=top2)"});
  for (const uint16_t tag : {kTagDefault, kTagTest}) {
    const Where where{1, tag, 5};
    site.Start(where);
    const uint32_t first = tag == kTagDefault ? 1 : 4;
    for (uint32_t i = 0; i < 3; ++i) {
      site.StartPass(where, first + i);
      site.Handle(Site::At(site.Tensor(Kind::kNetworkOutput, where, 0, 0, {3, 2, 1, 1, 2, 3}, {2, 3}), first + i, 0));
      site.Handle(Site::At(site.Labels(where, {0, i}), first + i, 0));
    }
    site.Finish(where, {first, first + 1, first + 2}, first + 3);
  }
  EXPECT_DOUBLE_EQ(site.value("train_accuracy", 5), 4.0 / 6);
  EXPECT_DOUBLE_EQ(site.value("train_accuracy@top2", 5), 5.0 / 6);
  EXPECT_DOUBLE_EQ(site.value("test:test_accuracy", 5), 4.0 / 6);
}

TEST(Graph, MessageMeanAndTopicsOfTopics) {
  Site site({"norm(weights, order=2)", "message_mean(weights_norm2)", "mean(weights_norm2)",
             "norm(weights_norm2, order=3)", "message_mean(weights_norm2_message_mean)", "sum(biases)",
             "ratio(weights_norm2, biases_sum)"});
  site.Start({});
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc1, Site::kW1, {3, 4}));
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc2, Site::kW2, {1}));
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc2, Site::kExtra, {6}));
  site.Handle(site.Summary(Kind::kBiases, {}, Site::kFc1, Site::kB1, {2, 2}));
  site.Finish({});
  EXPECT_DOUBLE_EQ(site.value("weights_norm2_message_mean", 0), 4);
  EXPECT_DOUBLE_EQ(site.value("weights_norm2_message_mean_message_mean", 0), 4);
  EXPECT_DOUBLE_EQ(site.value("fc1.weight/weights_norm2_mean", 0), 5);
  EXPECT_DOUBLE_EQ(site.value("fc2.weight_hh/weights_norm2_norm3", 0), 6);
  EXPECT_DOUBLE_EQ(site.value("fc1.weight/weights_norm2_biases_sum_ratio", 0), 1.25);
  // Of fc2 there are no biases.
  EXPECT_EQ(site.missing(MissReason::kIncomplete), 2u);
}

TEST(Graph, TopicsFollowTheirPublisherWhateverTheOrderOfTheTexts) {
  Site site({"message_mean(weights_mean); mean(weights)"});
  site.Start({});
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc1, Site::kW1, {2}));
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc2, Site::kW2, {4}));
  site.Finish({});
  EXPECT_DOUBLE_EQ(site.value("weights_mean_message_mean", 0), 3);
}

TEST(Graph, WithoutValuesThereIsNoMean) {
  Site site({"mean(weights, subsample=10)", "message_mean(weights_mean)"});
  site.Start({1, 0, 3});
  site.Finish({1, 0, 3});
  EXPECT_TRUE(site.published().empty());
  EXPECT_TRUE(site.batches.empty());
}

class Bundles : public testing::Test {
 protected:
  void Give(Kind kind, uint32_t module, uint32_t param, const std::vector<double>& values) {
    site.Handle(site.Summary(kind, {}, module, param, values));
  }
  uint64_t incomplete() {
    uint64_t sum = 0;
    for (const SubscriberInfo& info : site.set.List()) sum += info.count(MissReason::kIncomplete);
    EXPECT_EQ(site.missing(MissReason::kIncomplete), sum);
    return sum;
  }
  Site site{{"ratio(weight_updates, weights)", "ratio(layer_gradients, weights)"}};
};

TEST_F(Bundles, PairByParameter) {
  site.Start({});
  Give(Kind::kWeights, Site::kFc1, Site::kW1, {2});
  Give(Kind::kWeights, Site::kFc2, Site::kW2, {4});
  Give(Kind::kWeights, Site::kFc2, Site::kExtra, {5});
  Give(Kind::kWeightUpdates, Site::kFc2, Site::kExtra, {10});
  Give(Kind::kWeightUpdates, Site::kFc2, Site::kW2, {1});
  Give(Kind::kWeightUpdates, Site::kFc1, Site::kW1, {3, 4});
  Give(Kind::kLayerGradients, Site::kFc1, 0, {6});
  Give(Kind::kLayerGradients, Site::kFc2, 0, {20});
  site.Finish({});
  EXPECT_DOUBLE_EQ(site.value("fc1.weight/weight_updates_weights_ratio", 0), 2.5);
  EXPECT_DOUBLE_EQ(site.value("fc2.weight/weight_updates_weights_ratio", 0), 0.25);
  EXPECT_DOUBLE_EQ(site.value("fc2.weight_hh/weight_updates_weights_ratio", 0), 2);
  // One gradient of a module goes with each of its weights.
  EXPECT_DOUBLE_EQ(site.value("fc1.weight/layer_gradients_weights_ratio", 0), 3);
  EXPECT_DOUBLE_EQ(site.value("fc2.weight/layer_gradients_weights_ratio", 0), 5);
  EXPECT_DOUBLE_EQ(site.value("fc2.weight_hh/layer_gradients_weights_ratio", 0), 4);
  EXPECT_EQ(incomplete(), 0u);
}

TEST_F(Bundles, AMissingSideIsCounted) {
  site.Start({});
  Give(Kind::kWeights, Site::kFc1, Site::kW1, {2});
  Give(Kind::kWeights, Site::kFc2, Site::kW2, {4});
  Give(Kind::kWeights, Site::kFc2, Site::kExtra, {5});
  Give(Kind::kWeightUpdates, Site::kFc2, Site::kW2, {1});  // fc1 is frozen, the other one of fc2 too
  site.Finish({});
  EXPECT_DOUBLE_EQ(site.value("fc2.weight/weight_updates_weights_ratio", 0), 0.25);
  EXPECT_EQ(site.published().size(), 1u);
  EXPECT_EQ(site.set.List()[0].count(MissReason::kIncomplete), 2u);
  EXPECT_EQ(site.set.List()[1].count(MissReason::kIncomplete), 3u);
  EXPECT_EQ(incomplete(), 5u);
}

TEST_F(Bundles, NothingAtAllIsNotIncomplete) {
  site.Start({});
  site.Finish({});
  EXPECT_EQ(incomplete(), 0u);
}

TEST_F(Bundles, DivisionByZero) {
  site.Start({});
  Give(Kind::kWeights, Site::kFc1, Site::kW1, {0});
  Give(Kind::kWeights, Site::kFc2, Site::kW2, {0});
  Give(Kind::kWeightUpdates, Site::kFc1, Site::kW1, {1});
  Give(Kind::kWeightUpdates, Site::kFc2, Site::kW2, {0});
  site.Finish({});
  EXPECT_EQ(site.value("fc1.weight/weight_updates_weights_ratio", 0), std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(site.value("fc2.weight/weight_updates_weights_ratio", 0)));
}

TEST(Graph, DifferentParametersOfOneModulePairWhenEachSideHasOne) {
  Site site({"ratio(weight_gradients, bias_gradients)"});
  site.Start({});
  site.Handle(site.Summary(Kind::kWeightGradients, {}, Site::kFc1, Site::kW1, {4}));
  site.Handle(site.Summary(Kind::kBiasGradients, {}, Site::kFc1, Site::kB1, {2}));
  site.Finish({});
  EXPECT_DOUBLE_EQ(site.value("fc1.weight/weight_gradients_bias_gradients_ratio", 0), 2);
}

TEST(Graph, ModuleFiltersAndRootFilters) {
  Site site({"mean(weights, module=fc2|nothing*, root=model)", "max(weights, module=*c1)", "loss(module=fc2)"});
  for (const uint16_t root : {1, 2}) {
    const Where where{root, 0, 0};
    site.Start(where);
    if (root == 1) {
      site.Handle(site.Summary(Kind::kWeights, where, Site::kFc1, Site::kW1, {1}));
      site.Handle(site.Summary(Kind::kWeights, where, Site::kFc2, Site::kW2, {2}));
    } else {
      site.Handle(site.Summary(Kind::kWeights, where, Site::kOther, 0, {3}));
    }
    site.Handle(site.Scalar(Kind::kLoss, where, 1));
    site.Finish(where);
  }
  EXPECT_EQ(site.published(), (Published{{"fc2.weight/weights_mean", {{0, 2}}},
                                         {"fc1.weight/weights_max", {{0, 1}}},
                                         {"loss", {{0, 1}}},
                                         {"model1:loss", {{0, 1}}}}));
}

TEST(Graph, NanAndInfinitiesAreData) {
  Site site({"mean(weights)", "nan_count(weights)", "message_mean(weights_mean)", "norm(weights, order=2.5)"});
  site.Start({});
  site.Handle(site.Tensor(Kind::kWeights, {}, Site::kFc1, Site::kW1, {1, kNan}));
  site.Handle(site.Tensor(Kind::kWeights, {}, Site::kFc2, Site::kW2, {1, 3}));
  site.Finish({});
  EXPECT_TRUE(std::isnan(site.value("fc1.weight/weights_mean", 0)));
  EXPECT_TRUE(std::isnan(site.value("fc1.weight/weights_norm2p5", 0)));
  EXPECT_EQ(site.value("fc1.weight/weights_nan_count", 0), 1);
  EXPECT_TRUE(std::isnan(site.value("weights_mean_message_mean", 0)));
  EXPECT_DOUBLE_EQ(site.value("fc2.weight/weights_mean", 0), 2);
}

TEST(Graph, TensorSubscribersNeedTensors) {
  Site site({"norm(weights, order=3)", "message_mean(weights_norm3)", "mean(weights)"});
  site.Start({});
  // The producer has not taken over the new demand yet: statistics say nothing to norm 3.
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc1, Site::kW1, {1, 2}));
  site.Handle(site.Tensor(Kind::kWeights, {}, Site::kFc2, Site::kW2, {2}));
  site.Finish({});
  EXPECT_FALSE(site.has("fc1.weight/weights_norm3", 0));
  EXPECT_DOUBLE_EQ(site.value("fc1.weight/weights_mean", 0), 1.5);
  EXPECT_DOUBLE_EQ(site.value("fc2.weight/weights_norm3", 0), 2);
  EXPECT_FALSE(site.has("weights_norm3_message_mean", 0));  // it would be of fc2 alone
  // But of an empty tensor there are no bytes to send.
  site.Start({1, 0, 1});
  site.Handle(site.Summary(Kind::kWeights, {1, 0, 1}, Site::kFc1, Site::kW1, {}));
  site.Finish({1, 0, 1});
  EXPECT_EQ(site.value("fc1.weight/weights_norm3", 1), 0);
}

TEST(Graph, SamplesCarryTimeEpochAndFlags) {
  Site site({"mean(activations)", "message_mean(activations_mean)"});
  timespec monotonic{}, real{};
  ::clock_gettime(CLOCK_MONOTONIC, &monotonic);
  ::clock_gettime(CLOCK_REALTIME, &real);
  const auto ns = [](const timespec& t) { return t.tv_sec * 1'000'000'000ll + t.tv_nsec; };
  site.time_ns = static_cast<uint64_t>(ns(monotonic));
  site.Start({1, 0, 8});
  site.flags = kFlagGradScaled;
  site.Handle(Site::At(site.Summary(Kind::kActivations, {1, 0, 8}, Site::kFc1, 0, {1}), 0, 0));
  site.flags = kFlagFlattened;
  site.Handle(Site::At(site.Summary(Kind::kActivations, {1, 0, 8}, Site::kFc1, 0, {1}), 0, 1));
  site.flags = kFlagStepSkipped | kFlagWeightsChangedOutside;  // of the step, and of its updates alone
  shm::Message finish = site.Marker(Kind::kBatchFinished, {1, 0, 8});
  finish.record.marker.samples = 1152;
  site.Handle(finish);
  ASSERT_EQ(site.batches.size(), 1u);
  ASSERT_EQ(site.batches[0].samples.size(), 2u);
  for (const Sample& sample : site.batches[0].samples) EXPECT_EQ(sample.flags, kFlagGradScaled | kFlagFlattened);
  const StepStamp& stamp = site.batches[0].stamp;
  EXPECT_EQ(stamp.flags, kFlagStepSkipped);
  EXPECT_EQ(stamp.epoch, 3u);
  EXPECT_EQ(stamp.step, 8u);
  EXPECT_EQ(stamp.samples_seen, 1152u);
  EXPECT_EQ(site.run->series().Timelines().at(stamp.timeline - 1u), (Timeline{"model", "default"}));
  EXPECT_NEAR(static_cast<double>(stamp.unix_ns - ns(real)), 4000, 5e6);
}

// That the loop changes gradients between the first write and their own shows when they have come.
TEST(Graph, GradientsThatWereChangedAfterwardsSaySo) {
  Site site({"norm(weight_gradients)", "message_mean(weight_gradients_norm2)", "norm(weights)"});
  for (const uint16_t flags : {uint16_t{0}, uint16_t{kFlagGradModified}}) {
    const uint64_t step = flags == 0 ? 0 : 1;
    site.flags = 0;
    site.Start({1, 0, step});
    site.Handle(site.Summary(Kind::kWeights, {1, 0, step}, Site::kFc1, Site::kW1, {3, 4}));
    site.Handle(site.Summary(Kind::kWeightGradients, {1, 0, step}, Site::kFc1, Site::kW1, {3, 4}));
    site.flags = flags;
    site.Finish({1, 0, step});
    EXPECT_EQ(site.flags_of("fc1.weight/weights_norm2", step), 0);
    EXPECT_EQ(site.flags_of("fc1.weight/weight_gradients_norm2", step), flags);
    EXPECT_EQ(site.flags_of("weight_gradients_norm2_message_mean", step), flags);
  }
}

TEST(Graph, SeriesCarryTheirNames) {
  Site site({"mean(weights)"});
  site.Start({});
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc1, Site::kW1, {1}));
  site.Finish({});
  const auto series = site.run->series().Find(1);
  ASSERT_TRUE(series);
  EXPECT_EQ(series->traits.module_type, "Linear");
  EXPECT_EQ(series->traits.type, ValueType::kNumber);
  EXPECT_EQ(series->name, (SeriesName{{"model", "default"}, "fc1", "weight", "weights_mean"}));
}

TEST(Graph, NonFiniteIsOneEventAStepAndOneAHundredSteps) {
  Site site({"non_finite"});
  const auto step = [&](uint64_t number, uint16_t root, double bad) {
    const Where where{root, 0, number};
    site.Start(where);
    const uint32_t module = root == 1 ? Site::kFc1 : Site::kOther;
    site.Handle(site.Summary(Kind::kActivations, where, module, 0, {1, 2}));
    if (root == 1) site.Handle(site.Summary(Kind::kActivations, where, Site::kFc2, 0, {bad, 2}));
    site.Handle(site.Scalar(Kind::kLoss, where, bad));
    site.Finish(where);
  };
  step(3, 1, 1);
  EXPECT_TRUE(site.events.empty());
  step(4, 1, kNan);
  ASSERT_EQ(site.events.size(), 1u);
  EXPECT_EQ(site.events[0].kind, "non_finite");
  EXPECT_EQ(site.events[0].severity, Severity::kWarning);
  EXPECT_EQ(site.events[0].step, 4u);
  EXPECT_EQ(site.events[0].run.run_id, "run");
  EXPECT_EQ(site.events[0].text,
            "model, step 4: activations of fc2 hold 1 NaN among 2 elements; the activations before it, of fc1, were "
            "finite: this module produced them");
  for (uint64_t number = 5; number < 104; ++number) step(number, 1, kNan);
  EXPECT_EQ(site.events.size(), 1u);
  step(50, 2, kNan);  // another root has its own hundred
  ASSERT_EQ(site.events.size(), 2u);
  EXPECT_EQ(site.events[1].text,
            "model1, step 50: loss is not finite; the activations before it, of other, were finite");
  step(104, 1, kNan);
  EXPECT_EQ(site.events.size(), 3u);
  EXPECT_TRUE(site.published().empty());
  EXPECT_EQ(site.set.List()[0].computed, 3u);
  EXPECT_EQ(site.missing(MissReason::kSuppressed), 99u);
  EXPECT_EQ(site.info(1).count(MissReason::kSuppressed), 99u);
  EXPECT_THAT(site.events[2].text, testing::EndsWith("(99 more since the last of these were not shown)"));
  step(0, 1, kNan);  // the trainer counts anew
  EXPECT_EQ(site.events.size(), 4u);
}

TEST(Graph, CountsResultsAndCost) {
  Site site({"mean(weights)"});
  for (uint64_t step = 0; step < 5; ++step) {
    site.Start({1, 0, step});
    site.Handle(site.Summary(Kind::kWeights, {1, 0, step}, Site::kFc1, Site::kW1, {1}));
    site.Handle(site.Summary(Kind::kWeights, {1, 0, step}, Site::kFc2, Site::kW2, {1}));
    site.Finish({1, 0, step});
  }
  const auto info = site.set.List();
  EXPECT_EQ(info[0].computed, 10u);
  EXPECT_GT(info[0].cpu_seconds, 0);
}

TEST(Graph, MarkersBetweenStepsAreNoFrames) {
  Site site({"loss"});
  site.Handle(site.Marker(Kind::kEpochStarted, {1, 0, 0}));
  site.Start({});
  site.Finish({});
  site.Handle(site.Marker(Kind::kEpochFinished, {1, 0, 1}));
  EXPECT_EQ(site.missing(MissReason::kDiscarded), 0u);
  EXPECT_EQ(site.graph->done_seq(), 4u);
}

TEST(Graph, MessagesWithoutANameAreWithheldAndCounted) {
  Site site({"mean(weights)"});
  site.Start({});
  site.Handle(site.Summary(Kind::kWeights, {}, 60'000, Site::kW1, {1}));
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc1, 200'000, {1}));
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc1, Site::kW1, {1}));
  site.Finish({});
  EXPECT_EQ(site.published().size(), 1u);
  EXPECT_EQ(site.missing(MissReason::kUnnamed), 2u);
}

TEST(Graph, ARootWithoutANamePublishesNothing) {
  Site site({"loss"});
  site.Start({9, 0, 0});
  site.Handle(site.Scalar(Kind::kLoss, {9, 0, 0}, 1));
  site.Finish({9, 0, 0});
  EXPECT_TRUE(site.published().empty());
}

TEST(Graph, ARenamedModuleIsANewSeries) {
  Site site({"mean(weights, module=head)"});
  const auto step = [&](uint64_t number) {
    site.Start({1, 0, number});
    site.Handle(site.Summary(Kind::kWeights, {1, 0, number}, Site::kFc1, Site::kW1, {1}));
    site.Finish({1, 0, number});
  };
  step(0);
  EXPECT_TRUE(site.published().empty());
  site.graph->AddRegistry({Site::Module(Site::kFc1, 1, "head", "Linear")});
  step(1);
  EXPECT_TRUE(site.has("head.weight/weights_mean", 1));
}

// One rank's part of a parameter is called by what it is of the whole: its norm is not that of the whole.
TEST(Graph, APartOfAParameterHasANameOfItsOwn) {
  Site site({"mean(weights)"});
  auto part = Site::Param(Site::kW1, Site::kFc1, "weight");
  part.sizes = {4, 3};
  shm::RegistryEntry shard;
  shard.type = shm::EntryType::kShard;
  shard.id = Site::kW1;
  const auto step = [&](uint64_t number) {
    site.graph->AddRegistry({part, shard});
    site.Start({1, 0, number});
    site.Handle(site.Summary(Kind::kWeights, {1, 0, number}, Site::kFc1, Site::kW1, {1}));
    site.Finish({1, 0, number});
  };
  shard.sizes = {12, 3};
  shard.offsets = {8, 0};
  step(0);
  shard.offsets = {9, 0};  // four rows from there on are more than there are
  step(1);
  shard.sizes = {12};
  shard.offsets = {0};
  step(2);
  shard.sizes = shard.offsets = {};
  step(3);
  EXPECT_EQ(site.published(), (Published{{"fc1.weight[8:12,:]/weights_mean", {{0, 1}}},
                                         {"fc1.weight[part]/weights_mean", {{1, 1}, {2, 1}}},
                                         {"fc1.weight/weights_mean", {{3, 1}}}}));
}

}  // namespace
}  // namespace ikkuna::graph
