#include "daemon/sinks/watch_hub.h"

#include <gmock/gmock.h>

#include <atomic>
#include <set>
#include <thread>

#include "tests/daemon/sinks/sinks_fixture.h"

namespace ikkuna::sinks {
namespace {

using ::testing::HasSubstr;

class WatchHubTest : public ::testing::Test {
 protected:
  uint64_t Intern(const SeriesKey& key) { return catalogue_.Intern(key, "Linear", ""); }
  std::unique_ptr<Watcher> Watch(const SeriesFilter& filter = {}) {
    auto watcher = hub_.Watch(filter);
    EXPECT_TRUE(watcher.ok());
    return *std::move(watcher);
  }

  SeriesCatalogue catalogue_;
  WatchHub hub_{catalogue_};
};

TEST_F(WatchHubTest, ASeriesIsAnnouncedOnceAndBeforeItsSamples) {
  auto watcher = Watch();
  const uint64_t id = Intern(Key("loss", "", ""));
  hub_.Offer(BatchOf({At(id, 1, 1), At(id, 2, 2)}));
  WatchUpdate update = watcher->Take(1);
  ASSERT_EQ(update.new_series.size(), 1u);
  EXPECT_EQ(update.new_series[0].id, id);
  EXPECT_EQ(update.new_series[0].key.topic, "loss");
  ASSERT_EQ(update.samples.size(), 1u);
  EXPECT_EQ(update.samples[0].step, 1u);
  update = watcher->Take(100);
  EXPECT_TRUE(update.new_series.empty());
  ASSERT_EQ(update.samples.size(), 1u);
  EXPECT_EQ(update.samples[0].step, 2u);
  EXPECT_TRUE(watcher->Take(100).samples.empty());
}

TEST_F(WatchHubTest, OnlyWhatPassesTheFilter) {
  SeriesFilter filter;
  filter.module = "features.*";
  filter.run_id = "fashion";
  auto watcher = Watch(filter);
  const uint64_t in = Intern(Key("norm", "features.0"));
  const uint64_t out = Intern(Key("norm", "classifier"));
  const uint64_t other_run = Intern(Key("norm", "features.0", "weight", {"run-2", 0, 0}));
  auto batch = BatchOf({At(in, 1, 1), At(out, 1, 1), At(12345, 1, 1)});
  batch->events = {EventOf("mine"), EventOf("daemon", {})};
  hub_.Offer(batch);
  auto other = Producer(9, {"run-2", 0, 0});
  other->run = "another";
  batch = BatchOf({At(other_run, 1, 1)}, 0, other);
  batch->events = {EventOf("theirs", {"run-2", 0, 0})};
  hub_.Offer(batch);
  const WatchUpdate update = watcher->Take(100);
  ASSERT_EQ(update.samples.size(), 1u);
  EXPECT_EQ(update.samples[0].series_id, in);
  EXPECT_EQ(update.new_series.size(), 1u);
  ASSERT_EQ(update.events.size(), 2u);
  EXPECT_EQ(update.events[0].kind, "mine");
  EXPECT_EQ(update.events[1].kind, "daemon");
}

TEST_F(WatchHubTest, ASlowWatcherLosesTheOldestAndIsToldSo) {
  auto watcher = Watch();
  const uint64_t id = Intern(Key("loss", "", ""));
  std::vector<Sample> samples;
  for (uint64_t step = 0; step < WatchHub::kSamplesQueuedMax + 10; ++step) samples.push_back(At(id, step, 1));
  hub_.Offer(BatchOf(samples));
  SinkCounters counters = hub_.counters();
  EXPECT_EQ(counters.offered, samples.size());
  EXPECT_EQ(counters.dropped, 10u);
  EXPECT_EQ(counters.queued, WatchHub::kSamplesQueuedMax);
  const WatchUpdate update = watcher->Take(1'000'000);
  EXPECT_EQ(update.new_series.size(), 1u);
  EXPECT_EQ(update.dropped, 10u);
  ASSERT_EQ(update.samples.size(), WatchHub::kSamplesQueuedMax);
  EXPECT_EQ(update.samples.front().step, 10u);
  EXPECT_EQ(update.samples.back().step, samples.back().step);
  counters = hub_.counters();
  EXPECT_EQ(counters.written + counters.dropped, counters.offered);
  // What a watcher leaves behind when it goes is dropped.
  hub_.Offer(BatchOf({At(id, 1, 1)}));
  watcher.reset();
  counters = hub_.counters();
  EXPECT_EQ(counters.dropped, 11u);
  EXPECT_EQ(counters.written + counters.dropped, counters.offered);
}

TEST_F(WatchHubTest, OldEventsGiveWay) {
  auto watcher = Watch();
  auto batch = BatchOf({});
  for (size_t i = 0; i < WatchHub::kEventsQueuedMax + 3; ++i) batch->events.push_back(EventOf(std::to_string(i)));
  hub_.Offer(batch);
  const WatchUpdate update = watcher->Take(1);
  ASSERT_EQ(update.events.size(), WatchHub::kEventsQueuedMax);
  EXPECT_EQ(update.events.front().kind, "3");
}

TEST_F(WatchHubTest, WakesOnceUntilEverythingWasTaken) {
  auto watcher = Watch();
  int calls = 0;
  watcher->SetWakeUp([&] { ++calls; });
  const uint64_t id = Intern(Key("loss", "", ""));
  hub_.Offer(BatchOf({At(id, 1, 1)}));
  hub_.Offer(BatchOf({At(id, 2, 1)}));
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(watcher->Take(1).samples.size(), 1u);
  hub_.Offer(BatchOf({At(id, 3, 1)}));
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(watcher->Take(10).samples.size(), 2u);
  EXPECT_TRUE(watcher->Take(10).samples.empty());
  hub_.Offer(BatchOf({At(id, 4, 1)}));
  EXPECT_EQ(calls, 2);
  // Nothing of interest wakes nobody.
  (void)watcher->Take(10);
  (void)watcher->Take(10);
  hub_.Offer(BatchOf({}));
  EXPECT_EQ(calls, 2);
}

TEST_F(WatchHubTest, SixtyFourWatchersAndNoMore) {
  std::vector<std::unique_ptr<Watcher>> watchers;
  for (size_t i = 0; i < WatchHub::kWatchersMax; ++i) watchers.push_back(Watch());
  auto refused = hub_.Watch({});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(refused.error().text, HasSubstr("64 clients watch already"));
  watchers.pop_back();
  EXPECT_TRUE(hub_.Watch({}).ok());
}

TEST_F(WatchHubTest, WatchersComeAndGoWhileSamplesArrive) {
  const uint64_t id = Intern(Key("loss", "", ""));
  std::atomic<bool> done{false};
  std::thread offering([&] {
    for (uint64_t step = 0; !done; ++step) hub_.Offer(BatchOf({At(id, step, 1)}));
  });
  std::vector<std::thread> watching;
  for (int i = 0; i < 4; ++i) {
    watching.emplace_back([&] {
      for (int round = 0; round < 50; ++round) {
        auto watcher = Watch();
        auto woken = std::make_unique<std::atomic<int>>(0);
        watcher->SetWakeUp([flag = woken.get()] { ++*flag; });
        EXPECT_TRUE(Eventually([&] { return *woken > 0; }));
        std::set<uint64_t> known;
        for (int takes = 0; takes < 3; ++takes) {
          const WatchUpdate update = watcher->Take(100);
          for (const Series& series : update.new_series) known.insert(series.id);
          for (const Sample& sample : update.samples) EXPECT_TRUE(known.contains(sample.series_id));
        }
        watcher.reset();
        woken.reset();  // no callback is running any more
      }
    });
  }
  for (auto& thread : watching) thread.join();
  done = true;
  offering.join();
  EXPECT_EQ(hub_.counters().queued, 0u);
  EXPECT_EQ(hub_.watchers(), 0u);
}

}  // namespace
}  // namespace ikkuna::sinks
