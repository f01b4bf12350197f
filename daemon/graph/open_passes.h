// OpenPasses: the passes of a producer that have begun and were named by no step so far, and when one of them is given
// up, so that none takes memory or holds anything back for ever.
//
// Owner: the graph, on its one thread.
//
//            pass_started                    named by a step
//   (none) ---------------> waits, gathers ------------------> taken: its contents merge into the step's
//                                |
//                                | before the lowest that is open | too many wait | too large | far behind the steps
//                                | of its root | its root is silent | the end
//                                v
//                            discarded: its messages are counted (MissReason::kNoStep)
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "daemon/graph/contents.h"
#include "daemon/graph/graph_context.h"
#include "shared/layout.h"

namespace ikkuna::graph {

struct Pass {
  uint16_t root = 0;
  uint16_t tag = 0;
  uint32_t number = 0;
  uint64_t first_seq = 0;
  uint64_t messages = 0;  // beside the one that it began with
  uint64_t dropped_before = 0;  // messages that the producer had dropped when it began
  uint64_t bytes = 0;           // of its contents, as last added up
  uint64_t steps_before = 0;    // of its root, that had closed when it began
  Contents contents;
};

class OpenPasses {
 public:
  // What those of a producer may take that wait for their names, but for copies of payloads, which have a budget of
  // their own: an evaluation of ten thousand batches of little. A step of more names its passes as they end. A single
  // pass may take more: that of the largest model.
  static constexpr uint64_t kMaxBytes = 128ull << 20;
  static constexpr size_t kMaxWaiting = 65'536;
  // As OpenFrames::kStepsBehindMax: a trainer may keep a pass that it will never use.
  static constexpr uint64_t kStepsBehindMax = 1000;
  // As OpenFrames::kSilentNs, of a root.
  static constexpr uint64_t kSilentNs = 300'000'000'000;

  explicit OpenPasses(GraphContext& context) : context_(context) {}

  // A pass begins, with `scene` of `plan`. The same number again: the one before belongs to nobody any more.
  void Begin(const shm::Record& started, std::shared_ptr<Plan> plan, Scene* scene);
  // The one that the record belongs to; null, counted: its beginning was not seen, or it is over.
  Pass* Find(const shm::Record& record);
  // A message came of it.
  void Touch(Pass& pass);
  // The pass of this number, for the step of `record`; null: it did not begin, as far as is known, or is over.
  std::unique_ptr<Pass> Take(const shm::Record& record, uint32_t number);
  // Merged, or of a step that came to nothing: the memory is used again.
  void Recycle(std::unique_ptr<Pass> pass);
  // No pass of the root before `lowest` will be named any more. 0: not told.
  void DiscardBefore(uint16_t root, uint32_t lowest);
  // A training step of the root has closed. Gives up its training passes that began long before.
  void StepClosed(uint16_t root);
  // Gives up those of silent roots.
  void Tick(uint64_t monotonic_ns);
  void DiscardAll();
  // Contents of other plans than this one are not kept for reuse.
  void SetPlan(const std::shared_ptr<Plan>& plan);

  // Highest seq that none of them waits for.
  uint64_t done_seq() const;
  // Records that they are made of so far.
  uint64_t held() const { return held_; }

 private:
  struct Root {
    size_t waiting = 0;
    uint64_t steps = 0;     // that closed
    uint32_t lowest = 0;  // open, as last told: looked for once; 0: never told
    uint64_t touched_ns = 0;
  };
  static uint64_t KeyOf(uint16_t root, uint16_t tag, uint32_t number) {
    return (uint64_t{root} << 48) | (uint64_t{tag} << 32) | number;
  }
  Root& RootOf(uint16_t root) { return roots_[root < roots_.size() ? root : 0]; }
  void Weigh(Pass& pass);
  void Discard(uint64_t key);
  void DiscardOldest(const Pass& except);
  template <typename Which>
  void DiscardIf(Which which);
  std::unique_ptr<Pass> Remove(uint64_t key);

  GraphContext& context_;
  std::unordered_map<uint64_t, std::unique_ptr<Pass>> passes_;
  std::map<uint64_t, Pass*> by_age_;  // by first_seq
  std::array<Root, kMaxRoots + 1> roots_{};
  Pass* last_ = nullptr;  // that was asked for
  uint64_t bytes_ = 0;
  uint64_t held_ = 0;
  bool overflowed_ = false;  // which was said
  uint64_t now_ns_ = 0;
  std::vector<std::unique_ptr<Pass>> idle_;
  std::shared_ptr<Plan> plan_;
};

}  // namespace ikkuna::graph
