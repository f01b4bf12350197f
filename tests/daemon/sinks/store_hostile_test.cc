// What the store is given and should not be: batches of another timeline, more steps than an index has bits for, empty
// ones, callbacks that throw, many runs at once.
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "daemon/sinks/store_tail.h"
#include "tests/daemon/sinks/store_fixture.h"

namespace ikkuna::sinks {
namespace {

TEST_F(StoreTest, ValuesUnderTheStepsOfAnotherTimelineAreRefused) {
  OpenAndBegin();
  const uint32_t a = Series("a");
  const uint32_t b = run_->series().Intern(Name("b", "", "", "test"), {});
  const uint32_t t = Intern(*run_, Name("t", "", "", "test"), ValueType::kText);
  Put(a, 1, 1);
  store_->Offer(BatchOf(run_, 2, {Number(a, 2), Number(b, 2)}, {{t, 0, Text{"t"}}}));  // of a's
  store_->Offer(BatchOf(run_, 900, {Number(b, 3)}));
  Flush();
  EndRun();
  EXPECT_EQ(ReadOne("a").steps, (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(ReadOne("b").steps, std::vector<uint64_t>{900});
  EXPECT_TRUE(ReadOne("t").steps.empty());
  EXPECT_EQ(DropsFor(store_->Counters(), "no_series"), 2u);
  ExpectIdentity(store_->Counters());
}

TEST_F(StoreTest, MoreStepsThanAnIndexHasBitsForStayWithTheirNumbers) {
  OpenAndBegin();
  // Each series so rarely that none of them has enough for a chunk before there are too many steps.
  constexpr uint64_t kSeries = 1'000, kSteps = 180'000;
  std::vector<uint32_t> ids;
  for (uint64_t i = 0; i < kSeries; ++i) ids.push_back(Series("s" + std::to_string(i)));
  for (uint64_t step = 0; step < kSteps; ++step) {
    Put(ids[step % kSeries], step, double(step), step + 1);
    if (step % 1024 == 0) {
      while (store_->Counters().waiting > 30'000) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  Flush();
  auto check = [&] {
    for (uint64_t i : {0, 1, 17, 500, 999}) {
      const SeriesColumns read = ReadOne("s" + std::to_string(i));
      ASSERT_EQ(read.steps.size(), kSteps / kSeries);
      for (size_t n = 0; n < read.steps.size(); ++n) {
        ASSERT_EQ(read.steps[n], n * kSeries + i);
        ASSERT_EQ(read.numbers[n], double(n * kSeries + i));
        ASSERT_EQ(read.samples_seen[n], read.steps[n] * 128);
      }
    }
  };
  check();
  Reopen();
  check();
  Begin();
  EndRun();
  check();
  EXPECT_EQ(store_->Counters().dropped, 0u);
}

TEST_F(StoreTest, TailsOfAllRunsTogetherAreBounded) {
  options_.tail_bytes_max = 2 << 20;
  OpenStore();
  constexpr int kRuns = 8;
  std::vector<RunPtr> runs;
  for (int r = 0; r < kRuns; ++r) {
    Begin({"run-" + std::to_string(r), 0, 0}, static_cast<unsigned char>(r + 1));
    for (int i = 0; i < 700; ++i) Series("s" + std::to_string(i));
    runs.push_back(run_);
  }
  uint64_t most = 0;
  // More than 1 MB a run, of which none is worth a segment by itself.
  for (uint64_t step = 0; step < 250; ++step) {
    for (const RunPtr& run : runs) {
      std::vector<Sample> samples;
      for (uint32_t id = 1; id <= 700; ++id) samples.push_back(Number(id, double(step * id)));
      store_->Offer(BatchOf(run, step, std::move(samples)));
    }
    while (store_->Counters().waiting > 50'000) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    most = std::max(most, store_->GetStatus().tail_bytes);
  }
  Flush();
  EXPECT_GT(most, options_.tail_bytes_max / 2);
  EXPECT_LT(most, options_.tail_bytes_max * 2);
  for (int r = 0; r < kRuns; ++r) {
    ReadQuery query;
    query.filter.run = "run-" + std::to_string(r);
    const SeriesColumns read = ReadOne("s77", query);
    ASSERT_EQ(read.steps.size(), 250u);
    for (uint64_t step = 0; step < 250; ++step) ASSERT_EQ(read.numbers[step], double(step * 78));
  }
}

TEST_F(StoreTest, ABatchOfNothingTakesNoProgressAway) {
  OpenAndBegin();
  auto batch = std::make_shared<Batch>();
  batch->run = run_;
  batch->progress = Progress{10, 0, 0};
  store_->Offer(batch);
  auto nothing = std::make_shared<Batch>();
  nothing->run = run_;
  store_->Offer(nothing);
  Flush();
  EXPECT_EQ(store_->LoadProgress(kRun)->done_seq, 10u);
}

TEST_F(StoreTest, ACallbackThatThrowsNeitherDoublesNorLosesWhatWasCommitted) {
  std::atomic<int> calls{0};
  options_.on_committed = [&](const RunKey&, uint64_t) {
    if (calls++ < 2) throw std::runtime_error("the callback failed");
  };
  std::vector<uint64_t> kept;
  options_.on_kept = [&](const std::shared_ptr<const Batch>& batch) {
    if (batch->values() > 0) kept.push_back(batch->stamp.step);
  };
  OpenAndBegin();
  const uint32_t a = Series("a"), t = Series("t", ValueType::kText);
  for (uint64_t step = 0; step < 3; ++step) {
    auto batch = BatchOf(run_, step, {Number(a, double(step))}, {{t, 0, Text{std::to_string(step)}}});
    batch->progress = Progress{step + 1, 0, 0};
    store_->Offer(batch);
    (void)store_->Flush(Soon());
  }
  Flush();
  EXPECT_EQ(kept, (std::vector<uint64_t>{0, 1, 2})) << "each batch is said once to be kept";
  EXPECT_EQ(ReadOne("a").steps, (std::vector<uint64_t>{0, 1, 2}));
  EXPECT_EQ(ReadOne("t").steps, (std::vector<uint64_t>{0, 1, 2}));
  EXPECT_EQ(store_->Counters().written, 6u);
  EXPECT_EQ(store_->Counters().failures, 2u);
  ExpectIdentity(store_->Counters());
}

TEST_F(StoreTest, IdsOfEventsThatADaemonShowedBeforeItWasKilledDoNotComeAgain) {
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    OpenAndBegin();
    store_->Offer(BatchOf(run_, 1, {Number(Series("a"), 1)}));
    Flush();
    uint64_t id = 0;
    for (int i = 0; i < 500; ++i) id = store_->TakeEventId();  // shown to those who watch, and not stored yet
    if (::write(fds[1], &id, sizeof(id)) != sizeof(id)) _exit(1);
    ::kill(::getpid(), SIGKILL);
  }
  uint64_t shown = 0;
  EXPECT_EQ(::read(fds[0], &shown, sizeof(shown)), static_cast<ssize_t>(sizeof(shown)));
  ::close(fds[0]);
  ::close(fds[1]);
  int status = 0;
  ::waitpid(child, &status, 0);
  OpenStore();
  const uint64_t next = store_->TakeEventId();
  EXPECT_GT(next, shown);
  store_.reset();  // in order: ids go on where they were
  OpenStore();
  EXPECT_LE(store_->TakeEventId(), next + 1);
}

TEST_F(StoreTest, CommitsAreInTheFileItselfSoon) {
  options_.sync_every = std::chrono::milliseconds(20);
  OpenAndBegin();
  const uint32_t a = Series("a");
  for (uint64_t step = 0; step < 3; ++step) {
    Put(a, step, double(step), step + 1);
    Flush();
    // What is left where the machine goes down and its log is lost.
    const std::string copy = dir_.path() + "/copy.run";
    ASSERT_TRUE(Eventually([&] {
      std::filesystem::copy_file(file(), copy, std::filesystem::copy_options::overwrite_existing);
      auto alone = StoredRuns::Open(copy);
      return alone.ok() && ReadOne(**alone, "a").steps.size() == step + 1;
    })) << step;
  }
}

TEST_F(StoreTest, TheBudgetThatIsShownIsTheOneThatIsKept) {
  auto tasks = [] {
    std::vector<id_t> all;
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
      all.push_back(static_cast<id_t>(std::atoi(task.path().filename().c_str())));
    }
    return all;
  };
  // With the first thread a sanitizer makes one of its own; one that ended is listed for a moment.
  std::atomic<id_t> first{0};
  std::thread([&] { first = static_cast<id_t>(::gettid()); }).join();
  ASSERT_TRUE(Eventually([&] {
    const std::vector<id_t> all = tasks();
    return std::find(all.begin(), all.end(), first.load()) == all.end();
  }));
  const size_t before = tasks().size();
  OpenAndBegin();
  Put(Series("a"), 1, 1);
  Flush();
  const StoreStatus status = store_->GetStatus();
  EXPECT_EQ(status.threads, tasks().size() - before);
  EXPECT_GE(status.nice, kNiceDefault);
  // So many threads of this process have it, or all where the process itself is as nice.
  const std::vector<id_t> all = tasks();
  const auto as_nice = static_cast<uint64_t>(std::count_if(
      all.begin(), all.end(), [&](id_t task) { return ::getpriority(PRIO_PROCESS, task) == status.nice; }));
  EXPECT_GE(as_nice, status.threads);
}

std::vector<FrameMaker::Number> Numbers(std::initializer_list<uint32_t> ids) {
  std::vector<FrameMaker::Number> numbers;
  for (uint32_t id : ids) numbers.push_back({id, id % 2 ? Precision::kSingle : Precision::kDouble, 0, double(id)});
  return numbers;
}

TEST(FrameMaker, FramesThatTakeTurnsShareTheirLayouts) {
  FrameMaker maker;
  const auto one = Numbers({1, 2, 3}), two = Numbers({2, 1}), three = Numbers({3, 2, 1});
  const auto a = maker.Make({}, one), b = maker.Make({}, two);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(maker.Make({}, one)->layout, a->layout);
    EXPECT_EQ(maker.Make({}, two)->layout, b->layout);
    EXPECT_EQ(maker.Make({}, three)->layout, a->layout);  // in another order
  }
  EXPECT_NE(a->layout, b->layout);
  for (const auto& [frame, ids] : {std::pair(maker.Make({}, three), 3), std::pair(maker.Make({}, two), 2)}) {
    for (uint32_t id = 1; id <= static_cast<uint32_t>(ids); ++id) {
      EXPECT_EQ(frame->At(*Frame::PositionOf(*frame->layout, id), id), double(id));
    }
  }
  // More than it remembers, and back again.
  for (uint32_t id = 1; id < 100; ++id) EXPECT_EQ(maker.Make({}, Numbers({id}))->At(0, id), double(id));
  EXPECT_EQ(*maker.Make({}, one)->layout, *a->layout);
  // Decoded frames share as well.
  PlaneCoder coder;
  Layouts layouts;
  std::vector<std::shared_ptr<const Frame>> frames = {a, b, a, b};
  std::vector<const Layout*> seen;
  for (int i = 0; i < 2; ++i) {
    auto decoded = DecodeFrames(EncodeFrames(frames, coder), coder, layouts);
    ASSERT_TRUE(decoded.ok());
    for (const auto& frame : *decoded) seen.push_back(frame->layout.get());
  }
  for (size_t i = 2; i < seen.size(); ++i) EXPECT_EQ(seen[i], seen[i - 2]);
}

TEST(Tail, IsCutBetweenTwoRowsOfTheLog) {
  FrameMaker maker;
  Tail tail;
  for (uint64_t row = 1; row <= 5; ++row) {
    for (int i = 0; i < 3; ++i) tail.Add(maker.Make({1, row, 0, 0, 0, 0}, Numbers({1, 2})), row);
  }
  tail.log_last = 7;  // rows without frames
  const size_t bytes = tail.bytes;
  Tail first = tail.Cut(4);
  EXPECT_EQ(first.frames.size(), 6u);
  EXPECT_EQ(first.log_last, 2u);
  EXPECT_EQ(tail.frames.size(), 9u);
  EXPECT_EQ(tail.frames.front()->stamp.step, 3u);
  EXPECT_EQ(tail.log_last, 7u);
  EXPECT_EQ(first.bytes + tail.bytes, bytes);
  EXPECT_EQ(first.values, 12u);
  first = tail.Cut(100);
  EXPECT_EQ(first.frames.size(), 9u);
  EXPECT_EQ(first.log_last, 7u);
  EXPECT_TRUE(tail.frames.empty());
  EXPECT_EQ(tail.log_last, 7u);
  EXPECT_EQ(tail.bytes, 0u);
}

}  // namespace
}  // namespace ikkuna::sinks
