// Contents: what messages have brought so far, to a step or to a pass that waits for the step that names it.
//
// Owner: a Frame or a Pass, on the graph's one thread. They are reused: what one needs is allocated once and kept.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "daemon/graph/kept_input.h"
#include "daemon/graph/plan.h"

namespace ikkuna::graph {

struct GraphContext;

// What has come of one series.
struct Gathered {
  TensorStats stats;  // merged; only where GroupState::merges
  uint32_t messages = 0;
  uint32_t next_call = 0;  // that may come without a gap
  uint16_t flags = 0;      // of all messages
  bool gap = false;        // a call is missing, or has no statistics
};

struct GroupState {
  bool due = false;               // a subscriber takes this kind in this step
  bool merges = false;            // ... its merged statistics
  bool each_stats = false;        // ... those of every message
  uint64_t counted = 0;           // slots that are part of Contents::bytes
  std::vector<Gathered> slots;    // by ordinal
  std::vector<uint32_t> touched;  // ordinals, in order of arrival
};

struct Gathering {
  std::vector<GroupState> groups;  // by kind
};

// What a result says of the messages that it was made of.
struct Origin {
  uint16_t flags = 0;
  bool wide = false;  // Precision::kDouble
};

// One subscriber that is fed while the messages come.
struct FedInstance {
  std::unique_ptr<metrics::Subscriber> subscriber;
  const Slot* slot = nullptr;  // of the series; of the module: without a parameter
  uint32_t key = 0;            // ordinal of the series in its group (slot number of a topic's); id of the module
  Origin origin;
  bool spoiled = false;  // a message came without what it reads: nothing is published
  bool unasked = false;  // statistics came that lack what it needs: the same
  uint64_t seen = 0;     // bits of inputs that it had something of
  uint64_t bytes = 0;    // that the subscriber holds, as part of Contents::bytes
};

// What has come for one node.
struct NodeFeed {
  bool due = false;      // in this step; else it takes nothing
  uint64_t unnamed = 0;  // messages
  uint64_t lacks = 0;    // kinds (KindBit) that a pass did not bring, since they were not due when it began
  std::vector<FedInstance> instances;              // Feeding::kAtOnce
  std::vector<uint32_t> instance_of;               // by FedInstance::key: index + 1; 0: none
  std::vector<KeptInput> kept;                     // Feeding::kKept
  std::unordered_map<uint64_t, uint32_t> last_of;  // Delivery::kLast: by input and slot number: index in `kept`
};

// Key of `last_of`.
inline uint64_t LastKey(uint32_t input, const Slot& slot) { return (uint64_t{input} << 32) | slot.number; }

struct Contents {
  // What a subscriber's instance may take, roughly; what it gathers of whole tensors bounds itself.
  static constexpr uint64_t kInstanceBytes = 1024;
  static constexpr uint64_t kEmptyBytes = 512;  // nothing, with whoever owns it

  std::shared_ptr<Plan> plan;
  Scene* scene = nullptr;  // null: nobody takes anything
  uint64_t step = 0;       // by which it was decided what is due
  uint64_t bytes = 0;      // roughly, but for copies of payloads
  std::unique_ptr<Gathering> gathering;  // null: released, or no scene
  std::vector<NodeFeed> feeds;           // by index in the scene

  // A step of `scene`, or a pass of it, begins.
  void Open(std::shared_ptr<Plan> with, Scene* of, uint64_t at_step);
  // Takes over what a pass of the step has brought, as if it had come here; `pass` is left with nothing but subscribers
  // to go back to rest. Both have the same scene.
  void Merge(GraphContext& context, Contents& pass);
  // What became known of messages of these kinds (KindBit) after they had come.
  void Flag(uint64_t kinds, uint16_t flags);
  // Forgets what the messages brought but for the subscribers; done when no node waits for it any more.
  void ReleaseGathering();
  // Forgets everything; the memory stays. Instances go back to rest. Those that throw on the way have failed.
  void Clear(GraphContext& context);

 private:
  uint64_t Weigh() const;  // what `bytes` is
  void MergeGroup(GroupState& into, GroupState& from, size_t members);
  void MergeFed(GraphContext& context, uint32_t node, NodeFeed& from);
  void MergeKept(NodeFeed& into, NodeFeed& from);
};

}  // namespace ikkuna::graph
