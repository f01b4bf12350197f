// Session: the torch-free half of the probe. Owns PUB, meets the daemon, holds the demand, publishes messages.
//
// A service thread connects and reconnects, backs the arena, keeps the clock pair and notices the daemon's end;
// training threads only publish and look at the demand. Nothing here throws or waits (but WaitForDaemon, which the
// trainer asks for). Owner: the front end (ikkuna::Probe or the C interface). Stop order: no training thread may be
// inside a call when the Session is destroyed; its service thread is joined first, then the segments go. One that is never
// destroyed ends its thread when the process exits.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "probe/core/budget.h"
#include "probe/core/cost.h"
#include "probe/core/demand.h"
#include "probe/core/identity.h"
#include "probe/core/names.h"
#include "probe/core/notices.h"
#include "probe/core/pace.h"
#include "shared/base/fork_guard.h"
#include "shared/base/unique_fd.h"
#include "shared/ctl.h"
#include "shared/passes.h"
#include "shared/pub.h"
#include "shared/stats/tensor_stats.h"

namespace ikkuna::probe {

struct SessionOptions {
  IdentityOptions identity;
  std::string directory;  // empty: the default
  uint64_t arena_mb = 0;  // 0: IKKUNA_ARENA_MB, else 256
  uint64_t late_bytes = 0;  // room for what is announced before it is there; 0: none
  uint32_t ring_slots = shm::kDefaultRingSlots;
  uint32_t budget_ppm = 10'000;  // 0: no budget
  shm::Control control = shm::Control::kNone;
  bool takes_all_commands = false;  // with kAll: evaluate and capture, too
  // Asked on the service thread, under no lock, when a command to several ranks is being prepared: whether this one
  // acknowledges; if not, again with its next turn. Empty: it does.
  std::function<bool()> prepared;
  int retry_refused_ms = 60'000;  // a daemon that refused this run is asked again after so long
};

// What stands in every record of one message but its content.
struct MessageHeader {
  Kind kind = Kind::kInvalid;
  uint16_t root = 0;
  uint16_t tag = kTagDefault;
  uint16_t call = 0;  // of the module within the pass
  uint32_t pass = 0;  // of the root; 0: belongs to the step as a whole
  uint32_t module = 0;
  uint32_t param = 0;
  uint64_t step = 0;
  uint32_t train_step = 0;
  uint32_t epoch = 0;
  uint16_t flags = 0;
  // Set of kinds (KindBit) of which a message was dropped, kept by the message's pass, or by its step where it has none;
  // null: it belongs to neither. That of batch_finished is the step's, and has in it what its passes lost.
  std::atomic<uint64_t>* dropped_kinds = nullptr;
};

// What batch_finished and passes_named say of their root's passes. A root numbers its passes from 1 on with NextPass(),
// training and evaluation alike, over all steps and threads. Where something is due a pass begins with a marker
// pass_started (its number in MessageHeader::pass), which the thread that opens it publishes before any other message
// of it: without that the daemon takes the pass for one whose beginning was lost. A step is made of the passes that its
// markers name, whatever step their messages bear; nobody else's messages go into it.
struct StepPasses {
  // Ascending. Each pass is named once. A step of many names them as they come to an end (PublishMarker with
  // passes_named, of the open step's header, some kNameAtOnce at a time): what waits for its name takes memory in the
  // daemon, which discards the oldest beyond 128 MiB of a producer.
  std::span<const uint32_t> named;
  uint32_t named_before = 0;  // of this step, by markers before this one
  // No pass before this one will be named any more, or publish: the lowest that is open, or whose naming marker is not
  // published yet; where there is none, the number that the next will take. 0: not told.
  uint32_t lowest_open = 0;
  static constexpr size_t kNameAtOnce = 64;
};

class Session {
 public:
  // Null, with the reason on stderr, when the process has a session already, IKKUNA=off, or memory cannot be had.
  static std::unique_ptr<Session> Open(const SessionOptions& options);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // False in a forked child and after SwitchOff(): the caller does nothing more. One relaxed load each.
  bool active() const { return fork_guard_.in_owner() && !off_.load(std::memory_order_relaxed); }
  bool in_owner() const { return fork_guard_.in_owner(); }  // not in a forked child
  // Prints a line on stderr, from the service thread: a training thread does not wait for whoever reads there.
  void Say(const std::string& text) {
    if (in_owner()) notices_.Say(text);
  }
  // Our own failure: the session is off from here on, and training goes on. The service thread says so, once, and calls
  // what SetTick() was given for that.
  void SwitchOff(const std::string& reason) noexcept;

  const Identity& identity() const { return identity_; }

  // --- Names (names.h).
  uint16_t AddRoot(const std::string& name) { return names_->AddRoot(name); }
  uint32_t AddModule(uint16_t root, const std::string& path, const std::string& type, uint32_t flags) {
    return names_->AddModule(root, path, type, flags);
  }
  void RenewModule(uint32_t id, uint16_t root, const std::string& path, const std::string& type, uint32_t flags) {
    names_->RenewModule(id, root, path, type, flags);
  }
  uint32_t AddParam(uint16_t root, uint32_t module, const std::string& name, const TensorShape& shape, uint32_t flags) {
    return names_->AddParam(root, module, name, shape, flags);
  }
  void RenewParam(uint32_t id, uint16_t root, uint32_t module, const std::string& name, const TensorShape& shape,
                  uint32_t flags) {
    names_->RenewParam(id, root, module, name, shape, flags);
  }
  void AddShard(uint32_t param, const std::vector<int64_t>& sizes, const std::vector<int64_t>& offsets) {
    names_->AddShard(param, sizes, offsets);
  }
  uint16_t TagId(const std::string& name) { return names_->TagId(name); }  // kNoTag: there is no room for it
  std::string TagName(uint16_t id) { return names_->TagName(id); }
  uint32_t NameId(const std::string& name) { return names_->NameId(name); }
  void AddFact(const std::string& key, const std::string& value) { names_->AddFact(key, value); }
  void AddNote(const std::string& text) { names_->AddNote(text); }

  // --- Demand.
  // A caller's copy of what is asked, with the version it was taken at.
  struct DemandCopy {
    std::shared_ptr<const DemandTable> table;
    uint64_t version = 0;
  };
  // Brings the copy up to date if it changed and can be read now; else leaves it. Two loads when nothing changed. With
  // IKKUNA_WAIT_MS an empty copy waits for the lock. True: it is what is asked now.
  bool RefreshDemand(DemandCopy& copy);
  // Another number whenever what is due may have changed: by the daemon, by its coming or going, by the budget.
  uint64_t demand_generation() const;
  // What is due of a pass that begins now.
  StepDemand DemandAt(const DemandCopy& copy, uint16_t root, uint16_t tag, uint64_t step, const PeriodShifts& shifts) {
    return {copy.table, root, tag, step, shifts, arena_ready(), &pace_};
  }
  // It has what memory it ever gets: whole tensors can travel, or never will.
  bool arena_ready() const { return arena_tried_.load(std::memory_order_acquire) || !takes(shm::kFeatureArena); }
  // False: a payload of so many bytes can never travel, however empty the arena is. Its statistics can.
  bool FitsArena(uint64_t bytes) const {
    if (!takes(shm::kFeatureArena)) return false;
    return !arena_tried_.load(std::memory_order_acquire) || bytes <= pub_->arena_extent();
  }
  // Of what this probe offers, whether the daemon of this session takes it.
  bool takes(shm::FeatureBit feature) const { return (features_.load(std::memory_order_relaxed) & feature) != 0; }
  // Says once for each kind that its whole tensors do not fit.
  void NoteOversize(Kind kind, uint64_t bytes);
  // Blocks at most the milliseconds of IKKUNA_WAIT_MS, once, until a daemon has answered and knows all names.
  void WaitForDaemon();
  bool connected() const { return connected_.load(std::memory_order_relaxed); }

  // --- Publishing. What is not published is counted, and its kind noted at its step; the return value says whether it
  // was. What belongs to a name, module or tag that has no id is dropped as unnamed.
  bool PublishSummary(const MessageHeader& header, const TensorShape& shape, const TensorStats& stats);
  // `fill` writes exactly the payload's bytes to its argument.
  // What `fill` throws leaves a void record, and this call.
  template <typename Fill>
  bool PublishTensor(const MessageHeader& header, const TensorShape& shape, uint64_t bytes, Fill&& fill) {
    if (!IsNamed(header)) return DropUnnamed(header);
    shm::Reservation reservation = pub_->Reserve(Space::kHostArena, bytes);
    if (!reservation) return NoteDrop(header);
    try {
      fill(reservation.payload());
    } catch (...) {
      NoteDrop(header);
      throw;
    }
    FillRecord(reservation.record(), header, RecordType::kTensor, Space::kHostArena, &shape);
    reservation.Commit();
    return true;
  }
  // A message whose bytes come later (Space::kHostLate): a tensor's, the TensorStats of a summary, the double of a scalar. Of
  // one kind, module, parameter and pass all come late or none does. `launch` is given the reservation, takes its span
  // (TakeLate()) when it is sure that somebody fills it, and touches no other; what it throws leaves a void record, and this
  // call. `shape`: null for a scalar.
  template <typename Launch>
  bool PublishLate(const MessageHeader& header, RecordType type, const TensorShape* shape, uint64_t bytes,
                   Launch&& launch) {
    if (!IsNamed(header)) return DropUnnamed(header);
    shm::Reservation reservation = pub_->Reserve(Space::kHostLate, bytes);
    if (!reservation) return NoteDrop(header);
    try {
      launch(reservation);
    } catch (...) {
      NoteDrop(header);
      throw;
    }
    FillRecord(reservation.record(), header, type, Space::kHostLate, shape);
    reservation.Commit();
    return true;
  }
  // The most bytes that one such message may have; 0: there is no room, or the daemon takes none.
  uint64_t late_room() const {
    const uint64_t bytes = pub_->header().late_bytes;
    return bytes == 0 || !takes(shm::kFeatureLateBytes) ? 0 : bytes - sizeof(shm::LateSpanHeader);
  }
  // A message whose tensor could not be read; one that belongs to what has no id (returns false, always).
  void CountFailed(const MessageHeader& header) noexcept;
  bool DropUnnamed(const MessageHeader& header) noexcept;
  bool PublishScalar(const MessageHeader& header, double value);
  bool PublishText(const MessageHeader& header, std::string_view text);
  // `samples`: of batch_finished, training samples up to this step; 0: unknown. Carries what was dropped of the step.
  // `passes`: of batch_finished and passes_named; where one record does not reach them all, further ones go before it.
  bool PublishMarker(const MessageHeader& header, uint64_t samples = 0, const StepPasses& passes = {});

  // --- Status words; the step boundary of each root.
  // Of a root without an id: words that nobody reads.
  shm::RootStatus& root_status(uint16_t root) {
    return root >= 1 && root <= kMaxRoots ? pub_->status().roots[root - 1] : no_root_;
  }
  // A step of `step_ns` ended, of which these kinds were due (KindBit set), those of passes between it and the one
  // before included. `rare`: a pass among them came rarely, so that no period changes what it cost. Returns the shifts
  // for the next step.
  PeriodShifts StepFinished(uint64_t step_ns, const StepCost& cost, uint64_t due_kinds, bool rare = false);
  PeriodShifts shifts() const { return budget_.shifts(); }
  void SetFinished();
  // Ends the service thread and the connection; what was published stays readable. Names and publishing do nothing
  // then.
  void Close();

  // --- Back channel. Commands are taken, which acknowledges them, by the service thread or at a boundary, and wait for
  // the boundary at which they act. Calls `handle` for each that is due when `step` of `root` is about to begin (none:
  // at a boundary that is not one of training). A command whose step had begun before is reported and does nothing.
  void HandleCommands(uint16_t root, std::optional<uint64_t> step,
                      const std::function<void(const shm::Command&)>& handle);
  // Some were taken and wait.
  bool commands_wait() const { return commands_next_.load(std::memory_order_acquire) != UINT64_MAX; }
  bool allow_control() const { return options_.control != shm::Control::kNone; }

  // Called by the service thread: `tick` about four times a second, for watchdogs; `switched_off` once, when the session
  // has switched itself off. Neither is called any more when this returns from setting others.
  void SetTick(std::function<void()> tick, std::function<void()> switched_off = {});

  // Commands that wait for their step; beyond it none is taken: a freeze of every module of the largest model.
  static constexpr size_t kMaxCommands = 65'536;
  // CTL mappings kept after their session: a training thread may still be reading one, for microseconds.
  static constexpr size_t kMaxRetired = 16;
  // A daemon whose heartbeat is so old hangs or is stopped, and the trainer's terminal says so.
  static constexpr uint64_t kSilentDaemonNs = 30'000'000'000;

 private:
  explicit Session(const SessionOptions& options);
  bool CreateSegments();
  bool CreatePub();
  void Serve() noexcept;
  void ServeUntilStopped();
  void Tick();
  void LookAtDaemon();
  void CountUnwatched();
  void CallSwitchedOff();
  void Wake();
  static void EndAtExit();
  void JoinService();
  void Connect();
  void Unreachable(const std::string& why);
  void Disconnect();
  void ReadAnswer();
  void Refused(const std::string& why);
  void WatchSocket(int timeout_ms);
  void BackArenaIfAsked();
  void WaitForDemand(uint64_t wait_ms);
  void FillRecord(shm::Record& record, const MessageHeader& header, RecordType type, Space space,
                  const TensorShape* shape);
  static bool IsNamed(const MessageHeader& header);
  bool NoteDrop(const MessageHeader& header) noexcept;     // false, always
  bool MayDo(const shm::Command& command);
  bool PublishMarkerRecord(const MessageHeader& header, const shm::MarkerInfo& marker);
  // `prepares`: it may acknowledge preparations. True: one waits for that.
  bool TakeCommands(const shm::CtlView& ctl, bool prepares);
  void TakeCommandsOnService();
  void SetCommandsNext();
  uint64_t DemandVersion() const;
  void SetCtl(std::shared_ptr<const shm::CtlView> ctl);

  // Constant after construction.
  const SessionOptions options_;
  Identity identity_;
  std::string directory_;
  const uint64_t wait_ms_;  // IKKUNA_WAIT_MS
  uint64_t arena_bytes_ = 0;
  std::unique_ptr<shm::PubWriter> pub_;
  std::unique_ptr<Names> names_;
  ForkGuard fork_guard_;
  Notices notices_;
  shm::RootStatus no_root_{};

  std::atomic<bool> off_{false};
  std::atomic<bool> connected_{false};
  std::atomic<bool> arena_tried_{false};
  std::once_flag waited_;
  std::atomic<uint64_t> features_{~uint64_t{0}};  // of the session, or of the one before; at first all
  Budget budget_;
  Pace pace_;

  mutable std::mutex session_mutex_;
  // Guarded by session_mutex_.
  std::shared_ptr<const shm::CtlView> ctl_;
  std::shared_ptr<const DemandTable> table_;
  uint64_t table_version_ = 0;
  std::deque<std::shared_ptr<const shm::CtlView>> retired_;
  // Training threads read the generation word through this without a lock, so views stay mapped for kMaxRetired
  // sessions.
  std::atomic<const shm::CtlView*> live_ctl_{nullptr};
  std::atomic<uint32_t> session_count_{0};  // high half of a demand version; the low half is CTL's generation

  std::mutex commands_mutex_;
  std::deque<shm::Command> commands_;  // guarded by commands_mutex_: taken, not due yet
  // Least argument of a command that waits: boundaries before its step have nothing to look for. UINT64_MAX: none
  // waits.
  std::atomic<uint64_t> commands_next_{UINT64_MAX};
  std::atomic<uint64_t> oversize_kinds_{0};  // noted

  // Service thread.
  std::atomic<bool> stop_{false};
  std::atomic<bool> closed_{false};  // by Close()
  UniqueFd wake_;  // eventfd: written once, at the end
  std::mutex tick_mutex_;
  // Guarded by tick_mutex_.
  std::function<void()> tick_;
  std::function<void()> switched_off_;
  std::atomic<bool> refused_{false};  // by the daemon that was met last, or none can be met
  std::atomic<bool> ended_{false};    // the service thread has nothing more to do
  // Service thread only.
  std::string refusal_;       // the last that was printed
  std::string unreachable_;   // the same
  bool lie_noted_ = false;    // in this session
  uint64_t steps_looked_at_ = 0;  // StepsMade when it was last known whether a daemon was there
  bool silence_said_ = false;
  UniqueFd socket_;
  std::mutex join_mutex_;
  std::thread service_;  // joined under join_mutex_
};

}  // namespace ikkuna::probe
