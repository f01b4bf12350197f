#include "daemon/graph/step_runner.h"

#include <algorithm>
#include <utility>

#include "daemon/graph/work_calls.h"
#include "shared/base/clock.h"

namespace ikkuna::graph {

using metrics::Delivery;
using metrics::Keeps;
using metrics::Runs;
using metrics::Scope;
using Work = NodeState::Work;

void StepRunner::Enter(Frame& frame, uint32_t index, Batch& batch) {
  frame_ = &frame;
  index_ = index;
  node_ = &frame.scene()->nodes[index];
  state_ = &frame.nodes[index];
  feed_ = &frame.contents.feeds[index];
  batch_ = &batch;
  about_ = &frame.scene()->memory->slots.whole();
  origin_ = {};
  given_ = 0;
}

void StepRunner::Advance(Frame& frame, std::vector<bool>& blocked, Batch& batch) {
  blocked.resize(frame.nodes.size(), false);
  if (batch.samples.capacity() == 0) batch.samples.reserve(samples_before_);
  uint64_t began = MonotonicNs();
  bool waits = false;
  for (uint32_t index = 0; index < frame.nodes.size(); ++index) {
    NodeState& state = frame.nodes[index];
    if (state.work != Work::kWaits) continue;
    if (blocked[index] || !IsReady(frame, index)) {
      blocked[index] = true;
      waits = true;
      continue;
    }
    Enter(frame, index, batch);
    state.partial |= LacksMessages(frame, index);
    RunNode();
    if (given_ != 0) node_->entry->computed.fetch_add(given_, std::memory_order_relaxed);
    const uint64_t ended = MonotonicNs();
    node_->entry->cpu_ns.fetch_add(ended - began, std::memory_order_relaxed);
    began = ended;
  }
  samples_before_ = std::max(batch.samples.size(), samples_before_ / 2);
  if (!waits) frame.contents.ReleaseGathering();
}

bool StepRunner::IsReady(const Frame& frame, uint32_t index) const {
  for (const SceneNode::Source& input : frame.scene()->nodes[index].inputs) {
    for (const SceneNode::Publisher& publisher : input.publishers) {
      const Work work = frame.nodes[publisher.node].work;
      if (work == Work::kWaits || work == Work::kRuns) return false;
    }
  }
  return true;
}

void StepRunner::RunNode() {
  const metrics::Definition& definition = node_->definition();
  state_->work = Work::kDone;
  if (node_->entry->ended()) {
    state_->partial = true;
    return;
  }
  if (node_->feeding == Feeding::kAtOnce) return RunFed();
  const bool plain = node_->feeding == Feeding::kMerged && definition.scope == Scope::kSeries &&
                     definition.runs == Runs::kInline && definition.keeps == Keeps::kStep && !node_->takes_topic;
  if (plain) return RunSeries();

  NodeWork work;
  builder_.Build(*frame_, index_, context_.registry, work);
  if (work.withheld != 0) Count(MissReason::kWithheld, work.withheld);
  state_->partial |= work.withheld != 0;
  if (work.incomplete != 0) Count(MissReason::kIncomplete, work.incomplete);
  if (definition.scope == Scope::kJob) return RunJob(work);
  if (work.calls.empty()) return;
  if (definition.runs == Runs::kQueue) return RunQueued(std::move(work));
  RunCalls(work);
}

metrics::ResultsRef StepRunner::OpenResults() {
  return std::make_shared<StepResults>(static_cast<ResultsTaker&>(*this), context_.mailbox, node_->entry, frame_->id,
                                       index_);
}

// The calls are over; what somebody still holds comes later.
void StepRunner::Settle(metrics::ResultsRef ref) {
  auto& results = static_cast<StepResults&>(*ref);
  results.CloseInline();
  if (ref.use_count() != 1) {
    state_->results = std::static_pointer_cast<StepResults>(ref);
    state_->work = Work::kRuns;
    return;
  }
  Apply(results.TakeBack());
}

// Merged statistics, one result for each series: the way of most numbers.
void StepRunner::RunSeries() {
  const Group& group = *node_->inputs[0].group;
  const GroupState& gathered = frame_->contents.gathering->groups[static_cast<size_t>(group.kind())];
  if (gathered.touched.empty()) return;
  const bool may_miss = MayMiss(*frame_, *feed_, group.kind());
  const metrics::StepInfo step = InfoOf(*frame_);
  metrics::ResultsRef ref = OpenResults();
  metrics::Input input;
  input.kind = group.kind();
  uint64_t withheld = 0;
  bool unasked = false;
  Guarded(context_, *node_->entry, frame_->step, [&] {
    metrics::Subscriber& subscriber = node_->instances->common();
    for (const uint32_t ordinal : gathered.touched) {
      const Group::Member& member = group.member(ordinal);
      if (!node_->Matches(*member.slot)) continue;
      const Gathered& series = gathered.slots[ordinal];
      if (may_miss || series.gap) {
        ++withheld;
        continue;
      }
      if (!Has(series.stats, node_->definition().moments)) {
        unasked = true;
        continue;
      }
      about_ = member.slot;
      origin_ = {series.flags, member.wide};
      input.subject = member.slot->subject;
      input.module = member.slot->module_name;
      input.param = member.slot->param_name;
      input.flags = series.flags;
      input.stats = &series.stats;
      subscriber.OnStep(step, {&input, 1}, ref);
      if (ref.use_count() != 1) state_->AddOrigin(*about_, frame_->scene()->memory->slots.whole(), origin_);
    }
  });
  if (withheld != 0) Count(MissReason::kWithheld, withheld);
  state_->unasked |= unasked;
  state_->partial |= withheld != 0 || node_->entry->off.load(std::memory_order_relaxed);
  Settle(std::move(ref));
}

void StepRunner::RunCalls(NodeWork& work) {
  const metrics::Definition& definition = node_->definition();
  const metrics::StepInfo step = InfoOf(*frame_);
  metrics::ResultsRef ref = OpenResults();
  if (definition.keeps == Keeps::kRun) TellStateLost();
  const bool whole = Guarded(context_, *node_->entry, frame_->step, [&] {
    for (WorkCall& call : work.calls) {
      about_ = call.about;
      origin_ = {call.flags, call.wide};
      state_->AddOrigin(*about_, frame_->scene()->memory->slots.whole(), origin_);
      const std::span<KeptInput> inputs{work.inputs.data() + call.begin, call.end - call.begin};
      if (definition.keeps == Keeps::kRun) {
        const auto subscriber = node_->instances->Of(call.about->subject);
        DoCall(definition, *subscriber, inputs, call, step, ref, list_);
      } else if (definition.delivery == Delivery::kMerged) {
        DoCall(definition, node_->instances->common(), inputs, call, step, ref, list_);
      } else {
        auto subscriber = node_->instances->Rouse();
        DoCall(definition, *subscriber, inputs, call, step, ref, list_);
        node_->instances->Rest(std::move(subscriber));
      }
    }
  });
  list_.Build({}, definition.content);
  state_->partial |= !whole;
  Settle(std::move(ref));
}

void StepRunner::RunQueued(NodeWork work) {
  auto queued = std::make_shared<QueuedWork>();
  auto room = context_.parts.memory->Reserve(work.inputs.size() * sizeof(KeptInput));
  if (!room) {
    Count(MissReason::kMemoryFull, 1);
    state_->partial = true;
    return;
  }
  queued->room = std::move(*room);
  queued->entry = node_->entry;
  queued->memory = frame_->scene()->memory;
  queued->instances = node_->instances;
  queued->step = InfoOf(*frame_);
  if (node_->definition().keeps == Keeps::kRun) {
    TellStateLost();
    const bool made = Guarded(context_, *node_->entry, frame_->step, [&] {
      for (const WorkCall& call : work.calls) queued->of_run.push_back(node_->instances->Of(call.about->subject));
    });
    state_->partial |= !made;
    if (!made) return;
  }
  const Slot& whole = frame_->scene()->memory->slots.whole();
  for (const WorkCall& call : work.calls) state_->AddOrigin(*call.about, whole, {call.flags, call.wide});
  queued->work = std::move(work);
  queued->results = std::static_pointer_cast<StepResults>(OpenResults());
  queued->results->CloseInline();
  state_->results = queued->results;
  state_->work = Work::kRuns;
  PushWork(std::move(queued));
}

// What this rank has goes to where the others' is; without inputs it says that it closed the step.
void StepRunner::RunJob(NodeWork& work) {
  if (!context_.job) return Count(MissReason::kCancelled, work.calls.size());
  JobContribution contribution;
  contribution.epoch = frame_->stamp.epoch;
  contribution.unix_ns = frame_->stamp.unix_ns;
  contribution.samples_seen = frame_->stamp.samples_seen;
  contribution.flags = frame_->stamp.flags;
  for (KeptInput& from : work.inputs) {
    JobInput& input = contribution.inputs.emplace_back();
    input.index = from.index;
    input.kind = from.kind;
    input.module = from.slot->module_name;
    input.module_type = from.slot->module_type;
    input.param = from.slot->param_name;
    input.flags = from.flags;
    if (from.kind != Kind::kInvalid) {
      input.content = from.stats;
    } else {
      input.content = from.value ? *from.value : Value(from.number);
    }
  }
  const bool any = !contribution.inputs.empty();
  if (any) {
    const auto results = std::static_pointer_cast<StepResults>(OpenResults());
    results->CloseInline();
    state_->results = results;
    state_->work = Work::kRuns;
    contribution.hold = results;
  }
  const SceneMemory& memory = *frame_->scene()->memory;
  const JobSteps::Taken taken = context_.job->Contribute(node_->entry, {memory.root_name, memory.tag_name},
                                                         frame_->step, std::move(contribution));
  if (!any) return;
  switch (taken) {
    case JobSteps::Taken::kTaken:
      return;
    case JobSteps::Taken::kMemoryFull:
      return Count(MissReason::kMemoryFull, 1);
    case JobSteps::Taken::kRepeated:
      return Count(MissReason::kRepeated, 1);
    case JobSteps::Taken::kRecorded:
      // It is in what was recorded, if an earlier daemon had it whole. Else that was recorded without it.
      if (context_.counts) Count(frame_->again ? MissReason::kRepeated : MissReason::kLate, 1);
      return;
    case JobSteps::Taken::kLate:
      return Count(MissReason::kLate, 1);
    case JobSteps::Taken::kNotJoined:
      return Count(MissReason::kCancelled, 1);
  }
}

void StepRunner::TakeLate(Frame& frame, LateResults late, Batch& batch) {
  Enter(frame, late.node, batch);
  if (state_->work != Work::kRuns) return;
  state_->work = Work::kDone;
  state_->results.reset();
  Apply(std::move(late));
  if (given_ != 0) node_->entry->computed.fetch_add(given_, std::memory_order_relaxed);
}

// What came by another thread.
void StepRunner::Apply(LateResults late) {
  if (late.threw) {
    context_.Fail(*node_->entry, *late.threw, frame_->step);
    state_->partial = true;
  }
  for (size_t i = 0; i < kMissReasonCount; ++i) {
    if (late.missing[i] == 0) continue;
    Count(static_cast<MissReason>(i), late.missing[i]);
    state_->partial = true;
  }
  if (late.values.empty() && late.events.empty()) return;
  if (node_->entry->ended()) {
    Count(MissReason::kCancelled, 1);
    return;
  }
  SceneMemory& memory = *frame_->scene()->memory;
  for (LateValue& value : late.values) {
    about_ = memory.slots.Find(value.subject, context_.registry);
    if (about_ == nullptr) {
      about_ = &memory.slots.whole();
      Count(MissReason::kRefused, 1);
      continue;
    }
    origin_ = OriginOf(*about_);
    TakeValue(value.output, value.subject, std::move(value.value));
  }
  for (LateEvent& event : late.events) TakeEvent(event.severity, std::move(event.text), std::move(event.action));
}

Origin StepRunner::OriginOf(const Slot& slot) {
  Slots& slots = frame_->scene()->memory->slots;
  const Slot* const nearest[] = {&slot, slots.Find({slot.subject.module, 0}, context_.registry), &slots.whole()};
  for (const Slot* one : nearest) {
    const auto known = one == nullptr ? state_->origins.end() : state_->origins.find(one->number);
    if (known != state_->origins.end()) return known->second;
  }
  return {};
}

namespace {

// What was handed to the job stays with it, whether its rank waits or not: there it is recorded, or counted.
bool IsWithTheJob(const Frame& frame, size_t node) {
  return frame.nodes[node].work == Work::kRuns && frame.scene()->nodes[node].definition().scope == Scope::kJob;
}

}  // namespace

bool StepRunner::Computes(const Frame& frame) {
  for (size_t i = 0; i < frame.nodes.size(); ++i) {
    if (frame.nodes[i].work == Work::kRuns && !IsWithTheJob(frame, i)) return true;
  }
  return false;
}

void StepRunner::GiveUp(Frame& frame) {
  for (size_t i = 0; i < frame.nodes.size(); ++i) {
    NodeState& state = frame.nodes[i];
    if (state.work != Work::kRuns && state.work != Work::kWaits) continue;
    if (!IsWithTheJob(frame, i)) context_.Count(MissReason::kCancelled, 1, frame.scene()->nodes[i].entry.get());
    if (const auto results = state.results.lock()) results->Cancel();
    state.work = Work::kDone;
  }
}

void StepRunner::Count(MissReason reason, uint64_t count) { context_.Count(reason, count, node_->entry.get()); }

metrics::StepInfo StepRunner::InfoOf(const Frame& frame) const {
  metrics::StepInfo info;
  info.global_step = frame.step;
  info.epoch = frame.stamp.epoch;
  info.flags = frame.stamp.flags;
  info.unix_ns = frame.stamp.unix_ns;
  info.samples_seen = frame.stamp.samples_seen;
  info.root = frame.scene()->memory->root_name;
  info.tag = frame.scene()->memory->tag_name;
  return info;
}

}  // namespace ikkuna::graph
