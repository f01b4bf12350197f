#include "shared/daemon_note.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "shared/base/clock.h"

namespace ikkuna::shm {

namespace {

constexpr std::array<const char*, 4> kStates = {"starting", "serving", "ended", "not kept"};

// One value a line.
std::string Line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text + "\n";
}

std::string UsersPath(const std::string& directory) { return directory + "/users"; }

int Flock(int fd, int how) {
  int locked;
  do {
    locked = ::flock(fd, how);
  } while (locked != 0 && errno == EINTR);
  return locked;
}

}  // namespace

Status WriteDaemonNote(const DirectoryLock& lock, const DaemonNote& note) {
  const std::string text = std::to_string(note.pid) + "\n" + Line(kStates[static_cast<size_t>(note.state) - 1]) +
                           Line(note.data_directory) + Line(note.text);
  // Written over and then cut: whoever reads meanwhile never finds the file empty.
  if (::pwrite(lock.fd(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()) ||
      ::ftruncate(lock.fd(), static_cast<off_t>(text.size())) != 0) {
    return PosixError("cannot write into the lock of the sockets' directory", errno);
  }
  return {};
}

std::optional<DaemonNote> ReadDaemonNote(const std::string& directory) {
  std::ifstream file(directory + "/lock", std::ios::binary);
  std::string pid, state;
  DaemonNote note;
  if (!std::getline(file, pid)) return std::nullopt;
  note.pid = static_cast<pid_t>(std::strtol(pid.c_str(), nullptr, 10));
  if (note.pid <= 0) return std::nullopt;
  if (!std::getline(file, state)) return note;
  const auto found = std::find(kStates.begin(), kStates.end(), state);
  if (found != kStates.end()) note.state = static_cast<DaemonState>(found - kStates.begin() + 1);
  std::getline(file, note.data_directory);
  std::getline(file, note.text);
  return note;
}

bool IsServed(const std::string& directory) {
  const UniqueFd fd(::open((directory + "/lock").c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return false;
  // Asked, not taken: many may look at any time, and a daemon that starts meanwhile finds it free.
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return ::fcntl(fd.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

Result<std::optional<UpLock>> UpLock::Try(const std::string& directory) {
  const std::string path = directory + "/up.lock";
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return PosixError("cannot open lock '" + path + "'", errno);
  if (Flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return std::optional<UpLock>(UpLock(std::move(fd)));
  if (errno == EWOULDBLOCK) return std::optional<UpLock>();
  return PosixError("cannot lock '" + path + "'", errno);
}

void UpLock::Want() const {
  const std::string text = std::to_string(MonotonicNs()) + "\n";
  // Where it cannot be written, the daemon goes by its trainers and clients alone.
  if (::pwrite(fd_.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size())) {
    [[maybe_unused]] const int cut = ::ftruncate(fd_.get(), static_cast<off_t>(text.size()));
  }
}

uint64_t UpLock::wanted_ns() const {
  char text[32] = {};
  if (::pread(fd_.get(), text, sizeof text - 1, 0) <= 0) return 0;
  const uint64_t wanted = std::strtoull(text, nullptr, 10);
  return wanted > MonotonicNs() ? 0 : wanted;
}

Result<DaemonUse> DaemonUse::Hold(const std::string& directory) {
  const std::string path = UsersPath(directory);
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return PosixError("cannot open lock '" + path + "'", errno);
  // Waits for the moment that a daemon looks (IsInUse()).
  if (Flock(fd.get(), LOCK_SH) != 0) return PosixError("cannot lock '" + path + "'", errno);
  return DaemonUse(std::move(fd));
}

bool IsInUse(const std::string& directory) {
  const UniqueFd fd(::open(UsersPath(directory).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return false;
  return Flock(fd.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

}  // namespace ikkuna::shm
