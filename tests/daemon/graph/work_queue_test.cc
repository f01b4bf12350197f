#include "daemon/graph/work_queue.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <stdexcept>

#include "daemon/graph/memory_budget.h"

namespace ikkuna::graph {
namespace {

using std::chrono::steady_clock;
constexpr std::chrono::seconds kLong{60};

// Something that happens once, and may be waited for.
class Signal {
 public:
  void Set() {
    std::lock_guard lock(mutex_);
    set_ = true;
    changed_.notify_all();
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, kLong, [this] { return set_; }));
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;
};

// A job that holds its thread until it is let go.
struct Blocker {
  Signal begun, let_go;
  Job job() {
    return {[this] {
              begun.Set();
              let_go.Wait();
            },
            {}};
  }
};

// Nothing waits or runs, and what the last job held is destroyed.
bool WaitIdle(const WorkQueue& queue) {
  for (const auto until = steady_clock::now() + kLong; steady_clock::now() < until;) {
    const WorkQueueStatus status = queue.status();
    if (status.waiting == 0 && status.busy == 0) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

class WorkQueueTest : public testing::Test {
 public:
  void SetUp() override { ::alarm(120); }  // nothing here may hang
  void TearDown() override { ::alarm(0); }
};

TEST_F(WorkQueueTest, JobsOfALaneRunInOrderOneAtATime) {
  WorkQueue queue(4);
  const auto share = queue.OpenShare();
  const auto source = share->OpenSource({.waiting_max = 100'000});
  struct Lane {
    std::shared_ptr<WorkLane> lane;
    std::atomic<int> inside{0};
    std::vector<int> seen;  // no lock: the lane is the lock (TSan looks)
  };
  std::vector<Lane> lanes(7);
  for (Lane& lane : lanes) lane.lane = source->OpenLane();
  std::atomic<bool> overlap{false};
  for (int i = 0; i < 3000; ++i) {
    for (Lane& lane : lanes) {
      ASSERT_TRUE(lane.lane->Push({[&lane, &overlap, i] {
                                     overlap = overlap || lane.inside.fetch_add(1) != 0;
                                     lane.seen.push_back(i);
                                     lane.inside.fetch_sub(1);
                                   },
                                   {}}));
    }
  }
  ASSERT_TRUE(WaitIdle(queue));
  EXPECT_FALSE(overlap);
  for (const Lane& lane : lanes) {
    ASSERT_EQ(lane.seen.size(), 3000u);
    EXPECT_TRUE(std::is_sorted(lane.seen.begin(), lane.seen.end()));
  }
}

TEST_F(WorkQueueTest, LanesOfOneSubscriberRunSideBySide) {
  WorkQueue queue(2);
  const auto source = queue.OpenShare()->OpenSource({});
  const auto one = source->OpenLane(), other = source->OpenLane();
  Signal first, second;
  // Each waits for the other: on one thread this would never end.
  one->Push({[&] {
               first.Set();
               second.Wait();
             },
             {}});
  other->Push({[&] {
                 second.Set();
                 first.Wait();
               },
               {}});
  EXPECT_TRUE(queue.Close(steady_clock::now() + kLong));
}

TEST_F(WorkQueueTest, TheOldestGivesWayAndIsTold) {
  WorkQueue queue(1);
  const auto share = queue.OpenShare();
  const auto counters = std::make_shared<QueueCounters>();
  const auto source = share->OpenSource({.waiting_max = 3, .counters = counters});
  const auto lane = source->OpenLane(), other = source->OpenLane();
  Blocker blocker;
  lane->Push(blocker.job());
  blocker.begun.Wait();
  std::vector<int> ran, dropped;
  for (int i = 0; i < 10; ++i) {
    WorkLane& to = i % 2 == 0 ? *lane : *other;
    EXPECT_TRUE(to.Push({[&ran, i] { ran.push_back(i); },
                         [&dropped, i](NotRun why) {
                           EXPECT_EQ(why, NotRun::kQueueFull);
                           dropped.push_back(i);
                         },
                         100}));
  }
  EXPECT_EQ(dropped, (std::vector<int>{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(source->waiting(), 3u);
  EXPECT_EQ(counters->waiting, 3u);
  EXPECT_EQ(counters->dropped, 7u);
  EXPECT_EQ(counters->bytes, 300u);
  EXPECT_EQ(counters->running, 1u);
  EXPECT_EQ(queue.status().waiting, 3u);
  EXPECT_EQ(queue.status().busy, 1u);
  blocker.let_go.Set();
  ASSERT_TRUE(WaitIdle(queue));
  std::sort(ran.begin(), ran.end());  // two lanes
  EXPECT_EQ(ran, (std::vector<int>{7, 8, 9}));
  EXPECT_EQ(counters->done, 4u);
  EXPECT_EQ(counters->pushed, 11u);
  EXPECT_EQ(counters->waiting + counters->running + counters->bytes, 0u);
  EXPECT_GT(counters->busy_ns, 0u);
  EXPECT_GT(queue.status().busy_seconds, 0.0);
}

TEST_F(WorkQueueTest, ABoundOfNoneIsOne) {
  WorkQueue queue(1);
  const auto share = queue.OpenShare();
  const auto lane = share->OpenSource({.waiting_max = 0})->OpenLane();
  std::atomic<int> ran{0};
  EXPECT_TRUE(lane->Push({[&] { ++ran; }, {}}));
  ASSERT_TRUE(WaitIdle(queue));
  EXPECT_EQ(ran, 1);
}

// A subscriber that always has work, on lanes enough for all threads, beside one that has some now and then.
TEST_F(WorkQueueTest, OneThatTakesAllThreadsLetsTheOthersIn) {
  // Turns are by time: with jobs of nothing a thread that is not run for a moment has had hundreds of turns.
  const auto takes_time = [](std::function<void()> job) {
    return [job = std::move(job)] {
      ::usleep(100);
      job();
    };
  };
  // The order is that of one thread: of two, one may have the other's job in hand and not be run for a while.
  for (const auto& [threads, same_producer] : {std::pair(1, true), {1, false}, {2, true}, {2, false}}) {
    WorkQueue queue(threads);
    const auto greedy_share = queue.OpenShare();
    const auto share = same_producer ? greedy_share : queue.OpenShare();
    const auto greedy = greedy_share->OpenSource({.waiting_max = 100'000});
    const auto modest = share->OpenSource({.waiting_max = 100'000});
    std::vector<std::shared_ptr<WorkLane>> lanes(50);
    std::atomic<int> greedy_ran{0};
    Blocker first, second;
    for (auto& lane : lanes) lane = greedy->OpenLane();
    lanes[0]->Push(first.job());
    if (threads > 1) lanes[1]->Push(second.job());
    first.begun.Wait();
    if (threads > 1) second.begun.Wait();
    for (int i = 0; i < 40; ++i) {
      for (auto& lane : lanes) lane->Push({takes_time([&] { ++greedy_ran; }), {}});
    }
    const auto late = modest->OpenLane();
    std::vector<int> at;  // how much the other had run by then
    for (int i = 0; i < 20; ++i) late->Push({takes_time([&] { at.push_back(greedy_ran); }), {}});
    first.let_go.Set();
    second.let_go.Set();
    ASSERT_TRUE(WaitIdle(queue));
    ASSERT_EQ(at.size(), 20u);
    // In turns it would be some 20; behind all of them 2,000.
    if (threads == 1) {
      EXPECT_LT(at.front(), 100) << same_producer;
      EXPECT_LT(at[10], 1000) << same_producer;
    }
    EXPECT_EQ(greedy_ran, 2000);
  }
}

// Turns are by time, not by jobs: one that takes long has fewer of them.
TEST_F(WorkQueueTest, TurnsAreByTheTimeTaken) {
  WorkQueue queue(1);
  const auto share = queue.OpenShare();
  const auto slow_source = share->OpenSource({.waiting_max = 1000});
  const auto quick_source = share->OpenSource({.waiting_max = 1000});
  const auto slow = slow_source->OpenLane(), quick = quick_source->OpenLane();
  const auto third_source = share->OpenSource({});  // whose time is neither's
  const auto third_lane = third_source->OpenLane();
  Blocker blocker;
  third_lane->Push(blocker.job());
  blocker.begun.Wait();
  std::string order;
  for (int i = 0; i < 5; ++i) {
    slow->Push({[&] {
                  order += 's';
                  std::this_thread::sleep_for(std::chrono::milliseconds(40));
                },
                {}});
  }
  for (int i = 0; i < 50; ++i) quick->Push({[&] { order += 'q'; }, {}});
  blocker.let_go.Set();
  ASSERT_TRUE(WaitIdle(queue));
  // The 50 quick ones take less time than a slow one. In turns there would be three before the third of those.
  size_t third = order.find('s');
  for (int i = 0; i < 2; ++i) third = order.find('s', third + 1);
  EXPECT_GT(std::count(order.begin(), order.begin() + static_cast<long>(third), 'q'), 20) << order;
}

// Who did nothing for long has saved up no time: the others need not stand back until it has had as much.
TEST_F(WorkQueueTest, OneThatComesLateBeginsWhereTheOthersAre) {
  for (const bool same_producer : {true, false}) {
    WorkQueue queue(1);
    const auto share = queue.OpenShare();
    const auto late_share = same_producer ? share : queue.OpenShare();
    const auto lane = share->OpenSource({.waiting_max = 1000})->OpenLane();
    const auto late = late_share->OpenSource({.waiting_max = 1000})->OpenLane();
    const auto sleep = [] { std::this_thread::sleep_for(std::chrono::milliseconds(5)); };
    for (int i = 0; i < 40; ++i) lane->Push({sleep, {}});
    ASSERT_TRUE(WaitIdle(queue));
    Blocker blocker;
    late->Push(blocker.job());
    blocker.begun.Wait();
    int late_ran = 0, late_before = -1;
    for (int i = 0; i < 40; ++i) {
      late->Push({[&] {
                    sleep();
                    ++late_ran;
                  },
                  {}});
    }
    lane->Push({[&] { late_before = late_ran; }, {}});
    blocker.let_go.Set();
    ASSERT_TRUE(WaitIdle(queue));
    EXPECT_LT(late_before, 20) << same_producer;  // else some 40
  }
}

TEST_F(WorkQueueTest, WhatAJobThrowsIsReportedAndOthersGoOn) {
  WorkQueue queue(1);
  const auto share = queue.OpenShare();
  const auto counters = std::make_shared<QueueCounters>();
  std::vector<std::string> told;
  std::shared_ptr<WorkSource> source;
  source = share->OpenSource({.counters = counters, .failed = [&](const std::string& what) {
                                told.push_back(what);
                                if (told.size() == 2) source->Cancel();  // as a graph switches a subscriber off
                              }});
  const auto lane = source->OpenLane();
  Blocker blocker;
  lane->Push(blocker.job());
  blocker.begun.Wait();
  int cancelled = 0, ran = 0;
  lane->Push({[] { throw std::runtime_error("no such matrix"); }, {}});
  lane->Push({[&] { ++ran; }, {}});
  lane->Push({[] { throw 7; }, {}});
  lane->Push({[&] { ++ran; }, [&](NotRun why) { cancelled += why == NotRun::kCancelled; }});
  blocker.let_go.Set();
  ASSERT_TRUE(WaitIdle(queue));
  EXPECT_EQ(told, (std::vector<std::string>{"no such matrix", "an exception of an unknown type"}));
  EXPECT_EQ(ran, 1);
  EXPECT_EQ(cancelled, 1);
  EXPECT_EQ(counters->failed, 2u);
  EXPECT_EQ(counters->done, 2u);
  EXPECT_EQ(counters->cancelled, 1u);
  EXPECT_FALSE(lane->Push({[&] { ++ran; }, [&](NotRun) { ++cancelled; }}));
  EXPECT_EQ(cancelled, 2);
  // The other subscribers of the producer know nothing of it.
  const auto other = share->OpenSource({})->OpenLane();
  EXPECT_TRUE(other->Push({[&] { ++ran; }, {}}));
  ASSERT_TRUE(WaitIdle(queue));
  EXPECT_EQ(ran, 2);
}

TEST_F(WorkQueueTest, AThreadIsBusyWithWhatAJobHoldsAndWhatThatStartsWaits) {
  WorkQueue queue(2);
  const auto share = queue.OpenShare();
  const auto lane = share->OpenSource({})->OpenLane(), next = share->OpenSource({})->OpenLane();
  std::atomic<bool> last{false};
  // As the last reference to results does: what is made of them begins when the job's closure goes.
  std::shared_ptr<void> results(nullptr, [&](void*) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    next->Push({[&] {
                  std::this_thread::sleep_for(std::chrono::milliseconds(20));
                  last = true;
                },
                {}});
  });
  lane->Push({[results] {}, {}});
  results.reset();
  ASSERT_TRUE(WaitIdle(queue));
  EXPECT_TRUE(last);
}

TEST_F(WorkQueueTest, CancelOfAProducerLeavesTheOthers) {
  WorkQueue queue(1);
  const auto share = queue.OpenShare(), other_share = queue.OpenShare();
  const auto source = share->OpenSource({});
  const auto lane = source->OpenLane(), other = other_share->OpenSource({})->OpenLane();
  Signal begun;
  std::atomic<bool> saw{false};
  lane->Push({[&] {
                begun.Set();
                while (!source->cancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
                saw = true;
              },
              {}});
  begun.Wait();
  int told = 0, ran = 0;
  for (int i = 0; i < 5; ++i)
    lane->Push({[&] { ADD_FAILURE(); }, [&](NotRun why) { told += why == NotRun::kCancelled; }});
  other->Push({[&] { ++ran; }, {}});
  EXPECT_EQ(told, 0);
  EXPECT_EQ(share->Cancel(), 1u);
  EXPECT_EQ(told, 5);
  EXPECT_FALSE(lane->Push({[] {}, {}}));
  EXPECT_FALSE(share->OpenSource({})->OpenLane()->Push({[] {}, {}}));
  ASSERT_TRUE(WaitIdle(queue));
  EXPECT_TRUE(saw);
  EXPECT_EQ(ran, 1);
}

TEST_F(WorkQueueTest, CloseRunsWhatWaitsAndCancelsWhatIsTooLate) {
  auto queue = std::make_unique<WorkQueue>(1);
  const auto source = queue->OpenShare()->OpenSource({});
  const auto lane = source->OpenLane();
  std::atomic<int> ran{0}, told{0};
  for (int i = 0; i < 10; ++i) lane->Push({[&] { ++ran; }, [&](NotRun) { ++told; }});
  EXPECT_TRUE(queue->Close(steady_clock::now() + kLong));
  EXPECT_EQ(ran, 10);
  EXPECT_FALSE(lane->Push({[&] { ++ran; }, [&](NotRun) { ++told; }}));
  EXPECT_EQ(told, 1);
  EXPECT_TRUE(queue->Close(steady_clock::now()));
  queue.reset();
  EXPECT_FALSE(lane->Push({[&] { ++ran; }, [&](NotRun) { ++told; }}));
  EXPECT_EQ(ran, 10);

  queue = std::make_unique<WorkQueue>(1, 0, kLong);
  const auto late_source = queue->OpenShare()->OpenSource({});
  const auto late = late_source->OpenLane();
  Signal begun;
  late->Push({[&] {
                begun.Set();
                while (!late_source->cancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
              },
              {}});
  begun.Wait();
  told = 0;
  for (int i = 0; i < 10; ++i) late->Push({[&] { ADD_FAILURE(); }, [&](NotRun) { ++told; }});
  EXPECT_TRUE(queue->Close(steady_clock::now() + std::chrono::milliseconds(10)));
  EXPECT_EQ(told, 10);
}

TEST_F(WorkQueueTest, AJobThatNeverReturnsDoesNotHoldUpTheEnd) {
  struct Shared {
    Signal begun, let_go, left;
  };
  const auto shared = std::make_shared<Shared>();
  {
    WorkQueue queue(2);
    const auto lane = queue.OpenShare()->OpenSource({})->OpenLane();
    lane->Push({[shared] {
                  shared->begun.Set();
                  shared->let_go.Wait();
                  shared->left.Set();
                },
                {}});
    shared->begun.Wait();
    EXPECT_FALSE(queue.Close(steady_clock::now() + std::chrono::milliseconds(10)));
  }
  // It ends after the queue, and touches nothing that is gone (the sanitizers look).
  shared->let_go.Set();
  shared->left.Wait();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
}

TEST_F(WorkQueueTest, ThreadsAreBoundedAndNice) {
  WorkQueue queue(100'000, 7);
  EXPECT_EQ(queue.status().threads, WorkQueue::kMaxThreads);
  EXPECT_GE(WorkQueue::DefaultThreads(), 1u);
  EXPECT_LE(WorkQueue::DefaultThreads(), 4u);
  const auto share = queue.OpenShare();
  int seen = 0;
  share->OpenSource({})->OpenLane()->Push(
      {[&] { seen = ::getpriority(PRIO_PROCESS, static_cast<id_t>(::gettid())); }, {}});
  ASSERT_TRUE(WaitIdle(queue));
  const int ours = ::getpriority(PRIO_PROCESS, 0);
  EXPECT_EQ(seen, std::max(7, ours));
  EXPECT_EQ(queue.status().nice, seen);
}

// Everything at once, from everywhere; then the books are closed.
TEST_F(WorkQueueTest, EachJobIsRunOrTold) {
  for (const uint32_t threads : {1u, 3u}) {
    WorkQueue queue(threads);
    const auto counters = std::make_shared<QueueCounters>();
    std::atomic<uint64_t> pushed{0}, ran{0}, threw{0}, told{0}, closures{0};
    std::vector<std::thread> producers;
    for (uint32_t producer = 0; producer < 4; ++producer) {
      producers.emplace_back([&, producer] {
        std::mt19937 random(producer);
        for (int life = 0; life < 5; ++life) {
          const auto share = queue.OpenShare();
          std::vector<std::shared_ptr<WorkSource>> sources;
          std::vector<std::shared_ptr<WorkLane>> lanes;
          for (int i = 0; i < 3; ++i) {
            sources.push_back(share->OpenSource({.waiting_max = 1 + random() % 20, .counters = counters}));
            for (int j = 0; j < 3; ++j) lanes.push_back(sources.back()->OpenLane());
          }
          for (int i = 0; i < 400; ++i) {
            ++pushed;
            ++closures;
            const bool throws = random() % 16 == 0;
            std::shared_ptr<void> held(nullptr, [&](void*) { --closures; });
            lanes[random() % lanes.size()]->Push({[&, throws, held] {
                                                    if (!throws) {
                                                      ++ran;
                                                      return;
                                                    }
                                                    ++threw;
                                                    throw std::runtime_error("");
                                                  },
                                                  [&, held](NotRun) { ++told; }, random() % 1000});
            if (random() % 200 == 0) sources[random() % sources.size()]->Cancel();
          }
          lanes.clear();  // what waits goes on
          sources.clear();
          if (random() % 2 == 0) share->Cancel();
          ASSERT_TRUE(WaitIdle(queue));
        }
      });
    }
    for (std::thread& thread : producers) thread.join();
    EXPECT_TRUE(queue.Close(steady_clock::now() + kLong));
    EXPECT_EQ(pushed, 4u * 5 * 400);
    EXPECT_EQ(ran + threw + told, pushed);
    EXPECT_EQ(closures, 0u);
    EXPECT_EQ(counters->pushed, pushed);
    EXPECT_EQ(counters->done, ran);
    EXPECT_EQ(counters->failed, threw);
    EXPECT_EQ(counters->dropped + counters->cancelled, told);
    EXPECT_EQ(counters->waiting, 0u);
    EXPECT_EQ(counters->running, 0u);
    EXPECT_EQ(counters->bytes, 0u);
    EXPECT_EQ(queue.status().waiting, 0u);
  }
}

TEST(MemoryBudgetTest, RefusesBeyondTheMostAndCounts) {
  MemoryBudget budget(1000);
  auto first = budget.Reserve(600);
  ASSERT_TRUE(first);
  EXPECT_FALSE(budget.Reserve(401));
  auto second = budget.Reserve(400);
  ASSERT_TRUE(second);
  EXPECT_EQ(budget.used(), 1000u);
  EXPECT_TRUE(budget.Reserve(0));
  EXPECT_FALSE(budget.Reserve(1));
  EXPECT_FALSE(budget.Reserve(~uint64_t{0}));  // no sum that wraps around
  EXPECT_EQ(budget.refused(), 3u);
  MemoryBudget::Reservation moved = std::move(*first);
  first.reset();
  EXPECT_EQ(budget.used(), 1000u);
  moved = std::move(*second);
  EXPECT_EQ(moved.bytes(), 400u);
  EXPECT_EQ(budget.used(), 400u);
  moved.Release();
  moved.Release();
  EXPECT_EQ(budget.used(), 0u);
  EXPECT_EQ(budget.peak(), 1000u);
}

TEST(MemoryBudgetTest, AReservationOutlivesTheBudget) {
  auto budget = std::make_unique<MemoryBudget>(10);
  auto held = budget->Reserve(10);
  budget.reset();
  held.reset();
}

TEST(MemoryBudgetTest, NeverMoreThanTheMostUnderThreads) {
  MemoryBudget budget(1000);
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      std::mt19937 random(i);
      std::vector<MemoryBudget::Reservation> held;
      for (int k = 0; k < 5000; ++k) {
        if (auto got = budget.Reserve(random() % 300)) held.push_back(std::move(*got));
        if (held.size() > 3) held.erase(held.begin());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(budget.used(), 0u);
  EXPECT_LE(budget.peak(), 1000u);
  EXPECT_GT(budget.refused(), 0u);
}

}  // namespace
}  // namespace ikkuna::graph
