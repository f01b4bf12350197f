// What stands behind the handles of ikkuna/probe.h.
//
// Handles of steps and passes share the session's state, and do nothing once that is closed. Thread rule: that of the
// header; what several threads may touch at once is atomic or under a mutex, held for no longer than a record is written.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "probe/core/session.h"
#include "probe/core/step_time.h"
#include "probe/core/step_tracker.h"
#include "probe/ikkuna/probe.h"

namespace ikkuna::probe::c {

struct Step;

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
};

struct State {
  std::unique_ptr<Session> session;  // null: a handle that does nothing
  uint64_t serial = 0;               // of the process; a later one may stand at the same address
  StepTracker tracker;
  std::array<Root, kMaxRoots> roots;
  std::atomic<bool> stop{false};
  std::atomic<bool> greeted{false};
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
  };
  mutable std::mutex names_mutex;
  // Guarded by names_mutex.
  std::map<std::string, uint16_t> root_ids;
  std::map<std::pair<uint16_t, std::string>, Module> modules;
  std::map<std::pair<uint32_t, std::string>, Param> params;  // by module
  std::unordered_map<uint32_t, uint16_t> root_of_module;
  std::unordered_map<uint32_t, uint32_t> module_of_param;

  std::mutex question_mutex;
  Session::DemandCopy question;  // guarded by question_mutex

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
  // Guarded by the root's mutex.
  uint32_t named = 0;  // passes of it that markers have named
  bool training() const { return header.tag == kTagDefault; }
};

struct Pass {
  std::shared_ptr<Step> step;
  uint32_t number = 0;  // 0: nothing of it is published
  std::atomic<uint64_t> dropped_kinds{0};
};

// Says on this thread why a call is refused; -1. Throws where there is no memory for it: within Guarded().
int Refuse(const State& state, std::string why);

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

// Steps that are open when the session closes.
void EndSteps(State& state);

}  // namespace ikkuna::probe::c

struct ikkuna_session {
  std::shared_ptr<ikkuna::probe::c::State> state;
};
struct ikkuna_step {
  std::shared_ptr<ikkuna::probe::c::Step> body;
};
struct ikkuna_pass {
  ikkuna::probe::c::Pass body;
};
