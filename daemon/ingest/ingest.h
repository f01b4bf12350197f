// Ingest: every producer of this daemon, the connected ones and those that were.
//
// Owner: the daemon's main. Thread rule: public methods from any thread. Stop order: the Acceptor first (it admits),
// then Stop(), then the store is flushed, then the object goes, which closes the producers' sockets.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/ingest/producer_session.h"
#include "daemon/ingest/run_registry.h"

namespace ikkuna::ingest {

class Ingest {
 public:
  static constexpr size_t kPastMax = 256;  // producers that ended and are still shown; the store has all of them
  static constexpr uint64_t kPastCheckNs = 5'000'000'000;  // how late the death of one that never came back is noticed

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
  // The session of a run that is connected now; null: none.
  std::shared_ptr<ProducerSession> FindLive(const RunKey& run) const;
  // For the store's commit callback.
  void OnCommitted(const Uuid& producer, uint64_t done_seq);
  // Subscriptions changed.
  void WakeAll();
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
  };
  void ReapLocked();
  void Keep(const ProducerSession& session);
  Past* FindPast(const Uuid& uuid);
  Ledger LedgerOf(const Uuid& uuid, bool& known);
  void LoadPast();
  Status PlaceRun(Peer& peer);

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
};

}  // namespace ikkuna::ingest
