// Segments: what their seals refuse, and what a forked child may not do to them.
#include "shared/segment.h"

#include <gtest/gtest.h>
#include <unistd.h>
#include <sys/resource.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <cstring>

#include "tests/shared/transport_pair.h"

namespace ikkuna::shm {
namespace {

TEST(Segment, CannotBeResizedNorWrittenByAPeer) {
  auto made = Segment::Create("test", 10000);
  ASSERT_TRUE(made.ok()) << made.error().text;
  EXPECT_EQ(made->bytes() % 4096, 0u);
  EXPECT_GE(made->bytes(), 10000u);
  made->data()[0] = 7;
  EXPECT_NE(ftruncate(made->fd(), 4096), 0);
  EXPECT_NE(ftruncate(made->fd(), 1 << 20), 0);
  EXPECT_NE(fcntl(made->fd(), F_ADD_SEALS, F_SEAL_WRITE), 0) << "the set of seals is closed";
  if (made->future_write_sealed()) {
    EXPECT_EQ(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, made->fd(), 0), MAP_FAILED);
    EXPECT_LT(pwrite(made->fd(), "x", 1, 0), 0);
    EXPECT_NE(fallocate(made->fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
  }
  made->data()[1] = 8;
  auto peer = Segment::MapUntrusted(Duplicate(made->fd()), 4096, 1 << 20);
  ASSERT_TRUE(peer.ok()) << peer.error().text;
  EXPECT_EQ(peer->data()[0], 7);
  EXPECT_EQ(peer->data()[1], 8);
  EXPECT_EQ(peer->future_write_sealed(), made->future_write_sealed());
}

// A kernel or sandbox without that seal: the session goes on, and whoever shows its status can say so.
TEST(Segment, PeerWithoutTheFutureWriteSealIsTakenAndTold) {
  UniqueFd fd(memfd_create("weak", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(fd.get(), 4096), 0);
  ASSERT_EQ(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
  auto peer = Segment::MapUntrusted(std::move(fd), 1, 4096);
  ASSERT_TRUE(peer.ok()) << peer.error().text;
  EXPECT_FALSE(peer->future_write_sealed());
}

TEST(Segment, OfNoBytesIsRefused) { EXPECT_FALSE(Segment::Create("none", 0).ok()); }

TEST(Segment, BackingFillsHolesAndSaysHowFar) {
  constexpr uint64_t kMiB = 1 << 20;
  auto made = Segment::Create("test", 16 * kMiB);
  ASSERT_TRUE(made.ok());
  if (made->BackedBytes(0, kMiB)) {
    EXPECT_EQ(made->BackedBytes(0, kMiB), 0u);
  }
  EXPECT_EQ(made->Back(4 * kMiB, 9 * kMiB), 9 * kMiB);
  if (made->BackedBytes(0, kMiB)) {
    EXPECT_EQ(made->BackedBytes(0, kMiB), 0u);
    EXPECT_EQ(made->BackedBytes(4 * kMiB, 9 * kMiB), 9 * kMiB);
    EXPECT_EQ(made->BackedBytes(4 * kMiB, 12 * kMiB), 9 * kMiB);
  }
  EXPECT_EQ(made->Back(14 * kMiB, 9 * kMiB), 2 * kMiB) << "no further than its end";
  EXPECT_EQ(made->Back(17 * kMiB, kMiB), 0u);
}

TEST(Segment, BackingKeepsWhatIsThere) {
  auto made = Segment::Create("test", 8192);
  ASSERT_TRUE(made.ok());
  std::memset(made->data(), 0x5a, 8192);
  EXPECT_EQ(made->Back(0, 8192), 8192u);
  for (size_t i = 0; i < 8192; ++i) ASSERT_EQ(made->data()[i], 0x5a);
}

TEST(Segment, MovesTakeTheMappingAlong) {
  auto made = Segment::Create("test", 4096);
  ASSERT_TRUE(made.ok());
  made->data()[0] = 9;
  made->DontFork();
  Segment moved = std::move(made).value();
  EXPECT_EQ(moved.data()[0], 9);
  EXPECT_TRUE(moved.in_owner());
  Segment other;
  other = std::move(moved);
  EXPECT_EQ(other.data()[0], 9);
  EXPECT_EQ(moved.bytes(), 0u);  // NOLINT(bugprone-use-after-move): what a moved-from segment is, is the question
  EXPECT_TRUE(other.in_owner());
}

TEST(Segment, ChildDoesNotTouchWhatStandsAtItsAddresses) {
  auto made = Segment::Create("test", 4096);
  ASSERT_TRUE(made.ok());
  if (!made->DontFork()) GTEST_SKIP() << "this kernel cannot keep a mapping from a child";
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (made->in_owner()) _exit(1);
    void* address = made->data();
    // The child's own memory, at the address that the segment had in its parent.
    void* own = mmap(address, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (own != address) _exit(2);
    std::memset(own, 0x77, 4096);
    { Segment ends = std::move(made).value(); }
    _exit(static_cast<unsigned char*>(own)[4095] == 0x77 ? 0 : 3);
  }
  int state = 0;
  ASSERT_EQ(waitpid(child, &state, 0), child);
  ASSERT_TRUE(WIFEXITED(state)) << "died of signal " << WTERMSIG(state);
  EXPECT_EQ(WEXITSTATUS(state), 0);
  EXPECT_TRUE(made->in_owner());
}

// Beyond the limit the kernel would end the process by SIGXFSZ.
TEST(Segment, ALimitOfTheSizeOfFilesIsAnErrorAndNoSignal) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const rlimit limit{1 << 20, 1 << 20};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(2);
    auto refused = Segment::Create("large", 2 << 20);
    if (refused.ok() || refused.error().text.find("ulimit -f") == std::string::npos) _exit(3);
    if (!Segment::Create("small", 1 << 20).ok()) _exit(4);
    _exit(0);
  }
  int state = 0;
  ASSERT_EQ(waitpid(child, &state, 0), child);
  EXPECT_TRUE(WIFEXITED(state) && WEXITSTATUS(state) == 0) << state;
}

}  // namespace
}  // namespace ikkuna::shm
