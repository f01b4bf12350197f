// What stands behind the handles of ikkuna/probe.h.
//
// Handles of steps and passes share the session's state, and do nothing once that is closed. Thread rule: that of the
// header; what several threads may touch at once is atomic or under a mutex, held for no longer than a record is written.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "probe/core/array.h"
#include "probe/core/session.h"
#include "probe/core/step_time.h"
#include "probe/core/step_tracker.h"
#include "probe/ikkuna/probe.h"

namespace ikkuna::probe::c {

struct Step;
struct Pass;

// What these calls, and the front end for them, have spent since the root's last training step ended.
struct Spent {
  std::atomic<uint64_t> total_ns{0}, tensor_ns{0}, scalar_ns{0};
  StepCost Take() {
    StepCost cost;
    cost.total_ns = total_ns.exchange(0, std::memory_order_relaxed);
    cost.tensor_ns = tensor_ns.exchange(0, std::memory_order_relaxed);
    cost.scalar_ns = scalar_ns.exchange(0, std::memory_order_relaxed);
    return cost;
  }
};

// Adds the time of a scope to both sums; the second may be null.
class Timer {
 public:
  Timer(std::atomic<uint64_t>& sum, std::atomic<uint64_t>* also)
      : sum_(sum), also_(also), begin_ns_(MonotonicNs()) {}
  ~Timer() {
    const uint64_t spent = MonotonicNs() - begin_ns_;
    sum_.fetch_add(spent, std::memory_order_relaxed);
    if (also_ != nullptr) also_->fetch_add(spent, std::memory_order_relaxed);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

 private:
  std::atomic<uint64_t>& sum_;
  std::atomic<uint64_t>* const also_;
  const uint64_t begin_ns_;
};

// The open step of a lane of the tracker, and the one before it while its updates are open.
struct TrackedLane {
  std::shared_ptr<Step> open;  // or was; ask StepOf()
  std::shared_ptr<Step> closing;
  bool due_before = false;   // something of the step before was wanted
  bool lacks_first = false;  // passes of the open step began in one of which nothing was wanted
  std::unordered_map<uint32_t, uint32_t> written;  // by parameter: round of writes since the step was counted
  uint32_t round = 0;
  uint32_t last_written = 0;
};

struct Root {
  uint16_t id = 0;
  std::string name;
  int tracked = -1;     // the tracker's number; -1: there is no such root
  ThreadId thread = 0;  // the tracker's: steps are given, whichever thread gives them

  std::mutex mutex;  // a step begins or ends, or markers that name passes are on their way
  // Guarded by mutex.
  Session::DemandCopy demand;
  std::weak_ptr<Step> training;               // open
  std::map<uint16_t, std::weak_ptr<Step>> evaluations;  // open, by tag
  bool refusal_told = false;
  uint32_t epoch = 0;
  uint64_t epoch_begin_step = 0;
  uint64_t last_end_ns = 0;       // when its last training step ended, or its first began
  StepTime step_time;
  uint64_t kinds_evaluated = 0;   // due in evaluations since the last training step
  bool evaluated_rarely = false;  // one of these came rarely

  Spent spent;
  std::atomic<uint64_t> samples{0};

  // Steps found from events; guarded by mutex.
  bool follows = false;  // constant
  std::deque<TrackedLane> lanes;
  std::shared_ptr<Step> coming;  // takes the next number
  std::vector<std::shared_ptr<Step>> leaving;  // ended, and with handles that are not
  // Published passes that may still be named, by number; null where nothing was wanted of what began it.
  std::map<uint32_t, std::shared_ptr<Pass>> recorded;
  size_t recorded_bound = 256;    // where those that may not be named any more are looked for
  bool used_in_backward = false;  // an optimizer within backward has used gradients
};

// For notes.
inline std::string Shown(const Root& root) { return root.name.empty() ? "a model" : "'" + root.name + "'"; }

struct State {
  std::unique_ptr<Session> session;  // null: a handle that does nothing
  uint64_t serial = 0;               // of the process; a later one may stand at the same address
  StepTracker tracker;
  std::array<Root, kMaxRoots> roots;
  std::atomic<bool> stop{false};
  std::atomic<bool> greeted{false};
  const std::shared_ptr<std::atomic<bool>> has_root = std::make_shared<std::atomic<bool>>(false);
  bool quiet = false;

  // What was said of a name: what is said again is not said anew.
  struct Module {
    uint32_t id = 0;
    std::string type;
    uint32_t flags = 0;
  };
  struct Param {
    uint32_t id = 0;
    int dtype = 0;
    std::vector<int64_t> sizes;
    uint32_t flags = 0;
    std::vector<int64_t> global_sizes, offsets;  // of a shard
  };
  mutable std::mutex names_mutex;
  // Guarded by names_mutex.
  std::map<std::string, uint16_t> root_ids;
  std::map<std::pair<uint16_t, std::string>, Module> modules;
  std::map<std::pair<uint32_t, std::string>, Param> params;  // by module
  std::unordered_map<uint32_t, uint16_t> root_of_module;
  std::unordered_map<uint32_t, uint32_t> module_of_param;

  // Backward passes as the tracker knows them: the front end's ids may come again, these do not.
  struct Task {
    int64_t given = 0;
    TaskId known = 0;
    bool ended = false;
  };
  std::mutex tasks_mutex;
  // Guarded by tasks_mutex.
  std::deque<Task> tasks;
  TaskId last_task = 0;
  std::atomic<uint64_t> tasks_ended{0};

  std::mutex question_mutex;
  Session::DemandCopy question;  // guarded by question_mutex

  uint64_t start_step = 0;
  // Constant after ikkuna_open().
  void (*on_command)(void*, const ikkuna_command*) = nullptr;
  void* context = nullptr;
  std::mutex commands_mutex;
  std::map<uint64_t, shm::Command> commands;  // guarded by commands_mutex: given to the front end, not answered

  bool active() const { return session && session->active(); }
  Root* root(uint16_t id) { return id >= 1 && id <= roots.size() && roots[id - 1].tracked >= 0 ? &roots[id - 1] : nullptr; }
};

struct Step {
  std::shared_ptr<State> state;
  Root* root = nullptr;
  StepDemand due;
  MessageHeader header;
  std::atomic<uint64_t> dropped_kinds{0};
  std::mutex mutex;
  // Guarded by mutex.
  bool started = false;            // its first marker is out
  bool over = false;
  std::vector<uint32_t> passes;    // that ended in it and are published, and are not named yet
  std::vector<uint32_t> open;      // published passes that have not ended
  std::atomic<uint16_t> flags{0};  // of all of it, besides those of its header
  // Guarded by the root's mutex.
  uint32_t named = 0;  // passes of it that markers have named
  // Of one that events have found:
  uint64_t demand_version = 0;
  uint32_t handles = 0;  // that the front end has not ended
  bool ended = false;    // by the tracker; its marker goes when the last handle does
  bool marked = false;   // it is out
  bool weights_taken = false;
  bool buffers_taken = false;
  bool followed() const { return root->follows && training(); }
  bool training() const { return header.tag == kTagDefault; }
};

struct Pass {
  std::shared_ptr<Step> step;
  uint32_t number = 0;  // 0: nothing of it is published
  std::atomic<uint64_t> dropped_kinds{0};
  // Of a followed root:
  uint32_t tracked = 0;  // the tracker's number, also where nothing is published; 0: it has none
  bool of_walk = false;  // it goes with the pass that a backward pass has reached
  std::mutex walks_mutex;
  // Guarded by walks_mutex.
  std::vector<std::pair<TaskId, std::unique_ptr<ikkuna_pass>>> walks;  // by task
  TaskId walked_for_nothing = 0;                                       // the last task of which nothing is published
};

// A thread of a trainer whose steps are followed; one caller at a time.
struct Thread {
  std::shared_ptr<State> state;
  ThreadId id = 0;
  std::deque<ikkuna_take> takes;
  std::array<TaskId, kMaxRoots> last_task{};  // by root id - 1: whose first gradient was told
  // The id that was translated last, good for as long as no backward pass ends.
  int64_t task_given = -1;
  TaskId task_known = 0;
  uint64_t task_read = 0;
  // A boundary whose commands come when all that waits here is taken.
  struct Boundary {
    uint16_t root = 0;
    std::optional<uint64_t> step;
  };
  std::optional<Boundary> boundary;
};

// Says on this thread why a call is refused; -1.
int Refuse(const State& state, std::string why) noexcept;
int Refuse(const State& state, const char* why) noexcept;

// What `body` gives for the session, if that works; else `otherwise`. Whatever goes wrong inside switches the session off.
template <typename Value, typename Body>
Value Guarded(State& state, Value otherwise, Body&& body) {
  if (!state.active()) return otherwise;
  try {
    return body(*state.session);
  } catch (const std::exception& error) {
    state.session->SwitchOff(error.what());
  } catch (...) {
    state.session->SwitchOff("unknown error");
  }
  return otherwise;
}

inline std::string Text(const char* text) { return text == nullptr ? std::string() : std::string(text); }

// --- Shared by given and followed steps (c_steps.cc). The caller holds the root's mutex where nothing else is said.
constexpr uint64_t kPassKinds = [] {
  uint64_t kinds = 0;
  for (uint8_t kind = 0; kind < 64; ++kind) {
    if (IsPerCallKind(static_cast<Kind>(kind))) kinds |= KindBit(static_cast<Kind>(kind));
  }
  return kinds;
}();
constexpr uint16_t kGivenFlags =
    kFlagGradScaled | kFlagGradModified | kFlagWeightsChangedOutside | kFlagStepInferred | kFlagStepSkipped;
constexpr const char* kNoFlags = "there are no such flags";
std::shared_ptr<Step> MakeStep(const std::shared_ptr<State>& state, Session& session, Root& root, uint16_t tag,
                               uint64_t step, uint32_t epoch);
// The marker that stands before all else of a step. The caller holds the step's mutex.
void EnsureStarted(Session& session, Step& step);
// Publishes the marker of a pass that begins.
void PublishPassStarted(Session& session, const Step& step, uint32_t number);
// Publishes a marker that names passes of the step.
void Name(Session& session, Step& step, Kind kind, std::vector<uint32_t> passes, uint16_t flags);
// What a training step that has ended leaves behind in status and budget.
void Account(State& state, Session& session, Root& root, const Step& step, uint64_t now);
// Steps that are open when the session closes; takes the roots' mutexes.
void EndSteps(State& state);

// --- What is published in them (c_steps.cc).
// What a message is about, as the caller says it.
struct Place {
  int kind;
  uint32_t module, param;
  uint16_t flags;
};
constexpr const char* kNoArray = 
    "no array is given, its `size` is not sizeof(ikkuna_array), or it lies on a device: copy it to host memory, or "
    "announce it (ikkuna_step_late())";
bool CopyArray(const ikkuna_array* given, Array& array);
MessageHeader HeaderOf(const Step& step, Pass* pass, uint16_t call, const Place& place);
void CountRefused(Session& session, const Step& step, Pass* pass, uint16_t call, const Place& place);
// 1: it is wanted, and `header` and `want` say how; 0: it is not; -1: refused, and counted. Within Guarded().
int FindPlace(Session& session, Step& step, Pass* pass, uint16_t call, const Place& place, MessageHeader& header,
              Want& want);
// The wire format's, which an int may lie outside of.
constexpr DType DTypeOf(int given) { return static_cast<DType>(given < 0 || given > UINT8_MAX ? 0 : given); }

// --- Followed steps (c_event.cc).
// The front end has ended a handle, which is freed by the caller. Takes the root's mutex.
void EndHandle(Session& session, Step& step, uint16_t flags);
// No backward can reach the pass any more. Takes the root's mutex.
void PassGone(Pass& pass);
void EndFollowed(Session& session, Root& root);

// --- Commands (c_session.cc). Under no lock: hands those that are due to the front end.
void HandleCommands(State& state, Session& session, uint16_t root, std::optional<uint64_t> step);

}  // namespace ikkuna::probe::c

struct ikkuna_session {
  std::shared_ptr<ikkuna::probe::c::State> state;
};
struct ikkuna_step {
  std::shared_ptr<ikkuna::probe::c::Step> body;
};
struct ikkuna_pass {
  std::shared_ptr<ikkuna::probe::c::Pass> body;
};
struct ikkuna_thread {
  ikkuna::probe::c::Thread body;
};
