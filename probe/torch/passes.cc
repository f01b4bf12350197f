#include "probe/torch/passes.h"

#include <utility>

#include "probe/torch/operator_context.h"

namespace ikkuna::torch_probe {

namespace {

// Batches of a model that is evaluated and was never trained: then nobody listens for its first step any more.
constexpr uint64_t kEvaluationsOnly = 64;
// Calls of one batch, each on what the last gave: a rollout goes on like that for as long as it likes.
constexpr uint32_t kUnrolledMax = 1024;

}  // namespace

void Passes::LayerBegins(ThreadState& thread, WatchedModel& model, const LayerCall& call) {
  const at::Tensor& input = call.input;
  hearing_.LayerHeard();
  model.has_layers.store(true, std::memory_order_relaxed);
  RootThread& state = StateOn(thread, model);
  RootState& root = roots_.StateOf(model);
  if (!std::exchange(state.runs_layers, true)) Hearing::LayerThread(model, +1);
  if (thread.last_root != model.index()) thread.last_layer = -1;
  thread.last_root = model.index();
  const bool training = model.is_training();
  const bool trains = training || root.evaluation_trains.load(std::memory_order_relaxed);
  // Checkpointing runs its forward without gradients, on what a pass that has them made. Other passes without gradients
  // (pseudo labels, old policies) run in the middle of one, too, on data of their own.
  const std::shared_ptr<Pass>& under_way = state.training;
  const Origin* const from = thread.grad_mode ? nullptr : thread.provenance.Of(input);
  const bool within = under_way && !under_way->over.load() && !under_way->walked.load() && input.defined() &&
                      (input.requires_grad() || (from != nullptr && from->pass == under_way && UnderWay(*from)));
  if (trains && (thread.grad_mode || within)) {
    const bool first = !under_way || under_way->BeginsWith(call.module, call.weight);
    if (ContinuesPass(thread, state, root, call)) {
      thread.pass = state.training;
      if (first) tracker_.FirstModuleCalled(model.index(), thread.id);
    } else {
      BeginTrainingPass(thread, state, model, call);
      tracker_.FirstModuleCalled(model.index(), thread.id);
    }
  } else {
    uint16_t tag = thread.evaluation_tag.value_or(evaluation_tag_.load(std::memory_order_relaxed));
    if (tag == kTagDefault) tag = training ? kTagNoGrad : kTagTest;
    BeginEvaluationPass(thread, state, model, tag, call);
  }
  thread.pass->after_loss = false;
}

std::shared_ptr<Pass> Passes::BeginWithoutLayer(ThreadState& thread, WatchedModel& model) {
  const RootState& root = roots_.StateOf(model);
  if (!model.is_training() && !root.evaluation_trains.load(std::memory_order_relaxed)) return nullptr;
  hearing_.LayerHeard();
  RootThread& state = StateOn(thread, model);
  thread.last_root = model.index();
  BeginTrainingPass(thread, state, model, {});
  return state.training;
}

bool Passes::NotHeard(const ThreadState& thread, const WatchedModel& model, Kind kind) const {
  RootState& root = roots_.StateOf(model);
  std::lock_guard lock(root.mutex);
  return !tracker_.OpenStep(model.index(), thread.id) && !open_steps_.Coming(root, model)->AnyOf(kind);
}

// A layer of a training pass goes on with the pass under way, until backward has reached that, or its first module is
// called again on what does not come from the pass itself, as a recurrent cell's input does.
bool Passes::ContinuesPass(ThreadState& thread, RootThread& state, RootState& root, const LayerCall& call) {
  const std::shared_ptr<Pass>& pass = state.training;
  if (!pass || pass->over.load() || pass->walked.load()) return false;
  if (pass->hooked && pass->life.expired() && pass->training) return false;  // its graph is gone
  if (!pass->number && pass->begun_at != root.backward_passes.load(std::memory_order_relaxed)) return false;
  return !pass->BeginsWith(call.module, call.weight) || Descends(thread, *pass, call);
}

// Something that flows into the layer comes from the pass.
bool Passes::Descends(const ThreadState& thread, const Pass& pass, const LayerCall& call) {
  bool descends = false;
  for (const c10::IValue& input : call.inputs) {
    EachTensor(input, [&](const at::Tensor& tensor) {
      if (descends) return;
      const Origin* const origin = thread.provenance.Of(tensor);
      descends = origin != nullptr && origin->pass.get() == &pass;
    });
  }
  return descends;
}

void Passes::BeginTrainingPass(ThreadState& thread, RootThread& state, WatchedModel& model, const LayerCall& call) {
  const at::Tensor& input = call.input;
  const int m = model.index();
  RootState& root = roots_.StateOf(model);
  if (state.evaluation) open_steps_.CloseEvaluation(state, root, model);
  CloseEvaluationsOfOthers(thread, model);
  open_steps_.WaitOnce(thread, root);
  std::lock_guard lock(root.mutex);
  // What of the last pass is known now: whether backward has reached it before this one begins.
  const std::shared_ptr<Pass> before = state.training;
  std::shared_ptr<PassLosses> losses;
  if (before && !before->over.load()) {
    const bool walked = before->walked.load() ||
                        (!before->number && before->begun_at != root.backward_passes.load(std::memory_order_relaxed));
    if (walked) {
      before->over.store(true);
    } else {
      losses = before->losses;
      // Nothing that backward could reach: it is over.
      if (before->tracked != 0 && !before->hooked) tracker_.PassGone(m, before->tracked);
    }
  }
  probe::StepTracker::PassOptions options;
  options.evaluating = !model.is_training();
  options.moved = !tracker_.manual(m) && tracker_.WatchesWeights(m) && model.Fingerprint() != root.fingerprint;
  options.now_ns = MonotonicNs();
  const auto begun = tracker_.BeginPass(m, thread.id, options);
  const bool others_write = !ends_.FinishAll(root, model, begun.to_close);
  if (begun.ended) {
    const bool kept = root.last_gradient.Now(model, -1) == probe::GradientState::kKept;
    ends_.EndStep(thread, model, root, *begun.ended, -1, kept);
  }
  std::shared_ptr<StepIdentity> identity = open_steps_.IdentityOf(root, model, begun.lane, begun.step);
  LaneState& lane = open_steps_.LaneOf(root, begun.lane);
  if (!begun.opened && ++lane.passes % StepEnds::kPassesBetweenBoundaries == 0) {
    ends_.StepGoesOn(thread, root, model, lane);
    identity = lane.identity;
  }
  // Its first layers ran without gradients.
  const Origin* const prefix = input.defined() && !input.grad_fn() ? thread.provenance.Of(input) : nullptr;
  if (prefix != nullptr && prefix->model == m && !prefix->grad_mode && prefix->pass && !prefix->pass->training &&
      prefix->pass->first_module != call.module) {
    session_.AddNote("layers of " + model.name() +
                     " that run without gradients before its training pass begins are published as passes of the tag "
                     "no_grad, not of training");
  }
  if (others_write) identity->flags.fetch_or(kFlagWeightsChangedOutside);
  // Of a model that has never made a step, and seems to make none beside one that does, nothing goes out; should this be
  // its first, that one says that it lacks a pass. Before anybody has made one it was evaluated before it is trained.
  if (identity->any() && tracker_.Resting(m) && tracker_.steps_ended(m) == 0) {
    bool others_train = false;
    for (int other = 0; other < roots_.count(); ++other) others_train |= tracker_.steps_ended(other) != 0;
    if (others_train) {
      identity = identity->OfNothing();
      lane.lacks_first = true;
    } else {
      tracker_.EndRest(m);
      root.evaluated.store(0);  // should none come of it, it rests again
    }
  }
  auto pass = std::make_shared<Pass>();
  pass->identity = identity;
  pass->losses = losses ? std::move(losses) : std::make_shared<PassLosses>();
  pass->training = true;
  pass->first_module = call.module;
  pass->first_weight = call.weight;
  pass->begun_at = root.backward_passes.load(std::memory_order_relaxed);
  if (identity->any()) {
    capture_.EnsureStarted(*identity);
    pass->tracked = tracker_.RecordPass(m, thread.id, begun.lane);
    pass->number = open_steps_.Number(root, *identity, pass->tracked, pass);
    if (!identity->buffers_taken.exchange(true)) capture_.TakeBuffers(*identity, model);
    if (identity->AnyOf(Kind::kRawWeightGradients)) backward_.HookRawGradients(root, model);
    // The weights may move on the way, unseen or by another hand: what counts is what the step began with.
    if (!lane.weights_taken && (root.used_in_backward || tracker_.WeightsMayMove(m))) {
      if (model.TreeChanged()) roots_.RenewTree(model);
      capture_.TakeWeights(lane, *identity, model, [&] { return tracker_.OthersWrite(m, thread.id); });
    }
  }
  // A loop whose gradients come by no hook is known by its passes alone.
  if (pass->tracked == 0 && !tracker_.Accumulates(m)) pass->tracked = tracker_.RecordPass(m, thread.id, begun.lane);
  state.training = thread.pass = pass;
  thread.last_layer = -1;
  if (input.defined()) capture_.PublishMeta(*identity, Kind::kInputData, 0, pass->number.get(), input);
  shm::RootStatus& status = session_.root_status(model.root_id());
  shm::StoreRelaxed(status.phase, static_cast<uint32_t>(shm::Phase::kTrain));
  open_steps_.NoteDue(root, model, begun.lane);
  hearing_.Listen(m);
}

// What this thread has evaluated of other models (an average, a teacher) is over when it trains on; but for what is
// still of the same step, which would be the same evaluation again. What other threads have evaluated is over if they
// have long left it.
void Passes::CloseEvaluationsOfOthers(ThreadState& thread, const WatchedModel& model) {
  for (int m = 0; m < roots_.count(); ++m) {
    RootState& root = roots_.state(m);
    if (root.evaluations_left_at.load(std::memory_order_relaxed) == UINT64_MAX) continue;  // none is open
    WatchedModel& other = roots_.model(m);
    const uint64_t steps = roots_.StepsBehind(other, start_step_, optimizers_);
    const auto& state = thread.roots[static_cast<size_t>(m)];
    if (m != model.index() && state && state->evaluation) {
      state->trained_since = true;
      if (state->evaluation->identity->step != steps) open_steps_.CloseEvaluation(*state, root, other);
    }
    open_steps_.CloseLeftEvaluations(root, other, steps);
  }
}

// Whether what begins on the thread is another evaluation than the one that is open there.
bool Passes::IsAnotherEvaluation(RootThread& state, const WatchedModel& model, uint16_t tag, const LayerCall& call,
                                 uint64_t steps) {
  if (state.frame->ended.load()) return true;
  // In the midst of a batch: what another thread says for those that have said none is of the next. But what runs in
  // another mode is none of it, whichever layer that begins with.
  const uint16_t open = state.evaluation->identity->tag;
  const auto by_mode = [](uint16_t one) { return one == kTagTest || one == kTagNoGrad; };
  if (!state.evaluation->BeginsWith(call.module, call.weight)) return open != tag && by_mode(open) && by_mode(tag);
  if (open != tag) return true;
  const uint64_t own = model.steps_finished.load(std::memory_order_relaxed);
  const bool trained = std::exchange(state.steps_at_batch, own) != own || state.trained_since;
  if (steps == state.evaluation->identity->step) return false;
  if (!trained && steps >= state.evaluation->identity->step + OpenSteps::kStepsLeft) {
    session_.AddNote(
        "an evaluation of " + model.name() +
        " goes on while others train, on a thread that does not: where these are several, call probe.Tag() "
        "behind each");
  }
  return trained;
}

// Whether a batch goes on with the call, as a cell does that is unrolled. Of a rollout with a loss each call is one.
bool Passes::Unrolls(const ThreadState& thread, Pass& batch, const LayerCall& call) {
  if (batch.after_loss.load() || batch.calls_unrolled >= kUnrolledMax || !Descends(thread, batch, call)) return false;
  ++batch.calls_unrolled;
  return true;
}

void Passes::BeginEvaluationPass(ThreadState& thread, RootThread& state, WatchedModel& model, uint16_t tag,
                                 const LayerCall& call) {
  const at::Tensor& input = call.input;
  const int m = model.index();
  RootState& root = roots_.StateOf(model);
  const uint64_t steps = roots_.StepsBehind(model, start_step_, optimizers_);
  if (state.evaluation && IsAnotherEvaluation(state, model, tag, call, steps)) {
    open_steps_.CloseEvaluation(state, root, model);
  }
  const bool opened = !state.evaluation;
  if (!opened) state.frame->last_steps.store(steps, std::memory_order_relaxed);
  const bool first = opened || state.evaluation->BeginsWith(call.module, call.weight);
  const bool continues = first && !opened && Unrolls(thread, *state.evaluation, call);
  if (!tracker_.EvaluationLayer(m, thread.id, first ? call.module : -1, opened, continues)) {
    if (first) state.evaluation->losses->NewCall(!continues);
    thread.pass = state.evaluation;
    return;
  }
  std::lock_guard lock(root.mutex);
  // Another thread may have taken the one that is open here for left.
  if (opened || state.frame->ended.load()) {
    ends_.CloseForEvaluation(thread, root, model);
    shm::RootStatus& status = session_.root_status(model.root_id());
    shm::StoreRelaxed(status.phase, static_cast<uint32_t>(shm::Phase::kEvaluate));
    state.frame = open_steps_.EvaluationOf(root, model, tag, steps);
    state.trained_since = false;
    state.steps_at_batch = model.steps_finished.load(std::memory_order_relaxed);
  }
  Evaluation& evaluation = *state.frame;
  auto pass = std::make_shared<Pass>();
  open_steps_.EndBatch(evaluation, state.evaluation, pass, model);
  // Of what nobody has asked for until now somebody may: a process that only evaluates has no other moment.
  const bool begins = !std::exchange(evaluation.begun, true);
  if (begins || !evaluation.identity->any()) {
    if (!begins) evaluation.identity = open_steps_.MakeIdentity(root, model, tag, steps);
    const StepIdentity& identity = *evaluation.identity;
    root.kinds_evaluated |= identity.demand.due_kinds();
    root.evaluated_rarely |= identity.demand.rare();
    if (identity.any()) capture_.PublishMarker(identity, Kind::kBatchStarted);
    // The batches before are missing in it: a number that nobody publishes anything under says so.
    if (!begins && identity.any()) {
      evaluation.batches.push_back(std::make_shared<const PassNumber>(tracker_.NextPass(m)));
    }
  }
  pass->identity = evaluation.identity;
  pass->losses = std::make_shared<PassLosses>();
  pass->first_module = call.module;
  pass->first_weight = call.weight;
  if (pass->identity->any()) {
    if (evaluation.batches.size() >= probe::StepPasses::kNameAtOnce) open_steps_.NameEnded(root, evaluation);
    pass->number = open_steps_.Number(root, *pass->identity, tracker_.NextPass(m), pass);
    evaluation.batches.push_back(pass->number);
  }
  state.evaluation = thread.pass = pass;
  thread.last_layer = -1;
  if (input.defined()) capture_.PublishMeta(*pass->identity, Kind::kInputData, 0, pass->number.get(), input);
  if (root.evaluated.fetch_add(1) + 1 == kEvaluationsOnly && tracker_.NextStep(m) == start_step_) {
    // From now on only who asks for evaluations keeps it heard, and the watchdog may not have looked yet.
    session_.RefreshDemand(root.demand);
    hearing_.WatchEvaluation(model, root.demand);
    tracker_.Rest(m);
  }
  hearing_.Listen(m);
}

}  // namespace ikkuna::torch_probe
