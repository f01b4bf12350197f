#include "daemon/graph/node_work.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "shared/passes.h"

namespace ikkuna::graph {

using metrics::Delivery;
using metrics::Scope;

namespace {

uint32_t ModuleOf(const KeptInput& part) { return part.slot->subject.module; }
uint32_t ParamOf(const KeptInput& part) { return part.slot->subject.param; }

}  // namespace

bool LacksMessages(const Frame& frame, uint32_t index) {
  const SceneNode& node = frame.scene()->nodes[index];
  const NodeFeed& feed = frame.contents.feeds[index];
  return ((frame.dropped_kinds | feed.lacks) & node.kinds) != 0 || feed.unnamed != 0;
}

void WorkBuilder::Build(Frame& frame, uint32_t index, const RegistryIndex& registry, NodeWork& work) {
  frame_ = &frame;
  index_ = index;
  node_ = &frame.scene()->nodes[index];
  state_ = &frame.nodes[index];
  feed_ = &frame.contents.feeds[index];
  registry_ = &registry;
  work_ = &work;
  parts_.clear();
  Collect();
  switch (node_->definition().scope) {
    case Scope::kSeries:
      Series();
      break;
    case Scope::kModule:
      if (node_->definition().delivery == Delivery::kMerged) {
        Pairs();
      } else {
        Modules();
      }
      break;
    case Scope::kRoot:
    case Scope::kJob:
      Whole();
      break;
  }
}

void WorkBuilder::Collect() {
  if (node_->feeding == Feeding::kKept) {
    SortByPass();
    for (KeptInput& kept : feed_->kept) {
      kept.withheld |= MayMiss(*frame_, *feed_, kept.kind);
      parts_.push_back(std::move(kept));
    }
    feed_->kept.clear();
  }
  for (uint32_t input = 0; input < node_->inputs.size(); ++input) {
    if (node_->inputs[input].group == nullptr) {
      CollectTopic(input);
    } else if (node_->feeding == Feeding::kMerged) {
      CollectMerged(input);
    }
  }
}

// What belongs to the step as a whole, then pass by pass; a step may name its passes in any order.
void WorkBuilder::SortByPass() {
  std::vector<KeptInput>& kept = feed_->kept;
  uint32_t first = 0;
  for (const KeptInput& one : kept) {
    if (one.pass != 0 && (first == 0 || shm::PassBefore(one.pass, first))) first = one.pass;
  }
  if (first == 0) return;
  const auto place = [first](const KeptInput& one) { return one.pass == 0 ? 0 : uint64_t{one.pass - first} + 1; };
  const auto before = [&](const KeptInput& a, const KeptInput& b) { return place(a) < place(b); };
  if (!std::is_sorted(kept.begin(), kept.end(), before)) std::stable_sort(kept.begin(), kept.end(), before);
}

void WorkBuilder::CollectMerged(uint32_t input) {
  const Group& group = *node_->inputs[input].group;
  const GroupState& gathered = frame_->contents.gathering->groups[static_cast<size_t>(group.kind())];
  const bool may_miss = MayMiss(*frame_, *feed_, group.kind());
  for (const uint32_t ordinal : gathered.touched) {
    const Group::Member& member = group.member(ordinal);
    if (!node_->Matches(*member.slot)) continue;
    const Gathered& series = gathered.slots[ordinal];
    KeptInput& part = parts_.emplace_back();
    part.index = input;
    part.kind = group.kind();
    part.slot = member.slot;
    part.flags = series.flags;
    part.wide = member.wide;
    part.withheld = may_miss || series.gap;
    part.stats = series.stats;
    // A job decides by what all its ranks have.
    part.unasked = node_->definition().scope != Scope::kJob && !Has(series.stats, node_->definition().moments);
  }
}

void WorkBuilder::CollectTopic(uint32_t input) {
  for (const SceneNode::Publisher& publisher : node_->inputs[input].publishers) {
    const NodeState& published = frame_->nodes[publisher.node];
    state_->partial |= published.partial;
    state_->unasked |= published.unasked;
    for (const TopicValue& value : published.values) {
      if (value.output != publisher.output || !node_->Matches(*value.slot)) continue;
      KeptInput& part = parts_.emplace_back();
      part.index = input;
      part.slot = value.slot;
      part.flags = value.flags;
      part.wide = value.wide;
      part.number = value.number;
      part.value = value.value;
    }
  }
}

// Everything behind `begin` in the work's inputs is one call.
void WorkBuilder::AddCall(size_t begin, const Slot* about) {
  WorkCall call;
  call.begin = static_cast<uint32_t>(begin);
  call.end = static_cast<uint32_t>(work_->inputs.size());
  call.about = about;
  bool withheld = false, unasked = false;
  for (size_t i = begin; i < work_->inputs.size(); ++i) {
    call.flags |= work_->inputs[i].flags;
    call.wide |= work_->inputs[i].wide;
    withheld |= work_->inputs[i].withheld;
    unasked |= work_->inputs[i].unasked;
  }
  if (withheld || unasked) {
    work_->withheld += withheld;
    state_->unasked |= unasked;
    work_->inputs.resize(begin);
    return;
  }
  work_->calls.push_back(call);
}

// One call for each series.
void WorkBuilder::Series() {
  std::stable_sort(parts_.begin(), parts_.end(),
                   [](const KeptInput& a, const KeptInput& b) { return a.slot->number < b.slot->number; });
  for (size_t begin = 0, end = 0; begin < parts_.size(); begin = end) {
    const size_t at = work_->inputs.size();
    while (end < parts_.size() && parts_[end].slot == parts_[begin].slot) ++end;
    const Slot* about = parts_[begin].slot;
    std::move(parts_.begin() + static_cast<std::ptrdiff_t>(begin), parts_.begin() + static_cast<std::ptrdiff_t>(end),
              std::back_inserter(work_->inputs));
    AddCall(at, about);
  }
}

// One call for each module of which every input has something, in the order of arrival.
void WorkBuilder::Modules() {
  std::stable_sort(parts_.begin(), parts_.end(),
                   [](const KeptInput& a, const KeptInput& b) { return ModuleOf(a) < ModuleOf(b); });
  std::vector<bool> seen;
  for (size_t begin = 0, end = 0; begin < parts_.size(); begin = end) {
    seen.assign(node_->inputs.size(), false);
    const size_t at = work_->inputs.size();
    const uint32_t module = ModuleOf(parts_[begin]);
    for (; end < parts_.size() && ModuleOf(parts_[end]) == module; ++end) {
      seen[parts_[end].index] = true;
      work_->inputs.push_back(std::move(parts_[end]));
    }
    const Slot* about = frame_->scene()->memory->slots.Find({module, 0}, *registry_);
    if (about == nullptr || std::find(seen.begin(), seen.end(), false) != seen.end()) {
      ++work_->incomplete;
      work_->inputs.resize(at);
      continue;
    }
    AddCall(at, about);
  }
}

void WorkBuilder::Pairs() {
  std::sort(parts_.begin(), parts_.end(), [](const KeptInput& a, const KeptInput& b) {
    return std::make_tuple(ModuleOf(a), ParamOf(a), a.index) < std::make_tuple(ModuleOf(b), ParamOf(b), b.index);
  });
  for (size_t begin = 0, end = 0; begin < parts_.size(); begin = end) {
    while (end < parts_.size() && ModuleOf(parts_[end]) == ModuleOf(parts_[begin])) ++end;
    PairsOfModule(begin, end);
  }
}

// Parts [begin, end) are those of one module. Parameters that several inputs have are paired by it; an input that has a
// single series, of a parameter that no other input has, goes with all of the others'. Where messages are missing it is
// not known that there is no other, and what would be paired across parameters is withheld.
void WorkBuilder::PairsOfModule(size_t begin, size_t end) {
  const size_t inputs = node_->inputs.size();
  std::vector<size_t> series(inputs, 0);
  std::vector<bool> for_all(inputs, true);
  for (size_t i = begin; i < end; ++i) {
    const uint32_t param = ParamOf(parts_[i]);
    ++series[parts_[i].index];
    const bool shared =
        (i > begin && ParamOf(parts_[i - 1]) == param) || (i + 1 < end && ParamOf(parts_[i + 1]) == param);
    if (shared) for_all[parts_[i].index] = false;
  }
  bool all_single = true;
  for (size_t i = 0; i < inputs; ++i) {
    all_single &= series[i] == 1;
    if (series[i] != 1) for_all[i] = false;
  }
  if (LacksMessages(*frame_, index_) && JoinsParameters(begin, end, for_all)) {
    ++work_->withheld;
    return;
  }
  if (all_single) {
    uint32_t param = 0;  // of the first input that has one
    for (size_t i = begin, first = inputs; i < end; ++i) {
      if (ParamOf(parts_[i]) == 0 || parts_[i].index > first) continue;
      param = ParamOf(parts_[i]);
      first = parts_[i].index;
    }
    for_all.assign(inputs, true);
    work_->incomplete += !Pair(begin, end, param, for_all);
    return;
  }
  bool several = false;
  for (size_t i = begin; i < end; ++i) {
    const bool again = i > begin && ParamOf(parts_[i - 1]) == ParamOf(parts_[i]);
    if (for_all[parts_[i].index] || again) continue;
    several = true;
    work_->incomplete += !Pair(begin, end, ParamOf(parts_[i]), for_all);
  }
  // One side alone, with one series.
  if (!several) ++work_->incomplete;
}

// Whether a pair would be made of two parameters.
bool WorkBuilder::JoinsParameters(size_t begin, size_t end, const std::vector<bool>& for_all) const {
  for (size_t i = begin; i < end; ++i) {
    const uint32_t param = ParamOf(parts_[i]);
    if (param == 0 || !for_all[parts_[i].index]) continue;
    for (size_t other = begin; other < end; ++other) {
      if (ParamOf(parts_[other]) != 0 && ParamOf(parts_[other]) != param) return true;
    }
  }
  return false;
}

// True when the pair was complete, or is withheld and counted as that, or was not asked.
bool WorkBuilder::Pair(size_t begin, size_t end, uint32_t param, const std::vector<bool>& for_all) {
  const size_t at = work_->inputs.size();
  const KeptInput* about = nullptr;
  bool withheld = false;
  for (size_t i = begin; i < end; ++i) {
    const KeptInput& part = parts_[i];
    if (ParamOf(part) != param && !for_all[part.index]) continue;
    if (about == nullptr || (ParamOf(part) == param && ParamOf(*about) != param)) about = &part;
    withheld |= part.withheld || part.unasked;
    work_->inputs.push_back(part);
  }
  if (!withheld && work_->inputs.size() - at != node_->inputs.size()) {
    work_->inputs.resize(at);
    return false;
  }
  std::sort(work_->inputs.begin() + static_cast<std::ptrdiff_t>(at), work_->inputs.end(),
            [](const KeptInput& a, const KeptInput& b) { return a.index < b.index; });
  AddCall(at, about->slot);
  return true;
}

// One call for the step: any message that is missing may have belonged to it. But what a rule saw is so.
void WorkBuilder::Whole() {
  const bool rule = node_->definition().outputs.empty();
  // Of a job the others' numbers would stand for all: there it counts as withheld.
  const bool of_job = node_->definition().scope == Scope::kJob;
  bool withheld = state_->partial || (of_job && state_->unasked);
  if (rule) std::erase_if(parts_, [](const KeptInput& part) { return part.withheld || part.unasked; });
  for (const KeptInput& part : parts_) withheld |= part.withheld;
  if (parts_.empty()) return;
  if ((withheld || state_->unasked) && !rule) {
    work_->withheld += withheld;
    return;
  }
  const size_t at = work_->inputs.size();
  std::move(parts_.begin(), parts_.end(), std::back_inserter(work_->inputs));
  AddCall(at, &frame_->scene()->memory->slots.whole());
}

}  // namespace ikkuna::graph
