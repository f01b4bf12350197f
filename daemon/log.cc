#include "daemon/log.h"

#include <limits.h>
#include <poll.h>
#include <spdlog/async_logger.h>
#include <spdlog/details/null_mutex.h>
#include <spdlog/details/thread_pool.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <string_view>
#include <utility>

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
  Writer(int fd, spdlog::details::thread_pool& pool)
      : fd_(fd), colored_(::isatty(fd) != 0 && std::getenv("NO_COLOR") == nullptr), pool_(pool) {}
  void End() { ending_.store(true); }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const size_t dropped = pool_.overrun_counter();
    if (dropped != told_) {
      const std::string text = std::to_string(dropped - told_) + " lines of this log were dropped, nobody took them";
      told_ = dropped;
      WriteMessage({message.time, {}, message.logger_name, spdlog::level::warn, text});
    }
    WriteMessage(message);
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
  const bool colored_;
  spdlog::details::thread_pool& pool_;

  size_t told_ = 0;
  bool given_up_ = false;
  std::atomic<bool> ending_{false};
};

Log::Log(const std::string& level, int fd)
    : before_(spdlog::default_logger()),
      pool_(std::make_shared<spdlog::details::thread_pool>(kLinesMax, 1)),
      writer_(std::make_shared<Writer>(fd, *pool_)) {
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
