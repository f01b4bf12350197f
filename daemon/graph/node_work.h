// NodeWork: what one subscriber is to be called with when a step is whole.
//
// Owner: the runner, then the jobs of the pool that do it. Thread rule: one thread at a time for each call.
#pragma once

#include <cstdint>
#include <vector>

#include "daemon/graph/frame.h"

namespace ikkuna::graph {

// One call of OnStep (and OnMessage before it): inputs [begin, end).
struct WorkCall {
  uint32_t begin = 0;
  uint32_t end = 0;
  const Slot* about = nullptr;  // whose instance it is
  uint16_t flags = 0;           // of all its inputs
  bool wide = false;
};

// Kinds of which one series can have several messages a step: of what came of it more may be missing. Trainers log a
// number as often as they like, and the last one counts.
constexpr bool MayComeAgain(Kind kind) { return IsPerCallKind(kind) || kind == Kind::kScalar; }

// True: of a series of this kind something may be missing in the step, which has closed.
inline bool MayMiss(const Frame& frame, const NodeFeed& feed, Kind kind) {
  return MayComeAgain(kind) && ((frame.dropped_kinds | feed.lacks) & KindBit(kind)) != 0;
}

struct NodeWork {
  std::vector<KeptInput> inputs;
  std::vector<WorkCall> calls;
  uint64_t withheld = 0;    // calls that would have been
  uint64_t incomplete = 0;  // bundles of which a part never came
};

// Takes what the frame has for the node: kept inputs (they move), merged ones, and values of topics. What misses
// something that was dropped is left out and counted.
class WorkBuilder {
 public:
  void Build(Frame& frame, uint32_t node, const RegistryIndex& registry, NodeWork& work);

 private:
  void Collect();
  void SortByPass();
  void CollectMerged(uint32_t input);
  void CollectTopic(uint32_t input);
  void Series();
  void Modules();
  void Pairs();
  void PairsOfModule(size_t begin, size_t end);
  bool JoinsParameters(size_t begin, size_t end, const std::vector<bool>& for_all) const;
  bool Pair(size_t begin, size_t end, uint32_t param, const std::vector<bool>& for_all);
  void Whole();
  void AddCall(size_t begin, const Slot* about);

  // The node under way.
  Frame* frame_ = nullptr;
  uint32_t index_ = 0;
  SceneNode* node_ = nullptr;
  NodeState* state_ = nullptr;
  NodeFeed* feed_ = nullptr;
  const RegistryIndex* registry_ = nullptr;
  NodeWork* work_ = nullptr;
  std::vector<KeptInput> parts_;
};

// True: of this step something is missing that a message would have given the node. `frame` has closed.
bool LacksMessages(const Frame& frame, uint32_t node);

}  // namespace ikkuna::graph
