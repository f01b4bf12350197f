#include "daemon/service/unix_listener.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

namespace ikkuna::service {
namespace {

constexpr int kUnixBacklog = 4096;  // what the kernel has at most: a client of gRPC fails where it is full

bool SomebodyListens(const sockaddr_un& address) {
  UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return false;
  // A full backlog (EAGAIN) is a listener too.
  return ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 || errno == EAGAIN;
}

Status SetMode(const std::string& path, bool open_to_others) {
  // Who may connect is decided by the directory and by the uid of the peer; the mode keeps honest ones from trying.
  if (::chmod(path.c_str(), open_to_others ? 0666 : 0600) != 0) {
    return PosixError("cannot set the mode of '" + path + "'", errno);
  }
  return {};
}

Result<UniqueFd> Listen(const std::string& path, bool open_to_others) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return Error{ErrorCode::kInvalidArgument, "cannot serve on '" + path + "': a socket's path has at most " +
                                                  std::to_string(sizeof address.sun_path - 1) +
                                                  " bytes; pass a shorter --dir or set IKKUNA_DIR"};
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  if (SomebodyListens(address)) {
    return Error{ErrorCode::kAlreadyExists, "cannot serve on '" + path + "': another process listens there"};
  }
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return PosixError("cannot create a socket for '" + path + "'", errno);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return PosixError("cannot remove the old '" + path + "'", errno);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return PosixError("cannot serve on '" + path + "'", errno);
  }
  if (Status mode = SetMode(path, open_to_others); !mode) return mode.error();
  if (::listen(fd.get(), kUnixBacklog) != 0) return PosixError("cannot listen on '" + path + "'", errno);
  return fd;
}

}  // namespace

Result<std::unique_ptr<UnixListener>> UnixListener::Start(const std::string& path, bool open_to_others,
                                                          std::function<void(UniqueFd, uid_t)> accepted) {
  Result<UniqueFd> fd = Listen(path, open_to_others);
  if (!fd) return fd.error();
  std::vector<UniqueFd> listening;
  listening.push_back(std::move(*fd));
  Result<std::unique_ptr<AcceptLoop>> loop =
      AcceptLoop::Start(std::move(listening), [accepted = std::move(accepted)](UniqueFd socket) {
        ucred peer{};
        socklen_t length = sizeof peer;
        // As it was when the peer connected: what it does with its privileges later changes nothing.
        if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return;
        accepted(std::move(socket), peer.uid);
      });
  if (!loop) return loop.error();
  std::unique_ptr<UnixListener> listener(new UnixListener);
  listener->path_ = path;
  listener->loop_ = std::move(*loop);
  return listener;
}

Status UnixListener::OpenToOthers(bool open) { return SetMode(path_, open); }

void UnixListener::Stop() {
  if (!loop_) return;
  loop_.reset();
  ::unlink(path_.c_str());
}

}  // namespace ikkuna::service
