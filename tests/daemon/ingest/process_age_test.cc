// ProcessLivesSince: a number is not a process.
#include "daemon/ingest/process_age.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <thread>

namespace ikkuna::ingest {
namespace {

int64_t UnixNs() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

TEST(ProcessLivesSince, OurselvesNow) { EXPECT_TRUE(ProcessLivesSince(::getpid(), UnixNs())); }

TEST(ProcessLivesSince, NotAProcessThatBeganLater) {
  constexpr int64_t kDayNs = 86'400'000'000'000;
  EXPECT_FALSE(ProcessLivesSince(::getpid(), UnixNs() - 365 * kDayNs));
}

TEST(ProcessLivesSince, NotOneThatEnded) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_FALSE(ProcessLivesSince(child, UnixNs()));
  EXPECT_FALSE(ProcessLivesSince(0, UnixNs()));
  EXPECT_FALSE(ProcessLivesSince(-1, UnixNs()));
}

TEST(ProcessLivesSince, NotOneThatNobodyReapedYet) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(0);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);  // it is there still
  ASSERT_EQ(::kill(child, 0), 0);
  EXPECT_FALSE(ProcessLivesSince(child, UnixNs()));
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
}

// Its first thread is a zombie, the others go on.
TEST(ProcessLivesSince, OneWhoseFirstThreadHasEnded) {
  int done[2];
  ASSERT_EQ(::pipe(done), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    std::thread([fd = done[1]] {
      const std::string stat = "/proc/" + std::to_string(::getpid()) + "/stat";
      std::string line;
      while (line.find(") Z") == std::string::npos) {
        std::ifstream file(stat);
        std::getline(file, line);
      }
      (void)!::write(fd, "z", 1);
      ::pause();
    }).detach();
    ::syscall(SYS_exit, 0);
  }
  char byte = 0;
  ASSERT_EQ(::read(done[0], &byte, 1), 1);
  EXPECT_TRUE(ProcessLivesSince(child, UnixNs()));
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  for (int fd : done) ::close(fd);
}

}  // namespace
}  // namespace ikkuna::ingest
