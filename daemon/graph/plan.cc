#include "daemon/graph/plan.h"

#include "daemon/graph/frame.h"
#include "daemon/graph/names.h"

namespace ikkuna::graph {

namespace {

uint64_t KeyOf(uint32_t module, uint32_t param) { return (uint64_t{module} << 32) | param; }

// Entries so that whoever takes a topic comes after its publishers. The set refuses cycles.
std::vector<std::shared_ptr<SubscriberEntry>> Ordered(std::vector<std::shared_ptr<SubscriberEntry>> entries) {
  std::vector<TopicNode> nodes;
  for (const auto& entry : entries) {
    const Subscription& s = entry->subscription;
    TopicNode node{s.text, s.topic + "\n" + s.tag, {}};
    for (const SubscriptionInput& input : s.inputs) {
      if (input.is_topic()) node.takes.push_back(input.topic + "\n" + s.tag);
    }
    nodes.push_back(std::move(node));
  }
  const auto order = TopologicalOrder(nodes);
  if (!order) return entries;
  std::vector<std::shared_ptr<SubscriberEntry>> ordered;
  for (const size_t i : order.value()) ordered.push_back(std::move(entries[i]));
  return ordered;
}

}  // namespace

const Slot* Group::Find(uint32_t module, uint32_t param, const RegistryIndex& registry) {
  if (guess_ >= slots_.size()) guess_ = 0;
  if (guess_ < slots_.size()) {
    const Slot& slot = slots_[guess_];
    if (slot.module == module && slot.param == param) {
      ++guess_;
      return &slot;
    }
  }
  const auto known = ordinals_.find(KeyOf(module, param));
  const Slot* slot = known != ordinals_.end() ? &slots_[known->second] : Make(module, param, registry);
  if (slot != nullptr) guess_ = slot->ordinal + 1;
  return slot;
}

const Slot* Group::Make(uint32_t module, uint32_t param, const RegistryIndex& registry) {
  if (slots_.size() >= kMaxSlots) return nullptr;
  Slot slot;
  slot.ordinal = static_cast<uint32_t>(slots_.size());
  slot.module = module;
  slot.param = param;
  if (module != 0) {
    const RegistryIndex::Module* named = registry.FindModule(module);
    if (named == nullptr) return nullptr;
    slot.module_name = named->name;
    slot.module_type = named->type;
  }
  if (param != 0) {
    const std::string* name = IsDataKind(kind_) ? registry.Param(param) : registry.Logged(param);
    if (name == nullptr) return nullptr;
    slot.param_name = *name;
  }
  ordinals_.emplace(KeyOf(module, param), slot.ordinal);
  slots_.push_back(std::move(slot));
  return &slots_.back();
}

bool SceneNode::Matches(uint32_t input, const Slot& slot) {
  const std::string& patterns = subscription().module;
  if (patterns.empty() || slot.module == 0) return true;
  std::vector<uint8_t>& match = inputs[input].match;
  if (match.size() <= slot.ordinal) match.resize(slot.ordinal + 1, 0);
  uint8_t& known = match[slot.ordinal];
  if (known == 0) known = MatchesPatterns(patterns, slot.module_name) ? 2 : 1;
  return known == 2;
}

uint64_t SeriesOf(Scene& scene, SceneNode& node, const Slot* slot, uint32_t input, const RunKey& run,
                  SeriesCatalogue& catalogue) {
  uint64_t* id = &node.root_series;
  if (slot != nullptr && node.inputs[input].group != nullptr) {
    std::vector<uint64_t>& ids = node.inputs[input].series;
    if (ids.size() <= slot->ordinal) ids.resize(slot->ordinal + 1, SceneNode::kUnknownSeries);
    id = &ids[slot->ordinal];
  } else if (slot != nullptr) {
    id = &node.topic_series.try_emplace(KeyOf(slot->module, slot->param), SceneNode::kUnknownSeries).first->second;
  }
  if (*id != SceneNode::kUnknownSeries) return *id;
  SeriesKey key;
  key.run = run;
  key.tag = scene.tag_name;
  key.root = scene.root_name;
  key.topic = node.subscription().topic;
  if (slot != nullptr) {
    key.module = slot->module_name;
    key.param = slot->param_name;
  }
  const std::string unit(node.subscription().descriptor->unit);
  *id = catalogue.Intern(key, slot == nullptr ? std::string() : slot->module_type, unit);
  return *id;
}

Plan::Plan(std::vector<std::shared_ptr<SubscriberEntry>> entries) : entries_(Ordered(std::move(entries))) {}
Plan::~Plan() = default;

Scene* Plan::SceneOf(uint16_t root, uint16_t tag, const RegistryIndex& registry) {
  auto [at, fresh] = scenes_.try_emplace({root, tag});
  if (!fresh && at->second) return at->second.get();
  // Looked for again each time while there is none: the name may come later, and whoever asks is about to open a frame.
  at->second = Make(root, tag, registry);
  return at->second.get();
}

std::unique_ptr<Scene> Plan::Make(uint16_t root, uint16_t tag, const RegistryIndex& registry) const {
  const std::string* root_name = registry.Root(root);
  if (root_name == nullptr) return nullptr;
  auto scene = std::make_unique<Scene>();
  scene->root = root;
  scene->tag = tag;
  scene->root_name = *root_name;
  scene->groups.resize(64);
  for (const auto& entry : entries_) {
    const Subscription& s = entry->subscription;
    if (registry.TagId(s.tag) != tag || !MatchesPatterns(s.root, *root_name)) continue;
    scene->tag_name = s.tag;
    SceneNode node;
    node.entry = entry;
    const auto index = static_cast<uint32_t>(scene->nodes.size());
    for (uint32_t i = 0; i < s.inputs.size(); ++i) {
      SceneNode::Source source;
      if (s.inputs[i].is_topic()) {
        node.takes_topic = true;
        for (uint32_t p = 0; p < index; ++p) {
          if (scene->nodes[p].subscription().topic != s.inputs[i].topic) continue;
          scene->nodes[p].consumed = true;
          source.publishers.push_back(p);
        }
      } else {
        auto& group = scene->groups[static_cast<size_t>(s.inputs[i].kind)];
        if (!group) group = std::make_unique<Group>(s.inputs[i].kind);
        source.group = group.get();
        const bool merged = s.definition.delivery == metrics::Delivery::kMerged;
        (merged ? group->merged : group->each).push_back({index, i});
      }
      node.inputs.push_back(std::move(source));
    }
    if (s.definition.delivery == metrics::Delivery::kMerged) node.merged = s.definition.create();
    scene->nodes.push_back(std::move(node));
  }
  return scene->nodes.empty() ? nullptr : std::move(scene);
}

}  // namespace ikkuna::graph
