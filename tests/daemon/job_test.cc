// A subscriber of scope job through the whole daemon, over four ranks that are processes of their own.
#include <gtest/gtest.h>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "metrics/subscriber.h"
#include "tests/daemon/cli/program.h"
#include "tests/daemon/daemon_fixture.h"

namespace ikkuna {
namespace {

constexpr uint32_t kRanks = 4;
constexpr uint64_t kSteps = 200;

// Sum over ranks.
class RankSum : public metrics::Subscriber {
 public:
  void OnStep(const metrics::StepInfo&, std::span<const metrics::Input> inputs,
              const metrics::ResultsRef& results) override {
    double sum = 0;
    for (const metrics::Input& input : inputs) sum += input.scalar;
    results->Put(inputs[0].subject, sum);
  }
};

const metrics::Descriptor kRankSum{.name = "rank_sum",
                                   .accepts = metrics::Inputs::kTopics,
                                   .publishes = "{topic}_rank_sum",
                                   .help = "-",
                                   .define = [](std::span<const std::string> inputs,
                                                std::span<const std::string>) -> Result<metrics::Definition> {
                                     metrics::Definition definition;
                                     definition.topic = inputs[0] + "_rank_sum";
                                     definition.content = metrics::Content::kScalar;
                                     definition.scope = metrics::Scope::kJob;
                                     definition.create = [] { return std::make_unique<RankSum>(); };
                                     return definition;
                                   }};

class JobTest : public DaemonFixture {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(metrics::RegisterDescriptor(kRankSum).ok()); }
  // The loss of step s is 100 * rank + s.
  void StartRank(uint32_t rank) {
    const std::string program = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "c_job";
    const std::map<std::string, std::string> environment = {
        {"IKKUNA_DIR", temp_.sub("dir")}, {"IKKUNA_RUN_ID", "job"},     {"IKKUNA_WAIT_MS", "120000"},
        {"RANK", std::to_string(rank)},   {"MASTER_ADDR", "127.0.0.1"}, {"WORLD_SIZE", std::to_string(kRanks)},
        {"MASTER_PORT", "29500"}};
    const std::vector<std::string> command = {
        program,         "--steps", std::to_string(kSteps), "--us",  "1000", "--loss", std::to_string(100 * rank),
        "--begin-after", all_here_, "--wait-for",           through_};
    const std::string output = temp_.sub("rank" + std::to_string(rank));
    ranks_.push_back(std::make_unique<test::Program>(command, environment, output + ".out", output + ".err"));
  }
  void LetRanksEnd() {
    std::ofstream(through_).put('\n');
    for (const auto& rank : ranks_) EXPECT_EQ(rank->Wait(), 0) << rank->err();
  }
  // Of one rank, or of all together.
  static std::map<uint64_t, double> Values(Daemon& daemon, const std::string& topic, uint32_t rank) {
    ReadOptions options;
    options.query.filter.run = "job";
    options.query.filter.rank = rank;
    options.query.filter.topic = topic;
    std::map<uint64_t, double> values;
    auto read = daemon.monitor().series.ReadSamples(options);
    if (!read) return values;
    for (;;) {
      auto part = read->reader->Next();
      if (!part || !*part) return values;
      for (size_t i = 0; i < (*part)->steps.size(); ++i) values[(*part)->steps[i]] = (*part)->numbers[i];
    }
  }

  std::vector<std::unique_ptr<test::Program>> ranks_;
  const std::string all_here_ = temp_.sub("all-here");  // none makes a step before it is there
  const std::string through_ = temp_.sub("through");  // all ranks stay until it is there
};

TEST_F(JobTest, ASumOverFourRanksIsARunOfItsOwn) {
  Config config = MakeConfig();
  config.subscribe = {"loss", "rank_sum(loss)"};
  config.budget_ppm = 0;  // each rank for itself would leave out steps where it is slow
  auto daemon = MustStart(config);
  ASSERT_TRUE(daemon);
  for (uint32_t rank = 0; rank < kRanks; ++rank) StartRank(rank);
  // One that is slow to start is not one that is late.
  ASSERT_TRUE(Eventually([&] { return daemon->monitor().status.GetStatus().producers.size() == kRanks; }));
  std::ofstream(all_here_).put('\n');
  ASSERT_TRUE(Eventually([&] { return Values(*daemon, "loss_rank_sum", kAllRanks).size() == kSteps; }))
      << Values(*daemon, "loss_rank_sum", kAllRanks).size();
  LetRanksEnd();
  for (const auto& [step, sum] : Values(*daemon, "loss_rank_sum", kAllRanks)) {
    ASSERT_EQ(sum, 100.0 * (0 + 1 + 2 + 3) + 4.0 * static_cast<double>(step)) << step;
  }
  for (uint32_t rank = 0; rank < kRanks; ++rank) {
    EXPECT_TRUE(Eventually([&] { return Values(*daemon, "loss", rank).size() == kSteps; })) << rank;
    EXPECT_TRUE(Values(*daemon, "loss_rank_sum", rank).empty()) << rank;
  }
  // Nothing of it is lost where a daemon ends, and it is found as the ranks' own are.
  ASSERT_TRUE(Eventually([&] {
    const auto producers = daemon->monitor().status.GetStatus().producers;
    return std::all_of(producers.begin(), producers.end(),
                       [](const ProducerStatus& one) { return one.state == RunState::kFinished; });
  }));
  daemon.reset();
  daemon = MustStart(config);
  EXPECT_EQ(Values(*daemon, "loss_rank_sum", kAllRanks).size(), kSteps);
  auto runs = daemon->monitor().runs.FindRuns({"job", {}, {}});
  ASSERT_TRUE(runs.ok());
  EXPECT_EQ(runs->size(), kRanks + 1);
}

}  // namespace
}  // namespace ikkuna
