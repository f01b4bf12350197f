#include "probe/torch/backward.h"

#include <utility>

#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/graph_task.h>

#include "probe/torch/listener.h"

namespace ikkuna::torch_probe {

namespace {

uint16_t ScaleFlag(const Pass& pass) { return pass.losses->scaled() ? uint16_t{kFlagGradScaled} : uint16_t{0}; }

}  // namespace

// The end of a backward pass, of which a thread runs a part: the engine calls Come(), or, where backward throws, drops
// the last reference.
class Backward::End {
 public:
  End(uint64_t listener, int64_t task) : listener_(listener), task_(task) {}
  // A copy would come when it goes, in the middle of backward.
  End(const End&) = delete;
  End& operator=(const End&) = delete;
  ~End() { Come(); }

  // Once; on the thread that called backward unless that threw.
  void Come() {
    const Listener::Inside inside;
    Listener* const live = Listener::Live(listener_);
    if (come_.exchange(true) || live == nullptr || !live->active()) return;
    live->Guarded([&](ThreadState& thread) {
      const bool wakes = wakes_.load(std::memory_order_relaxed);
      const bool matters = matters_.load(std::memory_order_relaxed);
      if (matters) live->backward().BackwardEnded(thread, task_, wakes);
      if (wakes && !matters) live->backward().Wake();
    });
  }
  // The callback is off until then. False: it has been before.
  bool Wakes() { return !wakes_.exchange(true, std::memory_order_relaxed); }
  int64_t task() const { return task_; }
  bool come() const { return come_.load(std::memory_order_relaxed); }
  // Gradients came of it, or it reached a pass.
  void Matters() { matters_.store(true, std::memory_order_relaxed); }

 private:
  const uint64_t listener_;  // serial
  const int64_t task_;
  std::atomic<bool> wakes_{false};
  std::atomic<bool> matters_{false};
  std::atomic<bool> come_{false};
};

std::shared_ptr<Backward::End> Backward::EndOf(ThreadState& thread, int64_t task) {
  std::shared_ptr<End> found;
  // One may run within another.
  std::erase_if(thread.backward_ends, [&](const std::weak_ptr<void>& known) {
    auto end = std::static_pointer_cast<End>(known.lock());
    if (end && end->task() == task) found = end;
    return !end || end->come();
  });
  if (found) return found;
  found = std::make_shared<End>(serial_, task);
  torch::autograd::Engine::get_default_engine().queue_callback([found] { found->Come(); });
  thread.backward_ends.emplace_back(found);
  return found;
}

void Backward::Wake() {
  for (int m = 0; m < roots_.count(); ++m) {
    roots_.state(m).sleeper.store(0);
    hearing_.Listen(m);
  }
}

bool Backward::GradientsReady(ThreadState& thread, const at::Tensor& parameter, const std::vector<ParamOwner>& owners) {
  ++thread.cost.calls;
  bool settled = false;
  const int64_t task = torch::autograd::get_current_graph_task_id();
  for (const ParamOwner& owner : owners) {
    if (!roots_.Counts(owners, owner.model)) continue;
    WatchedModel& model = roots_.model(owner.model);
    WatchedParam& param = model.params()[static_cast<size_t>(owner.param)];
    if (param.retired.load(std::memory_order_relaxed)) continue;  // of a hook that stays
    if (param.data.load(std::memory_order_relaxed) != DataOf(parameter)) model.Refresh();
    RootThread& state = StateOn(thread, model);
    if (state.graph_task != task) {
      state.graph_task = task;
      AsOwnWork(session_, thread, [&](ThreadState& own) { FirstGradient(own, model, owner.param, task); });
    }
    roots_.SetLastFired(owner.model, owner.param);
    settled = true;
  }
  return settled;
}

void Backward::FirstGradient(ThreadState& thread, WatchedModel& model, int param, int64_t task) {
  const int m = model.index();
  RootState& root = roots_.StateOf(model);
  open_steps_.WaitOnce(thread, root);
  HearEndOfBackward(thread, task);
  // While another thread's backward sleeps this one trains as well: it is to be heard.
  if (const probe::ThreadId sleeper = root.sleeper.load(); sleeper != 0 && sleeper != thread.id) {
    Wake();
  } else if (hearing_.RunsAllLayers(thread) && !WantsRecomputation(thread)) {
    SleepDuringBackward(thread, task);
  }
  std::lock_guard lock(root.mutex);
  if (!ends_.Stir(thread, root, model)) root.witness.Compare(model);
  probe::StepTracker::GradientOptions options;
  if (tracker_.Pending(m)) {
    options.state = root.last_gradient.Now(model, param);
    options.moved = tracker_.WatchesWeights(m) && model.Fingerprint() != root.fingerprint;
    // Skipped, or written by what neither versions nor words tell of.
    if (options.state == probe::GradientState::kCleared) root.witness.Distrust();
  }
  root.last_gradient.Forget();
  options.now_ns = MonotonicNs();
  // By which it is known, at the end, whether the weights have moved within backward.
  if (root.fingerprint == 0 && !tracker_.manual(m) && tracker_.steps_ended(m) == 0)
    root.fingerprint = model.Fingerprint();
  // A forward pass that went unheard, since nothing was due, shows by the mode alone.
  if (!model.is_training() && StateOn(thread, model).walk_task != task) tracker_.EvaluationWalked(m, thread.id, task);
  const auto came = tracker_.Gradient(m, thread.id, task, options);
  if (came.forgotten) {
    session_.AddNote("gradients of " + model.name() +
                     " were cleared between two backward passes of one step: what the passes before the last had is "
                     "of no step, also where the loop has used it (gradients of each sample)");
  }
  ends_.FinishAll(root, model, came.to_close);
  if (came.ended) ends_.EndStep(thread, model, root, *came.ended, -1, false);
  root.backward_passes.fetch_add(1, std::memory_order_relaxed);
  root.last_task.store(task, std::memory_order_relaxed);
  for (const RootState::ReachedLosses& reached : root.losses_reached) {
    if (reached.task == task) reached.losses->Gave(task);
  }
  if (came.opened || came.ended) {
    const std::shared_ptr<StepIdentity> identity = open_steps_.IdentityOf(root, model, came.lane, came.step);
    LaneState& lane = open_steps_.LaneOf(root, came.lane);
    if (identity->any() && !lane.weights_taken && (root.used_in_backward || tracker_.WeightsMayMove(m))) {
      capture_.EnsureStarted(*identity);
      capture_.TakeWeights(lane, *identity, model, [&] { return tracker_.OthersWrite(m, thread.id); });
    }
    open_steps_.NoteDue(root, model, came.lane);
  } else if (LaneState& lane = open_steps_.LaneOf(root, came.lane);
             ++lane.passes % StepEnds::kPassesBetweenBoundaries == 0) {
    open_steps_.IdentityOf(root, model, came.lane, came.step);
    ends_.StepGoesOn(thread, root, model, lane);
  }
  hearing_.Listen(m);
}

void Backward::HookRawGradients(RootState& root, WatchedModel& model) {
  if (tracker_.ThreadsThatTrain(model.index()) > 1) {
    session_.AddNote("raw weight gradients of " + model.name() +
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
          const Listener::Inside inside;
          Listener* const live = Listener::Live(serial);
          if (live == nullptr || !live->active()) return;
          live->backward().RawGradient(live->OwnThread(), m, i, gradient);
        });
  }
}

void Backward::UnhookRawGradients() {
  for (int m = 0; m < roots_.count(); ++m) {
    RootState& root = roots_.state(m);
    std::lock_guard lock(root.mutex);
    if (tracker_.ThreadsThatTrain(m) > 1) continue;  // they stay, deaf
    for (size_t i = 0; i < root.raw_hooks.size(); ++i) {
      if (root.raw_hooks[i]) roots_.model(m).params()[i].tensor.remove_hook(*root.raw_hooks[i]);
    }
    root.raw_hooks.clear();
  }
}

void Backward::RawGradient(ThreadState& thread, int m, size_t index, const at::Tensor& gradient) {
  const std::unique_ptr<RootThread>& state = thread.roots[static_cast<size_t>(m)];
  if (!state) return;
  WatchedModel& model = roots_.model(m);
  const WatchedParam& param = model.params()[index];
  if (!state->walk) {
    const std::shared_ptr<Pass>& last = state->training;
    if (!last || last->over.load() || !last->number) return;
    const WatchedModule& module = model.module(param.module);
    if (!last->identity->Wants(Kind::kRawWeightGradients, module.id)) return;
    session_.AddNote("raw weight gradients of " + Shown(module) + " of " + model.name() +
                     " are missing where backward has reached no layer yet: a parameter behind the last one");
    return;
  }
  const Pass& pass = *state->walk_of;
  if (!pass.identity->Wants(Kind::kRawWeightGradients, model.module(param.module).id)) return;
  AsOwnWork(session_, thread, [&](ThreadState& own) {
    ThreadTimer timer(own);
    capture_.Publish(*pass.identity, Kind::kRawWeightGradients, model, param.module, &param, param.id, 0,
                     state->walk.get(), gradient, ScaleFlag(pass));
  });
}

void Backward::HearEndOfBackward(ThreadState& thread, int64_t task) {
  EndOf(thread, task)->Matters();
}

void Backward::BackwardEnded(ThreadState& thread, int64_t task, bool wakes) {
  for (int m = 0; wakes && m < roots_.count(); ++m) roots_.state(m).sleeper.store(0);
  const bool whole = tracker_.EndBackward(thread.id, task);
  if (whole && std::exchange(thread.starts_backward, false)) loss_roots_.Forget(thread.id);
  LossesReached(thread, task);
  for (int m = 0; m < roots_.count(); ++m) {
    WatchedModel& model = roots_.model(m);
    RootState& root = roots_.StateOf(model);
    const auto& state = thread.roots[static_cast<size_t>(m)];
    const bool walked = state && state->walk_task == task;
    if (walked) {
      state->walk.reset();
      state->walk_of.reset();
    }
    const bool gave = root.last_task.load(std::memory_order_relaxed) == task;
    // Behind another model's backward, or a look through an evaluation, the weights may have moved already; and another
    // thread may be writing them.
    const bool watches = (gave || (walked && !tracker_.manual(m))) && tracker_.WatchesWeights(m);
    if (!gave && !watches) {
      if (wakes) hearing_.Listen(m);
      continue;
    }
    {
      std::lock_guard lock(root.mutex);
      const uint64_t before = root.fingerprint;
      if (watches) root.fingerprint = model.Fingerprint();
      // Of another thread's pass it is not known here.
      const bool due = !state || !state->training || state->training->identity->any();
      const bool there = !gave || root.last_gradient.Note(model, roots_.LastFired(m), due);
      // Of the first backward pass the fingerprint was taken within it: then the weights have moved since.
      const bool moved_within = watches && before != root.fingerprint && root.backward_passes.load() == 1;
      root.used_in_backward |= gave && (!there || moved_within);
      // Gone with all others, and the weights have moved: an optimizer within backward has used them.
      if (!there && whole && watches && before != root.fingerprint && tracker_.ThreadsThatTrain(m) <= 1 &&
          !model.HasGradients()) {
        const auto used = tracker_.GradientsUsed(m, task);
        ends_.FinishAll(root, model, used.to_close);
        if (used.ended) ends_.EndStep(thread, model, root, *used.ended, -1, false);
      }
      // A step of this pass may be ended by another thread, which cannot see what was spent here.
      if (gave && (!state || !state->ends_steps)) root.handed_over.Add(std::exchange(thread.cost, {}));
      if (gave && whole) ends_.Doze(thread, root, model);
    }
    hearing_.Listen(m);
    if (whole && gave && model.freezes_wait.load(std::memory_order_relaxed)) control_.FreezeAsAsked(model);
  }
}

// Output and labels of what this backward pass trains by; one that gave no gradients was a look.
void Backward::LossesReached(ThreadState& thread, int64_t task) {
  for (int m = 0; m < roots_.count(); ++m) {
    RootState& root = roots_.state(m);
    std::vector<std::shared_ptr<PassLosses>> reached;
    {
      std::lock_guard lock(root.mutex);
      std::erase_if(root.losses_reached, [&](RootState::ReachedLosses& one) {
        if (one.task != task) return false;
        reached.push_back(std::move(one.losses));
        return true;
      });
    }
    if (reached.empty()) continue;
    ThreadTimer timer(thread);
    const bool by_hooks = tracker_.Accumulates(m);
    for (const auto& losses : reached) {
      losses_.PublishOutputs(losses->TakeOutputs(task, by_hooks), roots_.model(m), true);
    }
  }
}

bool Backward::WantsRecomputation(ThreadState& thread) const {
  for (const auto& state : thread.roots) {
    if (state && state->training && state->training->number &&
        state->training->identity->AnyOf(Kind::kLayerGradients)) {
      return true;
    }
  }
  return false;
}

void Backward::SleepDuringBackward(ThreadState& thread, int64_t task) {
  if (!EndOf(thread, task)->Wakes()) return;
  for (int m = 0; m < roots_.count(); ++m) {
    roots_.state(m).sleeper.store(thread.id);
    hearing_.Listen(m);
  }
}

// A backward pass that reaches anything of the pass reaches an output that was made from what has no history, or the
// first that has one.
void Backward::HookPass(const std::shared_ptr<Pass>& pass, int model, const at::Tensor& input,
                        const at::Tensor& output) {
  // To know at a parameter's gradient which walk it is of, its layer must have been reached.
  const bool all = pass->training && pass->number && pass->identity->AnyOf(Kind::kRawWeightGradients);
  if (pass->hooked && input.requires_grad() && !all) return;
  if (!pass->training) {
    if (std::exchange(pass->hooked, true)) return;
    output.register_hook([serial = serial_, model](const at::Tensor&) {
      const Listener::Inside inside;
      Listener* const live = Listener::Live(serial);
      if (live == nullptr) return;
      live->Guarded([&](ThreadState& thread) {
        const int64_t task = torch::autograd::get_current_graph_task_id();
        live->tracker().EvaluationWalked(model, thread.id, task);
        // Also of a look that no parameter's gradient comes of.
        live->backward().HearEndOfBackward(thread, task);
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
  if (!std::exchange(pass->hooked, true)) {
    std::lock_guard lock(pass->walks_mutex);
    pass->first_output = output.grad_fn();
  }
  output.register_hook([serial = serial_, model, pass, life](const at::Tensor&) {
    const Listener::Inside inside;
    Listener* const live = Listener::Live(serial);
    if (live == nullptr) return;
    live->Guarded([&](ThreadState& thread) { live->backward().Walked(thread, *pass, model); });
  });
}

PassLife::~PassLife() { Listener::OnPassGone(listener_, model_, number_); }

// The number under which this backward pass gives the layer gradients of a pass; null: it gives none.
std::shared_ptr<const PassNumber> Backward::Walked(ThreadState& thread, Pass& pass, int model) {
  const int64_t task = torch::autograd::get_current_graph_task_id();
  std::lock_guard lock(pass.walks_mutex);
  for (const Pass::Walk& walk : pass.walks) {
    if (walk.task == task) return walk.number;
  }
  pass.walked.store(true);
  // One that runs layers starts its backward passes itself, with a gradient of its own where it has no root.
  RootThread& state = StateOn(thread, roots_.model(model));
  for (const LossRoot& root : loss_roots_.For(thread.id, state.runs_layers)) {
    if (root.scaled) pass.losses->NoteScale();
  }
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
    RootState& root = roots_.state(model);
    std::lock_guard hold(root.mutex);
    walk.number = open_steps_.Number(root, *pass.identity, number, nullptr);
  }
  if (!state.walk || (state.walk_task == task && walk.number)) {
    state.walk = walk.number;
    state.walk_task = task;
    state.walk_of = pass.shared_from_this();
  }
  pass.walks.push_back(walk);
  return walk.number;
}

void Backward::HookLayerGradient(const std::shared_ptr<Pass>& pass, int model, int module, uint16_t call,
                                 const at::Tensor& output) {
  output.register_hook(
      [serial = serial_, model, module, call, pass, life = pass->life.lock()](const at::Tensor& gradient) {
        const Listener::Inside inside;
        Listener* const live = Listener::Live(serial);
        if (live == nullptr) return;
        live->Guarded([&](ThreadState& thread) {
          live->backward().LayerGradient(thread, model, module, call, pass, gradient);
        });
      });
}

void Backward::LayerGradient(ThreadState& thread, int model, int module, uint16_t call,
                             const std::shared_ptr<Pass>& pass, const at::Tensor& gradient) {
  ThreadTimer timer(thread);
  const auto number = Walked(thread, *pass, model);
  if (!number) {
    if (!pass->training || pass->tracked == 0) return;
    session_.AddNote("layer gradients of " + roots_.model(model).name() +
                     " are missing where backward goes through a pass that an earlier step was made of (two networks "
                     "attached as one model, a graph that is kept over a step)");
    return;
  }
  capture_.Publish(*pass->identity, Kind::kLayerGradients, roots_.model(model), module, nullptr, 0, call, number.get(),
                   gradient, ScaleFlag(*pass));
}

}  // namespace ikkuna::torch_probe
