// The daemon as a whole: its parts together in this process, and the program as an operator runs it.
#include "daemon/daemon.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "build_paths.h"
#include "shared/base/unique_fd.h"
#include "tests/daemon/ingest/test_producer.h"

namespace ikkuna {
namespace {

using ingest::Eventually;
using ingest::TempDirectory;
using ingest::TestProducer;

class DaemonTest : public testing::Test {
 protected:
  Config MakeConfig() const {
    Config config;
    config.dir = temp_.sub("dir");
    config.data_dir = temp_.sub("data");
    config.no_default = true;
    config.subscribe = {"loss", "mean(weights)"};
    config.health = false;  // what is counted here is a trainer's
    return config;
  }
  static std::unique_ptr<Daemon> MustStart(const Config& config) {
    auto daemon = Daemon::Start(config, "test");
    EXPECT_TRUE(daemon.ok()) << daemon.error().text;
    return daemon ? std::move(daemon).value() : nullptr;
  }
  // The one producer's records have all been handled.
  static bool HandledAll(Daemon& daemon, TestProducer& producer) {
    return Eventually([&] {
      const auto status = daemon.monitor().GetStatus();
      return status.producers.size() == 1 && status.producers[0].in_flight == 0 &&
             status.producers[0].attempted == shm::LoadAcquire(producer.pub().status().attempted);
    });
  }
  TempDirectory temp_;
};

TEST_F(DaemonTest, ServesAProducerFromSocketToSeries) {
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 0; step < 20; ++step) producer.Step(step, 2);
  ASSERT_TRUE(HandledAll(*daemon, producer));
  CoreMonitor& monitor = daemon->monitor();
  const auto status = monitor.GetStatus();
  EXPECT_EQ(status.version, "test");
  EXPECT_EQ(status.pid, ::getpid());
  EXPECT_EQ(status.directory, temp_.sub("dir"));
  EXPECT_EQ(status.data_directory, temp_.sub("data"));
  EXPECT_EQ(status.tensorboard_directory, temp_.sub("data") + "/tensorboard");
  EXPECT_GT(status.resident_bytes, 1u << 20);
  EXPECT_EQ(status.sinks.size(), 3u);
  EXPECT_EQ(status.series, 2u);
  const RunKey run{producer.hello().run_id, 0, 0};
  auto modules = monitor.ListModules(run);
  ASSERT_TRUE(modules.ok());
  EXPECT_EQ(modules->size(), 1u);
  ASSERT_TRUE(Eventually([&] {
    auto series = monitor.ListSeries({});
    return series.ok() && series->size() == 2 && (*series)[0].count == 20;
  }));
  // Every event of the way is there, and of the daemon's own.
  auto events = monitor.ListEvents({});
  ASSERT_TRUE(events.ok());
  std::vector<std::string> kinds;
  for (const auto& event : *events) kinds.push_back(event.kind);
  EXPECT_NE(std::find(kinds.begin(), kinds.end(), "daemon_started"), kinds.end());
  EXPECT_NE(std::find(kinds.begin(), kinds.end(), "run_started"), kinds.end());

  producer.Finish();
  ASSERT_TRUE(Eventually([&] { return monitor.GetStatus().producers[0].state == "finished"; }));
  auto after = monitor.ListModules(run);  // from the store now
  ASSERT_TRUE(after.ok()) << after.error().text;
  EXPECT_EQ(after->size(), 1u);
}

TEST_F(DaemonTest, SubscribingChangesTheDemandOfARunningProducer) {
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  const auto asked = [&] {
    uint64_t kinds = 0;
    if (auto items = producer.ctl().CopyDemand(2)) {
      for (const auto& item : *items) kinds |= item.kinds;
    }
    return (kinds & KindBit(Kind::kActivations)) != 0;
  };
  EXPECT_FALSE(asked());
  auto added = daemon->monitor().Subscribe("std(activations)");
  ASSERT_TRUE(added.ok()) << added.error().text;
  ASSERT_EQ(added->subscribers.size(), 1u);
  EXPECT_EQ(added->subscribers[0].source, "client");
  EXPECT_TRUE(Eventually(asked));
  EXPECT_EQ(daemon->monitor().ListSubscribers().size(), 3u);
  ASSERT_TRUE(daemon->monitor().Unsubscribe(std::to_string(added->subscribers[0].id)).ok());
  EXPECT_TRUE(Eventually([&] { return !asked(); }));
  EXPECT_FALSE(daemon->monitor().Subscribe("std(nothing)").ok());
  EXPECT_FALSE(daemon->monitor().Unsubscribe("12345").ok());
}

TEST_F(DaemonTest, APatternThatNoModuleMatchesIsSaid) {
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  // With nobody there it may match what comes.
  auto early = daemon->monitor().Subscribe("mean(weights, module=fcc, as=early)");
  ASSERT_TRUE(early.ok());
  EXPECT_TRUE(early->warnings.empty());
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  ASSERT_TRUE(Eventually([&] {
    auto modules = daemon->monitor().ListModules({producer.hello().run_id, 0, 0});
    return modules.ok() && modules->size() == 1;
  }));
  auto late = daemon->monitor().Subscribe("mean(weights, module=fcc, as=late); mean(weights, module=f*, as=right)");
  ASSERT_TRUE(late.ok());
  EXPECT_EQ(late->subscribers.size(), 2u);
  EXPECT_EQ(late->warnings,
            std::vector<std::string>{"module=fcc matches no module of a run that is connected; did you mean 'fc'? "
                                     "There are fc"});
}

TEST_F(DaemonTest, ControlActsOnlyWhereTheTrainerAllowsIt) {
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  CoreMonitor& monitor = daemon->monitor();
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  const RunKey run{producer.hello().run_id, 0, 0};
  auto absent = monitor.Stop(run);
  ASSERT_FALSE(absent.ok());
  EXPECT_EQ(absent.error().code, ErrorCode::kFailedPrecondition);
  EXPECT_NE(absent.error().text.find("not connected"), std::string::npos) << absent.error().text;

  ASSERT_TRUE(producer.Connect()) << producer.reject();
  ASSERT_TRUE(Eventually([&] { return !monitor.GetStatus().producers.empty(); }));
  auto refused = monitor.Freeze(run, "fc", true);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kPermissionDenied);
  EXPECT_NE(refused.error().text.find("allow_control"), std::string::npos) << refused.error().text;

  shm::StoreRelease(producer.pub().status().control, static_cast<uint32_t>(shm::Control::kStopOnly));
  ASSERT_TRUE(Eventually([&] { return monitor.GetStatus().producers[0].allow_control; }));
  auto no_hold = monitor.Freeze(run, "fc", true);
  ASSERT_FALSE(no_hold.ok());
  EXPECT_EQ(no_hold.error().code, ErrorCode::kFailedPrecondition) << no_hold.error().text;

  shm::StoreRelease(producer.pub().status().control, static_cast<uint32_t>(shm::Control::kAll));
  ASSERT_TRUE(Eventually([&] { return monitor.GetStatus().producers[0].allow_freeze; }));
  auto unknown = monitor.Freeze(run, "conv*", true);
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code, ErrorCode::kNotFound);
  EXPECT_NE(unknown.error().text.find("fc"), std::string::npos) << unknown.error().text;

  uint64_t done = 0;
  const auto next = [&](shm::CommandType type, uint32_t module) {
    return Eventually([&] {
      const auto command = producer.ctl().NextCommand(done);
      if (!command) return false;
      EXPECT_EQ(command->type, static_cast<uint32_t>(type));
      EXPECT_EQ(command->module, module);
      shm::StoreRelease(producer.pub().status().command_done, ++done);
      return true;
    });
  };
  auto frozen = monitor.Freeze(run, "f*", true);
  ASSERT_TRUE(frozen.ok()) << frozen.error().text;
  EXPECT_NE(frozen->text.find("fc"), std::string::npos) << frozen->text;
  EXPECT_TRUE(next(shm::CommandType::kFreeze, 1));
  ASSERT_TRUE(monitor.Freeze(run, "fc", false).ok());
  EXPECT_TRUE(next(shm::CommandType::kUnfreeze, 1));
  ASSERT_TRUE(monitor.Stop(run).ok());
  EXPECT_TRUE(next(shm::CommandType::kStop, 0));
}

TEST_F(DaemonTest, KeepsEverythingOverAnOrderlyRestart) {
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 0; step < 30; ++step) producer.Step(step, 2);
  // Without waiting: what is in the ring is the daemon's to handle before it ends.
  EXPECT_TRUE(daemon->Stop().ok());
  EXPECT_TRUE(producer.DaemonGone());
  producer.Disconnect();
  EXPECT_NE(::access(shm::ProbeSocketPath(temp_.sub("dir")).c_str(), F_OK), 0);
  daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 30; step < 60; ++step) producer.Step(step, 2);
  ASSERT_TRUE(HandledAll(*daemon, producer));
  const auto status = daemon->monitor().GetStatus().producers[0];
  EXPECT_EQ(status.handled, 60 * TestProducer::kRecordsPerStep);
  EXPECT_EQ(status.lost_in_daemon, 0u);
  EXPECT_EQ(status.handled + status.dropped_total + status.lost_in_daemon + status.killed, status.attempted);
  EXPECT_TRUE(Eventually([&] {
    auto series = daemon->monitor().ListSeries({});
    return series.ok() && series->size() == 2 && (*series)[0].count == 60;
  }));
}

TEST_F(DaemonTest, ASecondDaemonIsRefusedAndToldWhoIsThere) {
  auto first = MustStart(MakeConfig());
  ASSERT_TRUE(first);
  Config config = MakeConfig();
  config.data_dir = temp_.sub("other");
  auto second = Daemon::Start(config, "test");
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.error().text.find(std::to_string(::getpid())), std::string::npos) << second.error().text;
  // The first is not disturbed.
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  EXPECT_TRUE(producer.Connect()) << producer.reject();
}

TEST_F(DaemonTest, IdleIsNoTrainerAndNoClient) {
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  EXPECT_FALSE(daemon->IdleFor(0)) << "the first trainer may still be loading";
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  EXPECT_FALSE(daemon->IdleFor(0));
  producer.Finish();
  EXPECT_TRUE(Eventually([&] { return daemon->IdleFor(0); }));
  daemon->monitor().ListSubscribers();
  EXPECT_FALSE(daemon->IdleFor(3600));
  auto watcher = daemon->monitor().Watch({});
  ASSERT_TRUE(watcher.ok());
  EXPECT_FALSE(daemon->IdleFor(0));
  watcher->reset();  // nothing is offered after it, and no health looks at the hub
  EXPECT_TRUE(daemon->IdleFor(0));
}

// ---- The program ----

struct Ended {
  int exit_code = -1;
  std::string output;
};

// The daemon as a child; its output in a file. `before` runs in the child, ahead of exec.
class Program {
 public:
  Program(
      const TempDirectory& temp, std::vector<std::string> arguments, const std::function<void()>& before = [] {})
      : log_(temp.sub("log")) {
    arguments.insert(arguments.begin(), std::string(IKKUNA_BIN_DIR) + "/ikkuna-daemon");
    std::vector<char*> argv;
    for (auto& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      const int fd = ::open(log_.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600);
      ::dup2(fd, 1);
      ::dup2(fd, 2);
      before();
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
  }
  ~Program() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  void Signal(int signal) const { ::kill(pid_, signal); }
  std::string Log() const {
    std::ifstream file(log_);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  Ended Wait() {
    int status = 0;
    EXPECT_TRUE(Eventually([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; })) << Log();
    pid_ = -1;
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), Log()};
  }
  pid_t pid() const { return pid_; }

 private:
  std::string log_;
  pid_t pid_ = -1;
};

TEST_F(DaemonTest, ProgramChecksAndPrintsItsConfiguration) {
  EXPECT_EQ(Program(temp_, {"--check-config"}).Wait().exit_code, 0);
  auto wrong = Program(temp_, {"--check-config", "--subscribe", "mean(nothing)"}).Wait();
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_NE(wrong.output.find("nothing"), std::string::npos) << wrong.output;
  const std::string file = temp_.sub("bad.toml");
  std::ofstream(file) << "log_levle = 'info'\n";
  wrong = Program(temp_, {"--check-config", "--config", file}).Wait();
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_NE(wrong.output.find(file + ":1:"), std::string::npos) << wrong.output;
  const auto printed = Program(temp_, {"--print-config", "--budget", "2%"}).Wait();
  EXPECT_EQ(printed.exit_code, 0);
  Config config;
  auto read = ReadConfigText(printed.output, "printed", config);
  ASSERT_TRUE(read.ok()) << read.error().text;
  EXPECT_EQ(config.budget_ppm, 20'000u);
  const auto version = Program(temp_, {"--version"}).Wait();
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_EQ(version.output.rfind("ikkuna-daemon ", 0), 0u) << version.output;
}

TEST_F(DaemonTest, ProgramEndsInOrderOnEachSignal) {
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) {
    Program program(temp_, {"--dir", temp_.sub("dir"), "--data-dir", temp_.sub("data"), "--no-default", "--subscribe",
                            "loss; mean(weights)"});
    TestProducer producer(temp_.sub("dir"));
    producer.Register();
    ASSERT_TRUE(Eventually([&] { return producer.Connect(); })) << producer.reject() << program.Log();
    for (uint64_t step = 0; step < 25; ++step) producer.Step(step, 3);
    program.Signal(signal);
    const auto ended = program.Wait();
    EXPECT_EQ(ended.exit_code, 0) << ended.output;
    EXPECT_NE(ended.output.find(temp_.sub("dir")), std::string::npos) << "the first line says where it serves";
    EXPECT_NE(ended.output.find(temp_.sub("data")), std::string::npos);
    EXPECT_TRUE(producer.DaemonGone());
    for (const char* name : {"probe.sock", "grpc.sock"}) {
      EXPECT_NE(::access((temp_.sub("dir") + "/" + name).c_str(), F_OK), 0) << name << " is left behind";
    }
    SeriesCatalogue catalogue;
    auto store = sinks::Store::Open({temp_.sub("data"), 0, {}, {}}, catalogue);
    ASSERT_TRUE(store.ok()) << store.error().text;
    const auto progress = (*store)->LoadProgress(producer.hello().uuid);
    ASSERT_TRUE(progress.has_value());
    EXPECT_EQ(progress->handled, 25 * TestProducer::kRecordsPerStep);
  }
}

// nohup, and a shell's background jobs.
TEST_F(DaemonTest, ProgramGoesOnIgnoringWhatItWasStartedIgnoring) {
  Program program(temp_, {"--dir", temp_.sub("dir"), "--data-dir", temp_.sub("data")}, [] {
    ::signal(SIGHUP, SIG_IGN);
    ::signal(SIGINT, SIG_IGN);
  });
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(Eventually([&] { return producer.Connect(); })) << producer.reject() << program.Log();
  ASSERT_TRUE(Eventually([&] { return program.Log().find("trainers and clients in") != std::string::npos; }));
  program.Signal(SIGHUP);
  program.Signal(SIGINT);
  // Of signals that wait, the kernel hands out the lowest number first: the other two would have come before it.
  program.Signal(SIGTERM);
  const auto ended = program.Wait();
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_NE(ended.output.find("TERM received"), std::string::npos) << ended.output;
}

TEST_F(DaemonTest, ProgramServesAlthoughNobodyReadsItsLog) {
  int ends[2] = {-1, -1};
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  ASSERT_GE(::fcntl(ends[1], F_SETPIPE_SZ, 4096), 0);
  const std::string full(4096, 'x');
  ASSERT_EQ(::write(ends[1], full.data(), full.size()), 4096);
  Program program(temp_,
                  {"--dir", temp_.sub("dir"), "--data-dir", temp_.sub("data"), "--no-default", "--subscribe", "loss"},
                  [&] { ::dup2(ends[1], STDERR_FILENO); });
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(Eventually([&] { return producer.Connect(); })) << producer.reject();
  for (uint64_t step = 0; step < 25; ++step) producer.Step(step, 3);
  const uint64_t published = shm::LoadAcquire(producer.pub().status().reserved);
  EXPECT_TRUE(Eventually([&] { return producer.ctl().heads().ring_head == published; }));
  program.Signal(SIGTERM);
  EXPECT_EQ(program.Wait().exit_code, 0);
  EXPECT_TRUE(producer.DaemonGone());
}

TEST_F(DaemonTest, ProgramSaysWhenItCouldNotKeepEverything) {
  Program program(temp_,
                  {"--dir", temp_.sub("dir"), "--data-dir", temp_.sub("data"), "--no-default", "--no-health",
                   "--subscribe", "loss"},
                  [] { ::signal(SIGXFSZ, SIG_IGN); });
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(Eventually([&] { return producer.Connect(); })) << producer.reject() << program.Log();
  // From now on its files cannot grow beyond a few lines of log, as on a full disk.
  const rlimit no_room{4096, 4096};
  ASSERT_EQ(::prlimit(program.pid(), RLIMIT_FSIZE, &no_room, nullptr), 0);
  for (uint64_t step = 0; step < 25; ++step) producer.Step(step, 3);
  program.Signal(SIGTERM);
  const auto ended = program.Wait();
  EXPECT_EQ(ended.exit_code, kExitNotKept) << ended.output;
  EXPECT_NE(ended.output.find("ended, and not everything that was read is kept: "), std::string::npos) << ended.output;
}

TEST_F(DaemonTest, ProgramRefusesToBeTheSecond) {
  auto first = MustStart(MakeConfig());
  ASSERT_TRUE(first);
  const auto ended = Program(temp_, {"--dir", temp_.sub("dir"), "--data-dir", temp_.sub("other")}).Wait();
  EXPECT_EQ(ended.exit_code, 1);
  EXPECT_NE(ended.output.find(std::to_string(::getpid())), std::string::npos) << ended.output;
}

TEST_F(DaemonTest, ProgramEndsWhenIdle) {
  Program program(temp_, {"--dir", temp_.sub("dir"), "--data-dir", temp_.sub("data"), "--exit-when-idle", "0.1"});
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(Eventually([&] { return producer.Connect(); })) << producer.reject() << program.Log();
  producer.Finish();
  EXPECT_EQ(program.Wait().exit_code, 0);
}

}  // namespace
}  // namespace ikkuna
