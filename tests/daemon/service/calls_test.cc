// Every unary call, over a real socket: what it carries, what it refuses, and how failures arrive.
#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <thread>

#include "daemon/service/answers.h"
#include "shared/codes.h"
#include "tests/daemon/service/service_fixture.h"

namespace ikkuna::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CallsTest : public ServiceTest {};

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
  producer.state = "switched_off";
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
  producer.incomplete_bundles = 6;
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
  producer.roots = {{"model", "evaluate", 9, 1, 1152, 10, 8, 0.5, 33.0}};
  producer.notes = {"no pidfd on this kernel", std::string("not UTF-8: \xff")};
  monitor_.status.version = "1.2.3";
  monitor_.status.pid = 42;
  monitor_.status.start_unix_ns = 6;
  monitor_.status.directory = "/d";
  monitor_.status.data_directory = "/e";
  monitor_.status.tensorboard_directory = "/t";
  monitor_.status.producers = {producer};
  monitor_.status.sinks = {{"store", 10, 7, 2, 1, 0.25}};
  monitor_.status.series = 11;
  monitor_.status.series_refused = 1;
  monitor_.status.store_bytes = 12;
  monitor_.status.store_bytes_max = 13;
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
  EXPECT_EQ(response.store_bytes(), 12u);
  EXPECT_EQ(response.store_bytes_max(), 13u);
  EXPECT_EQ(response.health_run(), "ikkuna-daemon");
  EXPECT_EQ(response.resident_bytes(), 14u);
  ASSERT_EQ(response.sinks_size(), 1);
  EXPECT_EQ(response.sinks(0).ShortDebugString(),
            "name: \"store\" offered: 10 written: 7 dropped: 2 queued: 1 lag_seconds: 0.25");
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
  EXPECT_EQ(out.incomplete_bundles(), 6u);
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
  EXPECT_THAT(out.notes(), ElementsAre("no pidfd on this kernel", "not UTF-8: \xef\xbf\xbd"));
  EXPECT_EQ(out.facts(0).value(), "a");
}

TEST_F(CallsTest, RunsComeNewestFirst) {
  monitor_.runs = {MakeRun("old", "fashion", 0, 0, 10, "finished"), MakeRun("new", "fashion", 0, 1, 30),
                   MakeRun("new", "fashion", 0, 0, 30), MakeRun("mid", "other", 0, 0, 20, "died")};
  monitor_.runs[0].facts = {{"command", "train"}};
  monitor_.runs[0].last_step = 9;
  monitor_.runs[0].series = 3;
  monitor_.runs[0].samples = 27;
  monitor_.runs[0].last_unix_ns = 15;
  StartServer();
  v1::ListRunsResponse response;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListRuns, v1::ListRunsRequest(), &response).ok());
  ASSERT_EQ(response.runs_size(), 4);
  EXPECT_EQ(response.runs(0).key().ShortDebugString(), "run_id: \"new\"");
  EXPECT_EQ(response.runs(1).key().ShortDebugString(), "run_id: \"new\" rank: 1");
  EXPECT_EQ(response.runs(2).state(), v1::PRODUCER_STATE_DIED);
  EXPECT_EQ(
      response.runs(3).ShortDebugString(),
      "key { run_id: \"old\" } name: \"fashion\" state: PRODUCER_STATE_FINISHED start_unix_ns: 10 last_unix_ns: 15 "
      "last_step: 9 series: 3 samples: 27 facts { name: \"command\" value: \"train\" }");
}

TEST_F(CallsTest, ARunIsFoundByIdByNameAndAsLatest) {
  monitor_.runs = {MakeRun("old", "fashion", 0, 0, 10), MakeRun("new", "fashion", 0, 0, 30),
                   MakeRun("mid", "other", 1, 0, 20), MakeRun("mid", "other", 0, 0, 19),
                   MakeRun(kDaemonRunId, "", 0, 0, 99)};
  StartServer();
  auto found = [&](const std::string& text) {
    v1::ListRunsRequest request;
    request.set_run(text);
    v1::ListRunsResponse response;
    grpc::Status status = Call(&v1::Monitor::Stub::ListRuns, request, &response);
    if (!status.ok()) return status.error_message();
    std::string ids;
    for (const v1::Run& run : response.runs()) ids += run.key().run_id() + std::to_string(run.key().attempt()) + " ";
    return ids;
  };
  EXPECT_EQ(found("old"), "old0 ");
  EXPECT_EQ(found("fashion"), "new0 ");
  EXPECT_EQ(found("latest"), "new0 ");
  EXPECT_EQ(found("other"), "mid1 mid0 ");
  // The daemon's own is meant only by its name.
  EXPECT_EQ(found(""), "new0 mid1 mid0 old0 ");
  EXPECT_EQ(found("ikkuna-daemon"), "ikkuna-daemon0 ");
  EXPECT_EQ(found("nothing"), "no run is called 'nothing'; there are: fashion, other");
}

TEST_F(CallsTest, ModulesAreThoseOfTheLastAttemptAndLowestRank) {
  monitor_.runs = {MakeRun("r", "n", 0, 0, 10), MakeRun("r", "n", 1, 1, 11), MakeRun("r", "n", 1, 2, 12)};
  monitor_.modules = {{"model", "features.0", "Conv2d", false, {{"weight", "f32", {8, 4, 3, 3}, false, true, false}}},
                      {"model", "features.0 > relu", "relu", true, {}}};
  StartServer();
  v1::ListModulesRequest request;
  v1::ListModulesResponse response;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListModules, request, &response).ok());
  EXPECT_EQ(response.run().ShortDebugString(), "run_id: \"r\" attempt: 1 rank: 1");
  ASSERT_EQ(response.modules_size(), 2);
  EXPECT_EQ(
      response.modules(0).ShortDebugString(),
      "root: \"model\" name: \"features.0\" type: \"Conv2d\" parameters { name: \"weight\" dtype: \"f32\" sizes: 8 "
      "sizes: 4 sizes: 3 sizes: 3 trainable: true }");
  EXPECT_TRUE(response.modules(1).functional());

  request.set_attempt(0);
  request.set_rank(0);
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListModules, request, &response).ok());
  EXPECT_THAT(monitor_.log(), ElementsAre("modules r/1/1", "modules r/0/0"));
  request.set_rank(7);
  grpc::Status status = Call(&v1::Monitor::Stub::ListModules, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "run 'n' has no attempt 0 rank 7");
}

TEST_F(CallsTest, MetricsCarryTheirParameters) {
  monitor_.metrics = {{"variance", "unbiased", "", "cheap", "{kind}_variance", {}},
                      {"norm", "p-norm", "u", "cheap", "{kind}_norm{order}", {{"order", "2", "p"}}}};
  StartServer();
  v1::ListMetricsResponse response;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListMetrics, v1::ListMetricsRequest(), &response).ok());
  ASSERT_EQ(response.metrics_size(), 2);
  EXPECT_EQ(response.metrics(0).ShortDebugString(),
            "name: \"norm\" help: \"p-norm\" unit: \"u\" cost: \"cheap\" publishes: \"{kind}_norm{order}\" parameters "
            "{ name: "
            "\"order\" default_value: \"2\" help: \"p\" }");
}

TEST_F(CallsTest, SeriesComeInPagesWithTheirLastSample) {
  RunKey run{"r", 0, 0};
  monitor_.runs = {MakeRun("r", "n", 0, 0, 1)};
  for (uint64_t id : {5, 3, 4, 1}) monitor_.series.push_back(MakeSeries(id, run, "m", "weight", "t"));
  monitor_.series[0].count = 2;
  monitor_.series[0].first_step = 1;
  monitor_.series[0].last_step = 9;
  monitor_.series[0].series.unit = "s";
  monitor_.series[0].series.module_type = "Linear";
  monitor_.series[0].last = MakeSample(5, 9, std::numeric_limits<double>::quiet_NaN());
  monitor_.series[0].last->flags = kKnownRecordFlags;
  monitor_.series[0].last->samples_seen = 99;
  monitor_.series[0].last->epoch = 2;
  StartServer();
  v1::ListSeriesRequest request;
  request.set_limit(3);
  v1::ListSeriesResponse response;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListSeries, request, &response).ok());
  ASSERT_EQ(response.series_size(), 3);
  EXPECT_EQ(response.series(2).series().id(), 4u);
  EXPECT_TRUE(response.more());
  request.set_after_id(4);
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListSeries, request, &response).ok());
  ASSERT_EQ(response.series_size(), 1);
  EXPECT_FALSE(response.more());
  const v1::SeriesSummary& summary = response.series(0);
  EXPECT_EQ(summary.series().ShortDebugString(),
            "id: 5 key { run { run_id: \"r\" } tag: \"default\" root: \"model\" module: \"m\" param: \"weight\" topic: "
            "\"t\" } "
            "module_type: \"Linear\" unit: \"s\"");
  EXPECT_EQ(summary.count(), 2u);
  EXPECT_EQ(summary.first_step(), 1u);
  EXPECT_EQ(summary.last_step(), 9u);
  EXPECT_TRUE(std::isnan(summary.last().value()));
  EXPECT_EQ(summary.last().flags_size(), 7);
  EXPECT_EQ(summary.last().samples_seen(), 99u);
  EXPECT_EQ(summary.last().epoch(), 2u);
}

TEST_F(CallsTest, TheFilterReachesTheMonitorWithTheRunResolved) {
  monitor_.runs = {MakeRun("old", "n", 0, 0, 1), MakeRun("new", "n", 0, 0, 2)};
  StartServer();
  v1::ListSeriesRequest request;
  v1::SeriesFilter* filter = request.mutable_filter();
  filter->set_run("n");
  filter->set_attempt(0);
  filter->set_rank(0);
  filter->set_tag("a");
  filter->set_root("b");
  filter->set_module("c");
  filter->set_param("d");
  filter->set_topic("e");
  v1::ListSeriesResponse response;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListSeries, request, &response).ok());
  SeriesFilter seen = monitor_.last_filter();
  EXPECT_EQ(seen.run_id, "new");
  EXPECT_EQ(seen.attempt, 0u);
  EXPECT_EQ(seen.rank, 0u);
  EXPECT_EQ(seen.tag + seen.root + seen.module + seen.param + seen.topic, "abcde");
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListSeries, v1::ListSeriesRequest(), &response).ok());
  seen = monitor_.last_filter();
  EXPECT_EQ(seen.run_id, "");
  EXPECT_FALSE(seen.attempt.has_value());
  EXPECT_FALSE(seen.rank.has_value());
}

TEST_F(CallsTest, ReadCarriesRangeAndValues) {
  monitor_.series = {MakeSeries(7, {"r", 0, 0}, "m", "", "t")};
  double infinity = std::numeric_limits<double>::infinity();
  monitor_.samples = {MakeSample(7, 1, 0.1), MakeSample(7, 2, -infinity), MakeSample(7, 3, 1e300)};
  monitor_.reduced = true;
  StartServer();
  v1::ReadSeriesRequest request;
  request.set_series_id(7);
  request.set_step_min(2);
  request.set_step_max(3);
  request.set_max_points(100);
  v1::ReadSeriesResponse response;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ReadSeries, request, &response).ok());
  EXPECT_EQ(response.series().id(), 7u);
  ASSERT_EQ(response.samples_size(), 2);
  EXPECT_EQ(response.samples(0).value(), -infinity);
  EXPECT_EQ(response.samples(0).series_id(), 7u);
  EXPECT_EQ(response.samples(1).unix_ns(), 1'700'000'000'003'000'000);
  EXPECT_TRUE(response.reduced());
  EXPECT_EQ(monitor_.last_read().max_points, 100u);
  request.clear_step_min();
  request.clear_step_max();
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ReadSeries, request, &response).ok());
  EXPECT_EQ(response.samples_size(), 3);
  EXPECT_FALSE(monitor_.last_read().step_min.has_value());
}

TEST_F(CallsTest, AnAnswerThatNoMessageHoldsIsRefusedWithTheWayOut) {
  monitor_.series = {MakeSeries(7, {"r", 0, 0}, "m", "", "t")};
  for (uint64_t step = 1u << 30; step < (1u << 30) + 2'600'000; ++step)
    monitor_.samples.push_back(MakeSample(7, step, 1));
  StartServer();
  v1::ReadSeriesRequest request;
  request.set_series_id(7);
  v1::ReadSeriesResponse response;
  grpc::Status status = Call(&v1::Monitor::Stub::ReadSeries, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(
      status.error_message(),
      "2600000 samples are more than one answer holds; pass max_points, or read a part with step_min and step_max");
}

TEST_F(CallsTest, SubscribersAreListedAddedAndRemoved) {
  monitor_.subscribers = {{9, "norm(weights, order=2)", "client", {"weights_norm2"}, 5, 1, 0.5},
                          {2, "loss", "default", {"loss"}, 4, 0, 0}};
  monitor_.replaced = {{7, "norm(weights, subsample=10)", "default", {"weights_norm2"}, 5, 1, 0.5}};
  monitor_.warnings = {"no such module"};
  StartServer();
  v1::ListSubscribersResponse listed;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListSubscribers, v1::ListSubscribersRequest(), &listed).ok());
  ASSERT_EQ(listed.subscribers_size(), 2);
  EXPECT_EQ(listed.subscribers(0).source(), v1::SUBSCRIBER_SOURCE_DEFAULT);
  EXPECT_EQ(
      listed.subscribers(1).ShortDebugString(),
      "id: 9 text: \"norm(weights, order=2)\" source: SUBSCRIBER_SOURCE_CLIENT topics: \"weights_norm2\" computed: 5 "
      "incomplete: 1 cpu_seconds: 0.5");
  v1::AddSubscribersRequest add;
  add.set_text("norm(weights, order=3); loss");
  v1::AddSubscribersResponse added;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::AddSubscribers, add, &added).ok());
  EXPECT_EQ(added.subscribers_size(), 2);
  ASSERT_EQ(added.replaced_size(), 1);
  EXPECT_EQ(added.replaced(0).id(), 7u);
  EXPECT_THAT(added.warnings(), ElementsAre("no such module"));
  v1::RemoveSubscribersRequest remove;
  remove.set_what("loss");
  v1::RemoveSubscribersResponse removed;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::RemoveSubscribers, remove, &removed).ok());
  EXPECT_EQ(removed.subscribers_size(), 2);
  ASSERT_EQ(removed.restored_size(), 1);
  EXPECT_EQ(removed.restored(0).id(), 7u);
  EXPECT_THAT(monitor_.log(), ElementsAre("subscribe norm(weights, order=3); loss", "unsubscribe loss"));
}

TEST_F(CallsTest, EventsComeFromAnIdOnwards) {
  monitor_.runs = {MakeRun("id-1", "fashion", 0, 0, 1)};
  monitor_.events = {{1, 10, Severity::kInfo, {}, "started", "The daemon started.", 0},
                     {2, 20, Severity::kError, {"id-1", 0, 1}, "non_finite", "NaN.", 30}};
  StartServer();
  v1::ListEventsRequest request;
  v1::ListEventsResponse response;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListEvents, request, &response).ok());
  ASSERT_EQ(response.events_size(), 2);
  EXPECT_FALSE(response.events(0).has_run());
  EXPECT_EQ(
      response.events(1).ShortDebugString(),
      "id: 2 unix_ns: 20 severity: SEVERITY_ERROR run { run_id: \"id-1\" rank: 1 } kind: \"non_finite\" text: \"NaN.\" "
      "step: 30");
  EXPECT_EQ(monitor_.last_events().limit, 1000u);
  request.set_run("fashion");
  request.set_after_id(1);
  request.set_limit(5);
  ASSERT_TRUE(Call(&v1::Monitor::Stub::ListEvents, request, &response).ok());
  EXPECT_EQ(response.events_size(), 1);
  EXPECT_EQ(monitor_.last_events().run_id, "id-1");
  EXPECT_EQ(monitor_.last_events().limit, 5u);
}

TEST_F(CallsTest, ControlGoesToEveryRankThatRuns) {
  monitor_.runs = {MakeRun("r", "n", 1, 0, 20, "finished"), MakeRun("r", "n", 1, 1, 20), MakeRun("r", "n", 1, 2, 20),
                   MakeRun("r", "n", 0, 0, 10)};
  StartServer();
  v1::FreezeRequest freeze;
  freeze.set_module("features.*");
  v1::FreezeResponse frozen;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::Freeze, freeze, &frozen).ok());
  EXPECT_THAT(frozen.texts(),
              ElementsAre("rank 1: will be done at the next step", "rank 2: will be done at the next step"));
  v1::UnfreezeRequest unfreeze;
  unfreeze.set_module("features.0");
  unfreeze.set_rank(2);
  v1::UnfreezeResponse unfrozen;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::Unfreeze, unfreeze, &unfrozen).ok());
  EXPECT_THAT(unfrozen.texts(), ElementsAre("will be done at the next step"));
  v1::StopRequest stop;
  stop.set_run("n");
  stop.set_attempt(0);
  v1::StopResponse stopped;
  ASSERT_TRUE(Call(&v1::Monitor::Stub::Stop, stop, &stopped).ok());
  EXPECT_THAT(monitor_.log(), ElementsAre("freeze r/1/1 features.*", "freeze r/1/2 features.*",
                                          "unfreeze r/1/2 features.0", "stop r/0/0"));
}

TEST_F(CallsTest, AFreezeThatSomeRanksRefuseSaysWhichTookIt) {
  monitor_.runs = {MakeRun("r", "n", 0, 0, 1), MakeRun("r", "n", 0, 1, 1)};
  monitor_.control = [](const RunKey& run) -> Result<ControlAnswer> {
    if (run.rank == 0) return ControlAnswer{"frozen from step 7 on"};
    return Error{ErrorCode::kFailedPrecondition, "its trainer switched allow_control off"};
  };
  StartServer();
  v1::FreezeRequest request;
  request.set_module("m");
  v1::FreezeResponse response;
  grpc::Status status = Call(&v1::Monitor::Stub::Freeze, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(status.error_message(),
            "rank 1: its trainer switched allow_control off; done for rank 0: frozen from step 7 on");
}

TEST_F(CallsTest, RequestsThatMakeNoSenseAreRefused) {
  monitor_.series = {MakeSeries(7, {"r", 0, 0}, "m", "", "t")};
  StartServer();
  auto read = [&](uint64_t id, uint32_t points, uint64_t min, uint64_t max) {
    v1::ReadSeriesRequest request;
    request.set_series_id(id);
    request.set_max_points(points);
    request.set_step_min(min);
    request.set_step_max(max);
    v1::ReadSeriesResponse response;
    return Call(&v1::Monitor::Stub::ReadSeries, request, &response);
  };
  EXPECT_EQ(read(0, 0, 0, 1).error_message(), "series_id is missing; ListSeries gives the ids");
  EXPECT_EQ(read(7, 1, 0, 1).error_message(), "max_points is 1; pass 2 or more, or 0 for every sample");
  EXPECT_EQ(read(7, 0, 2, 1).error_message(), "step_min 2 is greater than step_max 1");
  EXPECT_EQ(read(7, 0, 2, 1).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(read(8, 0, 1, 2).error_code(), grpc::StatusCode::NOT_FOUND);

  v1::ListSeriesRequest series;
  series.set_limit(100'001);
  v1::ListSeriesResponse series_response;
  EXPECT_THAT(Call(&v1::Monitor::Stub::ListSeries, series, &series_response).error_message(),
              HasSubstr("at most 100000"));
  series.set_limit(1);
  series.mutable_filter()->set_module(std::string(service::kMaxTextBytes + 1, 'x'));
  grpc::Status status = Call(&v1::Monitor::Stub::ListSeries, series, &series_response);
  EXPECT_EQ(status.error_message(), "filter.module has 65537 bytes; at most 65536 are taken");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  v1::ListEventsRequest events;
  events.set_limit(10'001);
  v1::ListEventsResponse events_response;
  EXPECT_THAT(Call(&v1::Monitor::Stub::ListEvents, events, &events_response).error_message(),
              HasSubstr("at most 10000"));

  v1::AddSubscribersResponse added;
  EXPECT_EQ(Call(&v1::Monitor::Stub::AddSubscribers, v1::AddSubscribersRequest(), &added).error_message(),
            "text is empty");
  v1::RemoveSubscribersResponse removed;
  EXPECT_EQ(Call(&v1::Monitor::Stub::RemoveSubscribers, v1::RemoveSubscribersRequest(), &removed).error_message(),
            "what is empty");
  v1::FreezeResponse frozen;
  EXPECT_EQ(Call(&v1::Monitor::Stub::Freeze, v1::FreezeRequest(), &frozen).error_message(), "module is empty");
  v1::StopResponse stopped;
  status = Call(&v1::Monitor::Stub::Stop, v1::StopRequest(), &stopped);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "no run has been recorded yet");
}

struct Mapping {
  ErrorCode code;
  grpc::StatusCode expected;
};

TEST_F(CallsTest, EveryErrorArrivesWithItsCodeAndText) {
  StartServer();
  const Mapping mappings[] = {{ErrorCode::kInvalidArgument, grpc::StatusCode::INVALID_ARGUMENT},
                              {ErrorCode::kNotFound, grpc::StatusCode::NOT_FOUND},
                              {ErrorCode::kAlreadyExists, grpc::StatusCode::ALREADY_EXISTS},
                              {ErrorCode::kFailedPrecondition, grpc::StatusCode::FAILED_PRECONDITION},
                              {ErrorCode::kResourceExhausted, grpc::StatusCode::RESOURCE_EXHAUSTED},
                              {ErrorCode::kPermissionDenied, grpc::StatusCode::PERMISSION_DENIED},
                              {ErrorCode::kUnavailable, grpc::StatusCode::UNAVAILABLE},
                              {ErrorCode::kCorrupt, grpc::StatusCode::DATA_LOSS},
                              {ErrorCode::kSystem, grpc::StatusCode::INTERNAL}};
  for (const Mapping& mapping : mappings) {
    monitor_.failure = Error{mapping.code, "what was tried"};
    v1::ListRunsResponse response;
    grpc::Status status = Call(&v1::Monitor::Stub::ListRuns, v1::ListRunsRequest(), &response);
    EXPECT_EQ(status.error_code(), mapping.expected) << ErrorCodeName(mapping.code);
    EXPECT_EQ(status.error_message(), "what was tried");
  }
}

TEST_F(CallsTest, WhatThrowsBecomesAnAnswer) {
  monitor_.series = {MakeSeries(7, {"r", 0, 0}, "m", "", "t")};
  monitor_.before_read = [] { throw std::runtime_error("disk on fire"); };
  StartServer();
  v1::ReadSeriesRequest request;
  request.set_series_id(7);
  v1::ReadSeriesResponse response;
  grpc::Status status = Call(&v1::Monitor::Stub::ReadSeries, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(status.error_message(), "the daemon failed to answer: disk on fire");
}

TEST_F(CallsTest, AStatusIsAnsweredWhileAQueryWaitsForTheDisk) {
  monitor_.series = {MakeSeries(7, {"r", 0, 0}, "m", "", "t")};
  std::mutex mutex;
  std::condition_variable changed;
  bool let_go = false;
  monitor_.before_read = [&] {
    std::unique_lock lock(mutex);
    changed.wait_for(lock, std::chrono::minutes(1), [&] { return let_go; });
  };
  StartServer();
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      v1::ReadSeriesRequest request;
      request.set_series_id(7);
      v1::ReadSeriesResponse response;
      EXPECT_TRUE(Call(&v1::Monitor::Stub::ReadSeries, request, &response).ok());
    });
  }
  v1::GetStatusResponse status;
  EXPECT_TRUE(Call(&v1::Monitor::Stub::GetStatus, v1::GetStatusRequest(), &status).ok());
  {
    std::lock_guard lock(mutex);
    EXPECT_FALSE(let_go);
    let_go = true;
  }
  changed.notify_all();
  for (std::thread& reader : readers) reader.join();
}

}  // namespace
}  // namespace ikkuna::test
