// FileId: which file it is that stands under a path.
//
// Functions without state. Thread rule: any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace ikkuna::sinks {

// A file, whatever it is called. Its number alone is soon another's, who comes when it is deleted.
struct FileId {
  dev_t device = 0;
  ino_t inode = 0;
  int64_t born_ns = 0;  // 0: the file system does not say
  bool operator==(const FileId&) const = default;
};
struct FileLook {
  FileId id;
  uint64_t bytes = 0;
  int64_t changed_ns = 0;  // it, or its name or rights
};
std::optional<FileLook> LookAtFile(const std::string& path);  // none: it cannot be looked at
std::optional<FileId> FileIdOf(const std::string& path);

}  // namespace ikkuna::sinks
