// Values of clients' own: stored and shown like others, and never in the place of others.
#include <limits>

#include "daemon/monitor/publisher.h"
#include "tests/daemon/monitor/house.h"

namespace ikkuna {
namespace {

PublishedStep StepOf(uint64_t step, const std::string& topic, Value value, const std::string& module = {}) {
  PublishedStep one;
  one.stamp.step = step;
  one.timeline = {"model", "default"};
  one.values.push_back({{{}, module, {}, topic}, "", std::move(value)});
  return one;
}
PublishedStep In(const std::string& unit, PublishedStep step) {
  for (PublishedValue& value : step.values) value.unit = unit;
  return step;
}
PublishRequest To(const std::string& run, std::vector<PublishedStep> steps) {
  PublishRequest request;
  request.run = run;
  request.steps = std::move(steps);
  return request;
}
PublishRequest Own(const std::string& run, std::vector<PublishedStep> steps, bool end = false) {
  PublishRequest request;
  request.own_run = run;
  request.steps = std::move(steps);
  request.end = end;
  return request;
}

class PublishTest : public testing::Test {
 protected:
  Reason ReasonOf(const Caller& caller, const PublishRequest& request) {
    const auto answer = house_->series().Publish(caller, request);
    EXPECT_FALSE(answer.ok());
    if (answer) return Reason::kUnspecified;
    EXPECT_FALSE(answer.failure().text.empty());
    return answer.failure().reason;
  }
  void Expect(const Caller& caller, const PublishRequest& request, uint64_t values = 1) {
    const auto answer = house_->series().Publish(caller, request);
    ASSERT_TRUE(answer.ok()) << answer.failure().text;
    EXPECT_EQ(answer->values, values);
  }
  void Again() {
    house_.reset();
    house_ = std::make_unique<House>(temp_);
  }
  size_t SeriesOf(const std::string& run) {
    SeriesQuery query;
    query.filter.run = run;
    return house_->series().ListSeries(query)->series.size();
  }

  TempDirectory temp_;
  std::unique_ptr<House> house_ = std::make_unique<House>(temp_);
};

TEST_F(PublishTest, WhatWouldNotBeRecordedIsRefused) {
  house_.reset();
  sinks::StoreOptions full;
  full.free_bytes_pause = uint64_t{1} << 60;
  house_ = std::make_unique<House>(temp_, std::vector<std::string>{}, 64 << 20, full);
  const Caller me = Me();
  ASSERT_TRUE(ingest::Eventually([&] { return house_->monitor().status.GetStatus().store.paused; }));
  const auto answer = house_->series().Publish(me, Own("mine", {StepOf(1, "accuracy", 0.5)}));
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.failure().code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(answer.failure().reason, Reason::kStore);
  EXPECT_THAT(answer.failure().text, HasSubstr("paused"));
  // The same is taken when there is room: nothing stands in its way.
  Again();
  Expect(me, Own("mine", {StepOf(1, "accuracy", 0.5)}));
}

TEST_F(PublishTest, AClientsOwnTopicIsStoredWatchedAndToldLikeOthers) {
  auto trainer = Trainer(temp_, "job", "fashion");
  Train(*trainer, 0, 3);
  house_->Settled(*trainer);
  SeriesFilter filter;
  filter.run = "fashion";
  filter.topic = "bleu|sample|curve";
  auto watcher = house_->series().Watch(filter, {});
  ASSERT_TRUE(watcher.ok());
  Histogram histogram;
  histogram.n = 3;
  histogram.counts = {1, 2};
  PublishRequest request = To(
      "fashion",
      {StepOf(1, "bleu", 27.5, "decoder"), StepOf(2, "bleu", std::numeric_limits<double>::quiet_NaN(), "decoder"),
       StepOf(2, "sample", Text{"ein Satz"}), StepOf(2, "sample", Text{"noch einer"}), StepOf(2, "curve", histogram)});
  Expect(Me(), request, 5);
  const auto values = house_->Values("job", "bleu");
  EXPECT_EQ(values.at(1), 27.5);
  EXPECT_TRUE(std::isnan(values.at(2)));
  house_->Flush();
  size_t watched = 0;
  const WatchTaken taken = watcher->watcher->Take(1000);
  for (const auto& update : taken.updates) watched += update->batch ? update->batch->values() : 0;
  EXPECT_EQ(watched, 5u);
  // Texts of one step all stay.
  ReadOptions options;
  options.query.filter.run = "job";
  options.query.filter.topic = "sample";
  auto read = house_->series().ReadSamples(options);
  const auto part = read->reader->Next();
  ASSERT_TRUE(part.ok() && *part);
  EXPECT_THAT((*part)->others, ElementsAre(Value(Text{"ein Satz"}), Value(Text{"noch einer"})));
  // Who did it is an event of the run, once a topic.
  Expect(Me(), To("latest", {StepOf(3, "bleu", 28.0, "decoder")}));
  EventQuery query;
  query.filter.run = "job";
  const std::vector<Event> events = *house_->monitor().events.ListEvents(query);
  const auto told = std::count_if(events.begin(), events.end(), [](const Event& event) {
    return event.kind == "published" && event.text.find(Me().name) == 0;
  });
  EXPECT_EQ(told, 3);
  // The trainer's own are untouched, and what was offered adds up.
  EXPECT_EQ(house_->Values("job", "loss").size(), 3u);
  house_->Flush();
  const DaemonStatus status = house_->monitor().status.GetStatus();
  for (const SinkCounters& sink : status.sinks) {
    EXPECT_EQ(sink.offered, sink.written + sink.dropped + sink.waiting) << sink.name;
  }
}

TEST_F(PublishTest, ATopicThatIsAnothersIsRefused) {
  auto trainer = Trainer(temp_, "job");
  Train(*trainer, 0, 3);
  house_->Settled(*trainer);
  const Caller other = {"certificate:anna", std::nullopt, Role::kControl};
  EXPECT_EQ(ReasonOf(Me(), To("job", {StepOf(1, "weights_mean", 1.0)})), Reason::kTopicTaken);
  Expect(Me(), To("job", {StepOf(1, "bleu", 1.0)}));
  EXPECT_EQ(ReasonOf(other, To("job", {StepOf(1, "bleu", 1.0)})), Reason::kTopicTaken);
  // Nothing of a request that is refused is there.
  EXPECT_EQ(ReasonOf(Me(), To("job", {StepOf(5, "rouge", 1.0), StepOf(5, "loss", 1.0)})), Reason::kTopicTaken);
  EXPECT_EQ(ReasonOf(Me(), To("job", {StepOf(5, "rouge", 1.0), StepOf(5, "bleu", Text{"x"})})), Reason::kTopicTaken)
      << "of another type";
  EXPECT_EQ(SeriesOf("job"), 3u);
  // A subscriber may not take the name of a client's either, but for other runs or under another name.
  auto& subscribers = house_->monitor().subscribers;
  Expect(Me(), To("job", {StepOf(1, "weights_max", 1.0)}));
  const auto taken = subscribers.AddSubscribers(Operator(), "min(weights); max(weights)");
  ASSERT_FALSE(taken.ok());
  EXPECT_EQ(taken.failure().reason, Reason::kTopicTaken);
  EXPECT_THAT(taken.failure().text, HasSubstr("weights_max"));
  EXPECT_EQ(subscribers.ListSubscribers("")->size(), 2u);
  EXPECT_TRUE(subscribers.AddSubscribers(Operator(), "max(weights, as=mine)").ok());
  EXPECT_TRUE(subscribers.AddSubscribers(Operator(), "max(weights, run=another)").ok());
  // One for another run takes nothing here.
  Expect(Me(), To("job", {StepOf(2, "weights_max", 1.0)}));
  // When the run is over the name is free again.
  trainer->Finish();
  house_->Settled(*trainer, RunState::kFinished);
  EXPECT_TRUE(Eventually([&] { return subscribers.AddSubscribers(Operator(), "max(weights, run=job)").ok(); }));
}

// What a subscriber made once stays its own when it is gone; what a client made is that client's after a restart too.
TEST_F(PublishTest, WhatStandsInTheRunAlreadyIsItsMakers) {
  auto trainer = Trainer(temp_, "job");
  Train(*trainer, 0, 3);
  house_->Settled(*trainer);
  Expect(Me(), To("job", {StepOf(1, "bleu", 1.0)}));
  ASSERT_TRUE(house_->monitor()
                  .subscribers.RemoveSubscribers(Operator(), {SubscriberChoice::By::kTopic, 0, "weights_mean"})
                  .ok());
  EXPECT_EQ(ReasonOf(Me(), To("job", {StepOf(10, "weights_mean", 1.0)})), Reason::kTopicTaken);
  EXPECT_EQ(house_->Values("job", "weights_mean").size(), 3u);
  Again();
  trainer->Disconnect();
  ASSERT_TRUE(trainer->Connect()) << trainer->reject();
  house_->Settled(*trainer);
  const Caller other = {"certificate:anna", std::nullopt, Role::kControl};
  EXPECT_EQ(ReasonOf(other, To("job", {StepOf(2, "bleu", 2.0)})), Reason::kTopicTaken);
  Expect(Me(), To("job", {StepOf(2, "bleu", 2.0)}));
  EXPECT_EQ(house_->Values("job", "bleu").size(), 2u);
}

TEST_F(PublishTest, ASubscriberMayNotTakeATopicThatAClientPublishedBeforeARestart) {
  auto trainer = Trainer(temp_, "job");
  Train(*trainer, 0, 3);
  house_->Settled(*trainer);
  Expect(Me(), To("job", {StepOf(1, "weights_max", 1.0)}));
  Again();
  trainer->Disconnect();
  ASSERT_TRUE(trainer->Connect()) << trainer->reject();
  house_->Settled(*trainer);
  EXPECT_EQ(house_->Values("job", "weights_max").size(), 1u);
  auto& subscribers = house_->monitor().subscribers;
  const auto taken = subscribers.AddSubscribers(Operator(), "max(weights)");
  ASSERT_FALSE(taken.ok());
  EXPECT_EQ(taken.failure().reason, Reason::kTopicTaken);
  EXPECT_THAT(taken.failure().text, HasSubstr("by " + Me().name));
  EXPECT_TRUE(subscribers.AddSubscribers(Operator(), "max(weights, run=another)").ok());
  Expect(Me(), To("job", {StepOf(2, "weights_max", 1.0)}));
}

// A look at some steps of a topic teaches nothing of its other series, which may have newer ones.
TEST_F(PublishTest, WhatALookAtOneSeriesFindsOfAnotherIsNoWordOnItsNewestStep) {
  auto trainer = Trainer(temp_, "job");
  Train(*trainer, 0, 3);
  house_->Settled(*trainer);
  Expect(Me(), To("job", {StepOf(10, "bleu", 1.0, "a"), StepOf(5, "bleu", 1.0, "b"), StepOf(50, "bleu", 1.0, "b")}), 3);
  Again();  // nothing is known of either
  trainer->Disconnect();
  ASSERT_TRUE(trainer->Connect()) << trainer->reject();
  house_->Settled(*trainer);
  Expect(Me(), To("job", {StepOf(200, "bleu", 1.0, "a")}));  // now a's newest is
  Expect(Me(), To("job", {StepOf(5, "bleu", 1.0, "a")}));    // and b's 5 is seen on the way
  EXPECT_EQ(ReasonOf(Me(), To("job", {StepOf(50, "bleu", 2.0, "b")})), Reason::kExists);
}

TEST_F(PublishTest, OnlyToRunsThatAreConnectedAndOnesOwn) {
  house_->Record({"over", 0, 0}, "over", 1);
  EXPECT_EQ(ReasonOf(Me(), To("over", {StepOf(1, "bleu", 1.0)})), Reason::kRunNotLive);
  EXPECT_EQ(ReasonOf(Me(), To("nobody", {StepOf(1, "bleu", 1.0)})), Reason::kNoSuchRun);
  auto trainer = Trainer(temp_, "job");
  Train(*trainer, 0, 1);
  house_->Settled(*trainer);
  EXPECT_EQ(ReasonOf(Stranger(), To("job", {StepOf(1, "bleu", 1.0)})), Reason::kRole);
  Caller network{"token", std::nullopt, Role::kRead};
  EXPECT_EQ(ReasonOf(network, To("job", {StepOf(1, "bleu", 1.0)})), Reason::kRole);
  Expect(Operator(), To("job", {StepOf(1, "bleu", 1.0)}));
  PublishRequest rank = To("job", {StepOf(1, "bleu", 1.0)});
  rank.rank = 3;
  EXPECT_EQ(ReasonOf(Operator(), rank), Reason::kRunNotLive);
  PublishRequest both = To("job", {StepOf(1, "bleu", 1.0)});
  both.own_run = "mine";
  EXPECT_EQ(ReasonOf(Operator(), both), Reason::kBadField);
  EXPECT_EQ(ReasonOf(Operator(), PublishRequest()), Reason::kBadField);
}

TEST_F(PublishTest, WhatMakesNoSenseIsRefusedByName) {
  auto trainer = Trainer(temp_, "job");
  Train(*trainer, 0, 1);
  house_->Settled(*trainer);
  const auto field = [&](PublishRequest request) {
    const auto answer = house_->series().Publish(Me(), request);
    EXPECT_FALSE(answer.ok());
    if (answer) return std::string("nothing");
    EXPECT_EQ(answer.failure().reason, Reason::kBadField) << answer.failure().text;
    return answer.failure().subject;
  };
  EXPECT_EQ(field(To("job", {})), "steps");
  EXPECT_EQ(field(To("job", {PublishedStep()})), "steps.values");
  for (const char* topic : {"", "Loss", "a b", "x@", "@x", "a@b@c", "ä"}) {
    EXPECT_EQ(field(To("job", {StepOf(1, topic, 1.0)})), "steps.values.topic") << topic;
  }
  EXPECT_EQ(field(To("job", {StepOf(uint64_t{1} << 63, "bleu", 1.0)})), "steps.step");
  EXPECT_EQ(field(To("job", {StepOf(1, "bleu", 1.0, std::string(256, 'm'))})), "steps.values.module");
  EXPECT_EQ(field(To("job", {StepOf(1, "bleu", 1.0, "\xff")})), "steps.values.module");
  EXPECT_EQ(field(To("job", {StepOf(1, "bleu", Text{"\xc3"})})), "steps.values.value");
  EXPECT_EQ(field(To("job", {StepOf(1, "bleu", Text{std::string((1 << 20) + 1, 'x')})})), "steps.values.value");
  Histogram histogram;
  histogram.n = 4;
  histogram.counts = {1, 2};
  EXPECT_EQ(field(To("job", {StepOf(1, "bleu", histogram)})), "steps.values.value");
  histogram.counts = {UINT64_MAX, 5};  // wraps around to 4
  EXPECT_EQ(field(To("job", {StepOf(1, "bleu", histogram)})), "steps.values.value");
  histogram.counts = {1, 3};
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  const std::vector<std::pair<double, double>> no_ranges = {{2, 1}, {nan, 1}, {0, nan}, {0, infinity}, {-infinity, 0}};
  for (const auto& [min, max] : no_ranges) {
    histogram.min = min;
    histogram.max = max;
    EXPECT_EQ(field(To("job", {StepOf(1, "bleu", histogram)})), "steps.values.value") << min << " to " << max;
  }
  TensorValue tensor;
  tensor.sizes = {2, 3};
  tensor.values.resize(5);
  EXPECT_EQ(field(To("job", {StepOf(1, "bleu", tensor)})), "steps.values.value");
  tensor.sizes = {int64_t{1} << 32, int64_t{1} << 32};
  EXPECT_EQ(field(To("job", {StepOf(1, "bleu", tensor)})), "steps.values.value");
  EXPECT_EQ(field(To("job", {StepOf(1, "bleu", 1.0), StepOf(1, "bleu", 2.0)})), "steps.values") << "two at one step";
  EXPECT_EQ(field(To("job", {StepOf(1, "bleu", 1.0), StepOf(2, "bleu", Text{"x"})})), "steps.values.value");
  EXPECT_EQ(field(To("job", {StepOf(1, "bleu", 1.0), In("ms", StepOf(2, "bleu", 2.0))})), "steps.values.unit");
  EXPECT_EQ(SeriesOf("job"), 2u);
}

TEST_F(PublishTest, AStepThatHasAValueKeepsItAndNobodySeesAnother) {
  auto trainer = Trainer(temp_, "job");
  Train(*trainer, 0, 3);
  house_->Settled(*trainer);
  Histogram histogram;
  histogram.n = 1;
  histogram.counts = {1};
  Expect(Me(), To("job", {StepOf(5, "bleu", 1.0), StepOf(7, "bleu", 2.0), StepOf(5, "curve", histogram)}), 3);
  SeriesFilter filter;
  filter.run = "job";
  auto watcher = house_->series().Watch(filter, {});
  ASSERT_TRUE(watcher.ok());
  // The newest, one before it, and one among others that are fresh: at once, and when all is written.
  const auto refused = [&](const char* when) {
    EXPECT_EQ(ReasonOf(Me(), To("job", {StepOf(7, "bleu", 9.0)})), Reason::kExists) << when;
    EXPECT_EQ(ReasonOf(Me(), To("job", {StepOf(5, "bleu", 1.0)})), Reason::kExists) << when;
    EXPECT_EQ(ReasonOf(Me(), To("job", {StepOf(8, "bleu", 9.0), StepOf(5, "bleu", 9.0)})), Reason::kExists) << when;
    EXPECT_EQ(ReasonOf(Me(), To("job", {StepOf(5, "curve", histogram)})), Reason::kExists) << when;
  };
  refused("at once");
  house_->Flush();
  refused("when it is written");
  size_t watched = 0;
  const WatchTaken taken = watcher->watcher->Take(1000);
  for (const auto& update : taken.updates) watched += update->batch ? update->batch->values() : 0;
  EXPECT_EQ(watched, 0u);
  // Out of order, of another module and of texts it is no second value.
  Expect(Me(), To("job", {StepOf(6, "bleu", 3.0), StepOf(7, "bleu", 4.0, "decoder"), StepOf(3, "bleu", 5.0)}), 3);
  Expect(Me(), To("job", {StepOf(5, "sample", Text{"a"})}));
  Expect(Me(), To("job", {StepOf(5, "sample", Text{"b"})}));
  // Nor does a restart forget.
  Again();
  trainer->Disconnect();
  ASSERT_TRUE(trainer->Connect()) << trainer->reject();
  house_->Settled(*trainer);
  refused("after a restart");
  EXPECT_EQ(ReasonOf(Me(), To("job", {StepOf(6, "bleu", 9.0)})), Reason::kExists);
  Expect(Me(), To("job", {StepOf(4, "bleu", 6.0)}));
  refused("when one of before was told again");
  // What is looked up for one series teaches nothing wrong of another that was not published to since.
  EXPECT_EQ(ReasonOf(Me(), To("job", {StepOf(7, "bleu", 9.0, "decoder")})), Reason::kExists);
  Expect(Me(), To("job", {StepOf(9, "bleu", 7.0)}));
  ReadOptions options;
  options.query.filter.module = "decoder";
  EXPECT_THAT(house_->Values("job", "bleu", options), ElementsAre(std::pair(7, 4.0)));
  house_->Flush();
  for (const SinkCounters& sink : house_->monitor().status.GetStatus().sinks) EXPECT_EQ(sink.dropped, 0u) << sink.name;
}

TEST_F(PublishTest, ASeriesHasOneUnit) {
  Expect(Me(), Own("mine", {In("ms", StepOf(1, "took", 1.0))}));
  EXPECT_EQ(ReasonOf(Me(), Own("mine", {In("s", StepOf(2, "took", 2.0))})), Reason::kTopicTaken);
  EXPECT_EQ(ReasonOf(Me(), Own("mine", {StepOf(2, "took", 2.0)})), Reason::kTopicTaken);
  Expect(Me(), Own("mine", {In("ms", StepOf(2, "took", 2.0))}));
  Again();
  EXPECT_EQ(ReasonOf(Me(), Own("mine", {In("s", StepOf(3, "took", 2.0))})), Reason::kTopicTaken);
  EXPECT_EQ(ReasonOf(Me(), Own("mine", {In("ms", StepOf(2, "took", 2.0))})), Reason::kExists);
  EXPECT_EQ(house_->Values("mine", "took").size(), 2u);
}

TEST_F(PublishTest, ACatalogueIsTheTrainers) {
  auto trainer = Trainer(temp_, "job");
  Train(*trainer, 0, 1);
  house_->Settled(*trainer);
  PublishedStep step = StepOf(1, "bleu", 1.0);
  for (size_t i = 1; i < Publisher::kSeriesMax; ++i) {
    step.values.push_back(step.values[0]);
    step.values.back().name.module = "m" + std::to_string(i);
  }
  Expect(Me(), To("job", {step}), Publisher::kSeriesMax);
  EXPECT_EQ(ReasonOf(Me(), To("job", {StepOf(2, "bleu", 1.0, "one more")})), Reason::kLimit);
  Expect(Me(), To("job", {StepOf(2, "bleu", 1.0)}));
}

TEST_F(PublishTest, ARunOfOnesOwn) {
  EXPECT_EQ(ReasonOf(Me(), Own("mine", {}, true)), Reason::kRunNotLive) << "nothing to end";
  // In it any topic is its owner's.
  Expect(Me(), Own("mine", {StepOf(0, "loss", 1.0), StepOf(1, "weights_mean", 2.0)}), 2);
  std::vector<RunInfo> runs = *house_->runs().FindRuns({"mine"});
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0].state, RunState::kRunning);
  EXPECT_EQ(runs[0].info.run, "mine");
  EXPECT_EQ(runs[0].info.uid, ::getuid());
  EXPECT_EQ(house_->runs().DeleteRun(Me(), {"mine"}).failure().reason, Reason::kRunOpen);
  EXPECT_EQ(ReasonOf(Stranger(), Own("mine", {StepOf(2, "loss", 1.0)})), Reason::kExists);
  EXPECT_EQ(ReasonOf(Operator(), Own("mine", {StepOf(2, "loss", 1.0)})), Reason::kExists);
  // After a restart the same client goes on with it, and nobody else.
  Again();
  EXPECT_FALSE(IsOpen(house_->runs().FindRuns({"mine"})->at(0).state));
  EXPECT_EQ(ReasonOf(Stranger(), Own("mine", {StepOf(2, "loss", 1.0)})), Reason::kExists);
  Expect(Me(), Own("mine", {StepOf(2, "loss", 3.0)}, true));
  EXPECT_EQ(house_->runs().FindRuns({"mine"})->at(0).state, RunState::kFinished);
  EXPECT_THAT(house_->Values("mine", "loss"), ElementsAre(std::pair(0, 1.0), std::pair(2, 3.0)));
  // As of a trainer's run it is told that it goes on, and that it has ended: who keeps files goes by that.
  house_->Flush();
  EventQuery query;
  query.filter.run = "mine";
  const auto events = house_->monitor().events.ListEvents(query);
  std::vector<std::string> kinds;
  for (const Event& event : *events) kinds.push_back(event.kind);
  EXPECT_THAT(kinds, ElementsAre(kRunResumed, kRunEnded));
  EXPECT_TRUE(house_->runs().DeleteRun(Me(), {"mine"}).ok());
  for (const char* name : {"latest", kDaemonRunId, "\xff"}) {
    EXPECT_EQ(ReasonOf(Me(), Own(name, {StepOf(1, "x", 1.0)})), Reason::kBadField) << name;
  }
}

// Over a network there is no user, but a name.
TEST_F(PublishTest, WhoeverPublishedARunMayTagAndDeleteIt) {
  const Caller alice{"token:alice", std::nullopt, Role::kRead}, eve{"token:eve", std::nullopt, Role::kRead};
  Expect(alice, Own("alices", {StepOf(0, "loss", 1.0)}, true));
  EXPECT_EQ(house_->runs().TagRun(eve, "alices", {"mine"}, {}).failure().reason, Reason::kRole);
  EXPECT_EQ(house_->runs().DeleteRun(eve, {"alices"}).failure().reason, Reason::kRole);
  EXPECT_TRUE(house_->runs().TagRun(alice, "alices", {"good"}, {}).ok());
  EXPECT_TRUE(house_->runs().DeleteRun(alice, {"alices"}).ok());
}

// Its facts are a trainer's own word: one that says it was published by a client is no client's.
TEST_F(PublishTest, ATrainersRunIsNobodysOwn) {
  auto trainer = Trainer(temp_, "job");
  trainer->AddFact("publisher", Me().name);
  Train(*trainer, 0, 1);
  house_->Settled(*trainer);
  EXPECT_EQ(ReasonOf(Me(), Own("job", {StepOf(1, "x", 1.0)})), Reason::kExists);
  trainer->Finish();
  house_->Settled(*trainer, RunState::kFinished);
  EXPECT_EQ(ReasonOf(Me(), Own("job", {StepOf(1, "x", 1.0)})), Reason::kExists);
  // And a trainer that comes under the name of a client's run gets an attempt of its own.
  Expect(Me(), Own("mine", {StepOf(0, "loss", 1.0)}));
  auto second = Trainer(temp_, "mine");
  Train(*second, 0, 2, 100);
  house_->Settled(*second);
  EXPECT_EQ(house_->runs().FindRuns({"mine"})->size(), 2u);
  Expect(Me(), Own("mine", {StepOf(1, "loss", 1.0)}));
  ReadOptions options;
  options.query.filter.attempt = 0;
  EXPECT_EQ(house_->Values("mine", "loss", options).size(), 2u);
}

TEST_F(PublishTest, SoManyRunsOfClientsAreOpen) {
  for (size_t i = 0; i < Publisher::kOwnRunsMax; ++i)
    Expect(Me(), Own("mine" + std::to_string(i), {StepOf(0, "x", 1.0)}));
  EXPECT_EQ(ReasonOf(Me(), Own("more", {StepOf(0, "x", 1.0)})), Reason::kLimit);
  Expect(Me(), Own("mine7", {}, true), 0);
  Expect(Me(), Own("more", {StepOf(0, "x", 1.0)}));
  house_->core().Tick();
  EXPECT_EQ(house_->runs().FindRuns({"mine1"})->at(0).state, RunState::kRunning);
  house_->Stop();  // whoever is open has finished with the daemon
  Again();
  EXPECT_EQ(house_->runs().FindRuns({"mine1"})->at(0).state, RunState::kFinished);
}

}  // namespace
}  // namespace ikkuna
