// Four ranks at full speed under subscribers of every kind: one that sleeps a second at every message, a chain of
// three, one with state for the run, one over all ranks. The heavy one costs the others nothing, the trainers no drop,
// and all that was read, dropped and written adds up. The trainers are processes of their own with the probe's C
// interface, which go in step as ranks do; forked before the daemon has threads.
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <thread>

#include "metrics/subscriber.h"
#include "tests/daemon/monitor/house.h"
#include "tests/probe/core/c_step.h"

namespace ikkuna {
namespace {

using metrics::Content;
using metrics::Definition;
using metrics::Delivery;
using metrics::Descriptor;
using metrics::Input;
using metrics::Keeps;
using metrics::Payload;
using metrics::ResultsRef;
using metrics::Runs;
using metrics::Scope;
using metrics::StepInfo;

constexpr uint32_t kRanks = 4;
constexpr int64_t kSide = 128;  // of a weight: 64 KiB
constexpr uint64_t kRecordsPerStep = 5;

double FirstOf(const Payload& payload) { return static_cast<const float*>(payload.view.data)[0]; }

// Says what it was given a second ago.
class Sleeper : public metrics::Subscriber {
 public:
  void OnMessage(const Input&, const Payload* payload) override {
    const double before = FirstOf(*payload);
    std::this_thread::sleep_for(std::chrono::seconds(1));
    EXPECT_EQ(FirstOf(*payload), before) << "the copy was written over";
    value_ = before;
  }
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    results->Put(inputs[0].subject, value_);
  }
  void Reset() override { value_ = 0; }

 private:
  double value_ = 0;
};

// How many steps it has seen, which come in order.
class Counter : public metrics::Subscriber {
 public:
  void OnMessage(const Input&, const Payload*) override {}
  void OnStep(const StepInfo& step, std::span<const Input> inputs, const ResultsRef& results) override {
    EXPECT_TRUE(steps_ == 0 || step.global_step > last_);
    last_ = step.global_step;
    results->Put(inputs[0].subject, static_cast<double>(++steps_));
  }

 private:
  uint64_t steps_ = 0;
  uint64_t last_ = 0;
};

class SumOfRanks : public metrics::Subscriber {
 public:
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    double sum = 0;
    for (const Input& input : inputs) sum += input.scalar;
    if (!inputs.empty()) results->Put(inputs[0].subject, sum);
  }
};

template <typename T>
Definition Make(std::span<const std::string> inputs, const char* name) {
  Definition definition;
  definition.topic = inputs[0] + "_" + name;
  definition.create = [] { return std::make_unique<T>(); };
  return definition;
}

const Descriptor kSoakMetrics[] = {
    {.name = "sleeper",
     .publishes = "{kind}_sleeper",
     .cost = metrics::Cost::kHeavy,
     .help = "-",
     .define = [](std::span<const std::string> inputs, std::span<const std::string>) -> Result<Definition> {
       Definition d = Make<Sleeper>(inputs, "sleeper");
       d.content = Content::kTensor;
       d.delivery = Delivery::kEachMessage;
       d.runs = Runs::kQueue;
       return d;
     }},
    {.name = "counter",
     .publishes = "{kind}_counter",
     .help = "-",
     .define = [](std::span<const std::string> inputs, std::span<const std::string>) -> Result<Definition> {
       Definition d = Make<Counter>(inputs, "counter");
       d.content = Content::kTensor;
       d.delivery = Delivery::kEachMessage;
       d.keeps = Keeps::kRun;
       return d;
     }},
    {.name = "sum_of_ranks",
     .accepts = metrics::Inputs::kTopics,
     .publishes = "{topic}_sum_of_ranks",
     .help = "-",
     .define = [](std::span<const std::string> inputs, std::span<const std::string>) -> Result<Definition> {
       Definition d = Make<SumOfRanks>(inputs, "sum_of_ranks");
       d.content = Content::kScalar;
       d.scope = Scope::kJob;
       return d;
     }},
};

// `paced`: a step a millisecond, and a byte of `go` for each.
[[noreturn]] void TrainRank(const std::string& directory, uint32_t rank, uint64_t steps, bool paced,
                            pthread_barrier_t* together, int go) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  char byte;
  if (::read(go, &byte, 1) != 1) ::_exit(2);
  ::alarm(240);  // once the daemon is there
  ::setenv("IKKUNA_WAIT_MS", "120000", 1);
  ikkuna_options options{};
  options.size = sizeof options;
  options.directory = directory.c_str();
  options.run_id = "soak";
  options.rank = rank;
  options.world_size = kRanks;
  options.arena_mb = 32;
  options.budget = -1;
  options.quiet = 1;
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "model");
  const uint32_t module = ikkuna_module(session, root, "fc", "Linear", 0);
  const int64_t sizes[] = {kSide, kSide};
  const uint32_t weight = ikkuna_param(session, root, module, "weight", IKKUNA_F32, 2, sizes, IKKUNA_TRAINABLE);
  std::vector<float> data(static_cast<size_t>(kSide * kSide));
  for (uint64_t step = 0; step < steps; ++step) {
    // At the first all ranks are here.
    if ((step == 1 || (step > 1 && paced)) && ::read(go, &byte, 1) != 1) ::_exit(3);
    std::fill(data.begin(), data.end(), static_cast<float>(step));
    CStep one(session, root, step);
    one.Tensor(IKKUNA_WEIGHTS, module, weight, data.data(), {kSide, kSide});
    one.Loss(static_cast<double>(step + rank));
    for (const uint64_t end = MonotonicNs() + (paced ? 1'000'000 : 0); MonotonicNs() < end;) {
    }
    ::pthread_barrier_wait(together);
  }
  ikkuna_close(session);
  ::_exit(0);
}

class SoakTest : public testing::Test {
 protected:
  void SetUp() override {
    ::alarm(280);
    for (const Descriptor& descriptor : kSoakMetrics) {
      if (metrics::FindDescriptor(descriptor.name) != nullptr) continue;
      ASSERT_TRUE(metrics::RegisterDescriptor(descriptor).ok());
    }
    void* memory =
        ::mmap(nullptr, sizeof(pthread_barrier_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    together_ = static_cast<pthread_barrier_t*>(memory);
    pthread_barrierattr_t attributes;
    ::pthread_barrierattr_init(&attributes);
    ::pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    ASSERT_EQ(::pthread_barrier_init(together_, &attributes, kRanks), 0);
  }
  void TearDown() override {
    for (const auto& [pid, go] : ranks_) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
      ::close(go);
    }
    ::munmap(together_, sizeof(pthread_barrier_t));
    ::alarm(0);
  }
  void Go(size_t bytes = 1) {
    const std::string let_go(bytes, 'g');
    for (const auto& [pid, go] : ranks_) ASSERT_EQ(::write(go, let_go.data(), bytes), static_cast<ssize_t>(bytes));
  }
  // Lets the ranks make their steps as the daemon reads them: never more ahead of it than has room in ring and arena.
  void LetThemTrain(uint64_t steps) {
    constexpr uint64_t kAhead = 256, kAtOnce = 32;  // of 512 whose tensors the arena holds
    for (uint64_t let = 1; let < steps;) {
      uint64_t read = let;  // steps, of the rank that was read least
      for (const ProducerStatus& status : house_->ingest().Producers()) {
        read = std::min(read, (status.handled + status.dropped_total) / kRecordsPerStep);
      }
      if (let - read > kAhead - kAtOnce) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        continue;
      }
      const uint64_t more = std::min(kAtOnce, steps - let);
      Go(more);
      if (HasFatalFailure()) return;
      let += more;
    }
  }
  // All ranks to their ends; their states at rest.
  std::vector<ProducerStatus> TrainAll(uint64_t steps, bool paced) {
    for (uint32_t rank = 0; rank < kRanks; ++rank) {
      int go[2];
      EXPECT_EQ(::pipe2(go, O_CLOEXEC), 0);
      const pid_t pid = ::fork();
      if (pid == 0) TrainRank(temp_.sub("sockets"), rank, steps, paced, together_, go[0]);
      ::close(go[0]);
      ranks_.emplace_back(pid, go[1]);
    }
    house_ = std::make_unique<House>(
        temp_, std::vector<std::string>{"loss", "norm(weights)", "message_mean(weights_norm2)",
                                        "message_mean(weights_norm2_message_mean)", "counter(weights)",
                                        "sleeper(weights)", "mean(weights)", "sum_of_ranks(weights_mean)"});
    Go();
    EXPECT_TRUE(Eventually([&] { return house_->ingest().connected() == kRanks; }));
    if (paced) {
      LetThemTrain(steps);
    } else {
      Go();
    }
    std::vector<ProducerStatus> ended;
    while (ended.size() < kRanks) {  // a sanitizer takes its time; the alarm is the watchdog
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      ended.clear();
      for (const ProducerStatus& status : house_->ingest().Producers()) {
        if (status.state == RunState::kFinished) ended.push_back(status);
      }
    }
    return ended;
  }
  SubscriberInfo InfoOf(const std::string& topic) {
    const std::vector<SubscriberInfo> all = house_->set().List();
    const auto found = std::find_if(all.begin(), all.end(), [&](const auto& one) { return one.topics[0] == topic; });
    EXPECT_NE(found, all.end()) << topic;
    return found == all.end() ? SubscriberInfo{} : *found;
  }
  std::map<uint64_t, double> Of(uint32_t rank, const std::string& topic) {
    ReadOptions options;
    options.query.filter.rank = rank;
    return house_->Values("soak", topic, options);
  }
  // What was attempted is accounted for, what was offered too.
  void ExpectBalance(const std::vector<ProducerStatus>& ended) {
    for (const ProducerStatus& status : ended) {
      EXPECT_EQ(status.handled + status.dropped_total + status.lost_in_daemon + status.killed, status.attempted);
      EXPECT_EQ(status.in_flight, 0u);
      EXPECT_EQ(status.lost_in_daemon + status.killed, 0u);
    }
    house_->Flush();
    const DaemonStatus status = house_->monitor().status.GetStatus();
    ASSERT_EQ(status.sinks.size(), 2u);
    for (const SinkCounters& sink : status.sinks) {
      EXPECT_EQ(sink.offered, sink.written + sink.dropped + sink.waiting) << sink.name;
    }
    uint64_t recorded = 0;
    const std::vector<RunInfo> runs = *house_->runs().FindRuns({"soak"});
    for (const RunInfo& run : runs) recorded += run.values;
    EXPECT_EQ(recorded, status.sinks[0].written);
    EXPECT_LE(status.queue.memory_bytes_peak, status.queue.memory_bytes_max);
    EXPECT_TRUE(Eventually([&] { return house_->monitor().status.GetStatus().queue.memory_bytes == 0; }))
        << "copies that nobody reads any more";
  }

  TempDirectory temp_;
  pthread_barrier_t* together_ = nullptr;
  std::vector<std::pair<pid_t, int>> ranks_;
  std::unique_ptr<House> house_;
};

// A step a millisecond where the daemon keeps up, of which every tensor travels.
TEST_F(SoakTest, AHeavySubscriberCostsNobodyAnything) {
  constexpr uint64_t kSteps = 3000;
  const std::vector<ProducerStatus> ended = TrainAll(kSteps, true);
  ASSERT_EQ(ended.size(), kRanks);
  for (const ProducerStatus& status : ended) {
    EXPECT_EQ(status.dropped_total, 0u) << "of rank " << status.info.run_key.rank;
    EXPECT_EQ(status.handled, kSteps * kRecordsPerStep);
  }
  ExpectBalance(ended);
  for (uint32_t rank = 0; rank < kRanks; ++rank) {
    EXPECT_EQ(Of(rank, "loss").size(), kSteps);
    EXPECT_EQ(Of(rank, "weights_norm2_message_mean_message_mean").size(), kSteps) << "the end of the chain";
    EXPECT_DOUBLE_EQ(Of(rank, "weights_norm2_message_mean_message_mean").at(7), 7.0 * kSide);
    const auto counted = Of(rank, "weights_counter");
    EXPECT_EQ(counted.size(), kSteps);
    for (const auto& [step, count] : counted) ASSERT_EQ(count, static_cast<double>(step + 1));
  }
  const auto sums = Of(kAllRanks, "weights_mean_sum_of_ranks");
  EXPECT_EQ(sums.size(), kSteps);
  for (const auto& [step, sum] : sums) EXPECT_DOUBLE_EQ(sum, static_cast<double>(step * kRanks)) << step;
  EXPECT_EQ(InfoOf("weights_mean_sum_of_ranks").count(MissReason::kIncomplete), 0u);
  // The heavy one did what it could, what it did is right, and the rest was told.
  const SubscriberInfo heavy = InfoOf("weights_sleeper");
  EXPECT_GT(heavy.computed, 0u);
  EXPECT_GT(heavy.count(MissReason::kQueueFull), 0u);
  EXPECT_EQ(heavy.computed + heavy.count(MissReason::kQueueFull) + heavy.count(MissReason::kCancelled) +
                heavy.count(MissReason::kMemoryFull),
            kSteps * kRanks);
  uint64_t slept = 0;
  for (uint32_t rank = 0; rank < kRanks; ++rank) {
    for (const auto& [step, value] : Of(rank, "weights_sleeper")) {
      EXPECT_EQ(value, static_cast<double>(step));
      ++slept;
    }
  }
  EXPECT_EQ(slept, heavy.computed);
}

// As fast as the ranks can publish: what does not fit is dropped by the trainer, and everything adds up.
TEST_F(SoakTest, FasterThanAnybodyReadsItAddsUp) {
  constexpr uint64_t kSteps = 20'000;
  const std::vector<ProducerStatus> ended = TrainAll(kSteps, false);
  ASSERT_EQ(ended.size(), kRanks);
  ExpectBalance(ended);
  for (const ProducerStatus& status : ended) {
    uint64_t drops = 0;
    for (const Count& drop : status.drops) drops += drop.count;
    EXPECT_EQ(drops, status.dropped_total);
    EXPECT_EQ(status.attempted, kSteps * kRecordsPerStep);
  }
  const SubscriberInfo counter = InfoOf("weights_counter");
  uint64_t counted = 0;
  for (uint32_t rank = 0; rank < kRanks; ++rank) counted += Of(rank, "weights_counter").size();
  // What the store could not keep up with it has counted, of this series and of others.
  uint64_t unkept = 0;
  for (const SinkCounters& sink : house_->monitor().status.GetStatus().sinks) {
    if (sink.name == "store") unkept = sink.dropped;
  }
  EXPECT_LE(counted, counter.computed);
  EXPECT_LE(counter.computed - counted, unkept);
  EXPECT_GT(counted, 0u);
}

}  // namespace
}  // namespace ikkuna
