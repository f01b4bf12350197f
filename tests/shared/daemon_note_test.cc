// What daemons and those who start them agree by: the note in the lock, and the lock of `ikkuna up`.
#include "shared/daemon_note.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "shared/base/clock.h"

namespace ikkuna::shm {
namespace {

class DaemonNoteTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/tmp/ikkuna-note.XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::string directory_;
};

TEST_F(DaemonNoteTest, TheNoteComesBackAndIsThereAfterTheEnd) {
  EXPECT_FALSE(ReadDaemonNote(directory_));
  EXPECT_FALSE(IsServed(directory_));
  {
    auto lock = DirectoryLock::Take(directory_);
    ASSERT_TRUE(lock.ok());
    EXPECT_TRUE(IsServed(directory_));
    auto note = ReadDaemonNote(directory_);
    ASSERT_TRUE(note);
    EXPECT_EQ(note->pid, ::getpid());
    EXPECT_EQ(note->state, DaemonState::kStarting);
    ASSERT_TRUE(WriteDaemonNote(*lock, {::getpid(), DaemonState::kServing, "/a long\npath", ""}).ok());
    note = ReadDaemonNote(directory_);
    ASSERT_TRUE(note);
    EXPECT_EQ(note->pid, ::getpid());
    EXPECT_EQ(note->state, DaemonState::kServing);
    EXPECT_EQ(note->data_directory, "/a long path");
    ASSERT_TRUE(WriteDaemonNote(*lock, {::getpid(), DaemonState::kNotKept, "/d", "no room"}).ok());
  }
  EXPECT_FALSE(IsServed(directory_));
  auto note = ReadDaemonNote(directory_);
  ASSERT_TRUE(note);
  EXPECT_EQ(note->state, DaemonState::kNotKept);
  EXPECT_EQ(note->data_directory, "/d");
  EXPECT_EQ(note->text, "no room");
  // The next one begins anew.
  auto lock = DirectoryLock::Take(directory_);
  ASSERT_TRUE(lock.ok());
  note = ReadDaemonNote(directory_);
  ASSERT_TRUE(note);
  EXPECT_EQ(note->state, DaemonState::kStarting);
  EXPECT_EQ(note->data_directory, "");
}

TEST_F(DaemonNoteTest, AFileOfAnythingIsNoNote) {
  for (const char* text : {"", "\n", "nonsense\n", "-5\nserving\n", "0\n"}) {
    std::ofstream(directory_ + "/lock") << text;
    EXPECT_FALSE(ReadDaemonNote(directory_)) << text;
  }
  std::ofstream(directory_ + "/lock") << "77\ndancing\n/d";
  const auto note = ReadDaemonNote(directory_);
  ASSERT_TRUE(note);
  EXPECT_EQ(note->pid, 77);
  EXPECT_EQ(note->state, DaemonState::kStarting);
}

// Some look without a pause while one takes the lock: it gets it each time.
TEST_F(DaemonNoteTest, LookingDoesNotKeepADaemonOut) {
  { ASSERT_TRUE(DirectoryLock::Take(directory_).ok()); }
  std::atomic<bool> end{false};
  std::vector<std::thread> lookers;
  for (int i = 0; i < 4; ++i) {
    lookers.emplace_back([&] {
      while (!end) IsServed(directory_);
    });
  }
  for (int i = 0; i < 100; ++i) {
    const auto lock = DirectoryLock::Take(directory_);
    EXPECT_TRUE(lock.ok()) << (lock.ok() ? "" : lock.error().text);
  }
  end = true;
  for (std::thread& looker : lookers) looker.join();
}

TEST_F(DaemonNoteTest, OneHoldsTheLockOfUpAndSaysWhenItWasWanted) {
  {
    auto first = UpLock::Try(directory_);
    ASSERT_TRUE(first.ok() && first->has_value());
    EXPECT_EQ((*first)->wanted_ns(), 0u);
    auto second = UpLock::Try(directory_);
    ASSERT_TRUE(second.ok());
    EXPECT_FALSE(second->has_value());
    const uint64_t before = MonotonicNs();
    (*first)->Want();
    EXPECT_GE((*first)->wanted_ns(), before);
    EXPECT_LE((*first)->wanted_ns(), MonotonicNs());
  }
  auto again = UpLock::Try(directory_);
  ASSERT_TRUE(again.ok() && again->has_value());
  EXPECT_GT((*again)->wanted_ns(), 0u);
  // Of before the machine's start, or no number.
  std::ofstream(directory_ + "/up.lock") << MonotonicNs() + 1'000'000'000'000;
  EXPECT_EQ((*again)->wanted_ns(), 0u);
  std::ofstream(directory_ + "/up.lock") << "soon";
  EXPECT_EQ((*again)->wanted_ns(), 0u);
}

TEST_F(DaemonNoteTest, UsersAreSeenWhileTheyLive) {
  EXPECT_FALSE(IsInUse(directory_));
  {
    const auto one = DaemonUse::Hold(directory_);
    const auto other = DaemonUse::Hold(directory_);
    ASSERT_TRUE(one.ok() && other.ok());
    EXPECT_TRUE(IsInUse(directory_));
  }
  EXPECT_FALSE(IsInUse(directory_));
}

TEST_F(DaemonNoteTest, ADeadHolderHoldsNothing) {
  const pid_t child = ::fork();
  if (child == 0) {
    auto up = UpLock::Try(directory_);
    auto lock = DirectoryLock::Take(directory_);
    if (!up.ok() || !up->has_value() || !lock.ok()) ::_exit(1);
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_FALSE(IsServed(directory_));
  auto up = UpLock::Try(directory_);
  EXPECT_TRUE(up.ok() && up->has_value());
  EXPECT_TRUE(DirectoryLock::Take(directory_).ok());
}

TEST_F(DaemonNoteTest, NoDirectoryIsAnError) {
  auto up = UpLock::Try(directory_ + "/none");
  ASSERT_FALSE(up.ok());
  EXPECT_NE(up.error().text.find("up.lock"), std::string::npos);
}

}  // namespace
}  // namespace ikkuna::shm
