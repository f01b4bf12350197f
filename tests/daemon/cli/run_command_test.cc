// ikkuna run: the daemon's life around a job. The daemon is this test program in another role (see FakeDaemon).
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <filesystem>

#include "shared/handshake.h"
#include "tests/daemon/cli/cli_fixture.h"

namespace ikkuna::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Takes the directory's lock and listens where a daemon would, writes its pid, and notes the SIGTERM that ends it.
// Needs no main() of its own: it runs before that of the tests when the variable asks for it.
bool FakeDaemon() {
  const char* directory = std::getenv("IKKUNA_TEST_FAKE_DAEMON");
  if (directory == nullptr) return false;
  std::string base = directory;
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &term, nullptr);
  auto lock = shm::DirectoryLock::Take(base);
  if (!lock) ::_exit(1);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, (base + "/grpc.sock").c_str());
  int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::ofstream(base + "/pid.part") << ::getpid();
  std::filesystem::rename(base + "/pid.part", base + "/pid");
  if (::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || ::listen(fd, 16) != 0) ::_exit(9);
  auto door = shm::ListenForProducers(base, false);
  if (!door) ::_exit(9);
  int number = 0;
  ::sigwait(&term, &number);
  std::ofstream(base + "/ended") << "yes";
  ::unlink(address.sun_path);
  ::unlink(shm::ProbeSocketPath(base).c_str());
  const char* code = std::getenv("IKKUNA_TEST_FAKE_CODE");
  ::_exit(code == nullptr ? 0 : std::atoi(code));
}
const bool kNeverTrue = FakeDaemon();

class RunCommandTest : public CliTest {
 protected:
  void SetUp() override {
    std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
    daemon_ = Script("daemon", "echo \"$@\" > '" + dir_.path() + "/arguments'\nIKKUNA_TEST_FAKE_DAEMON='" +
                                   dir_.path() + "' exec '" + self + "'");
    data_ = dir_.path() + "/data";
  }
  std::string Script(const std::string& name, const std::string& text) {
    std::string path = dir_.Write(name, "#!/bin/sh\n" + text + "\n");
    ::chmod(path.c_str(), 0755);
    return path;
  }
  std::vector<std::string> Line(const std::vector<std::string>& job) {
    std::vector<std::string> line = {"run", "--daemon", daemon_, "--data-dir", data_, "--"};
    line.insert(line.end(), job.begin(), job.end());
    return line;
  }
  std::vector<std::string> Shell(const std::string& script) { return Line({"sh", "-c", script}); }
  bool DaemonGone() {
    std::string pid = ReadText(dir_.path() + "/pid");
    return !pid.empty() && ::kill(std::stoi(pid), 0) != 0;
  }
  bool Exists(const std::string& name) { return std::filesystem::exists(dir_.path() + "/" + name); }

  std::string daemon_, data_;
};

TEST_F(RunCommandTest, TheJobHasADaemonForItsTimeAndPassesItsExitCodeOn) {
  Outcome outcome = Run(Shell("test -S \"$IKKUNA_DIR/grpc.sock\" && echo met; exit 7"));
  EXPECT_EQ(outcome.code, 7);
  EXPECT_EQ(outcome.out, "met\n");
  EXPECT_EQ(outcome.err, "ikkuna: what was recorded is in '" + data_ + "'; to look at it: ikkuna-daemon --data-dir '" +
                             data_ + "'\n");
  EXPECT_TRUE(Exists("ended"));
  EXPECT_TRUE(DaemonGone());
  EXPECT_FALSE(Exists("grpc.sock"));
  EXPECT_EQ(ReadText(dir_.path() + "/arguments"), "--data-dir " + data_ + "\n");
  EXPECT_TRUE(std::filesystem::exists(data_ + "/daemon.log"));
}

TEST_F(RunCommandTest, ArgumentsOfTheJobAndOfTheDaemonArriveAsTheyAre) {
  Outcome outcome = Run({"run", "--daemon", daemon_, "--data-dir", data_, "--daemon-arg=--budget=off", "--daemon-arg",
                         "-v", "--", "printf", "%s|", "--json", "a b", "--", "-x"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "--json|a b|--|-x|");
  EXPECT_EQ(ReadText(dir_.path() + "/arguments"), "--data-dir " + data_ + " --budget=off -v\n");
}

TEST_F(RunCommandTest, ASignalThatEndsTheJobShowsInTheCode) {
  EXPECT_EQ(Run(Shell("kill -KILL $$")).code, 137);
  EXPECT_TRUE(DaemonGone());
}

TEST_F(RunCommandTest, AJobThatCannotStartEndsTheDaemonToo) {
  Outcome outcome = Run(Line({"no-such-trainer"}));
  EXPECT_EQ(outcome.code, 127);
  EXPECT_THAT(outcome.err, HasSubstr("cannot start 'no-such-trainer'"));
  EXPECT_TRUE(DaemonGone());
  outcome = Run(Line({dir_.Write("not-executable", "")}));
  EXPECT_EQ(outcome.code, 126);
}

TEST_F(RunCommandTest, ADaemonThatRunsIsUsedAndLeftAlone) {
  StartDaemon();
  auto door = shm::ListenForProducers(dir_.path(), false);
  ASSERT_TRUE(door.ok()) << door.error().text;
  Outcome outcome = Run(Shell("exit 3"));
  EXPECT_EQ(outcome.code, 3);
  EXPECT_FALSE(Exists("pid"));
  EXPECT_EQ(Run({"status"}).code, 0);
}

// Its clients' socket lives on while it ends, and its trainers' is gone.
TEST_F(RunCommandTest, ADaemonThatIsEndingIsWaitedForAndFollowed) {
  auto lock = shm::DirectoryLock::Take(dir_.path());
  ASSERT_TRUE(lock.ok()) << lock.error().text;
  StartDaemon();
  auto program = Spawn(Shell("test -S \"$IKKUNA_DIR/probe.sock\" && echo met"));
  ASSERT_TRUE(Eventually([&] { return Exists("arguments"); })) << program->err();
  scripted_.End();
  { auto released = std::move(lock); }
  EXPECT_EQ(program->Wait(), 0) << program->err();
  EXPECT_EQ(program->out(), "met\n");
  EXPECT_TRUE(Exists("ended"));
}

// Two jobs are started at once: one brings the daemon, the other uses it.
TEST_F(RunCommandTest, ADaemonThatIsStartingIsWaitedForAndUsed) {
  auto lock = shm::DirectoryLock::Take(dir_.path());
  ASSERT_TRUE(lock.ok()) << lock.error().text;
  StartDaemon();
  auto program = Spawn(Shell("test -S \"$IKKUNA_DIR/probe.sock\" && echo met"));
  ASSERT_TRUE(Eventually([&] { return Exists("arguments"); })) << program->err();
  auto door = shm::ListenForProducers(dir_.path(), false);
  ASSERT_TRUE(door.ok()) << door.error().text;
  EXPECT_EQ(program->Wait(), 0) << program->err();
  EXPECT_EQ(program->out(), "met\n");
  EXPECT_EQ(program->err(), "");
  EXPECT_FALSE(Exists("pid"));
}

TEST_F(RunCommandTest, SignalsAreHandedOn) {
  for (auto [number, name] :
       {std::pair(SIGTERM, "TERM"), std::pair(SIGINT, "INT"), std::pair(SIGHUP, "HUP"), std::pair(SIGUSR1, "USR1")}) {
    std::filesystem::remove(dir_.path() + "/ready");
    auto program = Spawn(Shell(std::string("trap 'echo got; exit 5' ") + name +
                               "; touch \"$IKKUNA_DIR/ready\"; while :; do sleep 0.05; done"));
    ASSERT_TRUE(Eventually([&] { return Exists("ready"); })) << program->err();
    program->Signal(number);
    EXPECT_EQ(program->Wait(), 5) << name;
    EXPECT_EQ(program->out(), "got\n") << name;
    EXPECT_TRUE(DaemonGone()) << name;
  }
}

// The daemon must outlive the job, whoever logs out: before the job began, such a signal ended `run` itself.
TEST_F(RunCommandTest, ASignalIgnoredFromTheStartIsNotTaken) {
  daemon_ = Script("daemon", "kill -HUP $PPID; IKKUNA_TEST_FAKE_DAEMON='" + dir_.path() + "' exec '" +
                                 std::filesystem::read_symlink("/proc/self/exe").string() + "'");
  ::signal(SIGHUP, SIG_IGN);
  Outcome outcome = Run(Shell("echo started"));
  ::signal(SIGHUP, SIG_DFL);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "started\n");
}

TEST_F(RunCommandTest, ADaemonThatCannotStartIsSaidAndTheJobIsNotStarted) {
  daemon_ = Script("daemon", "echo 'the disk is full'; exit 3");
  Outcome outcome = Run(Shell("echo started"));
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.out, "");
  EXPECT_THAT(outcome.err, HasSubstr("ikkuna-daemon ended at its start with code 3"));
  EXPECT_THAT(outcome.err, HasSubstr("the disk is full"));
  daemon_ = dir_.path() + "/missing";
  outcome = Run(Shell("echo started"));
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("cannot start '" + daemon_ + "'"));
}

TEST_F(RunCommandTest, ADaemonThatDiesDoesNotTakeTheJobAlong) {
  Outcome outcome = Run(
      Shell("kill -KILL $(cat \"$IKKUNA_DIR/pid\"); while kill -0 $(cat \"$IKKUNA_DIR/pid\") 2>/dev/null && "
            "! grep -q 'State:.Z' /proc/$(cat \"$IKKUNA_DIR/pid\")/status; do sleep 0.01; done; echo done; exit 4"));
  EXPECT_EQ(outcome.code, 4);
  EXPECT_EQ(outcome.out, "done\n");
  EXPECT_THAT(outcome.err, HasSubstr("ikkuna-daemon ended before the job did, with code 137"));
}

TEST_F(RunCommandTest, ADaemonThatCouldNotKeepEverythingIsSaid) {
  environment_["IKKUNA_TEST_FAKE_CODE"] = "3";
  daemon_ = Script("daemon", "echo 'not everything is kept'; IKKUNA_TEST_FAKE_DAEMON='" + dir_.path() + "' exec '" +
                                 std::filesystem::read_symlink("/proc/self/exe").string() + "'");
  Outcome outcome = Run(Shell("exit 5"));
  EXPECT_EQ(outcome.code, 5);
  EXPECT_THAT(outcome.err, HasSubstr("ikkuna-daemon ended with code 3"));
  EXPECT_THAT(outcome.err, HasSubstr("not everything is kept"));
}

TEST_F(RunCommandTest, TheDaemonEndsAlsoWhenRunIsKilled) {
  auto program = Spawn(Shell("touch \"$IKKUNA_DIR/ready\"; echo $$ > \"$IKKUNA_DIR/job\"; exec sleep 60"));
  ASSERT_TRUE(Eventually([&] { return Exists("job") && !ReadText(dir_.path() + "/job").empty(); }));
  program->Signal(SIGKILL);
  EXPECT_EQ(program->Wait(), 137);
  EXPECT_TRUE(Eventually([&] { return Exists("ended"); }));
  ::kill(std::stoi(ReadText(dir_.path() + "/job")), SIGKILL);
}

TEST_F(RunCommandTest, AnAddressMakesNoSense) {
  Outcome outcome = Run({"run", "--address", "127.0.0.1:1", "--", "true"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("set IKKUNA_DIR"));
}

}  // namespace
}  // namespace ikkuna::test
