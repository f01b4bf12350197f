#include "daemon/service/secret_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "shared/base/unique_fd.h"

namespace ikkuna::service {
namespace {

constexpr size_t kMaxFileBytes = 1024 * 1024;  // thousands of tokens or certificates; never a device that has no end

Status CheckSecrecy(const char* flag, const std::string& path, const struct stat& info) {
  if (info.st_uid != ::geteuid() && info.st_uid != 0) {
    return RefuseOptionFile(flag, path,
                            "belongs to user " + std::to_string(info.st_uid) +
                                ", who could change it; give it to user " + std::to_string(::geteuid()));
  }
  const bool handed_over = info.st_uid == 0 && ::geteuid() != 0;
  if ((info.st_mode & (handed_over ? S_IWGRP | S_IRWXO : S_IRWXG | S_IRWXO)) != 0) {
    return RefuseOptionFile(flag, path, "may be read or written by other users; chmod 600 closes it");
  }
  return {};
}

Result<std::string> Read(const char* flag, const std::string& path, bool secret) {
  const auto failed = [&](int code) { return PosixError(std::string(flag) + ": cannot read '" + path + "'", code); };
  // Without O_NONBLOCK the open of a pipe would wait for its writer.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return failed(errno);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return failed(errno);
  if (!S_ISREG(info.st_mode)) return RefuseOptionFile(flag, path, "is no file");
  if (secret) {
    if (Status secrecy = CheckSecrecy(flag, path, info); !secrecy) return secrecy.error();
  }
  std::string text;
  char part[16 * 1024];
  while (text.size() <= kMaxFileBytes) {
    const ssize_t got = ::read(fd.get(), part, sizeof part);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failed(errno);
    if (got == 0) break;
    text.append(part, static_cast<size_t>(got));
  }
  if (text.empty()) return RefuseOptionFile(flag, path, "is empty");
  if (text.size() > kMaxFileBytes) return RefuseOptionFile(flag, path, "is larger than 1 MiB");
  return text;
}

}  // namespace

Error RefuseOptionFile(const char* flag, const std::string& path, const std::string& why) {
  return {ErrorCode::kInvalidArgument, std::string(flag) + ": '" + path + "' " + why};
}

Result<std::string> ReadOptionFile(const char* flag, const std::string& path) { return Read(flag, path, false); }
Result<std::string> ReadSecretFile(const char* flag, const std::string& path) { return Read(flag, path, true); }

}  // namespace ikkuna::service
