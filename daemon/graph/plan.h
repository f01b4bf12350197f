// Plan: one version of the subscriber set, laid out for the records of one producer.
//
// A Scene is what a plan means for one (root, tag); its Groups hold the series of one kind that have been seen, each
// with a small dense number, so that the way of a record is an index and no text. Open frames keep the plan that they
// began with: a subscriber takes part in whole steps only. Owner: the Graph and its open frames, on one thread. Slots,
// groups and scenes stay where they are while the plan lives.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "daemon/graph/registry_index.h"
#include "daemon/graph/subscriber_entry.h"
#include "daemon/series_catalogue.h"
#include "metrics/subscriber.h"

namespace ikkuna::graph {

// One series of messages: a module and parameter under one kind.
struct Slot {
  uint32_t ordinal = 0;  // within its group
  uint32_t module = 0;
  uint32_t param = 0;
  std::string module_name;
  std::string module_type;
  std::string param_name;
};

class Group {
 public:
  explicit Group(Kind kind) : kind_(kind) {}

  // A named maximum: every module and parameter there can be, once.
  static constexpr size_t kMaxSlots = kMaxModules + kMaxParams;

  // Null: an id without a name, or kMaxSlots is reached. Records come in the same order step after step, so the slot
  // after the last one asked for is tried first.
  const Slot* Find(uint32_t module, uint32_t param, const RegistryIndex& registry);

  Kind kind() const { return kind_; }
  const Slot& slot(uint32_t ordinal) const { return slots_[ordinal]; }
  size_t size() const { return slots_.size(); }

  struct User {
    uint32_t node = 0;   // index in the scene
    uint32_t input = 0;  // of that node
  };
  std::vector<User> merged;  // take the step's statistics
  std::vector<User> each;    // take every message

 private:
  const Slot* Make(uint32_t module, uint32_t param, const RegistryIndex& registry);

  const Kind kind_;
  std::deque<Slot> slots_;
  std::unordered_map<uint64_t, uint32_t> ordinals_;
  uint32_t guess_ = 0;
};

// A subscriber in a scene.
struct SceneNode {
  struct Source {
    Group* group = nullptr;            // of a kind; null: a topic
    std::vector<uint32_t> publishers;  // of a topic: nodes of the same scene, all before this one
    std::vector<uint64_t> series;      // by ordinal: id in the catalogue, or kUnknownSeries
    std::vector<uint8_t> match;        // by ordinal: 0 not looked at, 1 the filter refuses, 2 passes
  };
  static constexpr uint64_t kUnknownSeries = ~uint64_t{0};

  std::shared_ptr<SubscriberEntry> entry;
  std::vector<Source> inputs;
  bool takes_topic = false;
  bool consumed = false;                        // others take its topic: values are kept until the step's end
  std::unique_ptr<metrics::Subscriber> merged;  // Delivery::kMerged: the one instance
  std::vector<std::unique_ptr<metrics::Subscriber>> idle;  // Delivery::kEachMessage: instances at rest
  uint64_t root_series = kUnknownSeries;                   // of results without a module
  std::unordered_map<uint64_t, uint64_t> topic_series;     // by module and param: results that come of topics

  const Subscription& subscription() const { return entry->subscription; }
  const metrics::Definition& definition() const { return entry->subscription.definition; }
  bool Matches(uint32_t input, const Slot& slot);
};

struct Frame;

struct Scene {
  uint16_t root = 0;
  uint16_t tag = 0;
  std::string root_name;
  std::string tag_name;
  std::vector<SceneNode> nodes;                // topological order
  std::vector<std::unique_ptr<Group>> groups;  // by kind; null: nobody takes it
  std::vector<std::unique_ptr<Frame>> idle_frames;

  Group* GroupOf(Kind kind) const { return groups[static_cast<size_t>(kind)].get(); }
};

// The series of what a node publishes about `slot` (of input `input`); null: about the whole step. 0: the catalogue is
// full.
uint64_t SeriesOf(Scene& scene, SceneNode& node, const Slot* slot, uint32_t input, const RunKey& run,
                  SeriesCatalogue& catalogue);

class Plan {
 public:
  explicit Plan(std::vector<std::shared_ptr<SubscriberEntry>> entries);
  ~Plan();

  // Null: no subscriber looks at this root under this tag, or they have no name.
  Scene* SceneOf(uint16_t root, uint16_t tag, const RegistryIndex& registry);

  const std::vector<std::shared_ptr<SubscriberEntry>>& entries() const { return entries_; }

 private:
  std::unique_ptr<Scene> Make(uint16_t root, uint16_t tag, const RegistryIndex& registry) const;

  std::vector<std::shared_ptr<SubscriberEntry>> entries_;                   // topological order
  std::map<std::pair<uint16_t, uint16_t>, std::unique_ptr<Scene>> scenes_;  // null: looked for in vain
};

}  // namespace ikkuna::graph
