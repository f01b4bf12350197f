#include "daemon/log.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <spdlog/async_logger.h>
#include <spdlog/details/null_mutex.h>
#include <spdlog/details/thread_pool.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "daemon/model/counted.h"
#include "shared/base/unique_fd.h"

namespace ikkuna {

namespace {

constexpr int kLookMs = 50;  // how late a writer that waits learns of the end

std::string_view ColorOf(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::info:
      return "\033[32m";
    case spdlog::level::warn:
      return "\033[33m\033[1m";
    case spdlog::level::err:
    case spdlog::level::critical:
      return "\033[31m\033[1m";
    default:
      return "\033[36m";
  }
}

}  // namespace

// Runs on the pool's one thread.
class Log::Writer final : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
 public:
  Writer(int fd, LogFile own, spdlog::details::thread_pool& pool)
      : fd_(fd),
        own_(std::move(own)),
        colored_(::isatty(fd) != 0 && std::getenv("NO_COLOR") == nullptr),
        pool_(pool) {}
  void End() { ending_.store(true); }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const size_t dropped = pool_.overrun_counter();
    if (dropped != told_) {
      const size_t lost = dropped - told_;
      const std::string text =
          Counted(lost, "line") + " of this log " + Were(lost) + " dropped, nobody took " + (lost == 1 ? "it" : "them");
      told_ = dropped;
      WriteMessage({message.time, {}, message.logger_name, spdlog::level::warn, text});
    }
    WriteMessage(message);
    if (!own_.path.empty()) BeginAnewWhenLarge();
  }
  void flush_() override {}

 private:
  void WriteMessage(const spdlog::details::log_msg& message) {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    const std::string_view text(line.data(), line.size());
    if (!colored_ || message.color_range_end <= message.color_range_start) return Write(text);
    std::string colored(text.substr(0, message.color_range_start));
    colored += ColorOf(message.level);
    colored += text.substr(message.color_range_start, message.color_range_end - message.color_range_start);
    colored += "\033[m";
    colored += text.substr(message.color_range_end);
    Write(colored);
  }
  // A log that cannot be renamed, or made anew, goes on as it is.
  void BeginAnewWhenLarge() {
    struct stat now {}, named {}, other {};
    if (::fstat(fd_, &now) != 0 || !S_ISREG(now.st_mode) || now.st_size <= own_.bytes_max) return;
    const auto same = [&](const struct stat& one) { return one.st_dev == now.st_dev && one.st_ino == now.st_ino; };
    if (::stat(own_.path.c_str(), &named) != 0 || !same(named)) return;
    const std::string before = own_.path + ".1";
    if (::rename(own_.path.c_str(), before.c_str()) != 0) return;
    const UniqueFd fresh(::open(own_.path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600));
    if (!fresh) {
      static_cast<void>(::rename(before.c_str(), own_.path.c_str()));
      return;
    }
    // What a library or the kernel says of a crash goes there too.
    if (fd_ != STDOUT_FILENO && ::fstat(STDOUT_FILENO, &other) == 0 && same(other)) ::dup2(fresh.get(), STDOUT_FILENO);
    ::dup2(fresh.get(), fd_);
  }
  // The descriptor is shared with the shell and others, so it stays blocking: a pipe that poll() finds writable takes
  // PIPE_BUF bytes at once.
  void Write(std::string_view text) {
    while (!text.empty()) {
      if (!WaitForRoom()) return;
      const ssize_t written = ::write(fd_, text.data(), std::min<size_t>(text.size(), PIPE_BUF));
      if (written < 0 && errno != EINTR && errno != EAGAIN) return;
      if (written > 0) text.remove_prefix(static_cast<size_t>(written));
    }
  }
  bool WaitForRoom() {
    for (int waited_ms = 0; !given_up_;) {
      pollfd room{fd_, POLLOUT, 0};
      if (::poll(&room, 1, kLookMs) > 0) return true;
      if (!ending_.load()) continue;
      waited_ms += kLookMs;
      given_up_ = waited_ms >= kLastWaitMs;
    }
    return false;
  }

  // Constant after construction.
  const int fd_;
  const LogFile own_;
  const bool colored_;
  spdlog::details::thread_pool& pool_;

  size_t told_ = 0;
  bool given_up_ = false;
  std::atomic<bool> ending_{false};
};

Log::Log(const std::string& level, int fd, LogFile own)
    : before_(spdlog::default_logger()),
      pool_(std::make_shared<spdlog::details::thread_pool>(kLinesMax, 1)),
      writer_(std::make_shared<Writer>(fd, std::move(own), *pool_)) {
  auto logger =
      std::make_shared<spdlog::async_logger>("ikkuna", writer_, pool_, spdlog::async_overflow_policy::overrun_oldest);
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v");
  logger->set_level(spdlog::level::from_str(level));
  spdlog::set_default_logger(std::move(logger));
}

Log::~Log() {
  spdlog::set_default_logger(std::move(before_));
  writer_->End();
  pool_.reset();  // joins, after the last line
}

}  // namespace ikkuna
