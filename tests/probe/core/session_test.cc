// Session: what it does when a daemon says no, and what it keeps of facts.
#include "probe/core/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "tests/probe/core/daemon_by_hand.h"

namespace ikkuna::probe {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<Session> Open(const DaemonByHand& daemon) {
  SessionOptions options;
  options.directory = daemon.directory();
  options.arena_mb = 1;
  options.retry_refused_ms = 20;
  return Session::Open(options);
}

TEST(Session, ADaemonThatRefusedIsAskedAgainAndTheReasonIsSaidOnce) {
  DaemonByHand daemon;
  ::testing::internal::CaptureStderr();
  std::unique_ptr<Session> session = Open(daemon);
  ASSERT_NE(session, nullptr);
  for (int i = 0; i < 3; ++i) daemon.Refuse("64 trainers are watched already");
  daemon.Refuse("the run is watched by another");
  daemon.Accept({});
  for (int i = 0; i < 30'000 && !session->connected(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(session->connected());
  EXPECT_TRUE(session->active());
  session.reset();
  const std::string said = ::testing::internal::GetCapturedStderr();
  const size_t first = said.find("64 trainers are watched already");
  ASSERT_NE(first, std::string::npos) << said;
  EXPECT_EQ(said.find("64 trainers are watched already", first + 1), std::string::npos) << said;
  EXPECT_THAT(said, HasSubstr("the run is watched by another"));
}

TEST(Session, AFactThatIsSaidAgainTakesTheOldOnesPlace) {
  DaemonByHand daemon;
  std::unique_ptr<Session> session = Open(daemon);
  ASSERT_NE(session, nullptr);
  daemon.Accept({});
  for (int i = 0; i < 1000; ++i) session->AddFact("lr", "0.1");
  session->AddFact("batch", "128");
  session->AddFact("lr", "0.05");
  daemon.ReadRegistry();
  std::vector<std::pair<uint32_t, std::string>> rates;
  for (const shm::RegistryEntry& entry : daemon.registry()) {
    if (entry.type == shm::EntryType::kFact && entry.name == "lr") rates.emplace_back(entry.id, entry.second);
  }
  ASSERT_EQ(rates.size(), 2u);
  EXPECT_EQ(rates[0].second, "0.1");
  EXPECT_EQ(rates[1].second, "0.05");
  EXPECT_EQ(rates[0].first, rates[1].first);
}

}  // namespace
}  // namespace ikkuna::probe
