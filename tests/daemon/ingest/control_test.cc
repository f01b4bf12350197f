// Control of runs: who may, which ranks, and that several act at one step. The trainers are processes of their own with
// the probe's C interface, forked before the daemon has threads.
#include "daemon/ingest/control.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <future>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "daemon/ingest/producer_session.h"
#include "tests/daemon/ingest/test_core.h"
#include "tests/daemon/ingest/test_producer.h"
#include "tests/probe/core/c_step.h"

namespace ikkuna::ingest {
namespace {

constexpr int kControlWatchdogSeconds = 120;
const Caller kAdmin{std::nullopt, true};

// Trains one step a millisecond until it is asked to stop; writes the number of steps it made.
[[noreturn]] void Train(const std::string& directory, const std::string& run, uint32_t rank, uint32_t world_size,
                        int go, int made, const std::atomic<bool>& paused) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  char byte;
  if (::read(go, &byte, 1) != 1) ::_exit(2);
  ::alarm(kControlWatchdogSeconds);  // once the daemon is there
  ::setenv("IKKUNA_WAIT_MS", "120000", 1);
  ikkuna_options options{};
  options.size = sizeof options;
  options.directory = directory.c_str();
  options.run_id = run.c_str();
  options.rank = rank;
  options.world_size = world_size;
  options.allow_control = 1;
  options.quiet = 1;
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  uint64_t step = 0;
  for (; !ikkuna_stop_requested(session); ++step) {
    const CStep one(session, root, step);
    ::usleep(1000 + 300 * rank);  // no two of one pace
    while (paused.load()) ::usleep(1000);
  }
  ikkuna_close(session);
  if (::write(made, &step, sizeof step) != sizeof step) ::_exit(3);
  ::_exit(0);
}

class ControlTest : public testing::Test {
 protected:
  struct Trainer {
    pid_t pid = 0;
    int go[2];
    int made[2];
  };
  void Fork(const std::string& run, uint32_t rank, uint32_t world_size) {
    Trainer trainer;
    ASSERT_EQ(::pipe2(trainer.go, O_CLOEXEC), 0);
    ASSERT_EQ(::pipe2(trainer.made, O_CLOEXEC), 0);
    trainer.pid = ::fork();
    ASSERT_GE(trainer.pid, 0);
    if (trainer.pid == 0) Train(temp_.sub("dir"), run, rank, world_size, trainer.go[0], trainer.made[1], *paused_);
    trainers_.push_back(trainer);
  }
  // After the forks.
  void Begin(size_t connected) {
    core_ = std::make_unique<TestCore>(temp_.sub("dir"));
    control_ = std::make_unique<Control>(core_->ingest());
    for (const Trainer& trainer : trainers_) ASSERT_EQ(::write(trainer.go[1], "g", 1), 1);
    ASSERT_TRUE(Eventually([&] {
      const auto producers = core_->ingest().Producers();
      size_t training = 0;
      for (const auto& status : producers) training += !status.roots.empty() && status.roots[0].step > 2;
      return training == connected;
    }));
  }
  // Again where a rank was held up for longer than it is waited for: then nothing was asked of any.
  Result<std::string> Stop(const ControlTarget& target) {
    auto text = control_->Stop(kAdmin, target);
    while (!text && text.error().text.find("did not acknowledge") != std::string::npos) {
      text = control_->Stop(kAdmin, target);
    }
    return text;
  }
  uint64_t StepsOf(const Trainer& trainer) {
    uint64_t steps = 0;
    EXPECT_EQ(::read(trainer.made[0], &steps, sizeof steps), static_cast<ssize_t>(sizeof steps));
    return steps;
  }
  std::vector<ProducerSession::Root> RootsOf(uint32_t rank) {
    for (const auto& session : core_->ingest().FindLive("job", 0)) {
      if (session->run_key().rank == rank) return session->Roots();
    }
    return {};
  }
  void SetUp() override {
    void* shared = ::mmap(nullptr, sizeof *paused_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(shared, MAP_FAILED);
    paused_ = new (shared) std::atomic<bool>(false);
  }
  void TearDown() override {
    for (const Trainer& trainer : trainers_) {
      ::kill(trainer.pid, SIGKILL);
      ::waitpid(trainer.pid, nullptr, 0);
      for (int fd : {trainer.go[0], trainer.go[1], trainer.made[0], trainer.made[1]}) ::close(fd);
    }
    ::munmap(paused_, sizeof *paused_);
  }

  std::atomic<bool>* paused_ = nullptr;  // shared with the trainers: they make no step
  TempDirectory temp_;
  std::vector<Trainer> trainers_;
  std::unique_ptr<TestCore> core_;
  std::unique_ptr<Control> control_;
};

TEST_F(ControlTest, RanksStopAtOneStep) {
  for (uint32_t rank = 0; rank < 3; ++rank) Fork("job", rank, 3);
  Begin(3);
  // Ranks of different pace drift apart, which those of a real job do not: the step lies ahead of all of them.
  const auto text = Stop({"job", 0});
  ASSERT_TRUE(text.ok()) << text.error().text;
  EXPECT_NE(text->find("ranks 0, 1, 2"), std::string::npos) << *text;
  const uint64_t steps = StepsOf(trainers_[0]);
  EXPECT_EQ(StepsOf(trainers_[1]), steps);
  EXPECT_EQ(StepsOf(trainers_[2]), steps);
  EXPECT_TRUE(core_->Events("split").empty());
  // They learn of it as that step begins, and leave their loops after it.
  EXPECT_NE(text->find("step " + std::to_string(steps - 1) + " "), std::string::npos) << *text << ", made " << steps;
}

// Ranks that evaluate make no steps, and train on at any moment: also then all of them have the command before its
// step.
TEST_F(ControlTest, RanksThatPauseStopAtAStepThatTheyReachTogetherWhenTheyTrainOn) {
  for (uint32_t rank = 0; rank < 2; ++rank) Fork("job", rank, 2);
  Begin(2);
  ASSERT_TRUE(Eventually([&] {  // a meter that has not looked twice says 0, too
    const auto first = RootsOf(0).at(0), second = RootsOf(1).at(0);
    return first.step > 200 && second.step > 200 && first.steps_per_second > 0 && second.steps_per_second > 0;
  }));
  paused_->store(true);
  ASSERT_TRUE(Eventually([&] {  // the meter looks back for some seconds
    return RootsOf(0).at(0).steps_per_second == 0 && RootsOf(1).at(0).steps_per_second == 0;
  }));
  const uint64_t furthest = std::max(RootsOf(0)[0].step, RootsOf(1)[0].step);
  const auto text = Stop({"job", 0});
  ASSERT_TRUE(text.ok()) << text.error().text;
  EXPECT_NE(text->find("once all of them train again"), std::string::npos) << *text;
  paused_->store(false);
  const uint64_t steps = StepsOf(trainers_[0]);
  EXPECT_EQ(StepsOf(trainers_[1]), steps);
  EXPECT_TRUE(core_->Events("split").empty());
  EXPECT_GT(steps, furthest + 50) << *text;
}

TEST_F(ControlTest, ARankThatEndsBeforeTheFirstCommandIsNamedAndNobodyStops) {
  Fork("job", 0, 2);
  Fork("job", 1, 2);
  Begin(2);
  std::shared_ptr<ProducerSession> second;
  for (const auto& session : core_->ingest().FindLive("job", 0)) {
    if (session->run_key().rank == 1) second = session;
  }
  ASSERT_TRUE(second);
  // The first is slow to acknowledge; meanwhile the second does, and dies.
  ASSERT_EQ(::kill(trainers_[0].pid, SIGSTOP), 0);
  auto answer = std::async(std::launch::async, [&] { return control_->Stop(kAdmin, {"job", 0}); });
  ASSERT_TRUE(Eventually([&] { return second->commands_taken() == 1; }));
  ASSERT_EQ(::kill(trainers_[1].pid, SIGKILL), 0);
  ASSERT_TRUE(Eventually([&] { return second->ended(); }));
  ASSERT_EQ(::kill(trainers_[0].pid, SIGCONT), 0);
  const auto refused = answer.get();
  ASSERT_FALSE(refused.ok()) << *refused;
  EXPECT_NE(refused.error().text.find("rank 1"), std::string::npos) << refused.error().text;
  EXPECT_NE(refused.error().text.find("nothing is asked of any"), std::string::npos) << refused.error().text;
  const uint64_t step = RootsOf(0).at(0).step;
  EXPECT_TRUE(Eventually([&] { return RootsOf(0).at(0).step > step + 10; })) << "it trains on";
  EXPECT_TRUE(core_->Events("stop").empty());
}

TEST_F(ControlTest, AMissingRankIsNamedAndNobodyStops) {
  Fork("job", 0, 3);
  Fork("job", 2, 3);
  Begin(2);
  const auto refused = control_->Stop(kAdmin, {"job", 0});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kFailedPrecondition);
  EXPECT_NE(refused.error().text.find("rank 1 of run 'job'"), std::string::npos) << refused.error().text;
  // Those that are named alone do.
  const auto text = Stop({"job", 0, {2}});
  ASSERT_TRUE(text.ok()) << text.error().text;
  EXPECT_GT(StepsOf(trainers_[1]), 0u);
  const auto status = core_->ingest().Producers();
  EXPECT_TRUE(Eventually([&] { return core_->ingest().connected() == 1; }));
}

TEST_F(ControlTest, ARankThatDoesNotAcknowledgeIsNamedAndNobodyStops) {
  Fork("job", 0, 2);
  Fork("job", 1, 2);
  Begin(2);
  ASSERT_EQ(::kill(trainers_[1].pid, SIGSTOP), 0);
  const auto refused = control_->Stop(kAdmin, {"job", 0});
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().text.find("rank 1 did not acknowledge"), std::string::npos) << refused.error().text;
  ASSERT_EQ(::kill(trainers_[1].pid, SIGCONT), 0);
  const auto text = Stop({"job", 0});
  ASSERT_TRUE(text.ok()) << text.error().text;
  EXPECT_EQ(StepsOf(trainers_[0]), StepsOf(trainers_[1]));
}

TEST_F(ControlTest, ARankThatIsHeldUpBeyondTheStepDoesNothingAndIsTold) {
  Fork("job", 0, 1);
  Begin(1);
  const auto sessions = core_->ingest().FindLive("job", 0);
  ASSERT_EQ(sessions.size(), 1u);
  shm::Command command{};
  command.type = static_cast<uint32_t>(shm::CommandType::kStop);
  command.root = 1;
  command.argument = 1 + 1;  // step 1 began long ago
  ASSERT_TRUE(sessions[0]->PushCommands({command}, "stop before step 1 of 'net'").ok());
  ASSERT_TRUE(Eventually([&] { return core_->Events("split").size() == 1; }));
  EXPECT_NE(core_->Events("split")[0].text.find("stop before step 1 of 'net'"), std::string::npos);
  EXPECT_EQ(core_->ingest().connected(), 1u);
}

TEST_F(ControlTest, AUserControlsTheirOwnRuns) {
  Fork("job", 0, 1);
  Begin(1);
  const uid_t own = ::geteuid();
  const auto stranger = control_->Stop({own + 1, false}, {"job", 0});
  ASSERT_FALSE(stranger.ok());
  EXPECT_EQ(stranger.error().code, ErrorCode::kPermissionDenied);
  const auto nobody = control_->Stop({std::nullopt, false}, {"job", 0});
  ASSERT_FALSE(nobody.ok());
  EXPECT_EQ(nobody.error().code, ErrorCode::kPermissionDenied);
  const auto none = control_->Stop(kAdmin, {"job", 1});
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, ErrorCode::kNotFound);
  const auto frozen = control_->Freeze(kAdmin, {"job", 0}, "*");
  ASSERT_FALSE(frozen.ok());
  EXPECT_NE(frozen.error().text.find("C interface"), std::string::npos) << frozen.error().text;
  EXPECT_TRUE(control_->Stop({own, false}, {"job", 0}).ok());
  EXPECT_GT(StepsOf(trainers_[0]), 0u);
}

TEST_F(ControlTest, JobsOfOneNameAreControlledApart) {
  Fork("job", 0, 1);
  Fork("job", 0, 1);
  Begin(2);
  EXPECT_EQ(core_->ingest().FindLive("job", 0).size(), 1u);
  ASSERT_EQ(core_->ingest().FindLive("job~2", 0).size(), 1u);
  EXPECT_EQ(core_->Events("run_placed").size(), 1u);
  const pid_t second = core_->ingest().FindLive("job~2", 0)[0]->pid();
  ASSERT_TRUE(Stop({"job~2", 0}).ok());
  EXPECT_GT(StepsOf(trainers_[second == trainers_[0].pid ? 0 : 1]), 0u);
  EXPECT_TRUE(Eventually([&] { return core_->ingest().connected() == 1; }));
  EXPECT_EQ(core_->ingest().FindLive("job", 0).size(), 1u);
}

TEST_F(ControlTest, ADaemonThatRestartsBetweenTwoRanksKeepsThemTogether) {
  Fork("job", 0, 2);
  Fork("job", 1, 2);
  auto store = std::make_shared<MemoryStore>();
  core_ = std::make_unique<TestCore>(temp_.sub("dir"), store);
  ASSERT_EQ(::write(trainers_[0].go[1], "g", 1), 1);
  ASSERT_TRUE(Eventually([&] { return core_->ingest().connected() == 1; }));
  core_->Stop();
  core_.reset();
  core_ = std::make_unique<TestCore>(temp_.sub("dir"), store);
  ASSERT_EQ(::write(trainers_[1].go[1], "g", 1), 1);
  ASSERT_TRUE(Eventually([&] { return core_->ingest().FindLive("job", 0).size() == 2; }));
  EXPECT_EQ(store->Keys(), (std::vector<RunKey>{{"job", 0, 0}, {"job", 0, 1}}));
}

// Folds one after another in one process: each is an attempt, whether the daemon has noticed the end of the last or
// not.
TEST_F(ControlTest, FoldsInOneProcessAreAttempts) {
  core_ = std::make_unique<TestCore>(temp_.sub("dir"));
  ::setenv("IKKUNA_WAIT_MS", "120000", 1);
  ::setenv("SLURM_JOB_ID", "4711", 1);
  for (int fold = 0; fold < 5; ++fold) {
    ikkuna_options options{};
    options.size = sizeof options;
    const std::string directory = temp_.sub("dir");
    options.directory = directory.c_str();
    options.quiet = 1;
    ikkuna_session* session = ikkuna_open(&options);
    const uint16_t root = ikkuna_root(session, "net");
    for (uint64_t step = 0; step < 10; ++step) {
      CStep(session, root, step).Loss(fold);
    }
    ikkuna_close(session);
  }
  ::unsetenv("SLURM_JOB_ID");
  ::unsetenv("IKKUNA_WAIT_MS");
  for (uint32_t fold = 0; fold < 5; ++fold) {
    ASSERT_TRUE(Eventually([&] { return core_->store().Values({"4711", fold, 0}, "loss").size() == 10; })) << fold;
    EXPECT_EQ(core_->store().Values({"4711", fold, 0}, "loss")[9], fold);
  }
}

}  // namespace
}  // namespace ikkuna::ingest
