// How the two processes meet: the directory, its lock, the socket, and the three messages HELLO, WELCOME, REJECT.
//
// Messages are single SOCK_SEQPACKET datagrams: u32 magic "IKKH", u16 version, u16 message type, then TLVs
// (u16 tag, u16 length, bytes, padded to 4). Unknown TLVs are skipped; a missing required one is an error.
// A tag comes at most once. Everything read from a peer is bounded and validated before it is returned. Thread rule:
// none, no state; one thread a socket.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include <sys/types.h>

#include "shared/base/result.h"
#include "shared/base/unique_fd.h"
#include "shared/pub.h"

namespace ikkuna::shm {

// $IKKUNA_DIR, else $XDG_RUNTIME_DIR/ikkuna, else /tmp/ikkuna-<uid>.
std::string DefaultDirectory();
// "<directory>/probe.sock": where producers meet the daemon. (The daemon's gRPC socket is "<directory>/grpc.sock".)
std::string ProbeSocketPath(const std::string& directory);

// What a producer says of itself. Identity is the kernel's; what is said here decides where its values are kept.
struct Hello {
  std::array<unsigned char, 16> uuid{};
  std::string run_id;
  bool run_id_made_up = false;  // nobody named the run: the id is this process's own, whatever job it is of
  std::string run;  // display name
  bool has_attempt = false;  // the scheduler told its restart count, or the trainer did
  uint32_t attempt = 0;      // that count; else 0
  uint32_t rank = 0;
  uint32_t world_size = 1;
  bool resume = false;      // the trainer goes on with the attempt before
  uint64_t start_step = 0;  // its first step; above 0 says the same
  std::string job_address;  // MASTER_ADDR; empty: not known
  std::string job_port;     // MASTER_PORT
  uint64_t feature_bits = 0;
  Heads heads{};  // last heads of the daemon that the probe accepted
};
struct Welcome {
  uint64_t session_id = 0;
  uint64_t feature_bits = 0;
  std::string daemon_version;
};
struct Reject {
  std::string reason;
};

// Peer identity from the kernel.
struct PeerCredentials {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
  UniqueFd pidfd;  // invalid where the kernel has none: liveness falls back to the socket
};
Result<PeerCredentials> ReadPeerCredentials(int socket_fd);

// Creates the directory (0700, or 0711 with allow_others), checks that it is ours, no symlink, and that nobody else may
// write to it; one that exists keeps its mode but for allow_others' 0011. Error texts name the path.
Status PrepareDirectory(const std::string& directory, bool allow_others);

// Exclusive lock on the directory; the error (kAlreadyExists) names the holder's pid and its state (running, stopped).
// Forked children that keep the descriptor keep the lock; exec closes it. The file stays: it is the lock's name, and
// holds the note of shared/daemon_note.h.
class DirectoryLock {
 public:
  static Result<DirectoryLock> Take(const std::string& directory);
  int fd() const { return fd_.get(); }

 private:
  explicit DirectoryLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

// Listening socket of the daemon (replaces a stale one; the lock must be held), CLOEXEC and non-blocking.
Result<UniqueFd> ListenForProducers(const std::string& directory, bool allow_others);
// Connects as a producer, without waiting. kUnavailable when no daemon listens or its queue is full; kPermissionDenied
// when the listener is neither of our user, nor root's, nor (in a directory that was chosen, not the one in /tmp that
// anybody could have made) of the user who owns the directory: tensors go to nobody else.
Result<UniqueFd> ConnectToDaemon(const std::string& directory);

// All sends are MSG_DONTWAIT|MSG_NOSIGNAL. Texts are written as WireName() does to kMaxNameBytes, a reason is cut to
// kMaxReasonBytes.
constexpr size_t kMaxReasonBytes = 1024;
Status SendHello(int socket_fd, const Hello& hello, int pub_fd);
Status SendWelcome(int socket_fd, const Welcome& welcome, int ctl_fd);
Status SendReject(int socket_fd, const Reject& reject);

struct ReceivedHello {
  Hello hello;
  UniqueFd pub_fd;
};
struct ReceivedWelcome {
  Welcome welcome;
  UniqueFd ctl_fd;
};
// Non-blocking: kUnavailable when nothing is there yet, kFailedPrecondition when the peer closed the connection,
// kCorrupt for a message that breaks the format, kResourceExhausted where its descriptor found no room here. A
// descriptor that is not returned has been closed.
Result<ReceivedHello> ReceiveHello(int socket_fd);
Result<std::variant<ReceivedWelcome, Reject>> ReceiveAnswer(int socket_fd);

}  // namespace ikkuna::shm
