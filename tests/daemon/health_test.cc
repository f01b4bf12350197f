// The daemon's own health as series: what is measured, when it is worth a sample, at which step.
#include "daemon/health.h"

#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <set>

#include "build_paths.h"
#include "daemon/daemon.h"
#include "tests/daemon/ingest/test_producer.h"

namespace ikkuna {
namespace {

using ingest::Eventually;
using ingest::TempDirectory;
using ingest::TestProducer;

constexpr int64_t kSecond = 1'000'000'000;

ProducerStatus Producer(RunState state) {
  ProducerStatus producer;
  producer.info.uuid = {1};
  producer.info.run_key = {"id-1", 2, 3};
  producer.info.run = "fashion";
  producer.state = state;
  producer.handled = 70;
  producer.in_flight = 4;
  producer.dropped_total = 12;
  producer.drops = {{"ring_full", 10}, {"contended", 2}};
  producer.missing = {{"withheld", 6}, {"queue_full", 0}};
  producer.lost_in_daemon = 5;
  producer.killed = 1;
  producer.budget = 0.01;
  producer.probe_cost = 0.02;
  producer.period_factor_tensor = 8;
  producer.coverage = 0.5;
  return producer;
}

HealthReading Reading() {
  HealthReading reading;
  reading.status.cpu_seconds = 1.5;
  reading.status.threads = 9;
  reading.status.resident_bytes = 100 << 20;
  reading.status.series = 7;
  reading.status.watches = 2;
  reading.status.store.bytes = 50 << 20;
  reading.status.store.free_bytes = uint64_t{9} << 30;
  reading.status.store.runs = 4;
  reading.status.queue.waiting = 11;
  reading.status.queue.busy_seconds = 3;
  reading.status.queue.memory_bytes = 5 << 20;
  reading.status.queue.memory_refused = 8;
  SinkCounters store;
  store.name = "store";
  store.offered = 1000;
  store.written = 900;
  store.dropped = 60;
  store.waiting = 40;
  store.lag_seconds = 0.75;
  store.drops = {{"disk", 60}};
  SinkCounters watch;
  watch.name = "watch";
  watch.events_dropped = 2;
  reading.status.sinks = {store, watch};
  reading.status.producers = {Producer(RunState::kRunning)};
  SubscriberInfo subscriber;
  subscriber.text = "norm(weights, order=2)";
  subscriber.cpu_seconds = 0.25;
  subscriber.waiting = 5;
  subscriber.missing[static_cast<size_t>(MissReason::kQueueFull)] = 3;
  reading.subscribers = {subscriber};
  reading.connections_refused = {{"users", 5}, {"too_many", 0}};
  return reading;
}

// By "module|param|topic".
std::map<std::string, double> ByName(const std::vector<HealthValue>& values) {
  std::map<std::string, double> named;
  for (const HealthValue& value : values) {
    const SeriesName& name = value.name;
    EXPECT_EQ(name.timeline.root, "");
    EXPECT_EQ(name.timeline.tag, "daemon");
    EXPECT_TRUE(named.emplace(name.module + "|" + name.param + "|" + name.topic, value.value).second)
        << "two values are called " << name.topic;
  }
  return named;
}

TEST(HealthOf, SaysWhatStatusSays) {
  const auto values = ByName(HealthOf(Reading()));
  const std::map<std::string, double> expected = {
      {"||daemon_cpu_seconds", 1.5},
      {"||daemon_producers", 1},
      {"||daemon_resident_bytes", 100 << 20},
      {"||daemon_threads", 9},
      {"||daemon_series", 7},
      {"||daemon_series_refused", 0},
      {"||daemon_watches", 2},
      {"||daemon_connections_refused", 5},
      {"|users|daemon_connections_refused", 5},
      {"||daemon_store_bytes", 50 << 20},
      {"||daemon_store_free_bytes", 9.0 * (1 << 30)},
      {"||daemon_store_tail_bytes", 0},
      {"||daemon_store_runs", 4},
      {"||daemon_store_paused", 0},
      {"||daemon_queue_waiting", 11},
      {"||daemon_queue_seconds", 3},
      {"||daemon_queue_memory_bytes", 5 << 20},
      {"||daemon_queue_memory_refused", 8},
      {"store||daemon_sink_waiting", 40},
      {"store||daemon_sink_lag", 0.75},
      {"store||daemon_sink_dropped", 60},
      {"store|disk|daemon_sink_dropped", 60},
      {"store||daemon_sink_events_dropped", 0},
      {"store||daemon_sink_failures", 0},
      {"watch||daemon_sink_waiting", 0},
      {"watch||daemon_sink_lag", 0},
      {"watch||daemon_sink_dropped", 0},
      {"watch||daemon_sink_events_dropped", 2},
      {"watch||daemon_sink_failures", 0},
      {"norm(weights, order=2)||daemon_subscriber_seconds", 0.25},
      {"norm(weights, order=2)||daemon_subscriber_waiting", 5},
      {"norm(weights, order=2)||daemon_subscriber_missing", 3},
      {"norm(weights, order=2)|queue_full|daemon_subscriber_missing", 3},
      {"id-1/2/3||daemon_records_handled", 70},
      {"id-1/2/3||daemon_records_in_flight", 4},
      {"id-1/2/3||daemon_records_dropped", 12},
      {"id-1/2/3|ring_full|daemon_records_dropped", 10},
      {"id-1/2/3|contended|daemon_records_dropped", 2},
      {"id-1/2/3||daemon_records_lost", 6},
      {"id-1/2/3||daemon_missing", 6},
      {"id-1/2/3|withheld|daemon_missing", 6},
      {"id-1/2/3||daemon_arena_used", 0},
      {"id-1/2/3||daemon_coverage", 0.5},
      {"id-1/2/3||daemon_budget", 0.01},
      {"id-1/2/3||daemon_probe_cost", 0.02},
      {"id-1/2/3|tensor|daemon_period_factor", 8},
      {"id-1/2/3|summary|daemon_period_factor", 1},
      {"id-1/2/3|scalar|daemon_period_factor", 1}};
  EXPECT_EQ(values, expected);
}

// HEALTH.md's table is what people read; it names every topic with its unit, and none besides.
TEST(HealthOf, TheTableInHealthMdIsComplete) {
  std::map<std::string, std::string> written, kept;
  std::ifstream file(std::string(IKKUNA_SOURCE_DIR) + "/daemon/HEALTH.md");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("| `daemon_", 0) != 0) continue;
    const size_t end = line.find('`', 3), unit = line.rfind('|', line.size() - 2);
    std::string text = line.substr(unit + 1, line.size() - unit - 2);
    text.erase(0, text.find_first_not_of(' '));
    text.erase(text.find_last_not_of(' ') + 1);
    written[line.substr(3, end - 3)] = text;
  }
  for (const HealthValue& value : HealthOf(Reading())) kept[value.name.topic] = value.unit;
  EXPECT_EQ(written, kept);
}

TEST(HealthOf, ANameIsNoLongerThanNamesAre) {
  HealthReading reading = Reading();
  reading.subscribers[0].text = std::string(300, 'x');
  reading.status.producers[0].info.run_key.run_id = std::string(255, 'y');
  for (const HealthValue& value : HealthOf(reading)) EXPECT_LE(value.name.module.size(), 255u);
}

class HealthSeriesTest : public testing::Test {
 protected:
  // Topics of the samples that a look is worth, by parameter where there is one.
  std::set<std::string> Look(const HealthReading& reading, int64_t seconds, bool all = false) {
    const auto batch = series_.Look(reading, seconds * kSecond, all);
    std::set<std::string> topics;
    if (!batch) return topics;
    EXPECT_EQ(batch->run, run_);
    EXPECT_EQ(batch->stamp.unix_ns, seconds * kSecond);
    step_ = batch->stamp.step;
    for (const Sample& sample : batch->samples) {
      const auto series = run_->series().Find(sample.series);
      EXPECT_TRUE(series);
      if (!series) continue;
      EXPECT_EQ(series->timeline, batch->stamp.timeline);
      topics.insert(series->name.topic.substr(7) + (series->name.param.empty() ? "" : ":" + series->name.param));
    }
    return topics;
  }

  std::shared_ptr<ikkuna::Run> run_ = std::make_shared<ikkuna::Run>(HealthProducer());
  HealthSeries series_{run_};
  uint64_t step_ = 0;
};

TEST_F(HealthSeriesTest, WhatDoesNotChangeIsSaidOnceAMinute) {
  HealthReading reading = Reading();
  const std::set<std::string> all = Look(reading, 1000);
  EXPECT_GT(all.size(), 40u);
  EXPECT_EQ(step_, 1000u);
  EXPECT_TRUE(Look(reading, 1001).empty());
  reading.status.sinks[0].waiting = 41;
  EXPECT_EQ(Look(reading, 1002), std::set<std::string>{"sink_waiting"});
  for (int64_t second = 1003; second < 1060; ++second) EXPECT_TRUE(Look(reading, second).empty()) << second;
  EXPECT_EQ(Look(reading, 1060), all);
  EXPECT_TRUE(Look(reading, 1061).empty()) << "the store's queue comes a minute after its change";
}

TEST_F(HealthSeriesTest, WhatOurOwnSamplesChangeIsNoReasonForASample) {
  HealthReading reading = Reading();
  Look(reading, 1000);
  reading.status.store.bytes += 1 << 20;
  reading.status.resident_bytes += 1 << 20;
  reading.status.cpu_seconds += 0.008;
  EXPECT_TRUE(Look(reading, 1001).empty());
  reading.status.store.bytes += 1;
  EXPECT_EQ(Look(reading, 1002), std::set<std::string>{"store_bytes"});
  reading.status.cpu_seconds += 0.008;  // since what was kept, not since the last look
  EXPECT_EQ(Look(reading, 1003), std::set<std::string>{"cpu_seconds"});
}

TEST_F(HealthSeriesTest, StepsNeverGoBack) {
  HealthReading reading = Reading();
  Look(reading, 1000, true);
  Look(reading, 1000, true);  // twice in one second
  EXPECT_EQ(step_, 1001u);
  Look(reading, 900, true);  // the clock was set back
  EXPECT_EQ(step_, 1002u);
  Look(reading, -5, true);
  EXPECT_EQ(step_, 1003u);
  Look(reading, 1100, true);
  EXPECT_EQ(step_, 1100u);
  // What an earlier daemon kept in this second, or by a clock that was ahead, stays.
  HealthSeries next(run_, 5000);
  EXPECT_EQ(next.Look(reading, 1101 * kSecond)->stamp.step, 5001u);
}

TEST_F(HealthSeriesTest, AProducerIsSeenToItsEndAndThenRests) {
  HealthReading reading = Reading();
  Look(reading, 1000);
  reading.status.producers = {Producer(RunState::kDied)};
  reading.status.producers[0].killed = 2;
  EXPECT_EQ(Look(reading, 1001), (std::set<std::string>{"records_lost", "producers"}));
  for (int64_t second = 1002; second < 1001 + HealthSeries::kLooksAfterEnd; ++second) Look(reading, second);
  reading.status.producers[0].killed = 3;
  EXPECT_TRUE(Look(reading, 1020).empty());
  // One that came and ended between two looks is seen as well, as long.
  reading.status.producers.push_back(Producer(RunState::kFinished));
  reading.status.producers[1].info.uuid = {2};
  reading.status.producers[1].info.run_key = {"id-2", 0, 0};
  EXPECT_TRUE(Look(reading, 1021).contains("records_handled"));
  for (int64_t second = 1022; second < 1021 + HealthSeries::kLooksAfterEnd; ++second) Look(reading, second);
  reading.status.producers[1].killed = 9;
  EXPECT_TRUE(Look(reading, 1040).empty());
  // One that had ended before is none of this daemon's affairs.
  HealthSeries other(run_);
  const auto batch = other.Look(reading, 2000 * kSecond);
  for (const Sample& sample : batch->samples) EXPECT_NE(run_->series().Find(sample.series)->name.module, "id-1/2/3");
}

TEST_F(HealthSeriesTest, NaNIsAValueAsAnyOther) {
  HealthReading reading = Reading();
  reading.status.producers[0].probe_cost = std::numeric_limits<double>::quiet_NaN();
  Look(reading, 1000);
  EXPECT_TRUE(Look(reading, 1001).empty());
  reading.status.producers[0].probe_cost = 0.5;
  EXPECT_EQ(Look(reading, 1002), std::set<std::string>{"probe_cost"});
}

// ---- In a daemon ----

class DaemonHealthTest : public testing::Test {
 protected:
  std::unique_ptr<Daemon> MustStart() {
    Config config;
    config.dir = temp_.sub("dir");
    config.data_dir = temp_.sub("data");
    config.no_default = true;
    config.subscribe = {"mean(weights)"};
    auto daemon = Daemon::Start(config, "test");
    EXPECT_TRUE(daemon.ok()) << daemon.error().text;
    return daemon ? std::move(daemon).value() : nullptr;
  }
  static std::vector<SeriesInfo> Health(Daemon& daemon, const std::string& topic, const std::string& param = "") {
    SeriesQuery query;
    query.filter.run = kDaemonRunId;
    query.filter.topic = topic;
    auto found = daemon.monitor().series.ListSeries(query);
    if (!found) return {};  // not begun yet
    std::erase_if(found->series, [&](const SeriesInfo& info) { return info.series->name.param != param; });
    return found->series;
  }
  TempDirectory temp_;
};

TEST_F(DaemonHealthTest, IsWatchedListedAndReadByItsNameAndByNothingElse) {
  auto daemon = MustStart();
  ASSERT_TRUE(daemon);
  Monitor& monitor = daemon->monitor();
  SeriesFilter own;
  own.run = monitor.status.GetStatus().health_run;
  EXPECT_EQ(own.run, kDaemonRunId);
  own.topic = "daemon_producers";
  auto watched = monitor.series.Watch(own, {});
  auto watched_all = monitor.series.Watch({}, {});
  ASSERT_TRUE(watched.ok() && watched_all.ok());
  Watcher& watcher = *watched->watcher;
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 0; step < 20; ++step) producer.Step(step, 2);
  double last = -1;
  ASSERT_TRUE(Eventually([&] {
    const WatchTaken taken = watcher.Take(100);
    for (const auto& update : taken.updates) {
      if (update->batch) last = update->batch->samples.back().value;
    }
    return last == 1;
  }));
  ASSERT_TRUE(Eventually([&] {
    const auto handled = Health(*daemon, "daemon_records_handled");
    return handled.size() == 1 && handled[0].last == 20 * TestProducer::kRecordsPerStep;
  }));
  EXPECT_EQ(Health(*daemon, "daemon_records_handled")[0].series->name.module, producer.hello().run_id + "/0/0");
  EXPECT_EQ(Health(*daemon, "daemon_producers")[0].last, 1);
  // Without its name: the training's series alone.
  auto all = monitor.series.ListSeries({});
  ASSERT_TRUE(all.ok());
  EXPECT_FALSE(all->series.empty());
  for (const SeriesInfo& info : all->series) EXPECT_FALSE(IsDaemonRun(info.run->run_key)) << info.series->name.topic;
  const WatchTaken taken = watched_all->watcher->Take(10'000);
  EXPECT_FALSE(taken.updates.empty());
  for (const auto& update : taken.updates) {
    EXPECT_FALSE(update->run && IsDaemonRun(update->run->run_key));
  }
  // It is no producer.
  EXPECT_EQ(monitor.status.GetStatus().producers.size(), 1u);
}

TEST_F(DaemonHealthTest, TheEndIsKeptAndStepsGoOnAfterARestart) {
  auto daemon = MustStart();
  ASSERT_TRUE(daemon);
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  ASSERT_TRUE(Eventually([&] { return !Health(*daemon, "daemon_records_handled").empty(); }));
  for (uint64_t step = 0; step < 20; ++step) producer.Step(step, 2);
  EXPECT_TRUE(daemon->Stop().ok());  // at once: what was in the ring is counted in the last look
  producer.Disconnect();
  daemon.reset();
  daemon = MustStart();
  ASSERT_TRUE(daemon);
  const auto handled = Health(*daemon, "daemon_records_handled");
  ASSERT_EQ(handled.size(), 1u);
  EXPECT_EQ(handled[0].last, 20 * TestProducer::kRecordsPerStep);
  const auto of_all = [&] { return Health(*daemon, "daemon_cpu_seconds").at(0); };
  const uint64_t count = of_all().count;
  ASSERT_TRUE(Eventually([&] { return of_all().count > count; }));
  EXPECT_GE(of_all().last_step, handled[0].last_step);
  // Also within the second in which the one before ended, nothing comes twice.
  for (const SinkCounters& sink : daemon->monitor().status.GetStatus().sinks) EXPECT_EQ(sink.dropped, 0u) << sink.name;
  // The daemon's own run is no producer, over a restart either.
  for (const auto& one : daemon->monitor().status.GetStatus().producers) {
    EXPECT_FALSE(IsDaemonRun(one.info.run_key));
  }
}

TEST_F(DaemonHealthTest, NoTrainerTakesItsName) {
  auto daemon = MustStart();
  ASSERT_TRUE(daemon);
  TestProducer producer(temp_.sub("dir"));
  producer.hello().run_id = kDaemonRunId;
  producer.Register();
  EXPECT_FALSE(producer.Connect());
  EXPECT_NE(producer.reject().find("give the run another"), std::string::npos) << producer.reject();
}

}  // namespace
}  // namespace ikkuna
