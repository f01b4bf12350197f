// Two processes: a million records, every one checked; and a trainer's forked child, whose probe is inert.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <thread>

#include "tests/shared/transport_pair.h"

namespace ikkuna::shm {
namespace {

constexpr int kWatchdogSeconds = 240;

unsigned char ByteOf(uint64_t number) { return static_cast<unsigned char>(number * 31 + 5); }

// The daemon's side, in a process of its own: exits 0 when all of `count` messages came, each as it was sent.
int ReadAll(int pub_fd, int ctl_write_fd, uint64_t count) {
  auto view = PubView::Open(Duplicate(pub_fd));
  auto ctl = CtlWriter::Create(1, {0, 0}, 0);
  if (!view || !ctl || !(*view)->StartAt({0, 0}).ok()) return 10;
  // The trainer opens CTL through /proc: what travels over the socket elsewhere.
  const int fd = (*ctl)->fd();
  if (write(ctl_write_fd, &fd, sizeof(fd)) != sizeof(fd)) return 11;
  uint64_t expected = 0;
  while (expected < count) {
    auto next = (*view)->Next();
    if (!next) return 12;
    if (!*next) {
      (*ctl)->SetHeads({(*view)->ring_position(), (*view)->arena_position()});
      std::this_thread::yield();
      continue;
    }
    const Message& message = **next;
    if (message.record.global_step != expected || message.record.seq != expected + 1) return 13;
    const uint64_t bytes = expected % 5 == 0 ? 0 : expected % 257;
    if (message.payload_bytes != bytes) return 14;
    for (uint64_t i = 0; i < bytes; ++i) {
      if (message.payload[i] != ByteOf(expected + i)) return 15;
    }
    ++expected;
    if (expected % 64 == 0) (*ctl)->SetHeads({(*view)->ring_position(), (*view)->arena_position()});
  }
  const StatusSnapshot status = (*view)->ReadStatus();
  return status.status.reserved == count ? 0 : 16;
}

TEST(TwoProcesses, AMillionRecordsEachChecked) {
  constexpr uint64_t kCount = 1'000'000;
  auto made = PubWriter::Create({.ring_slots = 1024, .arena_bytes = 1 << 18, .registry_bytes = 4096});
  ASSERT_TRUE(made.ok());
  PubWriter& writer = **made;
  ASSERT_EQ(writer.BackArena(1 << 18), uint64_t{1 << 18});
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  UniqueFd read_end(pipe_fds[0]);
  UniqueFd write_end(pipe_fds[1]);
  const pid_t reader = fork();
  ASSERT_GE(reader, 0);
  if (reader == 0) _exit(ReadAll(writer.fd(), write_end.get(), kCount));
  write_end.reset();
  int ctl_fd = -1;
  ASSERT_EQ(read(read_end.get(), &ctl_fd, sizeof(ctl_fd)), static_cast<ssize_t>(sizeof(ctl_fd)));
  const std::string path = "/proc/" + std::to_string(reader) + "/fd/" + std::to_string(ctl_fd);
  auto ctl = CtlView::Open(UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC)));
  ASSERT_TRUE(ctl.ok()) << ctl.error().text;
  writer.SetHeadSource(std::shared_ptr<const CtlView>(std::move(ctl).value()));

  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(kWatchdogSeconds);
  int state = 0;
  bool over = false;
  for (uint64_t number = 0; number < kCount && !over;) {
    const uint64_t bytes = number % 5 == 0 ? 0 : number % 257;
    auto reservation = writer.Reserve(Space::kHostArena, bytes);
    if (!reservation) {
      over = waitpid(reader, &state, WNOHANG) == reader || std::chrono::steady_clock::now() > deadline;
      std::this_thread::yield();
      continue;
    }
    FillTensor(reservation.record(), bytes);
    reservation.record().global_step = number;
    for (uint64_t i = 0; i < bytes; ++i) reservation.payload()[i] = ByteOf(number + i);
    reservation.Commit();
    ++number;
  }
  while (!over && waitpid(reader, &state, WNOHANG) != reader) {
    over = std::chrono::steady_clock::now() > deadline;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (over && !WIFEXITED(state)) {
    kill(reader, SIGKILL);
    waitpid(reader, &state, 0);
  }
  ASSERT_TRUE(WIFEXITED(state)) << "the reader did not end by itself";
  EXPECT_EQ(WEXITSTATUS(state), 0);
  const PubStatus& status = writer.status();
  EXPECT_EQ(status.reserved, kCount);
  uint64_t dropped = 0;
  for (const uint64_t reason : status.dropped) dropped += reason;
  EXPECT_EQ(status.attempted, kCount + dropped);
  EXPECT_FALSE(writer.peer_lied());
}

// A data-loader worker: everything may be called, nothing happens.
TEST(TwoProcesses, ForkedChildOfATrainerIsInert) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  ASSERT_TRUE(PublishScalar(*pair.writer, 1));
  ASSERT_TRUE(pair.writer->in_owner());
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    PubWriter& writer = *pair.writer;
    if (writer.in_owner()) _exit(1);
    if (writer.Reserve(Space::kInline, 0) || writer.Reserve(Space::kHostArena, 64)) _exit(2);
    writer.CountDrop(DropReason::kFailed);
    RegistryEntry entry;
    entry.type = EntryType::kRoot;
    entry.id = 1;
    if (writer.Append(entry)) _exit(3);
    if (writer.BackArena(4096) != 0) _exit(4);
    writer.WriteClock();
    if (writer.AcceptHeads({1, 0})) _exit(5);
    if (!(writer.heads() == Heads{})) _exit(6);
    if (writer.header().magic != kPubMagic) _exit(7);
    writer.status().attempted += 1000;
    if (pair.ctl_view->in_owner() || pair.ctl_view->CopyDemand(10) || pair.ctl_view->NextCommand(0)) _exit(8);
    if (pair.ctl_view->demand_generation() != 0 || pair.ctl_view->budget_ppm() != 0) _exit(9);
    writer.SetHeadSource(nullptr);
    pair.ctl_view.reset();
    pair.writer.reset();
    _exit(0);
  }
  int state = 0;
  ASSERT_EQ(waitpid(child, &state, 0), child);
  ASSERT_TRUE(WIFEXITED(state)) << "died of signal " << WTERMSIG(state);
  EXPECT_EQ(WEXITSTATUS(state), 0);
  const StatusSnapshot status = pair.view->ReadStatus();
  EXPECT_EQ(status.status.attempted, 1u);
  EXPECT_EQ(status.dropped_total, 0u);
  EXPECT_TRUE(PublishScalar(*pair.writer, 2)) << "the trainer goes on";
}

// A trainer killed between reserving and committing: what it committed is read, the rest counted.
TEST(TwoProcesses, KilledTrainerLeavesOneHole) {
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  UniqueFd read_end(pipe_fds[0]);
  UniqueFd write_end(pipe_fds[1]);
  const pid_t trainer = fork();
  ASSERT_GE(trainer, 0);
  if (trainer == 0) {
    auto made = PubWriter::Create({.ring_slots = 8, .arena_bytes = 4096, .registry_bytes = 4096});
    if (!made || (*made)->BackArena(4096) != 4096) _exit(1);
    for (int i = 0; i < 3; ++i) PublishBytes(**made, 64, 1);
    const Reservation open = (*made)->Reserve(Space::kHostArena, 64);
    if (!open) _exit(2);
    const int fd = (*made)->fd();
    if (write(write_end.get(), &fd, sizeof(fd)) != sizeof(fd)) _exit(3);
    for (;;) pause();
  }
  int fd = -1;
  ASSERT_EQ(read(read_end.get(), &fd, sizeof(fd)), static_cast<ssize_t>(sizeof(fd)));
  const std::string path = "/proc/" + std::to_string(trainer) + "/fd/" + std::to_string(fd);
  auto view = PubView::Open(UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC)));
  kill(trainer, SIGKILL);
  int state = 0;
  ASSERT_EQ(waitpid(trainer, &state, 0), trainer);
  ASSERT_TRUE(view.ok()) << view.error().text;
  ASSERT_TRUE((*view)->StartAt({0, 0}).ok());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(MustRead(**view).payload_bytes, 64u);
  EXPECT_TRUE(ReadsNothing(**view));
  const uint64_t killed = (*view)->SkipHole();
  EXPECT_EQ(killed, 1u);
  EXPECT_TRUE(ReadsNothing(**view));
  const StatusSnapshot status = (*view)->ReadStatus();
  EXPECT_EQ(3 + status.dropped_total + killed, status.status.attempted);
}

}  // namespace
}  // namespace ikkuna::shm
