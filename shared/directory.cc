// Where daemon and producers meet in the file system: the directory, its lock, the socket.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

#include "shared/handshake.h"

namespace ikkuna::shm {

namespace {

// Producers waiting to be accepted: twice what a daemon takes, so that all may reconnect at once.
constexpr int kBacklog = 2 * kMaxProducers;

std::string SharedTmpDirectory() { return "/tmp/ikkuna-" + std::to_string(geteuid()); }

// Word for the state of a process, from /proc/<pid>/stat: the letter behind the last ')' (the name may hold any).
std::string ProcessState(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  const std::string stat((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos || name_end + 2 >= stat.size()) return "gone, a child it forked holds the lock";
  switch (stat[name_end + 2]) {
    case 'T':
    case 't':
      return "stopped";
    case 'Z':
    case 'X':
      return "dead, not yet reaped";
    default:
      return "running";
  }
}

pid_t ReadHolder(int fd) {
  char text[32] = {};
  if (pread(fd, text, sizeof(text) - 1, 0) <= 0) return 0;
  return static_cast<pid_t>(std::strtol(text, nullptr, 10));
}

Result<sockaddr_un> SocketAddress(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return Error{ErrorCode::kInvalidArgument, "socket path '" + path + "' is longer than the " +
                                                  std::to_string(sizeof(address.sun_path) - 1) +
                                                  " bytes a socket may have; set IKKUNA_DIR to a shorter directory"};
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

UniqueFd NewSocket() { return UniqueFd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)); }

Status RemoveStaleSocket(const std::string& path) {
  struct stat found {};
  if (lstat(path.c_str(), &found) != 0) {
    if (errno == ENOENT) return {};
    return PosixError("cannot look at '" + path + "'", errno);
  }
  if (!S_ISSOCK(found.st_mode)) {
    return Error{ErrorCode::kAlreadyExists, "'" + path + "' is in the way and no socket; remove it"};
  }
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return PosixError("cannot replace socket '" + path + "'", errno);
  return {};
}

// Whether the process that listens may have our tensors.
Status CheckListener(int socket_fd, const std::string& directory) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return PosixError("cannot ask the kernel who listens in '" + directory + "'", errno);
  }
  if (peer.uid == geteuid() || peer.uid == 0) return {};
  struct stat owner {};
  const bool chosen = directory != SharedTmpDirectory();
  if (chosen && stat(directory.c_str(), &owner) == 0 && owner.st_uid == peer.uid) return {};
  return Error{ErrorCode::kPermissionDenied,
               "the daemon in '" + directory + "' runs as user " + std::to_string(peer.uid) + ", not as ours"};
}

}  // namespace

std::string DefaultDirectory() {
  const char* chosen = std::getenv("IKKUNA_DIR");
  if (chosen != nullptr && *chosen != '\0') return chosen;
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && *runtime != '\0') return std::string(runtime) + "/ikkuna";
  return SharedTmpDirectory();
}

std::string ProbeSocketPath(const std::string& directory) { return directory + "/probe.sock"; }

Status PrepareDirectory(const std::string& directory, bool allow_others) {
  const mode_t mode = allow_others ? 0711 : 0700;
  const bool made = mkdir(directory.c_str(), mode) == 0;
  if (!made && errno != EEXIST) return PosixError("cannot create directory '" + directory + "'", errno);
  UniqueFd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) {
    return PosixError("'" + directory + "' must be a directory of ours and no link", errno);
  }
  struct stat found {};
  if (fstat(fd.get(), &found) != 0) return PosixError("cannot inspect directory '" + directory + "'", errno);
  if (found.st_uid != geteuid()) {
    return Error{ErrorCode::kPermissionDenied, "directory '" + directory + "' belongs to user " +
                                                   std::to_string(found.st_uid) + "; set IKKUNA_DIR to one of yours"};
  }
  if (!made && (found.st_mode & 0022) != 0) {
    return Error{ErrorCode::kPermissionDenied,
                 "others may write to directory '" + directory + "' and replace its sockets; chmod go-w it"};
  }
  const mode_t wanted = made ? mode : (found.st_mode & 07777) | (allow_others ? 0011 : 0);
  if ((found.st_mode & 07777) != wanted && fchmod(fd.get(), wanted) != 0) {
    return PosixError("cannot set the mode of directory '" + directory + "'", errno);
  }
  return {};
}

Result<DirectoryLock> DirectoryLock::Take(const std::string& directory) {
  const std::string path = directory + "/lock";
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return PosixError("cannot open lock '" + path + "'", errno);
  // Of the open file, as flock() is, and unlike that one whoever looks (IsServed()) can ask for it without taking it.
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  int locked;
  do {
    locked = fcntl(fd.get(), F_OFD_SETLK, &lock);
  } while (locked != 0 && errno == EINTR);
  if (locked != 0 && (errno == EAGAIN || errno == EACCES)) {
    const pid_t holder = ReadHolder(fd.get());
    return Error{ErrorCode::kAlreadyExists, "a daemon already serves '" + directory + "': process " +
                                                std::to_string(holder) + " (" + ProcessState(holder) +
                                                "); end it, or set IKKUNA_DIR to another directory"};
  }
  if (locked != 0) return PosixError("cannot lock '" + path + "'", errno);
  const std::string pid = std::to_string(getpid()) + "\n";
  if (ftruncate(fd.get(), 0) != 0 || pwrite(fd.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    return PosixError("cannot write our process number into '" + path + "'", errno);
  }
  return DirectoryLock(std::move(fd));
}

Result<UniqueFd> ListenForProducers(const std::string& directory, bool allow_others) {
  const std::string path = ProbeSocketPath(directory);
  auto address = SocketAddress(path);
  if (!address) return address.error();
  if (auto removed = RemoveStaleSocket(path); !removed) return removed.error();
  UniqueFd fd = NewSocket();
  if (!fd) return PosixError("cannot create a socket", errno);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) != 0) {
    return PosixError("cannot bind socket '" + path + "'", errno);
  }
  // Before listen(): nobody can connect under a mode that was not meant.
  if (chmod(path.c_str(), allow_others ? 0666 : 0600) != 0)
    return PosixError("cannot set the mode of '" + path + "'", errno);
  if (listen(fd.get(), kBacklog) != 0) return PosixError("cannot listen on '" + path + "'", errno);
  return fd;
}

Result<UniqueFd> ConnectToDaemon(const std::string& directory) {
  const std::string path = ProbeSocketPath(directory);
  auto address = SocketAddress(path);
  if (!address) return address.error();
  UniqueFd fd = NewSocket();
  if (!fd) return PosixError("cannot create a socket", errno);
  int connected;
  do {
    connected = connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address));
  } while (connected != 0 && errno == EINTR);
  if (connected != 0) {
    if (errno == ENOENT || errno == ECONNREFUSED || errno == EAGAIN || errno == ENOTDIR) {
      return Error{ErrorCode::kUnavailable, "no daemon listens on '" + path + "'"};
    }
    return PosixError("cannot connect to the daemon on '" + path + "'", errno);
  }
  if (auto checked = CheckListener(fd.get(), directory); !checked) return checked.error();
  return fd;
}

}  // namespace ikkuna::shm
