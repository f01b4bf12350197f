#include "daemon/sinks/watch_hub.h"

#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "tests/daemon/sinks/watch_fixture.h"

namespace ikkuna::sinks {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(WatchHubTest, ASeriesIsAnnouncedOnceAndBeforeItsValues) {
  auto watcher = Watch();
  Offer(1);
  Offer(2);
  Flush();
  WatchTaken taken = watcher->Take(1);
  ASSERT_EQ(taken.updates.size(), 2u);
  ASSERT_EQ(taken.updates[0]->new_series.size(), 1u);
  EXPECT_EQ(taken.updates[0]->new_series[0]->name.topic, "loss");
  EXPECT_EQ(taken.updates[0]->run->run, "fashion");
  EXPECT_EQ(taken.updates[1]->batch->stamp.step, 1u);
  View view;
  view.Add(taken);
  view.Take(*watcher);
  EXPECT_THAT(view.steps, ElementsAre(1, 2));
}

TEST_F(WatchHubTest, EveryTypeOfValueAndEventsPass) {
  const uint32_t text = Intern(*run_, Name("text", "", "note"), ValueType::kText);
  const uint32_t histogram = Intern(*run_, Name("weights_histogram", "fc"), ValueType::kHistogram);
  const uint32_t tensor = Intern(*run_, Name("confusion"), ValueType::kTensor);
  auto watcher = Watch();
  TensorValue matrix;
  matrix.sizes = {1, 2};
  matrix.values = {3, 4};
  auto batch =
      BatchOf(run_, 5, {Number(loss_, NAN)},
              {{text, 0, Text{"one"}}, {text, 0, Text{"two"}}, {histogram, 0, Histogram{}}, {tensor, 0, matrix}});
  batch->events.push_back(EventOf("non_finite"));
  hub_->Offer(batch);
  Flush();
  const WatchTaken taken = watcher->Take(100);
  ASSERT_EQ(taken.updates.size(), 2u);
  EXPECT_EQ(taken.updates[0]->new_series.size(), 4u);
  EXPECT_EQ(taken.updates[1]->batch, batch);  // all of it: no copy
  EXPECT_EQ(std::get<Text>(taken.updates[1]->batch->others[1].value).text, "two");
  EXPECT_EQ(taken.updates[1]->batch->events[0].kind, "non_finite");
}

TEST_F(WatchHubTest, OnlyWhatPassesTheFilterAndOnlyThatIsKept) {
  SeriesFilter filter;
  filter.run = "fashion";
  filter.module = "features.*|head";
  auto watcher = Watch(filter);
  const uint32_t in = Intern(*run_, Name("norm", "features.0"));
  const uint32_t out = Intern(*run_, Name("norm", "classifier"));
  const uint32_t note = Intern(*run_, Name("note", "head"), ValueType::kText);
  auto batch = BatchOf(run_, 1, {Number(in, 1), Number(out, 2), Number(12'345, 3)}, {{note, 0, Text{"yes"}}});
  batch->events = {EventOf("mine"), EventOf("theirs", {"run-2", 0, 0}), EventOf("daemon", {})};
  hub_->Offer(batch);
  ProducerInfo info = Producer({"run-2", 0, 0}, 9);
  info.run = "another";
  auto other = std::make_shared<ikkuna::Run>(info);
  hub_->Offer(BatchOf(other, 1, {Number(Intern(*other, Name("norm", "features.0")), 1)}));
  // An event of a run that comes without its run: its display name is known from its batches.
  auto of_daemon = std::make_shared<Batch>();
  of_daemon->events = {EventOf("frozen"), EventOf("frozen_theirs", {"run-2", 0, 0})};
  hub_->Offer(of_daemon);
  Flush();
  const std::weak_ptr<Batch> whole = batch;
  View view;
  const WatchTaken taken = watcher->Take(100);
  view.Add(taken);
  EXPECT_THAT(view.steps, ElementsAre(1));
  EXPECT_EQ(view.others, 1u);
  EXPECT_EQ(view.series.size(), 2u);
  EXPECT_THAT(view.events, ElementsAre("mine", "daemon", "frozen"));
  for (const auto& update : taken.updates) EXPECT_NE(update->batch, batch);
}

TEST_F(WatchHubTest, EqualFiltersShareUpdatesAndWhatIsMadeOfThem) {
  SeriesFilter filter;
  filter.topic = "loss";
  auto one = Watch(filter);
  auto two = Watch(filter);
  auto other = Watch();
  Offer(1);
  Flush();
  const WatchTaken of_one = one->Take(10);
  const WatchTaken of_two = two->Take(10);
  ASSERT_EQ(of_one.updates.size(), 2u);
  EXPECT_EQ(of_one.updates, of_two.updates);
  EXPECT_NE(of_one.updates, other->Take(10).updates);
  int made = 0;
  const auto encode = [&](const WatchUpdate& update) {
    ++made;
    return "step " + std::to_string(update.batch->stamp.step);
  };
  EXPECT_EQ(*of_one.updates[1]->Once<std::string>(encode), "step 1");
  EXPECT_EQ(*of_two.updates[1]->Once<std::string>(encode), "step 1");
  EXPECT_EQ(made, 1);
  // One that comes later is told of the series, too.
  auto late = Watch(filter);
  Offer(2);
  Flush();
  View view;
  view.Take(*late);
  EXPECT_THAT(view.steps, ElementsAre(2));
}

TEST_F(WatchHubTest, BeginsWhereAReadEnded) {
  Offer(1);
  Offer(2);
  const WatchCursor cursor = hub_->Cursor();
  Offer(3);
  Flush();
  auto watcher = Watch({}, cursor);
  Offer(4);
  Flush();
  View view;
  view.Take(*watcher, 1);
  EXPECT_THAT(view.steps, ElementsAre(3, 4));
  // And where a watch ended.
  const WatchCursor after{cursor.daemon, view.position};
  watcher.reset();
  Offer(5);
  watcher = Watch({}, after);
  Offer(6);
  Flush();
  View again;
  again.Take(*watcher);
  EXPECT_THAT(again.steps, ElementsAre(5, 6));
  // Without a cursor: from now on, also where the hub has not come so far.
  watcher = Watch();
  Flush();
  View now;
  now.Take(*watcher);
  EXPECT_TRUE(now.steps.empty());
}

TEST_F(WatchHubTest, NoStepIsMissedOrComesTwiceWhereverAWatchBegins) {
  std::atomic<bool> done{false};
  std::thread offering([&] {
    for (uint64_t step = 1; step <= 30'000; ++step) Offer(step);
    done = true;
  });
  int rounds = 0;
  while (!done || rounds < 5) {
    const WatchCursor cursor = hub_->Cursor();
    auto watcher = Watch({}, cursor);
    View view;
    EXPECT_TRUE(Eventually([&] {
      view.Take(*watcher, 7);
      return view.steps.size() > 20 || done;
    }));
    for (size_t i = 0; i < view.steps.size(); ++i) ASSERT_EQ(view.steps[i], cursor.position + 1 + i);
    ++rounds;
  }
  offering.join();
}

TEST_F(WatchHubTest, ACursorThatIsTooOldOrOfAnotherDaemonIsRefused) {
  Make(1'000, size_t{1} << 20);
  const WatchCursor start = hub_->Cursor();
  for (uint64_t step = 0; step < 100; ++step) Offer(step);
  Flush();
  auto refused = hub_->Watch({}, start);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kFailedPrecondition);
  EXPECT_THAT(refused.error().text, HasSubstr("read again"));
  WatchCursor other = hub_->Cursor();
  other.daemon[3] ^= 1;
  refused = hub_->Watch({}, other);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kFailedPrecondition);
  EXPECT_THAT(refused.error().text, HasSubstr("another daemon"));
  WatchCursor future = hub_->Cursor();
  ++future.position;
  EXPECT_FALSE(hub_->Watch({}, future).ok());
  EXPECT_TRUE(hub_->Watch({}, hub_->Cursor()).ok());
}

TEST_F(WatchHubTest, ThePastThatIsOvertakenIsCounted) {
  Make(2'000, size_t{1} << 20);
  const WatchCursor start = hub_->Cursor();
  Offer(0);
  Flush();
  auto watcher = Watch({}, start);
  for (uint64_t step = 1; step < 100; ++step) Offer(step);
  Flush();
  View view;
  EXPECT_EQ(view.Take(*watcher).dropped, 1u);
  EXPECT_EQ(view.steps.size(), 99u);
  EXPECT_EQ(DropsFor(hub_->Counters(), "slow_watcher"), 1u);
}

TEST_F(WatchHubTest, ASlowWatcherLosesTheOldestAndIsToldSo) {
  Make(1'000, 20'000);
  auto slow = Watch();
  auto quick = Watch();
  SeriesFilter filter;
  filter.topic = "nothing";
  auto quiet = Watch(filter);
  View quick_view;
  for (uint64_t step = 0; step < 200; ++step) {
    auto batch = BatchOf(run_, step, {Number(loss_, 1)});
    if (step == 0) batch->events.push_back(EventOf("first"));
    hub_->Offer(batch);
    Flush();
    quick_view.Take(*quick);
  }
  EXPECT_EQ(quick_view.steps.size(), 200u);
  SinkCounters counters = hub_->Counters();
  ExpectIdentity(counters);
  EXPECT_GT(counters.waiting, 0u);
  View view;
  const WatchTaken taken = view.Take(*slow);
  EXPECT_GT(taken.dropped, 0u);
  EXPECT_EQ(taken.dropped + view.steps.size(), 200u);
  EXPECT_EQ(taken.events_dropped, 1u);
  EXPECT_EQ(view.steps.back(), 199u);
  EXPECT_EQ(quiet->Take(10).dropped, 0u);
  EXPECT_EQ(quick->Take(10).dropped, 0u);
  counters = hub_->Counters();
  EXPECT_EQ(counters.offered, 400u);
  EXPECT_EQ(counters.waiting, 0u);
  EXPECT_EQ(DropsFor(counters, "slow_watcher"), taken.dropped);
  ExpectIdentity(counters);
  // What a watcher leaves behind when it goes is dropped.
  Offer(200);
  Flush();
  slow.reset();
  counters = hub_->Counters();
  EXPECT_EQ(DropsFor(counters, "left"), 1u);
  EXPECT_EQ(counters.waiting, 1u);
  ExpectIdentity(counters);
}

TEST_F(WatchHubTest, TheGroupThatWaitsForMostPays) {
  Make(1'000, 60'000);
  SeriesFilter filter;
  filter.topic = "loss";
  auto small = Watch(filter);
  auto large = Watch();
  const uint32_t norm = Intern(*run_, Name("norm"));
  Offer(0);
  for (uint64_t step = 1; step < 100; ++step)
    hub_->Offer(BatchOf(run_, step, std::vector<Sample>(50, Number(norm, 1))));
  Flush();
  EXPECT_EQ(small->Take(10).dropped, 0u);
  EXPECT_GT(large->Take(10).dropped, 0u);
}

TEST_F(WatchHubTest, WakesOnceUntilEverythingWasTaken) {
  auto watcher = Watch();
  std::atomic<int> calls{0};
  watcher->SetWakeUp([&] { ++calls; });
  Offer(1);
  Offer(2);
  Flush();
  EXPECT_EQ(calls, 1);
  View view;
  view.Add(watcher->Take(1));
  Offer(3);
  Flush();
  EXPECT_EQ(calls, 1);
  view.Take(*watcher, 10);
  EXPECT_THAT(view.steps, ElementsAre(1, 2, 3));
  Offer(4);
  Flush();
  EXPECT_EQ(calls, 2);
  (void)watcher->Take(10);
  (void)watcher->Take(10);
  // Nothing of interest wakes nobody.
  hub_->Offer(BatchOf(run_, 5, {Number(9'999, 1)}));
  Flush();
  EXPECT_EQ(calls, 2);
}

TEST_F(WatchHubTest, ShuttingDownDeliversTheTail) {
  auto watcher = Watch();
  std::atomic<int> calls{0};
  watcher->SetWakeUp([&] { ++calls; });
  Offer(1);
  Flush();
  View view;
  EXPECT_FALSE(view.Take(*watcher).ended);
  Offer(2);
  Flush();
  hub_->Close();
  EXPECT_EQ(calls, 3);
  Offer(3);
  const WatchTaken taken = watcher->Take(10);
  EXPECT_FALSE(taken.ended);
  EXPECT_EQ(taken.updates.size(), 1u);
  EXPECT_TRUE(watcher->Take(10).ended);
  // A watcher outlives the hub.
  hub_.reset();
  EXPECT_TRUE(watcher->Take(10).ended);
}

TEST_F(WatchHubTest, ARunThatComesAgainUnderItsAddressIsAnother) {
  auto watcher = Watch();
  View view;
  for (uint32_t i = 0; i < 200; ++i) {
    auto run = NewRun({"run", i, 0});
    hub_->Offer(BatchOf(run, i, {Number(Intern(*run, Name("topic" + std::to_string(i))), 1)}));
    run.reset();
    Flush();
    view.Take(*watcher);
  }
  EXPECT_EQ(view.runs.size(), 200u);
  EXPECT_EQ(view.series.size(), 200u);
}

TEST_F(WatchHubTest, AsManyWatchersAsItSaysAndNoMore) {
  std::vector<std::unique_ptr<Watcher>> watchers;
  for (size_t i = 0; i < WatchHub::kWatchersMax; ++i) watchers.push_back(Watch());
  auto refused = hub_->Watch({});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(refused.error().text, HasSubstr("256 clients watch already"));
  watchers.pop_back();
  EXPECT_TRUE(hub_->Watch({}).ok());
  Offer(1);
  Flush();
  for (const auto& watcher : watchers) EXPECT_EQ(watcher->Take(10).updates.size(), 2u);
}

TEST_F(WatchHubTest, WatchersComeAndGoWhileValuesArrive) {
  std::atomic<bool> done{false};
  std::thread offering([&] {
    for (uint64_t step = 0; !done; ++step) {
      Offer(step);
      if (step % 64 == 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  });
  std::vector<std::thread> watching;
  for (int i = 0; i < 4; ++i) {
    watching.emplace_back([&, i] {
      for (int round = 0; round < 50; ++round) {
        SeriesFilter filter;
        if (i % 2) filter.topic = "loss|" + std::to_string(i);
        auto watcher = Watch(filter, round % 3 == 0 ? std::optional(hub_->Cursor()) : std::nullopt);
        auto woken = std::make_unique<std::atomic<int>>(0);
        watcher->SetWakeUp([flag = woken.get()] { ++*flag; });
        EXPECT_TRUE(Eventually([&] { return *woken > 0; }));
        View view;
        for (int takes = 0; takes < 3; ++takes) view.Add(watcher->Take(100));
        watcher.reset();
        woken.reset();  // no callback is running any more
        ExpectIdentity(hub_->Counters());
      }
    });
  }
  for (auto& thread : watching) thread.join();
  done = true;
  offering.join();
  EXPECT_EQ(hub_->watchers(), 0u);
  Flush();
  EXPECT_EQ(hub_->Counters().waiting, 0u);
}

}  // namespace
}  // namespace ikkuna::sinks
