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
//   failed                   we could not go on reading it, for reasons of our own: it is not blamed, and may come back
//   stop                     the daemon ends: it stops reading first; the socket closes with the object. A producer
//                            that ended before that is finished or died all the same
// Owner: Ingest. Thread rule: public methods from any thread, except where noted.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "daemon/ingest/command_queue.h"
#include "daemon/ingest/drain.h"
#include "daemon/ingest/ingest.h"
#include "daemon/ingest/publisher.h"
#include "daemon/ingest/registry_names.h"
#include "daemon/ingest/session_report.h"
#include "daemon/ingest/step_meter.h"
#include "shared/ctl.h"

namespace ikkuna::ingest {

// Where a producer's session goes on.
struct Seat {
  std::shared_ptr<Run> run;
  Ledger before;                   // what earlier sessions of this producer did
  bool known = false;              // there were some
  std::vector<std::string> notes;  // of the choice of its place, for status and as events
};

class ProducerSession {
 public:
  static constexpr int kBusyPollMs = 2;                      // a step's results are on their way within this
  static constexpr int kIdlePollMs = 50;                     // 20 looks a second cost next to nothing
  static constexpr uint64_t kBusyForNs = 10'000'000'000;     // after the last record
  static constexpr uint64_t kTickNs = 50'000'000;            // how often the graph looks at the time
  static constexpr uint64_t kSaveNs = 1'000'000'000;         // how old the stored counters of a live producer may be
  static constexpr uint64_t kRecordsPerTurn = 4096;          // between two looks at demand and peer
  static constexpr uint64_t kPayloadWaitNs = 1'000'000'000;  // how long a dead producer's payloads may become ready
  static constexpr uint64_t kStopNs = 5'000'000'000;         // how long a daemon that ends goes on reading
  static constexpr uint64_t kComputeNs =
      60'000'000'000;                                   // what a trainer that has gone left to be computed has so long
  static constexpr uint64_t kFinishNs = 2'000'000'000;  // else what is still computed at the end has so long
  static constexpr size_t kNotesToldMax = 50;                // events of one session; status has them all

  // Decides where to go on from what earlier sessions did, makes CTL, and starts the thread, which sends WELCOME. An
  // error's text is for the REJECT.
  static Result<std::unique_ptr<ProducerSession>> Start(const IngestContext& context, Peer peer, Seat seat);
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
  // It ended by a failure of ours.
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  // The peer's end of the socket is closed.
  bool peer_gone() const;
  // Its process lives and has not said that it is through.
  bool alive() const;

  const Uuid& uuid() const { return uuid_; }
  const RunKey& run_key() const { return run_->key(); }
  const std::shared_ptr<Run>& run() const { return run_; }
  pid_t pid() const { return credentials_.pid; }
  uid_t uid() const { return credentials_.uid; }
  ProducerStatus status() const;
  Ledger ledger() const;  // after the end: what the next session of this producer begins with
  std::vector<ModuleInfo> Modules() const;
  Result<std::vector<RegistryNames::Target>> FindTargets(const std::string& pattern) const;
  // An attached model and where it stands.
  struct Root {
    uint16_t id = 0;
    std::string name;
    uint64_t step = 0;
    double steps_per_second = 0;        // 0: it stands still
    double usual_steps_per_second = 0;  // when it trains; 0: not known
  };
  std::vector<Root> Roots() const;

  // All or none; sent in order as the producer takes them. Returns the ticket of the last.
  Result<uint64_t> PushCommands(const std::vector<shm::Command>& commands, const std::string& what);
  // The producer has taken the commands up to this ticket.
  uint64_t commands_taken() const { return commands_.taken(); }
  void OfferEvent(Severity severity, const std::string& kind, const std::string& text) {
    publisher_->OfferEvent(severity, kind, text);
  }
  // From the store's thread: everything up to `seq` is safe.
  void SetCommitted(uint64_t seq) { committed_.store(seq, std::memory_order_relaxed); }
  // Have a look now: subscriptions or commands changed.
  void Wake();

 private:
  enum class End { kNone, kStop, kReplaced, kClosed, kDied, kFailed };

  ProducerSession(const IngestContext& context, Peer peer, Seat seat);

  // Ingest thread: its life (producer_session.cc).
  void Serve();
  void Begin();
  bool LookAtPeer(int timeout_ms);
  bool LeftInOrder();
  void Turn();
  Result<uint64_t> Pump(uint64_t records_max, uint64_t end);
  Status TakeRegistry();
  // Of a run that goes on with another and said no first step: the one that it began with.
  void LearnStart();
  void GuessStart(uint64_t step);
  void SetStart(uint64_t first);
  void NoteStartsApart();
  void TellNews();
  void UpdateDemand();
  void ServeCommands();
  // What is shown and kept of it (producer_session_state.cc).
  Progress CurrentProgress();
  std::vector<Count> Missing() const;
  void TakeNumbers();
  void ShowState(RunState state);
  void Snapshot();
  void SaveNow(RunState state);
  void SaveSometimes();
  RunState StateNow() const;
  void AddNote(const std::string& note);
  // Its ends (producer_session_ends.cc).
  void Quarantine(const std::string& why);
  void Fail(const std::string& why);
  void FinishGraph();
  void AwaitComputed();
  void DrainTo(uint64_t end);
  void DrainLast();
  void CountKilled();
  void FinishLast();
  void OfferRunEnded(RunState state);

  // Constant after construction.
  const IngestContext context_;
  const Uuid uuid_;
  const std::shared_ptr<Run> run_;
  const std::shared_ptr<Publisher> publisher_;
  const bool known_;
  UniqueFd socket_;
  shm::PeerCredentials credentials_;
  UniqueFd wake_;  // eventfd
  std::unique_ptr<shm::PubView> view_;
  std::unique_ptr<shm::CtlWriter> ctl_;
  uint64_t session_id_ = 0;
  uint64_t feature_bits_ = 0;
  uint64_t lost_at_start_ = 0;  // records that an earlier daemon lost, found at the start

  // Ingest thread only.
  std::unique_ptr<MessageGraph> graph_;
  std::unique_ptr<Drain> drain_;
  Ledger working_;
  uint64_t handled_before_ = 0;
  uint64_t last_record_ns_ = 0;
  uint64_t ticked_ns_ = 0;
  bool start_known_ = false;
  std::optional<uint64_t> guessed_start_;  // until that
  bool starts_apart_noted_ = false;
  uint64_t committed_told_ = 0;
  uint64_t saved_ns_ = 0;
  uint64_t saved_steps_ = 0;
  RunState saved_state_ = RunState::kRunning;
  uint64_t saved_attempted_ = 0;
  uint64_t saved_handled_ = 0;
  uint64_t modules_saved_ = 0;  // RegistryNames version
  bool demand_full_told_ = false;
  bool graph_finished_ = false;
  RegistryNames::News news_;
  std::vector<std::string> place_notes_;
  size_t notes_told_ = 0;
  bool socket_closed_ = false;
  bool peer_died_ = false;
  bool more_ = false;  // the last turn left records behind
  End end_ = End::kNone;

  std::atomic<uint64_t> committed_{0};
  std::atomic<int> requested_{0};  // End that another thread asks for
  std::atomic<bool> ended_{false};
  std::atomic<bool> quarantined_{false};
  std::atomic<bool> failed_{false};
  CommandQueue commands_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  RunState state_ = RunState::kRunning;
  SessionNumbers numbers_;
  RegistryNames names_;
  StepMeter meter_;
  std::vector<std::string> own_notes_;  // weaker guarantees of this kernel; how its place was chosen

  std::thread thread_;
};

}  // namespace ikkuna::ingest
