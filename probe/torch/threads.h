// ThreadState: what the listener keeps of one thread, beside what it keeps of each model on it (step_state.h).
//
// Thread rule: each thread has its own and is the only one to touch it.
#pragma once

#include <array>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>

#include "probe/core/step_time.h"
#include "probe/torch/provenance.h"
#include "probe/torch/step_state.h"

namespace ikkuna::torch_probe {

class ThreadTimer;

struct ThreadState {
  uint64_t listener = 0;   // serial of the Listener it belongs to; Reset() when another takes over
  probe::ThreadId id = 0;  // the tracker's
  std::array<std::unique_ptr<RootThread>, kMaxRoots> roots;
  int depth = 0;          // inside a captured operator: what it calls is not looked at
  bool busy = false;      // inside our own work
  bool telling = false;   // inside a subscriber's callback
  bool ends = false;      // the thread: it is no thread of the tracker's any more
  bool tells = true;      // false: what is the trainer's of this thread may be gone, and no callback runs on it
  bool grad_mode = true;  // the user's, before we switched it off for ourselves
  std::vector<std::weak_ptr<void>> backward_ends;  // of passes under way (Backward::End, which the engine holds)
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
  // That it has said last; kTagDefault: by the mode of the pass. Null: it has said none, and has that of the process.
  std::optional<uint16_t> evaluation_tag;
  bool starts_backward = false;  // it has roots among LossRoots
  ThreadCost cost;
  ThreadTimer* timer = nullptr;  // the innermost that runs
  uint64_t last_step_ns = 0;     // when a step of any model ended here; 0: none has
  probe::StepTime step_time;
  std::vector<Untold> untold;
  ToldInOrder* in_order = nullptr;  // the listener's
  std::vector<at::Tensor> released;  // of the trainer's, to be destroyed when nothing of ours is held
  void Reset(uint64_t serial);
  bool has_to_tell() const { return tells && (!untold.empty() || in_order->left()); }
  ~ThreadState();
};

// Of the calling thread, whichever listener it belongs to.
ThreadState& CurrentThread();

// What the thread keeps of the model; made at the first call.
RootThread& StateOn(ThreadState& thread, const WatchedModel& model);

// Tells subscribers of this process what was captured for them. No lock of ours is held, and no step is in the midst of
// anything. What a callback logs is not told to callbacks again: one that does would never come to an end.
void TellSubscribers(ThreadState& thread) noexcept;

// Runs `body` as our own work: nothing it calls is recorded, no gradient is tracked, nothing it throws gets out. What
// it had to tell subscribers of this process it tells them when it is done.
template <typename Body>
void AsOwnWork(probe::Session& session, ThreadState& thread, Body&& body) noexcept {
  const bool was_busy = std::exchange(thread.busy, true);
  try {
    at::NoGradGuard no_grad;
    body(thread);
    if (!was_busy && thread.has_to_tell()) TellSubscribers(thread);
  } catch (const std::exception& error) {
    session.SwitchOff(error.what());
  } catch (...) {
    session.SwitchOff("unknown error");
  }
  thread.busy = was_busy;
  if (!was_busy && !thread.released.empty()) thread.released = {};
}

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
