#include "daemon/graph/intake.h"

#include <utility>

#include "daemon/graph/frame.h"
#include "shared/base/clock.h"
#include "shared/stats/merge.h"

namespace ikkuna::graph {

namespace {

using metrics::Content;
using metrics::Delivery;
using metrics::Scope;

// Calls of a module are numbered from 0 in each pass, in the order of the forward pass. Of other kinds a number
// may be left out: an output that does not reach the loss has no gradient.
bool SkipsCall(const Gathered& gathered, const shm::Record& record) {
  return record.kind == static_cast<uint8_t>(Kind::kActivations) && record.call > gathered.next_call;
}

bool HasType(const shm::Message& message, RecordType type) { return message.record.type == static_cast<uint8_t>(type); }

metrics::Input InputOf(const shm::Record& record, const Slot& slot, uint32_t index) {
  metrics::Input input;
  input.index = index;
  input.kind = static_cast<Kind>(record.kind);
  input.subject = slot.subject;
  input.module = slot.module_name;
  input.param = slot.param_name;
  input.seq = record.seq;
  input.pass = record.pass;
  input.call = record.call;
  input.flags = record.flags;
  return input;
}

}  // namespace

void Intake::Take(Contents& contents, const shm::Message& message) {
  const shm::Record& record = message.record;
  if (contents.scene == nullptr || record.kind >= contents.gathering->groups.size()) return;
  GroupState& state = contents.gathering->groups[record.kind];
  if (!state.due) return;
  SceneMemory& memory = *contents.scene->memory;
  Group& group = *memory.groups[record.kind];
  const uint32_t ordinal =
      group.Find({record.module, record.param}, static_cast<DType>(record.dtype), memory.slots, context_.registry);
  if (ordinal == Group::kNone) return Unnamed(contents, group.kind());
  if (state.counted < group.size()) {
    contents.bytes += (group.size() - std::exchange(state.counted, group.size())) * sizeof(Gathered);
  }
  if (state.slots.size() < group.size()) state.slots.resize(group.size());

  TensorStats stats;
  const bool has_stats = (state.merges || state.each_stats) && StatsOf(message, stats);
  const Group::Member& member = group.member(ordinal);
  Offer offer{message, member.slot, ordinal, member.wide, has_stats ? &stats : nullptr};
  Merge(state, offer);
  for (const Scene::User& user : contents.scene->users[record.kind].each) {
    const SceneNode& node = contents.scene->nodes[user.node];
    if (!contents.feeds[user.node].due || !node.Matches(*offer.slot)) continue;
    if (node.entry->ended()) continue;
    if (node.feeding == Feeding::kAtOnce) {
      Hand(contents, user, offer);
    } else {
      Keep(contents, user, offer);
    }
  }
}

void Intake::Unnamed(Contents& contents, Kind kind) {
  context_.Count(MissReason::kUnnamed, 1);
  const Scene::Users& users = contents.scene->users[static_cast<size_t>(kind)];
  for (const auto* list : {&users.merged, &users.each}) {
    for (const Scene::User& user : *list) {
      NodeFeed& feed = contents.feeds[user.node];
      if (!feed.due) continue;
      ++feed.unnamed;
      contents.scene->nodes[user.node].entry->Count(MissReason::kUnnamed, 1);
    }
  }
}

void Intake::Merge(GroupState& state, const Offer& offer) {
  const shm::Record& record = offer.message.record;
  Gathered& gathered = state.slots[offer.ordinal];
  // Without numbers under a kind that carries them a message is as good as missing.
  if (SkipsCall(gathered, record) || (state.merges && offer.stats == nullptr)) gathered.gap = true;
  if (gathered.messages == 0) {
    state.touched.push_back(offer.ordinal);
    if (offer.stats != nullptr) gathered.stats = *offer.stats;
  } else if (state.merges && offer.stats != nullptr) {
    gathered.stats = MergeStats(gathered.stats, *offer.stats);
  }
  ++gathered.messages;
  gathered.next_call = uint32_t{record.call} + 1;
  gathered.flags |= record.flags;
}

FedInstance* Intake::InstanceOf(Contents& contents, uint32_t node_index, const Slot& slot, uint32_t series_key) {
  SceneNode& node = contents.scene->nodes[node_index];
  NodeFeed& feed = contents.feeds[node_index];
  FedInstance fresh;
  switch (node.definition().scope) {
    case Scope::kSeries:
      fresh.key = series_key;
      fresh.slot = &slot;
      break;
    case Scope::kModule:
      fresh.key = slot.subject.module;
      break;
    default:
      break;
  }
  if (feed.instance_of.size() <= fresh.key) {
    contents.bytes += (fresh.key + 1 - feed.instance_of.size()) * sizeof(uint32_t);
    feed.instance_of.resize(fresh.key + 1, 0);
  }
  uint32_t& index = feed.instance_of[fresh.key];
  if (index == 0) {
    if (node.definition().scope == Scope::kModule) {
      fresh.slot = contents.scene->memory->slots.Find({slot.subject.module, 0}, context_.registry);
    }
    if (!Guarded(context_, *node.entry, contents.step, [&] { fresh.subscriber = node.instances->Rouse(); })) {
      return nullptr;
    }
    feed.instances.push_back(std::move(fresh));
    contents.bytes += Contents::kInstanceBytes;
    index = static_cast<uint32_t>(feed.instances.size());
  }
  return &feed.instances[index - 1];
}

void Intake::Hand(Contents& contents, const Scene::User& user, const Offer& offer) {
  FedInstance* instance = InstanceOf(contents, user.node, *offer.slot, offer.ordinal);
  if (instance == nullptr) return;
  SceneNode& node = contents.scene->nodes[user.node];
  const shm::Record& record = offer.message.record;
  instance->origin.flags |= record.flags;
  instance->origin.wide |= offer.wide;
  instance->seen |= uint64_t{1} << (user.input % 64);
  metrics::Input input = InputOf(record, *offer.slot, user.input);
  metrics::Payload payload;
  const metrics::Payload* read = nullptr;
  bool readable = false;
  switch (node.definition().content) {
    case Content::kStatistics:
      input.stats = offer.stats;
      readable = offer.stats != nullptr;
      if (readable && !Has(*offer.stats, node.definition().moments)) {
        instance->unasked = true;
        return;
      }
      break;
    case Content::kTensor:
      readable = ViewOf(offer.message, payload.view);
      input.payload = read = &payload;
      break;
    case Content::kScalar:
      readable = HasType(offer.message, RecordType::kScalar);
      if (readable) input.scalar = record.scalar;
      break;
    case Content::kText:
      readable = HasType(offer.message, RecordType::kText);
      if (readable) input.text = {record.text.bytes, record.text.length};
      break;
    case Content::kValue:
      break;
  }
  if (!readable) {
    const bool no_tensor = node.definition().content == Content::kTensor;
    context_.Count(no_tensor ? MissReason::kNoTensor : MissReason::kIncomplete, 1, node.entry.get());
    instance->spoiled = true;
    return;
  }
  Call(contents, user.node, *instance, input, read);
}

void Intake::Call(Contents& contents, uint32_t node_index, FedInstance& instance, const metrics::Input& input,
                  const metrics::Payload* payload) {
  SceneNode& node = contents.scene->nodes[node_index];
  // What is short is not worth a look at the clock for each message.
  const uint64_t began = payload != nullptr ? MonotonicNs() : 0;
  contents.bytes -= std::exchange(instance.bytes, 0);
  const bool took = Guarded(context_, *node.entry, contents.step, [&] {
    instance.subscriber->OnMessage(input, payload);
    instance.bytes = instance.subscriber->bytes();
  });
  if (!took) {
    instance.spoiled = true;
    instance.bytes = 0;
    instance.subscriber.reset();
  }
  contents.bytes += instance.bytes;
  if (began != 0) node.entry->cpu_ns.fetch_add(MonotonicNs() - began, std::memory_order_relaxed);
}

void Intake::Keep(Contents& contents, const Scene::User& user, Offer& offer) {
  SceneNode& node = contents.scene->nodes[user.node];
  NodeFeed& feed = contents.feeds[user.node];
  const shm::Record& record = offer.message.record;
  KeptInput* kept = nullptr;
  if (node.definition().delivery == Delivery::kLast) {
    const auto [at, fresh] =
        feed.last_of.try_emplace(LastKey(user.input, *offer.slot), static_cast<uint32_t>(feed.kept.size()));
    if (!fresh) kept = &feed.kept[at->second];
    if (kept != nullptr && record.pass == 0 && kept->pass != 0) {
      kept->flags |= record.flags;  // what belongs to the step as a whole comes before its passes
      return;
    }
  }
  uint16_t flags = record.flags;
  if (kept == nullptr) {
    kept = &feed.kept.emplace_back();
    contents.bytes += sizeof(KeptInput);
  } else {
    flags |= kept->flags;
    *kept = {};
  }
  kept->index = user.input;
  kept->kind = static_cast<Kind>(record.kind);
  kept->slot = offer.slot;
  kept->seq = record.seq;
  kept->pass = record.pass;
  kept->call = record.call;
  kept->flags = flags;
  kept->wide = offer.wide;
  KeepContent(node, offer, *kept);
}

void Intake::KeepContent(const SceneNode& node, Offer& offer, KeptInput& kept) {
  const shm::Record& record = offer.message.record;
  switch (node.definition().content) {
    case Content::kStatistics:
      kept.withheld = offer.stats == nullptr;
      if (offer.stats == nullptr) break;
      kept.stats = *offer.stats;
      kept.unasked = !Has(kept.stats, node.definition().moments);
      break;
    case Content::kTensor: {
      metrics::TensorView view;
      if (!ViewOf(offer.message, view)) {
        kept.withheld = true;
        context_.Count(MissReason::kNoTensor, 1, node.entry.get());
        return;
      }
      // One copy, whoever wants it.
      if (!offer.copied) offer.copy = KeptPayload::Copy(view, *context_.parts.memory);
      offer.copied = true;
      kept.payload = offer.copy;
      if (!kept.payload) {
        kept.withheld = true;
        context_.Count(MissReason::kMemoryFull, 1, node.entry.get());
      }
      return;
    }
    case Content::kScalar:
      kept.withheld = !HasType(offer.message, RecordType::kScalar);
      if (!kept.withheld) kept.number = record.scalar;
      break;
    case Content::kText:
      kept.withheld = !HasType(offer.message, RecordType::kText);
      if (!kept.withheld) kept.text.assign(record.text.bytes, record.text.length);
      break;
    case Content::kValue:
      break;
  }
  if (kept.withheld) context_.Count(MissReason::kIncomplete, 1, node.entry.get());
}

void Intake::Feed(Contents& contents, uint32_t node_index, uint32_t input_index, const TopicValue& value) {
  FedInstance* instance = InstanceOf(contents, node_index, *value.slot, value.slot->number);
  if (instance == nullptr) return;
  SceneNode& node = contents.scene->nodes[node_index];
  instance->origin.flags |= value.flags;
  instance->origin.wide |= value.wide;
  instance->seen |= uint64_t{1} << (input_index % 64);
  metrics::Input input;
  input.index = input_index;
  input.subject = value.slot->subject;
  input.module = value.slot->module_name;
  input.param = value.slot->param_name;
  input.flags = value.flags;
  input.scalar = value.number;
  metrics::Payload payload;
  TensorStats stats;
  Value number;
  switch (node.definition().content) {
    case Content::kStatistics:
      stats = StatsOfNumber(value.number);
      input.stats = &stats;
      break;
    case Content::kTensor:
      payload.view = {&value.number, DType::kF64, {}, 1};
      input.payload = &payload;
      break;
    case Content::kValue:
      if (!value.value) number = value.number;
      input.value = value.value ? value.value.get() : &number;
      break;
    case Content::kScalar:
    case Content::kText:
      break;
  }
  Call(contents, node_index, *instance, input, input.payload);
}

}  // namespace ikkuna::graph
