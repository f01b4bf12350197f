#include "probe/core/c_event.h"

#include <algorithm>

namespace ikkuna::probe::c {

namespace {

constexpr uint64_t kWeightKinds = KindBit(Kind::kWeights) | KindBit(Kind::kBiases);
constexpr uint64_t kGradientKinds = KindBit(Kind::kWeightGradients) | KindBit(Kind::kBiasGradients);
constexpr uint64_t kUpdateKinds = KindBit(Kind::kWeightUpdates) | KindBit(Kind::kBiasUpdates);
constexpr uint64_t kMomentKinds = KindBit(Kind::kExpAvg) | KindBit(Kind::kExpAvgSq);

// The kinds that a take may bring.
constexpr uint64_t KindsOf(uint32_t take) {
  return ((take & IKKUNA_TAKE_WEIGHTS) != 0 ? kWeightKinds | kUpdateKinds : 0) |  // an update needs the copy
         ((take & IKKUNA_TAKE_BUFFERS) != 0 ? KindBit(Kind::kBuffers) : 0) |
         ((take & IKKUNA_TAKE_GRADIENTS) != 0 ? kGradientKinds : 0) |
         ((take & IKKUNA_TAKE_RATES) != 0 ? KindBit(Kind::kLearningRate) : 0) |
         ((take & IKKUNA_TAKE_UPDATES) != 0 ? kUpdateKinds : 0) |
         ((take & IKKUNA_TAKE_MOMENTS) != 0 ? kMomentKinds : 0);
}

// Ended steps of a root that wait for the front end to end their handles; the oldest beyond it ends without.
constexpr size_t kMaxLeaving = 64;

TrackedLane& LaneOf(Root& root, uint32_t lane) {
  if (root.lanes.size() <= lane) root.lanes.resize(lane + 1);
  return root.lanes[lane];
}

// The last handle of a step that has ended is: its marker goes. The caller holds the root's mutex.
void PublishIfOver(Session& session, Step& step) {
  if (!step.ended || step.handles != 0 || std::exchange(step.marked, true)) return;
  std::erase_if(step.root->leaving, [&](const auto& one) { return one.get() == &step; });
  std::vector<uint32_t> passes;
  {
    std::lock_guard lock(step.mutex);
    step.over = true;
    passes = std::move(step.passes);
  }
  for (const uint32_t number : passes) {
    const auto recorded = step.root->recorded.find(number);
    if (recorded == step.root->recorded.end()) continue;
    step.dropped_kinds.fetch_or(recorded->second->dropped_kinds.load(std::memory_order_relaxed));
    step.root->recorded.erase(recorded);
  }
  if (step.due.any()) {
    Name(session, step, Kind::kBatchFinished, std::move(passes), step.flags.load());
  } else {
    step.state->tracker.PassesTold(step.root->tracked, passes);
  }
}

// It ends without what its handles would have brought.
void EndWithoutHandles(Session& session, Step& step) {
  step.dropped_kinds.fetch_or(step.due.due_kinds() & (kWeightKinds | kGradientKinds | kUpdateKinds | kMomentKinds));
  step.ended = true;
  step.handles = 0;
  PublishIfOver(session, step);
}

}  // namespace

void GiveUpTakes(Session& session, Thread& thread) {
  while (!thread.takes.empty()) {
    const ikkuna_take take = thread.takes.front();
    thread.takes.pop_front();
    const std::unique_ptr<ikkuna_step> own(take.step);
    own->body->dropped_kinds.fetch_or(KindsOf(take.take) & own->body->due.due_kinds());
    EndHandle(session, *own->body, 0);
  }
}

std::shared_ptr<Step> Event::Make(uint64_t number) {
  auto step = MakeStep(state_, session_, root_, kTagDefault, number, root_.epoch);
  step->demand_version = root_.demand.version;
  return step;
}

// The step that takes the next number: it has none yet, and what is said of it now is not taken back.
std::shared_ptr<Step> Event::Coming() {
  const uint64_t next = tracker_.NextStep(root_.tracked);
  session_.RefreshDemand(root_.demand);
  std::shared_ptr<Step>& coming = root_.coming;
  const bool used = coming && (coming->started || coming->handles != 0);
  if (!coming || coming->header.step != next || (!used && coming->demand_version != root_.demand.version)) {
    coming = Make(next);
  }
  return coming;
}

std::shared_ptr<Step> Event::StepOf(uint32_t index, uint64_t number) {
  TrackedLane& lane = LaneOf(root_, index);
  if (lane.open && lane.open->header.step == number) return lane.open;
  // What a thread that ended, or that others write for, has left open goes on in the lane of all.
  for (TrackedLane& other : root_.lanes) {
    if (other.open && other.open->header.step == number) return lane.open = std::exchange(other.open, nullptr);
  }
  session_.RefreshDemand(root_.demand);
  std::shared_ptr<Step> coming = std::exchange(root_.coming, nullptr);
  const bool used = coming && (coming->started || coming->handles != 0);
  const bool usable =
      coming && coming->header.step == number && (used || coming->demand_version == root_.demand.version);
  if (coming && !usable && coming->header.step > number) root_.coming = coming;
  return lane.open = usable ? std::move(coming) : Make(number);
}

std::shared_ptr<Step> Event::Said() {
  const auto open = tracker_.OpenStep(root_.tracked, thread_.id);
  return open ? StepOf(tracker_.LaneOf(root_.tracked, thread_.id), *open) : Coming();
}

void Event::Start(Step& step) {
  std::lock_guard lock(step.mutex);
  EnsureStarted(session_, step);
}

void Event::Queue(const std::shared_ptr<Step>& step, uint32_t take, uint16_t flags) {
  uint32_t wanted = 0;
  for (uint32_t one = 1; one <= IKKUNA_TAKE_BUFFERS; one <<= 1) {
    if ((take & one) != 0 && step->due.any() && step->due.AnyOf(KindsOf(one))) wanted |= one;
  }
  if (wanted == 0) return;
  Start(*step);
  auto handle = std::make_unique<ikkuna_step>();
  handle->body = step;
  thread_.takes.push_back({sizeof(ikkuna_take), handle.get(), step->header.step, wanted, root_.id, flags});
  static_cast<void>(handle.release());
  ++step->handles;
}

void Event::TakeWeights(const std::shared_ptr<Step>& step) {
  if (std::exchange(step->weights_taken, true)) return;
  const bool torn = tracker_.OthersWrite(root_.tracked, thread_.id);
  Queue(step, IKKUNA_TAKE_WEIGHTS, torn ? uint16_t{kFlagWeightsChangedOutside} : uint16_t{0});
}

// The tracker is through with it.
void Event::Leave(const std::shared_ptr<Step>& step) {
  step->ended = true;
  if (step->handles != 0) root_.leaving.push_back(step);
  PublishIfOver(session_, *step);
  if (root_.leaving.size() <= kMaxLeaving) return;
  const std::shared_ptr<Step> oldest = root_.leaving.front();
  EndWithoutHandles(session_, *oldest);
  session_.AddNote("steps of " + Shown(root_) +
                   " end without what was taken of them: a handle of theirs was not ended for " +
                   std::to_string(kMaxLeaving) + " steps (ikkuna_step_end(), ikkuna_thread_end())");
}

// Where a lane went into that of all and both had a step, its number is nobody's any more: what was published under it
// ends, and is not whole.
void Event::EndMerged() {
  const auto holds = [&](size_t lane, const Step& step) {
    return tracker_.OpenStepOf(root_.tracked, static_cast<uint32_t>(lane)) == step.header.step;
  };
  for (size_t i = 0; root_.lanes.size() > 1 && i < root_.lanes.size(); ++i) {
    const std::shared_ptr<Step> step = root_.lanes[i].open;
    if (!step || holds(i, *step) || holds(0, *step)) continue;
    root_.lanes[i].open.reset();
    if (!step->started) continue;
    step->dropped_kinds.fetch_or(step->due.due_kinds());
    Leave(step);
  }
}

void Event::NoteDue(uint32_t lane) {
  const bool due = LaneOf(root_, lane).open && LaneOf(root_, lane).open->due.any();
  const uint64_t next = tracker_.NextStep(root_.tracked);
  const bool next_due =
      root_.demand.table && root_.demand.table->DueAt(root_.id, kTagDefault, next, session_.shifts()) != 0;
  tracker_.SetDue(root_.tracked, lane, due, next_due);
}

void Event::NamePassesOf(const StepEnd& end, Step& step, TrackedLane& lane) {
  std::vector<uint32_t> told;  // of which nothing is published
  std::vector<uint32_t> named;
  for (const uint32_t number : end.passes) {
    const auto recorded = root_.recorded.find(number);
    if (recorded == root_.recorded.end()) {
      told.push_back(number);
      continue;
    }
    named.push_back(number);
    // One that began in another step was published by what that one was asked for.
    const Step& began = *recorded->second->step;
    if (&began != &step) step.dropped_kinds.fetch_or(step.due.NotIn(began.due));
  }
  tracker_.PassesTold(root_.tracked, told);
  // A pass that began in the step before, of which nothing was wanted, is part of this one: a number that nobody
  // published anything under says that it lacks one.
  const bool ahead = end.runs_ahead && !lane.due_before;
  const bool lacks = std::exchange(lane.lacks_first, false) || end.unheard || ahead;
  lane.lacks_first = end.handed_on && !step.due.any();
  if (lacks && step.due.any()) named.push_back(tracker_.NextPass(root_.tracked));
  if (ahead && step.due.any()) {
    session_.AddNote(
        "passes of " + Shown(root_) +
        " begin in the step before their own: where nothing was to be taken in that one, activations, losses "
        "and layer gradients of the next are missing; subscribe to them at every step (period 1)");
  }
  lane.due_before = step.due.any();
  std::lock_guard lock(step.mutex);
  step.passes = std::move(named);
}

// `gradients`: they are there still.
void Event::End(const StepEnd& end, bool gradients) {
  const std::shared_ptr<Step> step = StepOf(end.lane, end.step);
  const bool seen = end.cause == StepEndCause::kWritten || end.cause == StepEndCause::kBoundary;
  step->flags.fetch_or(end.flags());
  TrackedLane& lane = LaneOf(root_, end.lane);
  NamePassesOf(end, *step, lane);
  lane.open.reset();
  ++lane.round;
  // Where the trainer has said the end, and no write was seen before, that may come behind.
  const bool write_goes_on = seen && (end.cause == StepEndCause::kWritten || !end.written);
  const bool held = write_goes_on && step->due.AnyOf(kUpdateKinds | kMomentKinds | kGradientKinds);
  if (step->due.any()) {
    Start(*step);
    TakeWeights(step);
    uint32_t take = 0;
    if (gradients) take |= IKKUNA_TAKE_GRADIENTS;
    if (seen) take |= IKKUNA_TAKE_RATES;
    if (!held) take |= IKKUNA_TAKE_UPDATES | IKKUNA_TAKE_MOMENTS;
    Queue(step, take);
  }
  if (held) {
    lane.closing = step;
    tracker_.HoldClosing(root_.tracked, end.lane, end.step, false);
  } else {
    Leave(step);
  }
  if (end.cause == StepEndCause::kInferred) {
    session_.AddNote(
        "steps of " + Shown(root_) +
        " end as inferred: their write of the parameters was not seen, and their gradients may be missing; "
        "say where they end (ikkuna_on_boundary())");
  }
  Account(*state_, session_, root_, *step, MonotonicNs());
  // Another thread's backward that is under way in this lane is a step of its own already.
  if (const auto open = tracker_.OpenStepOf(root_.tracked, end.lane)) StepOf(end.lane, *open);
  NoteDue(end.lane);
  // Where the next step has ended this one, it has its number already.
  boundary_ = tracker_.OpenStepOf(root_.tracked, end.lane).value_or(tracker_.NextStep(root_.tracked));
}

// Each parameter that is trained was seen to be written since the step ended. Of a front end that tells of the first
// alone that is never known.
bool Event::WroteAll(const TrackedLane& lane) const {
  std::lock_guard lock(state_->names_mutex);
  return std::all_of(state_->params.begin(), state_->params.end(), [&](const auto& one) {
    const State::Param& param = one.second;
    const auto module = state_->root_of_module.find(one.first.first);
    if ((param.flags & IKKUNA_TRAINABLE) == 0 || module == state_->root_of_module.end() || module->second != root_.id) {
      return true;
    }
    const auto written = lane.written.find(param.id);
    return written != lane.written.end() && written->second == lane.round;
  });
}

// The finished step's updates. Where another thread wrote it, that may not be through: what is taken now may be half of
// it.
void Event::Finish(const StepToClose& closing) {
  const std::shared_ptr<Step> step = std::exchange(LaneOf(root_, closing.lane).closing, nullptr);
  if (!step) return;
  if (closing.spanned || (closing.writing && !WroteAll(LaneOf(root_, closing.lane))))
    step->flags.fetch_or(kFlagWeightsChangedOutside);
  Queue(step, IKKUNA_TAKE_UPDATES | IKKUNA_TAKE_MOMENTS);
  Leave(step);
}

void Event::FinishAll(const std::vector<StepToClose>& closing) {
  for (const StepToClose& step : closing) Finish(step);
}

ikkuna_pass* Event::BeginPass(uint32_t seen) {
  const int m = root_.tracked;
  between_ = true;
  EndMerged();
  auto made = std::make_unique<ikkuna_pass>();
  made->body = std::make_shared<Pass>();
  Pass& pass = *made->body;
  StepTracker::PassOptions options;
  options.moved = (seen & IKKUNA_SEEN_MOVED) != 0;
  options.evaluating = (seen & IKKUNA_SEEN_EVALUATING) != 0;
  options.now_ns = MonotonicNs();
  const auto begun = tracker_.BeginPass(m, thread_.id, options);
  FinishAll(begun.to_close);
  if (begun.ended) End(*begun.ended, (seen & IKKUNA_SEEN_CLEARED) == 0);
  const std::shared_ptr<Step> step = StepOf(begun.lane, begun.step);
  pass.step = step;
  // Of a model that has never made a step, and seems to make none, nothing goes out; should this be its first, that one
  // says that it lacks a pass.
  const bool rests = tracker_.Resting(m) && tracker_.steps_ended(m) == 0;
  if (rests) LaneOf(root_, begun.lane).lacks_first = true;
  if (step->due.any() && !rests) {
    Start(*step);
    pass.number = pass.tracked = tracker_.RecordPass(m, thread_.id, begun.lane);
    PublishPassStarted(session_, *step, pass.number);
    const uint32_t lowest = tracker_.LowestOpen(m);
    std::erase_if(root_.recorded, [&](const auto& one) { return shm::PassBefore(one.first, lowest); });
    if (root_.recorded.size() >= root_.recorded_bound) {  // one that is kept open holds back the lowest
      std::erase_if(root_.recorded, [&](const auto& one) { return !tracker_.Knows(m, one.first); });
      root_.recorded_bound = 256 + 2 * root_.recorded.size();
    }
    root_.recorded[pass.number] = made->body;
    if (!std::exchange(step->buffers_taken, true)) Queue(step, IKKUNA_TAKE_BUFFERS);
    // The weights may move on the way, unseen or by another hand: what counts is what the step began with.
    if (root_.used_in_backward || tracker_.WeightsMayMove(m)) TakeWeights(step);
  } else if (!tracker_.Accumulates(m)) {  // a loop whose gradients come by no hook is known by its passes alone
    pass.tracked = tracker_.RecordPass(m, thread_.id, begun.lane);
  }
  shm::StoreRelaxed(session_.root_status(root_.id).phase, static_cast<uint32_t>(shm::Phase::kTrain));
  NoteDue(begun.lane);
  return made.release();
}

void Event::Gradient(int64_t task, uint32_t seen) {
  const int m = root_.tracked;
  StepTracker::GradientOptions options;
  options.state = (seen & IKKUNA_SEEN_CLEARED) != 0 ? GradientState::kCleared : GradientState::kKept;
  options.moved = (seen & IKKUNA_SEEN_MOVED) != 0;
  options.now_ns = MonotonicNs();
  const auto came = tracker_.Gradient(m, thread_.id, task, options);
  if (came.forgotten) {
    session_.AddNote(
        "gradients of " + Shown(root_) +
        " were cleared between two backward passes of one step: what the passes before the last had is of no "
        "step, also where the loop has used it (gradients of each sample)");
  }
  FinishAll(came.to_close);
  if (came.ended) End(*came.ended, false);
  if (!came.opened && !came.ended) return;
  const std::shared_ptr<Step> step = StepOf(came.lane, came.step);
  if (step->due.any() && (root_.used_in_backward || tracker_.WeightsMayMove(m))) TakeWeights(step);
  NoteDue(came.lane);
}

void Event::GradientsUsed(int64_t task) {
  root_.used_in_backward = true;
  const auto used = tracker_.GradientsUsed(root_.tracked, task);
  FinishAll(used.to_close);
  if (used.ended) End(*used.ended, false);
}

void Event::Written(int write, uint32_t param, uint32_t seen_flags) {
  const int m = root_.tracked;
  const bool has_gradient = (seen_flags & IKKUNA_SEEN_GRADIENT) != 0;
  const bool knew = tracker_.writes_arithmetic(m);
  const bool optimizer = write == IKKUNA_WRITE_ARITHMETIC && has_gradient;
  const auto kind = write == IKKUNA_WRITE_ARITHMETIC ? WriteKind::kArithmetic
                    : write == IKKUNA_WRITE_ASSIGN   ? WriteKind::kAssign
                                                     : WriteKind::kOther;
  const auto seen = tracker_.Written(m, thread_.id, kind, has_gradient, static_cast<int>(param),
                                     (seen_flags & IKKUNA_SEEN_NEW_GRADIENT) != 0);
  FinishAll(seen.to_close);
  if (seen.ended) {
    if (seen.unheard && StepOf(seen.lane, seen.ended->step)->due.any()) {
      session_.AddNote("step " + std::to_string(seen.ended->step) + " of " + Shown(root_) +
                       " was the first of a thread that began late: its forward pass was not heard");
    }
    End(*seen.ended, true);
    TrackedLane& lane = LaneOf(root_, seen.lane);
    lane.written[param] = lane.round;
    lane.last_written = param;
    return;
  }
  // Somebody else's, in the midst of a step: what the pass used is read before it is gone.
  const bool others = kind == WriteKind::kOther || (kind == WriteKind::kAssign && knew && !tracker_.manual(m));
  if (const auto open = others && tracker_.Waits(m, thread_.id) ? tracker_.OpenStep(m, thread_.id) : std::nullopt) {
    const std::shared_ptr<Step> step = StepOf(tracker_.LaneOf(m, thread_.id), *open);
    if (step->due.any()) TakeWeights(step);
    step->flags.fetch_or(kFlagWeightsChangedOutside);
  }
  // Between a step's end and the next pass the optimizer writes each parameter in one go. A second round, or a write
  // that optimizers of this loop do not make, is somebody else's: EMA swaps, loads, clamps.
  TrackedLane& lane = LaneOf(root_, seen.closing.value_or(seen.lane));
  const auto known = lane.written.find(param);
  const bool again = known != lane.written.end() && known->second == lane.round && lane.last_written != param;
  lane.written[param] = lane.round;
  lane.last_written = param;
  if (!seen.closing || !lane.closing) return;
  const bool outside = kind == WriteKind::kOther || (kind == WriteKind::kAssign && (knew || optimizer)) || again;
  if (outside) lane.closing->flags.fetch_or(kFlagWeightsChangedOutside);
}

void Event::Boundary() {
  const auto said = tracker_.Boundary(root_.tracked, thread_.id);
  FinishAll(said.to_close);
  if (said.ended) End(*said.ended, true);
}

void Event::Evaluation() {
  between_ = true;
  tracker_.EvaluationLayer(root_.tracked, thread_.id, -1, true);
  FinishAll(tracker_.CloseSteps(root_.tracked, thread_.id, StepTracker::CloseAt::kEvaluation));
}

void Event::CloseAll() {
  between_ = true;
  EndMerged();
  FinishAll(tracker_.CloseSteps(root_.tracked, thread_.id, StepTracker::CloseAt::kAll));
}

void Event::Epoch(uint32_t epoch) {
  FinishAll(tracker_.CloseSteps(root_.tracked, thread_.id, StepTracker::CloseAt::kEpoch));
  const uint32_t before = std::exchange(root_.epoch, epoch);
  const uint64_t begins = tracker_.OpenStep(root_.tracked, thread_.id).value_or(tracker_.NextStep(root_.tracked));
  root_.epoch_begin_step = begins;
  if (root_.coming && !root_.coming->started && root_.coming->handles == 0) root_.coming.reset();
  shm::StoreRelaxed(session_.root_status(root_.id).epoch, epoch);
  const std::shared_ptr<Step> step = Said();
  {
    // One of which nothing is out is of the new epoch.
    std::lock_guard lock(step->mutex);
    if (!step->started) step->header.epoch = epoch;
  }
  for (const Kind kind : {Kind::kEpochFinished, Kind::kEpochStarted}) {
    if (kind == Kind::kEpochFinished && (before == epoch || begins == state_->start_step)) continue;
    std::lock_guard lock(step->mutex);
    if (!step->due.AnyOf(kind) || !step->due.TakesLogged(kind, 0)) continue;
    EnsureStarted(session_, *step);
    MessageHeader marker = step->header;
    marker.kind = kind;
    marker.epoch = kind == Kind::kEpochFinished ? before : epoch;
    session_.PublishMarker(marker);
  }
}

ikkuna_step* Event::Now() {
  auto handle = std::make_unique<ikkuna_step>();
  handle->body = Said();
  ++handle->body->handles;
  return handle.release();
}

void EndHandle(Session& session, Step& step, uint16_t flags) {
  std::lock_guard lock(step.root->mutex);
  step.flags.fetch_or(flags);
  if (step.handles != 0) --step.handles;
  PublishIfOver(session, step);
}

void PassGone(Pass& pass) {
  if (pass.tracked == 0) return;
  Root& root = *pass.step->root;
  std::lock_guard lock(root.mutex);
  pass.step->state->tracker.PassGone(root.tracked, pass.tracked);
}

// Steps that wait for their update, or for a front end that has not ended their handles, end without; of one that is
// open itself no end is told.
void EndFollowed(Session& session, Root& root) {
  std::lock_guard lock(root.mutex);
  std::vector<std::shared_ptr<Step>> left = std::move(root.leaving);
  root.leaving.clear();
  for (TrackedLane& lane : root.lanes) {
    if (lane.closing) left.push_back(std::exchange(lane.closing, nullptr));
  }
  for (const auto& step : left) EndWithoutHandles(session, *step);
  if (!root.coming || !root.coming->started) return;
  root.coming->ended = true;
  root.coming->handles = 0;
  PublishIfOver(session, *root.coming);
}

}  // namespace ikkuna::probe::c
