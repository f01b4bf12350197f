// Acceptor: the door of the probe socket. Takes connections, asks the kernel who is there, receives HELLO, and passes
// the producer to Ingest or sends it away with a reason.
//
// One thread that never waits for a peer: sockets are non-blocking, HELLO has a deadline, the number of peers that have
// not said it is bounded. Whatever a peer sends costs it its connection at worst.
// Owner: the daemon's main; Ingest outlives it. Stop order: first of all parts.
#pragma once

#include <poll.h>
#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "daemon/ingest/ingest.h"
#include "shared/base/result.h"
#include "shared/base/unique_fd.h"

namespace ikkuna::ingest {

struct AcceptorOptions {
  std::string directory;          // prepared, its lock held
  std::vector<uid_t> allow_uids;  // besides our own, at first
  int hello_timeout_ms = 5000;    // a probe sends HELLO at once; a swapped-out one within seconds
};

class Acceptor {
 public:
  static constexpr size_t kPendingMax = 2 * kMaxProducers;  // connected, no HELLO yet; beyond it new ones are closed
  static constexpr int kReapMs = 500;                       // how late an ended session is noticed
  static constexpr uint64_t kEventEveryNs =
      1'000'000'000;  // refusals are told at most once a second, with their number

  static Result<std::unique_ptr<Acceptor>> Start(const AcceptorOptions& options, Ingest& ingest);
  // Stops the thread, closes and removes the socket.
  ~Acceptor();
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  // Who may connect from here on, besides our own. Producers that are connected stay. From any thread. Error: the mode of
  // the socket cannot be set.
  Status Allow(std::vector<uid_t> uids);

  uint64_t refused() const { return refused_.load(std::memory_order_relaxed); }

 private:
  struct Pending {
    UniqueFd socket;
    shm::PeerCredentials credentials;
    uint64_t deadline_ns = 0;
  };
  Acceptor(const AcceptorOptions& options, Ingest& ingest)
      : options_(options), ingest_(ingest), allow_uids_(options.allow_uids) {}
  void Run();
  void Turn(std::vector<pollfd>& fds);
  void AcceptAll();
  bool Serve(Pending& pending, short revents);  // true: done with it
  Status Admit(Pending& pending, shm::ReceivedHello hello);
  void Refuse(int socket, pid_t pid, const std::string& why);
  void TellRefusals();
  void TellFailures();
  bool Allowed(uid_t uid);

  // Constant after construction.
  const AcceptorOptions options_;
  Ingest& ingest_;
  UniqueFd listener_;
  UniqueFd wake_;  // eventfd

  std::mutex mutex_;
  std::vector<uid_t> allow_uids_;  // guarded by mutex_

  // Acceptor thread only.
  std::vector<Pending> pending_;
  uint64_t told_ = 0;
  uint64_t told_ns_ = 0;
  std::string last_refusal_;
  uint64_t failures_ = 0, failures_told_ = 0;  // looks that ended with an exception
  uint64_t failure_told_ns_ = 0;
  std::array<char, 256> last_failure_{};  // needs no memory
  uint64_t pause_until_ns_ = 0;  // out of descriptors: no accept before

  std::atomic<uint64_t> refused_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace ikkuna::ingest
