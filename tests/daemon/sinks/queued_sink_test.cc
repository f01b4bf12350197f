#include "daemon/sinks/queued_sink.h"

#include <gmock/gmock.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <stdexcept>

#include "tests/daemon/sinks/sinks_fixture.h"

namespace ikkuna::sinks {
namespace {

using ::testing::HasSubstr;

// Shared with the writer, which belongs to the queue.
struct Seen {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<uint64_t> steps;
  uint64_t uncommitted = 0;
  int commits = 0;
  bool held = false;    // Write waits
  bool inside = false;  // Write is waiting
  bool ended = false;
  std::atomic<int> throw_at{-1};  // the step
  std::atomic<bool> throw_in_commit{false};
  std::atomic<int> niceness{0};

  void Hold() {
    std::lock_guard lock(mutex);
    held = true;
  }
  void Release() {
    std::lock_guard lock(mutex);
    held = false;
    changed.notify_all();
  }
  std::vector<uint64_t> Steps() {
    std::lock_guard lock(mutex);
    return steps;
  }
};

class RecordingWriter : public BatchWriter {
 public:
  explicit RecordingWriter(std::shared_ptr<Seen> seen) : seen_(std::move(seen)) {}
  void Write(const std::shared_ptr<const Batch>& batch, uint64_t, Tally&) override {
    seen_->niceness = getpriority(PRIO_PROCESS, static_cast<id_t>(gettid()));
    std::unique_lock lock(seen_->mutex);
    seen_->inside = true;
    seen_->changed.wait(lock, [&] { return !seen_->held; });
    seen_->inside = false;
    if (static_cast<int>(batch->stamp.step) == seen_->throw_at) throw std::runtime_error("no such luck");
    seen_->steps.push_back(batch->stamp.step);
    seen_->uncommitted += batch->values();
  }
  void Commit(Tally& tally) override {
    std::lock_guard lock(seen_->mutex);
    if (seen_->throw_in_commit) throw 7;
    ++seen_->commits;
    tally.written += std::exchange(seen_->uncommitted, 0);
  }
  void End() override { seen_->ended = true; }

 private:
  const std::shared_ptr<Seen> seen_;
};

class QueuedSinkTest : public ::testing::Test {
 protected:
  void Make(QueueOptions options = {}) {
    options.name = "test";
    options.report = [this](Event event) {
      std::lock_guard lock(mutex_);
      events_.push_back(std::move(event));
    };
    sink_ = std::make_unique<QueuedSink>(std::move(options), std::make_unique<RecordingWriter>(seen_));
  }
  ~QueuedSinkTest() override { seen_->Release(); }
  void Offer(uint64_t step, size_t values = 2) {
    sink_->Offer(BatchOf(run_, step, std::vector<Sample>(values, Number(loss_, 1))));
  }
  void OfferAndHold(uint64_t step) {
    seen_->Hold();
    Offer(step);
    EXPECT_TRUE(Eventually([&] {
      std::lock_guard lock(seen_->mutex);
      return seen_->inside;
    }));
  }

  std::shared_ptr<Seen> seen_ = std::make_shared<Seen>();
  RunPtr run_ = NewRun();
  uint32_t loss_ = Intern(*run_, Name("loss"));
  std::mutex mutex_;
  std::vector<Event> events_;
  std::unique_ptr<QueuedSink> sink_;
};

TEST_F(QueuedSinkTest, WritesInOrderAndCountsWhatIsCommitted) {
  Make();
  for (uint64_t step = 0; step < 100; ++step) Offer(step);
  ASSERT_TRUE(sink_->Flush(Watchdog()).ok());
  const std::vector<uint64_t> steps = seen_->Steps();
  ASSERT_EQ(steps.size(), 100u);
  for (uint64_t step = 0; step < 100; ++step) EXPECT_EQ(steps[step], step);
  const SinkCounters counters = sink_->Counters();
  EXPECT_EQ(counters.offered, 200u);
  EXPECT_EQ(counters.written, 200u);
  EXPECT_EQ(counters.waiting, 0u);
  EXPECT_EQ(counters.lag_seconds, 0);
  ExpectIdentity(counters);
  EXPECT_EQ(seen_->niceness, 5);
}

TEST_F(QueuedSinkTest, WhatIsWrittenAndNotCommittedWaits) {
  QueueOptions options;
  options.commit_every = std::chrono::hours(1);
  Make(options);
  Offer(1);
  EXPECT_TRUE(Eventually([&] { return !seen_->Steps().empty(); }));
  EXPECT_EQ(sink_->Counters().waiting, 2u);
  EXPECT_EQ(sink_->Counters().written, 0u);
  EXPECT_GT(sink_->Counters().lag_seconds, 0);
  ASSERT_TRUE(sink_->Flush(Watchdog()).ok());
  EXPECT_EQ(sink_->Counters().written, 2u);
}

TEST_F(QueuedSinkTest, CommitsByItselfAndRestsThen) {
  QueueOptions options;
  options.commit_every = std::chrono::milliseconds(5);
  Make(options);
  Offer(1);
  EXPECT_TRUE(Eventually([&] { return sink_->Counters().written == 2; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  std::lock_guard lock(seen_->mutex);
  EXPECT_EQ(seen_->commits, 1);  // nothing came since
}

TEST_F(QueuedSinkTest, AFullQueueLosesTheNewest) {
  QueueOptions options;
  options.batches_max = 3;
  Make(options);
  OfferAndHold(0);
  for (uint64_t step = 1; step <= 5; ++step) Offer(step);
  SinkCounters counters = sink_->Counters();
  EXPECT_EQ(DropsFor(counters, "queue_full"), 4u);
  EXPECT_EQ(counters.waiting, 8u);
  ExpectIdentity(counters);
  seen_->Release();
  ASSERT_TRUE(sink_->Flush(Watchdog()).ok());
  EXPECT_THAT(seen_->Steps(), ::testing::ElementsAre(0, 1, 2, 3));
}

TEST_F(QueuedSinkTest, AFullQueueLosesTheOldestWhereThatIsAsked) {
  QueueOptions options;
  options.batches_max = 3;
  options.drop = DropPolicy::kOldest;
  options.takes_events = true;
  Make(options);
  OfferAndHold(0);
  auto with_event = BatchOf(run_, 1, {Number(loss_, 1)});
  with_event->events.push_back(EventOf("one"));
  sink_->Offer(with_event);
  for (uint64_t step = 2; step <= 5; ++step) Offer(step);
  const SinkCounters counters = sink_->Counters();
  EXPECT_EQ(DropsFor(counters, "queue_full"), 3u);
  EXPECT_EQ(counters.events_dropped, 1u);
  ExpectIdentity(counters);
  seen_->Release();
  ASSERT_TRUE(sink_->Flush(Watchdog()).ok());
  EXPECT_THAT(seen_->Steps(), ::testing::ElementsAre(0, 3, 4, 5));
}

TEST_F(QueuedSinkTest, BytesAreBoundedAndOneBatchAlwaysFits) {
  QueueOptions options;
  options.bytes_max = 10'000;
  Make(options);
  OfferAndHold(0);
  Offer(1, 5'000);  // larger than the bound, into an empty queue
  Offer(2, 1);
  EXPECT_EQ(DropsFor(sink_->Counters(), "queue_full"), 1u);
  seen_->Release();
  ASSERT_TRUE(sink_->Flush(Watchdog()).ok());
  EXPECT_THAT(seen_->Steps(), ::testing::ElementsAre(0, 1));
  ExpectIdentity(sink_->Counters());
}

TEST_F(QueuedSinkTest, AnExceptionCostsItsBatchWithAnEvent) {
  Make();
  seen_->throw_at = 2;
  for (uint64_t step = 1; step <= 3; ++step) Offer(step);
  ASSERT_TRUE(sink_->Flush(Watchdog()).ok());
  SinkCounters counters = sink_->Counters();
  EXPECT_EQ(counters.written, 4u);
  EXPECT_EQ(DropsFor(counters, "failed"), 2u);
  EXPECT_EQ(counters.failures, 1u);
  ExpectIdentity(counters);
  seen_->throw_in_commit = true;
  Offer(4);
  ASSERT_TRUE(sink_->Flush(Watchdog()).ok());
  counters = sink_->Counters();
  EXPECT_EQ(DropsFor(counters, "failed"), 4u);
  EXPECT_EQ(counters.failures, 2u);
  // What a failed commit left behind and a later one wrote is not counted twice.
  seen_->throw_in_commit = false;
  Offer(5);
  ASSERT_TRUE(sink_->Flush(Watchdog()).ok());
  counters = sink_->Counters();
  EXPECT_EQ(counters.written, 6u);
  ExpectIdentity(counters);
  std::lock_guard lock(mutex_);
  ASSERT_EQ(events_.size(), 1u);  // the second within a minute is counted only
  EXPECT_EQ(events_[0].kind, "sink_failed");
  EXPECT_EQ(events_[0].severity, Severity::kError);
  EXPECT_THAT(events_[0].text, HasSubstr("'test' failed with 'no such luck' at step 2 of run 'run-1'"));
}

TEST_F(QueuedSinkTest, AFlushThatCannotEndSaysHowMuchWaits) {
  Make();
  OfferAndHold(0);
  Offer(1);
  const Status status = sink_->Flush(std::chrono::steady_clock::now() + std::chrono::milliseconds(20));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(status.error().text, HasSubstr("'test' could not write all in time: 4 values wait"));
}

TEST_F(QueuedSinkTest, AfterCloseNothingIsTakenAndWhatWaitsIsDropped) {
  Make();
  OfferAndHold(0);
  Offer(1);
  std::thread closing([&] { sink_->Close(); });
  // Until Close() has begun.
  uint64_t offered = 4;
  ASSERT_TRUE(Eventually([&] {
    Offer(2);
    offered += 2;
    return DropsFor(sink_->Counters(), "closed") > 0;
  }));
  seen_->Release();
  closing.join();
  const SinkCounters counters = sink_->Counters();
  EXPECT_EQ(counters.offered, offered);
  EXPECT_EQ(counters.written, 2u);
  EXPECT_EQ(counters.dropped, offered - 2);
  EXPECT_EQ(counters.dropped, DropsFor(counters, "closed") + DropsFor(counters, "queue_full"));
  EXPECT_EQ(counters.waiting, 0u);
  ExpectIdentity(counters);
  EXPECT_TRUE(seen_->ended);
  EXPECT_TRUE(sink_->Flush(Watchdog()).ok());
  sink_->Close();
}

TEST_F(QueuedSinkTest, GathersBatchesButNotBeyondHalfOfTheRoom) {
  QueueOptions options;
  options.gather = std::chrono::hours(1);
  options.batches_max = 10;
  Make(options);
  Offer(1);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_TRUE(seen_->Steps().empty());
  for (uint64_t step = 2; step <= 5; ++step) Offer(step);
  EXPECT_TRUE(Eventually([&] { return seen_->Steps().size() == 5; }));
  // A flush does not wait for more to gather.
  Offer(6);
  ASSERT_TRUE(sink_->Flush(Watchdog()).ok());
  EXPECT_EQ(seen_->Steps().size(), 6u);
}

TEST_F(QueuedSinkTest, WhatDoesNotConcernItIsNotQueued) {
  Make();
  auto batch = BatchOf(run_, 1, {});
  batch->events.push_back(EventOf("one"));
  sink_->Offer(batch);
  EXPECT_EQ(sink_->ticket(), 0u);
}

TEST_F(QueuedSinkTest, ManyOfferFlushAndCount) {
  QueueOptions options;
  options.batches_max = 64;
  options.commit_every = std::chrono::milliseconds(1);
  Make(options);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (uint64_t step = 0; step < 2'000; ++step) {
        Offer(step);
        if (step % 100 == 0) {
          EXPECT_TRUE(sink_->Flush(Watchdog()).ok());
        }
        if (step % 50 == 0) ExpectIdentity(sink_->Counters());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(sink_->Flush(Watchdog()).ok());
  const SinkCounters counters = sink_->Counters();
  EXPECT_EQ(counters.offered, 16'000u);
  EXPECT_EQ(counters.waiting, 0u);
  ExpectIdentity(counters);
}

}  // namespace
}  // namespace ikkuna::sinks
