// A program of a test, with its output in files; and what tests of programs need.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "tests/watchdog.h"

namespace ikkuna::test {

inline std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Polls until `condition` holds; the limit is a watchdog.
template <typename Condition>
bool Eventually(Condition condition) {
  for (const auto end = std::chrono::steady_clock::now() + kWatchdog; std::chrono::steady_clock::now() < end;) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return condition();
}

// A program of a test. Killed when it outlasts the watchdog, so that what hangs fails.
class Program {
 public:
  Program(const std::vector<std::string>& command, const std::map<std::string, std::string>& environment,
          const std::string& out_path, const std::string& err_path)
      : out_path_(out_path), err_path_(err_path) {
    std::vector<char*> arguments;
    for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    std::map<std::string, std::string> variables;
    for (char** entry = environ; *entry != nullptr; ++entry) {
      std::string text = *entry;
      size_t equals = text.find('=');
      variables[text.substr(0, equals)] = text.substr(equals + 1);
    }
    for (const auto& [name, value] : environment) variables[name] = value;
    std::vector<std::string> texts;
    for (const auto& [name, value] : variables) texts.push_back(name + "=" + value);
    std::vector<char*> pointers;
    for (std::string& text : texts) pointers.push_back(text.data());
    pointers.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, out_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, err_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (posix_spawnp(&pid_, arguments[0], &actions, nullptr, arguments.data(), pointers.data()) != 0) pid_ = -1;
    posix_spawn_file_actions_destroy(&actions);
  }
  ~Program() {
    if (!ended_ && pid_ > 0) {
      ::kill(pid_, SIGKILL);
      Wait();
    }
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // The exit code, or 128 + the signal that ended it.
  int Wait() {
    if (ended_ || pid_ <= 0) return code_;
    int status = 0;
    if (!Eventually([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; })) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, &status, 0);
      ADD_FAILURE() << "killed after " << kWatchdog.count() << " s: " << ReadText(out_path_) << ReadText(err_path_);
    }
    ended_ = true;
    code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return code_;
  }
  void Signal(int number) { ::kill(pid_, number); }
  pid_t pid() const { return pid_; }
  std::string out() const { return ReadText(out_path_); }
  std::string err() const { return ReadText(err_path_); }

 private:
  const std::string out_path_, err_path_;
  pid_t pid_ = -1;
  bool ended_ = false;
  int code_ = -1;
};

struct Outcome {
  int code = -1;
  std::string out, err;
};

}  // namespace ikkuna::test
