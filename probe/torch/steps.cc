// The life of a step: begun by a layer, made pending by backward, ended by the first counted write, closed by the next
// pass.
#include <algorithm>
#include <cstdio>
#include <utility>

#include "probe/torch/listener.h"

namespace ikkuna::torch_probe {

namespace {

constexpr uint64_t kLearningSteps = 8;  // how a loop writes its weights shows within a few steps

constexpr uint64_t kUpdateKinds = KindBit(Kind::kWeightUpdates) | KindBit(Kind::kBiasUpdates);
constexpr uint64_t kMomentKinds = KindBit(Kind::kExpAvg) | KindBit(Kind::kExpAvgSq);

}  // namespace

std::shared_ptr<StepIdentity> Listener::MakeIdentity(RootThread& state, WatchedModel& model, uint16_t tag,
                                                     uint64_t step) {
  session_->RefreshDemand(state.demand);
  auto identity = std::make_shared<StepIdentity>();
  identity->root = model.root_id();
  identity->tag = tag;
  identity->step = step;
  identity->samples = samples_.load(std::memory_order_relaxed);
  identity->epoch = model.epoch.load(std::memory_order_relaxed);
  const uint64_t begin = model.epoch_begin_step.load(std::memory_order_relaxed);
  identity->train_step = static_cast<uint32_t>(step >= begin ? step - begin : 0);
  identity->demand =
      probe::StepDemand(state.demand.table, model.root_id(), tag, step, state.shifts, session_->arena_ready());
  std::lock_guard lock(mutex_);
  for (const auto& subscriber : local_) {
    if (subscriber->tag == tag && step % subscriber->period == 0 && !subscriber->failed.load()) {
      identity->local.push_back(subscriber);
    }
  }
  return identity;
}

// A thread's first training layer or counted write: from here on it has steps of its own.
void Listener::SeenFirst(RootThread& state, WatchedModel& model) {
  if (state.started_thread) return;
  const uint64_t begin = MonotonicNs();
  session_->WaitForDaemon();
  // That wait is the trainer's wish.
  if (ThreadTimer* timer = OwnThread().timer) timer->Skip(MonotonicNs() - begin);
  state.shifts = session_->shifts();
  state.pass.identity = MakeIdentity(state, model, kTagDefault, model.next_step.fetch_add(1));
  state.due.store(state.pass.identity->any());
  state.learning.store(true);
  state.last_step_ns = MonotonicNs();
  state.written.assign(model.params().size(), 0);
  state.started_thread = true;
  Sync(state);
}

void Listener::BeginTrainingPass(ThreadState& thread, RootThread& state, WatchedModel& model, const at::Tensor& input) {
  SeenFirst(state, model);
  state.trains.store(true, std::memory_order_relaxed);
  if (const RootThread* leader = state.leader.load()) Follow(state, *leader);
  if (state.evaluation.identity) CloseEvaluation(state, model);
  if (state.closing) FinishClosing(state, model, true);
  const bool micro_batch = state.in_pass && state.backward_seen.load(std::memory_order_relaxed);
  const bool new_pass = !state.in_pass || micro_batch;
  if (micro_batch) {
    SettleLosses(state.pass, model, true);
    ++state.pass.micro;
    state.pass.calls.Clear();
    state.pass.recomputed.Clear();
    state.backward_seen.store(false);
    // Gradients that were cleared without a write: a loss scaler skipped that step, its passes belong to this one.
    // Unless it was the step of another model, whose pass went through this one.
    bool cleared = state.begun_after == thread.steps_ended;
    for (const WatchedParam& param : model.params()) cleared &= !param.tensor.grad().defined();
    if (cleared) state.pass.identity->flags.fetch_or(kFlagStepSkipped);
  }
  state.in_pass = true;
  if (state.pass.identity->any()) {
    capture_.EnsureStarted(*state.pass.identity);
    if (!state.pass.identity->buffers_taken.exchange(true)) capture_.TakeBuffers(*state.pass.identity, model);
    // A loop that says its steps itself may move the weights on the way: what counts is what the step began with.
    if (model.manual_steps.load(std::memory_order_relaxed) && !state.weights_taken) capture_.TakeWeights(state, model);
  }
  if (new_pass) {
    state.begun_after = thread.steps_ended;
    thread.last_layer = -1;
    if (input.defined()) capture_.PublishMeta(*state.pass.identity, Kind::kInputData, model, 0, state.pass.micro, input);
    shm::RootStatus& status = session_->root_status(model.root_id());
    shm::StoreRelaxed(status.phase, static_cast<uint32_t>(shm::Phase::kTrain));
  }
  state.watching.store(false);
  Sync(state);
}

void Listener::BeginEvaluationPass(ThreadState& thread, RootThread& state, WatchedModel& model, uint16_t tag,
                                   int module, const at::Tensor& input) {
  // A step that an assignment ended may not have ended at all, while it is not known how this loop writes.
  const bool doubtful = state.ended_by_assignment && !model.writes_arithmetic.load(std::memory_order_relaxed);
  if (state.closing && !doubtful) FinishClosing(state, model, true);
  Pass& pass = state.evaluation;
  if (pass.identity && pass.identity->tag != tag) CloseEvaluation(state, model);
  bool new_batch = false;
  if (!pass.identity) {
    pass.identity = MakeIdentity(state, model, tag, model.steps_finished.load(std::memory_order_relaxed));
    pass.calls.Clear();
    pass.micro = 0;
    state.evaluation_first = module;
    state.kinds_evaluated |= pass.identity->demand.due_kinds();
    if (pass.identity->any()) capture_.PublishMarker(*pass.identity, Kind::kBatchStarted);
    shm::RootStatus& status = session_->root_status(model.root_id());
    shm::StoreRelaxed(status.phase, static_cast<uint32_t>(shm::Phase::kEvaluate));
    new_batch = true;
  } else if (module == state.evaluation_first) {
    SettleLosses(pass, model, false);
    if (pass.micro < UINT16_MAX) ++pass.micro;
    pass.calls.Clear();
    new_batch = true;
  }
  if (!new_batch) return;
  thread.last_layer = -1;
  if (input.defined()) capture_.PublishMeta(*pass.identity, Kind::kInputData, model, 0, pass.micro, input);
}

void Listener::CloseEvaluation(RootThread& state, WatchedModel& model) {
  if (!state.evaluation.identity) return;
  SettleLosses(state.evaluation, model, false);
  if (state.evaluation.identity->any()) capture_.PublishMarker(*state.evaluation.identity, Kind::kBatchFinished);
  state.evaluation.identity.reset();
}

// The state whose step a write of this thread would end: its own, or, for a thread that only writes, that of the one
// which ran forward and backward for it.
RootThread& Listener::SteppingState(ThreadState& thread, WatchedModel& model) {
  RootThread& own = State(thread, model);
  if (thread.owns_backward || own.in_pass || own.closing) return own;
  RootThread* const last = thread.stepped[static_cast<size_t>(model.index())];
  if (last != nullptr && last->closing && !last->in_pass) return *last;
  std::lock_guard lock(mutex_);
  RootThread* only = nullptr;
  for (const auto& other : states_[static_cast<size_t>(model.index())]) {
    if (!other->pending.load() || other->stepper.load() || !other->in_pass || other->leader.load() != nullptr) continue;
    if (only != nullptr) return own;
    only = other.get();
  }
  if (only != nullptr) thread.stepped[static_cast<size_t>(model.index())] = only;
  return only == nullptr ? own : *only;
}

// Of several threads that run passes for one write each has a number of its own at first; from the next step on they
// share the writer's, who takes weights and gradients and ends it.
void Listener::Follow(RootThread& state, const RootThread& leader) {
  std::shared_ptr<StepIdentity> identity;
  {
    std::lock_guard lock(mutex_);
    identity = leader.pass.identity;
  }
  if (identity == state.pass.identity) return;
  if (!std::exchange(state.follows, true) && state.pass.identity->started.load()) {
    capture_.PublishMarker(*state.pass.identity, Kind::kBatchFinished);
  }
  state.pass.identity = std::move(identity);
  state.pass.Restart();
  state.in_pass = false;
  state.weights_taken = true;
  state.backward_seen.store(false);
  state.due.store(state.pass.identity->any());
}

bool Listener::IsPending(ThreadState& thread, WatchedModel& model, RootThread& state) {
  if (thread.owns_backward) return state.pending.load();
  std::lock_guard lock(mutex_);
  for (const auto& other : states_[static_cast<size_t>(model.index())]) {
    if (other->pending.load() && !other->stepper.load()) return true;
  }
  return false;
}

void Listener::ClearPending(ThreadState& thread, WatchedModel& model, RootThread& state) {
  std::vector<RootThread*> cleared;
  if (thread.owns_backward) {
    state.stepper.store(true);
    cleared.push_back(&state);
  } else {
    std::lock_guard lock(mutex_);
    for (const auto& other : states_[static_cast<size_t>(model.index())]) {
      if (!other->stepper.load()) cleared.push_back(other.get());
    }
  }
  for (RootThread* other : cleared) {
    other->pending.store(false);
    if (other == &state) {
      state.leader.store(nullptr);
      state.follows = false;
    } else if (other->in_pass) {
      other->leader.store(&state);
    }
    Sync(*other);
  }
}

// What this step has cost so far, on this thread and on those whose passes it ends.
void Listener::CollectCost(ThreadState& thread, WatchedModel& model, RootThread& state) {
  if (thread.timer != nullptr) thread.timer->Flush();
  thread.cost.Add(std::exchange(state.handed_over, {}));
  if (thread.owns_backward) return;
  std::lock_guard lock(mutex_);
  for (const auto& other : states_[static_cast<size_t>(model.index())]) {
    if (other->pending.load() && !other->stepper.load()) thread.cost.Add(std::exchange(other->handed_over, {}));
  }
}

void Listener::Written(ThreadState& thread, WatchedModel& model, const OperatorInfo& info, int param) {
  RootThread& state = SteppingState(thread, model);
  const WatchedParam& written = model.params()[static_cast<size_t>(param)];
  const bool has_gradient = written.tensor.grad().defined();
  const bool arithmetic = info.what == OperatorClass::kArithmetic;
  if (!model.manual_steps.load(std::memory_order_relaxed) && IsPending(thread, model, state)) {
    // Arithmetic on a parameter with a gradient is an optimizer; an assignment is one only in a loop that has no other.
    const bool counts =
        arithmetic ? has_gradient : info.what == OperatorClass::kAssign && !model.writes_arithmetic.load();
    if (counts) {
      if (arithmetic) model.writes_arithmetic.store(true);
      // The callback slept for another thread's backward when this one ran its first forward pass.
      const bool unheard = !state.started_thread && thread.owns_backward && model.layer_threads.load() > 0;
      SeenFirst(state, model);
      if (unheard && state.pass.identity->any()) {
        session_->AddNote("step " + std::to_string(state.pass.identity->step) + " of " + model.name() +
                          " was the first of a thread that began late: its forward pass was not heard");
      }
      state.ended_by_assignment = !arithmetic;
      EndStep(thread, model, state, param);
      return;
    }
  }
  if (arithmetic && has_gradient) model.writes_arithmetic.store(true);
  // An optimizer that is attached beside the one whose write ended the step: its gradients are still the step's.
  if (arithmetic && has_gradient && state.closing && !state.late_optimizers.empty()) {
    const int optimizer = Optimizers::IndexOf(*optimizers_.All(), written);
    const auto late = std::find(state.late_optimizers.begin(), state.late_optimizers.end(), optimizer);
    if (late != state.late_optimizers.end()) {
      state.late_optimizers.erase(late);
      capture_.TakeLearningRates(*state.closing, model, param);
      capture_.TakeGradients(model, state.closing, param, nullptr);
    }
  }
  WrittenOutside(state, model, info, param);
}

// Between a step's end and the next pass the optimizer writes each parameter in one go. A second round, or an operator
// that optimizers of this loop do not use, is somebody else: EMA swaps, loads, clamps.
void Listener::WrittenOutside(RootThread& state, WatchedModel& model, const OperatorInfo& info, int param) {
  if (!state.closing) return;
  bool outside = info.what == OperatorClass::kOtherWrite ||
                 (info.what == OperatorClass::kAssign && model.writes_arithmetic.load(std::memory_order_relaxed));
  uint32_t& round = state.written[static_cast<size_t>(param)];
  if (round == state.write_round && state.last_written != param) outside = true;
  round = state.write_round;
  state.last_written = param;
  if (outside) state.closing->flags.fetch_or(kFlagWeightsChangedOutside);
}

void Listener::EndStep(ThreadState& thread, WatchedModel& model, RootThread& state, int written_param) {
  if (state.closing) FinishClosing(state, model, true);
  std::shared_ptr<StepIdentity> identity = state.pass.identity;
  identity->samples = samples_.load(std::memory_order_relaxed);
  std::vector<int> late;
  if (identity->any()) {
    capture_.EnsureStarted(*state.pass.identity);
    if (!state.weights_taken) capture_.TakeWeights(state, model);
    capture_.TakeGradients(model, identity, written_param, &late);
    capture_.TakeLearningRates(*identity, model, written_param);
  }
  SettleLossesOfStep(state, model);
  const bool stays_open = identity->AnyOf(kUpdateKinds | kMomentKinds) || !late.empty();
  if (stays_open) {
    state.closing = identity;
    state.late_optimizers = std::move(late);
    ++state.write_round;
    state.last_written = written_param;
    if (written_param >= 0) state.written[static_cast<size_t>(written_param)] = state.write_round;
  } else if (identity->any()) {
    capture_.PublishMarker(*identity, Kind::kBatchFinished);
  }
  AccountStep(thread, state, model);
  state.steps_at_close = model.steps_finished.load();
  HandleCommands(model);

  auto next = MakeIdentity(state, model, kTagDefault, model.next_step.fetch_add(1));
  {
    std::lock_guard lock(mutex_);  // followers look
    state.pass.identity = std::move(next);
  }
  state.pass.Restart();
  state.in_pass = false;
  state.weights_taken = false;
  state.backward_seen.store(false);
  state.open.store(stays_open);
  state.due.store(state.pass.identity->any());
  ++thread.steps_ended;
  const uint64_t seen = identity->step - options_.start_step;
  state.learning.store(seen < 1 ||
                       (seen < kLearningSteps && !model.writes_arithmetic.load() && !model.manual_steps.load()));
  state.watching.store(state.demand.table && state.demand.table->WatchesEvaluation(model.root_id()));
  Sync(state);
  ClearPending(thread, model, state);
  if (model.first_hold.exchange(false)) callback_.Need(-1);
  if (seen >= 1) SayWhatIsCaptured();
}

void Listener::AccountStep(ThreadState& thread, RootThread& state, WatchedModel& model) {
  const uint64_t now = MonotonicNs();
  // Of several models that take turns on a thread each has its own rhythm, but the time that passes is one.
  const uint64_t since = thread.last_step_ns == 0 ? state.last_step_ns : thread.last_step_ns;
  const uint64_t step_ns = thread.step_time.Count(now - since);
  static_cast<void>(state.step_time.Count(now - state.last_step_ns));
  state.last_step_ns = thread.last_step_ns = now;
  model.usual_step_ns.store(state.step_time.usual_ns(), std::memory_order_relaxed);
  // The updates and moments of the step before were taken in this one, and evaluation passes ran in between.
  const uint64_t mine = state.pass.identity->demand.due_kinds();
  const uint64_t due = mine | (std::exchange(state.kinds_before, mine) & (kUpdateKinds | kMomentKinds)) |
                       std::exchange(state.kinds_evaluated, 0);
  CollectCost(thread, model, state);
  const ThreadCost spent = std::exchange(thread.cost, {});
  state.shifts = session_->StepFinished(
      step_ns, {spent.total_ns + spent.calls * kIdleCallNs, spent.tensor_ns, spent.scalar_ns}, due);

  shm::RootStatus& status = session_->root_status(model.root_id());
  const uint64_t finished = model.steps_finished.fetch_add(1) + 1;
  shm::StoreRelaxed(status.epoch, model.epoch.load(std::memory_order_relaxed));
  shm::StoreRelaxed(status.samples_seen, state.pass.identity->samples);
  shm::StoreRelaxed(status.last_step_ns, now);
  shm::StoreRelaxed(status.step, finished);
}

// The finished step's updates: what the parameters are now less what they were in it.
void Listener::FinishClosing(RootThread& state, WatchedModel& model, bool optimizers_alive) {
  const std::shared_ptr<StepIdentity> identity = state.closing;
  capture_.TakeUpdates(state, model);
  capture_.TakeMoments(model, *identity, optimizers_alive);
  capture_.PublishMarker(*identity, Kind::kBatchFinished);
  state.closing.reset();
  state.late_optimizers.clear();
  state.open.store(false);
  Sync(state);
}

void Listener::CloseAll(ThreadState& thread, bool optimizers_alive) {
  for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
    RootThread* state = thread.roots[static_cast<size_t>(m)];
    if (state == nullptr) continue;
    WatchedModel& model = *models_[static_cast<size_t>(m)];
    if (state->closing) FinishClosing(*state, model, optimizers_alive);
    CloseEvaluation(*state, model);
    // A step in which only names were logged is whole; one whose pass was cut short is not.
    if (state->pass.identity && !state->in_pass && !state->follows && state->pass.identity->started.exchange(false)) {
      capture_.PublishMarker(*state->pass.identity, Kind::kBatchFinished);
    }
    shm::StoreRelaxed(session_->root_status(model.root_id()).phase, static_cast<uint32_t>(shm::Phase::kIdle));
  }
}

// What threads that are gone left open.
void Listener::CloseEnded(bool optimizers_alive) {
  for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
    std::vector<RootThread*> ended;
    {
      std::lock_guard lock(mutex_);
      for (const auto& state : states_[static_cast<size_t>(m)]) {
        if (state->ended.exchange(false)) ended.push_back(state.get());
      }
    }
    for (RootThread* state : ended) TakeOver(*state, *models_[static_cast<size_t>(m)], optimizers_alive);
  }
}

// ---------------------------------------------------------------------------------------------------------------
// What it prints

// One line, once, after two steps.
void Listener::SayWhatIsCaptured() {
  if (said_.exchange(true) || options_.quiet) return;
  size_t modules = 0, params = 0, notes = 0;
  std::string names;
  for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
    WatchedModel& model = *models_[static_cast<size_t>(m)];
    names += (m == 0 ? "" : ", ") + model.name();
    for (size_t i = 0; i < model.module_count(); ++i) modules += model.module(static_cast<int>(i)).id != 0;
    for (const WatchedParam& param : model.params()) params += param.id != 0;
    notes += model.notes().size();
  }
  const std::string missing =
      notes == 0 ? std::string()
                 : "; " + std::to_string(notes) + " remarks on what is not captured: see 'ikkuna status'";
  session_->Say("watching " + names + ": " + std::to_string(modules) + " modules, " + std::to_string(params) +
                " parameters; " + (session_->connected() ? "a daemon listens" : "no daemon listens yet") + "; run " +
                session_->identity().run_id + missing);
}

}  // namespace ikkuna::torch_probe
