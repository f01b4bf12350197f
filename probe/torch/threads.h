// ThreadState: what the listener keeps of one thread, beside what it keeps of each model on it (step_state.h).
//
// Thread rule: each thread has its own and is the only one to touch it.
#pragma once

#include <array>
#include <cstdint>
#include <unordered_map>
#include <optional>
#include <memory>
#include <utility>
#include <vector>

#include "probe/core/step_time.h"
#include "probe/torch/provenance.h"
#include "probe/torch/step_state.h"

namespace ikkuna::torch_probe {

class ThreadTimer;

// What an in-process subscriber is told as soon as nothing of ours is held any more.
struct Untold {
  std::shared_ptr<LocalSubscriber> subscriber;
  ProbeMessage message;
};

struct ThreadState {
  uint64_t listener = 0;   // serial of the Listener it belongs to; Reset() when another takes over
  probe::ThreadId id = 0;  // the tracker's
  std::array<std::unique_ptr<RootThread>, kMaxRoots> roots;
  int depth = 0;          // inside a captured operator: what it calls is not looked at
  bool busy = false;      // inside our own work
  bool telling = false;   // inside a subscriber's callback
  bool grad_mode = true;  // the user's, before we switched it off for ourselves
  int64_t off_graph_task = -2;
  int64_t guarded_task = -2;   // backward pass whose end will be heard
  int last_root = -1;          // of the last layer
  int last_layer = -1;         // module index of the last layer with parameters: what positions count from
  Provenance provenance;       // of what its passes made
  // What a Linear gave before its bias is added in place.
  struct {
    std::optional<c10::weak_intrusive_ptr<c10::TensorImpl>> output;
    int model = -1;
    int module = -1;
  } awaits_bias;
  // Weights of networks that nobody attached, which need not be looked for again.
  std::unordered_map<const void*, c10::weak_intrusive_ptr<c10::StorageImpl>> foreign_weights;
  std::shared_ptr<Pass> pass;  // the pass under way, training or evaluation
  ThreadCost cost;
  ThreadTimer* timer = nullptr;  // the innermost that runs
  uint64_t last_step_ns = 0;     // when a step of any model ended here; 0: none has
  uint64_t steps_ended = 0;      // of all models
  probe::StepTime step_time;
  std::vector<Untold> untold;
  void Reset(uint64_t serial);
  ~ThreadState();
};

// Of the calling thread, whichever listener it belongs to.
ThreadState& CurrentThread();

// Adds the time of a scope to its thread's account.
class ThreadTimer {
 public:
  explicit ThreadTimer(ThreadState& thread)
      : thread_(thread), outer_(std::exchange(thread.timer, this)), begin_ns_(MonotonicNs()) {}
  ~ThreadTimer() {
    thread_.cost.total_ns += MonotonicNs() - begin_ns_;
    thread_.timer = outer_;
  }
  ThreadTimer(const ThreadTimer&) = delete;
  ThreadTimer& operator=(const ThreadTimer&) = delete;
  // Of the scope's time so much is not the probe's.
  void Skip(uint64_t ns) { begin_ns_ += ns; }
  // Adds what has passed so far: of a step that ends within the scope.
  void Flush() {
    const uint64_t now = MonotonicNs();
    thread_.cost.total_ns += now - std::exchange(begin_ns_, now);
  }

 private:
  ThreadState& thread_;
  ThreadTimer* const outer_;
  uint64_t begin_ns_;
};

}  // namespace ikkuna::torch_probe
