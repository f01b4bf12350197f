#include "probe/core/notices.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "shared/base/clock.h"
#include "shared/base/unique_fd.h"

namespace ikkuna::probe {

namespace {

// A reader that is gone (SIGPIPE) and a file that may grow no further (SIGXFSZ) are errors here and no more: while this
// lives neither signal reaches the thread, and one that came meanwhile is taken away.
class NoWriteSignals {
 public:
  NoWriteSignals() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGPIPE);
    sigaddset(&signals_, SIGXFSZ);
    sigset_t pending;
    sigpending(&pending);
    for (const int signal : {SIGPIPE, SIGXFSZ}) {
      if (sigismember(&pending, signal) == 1) sigdelset(&signals_, signal);  // the trainer's own
    }
    pthread_sigmask(SIG_BLOCK, &signals_, &before_);
  }
  ~NoWriteSignals() {
    const timespec now{0, 0};
    while (sigtimedwait(&signals_, nullptr, &now) > 0) {
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  NoWriteSignals(const NoWriteSignals&) = delete;
  NoWriteSignals& operator=(const NoWriteSignals&) = delete;

 private:
  sigset_t signals_;
  sigset_t before_;
};

// A second opening of the same pipe or terminal, which may be non-blocking while the trainer's own is not.
UniqueFd OpenAgain(int fd) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  return UniqueFd(::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
}

ssize_t WriteSome(int fd, std::string_view bytes) {
  struct stat found {};
  if (::fstat(fd, &found) != 0) return -1;
  if (S_ISSOCK(found.st_mode)) return ::send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (S_ISFIFO(found.st_mode) || S_ISCHR(found.st_mode)) {
    if (const UniqueFd again = OpenAgain(fd)) return ::write(again.get(), bytes.data(), bytes.size());
    // Without a descriptor of our own: as much as a pipe that has room at all takes at once.
    pollfd room{fd, POLLOUT, 0};
    if (::poll(&room, 1, 0) != 1 || (room.revents & POLLOUT) == 0) return -1;
    bytes = bytes.substr(0, PIPE_BUF);
  }
  return ::write(fd, bytes.data(), bytes.size());
}

constexpr int kRetryMs = 10;

}  // namespace

size_t WriteWithoutWaiting(int fd, std::string_view bytes) {
  const NoWriteSignals quiet;
  size_t written = 0;
  while (written < bytes.size()) {
    const ssize_t now = WriteSome(fd, bytes.substr(written));
    if (now < 0 && errno == EINTR) continue;
    if (now <= 0) break;
    written += static_cast<size_t>(now);
  }
  return written;
}

void Notices::Say(std::string_view text) {
  std::lock_guard lock(mutex_);
  if (waiting_.size() + text.size() > kMaxBytes) {
    ++left_out_;
    return;
  }
  if (left_out_ != 0) waiting_ += "ikkuna: " + std::to_string(std::exchange(left_out_, 0)) + " lines are left out\n";
  waiting_.append("ikkuna: ").append(text).append("\n");
}

void Notices::Print() {
  std::string lines;
  {
    std::lock_guard lock(mutex_);
    lines.swap(waiting_);
  }
  if (lines.empty()) return;
  const size_t written = WriteWithoutWaiting(STDERR_FILENO, lines);
  if (written == lines.size()) return;
  std::lock_guard lock(mutex_);
  waiting_.insert(0, lines, written);
}

void Notices::PrintLast(int wait_ms) {
  const uint64_t until = MonotonicNs() + static_cast<uint64_t>(wait_ms) * 1'000'000;
  for (;;) {
    Print();
    {
      std::lock_guard lock(mutex_);
      if (waiting_.empty()) return;
    }
    if (MonotonicNs() >= until) return;
    ::poll(nullptr, 0, kRetryMs);
  }
}

void PrintNow(std::string_view text) {
  std::string line = "ikkuna: ";
  line.append(text).append("\n");
  WriteWithoutWaiting(STDERR_FILENO, line);
}

}  // namespace ikkuna::probe
