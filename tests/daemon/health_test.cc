// The daemon's own health as series: what is measured, when it is worth a sample, at which step.
#include "daemon/health.h"

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <optional>
#include <set>

#include "daemon/daemon.h"
#include "tests/daemon/ingest/test_producer.h"

namespace ikkuna {
namespace {

using ingest::Eventually;
using ingest::TempDirectory;
using ingest::TestProducer;

constexpr int64_t kSecond = 1'000'000'000;

ProducerStatus Producer(const std::string& state) {
  ProducerStatus producer;
  producer.info.uuid = {1};
  producer.info.run_key = {"id-1", 2, 3};
  producer.info.run = "fashion";
  producer.state = state;
  producer.handled = 70;
  producer.in_flight = 4;
  producer.dropped_total = 12;
  producer.drops = {{"ring_full", 10}, {"contended", 2}};
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
  reading.cpu_seconds = 1.5;
  reading.status.resident_bytes = 100 << 20;
  reading.status.series = 7;
  reading.status.sinks = {{"store", 1000, 900, 60, 40, 0.75}, {"watch", 9, 9, 0, 0, 0}};
  reading.status.producers = {Producer("running")};
  reading.subscribers = {{1, "norm(weights, order=2)", "default", {"weights_norm2"}, 12, 3, 0.25}};
  return reading;
}

// By "root module param topic".
std::map<std::string, double> ByName(const std::vector<HealthValue>& values) {
  std::map<std::string, double> named;
  for (const HealthValue& value : values) {
    const SeriesKey& key = value.key;
    EXPECT_TRUE(IsDaemonRun(key.run));
    EXPECT_EQ(key.tag, "daemon");
    EXPECT_TRUE(named.emplace(key.root + "|" + key.module + "|" + key.param + "|" + key.topic, value.value).second)
        << "two values are called " << key.topic;
  }
  return named;
}

TEST(HealthOf, SaysWhatStatusSays) {
  const auto values = ByName(HealthOf(Reading()));
  const std::map<std::string, double> expected = {{"|||daemon_cpu_seconds", 1.5},
                                                  {"|||daemon_producers", 1},
                                                  {"|||daemon_resident_bytes", 100 << 20},
                                                  {"|||daemon_series", 7},
                                                  {"|||daemon_series_refused", 0},
                                                  {"|||daemon_store_bytes", 0},
                                                  {"|store||daemon_queue", 40},
                                                  {"|store||daemon_lag", 0.75},
                                                  {"|store||daemon_samples_dropped", 60},
                                                  {"|watch||daemon_queue", 0},
                                                  {"|watch||daemon_lag", 0},
                                                  {"|watch||daemon_samples_dropped", 0},
                                                  {"|norm(weights, order=2)||daemon_subscriber_seconds", 0.25},
                                                  {"|norm(weights, order=2)||daemon_subscriber_incomplete", 3},
                                                  {"id-1/2/3|fashion||daemon_records_handled", 70},
                                                  {"id-1/2/3|fashion||daemon_records_in_flight", 4},
                                                  {"id-1/2/3|fashion||daemon_records_dropped", 12},
                                                  {"id-1/2/3|fashion|ring_full|daemon_records_dropped", 10},
                                                  {"id-1/2/3|fashion|contended|daemon_records_dropped", 2},
                                                  {"id-1/2/3|fashion||daemon_records_lost", 6},
                                                  {"id-1/2/3|fashion||daemon_bundles_incomplete", 0},
                                                  {"id-1/2/3|fashion||daemon_arena_used", 0},
                                                  {"id-1/2/3|fashion||daemon_coverage", 0.5},
                                                  {"id-1/2/3|fashion||daemon_budget", 0.01},
                                                  {"id-1/2/3|fashion||daemon_probe_cost", 0.02},
                                                  {"id-1/2/3|fashion|tensor|daemon_period_factor", 8},
                                                  {"id-1/2/3|fashion|summary|daemon_period_factor", 1},
                                                  {"id-1/2/3|fashion|scalar|daemon_period_factor", 1}};
  EXPECT_EQ(values, expected);
}

TEST(HealthOf, ANameIsNoLongerThanNamesAre) {
  HealthReading reading = Reading();
  reading.subscribers[0].text = std::string(300, 'x');
  for (const HealthValue& value : HealthOf(reading)) EXPECT_LE(value.key.module.size(), 255u);
}

class HealthSeriesTest : public testing::Test {
 protected:
  // Topics of the samples that a look is worth, by parameter where there is one.
  std::set<std::string> Look(const HealthReading& reading, int64_t seconds, bool all = false) {
    const auto batch = series_.Look(reading, seconds * kSecond, all);
    std::set<std::string> topics;
    if (!batch) return topics;
    EXPECT_FALSE(batch->producer);
    for (const Sample& sample : batch->samples) {
      const auto series = catalogue_.Find(sample.series_id);
      EXPECT_TRUE(series);
      if (!series) continue;
      topics.insert(series->key.topic.substr(7) + (series->key.param.empty() ? "" : ":" + series->key.param));
      step_ = sample.step;
      EXPECT_EQ(sample.unix_ns, seconds * kSecond);
    }
    return topics;
  }

  SeriesCatalogue catalogue_;
  HealthSeries series_{catalogue_};
  uint64_t step_ = 0;
};

TEST_F(HealthSeriesTest, WhatDoesNotChangeIsSaidOnceAMinute) {
  HealthReading reading = Reading();
  EXPECT_EQ(Look(reading, 1000).size(), 25u);  // one topic of several sinks counts once here
  EXPECT_EQ(step_, 1000u);
  EXPECT_TRUE(Look(reading, 1001).empty());
  reading.status.sinks[0].queued = 41;
  EXPECT_EQ(Look(reading, 1002), std::set<std::string>{"queue"});
  for (int64_t second = 1003; second < 1060; ++second) EXPECT_TRUE(Look(reading, second).empty()) << second;
  EXPECT_EQ(Look(reading, 1060).size(), 25u);
  EXPECT_EQ(Look(reading, 1061), std::set<std::string>{}) << "the store's queue comes a minute after its change";
}

TEST_F(HealthSeriesTest, WhatOurOwnSamplesChangeIsNoReasonForASample) {
  HealthReading reading = Reading();
  Look(reading, 1000);
  reading.status.store_bytes += 1 << 20;
  reading.status.resident_bytes += 1 << 20;
  reading.cpu_seconds += 0.008;
  EXPECT_TRUE(Look(reading, 1001).empty());
  reading.status.store_bytes += 1;
  EXPECT_EQ(Look(reading, 1002), std::set<std::string>{"store_bytes"});
  reading.cpu_seconds += 0.008;  // since what was kept, not since the last look
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
}

TEST_F(HealthSeriesTest, AProducerIsSeenToItsEndAndThenRests) {
  HealthReading reading = Reading();
  Look(reading, 1000);
  reading.status.producers = {Producer("died")};
  reading.status.producers[0].killed = 2;
  EXPECT_EQ(Look(reading, 1001), (std::set<std::string>{"records_lost", "producers"}));
  for (int64_t second = 1002; second < 1001 + HealthSeries::kLooksAfterEnd; ++second) Look(reading, second);
  reading.status.producers[0].killed = 3;
  EXPECT_TRUE(Look(reading, 1020).empty());
  // One that had ended before is none of this daemon's affairs.
  HealthSeries other(catalogue_);
  const auto batch = other.Look(reading, 2000 * kSecond);
  for (const Sample& sample : batch->samples) EXPECT_EQ(catalogue_.Find(sample.series_id)->key.root, "");
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
    SeriesFilter filter;
    filter.run_id = kDaemonRunId;
    filter.topic = topic;
    auto found = daemon.monitor().ListSeries(filter);
    EXPECT_TRUE(found.ok()) << found.error().text;
    if (!found) return {};
    std::erase_if(*found, [&](const SeriesInfo& info) { return info.series.key.param != param; });
    return std::move(found).value();
  }
  TempDirectory temp_;
};

TEST_F(DaemonHealthTest, IsWatchedListedAndReadByItsNameAndByNothingElse) {
  auto daemon = MustStart();
  ASSERT_TRUE(daemon);
  CoreMonitor& monitor = daemon->monitor();
  SeriesFilter own;
  own.run_id = monitor.GetStatus().health_run;
  EXPECT_EQ(own.run_id, kDaemonRunId);
  own.topic = "daemon_producers";
  auto watcher = monitor.Watch(own);
  auto watcher_of_all = monitor.Watch({});
  ASSERT_TRUE(watcher.ok() && watcher_of_all.ok());
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 0; step < 20; ++step) producer.Step(step, 2);
  std::vector<Sample> seen;
  ASSERT_TRUE(Eventually([&] {
    const WatchUpdate update = (*watcher)->Take(100);
    seen.insert(seen.end(), update.samples.begin(), update.samples.end());
    return !seen.empty() && seen.back().value == 1;
  }));
  ASSERT_TRUE(Eventually([&] {
    const auto handled = Health(*daemon, "daemon_records_handled");
    return handled.size() == 1 && handled[0].last->value == 20 * TestProducer::kRecordsPerStep;
  }));
  EXPECT_EQ(Health(*daemon, "daemon_records_handled")[0].series.key.root, producer.hello().run_id + "/0/0");
  ReadQuery query;
  query.series_id = Health(*daemon, "daemon_producers")[0].series.id;
  auto read = monitor.Read(query);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->samples.back().value, 1);
  // Without its name: the training's series alone.
  auto all = monitor.ListSeries({});
  ASSERT_TRUE(all.ok());
  for (const SeriesInfo& info : *all) EXPECT_FALSE(IsDaemonRun(info.series.key.run)) << info.series.key.topic;
  const WatchUpdate update = (*watcher_of_all)->Take(10'000);
  EXPECT_FALSE(update.samples.empty());
  for (const Series& series : update.new_series) EXPECT_FALSE(IsDaemonRun(series.key.run)) << series.key.topic;
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
  daemon = MustStart();
  ASSERT_TRUE(daemon);
  const auto handled = Health(*daemon, "daemon_records_handled");
  ASSERT_EQ(handled.size(), 1u);
  EXPECT_EQ(handled[0].last->value, 20 * TestProducer::kRecordsPerStep);
  const auto of_all = [&] { return Health(*daemon, "daemon_cpu_seconds").at(0); };
  const uint64_t count = of_all().count;
  ASSERT_TRUE(Eventually([&] { return of_all().count > count; }));
  EXPECT_GE(of_all().last_step, handled[0].last_step);
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
