// Limits of the system: each ends in a sentence, and the trainer goes on. Real processes, with the limits set.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>

#include "probe/core/session.h"
#include "tests/probe/core/c_step.h"
#include "tests/probe/core/child.h"
#include "tests/probe/core/daemon_by_hand.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
// That of undefined behaviour looks at an object through a pipe: without descriptors it takes every one for invalid.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitizerNeedsDescriptors = true;
#else
constexpr bool kSanitizerNeedsDescriptors = false;
#endif

namespace ikkuna::probe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

void Limit(int resource, rlim_t most) {
  const rlimit limit{most, most};
  if (::setrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0) ::_exit(90);
}

SessionOptions OptionsFor(const std::string& directory) {
  SessionOptions options;
  options.directory = directory;
  return options;
}

// A trainer of the C interface, watched or not: 0 when it came to its end.
int Train(const std::string& directory, int steps) {
  ikkuna_options options{};
  options.size = sizeof options;
  options.directory = directory.c_str();
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  const uint32_t module = ikkuna_module(session, root, "fc", "Linear", 0);
  const float values[64] = {};
  for (int step = 0; step < steps; ++step) {
    CStep one(session, root, static_cast<uint64_t>(step));
    one.Tensor(IKKUNA_ACTIVATIONS, module, 0, values, {64});
    one.Loss(1);
  }
  ikkuna_close(session);
  return 0;
}

const std::string kNowhere = "/tmp/ikkuna-no-such-directory";

TEST(Limits, OfTheSizeOfFiles) {
  Child child([] {
    Limit(RLIMIT_FSIZE, 1'024'000);  // ulimit -f 1000
    return Train(kNowhere, 30);
  });
  EXPECT_EQ(child.End(), 0);
  EXPECT_THAT(child.said(), HasSubstr("training is not watched"));
  EXPECT_THAT(child.said(), HasSubstr("ulimit -f"));
}

// There is room for all but whole tensors of the usual size.
TEST(Limits, OfTheSizeOfFilesThatLeavesRoomForTheRest) {
  DaemonByHand daemon;
  Child child([&] {
    Limit(RLIMIT_FSIZE, 96 << 20);
    auto session = Session::Open(OptionsFor(daemon.directory()));
    if (!session) return 1;
    Child::WaitForLetGo();
    return 0;
  });
  ASSERT_NO_FATAL_FAILURE(daemon.Accept({}));
  EXPECT_EQ(child.End(), 0);
  EXPECT_EQ(child.said(), "");
  EXPECT_LT(daemon.view().header().arena_bytes, uint64_t{96} << 20);
  EXPECT_GT(daemon.view().header().arena_bytes, 0u);
  daemon.ReadRegistry();
  std::string notes;
  for (const auto& entry : daemon.registry()) notes += entry.type == shm::EntryType::kNote ? entry.second : "";
  EXPECT_THAT(notes, HasSubstr("whole tensors have 16 MiB"));
  EXPECT_THAT(notes, HasSubstr("ulimit -f"));
}

// stderr is a file, too, and may be at its limit: to write more there is a signal by default.
TEST(Limits, OfTheSizeOfFilesWhereStderrIsOne) {
  char path[] = "/tmp/ikkuna-stderr-XXXXXX";
  const int file = ::mkstemp(path);
  ASSERT_GE(file, 0);
  ASSERT_EQ(::ftruncate(file, 1 << 20), 0);
  Child child([&] {
    const int again = ::open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (again < 0 || ::dup2(again, 2) < 0) return 91;
    Limit(RLIMIT_FSIZE, 1 << 20);
    PrintNow("a line that finds no room");
    return Train(kNowhere, 3);
  });
  EXPECT_EQ(child.End(), 0);
  ::close(file);
  std::filesystem::remove(path);
}

TEST(Limits, NoDescriptorForTheSegment) {
  if (kSanitizerNeedsDescriptors) GTEST_SKIP() << "the sanitizer needs descriptors of its own";
  Child child([] {
    Limit(RLIMIT_NOFILE, 3);
    return Train(kNowhere, 30);
  });
  EXPECT_EQ(child.End(), 0);
  EXPECT_THAT(child.said(), HasSubstr("training is not watched"));
  EXPECT_THAT(child.said(), HasSubstr("ulimit -n"));
}

TEST(Limits, NoDescriptorForTheSocket) {
  if (kSanitizerNeedsDescriptors) GTEST_SKIP() << "the sanitizer needs descriptors of its own";
  Child child([] {
    Limit(RLIMIT_NOFILE, 5);  // the segment and the wake-up
    auto session = Session::Open(OptionsFor(kNowhere));
    if (!session) return 1;
    Child::WaitForLetGo();
    return session->active() ? 0 : 2;
  });
  EXPECT_TRUE(child.Says("training goes on unwatched: cannot create a socket")) << child.said();
  EXPECT_EQ(child.End(), 0);
  EXPECT_EQ(child.said().find("cannot create a socket"), child.said().rfind("cannot create a socket")) << "said once";
}

TEST(Limits, NoDescriptorForWhatTheDaemonSends) {
  if (kSanitizerNeedsDescriptors) GTEST_SKIP() << "the sanitizer needs descriptors of its own";
  DaemonByHand daemon;
  Child child([&] {
    Limit(RLIMIT_NOFILE, 6);
    auto session = Session::Open(OptionsFor(daemon.directory()));
    if (!session) return 1;
    Child::WaitForLetGo();
    return session->active() ? 0 : 2;
  });
  ASSERT_NO_FATAL_FAILURE(daemon.Accept({}));
  EXPECT_TRUE(child.Says("no descriptor was left for the one that came")) << child.said();
  EXPECT_EQ(child.End(), 0);
}

TEST(Limits, OfTheAddressSpace) {
  if (kSanitized) GTEST_SKIP() << "sanitizers take all of the address space";
  for (const rlim_t spare : {rlim_t{8} << 20, rlim_t{60} << 20, rlim_t{200} << 20}) {
    Child child([&] {
      std::ifstream statm("/proc/self/statm");
      rlim_t pages = 0;
      statm >> pages;
      statm.close();
      Limit(RLIMIT_AS, pages * static_cast<rlim_t>(::sysconf(_SC_PAGESIZE)) + spare);
      return Train(kNowhere, 30);
    });
    EXPECT_EQ(child.End(), 0) << spare;
    if (spare == rlim_t{8} << 20) {
      EXPECT_THAT(child.said(), HasSubstr("ulimit -v"));
    }
  }
}

TEST(Limits, NoMemoryFiles) {
  for (const int error : {ENOSYS, EPERM}) {
    Child child([&] {
      if (!DenySystemCall(SYS_memfd_create, error)) return 77;
      return Train(kNowhere, 30);
    });
    const int status = child.End();
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) GTEST_SKIP() << "no seccomp filters here";
    EXPECT_EQ(status, 0);
    EXPECT_THAT(child.said(), HasSubstr("memfd_create"));
  }
}

TEST(Limits, NoThread) {
  Child child([] {
    if (!DenySystemCall(SYS_clone3, EAGAIN) || !DenySystemCall(SYS_clone, EAGAIN)) return 77;
    return Train(kNowhere, 30);
  });
  const int status = child.End();
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) GTEST_SKIP() << "no seccomp filters here";
  EXPECT_EQ(status, 0);
  EXPECT_THAT(child.said(), HasSubstr("no thread can be made"));
}

// What comes late does without, all else goes on, and status says so.
TEST(Limits, NoMemoryForLateBytes) {
  DaemonByHand daemon;
  Child child([&] {
    auto options = OptionsFor(daemon.directory());
    options.arena_mb = 1;
    options.late_bytes = 1 << 20;
    const auto probe =
        shm::PubWriter::Create({.ring_slots = options.ring_slots, .arena_bytes = 1 << 20, .late_bytes = 1 << 20});
    if (!probe.ok() || (*probe)->header().late_bytes != 1 << 20) return 2;
    if (!DenySystemCall(SYS_fallocate, ENOMEM, static_cast<long>((*probe)->header().late_offset))) return 77;
    auto session = Session::Open(options);
    if (!session) return 1;
    Child::WaitForLetGo();
    return 0;
  });
  ASSERT_NO_FATAL_FAILURE(daemon.Accept({}));
  daemon.ReadRegistry();
  const int status = child.End();
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) GTEST_SKIP() << "no seccomp filters here";
  EXPECT_EQ(status, 0);
  std::string notes;
  for (const auto& entry : daemon.registry()) notes += entry.type == shm::EntryType::kNote ? entry.second : "";
  EXPECT_THAT(notes, HasSubstr("come late have 0 of 1024 KiB"));
}

// A kernel that cannot tell a raw clone() apart: the session goes on, and status says so.
TEST(Limits, AKernelWithoutWipeOnForkIsNamed) {
  DaemonByHand daemon;
  Child child([&] {
    if (!DenySystemCall(SYS_madvise, EINVAL, 18)) return 77;
    auto session = Session::Open(OptionsFor(daemon.directory()));
    if (!session) return 1;
    Child::WaitForLetGo();
    return 0;
  });
  ASSERT_NO_FATAL_FAILURE(daemon.Accept({}));
  daemon.ReadRegistry();
  const int status = child.End();
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) GTEST_SKIP() << "no seccomp filters here";
  EXPECT_EQ(status, 0);
  std::string notes;
  for (const auto& entry : daemon.registry()) notes += entry.type == shm::EntryType::kNote ? entry.second : "";
  EXPECT_THAT(notes, HasSubstr("MADV_WIPEONFORK"));
}

TEST(Limits, OfASocketsPath) {
  const std::string directory = "/tmp/" + std::string(120, 'd');
  Child child([&] {
    auto session = Session::Open(OptionsFor(directory));
    if (!session) return 1;
    Child::WaitForLetGo();
    return session->active() ? 0 : 2;
  });
  EXPECT_TRUE(child.Says("longer than the 107 bytes a socket may have; set IKKUNA_DIR")) << child.said();
  EXPECT_EQ(child.End(), 0);
}

// ---- stderr

// A pipe that nobody reads: neither a training thread nor the end of the process waits for it.
TEST(Stderr, AFullPipeHoldsUpNobody) {
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  const std::string junk(4096, 'x');
  ASSERT_EQ(::fcntl(pipe[1], F_SETFL, O_NONBLOCK), 0);
  while (::write(pipe[1], junk.data(), junk.size()) > 0) {
  }
  ASSERT_EQ(::fcntl(pipe[1], F_SETFL, 0), 0);
  for (const rlim_t descriptors : {rlim_t{64}, rlim_t{6}}) {  // the few leave none for a second opening
    if (descriptors < 64 && kSanitizerNeedsDescriptors) continue;
    const pid_t trainer = ::fork();
    ASSERT_GE(trainer, 0);
    if (trainer == 0) {
      ::alarm(Child::kWatchdogSeconds);
      ::dup2(pipe[1], 2);
      ::syscall(SYS_close_range, 3u, ~0u, 0u);
      Limit(RLIMIT_NOFILE, descriptors);
      PrintNow("before there is a session");
      auto session = Session::Open(OptionsFor(kNowhere));
      if (!session) ::_exit(1);
      for (int i = 0; i < 10'000; ++i) session->Say("line " + std::to_string(i));
      if (Session::Open(OptionsFor(kNowhere))) ::_exit(2);
      session->SwitchOff("a failure of our own");
      session.reset();
      ::_exit(0);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(trainer, &status, 0), trainer);
    EXPECT_EQ(status, 0) << "it was held up until its alarm";
  }
  EXPECT_EQ(::fcntl(pipe[1], F_GETFL) & O_NONBLOCK, 0) << "the trainer's own descriptor is as it was";
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST(Stderr, AReaderThatIsGoneIsNoSignal) {
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  ::close(pipe[0]);
  const pid_t trainer = ::fork();
  ASSERT_GE(trainer, 0);
  if (trainer == 0) {
    ::alarm(Child::kWatchdogSeconds);
    ::signal(SIGPIPE, SIG_DFL);
    ::dup2(pipe[1], 2);
    PrintNow("nobody reads this");
    ::_exit(0);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(trainer, &status, 0), trainer);
  EXPECT_EQ(status, 0);
  ::close(pipe[1]);
}

TEST(Stderr, LinesThatFindNoRoomAreCounted) {
  Child child([] {
    Notices notices;
    for (int i = 0; i < 3000; ++i) notices.Say("line " + std::to_string(i) + std::string(100, '.'));
    notices.Print();
    notices.Say("the last");
    for (int i = 0; i < 100; ++i) notices.PrintLast(100);
    return 0;
  });
  EXPECT_EQ(child.End(), 0);
  EXPECT_THAT(child.said(), HasSubstr("ikkuna: line 0."));
  EXPECT_THAT(child.said(), HasSubstr(" lines are left out\nikkuna: the last\n"));
  EXPECT_THAT(child.said(), Not(HasSubstr("line 2999")));
}

}  // namespace
}  // namespace ikkuna::probe
