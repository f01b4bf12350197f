#include "daemon/service/accept_loop.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <exception>
#include <utility>

namespace ikkuna::service {
namespace {

// Out of descriptors or memory: the pending connection would wake us at once again.
constexpr int kShortagePause_ms = 100;

}  // namespace

Result<std::unique_ptr<AcceptLoop>> AcceptLoop::Start(std::vector<UniqueFd> listening,
                                                      std::function<void(UniqueFd)> accepted) {
  UniqueFd stop_fd(::eventfd(0, EFD_CLOEXEC));
  if (!stop_fd) return PosixError("cannot create an eventfd", errno);
  std::unique_ptr<AcceptLoop> loop(new AcceptLoop);
  loop->listening_ = std::move(listening);
  loop->accepted_ = std::move(accepted);
  loop->stop_fd_ = std::move(stop_fd);
  loop->thread_ = std::thread([raw = loop.get()] { raw->Run(); });
  return loop;
}

void AcceptLoop::Stop() {
  if (!thread_.joinable()) return;
  uint64_t one = 1;
  // An eventfd of ours at zero takes the write.
  [[maybe_unused]] ssize_t written = ::write(stop_fd_.get(), &one, sizeof one);
  thread_.join();
  listening_.clear();
}

bool AcceptLoop::AcceptOne(int listening_fd) {
  UniqueFd socket(::accept4(listening_fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (socket) {
    try {
      accepted_(std::move(socket));
    } catch (const std::exception&) {
      // Out of memory or threads: the socket is closed by now, and the peer tries again.
    }
    return true;
  }
  // A peer that has left meanwhile, or its network, is no reason to wait.
  return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED || errno == EPROTO || errno == EPERM ||
         errno == ENETDOWN || errno == EHOSTDOWN || errno == EHOSTUNREACH || errno == ENETUNREACH;
}

void AcceptLoop::Run() {
  std::vector<pollfd> fds;
  for (const UniqueFd& fd : listening_) fds.push_back({fd.get(), POLLIN, 0});
  fds.push_back({stop_fd_.get(), POLLIN, 0});
  pollfd* const stop = &fds.back();
  while (true) {
    if (::poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) return;
    if (stop->revents != 0) return;
    for (const pollfd& fd : fds) {
      if (&fd == stop || fd.revents == 0) continue;
      if (!AcceptOne(fd.fd)) ::poll(stop, 1, kShortagePause_ms);
    }
  }
}

}  // namespace ikkuna::service
