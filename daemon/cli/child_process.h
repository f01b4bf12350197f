// ChildProcess: a program that is started, signalled and waited for. Nothing of it outlives Kill(), unless it was let
// go.
//
// Owner: the `run` and `up` commands. Thread rule: one thread, in a process without others (it forks).
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "shared/base/result.h"

namespace ikkuna::cli {

struct ChildOptions {
  std::vector<std::string> command;
  // A daemon: a session of its own, out of reach of the terminal; no descriptor of ours but the log, which takes both
  // outputs; no signal blocked or ignored; files for nobody else to read.
  bool detached = false;
  std::string log_file;   // of a detached one
  sigset_t signal_mask;  // of one that is not
};

class ChildProcess {
 public:
  // Fails when the program cannot be executed: kNotFound, kPermissionDenied, else what the system said.
  static Result<ChildProcess> Start(const ChildOptions& options);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess() { Kill(); }

  // Whether it has ended; then exit_code() is set.
  bool HasEnded();
  void Signal(int number);
  // SIGTERM, then after `grace` SIGKILL; returns when it is gone.
  void End(std::chrono::milliseconds grace);
  // From here on it lives on its own.
  void LetGo() { pid_ = -1; }
  // As a shell gives it: 128 + the signal that killed it.
  std::optional<int> exit_code() const { return exit_code_; }
  pid_t pid() const { return pid_; }

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}
  void Kill();

  pid_t pid_ = -1;
  std::optional<int> exit_code_;
};

}  // namespace ikkuna::cli
