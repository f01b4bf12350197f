#include "shared/places.h"

#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

namespace ikkuna {

namespace {

constexpr size_t kHostBytesMax = 64;

std::string FromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

std::string Home() {
  std::string home = FromEnvironment("HOME");
  if (!home.empty() && home[0] == '/') return home;
  std::vector<char> buffer(16'384);
  passwd entry{};
  passwd* found = nullptr;
  if (::getpwuid_r(::geteuid(), &entry, buffer.data(), buffer.size(), &found) != 0 || found == nullptr) return "";
  return found->pw_dir == nullptr || found->pw_dir[0] != '/' ? "" : found->pw_dir;
}

std::string Absolute(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  std::string text = error ? path : absolute.lexically_normal().string();
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

}  // namespace

Result<std::string> DefaultDataDirectory() {
  if (const std::string chosen = FromEnvironment("IKKUNA_DATA"); !chosen.empty()) return Absolute(chosen);
  // One that is not absolute is to be ignored: XDG Base Directory Specification.
  if (const std::string data = FromEnvironment("XDG_DATA_HOME"); !data.empty() && data[0] == '/') {
    return Absolute(data + "/ikkuna");
  }
  const std::string home = Home();
  if (home.empty()) {
    return Error{ErrorCode::kFailedPrecondition,
                 "there is no home directory to keep runs in; pass --data-dir or set IKKUNA_DATA"};
  }
  return Absolute(home + "/.local/share/ikkuna");
}

Result<std::string> DataDirectory(const std::string& directory) {
  if (directory.empty()) return DefaultDataDirectory();
  return Absolute(directory);
}

std::string HostName() {
  char name[256] = {};
  const char* given = std::getenv("IKKUNA_HOST");
  if (given != nullptr && *given != '\0') {
    std::strncpy(name, given, sizeof name - 1);
  } else if (::gethostname(name, sizeof name - 1) != 0) {
    name[0] = '\0';
  }
  std::string host(name);
  host.resize(std::min(host.size(), kHostBytesMax));
  for (char& c : host) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '.' && c != '-' && c != '_') c = '_';
  }
  return host.find_first_not_of('.') == std::string::npos ? "localhost" : host;
}

std::string HostDirectory(const std::string& data_directory) { return data_directory + "/hosts/" + HostName(); }

std::string DaemonLog(const std::string& host_directory) { return host_directory + "/daemon.log"; }

Status MakePrivateDirectories(const std::string& directory) {
  std::filesystem::path made;
  for (const std::filesystem::path& part : std::filesystem::path(directory)) {
    made /= part;
    if (made.native() == "/" || made.empty()) continue;
    if (::mkdir(made.c_str(), 0700) == 0) continue;
    const int error = errno;
    struct stat found {};
    if (::stat(made.c_str(), &found) == 0 && S_ISDIR(found.st_mode)) continue;
    return PosixError("cannot create directory '" + made.string() + "'", error == EEXIST ? ENOTDIR : error);
  }
  return {};
}

}  // namespace ikkuna
