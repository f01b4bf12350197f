// DaemonNote: what a daemon leaves in the file of its directory's lock for those who start and end daemons, and
// UpLock: what these agree by, so that of many who want a daemon at once one starts it, and none is started while
// another ends.
//
//   lock     held by the daemon for its life; the file holds its DaemonNote, the last one also after its end
//   up.lock  held by `ikkuna up` and `ikkuna down` while they work, and by a daemon that ends because nobody came, from
//            its decision to its end; the file holds the time at which somebody last wanted a daemon, so that one that
//            was just found does not end before its trainer comes
//   users    held, shared, by every `ikkuna run` while its job lives: a trainer may take an hour before it comes
//
// Thread rule: none; the locks are the kernel's.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "shared/base/result.h"
#include "shared/base/unique_fd.h"
#include "shared/handshake.h"

namespace ikkuna::shm {

enum class DaemonState : uint8_t {
  kStarting = 1,
  kServing = 2,
  kEnded = 3,    // in order, everything that was read is kept
  kNotKept = 4,  // in order, and `text` says what could not be kept
};

struct DaemonNote {
  pid_t pid = 0;
  DaemonState state = DaemonState::kStarting;
  std::string data_directory;  // empty: not known yet
  std::string text;
};

// Replaces the note; the lock's holder alone does that.
Status WriteDaemonNote(const DirectoryLock& lock, const DaemonNote& note);
// The last note; nothing where no daemon ever served the directory. Its process may have ended since.
std::optional<DaemonNote> ReadDaemonNote(const std::string& directory);
// Whether a process holds the directory's lock now: it serves, starts, or ends.
bool IsServed(const std::string& directory);

class UpLock {
 public:
  // Nothing: another process has it. The directory must exist.
  static Result<std::optional<UpLock>> Try(const std::string& directory);
  // Somebody wants a daemon, now.
  void Want() const;
  // CLOCK_MONOTONIC; 0: never, or before the machine's start.
  uint64_t wanted_ns() const;

 private:
  explicit UpLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

// Keeps a daemon that ends when nobody comes, for as long as this lives; for our own directories only.
class DaemonUse {
 public:
  static Result<DaemonUse> Hold(const std::string& directory);

 private:
  explicit DaemonUse(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};
// Whether anybody holds a DaemonUse.
bool IsInUse(const std::string& directory);

}  // namespace ikkuna::shm
