#include "probe/torch/step_ends.h"

#include <algorithm>
#include <string>
#include <utility>

#include "probe/torch/threads.h"

namespace ikkuna::torch_probe {

namespace {

constexpr uint64_t kUpdateKinds = KindBit(Kind::kWeightUpdates) | KindBit(Kind::kBiasUpdates);
constexpr uint64_t kGradientKinds = KindBit(Kind::kWeightGradients) | KindBit(Kind::kBiasGradients);
constexpr uint64_t kMomentKinds = KindBit(Kind::kExpAvg) | KindBit(Kind::kExpAvgSq);

// A loss scaler that looks for its scale skips fewer in a row.
constexpr uint64_t kSkippedMany = 32;

bool Decays(const OperatorInfo& info) { return info.list && info.multiplies; }

probe::WriteKind KindOf(OperatorClass what) {
  if (what == OperatorClass::kArithmetic) return probe::WriteKind::kArithmetic;
  return what == OperatorClass::kAssign ? probe::WriteKind::kAssign : probe::WriteKind::kOther;
}

}  // namespace

void StepEnds::GradientsWritten(const std::vector<const void*>& storages) {
  for (int m = 0; m < roots_.count(); ++m) {
    const WatchedModel& model = roots_.model(m);
    RootState& root = roots_.StateOf(model);
    std::lock_guard lock(root.mutex);
    for (const auto& lane : root.lanes) {
      for (size_t i = 0; lane->closing && i < std::min(lane->taken.size(), model.params().size()); ++i) {
        const at::Tensor& gradient = model.params()[i].tensor.grad();
        if (!lane->taken[i].taken() || !gradient.defined() || !gradient.has_storage()) continue;
        const void* const storage = gradient.storage().unsafeGetStorageImpl();
        if (std::find(storages.begin(), storages.end(), storage) != storages.end()) lane->taken[i].Spoil();
      }
    }
  }
}

// Whether the parameter has another gradient than when it was asked last.
bool StepEnds::NewGradient(RootState& root, const WatchedModel& model, int param) {
  const auto index = static_cast<size_t>(param);
  if (root.written_with.size() <= index) root.written_with.resize(model.params().size());
  const at::Tensor& gradient = model.params()[index].tensor.grad();
  if (root.written_with[index].Is(gradient)) return false;
  root.written_with[index].Take(gradient);
  return true;
}

void StepEnds::Doze(ThreadState& thread, RootState& root, WatchedModel& model) {
  root.witness.Look(model, roots_.LastFired(model.index()));
  // What one of several models is written for may be another's step.
  if (roots_.count() != 1 || !root.witness.trusted() || root.used_in_backward || session_.commands_wait()) return;
  if (model.freezes_wait.load(std::memory_order_relaxed) || !hearing_.RunsAllLayers(thread)) return;
  if (!tracker_.Doze(model.index(), thread.id)) return;
  root.dozer = thread.id;
  dozes_.store(true, std::memory_order_relaxed);
}

bool StepEnds::Stir(ThreadState& thread, RootState& root, WatchedModel& model) {
  const probe::ThreadId dozer = std::exchange(root.dozer, 0);
  if (dozer == 0) return false;
  dozes_.store(false, std::memory_order_relaxed);
  const int m = model.index();
  tracker_.Stir(m);
  if (root.witness.Written(model)) {
    const int param = root.witness.param();
    const auto seen = tracker_.Written(m, dozer, probe::WriteKind::kArithmetic, true, param);
    FinishAll(root, model, seen.to_close);
    if (seen.ended) EndStep(thread, model, root, *seen.ended, param, true);
    root.witness.Forget();
  }
  hearing_.Listen(m);
  return true;
}

void StepEnds::StirAll(ThreadState& thread) {
  for (int m = 0; dozes() && m < roots_.count(); ++m) {
    WatchedModel& model = roots_.model(m);
    RootState& root = roots_.StateOf(model);
    std::lock_guard lock(root.mutex);
    if (root.dozer == thread.id) Stir(thread, root, model);
  }
}

void StepEnds::Written(ThreadState& thread, WatchedModel& model, const OperatorInfo& info,
                       c10::ArrayRef<int> params, bool shared) {
  const int m = model.index();
  RootState& root = roots_.StateOf(model);
  int first = params.front();
  bool has_gradient = false;
  for (const int param : params) {
    if (has_gradient || !model.params()[static_cast<size_t>(param)].tensor.grad().defined()) continue;
    has_gradient = true;
    first = param;
  }
  const bool optimizer = info.what == OperatorClass::kArithmetic && has_gradient;
  std::lock_guard lock(root.mutex);
  const bool knew = tracker_.writes_arithmetic(m);
  const bool fresh = optimizer && !shared && !tracker_.Accumulates(m) && NewGradient(root, model, first);
  const auto seen = tracker_.Written(m, thread.id, KindOf(info.what), has_gradient, first, fresh);
  FinishAll(root, model, seen.to_close);
  if (seen.ended) {
    root.witness.Heard();
    // The callback slept for another thread's backward when this one ran its first forward pass.
    if (seen.unheard && open_steps_.IdentityOf(root, model, seen.lane, seen.ended->step)->any()) {
      session_.AddNote("step " + std::to_string(seen.ended->step) + " of " + model.name() +
                       " was the first of a thread that began late: its forward pass was not heard");
    }
    EndStep(thread, model, root, *seen.ended, first, true);
    LaneState& lane = open_steps_.LaneOf(root, seen.lane);
    for (const int param : params) {
      lane.written[static_cast<size_t>(param)] = lane.write_round;
      lane.taken[static_cast<size_t>(param)].Forget();
    }
    if (!lane.closing || !Decays(info)) return;
    lane.decayed.resize(model.params().size(), false);
    for (const int param : params) lane.decayed[static_cast<size_t>(param)] = true;
    return;
  }
  // Somebody else's, in the midst of a step: what the pass used is read before it is gone.
  const bool others =
      info.what == OperatorClass::kOtherWrite || (info.what == OperatorClass::kAssign && knew && !tracker_.manual(m));
  if (const auto open = others && tracker_.Waits(m, thread.id) ? tracker_.OpenStep(m, thread.id) : std::nullopt) {
    const uint32_t index = tracker_.LaneOf(m, thread.id);
    const std::shared_ptr<StepIdentity> identity = open_steps_.IdentityOf(root, model, index, *open);
    if (identity->any()) {
      capture_.EnsureStarted(*identity);
      LaneState& lane = open_steps_.LaneOf(root, index);
      if (!lane.weights_taken) capture_.TakeWeights(lane, *identity, model, [] { return false; });
      identity->flags.fetch_or(kFlagWeightsChangedOutside);
    }
  }
  if (!optimizer && info.what != OperatorClass::kOtherWrite) NoteNoBackward(root, model, first);
  if (optimizer && !seen.closing && tracker_.manual(m)) WrittenBeforeBoundary(root, model, seen.lane, params);
  LaneState& lane = open_steps_.LaneOf(root, seen.closing.value_or(seen.lane));
  if (!seen.closing || !lane.closing) {
    if (optimizer && lane.evaluated && !tracker_.OpenStepOf(m, seen.lane)) NoteLateWrite(lane, model, first);
    for (const int param : params) lane.second_round |= WrittenAgain(lane, param) && optimizer;
    return;
  }
  if (lane.written.size() < model.params().size()) {  // some came since
    lane.written.resize(model.params().size(), 0);
    lane.taken.resize(model.params().size());
  }
  // An optimizer that is attached beside the one whose write ended the step: its gradients are still the step's.
  if (optimizer && !lane.late_optimizers.empty()) {
    const int index = Optimizers::IndexOf(*optimizers_.All(), model.params()[static_cast<size_t>(first)]);
    const auto late = std::find(lane.late_optimizers.begin(), lane.late_optimizers.end(), index);
    if (late != lane.late_optimizers.end()) {
      lane.late_optimizers.erase(late);
      std::erase(root.not_awaited, index);
      tracker_.HoldClosing(m, *seen.closing, lane.closing->step, AwaitsLate(root, lane));
      capture_.TakeLearningRates(*lane.closing, model, first, roots_, tracker_.ThreadsThatTrain(m) > 1);
      capture_.TakeGradients(lane, model, *lane.closing, first, 0, false);
    }
  }
  for (const int param : params) {
    // What was taken at the first write is not what this one uses.
    const auto index = static_cast<size_t>(param);
    const at::Tensor& gradient = model.params()[index].tensor.grad();
    GradientVersion& taken = lane.taken[index];
    if (info.what != OperatorClass::kOtherWrite && taken.taken() && gradient.defined() && !taken.Is(gradient)) {
      lane.closing->flags.fetch_or(kFlagGradModified);
    }
    taken.Forget();
    WrittenOutside(lane, knew || optimizer, info, param);
  }
}

// The trainer says the end behind the write, and has maybe called its scheduler and zero_grad() by then.
void StepEnds::WrittenBeforeBoundary(RootState& root, WatchedModel& model, uint32_t index, c10::ArrayRef<int> params) {
  const auto open = tracker_.OpenStepOf(model.index(), index);
  if (!open) return;
  const std::shared_ptr<StepIdentity> identity = open_steps_.IdentityOf(root, model, index, *open);
  LaneState& lane = open_steps_.LaneOf(root, index);
  if (identity->AnyOf(Kind::kLearningRate) && !std::exchange(lane.rates_taken, true)) {
    capture_.EnsureStarted(*identity);
    capture_.TakeLearningRates(*identity, model, -1, roots_, false);
  }
  if (!identity->AnyOf(kGradientKinds)) return;
  lane.written_with.resize(model.params().size());
  for (const int param : params) {
    const at::Tensor& gradient = model.params()[static_cast<size_t>(param)].tensor.grad();
    if (gradient.defined()) lane.written_with[static_cast<size_t>(param)].Take(gradient);
  }
}

// Whether the gradients that are there now are those that the step was written with.
void StepEnds::CompareWithWritten(const LaneState& lane, WatchedModel& model, StepIdentity& identity) {
  bool gone = false, modified = false;
  for (size_t i = 0; i < lane.written_with.size(); ++i) {
    if (!lane.written_with[i].taken()) continue;
    const at::Tensor& gradient = model.params()[i].tensor.grad();
    gone |= !gradient.defined();
    modified |= gradient.defined() && !lane.written_with[i].Is(gradient);
  }
  if (modified) identity.flags.fetch_or(kFlagGradModified);
  if (gone) {
    session_.AddNote("gradients of " + model.name() +
                     " are missing where they are gone when its step is said to end: call probe.Step() before "
                     "zero_grad()");
  }
}

// A loop without backward (an evolution strategy, a Hebbian rule): that its writes are steps only the trainer can say.
// A model that follows another one's steps (an average of its weights) makes none.
void StepEnds::NoteNoBackward(RootState& root, const WatchedModel& model, int param) {
  constexpr uint32_t kRounds = 8;
  if (root.first_written < 0) root.first_written = param;
  if (root.rounds_written >= kRounds || param != root.first_written || ++root.rounds_written != kRounds) return;
  bool steps = root.backward_passes.load(std::memory_order_relaxed) != 0;
  for (int m = 0; m < roots_.count(); ++m) steps |= tracker_.steps_ended(m) != 0;
  if (steps) return;
  session_.AddNote("parameters of " + model.name() +
                   " are written, and no backward pass was seen: where that is how it trains, call probe.Step() behind "
                   "each update");
}

// An evaluation ran between two optimizers that nobody attached: the step was over, as far as anybody could know.
void StepEnds::NoteLateWrite(const LaneState& lane, const WatchedModel& model, int param) {
  const auto index = static_cast<size_t>(param);
  if (index >= lane.written.size() || lane.written[index] >= lane.write_round) return;
  const WatchedModule& module = model.module(model.params()[index].module);
  session_.AddNote("the update of " + Shown(module) + " of " + model.name() +
                   " is missing where its optimizer writes behind an evaluation: attach every optimizer, or evaluate "
                   "when all have written");
}

// Whether the parameter is written again, after others, since the lane's last step was counted.
bool StepEnds::WrittenAgain(LaneState& lane, int param) {
  const auto index = static_cast<size_t>(param);
  if (index >= lane.written.size()) return false;  // no step has ended, or it came since
  const bool again = lane.written[index] == lane.write_round && lane.last_written != param;
  lane.written[index] = lane.write_round;
  lane.last_written = param;
  return again;
}

// Between a step's end and the next pass the optimizer writes each parameter in one go, or one whole list of them behind
// the other: the decay, then what its state says. Another second round, or an operator that optimizers of this loop do
// not use, is somebody else: EMA swaps, loads, clamps.
void StepEnds::WrittenOutside(LaneState& lane, bool arithmetic, const OperatorInfo& info, int param) {
  bool outside = info.what == OperatorClass::kOtherWrite || (info.what == OperatorClass::kAssign && arithmetic);
  lane.decayed.resize(lane.written.size(), false);
  const bool decayed = lane.decayed[static_cast<size_t>(param)];
  if (WrittenAgain(lane, param)) {
    outside |= !info.quotient && !(decayed && info.list && !info.multiplies);
    lane.second_round |= info.what == OperatorClass::kArithmetic;
    lane.decayed[static_cast<size_t>(param)] = false;
  } else {
    lane.decayed[static_cast<size_t>(param)] = Decays(info);
  }
  if (outside) lane.closing->flags.fetch_or(kFlagWeightsChangedOutside);
}

void StepEnds::EndStep(ThreadState& thread, WatchedModel& model, RootState& root, const probe::StepEnd& end,
                       int written_param, bool gradients) {
  const int m = model.index();
  const std::shared_ptr<StepIdentity> identity = open_steps_.IdentityOf(root, model, end.lane, end.step);
  LaneState& lane = open_steps_.LaneOf(root, end.lane);
  const bool seen = end.cause == probe::StepEndCause::kWritten || end.cause == probe::StepEndCause::kBoundary;
  NoteEverySecond(root, lane, model);
  identity->flags.fetch_or(end.flags());
  if (identity->any() && root.steps_missed.exchange(false)) {
    identity->flags.fetch_or(kFlagStepInferred);
    session_.AddNote("all parameters of " + model.name() + " were replaced while nothing of it was due: steps made before " +
                     "that was seen are not counted, and from step " + std::to_string(end.step) +
                     " on numbers are less than the trainer's by as many; attach the model again whenever all of it is " +
                     "replaced");
  }
  identity->samples = open_steps_.samples();
  std::vector<std::shared_ptr<const PassNumber>> numbers;
  std::vector<std::shared_ptr<Pass>> passes;
  root.named.clear();
  for (const uint32_t number : end.passes) {
    const auto recorded =
        std::lower_bound(root.recorded.begin(), root.recorded.end(), number,
                         [](const auto& other, uint32_t value) { return shm::PassBefore(other.number->value, value); });
    if (recorded == root.recorded.end() || recorded->number->value != number) {
      root.named.push_back(number);
      continue;
    }
    numbers.push_back(recorded->number);
    if (recorded->pass) passes.push_back(recorded->pass);
  }
  if (!root.named.empty()) tracker_.PassesTold(m, root.named);  // of which nothing is published
  // One that began in another step was published by what that one was asked for.
  for (const auto& pass : passes) {
    if (pass->identity == identity) continue;
    identity->dropped_kinds.fetch_or(identity->demand.NotIn(pass->identity->demand));
    identity->dropped_kinds.fetch_or(pass->identity->step == identity->step ? pass->identity->dropped_kinds.load() : 0);
  }
  // A pass that began in the step before, of which nothing was wanted, is part of this one: a number that nobody
  // published anything under says that it lacks one.
  const bool ahead = end.runs_ahead && !lane.due_before;
  const bool lacks = std::exchange(lane.lacks_first, false) || end.unheard || ahead;
  lane.lacks_first = end.handed_on && !identity->any();
  if (lacks && identity->any()) {
    numbers.push_back(std::make_shared<const PassNumber>(tracker_.NextPass(m)));
  }
  if (ahead && identity->any()) {
    session_.AddNote("passes of " + model.name() +
                     " begin in the step before their own: where nothing was to be taken in that one, activations, losses "
                     "and layer gradients of the next are missing; subscribe to them at every step (period 1)");
  }
  lane.due_before = identity->any();
  const std::unique_ptr<RootThread>& own = thread.roots[static_cast<size_t>(m)];
  // Of a pass that is not published nobody has a number: it is this thread's last one.
  if (seen && passes.empty() && own && own->training && !own->training->over.load()) {
    passes.push_back(own->training);
    // Nor is one named that backward has reached behind its first layers alone (for some of the parameters).
    if (own->training->number && own->training->losses->gave()) numbers.push_back(own->training->number);
  }
  std::vector<int> late;
  if (identity->any() && model.TreeChanged()) roots_.RenewTree(model);
  lane.taken.assign(model.params().size(), {});
  if (identity->any()) {
    capture_.EnsureStarted(*identity);
    if (!lane.weights_taken) {
      capture_.TakeWeights(lane, *identity, model, [&] { return tracker_.OthersWrite(m, thread.id); });
    }
    if (gradients) {
      CompareWithWritten(lane, model, *identity);
      const bool scaled = std::any_of(passes.begin(), passes.end(),
                                      [](const auto& pass) { return pass->training && pass->losses->scaled(); });
      const uint16_t flags = scaled && root.last_gradient.Untouched(model) ? uint16_t{kFlagGradScaled} : uint16_t{0};
      capture_.TakeGradients(lane, model, *identity, written_param, flags, true);
    }
    if (seen) {
      if (!lane.rates_taken) {
        capture_.TakeLearningRates(*identity, model, written_param, roots_, tracker_.ThreadsThatTrain(m) > 1);
      }
      late = capture_.LateOptimizers(model, written_param);
    }
  }
  losses_.SettleStep(passes, model, !lacks && (root.learning.load() || identity->AnyOf(kLossKinds)));
  for (const auto& pass : passes) pass->over.store(true);
  lane.identity.reset();
  lane.weights_taken = lane.evaluated = lane.second_round = lane.rates_taken = false;
  lane.written_with.clear();
  lane.closing = identity;
  lane.closing_passes = std::move(numbers);
  lane.late_optimizers = std::move(late);
  if (identity->AnyOf(kMomentKinds)) lane.optimizers = optimizers_.All();
  lane.had_gradient.clear();
  if (seen && identity->AnyOf(kUpdateKinds | kMomentKinds)) {
    for (const WatchedParam& param : model.params()) {
      lane.had_gradient.push_back(!param.retired.load() && param.tensor.grad().defined());
    }
  }
  lane.written.resize(model.params().size(), 0);
  ++lane.write_round;
  lane.last_written = written_param;
  if (written_param >= 0) {
    lane.written[static_cast<size_t>(written_param)] = lane.write_round;
    lane.taken[static_cast<size_t>(written_param)].Forget();
  }
  // Where the trainer has said the end, and no write was seen before, that may come behind.
  const bool write_goes_on = seen && (end.cause == probe::StepEndCause::kWritten || !end.written);
  const bool awaited = identity->AnyOf(kUpdateKinds | kMomentKinds | kGradientKinds) || !lane.late_optimizers.empty();
  if (write_goes_on && awaited) {
    lane.decayed.clear();
    tracker_.HoldClosing(m, end.lane, end.step, AwaitsLate(root, lane));
  } else {
    FinishClosing(root, model, {end.lane, end.step});
  }
  accounts_.StepFinished(thread, root, model, *identity);
  control_.HandleCommands(model, true);
  roots_.Trained(m);
  if (own) own->ends_steps |= seen;
  root.learning.store(tracker_.Learning(m));
  root.evaluation_trains.store(tracker_.trains_in_evaluation(m));
  // What has gone out as an evaluation was the pass of this step.
  if (own && own->evaluation && root.evaluation_trains.load()) {
    own->evaluation->identity->flags.fetch_or(kFlagStepInferred);
  }
  (end.cause == probe::StepEndCause::kSkipped ? root.steps_skipped : root.steps_made) += 1;
  if (root.steps_skipped >= kSkippedMany && root.steps_skipped >= root.steps_made) {
    session_.AddNote("more steps of " + model.name() +
                     " are skipped than made: their gradients are cleared before they are used; where several backward "
                     "passes make one step, attach with manual_steps and call probe.Step() behind each");
  }
  if (end.cause == probe::StepEndCause::kInferred) {
    session_.AddNote("steps of " + model.name() +
                     " end as inferred: their write of the parameters was not seen, and their gradients may be "
                     "missing; call probe.Step() behind it");
  }
  hearing_.WatchEvaluation(model, root.demand);
  root.pauses_at_end.store(hearing_.callback().pauses());
  // Nobody else is about: what the trainer has replaced need not live for us.
  if (model.has_retired() && model.layer_threads.load() <= 1 && tracker_.ThreadsThatTrain(m) <= 1) {
    roots_.ReleaseRetired(model, root, &thread.released);
  }
  // Another thread's backward that is under way in this lane is a step of its own already.
  if (const auto open = tracker_.OpenStepOf(m, end.lane)) open_steps_.IdentityOf(root, model, end.lane, *open);
  open_steps_.NoteDue(root, model, end.lane);
  hearing_.Listen(m);
  for (int other = 0; end.others_rest && other < roots_.count(); ++other) {
    // Of one that rests from now on nothing but its evaluations is heard.
    if (other != m) hearing_.WatchEvaluation(roots_.model(other), root.demand);
    hearing_.Listen(other);
  }
  if (identity->step - options_.start_step >= 1) SayWhatIsCaptured();
}

void StepEnds::StepGoesOn(ThreadState& thread, RootState& root, WatchedModel& model, LaneState& lane) {
  control_.HandleCommands(model, false);
  accounts_.PassesFinished(thread, root, *lane.identity);
  open_steps_.GiveUp(root, model, lane);
}

// The finished step's updates: what the parameters are now less what they were in it.
bool StepEnds::FinishClosing(RootState& root, WatchedModel& model, const probe::StepToClose& closing) {
  const int m = model.index();
  LaneState& lane = open_steps_.LaneOf(root, closing.lane);
  const std::shared_ptr<StepIdentity> identity = std::exchange(lane.closing, nullptr);
  if (!identity) return true;
  bool whole = true;
  if (identity->any()) {
    whole = !closing.writing || IsWhole(root, lane, model);
    if (closing.spanned || !whole) identity->flags.fetch_or(kFlagWeightsChangedOutside);
    capture_.TakeUpdates(lane, *identity, model);
    if (lane.optimizers) {
      const bool alone = !closing.writing && tracker_.ThreadsThatTrain(m) <= 1;
      capture_.TakeMoments(lane, model, *identity, *lane.optimizers,
                           alone                      ? Capture::Others::kNone
                           : tracker_.side_by_side(m) ? Capture::Others::kWrite
                                                      : Capture::Others::kMayWrite);
    }
    capture_.PublishMarker(*identity, Kind::kBatchFinished, open_steps_.Name(root, *identity, lane.closing_passes, 0));
  } else if (!lane.closing_passes.empty()) {
    open_steps_.Name(root, *identity, lane.closing_passes, 0);  // they are over all the same
  }
  lane.closing_passes.clear();
  lane.optimizers.reset();
  for (const int late : lane.late_optimizers) {
    std::erase(root.not_awaited, late);
    root.not_awaited.push_back(late);
  }
  lane.late_optimizers.clear();
  // Copies of the weights, for an update that nobody asks for any more.
  if (!lane.kept.empty() && (!tracker_.LaneInUse(m, closing.lane) || !AsksForUpdates(root))) {
    lane.kept = {};
  }
  return whole;
}

// Whether the thread that wrote the step that closes has written all that its optimizers write: then it has handed
// over. Of an optimizer that is not attached that is what had a gradient, and was ever written if others were.
bool StepEnds::IsWhole(const RootState& root, const LaneState& lane, const WatchedModel& model) const {
  if (root.writes_under_way.load() != 0) return false;
  const auto list = optimizers_.All();
  const auto is_written = [&](size_t i) { return i < lane.written.size() && lane.written[i] == lane.write_round; };
  std::vector<bool> writes(list->size(), false), leaves(list->size(), false);
  bool any = false, others_left = false;
  size_t i = 0;
  for (const WatchedParam& param : model.params()) {
    const size_t at = i++;
    const bool written = is_written(at);
    any |= written;
    if (!written && (at >= lane.had_gradient.size() || !lane.had_gradient[at])) continue;
    if (const int index = Optimizers::IndexOf(*list, param); index >= 0)
      (written ? writes : leaves)[static_cast<size_t>(index)] = true;
    else
      others_left |= !written && (lane.written[at] != 0 || (list->empty() && lane.write_round == 1));
  }
  for (size_t index = 0; index < writes.size(); ++index) others_left |= writes[index] && leaves[index];
  return any && !others_left;
}

// An optimizer that evaluates twice (SAM) writes once to look and once to come back: each of its steps looks like two,
// the second of which is written twice.
void StepEnds::NoteEverySecond(RootState& root, const LaneState& lane, const WatchedModel& model) {
  constexpr uint32_t kInARow = 8;
  // Where nothing of the step before was wanted, what was written behind it may not have been heard.
  const bool alternates = lane.due_before && lane.second_round != root.closed_second_round;
  root.alternating = alternates ? root.alternating + 1 : 0;
  root.closed_second_round = lane.second_round;
  if (root.alternating != 2 * kInARow || tracker_.side_by_side(model.index())) return;
  session_.AddNote("each second step of " + model.name() +
                   " is written twice, as by an optimizer that evaluates twice a step (SAM): if it does, attach with "
                   "manual_steps and call probe.Step() behind each of its steps");
}

bool StepEnds::AsksForUpdates(const RootState& root) const {
  if (root.demand.table) {
    for (const auto& item : root.demand.table->items()) {
      if ((item.kinds & kUpdateKinds) != 0) return true;
    }
  }
  return subscribers_.AskFor(kUpdateKinds);
}

bool StepEnds::FinishAll(RootState& root, WatchedModel& model, const std::vector<probe::StepToClose>& closing) {
  bool whole = true;
  for (const probe::StepToClose& step : closing) whole &= FinishClosing(root, model, step);
  return whole;
}

void StepEnds::CloseForEvaluation(ThreadState& thread, RootState& root, WatchedModel& model) {
  const auto closing = tracker_.CloseSteps(model.index(), thread.id, probe::StepTracker::CloseAt::kEvaluation);
  FinishAll(root, model, closing);
  for (const probe::StepToClose& step : closing) open_steps_.LaneOf(root, step.lane).evaluated = true;
}

// Whether an optimizer is to write that did so last time: it is waited for, also over an evaluation.
bool StepEnds::AwaitsLate(const RootState& root, const LaneState& lane) {
  return std::any_of(lane.late_optimizers.begin(), lane.late_optimizers.end(), [&](int late) {
    return std::find(root.not_awaited.begin(), root.not_awaited.end(), late) == root.not_awaited.end();
  });
}

void StepEnds::CloseSteps(ThreadState& thread, bool all) {
  StirAll(thread);
  const auto at = all ? probe::StepTracker::CloseAt::kAll : probe::StepTracker::CloseAt::kEpoch;
  for (int m = 0; m < roots_.count(); ++m) {
    WatchedModel& model = roots_.model(m);
    RootState& root = roots_.StateOf(model);
    if (const auto& state = thread.roots[static_cast<size_t>(m)]) open_steps_.CloseEvaluation(*state, root, model);
    if (all) open_steps_.CloseLeftEvaluations(root, model, UINT64_MAX);
    std::lock_guard lock(root.mutex);
    FinishAll(root, model, tracker_.CloseSteps(m, thread.id, at));
    // A step in which only names were logged is whole; one whose pass was cut short is not.
    if (all && root.coming && root.coming->started.exchange(false)) {
      capture_.PublishMarker(*root.coming, Kind::kBatchFinished);
    }
    if (all) {
      shm::StoreRelaxed(session_.root_status(model.root_id()).phase, static_cast<uint32_t>(shm::Phase::kIdle));
    }
    hearing_.Listen(m);
  }
}

// One line, once, after two steps.
void StepEnds::SayWhatIsCaptured() {
  if (said_.exchange(true) || options_.quiet) return;
  size_t modules = 0, params = 0, notes = 0;
  std::string names;
  for (int m = 0; m < roots_.count(); ++m) {
    WatchedModel& model = roots_.model(m);
    names += (m == 0 ? "" : ", ") + model.name();
    for (size_t i = 0; i < model.module_count(); ++i) modules += model.module(static_cast<int>(i)).id != 0;
    for (const WatchedParam& param : model.params()) params += param.id != 0;
    notes += model.notes().size();
  }
  const std::string missing =
      notes == 0 ? std::string()
                 : "; " + std::to_string(notes) + " remarks on what is not captured: see 'ikkuna status'";
  session_.Say("watching " + names + ": " + std::to_string(modules) + " modules, " + std::to_string(params) +
                " parameters; " + (session_.connected() ? "a daemon listens" : "no daemon listens yet") + "; run " +
                session_.identity().run_id + missing);
}

void StepEnds::EndThread(ThreadState& thread) {
  StirAll(thread);
  // An evaluation that it has left is whole; its training passes may still be walked by others.
  for (int m = 0; m < roots_.count(); ++m) {
    const auto& state = thread.roots[static_cast<size_t>(m)];
    if (state) open_steps_.CloseEvaluation(*state, roots_.state(m), roots_.model(m));
  }
  tracker_.EndThread(thread.id);
  thread.id = 0;
  for (int m = 0; m < roots_.count(); ++m) {
    const auto& state = thread.roots[static_cast<size_t>(m)];
    if (!state) continue;
    if (std::exchange(state->runs_layers, false)) Hearing::LayerThread(roots_.model(m), -1);
    {
      // Copies of the weights that no step will need.
      RootState& root = roots_.state(m);
      std::lock_guard lock(root.mutex);
      for (size_t lane = 0; lane < root.lanes.size(); ++lane) {
        LaneState& left = *root.lanes[lane];
        if (!left.identity && !left.closing && !tracker_.LaneInUse(m, static_cast<uint32_t>(lane))) left.kept = {};
      }
    }
    hearing_.Listen(m);
  }
}

}  // namespace ikkuna::torch_probe
