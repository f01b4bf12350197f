// Which steps are published: drops, lost markers, overlapping steps, changes of the subscriptions while steps are open.
#include "tests/daemon/graph/site.h"

namespace ikkuna::graph {
namespace {

class Frames : public testing::Test {
 protected:
  explicit Frames(const std::vector<std::string>& texts = {"mean(weights)", "mean(activations)"}) : site(texts) {}

  static Where At(uint64_t step, uint16_t root = 1, uint16_t tag = kTagDefault) { return {root, tag, step}; }
  void Weights(uint64_t step, double value = 1) {
    site.Handle(site.Summary(Kind::kWeights, At(step), Site::kFc1, Site::kW1, {value}));
  }
  void Activations(uint64_t step, uint32_t pass = 0, uint16_t call = 0) {
    site.Handle(Site::At(site.Summary(Kind::kActivations, At(step), Site::kFc1, 0, {1}), pass, call));
  }
  void Whole(uint64_t step) {
    site.Start(At(step));
    Weights(step);
    Activations(step);
    site.Finish(At(step));
  }
  uint64_t discarded() const { return site.missing(MissReason::kDiscarded); }
  uint64_t withheld() const { return site.missing(MissReason::kWithheld); }

  const std::string kWeightsMean = "fc1.weight/weights_mean";
  const std::string kActivationsMean = "fc1/activations_mean";
  Site site;
};

TEST_F(Frames, MessagesOfAStepWhoseBeginningWasNotSeenAreDiscarded) {
  Weights(7);
  Activations(7);
  site.Finish(At(7));
  Whole(8);
  EXPECT_EQ(site.published(), (Published{{kWeightsMean, {{8, 1}}}, {kActivationsMean, {{8, 1}}}}));
  EXPECT_EQ(discarded(), 1u);
  EXPECT_EQ(site.graph->steps_observed(1), 1u);
}

TEST_F(Frames, AnEndAloneCountsToo) {
  site.Finish(At(7));
  EXPECT_EQ(discarded(), 1u);
}

// An earlier daemon read its beginning, and not its end.
TEST_F(Frames, AStepThatEndsAfterWhatWasCountedIsCounted) {
  Weights(7);
  site.run->SetCountedUntil(site.seq);
  site.Finish(At(7));
  EXPECT_EQ(discarded(), 1u);
  Weights(8);
  site.run->SetCountedUntil(site.seq);
  Weights(8);
  site.graph->Finish(0);
  EXPECT_EQ(discarded(), 2u);
}

TEST_F(Frames, AStepThatWasOpenWhenItsDaemonEndedIsCounted) {
  site.Start(At(7));
  Weights(7);
  site.run->SetCountedUntil(site.seq);
  site.graph->Finish(0);
  EXPECT_EQ(discarded(), 1u);
}

TEST_F(Frames, WhatIsReadOnceMoreIsWithheldWithoutBeingCountedAgain) {
  const auto step = [&](uint64_t number) {
    site.Start(At(number));
    Activations(number);
    ++site.dropped;
    site.Finish(At(number));
  };
  step(0);
  EXPECT_EQ(withheld(), 1u);
  site.run->SetCountedUntil(site.seq);
  site.MakeGraphs();
  site.seq = 0;
  step(0);
  EXPECT_TRUE(site.published().empty());
  EXPECT_TRUE(site.graph->Missing().empty());
  step(1);
  EXPECT_EQ(withheld(), 1u);
}

TEST_F(Frames, AfterADropOnlySeriesWithOneMessageAStepArePublished) {
  site.Start(At(0));
  Weights(0);
  Activations(0);
  site.dropped = 1;
  site.Finish(At(0));
  EXPECT_EQ(site.published(), (Published{{kWeightsMean, {{0, 1}}}}));
  EXPECT_EQ(withheld(), 1u);
  EXPECT_EQ(site.graph->steps_observed(1), 0u);  // closed, but not with all its records
  // What was dropped before a step does not touch it.
  Whole(1);
  EXPECT_TRUE(site.has(kActivationsMean, 1));
  EXPECT_EQ(site.graph->steps_observed(1), 1u);
}

TEST(FramesWithDrops, WhatRunsOverTheWholeStepIsWithheld) {
  Site site({"mean(weights)", "message_mean(weights_mean)", "train_accuracy", "loss", "learning_rate",
             "ratio(layer_gradients, activations)", "norm(activations, order=3)", "non_finite", "text"});
  site.Start({});
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc1, Site::kW1, {1}));
  site.Handle(site.Tensor(Kind::kNetworkOutput, {}, 0, 0, {1, 0}, {1, 2}));
  site.Handle(site.Labels({}, {0}));
  site.Handle(site.Scalar(Kind::kLoss, {}, kNan));
  site.Handle(site.Scalar(Kind::kLearningRate, {}, 0.1, Site::kAlpha));
  site.Handle(site.Text({}, "said", Site::kAlpha));
  site.Handle(site.Tensor(Kind::kActivations, {}, Site::kFc1, 0, {1}));
  site.Handle(site.Tensor(Kind::kLayerGradients, {}, Site::kFc1, 0, {1}));
  site.dropped = 3;
  site.Finish({});
  EXPECT_EQ(site.published(), (Published{{"fc1.weight/weights_mean", {{0, 1}}}, {".alpha/learning_rate", {{0, .1}}}}));
  EXPECT_EQ(site.events.size(), 1u);  // what a rule saw is so
  EXPECT_EQ(site.texts.size(), 1u);
  EXPECT_EQ(site.missing(MissReason::kWithheld), 5u);
  EXPECT_EQ(site.missing(MissReason::kIncomplete), 0u);
}

TEST_F(Frames, AMissingCallIsSeenByItsNumber) {
  site.Subscribe("message_mean(activations_mean)");
  site.graph->Refresh();
  site.Start(At(0));
  Activations(0, 0, 0);
  Activations(0, 0, 2);  // call 1 never came
  site.Handle(site.Summary(Kind::kActivations, At(0), Site::kFc2, 0, {1}));
  site.Finish(At(0));
  EXPECT_EQ(site.published(), (Published{{"fc2/activations_mean", {{0, 1}}}}));
  EXPECT_EQ(withheld(), 2u);  // the series, and the mean over all of them
  site.Start(At(1));
  for (const uint32_t pass : {1, 2, 3}) site.StartPass(At(1), pass);
  Activations(1, 1, 0);
  Activations(1, 1, 1);
  Activations(1, 3, 0);  // the module was not used in pass 2
  site.Finish(At(1), {1, 2, 3}, 4);
  EXPECT_TRUE(site.has(kActivationsMean, 1));
  site.Start(At(2));
  Activations(2, 0, 1);
  site.Finish(At(2));
  EXPECT_FALSE(site.has(kActivationsMean, 2));
}

TEST_F(Frames, OutputsThatReachNoLossHaveNoGradient) {
  site.Subscribe("mean(layer_gradients)");
  site.graph->Refresh();
  site.Start(At(0));
  site.Handle(Site::At(site.Summary(Kind::kLayerGradients, At(0), Site::kFc1, 0, {4}), 0, 2));
  site.Handle(Site::At(site.Summary(Kind::kLayerGradients, At(0), Site::kFc1, 0, {2}), 0, 0));
  site.Finish(At(0));
  EXPECT_EQ(site.value("fc1/layer_gradients_mean", 0), 3);
}

TEST_F(Frames, TwoStepsAreOpenAtOnce) {
  site.Start(At(0));
  Weights(0, 10);
  site.Start(At(1));
  Weights(1, 11);  // before the end of step 0
  Activations(0);
  site.Finish(At(0));
  EXPECT_EQ(site.value(kWeightsMean, 0), 10);
  EXPECT_TRUE(site.has(kActivationsMean, 0));
  EXPECT_FALSE(site.has(kWeightsMean, 1));
  site.Finish(At(1));
  EXPECT_EQ(site.value(kWeightsMean, 1), 11);
  EXPECT_FALSE(site.has(kActivationsMean, 1));
  EXPECT_EQ(discarded(), 0u);
}

TEST_F(Frames, StepsOfThreadsThatTrainOneModelInterleave) {
  site.Start(At(5));
  site.Start(At(6));
  Weights(6);
  Weights(5);
  site.Finish(At(6));
  Weights(5, 3);
  site.Finish(At(5));
  site.Start(At(4));  // a thread that took its step number earlier
  Weights(4);
  site.Finish(At(4));
  EXPECT_EQ(site.published().at(kWeightsMean).size(), 3u);
  EXPECT_EQ(site.value(kWeightsMean, 5), 2);
  EXPECT_EQ(discarded(), 0u);
}

TEST_F(Frames, AStepThatLostItsEndIsDiscardedWhenALaterOneIsWhole) {
  site.Start(At(0));
  Weights(0);
  site.dropped = 1;  // its end
  Whole(1);
  EXPECT_FALSE(site.has(kWeightsMean, 0));
  EXPECT_EQ(discarded(), 1u);
  EXPECT_EQ(site.graph->done_seq(), site.seq);
  site.Finish(At(0));  // whatever comes of it now is nobody's
  EXPECT_EQ(discarded(), 2u);
  EXPECT_FALSE(site.has(kWeightsMean, 0));
}

// A thread that does not run for a while lost nothing; but what it holds back has an end.
TEST_F(Frames, AStepOfAThreadThatSleepsStaysOpenForAThousandSteps) {
  site.Start(At(0));
  Weights(0, 10);
  Whole(1);
  for (uint64_t step = 2; step <= 1000; ++step) Whole(step);
  EXPECT_EQ(discarded(), 0u);
  site.Finish(At(0));
  EXPECT_EQ(site.value(kWeightsMean, 0), 10);
  EXPECT_EQ(site.graph->done_seq(), site.seq);

  site.Start(At(2000));
  Weights(2000);
  Whole(3000);
  EXPECT_EQ(discarded(), 0u);
  Whole(3001);
  EXPECT_EQ(discarded(), 1u);
  EXPECT_EQ(site.graph->done_seq(), site.seq);
}

TEST_F(Frames, AStepThatBeginsAgainForgetsItsFirstBeginning) {
  site.Start(At(0));
  Weights(0, 100);
  site.Start(At(0));
  Weights(0, 1);
  site.Finish(At(0));
  EXPECT_EQ(site.value(kWeightsMean, 0), 1);
  EXPECT_EQ(discarded(), 1u);
}

// A trainer that logs between epochs opens and closes a step before its pass begins.
TEST_F(Frames, AStepMayComeInTwoParts) {
  site.Subscribe("scalar");
  site.graph->Refresh();
  site.Start(At(3));
  site.Handle(site.Scalar(Kind::kScalar, At(3), 5, Site::kAlpha));
  site.Finish(At(3));
  Whole(3);
  EXPECT_EQ(site.value(".alpha/scalar", 3), 5);
  EXPECT_EQ(site.value(kWeightsMean, 3), 1);
  EXPECT_EQ(discarded(), 0u);
}

TEST_F(Frames, AtMost64OfARootAreOpen) {
  for (uint64_t step = 0; step < 76; ++step) {
    site.Start(At(step));
    Weights(step);
  }
  site.Start(At(100, 2));
  EXPECT_EQ(discarded(), 12u);
  site.Finish(At(11));
  EXPECT_FALSE(site.has(kWeightsMean, 11));
  site.Finish(At(12));
  EXPECT_TRUE(site.has(kWeightsMean, 12));
}

TEST_F(Frames, AnEndlessStreamOfUnknownStepsStaysBounded) {
  for (uint64_t step = 0; step < 1000; ++step) Weights(step);
  EXPECT_EQ(discarded(), 1000u - 64u);  // the last ones still wait to be counted
  site.graph->Finish(0);
  EXPECT_EQ(discarded(), 1000u);
  EXPECT_TRUE(site.published().empty());
}

TEST_F(Frames, DoneSeqStaysBeforeTheOldestOpenStep) {
  EXPECT_EQ(site.graph->done_seq(), 0u);
  Whole(0);
  EXPECT_EQ(site.graph->done_seq(), site.seq);
  const uint64_t before = site.seq;
  site.Start(At(1));
  Weights(1);
  EXPECT_EQ(site.graph->done_seq(), before);
  site.Start(At(2));
  site.Finish(At(1));
  EXPECT_EQ(site.graph->done_seq(), before + 2);  // up to the beginning of step 2
  EXPECT_EQ(site.graph->held(), 1u) << "all but that is out";
  Weights(2);
  EXPECT_EQ(site.graph->held(), 2u);
  site.Finish(At(2));
  EXPECT_EQ(site.graph->done_seq(), site.seq);
  EXPECT_EQ(site.graph->held(), 0u);
  Weights(9);  // of an unknown step: nothing waits for it
  EXPECT_EQ(site.graph->done_seq(), site.seq);
  EXPECT_EQ(site.graph->held(), 0u);
}

TEST_F(Frames, FinishDiscardsWhatIsOpen) {
  site.Start(At(0));
  Weights(0);
  site.Start(At(0, 2));
  site.graph->Finish(0);
  EXPECT_EQ(discarded(), 2u);
  EXPECT_TRUE(site.batches.empty());
  EXPECT_EQ(site.graph->done_seq(), site.seq);
}

TEST_F(Frames, EvaluationPassesAtOneStepAreFramesOfTheirOwn) {
  site.Subscribe("loss(tag=test); loss");
  site.graph->Refresh();
  site.Start(At(4));
  site.Start(At(4, 1, kTagTest));
  for (const uint32_t pass : {1, 2, 3}) {
    site.StartPass(At(4, 1, kTagTest), pass);
    site.Handle(Site::At(site.Scalar(Kind::kLoss, At(4, 1, kTagTest), pass - 1), pass, 0));
  }
  site.StartPass(At(4), 4);
  site.Handle(Site::At(site.Scalar(Kind::kLoss, At(4), 10), 4, 0));
  site.Finish(At(4, 1, kTagTest), {1, 2, 3}, 4);
  site.Finish(At(4), {4}, 5);
  EXPECT_EQ(site.value("test:loss", 4), 1);
  EXPECT_EQ(site.value("loss", 4), 10);
}

TEST_F(Frames, ASubscriberTakesPartInWholeStepsOnly) {
  site.Start(At(0));
  Weights(0, 5);
  site.Subscribe("sum(weights); norm(activations, order=3)");
  EXPECT_TRUE(site.graph->Refresh());
  Weights(0, 7);
  site.Finish(At(0));
  EXPECT_EQ(site.published(), (Published{{kWeightsMean, {{0, 6}}}}));
  Whole(1);
  EXPECT_EQ(site.value("fc1.weight/weights_sum", 1), 1);
}

TEST_F(Frames, ARemovedSubscriberPublishesNothingMoreNotEvenOfTheOpenStep) {
  Whole(9);
  site.Forget();
  site.Start(At(0));
  Weights(0);
  Activations(0);
  site.RemoveTopic("weights_mean");
  site.Finish(At(0));
  EXPECT_EQ(site.published(), (Published{{kActivationsMean, {{0, 1}}}}));
  EXPECT_TRUE(site.graph->Refresh());
  site.Forget();
  Whole(1);
  EXPECT_EQ(site.published(), (Published{{kActivationsMean, {{1, 1}}}}));
  // And back, to the same series.
  const size_t series = site.run->series().size();
  site.Subscribe("mean(weights)");
  site.graph->Refresh();
  Whole(2);
  EXPECT_TRUE(site.has(kWeightsMean, 2));
  EXPECT_EQ(site.run->series().size(), series);
}

TEST_F(Frames, NothingSubscribedNothingKept) {
  site.RemoveTopic("weights_mean");
  site.RemoveTopic("activations_mean");
  EXPECT_TRUE(site.graph->Refresh());
  EXPECT_FALSE(site.graph->Refresh());
  EXPECT_TRUE(site.graph->Demand().empty());
  Whole(0);
  EXPECT_TRUE(site.batches.empty());
}

TEST_F(Frames, ManyStepsReuseTheirMemoryAndForgetTheirPast) {
  site.Subscribe("train_accuracy; norm(weights, order=3); ratio(weights, activations); max(activations)");
  site.graph->Refresh();
  for (uint64_t step = 0; step < 50; ++step) {
    site.Start(At(step));
    const double value = static_cast<double>(step % 7);
    site.Handle(site.Tensor(Kind::kWeights, At(step), Site::kFc1, Site::kW1, {value}));
    if (step % 2 == 0) site.Handle(site.Tensor(Kind::kNetworkOutput, At(step), 0, 0, {1, 0}, {1, 2}));
    if (step % 4 == 0) site.Handle(site.Labels(At(step), {static_cast<int64_t>(step % 8 == 0)}));
    if (step % 3 == 0) site.Handle(site.Tensor(Kind::kActivations, At(step), Site::kFc1, 0, {2 * value}));
    site.Finish(At(step));
    EXPECT_NEAR(site.value("fc1.weight/weights_norm3", step), value, 1e-12);
    EXPECT_EQ(site.has("fc1/activations_max", step), step % 3 == 0);
    EXPECT_EQ(site.has("train_accuracy", step), step % 4 == 0);
    if (step % 4 == 0) {
      EXPECT_EQ(site.value("train_accuracy", step), step % 8 == 0 ? 0 : 1);
    }
  }
}

}  // namespace
}  // namespace ikkuna::graph
