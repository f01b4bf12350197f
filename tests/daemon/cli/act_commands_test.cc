// The commands that change something: subscribe, control, publish, tag, delete; and watch.
#include "tests/daemon/cli/recorded_fixture.h"

namespace ikkuna::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::Subscriber MakeSubscriber(uint64_t id, const std::string& text, v1::SubscriberSource source,
                              const std::string& topic) {
  v1::Subscriber one;
  one.set_id(id);
  one.set_text(text);
  one.set_source(source);
  if (!topic.empty()) one.add_topics(topic);
  one.set_runs(v1::RUNS_INLINE);
  return one;
}

class ActCommandsTest : public RecordedTest {};

TEST_F(ActCommandsTest, SubscribersComeAndGo) {
  scripted_.subscribers = {MakeSubscriber(3, "norm(weights, order=3)", v1::SUBSCRIBER_SOURCE_CLIENT, "weights_norm3")};
  v1::Subscriber& one = scripted_.subscribers[0];
  one.set_computed(12);
  one.set_cpu_seconds(0.25);
  v1::Count* missing = one.add_missing();
  missing->set_reason("withheld");
  missing->set_count(1);
  EXPECT_EQ(Out({"subscribe", "norm(weights, order=3)", "loss"}),
            "subscribed 3: norm(weights, order=3), publishes weights_norm3\n");
  EXPECT_EQ(Out({"unsubscribe", "weights_norm3", "17", "norm(weights)"}),
            "unsubscribed 3: norm(weights, order=3)\nunsubscribed 3: norm(weights, order=3)\n"
            "unsubscribed 3: norm(weights, order=3)\n");
  EXPECT_THAT(scripted_.log(), ElementsAre("subscribe norm(weights, order=3); loss", "unsubscribe topic weights_norm3",
                                           "unsubscribe id 17", "unsubscribe text norm(weights)"));
  one.add_owners("uid:7");
  EXPECT_EQ(Out({"subscribers"}),
            "id  subscriber              source          publishes      runs    results     cpu  missing\n"
            " 3  norm(weights, order=3)  client (uid:7)  weights_norm3  inline       12  0.25 s  withheld 1\n");
  one.set_off(true);
  EXPECT_THAT(Out({"subscribers", "--run", "fashion"}), HasSubstr("client (uid:7), OFF: it failed"));
  EXPECT_EQ(scripted_.log().back(), "subscribers of fashion");
}

TEST_F(ActCommandsTest, WhatGivesWayWhatStaysAndWhatComesToNothingIsSaid) {
  scripted_.subscribers = {MakeSubscriber(3, "norm(weights, order=3)", v1::SUBSCRIBER_SOURCE_CLIENT, "weights_norm3")};
  scripted_.replaced = {MakeSubscriber(2, "norm(weights)", v1::SUBSCRIBER_SOURCE_DEFAULT, "weights_norm2")};
  scripted_.warnings = {"module=x matches no module"};
  Outcome warned = Run({"subscribe", "loss"});
  EXPECT_EQ(warned.code, 0);
  EXPECT_EQ(warned.err, "ikkuna: warning: module=x matches no module\n");
  EXPECT_THAT(warned.out,
              HasSubstr("  in place of 2 of the default set: norm(weights); it is back when its place is free"));
  EXPECT_THAT(Out({"unsubscribe", "3"}), HasSubstr("  the default set's is back, 2: norm(weights)\n"));
  json added = json::parse(Run({"subscribe", "loss", "--json"}).out);
  EXPECT_EQ(added["subscribers"][0]["id"], 3);
  EXPECT_EQ(added["replaced"][0]["id"], 2);
  EXPECT_EQ(added["warnings"], json({"module=x matches no module"}));
  json gone = json::parse(Out({"unsubscribe", "3", "4", "--json"}));
  EXPECT_EQ(gone["subscribers"].size(), 2u);
  EXPECT_EQ(gone["restored"][0]["id"], 2);
  EXPECT_EQ(json::parse(Out({"subscribers", "--json"}))[0]["source"], "client");
  scripted_.kept = {MakeSubscriber(9, "loss()", v1::SUBSCRIBER_SOURCE_CLIENT, "loss")};
  scripted_.kept[0].add_owners("uid:7");
  EXPECT_THAT(Out({"unsubscribe", "9"}), HasSubstr("stays on, since uid:7 asked for it too: 9, loss()\n"));
  scripted_.failure = {grpc::StatusCode::INVALID_ARGUMENT, "'nrom' is no metric"};
  Outcome outcome = Run({"subscribe", "nrom(weights)"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.err, "ikkuna: 'nrom' is no metric\n");
}

TEST_F(ActCommandsTest, MetricsShowTheirParameters) {
  v1::Metric* metric = scripted_.metrics.add_metrics();
  metric->set_name("norm");
  metric->set_help("p-norm");
  metric->set_cost(v1::COST_CHEAP);
  v1::MetricOutput* output = metric->add_outputs();
  output->set_topic("{kind}_norm{order}");
  output->set_type(v1::VALUE_TYPE_NUMBER);
  v1::MetricParameter* order = metric->add_parameters();
  order->set_name("order");
  order->set_default_value("2");
  metric->add_parameters()->set_name("as");
  EXPECT_EQ(Out({"metrics"}),
            "metric  parameters   publishes           cost   what it is\n"
            "norm    order=2, as  {kind}_norm{order}  cheap  p-norm\n");
}

TEST_F(ActCommandsTest, ControlSaysWhatWillHappen) {
  EXPECT_EQ(Out({"freeze", "features.*|fc"}), "will be done at the next step\n");
  EXPECT_EQ(Out({"unfreeze", "features.0", "--run", "older"}), "will be done at the next step\n");
  EXPECT_EQ(json::parse(Out({"stop", "--rank", "0", "--rank", "2", "--json"}))["text"],
            "will be done at the next step");
  EXPECT_THAT(scripted_.log(),
              ElementsAre("freeze latest features.*|fc", "unfreeze older features.0", "stop latest/0/2"));
  scripted_.failure = Refusal(grpc::StatusCode::FAILED_PRECONDITION, "ranks 1 and 3 are not watched here",
                              v1::ERROR_REASON_RANKS_MISSING, "1, 3", "pass --rank");
  Outcome outcome = Run({"stop"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "ikkuna: ranks 1 and 3 are not watched here; pass --rank\n");
}

TEST_F(ActCommandsTest, TagsAreGivenAndTaken) {
  EXPECT_EQ(Out({"tag", "fashion", "+keep", "-draft", "+b"}), "tags of 'fashion': keep, b\n");
  EXPECT_EQ(Out({"tag", "latest", "-draft"}), "tags of 'latest': none\n");
  EXPECT_EQ(Out({"--address", socket_path(), "tag", "fashion", "--add", "x", "--remove", "y"}),
            "tags of 'fashion': x\n");
  EXPECT_THAT(scripted_.log(), ElementsAre("tag fashion +keep +b -draft", "tag latest -draft", "tag fashion +x -y"));
  EXPECT_EQ(Run({"tag", "fashion"}).err, "ikkuna: no tag: write +TAG to give one, -TAG to take it\n");
  EXPECT_THAT(Run({"tag", "fashion", "keep"}).err, HasSubstr("'keep' says neither to give nor to take"));
  EXPECT_EQ(Run({"tag", "fashion", "--ad", "x"}).code, 2);
  EXPECT_EQ(Run({"tag", "-h"}).code, 0);
  EXPECT_EQ(Run({"tag", "fasion", "+x"}).code, 0) << "a name is the daemon's to judge";
}

TEST_F(ActCommandsTest, DeletingAsksFirst) {
  Outcome outcome = Run({"delete", "fashion"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.err, "ikkuna: what is deleted is gone for good: pass --yes where nobody can be asked\n");
  EXPECT_TRUE(scripted_.log().empty());
  EXPECT_EQ(Out({"delete", "fashion", "older", "--yes"}),
            "deleted 'fashion': 1 file, 2.0 KiB\ndeleted 'older': 1 file, 0 B\n");
  EXPECT_EQ(json::parse(Out({"delete", "fashion", "--attempt", "0", "--yes", "--json"}))["runs"].size(), 1u);
  EXPECT_THAT(scripted_.log(), ElementsAre("delete fashion", "delete older", "delete fashion/0"));
  EXPECT_EQ(Run({"delete", "fasion", "--yes"}).err, "ikkuna: there is no run 'fasion'; did you mean 'fashion'?\n");
}

TEST_F(ActCommandsTest, ValuesOfOnesOwnArePublished) {
  EXPECT_EQ(Out({"publish", "bleu", "31.4", "--step", "12", "--run", "fashion", "--module", "fc1", "--unit", "%"}),
            "published 1 value of 'bleu' in run fashion\n");
  ASSERT_EQ(scripted_.published().size(), 1u);
  v1::PublishRequest request = scripted_.published()[0];
  EXPECT_EQ(request.run(), "fashion");
  EXPECT_EQ(request.steps(0).step(), 12u);
  EXPECT_EQ(request.steps(0).values(0).topic(), "bleu");
  EXPECT_EQ(request.steps(0).values(0).value().number(), 31.4);
  EXPECT_EQ(request.steps(0).values(0).unit(), "%");
  Out({"publish", "remark", "good", "--step", "1", "--text"});
  EXPECT_EQ(scripted_.published().back().run(), "latest");
  EXPECT_EQ(scripted_.published().back().steps(0).values(0).value().text(), "good");
  EXPECT_EQ(Run({"publish", "bleu", "good", "--step", "1"}).err,
            "ikkuna: 'good' is no number; pass --text to publish a text\n");
  EXPECT_EQ(Run({"publish", "bleu", "1"}).err, "ikkuna: a value belongs to a step: pass --step N\n");
  EXPECT_THAT(Run({"publish", "bleu", "--step", "1"}).err, HasSubstr("lines of standard input bear their own"));
  Out({"publish", "remark", "", "--step", "2", "--text"});
  EXPECT_EQ(scripted_.published().back().steps(0).step(), 2u);
}

TEST_F(ActCommandsTest, LinesOfStandardInputArePublishedInOneGo) {
  Outcome outcome =
      RunShell("(seq 1 2500 | sed 's/$/,0.5/'; echo '2501 nan'; echo) | ikkuna publish bleu --own-run nightly --end");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "published 2,501 values of 'bleu' in run nightly\n");
  std::vector<v1::PublishRequest> requests = scripted_.published();
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_FALSE(requests[1].end());
  EXPECT_TRUE(requests[2].end());
  EXPECT_EQ(requests[2].own_run(), "nightly");
  EXPECT_TRUE(std::isnan(requests[2].steps(500).values(0).value().number()));
  outcome = RunShell("printf 'x y\\n' | ikkuna publish bleu");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "ikkuna: line 1 of the input is not STEP VALUE: 'x y'\n");
  EXPECT_EQ(scripted_.published().size(), 3u);
  outcome = RunShell("printf '1 2\\nx y\\n' | ikkuna publish bleu");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "ikkuna: line 2 of the input is not STEP VALUE: 'x y'; 1 value before that stands\n");
  EXPECT_EQ(scripted_.published().size(), 4u);
}

TEST_F(ActCommandsTest, WhereTheStoreHasNoRoomForNowWhatIsPublishedWaits) {
  scripted_.store_full = 3;
  Outcome outcome = RunShell("seq 1 1500 | sed 's/$/,0.5/' | ikkuna publish bleu --own-run nightly --end");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "published 1,500 values of 'bleu' in run nightly\n");
  ASSERT_EQ(scripted_.published().size(), 2u);
  EXPECT_EQ(scripted_.published()[0].steps(0).step(), 1u);
}

class WatchCommandTest : public RecordedTest {
 protected:
  v1::WatchResponse Response(uint64_t step, std::vector<double> numbers) const {
    v1::WatchResponse response;
    v1::StepValues* values = response.add_steps();
    *values->mutable_run() = kRun;
    values->set_step(step);
    values->set_unix_ns(UnixNsOf(step));
    for (double number : numbers) {
      values->add_series(9);
      values->add_numbers(number);
    }
    return response;
  }
  v1::Event Spike() const {
    v1::Event event;
    event.set_unix_ns(1'000'000'000);
    event.set_severity(v1::SEVERITY_WARNING);
    event.set_kind("loss_spike");
    event.set_text("Up.");
    *event.mutable_run() = kRun;
    event.set_step(5);
    return event;
  }
};

TEST_F(WatchCommandTest, PrintsValuesAndEventsUntilTheCountIsReached) {
  std::unique_ptr<Program> program = Spawn({"watch", "loss|weights_*", "--module", "fc*", "--count", "3"});
  v1::WatchRequest request;
  ASSERT_TRUE(scripted_.WaitForWatch(&request));
  EXPECT_EQ(request.filter().topic(), "loss|weights_*");
  EXPECT_EQ(request.filter().module(), "fc*");
  EXPECT_EQ(request.filter().run(), "");
  v1::WatchResponse first = Response(1000, {0.5});
  *first.add_new_series() = MakeSeries(9, kRun, "fc1", "weight", "weights_norm2");
  *first.add_new_series() = MakeSeries(10, kRun, "", "note", "text", v1::VALUE_TYPE_TEXT);
  *first.add_events() = Spike();
  first.mutable_steps(0)->add_value_series(10);
  first.mutable_steps(0)->add_values()->set_text("a\nb");
  scripted_.Push(first);
  v1::WatchResponse second = Response(1001, {kNaN, 7});
  second.mutable_steps(0)->set_flags(16);
  second.mutable_steps(0)->add_number_flags(v1::SAMPLE_FLAG_RANKS_MISSING);
  scripted_.Push(second);
  EXPECT_EQ(program->Wait(), 0);
  EXPECT_EQ(program->out(),
            "1970-01-01 00:00:01  warning  loss_spike  Up.  (run id-1 rank 0 step 5)\n"
            "22:13:21  step 1,000  fc1.weight weights_norm2 = 0.5\n"
            "22:13:21  step 1,000  note text = a\\nb\n"
            "22:13:21  step 1,001  fc1.weight weights_norm2 = NaN  step_skipped ranks_missing\n");
  EXPECT_EQ(program->err(), "");
}

TEST_F(WatchCommandTest, JsonIsALineForEach) {
  std::unique_ptr<Program> program = Spawn({"watch", "--json", "--count", "1"});
  ASSERT_TRUE(scripted_.WaitForWatch());
  v1::WatchResponse response = Response(3, {kNaN});
  *response.add_new_series() = MakeSeries(9, kRun, "fc1", "weight", "t");
  *response.add_events() = Spike();
  response.mutable_steps(0)->set_flags(16);
  scripted_.Push(response);
  EXPECT_EQ(program->Wait(), 0);
  std::string out = program->out();
  json event = json::parse(out.substr(0, out.find('\n')));
  json sample = json::parse(out.substr(out.find('\n') + 1));
  EXPECT_EQ(event["type"], "event");
  EXPECT_EQ(sample["type"], "sample");
  EXPECT_EQ(sample["run_id"], "id-1");
  EXPECT_EQ(sample["module"], "fc1");
  EXPECT_EQ(sample["value"], "NaN");
  EXPECT_EQ(sample["step"], 3);
  EXPECT_EQ(sample["flags"], json({"step_skipped"}));
}

TEST_F(WatchCommandTest, EventsAloneCanBeWatched) {
  std::unique_ptr<Program> program = Spawn({"watch", "--events", "--run", "fashion", "--count", "2"});
  v1::WatchRequest request;
  ASSERT_TRUE(scripted_.WaitForWatch(&request));
  EXPECT_EQ(request.filter().run(), "fashion");
  ASSERT_EQ(request.parts_size(), 1);
  EXPECT_EQ(request.parts(0), v1::WATCH_PART_EVENTS);
  v1::WatchResponse response;
  *response.add_events() = Spike();
  scripted_.Push(response);
  scripted_.Push(response);
  EXPECT_EQ(program->Wait(), 0);
}

TEST_F(WatchCommandTest, SeveralRunsAreToldApart) {
  std::unique_ptr<Program> program = Spawn({"watch", "--count", "2"});
  ASSERT_TRUE(scripted_.WaitForWatch());
  const v1::RunKey other = MakeKey("id-2", 0, 1);
  v1::WatchResponse response = Response(1, {0.5});
  *response.add_new_series() = MakeSeries(9, kRun, "", "", "loss");
  *response.add_new_series() = MakeSeries(9, other, "", "", "accuracy");
  *response.add_steps() = response.steps(0);
  *response.mutable_steps(1)->mutable_run() = other;
  scripted_.Push(response);
  EXPECT_EQ(program->Wait(), 0);
  EXPECT_EQ(program->out(),
            "22:13:20  id-1 rank 0  step 1  loss = 0.5\n22:13:20  id-2 rank 1  step 1  accuracy = 0.5\n");
}

TEST_F(WatchCommandTest, ARunThatIsYetToComeIsWaitedForAndThatIsSaid) {
  std::unique_ptr<Program> program = Spawn({"watch", "loss", "--run", "fashio", "--count", "1"});
  v1::WatchRequest request;
  ASSERT_TRUE(scripted_.WaitForWatch(&request));
  EXPECT_EQ(request.filter().run(), "fashio");
  v1::WatchResponse response = Response(1, {0.5});
  *response.add_new_series() = MakeSeries(9, kRun, "", "", "loss");
  scripted_.Push(response);
  EXPECT_EQ(program->Wait(), 0);
  EXPECT_THAT(program->out(), HasSubstr("loss = 0.5"));
  EXPECT_EQ(program->err(),
            "ikkuna: waiting for run 'fashio' to come: there is no run 'fashio'; did you mean 'fashion'?\n");
}

TEST_F(WatchCommandTest, TheEndOfTheDaemonIsAnError) {
  std::unique_ptr<Program> program = Spawn({"watch"});
  ASSERT_TRUE(scripted_.WaitForWatch());
  scripted_.End();
  EXPECT_EQ(program->Wait(), 3);
  EXPECT_THAT(program->err(), HasSubstr("ikkuna-daemon is stopping"));
}

TEST_F(WatchCommandTest, AReaderThatLosesSomethingIsTold) {
  std::unique_ptr<Program> program = Spawn({"watch", "--count", "2"});
  ASSERT_TRUE(scripted_.WaitForWatch());
  v1::WatchResponse response = Response(1, {1});
  *response.add_new_series() = MakeSeries(9, kRun, "", "", "loss");
  response.set_dropped(20);
  scripted_.Push(response);
  response.set_events_dropped(1);
  scripted_.Push(response);
  EXPECT_EQ(program->Wait(), 0);
  EXPECT_EQ(program->err(),
            "ikkuna: 20 values were lost so far because this watch was read too slowly\n"
            "ikkuna: 1 event was lost so far because this watch was read too slowly\n");
}

}  // namespace
}  // namespace ikkuna::test
