#include "daemon/ingest/process_age.h"

#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "shared/base/clock.h"

namespace ikkuna::ingest {

namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;
// The kernel's start time is in clock ticks and relative to boot; suspended machines and clock steps add to it.
constexpr int64_t kSlackNs = 5 * kNsPerSecond;

// A field of /proc/<pid>/stat, counted from the one behind the name, from 1; empty: unknown.
std::string StatText(pid_t pid, int number) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(file, line)) return {};
  // The name, in parentheses, may hold anything.
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return {};
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  for (int i = 0; i < number; ++i) {
    if (!(fields >> field)) return {};
  }
  return field;
}

// -1: unknown.
int64_t StatField(pid_t pid, int number) {
  const std::string field = StatText(pid, number);
  return field.empty() ? -1 : std::strtoll(field.c_str(), nullptr, 10);
}

// Dead, and not reaped by its parent. One whose first thread alone has ended looks like it, but for the others.
bool IsZombie(pid_t pid) {
  const std::string state = StatText(pid, 1);
  return (state == "Z" || state == "X") && StatField(pid, 18) <= 1;
}

// Nanoseconds since boot at which the process began; -1: unknown.
int64_t StartSinceBoot(pid_t pid) {
  const int64_t ticks = StatField(pid, 20);
  return ticks < 0 ? -1 : ticks * (kNsPerSecond / ::sysconf(_SC_CLK_TCK));
}

}  // namespace

bool ProcessLivesSince(pid_t pid, int64_t unix_ns) {
  if (pid <= 0 || (::kill(pid, 0) != 0 && errno == ESRCH) || IsZombie(pid)) return false;
  const int64_t since_boot = StartSinceBoot(pid);
  if (since_boot < 0) return true;
  const int64_t began = UnixNs() - ClockNs(CLOCK_BOOTTIME) + since_boot;
  return began <= unix_ns + kSlackNs;
}

pid_t ParentOf(pid_t pid) { return pid <= 0 ? 0 : static_cast<pid_t>(std::max<int64_t>(StatField(pid, 2), 0)); }

std::string PidText(pid_t pid) { return pid > 0 ? "pid " + std::to_string(pid) : "of another container"; }

}  // namespace ikkuna::ingest
