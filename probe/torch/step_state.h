// What the listener remembers of one step, of one root on one thread, and of one thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include <ATen/core/Tensor.h>

#include "probe/core/cost.h"
#include "probe/core/session.h"
#include "probe/core/step_time.h"
#include "probe/ikkuna/probe.hpp"
#include "probe/torch/losses.h"

namespace ikkuna::torch_probe {

// A subscriber in the trainer's own process.
struct LocalSubscriber {
  uint64_t kinds = 0;
  uint32_t period = 1;
  uint16_t tag = kTagDefault;
  std::function<void(const ProbeMessage&)> callback;
  std::atomic<bool> failed{false};
};

// A step (or an evaluation pass) with what is wanted of it. Gradient hooks share it, so it outlives the step.
struct StepIdentity {
  uint16_t root = 0;
  uint16_t tag = kTagDefault;
  uint64_t step = 0;
  uint32_t epoch = 0;
  uint32_t train_step = 0;
  uint64_t samples = 0;  // up to this step; 0: unknown
  probe::StepDemand demand;
  std::vector<std::shared_ptr<LocalSubscriber>> local;
  std::atomic<uint16_t> flags{0};
  mutable std::atomic<uint64_t> dropped_kinds{0};  // of which a message of this step was dropped
  // Where several threads run passes for one step they share this.
  std::atomic<bool> started{false};  // its first marker is published
  std::mutex start_mutex;
  std::atomic<bool> buffers_taken{false};

  bool any() const { return demand.any() || !local.empty(); }
  bool AnyOf(uint64_t kinds) const {
    if (demand.AnyOf(kinds)) return true;
    for (const auto& subscriber : local) {
      if ((subscriber->kinds & kinds) != 0) return true;
    }
    return false;
  }
  bool AnyOf(Kind kind) const { return AnyOf(KindBit(kind)); }
  bool Wants(Kind kind, uint32_t module) const {
    if (demand.Wanted(kind, module) != Level::kInvalid) return true;
    for (const auto& subscriber : local) {
      if ((subscriber->kinds & KindBit(kind)) != 0) return true;
    }
    return false;
  }
};

// Calls of each module within one micro-batch or evaluation batch.
class CallCounts {
 public:
  void Clear() { counts_.assign(counts_.size(), 0); }
  uint16_t Next(int module) {
    const auto index = static_cast<size_t>(module);
    if (index >= counts_.size()) counts_.resize(index + 1, 0);
    return counts_[index] == UINT16_MAX ? UINT16_MAX : counts_[index]++;
  }

 private:
  std::vector<uint16_t> counts_;
};

// A forward pass under way: what its operators' messages carry.
struct Pass {
  std::shared_ptr<StepIdentity> identity;
  CallCounts calls;
  CallCounts recomputed;
  uint16_t micro = 0;
  PassLosses losses;        // of this micro-batch
  bool after_loss = false;  // no layer has begun since a loss was seen

  // The first pass of another step.
  void Restart() {
    calls.Clear();
    recomputed.Clear();
    micro = 0;
    losses.Clear();
    after_loss = false;
  }
};

// What the probe spends on one thread; a step's sum goes to the budget.
struct ThreadCost : probe::StepCost {
  uint64_t calls = 0;  // callbacks and hooks, whether they found something to do or not

  void Add(const ThreadCost& other) {
    total_ns += other.total_ns;
    tensor_ns += other.tensor_ns;
    scalar_ns += other.scalar_ns;
    calls += other.calls;
  }
};

// One root on one thread. The owner thread writes it, or another that the trainer has made wait for it; the fields that
// threads touch side by side are atomic. When its thread has ended between two steps, the next one that begins takes it
// over.
// States of a step, by who moves on: the first layer operator starts it, hooks of backward make it pending, the first
// counted write ends it; it stays closing while its updates are still open, until the next pass.
struct RootThread {
  // Step detection.
  std::atomic<bool> pending{false};      // backward ran, the write has not come
  std::atomic<bool> stepper{false};      // this thread closes its own steps
  std::atomic<bool> runs_layers{false};  // a pass has begun here, of training or of evaluation
  std::atomic<bool> trains{false};       // of training
  // The thread whose write has ended the step that this one ran a pass for: the passes that follow are for its steps.
  std::atomic<RootThread*> leader{nullptr};
  bool follows = false;                     // the pass is for a step of the leader's
  std::atomic<bool> ended{false};           // the thread is gone
  std::atomic<bool> backward_seen{false};   // since the last pass began
  std::atomic<bool> in_backward{false};     // callbacks sleep until backward ends
  std::atomic<bool> due{false};             // the current step is wanted
  std::atomic<bool> open{false};            // the finished step waits for its updates
  std::atomic<bool> learning{false};        // early steps: see what is there, and how this loop writes
  std::atomic<bool> watching{false};        // evaluation passes are wanted, and none of training is under way
  int held = 0;                             // guarded by the listener's wake mutex: whether it keeps the callback on
  bool ended_by_assignment = false;         // the last step: a load or a swap looks the same at first
  int64_t graph_task = -2;                  // of the last hook
  std::atomic<bool> started_thread{false};  // this thread ran a training layer or wrote a parameter
  uint64_t begun_after = 0;                 // steps that had ended on the thread when the pass began

  // The current step.
  Pass pass;                         // identity never null once started_thread
  std::atomic<bool> in_pass{false};  // a training pass was seen in this step
  bool weights_taken = false;
  // The finished step whose updates are open.
  std::shared_ptr<StepIdentity> closing;
  uint64_t steps_at_close = 0;       // that the model had made when it was finished
  std::vector<at::Tensor> kept;      // by parameter: its value in the step that closes; undefined: not kept
  std::vector<int> late_optimizers;  // attached optimizers that had not written when the step was counted
  std::vector<uint32_t> written;     // by parameter: round of writes since the count; finds a second hand
  uint32_t write_round = 0;
  int last_written = -1;

  // Evaluation.
  Pass evaluation;            // identity null: none under way
  int evaluation_first = -1;  // module that begins each of its batches

  probe::Session::DemandCopy demand;
  probe::PeriodShifts shifts;
  uint64_t last_step_ns = 0;
  probe::StepTime step_time;
  ThreadCost handed_over;        // spent on its thread for a step that another one may end
  uint64_t kinds_before = 0;     // due in the step before
  uint64_t kinds_evaluated = 0;  // due in evaluation passes since the last step
};

// What an operator takes longer because a callback listens, before and beside what that callback does: its arguments
// and results are boxed for us. Measured with LibTorch 2.11: 160 to 260 ns.
constexpr uint64_t kIdleCallNs = 200;

}  // namespace ikkuna::torch_probe
