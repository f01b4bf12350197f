// Plan: one version of the subscriber set, laid out for the records of one producer.
//
// A Scene is what a plan means for one (root, tag). Open frames keep the plan that they began with: a subscriber takes
// part in whole steps only. Owner: the graph and its frames, on one thread. Scenes stay where they are while the plan
// lives.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/graph/registry_index.h"
#include "daemon/graph/scene_memory.h"
#include "daemon/graph/subscriber_entry.h"
#include "daemon/model/series.h"
#include "metrics/subscriber.h"

namespace ikkuna::graph {

// How a subscriber gets its messages.
enum class Feeding : uint8_t {
  kMerged = 1,  // their statistics merge in the frame
  kAtOnce = 2,  // each as it comes, while its bytes are valid
  kKept = 3,    // kept until the step is whole: the last of each series, or all (queue, state for the run)
};

// A subscriber in a scene.
struct SceneNode {
  struct Publisher {
    uint32_t node = 0;  // of the same scene, before this one
    uint32_t output = 0;
  };
  struct Source {
    Group* group = nullptr;             // of a kind; null: a topic
    std::vector<Publisher> publishers;  // of a topic
  };

  std::shared_ptr<SubscriberEntry> entry;
  std::shared_ptr<NodeNames> names;
  std::shared_ptr<Instances> instances;
  Feeding feeding = Feeding::kMerged;
  std::vector<Source> inputs;
  bool takes_topic = false;
  std::vector<uint8_t> consumed;  // by output: others take it, values are kept until the step's end
  uint64_t kinds = 0;             // that flow in directly

  const Subscription& subscription() const { return entry->subscription; }
  const metrics::Definition& definition() const { return entry->subscription.definition; }
  bool Matches(const Slot& slot) const;
};

struct Frame;
struct Gathering;

struct Scene {
  Scene();
  ~Scene();

  struct User {
    uint32_t node = 0;   // index in the scene
    uint32_t input = 0;  // of that node
  };
  struct Users {
    std::vector<User> merged;  // take the step's statistics
    std::vector<User> each;    // take every message
  };

  std::shared_ptr<SceneMemory> memory;
  std::vector<SceneNode> nodes;  // topological order
  std::array<Users, 64> users;   // by kind
  std::vector<std::unique_ptr<Frame>> idle_frames;
  std::vector<std::unique_ptr<Gathering>> idle_gatherings;
};

// What outlives plans.
struct PlanMemory {
  std::map<std::pair<uint16_t, uint16_t>, std::shared_ptr<SceneMemory>> scenes;              // by root and tag
  std::map<std::tuple<uint64_t, uint16_t, uint16_t>, std::shared_ptr<Instances>> instances;  // by entry, root and tag
};

class Plan {
 public:
  // Those of `entries` that look at this run. Of two that publish one topic the explicit one counts.
  Plan(const std::vector<std::shared_ptr<SubscriberEntry>>& entries, const ProducerInfo& producer);
  ~Plan();

  // Null: no subscriber looks at this root under this tag, or they have no name.
  Scene* SceneOf(uint16_t root, uint16_t tag, const RegistryIndex& registry, PlanMemory& memory, Run& run,
                 WorkShare* share);

  const std::vector<std::shared_ptr<SubscriberEntry>>& entries() const { return entries_; }

 private:
  std::unique_ptr<Scene> Make(uint16_t root, uint16_t tag, const RegistryIndex& registry, PlanMemory& memory, Run& run,
                              WorkShare* share) const;
  void Wire(Scene& scene, uint32_t index) const;

  std::vector<std::shared_ptr<SubscriberEntry>> entries_;                   // topological order
  std::map<std::pair<uint16_t, uint16_t>, std::unique_ptr<Scene>> scenes_;  // null: looked for in vain
};

}  // namespace ikkuna::graph
