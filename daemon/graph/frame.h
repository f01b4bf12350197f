// Frame: one step of a (root, tag), from its batch_started until all that is made of it is out.
//
// Owner: the graph, on one thread. Frames are reused: what a step needs is allocated once and kept.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "daemon/graph/kept_input.h"
#include "daemon/graph/plan.h"
#include "daemon/model/batch.h"
#include "shared/pub.h"

namespace ikkuna::graph {

class StepResults;  // step_results.h

// What a step has brought of one series so far.
struct Gathered {
  TensorStats stats;  // merged; only where GroupState::merges
  uint32_t messages = 0;
  uint32_t pass = 0;  // of the last message
  uint16_t call = 0;
  uint16_t flags = 0;  // of all messages
  bool gap = false;    // a call is missing, or has no statistics
};

struct GroupState {
  bool due = false;               // a subscriber takes this kind in this step
  bool merges = false;            // ... its merged statistics
  bool each_stats = false;        // ... those of every message
  std::vector<Gathered> slots;    // by ordinal
  std::vector<uint32_t> touched;  // ordinals, in order of arrival
};

struct Gathering {
  std::vector<GroupState> groups;  // by kind
};

// A result that others take.
struct TopicValue {
  const Slot* slot = nullptr;
  uint32_t output = 0;
  uint16_t flags = 0;
  bool wide = false;
  double number = 0;
  std::shared_ptr<const Value> value;  // that is no number
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
  uint64_t seen = 0;     // bits of inputs that it had something of
};

struct NodeState {
  enum class Work : uint8_t {
    kNone = 1,   // not due, or its subscriber ended
    kWaits = 2,  // for the end of the step, or for what it takes
    kRuns = 3,   // somebody holds its results
    kDone = 4,
  };
  Work work = Work::kNone;
  bool partial = false;                            // a value is missing that a message would have given
  uint64_t unnamed = 0;                            // messages
  std::vector<FedInstance> instances;              // Feeding::kAtOnce
  std::vector<uint32_t> instance_of;               // by FedInstance::key: index + 1; 0: none
  std::vector<KeptInput> kept;                     // Feeding::kKept
  std::unordered_map<uint64_t, uint32_t> last_of;  // Delivery::kLast: by input and slot number: index in `kept`
  std::vector<TopicValue> values;                  // of outputs that are consumed
  std::unordered_map<uint32_t, Origin> origins;    // by slot number, where results come later
  std::weak_ptr<StepResults> results;              // Work::kRuns
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
  uint64_t touched_ns = 0;      // of the last look at time before its last message
  uint64_t dropped_before = 0;  // messages that the producer had dropped when it began
  std::unique_ptr<Gathering> gathering;
  std::vector<NodeState> nodes;  // by index in the scene

  // Since it closed.
  uint64_t id = 0;
  bool again = false;          // a step of this number was closed before
  uint64_t dropped_kinds = 0;  // of which messages were dropped within it
  StepStamp stamp;

  // A step of `scene` begins.
  void Open(std::shared_ptr<Plan> with, Scene* of, const shm::Record& started);
  // Forgets what the messages brought; done when no node waits for it any more.
  void ReleaseGathering();
  // Forgets the step; the memory stays. Instances go back to rest.
  // `failed`: of one that threw while it was reset.
  void Clear(const std::function<void(SubscriberEntry&, const std::string&)>& failed);
};

}  // namespace ikkuna::graph
