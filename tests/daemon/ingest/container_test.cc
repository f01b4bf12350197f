// A daemon in a container beside those of its trainers: the kernel shows it none of their numbers.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <functional>
#include <memory>
#include <string>

#include "tests/daemon/ingest/ingest_fixture.h"

namespace ikkuna::ingest {
namespace {

class ContainerTest : public IngestTest {
 protected:
  static constexpr int kNoNamespaces = 77;

  // Runs `daemon` in a process of another pid namespace than the trainers that were made before.
  static void InContainer(const std::function<void()>& daemon) {
    const pid_t outer = ::fork();
    ASSERT_GE(outer, 0);
    if (outer == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::unshare(CLONE_NEWPID) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0) ::_exit(kNoNamespaces);
      const pid_t inner = ::fork();
      if (inner < 0) ::_exit(kNoNamespaces);
      if (inner == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        daemon();
        ::_exit(testing::Test::HasFailure() ? 1 : 0);
      }
      int status = 0;
      ::waitpid(inner, &status, 0);
      ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 2);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(outer, &status, 0), outer);
    ASSERT_TRUE(WIFEXITED(status));
    if (WEXITSTATUS(status) == kNoNamespaces) GTEST_SKIP() << "this system lets nobody make a pid namespace";
    EXPECT_EQ(WEXITSTATUS(status), 0) << "see the failures above";
  }
  static std::function<void(shm::Hello&)> Rank(uint32_t rank, uint32_t world_size) {
    return [=](shm::Hello& hello) {
      hello.run_id = "job";
      hello.rank = rank;
      hello.world_size = world_size;
    };
  }
};

TEST_F(ContainerTest, TheRanksOfAJobAreOneAttemptAndAnotherJobIsAnother) {
  HangingTrainer zero(temp_.sub("dir"), 3, Rank(0, 4)), one(temp_.sub("dir"), 3, Rank(1, 4)),
      two(temp_.sub("dir"), 3, Rank(2, 4)), other(temp_.sub("dir"), 3, Rank(0, 1));
  InContainer([&] {
    auto core = MakeCore();
    const auto key = [&](HangingTrainer& trainer) { return core->StatusOf(trainer.Publish()).info.run_key; };
    EXPECT_EQ(key(zero), (RunKey{"job", 0, 0}));
    EXPECT_EQ(key(one), (RunKey{"job", 0, 1}));
    EXPECT_EQ(key(other), (RunKey{"job~2", 0, 0}));
    core->Stop();
    // Nor does a daemon that starts anew take them for dead.
    core = MakeCore();
    EXPECT_EQ(key(two), (RunKey{"job", 0, 2}));
    for (const ProducerStatus& status : core->ingest().Producers()) {
      EXPECT_EQ(status.info.pid, kPidUnknown);
      if (status.info.run_key.rank == 2) continue;
      EXPECT_EQ(status.state, RunState::kDisconnected) << Describe(status.info.run_key);
    }
    EXPECT_TRUE(core->Events("run_ended").empty());
  });
}

TEST_F(ContainerTest, ADeathIsSeenWithoutANumber) {
  HangingTrainer trainer(temp_.sub("dir"), 3, Rank(0, 1));
  int kill[2];
  ASSERT_EQ(::pipe2(kill, O_CLOEXEC), 0);
  // Nobody in there can name the trainer: it is ended from out here.
  const pid_t killer = ::fork();
  ASSERT_GE(killer, 0);
  if (killer == 0) {
    ::close(kill[1]);
    char byte;
    ::_exit(::read(kill[0], &byte, 1) == 1 ? ::kill(trainer.pid(), SIGKILL) : 0);
  }
  InContainer([&] {
    auto core = MakeCore();
    const Uuid uuid = trainer.Publish();
    EXPECT_EQ(::write(kill[1], "k", 1), 1);
    EXPECT_TRUE(Eventually([&] { return core->StatusOf(uuid).state == RunState::kDied; }));
    TestProducer next(temp_.sub("dir"));
    Rank(0, 1)(next.hello());
    EXPECT_TRUE(next.Connect()) << next.reject();
    EXPECT_EQ(core->StatusOf(next.hello().uuid).info.run_key, (RunKey{"job", 1, 0}));
  });
  for (int fd : kill) ::close(fd);
  ASSERT_EQ(::waitpid(killer, nullptr, 0), killer);
}

TEST_F(ContainerTest, OneThatDoesNotComeBackHasEndedAfterAWhile) {
  HangingTrainer trainer(temp_.sub("dir"), 3, Rank(0, 1));
  InContainer([&] {
    auto core = MakeCore();
    const Uuid uuid = trainer.Publish();
    core->Stop();
    core = std::make_unique<TestCore>(temp_.sub("dir"), store_, AcceptorOptions{},
                                      decltype(IngestContext::make_sources){}, 0);
    EXPECT_EQ(core->StatusOf(uuid).state, RunState::kDied);
    const auto events = core->Events("run_ended");
    EXPECT_EQ(events.size(), 1u);
    if (events.empty()) return;
    EXPECT_NE(events[0].text.find("another container"), std::string::npos) << events[0].text;
  });
}

}  // namespace
}  // namespace ikkuna::ingest
