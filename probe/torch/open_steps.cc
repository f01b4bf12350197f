#include "probe/torch/open_steps.h"

#include <algorithm>
#include <utility>

namespace ikkuna::torch_probe {

std::shared_ptr<StepIdentity> OpenSteps::MakeIdentity(RootState& root, const WatchedModel& model, uint16_t tag,
                                                      uint64_t step) {
  session_.RefreshDemand(root.demand);
  auto identity = std::make_shared<StepIdentity>();
  identity->name = &model.name();
  identity->root = model.root_id();
  identity->tag = tag;
  identity->step = step;
  identity->samples = samples();
  identity->epoch.store(model.epoch.load(std::memory_order_relaxed), std::memory_order_relaxed);
  const uint64_t begin = model.epoch_begin_step.load(std::memory_order_relaxed);
  identity->train_step.store(static_cast<uint32_t>(step >= begin ? step - begin : 0), std::memory_order_relaxed);
  identity->demand_version = root.demand.version;
  identity->shifts = root.shifts;
  identity->demand = session_.DemandAt(root.demand, model.root_id(), tag, step, root.shifts);
  identity->local = subscribers_.DueAt(tag, step);
  return identity;
}

std::shared_ptr<StepIdentity> OpenSteps::Coming(RootState& root, const WatchedModel& model) {
  const uint64_t next = tracker_.NextStep(model.index());
  session_.RefreshDemand(root.demand);
  const bool usable = root.coming && root.coming->step == next &&
                      (root.coming->started.load() || root.coming->demand_version == root.demand.version);
  if (!usable) root.coming = MakeIdentity(root, model, kTagDefault, next);
  return root.coming;
}

std::shared_ptr<StepIdentity> StepIdentity::Reduced(probe::StepDemand less) const {
  auto reduced = std::make_shared<StepIdentity>();
  reduced->name = name;
  reduced->root = root;
  reduced->tag = tag;
  reduced->step = step;
  reduced->epoch.store(epoch.load());
  reduced->train_step.store(train_step.load());
  reduced->samples = samples;
  reduced->local = local;
  reduced->flags.store(flags.load());
  reduced->dropped_kinds.store(dropped_kinds.load() | demand.NotIn(less));
  reduced->started.store(started.load());
  reduced->marked.store(marked.load());
  reduced->buffers_taken.store(buffers_taken.load());
  reduced->demand = std::move(less);
  return reduced;
}

void OpenSteps::GiveUp(RootState& root, const WatchedModel& model, LaneState& lane) {
  session_.RefreshDemand(root.demand);
  const std::shared_ptr<StepIdentity> before = lane.identity;
  if (!before || !before->marked.load() || !root.demand.table) return;
  const bool same = before->demand_version == root.demand.version && before->shifts == root.shifts;
  if (same) return;
  probe::StepDemand less = before->demand.Reduced(*root.demand.table, before->shifts, root.shifts);
  if (before->demand.NotIn(less) != 0) lane.identity = before->Reduced(std::move(less));
  lane.identity->demand_version = root.demand.version;
  lane.identity->shifts = root.shifts;
  if (lane.identity == before) return;
  session_.AddNote("a step of " + model.name() +
                   " that goes on for many passes has given up kinds that the budget or the subscribers no longer allow");
}

LaneState& OpenSteps::LaneOf(RootState& root, uint32_t lane) {
  while (root.lanes.size() <= lane) root.lanes.push_back(std::make_unique<LaneState>());
  return *root.lanes[lane];
}

std::shared_ptr<StepIdentity> OpenSteps::IdentityOf(RootState& root, const WatchedModel& model, uint32_t index,
                                                    uint64_t step) {
  LaneState& lane = LaneOf(root, index);
  if (lane.identity && lane.identity->step == step) return lane.identity;
  // What a thread that ended, or that others write for, has left open goes on in the lane of all.
  for (const auto& other : root.lanes) {
    if (!other->identity || other->identity->step != step) continue;
    lane.identity = std::exchange(other->identity, nullptr);
    lane.weights_taken = std::exchange(other->weights_taken, false);
    lane.kept = std::exchange(other->kept, {});
    lane.passes = std::exchange(other->passes, 0);
    return lane.identity;
  }
  lane.weights_taken = false;
  lane.passes = 0;
  session_.RefreshDemand(root.demand);
  if (root.coming && root.coming->step == step &&
      (root.coming->started.load() || root.coming->demand_version == root.demand.version)) {
    lane.identity = std::exchange(root.coming, nullptr);
  } else {
    lane.identity = MakeIdentity(root, model, kTagDefault, step);
  }
  return lane.identity;
}

void OpenSteps::WaitOnce(ThreadState& thread, RootState& root) {
  if (root.waited.load(std::memory_order_acquire)) return;
  const uint64_t begin = MonotonicNs();
  std::call_once(root.wait, [&] {
    session_.WaitForDaemon();
    std::lock_guard lock(root.mutex);
    root.shifts = session_.shifts();
    root.last_step_ns = MonotonicNs();
    root.waited.store(true, std::memory_order_release);
  });
  if (thread.timer != nullptr) thread.timer->Skip(MonotonicNs() - begin);
}

std::shared_ptr<const PassNumber> OpenSteps::Number(RootState& root, const StepIdentity& identity, uint32_t number,
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

void OpenSteps::NoteDue(RootState& root, const WatchedModel& model, uint32_t index) {
  const LaneState& lane = LaneOf(root, index);
  const bool due = lane.identity && lane.identity->any();
  tracker_.SetDue(model.index(), index, due, Coming(root, model)->any());
}

std::shared_ptr<Evaluation> OpenSteps::EvaluationOf(RootState& root, WatchedModel& model, uint16_t tag, uint64_t step) {
  for (const auto& open : root.evaluations) {
    if (open->identity->tag == tag && open->identity->step == step) return open;
  }
  auto evaluation = std::make_shared<Evaluation>();
  evaluation->identity = MakeIdentity(root, model, tag, step);
  evaluation->last_steps.store(step, std::memory_order_relaxed);
  root.evaluations.push_back(evaluation);
  NoteLeftAt(root);
  return evaluation;
}

void OpenSteps::EndBatch(Evaluation& evaluation, const std::shared_ptr<Pass>& batch, const std::shared_ptr<Pass>& next,
                         WatchedModel& model) {
  if (batch && !batch->over.exchange(true)) losses_.SettleBatch(*batch, model);
  std::erase(evaluation.running, batch);
  if (next) evaluation.running.push_back(next);
}

void OpenSteps::EndEvaluation(RootState& root, Evaluation& evaluation) {
  evaluation.ended.store(true);
  const StepIdentity& identity = *evaluation.identity;
  if (identity.any()) {
    capture_.PublishMarker(identity, Kind::kBatchFinished, Name(root, identity, evaluation.batches, evaluation.named));
  }
  std::erase_if(root.evaluations, [&](const auto& open) { return open.get() == &evaluation; });
  NoteLeftAt(root);
}

// Layers that are heard since put it off, which shows when it has come.
void OpenSteps::NoteLeftAt(RootState& root) {
  uint64_t left_at = UINT64_MAX;
  for (const auto& open : root.evaluations) left_at = std::min(left_at, LeftAt(*open));
  root.evaluations_left_at.store(left_at, std::memory_order_relaxed);
}

void OpenSteps::CloseEvaluation(RootThread& state, RootState& root, WatchedModel& model) {
  if (!state.evaluation) return;
  std::lock_guard lock(root.mutex);
  const std::shared_ptr<Pass> pass = std::exchange(state.evaluation, nullptr);
  const std::shared_ptr<Evaluation> evaluation = std::exchange(state.frame, nullptr);
  state.trained_since = false;
  EndBatch(*evaluation, pass, nullptr, model);
  if (evaluation->running.empty() && !evaluation->ended.load()) EndEvaluation(root, *evaluation);
}

void OpenSteps::CloseLeftEvaluations(RootState& root, WatchedModel& model, uint64_t steps) {
  if (steps < root.evaluations_left_at.load(std::memory_order_relaxed)) return;
  std::lock_guard lock(root.mutex);
  const std::vector<std::shared_ptr<Evaluation>> open = root.evaluations;
  for (const auto& evaluation : open) {
    if (steps < LeftAt(*evaluation)) continue;
    const std::vector<std::shared_ptr<Pass>> running = evaluation->running;
    for (const auto& batch : running) EndBatch(*evaluation, batch, nullptr, model);
    EndEvaluation(root, *evaluation);
  }
  NoteLeftAt(root);
}

probe::StepPasses OpenSteps::Name(RootState& root, const StepIdentity& identity,
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

void OpenSteps::NameEnded(RootState& root, Evaluation& evaluation) {
  std::vector<std::shared_ptr<const PassNumber>> ended;
  std::erase_if(evaluation.batches, [&](const auto& batch) {
    const bool runs = std::any_of(evaluation.running.begin(), evaluation.running.end(),
                                  [&](const auto& running) { return running->number == batch; });
    if (!runs) ended.push_back(batch);
    return !runs;
  });
  if (ended.empty()) return;
  const StepIdentity& identity = *evaluation.identity;
  capture_.PublishMarker(identity, Kind::kPassesNamed, Name(root, identity, ended, evaluation.named));
  evaluation.named += static_cast<uint32_t>(ended.size());
}

std::shared_ptr<StepIdentity> OpenSteps::Said(ThreadState& thread, RootState& root, const WatchedModel& model) {
  const auto open = tracker_.OpenStep(model.index(), thread.id);
  return open ? IdentityOf(root, model, tracker_.LaneOf(model.index(), thread.id), *open) : Coming(root, model);
}

}  // namespace ikkuna::torch_probe
