// Backward: the gradients that arrive, the passes that it reaches, and its end.
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/graph_task.h>

#include "probe/torch/listener.h"

namespace ikkuna::torch_probe {

// The end of a backward pass: the engine calls End(), or, where backward throws, drops the last reference.
class Listener::BackwardGuard {
 public:
  BackwardGuard(std::shared_ptr<Listener> listener, int64_t task, bool slept)
      : listener_(std::move(listener)), task_(task), slept_(slept) {}
  // A copy would run the end when it goes, in the middle of backward.
  BackwardGuard(const BackwardGuard&) = delete;
  BackwardGuard& operator=(const BackwardGuard&) = delete;
  ~BackwardGuard() { End(); }
  // Once; on the thread that called backward unless that threw.
  void End() {
    const Inside inside;
    if (ended_.exchange(true) || !listener_->active()) return;
    if (slept_) {
      for (int m = 0; m < listener_->model_count_.load(std::memory_order_acquire); ++m) {
        listener_->roots_[static_cast<size_t>(m)]->sleeper.store(0);
        listener_->Listen(m);
      }
      return;
    }
    listener_->Guarded([&](ThreadState& thread) { listener_->BackwardEnded(thread, task_); });
  }

 private:
  const std::shared_ptr<Listener> listener_;
  const int64_t task_;
  const bool slept_;  // callbacks were off for it
  std::atomic<bool> ended_{false};
};

void Listener::OnGradient(uint64_t serial, const at::Tensor& parameter,
                          const std::vector<ParamOwner>& owners) noexcept {
  const Inside inside;
  Listener* const live = Live(serial);
  if (live == nullptr || !live->active()) return;
  try {
    live->GradientsReady(live->OwnThread(), parameter, owners);
  } catch (const std::exception& error) {
    live->session_->SwitchOff(error.what());
  }
}

void Listener::GradientsReady(ThreadState& thread, const at::Tensor& parameter, const std::vector<ParamOwner>& owners) {
  ++thread.cost.calls;
  const int64_t task = torch::autograd::get_current_graph_task_id();
  for (const ParamOwner& owner : owners) {
    if (!hooks_.Counts(owners, owner.model)) continue;
    WatchedModel& model = *models_[static_cast<size_t>(owner.model)];
    WatchedParam& param = model.params()[static_cast<size_t>(owner.param)];
    if (param.data.load(std::memory_order_relaxed) != DataOf(parameter)) model.Refresh();
    RootThread& state = State(thread, model);
    if (state.graph_task != task) {
      state.graph_task = task;
      Guarded(thread, [&](ThreadState& own) { FirstGradient(own, model, owner.param, task); });
    }
    StateOf(model).last_param.store(owner.param, std::memory_order_relaxed);
  }
}

void Listener::FirstGradient(ThreadState& thread, WatchedModel& model, int param, int64_t task) {
  const int m = model.index();
  RootState& root = StateOf(model);
  WaitOnce(thread, root);
  HearEndOfBackward(thread, task);
  // While another thread's backward sleeps this one trains as well: it is to be heard.
  if (const probe::ThreadId sleeper = root.sleeper.load(); sleeper != 0 && sleeper != thread.id) root.sleeper.store(0);
  std::lock_guard lock(root.mutex);
  probe::StepTracker::GradientOptions options;
  if (tracker_.Pending(m)) {
    options.state = GradientsBefore(root, model, param);
    options.moved = tracker_.WatchesWeights(m) && Fingerprint(model) != root.fingerprint;
  }
  // Until this backward pass ends nobody can tell from it.
  root.last_gradient = {};
  options.now_ns = MonotonicNs();
  const auto came = tracker_.Gradient(m, thread.id, task, options);
  FinishAll(root, model, came.to_close);
  if (came.ended) EndStep(thread, model, root, *came.ended, -1, false);
  root.backward_passes.fetch_add(1, std::memory_order_relaxed);
  root.last_task.store(task, std::memory_order_relaxed);
  if (came.opened || came.ended) {
    const std::shared_ptr<StepIdentity> identity = IdentityOf(root, model, came.lane, came.step);
    LaneState& lane = LaneOf(root, came.lane);
    if (identity->any() && !lane.weights_taken && tracker_.WeightsMayMove(m)) {
      capture_.EnsureStarted(*identity);
      capture_.TakeWeights(lane, *identity, model, [&] { return tracker_.OthersWrite(m, thread.id); });
    }
    NoteDue(root, model, came.lane);
  }
  Listen(m);
}

// What became of the gradients that the backward pass before has left, seen at the one that came last then. `fired`:
// the parameter that has just got another; -1: none has.
probe::GradientState Listener::GradientsBefore(RootState& root, WatchedModel& model, int fired) {
  const LastGradient& last = root.last_gradient;
  if (last.param < 0 || !last.gradient) return probe::GradientState::kKept;
  const at::Tensor& gradient = model.params()[static_cast<size_t>(last.param)].tensor.grad();
  if (!gradient.defined()) return probe::GradientState::kCleared;
  if (gradient.unsafeGetTensorImpl() != last.gradient->_unsafe_get_target() || last.gradient->expired()) {
    // Of a graph that is to be differentiated again the sum is a new tensor.
    return fired == last.param && gradient.requires_grad() ? probe::GradientState::kKept
                                                           : probe::GradientState::kCleared;
  }
  const auto version = static_cast<uint32_t>(gradient._version());
  if (fired == last.param) {
    return version <= last.version + 1 ? probe::GradientState::kKept : probe::GradientState::kCleared;
  }
  if (version == last.version || gradient.is_sparse()) return probe::GradientState::kKept;
  // Written since: zeroed in place, or clipped and averaged.
  return gradient.any().item<bool>() ? probe::GradientState::kKept : probe::GradientState::kCleared;
}

// Whether the gradients are as the last backward pass has left them: what it multiplied them by they still carry.
bool Listener::GradientsUntouched(const RootState& root, WatchedModel& model) const {
  const LastGradient& last = root.last_gradient;
  if (last.param < 0 || !last.gradient) return false;
  const at::Tensor& gradient = model.params()[static_cast<size_t>(last.param)].tensor.grad();
  return gradient.defined() && gradient.unsafeGetTensorImpl() == last.gradient->_unsafe_get_target() &&
         static_cast<uint32_t>(gradient._version()) == last.version;
}

// What a backward pass brings by itself shows before it is added to what is there: hooks on the parameters, set when
// somebody asks for the first time. Not while another thread's backward may be in the list of a parameter's hooks.
void Listener::HookRawGradients(RootState& root, WatchedModel& model) {
  if (tracker_.ThreadsThatTrain(model.index()) > 1) {
    session_->AddNote("raw weight gradients of " + model.name() +
                      " are not captured: they were asked for when several threads trained it; ask before it trains");
    return;
  }
  root.raw_hooks.resize(model.params().size());
  for (size_t i = 0; i < model.params().size(); ++i) {
    const WatchedParam& param = model.params()[i];
    if (root.raw_hooks[i] || param.id == 0 || param.bias || !param.tensor.requires_grad() || !param.tensor.is_leaf()) {
      continue;
    }
    root.raw_hooks[i] =
        param.tensor.register_hook([serial = serial_, m = model.index(), i](const at::Tensor& gradient) {
          const Inside inside;
          Listener* const live = Live(serial);
          if (live != nullptr && live->active()) live->RawGradient(m, i, gradient);
        });
  }
}

void Listener::UnhookRawGradients() {
  for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
    RootState& root = *roots_[static_cast<size_t>(m)];
    std::lock_guard lock(root.mutex);
    if (tracker_.ThreadsThatTrain(m) > 1) continue;  // they stay, deaf
    for (size_t i = 0; i < root.raw_hooks.size(); ++i) {
      if (root.raw_hooks[i]) models_[static_cast<size_t>(m)]->params()[i].tensor.remove_hook(*root.raw_hooks[i]);
    }
    root.raw_hooks.clear();
  }
}

void Listener::RawGradient(int m, size_t index, const at::Tensor& gradient) {
  ThreadState& thread = OwnThread();
  const std::unique_ptr<RootThread>& state = thread.roots[static_cast<size_t>(m)];
  if (!state || !state->walk) return;
  WatchedModel& model = *models_[static_cast<size_t>(m)];
  const WatchedParam& param = model.params()[index];
  const Pass& pass = *state->walk_of;
  if (!pass.identity->Wants(Kind::kRawWeightGradients, model.module(param.module).id)) return;
  Guarded(thread, [&](ThreadState& own) {
    ThreadTimer timer(own);
    capture_.Publish(*pass.identity, Kind::kRawWeightGradients, model, param.module, &param, param.id, 0,
                     state->walk.get(), gradient, ScaleFlag(pass));
  });
}

void Listener::HearEndOfBackward(ThreadState& thread, int64_t task) {
  if (thread.guarded_task == task) return;
  thread.guarded_task = task;
  auto guard = std::make_shared<BackwardGuard>(shared_from_this(), task, false);
  torch::autograd::Engine::get_default_engine().queue_callback([guard] { guard->End(); });
}

void Listener::BackwardEnded(ThreadState& thread, int64_t task) {
  const bool whole = tracker_.EndBackward(thread.id, task);
  for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
    WatchedModel& model = *models_[static_cast<size_t>(m)];
    RootState& root = StateOf(model);
    if (const auto& state = thread.roots[static_cast<size_t>(m)]; state && state->walk_task == task) {
      state->walk.reset();
      state->walk_of.reset();
    }
    const bool gave = root.last_task.load(std::memory_order_relaxed) == task;
    if (const auto& state = thread.roots[static_cast<size_t>(m)];
        whole && !gave && state && state->training && tracker_.Accumulates(m)) {
      state->training->losses->ForgetLastRoot();
    }
    const bool watches = tracker_.WatchesWeights(m);
    if (!gave && !watches) continue;
    {
      std::lock_guard lock(root.mutex);
      if (watches) root.fingerprint = Fingerprint(model);
      if (gave) {
        const int param = root.last_param.load(std::memory_order_relaxed);
        const at::Tensor gradient = param < 0 ? at::Tensor() : model.params()[static_cast<size_t>(param)].tensor.grad();
        root.last_gradient = {};
        if (gradient.defined()) {
          root.last_gradient.param = param;
          root.last_gradient.gradient.emplace(gradient.getIntrusivePtr());
          root.last_gradient.version = static_cast<uint32_t>(gradient._version());
        }
      }
      // A step of this pass may be ended by another thread, which cannot see what was spent here.
      const auto& state = thread.roots[static_cast<size_t>(m)];
      if (gave && (!state || !state->ends_steps)) root.handed_over.Add(std::exchange(thread.cost, {}));
    }
    Listen(m);
    if (whole && gave && model.freezes_wait.load(std::memory_order_relaxed)) FreezeAsAsked(model);
  }
}

// Recomputed layers of checkpointing give gradients; to see them the callback must stay on during backward.
bool Listener::WantsRecomputation(ThreadState& thread) const {
  for (const auto& state : thread.roots) {
    if (state && state->training && state->training->number &&
        state->training->identity->AnyOf(Kind::kLayerGradients)) {
      return true;
    }
  }
  return false;
}

void Listener::SleepDuringBackward(ThreadState& thread) {
  const int64_t task = torch::autograd::get_current_graph_task_id();
  if (thread.off_graph_task == task) return;
  thread.off_graph_task = task;
  for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
    roots_[static_cast<size_t>(m)]->sleeper.store(thread.id);
    Listen(m);
  }
  auto guard = std::make_shared<BackwardGuard>(shared_from_this(), task, true);
  torch::autograd::Engine::get_default_engine().queue_callback([guard] { guard->End(); });
}

// ---------------------------------------------------------------------------------------------------------------
// Which passes it reaches

PassLife::~PassLife() { Listener::OnPassGone(listener_, model_, number_); }

void Listener::OnPassGone(uint64_t serial, int model, uint32_t number) noexcept {
  const Inside inside;
  Listener* const live = Live(serial);
  if (live != nullptr && live->active()) live->tracker_.PassGone(model, number);
}

// A backward pass that reaches anything of the pass reaches an output that was made from what has no history, or the
// first that has one.
void Listener::HookPass(const std::shared_ptr<Pass>& pass, int model, const at::Tensor& input,
                        const at::Tensor& output) {
  // To know at a parameter's gradient which walk it is of, its layer must have been reached.
  const bool all = pass->training && pass->number && pass->identity->AnyOf(Kind::kRawWeightGradients);
  if (pass->hooked && input.requires_grad() && !all) return;
  if (!pass->training) {
    if (std::exchange(pass->hooked, true)) return;
    output.register_hook([serial = serial_, model](const at::Tensor&) {
      const Inside inside;
      Listener* const live = Live(serial);
      if (live == nullptr) return;
      live->Guarded([&](ThreadState& thread) {
        live->tracker_.EvaluationWalked(model, thread.id, torch::autograd::get_current_graph_task_id());
      });
    });
    return;
  }
  if (pass->tracked == 0) return;
  std::shared_ptr<PassLife> life = pass->life.lock();
  if (!life) {
    if (pass->hooked) return;  // it is gone already
    life = std::make_shared<PassLife>(serial_, model, pass->tracked);
    pass->life = life;
  }
  pass->hooked = true;
  output.register_hook([serial = serial_, model, pass, life](const at::Tensor&) {
    const Inside inside;
    Listener* const live = Live(serial);
    if (live == nullptr) return;
    live->Guarded([&](ThreadState&) { live->Walked(*pass, model); });
  });
}

// The number under which this backward pass gives the layer gradients of a pass; null: it gives none.
std::shared_ptr<const PassNumber> Listener::Walked(Pass& pass, int model) {
  const int64_t task = torch::autograd::get_current_graph_task_id();
  ThreadState& thread = OwnThread();
  std::lock_guard lock(pass.walks_mutex);
  for (const Pass::Walk& walk : pass.walks) {
    if (walk.task == task) return walk.number;
  }
  pass.walked.store(true);
  HearEndOfBackward(thread, task);
  constexpr uint64_t kOfWalks = KindBit(Kind::kLayerGradients) | KindBit(Kind::kRawWeightGradients);
  const bool numbered = pass.number && pass.identity->AnyOf(kOfWalks);
  Pass::Walk walk;
  walk.task = task;
  const uint32_t number =
      pass.tracked != 0 ? tracker_.Walked(model, thread.id, pass.tracked, task, numbered) : uint32_t{0};
  // One that runs within another, as checkpointing does, is part of it.
  for (const Pass::Walk& other : pass.walks) {
    if (other.number && other.number->value == number) walk.number = other.number;
  }
  if (number != 0 && !walk.number) {
    RootState& root = *roots_[static_cast<size_t>(model)];
    std::lock_guard hold(root.mutex);
    walk.number = Number(root, *pass.identity, number, nullptr);
  }
  RootThread& state = State(thread, *models_[static_cast<size_t>(model)]);
  if (!state.walk || state.walk_task == task) {
    state.walk = walk.number;
    state.walk_task = task;
    state.walk_of = pass.shared_from_this();
  }
  pass.walks.push_back(walk);
  return walk.number;
}

uint16_t Listener::ScaleFlag(const Pass& pass) {
  return pass.losses->scaled() ? uint16_t{kFlagGradScaled} : uint16_t{0};
}

void Listener::LayerGradient(int model, int module, uint16_t call, const std::shared_ptr<Pass>& pass,
                             const at::Tensor& gradient) {
  Guarded([&](ThreadState& thread) {
    ThreadTimer timer(thread);
    const auto number = Walked(*pass, model);
    if (!number) return;  // of a step that has ended
    capture_.Publish(*pass->identity, Kind::kLayerGradients, *models_[static_cast<size_t>(model)], module, nullptr, 0,
                     call, number.get(), gradient, ScaleFlag(*pass));
  });
}

}  // namespace ikkuna::torch_probe
