// ikkuna run: a job, and a daemon beside it.
#include "shared/daemon_note.h"
#include "shared/handshake.h"
#include "tests/daemon/cli/fake_daemon.h"

namespace ikkuna::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class RunCommandTest : public FakeDaemonTest {
 protected:
  std::vector<std::string> Line(const std::vector<std::string>& job) {
    std::vector<std::string> line = {"run", "--daemon", daemon_, "--data-dir", data_, "--"};
    line.insert(line.end(), job.begin(), job.end());
    return line;
  }
  std::vector<std::string> Shell(const std::string& script) { return Line({"sh", "-c", script}); }
};

TEST_F(RunCommandTest, TheJobMeetsADaemonAndPassesItsExitCodeOn) {
  Outcome outcome = Run(Shell("test -S \"$IKKUNA_DIR/grpc.sock\" && echo met; exit 7"));
  EXPECT_EQ(outcome.code, 7);
  EXPECT_EQ(outcome.out, "met\n");
  EXPECT_EQ(outcome.err, "ikkuna: what was recorded is in '" + data_ +
                             "'; 'ikkuna runs' and 'ikkuna plot' show it, 'ikkuna down' ends the daemon now\n");
  EXPECT_TRUE(OneLives());
  EXPECT_EQ(Arguments(), "--data-dir " + data_ + " --linger 600\n");
  EXPECT_EQ(Run({"down"}).code, 0);
  EXPECT_FALSE(OneLives());
}

TEST_F(RunCommandTest, ArgumentsOfTheJobAndOfTheDaemonArriveAsTheyAre) {
  Outcome outcome = Run({"run", "--daemon", daemon_, "--data-dir", data_, "--daemon-arg=--budget=off", "--daemon-arg",
                         "-v", "--linger", "2.5", "--", "printf", "%s|", "--json", "a b", "--", "-x"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "--json|a b|--|-x|");
  EXPECT_EQ(Arguments(), "--data-dir " + data_ + " --linger 2.5 --budget=off -v\n");
}

TEST_F(RunCommandTest, ASignalThatEndsTheJobShowsInTheCode) {
  EXPECT_EQ(Run(Shell("kill -KILL $$")).code, 137);
  EXPECT_TRUE(OneLives());
}

TEST_F(RunCommandTest, AJobThatCannotStartIsSaidAsAShellSaysIt) {
  Outcome outcome = Run(Line({"no-such-trainer"}));
  EXPECT_EQ(outcome.code, 127);
  EXPECT_THAT(outcome.err, HasSubstr("cannot start 'no-such-trainer'"));
  EXPECT_EQ(Run(Line({dir_.Write("not-executable", "")})).code, 126);
}

TEST_F(RunCommandTest, ADaemonThatRunsIsUsedAndLeftAlone) {
  StartDaemon();
  auto door = shm::ListenForProducers(dir_.path(), false);
  ASSERT_TRUE(door.ok()) << door.error().text;
  Outcome outcome = Run(Shell("exit 3"));
  EXPECT_EQ(outcome.code, 3);
  EXPECT_EQ(outcome.err, "");
  EXPECT_TRUE(Starts().empty());
  EXPECT_EQ(Run({"status"}).code, 0);
}

// A trainer may take an hour before it comes: until then the daemon that ends when nobody comes knows of it.
TEST_F(RunCommandTest, TheDaemonIsInUseWhileTheJobLives) {
  auto program = Spawn(Shell("touch \"$IKKUNA_DIR/ready\"; while test ! -e \"$IKKUNA_DIR/go\"; do sleep 0.02; done"));
  ASSERT_TRUE(Eventually([&] { return Exists("ready"); })) << program->err();
  EXPECT_TRUE(shm::IsInUse(dir_.path()));
  dir_.Write("go", "");
  EXPECT_EQ(program->Wait(), 0);
  EXPECT_FALSE(shm::IsInUse(dir_.path()));
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
    EXPECT_TRUE(OneLives()) << name;
  }
  EXPECT_EQ(Starts().size(), 1u);
}

TEST_F(RunCommandTest, ASignalBeforeThereIsADaemonEndsTheWait) {
  daemon_ = Script("daemon", "touch '" + dir_.path() + "/begun'; exec sleep 30");
  auto program = Spawn(Shell("echo started"));
  ASSERT_TRUE(Eventually([&] { return Exists("begun"); })) << program->err();
  program->Signal(SIGTERM);
  EXPECT_EQ(program->Wait(), 1);
  EXPECT_EQ(program->out(), "");
  EXPECT_THAT(program->err(), HasSubstr("ended by a signal before there was a daemon"));
}

// The daemon must outlive the job, whoever logs out: before the job began, such a signal ended `run` itself.
TEST_F(RunCommandTest, ASignalIgnoredFromTheStartIsNotTaken) {
  daemon_ = Script("daemon", "kill -HUP $PPID; " + Become());
  ::signal(SIGHUP, SIG_IGN);
  Outcome outcome = Run(Shell("echo started"));
  ::signal(SIGHUP, SIG_DFL);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "started\n");
}

TEST_F(RunCommandTest, WhereNoDaemonCanBeStartedTheJobRunsAndThatIsSaid) {
  daemon_ = Script("daemon", "echo 'the disk is full'; exit 3");
  Outcome outcome = Run(Shell("echo started; exit 7"));
  EXPECT_EQ(outcome.code, 7);
  EXPECT_EQ(outcome.out, "started\n");
  EXPECT_THAT(outcome.err, HasSubstr("the job runs, and nothing of it is recorded"));
  EXPECT_THAT(outcome.err, HasSubstr("nothing of this job was recorded"));
  EXPECT_THAT(outcome.err, HasSubstr("ikkuna-daemon ended at its start with code 3"));
  EXPECT_THAT(outcome.err, HasSubstr("the disk is full"));
  daemon_ = dir_.path() + "/missing";
  outcome = Run(Shell("echo started"));
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "started\n");
  EXPECT_THAT(outcome.err, HasSubstr("cannot start '" + daemon_ + "'"));
  // One whose log could not be written says nothing.
  daemon_ = Script("daemon", "exit 3");
  outcome = Run(Shell("echo started"));
  EXPECT_EQ(outcome.out, "started\n");
  EXPECT_THAT(outcome.err, HasSubstr("make room on that disk, or pass --data-dir"));
}

TEST_F(RunCommandTest, ADaemonThatDiesDoesNotTakeTheJobAlong) {
  Outcome outcome =
      Run(Shell("pid=$(cat \"$IKKUNA_DIR/starts\"); kill -KILL $pid; "
                "while kill -0 $pid 2>/dev/null && ! grep -q 'State:.Z' /proc/$pid/status; do sleep 0.01; done; echo "
                "done; exit 4"));
  EXPECT_EQ(outcome.code, 4);
  EXPECT_EQ(outcome.out, "done\n");
  EXPECT_THAT(outcome.err, HasSubstr("ikkuna-daemon ended before the job did, with code 137"));
}

TEST_F(RunCommandTest, TheDaemonStaysAlsoWhenRunIsKilled) {
  auto program = Spawn(
      Shell("echo $$ > \"$IKKUNA_DIR/job.part\"; mv \"$IKKUNA_DIR/job.part\" \"$IKKUNA_DIR/job\"; exec sleep 60"));
  ASSERT_TRUE(Eventually([&] { return Exists("job"); })) << program->err();
  program->Signal(SIGKILL);
  EXPECT_EQ(program->Wait(), 137);
  EXPECT_TRUE(OneLives());
  EXPECT_FALSE(shm::IsInUse(dir_.path()));
  ::kill(std::stoi(ReadText(dir_.path() + "/job")), SIGKILL);
}

// Of one terminal: what ends the job there does not reach the daemon.
TEST_F(RunCommandTest, TheDaemonIsOfASessionOfItsOwn) {
  EXPECT_EQ(Run(Shell("exit 0")).code, 0);
  ASSERT_TRUE(OneLives());
  EXPECT_EQ(::getsid(Starts().back()), Starts().back());
}

TEST_F(RunCommandTest, TheDirectoryOfTheDataMayBeNamedBeforeTheCommand) {
  Outcome outcome = Run({"--data-dir", data_, "run", "--daemon", daemon_, "--", "true"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(Arguments(), "--data-dir " + data_ + " --linger 600\n");
}

TEST_F(RunCommandTest, AnAddressMakesNoSense) {
  Outcome outcome = Run({"run", "--address", "127.0.0.1:1", "--", "true"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("set IKKUNA_DIR"));
}

}  // namespace
}  // namespace ikkuna::test
