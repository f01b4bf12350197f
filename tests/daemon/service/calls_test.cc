// Every unary call, over a real socket: what it carries.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <future>
#include <limits>
#include <thread>

#include "shared/codes.h"
#include "tests/daemon/service/service_fixture.h"

namespace ikkuna::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CallsTest : public ServiceTest {};

const std::string kMe = "uid:" + std::to_string(::geteuid());

// An export copies a file as a whole before it answers: more of them than any lane has threads.
TEST_F(CallsTest, ExportsThatTakeLongKeepNobodyFromReading) {
  std::promise<void> go;
  const std::shared_future<void> gone(go.get_future());
  std::atomic<int> inside{0};
  monitor_.on_export = [&, gone] {
    ++inside;
    gone.wait();
  };
  StartServer();
  std::vector<std::thread> exports;
  for (int i = 0; i < 8; ++i) {
    exports.emplace_back([&] {
      grpc::ClientContext context;
      SetWatchdog(&context);
      v1::ExportRunRequest request;
      request.set_run("r");
      v1::ExportRunResponse response;
      auto reader = stub_->ExportRun(&context, request);
      while (reader->Read(&response)) {
      }
      EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
    });
  }
  for (int i = 0; i < 60'000 && inside == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  v1::ListRunsResponse runs;
  EXPECT_TRUE(Call(&v1::Monitor::Stub::ListRuns, v1::ListRunsRequest(), &runs).ok());
  EXPECT_EQ(inside, 1) << "one after another";
  go.set_value();
  for (std::thread& one : exports) one.join();
  EXPECT_EQ(inside, 8);
}

TEST_F(CallsTest, StatusCarriesEveryCounter) {
  ProducerStatus producer;
  producer.info.uuid = {0x01, 0xab};
  producer.info.run_key = {"id-1", 2, 3};
  producer.info.run = "fashion";
  producer.info.world_size = 4;
  producer.info.pid = 77;
  producer.info.uid = 1000;
  producer.info.start_unix_ns = 5;
  producer.info.facts = {{"host", "a"}};
  producer.state = RunState::kSwitchedOff;
  producer.info.continues = 1;
  producer.info.start_step = 17;
  producer.attempted = 100;
  producer.handled = 80;
  producer.dropped_total = 10;
  producer.drops = {{"ring_full", 10}, {"oversize", 0}};
  producer.lost_in_daemon = 4;
  producer.killed = 1;
  producer.in_flight = 5;
  producer.steps_total = 50;
  producer.steps_while_connected = 40;
  producer.coverage = 0.8;
  producer.missing = {{"withheld", 6}, {"unnamed", 0}};
  producer.probe_cost = 0.005;
  producer.probe_cost_fixed = 0.003;
  producer.budget = 0.01;
  producer.period_factor_tensor = 8;
  producer.period_factor_summary = 4;
  producer.period_factor_scalar = 2;
  producer.ring_slots = 16384;
  producer.ring_used = 12;
  producer.arena_bytes = 1 << 20;
  producer.arena_used = 4096;
  producer.allow_control = true;
  producer.allow_freeze = true;
  producer.roots = {{"model", RootPhase::kEvaluate, 9, 1, 1152, 10, 8, 0.5, 33.0}};
  producer.notes = {"no pidfd on this kernel", std::string("not UTF-8: \xff")};
  monitor_.status.version = "1.2.3";
  monitor_.status.pid = 42;
  monitor_.status.start_unix_ns = 6;
  monitor_.status.directory = "/d";
  monitor_.status.data_directory = "/e";
  monitor_.status.tensorboard_directory = "/t";
  monitor_.status.producers = {producer};
  SinkCounters sink;
  sink.name = "store";
  sink.offered = 10;
  sink.written = 7;
  sink.dropped = 2;
  sink.waiting = 1;
  sink.events_dropped = 3;
  sink.failures = 4;
  sink.lag_seconds = 0.25;
  sink.drops = {{"queue_full", 2}};
  monitor_.status.sinks = {sink};
  monitor_.status.series = 11;
  monitor_.status.series_refused = 1;
  StoreShown& store = monitor_.status.store;
  store.folder = "/e/runs/here";
  store.file_system = "ext4";
  store.bytes = 12;
  store.bytes_max = 13;
  store.free_bytes = 14;
  store.runs = 15;
  store.runs_open = 16;
  store.tail_bytes = 17;
  store.threads = 1;
  store.nice = 10;
  store.paused = true;
  store.dropped = {{"disk", 5}};
  monitor_.status.queue = {2, 19, 1, 3, 0.5, 100, 200, 150, 4};
  monitor_.status.threads = 9;
  monitor_.status.cpu_seconds = 1.5;
  monitor_.status.watches = 8;
  monitor_.status.linger_seconds = 600;
  monitor_.status.features = {"something_new"};
  monitor_.status.resident_bytes = 14;
  monitor_.status.health_run = "ikkuna-daemon";
  StartServer();

  v1::GetStatusResponse response;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::GetStatus, v1::GetStatusRequest(), &response).ok());
  EXPECT_EQ(response.version(), "1.2.3");
  EXPECT_EQ(response.pid(), 42);
  EXPECT_EQ(response.start_unix_ns(), 6);
  EXPECT_EQ(response.directory(), "/d");
  EXPECT_EQ(response.data_directory(), "/e");
  EXPECT_EQ(response.tensorboard_directory(), "/t");
  EXPECT_EQ(response.series(), 11u);
  EXPECT_EQ(response.series_refused(), 1u);
  EXPECT_EQ(response.store().ShortDebugString(),
            "bytes: 12 bytes_max: 13 free_bytes: 14 file_system: \"ext4\" paused: true runs: 15 runs_open: 16 "
            "tail_bytes: 17 threads: 1 nice: 10 dropped { reason: \"disk\" count: 5 } folder: \"/e/runs/here\"");
  EXPECT_EQ(response.queue().ShortDebugString(),
            "threads: 2 nice: 19 busy: 1 waiting: 3 busy_seconds: 0.5 memory_bytes: 100 memory_bytes_max: 200 "
            "memory_bytes_peak: 150 memory_refused: 4");
  EXPECT_EQ(response.resources().ShortDebugString(), "resident_bytes: 14 threads: 9 cpu_seconds: 1.5");
  EXPECT_EQ(response.watches(), 8u);
  EXPECT_EQ(response.linger_seconds(), 600);
  EXPECT_THAT(response.features(), ElementsAre("something_new"));
  EXPECT_EQ(response.role(), v1::ROLE_CONTROL);
  EXPECT_EQ(response.caller(), kMe);
  EXPECT_EQ(response.health_run(), "ikkuna-daemon");
  ASSERT_EQ(response.sinks_size(), 1);
  EXPECT_EQ(response.sinks(0).ShortDebugString(),
            "name: \"store\" offered: 10 written: 7 dropped: 2 waiting: 1 events_dropped: 3 lag_seconds: 0.25 drops { "
            "reason: \"queue_full\" count: 2 } failures: 4");
  ASSERT_EQ(response.producers_size(), 1);
  const v1::Producer& out = response.producers(0);
  EXPECT_EQ(out.uuid(), "01ab0000000000000000000000000000");
  EXPECT_EQ(out.run().ShortDebugString(), "run_id: \"id-1\" attempt: 2 rank: 3");
  EXPECT_EQ(out.run_name(), "fashion");
  EXPECT_EQ(out.world_size(), 4u);
  EXPECT_EQ(out.pid(), 77);
  EXPECT_EQ(out.uid(), 1000u);
  EXPECT_EQ(out.start_unix_ns(), 5);
  EXPECT_EQ(out.state(), v1::PRODUCER_STATE_SWITCHED_OFF);
  EXPECT_EQ(
      out.accounting().ShortDebugString(),
      "attempted: 100 handled: 80 dropped: 10 drops { reason: \"ring_full\" count: 10 } lost_in_daemon: 4 killed: 1 "
      "in_flight: 5");
  EXPECT_EQ(out.steps_total(), 50u);
  EXPECT_EQ(out.steps_while_connected(), 40u);
  EXPECT_EQ(out.coverage(), 0.8);
  ASSERT_EQ(out.missing_size(), 1);
  EXPECT_EQ(out.missing(0).ShortDebugString(), "reason: \"withheld\" count: 6");
  EXPECT_EQ(out.continues(), 1u);
  EXPECT_EQ(out.start_step(), 17u);
  EXPECT_EQ(out.probe_cost(), 0.005);
  EXPECT_EQ(out.probe_cost_fixed(), 0.003);
  EXPECT_EQ(out.budget(), 0.01);
  EXPECT_EQ(out.period_factors().ShortDebugString(), "tensor: 8 summary: 4 scalar: 2");
  EXPECT_EQ(out.ring_slots(), 16384u);
  EXPECT_EQ(out.ring_used(), 12u);
  EXPECT_EQ(out.arena_bytes(), 1u << 20);
  EXPECT_EQ(out.arena_used(), 4096u);
  EXPECT_TRUE(out.allow_control());
  EXPECT_TRUE(out.allow_freeze());
  ASSERT_EQ(out.roots_size(), 1);
  EXPECT_EQ(out.roots(0).ShortDebugString(),
            "name: \"model\" phase: PHASE_EVALUATE step: 9 epoch: 1 samples_seen: 1152 steps_due: 10 steps_observed: 8 "
            "seconds_since_step: 0.5 steps_per_second: 33");
  EXPECT_THAT(out.notes(), ElementsAre("no pidfd on this kernel", "not UTF-8: ?"));
  EXPECT_EQ(out.facts(0).value(), "a");
}

TEST_F(CallsTest, AStatusOfManyTalkativeProducersFitsAMessage) {
  for (int i = 0; i < 64; ++i) {
    ProducerStatus producer;
    producer.info.run_key = {"r", 0, static_cast<uint32_t>(i)};
    producer.state = i < 8 ? RunState::kRunning : RunState::kFinished;
    producer.info.facts = {{"command", std::string(60'000, 'x')}};
    monitor_.status.producers.push_back(producer);
  }
  StartServer();
  v1::GetStatusResponse response;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::GetStatus, {}, &response).ok());
  ASSERT_EQ(response.producers_size(), 64);
  EXPECT_EQ(response.producers(0).facts_size(), 1);
  EXPECT_EQ(response.producers(63).facts_size(), 0);
  EXPECT_THAT(response.producers(63).notes(0), HasSubstr("are not shown here"));
}

TEST_F(CallsTest, RunsCarryWhatIsKnownOfThem) {
  RunInfo run = MakeRun("old", "fashion", 1, 0, 10, RunState::kFinished);
  run.info.facts = {{"command", "train"}};
  run.info.continues = 0;
  run.info.start_step = 5;
  run.info.world_size = 2;
  run.info.uid = 1000;
  run.host = "here";
  run.last_step = 9;
  run.series = 3;
  run.values = 27;
  run.thinned = 4;
  run.bytes = 4096;
  run.last_unix_ns = 15;
  run.tags = {"best"};
  monitor_.runs = {run};
  StartServer();
  v1::ListRunsRequest request;
  request.set_run("fashion");
  request.add_tags("best");
  request.add_states(v1::PRODUCER_STATE_FINISHED);
  request.add_states(v1::PRODUCER_STATE_DIED);
  v1::ListRunsResponse response;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListRuns, request, &response).ok());
  ASSERT_EQ(response.runs_size(), 1);
  EXPECT_EQ(response.runs(0).ShortDebugString(),
            "key { run_id: \"old\" attempt: 1 } name: \"fashion\" state: PRODUCER_STATE_FINISHED start_unix_ns: 10 "
            "last_unix_ns: 15 last_step: 9 series: 3 values: 27 thinned: 4 bytes: 4096 host: \"here\" tags: \"best\" "
            "facts { name: \"command\" value: \"train\" } continues: 0 start_step: 5 world_size: 2 uid: 1000 line: 0");
  const RunQuery seen = monitor_.last_runs();
  EXPECT_EQ(seen.run, "fashion");
  EXPECT_THAT(seen.tags, ElementsAre("best"));
  EXPECT_THAT(seen.states, ElementsAre(RunState::kFinished, RunState::kDied));
  EXPECT_EQ(seen.limit, 200u);
}

// All entries of a list over its pages, each below 1 MiB, in their order and none twice.
template <typename Request, typename Ask>
std::vector<std::string> AllPages(Request request, Ask ask, int* pages) {
  std::vector<std::string> names;
  *pages = 0;
  do {
    request.set_page(ask(request, &names));
    ++*pages;
  } while (!request.page().empty() && *pages < 1000);
  return names;
}

TEST_F(CallsTest, ListsComeInPagesBelowOneMegabyteWhateverTheNamesLength) {
  std::vector<std::string> names;
  for (int i = 0; i < 700; ++i) {
    std::string name = std::to_string(i) + std::string(i % 3 == 0 ? 10'000 : 30, 'x');
    names.push_back(name);
    monitor_.runs.push_back(MakeRun(name, "n", 0, 0, i));
    monitor_.modules.push_back({"model", name, "Linear", false, {}});
    monitor_.series.push_back(MakeSeries(static_cast<uint32_t>(i + 1), {"r", 0, 0}, name, "", "t"));
  }
  StartServer();
  int pages = 0;
  v1::ListRunsRequest runs;
  runs.set_limit(1000);
  EXPECT_EQ(AllPages(runs, [&](const v1::ListRunsRequest& request, std::vector<std::string>* found) {
              v1::ListRunsResponse response;
              EXPECT_TRUE(Call(&v1::Monitor::Stub::ListRuns, request, &response).ok());
              for (const v1::Run& run : response.runs()) found->push_back(run.key().run_id());
              return response.next_page();
            }, &pages), names);
  EXPECT_GE(pages, 3);
  v1::ListModulesRequest modules;
  EXPECT_EQ(AllPages(modules, [&](const v1::ListModulesRequest& request, std::vector<std::string>* found) {
              v1::ListModulesResponse response;
              EXPECT_TRUE(Call(&v1::Monitor::Stub::ListModules, request, &response).ok());
              EXPECT_EQ(response.run().ShortDebugString(), "run_id: \"r\" attempt: 1 rank: 2");
              for (const v1::Module& module : response.modules()) found->push_back(module.name());
              return response.next_page();
            }, &pages), names);
  EXPECT_GE(pages, 3);
  v1::ListSeriesRequest series;
  series.set_limit(300);
  EXPECT_EQ(AllPages(series, [&](const v1::ListSeriesRequest& request, std::vector<std::string>* found) {
              v1::ListSeriesResponse response;
              EXPECT_TRUE(Call(&v1::Monitor::Stub::ListSeries, request, &response).ok());
              EXPECT_EQ(response.runs_size(), 1);
              EXPECT_LE(response.series_size(), 300);
              for (const v1::SeriesSummary& one : response.series()) found->push_back(one.series().key().module());
              return response.next_page();
            }, &pages), names);
  EXPECT_GE(pages, 3);
}

TEST_F(CallsTest, ModulesCarryTheirParameters) {
  monitor_.modules = {{"model", "features.0", "Conv2d", false, {{"weight", "f32", {8, 4, 3, 3}, false, true, false}}},
                      {"model", "features.0 > relu", "relu", true, {}}};
  StartServer();
  v1::ListModulesRequest request;
  request.set_run("n");
  request.set_attempt(0);
  request.set_module("features.*");
  v1::ListModulesResponse response;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListModules, request, &response).ok());
  ASSERT_EQ(response.modules_size(), 2);
  EXPECT_EQ(
      response.modules(0).ShortDebugString(),
      "root: \"model\" name: \"features.0\" type: \"Conv2d\" parameters { name: \"weight\" dtype: \"f32\" sizes: 8 "
      "sizes: 4 sizes: 3 sizes: 3 trainable: true }");
  EXPECT_TRUE(response.modules(1).functional());
  const ModuleQuery seen = monitor_.last_modules();
  EXPECT_EQ(seen.run.run + seen.module, "nfeatures.*");
  EXPECT_EQ(seen.run.attempt, 0u);
  EXPECT_FALSE(seen.run.rank.has_value());
  EXPECT_EQ(seen.limit, 1000u);
}

TEST_F(CallsTest, WhySaysWhatIsMissing) {
  monitor_.why.missing = {
      {{"r", 0, 1}, {WhyReason::kNoGradient, "fc", "weight_gradients", "norm(weight_gradients)", 3, "It is frozen."}}};
  StartServer();
  v1::WhyRequest request;
  request.set_run("r");
  request.set_rank(1);
  request.set_module("fc*");
  request.set_kind("weight_*");
  v1::WhyResponse response;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::Why, request, &response).ok());
  ASSERT_EQ(response.missing_size(), 1);
  EXPECT_EQ(response.missing(0).ShortDebugString(),
            "run { run_id: \"r\" rank: 1 } reason: \"no_gradient\" module: \"fc\" kind: \"weight_gradients\" "
            "subscriber: \"norm(weight_gradients)\" count: 3 text: \"It is frozen.\"");
  EXPECT_FALSE(response.more());
  EXPECT_THAT(monitor_.log(), ElementsAre("why r/-/1 fc* weight_*"));
  server_.reset();
  for (int i = 0; i < 1999; ++i) {
    monitor_.why.missing.push_back({{"r", 0, 0}, {WhyReason::kDropped, std::string(2000, 'm'), "", "", 0, ""}});
  }
  StartServer();
  ASSERT_TRUE(Call(&v1::Monitor::Stub::Why, request, &response).ok());
  EXPECT_GT(response.missing_size(), 100);
  EXPECT_TRUE(response.more());
}

TEST_F(CallsTest, RunsAreDeletedAndTagged) {
  StartServer();
  v1::DeleteRunRequest remove;
  remove.set_run("r");
  remove.set_rank(3);
  v1::DeleteRunResponse removed;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::DeleteRun, remove, &removed).ok());
  EXPECT_EQ(removed.ShortDebugString(), "runs { run_id: \"r\" } bytes: 4096");
  v1::TagRunRequest tag;
  tag.set_run("r");
  tag.add_add("best");
  tag.add_remove("bad");
  v1::TagRunResponse tagged;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::TagRun, tag, &tagged).ok());
  EXPECT_EQ(tagged.ShortDebugString(), "run_id: \"r\" tags: \"best\"");
  EXPECT_THAT(monitor_.log(), ElementsAre("delete r/-/3 by " + kMe, "tag r +best -bad by " + kMe));
}

TEST_F(CallsTest, MetricsCarryTheirOutputsAndParameters) {
  MetricInfo norm;
  norm.name = "norm";
  norm.help = "p-norm";
  norm.cost = metrics::Cost::kHeavy;
  norm.runs = metrics::Runs::kQueue;
  norm.scope = metrics::Scope::kModule;
  norm.outputs = {{"{kind}_norm{order}", ValueType::kHistogram, "u"}};
  norm.parameters = {{"order", "2", "p"}};
  MetricInfo loss;
  loss.name = "loss";
  monitor_.metrics = {norm, loss};
  StartServer();
  v1::ListMetricsResponse response;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListMetrics, v1::ListMetricsRequest(), &response).ok());
  ASSERT_EQ(response.metrics_size(), 2);
  EXPECT_EQ(response.metrics(0).name(), "loss");
  EXPECT_EQ(response.metrics(1).ShortDebugString(),
            "name: \"norm\" help: \"p-norm\" runs: RUNS_QUEUE scope: SCOPE_MODULE outputs { topic: "
            "\"{kind}_norm{order}\" type: VALUE_TYPE_HISTOGRAM unit: \"u\" } parameters { name: \"order\" "
            "default_value: \"2\" help: \"p\" } cost: COST_HEAVY");
}

TEST_F(CallsTest, SeriesCarryWhatIsKeptOfThem) {
  SeriesInfo info = MakeSeries(5, {"r", 0, 0}, "m", "weight", "t");
  Series series = *info.series;
  series.traits.unit = "s";
  series.traits.module_type = "Linear";
  info.series = std::make_shared<const Series>(series);
  info.count = 2;
  info.thinned = 1;
  info.first_step = 1;
  info.last_step = 9;
  info.last = std::numeric_limits<double>::quiet_NaN();
  monitor_.series = {info, MakeSeries(6, {"r", 0, 1}, "", "", "note", ValueType::kText)};
  StartServer();
  v1::ListSeriesRequest request;
  v1::SeriesFilter* filter = request.mutable_filter();
  filter->set_run("n");
  filter->set_attempt(0);
  filter->set_rank(1);
  filter->set_tag("a");
  filter->set_root("b");
  filter->set_module("c");
  filter->set_param("d");
  filter->set_topic("e");
  v1::ListSeriesResponse response;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListSeries, request, &response).ok());
  ASSERT_EQ(response.series_size(), 2);
  ASSERT_EQ(response.runs_size(), 2);
  EXPECT_EQ(response.runs(1).key().rank(), 1u);
  const v1::SeriesSummary& summary = response.series(0);
  EXPECT_EQ(summary.series().ShortDebugString(),
            "id: 5 key { run { run_id: \"r\" } tag: \"default\" root: \"model\" module: \"m\" param: \"weight\" topic: "
            "\"t\" } type: VALUE_TYPE_NUMBER module_type: \"Linear\" unit: \"s\"");
  EXPECT_EQ(summary.count(), 2u);
  EXPECT_EQ(summary.thinned(), 1u);
  EXPECT_EQ(summary.first_step(), 1u);
  EXPECT_EQ(summary.last_step(), 9u);
  EXPECT_TRUE(std::isnan(summary.last()));
  EXPECT_EQ(response.series(1).series().type(), v1::VALUE_TYPE_TEXT);
  EXPECT_FALSE(response.series(1).has_last());
  const SeriesFilter seen = monitor_.last_series().filter;
  EXPECT_EQ(seen.run, "n");
  EXPECT_EQ(seen.attempt, 0u);
  EXPECT_EQ(seen.rank, 1u);
  EXPECT_EQ(seen.tag + seen.root + seen.module + seen.param + seen.topic, "abcde");
  EXPECT_EQ(monitor_.last_series().limit, 1000u);
}

TEST_F(CallsTest, SubscribersAreListedAddedAndRemoved) {
  SubscriberInfo one;
  one.id = 2;
  one.text = "loss";
  SubscriberInfo two;
  two.id = 9;
  two.text = "norm(weights, order=2)";
  two.source = SubscriberSource::kClient;
  two.owners = {"uid:1000"};
  two.run = "fashion";
  two.topics = {"weights_norm2"};
  two.runs = metrics::Runs::kQueue;
  two.scope = metrics::Scope::kJob;
  two.off = true;
  two.computed = 5;
  two.missing[static_cast<size_t>(MissReason::kThrew)] = 1;
  two.waiting = 3;
  two.cpu_seconds = 0.5;
  SubscriberInfo three;
  three.id = 7;
  monitor_.subscribers = {one, two};
  monitor_.replaced = {three};
  monitor_.warnings = {"no such module"};
  StartServer();
  v1::ListSubscribersRequest list;
  list.set_run("fashion");
  v1::ListSubscribersResponse listed;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListSubscribers, list, &listed).ok());
  ASSERT_EQ(listed.subscribers_size(), 2);
  EXPECT_EQ(listed.subscribers(0).source(), v1::SUBSCRIBER_SOURCE_DEFAULT);
  EXPECT_EQ(listed.subscribers(1).ShortDebugString(),
            "id: 9 text: \"norm(weights, order=2)\" source: SUBSCRIBER_SOURCE_CLIENT topics: \"weights_norm2\" "
            "computed: 5 missing { reason: \"threw\" count: 1 } cpu_seconds: 0.5 owners: \"uid:1000\" run: \"fashion\" "
            "off: true runs: RUNS_QUEUE scope: SCOPE_JOB waiting: 3");
  v1::AddSubscribersRequest add;
  add.set_text("norm(weights, order=3); loss");
  v1::AddSubscribersResponse added;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::AddSubscribers, add, &added).ok());
  EXPECT_EQ(added.subscribers_size(), 2);
  ASSERT_EQ(added.replaced_size(), 1);
  EXPECT_EQ(added.replaced(0).id(), 7u);
  EXPECT_THAT(added.warnings(), ElementsAre("no such module"));
  v1::RemoveSubscribersRequest remove;
  remove.set_topic("loss");
  v1::RemoveSubscribersResponse removed;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::RemoveSubscribers, remove, &removed).ok());
  EXPECT_EQ(removed.subscribers_size(), 2);
  ASSERT_EQ(removed.restored_size(), 1);
  EXPECT_EQ(removed.restored(0).id(), 7u);
  remove.set_id(9);
  ASSERT_TRUE(Call(&v1::Monitor::Stub::RemoveSubscribers, remove, &removed).ok());
  remove.set_text("loss()");
  ASSERT_TRUE(Call(&v1::Monitor::Stub::RemoveSubscribers, remove, &removed).ok());
  EXPECT_THAT(monitor_.log(),
              ElementsAre("subscribers fashion", "subscribe norm(weights, order=3); loss by " + kMe,
                          "unsubscribe 3 0 loss", "unsubscribe 1 9 ", "unsubscribe 2 0 loss()"));
}

TEST_F(CallsTest, ControlNamesTheRunTheRanksAndWhoAsks) {
  StartServer();
  v1::FreezeRequest freeze;
  freeze.set_module("features.*");
  v1::FreezeResponse frozen;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::Freeze, freeze, &frozen).ok());
  EXPECT_EQ(frozen.text(), "frozen from step 7 on");
  v1::UnfreezeRequest unfreeze;
  unfreeze.set_module("features.0");
  unfreeze.add_ranks(2);
  unfreeze.add_ranks(3);
  v1::UnfreezeResponse unfrozen;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::Unfreeze, unfreeze, &unfrozen).ok());
  EXPECT_EQ(unfrozen.text(), "thawed from step 9 on");
  v1::StopRequest stop;
  stop.set_run("n");
  stop.set_attempt(0);
  v1::StopResponse stopped;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::Stop, stop, &stopped).ok());
  EXPECT_EQ(stopped.text(), "ends after step 12");
  EXPECT_THAT(monitor_.log(),
              ElementsAre("freeze /- features.* by " + kMe, "unfreeze /-/2/3 features.0", "stop n/0"));
}

}  // namespace
}  // namespace ikkuna::test
