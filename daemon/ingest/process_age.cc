#include "daemon/ingest/process_age.h"

#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>
#include <string>

#include "shared/base/clock.h"

namespace ikkuna::ingest {

namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;
// The kernel's start time is in clock ticks and relative to boot; suspended machines and clock steps add to it.
constexpr int64_t kSlackNs = 5 * kNsPerSecond;

// Nanoseconds since boot at which the process began; -1: unknown.
int64_t StartSinceBoot(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(file, line)) return -1;
  // The name, in parentheses, may hold anything; the 20th field behind it is the start time.
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return -1;
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  for (int i = 0; i < 20; ++i) {
    if (!(fields >> field)) return -1;
  }
  const int64_t ticks = std::strtoll(field.c_str(), nullptr, 10);
  return ticks * (kNsPerSecond / ::sysconf(_SC_CLK_TCK));
}

}  // namespace

bool ProcessLivesSince(pid_t pid, int64_t unix_ns) {
  if (pid <= 0 || (::kill(pid, 0) != 0 && errno == ESRCH)) return false;
  const int64_t since_boot = StartSinceBoot(pid);
  if (since_boot < 0) return true;
  const int64_t began = UnixNs() - ClockNs(CLOCK_BOOTTIME) + since_boot;
  return began <= unix_ns + kSlackNs;
}

}  // namespace ikkuna::ingest
