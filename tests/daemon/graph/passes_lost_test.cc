// What becomes of passes whose beginning, name or step is lost, and of peers that never name, never close, or lie.
#include "tests/daemon/graph/passes_fixture.h"

namespace ikkuna::graph {
namespace {

class LostPasses : public Passes {};

// ---- What is lost

TEST_F(LostPasses, AStepWhoseEndWasDroppedGoesIntoNoOther) {
  site.Start(At(0));
  Pass(0, 1, 100);
  ++site.dropped;  // batch_finished of step 0, which named pass 1
  site.Start(At(1));
  Pass(1, 2, 4);
  EXPECT_EQ(no_step(), 0u);
  shm::Message finish = site.Naming(Kind::kBatchFinished, At(1), {2}, 3);
  site.Handle(finish);
  EXPECT_EQ(site.value("loss", 1), 4);
  EXPECT_FALSE(site.has("loss", 0));
  EXPECT_EQ(no_step(), 2u);
  EXPECT_EQ(site.missing(MissReason::kDiscarded), 1u);
  EXPECT_EQ(site.graph->done_seq(), site.seq);
}

TEST_F(LostPasses, AStepOfWhichAMarkerWithNamesWasDroppedIsWithheld) {
  site.Start(At(0));
  Weights(0, 1);
  for (const uint32_t pass : {1, 2, 3}) Pass(0, pass, pass);
  site.Name(At(0), {1}, 2);
  ++site.dropped;  // the marker that names pass 2
  shm::Message finish = site.Naming(Kind::kBatchFinished, At(0), {3}, 4, 2);
  finish.record.marker.dropped_kinds = KindBit(Kind::kPassesNamed);
  site.Handle(finish);
  ExpectPassesWithheld(0);
  EXPECT_EQ(withheld(), 2u);
  EXPECT_EQ(no_step(), 2u);
  EXPECT_EQ(site.graph->steps_observed(1), 0u);
}

TEST_F(LostPasses, AStepWithAPassWhoseBeginningWasNotSeenIsWithheld) {
  // As after a restart of the daemon, or where pass_started was dropped.
  Activations(0, 1, 100);
  EXPECT_EQ(no_step(), 1u);
  site.Start(At(0));
  Weights(0, 1);
  Loss(0, 1, 100);
  Pass(0, 2, 1);
  site.Finish(At(0), {1, 2}, 3);
  ExpectPassesWithheld(0);
  EXPECT_EQ(no_step(), 2u);
  EXPECT_EQ(site.missing(MissReason::kDiscarded), 0u) << "the step itself is whole";
  site.Start(At(1));
  Weights(1, 1);
  Pass(1, 3, 2);
  site.Finish(At(1), {3}, 4);
  EXPECT_EQ(site.value("loss", 1), 2);
}

TEST_F(LostPasses, MessagesOfAPassThatAnEarlierDaemonCountedAreNotMissed) {
  Activations(0, 1, 3);
  EXPECT_EQ(no_step(), 1u);
  site.run->SetCountedUntil(site.seq + 1);
  Activations(0, 1, 3);
  EXPECT_EQ(no_step(), 1u);
}

TEST_F(LostPasses, APassThatAnEarlierDaemonDiscardedIsCountedOnce) {
  const auto lost = [&](uint64_t step, uint32_t pass) {
    Pass(step, pass, 1);
    site.Start(At(step));
    site.Finish(At(step), Named{}, pass + 1);
  };
  lost(0, 1);
  EXPECT_EQ(no_step(), 2u);
  site.run->SetCountedUntil(site.seq);
  site.MakeGraphs();
  site.seq = 0;
  lost(0, 1);
  EXPECT_EQ(no_step(), 0u);
  EXPECT_EQ(site.graph->done_seq(), site.seq);
  // One that it still waited for.
  Pass(1, 2, 1);
  site.run->SetCountedUntil(site.seq);
  site.graph->Finish(0);
  EXPECT_EQ(no_step(), 2u);
}

TEST_F(LostPasses, AStepWhoseOwnBeginningWasNotSeenTakesItsPassesAlong) {
  Pass(3, 7, 1);
  Weights(3, 1);
  site.Name(At(3), {7}, 8);
  Pass(3, 8, 1);
  site.Finish(At(3), {8}, 9, 1);
  EXPECT_TRUE(site.published().empty());
  EXPECT_EQ(site.missing(MissReason::kDiscarded), 1u);
  EXPECT_EQ(no_step(), 0u) << "they are of that step, which is counted";
  EXPECT_EQ(site.graph->done_seq(), site.seq);
}

TEST_F(LostPasses, WhatTheyDroppedBeforeTheirStepBeganCounts) {
  site.Start(At(0));
  site.StartPass(At(0), 1);
  Activations(0, 1, 1);
  ++site.dropped;  // more activations of pass 1
  Loss(0, 1, 5);
  site.Finish(At(0), Named{}, 1);
  site.Start(At(1));
  Weights(1, 1);
  shm::Message finish = site.Naming(Kind::kBatchFinished, At(1), {1}, 2);
  finish.record.marker.dropped_kinds = KindBit(Kind::kActivations);
  site.Handle(finish);
  EXPECT_FALSE(site.has(kActivations, 1));
  EXPECT_EQ(site.value("loss", 1), 5);
}

TEST_F(LostPasses, OfCallsThatAreMissingEachPassHasItsOwn) {
  site.Start(At(0));
  site.StartPass(At(0), 1);
  site.StartPass(At(0), 2);
  Activations(0, 1, 1);
  Activations(0, 2, 2);
  Activations(0, 1, 3, 1);
  Activations(0, 2, 4, 2);  // call 1 of this pass never came
  site.Finish(At(0), {1, 2}, 3);
  EXPECT_FALSE(site.has(kActivations, 0));
  EXPECT_EQ(withheld(), 1u);
}

TEST_F(LostPasses, WhatComesAfterTheNameIsTooLate) {
  site.Start(At(0));
  Pass(0, 1, 1);
  site.Name(At(0), {1}, 2);
  Loss(0, 1, 100);
  site.Finish(At(0), Named{}, 2, 1);
  EXPECT_EQ(site.value("loss", 0), 1);
  EXPECT_EQ(no_step(), 1u);
}

// ---- Peers that never name, never close, or lie

TEST_F(LostPasses, ThoseThatNobodyNamesAreHeldUpToABound) {
  site.Start(At(0));
  for (uint32_t pass = 1; pass <= 2 * OpenPasses::kMaxWaiting; ++pass) {
    site.StartPass(At(0), pass);
    Loss(0, pass, 1);
  }
  site.graph->Tick(MonotonicNs());
  EXPECT_GE(no_step(), OpenPasses::kMaxWaiting);
  ASSERT_EQ(site.events.size(), 1u) << "said once";
  EXPECT_EQ(site.events[0].kind, "passes_overflow");
  const uint32_t last = 2 * OpenPasses::kMaxWaiting;
  site.Finish(At(0), {last}, last + 1);
  EXPECT_EQ(site.value("loss", 0), 1) << "the youngest is still there";
  EXPECT_EQ(no_step(), last - 1);
  EXPECT_EQ(site.graph->done_seq(), site.seq);
}

TEST_F(LostPasses, EmptyOnesAreBoundedByTheirNumber) {
  Site bare;
  for (uint32_t pass = 1; pass <= OpenPasses::kMaxWaiting + 10; ++pass) {
    bare.StartPass(At(0), pass);
    bare.Handle(Site::At(bare.Scalar(Kind::kLoss, At(0), 1), pass, 0));
  }
  EXPECT_EQ(bare.missing(MissReason::kNoStep), 10u);
}

TEST_F(LostPasses, LargeOnesAreBoundedByWhatTheyTake) {
  site.Subscribe("sequence(activations)");
  site.graph->Refresh();
  site.Start(At(0));
  const uint64_t messages = OpenPasses::kMaxBytes / sizeof(KeptInput) * 5 / 4;
  uint64_t sent = 0;
  for (uint32_t pass = 1; sent < messages; ++pass) {
    site.StartPass(At(0), pass);
    for (int i = 0; i < 4096; ++i, ++sent) {
      site.Handle(Site::At(site.Summary(Kind::kActivations, At(0), Site::kFc1, 0, {}), pass, 0));
    }
  }
  EXPECT_GE(no_step(), messages / 6);
  EXPECT_LT(no_step(), messages / 3);
  // One alone may take more.
  const uint64_t before = no_step();
  site.Finish(At(0), Named{}, UINT32_MAX / 2);
  EXPECT_GT(no_step(), before);
  const uint64_t all = no_step();
  site.Start(At(1));
  site.StartPass(At(1), UINT32_MAX / 2);
  for (uint64_t i = 0; i < messages; ++i) {
    site.Handle(Site::At(site.Summary(Kind::kActivations, At(1), Site::kFc1, 0, {}), UINT32_MAX / 2, 0));
  }
  EXPECT_EQ(no_step(), all);
}

TEST_F(LostPasses, WhatSubscribersGatherOfThemCounts) {
  site.Subscribe("train_accuracy");
  site.graph->Refresh();
  site.Start(At(0));
  constexpr uint64_t kRows = 1 << 20;
  shm::Message labels = site.Labels(At(0), std::vector<int64_t>(kRows, 1));  // whose outputs never come
  const uint64_t fit = OpenPasses::kMaxBytes / (kRows * sizeof(int64_t));
  for (uint32_t pass = 1; pass <= 2 * fit; ++pass) {
    site.StartPass(At(0), pass);
    labels.record.seq = ++site.seq;
    site.Handle(Site::At(labels, pass, 0));
  }
  EXPECT_GE(no_step(), fit);
  EXPECT_LE(no_step(), fit + 2);
}

TEST_F(LostPasses, WhatAGroupGrowsByCounts) {
  constexpr uint32_t kPasses = 64;
  site.Start(At(0));
  for (uint32_t pass = 1; pass <= kPasses; ++pass) {
    site.StartPass(At(0), pass);
    Activations(0, pass, 1);
  }
  // The first pass meets a hundred thousand parameters; all others then grow with their next message.
  constexpr uint32_t kMany = 100'000;
  std::vector<shm::RegistryEntry> entries;
  for (uint32_t i = 0; i < kMany; ++i) entries.push_back(Site::Param(1000 + i, Site::kFc1, "p" + std::to_string(i)));
  site.graph->AddRegistry(entries);
  for (uint32_t i = 0; i < kMany; ++i) {
    site.Handle(Site::At(site.Summary(Kind::kActivations, At(0), Site::kFc1, 1000 + i, {1}), 1, 0));
  }
  for (uint32_t pass = 2; pass <= kPasses; ++pass) Activations(0, pass, 1, 1);
  site.graph->Tick(MonotonicNs());
  ASSERT_EQ(site.events.size(), 1u);
  EXPECT_EQ(site.events[0].kind, "passes_overflow");
  EXPECT_GT(no_step(), uint64_t{kMany});
}

TEST_F(LostPasses, WhatTheMarkerSaysIsMissingIsMissingThoughNothingWasDropped) {
  site.Start(At(0));
  site.StartPass(At(0), 1);
  Activations(0, 1, 1);
  Loss(0, 1, 5);
  shm::Message finish = site.Naming(Kind::kBatchFinished, At(0), {1}, 2);
  finish.record.marker.dropped_kinds = KindBit(Kind::kActivations);  // a call that was begun and given up
  site.Handle(finish);
  EXPECT_FALSE(site.has(kActivations, 0));
  EXPECT_EQ(site.value("loss", 0), 5);
  EXPECT_EQ(site.graph->steps_observed(1), 0u);
}

TEST_F(LostPasses, OneThatIsKeptWhileAThousandStepsGoByIsGivenUp) {
  Pass(0, 1, 1);
  for (uint64_t step = 0; step <= OpenPasses::kStepsBehindMax; ++step) {
    EXPECT_EQ(no_step(), 0u) << step;
    const auto pass = static_cast<uint32_t>(step) + 2;
    site.Start(At(step));
    Pass(step, pass, 1);
    site.Finish(At(step), {pass}, 1);
  }
  EXPECT_EQ(no_step(), 2u);
  EXPECT_EQ(site.graph->done_seq(), site.seq);
}

TEST_F(LostPasses, OnesThatAStepNamedHoldBackWhatIsDoneUntilItIsOut) {
  site.Start(At(0));
  site.StartPass(At(0), 1);
  const uint64_t before = site.seq - 1;
  Loss(0, 1, 1);
  site.Finish(At(0), Named{}, 1);
  site.Start(At(1));
  EXPECT_EQ(site.graph->done_seq(), before);
  EXPECT_EQ(site.graph->held(), 3u) << "the pass, its loss, and the step that is open";
  site.Name(At(1), {1}, 2);
  EXPECT_EQ(site.graph->done_seq(), before) << "its loss is part of a step that is open";
  EXPECT_EQ(site.graph->held(), 4u);
  site.Finish(At(1), Named{}, 2, 1);
  EXPECT_EQ(site.value("loss", 1), 1);
  EXPECT_EQ(site.graph->done_seq(), site.seq);
  EXPECT_EQ(site.graph->held(), 0u);
}

TEST_F(LostPasses, OneOfOtherSubscribersAloneIsCounted) {
  Pass(0, 1, 1);
  site.Subscribe("max(activations)");
  site.graph->Refresh();
  site.Start(At(1));
  site.Finish(At(1), {1}, 2);
  EXPECT_FALSE(site.has("loss", 1));
  EXPECT_EQ(no_step(), 2u);
}

TEST_F(LostPasses, WhatNeverEndsIsGivenUpWhenItTakesTooMuch) {
  site.step_bytes_max = 1 << 20;
  site.MakeGraphs();
  site.Subscribe("sequence(activations)");
  site.graph->Refresh();
  const uint64_t messages = site.step_bytes_max / sizeof(KeptInput) + 10;
  site.Start(At(0));
  for (uint64_t i = 0; i < messages; ++i) {
    site.Handle(site.Summary(Kind::kActivations, At(0), Site::kFc1, 0, {}));
  }
  site.graph->Tick(MonotonicNs());
  ASSERT_EQ(site.events.size(), 1u);
  EXPECT_EQ(site.events[0].kind, "step_too_large");
  EXPECT_EQ(site.missing(MissReason::kDiscarded), 1u);
  site.StartPass(At(1), 1);
  for (uint64_t i = 0; i < messages; ++i) {
    site.Handle(Site::At(site.Summary(Kind::kActivations, At(1), Site::kFc1, 0, {}), 1, 0));
  }
  EXPECT_EQ(no_step(), messages);
}

// Passes are merged in place: many of them take no more than one.
TEST_F(LostPasses, AStepOfManySmallPassesIsNotTooLarge) {
  site.step_bytes_max = 1 << 20;
  site.MakeGraphs();
  site.Subscribe("mean(activations)");
  site.Subscribe("merged_sequence(activations)");
  site.graph->Refresh();
  site.Start(At(0));
  constexpr uint32_t kPasses = 3000;
  for (uint32_t pass = 1; pass <= kPasses; ++pass) {
    site.StartPass(At(0), pass);
    site.Handle(Site::At(site.Summary(Kind::kActivations, At(0), Site::kFc1, 0, {double(pass)}), pass, 0));
    site.Name(At(0), {pass}, pass + 1, pass - 1);
  }
  site.Finish(At(0), Named{}, kPasses + 1, kPasses);
  site.graph->Tick(MonotonicNs());
  EXPECT_TRUE(site.events.empty()) << site.events[0].text;
  EXPECT_EQ(site.value("fc1/activations_mean", 0), (kPasses + 1) / 2.0);
}

TEST_F(LostPasses, AStepWhosePassesTakeTooMuchIsGivenUpWhateverElseComes) {
  site.step_bytes_max = 1 << 20;
  site.MakeGraphs();
  site.Subscribe("sequence(activations)");
  site.graph->Refresh();
  site.Start(At(0));
  const auto most = static_cast<uint32_t>(site.step_bytes_max / sizeof(KeptInput) + 10);
  for (uint32_t pass = 1; pass <= most && site.missing(MissReason::kDiscarded) == 0; ++pass) {
    site.StartPass(At(0), pass);
    site.Handle(Site::At(site.Summary(Kind::kActivations, At(0), Site::kFc1, 0, {1}), pass, 0));
    site.Name(At(0), {pass}, pass + 1, pass - 1);
  }
  site.graph->Tick(MonotonicNs());
  ASSERT_EQ(site.events.size(), 1u);
  EXPECT_EQ(site.events[0].kind, "step_too_large");
  EXPECT_EQ(site.missing(MissReason::kDiscarded), 1u);
}

TEST_F(LostPasses, ThoseOfASilentRootAreGivenUp) {
  constexpr uint64_t kStart = 1'000'000;
  site.graph->Tick(kStart);
  Pass(0, 1, 1);
  site.graph->Tick(kStart + OpenPasses::kSilentNs - 1);
  EXPECT_EQ(no_step(), 0u);
  site.StartPass(At(0), 2);  // the root is not silent
  site.graph->Tick(kStart + OpenPasses::kSilentNs + 1);
  EXPECT_EQ(no_step(), 0u);
  site.graph->Tick(kStart + 3 * OpenPasses::kSilentNs);
  EXPECT_EQ(no_step(), 2u);
  EXPECT_EQ(site.graph->done_seq(), site.seq);
}

TEST_F(LostPasses, WhatWaitsHoldsBackWhatIsDone) {
  site.Start(At(0));
  Pass(0, 1, 1);
  site.Finish(At(0), Named{}, 1);
  site.Start(At(1));
  Pass(1, 2, 1);
  site.Finish(At(1), {2}, 1);
  EXPECT_EQ(site.graph->done_seq(), 1u) << "pass 1 may still be named";
  EXPECT_EQ(site.graph->held(), 3u) << "and no more than that";
  site.Name(At(2), Named{}, 3);
  EXPECT_EQ(no_step(), 2u);
}

TEST_F(LostPasses, TheEndOfTheProducerDiscardsThem) {
  Pass(0, 1, 1);
  site.graph->Finish(0);
  EXPECT_EQ(no_step(), 2u);
  EXPECT_EQ(site.graph->done_seq(), site.seq);
}

TEST_F(LostPasses, LiesHarmNobodyElse) {
  // The lowest goes back, and far ahead.
  site.Start(At(0));
  Pass(0, 5, 1);
  site.Name(At(0), Named{}, 4);
  site.Name(At(0), Named{}, 2);
  site.Name(At(0), {1'000'000'000}, UINT32_MAX);  // named, and never begun; the lowest is half a circle behind
  site.Finish(At(0), {5}, 6, 1);
  EXPECT_EQ(no_step(), 0u);
  EXPECT_EQ(withheld(), 2u);
  // A pass begins twice: what came before the second time is nobody's.
  site.Start(At(1));
  Pass(1, 6, 100);
  Pass(1, 6, 2);
  site.Finish(At(1), {6}, 7);
  EXPECT_EQ(site.value("loss", 1), 2);
  EXPECT_EQ(no_step(), 2u);
  // A pass is named twice: the second step lacks it.
  site.Start(At(2));
  site.Start(At(3));
  Pass(2, 7, 2);
  site.Finish(At(2), {7}, 8);
  Weights(3, 1);
  Loss(3, 0, 1);
  site.Finish(At(3), {7}, 8);
  EXPECT_EQ(site.value("loss", 2), 2);
  EXPECT_FALSE(site.has("loss", 3));
  // Of a root that does not exist.
  site.StartPass(At(0, kTagDefault, 16), 1);
  site.Name(At(0, kTagDefault, 16), {1}, 9);
  site.StartPass(At(0, kTagDefault, 0), 1);
  site.Name(At(0, kTagDefault, 0), Named{}, 9);
  site.Start(At(4));
  Pass(4, 8, 2);
  site.Finish(At(4), {8}, 9);
  EXPECT_EQ(site.value("loss", 4), 2);
}

}  // namespace
}  // namespace ikkuna::graph
