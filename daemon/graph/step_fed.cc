// StepRunner, subscribers that were fed message by message: what they are withheld, and their call at the end of a
// step.
#include <bit>
#include <utility>

#include "daemon/graph/step_runner.h"

namespace ikkuna::graph {

using metrics::Scope;

// Those that were fed message by message: the step is whole, they may speak.
void StepRunner::RunFed() {
  if (node_->takes_topic) FeedTopics();
  if (feed_->instances.empty()) return;
  const metrics::StepInfo step = InfoOf(*frame_);
  metrics::ResultsRef ref = OpenResults();
  const Scope scope = node_->definition().scope;
  for (FedInstance& instance : feed_->instances) {
    if (node_->entry->ended()) {
      state_->partial = true;
      break;
    }
    if (IsWithheld(instance)) {
      Count(MissReason::kWithheld, 1);
      state_->partial = true;
      continue;
    }
    const bool rule = node_->definition().outputs.empty();
    const bool of_step = scope == Scope::kRoot;
    if ((instance.unasked || (of_step && state_->unasked)) && !rule) {
      state_->unasked = true;
      continue;
    }
    if ((instance.spoiled && !rule) || !instance.subscriber) {
      state_->partial = true;
      continue;
    }
    if (scope == Scope::kModule && std::popcount(instance.seen) < static_cast<int>(node_->inputs.size())) {
      Count(MissReason::kIncomplete, 1);
      continue;
    }
    metrics::Input about;
    if (instance.slot != nullptr) {
      about_ = instance.slot;
      about.subject = instance.slot->subject;
      about.module = instance.slot->module_name;
      about.param = instance.slot->param_name;
    } else {
      about_ = &frame_->scene()->memory->slots.whole();
    }
    if (node_->inputs[0].group != nullptr) about.kind = node_->inputs[0].group->kind();
    origin_ = instance.origin;
    state_->AddOrigin(*about_, frame_->scene()->memory->slots.whole(), origin_);
    const size_t named = instance.slot != nullptr ? 1 : 0;
    if (!Guarded(context_, *node_->entry, frame_->step, [&] {
          instance.subscriber->OnStep(step, {&about, named}, ref);
        })) {
      instance.subscriber.reset();
      state_->partial = true;
    }
  }
  Settle(std::move(ref));
}

bool StepRunner::FeedTopics() {
  for (uint32_t input = 0; input < node_->inputs.size(); ++input) {
    for (const SceneNode::Publisher& publisher : node_->inputs[input].publishers) {
      const NodeState& published = frame_->nodes[publisher.node];
      state_->partial |= published.partial;
      state_->unasked |= published.unasked;
      for (const TopicValue& value : published.values) {
        if (value.output != publisher.output || !node_->Matches(*value.slot)) continue;
        if (node_->entry->ended()) return false;
        intake_.Feed(frame_->contents, index_, input, value);
      }
    }
  }
  return true;
}

bool StepRunner::IsWithheld(const FedInstance& instance) const {
  switch (node_->definition().scope) {
    case Scope::kSeries:
      if (node_->inputs[0].group == nullptr) return false;
      return MayMiss(*frame_, *feed_, node_->inputs[0].group->kind()) || HasGap(instance);
    case Scope::kModule:
      for (const SceneNode::Source& input : node_->inputs) {
        if (input.group != nullptr && MayMiss(*frame_, *feed_, input.group->kind())) return true;
      }
      return HasGap(instance);
    default:
      // Of the step as a whole: any message that is missing may have belonged to it. But what a rule saw is so.
      return !node_->definition().outputs.empty() && (state_->partial || HasGap(instance));
  }
}

// A call is missing in what the instance was fed.
bool StepRunner::HasGap(const FedInstance& instance) const {
  const Scope scope = node_->definition().scope;
  for (const SceneNode::Source& input : node_->inputs) {
    if (input.group == nullptr || input.group->kind() != Kind::kActivations) continue;  // see SkipsCall()
    const GroupState& gathered = frame_->contents.gathering->groups[static_cast<size_t>(input.group->kind())];
    if (scope == Scope::kSeries) return gathered.slots[instance.key].gap;
    for (const uint32_t ordinal : gathered.touched) {
      const Slot& slot = *input.group->member(ordinal).slot;
      const bool fed = scope == Scope::kModule ? slot.subject.module == instance.key : node_->Matches(slot);
      if (fed && gathered.slots[ordinal].gap) return true;
    }
  }
  return false;
}

}  // namespace ikkuna::graph
