// Catalogue: what the heads of run files at rest say, in one file, so that a daemon with thousands of runs opens none of
// them when it starts. A cache: a row counts only for a file of the same size, inode and time of change; what is missing,
// broken or of another version is made anew from the files, and nothing is lost with it.
//
// Owner: the store. Thread rule: every method from any thread. Failures are silent: without it all is slower, nothing else.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "daemon/sinks/run_file.h"
#include "daemon/sinks/sqlite.h"

namespace ikkuna::sinks {

class Catalogue {
 public:
  static constexpr int kVersion = 7;

  // Of a file as it lies there. None: there is no file.
  struct Stamp {
    uint64_t bytes = 0;
    uint64_t inode = 0;
    int64_t changed_ns = 0, born_ns = 0;
    bool operator==(const Stamp&) const = default;
  };
  static std::optional<Stamp> StampOf(const std::string& path);

  // Reads it, or begins an empty one.
  void Open(const std::string& path);
  // `name`: of the file, without its folder.
  std::optional<RunHead> Find(const std::string& name, const Stamp& stamp) const;
  bool IsOf(const std::string& name, const FileId& file) const;  // it was this file, whatever is in it now
  bool Knows(const std::string& name) const;  // whatever became of the file since
  void Save(const std::string& name, const Stamp& stamp, const RunHead& head);
  void Remove(const std::string& name);
  // After all files were looked at: rows of those that are gone go too. Which they were.
  template <typename IsThere>
  std::vector<std::string> RemoveUnless(IsThere&& is_there) {
    std::vector<std::string> gone;
    {
      std::lock_guard lock(mutex_);
      for (const auto& [name, row] : rows_) {
        if (!is_there(name)) gone.push_back(name);
      }
      rows_.clear();  // nobody asks any more
    }
    for (const std::string& name : gone) Remove(name);
    return gone;
  }
  void Close();

 private:
  struct Row {
    Stamp stamp;
    std::string head;
  };
  Status Load(const std::string& path);

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::optional<Database> database_;
  std::map<std::string, Row> rows_;
};

// All that a head says, as bytes.
std::string EncodeHead(const RunHead& head);
std::optional<RunHead> DecodeHead(std::string_view bytes);

}  // namespace ikkuna::sinks
