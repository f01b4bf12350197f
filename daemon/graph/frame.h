// Frame: one step of a (root, tag), from its batch_started until all that is made of it is out.
//
// Owner: the graph, on one thread. Frames are reused: what a step needs is allocated once and kept.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "daemon/graph/contents.h"
#include "daemon/model/batch.h"
#include "shared/pub.h"

namespace ikkuna::graph {

class StepResults;  // step_results.h
struct Pass;        // open_passes.h

// A result that others take.
struct TopicValue {
  const Slot* slot = nullptr;
  uint32_t output = 0;
  uint16_t flags = 0;
  bool wide = false;
  double number = 0;
  std::shared_ptr<const Value> value;  // that is no number
};

struct NodeState {
  // Of a value that comes later about the slot: its own call's, else its module's, else of all calls together.
  void AddOrigin(const Slot& slot, const Slot& whole, Origin origin) {
    origins[slot.number] = origin;
    Origin& all = origins[whole.number];
    all.flags |= origin.flags;
    all.wide |= origin.wide;
  }

  enum class Work : uint8_t {
    kNone = 1,   // not due, or its subscriber ended
    kWaits = 2,  // for the end of the step, or for what it takes
    kRuns = 3,   // somebody holds its results
    kDone = 4,
  };
  Work work = Work::kNone;
  bool partial = false;                          // a value is missing that a message would have given
  bool unasked = false;                          // a value is missing that nobody asked for when the step began
  std::vector<TopicValue> values;                // of outputs that are consumed
  std::unordered_map<uint32_t, Origin> origins;  // by slot number, where results come later
  std::weak_ptr<StepResults> results;            // Work::kRuns
};

struct Frame {
  // Of messages of pass 0, and of the passes that were named so far; no scene: nobody takes anything.
  Contents contents;
  uint16_t root = 0;
  uint16_t tag = 0;
  uint64_t step = 0;
  bool whole = false;  // its batch_started was seen
  uint64_t first_seq = 0;
  uint64_t last_seq = 0;
  uint64_t held_seq = 0;         // the first of it and of the passes that it is made of
  uint64_t records = 0;          // its own and theirs
  uint64_t touched_ns = 0;       // of the last look at time before its last message
  uint32_t passed_by = 0;        // steps of its root that began and ended since its last message
  uint64_t dropped_before = 0;   // messages that the producer had dropped when it began
  uint64_t lost_since = 0;       // the same, or when the first of its passes did
  uint32_t passes = 0;           // named so far
  bool lacks_passes = false;     // one of them did not come whole
  std::vector<NodeState> nodes;  // by index in the scene

  // Since it closed.
  uint64_t id = 0;
  bool again = false;          // a step of this number was closed before
  bool reread = false;         // ... by an earlier daemon, which may have read these very records
  bool complete = false;       // it lacks nothing
  uint64_t dropped_kinds = 0;  // of which it lacks messages
  StepStamp stamp;

  // A step of `scene` begins.
  void Open(std::shared_ptr<Plan> with, Scene* of, const shm::Record& started);
  // The step is made of this pass, too; null: it did not come whole.
  void AddPass(GraphContext& context, Pass* pass);
  // It has ended: what it is in time, and what it lacks.
  void Close(const shm::Record& finished, uint64_t with_id);
  Scene* scene() const { return contents.scene; }
  // Forgets the step; the memory stays. Instances go back to rest.
  void Clear(GraphContext& context);
};

}  // namespace ikkuna::graph
