// ikkuna up, ikkuna down: the life of a daemon, and who races for it.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <set>

#include "shared/base/unique_fd.h"
#include "shared/daemon_note.h"
#include "shared/handshake.h"
#include "tests/daemon/cli/fake_daemon.h"

namespace ikkuna::test {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

class UpCommandTest : public FakeDaemonTest {
 protected:
  std::string Process() const { return "(process " + std::to_string(Starts().back()) + ")"; }
  std::string Serving() const { return "serves '" + dir_.path() + "', runs are in '" + data_ + "'\n"; }
  // Whether the process has such a thing open, as /proc names it.
  static bool Holds(pid_t pid, const std::string& what) {
    std::error_code gone;
    for (const auto& link : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd", gone)) {
      if (std::filesystem::read_symlink(link, gone) == what) return true;
    }
    return false;
  }
  static mode_t Mode(const std::string& path) {
    struct stat found {};
    return ::stat(path.c_str(), &found) == 0 ? found.st_mode & 0777 : 0;
  }
  std::string Log() const {
    for (const auto& file : std::filesystem::recursive_directory_iterator(data_)) {
      if (file.path().filename() == "daemon.log") return file.path().string();
    }
    return "";
  }
};

TEST_F(UpCommandTest, OneIsStartedThenMetThenEnded) {
  EXPECT_EQ(Out({"down"}), "no ikkuna-daemon serves '" + dir_.path() + "'\n");
  const std::string started = Out(Up());
  ASSERT_TRUE(OneLives());
  EXPECT_EQ(started, "ikkuna-daemon " + Process() + " was started and " + Serving());
  EXPECT_EQ(Arguments(), "--data-dir " + data_ + " --linger 600\n");
  EXPECT_EQ(Out(Up()), "ikkuna-daemon " + Process() + " " + Serving());
  EXPECT_EQ(Out({"up"}), "ikkuna-daemon " + Process() + " " + Serving());
  EXPECT_EQ(Starts().size(), 1u);
  EXPECT_EQ(Out({"down"}),
            "ikkuna-daemon " + Process() + " has ended, everything that was read is kept in '" + data_ + "'\n");
  EXPECT_FALSE(OneLives());
  EXPECT_EQ(Out({"down"}), "no ikkuna-daemon serves '" + dir_.path() + "'\n");
}

TEST_F(UpCommandTest, WhatItIsGivenIsForNobodyElse) {
  EXPECT_EQ(Run(Up()).code, 0);
  EXPECT_EQ(Mode(data_), 0700u);
  ASSERT_NE(Log(), "");
  EXPECT_EQ(Mode(Log()), 0600u);
}

// A pipe that a daemon keeps is one whose reader never ends: `ikkuna up | tee`, or a scheduler's.
TEST_F(UpCommandTest, NothingOfItsStarterIsKept) {
  const int leaked = ::fcntl(STDERR_FILENO, F_DUPFD, 77);  // not closed at exec
  ASSERT_GE(leaked, 77);
  Outcome outcome = RunShell("ikkuna up --daemon '" + daemon_ + "' --data-dir '" + data_ + "' | cat; cd /; pwd");
  ::close(leaked);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  ASSERT_TRUE(OneLives());
  const std::string fds = "/proc/" + std::to_string(Starts().back()) + "/fd/";
  EXPECT_FALSE(std::filesystem::exists(std::filesystem::symlink_status(fds + std::to_string(leaked))));
  EXPECT_EQ(std::filesystem::read_symlink(fds + "0"), "/dev/null");
  EXPECT_EQ(std::filesystem::read_symlink(fds + "1"), Log());
  EXPECT_EQ(std::filesystem::read_symlink(fds + "2"), Log());
  EXPECT_EQ(::getsid(Starts().back()), Starts().back());
}

TEST_F(UpCommandTest, WhereDataIsKeptUnlessItIsSaid) {
  const std::string under_home = home() + "/.local/share/ikkuna";
  EXPECT_THAT(Out({"up", "--daemon", daemon_}), HasSubstr("runs are in '" + under_home + "'"));
  Out({"down"});
  environment_["XDG_DATA_HOME"] = home() + "/xdg";
  EXPECT_THAT(Out({"up", "--daemon", daemon_}), HasSubstr("runs are in '" + home() + "/xdg/ikkuna'"));
  Out({"down"});
  environment_["IKKUNA_DATA"] = home() + "/said";
  EXPECT_THAT(Out({"up", "--daemon", daemon_}), HasSubstr("runs are in '" + home() + "/said'"));
  Out({"down"});
  EXPECT_THAT(Out({"--data-dir", data_, "up", "--daemon", daemon_}), HasSubstr("runs are in '" + data_ + "'"));
}

TEST_F(UpCommandTest, ADataDirectoryOtherThanThatOfTheOneThatServesIsRefused) {
  Out(Up());
  Outcome outcome = Run({"up", "--daemon", daemon_, "--data-dir", home() + "/other"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("cannot keep data in '" + home() + "/other'"));
  EXPECT_THAT(outcome.err, HasSubstr("keeps it in '" + data_ + "'"));
  EXPECT_THAT(outcome.err, HasSubstr("ikkuna down"));
  EXPECT_FALSE(std::filesystem::exists(home() + "/other"));
  // The same place by another way is the same place.
  std::filesystem::create_directory_symlink(data_, home() + "/link");
  EXPECT_EQ(Run({"up", "--daemon", daemon_, "--data-dir", home() + "/link"}).code, 0);
}

TEST_F(UpCommandTest, OfManyAtOnceOneStartsIt) {
  environment_["IKKUNA_TEST_FAKE_DELAY_MS"] = "100";
  std::vector<std::unique_ptr<Program>> programs;
  for (int i = 0; i < 12; ++i) programs.push_back(Spawn(Up()));
  int started = 0;
  for (const auto& program : programs) {
    EXPECT_EQ(program->Wait(), 0) << program->err();
    EXPECT_EQ(program->err(), "");
    EXPECT_THAT(program->out(), HasSubstr(Process()));
    started += program->out().find("was started") != std::string::npos ? 1 : 0;
  }
  EXPECT_EQ(started, 1);
  EXPECT_EQ(Starts().size(), 1u);
  EXPECT_EQ(Arguments(), "--data-dir " + data_ + " --linger 600\n");
}

// Ranks of one job, each under `ikkuna run`.
TEST_F(UpCommandTest, JobsAtOnceShareOne) {
  std::vector<std::unique_ptr<Program>> programs;
  for (int i = 0; i < 6; ++i) {
    programs.push_back(Spawn(
        {"run", "--daemon", daemon_, "--data-dir", data_, "--", "sh", "-c", "test -S \"$IKKUNA_DIR/probe.sock\""}));
  }
  for (const auto& program : programs) EXPECT_EQ(program->Wait(), 0) << program->err();
  EXPECT_EQ(Starts().size(), 1u);
  EXPECT_TRUE(OneLives());
}

TEST_F(UpCommandTest, ManyStartsAndEndsAtOnceLeaveOneOrNone) {
  std::vector<std::unique_ptr<Program>> programs;
  for (int i = 0; i < 12; ++i) programs.push_back(Spawn(i % 3 == 2 ? std::vector<std::string>{"down"} : Up()));
  for (const auto& program : programs) EXPECT_EQ(program->Wait(), 0) << program->err();
  int alive = 0;
  for (const pid_t pid : Starts()) alive += IsAlive(pid) ? 1 : 0;
  EXPECT_LE(alive, 1);
  EXPECT_EQ(Run(Up()).code, 0);
  EXPECT_TRUE(OneLives());
}

// Its trainers' socket is gone while it ends, and its lock is not.
TEST_F(UpCommandTest, OneThatEndsIsWaitedForAndFollowed) {
  environment_["IKKUNA_TEST_FAKE_SLOW_END_MS"] = "500";
  Out(Up());
  ::kill(Starts().back(), SIGTERM);
  ASSERT_TRUE(Eventually([&] { return Exists("ending"); }));
  EXPECT_THAT(Out(Up()), HasSubstr("was started"));
  EXPECT_TRUE(Exists("ended"));
  ASSERT_EQ(Starts().size(), 2u);
  EXPECT_FALSE(IsAlive(Starts()[0]));
  EXPECT_TRUE(IsAlive(Starts()[1]));
}

TEST_F(UpCommandTest, OneThatEndsBecauseNobodyCameIsWaitedForAndFollowed) {
  environment_["IKKUNA_TEST_FAKE_SLOW_END_MS"] = "500";
  Out(Up());
  ::kill(Starts().back(), SIGUSR1);
  ASSERT_TRUE(Eventually([&] { return Exists("ending"); }));
  EXPECT_THAT(Out(Up()), HasSubstr("was started"));
  ASSERT_EQ(Starts().size(), 2u);
  EXPECT_FALSE(IsAlive(Starts()[0]));
  EXPECT_TRUE(IsAlive(Starts()[1]));
}

// By hand, in the same moment: it is met, and no second one gets in its way.
TEST_F(UpCommandTest, OneThatStartsIsWaitedForAndUsed) {
  auto lock = shm::DirectoryLock::Take(dir_.path());
  ASSERT_TRUE(lock.ok()) << lock.error().text;
  auto program = Spawn(Up());
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  auto door = shm::ListenForProducers(dir_.path(), false);
  ASSERT_TRUE(door.ok()) << door.error().text;
  EXPECT_EQ(program->Wait(), 0) << program->err();
  EXPECT_EQ(program->out(),
            "ikkuna-daemon (process " + std::to_string(::getpid()) + ") serves '" + dir_.path() + "'\n");
  EXPECT_TRUE(Starts().empty());
}

// The same, a moment later: ours finds the lock taken and gives way, and the other one is waited for.
TEST_F(UpCommandTest, OneThatWasFasterIsWaitedForAndUsed) {
  environment_["IKKUNA_TEST_FAKE_DELAY_MS"] = "500";
  daemon_ = Script("daemon", "(" + Become() + ") & while ! test -s '" + dir_.path() +
                                 "/starts'; do sleep 0.01; done\n" + Become());
  const std::string text = Out(Up());
  ASSERT_EQ(Starts().size(), 1u);
  EXPECT_EQ(text, "ikkuna-daemon " + Process() + " " + Serving());
  EXPECT_TRUE(OneLives());
}

TEST_F(UpCommandTest, WhatAKilledOneLeftIsNoDaemon) {
  Out(Up());
  const pid_t first = Starts().back();
  ::kill(first, SIGKILL);
  ASSERT_TRUE(Eventually([&] { return !IsAlive(first); }));
  ASSERT_TRUE(Exists("probe.sock") && Exists("lock"));
  EXPECT_EQ(Out({"down"}), "no ikkuna-daemon serves '" + dir_.path() + "'\n");
  EXPECT_THAT(Out(Up()), HasSubstr("was started"));
  ASSERT_EQ(Starts().size(), 2u);
  EXPECT_THAT(Out({"down"}), HasSubstr(Process() + " has ended, everything that was read is kept"));
}

// It takes connections, and nobody there answers.
TEST_F(UpCommandTest, AStoppedOneIsSaidAndCanBeEnded) {
  Out(Up());
  ::kill(Starts().back(), SIGSTOP);
  ASSERT_TRUE(Eventually([&] { return StateOf(Starts().back()) == 'T'; }));  // when it is scheduled
  Outcome outcome = Run(Up());
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("ikkuna-daemon " + Process() + " is stopped"));
  EXPECT_THAT(outcome.err, HasSubstr("kill -CONT " + std::to_string(Starts().back())));
  outcome = Run({"run", "--daemon", daemon_, "--data-dir", data_, "--", "echo", "ran"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "ran\n");
  EXPECT_THAT(outcome.err, HasSubstr("nothing of it is recorded: ikkuna-daemon " + Process() + " is stopped"));
  EXPECT_THAT(Out({"down"}), HasSubstr(Process() + " has ended, everything that was read is kept"));
  EXPECT_THAT(Out(Up()), HasSubstr("was started"));
}

TEST_F(UpCommandTest, DownSaysWhatBecameOfIt) {
  environment_["IKKUNA_TEST_FAKE_NOT_KEPT"] = "no space left on device";
  Out(Up());
  Outcome outcome = Run({"down"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err,
              HasSubstr(Process() + " has ended, and not everything that was read is kept: no space left"));
  environment_.erase("IKKUNA_TEST_FAKE_NOT_KEPT");
  environment_["IKKUNA_TEST_FAKE_SLOW_END_MS"] = "60000";
  Out(Up());
  outcome = Run({"down", "--timeout", "0.2"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("still writes what it has"));
  auto program = Spawn({"down"});
  // It holds the lock while it waits.
  ASSERT_TRUE(Eventually([&] {
    const int lock = ::open((dir_.path() + "/up.lock").c_str(), O_RDWR | O_CLOEXEC);
    const bool held = lock >= 0 && ::flock(lock, LOCK_EX | LOCK_NB) != 0;
    if (lock >= 0) ::close(lock);
    return held;
  }));
  // And looks on by then.
  ASSERT_TRUE(Eventually([&] { return Holds(program->pid(), "anon_inode:[pidfd]"); }));
  ::kill(Starts().back(), SIGKILL);
  EXPECT_EQ(program->Wait(), 1);
  EXPECT_THAT(program->err(), HasSubstr(Process() + " has ended, but not in order; what it had committed is kept"));
}

TEST_F(UpCommandTest, OneThatIsKilledWhileItWaitsLeavesNothingInTheWay) {
  environment_["IKKUNA_TEST_FAKE_DELAY_MS"] = "400";
  auto program = Spawn(Up());
  ASSERT_TRUE(Eventually([&] { return !Starts().empty(); }));
  program->Signal(SIGKILL);
  program->Wait();
  EXPECT_THAT(Out(Up()), HasSubstr(Process() + " serves"));
  EXPECT_EQ(Starts().size(), 1u);
}

TEST_F(UpCommandTest, OneThatCannotStartIsSaidWithItsOwnLastLines) {
  const std::string good = daemon_;
  daemon_ = Script("bad", "echo 'a former line'; exit 3");
  EXPECT_EQ(Run(Up()).code, 1);
  daemon_ = Script("bad", "i=0; while test $i -lt 20; do echo \"line $i\"; i=$((i+1)); done; exit 4");
  Outcome outcome = Run(Up());
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("ikkuna-daemon ended at its start with code 4; its log '" + Log() + "' ends so:"));
  EXPECT_THAT(outcome.err, HasSubstr("\n  line 18\n  line 19\n"));
  EXPECT_THAT(outcome.err, Not(HasSubstr("line 9")));
  EXPECT_THAT(outcome.err, Not(HasSubstr("former")));
  daemon_ = dir_.path() + "/missing";
  EXPECT_THAT(Run(Up()).err, HasSubstr("cannot start '" + daemon_ + "'"));
  daemon_ = good;
  EXPECT_EQ(Run(Up()).code, 0);
}

TEST_F(UpCommandTest, ALargeLogIsPutAside) {
  Out(Up());
  const std::string log = Log();
  Out({"down"});
  std::filesystem::resize_file(log, 17 << 20);
  Out(Up());
  EXPECT_LT(std::filesystem::file_size(log), 1u << 20);
  EXPECT_EQ(std::filesystem::file_size(log + ".1"), 17u << 20);
}

TEST_F(UpCommandTest, PlacesThatWillNotDoAreNamed) {
  data_ = dir_.Write("file", "x");
  Outcome outcome = Run(Up());
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("cannot create directory '" + data_ + "'"));
  EXPECT_THAT(outcome.err, HasSubstr("pass --data-dir or set IKKUNA_DATA"));
  environment_["IKKUNA_DIR"] = data_;
  outcome = Run({"up", "--daemon", daemon_});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("IKKUNA_DIR"));
  environment_["IKKUNA_DIR"] = dir_.path() + "/" + std::string(120, 'd');
  outcome = Run({"up", "--daemon", daemon_});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("set IKKUNA_DIR to a shorter directory"));
}

TEST_F(UpCommandTest, ArgumentsForOneThatIsThereAlreadyAreSaidToBeLost) {
  Out(Up());
  std::vector<std::string> line = Up();
  line.push_back("--daemon-arg=--budget=off");
  Outcome outcome = Run(line);
  EXPECT_EQ(outcome.code, 0);
  EXPECT_THAT(outcome.err, HasSubstr("--daemon-arg is for a daemon that is started"));
}

TEST_F(UpCommandTest, AnAddressMakesNoSense) {
  for (const char* command : {"up", "down"}) {
    Outcome outcome = Run({command, "--address", "127.0.0.1:1"});
    EXPECT_EQ(outcome.code, 2) << command;
    EXPECT_THAT(outcome.err, HasSubstr("set IKKUNA_DIR")) << command;
  }
}

}  // namespace
}  // namespace ikkuna::test
