// When a daemon ends because nobody needs it.
#include "daemon/linger.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "shared/base/clock.h"
#include "tests/daemon/ingest/test_producer.h"

namespace ikkuna {
namespace {

using ingest::Eventually;
using ingest::TempDirectory;

class LingerTest : public testing::Test {
 protected:
  LingerTest() {
    std::filesystem::create_directory(directory_);
    use_.clients_unused = 1e9;
  }
  std::unique_ptr<Linger> Make(double seconds = 0.05) {
    return std::make_unique<Linger>(directory_, seconds, [this] { return use_; });
  }
  // Asked for several times as long as it would linger.
  static bool EndsSoon(Linger& linger) {
    for (int i = 0; i < 30; ++i) {
      if (linger.IsOver()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }
  TempDirectory temp_;
  const std::string directory_ = temp_.sub("dir");
  Linger::Use use_;
};

TEST_F(LingerTest, NobodyComes) {
  EXPECT_FALSE(Make(86'400)->IsOver()) << "the first trainer may still be loading";
  auto linger = Make();
  EXPECT_TRUE(Eventually([&] { return linger->IsOver(); }));
  EXPECT_TRUE(linger->IsOver()) << "once and for all";
  use_.producers = 1;
  EXPECT_TRUE(linger->IsOver());
}

TEST_F(LingerTest, OneThatStaysNeverEnds) {
  auto linger = Make(0);
  EXPECT_FALSE(EndsSoon(*linger));
}

TEST_F(LingerTest, AConnectedTrainerIsWaitedFor) {
  auto linger = Make();
  use_.producers = 1;
  EXPECT_FALSE(EndsSoon(*linger));
  use_.producers = 0;
  EXPECT_TRUE(Eventually([&] { return linger->IsOver(); }));
}

// One that came and went between two looks still counts from then on.
TEST_F(LingerTest, ATrainerThatCameAndWentIsSeen) {
  auto linger = Make(0.2);
  std::this_thread::sleep_for(std::chrono::milliseconds(250));
  use_.admitted = 1;
  EXPECT_FALSE(linger->IsOver());
  EXPECT_TRUE(Eventually([&] { return linger->IsOver(); }));
}

TEST_F(LingerTest, AClientThatAsksIsWaitedFor) {
  auto linger = Make();
  use_.clients_unused = 0;
  EXPECT_FALSE(EndsSoon(*linger));
  use_.clients_unused = 0.01;
  EXPECT_FALSE(EndsSoon(*linger));
  use_.clients_unused = 1;
  EXPECT_TRUE(Eventually([&] { return linger->IsOver(); }));
}

TEST_F(LingerTest, AJobWhoseTrainerHasNotComeYetIsWaitedFor) {
  auto linger = Make();
  {
    auto use = shm::DaemonUse::Hold(directory_);
    ASSERT_TRUE(use.ok());
    EXPECT_FALSE(EndsSoon(*linger));
  }
  EXPECT_TRUE(Eventually([&] { return linger->IsOver(); }));
}

TEST_F(LingerTest, WhoeverStartsDaemonsNowIsWaitedForAndSoIsTheirTrainer) {
  while (true) {
    auto linger = Make(0.2);
    uint64_t wanted_ns = 0;
    {
      auto lock = shm::UpLock::Try(directory_);
      ASSERT_TRUE(lock.ok() && lock->has_value());
      std::this_thread::sleep_for(std::chrono::milliseconds(250));
      EXPECT_FALSE(linger->IsOver()) << "'ikkuna up' is at work";
      wanted_ns = MonotonicNs();
      (*lock)->Want();
    }
    const bool over = linger->IsOver();
    if (MonotonicNs() - wanted_ns >= 200'000'000) continue;  // this thread stood still: it may be over, or not
    EXPECT_FALSE(over) << "somebody has just been told that there is a daemon";
    EXPECT_TRUE(Eventually([&] { return linger->IsOver(); }));
    return;
  }
}

// Cleaners of /tmp take it away.
TEST_F(LingerTest, ADaemonWhoseDirectoryIsGoneEnds) {
  auto linger = Make();
  std::filesystem::remove_all(directory_);
  EXPECT_TRUE(Eventually([&] { return linger->IsOver(); }));
}

TEST_F(LingerTest, FromTheDecisionToTheEndNobodyStartsOne) {
  auto linger = Make();
  ASSERT_TRUE(Eventually([&] { return linger->IsOver(); }));
  auto lock = shm::UpLock::Try(directory_);
  ASSERT_TRUE(lock.ok());
  EXPECT_FALSE(lock->has_value());
  linger.reset();
  lock = shm::UpLock::Try(directory_);
  ASSERT_TRUE(lock.ok());
  EXPECT_TRUE(lock->has_value());
}

}  // namespace
}  // namespace ikkuna
