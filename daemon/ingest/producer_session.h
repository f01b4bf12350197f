// ProducerSession: one connection of one producer, from WELCOME to its end, on a thread of its own.
//
// The thread polls: it reads the registry, drains the ring through the producer's graph, offers the finished batches to
// every sink with how far it is, keeps the demand in CTL up to date, and watches the peer. What went wrong with the
// producer ends the session or quarantines it; it never ends the daemon.
//
// How a session ends:
//   finished / switched_off  the producer said so and closed its socket; all it published is handled
//   died                     its pidfd says so; what it committed is handled, the rest is counted as killed
//   disconnected             its socket closed while it lives: the session lingers until it dies or comes back
//   quarantined              it broke the format: nothing more is read; the session lingers until it dies
//   stop                     the daemon ends: it stops reading first; the socket closes with the object. A producer
//                            that ended before that is finished or died all the same
// Owner: Ingest. Thread rule: public methods from any thread, except where noted.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "daemon/graph/graph.h"
#include "daemon/graph/subscriber_set.h"
#include "daemon/ingest/drain.h"
#include "daemon/ingest/registry_names.h"
#include "daemon/ingest/session_report.h"
#include "daemon/ingest/step_meter.h"
#include "daemon/monitor.h"
#include "daemon/sample.h"
#include "daemon/series_catalogue.h"
#include "daemon/sinks/store.h"
#include "shared/ctl.h"
#include "shared/handshake.h"
#include "shared/pub.h"

namespace ikkuna::ingest {

// What every session works with. The objects outlive Ingest.
struct IngestContext {
  SeriesCatalogue* catalogue = nullptr;
  graph::SubscriberSet* subscribers = nullptr;
  sinks::Store* store = nullptr;  // one of `sinks`
  std::vector<SampleSink*> sinks;
  uint32_t budget_ppm = 10'000;  // share of the step time that a probe may cost; 0: no budget
  std::string version;           // told to the producer
  // Payload sources of a new session; empty: the host arena alone.
  std::function<std::vector<std::unique_ptr<PayloadSource>>()> make_sources;
};

// A producer that said HELLO.
struct Peer {
  UniqueFd socket;
  shm::PeerCredentials credentials;
  shm::Hello hello;
  std::unique_ptr<shm::PubView> view;
};

class ProducerSession {
 public:
  static constexpr int kBusyPollMs = 2;                      // a step's results are on their way within this
  static constexpr int kIdlePollMs = 50;                     // 20 looks a second cost next to nothing
  static constexpr uint64_t kBusyForNs = 10'000'000'000;     // after the last record
  static constexpr uint64_t kProgressNs = 250'000'000;       // how late the store may learn of progress without samples
  static constexpr uint64_t kSaveNs = 1'000'000'000;         // how old the stored counters of a live producer may be
  static constexpr uint64_t kRecordsPerTurn = 4096;          // between two looks at demand and peer
  static constexpr uint64_t kPayloadWaitNs = 1'000'000'000;  // how long a dead producer's payloads may become ready
  static constexpr size_t kNotesToldMax = 50;                // events of one session; status has them all
  static constexpr size_t kCommandsWaitingMax = 65'536;      // a freeze of every module of the largest model

  // Decides where to go on from what earlier sessions did, makes CTL, and starts the thread, which sends WELCOME. An
  // error's text is for the REJECT.
  static Result<std::unique_ptr<ProducerSession>> Start(const IngestContext& context, Peer peer, const Ledger& before,
                                                        bool resumed);
  // Ends the thread if it still runs; closes the socket.
  ~ProducerSession();
  ProducerSession(const ProducerSession&) = delete;
  ProducerSession& operator=(const ProducerSession&) = delete;

  // Stops reading, handles what is committed, and ends; the socket stays open. `replaced`: the producer is back on
  // another socket. Returns at once; Join() waits.
  void RequestEnd(bool replaced);
  void Join();
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  bool quarantined() const { return quarantined_.load(std::memory_order_acquire); }
  // The peer's end of the socket is closed.
  bool peer_gone() const;

  const Uuid& uuid() const { return uuid_; }
  const RunKey& run_key() const { return run_key_; }
  ProducerStatus status() const;
  Ledger ledger() const;  // after the end: what the next session of this producer begins with
  std::vector<ModuleInfo> Modules() const;
  Result<std::vector<RegistryNames::Target>> FindTargets(const std::string& pattern) const;

  // All or none; sent in order as the producer takes them.
  Status PushCommands(const std::vector<shm::Command>& commands);
  // From the store's thread: everything up to `seq` is safe.
  void SetCommitted(uint64_t seq) { committed_.store(seq, std::memory_order_relaxed); }
  // Have a look now: subscriptions or commands changed.
  void Wake();

 private:
  enum class End { kNone, kStop, kReplaced, kClosed, kDied, kFailed };

  ProducerSession(const IngestContext& context, Peer peer, const Ledger& before, bool resumed);

  // Ingest thread.
  void Run();
  bool Begin();
  void Wait(bool busy);
  bool LookAtPeer(int timeout_ms);
  bool LeftInOrder();
  void Turn();
  Result<uint64_t> Pump(uint64_t records_max, uint64_t end);
  Status TakeRegistry();
  void TellNews();
  void UpdateDemand();
  void SendCommands();
  void OfferEmitted();
  void OfferProgress(bool even_if_unmoved);
  void OfferEvent(Severity severity, const std::string& kind, const std::string& text);
  void OfferRunEnded(const std::string& state);
  void TakeNumbers();
  void ShowState(const std::string& state);
  void Snapshot();
  void SaveNow(const std::string& state);
  void SaveSometimes();
  void Quarantine(const std::string& why);
  void DrainTo(uint64_t end);
  void DrainLast();
  void CountKilled();
  void FinishLast();
  std::string StateText() const;

  // Constant after construction.
  const IngestContext context_;
  const Uuid uuid_;
  RunKey run_key_;
  const bool resumed_;
  UniqueFd socket_;
  shm::PeerCredentials credentials_;
  UniqueFd wake_;  // eventfd
  std::unique_ptr<shm::PubView> view_;
  std::unique_ptr<shm::CtlWriter> ctl_;
  uint64_t session_id_ = 0;
  uint64_t feature_bits_ = 0;
  uint64_t lost_at_start_ = 0;  // records that an earlier daemon lost, found at the start

  // Ingest thread only.
  std::shared_ptr<const ProducerInfo> info_working_;
  std::unique_ptr<graph::Graph> graph_;
  std::unique_ptr<Drain> drain_;
  std::vector<Batch> emitted_;
  Ledger working_;
  uint64_t handled_before_ = 0;
  uint64_t incomplete_before_ = 0;
  uint64_t progress_offered_seq_ = 0;
  uint64_t progress_offered_ns_ = 0;
  uint64_t last_record_ns_ = 0;
  uint64_t committed_told_ = 0;
  uint64_t command_last_ = 0;  // number of the last command sent; 0: none
  uint64_t saved_ns_ = 0;
  uint64_t saved_steps_ = 0;
  std::string saved_state_;
  uint64_t saved_attempted_ = 0;
  uint64_t saved_handled_ = 0;
  uint64_t modules_saved_ = 0;  // RegistryNames versions
  uint64_t facts_saved_ = 0;
  bool demand_full_told_ = false;
  RegistryNames::News news_;
  size_t notes_told_ = 0;
  bool socket_closed_ = false;
  bool peer_died_ = false;
  bool meter_ended_ = false;
  bool more_ = false;  // the last turn left records behind
  End end_ = End::kNone;

  std::atomic<uint64_t> committed_{0};
  std::atomic<int> requested_{0};  // End that another thread asks for
  std::atomic<bool> ended_{false};
  std::atomic<bool> quarantined_{false};

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::shared_ptr<const ProducerInfo> info_;
  std::string state_ = "running";
  SessionNumbers numbers_;
  RegistryNames names_;
  StepMeter meter_;
  std::vector<std::string> own_notes_;  // weaker guarantees of this kernel
  std::deque<shm::Command> commands_;

  std::thread thread_;
};

}  // namespace ikkuna::ingest
