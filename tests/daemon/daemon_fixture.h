// What the tests of the whole daemon share: a folder, a configuration of a small daemon in it, the program as a child.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "build_paths.h"
#include "daemon/daemon.h"
#include "tests/daemon/ingest/test_producer.h"

namespace ikkuna {

using ingest::Eventually;
using ingest::TempDirectory;
using ingest::TestProducer;

class DaemonFixture : public testing::Test {
 protected:
  Config MakeConfig() const {
    Config config;
    config.dir = temp_.sub("dir");
    config.data_dir = temp_.sub("data");
    config.no_default = true;
    config.subscribe = {"loss", "mean(weights)"};
    config.health = false;  // what is counted here is a trainer's
    config.store_min_free_mb = 0;
    return config;
  }
  static std::unique_ptr<Daemon> MustStart(const Config& config) {
    auto daemon = Daemon::Start(config, "test");
    EXPECT_TRUE(daemon.ok()) << (daemon.ok() ? "" : daemon.error().text);
    return daemon ? std::move(daemon).value() : nullptr;
  }
  // The one producer's records have all been handled.
  static bool HandledAll(Daemon& daemon, TestProducer& producer) {
    return Eventually([&] {
      const auto status = daemon.monitor().status.GetStatus();
      return status.producers.size() == 1 && status.producers[0].in_flight == 0 &&
             status.producers[0].attempted == shm::LoadAcquire(producer.pub().status().attempted);
    });
  }
  static std::vector<SeriesInfo> SeriesOf(Daemon& daemon, const SeriesFilter& filter = {}) {
    SeriesQuery query;
    query.filter = filter;
    auto page = daemon.monitor().series.ListSeries(query);
    return page ? page->series : std::vector<SeriesInfo>();
  }
  static std::vector<Event> EventsOf(Daemon& daemon, const std::string& kind) {
    auto events = daemon.monitor().events.ListEvents({});
    std::vector<Event> of_kind;
    if (!events) return of_kind;
    std::copy_if(events->begin(), events->end(), std::back_inserter(of_kind),
                 [&](const Event& event) { return event.kind == kind; });
    return of_kind;
  }
  static Caller Operator() { return {"uid:" + std::to_string(::geteuid()), ::geteuid(), Role::kControl}; }
  // A user who may only read.
  static Caller Reader() { return {"uid:4711", 4711, Role::kRead}; }

  TempDirectory temp_;
};

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
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void Signal(int signal) const {
    if (pid_ > 0) ::kill(pid_, signal);
  }
  std::string Log() const {
    std::ifstream file(log_);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  bool Logs(const std::string& text) const {
    return Eventually([&] { return Log().find(text) != std::string::npos; });
  }
  bool Serves() const { return Logs("trainers and clients in"); }
  bool Runs() const {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
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

}  // namespace ikkuna
