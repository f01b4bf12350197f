// A subscriber of scope job over the graphs of four ranks, each on a thread of its own.
#include "daemon/graph/job_graph.h"

#include <gmock/gmock.h>

#include <unistd.h>

#include <atomic>
#include <barrier>
#include <thread>

#include "tests/daemon/graph/site.h"
#include "tests/daemon/graph/test_metrics.h"

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
                                 .define = DefineRankSum<Runs::kQueue>}};

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
      ++opened;
      return refuse ? nullptr : everyone;
    };
    parts.close = [this](const ikkuna::Run& run) {
      EXPECT_EQ(&run, everyone.get());
      ++closed;
    };
    parts.emit = [this](Batch batch) {
      std::lock_guard lock(mutex);
      EXPECT_EQ(batch.run, everyone);
      for (const Sample& sample : batch.samples) {
        const SeriesName name = everyone->series().Find(sample.series)->name;
        sums[name.module + "." + name.param + "/" + name.topic][batch.stamp.step] = sample.value;
      }
      for (const Event& event : batch.events) events.push_back(event);
    };
    parts.deadline_ns = 50'000'000;
    jobs = std::make_unique<JobGraphs>(parts);
  }

  std::unique_ptr<MessageGraph> Graph(uint32_t rank) {
    ProducerInfo info;
    info.run_key = {"job", 0, rank};
    info.world_size = kRanks;
    auto graph = MakeGraph({&set, &queue, &memory, jobs.get(), nullptr})(std::make_shared<ikkuna::Run>(info),
                                                                         [](const Batch&) {});
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
  static bool Settled(MessageGraph& graph, uint64_t seq) {
    for (const uint64_t end = MonotonicNs() + 20'000'000'000; MonotonicNs() < end; ::usleep(1000)) {
      graph.Tick(MonotonicNs());
      if (graph.done_seq() == seq) return true;
    }
    return false;
  }

  SubscriberSet set;
  MemoryBudget memory{1 << 20};
  WorkQueue queue{2, 0};
  std::shared_ptr<ikkuna::Run> everyone;
  Uuid uuid{};
  std::atomic<bool> refuse{false};
  std::atomic<int> opened{0}, closed{0};
  std::mutex mutex;
  Published sums;             // guarded by mutex
  std::vector<Event> events;  // guarded by mutex
  std::unique_ptr<JobGraphs> jobs;
};

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
  if (std::string(GetParam()) == "rank_sum") {
    EXPECT_EQ(values.size(), kSteps);
  }
  EXPECT_EQ(memory.used(), 0u);
}

TEST_P(JobGraphTest, ARankThatIsMissingIsNamedAndHoldsNobodyBack) {
  auto first = Graph(0);
  uint64_t seq = 0;
  Step(*first, seq, 0, 5);
  EXPECT_LT(first->done_seq(), seq);  // others may come
  ASSERT_TRUE(Settled(*first, seq));
  std::lock_guard lock(mutex);
  EXPECT_EQ(sums["fc1.weight/weights_mean_rank_sum"][0], 5);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, "ranks_missing");
  EXPECT_THAT(events[0].text, HasSubstr("of all ranks, step 0: without rank 1 to 3 (not_seen)"));
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
        if (step % 4 == 0 && step <= kDiesAt - 4) together.arrive_and_wait();
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
  for (int i = 0; i < 20'000 && closed == 0; ++i) {
    ::usleep(1000);
    jobs->Tick(MonotonicNs());
  }
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
  EXPECT_EQ(memory.used(), 0u);
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
  for (int i = 0; i < 20'000 && first->done_seq() != seq; ++i) {
    ::usleep(1000);
    first->Tick(1);
  }
  EXPECT_EQ(first->done_seq(), seq);
  EXPECT_EQ(memory.used(), 0u);
  Step(*first, seq, 1, 5);  // under the plan of before
  for (int i = 0; i < 20'000 && first->done_seq() != seq; ++i) {
    ::usleep(1000);
    first->Tick(1);
  }
  EXPECT_EQ(first->done_seq(), seq);
}

// It is over before the ranks that never come are given up.
TEST_P(JobGraphTest, AShortRunOfOneRankIsKept) {
  auto first = Graph(0);
  uint64_t seq = 0;
  Step(*first, seq, 0, 5);
  first->Finish(MonotonicNs() + 20'000'000'000);
  first.reset();
  for (int i = 0; i < 20'000 && closed == 0; ++i) {
    ::usleep(1000);
    jobs->Tick(1);
  }
  EXPECT_EQ(closed, 1);
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

TEST_P(JobGraphTest, NoSubscriberOfOneRankTakesWhatIsOfAll) {
  const auto refused = set.Add("message_mean(weights_mean_rank_sum)", Source::kClient);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().text, HasSubstr("is of all ranks of a run"));
}

INSTANTIATE_TEST_SUITE_P(Runs, JobGraphTest, testing::Values("rank_sum", "queued_rank_sum"));

}  // namespace
}  // namespace ikkuna::graph
