// Result, UniqueFd, UTF-8, memory left and the fork guard.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "shared/base/fork_guard.h"
#include "shared/base/memory_limit.h"
#include "shared/base/result.h"
#include "shared/base/unique_fd.h"
#include "shared/base/utf8.h"

namespace ikkuna {
namespace {

TEST(Result, HoldsValueOrError) {
  Result<std::unique_ptr<int>> good(std::make_unique<int>(3));
  ASSERT_TRUE(good.ok());
  EXPECT_EQ(**good, 3);
  std::unique_ptr<int> taken = std::move(good).value();
  EXPECT_EQ(*taken, 3);
  Result<std::unique_ptr<int>> bad(Error{ErrorCode::kNotFound, "no such thing"});
  EXPECT_FALSE(bad);
  EXPECT_EQ(bad.error().code, ErrorCode::kNotFound);
  EXPECT_TRUE(Status().ok());
  EXPECT_FALSE(Status(Error{ErrorCode::kSystem, "x"}).ok());
}

TEST(Result, PosixErrorsSayWhatAndWhy) {
  const Error error = PosixError("cannot open '/x'", ENOENT);
  EXPECT_EQ(error.code, ErrorCode::kNotFound);
  EXPECT_EQ(error.text, "cannot open '/x': No such file or directory");
  EXPECT_EQ(PosixError("x", EPERM).code, ErrorCode::kPermissionDenied);
  EXPECT_EQ(PosixError("x", ENOMEM).code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(PosixError("x", EIO).code, ErrorCode::kSystem);
  EXPECT_STREQ(ErrorCodeName(ErrorCode::kCorrupt), "corrupt");
}

bool IsOpen(int fd) { return fcntl(fd, F_GETFD) >= 0; }

TEST(UniqueFd, ClosesOnce) {
  const int raw = open("/dev/null", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(raw, 0);
  {
    UniqueFd first(raw);
    UniqueFd second(std::move(first));
    EXPECT_FALSE(first.valid());  // NOLINT(bugprone-use-after-move): what a moved-from descriptor is, is the question
    EXPECT_EQ(second.get(), raw);
    UniqueFd& same = second;
    second = std::move(same);
    EXPECT_TRUE(IsOpen(raw)) << "moved into itself";
  }
  EXPECT_FALSE(IsOpen(raw));
}

TEST(Utf8, ValidIsWhatRfc3629Says) {
  for (const char* good :
       {"", "plain", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf", "\xed\x9f\xbf"}) {
    EXPECT_TRUE(IsValidUtf8(good)) << good;
  }
  for (const char* bad : {"\x80", "\xc0\xaf", "\xc1\xbf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                          "\xf5\x80\x80\x80", "\xff", "a\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xc3\x28"}) {
    EXPECT_FALSE(IsValidUtf8(bad)) << bad;
  }
}

TEST(Utf8, CutsAtCharacters) {
  EXPECT_EQ(CutUtf8("abc", 3), "abc");
  EXPECT_EQ(CutUtf8("abc", 2), "ab");
  EXPECT_EQ(CutUtf8("a\xc3\xa4", 2), "a");
  EXPECT_EQ(CutUtf8("\xf0\x9f\x98\x80", 3), "");
}

TEST(Utf8, CleaningGivesValidTextOfBoundedLength) {
  EXPECT_EQ(CleanUtf8("a\xff\xc3\xa4\xe2\x82z", 100), "a?\xc3\xa4??z");
  EXPECT_EQ(CleanUtf8("\xc3\xa4\xc3\xa4", 3), "\xc3\xa4");
  unsigned seed = 1;
  for (int round = 0; round < 2000; ++round) {
    std::string bytes(static_cast<size_t>(rand_r(&seed) % 40), '\0');
    for (char& byte : bytes) byte = static_cast<char>(rand_r(&seed));
    const std::string clean = CleanUtf8(bytes, 20);
    EXPECT_LE(clean.size(), 20u);
    EXPECT_TRUE(IsValidUtf8(clean));
    if (IsValidUtf8(bytes)) {
      EXPECT_EQ(clean, CutUtf8(bytes, 20));
    }
  }
}

// A file tree as the kernel would show it.
class MemoryLimit : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ikkuna-test-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    root_ = name;
    Write("/proc/meminfo", "MemTotal: 2000 kB\nMemAvailable: 1000 kB\n");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  std::string root_;
};

constexpr uint64_t kKiB = 1024;

TEST_F(MemoryLimit, WithoutCgroupsItIsWhatTheMachineHas) { EXPECT_EQ(MemoryLeft(root_), 1000 * kKiB); }

TEST_F(MemoryLimit, NothingToReadIsNothingLeft) {
  std::filesystem::remove_all(root_ + "/proc");
  EXPECT_EQ(MemoryLeft(root_), 0u);
}

TEST_F(MemoryLimit, VersionTwoTakesTheTightestAncestor) {
  Write("/proc/self/cgroup", "0::/a/b\n");
  Write("/sys/fs/cgroup/a/b/memory.max", "max\n");
  Write("/sys/fs/cgroup/a/b/memory.current", "5\n");
  EXPECT_EQ(MemoryLeft(root_), 1000 * kKiB);
  Write("/sys/fs/cgroup/a/memory.max", "500000\n");
  Write("/sys/fs/cgroup/a/memory.current", "100000\n");
  EXPECT_EQ(MemoryLeft(root_), 400000u);
  Write("/sys/fs/cgroup/a/b/memory.max", "300000\n");
  EXPECT_EQ(MemoryLeft(root_), 299995u);
  Write("/sys/fs/cgroup/a/b/memory.current", "300001\n");
  EXPECT_EQ(MemoryLeft(root_), 0u) << "above its limit";
}

TEST_F(MemoryLimit, VersionTwoRootIsAskedToo) {
  Write("/proc/self/cgroup", "0::/\n");
  Write("/sys/fs/cgroup/memory.max", "70000\n");
  Write("/sys/fs/cgroup/memory.current", "60000\n");
  EXPECT_EQ(MemoryLeft(root_), 10000u);
}

TEST_F(MemoryLimit, VersionOneHasNamesOfItsOwn) {
  Write("/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/job\n0::/\n");
  Write("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "200000\n");
  Write("/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "150000\n");
  EXPECT_EQ(MemoryLeft(root_), 50000u);
}

TEST(MemoryLeftHere, IsSomething) { EXPECT_GT(MemoryLeft(), uint64_t{1} << 20); }

void ExpectOwnerOnlyHere(ForkGuard::Method method) {
  ForkGuard guard(method);
  EXPECT_TRUE(guard.in_owner());
  ForkGuard moved(std::move(guard));
  EXPECT_TRUE(moved.in_owner());
  EXPECT_FALSE(guard.in_owner());  // NOLINT(bugprone-use-after-move): what a moved-from guard says, is the question
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ForkGuard own(method);
    _exit(moved.in_owner() || !own.in_owner() ? 1 : 0);
  }
  int state = 0;
  ASSERT_EQ(waitpid(child, &state, 0), child);
  EXPECT_EQ(WEXITSTATUS(state), 0);
  EXPECT_TRUE(moved.in_owner());
}

TEST(ForkGuard, ChildIsNotTheOwner) { ExpectOwnerOnlyHere(ForkGuard::Method::kBest); }

TEST(ForkGuard, ChildIsNotTheOwnerWhereTheKernelWipesNothing) {
  ExpectOwnerOnlyHere(ForkGuard::Method::kForkCount);
  EXPECT_FALSE(ForkGuard(ForkGuard::Method::kForkCount).wiped_by_kernel()) << "and it says so";
}

}  // namespace
}  // namespace ikkuna
