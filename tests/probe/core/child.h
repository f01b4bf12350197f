// Child: a process of a test's own that runs a body with its stderr in a pipe, until it ends or the test lets it.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <string>

namespace ikkuna {

class Child {
 public:
  // `body` runs with the descriptors 0 (ends when the test lets go), 1 and 2 (the pipe) and `keep`; what it returns is
  // the exit status, by _exit().
  explicit Child(const std::function<int()>& body) {
    int error[2], input[2];
    EXPECT_EQ(::pipe2(error, O_CLOEXEC), 0);
    EXPECT_EQ(::pipe2(input, O_CLOEXEC), 0);
    pid_ = ::fork();
    EXPECT_GE(pid_, 0);
    if (pid_ == 0) {
      ::dup2(input[0], 0);
      ::dup2(error[1], 2);
      ::syscall(SYS_close_range, 3u, ~0u, 0u);
      ::alarm(kWatchdogSeconds);
      ::_exit(body());
    }
    ::close(error[1]);
    ::close(input[0]);
    error_ = error[0];
    input_ = input[1];
  }
  ~Child() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    if (input_ >= 0) ::close(input_);
    ::close(error_);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // In the child: until the test lets go.
  static void WaitForLetGo() {
    char byte;
    while (::read(0, &byte, 1) > 0) {
    }
  }
  // In the child: until the test sends one.
  static void WaitForByte() {
    char byte;
    static_cast<void>(!::read(0, &byte, 1));
  }
  // In the test: reads until the child has written `text`.
  bool Says(const std::string& text) {
    while (said_.find(text) == std::string::npos) {
      if (!ReadMore()) return false;
    }
    return true;
  }
  void SendByte() { EXPECT_EQ(::write(input_, "x", 1), 1); }
  void LetGo() {
    ::close(input_);
    input_ = -1;
  }
  // Lets go and waits. The status of waitpid: 0 for an exit with 0.
  int End() {
    if (input_ >= 0) LetGo();
    while (ReadMore()) {
    }
    return Wait();
  }
  // Waits without reading what it says.
  int Wait() {
    int status = -1;
    EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
    pid_ = 0;
    return status;
  }
  const std::string& said() const { return said_; }

  static constexpr unsigned kWatchdogSeconds = 120;

 private:
  bool ReadMore() {
    char bytes[4096];
    const ssize_t got = ::read(error_, bytes, sizeof bytes);
    if (got > 0) said_.append(bytes, static_cast<size_t>(got));
    return got > 0;
  }

  pid_t pid_ = 0;
  int error_ = -1;
  int input_ = -1;
  std::string said_;
};

// From here on the calling process gets `error` for system call `number`, where its third argument is `third` (-1:
// whatever that is). False: this kernel or sandbox has no such filter.
inline bool DenySystemCall(long number, int error, long third = -1) {
  const auto deny = static_cast<uint32_t>(SECCOMP_RET_ERRNO | (error & SECCOMP_RET_DATA));
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[2])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(third), 0, static_cast<unsigned char>(third == -1 ? 0 : 1)),
      BPF_STMT(BPF_RET | BPF_K, deny),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{sizeof filter / sizeof filter[0], filter};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

}  // namespace ikkuna
