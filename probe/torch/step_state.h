// What the listener remembers of one step, one pass, one root, and one root on one thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include "probe/core/cost.h"
#include "probe/core/session.h"
#include "probe/core/step_time.h"
#include "probe/core/step_tracker.h"
#include "probe/torch/last_gradient.h"
#include "probe/torch/local_subscribers.h"
#include "probe/torch/losses.h"
#include "probe/torch/optimizers.h"
#include "probe/torch/write_witness.h"

namespace ikkuna::torch_probe {

// What a loss function is heard for.
constexpr uint64_t kLossKinds = KindBit(Kind::kLoss) | KindBit(Kind::kNetworkOutput) | KindBit(Kind::kInputLabels);

// A step (or an evaluation pass) with what is wanted of it. Passes and gradient hooks share it, so it outlives the
// step.
struct StepIdentity {
  const std::string* name = nullptr;  // of the root, which outlives it
  uint16_t root = 0;
  uint16_t tag = kTagDefault;
  uint64_t step = 0;
  std::atomic<uint32_t> epoch{0};  // Epoch() may say it anew while the step is open
  std::atomic<uint32_t> train_step{0};
  uint64_t samples = 0;              // up to this step; 0: unknown
  uint64_t demand_version = 0;       // of the demand that it was made from
  probe::PeriodShifts shifts;        // and of the budget
  mutable probe::StepDemand demand;  // what is logged makes a step due
  std::vector<std::shared_ptr<LocalSubscriber>> local;
  std::atomic<uint16_t> flags{0};
  mutable std::atomic<uint64_t> dropped_kinds{0};  // of which a message of this step was dropped
  // Where several threads run passes for one step they share this.
  std::atomic<bool> started{false};  // its first marker is out
  std::atomic<bool> marked{false};   // also to the daemon, which may have wanted nothing until a value was logged
  std::mutex start_mutex;
  std::atomic<bool> buffers_taken{false};

  // The same step, wanted less of.
  std::shared_ptr<StepIdentity> Reduced(probe::StepDemand less) const;
  // The same step, of which nothing is wanted.
  std::shared_ptr<StepIdentity> OfNothing() const {
    auto nothing = Reduced({});
    nothing->local.clear();
    return nothing;
  }
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
    if (demand.Wanted(kind, module)) return true;
    for (const auto& subscriber : local) {
      if ((subscriber->kinds & KindBit(kind)) != 0) return true;
    }
    return false;
  }
};

// Calls of each module within one pass.
class CallCounts {
 public:
  uint16_t Next(int module) {
    const auto index = static_cast<size_t>(module);
    if (index >= counts_.size()) counts_.resize(index + 1, 0);
    return counts_[index] == UINT16_MAX ? UINT16_MAX : counts_[index]++;
  }
  uint16_t Of(int module) const {
    const auto index = static_cast<size_t>(module);
    return index < counts_.size() ? counts_[index] : uint16_t{0};
  }

 private:
  std::vector<uint16_t> counts_;
};

// The number under which a pass, or what one backward pass gives of its layer gradients, is published.
struct PassNumber {
  explicit PassNumber(uint32_t number) : value(number) {}
  const uint32_t value;
  mutable std::atomic<uint64_t> dropped_kinds{0};  // of which a message of this pass was dropped
};

// Held by the hooks on a pass's outputs: when the last of them is destroyed, no backward can reach the pass any more.
class PassLife {
 public:
  PassLife(uint64_t listener, int model, uint32_t number) : listener_(listener), model_(model), number_(number) {}
  ~PassLife();
  PassLife(const PassLife&) = delete;
  PassLife& operator=(const PassLife&) = delete;

 private:
  const uint64_t listener_;  // serial
  const int model_;
  const uint32_t number_;
};

// A forward pass: what its operators' messages carry. The thread that runs it writes it; marks and hooks hold it.
struct Pass : std::enable_shared_from_this<Pass> {
  std::shared_ptr<StepIdentity> identity;    // never null
  std::shared_ptr<const PassNumber> number;  // null: nothing of it is published
  std::shared_ptr<PassLosses> losses;        // of all passes between two backward passes
  uint32_t tracked = 0;  // the tracker's number, also of a pass of which nothing is published; 0: it has none
  bool training = false;
  int first_module = -1;  // -1: no layer of the model is known, and a loss began it
  const void* first_weight = nullptr;  // of that module; an address that is only compared
  bool BeginsWith(int module, const void* weight) const { return module == first_module && weight == first_weight; }
  uint64_t begun_at = 0;  // backward passes of the root when it began: what is not published has no hooks that tell
  CallCounts calls;
  CallCounts recomputed;
  uint32_t calls_unrolled = 1;  // of an evaluation: of its first module, each but the first on what that has made
  std::atomic<bool> after_loss{false};  // no layer has begun since a loss was seen
  std::atomic<bool> walked{false};  // backward has reached it
  std::atomic<bool> over{false};    // what is made of its outputs from now on is none of it
  std::weak_ptr<PassLife> life;
  bool hooked = false;

  // The backward passes that reached it.
  struct Walk {
    int64_t task = -1;
    std::shared_ptr<const PassNumber> number;  // null: no layer gradients are wanted
  };
  std::mutex walks_mutex;
  std::vector<Walk> walks;                            // guarded by walks_mutex
  std::weak_ptr<torch::autograd::Node> first_output;  // guarded by walks_mutex; that has a history
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

// An evaluation as subscribers see it: the batches of one tag at one step, on however many threads. Guarded by the
// root's mutex, but for atomics.
struct Evaluation {
  std::shared_ptr<StepIdentity> identity;
  std::vector<std::shared_ptr<Pass>> running;              // the batch under way of each thread in it
  std::vector<std::shared_ptr<const PassNumber>> batches;  // not named yet
  uint32_t named = 0;
  bool begun = false;
  std::atomic<uint64_t> last_steps{0};  // trained when a layer of it was heard last
  std::atomic<bool> ended{false};       // maybe by another thread
};

// One root on one thread: touched by that thread only.
struct RootThread {
  bool runs_layers = false;                                // a pass has begun here, of training or of evaluation
  bool ends_steps = false;                                 // this thread's writes have ended steps
  int64_t graph_task = -2;                                 // of the last gradient
  std::shared_ptr<Pass> training;                          // the last training pass; null: none was
  std::shared_ptr<Pass> evaluation;                        // the batch under way; null: none is
  std::weak_ptr<const Pass> asks_layers;                   // the last of which activations or layer gradients are wanted
  std::shared_ptr<Evaluation> frame;                       // that it is part of
  bool trained_since = false;                              // a training pass has begun here since that did
  uint64_t steps_at_batch = 0;                             // steps of the model when the batch began
  // The backward pass that has reached a pass of it last on this thread.
  int64_t walk_task = -2;
  std::shared_ptr<const PassNumber> walk;  // null: it is not published
  std::shared_ptr<const Pass> walk_of;
};

// The open step of a lane of the tracker, and the one before it while its updates are open.
struct LaneState {
  std::shared_ptr<StepIdentity> identity;  // of the step that is open, or was; ask OpenSteps::IdentityOf()
  uint32_t passes = 0;                     // of that step, behind what opened it; forward and backward count each
  bool weights_taken = false;
  bool evaluated = false;  // an evaluation has closed the step that ended last
  bool second_round = false;  // the step that closes was written by arithmetic twice
  bool due_before = false;  // something of the step before was wanted
  bool lacks_first = false;  // passes of the step that is open began in a skipped one, of which nothing was wanted
  std::shared_ptr<StepIdentity> closing;
  std::vector<std::shared_ptr<const PassNumber>> closing_passes;
  std::vector<at::Tensor> kept;      // by parameter: its value in the step that closes; undefined: not kept
  std::shared_ptr<const Optimizers::List> optimizers;  // attached when the step that closes was written
  std::vector<int> late_optimizers;  // attached optimizers that had not written when the step was counted
  std::vector<uint32_t> written;     // by parameter: round of writes since the count; finds a second hand
  std::vector<bool> decayed;         // by parameter: a list that was multiplied, before its optimizer's own write
  std::vector<bool> had_gradient;    // by parameter: when the step that closes was counted
  std::vector<GradientVersion> taken;  // by parameter: its gradient, when that was taken
  // Manual steps: by parameter, the gradient that it was written with last in the step that is open.
  std::vector<GradientVersion> written_with;
  bool rates_taken = false;  // and its learning rates were taken then
  uint32_t write_round = 0;
  int last_written = -1;
};

// One root. Its mutex is held while a pass begins, a step ends, or something of a step as a whole is taken; no code of
// the trainer's runs under it. The listener's mutexes, the tracker's and the session's may be taken within it, never it
// within one of those.
struct RootState {
  int model = -1;  // index; constant

  std::once_flag wait;  // for a daemon, before the first step; taken before mutex
  std::atomic<bool> waited{false};
  std::mutex mutex;
  // Guarded by mutex.
  std::vector<std::unique_ptr<LaneState>> lanes;
  std::shared_ptr<StepIdentity> coming;  // the step that takes the next number
  struct Recorded {
    std::shared_ptr<const PassNumber> number;
    std::shared_ptr<Pass> pass;  // null: of a walk
  };
  std::vector<Recorded> recorded;  // what may still be named
  std::vector<std::shared_ptr<Evaluation>> evaluations;  // that are open
  std::vector<uint32_t> named;     // by the marker that is about to be published
  probe::Session::DemandCopy demand;
  probe::PeriodShifts shifts;
  uint64_t last_step_ns = 0;
  probe::StepTime step_time;
  ThreadCost handed_over;         // spent on threads whose steps another one ends
  uint64_t kinds_before = 0;      // due in the step before
  uint64_t kinds_evaluated = 0;   // due in evaluation passes since the last step
  bool evaluated_rarely = false;  // one of these came rarely
  LastGradient last_gradient;
  WriteWitness witness;
  probe::ThreadId dozer = 0;      // on which it trains while its write goes unheard (StepEnds::Doze); 0: it is heard
  bool used_in_backward = false;  // an optimizer within backward has used gradients, maybe not all
  uint64_t fingerprint = 0;       // of the weights when the last backward pass ended
  bool closed_second_round = false;    // the step before the last was written twice
  uint32_t alternating = 0;            // steps in a row of which each second one was
  std::vector<int> not_awaited;        // attached optimizers that had gradients and did not write, last time
  // Of which terms were reached by backward passes that go on.
  struct ReachedLosses {
    std::shared_ptr<PassLosses> losses;
    int64_t task = -1;
  };
  std::vector<ReachedLosses> losses_reached;
  // By parameter: the gradient that it was written with last, in a loop without a backward pass of its own.
  std::vector<GradientVersion> written_with;
  // Rounds of writes of a root that has seen no backward pass, each of which begins with the same parameter.
  int first_written = -1;
  uint32_t rounds_written = 0;
  uint64_t steps_skipped = 0;
  uint64_t steps_made = 0;  // that ended otherwise

  std::atomic<uint64_t> pauses_at_end{0};    // OperatorCallback::pauses() when its last step ended
  std::atomic<bool> steps_missed{false};     // some may have been made that nobody saw, before the one that is open
  std::atomic<int> writes_under_way{0};      // operators that write its parameters and have not ended
  std::atomic<int64_t> last_task{-2};        // of the last gradient, on any thread
  std::atomic<uint64_t> backward_passes{0};  // that gave gradients
  std::atomic<bool> learning{true};          // early steps: see what is there, and how this loop writes
  std::atomic<bool> evaluation_trains{false};
  std::atomic<probe::ThreadId> sleeper{0};         // until its backward ends callbacks sleep; 0: nobody's
  std::vector<std::optional<unsigned>> raw_hooks;  // by parameter: position of ours among its hooks; guarded by mutex
  std::atomic<uint64_t> evaluated{0};              // batches
  // The step of training at which one that is open may be taken for left, not before; UINT64_MAX: none is open.
  std::atomic<uint64_t> evaluations_left_at{UINT64_MAX};
  int held = 0;                                    // guarded by the operator callback: whether it keeps that on
};

// What an operator takes longer because a callback listens, before and beside what that callback does: its arguments
// and results are boxed for us. Measured with LibTorch 2.11: 160 to 260 ns.
constexpr uint64_t kIdleCallNs = 200;
// The same of a hook on a parameter that has nothing to say.
constexpr uint64_t kIdleHookNs = 40;

}  // namespace ikkuna::torch_probe
