// The watch hub under those who are slow, late, broken or many.
#include <gmock/gmock.h>

#include <atomic>
#include <future>
#include <stdexcept>
#include <thread>

#include "daemon/sinks/queued_sink.h"
#include "daemon/sinks/watch_groups.h"
#include "tests/daemon/sinks/watch_fixture.h"

namespace ikkuna::sinks {
namespace {

using ::testing::ElementsAre;

class WatchTrouble : public WatchHubTest {};

TEST_F(WatchTrouble, AFilterFindsTheRunThatStartsLater) {
  SeriesFilter by_display;
  by_display.run = "later";
  SeriesFilter by_id;
  by_id.run = "run-7";
  by_id.rank = 1;
  SeriesFilter wrong_rank = by_id;
  wrong_rank.rank = 0;
  auto display = Watch(by_display);
  auto id = Watch(by_id);
  auto none = Watch(wrong_rank);
  Offer(1);
  Flush();
  ProducerInfo info = Producer({"run-7", 0, 1}, 9);
  info.run = "later";
  auto run = std::make_shared<ikkuna::Run>(info);
  const uint32_t loss = Intern(*run, Name("loss"));
  auto first = BatchOf(run, 1, {Number(loss, 1)});
  first->events.push_back(EventOf("run_started", run->key()));
  hub_->Offer(first);
  // A series that the run has only then.
  hub_->Offer(BatchOf(run, 2, {Number(Intern(*run, Name("norm")), 1), Number(loss, 2)}));
  Flush();
  for (Watcher* watcher : {display.get(), id.get()}) {
    View view;
    view.Take(*watcher);
    EXPECT_THAT(view.steps, ElementsAre(1, 2, 2));
    EXPECT_THAT(view.events, ElementsAre("run_started"));
    EXPECT_EQ(view.series.size(), 2u);
  }
  EXPECT_TRUE(none->Take(10).updates.empty());
}

TEST_F(WatchTrouble, TheRunOfTheDaemonIsForThoseWhoNameIt) {
  auto all = Watch();
  SeriesFilter filter;
  filter.run = kDaemonRunId;
  auto named = Watch(filter);
  ProducerInfo info = Producer({kDaemonRunId, 0, 0}, 9);
  info.run.clear();
  auto run = std::make_shared<ikkuna::Run>(info);
  hub_->Offer(BatchOf(run, 1, {Number(Intern(*run, Name("cpu")), 1)}));
  Flush();
  EXPECT_TRUE(all->Take(10).updates.empty());
  EXPECT_EQ(named->Take(10).updates.size(), 2u);
}

// The hub's thread stands still: nothing of it is ingest's concern.
TEST_F(WatchTrouble, WhoOffersWaitsForNoFilterAndNoWatcherAndWhatTheHubCannotTakeIsCounted) {
  auto holding = Watch();
  SeriesFilter other_filter;
  other_filter.topic = "loss";
  auto watcher = Watch(other_filter);
  std::promise<void> inside, release;
  std::atomic<bool> first{true};
  holding->SetWakeUp([&] {
    if (!first.exchange(false)) return;
    inside.set_value();
    release.get_future().wait();
  });
  Offer(0);
  inside.get_future().wait();
  const WatchCursor before = hub_->Cursor();
  const size_t offers = QueueOptions{}.batches_max + 5'000;
  for (uint64_t step = 1; step <= offers; ++step) Offer(step);
  const WatchCursor within{before.daemon, before.position + 2'000};
  const WatchCursor behind{before.daemon, before.position + 5'000};
  EXPECT_EQ(hub_->Cursor().position, 1 + offers);
  release.set_value();
  Flush();
  View view;
  const WatchTaken taken = view.Take(*watcher);
  EXPECT_EQ(taken.dropped, 5'000u);
  EXPECT_EQ(view.steps.size(), 1 + offers - 5'000);
  EXPECT_EQ(view.steps.front(), 0u);
  EXPECT_EQ(view.steps[1], 5'001u);  // the oldest went
  // Nobody goes on from within the gap, or from before it.
  for (const WatchCursor& cursor : {before, within}) {
    auto refused = hub_->Watch({}, cursor);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, ErrorCode::kFailedPrecondition);
  }
  EXPECT_TRUE(hub_->Watch({}, behind).ok());
  ExpectIdentity(hub_->Counters());
}

// What was lost may be counted with an earlier batch than the one behind the gap.
TEST(WatchGap, AGapIsSeenByThePositionsAlone) {
  WatchGroups groups(1 << 20, 1 << 20);
  auto run = NewRun();
  const uint32_t loss = Intern(*run, Name("loss"));
  groups.Accept(BatchOf(run, 1, {Number(loss, 1)}), 1, 0, 0);
  groups.Accept(BatchOf(run, 5, {Number(loss, 1)}), 5, 0, 0);
  for (const uint64_t position : {0, 1, 3}) EXPECT_FALSE(groups.Join({}, position, true).ok()) << position;
  auto member = groups.Join({}, 4, true);
  ASSERT_TRUE(member.ok());
  EXPECT_EQ(groups.Take(**member, 10).updates.back()->batch->stamp.step, 5u);
}

TEST_F(WatchTrouble, AWakeUpThatThrowsCostsNobodyElseTheirs) {
  auto bad = Watch();
  auto good = Watch();
  std::atomic<int> bad_calls{0}, good_calls{0};
  bad->SetWakeUp([&] {
    ++bad_calls;
    throw std::runtime_error("no thread");
  });
  good->SetWakeUp([&] { ++good_calls; });
  Offer(1);
  Flush();
  EXPECT_EQ(good_calls, 1);
  Offer(2);
  Flush();
  EXPECT_EQ(bad_calls, 2);  // it is tried again
  View view;
  view.Take(*bad);
  EXPECT_THAT(view.steps, ElementsAre(1, 2));
  EXPECT_EQ(hub_->Counters().failures, 0u);
}

TEST_F(WatchTrouble, AWatcherThatEndsWhileItIsWokenWaitsForThatAlone) {
  auto watcher = Watch();
  auto other = Watch();
  std::promise<void> inside, release;
  auto alive = std::make_unique<std::atomic<bool>>(true);
  watcher->SetWakeUp([&, flag = alive.get()] {
    inside.set_value();
    release.get_future().wait();
    *flag = false;
  });
  Offer(1);
  inside.get_future().wait();
  std::atomic<bool> gone{false};
  std::thread ending([&] {
    watcher.reset();
    EXPECT_FALSE(*alive);  // the callback had returned
    alive.reset();
    gone = true;
  });
  // Meanwhile nobody else waits: neither a Take, nor a watch that begins or ends, nor the counters.
  EXPECT_EQ(other->Take(10).updates.size(), 2u);
  Watch().reset();
  ExpectIdentity(hub_->Counters());
  EXPECT_FALSE(gone);
  release.set_value();
  ending.join();
  EXPECT_EQ(hub_->watchers(), 1u);
  Offer(2);
  Flush();
  EXPECT_EQ(other->Take(10).updates.size(), 1u);
}

TEST_F(WatchTrouble, TwoHundredAndFiftySixFiltersSeeEachItsOwn) {
  std::vector<std::unique_ptr<Watcher>> watchers;
  std::vector<uint32_t> series;
  for (size_t i = 0; i < WatchHub::kWatchersMax; ++i) {
    SeriesFilter filter;
    filter.module = "m" + std::to_string(i) + "|all";
    watchers.push_back(Watch(filter));
    series.push_back(Intern(*run_, Name("norm", "m" + std::to_string(i))));
  }
  const uint32_t all = Intern(*run_, Name("norm", "all"));
  for (uint64_t step = 0; step < 3; ++step) {
    std::vector<Sample> samples{Number(all, -1)};
    for (size_t i = 0; i < series.size(); ++i) samples.push_back(Number(series[i], double(i)));
    hub_->Offer(BatchOf(run_, step, samples));
  }
  Flush();
  for (size_t i = 0; i < watchers.size(); ++i) {
    const WatchTaken taken = watchers[i]->Take(1'000);
    ASSERT_EQ(taken.updates.size(), 4u);
    for (size_t at = 1; at < 4; ++at) {
      const auto& samples = taken.updates[at]->batch->samples;
      ASSERT_EQ(samples.size(), 2u);
      EXPECT_EQ(samples[1].value, double(i));
    }
  }
  EXPECT_EQ(hub_->Counters().written, 3 * 2 * WatchHub::kWatchersMax);
}

// It comes back with the cursor of what it had last, over and over, while values arrive.
TEST_F(WatchTrouble, WhoBreaksOffAndComesBackMissesNothing) {
  std::atomic<bool> done{false};
  std::thread offering([&] {
    for (uint64_t step = 1; step <= 20'000; ++step) Offer(step);
    done = true;
  });
  WatchCursor cursor = hub_->Cursor();
  cursor.position = 0;
  std::vector<uint64_t> steps;
  while (steps.size() < 20'000) {
    auto watcher = Watch({}, cursor);
    View view;
    EXPECT_TRUE(Eventually([&] {
      view.Add(watcher->Take(100));
      return !view.steps.empty();
    }));
    steps.insert(steps.end(), view.steps.begin(), view.steps.end());
    cursor.position = view.position;
  }
  offering.join();
  for (size_t i = 0; i < steps.size(); ++i) ASSERT_EQ(steps[i], i + 1);
}

}  // namespace
}  // namespace ikkuna::sinks
