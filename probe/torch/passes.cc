// Where a pass begins, of training and of evaluation, and what is wanted of the step it is for.
#include <algorithm>
#include <utility>

#include "probe/torch/listener.h"
#include "probe/torch/operator_context.h"

namespace ikkuna::torch_probe {

namespace {

// Batches of a model that is evaluated and was never trained: then nobody listens for its first step any more.
constexpr uint64_t kEvaluationsOnly = 64;
// Of a step that does not end: so often the budget and the daemon's commands are looked after all the same.
constexpr uint32_t kPassesBetweenBoundaries = 16;

}  // namespace

// The caller holds the root's mutex, here and below.
std::shared_ptr<StepIdentity> Listener::MakeIdentity(RootState& root, const WatchedModel& model, uint16_t tag,
                                                     uint64_t step) {
  session_->RefreshDemand(root.demand);
  auto identity = std::make_shared<StepIdentity>();
  identity->root = model.root_id();
  identity->tag = tag;
  identity->step = step;
  identity->samples = samples_.load(std::memory_order_relaxed);
  identity->epoch.store(model.epoch.load(std::memory_order_relaxed), std::memory_order_relaxed);
  const uint64_t begin = model.epoch_begin_step.load(std::memory_order_relaxed);
  identity->train_step.store(static_cast<uint32_t>(step >= begin ? step - begin : 0), std::memory_order_relaxed);
  identity->demand_version = root.demand.version;
  identity->demand = session_->DemandAt(root.demand, model.root_id(), tag, step, root.shifts);
  std::lock_guard lock(mutex_);
  for (const auto& subscriber : local_) {
    if (subscriber->tag == tag && step % subscriber->period == 0 && !subscriber->failed.load()) {
      identity->local.push_back(subscriber);
    }
  }
  return identity;
}

// The step that takes the next number: it has none yet, and what is said of it now may be taken back by nobody.
std::shared_ptr<StepIdentity> Listener::Coming(RootState& root, const WatchedModel& model) {
  const uint64_t next = tracker_.NextStep(model.index());
  session_->RefreshDemand(root.demand);
  const bool usable = root.coming && root.coming->step == next &&
                      (root.coming->started.load() || root.coming->demand_version == root.demand.version);
  if (!usable) root.coming = MakeIdentity(root, model, kTagDefault, next);
  return root.coming;
}

LaneState& Listener::LaneOf(RootState& root, uint32_t lane) {
  while (root.lanes.size() <= lane) root.lanes.push_back(std::make_unique<LaneState>());
  return *root.lanes[lane];
}

std::shared_ptr<StepIdentity> Listener::IdentityOf(RootState& root, const WatchedModel& model, uint32_t index,
                                                   uint64_t step) {
  LaneState& lane = LaneOf(root, index);
  if (lane.identity && lane.identity->step == step) return lane.identity;
  // What a thread that ended, or that others write for, has left open goes on in the lane of all.
  for (const auto& other : root.lanes) {
    if (!other->identity || other->identity->step != step) continue;
    lane.identity = std::exchange(other->identity, nullptr);
    lane.weights_taken = std::exchange(other->weights_taken, false);
    lane.kept = std::exchange(other->kept, {});
    return lane.identity;
  }
  lane.weights_taken = false;
  root.pass_boundaries = 0;
  session_->RefreshDemand(root.demand);
  if (root.coming && root.coming->step == step &&
      (root.coming->started.load() || root.coming->demand_version == root.demand.version)) {
    lane.identity = std::exchange(root.coming, nullptr);
  } else {
    lane.identity = MakeIdentity(root, model, kTagDefault, step);
  }
  return lane.identity;
}

// Before the first step: the trainer's wish, not the probe's cost. Threads that begin together wait together.
void Listener::WaitOnce(ThreadState& thread, RootState& root) {
  if (root.waited.load(std::memory_order_acquire)) return;
  const uint64_t begin = MonotonicNs();
  std::call_once(root.wait, [&] {
    session_->WaitForDaemon();
    std::lock_guard lock(root.mutex);
    root.shifts = session_->shifts();
    root.last_step_ns = MonotonicNs();
    root.waited.store(true, std::memory_order_release);
  });
  if (thread.timer != nullptr) thread.timer->Skip(MonotonicNs() - begin);
}

// A pass of its own, opened for the daemon before anything else of it.
std::shared_ptr<const PassNumber> Listener::Number(RootState& root, const StepIdentity& identity, uint32_t number,
                                                   const std::shared_ptr<Pass>& pass) {
  auto numbered = std::make_shared<const PassNumber>(number);
  capture_.PublishPassStarted(identity, *numbered);
  const uint32_t lowest = tracker_.LowestOpen(root.model);
  std::erase_if(root.recorded,
                [&](const RootState::Recorded& recorded) { return shm::PassBefore(recorded.number->value, lowest); });
  // Another thread may have put in a later number already.
  const auto behind =
      std::upper_bound(root.recorded.begin(), root.recorded.end(), number,
                       [](uint32_t value, const auto& other) { return shm::PassBefore(value, other.number->value); });
  root.recorded.insert(behind, {numbered, pass});
  return numbered;
}

// Whether what is open decides what the callback has to hear.
void Listener::NoteDue(RootState& root, const WatchedModel& model, uint32_t index) {
  const LaneState& lane = LaneOf(root, index);
  const bool due = lane.identity && lane.identity->any();
  tracker_.SetDue(model.index(), index, due, Coming(root, model)->any());
}

// A layer of a training pass goes on with the pass under way, until backward has reached that, or its first module is
// called again on what does not come from the pass itself, as a recurrent cell's input does.
bool Listener::ContinuesPass(ThreadState& thread, RootThread& state, RootState& root, int module,
                             c10::ArrayRef<const c10::IValue> inputs) {
  const std::shared_ptr<Pass>& pass = state.training;
  if (!pass || pass->over.load() || pass->walked.load()) return false;
  if (pass->hooked && pass->life.expired() && pass->training) return false;  // its graph is gone
  if (!pass->number && pass->begun_at != root.backward_passes.load(std::memory_order_relaxed)) return false;
  if (module != pass->first_module) return true;
  bool descends = false;
  for (const c10::IValue& input : inputs) {
    EachTensor(input, [&](const at::Tensor& tensor) {
      if (descends) return;
      const Origin* const origin = thread.provenance.Of(tensor);
      descends = origin != nullptr && origin->pass == pass;
    });
  }
  return descends;
}

void Listener::BeginTrainingPass(ThreadState& thread, RootThread& state, WatchedModel& model, int module,
                                 const at::Tensor& input) {
  const int m = model.index();
  RootState& root = StateOf(model);
  if (state.evaluation) CloseEvaluation(state, model);
  WaitOnce(thread, root);
  std::lock_guard lock(root.mutex);
  // What of the last pass is known now: whether backward has reached it before this one begins.
  const std::shared_ptr<Pass> before = state.training;
  std::shared_ptr<PassLosses> losses;
  if (before && !before->over.load()) {
    const bool walked = before->walked.load() ||
                        (!before->number && before->begun_at != root.backward_passes.load(std::memory_order_relaxed));
    if (walked) {
      SettleLosses(*before, model, {before});
      before->over.store(true);
    } else {
      losses = before->losses;
      // Nothing that backward could reach: it is over.
      if (before->tracked != 0 && !before->hooked) tracker_.PassGone(m, before->tracked);
    }
  }
  probe::StepTracker::PassOptions options;
  options.evaluating = !model.is_training();
  options.moved = tracker_.WatchesWeights(m) && Fingerprint(model) != root.fingerprint;
  options.now_ns = MonotonicNs();
  const auto begun = tracker_.BeginPass(m, thread.id, options);
  FinishAll(root, model, begun.to_close);
  if (begun.ended) {
    EndStep(thread, model, root, *begun.ended, -1, GradientsBefore(root, model, -1) == probe::GradientState::kKept);
  }
  const std::shared_ptr<StepIdentity> identity = IdentityOf(root, model, begun.lane, begun.step);
  LaneState& lane = LaneOf(root, begun.lane);
  if (!begun.opened && ++root.pass_boundaries % kPassesBetweenBoundaries == 0) {
    HandleCommands(model, false);
    AccountPasses(thread, root, *identity);
  }
  auto pass = std::make_shared<Pass>();
  pass->identity = identity;
  pass->losses = losses ? std::move(losses) : std::make_shared<PassLosses>();
  pass->training = true;
  pass->first_module = module;
  pass->begun_at = root.backward_passes.load(std::memory_order_relaxed);
  if (identity->any()) {
    capture_.EnsureStarted(*identity);
    pass->tracked = tracker_.RecordPass(m, thread.id, begun.lane);
    pass->number = Number(root, *identity, pass->tracked, pass);
    if (!identity->buffers_taken.exchange(true)) capture_.TakeBuffers(*identity, model);
    if (identity->AnyOf(Kind::kRawWeightGradients)) HookRawGradients(root, model);
    // The weights may move on the way, unseen or by another hand: what counts is what the step began with.
    if (!lane.weights_taken && tracker_.WeightsMayMove(m)) {
      if (model.TreeChanged()) RenewTree(model);
      capture_.TakeWeights(lane, *identity, model, [&] { return tracker_.OthersWrite(m, thread.id); });
    }
  }
  // A loop whose gradients come by no hook is known by its passes alone.
  if (pass->tracked == 0 && !tracker_.Accumulates(m)) pass->tracked = tracker_.RecordPass(m, thread.id, begun.lane);
  state.training = thread.pass = pass;
  thread.last_layer = -1;
  if (input.defined()) capture_.PublishMeta(*identity, Kind::kInputData, model, 0, pass->number.get(), input);
  shm::RootStatus& status = session_->root_status(model.root_id());
  shm::StoreRelaxed(status.phase, static_cast<uint32_t>(shm::Phase::kTrain));
  NoteDue(root, model, begun.lane);
  Listen(m);
}

void Listener::BeginEvaluationPass(ThreadState& thread, RootThread& state, WatchedModel& model, uint16_t tag,
                                   int module, const at::Tensor& input) {
  const int m = model.index();
  RootState& root = StateOf(model);
  if (state.evaluation && state.evaluation->identity->tag != tag) CloseEvaluation(state, model);
  const bool opened = !state.evaluation;
  if (!tracker_.EvaluationLayer(m, thread.id, module, opened)) {
    thread.pass = state.evaluation;
    return;
  }
  std::lock_guard lock(root.mutex);
  auto pass = std::make_shared<Pass>();
  if (opened) {
    FinishAll(root, model, tracker_.CloseSteps(m, thread.id, false));
    pass->identity = MakeIdentity(root, model, tag, model.steps_finished.load(std::memory_order_relaxed));
    root.kinds_evaluated |= pass->identity->demand.due_kinds();
    root.evaluated_rarely |= pass->identity->demand.rare();
    if (pass->identity->any()) capture_.PublishMarker(*pass->identity, Kind::kBatchStarted);
    shm::RootStatus& status = session_->root_status(model.root_id());
    shm::StoreRelaxed(status.phase, static_cast<uint32_t>(shm::Phase::kEvaluate));
  } else {
    SettleLosses(*state.evaluation, model, {state.evaluation});
    state.evaluation->over.store(true);
    pass->identity = state.evaluation->identity;
  }
  pass->losses = std::make_shared<PassLosses>();
  pass->first_module = module;
  if (pass->identity->any()) {
    if (state.batches.size() >= probe::StepPasses::kNameAtOnce) {
      capture_.PublishMarker(*pass->identity, Kind::kPassesNamed,
                             Name(root, *pass->identity, state.batches, state.batches_named));
      state.batches_named += static_cast<uint32_t>(state.batches.size());
      state.batches.clear();
    }
    pass->number = Number(root, *pass->identity, tracker_.NextPass(m), pass);
    state.batches.push_back(pass->number);
  }
  state.evaluation = thread.pass = pass;
  thread.last_layer = -1;
  if (input.defined()) capture_.PublishMeta(*pass->identity, Kind::kInputData, model, 0, pass->number.get(), input);
  if (root.evaluated.fetch_add(1) + 1 == kEvaluationsOnly && tracker_.NextStep(m) == options_.start_step) {
    tracker_.Rest(m);
    Listen(m);
  }
  if (opened) Listen(m);
}

void Listener::CloseEvaluation(RootThread& state, WatchedModel& model) {
  if (!state.evaluation) return;
  RootState& root = StateOf(model);
  std::lock_guard lock(root.mutex);
  const std::shared_ptr<Pass> pass = std::exchange(state.evaluation, nullptr);
  SettleLosses(*pass, model, {pass});
  pass->over.store(true);
  const StepIdentity& identity = *pass->identity;
  if (identity.any()) {
    capture_.PublishMarker(identity, Kind::kBatchFinished,
                           Name(root, *pass->identity, state.batches, state.batches_named));
  }
  state.batches.clear();
  state.batches_named = 0;
}

// What a marker of the step says of these passes, which are over with it; what they lost the step has lost.
probe::StepPasses Listener::Name(RootState& root, const StepIdentity& identity,
                                 const std::vector<std::shared_ptr<const PassNumber>>& passes, uint32_t named_before) {
  root.named.clear();
  for (const auto& pass : passes) {
    root.named.push_back(pass->value);
    identity.dropped_kinds.fetch_or(pass->dropped_kinds.load(std::memory_order_relaxed));
  }
  tracker_.PassesTold(root.model, root.named);
  std::erase_if(root.recorded, [&](const RootState::Recorded& recorded) {
    return std::binary_search(root.named.begin(), root.named.end(), recorded.number->value, shm::PassBefore);
  });
  return {root.named, named_before, tracker_.LowestOpen(root.model)};
}

}  // namespace ikkuna::torch_probe
