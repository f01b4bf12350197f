// A subscriber of scope job over the graphs of four ranks, each on a thread of its own.
#include "daemon/graph/job_graph.h"

#include <gmock/gmock.h>

#include <unistd.h>

#include <atomic>
#include <barrier>
#include <chrono>
#include <functional>
#include <map>
#include <set>
#include <thread>

#include "tests/daemon/graph/site.h"
#include "tests/daemon/graph/test_metrics.h"
#include "tests/watchdog.h"

namespace ikkuna::graph {
namespace {

using testing::HasSubstr;

// Sum over ranks for each subject.
class RankSum : public Subscriber {
 public:
  void OnStep(const StepInfo& step, std::span<const Input> inputs, const ResultsRef& results) override {
    if (step.global_step == 666) throw std::runtime_error("beast");
    std::map<metrics::Subject, double> sums;
    for (const Input& input : inputs) sums[input.subject] += input.scalar;
    for (const auto& [subject, sum] : sums) results->Put(subject, sum);
  }
};

// Speaks at each step, and asks for a stop.
class JobRule : public Subscriber {
 public:
  void OnStep(const StepInfo&, std::span<const Input>, const ResultsRef& results) override {
    results->Raise(Severity::kWarning, "all ranks are odd", std::nullopt);
    results->Raise(Severity::kError, "all ranks are lost", Action{Action::Type::kStop, "", 1, ""});
  }
};
Result<Definition> DefineJobRule(std::span<const std::string> inputs, std::span<const std::string>) {
  Definition d = Make<JobRule>(inputs, "job_rule");
  d.content = Content::kScalar;
  d.scope = Scope::kJob;
  return d;
}

Result<Definition> DefineJobHolder(std::span<const std::string> inputs, std::span<const std::string>) {
  Definition d = Make<Holder>(inputs, "job_holder");
  d.content = Content::kScalar;
  d.scope = Scope::kJob;
  return d;
}

template <Runs runs>
Result<Definition> DefineRankSum(std::span<const std::string> inputs, std::span<const std::string>) {
  Definition d = Make<RankSum>(inputs, "rank_sum");
  d.content = Content::kScalar;
  d.scope = Scope::kJob;
  d.runs = runs;
  return d;
}

const Descriptor kRankSums[] = {{.name = "rank_sum",
                                 .accepts = metrics::Inputs::kTopics,
                                 .publishes = "{topic}_rank_sum",
                                 .help = "-",
                                 .define = DefineRankSum<Runs::kInline>},
                                {.name = "queued_rank_sum",
                                 .accepts = metrics::Inputs::kTopics,
                                 .publishes = "{topic}_rank_sum",
                                 .help = "-",
                                 .define = DefineRankSum<Runs::kQueue>},
                                {.name = "job_holder",
                                 .accepts = metrics::Inputs::kTopics,
                                 .publishes = "{topic}_job_holder",
                                 .help = "-",
                                 .define = DefineJobHolder},
                                {.name = "job_rule",
                                 .accepts = metrics::Inputs::kTopics,
                                 .publishes = "{topic}_job_rule",
                                 .help = "-",
                                 .define = DefineJobRule}};

class JobGraphTest : public testing::TestWithParam<const char*> {
 protected:
  static constexpr uint32_t kRanks = 4;
  JobGraphTest() {
    for (const Descriptor& descriptor : kRankSums) {
      if (metrics::FindDescriptor(descriptor.name) == nullptr) {
        EXPECT_TRUE(metrics::RegisterDescriptor(descriptor).ok());
      }
    }
    EXPECT_TRUE(set.Add("mean(weights); " + std::string(GetParam()) + "(weights_mean)", Source::kClient).ok());
    ProducerInfo all;
    all.run_key = {"job", 0, kAllRanks};
    everyone = std::make_shared<ikkuna::Run>(all);
    JobParts parts;
    parts.subscribers = &set;
    parts.memory = &memory;
    parts.queue = &queue;
    parts.open = [this](const ProducerInfo& producer) -> std::shared_ptr<ikkuna::Run> {
      EXPECT_EQ(producer.run_key, (RunKey{"job", 0, kAllRanks}));
      EXPECT_NE(producer.uuid, Uuid{});
      EXPECT_TRUE(uuid == Uuid{} || uuid == producer.uuid);
      uuid = producer.uuid;
      start_step = producer.start_step;
      ++opened;
      return refuse ? nullptr : everyone;
    };
    parts.close = [this](const ikkuna::Run& run) {
      EXPECT_EQ(&run, everyone.get());
      ++closed;
    };
    parts.emit = [this](Batch batch) {
      if (no_memory) throw std::bad_alloc();
      std::lock_guard lock(mutex);
      EXPECT_EQ(batch.run, everyone);
      for (const Sample& sample : batch.samples) {
        const SeriesName name = everyone->series().Find(sample.series)->name;
        sums[name.module + "." + name.param + "/" + name.topic][batch.stamp.step] = sample.value;
        if ((batch.stamp.flags & kFlagRanksMissing) != 0) lacking.insert(batch.stamp.step);
      }
      for (const Event& event : batch.events) events.push_back(event);
    };
    parts.act = [this](const ikkuna::Run& run, const Event& event, const Action& action) {
      std::lock_guard lock(mutex);
      EXPECT_EQ(run.key().rank, kAllRanks);
      acted.emplace_back(event.step, action.type);
    };
    parts.deadline_ns = 50'000'000;
    jobs = std::make_unique<JobGraphs>(parts);
  }

  // `counted_until` and `recorded`: as Run has it.
  std::unique_ptr<MessageGraph> Graph(uint32_t rank, uint64_t counted_until = 0, RecordedSteps recorded = {}) {
    ProducerInfo info;
    info.run_key = {"job", 0, rank};
    info.world_size = kRanks;
    auto run = std::make_shared<ikkuna::Run>(info);
    run->SetCountedUntil(counted_until);
    run->SetRecorded(std::move(recorded));
    auto graph = MakeGraph({&set, &queue, &memory, jobs.get(), nullptr})(std::move(run), [](const Batch&) {});
    graph->AddRegistry({Site::Root(1, "model"), Site::Module(Site::kFc1, 1, "fc1", "Linear"),
                        Site::Param(Site::kW1, Site::kFc1, "weight")});
    graph->Refresh();
    return graph;
  }
  static void Step(MessageGraph& graph, uint64_t& seq, uint64_t step, double value) {
    const double values[] = {value};
    for (const Kind kind : {Kind::kBatchStarted, Kind::kWeights, Kind::kBatchFinished}) {
      shm::Message message;
      shm::Record& record = message.record;
      record.seq = ++seq;
      record.time_ns = MonotonicNs();
      record.global_step = step;
      record.root = 1;
      record.kind = static_cast<uint8_t>(kind);
      record.type = static_cast<uint8_t>(kind == Kind::kWeights ? RecordType::kSummary : RecordType::kMarker);
      if (kind == Kind::kWeights) {
        record.module = Site::kFc1;
        record.param = Site::kW1;
        record.dtype = static_cast<uint8_t>(DType::kF64);
        record.stats = ComputeStats(values, DType::kF64, 1);
      }
      graph.Handle(message);
    }
  }
  // Until it holds, with a tick before each look; the limit is a watchdog.
  static bool Until(const std::function<bool()>& holds, const std::function<void()>& tick) {
    for (const auto end = std::chrono::steady_clock::now() + test::kWatchdog; std::chrono::steady_clock::now() < end;
         ::usleep(1000)) {
      tick();
      if (holds()) return true;
    }
    return false;
  }
  static bool TicksUntil(const std::function<bool()>& holds, MessageGraph& graph) {
    return Until(holds, [&] { graph.Tick(MonotonicNs()); });
  }
  static bool Settled(MessageGraph& graph, uint64_t seq) {
    return TicksUntil([&] { return graph.done_seq() == seq; }, graph);
  }
  bool HasSum(uint64_t step) {
    std::lock_guard lock(mutex);
    return sums["fc1.weight/weights_mean_rank_sum"].contains(step);
  }
  // What a job held goes after its results.
  bool IsFreed() {
    return Until([&] { return memory.used() == 0; }, [] {});
  }

  SubscriberSet set;
  MemoryBudget memory{1 << 20};
  WorkQueue queue{2, 0};
  std::shared_ptr<ikkuna::Run> everyone;
  Uuid uuid{};
  std::atomic<bool> refuse{false}, no_memory{false};
  std::atomic<int> opened{0}, closed{0};
  std::atomic<uint64_t> start_step{0};
  std::mutex mutex;
  Published sums;              // guarded by mutex
  std::set<uint64_t> lacking;  // steps of which a rank is missing; guarded by mutex
  std::vector<Event> events;   // guarded by mutex
  std::vector<std::pair<uint64_t, Action::Type>> acted;  // guarded by mutex
  std::unique_ptr<JobGraphs> jobs;
};

// A rank that only says that it goes on tells with its first step where it begins.
TEST_P(JobGraphTest, TheRunOfAllRanksBeginsWhereItsRankDoes) {
  ProducerInfo info;
  info.run_key = {"job", 0, 0};
  info.world_size = 1;
  auto run = std::make_shared<ikkuna::Run>(info);
  auto member = jobs->Join(run);
  info.start_step = 500;
  run->SetInfo(info);
  for (const auto& entry : set.Snapshot()) {
    if (entry->subscription.definition.scope == Scope::kJob)
      (void)member->Contribute(entry, {"model", "default"}, 500, {});
  }
  EXPECT_EQ(opened, 1);
  EXPECT_EQ(start_step, 500u);
}

TEST_P(JobGraphTest, FourRanksMakeOneValueAStep) {
  constexpr uint64_t kSteps = 50;
  std::barrier together(kRanks);
  std::vector<std::thread> ranks;
  for (uint32_t rank = 0; rank < kRanks; ++rank) {
    ranks.emplace_back([&, rank] {
      auto graph = Graph(rank);
      uint64_t seq = 0;
      Step(*graph, seq, 0, rank);
      together.arrive_and_wait();  // all are there
      for (uint64_t step = 1; step < kSteps; ++step) {
        Step(*graph, seq, step, static_cast<double>(rank * 100 + step));
        if (step % 5 == 0) together.arrive_and_wait();
      }
      together.arrive_and_wait();  // who is done ticks, and would not wait for one that is late
      EXPECT_TRUE(Settled(*graph, seq)) << rank;
      together.arrive_and_wait();
    });
  }
  for (std::thread& rank : ranks) rank.join();
  std::lock_guard lock(mutex);
  const auto& values = sums["fc1.weight/weights_mean_rank_sum"];
  EXPECT_GT(values.size(), 0u);
  for (const auto& [step, sum] : values) {
    if (step == 0) continue;
    EXPECT_EQ(sum, 600.0 + 4.0 * static_cast<double>(step)) << step;
  }
  // Each step was worked on, or given up and counted.
  EXPECT_EQ(values.size() + set.List()[1].count(MissReason::kQueueFull), kSteps);
  if (std::string(GetParam()) == "rank_sum") {
    EXPECT_EQ(values.size(), kSteps);
  }
  EXPECT_TRUE(IsFreed());
}

TEST_P(JobGraphTest, ARankThatIsMissingIsNamedAndHoldsNobodyBack) {
  auto first = Graph(0);
  uint64_t seq = 0;
  Step(*first, seq, 0, 5);
  EXPECT_LT(first->done_seq(), seq);  // others may come
  ASSERT_TRUE(Settled(*first, seq));
  std::lock_guard lock(mutex);
  EXPECT_EQ(sums["fc1.weight/weights_mean_rank_sum"][0], 5);
  EXPECT_TRUE(lacking.contains(0)) << "it is one of four";
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, "ranks_missing");
  EXPECT_THAT(events[0].text, HasSubstr("of all ranks, step 0: without rank 1 to 3 (not_seen)"));
}

TEST_P(JobGraphTest, ARankThatComesAndGoesFillsNoLog) {
  std::vector<std::unique_ptr<MessageGraph>> ranks;
  for (uint32_t rank = 0; rank < kRanks; ++rank) ranks.push_back(Graph(rank));
  std::vector<uint64_t> seqs(kRanks);
  for (uint64_t step = 0; step <= 420; ++step) {
    for (uint32_t rank = 0; rank < kRanks; ++rank) {
      if (rank != 3 || (step % 2 == 0 && step <= 300)) Step(*ranks[rank], seqs[rank], step, 1);
    }
  }
  for (uint32_t rank = 0; rank < kRanks; ++rank) ASSERT_TRUE(Settled(*ranks[rank], seqs[rank])) << rank;
  std::lock_guard lock(mutex);
  std::vector<std::string> heard;
  for (const Event& event : events) {
    if (event.kind == "ranks_missing") heard.push_back(event.text);
  }
  EXPECT_GE(heard.size(), 1u);
  EXPECT_LE(heard.size(), 9u) << "each set once in 100 steps";
  EXPECT_THAT(heard.back(), HasSubstr("without rank 3")) << "what lasts is told in the end";
  if (std::string(GetParam()) == "rank_sum") {
    EXPECT_GE(heard.size(), 4u);
    EXPECT_GE(lacking.size(), 150u) << "each value says it";
  }
}

// A rule over all ranks is heard as one of a rank is: now and then, however often it speaks; what it asks for is done.
TEST_P(JobGraphTest, ARuleThatSpeaksAtEachStepIsHeardNowAndThen) {
  ASSERT_TRUE(set.Add("job_rule(weights_mean)", Source::kClient).ok());
  std::vector<std::unique_ptr<MessageGraph>> ranks;
  for (uint32_t rank = 0; rank < kRanks; ++rank) ranks.push_back(Graph(rank));
  std::vector<uint64_t> seqs(kRanks);
  for (uint64_t step = 0; step < 150; ++step) {
    for (uint32_t rank = 0; rank < kRanks; ++rank) Step(*ranks[rank], seqs[rank], step, 1);
  }
  for (uint32_t rank = 0; rank < kRanks; ++rank) ASSERT_TRUE(Settled(*ranks[rank], seqs[rank])) << rank;
  std::lock_guard lock(mutex);
  std::vector<std::pair<uint64_t, std::string>> heard;
  for (const Event& event : events) {
    if (event.kind == "job_rule") heard.emplace_back(event.step, event.text);
  }
  const std::string more = " (99 more since the last of these were not shown)";
  EXPECT_THAT(heard, testing::ElementsAre(std::pair(0, "all ranks are odd"), std::pair(0, "all ranks are lost"),
                                          std::pair(100, "all ranks are odd" + more),
                                          std::pair(100, "all ranks are lost" + more)));
  EXPECT_THAT(acted, testing::ElementsAre(std::pair(0, Action::Type::kStop), std::pair(100, Action::Type::kStop)));
  EXPECT_EQ(set.List().back().count(MissReason::kSuppressed), 296u);
}

// A rank that ends does not take back what it gave.
TEST_P(JobGraphTest, WhatARankGaveBeforeItsEndIsRecordedAndNotCountedAsCancelled) {
  std::vector<std::unique_ptr<MessageGraph>> ranks;
  for (uint32_t rank = 0; rank < kRanks; ++rank) ranks.push_back(Graph(rank));
  std::vector<uint64_t> seqs(kRanks);
  for (uint32_t rank = 0; rank < kRanks; ++rank) Step(*ranks[rank], seqs[rank], 0, 1);
  Step(*ranks[0], seqs[0], 1, 10);
  ranks[0]->Finish(MonotonicNs());
  EXPECT_EQ(ranks[0]->Missing(), std::vector<Count>{});
  ranks[0].reset();
  for (uint32_t rank = 1; rank < kRanks; ++rank) Step(*ranks[rank], seqs[rank], 1, 1);
  for (uint32_t rank = 1; rank < kRanks; ++rank) ASSERT_TRUE(Settled(*ranks[rank], seqs[rank])) << rank;
  ASSERT_TRUE(HasSum(1));
  std::lock_guard lock(mutex);
  EXPECT_EQ(sums["fc1.weight/weights_mean_rank_sum"][1], 13);
  for (const SubscriberInfo& one : set.List()) EXPECT_EQ(one.count(MissReason::kCancelled), 0u) << one.text;
}

// A thread that works on when the daemon ends, and whose results nobody takes any more.
TEST_P(JobGraphTest, WhatComesAfterTheEndIsCancelled) {
  ASSERT_TRUE(set.Add("job_holder(weights_mean)", Source::kClient).ok());
  {
    std::vector<std::unique_ptr<MessageGraph>> ranks;
    for (uint32_t rank = 0; rank < kRanks; ++rank) ranks.push_back(Graph(rank));
    for (uint32_t rank = 0; rank < kRanks; ++rank) {
      uint64_t seq = 0;
      Step(*ranks[rank], seq, 0, 1);
    }
    ASSERT_EQ(held.size(), 1u);
  }
  jobs.reset();
  held[0]->Raise(Severity::kError, "late", Action{Action::Type::kStop, "", 1, ""});
  const uint64_t before = set.List().back().count(MissReason::kCancelled);
  held.clear();
  EXPECT_FALSE(sums.contains("fc1.weight/weights_mean_job_holder"));
  EXPECT_TRUE(acted.empty());
  EXPECT_EQ(set.List().back().count(MissReason::kCancelled) - before, 2u) << "the number, and the event";
}

TEST_P(JobGraphTest, OneThatThrowsIsSwitchedOff) {
  auto first = Graph(0);
  uint64_t seq = 0;
  Step(*first, seq, 666, 5);
  ASSERT_TRUE(Settled(*first, seq));
  {
    std::lock_guard lock(mutex);
    ASSERT_FALSE(events.empty());
    EXPECT_EQ(events.back().kind, "subscriber_failed");
  }
  EXPECT_TRUE(set.List()[1].off);
  EXPECT_TRUE(first->Refresh() || true);
  Step(*first, seq, 667, 5);
  EXPECT_TRUE(Settled(*first, seq));
}

// The rank that dies brings less than the others, the slow one more slowly, and rank 3 never comes.
TEST_P(JobGraphTest, OneIsMissingOneDiesOneIsSlow) {
  constexpr uint64_t kSteps = 40, kDiesAt = 20;
  std::barrier together(3);
  std::vector<std::thread> ranks;
  for (uint32_t rank = 0; rank < 3; ++rank) {
    ranks.emplace_back([&, rank] {
      auto graph = Graph(rank);
      uint64_t seq = 0;
      Step(*graph, seq, 0, 1);
      EXPECT_TRUE(Settled(*graph, seq));  // rank 3 is waited for no more
      together.arrive_and_wait();
      const uint64_t last = rank == 1 ? kDiesAt : kSteps;
      for (uint64_t step = 1; step < last; ++step) {
        if (rank == 2) ::usleep(1000);
        Step(*graph, seq, step, rank + 1);
        graph->Tick(MonotonicNs());
        if (step % 4 == 0 && step < kDiesAt) {
          together.arrive_and_wait();
          // A queue that gets no turn drops sums beyond eight.
          EXPECT_TRUE(TicksUntil([&] { return HasSum(step); }, *graph)) << step;
        }
        if (step == kDiesAt - 1 && rank != 1) together.arrive_and_wait();  // it has left
      }
      if (rank == 1) {
        graph->Finish(MonotonicNs() + 5'000'000'000);
        graph.reset();
        together.arrive_and_drop();
        return;
      }
      together.arrive_and_wait();
      EXPECT_TRUE(Settled(*graph, seq)) << rank;
      together.arrive_and_wait();
      graph->Finish(MonotonicNs());
      EXPECT_EQ(graph->done_seq(), seq);
    });
  }
  for (std::thread& rank : ranks) rank.join();
  EXPECT_TRUE(Until([&] { return closed == 1; }, [&] { jobs->Tick(MonotonicNs()); }));
  EXPECT_EQ(opened, 1);
  EXPECT_EQ(closed, 1);
  std::lock_guard lock(mutex);
  const auto& values = sums["fc1.weight/weights_mean_rank_sum"];
  EXPECT_GT(values.size(), 10u);
  for (const auto& [step, sum] : values) {
    // 50 ms may be over before a slow machine ran a thread: then a rank is missing, never a number too much.
    EXPECT_LE(sum, step == 0 ? 3 : step < kDiesAt ? 6 : 4) << step;
  }
  std::string told;
  for (const Event& event : events) told += event.text + "\n";
  EXPECT_THAT(told, HasSubstr("3 (not_seen)"));
  EXPECT_THAT(told, HasSubstr("1 (left)"));
  EXPECT_TRUE(IsFreed());
}

TEST_P(JobGraphTest, OneThatIsRemovedLetsGoOfWhatWaits) {
  auto first = Graph(0);
  uint64_t seq = 0;
  Step(*first, seq, 0, 5);
  EXPECT_LT(first->done_seq(), seq);
  SubscriberChoice choice;
  choice.by = SubscriberChoice::By::kTopic;
  choice.text = "weights_mean_rank_sum";
  ASSERT_TRUE(set.Remove(choice).ok());
  // No deadline has to pass for that.
  first->Tick(MonotonicNs() - 1'000'000'000);
  EXPECT_TRUE(Until([&] { return first->done_seq() == seq; }, [&] { first->Tick(1); }));
  EXPECT_TRUE(IsFreed());
  Step(*first, seq, 1, 5);  // under the plan of before
  EXPECT_TRUE(Until([&] { return first->done_seq() == seq; }, [&] { first->Tick(1); }));
}

// It is over before the ranks that never come are given up.
TEST_P(JobGraphTest, AShortRunOfOneRankIsKept) {
  auto first = Graph(0);
  uint64_t seq = 0;
  Step(*first, seq, 0, 5);
  first->Finish(MonotonicNs() + 20'000'000'000);
  first.reset();
  EXPECT_TRUE(Until([&] { return closed == 1; }, [&] { jobs->Tick(1); }));
  std::lock_guard lock(mutex);
  EXPECT_EQ(sums["fc1.weight/weights_mean_rank_sum"][0], 5);
}

TEST_P(JobGraphTest, ARunThatCannotBeRecordedHoldsNothing) {
  refuse = true;
  auto first = Graph(0);
  uint64_t seq = 0;
  for (uint64_t step = 0; step < 5; ++step) Step(*first, seq, step, 5);
  EXPECT_TRUE(Settled(*first, seq));
  EXPECT_EQ(opened, 1) << "not asked for again at each step";
  EXPECT_EQ(set.List()[1].count(MissReason::kCancelled), 5u);
  first.reset();
  EXPECT_EQ(closed, 0);
}

// Its results leave in a destructor, where whatever is thrown would end the daemon.
TEST_P(JobGraphTest, WhatCannotBeHandedOnIsCountedAndEndsNothing) {
  auto first = Graph(0);
  uint64_t seq = 0;
  no_memory = true;
  Step(*first, seq, 0, 5);
  ASSERT_TRUE(Settled(*first, seq));
  EXPECT_EQ(set.List()[1].count(MissReason::kFailed), 2u);  // the sum, and the event of ranks that are not there
  EXPECT_EQ(set.List()[1].computed, 0u);
  no_memory = false;
  Step(*first, seq, 1, 6);
  ASSERT_TRUE(Settled(*first, seq));
  std::lock_guard lock(mutex);
  EXPECT_EQ(sums["fc1.weight/weights_mean_rank_sum"], (std::map<uint64_t, double>{{1, 6}}));
}

// A rank whose process is stopped, or slow, closes its step when the others' were given out.
TEST_P(JobGraphTest, ARankThatComesTooLateIsCountedAsThat) {
  auto first = Graph(0), second = Graph(1);
  uint64_t seq = 0, seq_second = 0;
  Step(*first, seq, 0, 5);
  Step(*second, seq_second, 0, 5);
  ASSERT_TRUE(Settled(*first, seq));
  Step(*first, seq, 1, 5);
  ASSERT_TRUE(Settled(*first, seq));  // the deadline is over
  Step(*second, seq_second, 1, 5);
  ASSERT_TRUE(Settled(*second, seq_second));
  EXPECT_EQ(set.List()[1].count(MissReason::kLate), 1u);
  EXPECT_EQ(set.List()[1].count(MissReason::kCancelled), 0u);
  EXPECT_EQ(second->Missing(), (std::vector<Count>{{"late", 1}}));
}

// A rank was further than the other when its daemon was killed: what it does not bring again is there, of both.
TEST_P(JobGraphTest, WhatAnEarlierDaemonRecordedOfAllRanksIsNotMadeAgain) {
  SeriesName name{{"model", "default"}, "fc1", "weight", "weights_mean_rank_sum"};
  RecordedSteps recorded;
  recorded.next.resize(everyone->series().Intern(name, {}));
  recorded.next.back() = 5;
  everyone->SetRecorded(recorded);
  auto first = Graph(0, 3 * 3);  // steps 2 to 4
  uint64_t seq = 0;
  for (uint64_t step = 2; step < 5; ++step) Step(*first, seq, step, 7);
  EXPECT_TRUE(Settled(*first, seq));
  EXPECT_TRUE(first->Missing().empty()) << first->Missing()[0].reason;
  {
    std::lock_guard lock(mutex);
    EXPECT_TRUE(sums.empty());
    EXPECT_TRUE(events.empty()) << events[0].text;
  }
  Step(*first, seq, 5, 8);
  ASSERT_TRUE(Settled(*first, seq));
  {
    std::lock_guard lock(mutex);
    EXPECT_EQ(sums["fc1.weight/weights_mean_rank_sum"], (std::map<uint64_t, double>{{5, 8}}));
  }
  // Another rank was stopped meanwhile: they went without it.
  auto second = Graph(1, 3);
  uint64_t seq_second = 0;
  Step(*second, seq_second, 2, 7);
  ASSERT_TRUE(Settled(*second, seq_second));
  EXPECT_TRUE(second->Missing().empty()) << "it was counted";
  Step(*second, seq_second, 3, 7);
  ASSERT_TRUE(Settled(*second, seq_second));
  EXPECT_EQ(second->Missing(), (std::vector<Count>{{"late", 1}}));
  EXPECT_EQ(set.List()[1].count(MissReason::kLate), 1u);
  // That the trainer itself has counting anew.
  RecordedSteps had;
  had.steps[name.timeline] = {2, 3, 4};
  second = Graph(1, 0, had);
  seq_second = 0;
  Step(*second, seq_second, 3, 7);
  ASSERT_TRUE(Settled(*second, seq_second));
  EXPECT_EQ(second->Missing(), (std::vector<Count>{{"repeated", 1}}));
}

TEST_P(JobGraphTest, NoSubscriberOfOneRankTakesWhatIsOfAll) {
  const auto refused = set.Add("message_mean(weights_mean_rank_sum)", Source::kClient);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().text, HasSubstr("is of all ranks of a run"));
}

INSTANTIATE_TEST_SUITE_P(Runs, JobGraphTest, testing::Values("rank_sum", "queued_rank_sum"));

}  // namespace
}  // namespace ikkuna::graph
