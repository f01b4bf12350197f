// A daemon's life without its work: this test program in another role (fake_daemon.cc). It takes the lock of the
// directory, leaves its note there, listens where trainers and clients come, and ends in order at SIGTERM.
//
// Owner: a test. Thread rule: the test's thread.
#pragma once

#include <signal.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tests/daemon/cli/cli_fixture.h"

namespace ikkuna::test {

// Each start leaves its process number in `starts` and its arguments in `arguments`, each end in order in `ended`.
// By variables: IKKUNA_TEST_FAKE_DELAY_MS before it listens, IKKUNA_TEST_FAKE_NOT_KEPT the sentence with which it ends,
// IKKUNA_TEST_FAKE_SLOW_END_MS what it writes at its end. SIGUSR1: nobody came for so long, it ends by itself.
class FakeDaemonTest : public CliTest {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(home());
    environment_["HOME"] = home();
    environment_["XDG_DATA_HOME"] = "";
    environment_["IKKUNA_DATA"] = "";
    data_ = home() + "/data";
    daemon_ = Script("daemon", Become());
  }
  void TearDown() override {
    for (const pid_t pid : Starts()) {
      if (IsAlive(pid)) ::kill(pid, SIGKILL);
    }
    for (const pid_t pid : Starts()) EXPECT_TRUE(Eventually([&] { return !IsAlive(pid); })) << pid;
  }

  // What the script of a daemon ends with.
  std::string Become() const {
    return "echo \"$@\" >> '" + dir_.path() + "/arguments'\nIKKUNA_TEST_FAKE_DATA=\"$2\" IKKUNA_TEST_FAKE_DAEMON='" +
           dir_.path() + "' exec '" + std::filesystem::read_symlink("/proc/self/exe").string() + "'";
  }
  std::string Script(const std::string& name, const std::string& text) {
    const std::string path = dir_.Write(name, "#!/bin/sh\n" + text + "\n");
    ::chmod(path.c_str(), 0755);
    return path;
  }
  std::vector<std::string> Up() const { return {"up", "--daemon", daemon_, "--data-dir", data_}; }

  bool Exists(const std::string& name) const { return std::filesystem::exists(dir_.path() + "/" + name); }
  std::string Arguments() const { return ReadText(dir_.path() + "/arguments"); }
  // Of every daemon that got the lock, in their order.
  std::vector<pid_t> Starts() const {
    std::istringstream text(ReadText(dir_.path() + "/starts"));
    std::vector<pid_t> pids;
    for (pid_t pid = 0; text >> pid;) pids.push_back(pid);
    return pids;
  }
  // The letter of /proc; 'X': it is gone.
  static char StateOf(pid_t pid) {
    const std::string stat = ReadText("/proc/" + std::to_string(pid) + "/stat");
    const size_t name_end = stat.rfind(')');
    return name_end != std::string::npos && stat.size() > name_end + 2 ? stat[name_end + 2] : 'X';
  }
  // One whose parent does not wait for it is a zombie, and gone all the same.
  static bool IsAlive(pid_t pid) { return StateOf(pid) != 'Z' && StateOf(pid) != 'X'; }
  bool OneLives() const {
    const std::vector<pid_t> pids = Starts();
    return !pids.empty() && IsAlive(pids.back());
  }

  std::string daemon_, data_;
};

}  // namespace ikkuna::test
