#include "shared/base/memory_limit.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

namespace ikkuna {

namespace {

constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();

// nullopt: no such file; kNoLimit: the word "max".
std::optional<uint64_t> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  if (!(file >> word)) return std::nullopt;
  if (word == "max") return kNoLimit;
  uint64_t number = 0;
  if (std::istringstream parse(word); !(parse >> number)) return std::nullopt;
  return number;
}

uint64_t MemAvailable(const std::string& root) {
  std::ifstream file(root + "/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    uint64_t kib = 0;
    if (words >> name >> kib && name == "MemAvailable:") return kib * 1024;
  }
  return kNoLimit;
}

// Least of what is left in `mount/group` and its ancestors up to `mount`.
uint64_t LeftInTree(const std::string& mount, std::string group, const char* limit_file, const char* usage_file) {
  uint64_t left = kNoLimit;
  for (;;) {
    const auto limit = ReadNumber(mount + group + "/" + limit_file);
    const auto used = ReadNumber(mount + group + "/" + usage_file);
    if (limit && used && *limit != kNoLimit) left = std::min(left, *limit > *used ? *limit - *used : 0);
    const size_t slash = group.rfind('/');
    if (slash == std::string::npos) return left;
    group.resize(slash);
  }
}

uint64_t LeftInCgroups(const std::string& root) {
  std::ifstream file(root + "/proc/self/cgroup");
  uint64_t left = kNoLimit;
  for (std::string line; std::getline(file, line);) {
    // hierarchy:controllers:path
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    std::string group = line.substr(second + 1);
    if (group == "/") group.clear();
    if (line.starts_with("0::")) {
      left = std::min(left, LeftInTree(root + "/sys/fs/cgroup", group, "memory.max", "memory.current"));
    } else if (controllers.find(",memory,") != std::string::npos) {
      left = std::min(
          left, LeftInTree(root + "/sys/fs/cgroup/memory", group, "memory.limit_in_bytes", "memory.usage_in_bytes"));
    }
  }
  return left;
}

}  // namespace

uint64_t MemoryLeft(const std::string& root) {
  const uint64_t left = std::min(MemAvailable(root), LeftInCgroups(root));
  return left == kNoLimit ? 0 : left;
}

}  // namespace ikkuna
