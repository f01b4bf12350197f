// Honest about what is missing: only what needed a dropped kind is withheld; steps that come again are refused; what
// lost its end holds nothing back; all of it is counted, for the producer and for the subscriber.
#include <gmock/gmock.h>

#include "tests/daemon/graph/site.h"
#include "tests/daemon/graph/test_metrics.h"

namespace ikkuna::graph {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Where At(uint64_t step, uint16_t tag = kTagDefault, uint16_t root = 1) { return {root, tag, step}; }

void FinishWithDrop(Site& site, const Where& where, uint64_t kinds) {
  ++site.dropped;
  shm::Message finish = site.Marker(Kind::kBatchFinished, where);
  finish.record.marker.dropped_kinds = kinds;
  site.Handle(finish);
}

void Scalar(Site& site, uint64_t step, double value, uint32_t name = Site::kAlpha, uint16_t tag = kTagDefault) {
  site.Start(At(step, tag));
  site.Handle(site.Scalar(Kind::kScalar, At(step, tag), value, name));
  site.Finish(At(step, tag));
}

// An output above the arena at every step cost the loss once.
TEST(Dropped, OnlyWhatNeededTheKindIsWithheld) {
  Site site({"loss", "train_accuracy", "mean(activations)", "message_mean(activations_mean)", "mean(weights)",
             "message_mean(weights_mean)", "non_finite"});
  const auto step = [&](uint64_t number, uint64_t kinds) {
    site.Start(At(number));
    site.Handle(site.Scalar(Kind::kLoss, At(number), 1));
    site.Handle(site.Summary(Kind::kActivations, At(number), Site::kFc1, 0, {1}));
    site.Handle(site.Summary(Kind::kWeights, At(number), Site::kFc1, Site::kW1, {1}));
    site.Handle(site.Tensor(Kind::kNetworkOutput, At(number), 0, 0, {1, 0}, {1, 2}));
    site.Handle(site.Labels(At(number), {0}));
    FinishWithDrop(site, At(number), kinds);
  };
  step(0, KindBit(Kind::kNetworkOutput));
  EXPECT_EQ(site.value("loss", 0), 1);
  EXPECT_FALSE(site.has("train_accuracy", 0));
  EXPECT_EQ(site.value("fc1/activations_mean", 0), 1);
  EXPECT_EQ(site.value("activations_mean_message_mean", 0), 1);
  EXPECT_EQ(site.value("weights_mean_message_mean", 0), 1);
  EXPECT_EQ(site.missing(MissReason::kWithheld), 1u);
  EXPECT_EQ(site.info(2).count(MissReason::kWithheld), 1u);
  EXPECT_EQ(site.info(1).count(MissReason::kWithheld), 0u);

  step(1, KindBit(Kind::kActivations));
  EXPECT_EQ(site.value("loss", 1), 1);
  EXPECT_EQ(site.value("train_accuracy", 1), 1);
  EXPECT_FALSE(site.has("fc1/activations_mean", 1));
  EXPECT_FALSE(site.has("activations_mean_message_mean", 1));

  // A parameter comes once a step: what came is right, but the mean over all of them is not.
  step(2, KindBit(Kind::kWeights));
  EXPECT_EQ(site.value("fc1.weight/weights_mean", 2), 1);
  EXPECT_FALSE(site.has("weights_mean_message_mean", 2));
  EXPECT_TRUE(site.has("fc1/activations_mean", 2));

  // A producer that does not say which: any.
  step(3, 0);
  EXPECT_EQ(site.published().count("loss"), 1u);
  EXPECT_FALSE(site.has("loss", 3));
  EXPECT_FALSE(site.has("train_accuracy", 3));
  EXPECT_TRUE(site.has("fc1.weight/weights_mean", 3));
}

// With one side of a module's pair gone, what is left of it may be of another parameter.
TEST(Dropped, ARatioIsNoneOfTwoParameters) {
  Site site({"ratio(weight_gradients, weights)"});
  const auto step = [&](uint64_t number, bool dropped) {
    site.Start(At(number));
    site.Handle(site.Summary(Kind::kWeightGradients, At(number), Site::kFc2, Site::kW2, {8}));  // the other is frozen
    site.Handle(site.Summary(Kind::kWeights, At(number), Site::kFc2, Site::kExtra, {2}));
    if (!dropped) site.Handle(site.Summary(Kind::kWeights, At(number), Site::kFc2, Site::kW2, {4}));
    FinishWithDrop(site, At(number), dropped ? KindBit(Kind::kWeights) : KindBit(Kind::kLoss));
  };
  step(0, false);
  EXPECT_EQ(site.value("fc2.weight/weight_gradients_weights_ratio", 0), 2);
  EXPECT_EQ(site.missing(MissReason::kWithheld), 0u);
  step(1, true);
  EXPECT_FALSE(site.has("fc2.weight/weight_gradients_weights_ratio", 1));
  EXPECT_EQ(site.missing(MissReason::kWithheld), 1u);
}

// The last number of a name counts: where one is gone, the one before it may not be the last.
TEST(Dropped, ANumberThatIsLoggedAgainIsNoneThatWasSaidBefore) {
  Site site({"scalar"});
  site.Start({});
  site.Handle(site.Scalar(Kind::kScalar, {}, 1, Site::kAlpha));
  FinishWithDrop(site, {}, KindBit(Kind::kScalar));
  EXPECT_FALSE(site.has(".alpha/scalar", 0));
  EXPECT_EQ(site.missing(MissReason::kWithheld), 1u);
}

// Two models of one trainer, and an evaluation beside a step: what goes of one costs the other nothing.
TEST(Dropped, WhatWentOfOthersWithholdsNothing) {
  Site site({"loss", "mean(activations)", "message_mean(activations_mean)"});
  const auto finish = [&](const Where& where, uint64_t kinds) {
    shm::Message finished = site.Marker(Kind::kBatchFinished, where);
    finished.record.marker.dropped_kinds = kinds;
    finished.record.marker.flags = shm::kMarkerKindsKnown;
    site.Handle(finished);
  };
  const auto call = [&](const Where& where) {
    site.Handle(site.Summary(Kind::kActivations, where, where.root == 1 ? Site::kFc1 : Site::kOther, 0, {1}));
  };
  // An activation of the other root and one of an evaluation of this root find no room.
  site.Start(At(0));
  site.Start(At(0, kTagDefault, 2));
  call(At(0));
  ++site.dropped;
  finish(At(0, kTagDefault, 2), KindBit(Kind::kActivations));
  site.Start(At(0, kTagTest));
  ++site.dropped;
  finish(At(0, kTagTest), KindBit(Kind::kActivations));
  site.Handle(site.Scalar(Kind::kLoss, At(0), 1));
  finish(At(0), 0);
  EXPECT_EQ(site.value("loss", 0), 1);
  EXPECT_EQ(site.value("fc1/activations_mean", 0), 1);
  // What went of the step itself still does.
  site.Start(At(1));
  call(At(1));
  ++site.dropped;
  site.Handle(site.Scalar(Kind::kLoss, At(1), 2));
  finish(At(1), KindBit(Kind::kActivations));
  EXPECT_EQ(site.value("loss", 1), 2);
  EXPECT_FALSE(site.has("fc1/activations_mean", 1));
}

TEST(Dropped, StatisticsInThePlaceOfATensorServeThoseWhomTheySuffice) {
  Site site({"norm(activations, order=3)", "mean(activations)"});
  site.Start({});
  site.Handle(site.Summary(Kind::kActivations, {}, Site::kFc1, 0, {1, 3}));  // too large for the arena
  site.Finish({});
  EXPECT_EQ(site.value("fc1/activations_mean", 0), 2);
  EXPECT_FALSE(site.has("fc1/activations_norm3", 0));
  EXPECT_EQ(site.missing(MissReason::kNoTensor), 1u);
  EXPECT_EQ(site.info(1).count(MissReason::kNoTensor), 1u);
  EXPECT_EQ(site.info(2).count(MissReason::kNoTensor), 0u);
}

TEST(Unnamed, MakesWhatDependsOnItPartial) {
  Site site({"mean(weights)", "message_mean(weights_mean)", "mean(biases)", "message_mean(biases_mean)"});
  site.Start({});
  site.Handle(site.Summary(Kind::kWeights, {}, 60'000, Site::kW1, {1}));
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc1, Site::kW1, {1}));
  site.Handle(site.Summary(Kind::kBiases, {}, Site::kFc1, Site::kB1, {1}));
  site.Finish({});
  EXPECT_TRUE(site.has("fc1.weight/weights_mean", 0));
  EXPECT_FALSE(site.has("weights_mean_message_mean", 0));
  EXPECT_TRUE(site.has("biases_mean_message_mean", 0));
  EXPECT_EQ(site.missing(MissReason::kUnnamed), 1u);
  EXPECT_EQ(site.info(1).count(MissReason::kUnnamed), 1u);
  EXPECT_EQ(site.info(2).count(MissReason::kWithheld), 1u);
}

TEST(Repeated, ATrainerThatCountsAnewIsRefusedAndTold) {
  Site site({"scalar"});
  for (uint64_t step = 0; step < 3000; ++step) Scalar(site, step, 1);
  for (uint64_t step = 0; step < 3000; ++step) Scalar(site, step, 2);
  EXPECT_EQ(site.missing(MissReason::kRepeated), 3000u);
  EXPECT_EQ(site.info(1).count(MissReason::kRepeated), 3000u);
  ASSERT_EQ(site.events.size(), 1u);
  EXPECT_EQ(site.events[0].kind, "steps_repeated");
  EXPECT_THAT(site.events[0].text,
              HasSubstr("model, tag default: step 0 came again after it was closed; its values are refused, as is all "
                        "until step 2999 is passed. Let the trainer go on counting, attach it with a start step"));
  for (const auto& [step, value] : site.published().at(".alpha/scalar")) EXPECT_EQ(value, 1) << step;
  Scalar(site, 3000, 3);
  EXPECT_EQ(site.value(".alpha/scalar", 3000), 3);
  Scalar(site, 3000, 4);
  EXPECT_EQ(site.events.size(), 2u);
}

// Steps of the first count that were thinned away do not fill with values of the second.
TEST(Repeated, WhatLiesBetweenIsRefusedToo) {
  Site site({"scalar"});
  for (uint64_t step = 0; step < 100; step += 10) Scalar(site, step, 1);
  for (uint64_t step = 0; step < 90; step += 5) Scalar(site, step, 2);
  EXPECT_EQ(site.published().at(".alpha/scalar").size(), 10u);
}

// The next daemon finds in the store what the one before had been given.
TEST(Repeated, WhatAnEarlierDaemonClosedIsRefusedToo) {
  Site site({"scalar"});
  for (uint64_t step = 0; step < 3000; ++step) {
    if (step != 2990) Scalar(site, step, 1);
  }
  const auto series = site.run->series().Since(0);
  ASSERT_EQ(series.size(), 1u);
  RecordedSteps recorded;
  for (uint64_t step = 1976; step < 3000; ++step) {
    if (step != 2990) recorded.steps[series[0]->name.timeline].push_back(step);
  }
  recorded.next = {3000};
  site.run->SetRecorded(recorded);
  site.MakeGraphs();
  Scalar(site, 2990, 2);  // of a thread that closes it after the others' 2999: no repeat
  EXPECT_TRUE(site.graph->Missing().empty());
  EXPECT_EQ(site.value(".alpha/scalar", 2990), 2);
  for (uint64_t step = 0; step < 3000; ++step) Scalar(site, step, 3);
  EXPECT_EQ(site.missing(MissReason::kRepeated), 3000u);
  ASSERT_EQ(site.events.size(), 1u);
  EXPECT_EQ(site.events[0].kind, "steps_repeated");
  Scalar(site, 3000, 4);
  EXPECT_EQ(site.value(".alpha/scalar", 3000), 4);
}

TEST(Repeated, TextsThatAreReadOnceMoreStandOnce) {
  Site site({"text"});
  const auto say = [&](uint64_t step) {
    site.Start(At(step));
    site.Handle(site.Text(At(step), "said at " + std::to_string(step), Site::kAlpha));
    site.Finish(At(step));
  };
  const auto texts = [&] {
    size_t count = 0;
    for (const Batch& batch : site.batches) count += batch.others.size();
    return count;
  };
  say(0);
  say(1);
  EXPECT_EQ(texts(), 2u);
  RecordedSteps recorded;
  const auto series = site.run->series().Since(0);
  recorded.next.resize(series[0]->id, 2);
  recorded.steps[series[0]->name.timeline] = {0, 1};
  site.run->SetRecorded(recorded);
  site.run->SetRereadUntil(UINT64_MAX);
  site.Forget();
  site.MakeGraphs();
  say(1);
  EXPECT_EQ(texts(), 0u) << "it is kept";
  say(2);
  EXPECT_EQ(texts(), 1u);
}

// What a subscriber keeps for the run is in memory alone: that it began anew is said, once.
TEST(Repeated, StateThatEndedWithADaemonIsSaid) {
  RegisterTestMetrics();
  Site site({"total(weights)"});
  const auto weights = [&](uint64_t step) {
    site.Start(At(step));
    site.Handle(site.Tensor(Kind::kWeights, At(step), Site::kFc1, Site::kW1, {3}));
    site.Finish(At(step));
  };
  weights(0);
  EXPECT_TRUE(site.events.empty());
  RecordedSteps recorded;
  recorded.next.resize(site.run->series().Since(0).back()->id, 1);
  site.run->SetRecorded(recorded);
  site.Forget();
  site.MakeGraphs();
  weights(1);
  weights(2);
  ASSERT_EQ(site.events.size(), 1u);
  EXPECT_EQ(site.events[0].kind, "state_lost");
  EXPECT_NE(site.events[0].text.find("begins anew at step 1"), std::string::npos) << site.events[0].text;
}

// After a daemon was killed its successor reads again what was not told to be kept: no fault of the trainer's, and
// those that take a value may have said nothing yet.
TEST(Repeated, WhatADaemonReadsOnceMoreIsNone) {
  Site site({"mean(weights)", "message_mean(weights_mean)"});
  const auto weights = [&](uint64_t step) {
    site.Start(At(step));
    site.Handle(site.Summary(Kind::kWeights, At(step), Site::kFc1, Site::kW1, {3}));
    site.Finish(At(step));
  };
  for (uint64_t step = 0; step < 4; ++step) weights(step);
  RecordedSteps recorded;
  for (const auto& series : site.run->series().Since(0)) {
    if (series->name.topic == "weights_mean") recorded.steps[series->name.timeline] = {0, 1, 2, 3};
    if (recorded.next.size() < series->id) recorded.next.resize(series->id, 0);
    recorded.next[series->id - 1] = series->name.topic == "weights_mean" ? 4 : 3;  // the last had no result yet
  }
  site.run->SetRecorded(recorded);
  site.run->SetRereadUntil(UINT64_MAX);
  site.Forget();
  site.MakeGraphs();
  for (uint64_t step = 2; step < 4; ++step) weights(step);
  EXPECT_FALSE(site.has("fc1.weight/weights_mean", 3)) << "it is there";
  EXPECT_EQ(site.value("weights_mean_message_mean", 3), 3);
  EXPECT_TRUE(site.graph->Missing().empty());
  EXPECT_TRUE(site.events.empty());
  site.run->SetRereadUntil(0);
  weights(1);
  EXPECT_GT(site.missing(MissReason::kRepeated), 0u) << "what comes later and again is the trainer's";
}

// Two threads close their steps in turn: what one holds open has the next daemon begin in the middle of the other's.
TEST(Repeated, StepsThatAnEarlierDaemonCountedAreNotCountedAgain) {
  Site site({"scalar"});
  site.Start(At(0));
  site.Start(At(1));
  const uint64_t done = site.graph->done_seq() + 1;  // the killed one's last, in the middle of step 0
  const auto weights = [&] { site.Handle(site.Summary(Kind::kWeights, At(0), Site::kFc1, Site::kW1, {3})); };
  weights();
  site.Finish(At(0));
  const uint64_t read = site.seq;
  site.run->SetCountedUntil(read);
  site.MakeGraphs();
  site.seq = done;
  site.Start(At(1));
  for (const bool content : {false, true}) {
    site.seq = read - (content ? 2 : 1);
    if (content) weights();
    site.Finish(At(0));
  }
  site.Finish(At(1));
  EXPECT_EQ(site.graph->steps_observed(1), 1u);
  EXPECT_TRUE(site.graph->Missing().empty()) << site.graph->Missing()[0].reason;
  // What is lost later counts.
  site.Finish(At(2));
  EXPECT_EQ(site.missing(MissReason::kDiscarded), 1u);
  // Whole, and counted before.
  site.run->SetCountedUntil(site.seq + 2);
  site.Start(At(3));
  site.Finish(At(3));
  EXPECT_EQ(site.graph->steps_observed(1), 1u);
}

TEST(Repeated, AStepInTwoPartsAndStepsOfThreadsAreNone) {
  Site site({"scalar", "mean(weights)", "text"});
  Scalar(site, 5, 1);
  site.Start(At(5));
  site.Handle(site.Scalar(Kind::kScalar, At(5), 2, Site::kBeta));
  site.Handle(site.Summary(Kind::kWeights, At(5), Site::kFc1, Site::kW1, {1}));
  site.Handle(site.Text(At(5), "one", Site::kAlpha));
  site.Finish(At(5));
  site.Start(At(5));
  site.Handle(site.Text(At(5), "two", Site::kAlpha));
  site.Finish(At(5));
  Scalar(site, 3, 7);  // a thread that took its number earlier
  EXPECT_EQ(site.published(), (Published{{".alpha/scalar", {{3, 7}, {5, 1}}},
                                         {".beta/scalar", {{5, 2}}},
                                         {"fc1.weight/weights_mean", {{5, 1}}}}));
  EXPECT_EQ(site.texts.size(), 2u);
  EXPECT_TRUE(site.graph->Missing().empty());
  EXPECT_TRUE(site.events.empty());
}

TEST(Repeated, ASecondEvaluationAtOneStepIsToldWhatToDo) {
  Site site({"scalar(tag=test)"});
  Scalar(site, 5, 1, Site::kAlpha, kTagTest);
  Scalar(site, 5, 2, Site::kAlpha, kTagTest);
  EXPECT_EQ(site.value("test:.alpha/scalar", 5), 1);
  ASSERT_EQ(site.events.size(), 1u);
  EXPECT_THAT(site.events[0].text, HasSubstr("Give a second evaluation at one step a tag of its own"));
}

TEST(GivenUp, AnEvaluationWhoseEndWasLostHoldsNothingBack) {
  Site site({"scalar", "scalar(tag=test)"});
  Scalar(site, 4, 1);
  site.Start(At(4, kTagTest));
  site.Handle(site.Scalar(Kind::kScalar, At(4, kTagTest), 2, Site::kAlpha));
  site.dropped = 1;  // its end
  for (uint64_t step = 5; step < 71; ++step) Scalar(site, step, 1);
  EXPECT_EQ(site.graph->done_seq(), site.seq);
  EXPECT_EQ(site.missing(MissReason::kDiscarded), 1u);
  EXPECT_FALSE(site.has("test:.alpha/scalar", 4));
}

// An evaluation that goes on while others train lost nothing, whatever they lose.
TEST(GivenUp, AnEvaluationBesideTrainingThatLosesMessagesIsKept) {
  Site site({"scalar", "scalar(tag=test)"});
  site.Start(At(6, kTagTest));
  for (uint64_t step = 6; step < 206; ++step) {
    if (step % 50 == 7) site.Handle(site.Scalar(Kind::kScalar, At(6, kTagTest), 2.0 * step, Site::kAlpha));
    ++site.dropped;
    Scalar(site, step, 1);
  }
  shm::Message finished = site.Marker(Kind::kBatchFinished, At(6, kTagTest));
  finished.record.marker.flags = shm::kMarkerKindsKnown;  // and none is named
  site.Handle(finished);
  EXPECT_EQ(site.value("test:.alpha/scalar", 6), 314);
  EXPECT_EQ(site.missing(MissReason::kDiscarded), 0u);
}

TEST(GivenUp, ARootThatWentSilentHoldsNothingBack) {
  Site site({"scalar"});
  constexpr uint64_t kSecond = 1'000'000'000;
  uint64_t now = 1000 * kSecond;
  site.graph->Tick(now);
  site.Start(At(0, kTagDefault, 2));
  site.Handle(site.Scalar(Kind::kScalar, At(0, kTagDefault, 2), 1, Site::kAlpha));
  const uint64_t before = site.graph->done_seq();
  for (int i = 0; i < 299; ++i) site.graph->Tick(now += kSecond);
  Scalar(site, 0, 1);
  EXPECT_EQ(site.graph->done_seq(), before);
  site.graph->Tick(now += 2 * kSecond);
  EXPECT_EQ(site.graph->done_seq(), site.seq);
  EXPECT_EQ(site.missing(MissReason::kSilent), 1u);
  EXPECT_EQ(site.missing(MissReason::kDiscarded), 0u);
  // A step that is slow, but alive.
  site.Start(At(1));
  for (int i = 0; i < 10; ++i) {
    site.graph->Tick(now += 200 * kSecond);
    site.Handle(site.Scalar(Kind::kScalar, At(1), i, Site::kAlpha));
  }
  site.Finish(At(1));
  EXPECT_EQ(site.value(".alpha/scalar", 1), 9);
}

TEST(Runs, ASubscriptionMayNameOne) {
  Site site;
  for (const char* text : {"mean(weights, run=run)", "max(weights, run=fash*|x)", "min(weights, run=other)"}) {
    site.Subscribe(text);
  }
  site.graph->Refresh();
  site.Start({});
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc1, Site::kW1, {1}));
  site.Finish({});
  EXPECT_EQ(site.published(), (Published{{"fc1.weight/weights_mean", {{0, 1}}}, {"fc1.weight/weights_max", {{0, 1}}}}));
}

TEST(Runs, OneThatNamesARunReplacesADefaultThereAlone) {
  Site site;
  site.Subscribe("norm(weights, subsample=10)", Source::kDefault);
  const auto added = site.set.Add("norm(weights, run=run)", Source::kClient, "uid:7");
  ASSERT_TRUE(added.ok());
  EXPECT_TRUE(added->replaced.empty());
  EXPECT_EQ(site.set.List().size(), 2u);
  site.graph->Refresh();
  ASSERT_EQ(site.graph->Demand().size(), 1u);
  EXPECT_EQ(site.graph->Demand()[0].period, 1u);
  site.Start(At(3));
  site.Handle(site.Summary(Kind::kWeights, At(3), Site::kFc1, Site::kW1, {3, 4}));
  site.Finish(At(3));
  EXPECT_EQ(site.value("fc1.weight/weights_norm2", 3), 5);

  Site other;
  other.Subscribe("norm(weights, subsample=10)", Source::kDefault);
  other.Subscribe("norm(weights, run=another)");
  other.graph->Refresh();
  EXPECT_EQ(other.graph->Demand().at(0).period, 10u);
}

}  // namespace
}  // namespace ikkuna::graph
