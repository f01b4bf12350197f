#include "daemon/kept_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string_view>

#include "shared/base/unique_fd.h"

namespace ikkuna {

namespace {

constexpr size_t kBytesMax = 64 << 20;  // far above what is kept so; a file that is larger is not ours

Status WriteAll(int fd, std::string_view text, const std::string& path) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return PosixError("cannot write '" + path + "'", errno);
    text.remove_prefix(static_cast<size_t>(written));
  }
  if (::fsync(fd) != 0) return PosixError("cannot write '" + path + "' to the disk", errno);
  return {};
}

}  // namespace

std::string TomlText(const std::string& text) {
  static const char* kHex = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += "\\u00";
      out += kHex[(c >> 4) & 15];
      out += kHex[c & 15];
    } else {
      out += c;
    }
  }
  return out + "\"";
}

Result<std::optional<std::string>> ReadKeptFile(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    if (errno == ENOENT) return std::optional<std::string>();
    return PosixError("cannot read '" + path + "'", errno);
  }
  std::string text;
  char part[16'384];
  while (true) {
    const ssize_t read = ::read(fd.get(), part, sizeof part);
    if (read < 0 && errno == EINTR) continue;
    if (read < 0) return PosixError("cannot read '" + path + "'", errno);
    if (read == 0) return std::optional<std::string>(std::move(text));
    text.append(part, static_cast<size_t>(read));
    if (text.size() > kBytesMax) return Error{ErrorCode::kCorrupt, "'" + path + "' is larger than 64 MiB"};
  }
}

Status WriteKeptFile(const std::string& path, const std::string& text) {
  const std::string fresh = path + ".new";
  const UniqueFd fd(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd) return PosixError("cannot write '" + fresh + "'", errno);
  if (auto written = WriteAll(fd.get(), text, fresh); !written) {
    ::unlink(fresh.c_str());
    return written;
  }
  if (::rename(fresh.c_str(), path.c_str()) != 0) {
    const Error error = PosixError("cannot replace '" + path + "'", errno);
    ::unlink(fresh.c_str());
    return error;
  }
  // The new name is on the disk once the folder is; where that cannot be asked for, the old file or the new is there.
  const size_t slash = path.rfind('/');
  const UniqueFd folder(::open(slash == std::string::npos ? "." : path.substr(0, slash + 1).c_str(),
                               O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder) static_cast<void>(::fsync(folder.get()));
  return {};
}

std::string MoveAside(const std::string& path) {
  const std::string aside = path + ".broken";
  return std::rename(path.c_str(), aside.c_str()) == 0 ? aside : std::string();
}

}  // namespace ikkuna
