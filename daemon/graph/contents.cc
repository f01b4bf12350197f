#include "daemon/graph/contents.h"

#include <algorithm>
#include <utility>

#include "daemon/graph/graph_context.h"
#include "shared/passes.h"
#include "shared/stats/merge.h"

namespace ikkuna::graph {

using metrics::Content;
using metrics::Delivery;

void Contents::Open(std::shared_ptr<Plan> with, Scene* of, uint64_t at_step) {
  plan = std::move(with);
  scene = of;
  step = at_step;
  bytes = kEmptyBytes;
  if (scene == nullptr) return;
  if (!scene->idle_gatherings.empty()) {
    gathering = std::move(scene->idle_gatherings.back());
    scene->idle_gatherings.pop_back();
  } else {
    gathering = std::make_unique<Gathering>();
    gathering->groups.resize(scene->users.size());
  }
  feeds.resize(scene->nodes.size());
  bytes = Weigh();
  for (size_t i = 0; i < feeds.size(); ++i) {
    feeds[i].due = step % scene->nodes[i].subscription().subsample == 0 && !scene->nodes[i].entry->ended();
  }
  for (size_t k = 0; k < scene->users.size(); ++k) {
    GroupState& state = gathering->groups[k];
    state.due = state.merges = state.each_stats = false;
    for (const Scene::User& user : scene->users[k].merged) state.merges |= feeds[user.node].due;
    for (const Scene::User& user : scene->users[k].each) {
      if (!feeds[user.node].due) continue;
      state.due = true;
      state.each_stats |= scene->nodes[user.node].definition().content == Content::kStatistics;
    }
    state.due |= state.merges;
  }
}

uint64_t Contents::Weigh() const {
  uint64_t sum = kEmptyBytes + feeds.size() * sizeof(NodeFeed) + gathering->groups.size() * sizeof(GroupState);
  for (const GroupState& group : gathering->groups) sum += group.counted * sizeof(Gathered);
  for (const NodeFeed& feed : feeds) {
    sum += feed.instance_of.size() * sizeof(uint32_t) + feed.instances.size() * kInstanceBytes +
           feed.kept.size() * sizeof(KeptInput);
    for (const FedInstance& instance : feed.instances) sum += instance.bytes;
  }
  return sum;
}

void Contents::Merge(GraphContext& context, Contents& pass) {
  for (size_t k = 0; k < gathering->groups.size(); ++k) {
    GroupState& from = pass.gathering->groups[k];
    if (from.touched.empty() || !gathering->groups[k].due) continue;
    MergeGroup(gathering->groups[k], from, scene->memory->groups[k]->size());
  }
  for (uint32_t i = 0; i < feeds.size(); ++i) {
    NodeFeed& into = feeds[i];
    NodeFeed& from = pass.feeds[i];
    if (!into.due) continue;
    if (!from.due) into.lacks |= scene->nodes[i].kinds;
    into.unnamed += from.unnamed;
    into.lacks |= from.lacks;
    if (into.instances.empty()) {
      std::swap(into.instances, from.instances);
      std::swap(into.instance_of, from.instance_of);
    } else {
      MergeFed(context, i, from);
    }
    if (into.kept.empty()) {
      std::swap(into.kept, from.kept);
      std::swap(into.last_of, from.last_of);
    } else {
      MergeKept(into, from);
    }
  }
  bytes = Weigh();  // most of the pass is merged in place, and takes nothing
}

void Contents::MergeGroup(GroupState& into, GroupState& from, size_t members) {
  if (into.touched.empty()) {
    std::swap(into.slots, from.slots);
    std::swap(into.counted, from.counted);
    std::swap(into.touched, from.touched);
    return;
  }
  if (into.slots.size() < members) into.slots.resize(members);
  into.counted = std::max<uint64_t>(into.counted, into.slots.size());
  for (const uint32_t ordinal : from.touched) {
    Gathered& series = into.slots[ordinal];
    const Gathered& more = from.slots[ordinal];
    if (series.messages == 0) {
      into.touched.push_back(ordinal);
      series = more;
      continue;
    }
    if (into.merges) series.stats = MergeStats(series.stats, more.stats);
    series.messages += more.messages;
    series.flags |= more.flags;
    series.gap |= more.gap;
  }
}

void Contents::MergeFed(GraphContext& context, uint32_t node, NodeFeed& from) {
  NodeFeed& into = feeds[node];
  for (FedInstance& instance : from.instances) {
    if (into.instance_of.size() <= instance.key) into.instance_of.resize(instance.key + 1, 0);
    uint32_t& index = into.instance_of[instance.key];
    if (index == 0) {
      from.instance_of[instance.key] = 0;
      into.instances.push_back(std::move(instance));
      index = static_cast<uint32_t>(into.instances.size());
      continue;
    }
    FedInstance& mine = into.instances[index - 1];
    mine.origin.flags |= instance.origin.flags;
    mine.origin.wide |= instance.origin.wide;
    mine.spoiled |= instance.spoiled || !instance.subscriber;
    mine.unasked |= instance.unasked;
    mine.seen |= instance.seen;
    SubscriberEntry& entry = *scene->nodes[node].entry;
    if (!mine.subscriber || !instance.subscriber || entry.ended()) continue;
    const bool merged = Guarded(context, entry, step, [&] {
      mine.subscriber->Merge(*instance.subscriber);
      mine.bytes = mine.subscriber->bytes();
    });
    if (!merged) {
      mine.spoiled = true;
      mine.subscriber.reset();
      mine.bytes = 0;
    }
  }
  // What has moved is gone; the others go back to rest with the pass.
  std::erase_if(from.instances, [&](const FedInstance& instance) { return from.instance_of[instance.key] == 0; });
  for (size_t i = 0; i < from.instances.size(); ++i) {
    from.instance_of[from.instances[i].key] = static_cast<uint32_t>(i + 1);
  }
}

void Contents::MergeKept(NodeFeed& into, NodeFeed& from) {
  for (KeptInput& kept : from.kept) {
    const bool last = !from.last_of.empty();
    if (last) {
      const auto [at, fresh] =
          into.last_of.try_emplace(LastKey(kept.index, *kept.slot), static_cast<uint32_t>(into.kept.size()));
      if (!fresh) {
        KeptInput& mine = into.kept[at->second];
        const uint16_t flags = mine.flags | kept.flags;
        const bool later = kept.pass != 0 && (mine.pass == 0 || shm::PassBefore(mine.pass, kept.pass));
        if (later) mine = std::move(kept);
        mine.flags = flags;
        continue;
      }
    }
    into.kept.push_back(std::move(kept));
  }
  from.kept.clear();
  from.last_of.clear();
}

void Contents::Flag(uint64_t kinds, uint16_t flags) {
  for (size_t k = 0; k < gathering->groups.size(); ++k) {
    if ((KindBit(static_cast<Kind>(k)) & kinds) == 0) continue;
    GroupState& group = gathering->groups[k];
    for (const uint32_t ordinal : group.touched) group.slots[ordinal].flags |= flags;
  }
  for (size_t i = 0; i < feeds.size(); ++i) {
    if ((scene->nodes[i].kinds & kinds) == 0) continue;
    for (FedInstance& instance : feeds[i].instances) instance.origin.flags |= flags;
    for (KeptInput& kept : feeds[i].kept) kept.flags |= flags;
  }
}

void Contents::ReleaseGathering() {
  if (!gathering) return;
  for (GroupState& group : gathering->groups) {
    for (const uint32_t ordinal : group.touched) group.slots[ordinal] = {};
    group.touched.clear();
    group.counted = 0;
  }
  // As many as steps may be open.
  if (scene->idle_gatherings.size() < 4) scene->idle_gatherings.push_back(std::move(gathering));
  gathering.reset();
}

void Contents::Clear(GraphContext& context) {
  if (scene == nullptr) return;
  ReleaseGathering();
  for (size_t i = 0; i < feeds.size(); ++i) {
    NodeFeed& feed = feeds[i];
    const SceneNode& node = scene->nodes[i];
    for (FedInstance& instance : feed.instances) {
      feed.instance_of[instance.key] = 0;
      if (!instance.subscriber || node.entry->ended()) continue;
      Guarded(context, *node.entry, step, [&] { node.instances->Rest(std::move(instance.subscriber)); });
    }
    feed.instances.clear();
    feed.kept.clear();
    feed.last_of.clear();
    feed.unnamed = feed.lacks = 0;
    feed.due = false;
  }
}

}  // namespace ikkuna::graph
