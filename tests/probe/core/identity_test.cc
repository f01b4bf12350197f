// Who a run is, and that its facts give no secret away.
#include "probe/core/identity.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

namespace ikkuna::probe {
namespace {

// Sets environment variables and puts back what was there.
class Environment {
 public:
  Environment() {
    for (const char* name :
         {"IKKUNA_RUN_ID", "IKKUNA_RUN", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "RANK", "SLURM_PROCID", "WORLD_SIZE",
          "SLURM_NTASKS", "TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT", "SLURM_STEP_ID", "SLURM_ARRAY_JOB_ID",
          "SLURM_ARRAY_TASK_ID", "MASTER_ADDR", "MASTER_PORT"}) {
      ::unsetenv(name);
    }
  }
};

TEST(Identity, OptionsComeFirstThenTheLaunchers) {
  Environment clean;
  ::setenv("SLURM_JOB_ID", "4711", 1);
  EXPECT_EQ(ResolveIdentity({}).run_id, "4711");
  ::setenv("TORCHELASTIC_RUN_ID", "elastic", 1);
  EXPECT_EQ(ResolveIdentity({}).run_id, "elastic");
  ::setenv("IKKUNA_RUN_ID", "mine", 1);
  EXPECT_EQ(ResolveIdentity({}).run_id, "mine");
  EXPECT_EQ(ResolveIdentity({.run_id = "given", .run = "shown"}).run_id, "given");
  ::setenv("RANK", "3", 1);
  ::setenv("WORLD_SIZE", "8", 1);
  ::setenv("TORCHELASTIC_RESTART_COUNT", "2", 1);
  const Identity identity = ResolveIdentity({});
  EXPECT_EQ(identity.rank, 3u);
  EXPECT_EQ(identity.world_size, 8u);
  EXPECT_EQ(identity.attempt, 2u);
  ::setenv("RANK", "three", 1);
  EXPECT_EQ(ResolveIdentity({}).rank, 0u);
  EXPECT_EQ(ResolveIdentity({.rank = 5}).rank, 5u);
  Environment clean_again;
}

TEST(Identity, TorchrunsDefaultIdNamesNothing) {
  Environment clean;
  ::setenv("TORCHELASTIC_RUN_ID", "none", 1);
  EXPECT_EQ(ResolveIdentity({}).run_id.size(), 36u) << "a UUID of its own";
  EXPECT_TRUE(ResolveIdentity({}).run_id_made_up) << "the other ranks have others";
  ::setenv("SLURM_JOB_ID", "4711", 1);
  EXPECT_EQ(ResolveIdentity({}).run_id, "4711");
  EXPECT_FALSE(ResolveIdentity({}).run_id_made_up);
  ::setenv("IKKUNA_RUN_ID", "none", 1);
  EXPECT_EQ(ResolveIdentity({}).run_id, "none") << "whoever chooses the word means it";
  Environment clean_again;
}

TEST(Identity, StepsAndArraysOfSlurmAreRunsOfTheirOwn) {
  Environment clean;
  ::setenv("SLURM_JOB_ID", "4712", 1);
  ::setenv("SLURM_STEP_ID", "3", 1);
  EXPECT_EQ(ResolveIdentity({}).run_id, "4712.3");
  ::setenv("SLURM_ARRAY_JOB_ID", "4711", 1);
  ::setenv("SLURM_ARRAY_TASK_ID", "17", 1);
  EXPECT_EQ(ResolveIdentity({}).run_id, "4711_17.3");
  ::unsetenv("SLURM_STEP_ID");
  EXPECT_EQ(ResolveIdentity({}).run_id, "4711_17");
  Environment clean_again;
}

TEST(Identity, ACountOfRestartsIsTheSchedulersOrNone) {
  Environment clean;
  EXPECT_FALSE(ResolveIdentity({}).attempt.has_value());
  ::setenv("SLURM_JOB_ID", "4711", 1);
  EXPECT_EQ(ResolveIdentity({}).attempt, 0u) << "Slurm says none before the first restart";
  ::setenv("SLURM_RESTART_COUNT", "2", 1);
  EXPECT_EQ(ResolveIdentity({}).attempt, 2u);
  ::setenv("TORCHELASTIC_RESTART_COUNT", "1", 1);
  EXPECT_EQ(ResolveIdentity({}).attempt, 3u) << "of the allocation, and of the workers in it";
  EXPECT_EQ(ResolveIdentity({.attempt = 0}).attempt, 0u);
  ::setenv("MASTER_ADDR", "node1", 1);
  ::setenv("MASTER_PORT", "29500", 1);
  const Identity identity = ResolveIdentity({.resume = true, .start_step = 40});
  EXPECT_EQ(identity.job_address, "node1");
  EXPECT_EQ(identity.job_port, "29500");
  EXPECT_TRUE(identity.resume);
  EXPECT_EQ(identity.start_step, 40u);
  Environment clean_again;
}

TEST(Identity, OtherwiseANewUuidOfVersionSeven) {
  Environment clean;
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    const std::string id = ResolveIdentity({}).run_id;
    ASSERT_EQ(id.size(), 36u);
    EXPECT_EQ(id[14], '7');
    EXPECT_NE(std::string("89ab").find(id[19]), std::string::npos);
    seen.insert(id);
  }
  EXPECT_EQ(seen.size(), 100u);
  EXPECT_FALSE(ResolveIdentity({}).run.empty());
}

TEST(Identity, SecretsOfTheCommandLineAreHidden) {
  EXPECT_EQ(RedactCommandLine({"train", "--api-key", "hunter2", "--lr", "0.1"}), "train --api-key *** --lr 0.1");
  EXPECT_EQ(RedactCommandLine({"WANDB_API_KEY=hunter2", "train", "--token=hunter2"}),
            "WANDB_API_KEY=*** train --token=***");
  EXPECT_EQ(RedactCommandLine({"train", "--password", "--verbose"}), "train --password --verbose");
  EXPECT_EQ(RedactCommandLine({"train", "--epochs=3"}), "train --epochs=3");
}

TEST(Identity, FactsNameTheProcess) {
  bool command = false, directory = false;
  for (const auto& [key, value] : ProcessFacts()) {
    command |= key == "command" && value.find("probe_core_tests") != std::string::npos;
    directory |= key == "directory" && !value.empty();
  }
  EXPECT_TRUE(command);
  EXPECT_TRUE(directory);
}

}  // namespace
}  // namespace ikkuna::probe
