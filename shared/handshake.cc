// The three messages over the socket, and who is at its other end. The directory is in directory.cc.
#include "shared/handshake.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "shared/base/utf8.h"
#include "shared/tlv.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace ikkuna::shm {

namespace {

// Room for more descriptors than any message may carry, so that a peer's surplus arrives and is closed here; what does
// not even fit in here the kernel closes and says so (MSG_CTRUNC).
constexpr size_t kFdRoom = 16;

Error CorruptPeer(const std::string& what) { return Error{ErrorCode::kCorrupt, "the peer's message " + what}; }

Status Send(int socket_fd, const std::string& bytes, int fd) {
  iovec data{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  alignas(cmsghdr) unsigned char control[CMSG_SPACE(sizeof(int))] = {};
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof(int));
  }
  ssize_t sent;
  do {
    sent = sendmsg(socket_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return PosixError("cannot send a message of the handshake", errno);
  return {};
}

struct Received {
  std::string bytes;
  std::vector<UniqueFd> fds;
};

void TakeFds(msghdr& message, std::vector<UniqueFd>& fds) {
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
}

Result<Received> Receive(int socket_fd) {
  Received received;
  received.bytes.resize(kMaxMessageBytes);
  received.fds.reserve(kFdRoom);
  iovec data{received.bytes.data(), received.bytes.size()};
  alignas(cmsghdr) unsigned char control[CMSG_SPACE(kFdRoom * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t bytes;
  do {
    bytes = recvmsg(socket_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (bytes < 0 && errno == EINTR);
  if (bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
    return Error{ErrorCode::kUnavailable, "no message of the peer yet"};
  }
  if (bytes < 0 && errno == ECONNRESET) {
    return Error{ErrorCode::kFailedPrecondition, "the peer closed the connection"};
  }
  if (bytes < 0) return PosixError("cannot receive a message of the handshake", errno);
  TakeFds(message, received.fds);
  if (bytes == 0) return Error{ErrorCode::kFailedPrecondition, "the peer closed the connection"};
  if ((message.msg_flags & MSG_TRUNC) != 0) return CorruptPeer("is longer than any may be");
  if ((message.msg_flags & MSG_CTRUNC) != 0) {
    if (received.fds.size() == kFdRoom) return CorruptPeer("carries more descriptors than any may");
    return Error{ErrorCode::kResourceExhausted,
                 "no descriptor was left for the one that came with a message of the handshake; raise the limit of the "
                 "process that received it (ulimit -n)"};
  }
  received.bytes.resize(static_cast<size_t>(bytes));
  return received;
}

std::string Name(const std::string& text) { return WireName(text, kMaxNameBytes); }

// Takes a field of the message into `out`; false when it is missing or malformed.
template <typename T>
bool Take(std::optional<T> field, T& out) {
  if (field) out = std::move(*field);
  return field.has_value();
}

}  // namespace

Result<PeerCredentials> ReadPeerCredentials(int socket_fd) {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return PosixError("cannot ask the kernel who the peer is", errno);
  }
  PeerCredentials peer;
  peer.pid = credentials.pid;
  peer.uid = credentials.uid;
  peer.gid = credentials.gid;
  int pidfd = -1;
  size = sizeof(pidfd);
  if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) == 0) {
    peer.pidfd.reset(pidfd);
  } else if (peer.pid > 0) {
    // By number: before kernel 6.5 there is no better. A process that ended since is noticed below; only one whose
    // number was given away in these microseconds is not.
    peer.pidfd.reset(static_cast<int>(syscall(SYS_pidfd_open, peer.pid, 0)));
    pollfd hangup{socket_fd, 0, 0};
    if (poll(&hangup, 1, 0) > 0 && (hangup.revents & POLLHUP) != 0) peer.pidfd.reset();
  }
  return peer;
}

Status SendHello(int socket_fd, const Hello& hello, int pub_fd) {
  TlvWriter writer(MessageType::kHello);
  writer.Put(Tag::kUuid, hello.uuid.data(), hello.uuid.size());
  writer.PutText(Tag::kRunId, Name(hello.run_id));
  if (hello.run_id_made_up) writer.PutNumber(Tag::kRunIdMadeUp, uint8_t{1});
  writer.PutText(Tag::kRun, Name(hello.run));
  writer.PutNumber(Tag::kAttempt, hello.attempt);
  writer.PutNumber(Tag::kRank, hello.rank);
  writer.PutNumber(Tag::kWorldSize, hello.world_size);
  writer.PutNumber(Tag::kHasAttempt, static_cast<uint8_t>(hello.has_attempt));
  writer.PutNumber(Tag::kResume, static_cast<uint8_t>(hello.resume));
  writer.PutNumber(Tag::kStartStep, hello.start_step);
  writer.PutText(Tag::kJobAddress, Name(hello.job_address));
  writer.PutText(Tag::kJobPort, Name(hello.job_port));
  writer.PutNumber(Tag::kFeatureBits, hello.feature_bits);
  // Before those that no HELLO lacks, so that a message that is cut short is none.
  if ((hello.feature_bits & kFeatureLateBytes) != 0) {
    writer.PutNumber(Tag::kLateHead, hello.heads.late_head.value_or(0));
  }
  writer.PutNumber(Tag::kRingHead, hello.heads.ring_head);
  writer.PutNumber(Tag::kArenaHead, hello.heads.arena_head);
  return Send(socket_fd, writer.bytes(), pub_fd);
}

Status SendWelcome(int socket_fd, const Welcome& welcome, int ctl_fd) {
  TlvWriter writer(MessageType::kWelcome);
  writer.PutNumber(Tag::kSessionId, welcome.session_id);
  writer.PutNumber(Tag::kFeatureBits, welcome.feature_bits);
  writer.PutText(Tag::kDaemonVersion, Name(welcome.daemon_version));
  return Send(socket_fd, writer.bytes(), ctl_fd);
}

Status SendReject(int socket_fd, const Reject& reject) {
  TlvWriter writer(MessageType::kReject);
  writer.PutText(Tag::kReason, CleanUtf8(reject.reason, kMaxReasonBytes));
  return Send(socket_fd, writer.bytes(), -1);
}

Result<ReceivedHello> ReceiveHello(int socket_fd) {
  auto received = Receive(socket_fd);
  if (!received) return received.error();
  auto reader = TlvReader::Parse(received->bytes);
  if (!reader) return reader.error();
  if (reader->type() != MessageType::kHello) return CorruptPeer("is no HELLO");
  if (received->fds.size() != 1) return CorruptPeer("does not carry one descriptor");
  ReceivedHello result;
  Hello& hello = result.hello;
  uint8_t has_attempt = 0;
  uint8_t resume = 0;
  const auto uuid = reader->Bytes(Tag::kUuid, hello.uuid.size());
  const bool complete = uuid && Take(reader->Text(Tag::kRunId, kMaxNameBytes), hello.run_id) &&
                        Take(reader->Text(Tag::kRun, kMaxNameBytes), hello.run) &&
                        Take(reader->Number<uint32_t>(Tag::kAttempt), hello.attempt) &&
                        Take(reader->Number<uint32_t>(Tag::kRank), hello.rank) &&
                        Take(reader->Number<uint32_t>(Tag::kWorldSize), hello.world_size) &&
                        Take(reader->Number<uint8_t>(Tag::kHasAttempt), has_attempt) && has_attempt <= 1 &&
                        Take(reader->Number<uint8_t>(Tag::kResume), resume) && resume <= 1 &&
                        Take(reader->Number<uint64_t>(Tag::kStartStep), hello.start_step) &&
                        hello.start_step <= kMaxStep &&
                        Take(reader->Text(Tag::kJobAddress, kMaxNameBytes), hello.job_address) &&
                        Take(reader->Text(Tag::kJobPort, kMaxNameBytes), hello.job_port) &&
                        Take(reader->Number<uint64_t>(Tag::kFeatureBits), hello.feature_bits) &&
                        Take(reader->Number<uint64_t>(Tag::kRingHead), hello.heads.ring_head) &&
                        Take(reader->Number<uint64_t>(Tag::kArenaHead), hello.heads.arena_head);
  if (!complete) return CorruptPeer("lacks a field of a HELLO, or one is malformed");
  hello.heads.late_head = reader->Number<uint64_t>(Tag::kLateHead).value_or(0);  // of a probe without late bytes
  hello.has_attempt = has_attempt == 1;
  hello.resume = resume == 1;
  hello.run_id_made_up = reader->Number<uint8_t>(Tag::kRunIdMadeUp) == uint8_t{1};  // not of every producer
  std::memcpy(hello.uuid.data(), uuid->data(), hello.uuid.size());
  result.pub_fd = std::move(received->fds.front());
  return result;
}

Result<std::variant<ReceivedWelcome, Reject>> ReceiveAnswer(int socket_fd) {
  using Answer = std::variant<ReceivedWelcome, Reject>;
  auto received = Receive(socket_fd);
  if (!received) return received.error();
  auto reader = TlvReader::Parse(received->bytes);
  if (!reader) return reader.error();
  if (reader->type() == MessageType::kReject) {
    Reject reject;
    if (!received->fds.empty() || !Take(reader->Text(Tag::kReason, kMaxReasonBytes), reject.reason)) {
      return CorruptPeer("is no valid REJECT");
    }
    return Answer(std::move(reject));
  }
  if (reader->type() != MessageType::kWelcome) return CorruptPeer("is neither WELCOME nor REJECT");
  if (received->fds.size() != 1) return CorruptPeer("does not carry one descriptor");
  ReceivedWelcome result;
  Welcome& welcome = result.welcome;
  const bool complete = Take(reader->Number<uint64_t>(Tag::kSessionId), welcome.session_id) &&
                        Take(reader->Number<uint64_t>(Tag::kFeatureBits), welcome.feature_bits) &&
                        Take(reader->Text(Tag::kDaemonVersion, kMaxNameBytes), welcome.daemon_version);
  if (!complete) return CorruptPeer("lacks a field of a WELCOME, or one is malformed");
  result.ctl_fd = std::move(received->fds.front());
  return Answer(std::move(result));
}

}  // namespace ikkuna::shm
