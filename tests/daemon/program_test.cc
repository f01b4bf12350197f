// ikkuna-daemon as an operator runs it: command line, signals, ends.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <utility>

#include "shared/base/unique_fd.h"
#include "shared/daemon_note.h"
#include "tests/daemon/daemon_fixture.h"

namespace ikkuna {
namespace {

class ProgramTest : public DaemonFixture {
 protected:
  std::vector<std::string> Arguments(std::vector<std::string> more = {}) const {
    std::vector<std::string> all = {"--dir", temp_.sub("dir"), "--data-dir", temp_.sub("data"), "--store-min-free-mb",
                                    "0"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  // Those of `Arguments` without the default set.
  std::vector<std::string> Small(std::vector<std::string> more = {}) const {
    std::vector<std::string> all = Arguments({"--no-default", "--subscribe", "loss; mean(weights)"});
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
};

TEST_F(ProgramTest, ChecksAndPrintsItsConfiguration) {
  EXPECT_EQ(Program(temp_, {"--check-config"}).Wait().exit_code, 0);
  auto wrong = Program(temp_, {"--check-config", "--subscribe", "mean(nothing)"}).Wait();
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_NE(wrong.output.find("nothing"), std::string::npos) << wrong.output;
  const std::string file = temp_.sub("bad.toml");
  std::ofstream(file) << "log_levle = 'info'\n";
  wrong = Program(temp_, {"--check-config", "--config", file}).Wait();
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_NE(wrong.output.find(file + ":1:"), std::string::npos) << wrong.output;
  const std::string tokens = temp_.sub("tokens");
  wrong = Program(temp_, {"--check-config", "--listen", "127.0.0.1:0", "--token-file", tokens}).Wait();
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_NE(wrong.output.find(tokens), std::string::npos) << wrong.output;
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

TEST_F(ProgramTest, EndsInOrderOnEachSignal) {
  for (int signal : {SIGTERM, SIGINT}) {
    Program program(temp_, Small());
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
    sinks::StoreOptions options;
    options.data_dir = temp_.sub("data");
    auto store = sinks::Store::Open(options);
    ASSERT_TRUE(store.ok()) << store.error().text;
    const auto progress = (*store)->LoadProgress({producer.hello().run_id, 0, 0});
    ASSERT_TRUE(progress.has_value());
    EXPECT_EQ(progress->handled(), 25 * TestProducer::kRecordsPerStep);
  }
}

// It may be killed in the moment in which its trainer sees that it is gone.
TEST_F(ProgramTest, TheTrainerSeesTheEndWhenEverythingIsKept) {
  Program program(temp_, Small());
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(Eventually([&] { return producer.Connect(); })) << producer.reject() << program.Log();
  ASSERT_TRUE(program.Serves());
  for (uint64_t step = 0; step < 200; ++step) producer.Step(step, 3);
  program.Signal(SIGTERM);
  pollfd end{producer.socket(), POLLIN, 0};
  ASSERT_EQ(::poll(&end, 1, 60'000), 1);
  program.Signal(SIGKILL);
  program.Wait();
  sinks::StoreOptions options;
  options.data_dir = temp_.sub("data");
  auto store = sinks::Store::Open(options);
  ASSERT_TRUE(store.ok()) << store.error().text;
  const auto progress = (*store)->LoadProgress({producer.hello().run_id, 0, 0});
  ASSERT_TRUE(progress.has_value());
  EXPECT_EQ(progress->handled(), 200 * TestProducer::kRecordsPerStep);
}

TEST_F(ProgramTest, HupReadsTheConfigurationAgain) {
  const std::string file = temp_.sub("ikkuna.toml");
  std::ofstream(file) << "subscribe = ['loss']\nno_default = true\n";
  Program program(temp_, Arguments({"--config", file}));
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(Eventually([&] { return producer.Connect(); })) << producer.reject() << program.Log();
  ASSERT_TRUE(program.Serves()) << program.Log();
  const auto asks_for_weights = [&] {
    uint64_t kinds = 0;
    if (auto items = producer.ctl().CopyDemand(2)) {
      for (const auto& item : *items) kinds |= item.kinds;
    }
    return (kinds & KindBit(Kind::kWeights)) != 0;
  };
  EXPECT_FALSE(asks_for_weights());
  std::ofstream(file) << "subscribe = ['loss', 'mean(weights)']\nno_default = true\nnice = 3\n";
  program.Signal(SIGHUP);
  EXPECT_TRUE(Eventually(asks_for_weights)) << program.Log();
  EXPECT_TRUE(program.Logs("at the next start of the daemon: nice")) << program.Log();
  // A file that is wrong changes nothing.
  std::ofstream(file) << "subscribe = ['loss'\n";
  program.Signal(SIGHUP);
  EXPECT_TRUE(program.Logs("reload_failed")) << program.Log();
  EXPECT_TRUE(asks_for_weights());
  program.Signal(SIGTERM);
  EXPECT_EQ(program.Wait().exit_code, 0);
}

// nohup, and a shell's background jobs.
TEST_F(ProgramTest, GoesOnIgnoringWhatItWasStartedIgnoring) {
  Program program(temp_, Arguments(), [] {
    ::signal(SIGHUP, SIG_IGN);
    ::signal(SIGINT, SIG_IGN);
  });
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(Eventually([&] { return producer.Connect(); })) << producer.reject() << program.Log();
  ASSERT_TRUE(program.Serves());
  program.Signal(SIGHUP);
  program.Signal(SIGINT);
  // Of signals that wait, the kernel hands out the lowest number first: the other two would have come before it.
  program.Signal(SIGTERM);
  const auto ended = program.Wait();
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  EXPECT_NE(ended.output.find("TERM received"), std::string::npos) << ended.output;
  EXPECT_EQ(ended.output.find("reloaded"), std::string::npos) << ended.output;
}

TEST_F(ProgramTest, ServesAlthoughNobodyReadsItsLog) {
  int ends[2] = {-1, -1};
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  ASSERT_GE(::fcntl(ends[1], F_SETPIPE_SZ, 4096), 0);
  const std::string full(4096, 'x');
  ASSERT_EQ(::write(ends[1], full.data(), full.size()), 4096);
  Program program(temp_, Small(), [&] { ::dup2(ends[1], STDERR_FILENO); });
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

// A limit on the size of files (ulimit -f) is as a full disk, not the end: SIGXFSZ is not the default here.
TEST_F(ProgramTest, SaysWhenItCouldNotKeepEverything) {
  Program program(temp_, Small({"--no-health", "--no-tensorboard"}), [] { ::signal(SIGXFSZ, SIG_DFL); });
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
  const auto note = shm::ReadDaemonNote(temp_.sub("dir"));
  ASSERT_TRUE(note.has_value());
  EXPECT_EQ(note->state, shm::DaemonState::kNotKept);
  EXPECT_FALSE(note->text.empty());
}

TEST_F(ProgramTest, WhatItWritesIsForItsUserAlone) {
  Program program(temp_, Small(), [] { ::umask(0); });
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(Eventually([&] { return producer.Connect(); })) << producer.reject() << program.Log();
  for (uint64_t step = 0; step < 25; ++step) producer.Step(step, 3);
  program.Signal(SIGTERM);
  EXPECT_EQ(program.Wait().exit_code, 0);
  size_t files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(temp_.sub("data"))) {
    struct stat found {};
    ASSERT_EQ(::stat(entry.path().c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 0077, 0u) << entry.path();
    files += entry.is_regular_file() ? 1 : 0;
  }
  EXPECT_GE(files, 3u);
}

TEST_F(ProgramTest, KeepsDataWhereTheSystemKeepsThem) {
  Program program(temp_, {"--dir", temp_.sub("dir"), "--no-default", "--store-min-free-mb", "0"}, [&] {
    ::unsetenv("IKKUNA_DATA");
    ::setenv("XDG_DATA_HOME", temp_.sub("share").c_str(), 1);
  });
  ASSERT_TRUE(program.Serves()) << program.Log();
  EXPECT_NE(program.Log().find("runs in " + temp_.sub("share") + "/ikkuna"), std::string::npos) << program.Log();
  program.Signal(SIGTERM);
  EXPECT_EQ(program.Wait().exit_code, 0);
  EXPECT_TRUE(std::filesystem::is_directory(temp_.sub("share") + "/ikkuna/runs"));
}

TEST_F(ProgramTest, RefusesToBeTheSecond) {
  auto first = MustStart(MakeConfig());
  ASSERT_TRUE(first);
  const auto ended = Program(temp_, {"--dir", temp_.sub("dir"), "--data-dir", temp_.sub("other")}).Wait();
  EXPECT_EQ(ended.exit_code, 1);
  EXPECT_NE(ended.output.find(std::to_string(::getpid())), std::string::npos) << ended.output;
}

TEST_F(ProgramTest, LingersAndEnds) {
  // It waits for the trainer, however long that takes to come.
  ASSERT_TRUE(shm::PrepareDirectory(temp_.sub("dir"), false).ok());
  std::optional<shm::DaemonUse> use;
  {
    auto held = shm::DaemonUse::Hold(temp_.sub("dir"));
    ASSERT_TRUE(held.ok()) << held.error().text;
    use.emplace(std::move(*held));
  }
  Program program(temp_, Small({"--linger", "0.3"}));
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  ASSERT_TRUE(Eventually([&] { return producer.Connect(); })) << producer.reject() << program.Log();
  use.reset();
  std::this_thread::sleep_for(std::chrono::seconds(1));
  EXPECT_TRUE(program.Runs()) << program.Log();
  producer.Finish();
  const auto ended = program.Wait();
  EXPECT_EQ(ended.exit_code, 0);
  EXPECT_NE(ended.output.find("nobody needs this daemon any more"), std::string::npos) << ended.output;
}

// Killed at any time it goes on where the store stands.
TEST_F(ProgramTest, AKilledDaemonLosesWhatItHadNotCommittedAndSaysSo) {
  TestProducer producer(temp_.sub("dir"));
  producer.Register();
  for (int life = 0; life < 3; ++life) {
    Program program(temp_, Small());
    ASSERT_TRUE(Eventually([&] { return producer.Connect(); })) << producer.reject() << program.Log();
    for (uint64_t step = 0; step < 50; ++step) producer.Step(static_cast<uint64_t>(life) * 50 + step, 3);
    program.Signal(SIGKILL);
    EXPECT_EQ(program.Wait().exit_code, 128 + SIGKILL);
    producer.Disconnect();
  }
  auto daemon = MustStart(MakeConfig());
  ASSERT_TRUE(daemon);
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  ASSERT_TRUE(HandledAll(*daemon, producer));
  const auto status = daemon->monitor().status.GetStatus().producers[0];
  EXPECT_EQ(status.handled + status.dropped_total + status.lost_in_daemon + status.killed, status.attempted);
  EXPECT_EQ(status.attempted, 150 * TestProducer::kRecordsPerStep);
}

}  // namespace
}  // namespace ikkuna
