#include "daemon/cli/child_process.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include "shared/base/unique_fd.h"

namespace ikkuna::cli {
namespace {

constexpr long kDescriptorsMax = 1 << 16;  // looked at where the kernel cannot close them by itself

// Between fork and exec: only what is allowed there. What they return is the errno of what failed.

void CloseAllAtExec() {
  constexpr unsigned kCloseAtExec = 1u << 2;  // CLOSE_RANGE_CLOEXEC, of Linux 5.11
  if (::syscall(SYS_close_range, STDERR_FILENO + 1, ~0u, kCloseAtExec) == 0) return;
  const long most = ::sysconf(_SC_OPEN_MAX);
  for (int fd = STDERR_FILENO + 1; fd < std::min(most, kDescriptorsMax); ++fd) ::fcntl(fd, F_SETFD, FD_CLOEXEC);
}

int Detach(int log_fd) {
  ::setsid();
  ::umask(077);
  const int null_fd = ::open("/dev/null", O_RDONLY);
  if (null_fd < 0 || ::dup2(null_fd, STDIN_FILENO) < 0 || ::dup2(log_fd, STDOUT_FILENO) < 0 ||
      ::dup2(log_fd, STDERR_FILENO) < 0) {
    return errno;
  }
  CloseAllAtExec();
  for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  return 0;
}

int BecomeProgram(const ChildOptions& options, char* const* arguments, int log_fd) {
  if (options.detached) {
    if (const int error = Detach(log_fd); error != 0) return error;
  } else {
    ::sigprocmask(SIG_SETMASK, &options.signal_mask, nullptr);
  }
  ::execvp(arguments[0], arguments);
  return errno;
}

}  // namespace

Result<ChildProcess> ChildProcess::Start(const ChildOptions& options) {
  std::vector<char*> arguments;
  for (const std::string& word : options.command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  UniqueFd log;
  if (options.detached) {
    log.reset(::open(options.log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    if (!log) return PosixError("cannot write the log '" + options.log_file + "'", errno);
  }
  // The error of exec comes back through a pipe that a success closes.
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return PosixError("cannot start '" + options.command.front() + "'", errno);
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  pid_t pid = ::fork();
  if (pid < 0) return PosixError("cannot start '" + options.command.front() + "'", errno);
  if (pid == 0) {
    int error = BecomeProgram(options, arguments.data(), log.get());
    [[maybe_unused]] ssize_t written = ::write(write_end.get(), &error, sizeof error);
    ::_exit(127);
  }
  write_end.reset();
  ChildProcess child(pid);
  int error = 0;
  ssize_t got = 0;
  do {
    got = ::read(read_end.get(), &error, sizeof error);
  } while (got < 0 && errno == EINTR);
  if (got == sizeof error) return PosixError("cannot start '" + options.command.front() + "'", error);
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), exit_code_(other.exit_code_) {}

bool ChildProcess::HasEnded() {
  if (pid_ < 0 || exit_code_) return true;
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return false;
  exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return true;
}

void ChildProcess::Signal(int number) {
  if (!HasEnded()) ::kill(pid_, number);
}

void ChildProcess::End(std::chrono::milliseconds grace) {
  Signal(SIGTERM);
  Signal(SIGCONT);  // a stopped one would not hear it
  auto until = std::chrono::steady_clock::now() + grace;
  while (!HasEnded() && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  Kill();
}

void ChildProcess::Kill() {
  if (HasEnded()) return;
  ::kill(pid_, SIGKILL);
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  exit_code_ = 128 + SIGKILL;
}

}  // namespace ikkuna::cli
