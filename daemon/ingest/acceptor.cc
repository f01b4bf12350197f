#include "daemon/ingest/acceptor.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <utility>

#include "shared/base/clock.h"

namespace ikkuna::ingest {

namespace {

constexpr uint64_t kNsPerMs = 1'000'000;

}  // namespace

Result<std::unique_ptr<Acceptor>> Acceptor::Start(const AcceptorOptions& options, Ingest& ingest) {
  auto listener = shm::ListenForProducers(options.directory, !options.allow_uids.empty());
  if (!listener) return listener.error();
  std::unique_ptr<Acceptor> acceptor(new Acceptor(options, ingest));
  acceptor->listener_ = std::move(listener).value();
  acceptor->wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!acceptor->wake_) return PosixError("cannot make an eventfd", errno);
  Acceptor* self = acceptor.get();
  acceptor->thread_ = std::thread([self] { self->Run(); });
  return acceptor;
}

Acceptor::~Acceptor() {
  stop_.store(true);
  const uint64_t one = 1;
  if (::write(wake_.get(), &one, sizeof one) < 0) stop_.store(true);  // a full counter wakes as well
  if (thread_.joinable()) thread_.join();
  if (listener_) ::unlink(shm::ProbeSocketPath(options_.directory).c_str());
}

void Acceptor::Run() {
  ::pthread_setname_np(::pthread_self(), "ikkuna-accept");
  std::vector<pollfd> fds;
  while (!stop_.load()) {
    try {
      TellFailures();
      Turn(fds);
    } catch (const std::exception& error) {
      // For want of memory, as a rule. Whoever waits goes on waiting; the next look is when some time has passed.
      ++failures_;
      std::snprintf(last_failure_.data(), last_failure_.size(), "%s", error.what());
      pollfd wake{wake_.get(), POLLIN, 0};
      ::poll(&wake, 1, kReapMs);
    }
  }
}

void Acceptor::Turn(std::vector<pollfd>& fds) {
  const bool paused = MonotonicNs() < pause_until_ns_;
  fds.assign({{wake_.get(), POLLIN, 0}, {paused ? -1 : listener_.get(), POLLIN, 0}});
  for (const Pending& pending : pending_) fds.push_back({pending.socket.get(), POLLIN | POLLRDHUP, 0});
  if (::poll(fds.data(), fds.size(), kReapMs) < 0 || stop_.load()) return;
  for (size_t i = pending_.size(); i-- > 0;) {
    if (Serve(pending_[i], fds[i + 2].revents)) pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  if (fds[1].revents != 0) AcceptAll();
  ingest_.Reap();
  TellRefusals();
}

void Acceptor::AcceptAll() {
  for (size_t i = 0; i < kPendingMax; ++i) {
    UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
      // Out of descriptors or memory: the waiting connection stays and poll() would say so for ever.
      if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {
        last_refusal_ = std::string("cannot accept a connection: ") + std::strerror(errno);
        refused_.fetch_add(1, std::memory_order_relaxed);
        pause_until_ns_ = MonotonicNs() + kReapMs * kNsPerMs;
      }
      return;
    }
    auto credentials = shm::ReadPeerCredentials(socket.get());
    if (!credentials) {
      Refuse(socket.get(), 0, credentials.error().text);
    } else if (!Allowed(credentials->uid)) {
      Refuse(socket.get(), credentials->pid,
             "user " + std::to_string(credentials->uid) + " may not use this daemon; start it with --allow-uid " +
                 std::to_string(credentials->uid));
    } else if (pending_.size() >= kPendingMax) {
      Refuse(socket.get(), credentials->pid, "too many connections that said nothing yet");
    } else {
      pending_.push_back({std::move(socket), std::move(credentials).value(),
                          MonotonicNs() + static_cast<uint64_t>(options_.hello_timeout_ms) * kNsPerMs});
    }
  }
}

bool Acceptor::Serve(Pending& pending, short revents) {
  if (revents != 0) {
    auto hello = shm::ReceiveHello(pending.socket.get());
    if (hello) {
      const pid_t pid = pending.credentials.pid;
      if (auto admitted = Admit(pending, std::move(hello).value()); !admitted) {
        Refuse(pending.socket.get(), pid, admitted.error().text);
      }
      return true;
    }
    if (hello.error().code == ErrorCode::kFailedPrecondition) return true;  // it left without a word
    if (hello.error().code != ErrorCode::kUnavailable) {
      Refuse(pending.socket.get(), pending.credentials.pid, hello.error().text);
      return true;
    }
    if ((revents & (POLLHUP | POLLERR)) != 0) return true;
  }
  if (MonotonicNs() < pending.deadline_ns) return false;
  Refuse(pending.socket.get(), pending.credentials.pid, "no HELLO in time");
  return true;
}

Status Acceptor::Admit(Pending& pending, shm::ReceivedHello hello) {
  auto view = shm::PubView::Open(std::move(hello.pub_fd));
  if (!view) return view.error();
  if (std::memcmp((*view)->header().uuid, hello.hello.uuid.data(), hello.hello.uuid.size()) != 0) {
    return Error{ErrorCode::kCorrupt, "HELLO and segment name different producers"};
  }
  if (hello.hello.run_id.empty()) return Error{ErrorCode::kInvalidArgument, "HELLO without a run id"};
  // A duplicate: the original carries the REJECT if the session cannot be had.
  Peer peer{UniqueFd(::fcntl(pending.socket.get(), F_DUPFD_CLOEXEC, 0)), std::move(pending.credentials),
            std::move(hello.hello), std::move(view).value()};
  if (!peer.socket) return PosixError("cannot keep the connection of a producer", errno);
  try {
    return ingest_.Admit(peer);
  } catch (const std::exception& error) {
    return Error{ErrorCode::kSystem, std::string("cannot serve one more producer: ") + error.what()};
  }
}

void Acceptor::Refuse(int socket, pid_t pid, const std::string& why) {
  static_cast<void>(shm::SendReject(socket, {why}));  // it may be gone: then nobody needs the reason
  refused_.fetch_add(1, std::memory_order_relaxed);
  last_refusal_ = (pid > 0 ? "process " + std::to_string(pid) + ": " : "") + why;
}

void Acceptor::TellFailures() {
  const uint64_t now = MonotonicNs();
  if (failures_ == failures_told_ || now - failure_told_ns_ < kEventEveryNs) return;
  ingest_.OfferEvent(Severity::kError, "door_failed",
                     "the door for trainers failed " + std::to_string(failures_ - failures_told_) +
                         " times and goes on; the last: " + last_failure_.data());
  failures_told_ = failures_;
  failure_told_ns_ = now;
}

void Acceptor::TellRefusals() {
  const uint64_t refused = refused_.load(std::memory_order_relaxed);
  const uint64_t now = MonotonicNs();
  if (refused == told_ || now - told_ns_ < kEventEveryNs) return;
  const uint64_t count = refused - told_;
  ingest_.OfferEvent(
      Severity::kWarning, "connection_refused",
      (count > 1 ? std::to_string(count) + " connections refused, the last: " : "refused ") + last_refusal_);
  told_ = refused;
  told_ns_ = now;
}

bool Acceptor::Allowed(uid_t uid) {
  if (uid == ::geteuid()) return true;
  std::lock_guard lock(mutex_);
  return std::find(allow_uids_.begin(), allow_uids_.end(), uid) != allow_uids_.end();
}

Status Acceptor::Allow(std::vector<uid_t> uids) {
  const std::string path = shm::ProbeSocketPath(options_.directory);
  // The mode keeps honest ones from trying; Allowed() decides.
  if (::chmod(path.c_str(), uids.empty() ? 0600 : 0666) != 0) {
    return PosixError("cannot set the mode of '" + path + "'", errno);
  }
  std::lock_guard lock(mutex_);
  allow_uids_ = std::move(uids);
  return {};
}

}  // namespace ikkuna::ingest
