// Where a step ends: by the first counted write, by the trainer's word, or because its gradients are gone.
#include <algorithm>
#include <cstring>
#include <utility>

#include "probe/torch/listener.h"
#include "probe/torch/tensor_reader.h"

namespace ikkuna::torch_probe {

namespace {

constexpr uint64_t kUpdateKinds = KindBit(Kind::kWeightUpdates) | KindBit(Kind::kBiasUpdates);
constexpr uint64_t kGradientKinds = KindBit(Kind::kWeightGradients) | KindBit(Kind::kBiasGradients);
constexpr uint64_t kMomentKinds = KindBit(Kind::kExpAvg) | KindBit(Kind::kExpAvgSq);

// A loss scaler that looks for its scale skips fewer in a row.
constexpr uint64_t kSkippedMany = 32;

probe::WriteKind KindOf(OperatorClass what) {
  if (what == OperatorClass::kArithmetic) return probe::WriteKind::kArithmetic;
  return what == OperatorClass::kAssign ? probe::WriteKind::kAssign : probe::WriteKind::kOther;
}

}  // namespace

// Some of the elements of the parameters: whether anybody has moved the weights. Of all of them, for a loop may train the
// last ones alone; whether they require gradients says little, a GAN switches that from step to step.
uint64_t Listener::Fingerprint(WatchedModel& model) const {
  constexpr size_t kWords = 2048;  // of all
  const auto& params = model.params();
  const size_t of_each = std::clamp<size_t>(kWords / std::max<size_t>(params.size(), 1), 4, 64);
  uint64_t hash = 0xcbf29ce484222325;
  for (const WatchedParam& param : params) {
    if (!WhyUnreadable(param.tensor).empty()) continue;
    const auto& storage = param.tensor.storage();
    const auto* bytes = static_cast<const unsigned char*>(storage.data());
    const size_t words = storage.nbytes() / sizeof(uint32_t);
    if (bytes == nullptr) continue;
    const size_t stride = std::max<size_t>(1, words / of_each);
    for (size_t i = 0; i < words; i += stride) {
      uint32_t word = 0;
      std::memcpy(&word, bytes + i * sizeof word, sizeof word);
      hash = (hash ^ word) * 0x100000001b3;
    }
  }
  return hash;
}

void Listener::Written(ThreadState& thread, WatchedModel& model, const OperatorInfo& info,
                       const std::vector<int>& params) {
  const int m = model.index();
  RootState& root = StateOf(model);
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
  const auto seen = tracker_.Written(m, thread.id, KindOf(info.what), has_gradient, first);
  FinishAll(root, model, seen.to_close);
  if (seen.ended) {
    // The callback slept for another thread's backward when this one ran its first forward pass.
    if (seen.unheard && IdentityOf(root, model, seen.lane, seen.ended->step)->any()) {
      session_->AddNote("step " + std::to_string(seen.ended->step) + " of " + model.name() +
                        " was the first of a thread that began late: its forward pass was not heard");
    }
    EndStep(thread, model, root, *seen.ended, first, true);
    LaneState& lane = LaneOf(root, seen.lane);
    for (const int param : params) {
      if (lane.closing) lane.written[static_cast<size_t>(param)] = lane.write_round;
      lane.taken[static_cast<size_t>(param)] = -1;
    }
    return;
  }
  // Somebody else's, in the midst of a step: what the pass used is read before it is gone.
  const bool others =
      info.what == OperatorClass::kOtherWrite || (info.what == OperatorClass::kAssign && knew && !tracker_.manual(m));
  if (const auto open = others && tracker_.Waits(m, thread.id) ? tracker_.OpenStep(m, thread.id) : std::nullopt) {
    const uint32_t index = tracker_.LaneOf(m, thread.id);
    const std::shared_ptr<StepIdentity> identity = IdentityOf(root, model, index, *open);
    if (identity->any()) {
      capture_.EnsureStarted(*identity);
      LaneState& lane = LaneOf(root, index);
      if (!lane.weights_taken) capture_.TakeWeights(lane, *identity, model, [] { return false; });
      identity->flags.fetch_or(kFlagWeightsChangedOutside);
    }
  }
  if (!seen.closing) return;
  LaneState& lane = LaneOf(root, *seen.closing);
  if (!lane.closing) return;
  if (lane.written.size() < model.params().size()) {  // some came since
    lane.written.resize(model.params().size(), 0);
    lane.taken.resize(model.params().size(), -1);
  }
  // An optimizer that is attached beside the one whose write ended the step: its gradients are still the step's.
  if (optimizer && !lane.late_optimizers.empty()) {
    const int index = Optimizers::IndexOf(*optimizers_.All(), model.params()[static_cast<size_t>(first)]);
    const auto late = std::find(lane.late_optimizers.begin(), lane.late_optimizers.end(), index);
    if (late != lane.late_optimizers.end()) {
      lane.late_optimizers.erase(late);
      capture_.TakeLearningRates(*lane.closing, model, first, nullptr);
      capture_.TakeGradients(lane, model, *lane.closing, first, 0, nullptr);
    }
  }
  for (const int param : params) {
    // What was taken at the first write is not what this one uses.
    const auto index = static_cast<size_t>(param);
    const at::Tensor& gradient = model.params()[index].tensor.grad();
    const int64_t taken = std::exchange(lane.taken[index], -1);
    if (info.what != OperatorClass::kOtherWrite && taken >= 0 && gradient.defined() &&
        static_cast<int64_t>(gradient._version()) != taken) {
      lane.closing->flags.fetch_or(kFlagGradModified);
    }
    WrittenOutside(lane, knew || optimizer, info, param);
  }
}

// Between a step's end and the next pass the optimizer writes each parameter in one go. A second round, or an operator
// that optimizers of this loop do not use, is somebody else: EMA swaps, loads, clamps.
void Listener::WrittenOutside(LaneState& lane, bool arithmetic, const OperatorInfo& info, int param) {
  bool outside = info.what == OperatorClass::kOtherWrite || (info.what == OperatorClass::kAssign && arithmetic);
  uint32_t& round = lane.written[static_cast<size_t>(param)];
  if (round == lane.write_round && lane.last_written != param) outside = true;
  round = lane.write_round;
  lane.last_written = param;
  if (outside) lane.closing->flags.fetch_or(kFlagWeightsChangedOutside);
}

// The caller holds the root's mutex, here and below.
void Listener::EndStep(ThreadState& thread, WatchedModel& model, RootState& root, const probe::StepEnd& end,
                       int written_param, bool gradients) {
  const int m = model.index();
  const std::shared_ptr<StepIdentity> identity = IdentityOf(root, model, end.lane, end.step);
  LaneState& lane = LaneOf(root, end.lane);
  const bool seen = end.cause == probe::StepEndCause::kWritten || end.cause == probe::StepEndCause::kBoundary;
  identity->flags.fetch_or(end.flags());
  identity->samples = samples_.load(std::memory_order_relaxed);
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
  tracker_.PassesTold(m, root.named);  // of which nothing is published
  // One that began in another step was published by what that one was asked for.
  for (const auto& pass : passes) {
    if (pass->identity != identity) identity->dropped_kinds.fetch_or(identity->demand.NotIn(pass->identity->demand));
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
    session_->AddNote("passes of " + model.name() +
                      " begin in the step before their own: where nothing was to be taken in that one, activations, losses "
                      "and layer gradients of the next are missing; subscribe to them at every step (period 1)");
  }
  lane.due_before = identity->any();
  const std::unique_ptr<RootThread>& own = thread.roots[static_cast<size_t>(m)];
  // Of a pass that is not published nobody has a number: it is this thread's last one.
  if (seen && passes.empty() && own && own->training && !own->training->over.load()) passes.push_back(own->training);
  std::vector<int> late;
  if (identity->any() && model.TreeChanged()) RenewTree(model);
  lane.taken.assign(model.params().size(), -1);
  if (identity->any()) {
    capture_.EnsureStarted(*identity);
    if (!lane.weights_taken) {
      capture_.TakeWeights(lane, *identity, model, [&] { return tracker_.OthersWrite(m, thread.id); });
    }
    if (gradients) {
      const bool scaled = std::any_of(passes.begin(), passes.end(),
                                      [](const auto& pass) { return pass->training && pass->losses->scaled(); });
      const uint16_t flags = scaled && GradientsUntouched(root, model) ? uint16_t{kFlagGradScaled} : uint16_t{0};
      capture_.TakeGradients(lane, model, *identity, written_param, flags, &late);
    }
    if (seen) capture_.TakeLearningRates(*identity, model, written_param, &late);
  }
  SettleLossesOfStep(passes, model, !lacks && (root.learning.load() || identity->AnyOf(kLossKinds)));
  for (const auto& pass : passes) pass->over.store(true);
  lane.identity.reset();
  lane.weights_taken = false;
  lane.closing = identity;
  lane.closing_passes = std::move(numbers);
  lane.late_optimizers = std::move(late);
  lane.written.resize(model.params().size(), 0);
  ++lane.write_round;
  lane.last_written = written_param;
  if (written_param >= 0) {
    lane.written[static_cast<size_t>(written_param)] = lane.write_round;
    lane.taken[static_cast<size_t>(written_param)] = -1;
  }
  const bool stays_open =
      end.cause == probe::StepEndCause::kWritten &&
      (identity->AnyOf(kUpdateKinds | kMomentKinds | kGradientKinds) || !lane.late_optimizers.empty());
  if (stays_open) {
    tracker_.HoldClosing(m, end.lane, end.step);
  } else {
    FinishClosing(root, model, {end.lane, end.step, false});
  }
  AccountStep(thread, root, model, *identity);
  HandleCommands(model, true);
  ++thread.steps_ended;
  if (own) own->ends_steps |= seen;
  root.learning.store(tracker_.Learning(m));
  root.evaluation_trains.store(tracker_.trains_in_evaluation(m));
  // What has gone out as an evaluation was the pass of this step.
  if (own && own->evaluation && root.evaluation_trains.load()) {
    own->evaluation->identity->flags.fetch_or(kFlagStepInferred);
  }
  (end.cause == probe::StepEndCause::kSkipped ? root.steps_skipped : root.steps_made) += 1;
  if (root.steps_skipped >= kSkippedMany && root.steps_skipped >= root.steps_made) {
    session_->AddNote("more steps of " + model.name() +
                      " are skipped than made: their gradients are cleared before they are used; where several backward "
                      "passes make one step, attach with manual_steps and call probe.Step() behind each");
  }
  if (end.cause == probe::StepEndCause::kInferred) {
    session_->AddNote("steps of " + model.name() +
                      " end as inferred: their write of the parameters was not seen, and their gradients may be "
                      "missing; call probe.Step() behind it");
  }
  tracker_.SetWatching(m, WatchesEvaluation(root, model));
  // Another thread's backward that is under way in this lane is a step of its own already.
  if (const auto open = tracker_.OpenStepOf(m, end.lane)) IdentityOf(root, model, end.lane, *open);
  NoteDue(root, model, end.lane);
  Listen(m);
  for (int other = 0; end.others_rest && other < model_count_.load(std::memory_order_acquire); ++other) Listen(other);
  if (identity->step - options_.start_step >= 1) SayWhatIsCaptured();
}

void Listener::AccountStep(ThreadState& thread, RootState& root, WatchedModel& model, const StepIdentity& identity) {
  const uint64_t now = MonotonicNs();
  // Of several models that take turns on a thread each has its own rhythm, but the time that passes is one.
  const uint64_t since = thread.last_step_ns == 0 ? root.last_step_ns : thread.last_step_ns;
  const uint64_t step_ns = thread.step_time.Count(now - since);
  static_cast<void>(root.step_time.Count(now - root.last_step_ns));
  root.last_step_ns = thread.last_step_ns = now;
  model.usual_step_ns.store(root.step_time.usual_ns(), std::memory_order_relaxed);
  // The updates and moments of the step before were taken in this one, and evaluation passes ran in between.
  const uint64_t mine = identity.demand.due_kinds();
  const uint64_t due = mine |
                       (std::exchange(root.kinds_before, mine) & (kUpdateKinds | kMomentKinds | kGradientKinds)) |
                       std::exchange(root.kinds_evaluated, 0);
  if (thread.timer != nullptr) thread.timer->Flush();
  thread.cost.Add(std::exchange(root.handed_over, {}));
  const ThreadCost spent = std::exchange(thread.cost, {});
  root.shifts =
      session_->StepFinished(step_ns, {spent.total_ns + spent.calls * kIdleCallNs, spent.tensor_ns, spent.scalar_ns},
                             due, std::exchange(root.evaluated_rarely, false));

  shm::RootStatus& status = session_->root_status(model.root_id());
  const uint64_t finished = model.steps_finished.fetch_add(1) + 1;
  shm::StoreRelaxed(status.epoch, model.epoch.load(std::memory_order_relaxed));
  shm::StoreRelaxed(status.samples_seen, identity.samples);
  shm::StoreRelaxed(status.last_step_ns, now);
  shm::StoreRelaxed(status.step, finished);
}

// Of a step that does not end: what it costs is kept within the budget all the same.
void Listener::AccountPasses(ThreadState& thread, RootState& root, const StepIdentity& identity) {
  const uint64_t now = MonotonicNs();
  const uint64_t since = thread.last_step_ns == 0 ? root.last_step_ns : thread.last_step_ns;
  thread.last_step_ns = root.last_step_ns = now;
  if (thread.timer != nullptr) thread.timer->Flush();
  thread.cost.Add(std::exchange(root.handed_over, {}));
  const ThreadCost spent = std::exchange(thread.cost, {});
  root.shifts = session_->StepFinished(now - since,
                                       {spent.total_ns + spent.calls * kIdleCallNs, spent.tensor_ns, spent.scalar_ns},
                                       identity.demand.due_kinds());
}

// The finished step's updates: what the parameters are now less what they were in it.
void Listener::FinishClosing(RootState& root, WatchedModel& model, const probe::StepToClose& closing) {
  LaneState& lane = LaneOf(root, closing.lane);
  const std::shared_ptr<StepIdentity> identity = std::exchange(lane.closing, nullptr);
  if (!identity) return;
  if (identity->any()) {
    if (closing.spanned) identity->flags.fetch_or(kFlagWeightsChangedOutside);
    capture_.TakeUpdates(lane, *identity, model);
    capture_.TakeMoments(model, *identity, tracker_.side_by_side(model.index()));
    capture_.PublishMarker(*identity, Kind::kBatchFinished, Name(root, *identity, lane.closing_passes, 0));
  } else {
    Name(root, *identity, lane.closing_passes, 0);  // they are over all the same
  }
  lane.closing_passes.clear();
  lane.late_optimizers.clear();
  // Copies of the weights, for an update that nobody asks for any more.
  if (!lane.kept.empty() && (!tracker_.LaneInUse(model.index(), closing.lane) || !AsksForUpdates(root))) {
    lane.kept = {};
  }
}

bool Listener::WatchesEvaluation(const RootState& root, const WatchedModel& model) const {
  if (root.demand.table && root.demand.table->WatchesEvaluation(model.root_id())) return true;
  std::lock_guard lock(mutex_);
  return std::any_of(local_.begin(), local_.end(), [](const auto& subscriber) {
    return subscriber->tag != kTagDefault && !subscriber->failed.load();
  });
}

bool Listener::AsksForUpdates(const RootState& root) const {
  if (root.demand.table) {
    for (const auto& item : root.demand.table->items()) {
      if ((item.kinds & kUpdateKinds) != 0) return true;
    }
  }
  std::lock_guard lock(mutex_);
  return std::any_of(local_.begin(), local_.end(), [](const auto& subscriber) {
    return (subscriber->kinds & kUpdateKinds) != 0 && !subscriber->failed.load();
  });
}

void Listener::FinishAll(RootState& root, WatchedModel& model, const std::vector<probe::StepToClose>& closing) {
  for (const probe::StepToClose& step : closing) FinishClosing(root, model, step);
}

// Everything that is open: of this thread, or (`all`) at the end of the probe.
void Listener::CloseSteps(ThreadState& thread, bool all) {
  for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
    WatchedModel& model = *models_[static_cast<size_t>(m)];
    RootState& root = StateOf(model);
    if (thread.roots[static_cast<size_t>(m)]) CloseEvaluation(*thread.roots[static_cast<size_t>(m)], model);
    std::lock_guard lock(root.mutex);
    FinishAll(root, model, tracker_.CloseSteps(m, thread.id, all));
    // A step in which only names were logged is whole; one whose pass was cut short is not.
    if (all && root.coming && root.coming->started.exchange(false)) {
      capture_.PublishMarker(*root.coming, Kind::kBatchFinished);
    }
    if (all) {
      shm::StoreRelaxed(session_->root_status(model.root_id()).phase, static_cast<uint32_t>(shm::Phase::kIdle));
    }
    Listen(m);
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
