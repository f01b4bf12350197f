#include "daemon/graph/frame.h"

#include <time.h>

#include "shared/base/clock.h"
#include "shared/stats/merge.h"
#include "shared/stats/stats_pass.h"

namespace ikkuna::graph {

namespace {

using metrics::Content;
using metrics::Scope;

// The tensor of a message; false when the message has none in host memory.
bool ViewOf(const shm::Message& message, metrics::TensorView& view) {
  const shm::Record& record = message.record;
  switch (static_cast<RecordType>(record.type)) {
    case RecordType::kScalar:
      view = {&record.scalar, DType::kF64, {}, 1};
      return true;
    case RecordType::kTensor:
      view.dtype = static_cast<DType>(record.dtype);
      if (DTypeBytes(view.dtype) == 0) return false;
      view.elements = record.payload.bytes / DTypeBytes(view.dtype);
      view.data = message.payload;
      if (view.data == nullptr && view.elements != 0) return false;
      break;
    case RecordType::kSummary:  // a tensor without elements needs no bytes
      if (record.stats.n != 0) return false;
      view = {nullptr, static_cast<DType>(record.dtype), {}, 0};
      break;
    default:
      return false;
  }
  view.sizes = {record.sizes, record.ndim};
  return true;
}

// Statistics of a message, given or computed; false when it has none.
bool StatsOf(const shm::Message& message, TensorStats& stats) {
  if (message.record.type == static_cast<uint8_t>(RecordType::kSummary)) {
    stats = message.record.stats;
    return true;
  }
  metrics::TensorView view;
  if (!ViewOf(message, view)) return false;
  stats = ComputeStats(view.data, view.dtype, view.elements);
  return true;
}

// Calls of a module are numbered from 0 in each micro-batch, in the order of the forward pass. Of other kinds a number
// may be left out: an output that does not reach the loss has no gradient.
bool SkipsCall(const Gathered& gathered, const shm::Record& record) {
  if (record.kind != static_cast<uint8_t>(Kind::kActivations)) return false;
  const bool goes_on = gathered.messages != 0 && gathered.micro == record.micro;
  return record.call > (goes_on ? uint32_t{gathered.call} + 1 : 0);
}

}  // namespace

void Frame::Open(std::shared_ptr<Plan> with, Scene* of, const shm::Record& started) {
  plan = std::move(with);
  scene = of;
  root = started.root;
  tag = started.tag;
  step = started.global_step;
  whole = true;
  first_seq = last_seq = started.seq;
  dropped_before = started.dropped_total;
  unnamed = 0;
  if (scene == nullptr) return;
  groups.resize(scene->groups.size());
  nodes.resize(scene->nodes.size());
  for (size_t i = 0; i < nodes.size(); ++i) {
    nodes[i].due = step % scene->nodes[i].subscription().subsample == 0;
  }
  for (size_t k = 0; k < groups.size(); ++k) {
    const Group* group = scene->groups[k].get();
    GroupState& state = groups[k];
    state.due = state.merges = state.each_stats = false;
    if (group == nullptr) continue;
    for (const Group::User& user : group->merged) state.merges |= nodes[user.node].due;
    for (const Group::User& user : group->each) {
      if (!nodes[user.node].due) continue;
      state.due = true;
      state.each_stats |= scene->nodes[user.node].definition().content == Content::kStatistics;
    }
    state.due |= state.merges;
  }
}

void Frame::Take(const shm::Message& message, const RegistryIndex& registry) {
  const shm::Record& record = message.record;
  if (scene == nullptr || record.kind >= groups.size() || !groups[record.kind].due) return;
  Group& group = *scene->groups[record.kind];
  GroupState& state = groups[record.kind];
  const Slot* slot = group.Find(record.module, record.param, registry);
  if (slot == nullptr) {
    ++unnamed;
    return;
  }
  if (state.slots.size() < group.size()) state.slots.resize(group.size());
  Gathered& gathered = state.slots[slot->ordinal];
  TensorStats stats;
  const bool wants_stats = state.merges || state.each_stats;
  const bool has_stats = wants_stats && StatsOf(message, stats);
  // Without numbers under a kind that carries them a message is as good as missing.
  if (SkipsCall(gathered, record) || (state.merges && !has_stats)) gathered.gap = true;
  if (gathered.messages == 0) {
    state.touched.push_back(slot->ordinal);
    gathered.stats = stats;
  } else if (state.merges && has_stats) {
    gathered.stats = MergeStats(gathered.stats, stats);
  }
  ++gathered.messages;
  gathered.micro = record.micro;
  gathered.call = record.call;
  gathered.origin.Add(record);
  for (const Group::User& user : group.each) {
    if (nodes[user.node].due) Feed(user, *slot, message, has_stats ? &stats : nullptr);
  }
}

void Frame::Feed(const Group::User& user, const Slot& slot, const shm::Message& message, const TensorStats* stats) {
  SceneNode& node = scene->nodes[user.node];
  if (!node.Matches(user.input, slot)) return;
  NodeState& state = nodes[user.node];
  const shm::Record& record = message.record;
  uint32_t index = 0;  // of the instance, + 1
  if (node.definition().scope == Scope::kSeries) {
    if (state.instance_of.size() <= slot.ordinal) state.instance_of.resize(slot.ordinal + 1, 0);
    index = state.instance_of[slot.ordinal];
  } else if (!state.instances.empty()) {
    index = 1;
  }
  if (index == 0) {
    const bool series = node.definition().scope == Scope::kSeries;
    Rouse(user.node, series ? &slot : nullptr);
    index = static_cast<uint32_t>(state.instances.size());
    if (series) state.instance_of[slot.ordinal] = index;
  }
  Instance& instance = state.instances[index - 1];
  instance.origin.Add(record);

  metrics::Input input;
  input.index = user.input;
  input.kind = static_cast<Kind>(record.kind);
  input.module = slot.module_name;
  input.call = record.call;
  input.micro = record.micro;
  metrics::TensorView view;
  bool readable = false;
  uint64_t began = 0;
  switch (node.definition().content) {
    case Content::kStatistics:
      input.stats = stats;
      readable = stats != nullptr;
      break;
    case Content::kTensor:
      readable = ViewOf(message, view);
      input.tensor = &view;
      began = MonotonicNs();
      break;
    case Content::kScalar:
      readable = record.type == static_cast<uint8_t>(RecordType::kScalar);
      if (readable) input.scalar = record.scalar;
      break;
    case Content::kText:
      readable = record.type == static_cast<uint8_t>(RecordType::kText);
      if (readable) input.text = {record.text.bytes, record.text.length};
      break;
  }
  if (!readable) {
    instance.spoiled = true;
    return;
  }
  DiscardPublisher nobody;
  instance.subscriber->Compute({&input, 1}, nobody);
  if (began != 0) node.entry->cpu_ns.fetch_add(MonotonicNs() - began, std::memory_order_relaxed);
}

Instance& Frame::Rouse(uint32_t index, const Slot* slot) {
  SceneNode& node = scene->nodes[index];
  Instance instance;
  instance.slot = slot;
  if (node.idle.empty()) {
    instance.subscriber = node.definition().create();
  } else {
    instance.subscriber = std::move(node.idle.back());
    node.idle.pop_back();
  }
  nodes[index].instances.push_back(std::move(instance));
  return nodes[index].instances.back();
}

void Frame::Clear(Scene& opened_with) {
  for (size_t k = 0; k < groups.size(); ++k) {
    for (const uint32_t ordinal : groups[k].touched) {
      Gathered& gathered = groups[k].slots[ordinal];
      gathered.messages = 0;
      gathered.gap = false;
      gathered.origin = {};
    }
    groups[k].touched.clear();
  }
  for (size_t i = 0; i < nodes.size(); ++i) {
    NodeState& state = nodes[i];
    for (Instance& instance : state.instances) {
      // Slots of a topic's values are no index here.
      if (instance.slot != nullptr && !opened_with.nodes[i].takes_topic) state.instance_of[instance.slot->ordinal] = 0;
      instance.subscriber->Reset();
      opened_with.nodes[i].idle.push_back(std::move(instance.subscriber));
    }
    state.instances.clear();
    state.values.clear();
    state.partial = false;
  }
}

}  // namespace ikkuna::graph
