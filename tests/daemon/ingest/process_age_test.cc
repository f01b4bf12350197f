// ProcessLivesSince: a number is not a process.
#include "daemon/ingest/process_age.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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

}  // namespace
}  // namespace ikkuna::ingest
