#include "daemon/sinks/file_id.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

namespace ikkuna::sinks {

std::optional<FileLook> LookAtFile(const std::string& path) {
  struct statx found {};
  constexpr unsigned kAsked = STATX_BASIC_STATS | STATX_BTIME;
  if (::statx(AT_FDCWD, path.c_str(), AT_STATX_SYNC_AS_STAT, kAsked, &found) != 0) return std::nullopt;
  const auto ns = [](const statx_timestamp& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; };
  FileLook look{{makedev(found.stx_dev_major, found.stx_dev_minor), found.stx_ino}, found.stx_size, ns(found.stx_ctime)};
  if (found.stx_mask & STATX_BTIME) look.id.born_ns = ns(found.stx_btime);
  return look;
}

std::optional<FileId> FileIdOf(const std::string& path) {
  const std::optional<FileLook> look = LookAtFile(path);
  return look ? std::optional(look->id) : std::nullopt;
}

}  // namespace ikkuna::sinks
