// Graphs of several producers at full speed, with subscribers of every way of running, while others subscribe and
// unsubscribe; then everything adds up: no step is left open, no byte reserved, no job uncounted.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <random>
#include <thread>

#include "daemon/graph/job_graph.h"
#include "daemon/graph/subscriber_entry.h"
#include "tests/daemon/graph/site.h"
#include "tests/daemon/graph/test_metrics.h"
#include "tests/watchdog.h"

namespace ikkuna::graph {
namespace {

class AllRanks : public Subscriber {
 public:
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    results->Put({}, static_cast<double>(inputs.size()));
  }
};

std::atomic<int> lingering{0};

// Works after its step is over, on a thread of nobody's.
class Lingerer : public Subscriber {
 public:
  void OnStep(const StepInfo& step, std::span<const Input> inputs, const ResultsRef& results) override {
    if (step.global_step % 64 != 0) return results->Put(inputs[0].subject, 1.0);
    ++lingering;
    std::thread([results = ResultsRef(results), subject = inputs[0].subject]() mutable {
      ::usleep(2000);
      if (!results->cancelled()) results->Put(subject, 2.0);
      results.reset();
      --lingering;
    }).detach();
  }
};

const Descriptor kStressMetrics[] = {{.name = "all_ranks",
                                      .publishes = "{kind}_all_ranks",
                                      .help = "-",
                                      .define = [](Written inputs, Written) -> Result<Definition> {
                                        Definition d = Make<AllRanks>(inputs, "all_ranks");
                                        d.scope = Scope::kJob;
                                        d.runs = Runs::kQueue;
                                        return d;
                                      }},
                                     {.name = "lingerer",
                                      .publishes = "{kind}_lingerer",
                                      .help = "-",
                                      .define = [](Written inputs, Written) -> Result<Definition> {
                                        Definition d = Make<Lingerer>(inputs, "lingerer");
                                        d.runs = Runs::kQueue;
                                        return d;
                                      }}};

constexpr const char* kOn[] = {"queued_total(weights)", "heavy(weights)",         "lingerer(weights)",
                               "all_ranks(weights)",    "mean(weights_lingerer)", "mean(weights)"};
constexpr const char* kNowAndThen[] = {"norm(weights)", "max(weights_norm2)", "heavy(weights, module=fc1, as=head)",
                                       "everything(weights)", "queued_thrower(weights)"};

class Producer {
 public:
  Producer(GraphParts parts, uint32_t rank, uint64_t seed) : random_(seed) {
    ProducerInfo info;
    info.run_key = {"job", 0, rank};
    info.world_size = 3;
    graph = MakeGraph(std::move(parts))(std::make_shared<Run>(info), [this](const Batch& batch) {
      EXPECT_FALSE(inside_.exchange(true));  // one thread
      values += batch.values();
      inside_ = false;
    });
    graph->AddRegistry({Site::Root(1, "model"), Site::Module(Site::kFc1, 1, "fc1", "Linear"),
                        Site::Param(Site::kW1, Site::kFc1, "weight"), Site::Module(Site::kFc2, 1, "fc2", "Linear"),
                        Site::Param(Site::kW2, Site::kFc2, "weight")});
    graph->Refresh();
  }

  void Step(uint64_t step) {
    Send(Kind::kBatchStarted, step, 0, 0);
    for (const auto& [module, param] : {std::pair{Site::kFc1, Site::kW1}, {Site::kFc2, Site::kW2}}) {
      if (random_() % 32 == 0) {
        ++dropped_;
      } else {
        Send(Kind::kWeights, step, module, param);
      }
    }
    if (random_() % 64 == 0) {
      ++dropped_;  // the end is lost
    } else {
      Send(Kind::kBatchFinished, step, 0, 0);
    }
    graph->Refresh();
    if (random_() % 16 == 0) graph->Tick(MonotonicNs());
  }

  std::unique_ptr<MessageGraph> graph;
  uint64_t seq = 0;
  uint64_t values = 0;

 private:
  void Send(Kind kind, uint64_t step, uint32_t module, uint32_t param) {
    const double data[] = {1, 2, static_cast<double>(step)};
    shm::Message message;
    shm::Record& record = message.record;
    record.seq = ++seq;
    record.time_ns = MonotonicNs();
    record.global_step = step;
    record.root = 1;
    record.dropped_total = dropped_;
    record.kind = static_cast<uint8_t>(kind);
    record.type = static_cast<uint8_t>(RecordType::kMarker);
    if (kind == Kind::kWeights) {
      record.type = static_cast<uint8_t>(RecordType::kTensor);
      record.module = module;
      record.param = param;
      record.dtype = static_cast<uint8_t>(DType::kF64);
      record.layout = static_cast<uint8_t>(Layout::kRowMajor);
      record.space = static_cast<uint8_t>(Space::kHostArena);
      record.ndim = 1;
      record.sizes[0] = 3;
      record.payload = {};
      record.payload.bytes = sizeof(data);
      message.payload = reinterpret_cast<const unsigned char*>(data);
      message.payload_bytes = sizeof(data);
    }
    graph->Handle(message);
  }

  std::mt19937_64 random_;
  uint64_t dropped_ = 0;
  std::atomic<bool> inside_{false};
};

TEST(Stress, EverythingAtOnceAddsUp) {
  ::alarm(280);
  RegisterTestMetrics();
  for (const Descriptor& descriptor : kStressMetrics) {
    if (metrics::FindDescriptor(descriptor.name) == nullptr) {
      ASSERT_TRUE(metrics::RegisterDescriptor(descriptor).ok());
    }
  }
  door.Open();
  SubscriberSet set;
  MemoryBudget memory(64 << 10);  // too little now and then
  std::vector<std::shared_ptr<SubscriberEntry>> entries;
  {
    WorkQueue queue(2, 0);
    JobParts job;
    job.subscribers = &set;
    job.memory = &memory;
    job.queue = &queue;
    std::atomic<uint64_t> of_all{0};
    std::atomic<int> open{0};
    job.open = [&](const ProducerInfo& all) {
      EXPECT_EQ(open.fetch_add(1), 0);
      return std::make_shared<ikkuna::Run>(all);
    };
    job.close = [&](const ikkuna::Run&) { EXPECT_EQ(open.fetch_sub(1), 1); };
    job.emit = [&](const Batch& batch) { of_all += batch.values(); };
    job.deadline_ns = 20'000'000;
    auto jobs = std::make_unique<JobGraphs>(job);
    for (const char* text : kOn) ASSERT_TRUE(set.Add(text, Source::kFlag).ok()) << text;
    entries = set.Snapshot();
    std::atomic<bool> stop{false};
    std::thread changer([&] {
      std::mt19937 random(7);
      while (!stop) {
        const char* text = kNowAndThen[random() % std::size(kNowAndThen)];
        if (random() % 2 == 0) {
          static_cast<void>(set.Add(text, Source::kClient, "someone"));
        } else {
          SubscriberChoice choice;
          choice.by = SubscriberChoice::By::kText;
          choice.text = text;
          static_cast<void>(set.Remove(choice));
        }
        for (const auto& entry : set.Snapshot()) entries.push_back(entry);
        ::usleep(3000);
      }
    });
    std::vector<std::thread> producers;
    std::atomic<uint64_t> values{0};
    for (uint32_t rank = 0; rank < 3; ++rank) {
      producers.emplace_back([&, rank] {
        for (uint64_t life = 0; life < 4; ++life) {
          Producer producer({&set, &queue, &memory, jobs.get(), nullptr}, rank, rank * 10 + life);
          for (uint64_t step = 0; step < 1500; ++step) producer.Step(life * 10'000 + step);
          const bool patient = life % 2 == 0;
          if (patient) {
            // The last step may have lost its end; one that is whole closes behind it.
            producer.Step(life * 10'000 + 5000);
          }
          producer.graph->Finish(patient ? MonotonicNs() + 30'000'000'000 : 0);
          EXPECT_EQ(producer.graph->done_seq(), producer.seq);
          values += producer.values;
        }
      });
    }
    for (std::thread& thread : producers) thread.join();
    stop = true;
    changer.join();
    ASSERT_TRUE(queue.Close(std::chrono::steady_clock::now() + test::kWatchdog));
    jobs.reset();
    EXPECT_EQ(open, 0);
    EXPECT_GT(values, 10'000u);
    EXPECT_GT(of_all, 100u);
  }
  while (lingering > 0) ::usleep(1000);
  EXPECT_EQ(memory.used(), 0u);
  for (const auto& entry : entries) {
    const QueueCounters& counters = *entry->queue;
    EXPECT_EQ(counters.waiting + counters.running + counters.bytes, 0u) << entry->subscription.text;
    EXPECT_EQ(counters.pushed, counters.done + counters.failed + counters.dropped + counters.cancelled)
        << entry->subscription.text;
  }
  ::alarm(0);
}

}  // namespace
}  // namespace ikkuna::graph
