// Log: the daemon's log on stderr, written by a thread of its own. Whoever logs hands a line over and never waits: not
// for a terminal that was stopped with Ctrl-S, nor for a pipe that nobody reads. What finds no room replaces the oldest
// line that waits, and the log says how many went that way.
//
// Owner: main, before every thread that logs and until after the last. Thread rule: construct and destroy on one
// thread; between the two, spdlog's functions from any thread.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <cstddef>
#include <memory>
#include <string>

namespace spdlog {
class logger;
namespace details {
class thread_pool;
}
}  // namespace spdlog

namespace ikkuna {

// A file that the log may be written to: then it does not grow above `bytes_max` by more than a line. It is renamed, as
// .1, and the descriptor is another of its name from then on, for whatever else writes there as well. A file of anybody
// else's is left alone.
struct LogFile {
  std::string path;  // empty: none
  off_t bytes_max = 0;
};

class Log {
 public:
  static constexpr size_t kLinesMax = 4096;  // waiting: minutes of a busy daemon, a megabyte or two
  static constexpr int kLastWaitMs = 1'000;  // at the end, for a reader that takes nothing

  // The default logger from now on, at a level that spdlog knows by this name.
  explicit Log(const std::string& level, int fd = STDERR_FILENO, LogFile own = {});
  // Writes what waits, unless nobody takes it.
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

 private:
  class Writer;

  // Constant after construction.
  std::shared_ptr<spdlog::logger> before_;
  std::shared_ptr<spdlog::details::thread_pool> pool_;
  std::shared_ptr<Writer> writer_;
};

}  // namespace ikkuna
