// Which passes a step is made of, and what becomes of the others.
#include "tests/daemon/graph/passes_fixture.h"

namespace ikkuna::graph {
namespace {

// ---- Whose they are

TEST_F(Passes, ABatchThatWasSkippedIsNoPartOfTheStep) {
  site.Start(At(0));
  Weights(0, 7);
  Pass(0, 1, kNan);  // the loop goes on to the next batch
  Pass(0, 2, 4);
  site.Finish(At(0), {2}, 3);
  EXPECT_EQ(site.published(), (Published{{"loss", {{0, 4}}}, {kActivations, {{0, 4}}}, {kWeights, {{0, 7}}}}));
  EXPECT_EQ(no_step(), 2u);
  EXPECT_EQ(withheld(), 0u);
  EXPECT_EQ(site.graph->steps_observed(1), 1u);
  EXPECT_EQ(site.graph->done_seq(), site.seq);
}

TEST_F(Passes, APassIsPartOfTheStepThatNamesItWhateverStepItBears) {
  site.epoch = 3;
  site.Start(At(7));
  Pass(7, 1, 1);
  Pass(7, 2, 5);  // of a thread that is slow
  site.Finish(At(7), {1}, 2);
  site.epoch = 4;
  site.Start(At(8));
  Weights(8, 2);
  Pass(8, 3, 7);
  shm::Message finish = site.Naming(Kind::kBatchFinished, At(8), {2, 3}, 4);
  finish.record.flags = kFlagStepInferred;
  site.Handle(finish);
  EXPECT_EQ(site.value("loss", 7), 1);
  EXPECT_EQ(site.value("loss", 8), 6);
  EXPECT_EQ(site.value(kActivations, 8), 6);
  EXPECT_EQ(no_step() + withheld(), 0u);
  ASSERT_EQ(site.batches.size(), 2u);
  EXPECT_EQ(site.batches[1].stamp.step, 8u);
  EXPECT_EQ(site.batches[1].stamp.epoch, 4u);
  EXPECT_EQ(site.batches[1].stamp.flags, kFlagStepInferred);
  EXPECT_GT(site.batches[1].stamp.unix_ns, site.batches[0].stamp.unix_ns);
}

TEST_F(Passes, WhatBearsNoneIsPartOfItsOwnStep) {
  site.Start(At(0));
  Loss(0, 0, 3);
  Activations(0, 0, 1);
  Activations(0, 0, 2, 1);
  site.Finish(At(0), Named{}, 1);
  EXPECT_EQ(site.published(), (Published{{"loss", {{0, 3}}}, {kActivations, {{0, 1.5}}}}));
}

TEST_F(Passes, AStepMayBeNamedPieceByPieceAndInAnyOrder) {
  site.Start(At(0));
  for (const uint32_t pass : {1, 2, 3, 4}) Pass(0, pass, pass);
  site.Name(At(0), {3}, 1);
  site.Name(At(0), {1, 4}, 2, 1);
  EXPECT_TRUE(site.batches.empty());
  site.Finish(At(0), {2}, 5, 3);
  EXPECT_EQ(site.value("loss", 0), 2.5);
  EXPECT_EQ(no_step() + withheld(), 0u);
}

TEST_F(Passes, FiveThousandPassesFarApart) {
  site.Start(At(0));
  double sum = 0;
  uint32_t named = 0;
  Named part;
  for (uint32_t i = 0; i < 5000; ++i) {
    const uint32_t pass = 1 + i * 100;
    site.StartPass(At(0), pass);
    Loss(0, pass, i);
    sum += i;
    part.push_back(pass);
    if (part.size() < 8) continue;
    site.Name(At(0), part, 0, named);
    named += static_cast<uint32_t>(part.size());
    part.clear();
  }
  site.Finish(At(0), part, 500'000, named);
  EXPECT_DOUBLE_EQ(site.value("loss", 0), sum / 5000);
  EXPECT_EQ(no_step(), 0u);
  EXPECT_TRUE(site.events.empty());
}

TEST_F(Passes, FiveThousandPassesThatAreNamedAtTheEnd) {
  site.Start(At(0));
  for (uint32_t pass = 1; pass <= 5000; ++pass) Pass(0, pass, pass);
  uint32_t named = 0;
  for (uint32_t first = 1; first <= 5000; first += 500) {
    Named part;
    for (uint32_t pass = first; pass < first + 500; ++pass) part.push_back(pass);
    if (first + 500 <= 5000) {
      site.Name(At(0), part, 0, named);
    } else {
      site.Finish(At(0), part, 5001, named);
    }
    named += 500;
  }
  EXPECT_DOUBLE_EQ(site.value("loss", 0), 2500.5);
  EXPECT_EQ(no_step() + withheld(), 0u);
}

TEST_F(Passes, NumbersGoOnFromTheGreatestToTheLeast) {
  site.Start(At(0));
  for (const uint32_t pass : {UINT32_MAX - 1, UINT32_MAX, 1u, 2u}) Pass(0, pass, pass == UINT32_MAX ? 100 : 1);
  site.Finish(At(0), {UINT32_MAX - 1, 1}, 2);
  EXPECT_EQ(site.value("loss", 0), 1);
  EXPECT_EQ(no_step(), 2u) << "the one between lies before the lowest that is open, the one behind does not";
  site.Start(At(1));
  site.Finish(At(1), {2}, 3);
  EXPECT_EQ(site.value("loss", 1), 1);
}

// A trainer may make two billion passes of which nobody asks anything.
TEST_F(Passes, NumbersMayGoFarOnUnheard) {
  site.Start(At(0));
  Pass(0, 4, 1);
  site.Finish(At(0), {4}, 5);
  const uint32_t far = 0x8000'0100;
  site.Start(At(1));
  Pass(1, far, kNan);
  Pass(1, far + 1, 2);
  site.Finish(At(1), {far + 1}, far + 2);
  EXPECT_EQ(site.value("loss", 1), 2);
  EXPECT_EQ(no_step(), 2u);
}

TEST_F(Passes, EvaluationHasItsOwn) {
  site.Subscribe("loss(tag=test)");
  site.graph->Refresh();
  site.Start(At(4, kTagTest));
  for (const uint32_t pass : {1, 2}) {
    site.StartPass(At(4, kTagTest), pass);
    Loss(4, pass, pass, kTagTest);
  }
  site.StartPass(At(4, kTagTest), 3);
  Loss(4, 3, 1000, kTagTest);
  site.Finish(At(4, kTagTest), {1, 2}, 3);
  site.Start(At(4));
  Pass(4, 4, 8);
  // The third is none of training: its messages are of another tag.
  site.Finish(At(4), {3, 4}, 5);
  EXPECT_EQ(site.value("test:loss", 4), 1.5);
  EXPECT_FALSE(site.has("loss", 4));
  EXPECT_EQ(no_step(), 1u);
}

TEST_F(Passes, EachRootHasItsOwn) {
  site.Start(At(0));
  site.Start(At(0, kTagDefault, 2));
  Pass(0, 1, 1);
  site.StartPass(At(0, kTagDefault, 2), 1);
  site.Handle(Site::At(site.Scalar(Kind::kLoss, At(0, kTagDefault, 2), 9), 1, 0));
  site.Finish(At(0), {1}, 2);  // says nothing of the other root's
  site.Finish(At(0, kTagDefault, 2), {1}, 2);
  EXPECT_EQ(site.value("loss", 0), 1);
  EXPECT_EQ(site.value("model1:loss", 0), 9);
}

// ---- In which order

TEST_F(Passes, TheLastIsTheLastOfTheHighest) {
  site.Subscribe("last(loss); sequence(activations); merged_sequence(activations)");
  site.graph->Refresh();
  site.Start(At(0));
  for (const uint32_t pass : {1, 2, 3}) site.StartPass(At(0), pass);
  Loss(0, 3, 30);
  Activations(0, 3, 5);
  Loss(0, 1, 10);
  Activations(0, 1, 1);
  Activations(0, 2, 3);
  Activations(0, 1, 2, 1);
  Activations(0, 2, 4, 1);
  Loss(0, 2, 20);
  site.Name(At(0), {3}, 1);
  site.Finish(At(0), {1, 2}, 4, 1);
  EXPECT_EQ(site.value("loss_last", 0), 30);
  EXPECT_EQ(site.value("fc1/activations_sequence", 0), 12345);
  // What is fed at once merges as the passes are named.
  EXPECT_EQ(site.value("fc1/activations_merged_sequence", 0), 51234);
}

TEST_F(Passes, WhoDoesNotMergeFailsAndSaysSo) {
  site.Subscribe("unmerged(activations)");
  site.graph->Refresh();
  site.Start(At(0));
  Pass(0, 1, 1);
  site.Finish(At(0), {1}, 2);
  EXPECT_EQ(site.value("fc1/activations_unmerged", 0), 1);
  site.Start(At(1));
  Pass(1, 2, 1);
  Pass(1, 3, 2);
  site.Finish(At(1), {2, 3}, 4);
  EXPECT_FALSE(site.has("fc1/activations_unmerged", 1));
  EXPECT_EQ(site.value(kActivations, 1), 1.5);
  site.graph->Tick(MonotonicNs());
  ASSERT_EQ(site.events.size(), 1u);
  EXPECT_EQ(site.events[0].kind, "subscriber_failed");
  EXPECT_NE(site.events[0].text.find("cannot merge the passes"), std::string::npos) << site.events[0].text;
}

TEST_F(Passes, FlagsGapsAndWhatCannotBeReadGoAlongWithThem) {
  site.Subscribe("norm(activations, order=3); message_mean(activations_mean)");
  site.graph->Refresh();
  site.Start(At(0));
  site.flags = kFlagGradScaled;
  Pass(0, 1, 1);
  site.flags = kFlagFlattened;
  Pass(0, 2, 1);
  site.flags = 0;
  site.Finish(At(0), {1, 2}, 3);
  ASSERT_EQ(site.batches.size(), 1u);
  ASSERT_GE(site.batches[0].samples.size(), 3u);
  for (const Sample& sample : site.batches[0].samples) EXPECT_EQ(sample.flags, kFlagGradScaled | kFlagFlattened);
  // A message that came as statistics, for one who needs the tensor.
  site.Start(At(1));
  Pass(1, 3, 1);
  site.StartPass(At(1), 4);
  site.Handle(Site::At(site.Summary(Kind::kActivations, At(1), Site::kFc1, 0, {1}), 4, 0));
  site.Finish(At(1), {3, 4}, 5);
  EXPECT_TRUE(site.has(kActivations, 1));
  EXPECT_TRUE(site.has("activations_mean_message_mean", 1));
  EXPECT_FALSE(site.has("fc1/activations_norm3", 1));
  // A message of a module without a name: the mean over all of them lacks it.
  site.Start(At(2));
  Pass(2, 5, 1);
  site.StartPass(At(2), 6);
  site.Handle(Site::At(site.Summary(Kind::kActivations, At(2), 77, 0, {1}), 6, 0));
  site.Finish(At(2), {5, 6}, 7);
  EXPECT_TRUE(site.has(kActivations, 2));
  EXPECT_FALSE(site.has("activations_mean_message_mean", 2));
}

// The first in the order of execution, wherever it belongs.
TEST_F(Passes, TheRuleForWhatIsNotFiniteFindsTheFirst) {
  site.Subscribe("non_finite(loss, activations, weights, weight_gradients)");
  site.graph->Refresh();
  const auto gradients = [&](uint64_t step, double value) {
    site.Handle(site.Summary(Kind::kWeightGradients, At(step), Site::kFc1, Site::kW1, {value}));
  };
  site.Start(At(0));
  Weights(0, 1);
  Pass(0, 1, 1);
  site.StartPass(At(0), 2);
  Activations(0, 2, 1);
  Loss(0, 2, kNan);
  gradients(0, kNan);
  site.Finish(At(0), {1, 2}, 3);
  ASSERT_EQ(site.events.size(), 1u);
  EXPECT_NE(site.events[0].text.find("loss is not finite; the activations before it, of fc1"), std::string::npos)
      << site.events[0].text;
  site.Start(At(200));
  Weights(200, 1);
  Pass(200, 3, 1);
  gradients(200, kNan);
  site.Finish(At(200), {3}, 4);
  ASSERT_EQ(site.events.size(), 2u);
  EXPECT_NE(site.events[1].text.find("weight_gradients of fc1 is not finite; the activations before it, of fc1"),
            std::string::npos)
      << site.events[1].text;
  // A pass that nobody named is no part of it.
  site.Start(At(400));
  Pass(400, 4, kNan);
  Pass(400, 5, 1);
  site.Finish(At(400), {5}, 6);
  EXPECT_EQ(site.events.size(), 2u);
}

// ---- What is due

TEST_F(Passes, ThoseThatBeganUnderAStepThatWasNotDueAreNoPartOfOneThatIs) {
  site.Subscribe("norm(activations, order=3, subsample=2); max(activations, subsample=2, as=second)");
  site.graph->Refresh();
  site.Start(At(7));
  Pass(7, 1, 1);
  site.Finish(At(7), Named{}, 1);
  site.Start(At(8));
  Pass(8, 2, 3);
  site.Finish(At(8), {1, 2}, 3);
  EXPECT_EQ(site.value(kActivations, 8), 2);
  EXPECT_FALSE(site.has("fc1/activations_norm3", 8));
  EXPECT_FALSE(site.has("fc1/activations_max@second", 8));
  EXPECT_EQ(withheld(), 2u);
  // The other way round: what the pass brought is not asked here.
  Pass(10, 3, 5);
  site.Start(At(11));
  site.Finish(At(11), {3}, 4);
  EXPECT_EQ(site.value(kActivations, 11), 5);
  EXPECT_FALSE(site.has("fc1/activations_norm3", 11));
  EXPECT_EQ(withheld(), 2u);
}

TEST_F(Passes, ThoseOfOtherSubscribersAreNoPartOfTheStep) {
  site.Start(At(0));
  Pass(0, 1, 1);
  site.Finish(At(0), Named{}, 1);
  site.Subscribe("max(activations)");
  site.graph->Refresh();
  site.Start(At(1));
  Weights(1, 1);
  Pass(1, 2, 3);
  site.Finish(At(1), {1, 2}, 3);
  ExpectPassesWithheld(1);
  site.Start(At(2));
  Pass(2, 3, 3);
  site.Finish(At(2), {3}, 4);
  EXPECT_EQ(site.value("fc1/activations_max", 2), 3);
  // Of a step that is open when the subscribers change the passes go on as it began.
  site.Start(At(3));
  site.Subscribe("min(activations)");
  site.graph->Refresh();
  Pass(3, 4, 3);
  site.Finish(At(3), {4}, 5);
  EXPECT_EQ(site.value(kActivations, 3), 3);
  EXPECT_FALSE(site.has("fc1/activations_min", 3));
}

TEST_F(Passes, NothingSubscribedNothingKept) {
  Site bare;
  bare.Start(At(0));
  bare.StartPass(At(0), 1);
  bare.Handle(Site::At(bare.Scalar(Kind::kLoss, At(0), 1), 1, 0));
  bare.Finish(At(0), {1}, 2);
  EXPECT_TRUE(bare.batches.empty());
  EXPECT_EQ(bare.graph->done_seq(), bare.seq);
}

TEST_F(Passes, ManyReuseTheirMemoryAndForgetTheirPast) {
  site.Subscribe("norm(activations, order=3); total(activations)");
  site.graph->Refresh();
  uint32_t pass = 0;
  double total = 0;
  for (uint64_t step = 0; step < 300; ++step) {
    site.Start(At(step));
    Named named;
    double sum = 0, cubes = 0;
    for (uint64_t i = 0; i <= step % 4; ++i) {
      ++pass;
      Pass(step, pass, pass);
      if ((step + i) % 5 == 4) continue;  // skipped
      named.push_back(pass);
      sum += pass;
      cubes += std::pow(pass, 3);
    }
    site.Finish(At(step), named, pass + 1);
    total += sum;
    if (named.empty()) continue;
    EXPECT_DOUBLE_EQ(site.value("loss", step), sum / static_cast<double>(named.size())) << step;
    EXPECT_NEAR(site.value("fc1/activations_norm3", step), std::cbrt(cubes), 1e-6) << step;
    EXPECT_DOUBLE_EQ(site.value("fc1/activations_total_sum", step), total) << step;
  }
  EXPECT_EQ(withheld(), 0u);
}

}  // namespace
}  // namespace ikkuna::graph
