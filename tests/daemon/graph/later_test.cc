// Subscribers that are not done when the graph's call is over: queues, chains through them, state for the run, those
// that throw or hold their results; and what a step's values are made of beside numbers.
#include <gmock/gmock.h>

#include <thread>

#include "tests/daemon/graph/site.h"
#include "tests/daemon/graph/test_metrics.h"

namespace ikkuna::graph {
namespace {

using testing::HasSubstr;

class Later : public testing::Test {
 protected:
  static void SetUpTestSuite() { RegisterTestMetrics(); }
  void SetUp() override {
    door.Open();
    calls = 0;
    held.clear();
  }
  void TearDown() override {
    door.Open();
    held.clear();
  }

  static void Step(Site& site, uint64_t step, double value = 1, bool tensor = true) {
    const Where where{1, 0, step};
    site.Start(where);
    Give(site, where, value, tensor);
    site.Finish(where);
  }
  static void Give(Site& site, const Where& where, double value, bool tensor = true) {
    const std::vector<double> values{value, value};
    for (const auto& [module, param] : {std::pair{Site::kFc1, Site::kW1}, {Site::kFc2, Site::kW2}}) {
      site.Handle(tensor ? site.Tensor(Kind::kWeights, where, module, param, values)
                         : site.Summary(Kind::kWeights, where, module, param, values));
    }
  }
  static std::vector<std::string> Kinds(const Site& site) {
    std::vector<std::string> kinds;
    for (const Event& event : site.events) kinds.push_back(event.kind);
    return kinds;
  }
};

TEST_F(Later, AQueueGivesItsResultsOfTheSameStepAndOverwritesTheArenaMeanwhile) {
  Site site({"heavy(weights)", "mean(weights)"});
  door.Close();
  std::vector<double> arena{3, 4};
  site.Start({1, 0, 7});
  shm::Message message = site.Tensor(Kind::kWeights, {1, 0, 7}, Site::kFc1, Site::kW1, {3, 4});
  message.payload = reinterpret_cast<const unsigned char*>(arena.data());
  site.Handle(message);
  arena.assign(2, 1e9);  // the trainer's again
  const uint64_t before = site.seq - 2;
  site.Finish({1, 0, 7});
  // What needs no queue is out; the step is not done.
  EXPECT_EQ(site.value("fc1.weight/weights_mean", 7), 3.5);
  EXPECT_FALSE(site.has("fc1.weight/weights_heavy", 7));
  EXPECT_EQ(site.graph->done_seq(), before);
  EXPECT_GT(site.memory.used(), 0u);
  // The trainer goes on at full speed.
  const StepStamp stamp = site.batches.at(0).stamp;
  Step(site, 8, 1, false);
  EXPECT_TRUE(site.has("fc1.weight/weights_mean", 8));
  door.Open();
  ASSERT_TRUE(site.Settled());
  EXPECT_EQ(site.value("fc1.weight/weights_heavy", 7), 7);
  const Batch& late = site.batches.back();
  EXPECT_EQ(late.stamp.step, stamp.step);
  EXPECT_EQ(late.stamp.unix_ns, stamp.unix_ns);
  EXPECT_EQ(late.stamp.timeline, stamp.timeline);
  EXPECT_TRUE(site.WaitUntil([&] { return site.memory.used() == 0; }));
  EXPECT_TRUE(site.WaitUntil([&] { return site.info(1).cpu_seconds > 0; }));
}

// A second for each message, say: what it cannot do is dropped, the oldest first, and counted; nobody waits for it.
TEST_F(Later, AHeavySubscriberCostsTheOthersNothing) {
  Site site({"heavy(weights)", "mean(weights)"}, 1 << 24);
  door.Close();
  Step(site, 0);
  door.WaitForOne();
  for (uint64_t step = 1; step < 200; ++step) Step(site, step);
  EXPECT_EQ(site.published().at("fc1.weight/weights_mean").size(), 200u);
  door.Open();
  ASSERT_TRUE(site.Settled());
  const auto heavy = site.published().find("fc1.weight/weights_heavy");
  ASSERT_NE(heavy, site.published().end());
  EXPECT_TRUE(site.has("fc1.weight/weights_heavy", 199));  // the newest stay
  const uint64_t dropped = site.info(1).count(MissReason::kQueueFull);
  EXPECT_GT(dropped, 300u);  // lanes of 200 steps
  EXPECT_EQ(site.missing(MissReason::kQueueFull), dropped);
  uint64_t published = heavy->second.size() + site.published().at("fc2.weight/weights_heavy").size();
  EXPECT_EQ(published + dropped, 400u);
  EXPECT_EQ(site.info(1).computed, published);
  EXPECT_EQ(site.info(1).waiting, 0u);
  EXPECT_TRUE(site.events.empty());
}

// What a queue drops of steps that are read once more was dropped, and counted, before.
TEST_F(Later, WhatAnEarlierDaemonDroppedIsCountedOnce) {
  Site site({"heavy(weights)"}, 1 << 24);
  const auto burst = [&](uint64_t first) {
    door.Close();
    Step(site, first);
    door.WaitForOne();
    for (uint64_t step = first + 1; step < first + 20; ++step) Step(site, step);
    door.Open();
    return site.Settled();
  };
  ASSERT_TRUE(burst(0));
  EXPECT_GT(site.missing(MissReason::kQueueFull), 0u);
  site.run->SetCountedUntil(site.seq);
  site.Forget();
  site.MakeGraphs();
  site.seq = 0;
  ASSERT_TRUE(burst(0));
  EXPECT_TRUE(site.graph->Missing().empty());
  ASSERT_TRUE(burst(20));
  EXPECT_GT(site.missing(MissReason::kQueueFull), 0u);
}

TEST_F(Later, WhatFindsNoRoomIsCountedAndTheRestGoesOn) {
  Site site({"heavy(weights)", "mean(weights)"}, 4096);
  std::vector<double> big(1000, 1.0);  // more than the budget
  site.Start({});
  site.Handle(site.Tensor(Kind::kWeights, {}, Site::kFc1, Site::kW1, big));
  site.Handle(site.Tensor(Kind::kWeights, {}, Site::kFc2, Site::kW2, {5}));
  site.Finish({});
  ASSERT_TRUE(site.Settled());
  EXPECT_EQ(site.missing(MissReason::kMemoryFull), 1u);
  EXPECT_EQ(site.info(1).count(MissReason::kMemoryFull), 1u);
  EXPECT_EQ(site.info(1).count(MissReason::kWithheld), 1u);
  EXPECT_EQ(site.value("fc2.weight/weights_heavy", 0), 5);
  EXPECT_FALSE(site.has("fc1.weight/weights_heavy", 0));
  EXPECT_EQ(site.value("fc1.weight/weights_mean", 0), 1);
  EXPECT_TRUE(site.WaitUntil([&] { return site.memory.used() == 0; }));
}

TEST_F(Later, AChainOfThree) {
  Site site({"norm(weights)", "max(weights_norm2)", "message_mean(weights_norm2_max)"});
  Step(site, 3, 2);
  EXPECT_DOUBLE_EQ(site.value("weights_norm2_max_message_mean", 3), std::sqrt(8));
}

TEST_F(Later, AChainOfThreeThroughAQueue) {
  Site site({"heavy(weights)", "max(weights_heavy)", "message_mean(weights_heavy_max)", "mean(weights)"});
  door.Close();
  for (uint64_t step = 0; step < 5; ++step) Step(site, step, static_cast<double>(step));
  EXPECT_EQ(site.published().size(), 2u);  // means
  door.Open();
  ASSERT_TRUE(site.Settled());
  for (uint64_t step = 0; step < 5; ++step) {
    EXPECT_EQ(site.value("fc1.weight/weights_heavy_max", step), 2.0 * static_cast<double>(step));
    EXPECT_EQ(site.value("weights_heavy_max_message_mean", step), 2.0 * static_cast<double>(step));
  }
}

TEST_F(Later, WhoTakesFromAQueueThatDroppedIsNotGivenHalf) {
  Site site({"heavy(weights)", "message_mean(weights_heavy)"}, 1 << 24);
  door.Close();
  for (uint64_t step = 0; step < 100; ++step) Step(site, step, static_cast<double>(step));
  door.Open();
  ASSERT_TRUE(site.Settled());
  const auto& means = site.published().at("weights_heavy_message_mean");
  EXPECT_TRUE(means.count(99));
  EXPECT_LT(means.size(), 100u);
  for (const auto& [step, mean] : means) {
    EXPECT_EQ(mean, 2.0 * static_cast<double>(step));
    EXPECT_TRUE(site.has("fc1.weight/weights_heavy", step) && site.has("fc2.weight/weights_heavy", step)) << step;
  }
}

TEST_F(Later, StateForTheRunSeesWholeStepsInOrderAndSurvivesASubscription) {
  for (const char* name : {"total", "queued_total"}) {
    Site site({std::string(name) + "(activations)"});
    const auto message = [&](uint64_t step, uint16_t call, double value) {
      site.Handle(Site::At(site.Tensor(Kind::kActivations, {1, 0, step}, Site::kFc1, 0, {value}), 0, call));
    };
    const std::string series = std::string("fc1/activations_") + name;
    // Two steps are open at once; one of three is lost, one is dropped within.
    site.Start({1, 0, 0});
    message(0, 0, 1);
    site.Start({1, 0, 1});
    message(1, 0, 10);
    message(0, 1, 2);
    site.Finish({1, 0, 0});
    message(1, 1, 20);
    site.Finish({1, 0, 1});
    site.Start({1, 0, 2});
    message(2, 0, 1000);
    site.dropped = 1;
    site.Finish({1, 0, 2});
    site.Start({1, 0, 3});
    message(3, 0, 1000);
    site.Start({1, 0, 3});  // again: its end was lost
    message(3, 0, 100);
    site.Subscribe("mean(activations)");
    site.graph->Refresh();
    site.Finish({1, 0, 3});
    site.Start({1, 0, 4});
    message(4, 0, 5);
    site.Finish({1, 0, 4});
    ASSERT_TRUE(site.Settled());
    EXPECT_EQ(site.published().at(series + "_steps"), (std::map<uint64_t, double>{{0, 1}, {1, 2}, {3, 3}, {4, 4}}));
    EXPECT_EQ(site.published().at(series + "_sum"), (std::map<uint64_t, double>{{0, 3}, {1, 33}, {3, 133}, {4, 138}}));
  }
}

// What a step waits for may come after the next one has all, also where a subscription came between them.
TEST_F(Later, StateForTheRunSeesStepsInOrderOverASubscription) {
  Site site({"holder(weights)", "digits(weights_holder, module=fc1)"});
  Step(site, 0);
  const size_t of_one = held.size();
  site.Subscribe("mean(weights)");
  site.graph->Refresh();
  Step(site, 1);
  ASSERT_EQ(held.size(), 2 * of_one);
  held.resize(of_one);  // the second step has what it waits for
  site.graph->Tick(MonotonicNs());
  EXPECT_FALSE(site.has("fc1.weight/weights_holder_digits", 1));
  held.clear();
  ASSERT_TRUE(site.Settled());
  EXPECT_EQ(site.published().at("fc1.weight/weights_holder_digits"), (std::map<uint64_t, double>{{0, 1}, {1, 11}}));
}

TEST_F(Later, WhoThrowsIsSwitchedOffForAllRunsAndTheOthersGoOn) {
  for (const char* name : {"thrower", "queued_thrower"}) {
    Site site({std::string(name) + "(weights)", "message_mean(weights_" + std::string(name) + ")", "mean(weights)"});
    SCOPED_TRACE(name);
    for (uint64_t step = 0; step < 5; ++step) {
      Step(site, step, 1, false);
      ASSERT_TRUE(site.Settled());
      site.graph->Refresh();
    }
    EXPECT_EQ(site.published().at("fc1.weight/weights_mean").size(), 5u);
    const std::string series = std::string("fc1.weight/weights_") + name;
    EXPECT_EQ(site.published().at(series).size(), 2u);
    EXPECT_FALSE(site.has("weights_" + std::string(name) + "_message_mean", 2));
    EXPECT_EQ(Kinds(site), std::vector<std::string>{"subscriber_failed"});
    EXPECT_EQ(site.events[0].severity, Severity::kError);
    EXPECT_THAT(site.events[0].text, HasSubstr("failed at step 2: no such matrix; it is switched off for every run"));
    EXPECT_TRUE(site.info(1).off);
    EXPECT_FALSE(site.info(2).off);
    EXPECT_GE(site.info(1).count(MissReason::kThrew), 1u);
    // Asked for once more, it begins anew.
    const auto again = site.Subscribe(std::string(name) + "(weights)");
    EXPECT_FALSE(again.at(0).off);
    EXPECT_GT(again.at(0).id, 3u);
    site.graph->Refresh();
    Step(site, 9, 1, false);
    ASSERT_TRUE(site.Settled());
    EXPECT_TRUE(site.has(series, 9));
  }
}

TEST_F(Later, WhoThrowsAtAMessageIsSwitchedOffToo) {
  Site site({"message_thrower(weights)", "mean(weights)"});
  Step(site, 0, 1, false);
  Step(site, 1, 1, false);
  site.graph->Refresh();
  EXPECT_EQ(site.published().at("fc1.weight/weights_mean").size(), 2u);
  EXPECT_EQ(site.events.size(), 1u);
  EXPECT_THAT(site.events.at(0).text, HasSubstr("something that is no std::exception"));
  EXPECT_EQ(site.missing(MissReason::kThrew), 1u);
}

TEST_F(Later, WhoThrowsWhileItIsResetIsSwitchedOffToo) {
  Site site({"reset_thrower(weights)", "mean(weights)"});
  Step(site, 0, 1, false);
  Step(site, 1, 1, false);
  // Open at the end: it is reset there as well.
  site.Start({});
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc1, Site::kW1, {1}));
  site.graph->Refresh();
  EXPECT_EQ(site.published().at("fc1.weight/weights_mean").size(), 2u);
  ASSERT_EQ(site.events.size(), 1u);
  EXPECT_THAT(site.events[0].text, HasSubstr("cannot forget"));
  EXPECT_EQ(site.missing(MissReason::kThrew), 1u);
}

TEST_F(Later, ANumberThatASubscriberPutsTwiceIsNoTrainerThatGoesBack) {
  Site site({"holder(weights)"});
  Step(site, 0, 1, false);
  ASSERT_FALSE(held.empty());
  held[0]->Put(0, {Site::kFc1, Site::kW1}, 7.0);
  held.clear();
  ASSERT_TRUE(site.Settled());
  site.graph->Refresh();
  EXPECT_EQ(site.missing(MissReason::kRepeated), 1u);
  EXPECT_TRUE(site.events.empty()) << site.events[0].text;
}

TEST_F(Later, ResultsMayBeUsedLaterFromAnyThread) {
  Site site({"holder(weights)", "max(weights_holder)"});
  site.Start({});
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc1, Site::kW1, {1}));
  site.Finish({});
  const uint64_t first = site.seq;
  Step(site, 1, 1, false);
  EXPECT_EQ(site.graph->done_seq(), 0u);
  ASSERT_EQ(held.size(), 3u);
  EXPECT_FALSE(held[0]->cancelled());
  std::thread([] {
    held[0]->Put(0, {Site::kFc2, Site::kW2}, 5.0);
    held[0]->Raise(Severity::kWarning, "late", std::nullopt);
    held[0].reset();
  }).join();
  ASSERT_TRUE(site.WaitUntil([&] { return site.graph->done_seq() != 0; }));
  EXPECT_EQ(site.graph->done_seq(), first);
  EXPECT_EQ(site.value("fc1.weight/weights_holder", 0), 1);
  EXPECT_EQ(site.value("fc2.weight/weights_holder", 0), 5);
  EXPECT_EQ(site.value("fc2.weight/weights_holder_max", 0), 5);
  EXPECT_FALSE(site.has("fc1.weight/weights_holder_max", 1));
  EXPECT_EQ(site.events.at(0).step, 0u);
  held.clear();
  ASSERT_TRUE(site.Settled());
  EXPECT_TRUE(site.has("fc1.weight/weights_holder_max", 1));
}

// What was special about the messages is special about what is made of them, whoever says it, when and of whom.
TEST_F(Later, LateValuesBearTheFlagsAndThePrecisionOfWhatTheyAreMadeOf) {
  for (const char* holder : {"holder(weight_gradients)", "fed_holder(weight_gradients)"}) {
    SCOPED_TRACE(holder);
    Site site({holder});
    site.Start({});
    shm::Message gradient = site.Summary(Kind::kWeightGradients, {}, Site::kFc1, Site::kW1, {1});  // of float64
    gradient.record.flags = kFlagGradScaled;
    site.Handle(gradient);
    site.Finish({});
    ASSERT_EQ(held.size(), 1u);
    held[0]->Put(0, {Site::kFc1, Site::kB1}, 0.1);  // of its module
    held[0]->Put(0, {Site::kFc2, Site::kW2}, 0.2);  // of the step
    held.clear();
    ASSERT_TRUE(site.Settled());
    size_t seen = 0;
    for (const Batch& batch : site.batches) {
      for (const Sample& sample : batch.samples) {
        ++seen;
        EXPECT_EQ(sample.flags, kFlagGradScaled);
        EXPECT_EQ(site.run->series().Find(sample.series)->traits.precision, Precision::kDouble);
      }
    }
    EXPECT_EQ(seen, 3u);
  }
}

TEST_F(Later, ResultsMayOutliveTheGraph) {
  {
    Site site({"holder(weights)", "heavy(weights)"});
    door.Close();
    Step(site, 0);
    Step(site, 1);
    door.WaitForOne();
    // The jobs come too late, however soon they may run.
    std::thread opener([result = held.at(0)] {
      while (!result->cancelled()) ::usleep(1000);
      door.Open();
    });
    site.graph->Finish(0);
    EXPECT_EQ(site.graph->done_seq(), site.seq);
    EXPECT_TRUE(held.at(0)->cancelled());
    EXPECT_GE(site.info(1).count(MissReason::kCancelled), 2u);
    EXPECT_GE(site.info(2).count(MissReason::kCancelled), 2u);
    EXPECT_TRUE(site.batches.size() >= 2);
    opener.join();
  }
  held[0]->Put(0, {}, 1.0);
  held[0]->Incomplete();
  held.clear();
}

TEST_F(Later, FinishGivesWhatIsStillComputed) {
  Site site({"heavy(weights)"});
  door.Close();
  Step(site, 0);
  std::thread opener([] {
    ::usleep(20'000);
    door.Open();
  });
  site.graph->Finish(MonotonicNs() + 20'000'000'000);
  opener.join();
  EXPECT_TRUE(site.has("fc1.weight/weights_heavy", 0));
  EXPECT_EQ(site.missing(MissReason::kCancelled), 0u);
}

TEST_F(Later, ARemovedQueueSubscriberGivesNothingMore) {
  Site site({"heavy(weights)"});
  door.Close();
  Step(site, 0);
  Step(site, 1);
  door.WaitForOne();
  site.RemoveTopic("weights_heavy");
  site.graph->Refresh();
  door.Open();
  ASSERT_TRUE(site.Settled());
  EXPECT_TRUE(site.published().empty());
  EXPECT_GE(site.missing(MissReason::kCancelled), 1u);
}

TEST_F(Later, ValuesOfEveryTypeAndSeveralOutputs) {
  Site site({"everything(weights)", "histogram_size(weights_everything_histogram)", "max(weights_everything)"});
  EXPECT_THAT(site.info(1).topics, testing::ElementsAre("weights_everything", "weights_everything_histogram",
                                                        "weights_everything_tensor", "weights_everything_text"));
  site.Start({});
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc1, Site::kW1, {1}));
  site.Finish({});
  EXPECT_EQ(site.published(), (Published{{"fc1.weight/weights_everything", {{0, 2.5}}},
                                         {"fc1.weight/weights_everything_max", {{0, 2.5}}},
                                         {"fc1.weight/weights_everything_histogram_size", {{0, 3}}}}));
  ASSERT_EQ(site.others.size(), 2u);
  EXPECT_EQ(site.others[0].first, "fc1.weight/weights_everything_histogram");
  EXPECT_EQ(std::get<Histogram>(site.others[0].second).counts, (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(site.others[1].first, "fc1.weight/weights_everything_tensor");
  EXPECT_EQ(site.texts, (std::vector<std::string>{"fc1.weight/weights_everything_text=said",
                                                  "fc1.weight/weights_everything_text=twice"}));
  EXPECT_EQ(site.info(1).count(MissReason::kRefused), 3u);
  // So it is for a step that closes after a later one.
  for (const uint64_t step : {1u, 2u}) {
    site.Start({.step = step});
    site.Handle(site.Summary(Kind::kWeights, {.step = step}, Site::kFc1, Site::kW1, {1}));
  }
  for (const uint64_t step : {2u, 1u}) {
    site.Finish({.step = step});
    EXPECT_EQ(site.value("fc1.weight/weights_everything", step), 2.5);
    EXPECT_EQ(site.value("fc1.weight/weights_everything_max", step), 2.5);
  }
  EXPECT_EQ(site.missing(MissReason::kRepeated), 0u);
  const auto id = site.run->series().FindId({{"model", "default"}, "fc1", "weight", "weights_everything_tensor"});
  ASSERT_TRUE(id);
  EXPECT_EQ(site.run->series().Find(*id)->traits.type, ValueType::kTensor);
  // A number is what most take.
  const auto refused = site.set.Add("max(weights_everything_histogram)", Source::kClient);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().text, HasSubstr("weights_everything_histogram is a histogram, which max does not take"));
}

TEST_F(Later, ABundleThatNeedsTensorsWaitsWithCopies) {
  Site site({"last_pair(activations, layer_gradients)"});
  site.Start({});
  site.Handle(site.Tensor(Kind::kActivations, {}, Site::kFc1, 0, {100}));
  site.Handle(Site::At(site.Tensor(Kind::kActivations, {}, Site::kFc1, 0, {1}), 0, 1));  // the last counts
  site.Handle(site.Tensor(Kind::kActivations, {}, Site::kFc2, 0, {1}));                  // no gradient comes
  site.Handle(site.Tensor(Kind::kLayerGradients, {}, Site::kFc1, 0, {10}));
  EXPECT_GT(site.memory.used(), 0u);
  site.Finish({});
  EXPECT_EQ(site.published(), (Published{{"fc1/activations_last_pair", {{0, 21}}}}));
  EXPECT_EQ(site.info(1).count(MissReason::kIncomplete), 1u);
  EXPECT_EQ(site.memory.used(), 0u);
}

TEST_F(Later, ActionsReachWhoActsAndAreNotHeldBackByOthers) {
  Site site({"actor(weights)"});
  std::vector<std::string> frozen;
  site.MakeGraphs([&](const ikkuna::Run& run, const Event& event, const Action& action) {
    EXPECT_EQ(run.key().run_id, "run");
    EXPECT_EQ(event.kind, "actor");
    frozen.push_back(action.modules);
  });
  site.graph->AddRegistry({Site::Root(1, "model"), Site::Module(Site::kFc1, 1, "fc1", "Linear"),
                           Site::Module(Site::kFc2, 1, "fc2", "Linear"), Site::Param(Site::kW1, Site::kFc1, "weight"),
                           Site::Param(Site::kW2, Site::kFc2, "weight")});
  Step(site, 0, 1, false);
  Step(site, 1, 1, false);
  EXPECT_EQ(frozen, (std::vector<std::string>{"fc1", "fc2"}));
  EXPECT_EQ(site.events.size(), 2u);
  EXPECT_EQ(site.missing(MissReason::kSuppressed), 2u);
}

TEST_F(Later, PrecisionFollowsTheTensor) {
  Site site({"mean(weights)", "norm(weights, order=0)", "loss", "max(weights_mean)"});
  site.Start({});
  shm::Message narrow = site.Summary(Kind::kWeights, {}, Site::kFc1, Site::kW1, {1});
  narrow.record.dtype = static_cast<uint8_t>(DType::kBF16);
  site.Handle(narrow);
  site.Handle(site.Summary(Kind::kWeights, {}, Site::kFc2, Site::kW2, {1}));  // f64
  site.Handle(site.Scalar(Kind::kLoss, {}, 1));
  site.Finish({});
  const auto precision = [&](const SeriesName& name) {
    const auto id = site.run->series().FindId(name);
    EXPECT_TRUE(id) << name.topic;
    return id ? site.run->series().Find(*id)->traits.precision : Precision{};
  };
  const Timeline timeline{"model", "default"};
  EXPECT_EQ(precision({timeline, "fc1", "weight", "weights_mean"}), Precision::kSingle);
  EXPECT_EQ(precision({timeline, "fc2", "weight", "weights_mean"}), Precision::kDouble);
  EXPECT_EQ(precision({timeline, "fc1", "weight", "weights_mean_max"}), Precision::kSingle);
  EXPECT_EQ(precision({timeline, "fc1", "weight", "weights_norm0"}), Precision::kDouble);
  EXPECT_EQ(precision({timeline, "", "", "loss"}), Precision::kDouble);
}

}  // namespace
}  // namespace ikkuna::graph
