#include "daemon/service/unix_listener.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

namespace ikkuna::service {
namespace {

constexpr int kBacklog = 64;
constexpr int kNoDescriptorsPause_ms = 100;  // out of descriptors: the pending connection would wake us at once again

bool SomebodyListens(const sockaddr_un& address) {
  UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return false;
  // A full backlog (EAGAIN) is a listener too.
  return ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 || errno == EAGAIN;
}

Result<UniqueFd> Listen(const std::string& path, bool allow_others) {
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
  // Who may connect is decided by the directory and by the uid of the peer; the mode keeps honest ones from trying.
  if (::chmod(path.c_str(), allow_others ? 0666 : 0600) != 0)
    return PosixError("cannot set the mode of '" + path + "'", errno);
  if (::listen(fd.get(), kBacklog) != 0) return PosixError("cannot listen on '" + path + "'", errno);
  return fd;
}

}  // namespace

Result<std::unique_ptr<UnixListener>> UnixListener::Start(const std::string& path, const std::vector<uid_t>& allow_uids,
                                                          std::function<void(UniqueFd)> accepted) {
  Result<UniqueFd> fd = Listen(path, !allow_uids.empty());
  if (!fd) return fd.error();
  UniqueFd stop_fd(::eventfd(0, EFD_CLOEXEC));
  if (!stop_fd) return PosixError("cannot create an eventfd", errno);
  std::unique_ptr<UnixListener> listener(new UnixListener);
  listener->path_ = path;
  listener->uids_ = allow_uids;
  listener->uids_.push_back(::geteuid());
  listener->accepted_ = std::move(accepted);
  listener->listen_fd_ = std::move(*fd);
  listener->stop_fd_ = std::move(stop_fd);
  listener->thread_ = std::thread([raw = listener.get()] { raw->Run(); });
  return listener;
}

void UnixListener::Stop() {
  if (!thread_.joinable()) return;
  uint64_t one = 1;
  // An eventfd of ours at zero takes the write.
  [[maybe_unused]] ssize_t written = ::write(stop_fd_.get(), &one, sizeof one);
  thread_.join();
  ::unlink(path_.c_str());
  listen_fd_.reset();
}

bool UnixListener::MayConnect(int socket_fd) const {
  ucred peer{};
  socklen_t length = sizeof peer;
  if (::getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return false;
  return std::find(uids_.begin(), uids_.end(), peer.uid) != uids_.end();
}

void UnixListener::Run() {
  pollfd fds[] = {{listen_fd_.get(), POLLIN, 0}, {stop_fd_.get(), POLLIN, 0}};
  while (true) {
    if (::poll(fds, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return;
    }
    if (fds[1].revents != 0) return;
    UniqueFd socket(::accept4(listen_fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket) {
      if (MayConnect(socket.get())) accepted_(std::move(socket));
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
      ::poll(&fds[1], 1, kNoDescriptorsPause_ms);
    }
  }
}

}  // namespace ikkuna::service
