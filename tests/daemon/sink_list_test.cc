// The list of sinks: what it does for each of them.
#include "daemon/sink_list.h"

#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace ikkuna {
namespace {

class FakeSink : public Sink {
 public:
  FakeSink(std::string name, std::vector<std::string>* calls) : name_(std::move(name)), calls_(calls) {}
  std::string name() const override { return name_; }
  void Offer(std::shared_ptr<const Batch> batch) override {
    if (throws) throw std::runtime_error("broken");
    calls_->push_back(name_);
    batches.push_back(std::move(batch));
    counters.offered += batches.back()->values();
    counters.written += batches.back()->values();
  }
  SinkCounters Counters() const override {
    SinkCounters now = counters;
    now.name = name_;
    return now;
  }
  Status Flush(std::chrono::steady_clock::time_point) override {
    calls_->push_back("flush " + name_);
    if (throws) throw std::runtime_error("broken");
    return flushed;
  }
  void Close() override { calls_->push_back("close " + name_); }

  bool throws = false;
  Status flushed;
  SinkCounters counters;
  std::vector<std::shared_ptr<const Batch>> batches;

 private:
  const std::string name_;
  std::vector<std::string>* const calls_;
};

class SinkListTest : public testing::Test {
 protected:
  std::shared_ptr<FakeSink> Add(const std::string& name, Takes takes = Takes::kAll) {
    auto sink = std::make_shared<FakeSink>(name, &calls_);
    list_.Add(sink, takes);
    return sink;
  }
  static std::shared_ptr<Batch> Values(size_t values, const std::string& run_id = "run") {
    auto batch = std::make_shared<Batch>();
    ProducerInfo info;
    info.run_key.run_id = run_id;
    batch->run = std::make_shared<ikkuna::Run>(info);
    batch->samples.resize(values);
    return batch;
  }
  static Event Named(const std::string& kind) {
    Event event;
    event.kind = kind;
    return event;
  }
  std::vector<std::string> calls_;
  SinkList list_;
};

TEST_F(SinkListTest, OffersInItsOrderAndClosesInTheOther) {
  Add("a");
  Add("b");
  list_.Offer(Values(1));
  EXPECT_TRUE(list_.Flush(std::chrono::steady_clock::now()).ok());
  list_.Close();
  EXPECT_EQ(calls_, (std::vector<std::string>{"a", "b", "flush a", "flush b", "close b", "close a"}));
}

TEST_F(SinkListTest, AnEventGetsItsNumberOnceForAll) {
  auto a = Add("a"), b = Add("b");
  list_.Offer(Named("early"));
  EXPECT_EQ(a->batches.back()->events[0].id, 0u) << "nobody numbers them yet";
  uint64_t next = 7;
  list_.SetEventIds([&] { return next++; });
  auto batch = Values(2);
  batch->events = {Named("x"), Named("y")};
  batch->events[1].id = 3;
  list_.Offer(batch);
  EXPECT_EQ(batch->events[0].id, 0u) << "what was offered is not changed";
  for (const auto& sink : {a, b}) {
    EXPECT_EQ(sink->batches.back()->events[0].id, 7u);
    EXPECT_EQ(sink->batches.back()->events[1].id, 3u);
    EXPECT_EQ(sink->batches.back()->samples.size(), 2u);
  }
  auto without = Values(1);
  list_.Offer(without);
  EXPECT_EQ(a->batches.back(), without) << "a batch without events is passed on as it is";
  EXPECT_EQ(next, 8u);
}

TEST_F(SinkListTest, AnEventOfOneSinkGoesToTheOthers) {
  auto a = Add("a"), b = Add("b");
  list_.Offer(Named("of_a"), "a");
  EXPECT_TRUE(a->batches.empty());
  EXPECT_EQ(b->batches.size(), 1u);
}

TEST_F(SinkListTest, OneThatTakesWhatIsKeptGetsThatAloneAndNothingOfTheDaemonsOwnRun) {
  auto all = Add("all"), kept = Add("kept", Takes::kKept);
  auto batch = Values(1);
  list_.Offer(Values(1, kDaemonRunId));
  list_.Offer(batch);
  list_.Offer(Named("of_the_daemon"));
  EXPECT_EQ(all->batches.size(), 3u);
  EXPECT_TRUE(kept->batches.empty());
  list_.OfferKept(Values(1, kDaemonRunId));
  list_.OfferKept(batch);
  EXPECT_EQ(all->batches.size(), 3u);
  ASSERT_EQ(kept->batches.size(), 1u);
  EXPECT_EQ(kept->batches[0], batch);
}

TEST_F(SinkListTest, OneThatThrowsHarmsNobodyElseAndIsCounted) {
  auto bad = Add("bad");
  bad->throws = true;
  auto good = Add("good");
  auto batch = Values(5);
  batch->events = {Named("x")};
  list_.Offer(batch);
  EXPECT_EQ(good->batches.size(), 1u);
  const SinkCounters counters = list_.sinks()[0]->Counters();
  EXPECT_EQ(counters.offered, 5u);
  EXPECT_EQ(counters.dropped, 5u);
  EXPECT_EQ(counters.events_dropped, 1u);
  EXPECT_EQ(counters.failures, 1u);
  EXPECT_EQ(counters.drops, (std::vector<Count>{{"threw", 5}}));
  const Status flushed = list_.Flush(std::chrono::steady_clock::now());
  ASSERT_FALSE(flushed.ok());
  EXPECT_NE(flushed.error().text.find("broken"), std::string::npos);
}

TEST_F(SinkListTest, AFlushTriesAllAndNamesAllThatFailed) {
  Add("a")->flushed = Error{ErrorCode::kUnavailable, "a is full"};
  Add("b");
  Add("c")->flushed = Error{ErrorCode::kUnavailable, "c is slow"};
  const Status flushed = list_.Flush(std::chrono::steady_clock::now());
  ASSERT_FALSE(flushed.ok());
  EXPECT_EQ(flushed.error().text, "a is full; c is slow");
  EXPECT_EQ(calls_.size(), 3u);
}

TEST_F(SinkListTest, CountersOfOneThatIsOffThisTimeAreKeptForTheNext) {
  SinkCounters before;
  before.name = "tensorboard";
  before.offered = before.dropped = 7;
  before.drops = {{"size_cap", 7}};
  list_.Restore({before});
  Add("store");
  const auto kept = list_.Export();
  ASSERT_EQ(kept.size(), 2u);
  EXPECT_EQ(kept[1].name, "tensorboard");
  EXPECT_EQ(kept[1].dropped, 7u);
  EXPECT_EQ(kept[1].drops, before.drops);
}

TEST_F(SinkListTest, CountersGoOnFromThoseOfAnEarlierDaemon) {
  SinkCounters before;
  before.name = "store";
  before.offered = 110;
  before.written = 100;
  before.dropped = 10;
  before.waiting = 4;  // of a process that is gone
  before.failures = 2;
  before.drops = {{"disk", 7}, {"queue_full", 3}};
  list_.Restore({before});
  auto store = Add("store");
  list_.Offer(Values(5));
  store->counters.offered += 1;
  store->counters.dropped = 1;
  store->counters.drops = {{"disk", 1}};
  const SinkCounters now = list_.sinks()[0]->Counters();
  EXPECT_EQ(now.offered, 116u);
  EXPECT_EQ(now.written, 105u);
  EXPECT_EQ(now.dropped, 11u);
  EXPECT_EQ(now.waiting, 0u);
  EXPECT_EQ(now.failures, 2u);
  EXPECT_EQ(now.offered, now.written + now.dropped + now.waiting);
  ASSERT_EQ(now.drops.size(), 2u);
  for (const Count& drop : now.drops) EXPECT_EQ(drop.count, drop.reason == "disk" ? 8u : 3u);
  // What waits is not handed on: nobody knows what becomes of it.
  store->counters.offered += 9;
  store->counters.waiting = 9;
  const SinkCounters exported = list_.Export()[0];
  EXPECT_EQ(exported.offered, 116u);
  EXPECT_EQ(exported.waiting, 0u);
}

// As the store does while the daemon opens the others.
TEST_F(SinkListTest, MayBeOfferedToWhileItGrows) {
  std::vector<std::string> ignored;
  std::atomic<bool> end{false};
  class Counter : public Sink {
   public:
    std::string name() const override { return "counter"; }
    void Offer(std::shared_ptr<const Batch>) override { ++offered; }
    SinkCounters Counters() const override { return {}; }
    Status Flush(std::chrono::steady_clock::time_point) override { return {}; }
    void Close() override {}
    std::atomic<uint64_t> offered{0};
  };
  auto first = std::make_shared<Counter>();
  list_.Add(first);
  std::thread offers([&] {
    while (!end.load()) list_.Offer(Named("x"), "somebody");
  });
  for (size_t i = 1; i < SinkList::kMaxSinks; ++i) list_.Add(std::make_shared<Counter>());
  list_.SetEventIds([] { return uint64_t{1}; });
  while (first->offered.load() < 1000) std::this_thread::yield();
  end.store(true);
  offers.join();
  EXPECT_EQ(list_.sinks().size(), SinkList::kMaxSinks);
}

}  // namespace
}  // namespace ikkuna
