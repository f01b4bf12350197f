// What trainers are asked to do: by whom, of which runs and ranks, and what a refusal says to a program. The trainers
// are processes of their own with the probe's C interface, forked before the daemon has threads.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "tests/daemon/monitor/house.h"
#include "tests/probe/core/c_step.h"

namespace ikkuna {
namespace {

// Trains one step a millisecond until it is asked to stop; writes the number of steps it made.
[[noreturn]] void TrainUntilStopped(const std::string& directory, const std::string& run, uint32_t rank,
                                    uint32_t world_size, bool allow_control, int go, int made) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  char byte;
  if (::read(go, &byte, 1) != 1) ::_exit(2);
  ::alarm(120);  // once the daemon is there
  ::setenv("IKKUNA_WAIT_MS", "120000", 1);
  ikkuna_options options{};
  options.size = sizeof options;
  options.directory = directory.c_str();
  options.run_id = run.c_str();
  options.rank = rank;
  options.world_size = world_size;
  options.allow_control = allow_control ? 1 : 0;
  options.quiet = 1;
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  ikkuna_module(session, root, "fc", "Linear", 0);
  uint64_t step = 0;
  for (; !ikkuna_stop_requested(session); ++step) {
    CStep one(session, root, step);
    one.Loss(1.0);
    ::usleep(1000);
  }
  ikkuna_close(session);
  if (::write(made, &step, sizeof step) != sizeof step) ::_exit(3);
  ::_exit(0);
}

class MonitorControlTest : public testing::Test {
 protected:
  struct Trainer {
    pid_t pid = 0;
    int go[2];
    int made[2];
  };
  void Fork(const std::string& run, uint32_t rank, uint32_t world_size, bool allow_control = true) {
    Trainer trainer;
    ASSERT_EQ(::pipe2(trainer.go, O_CLOEXEC), 0);
    ASSERT_EQ(::pipe2(trainer.made, O_CLOEXEC), 0);
    trainer.pid = ::fork();
    ASSERT_GE(trainer.pid, 0);
    if (trainer.pid == 0) {
      TrainUntilStopped(temp_.sub("sockets"), run, rank, world_size, allow_control, trainer.go[0], trainer.made[1]);
    }
    trainers_.push_back(trainer);
  }
  // After the forks.
  void Begin() {
    house_ = std::make_unique<House>(temp_);
    for (const Trainer& trainer : trainers_) ASSERT_EQ(::write(trainer.go[1], "g", 1), 1);
    ASSERT_TRUE(Eventually([&] {
      size_t training = 0;
      for (const auto& status : house_->ingest().Producers()) {
        training += !status.roots.empty() && status.roots[0].step > 2;
      }
      return training == trainers_.size();
    }));
  }
  uint64_t StepsOf(const Trainer& trainer) {
    uint64_t steps = 0;
    EXPECT_EQ(::read(trainer.made[0], &steps, sizeof steps), static_cast<ssize_t>(sizeof steps));
    return steps;
  }
  void TearDown() override {
    for (const Trainer& trainer : trainers_) {
      ::kill(trainer.pid, SIGKILL);
      ::waitpid(trainer.pid, nullptr, 0);
      for (int fd : {trainer.go[0], trainer.go[1], trainer.made[0], trainer.made[1]}) ::close(fd);
    }
  }
  ControlMonitor& control() { return house_->monitor().control; }

  TempDirectory temp_;
  std::vector<Trainer> trainers_;
  std::unique_ptr<House> house_;
};

TEST_F(MonitorControlTest, ARunThatLacksARankIsRefusedByItsName) {
  Fork("job", 0, 3);
  Fork("job", 2, 3);
  Begin();
  const auto refused = control().Stop(Me(), {"job", {}, {}});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.failure().reason, Reason::kRanksMissing);
  EXPECT_EQ(refused.failure().subject, "1");
  EXPECT_THAT(refused.failure().text, HasSubstr("rank 1 "));
  const auto named = control().Stop(Me(), {"latest", {}, {2, 5}});
  ASSERT_FALSE(named.ok());
  EXPECT_EQ(named.failure().reason, Reason::kRanksMissing);
  EXPECT_EQ(named.failure().subject, "5");
  // Those that are there, at one step.
  const auto stopped = control().Stop(Me(), {"job", {}, {0, 2}});
  ASSERT_TRUE(stopped.ok()) << stopped.failure().text;
  EXPECT_EQ(StepsOf(trainers_[0]), StepsOf(trainers_[1]));
}

TEST_F(MonitorControlTest, WhoMayAskAndWhatATrainerAllows) {
  Fork("open", 0, 1);
  Fork("closed", 0, 1, false);
  Begin();
  const auto reason = [&](const Answer<std::string>& answer) {
    EXPECT_FALSE(answer.ok());
    return answer ? Reason::kUnspecified : answer.failure().reason;
  };
  EXPECT_EQ(reason(control().Stop(Stranger(), {"open", {}, {}})), Reason::kRole);
  EXPECT_EQ(reason(control().Stop({"token", std::nullopt, Role::kRead}, {"open", {}, {}})), Reason::kRole);
  EXPECT_EQ(reason(control().Freeze(Stranger(), {"open", {}, {0}}, "fc")), Reason::kRole);
  EXPECT_EQ(reason(control().Stop(Me(), {"closed", {}, {}})), Reason::kTrainerRefuses);
  EXPECT_EQ(reason(control().Stop(Me(), {"nobody", {}, {}})), Reason::kNoSuchRun);
  EXPECT_EQ(reason(control().Stop(Me(), {"open", 7u, {}})), Reason::kNoSuchRun);
  house_->Record({"over", 0, 0}, "over", 1);
  EXPECT_EQ(reason(control().Stop(Me(), {"over", {}, {}})), Reason::kRunNotLive);
  // These trainers can only be stopped: no rank is missing for that.
  const auto frozen = control().Freeze(Me(), {"open", {}, {}}, "fc");
  EXPECT_EQ(frozen.failure().code, ErrorCode::kFailedPrecondition);
  EXPECT_NE(reason(frozen), Reason::kRanksMissing);
  EXPECT_TRUE(control().Stop(Operator(), {"open", {}, {}}).ok());
  EXPECT_GT(StepsOf(trainers_[0]), 2u);
}

}  // namespace
}  // namespace ikkuna
