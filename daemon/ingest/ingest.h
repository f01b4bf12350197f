// Ingest: every producer of this daemon, the connected ones and those that were.
//
// Owner: the daemon's main. Thread rule: public methods from any thread. Stop order: the Acceptor first (it admits),
// then Stop(), then the sinks are flushed, then the object goes, which closes the producers' sockets.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "daemon/ingest/ingest_context.h"
#include "daemon/ingest/run_registry.h"
#include "daemon/ingest/session_report.h"
#include "daemon/model/batch.h"
#include "daemon/model/run.h"
#include "daemon/model/status.h"
#include "shared/base/result.h"
#include "shared/base/unique_fd.h"
#include "shared/handshake.h"
#include "shared/pub.h"

namespace ikkuna::ingest {

class ProducerSession;

// A producer that said HELLO.
struct Peer {
  UniqueFd socket;
  shm::PeerCredentials credentials;
  shm::Hello hello;
  std::unique_ptr<shm::PubView> view;
};

class Ingest {
 public:
  static constexpr size_t kPastMax = 256;  // producers that ended and are still shown; the store has all of them
  static constexpr uint64_t kPastCheckNs = 5'000'000'000;  // how late the death of one that never came back is noticed
  static constexpr uint64_t kFailedPauseNs = 60'000'000'000;  // a producer at which we failed is read again after this

  // Looks up in the store whom an earlier daemon served: they may come back, or have died meanwhile.
  explicit Ingest(IngestContext context);
  ~Ingest();
  Ingest(const Ingest&) = delete;
  Ingest& operator=(const Ingest&) = delete;

  // A producer said HELLO. The error's text is for its REJECT.
  Status Admit(Peer& peer);
  // Joins sessions that ended. Called now and then by the acceptor.
  void Reap();
  // Ends every session after it handled what is committed. Their sockets stay open until the destructor.
  void Stop();

  // Connected first, each group by start time.
  std::vector<ProducerStatus> Producers() const;
  // The modules of a run that is connected now; none: it is not.
  std::optional<std::vector<ModuleInfo>> Modules(const RunKey& run) const;
  // The sessions of a run's attempt that are connected now, by rank.
  std::vector<std::shared_ptr<ProducerSession>> FindLive(const std::string& run_id, uint32_t attempt) const;
  // For the store's commit callback: every record up to `done_seq` is safe.
  void OnCommitted(const RunKey& run, uint64_t done_seq);
  // Subscriptions changed.
  void WakeAll();
  // From here on runs of one user are not another's.
  void ExpectSeveralUsers();
  // An event of the daemon itself (`run` empty) or about a run, to every sink.
  void OfferEvent(Severity severity, const std::string& kind, const std::string& text, const RunKey& run = {});

  size_t live() const;
  // Sessions whose producer can still send something.
  size_t connected() const;
  uint64_t admitted() const { return admitted_.load(std::memory_order_relaxed); }

 private:
  struct Past {
    ProducerStatus status;
    Ledger ledger;
    uint64_t paused_until_ns = 0;  // CLOCK_MONOTONIC
    uint64_t away_until_ns = 0;    // of one that is disconnected and cannot be seen: it may come back until then
  };
  void LoadPast();
  void LearnFound();
  void TakePast(ProducerStatus status, bool shown);
  void BoundPast();
  bool IsKnown(const Uuid& uuid) const;
  void AddStranger(const RunKey& key);
  static bool Lives(const Past& past);  // its process, as far as is known
  bool CloseIfDead(Past& past) const;
  void OfferUnseenEnd(const ProducerStatus& status);
  void ReapLocked();
  void Forget(const Run& run);
  void Keep(const ProducerSession& session);
  Past* FindPast(const Uuid& uuid);
  Ledger LedgerOf(const Uuid& uuid, const RunKey& run);
  Status MayEnter(const Peer& peer);
  Status EndSessionOf(const Uuid& uuid);
  void SeeWhoLives(pid_t applicant);
  // The run that the peer's values are kept under, with its placement.
  Result<std::shared_ptr<Run>> BeginRun(const Peer& peer, Placement& placement);

  // Constant after construction.
  const IngestContext context_;

  std::atomic<uint64_t> admitted_{0};
  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<std::shared_ptr<ProducerSession>> sessions_;
  std::deque<Past> past_;
  RunRegistry registry_;
  uint64_t past_checked_ns_ = 0;
  uint32_t strangers_ = 1;  // keys that the store has, of producers that we do not know under them
};

}  // namespace ikkuna::ingest
