// The commands that ask and show, by their output.
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/daemon/cli/cli_fixture.h"

namespace ikkuna::test {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

const RunKey kRun{"id-1", 0, 0};
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

class CommandsTest : public CliTest {
 protected:
  void SetUp() override {
    monitor_.runs = {MakeRun("id-0", "older", 0, 0, 1'000'000'000, "finished"),
                     MakeRun("id-1", "fashion", 0, 0, 1'700'000'000'000'000'000)};
    monitor_.runs[1].last_step = 1234;
    monitor_.runs[1].series = 3;
    monitor_.runs[1].samples = 4567;
    monitor_.series = {MakeSeries(1, kRun, "", "", "loss"),
                       MakeSeries(2, kRun, "fc1", "weight", "weights_mean"),
                       MakeSeries(3, kRun, "fc1", "weight", "weights_std"),
                       MakeSeries(4, kRun, "fc1", "weight", "weights_norm2"),
                       MakeSeries(5, kRun, "fc1", "", "activations_mean"),
                       MakeSeries(6, kRun, "fc0", "", "activations_mean"),
                       MakeSeries(7, {"id-0", 0, 0}, "", "", "loss")};
    monitor_.series[0].series.unit = "nats";
    for (SeriesInfo& info : monitor_.series) {
      info.count = 3;
      info.first_step = 0;
      info.last_step = 20;
      info.last = MakeSample(info.series.id, 20, static_cast<double>(info.series.id) / 8);
      if (!info.series.key.module.empty()) info.series.module_type = "Linear";
    }
    monitor_.samples = {MakeSample(0, 0, 2.5), MakeSample(0, 10, kNaN), MakeSample(0, 20, 0.1)};
    monitor_.samples[2].flags = 1 << 4;
    monitor_.modules = {{"model", "fc0", "Linear", false, {}},
                        {"model",
                         "fc1",
                         "Linear",
                         false,
                         {{"weight", "f32", {10, 784}, false, true, false}, {"mean", "f32", {}, false, true, true}}}};
    StartServer();
  }
};

ProducerStatus Producer() {
  ProducerStatus producer;
  producer.info.run_key = {"id-1", 0, 0};
  producer.info.run = "fashion";
  producer.info.pid = 77;
  producer.info.start_unix_ns = 1'700'000'000'000'000'000;
  producer.state = "running";
  producer.attempted = 1000;
  producer.handled = 900;
  producer.dropped_total = 90;
  producer.drops = {{"ring_full", 80}, {"contended", 10}};
  producer.lost_in_daemon = 6;
  producer.killed = 1;
  producer.in_flight = 3;
  producer.steps_total = 2000;
  producer.steps_while_connected = 1500;
  producer.coverage = 0.75;
  producer.incomplete_bundles = 2;
  producer.probe_cost = 0.0123;
  producer.budget = 0.01;
  producer.period_factor_tensor = 4;
  producer.ring_slots = 16384;
  producer.arena_bytes = 1 << 20;
  producer.allow_control = true;
  producer.roots = {{"model", "train", 1999, 3, 256000, 100, 98, 0.1, 38.5}};
  producer.notes = {"no pidfd here"};
  return producer;
}

class StatusTest : public CommandsTest {
 protected:
  void SetUp() override {
    monitor_.status.version = "1.2.3";
    monitor_.status.pid = 42;
    monitor_.status.data_directory = "/data";
    monitor_.status.tensorboard_directory = "/data/tb";
    monitor_.status.store_bytes = 2048;
    monitor_.status.sinks = {{"store", 1000, 990, 4, 2, 0.5}};
    monitor_.status.producers = {Producer()};
    monitor_.status.health_run = "ikkuna-daemon";
    monitor_.subscribers = {{1, "loss()", "default", {"loss"}, 12, 1, 1}, {2, "norm(weights)", "default", {}, 9, 0, 3}};
    CommandsTest::SetUp();
  }
};

TEST_F(StatusTest, ExplainsWhatDoesNotAddUpForAReader) {
  ProducerStatus& producer = monitor_.status.producers[0];
  EXPECT_THAT(Out({"status"}), HasSubstr("complete 98\n")) << "two may be under way";
  producer.roots[0].steps_observed = 97;
  EXPECT_THAT(Out({"status"}), HasSubstr("complete 97 (the others lost records, or "));
  producer.dropped_total = producer.lost_in_daemon = producer.killed = 0;
  EXPECT_THAT(Out({"status"}), HasSubstr("complete 97\n")) << "a thread each may be under way";
  producer.state = "died";
  EXPECT_THAT(Out({"status"}), HasSubstr("complete 97 (the others lost records, or "));
  producer.state = "running";
  // More than the budget at steps of which nothing is asked: thinning is no way out.
  EXPECT_THAT(Out({"status"}), HasSubstr("1.23% of the step time, budget 1.00%\n"));
  producer.probe_cost_fixed = 0.011;
  EXPECT_THAT(Out({"status"}), HasSubstr("budget 1.00%; 1.10% go to steps of which nothing is asked"));
  producer.budget = 0;
  EXPECT_THAT(Out({"status"}), HasSubstr("1.23% of the step time, no budget\n"));
  EXPECT_THAT(Out({"status"}), HasSubstr("control     stop is allowed; this trainer cannot freeze\n"));
  producer.allow_freeze = true;
  EXPECT_THAT(Out({"status"}), HasSubstr("control     freeze and stop are allowed\n"));
}

TEST_F(StatusTest, SaysWhatRunsWhatItCostsAndWhatWasLost) {
  std::string out = Out({"status"});
  EXPECT_THAT(out, HasSubstr("ikkuna-daemon 1.2.3  pid 42"));
  EXPECT_THAT(out, HasSubstr("/data, 2.0 KiB"));
  EXPECT_THAT(
      out, HasSubstr("store: 1,000 samples = 990 written + 4 dropped + those of 2 batches that wait (oldest 0.5 s)"));
  EXPECT_THAT(out, HasSubstr("fashion  running  (id id-1, attempt 0, rank 0 of 1, pid 77, since 2023-11-14 22:13:20)"));
  EXPECT_THAT(
      out,
      HasSubstr(
          "model: step 1,999, epoch 3, train, 38.5 steps/s, 256,000 samples seen; asked for 100 steps, complete 98\n"));
  EXPECT_THAT(out, HasSubstr("75.0% of the steps (1,500 of 2,000)"));
  EXPECT_THAT(out, HasSubstr("ring_full 80, contended 10"));
  EXPECT_THAT(out, HasSubstr("1.23% of the step time, budget 1.00%"));
  EXPECT_THAT(out, HasSubstr("of the steps asked for, tensors every 4th, statistics all, scalars all\n"));
  EXPECT_THAT(out,
              HasSubstr("subscribers 2, computing for 4.0 s so far, the longest norm(weights) with 75.0% of it\n"));
  EXPECT_THAT(out, HasSubstr("own health  kept as series: ikkuna series --run ikkuna-daemon\n"));
  EXPECT_THAT(out, HasSubstr("1,000 records = 900 handled + 90 dropped + 6 lost in daemon + 1 killed + 3 in flight\n"));
  EXPECT_THAT(out, HasSubstr("note        no pidfd here"));
  EXPECT_THAT(out, HasSubstr("2 could not complete"));
  EXPECT_THAT(out, Not(HasSubstr("\x1b")));
}

TEST_F(StatusTest, JsonHoldsTheSame) {
  json status = json::parse(Out({"status", "--json"}));
  EXPECT_EQ(status["version"], "1.2.3");
  EXPECT_EQ(status["producers"][0]["state"], "running");
  EXPECT_EQ(status["producers"][0]["accounting"]["attempted"], 1000);
  EXPECT_EQ(status["producers"][0]["accounting"]["drops"][0]["reason"], "ring_full");
  EXPECT_EQ(status["producers"][0]["roots"][0]["phase"], "train");
}

TEST_F(StatusTest, OneRunCanBeChosen) {
  EXPECT_THAT(Out({"status", "--run", "fashion"}), HasSubstr("pid 77"));
  Outcome outcome = Run({"status", "--run", "other"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "ikkuna: the daemon knows no producer of a run 'other'\n");
}

TEST_F(StatusTest, TopShowsItWithLossAndLayers) {
  std::string out = Out({"top", "--once"});
  EXPECT_THAT(out, HasSubstr("fashion  running"));
  EXPECT_THAT(out, HasSubstr("loss: not drawn: 1 NaN or infinite"));
  EXPECT_THAT(out, HasSubstr("fc1     Linear"));
}

TEST_F(StatusTest, OrdinalsAreThoseOfTheLanguage) {
  for (const auto& [factor, text] :
       std::map<uint32_t, std::string>{{2, "2nd"}, {8, "8th"}, {512, "512th"}, {32, "32nd"}}) {
    monitor_.status.producers[0].period_factor_tensor = factor;
    EXPECT_THAT(Out({"status"}), HasSubstr("tensors every " + text + ","));
  }
}

TEST_F(CommandsTest, AnIdentityThatDoesNotAddUpIsSaid) {
  ProducerStatus producer = Producer();
  producer.killed = 0;
  monitor_.status.producers = {producer};
  EXPECT_THAT(Out({"status"}), HasSubstr("(does not add up: 999)"));
  monitor_.status.producers = {};
  EXPECT_THAT(Out({"status"}), HasSubstr("No trainer has connected yet."));
}

TEST_F(CommandsTest, OfAProducerThatIsGoneOnlyWhatWasCountedIsShown) {
  ProducerStatus producer = Producer();
  producer.state = "finished";
  producer.ring_slots = 0;
  producer.budget = 0;
  monitor_.status.producers = {producer};
  std::string out = Out({"status"});
  EXPECT_THAT(out, HasSubstr("1,000 records = 900 handled"));
  EXPECT_THAT(out, HasSubstr("1.23% of the step time\n"));
  EXPECT_THAT(out, Not(HasSubstr("buffers")));
  EXPECT_THAT(out, Not(HasSubstr("switched off by the trainer")));
}

TEST_F(CommandsTest, RunsAreListedNewestFirst) {
  EXPECT_EQ(Out({"runs"}),
            "run      id    attempt  rank  state     started              last step  series  samples\n"
            "fashion  id-1        0     0  running   2023-11-14 22:13:20      1,234       3    4,567\n"
            "older    id-0        0     0  finished  1970-01-01 00:00:01          0       0        0\n");
  json runs = json::parse(Out({"runs", "--json", "--run", "older"}));
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0]["key"]["run_id"], "id-0");
}

TEST_F(CommandsTest, NothingRecordedIsNoFailureOfAList) {
  monitor_.runs = {};
  EXPECT_EQ(Out({"runs"}), "No run has been recorded yet.\n");
  EXPECT_EQ(Out({"runs", "--json"}), "[]\n");
  EXPECT_EQ(Out({"events"}), "No events.\n");
  Outcome outcome = Run({"plot", "loss"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "ikkuna: no run has been recorded yet\n");
}

TEST_F(CommandsTest, SeriesAreThoseOfTheNewestRun) {
  EXPECT_EQ(Out({"series", "activations_*"}),
            "id  tag      root   module  type    param  topic             samples  steps   last\n"
            " 5  default  model  fc1     Linear         activations_mean        3  0..20  0.625\n"
            " 6  default  model  fc0     Linear         activations_mean        3  0..20   0.75\n");
  EXPECT_EQ(json::parse(Out({"series", "--json"})).size(), 6u);
  EXPECT_EQ(json::parse(Out({"series", "--json", "--run", "older"}))[0]["series"]["id"], 7);
  Outcome outcome = Run({"series", "nothing"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err,
            "ikkuna: run 'fashion' has no series 'nothing' that matches; 'ikkuna series' lists what there is\n");
  outcome = Run({"series", "--rank", "3"});
  EXPECT_EQ(outcome.err, "ikkuna: run 'fashion' has no attempt 0 rank 3\n");
}

TEST_F(CommandsTest, ModulesShowTheirParameters) {
  EXPECT_EQ(Out({"modules"}),
            "root   module  type    parameters\n"
            "model  fc0     Linear\n"
            "model  fc1     Linear  weight f32 10x784, mean f32 scalar (buffer)\n");
  EXPECT_EQ(json::parse(Out({"modules", "--json"}))[1]["parameters"][0]["sizes"], json({10, 784}));
}

TEST_F(CommandsTest, TheTableHasLayersDownAndKindsAcross) {
  EXPECT_EQ(Out({"table"}),
            "fashion, up to step 20\n"
            "                activations  weights\n"
            "module  type           mean  mean    std  norm2\n"
            "fc0     Linear         0.75\n"
            "fc1     Linear        0.625  0.25  0.375    0.5\n");
  json rows = json::parse(Out({"table", "--json"}));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1]["module"], "fc1");
  EXPECT_EQ(rows[1]["weights"]["std"]["value"], 0.375);
  EXPECT_EQ(rows[1]["weights"]["std"]["step"], 20);
  Outcome outcome = Run({"table", "--tag", "test"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("has no means, deviations or norms of layers under the tag 'test'"));
}

TEST_F(CommandsTest, SamplesAreNoAxisOfARunThatCountsNone) {
  Outcome outcome = Run({"plot", "loss", "--x", "samples"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("'fashion' does not say how many samples go into its steps"));
  for (Sample& sample : monitor_.samples) sample.samples_seen = 128 * (sample.step + 1);
  EXPECT_THAT(Out({"plot", "loss", "--x", "samples", "--ascii"}),
              AllOf(HasSubstr("samples seen  "), HasSubstr(" 2688\n")));
}

TEST_F(CommandsTest, TheDaemonsOwnSeriesGoOverTime) {
  monitor_.series[0].series.key.topic = "daemon_lag";
  monitor_.runs[1].start_unix_ns = 0;  // it has no start: many daemons one after another
  // Samples 10 ms apart.
  EXPECT_THAT(Out({"plot", "daemon_lag", "--run", "fashion", "--ascii", "--width", "40"}),
              AllOf(HasSubstr("\n      0 "), HasSubstr("seconds since the start"), HasSubstr(" 0.02\n")));
  EXPECT_THAT(Out({"plot", "daemon_lag", "--run", "fashion", "--ascii", "--x", "step"}), HasSubstr(" step "));
}

TEST_F(CommandsTest, APlotIsDrawnWithoutATerminal) {
  EXPECT_EQ(Out({"plot", "loss", "--ascii", "--width", "10", "--height", "3"}),
            "loss of fashion\n"
            "2.5 +*\n"
            "    |\n"
            "0.1 +         *\n"
            "    +----------\n"
            "     0  step 20\n"
            "loss: not drawn: 1 NaN or infinite, the first at 10\n"
            "* loss  last 0.1\n");
  EXPECT_THAT(Out({"plot", "loss"}), HasSubstr("⠁"));
  EXPECT_EQ(monitor_.last_read().max_points, 344u);
  EXPECT_THAT(Out({"plot", "loss", "--x", "time", "--points", "7"}), HasSubstr("seconds since the start"));
  EXPECT_EQ(monitor_.last_read().max_points, 7u);
  Out({"plot", "loss", "--from-step", "5", "--to-step", "15"});
  EXPECT_EQ(monitor_.last_read().step_min, 5u);
  EXPECT_EQ(monitor_.last_read().step_max, 15u);
}

TEST_F(CommandsTest, AFewSeriesShareAPlotAndManyAreSaid) {
  EXPECT_THAT(Out({"plot", "activations_mean"}),
              HasSubstr("a fc1 activations_mean  last 0.1\nb fc0 activations_mean  last 0.1\n"));
  for (uint64_t id = 8; id < 18; ++id)
    monitor_.series.push_back(MakeSeries(id, kRun, "m" + std::to_string(id), "", "many"));
  std::string out = Out({"plot", "many"});
  EXPECT_THAT(out, HasSubstr("The first 6 of 10 series; --module picks others.\n"));
  EXPECT_THAT(out, HasSubstr("f m13 many"));
  EXPECT_THAT(out, Not(HasSubstr("m14")));
}

TEST_F(CommandsTest, ReadWritesCsvThatKeepsEveryBit) {
  EXPECT_EQ(Out({"read", "loss", "--format", "csv"}),
            "run_id,attempt,rank,tag,root,module,param,topic,step,epoch,unix_ns,samples_seen,value,flags\n"
            "id-1,0,0,default,model,,,loss,0,0,1700000000000000000,0,2.5,\n"
            "id-1,0,0,default,model,,,loss,10,0,1700000000010000000,0,NaN,\n"
            "id-1,0,0,default,model,,,loss,20,0,1700000000020000000,0,0.1,step_skipped\n");
  monitor_.series[0].series.key.param = "a,\"b\"";
  EXPECT_THAT(Out({"read", "loss", "--format", "csv"}), HasSubstr(",\"a,\"\"b\"\"\",loss,"));
}

TEST_F(CommandsTest, ReadWritesJsonForSeveralSeries) {
  json read = json::parse(Out({"read", "weights_*", "--format", "json", "--from-step", "10"}));
  ASSERT_EQ(read.size(), 3u);
  EXPECT_EQ(read[0]["key"]["topic"], "weights_mean");
  EXPECT_EQ(read[0]["samples"].size(), 2u);
  EXPECT_EQ(read[0]["samples"][0]["value"], "NaN");
  EXPECT_EQ(read[0]["samples"][1]["flags"][0], "step_skipped");
}

TEST_F(CommandsTest, ReadShowsATable) {
  EXPECT_EQ(Out({"read", "loss"}),
            "loss (nats)\n"
            "step  epoch  time                 value  flags\n"
            "   0      0  2023-11-14 22:13:20    2.5\n"
            "  10      0  2023-11-14 22:13:20    NaN\n"
            "  20      0  2023-11-14 22:13:20    0.1  step_skipped\n");
  monitor_.reduced = true;
  EXPECT_THAT(Out({"read", "loss", "--max-points", "2"}), HasSubstr("Reduced to the least and the greatest value"));
}

TEST_F(CommandsTest, ReadTakesASeriesById) {
  EXPECT_THAT(Out({"read", "--series", "7", "--format", "csv"}), HasSubstr("\nid-0,0,0,"));
  Outcome outcome = Run({"read", "--series", "99"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("there is no series 99"));
  EXPECT_EQ(Run({"read"}).code, 1);
  EXPECT_THAT(Run({"read"}).err, HasSubstr("give a topic, such as loss, or --series ID"));
  EXPECT_EQ(Run({"read", "loss", "--from-step", "3", "--to-step", "2"}).err,
            "ikkuna: --from-step is greater than --to-step\n");
}

TEST_F(CommandsTest, ASeriesThatNoAnswerHoldsIsReadInParts) {
  constexpr uint64_t kSamples = 2'600'000;
  monitor_.samples.clear();
  for (uint64_t step = 0; step < kSamples; ++step) monitor_.samples.push_back(MakeSample(0, step, 1));
  monitor_.series[0].first_step = 0;
  monitor_.series[0].last_step = kSamples - 1;
  std::string out = Out({"read", "loss", "--format", "csv"});
  EXPECT_EQ(static_cast<uint64_t>(std::count(out.begin(), out.end(), '\n')), kSamples + 1);
  EXPECT_THAT(out.substr(out.size() - 80), HasSubstr(",loss,2599999,"));
}

TEST_F(CommandsTest, SubscribersComeAndGo) {
  monitor_.subscribers = {{3, "norm(weights, order=3)", "client", {"weights_norm3"}, 12, 1, 0.25}};
  EXPECT_EQ(Out({"subscribe", "norm(weights, order=3)", "loss"}),
            "subscribed 3: norm(weights, order=3), publishes weights_norm3\n");
  EXPECT_EQ(Out({"unsubscribe", "weights_norm3", "17"}),
            "unsubscribed 3: norm(weights, order=3)\nunsubscribed 3: norm(weights, order=3)\n");
  EXPECT_THAT(monitor_.log(),
              ElementsAre("subscribe norm(weights, order=3); loss", "unsubscribe weights_norm3", "unsubscribe 17"));
  EXPECT_EQ(Out({"subscribers"}),
            "id  subscriber              source  publishes      results  incomplete     cpu\n"
            " 3  norm(weights, order=3)  client  weights_norm3       12           1  0.25 s\n");
  monitor_.replaced = {{2, "norm(weights)", "default", {"weights_norm2"}, 1, 0, 0}};
  monitor_.warnings = {"module=x matches no module"};
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
  monitor_.failure = Error{ErrorCode::kInvalidArgument, "'nrom' is no metric"};
  Outcome outcome = Run({"subscribe", "nrom(weights)"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.err, "ikkuna: 'nrom' is no metric\n");
}

TEST_F(CommandsTest, MetricsShowTheirParameters) {
  monitor_.metrics = {{"norm", "p-norm", "", "cheap", "{kind}_norm{order}", {{"order", "2", "p"}, {"as", "", "name"}}}};
  EXPECT_EQ(Out({"metrics"}),
            "metric  parameters   publishes           cost   what it is\n"
            "norm    order=2, as  {kind}_norm{order}  cheap  p-norm\n");
}

TEST_F(CommandsTest, EventsAreLines) {
  monitor_.events = {{1, 1'000'000'000, Severity::kInfo, {}, "started", "The daemon started.", 0},
                     {2, 2'000'000'000, Severity::kError, kRun, "non_finite", "NaN in fc1.", 30}};
  EXPECT_EQ(Out({"events"}),
            "1970-01-01 00:00:01  info     started  The daemon started.  (daemon)\n"
            "1970-01-01 00:00:02  error    non_finite  NaN in fc1.  (run id-1 rank 0 step 30)\n");
  EXPECT_THAT(Out({"events", "--last", "1"}), Not(HasSubstr("started")));
  json events = json::parse(Out({"events", "--after", "1", "--run", "fashion", "--json"}));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0]["severity"], "error");
}

TEST_F(CommandsTest, EventsBeyondOneAnswerAreAllRead) {
  for (uint64_t id = 1; id <= 2500; ++id) monitor_.events.push_back({id, 1, Severity::kInfo, {}, "k", "t", 0});
  EXPECT_EQ(json::parse(Out({"events", "--last", "0", "--json"})).size(), 2500u);
  EXPECT_EQ(json::parse(Out({"events", "--last", "3", "--json"}))[0]["id"], 2498);
}

TEST_F(CommandsTest, ControlSaysWhatWillHappen) {
  EXPECT_EQ(Out({"freeze", "features.*"}), "will be done at the next step\n");
  EXPECT_EQ(Out({"unfreeze", "features.0", "--run", "older"}), "will be done at the next step\n");
  EXPECT_EQ(json::parse(Out({"stop", "--rank", "0", "--json"}))["texts"][0], "will be done at the next step");
  EXPECT_THAT(monitor_.log(),
              ElementsAre("freeze id-1/0/0 features.*", "unfreeze id-0/0/0 features.0", "stop id-1/0/0"));
  monitor_.failure = Error{ErrorCode::kNotFound, "gone"};
  EXPECT_EQ(Run({"stop"}).code, 1);
}

class WatchCommandTest : public CommandsTest {};

TEST_F(WatchCommandTest, PrintsSamplesAndEventsUntilTheCountIsReached) {
  std::unique_ptr<Program> program = Spawn({"watch", "loss", "--module", "fc*", "--count", "2"});
  auto queue = monitor_.watch(0);
  ASSERT_TRUE(queue);
  EXPECT_EQ(monitor_.last_filter().topic, "loss");
  EXPECT_EQ(monitor_.last_filter().module, "fc*");
  EXPECT_EQ(monitor_.last_filter().run_id, "");
  queue->Push({MakeSeries(9, kRun, "fc1", "weight", "weights_norm2").series}, {MakeSample(9, 1000, 0.5)},
              {{1, 1'000'000'000, Severity::kWarning, kRun, "loss_spike", "Up.", 5}});
  queue->Push({}, {MakeSample(9, 1001, kNaN), MakeSample(9, 1002, 7)});
  EXPECT_EQ(program->Wait(), 0);
  EXPECT_EQ(program->out(),
            "1970-01-01 00:00:01  warning  loss_spike  Up.  (run id-1 rank 0 step 5)\n"
            "22:13:21  step 1,000  fc1.weight weights_norm2 = 0.5\n"
            "22:13:21  step 1,001  fc1.weight weights_norm2 = NaN\n");
  EXPECT_EQ(program->err(), "");
}

TEST_F(WatchCommandTest, JsonIsALineForEach) {
  std::unique_ptr<Program> program = Spawn({"watch", "--json", "--count", "1"});
  auto queue = monitor_.watch(0);
  ASSERT_TRUE(queue);
  queue->Push({MakeSeries(9, kRun, "fc1", "weight", "t").series}, {MakeSample(9, 3, kNaN)},
              {{1, 1, Severity::kInfo, {}, "k", "t", 0}});
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
}

TEST_F(WatchCommandTest, TheEndOfTheDaemonIsAnError) {
  std::unique_ptr<Program> program = Spawn({"watch"});
  ASSERT_TRUE(monitor_.watch(0));
  server_->Stop();
  EXPECT_EQ(program->Wait(), 3);
  EXPECT_THAT(program->err(), HasSubstr("ikkuna-daemon is stopping"));
}

TEST_F(WatchCommandTest, AReaderThatLosesSamplesIsTold) {
  monitor_.watch_queue_max = 10;
  std::unique_ptr<Program> program = Spawn({"watch", "--count", "1"});
  auto queue = monitor_.watch(0);
  ASSERT_TRUE(queue);
  std::vector<Sample> samples;
  for (uint64_t step = 0; step < 30; ++step) samples.push_back(MakeSample(9, step, 0));
  queue->Push({MakeSeries(9, kRun, "", "", "loss").series}, samples);
  EXPECT_EQ(program->Wait(), 0);
  EXPECT_EQ(program->err(), "ikkuna: 20 samples were lost so far because this watch was read too slowly\n");
}

}  // namespace
}  // namespace ikkuna::test
