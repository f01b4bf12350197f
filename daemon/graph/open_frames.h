// OpenFrames: the steps of a producer that have begun and not ended, and when one of them is given up, so that none
// holds anything back for ever.
//
// Owner: the graph, on its one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "daemon/graph/frame.h"
#include "daemon/graph/graph_context.h"
#include "shared/layout.h"

namespace ikkuna::graph {

class OpenFrames {
 public:
  // Two are open at once in an ordinary loop, one a thread where several train one model.
  static constexpr size_t kMaxOpenFrames = 64;  // of a root
  // A step that has not ended when others are so far ahead never will. Until then its thread may merely not have run:
  // in a time slice of the kernel the others make hundreds of small steps.
  static constexpr uint64_t kStepsBehindMax = 1000;
  // Of an evaluation since which something was lost, so many steps of training that came and went since anything came of
  // it: what was lost may be its end, or anything of theirs.
  static constexpr uint32_t kPassedByMax = 64;
  // An open step of which nothing came for so long has lost its end, or its root is gone.
  static constexpr uint64_t kSilentNs = 300'000'000'000;

  // `recycle` gets those that are given up, which are counted.
  OpenFrames(GraphContext& context, std::function<void(std::unique_ptr<Frame>)> recycle)
      : context_(context), recycle_(std::move(recycle)) {}

  // The one that the record belongs to; null: none.
  Frame* Find(const shm::Record& record) const;
  Frame& Append(std::unique_ptr<Frame> frame);
  // Of a step whose beginning we did not see: its messages are let through, and counted as one frame.
  Frame& OpenHeadless(const shm::Record& record);
  // Something came of it.
  void Touch(Frame& frame, uint64_t seq) const;
  // The step of this batch_finished, if it is whole; null, counted: its beginning was not seen.
  std::unique_ptr<Frame> Take(const shm::Record& finished);

  // The same step begins again while it is open: its end was lost.
  void Discard(const shm::Record& started);
  // A step has ended whose beginning was at `began`. Earlier ones of which nothing came since have lost their ends, if
  // the producer lost anything since they began. Those of other threads that train the same model go on. An evaluation,
  // which may stand beside training, has lost its own when kPassedByMax steps came and went since.
  void DiscardStragglers(const shm::Record& finished, uint64_t began);
  // Gives up those that are silent.
  void Tick(uint64_t monotonic_ns);
  void DropAll();

  // Highest seq that none of them waits for.
  uint64_t done_seq() const;
  // Records that they are made of so far.
  uint64_t held() const;

 private:
  size_t IndexOf(const shm::Record& record) const;  // frames_.size(): none
  void Drop(size_t i, bool count);

  GraphContext& context_;
  const std::function<void(std::unique_ptr<Frame>)> recycle_;
  std::vector<std::unique_ptr<Frame>> frames_;  // in order of their beginning
  uint64_t now_ns_ = 0;                         // of the last Tick; 0: none so far
};

}  // namespace ikkuna::graph
