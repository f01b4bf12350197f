#include "daemon/graph/plan.h"

#include <algorithm>

#include "daemon/graph/frame.h"
#include "daemon/model/names.h"

namespace ikkuna::graph {

namespace {

using metrics::Delivery;
using metrics::Keeps;
using metrics::Runs;

// Entries so that whoever takes a topic comes after its publishers. The set refuses cycles.
std::vector<std::shared_ptr<SubscriberEntry>> Ordered(std::vector<std::shared_ptr<SubscriberEntry>> entries) {
  std::vector<TopicNode> nodes;
  for (const auto& entry : entries) nodes.push_back(TopicNodeOf(entry->subscription));
  const auto order = TopologicalOrder(nodes);
  if (!order) return entries;
  std::vector<std::shared_ptr<SubscriberEntry>> ordered;
  for (const size_t i : order.value()) ordered.push_back(std::move(entries[i]));
  return ordered;
}

// A default gives way to one that was asked for in this run; of two others the first counts (one names the run by its
// id, the other by its display name).
bool GivesWay(const SubscriberEntry& entry, const std::vector<std::shared_ptr<SubscriberEntry>>& entries) {
  const auto is_default = [](const SubscriberEntry& one) {
    return one.source.load(std::memory_order_relaxed) == SubscriberSource::kDefault;
  };
  return std::any_of(entries.begin(), entries.end(), [&](const auto& other) {
    if (other.get() == &entry || !other->subscription.CollidesWith(entry.subscription)) return false;
    if (is_default(entry) != is_default(*other)) return is_default(entry);
    return other->id < entry.id;
  });
}

Feeding FeedingOf(const metrics::Definition& definition) {
  if (definition.delivery == Delivery::kMerged) return Feeding::kMerged;
  if (definition.delivery == Delivery::kLast) return Feeding::kKept;
  // State for the run sees whole steps only, one after another.
  const bool kept = definition.runs == Runs::kQueue || definition.keeps == Keeps::kRun;
  return kept ? Feeding::kKept : Feeding::kAtOnce;
}

}  // namespace

Scene::Scene() = default;
Scene::~Scene() = default;

bool SceneNode::Matches(const Slot& slot) const {
  const std::string& patterns = subscription().module;
  if (patterns.empty() || slot.subject.module == 0) return true;
  std::vector<uint8_t>& match = names->match;
  if (match.size() <= slot.number) match.resize(slot.number + 1, 0);
  uint8_t& known = match[slot.number];
  if (known == 0) known = MatchesPatterns(patterns, slot.module_name) ? 2 : 1;
  return known == 2;
}

Plan::Plan(const std::vector<std::shared_ptr<SubscriberEntry>>& entries, const ProducerInfo& producer) {
  std::vector<std::shared_ptr<SubscriberEntry>> mine;
  for (const auto& entry : entries) {
    const bool on = !entry->off.load(std::memory_order_relaxed);
    if (on && entry->subscription.MatchesRun(producer.run_key.run_id, producer.run)) mine.push_back(entry);
  }
  std::vector<std::shared_ptr<SubscriberEntry>> standing;
  for (const auto& entry : mine) {
    if (!GivesWay(*entry, mine)) standing.push_back(entry);
  }
  entries_ = Ordered(std::move(standing));
}
Plan::~Plan() = default;

Scene* Plan::SceneOf(uint16_t root, uint16_t tag, const RegistryIndex& registry, PlanMemory& memory, Run& run,
                     WorkShare* share) {
  auto [at, fresh] = scenes_.try_emplace({root, tag});
  if (!fresh && at->second) return at->second.get();
  // Looked for again each time while there is none: the name may come later, and whoever asks is about to open a frame.
  at->second = Make(root, tag, registry, memory, run, share);
  return at->second.get();
}

std::unique_ptr<Scene> Plan::Make(uint16_t root, uint16_t tag, const RegistryIndex& registry, PlanMemory& memory,
                                  Run& run, WorkShare* share) const {
  const std::string* root_name = registry.Root(root);
  const std::string* tag_name = registry.Tag(tag);
  if (root_name == nullptr || tag_name == nullptr) return nullptr;
  auto scene = std::make_unique<Scene>();
  std::shared_ptr<SceneMemory>& known = memory.scenes[{root, tag}];
  if (!known) {
    known = std::make_shared<SceneMemory>();
    known->root = root;
    known->tag = tag;
    known->root_name = *root_name;
    known->tag_name = *tag_name;
    known->timeline = run.series().InternTimeline({*root_name, *tag_name});
  }
  scene->memory = known;
  for (const auto& entry : entries_) {
    const Subscription& s = entry->subscription;
    if (s.tag != *tag_name || !MatchesPatterns(s.root, *root_name)) continue;
    SceneNode node;
    node.entry = entry;
    node.feeding = FeedingOf(s.definition);
    node.consumed.resize(s.topics.size(), 0);
    auto& names = known->names[entry->id];
    if (!names) names = std::make_shared<NodeNames>();
    node.names = names;
    auto& instances = memory.instances[{entry->id, root, tag}];
    if (!instances) instances = std::make_shared<Instances>(entry, share);
    node.instances = instances;
    scene->nodes.push_back(std::move(node));
    Wire(*scene, static_cast<uint32_t>(scene->nodes.size() - 1));
  }
  return scene->nodes.empty() ? nullptr : std::move(scene);
}

// Where the inputs of the node come from.
void Plan::Wire(Scene& scene, uint32_t index) const {
  SceneNode& node = scene.nodes[index];
  const Subscription& s = node.subscription();
  for (uint32_t i = 0; i < s.inputs.size(); ++i) {
    SceneNode::Source source;
    if (s.inputs[i].is_topic()) {
      node.takes_topic = true;
      for (uint32_t p = 0; p < index; ++p) {
        const auto output = scene.nodes[p].subscription().OutputOf(s.inputs[i].topic);
        if (!output) continue;
        scene.nodes[p].consumed[*output] = 1;
        source.publishers.push_back({p, *output});
      }
    } else {
      const auto kind = static_cast<size_t>(s.inputs[i].kind);
      auto& group = scene.memory->groups[kind];
      if (!group) group = std::make_unique<Group>(s.inputs[i].kind);
      source.group = group.get();
      node.kinds |= KindBit(s.inputs[i].kind);
      Scene::Users& users = scene.users[kind];
      (node.feeding == Feeding::kMerged ? users.merged : users.each).push_back({index, i});
    }
    node.inputs.push_back(std::move(source));
  }
}

}  // namespace ikkuna::graph
