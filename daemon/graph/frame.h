// Frame: one open step of a (root, tag), from its batch_started to its batch_finished.
//
// Owner: the Graph, on one thread. Frames are reused: what a step needs is allocated once and kept.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "daemon/graph/plan.h"
#include "shared/pub.h"

namespace ikkuna::graph {

// What a sample says of its origin.
struct Origin {
  uint64_t time_ns = 0;  // CLOCK_MONOTONIC of the last message
  uint32_t epoch = 0;
  uint16_t flags = 0;  // of all messages

  void Add(const shm::Record& record) {
    time_ns = record.time_ns;
    epoch = record.epoch;
    flags |= record.flags;
  }
  void Add(const Origin& other) {
    if (other.time_ns >= time_ns) {
      time_ns = other.time_ns;
      epoch = other.epoch;
    }
    flags |= other.flags;
  }
};

// While messages come nothing is published: the step may turn out not to be whole.
class DiscardPublisher final : public metrics::Publisher {
 public:
  void Publish(double) override {}
  void PublishText(std::string_view) override {}
  void PublishEvent(std::string) override {}
  void Incomplete() override {}
};

// What a step has brought of one series so far.
struct Gathered {
  TensorStats stats;  // merged; only where GroupState::merges
  Origin origin;
  uint32_t messages = 0;
  uint16_t micro = 0;  // of the last message
  uint16_t call = 0;
  bool gap = false;  // a call is missing
};

struct GroupState {
  bool due = false;               // a subscriber takes this kind in this step
  bool merges = false;            // ... its merged statistics
  bool each_stats = false;        // ... those of every message
  std::vector<Gathered> slots;    // by ordinal
  std::vector<uint32_t> touched;  // ordinals, in order of arrival
};

// A result that others take.
struct TopicValue {
  const Slot* slot = nullptr;  // null: of the whole step
  double value = 0;
  Origin origin;
};

// One subscriber at work on the messages of one series, or of the step.
struct Instance {
  std::unique_ptr<metrics::Subscriber> subscriber;
  const Slot* slot = nullptr;
  Origin origin;
  bool spoiled = false;  // a message came without what it reads: nothing is published
};

struct NodeState {
  bool due = false;
  bool partial = false;  // a value is missing that a message would have given
  std::vector<Instance> instances;
  std::vector<uint32_t> instance_of;  // by ordinal of the slot: index + 1; 0: none. Scope::kSeries
  std::vector<TopicValue> values;     // when consumed
};

struct Frame {
  std::shared_ptr<Plan> plan;
  Scene* scene = nullptr;  // null: nobody takes anything of this step
  uint16_t root = 0;
  uint16_t tag = 0;
  uint64_t step = 0;
  bool whole = false;  // its batch_started was seen
  uint64_t first_seq = 0;
  uint64_t last_seq = 0;
  uint64_t dropped_before = 0;     // messages that the producer had dropped when it began
  uint64_t unnamed = 0;            // messages of ids without a name
  std::vector<GroupState> groups;  // by kind
  std::vector<NodeState> nodes;    // by index in the scene

  // A step of `scene` begins.
  void Open(std::shared_ptr<Plan> with, Scene* of, const shm::Record& started);
  // One message between the markers.
  void Take(const shm::Message& message, const RegistryIndex& registry);
  // A subscriber at work for node `index` on `slot` (null: on the step), new as if just made.
  Instance& Rouse(uint32_t index, const Slot* slot);
  // Forgets the step; the memory stays. Instances go back to rest in `opened_with`.
  void Clear(Scene& opened_with);

 private:
  void Feed(const Group::User& user, const Slot& slot, const shm::Message& message, const TensorStats* stats);
};

}  // namespace ikkuna::graph
