// StepRunner: a whole step goes through its subscribers, in topological order. What is there at once goes into a batch;
// what a queue gives later comes back as letters (LateResults), and whoever takes that runs then.
//
// Owner: the graph, on its one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/graph/closed_steps.h"
#include "daemon/graph/frame.h"
#include "daemon/graph/graph_context.h"
#include "daemon/graph/intake.h"
#include "daemon/graph/node_work.h"
#include "daemon/graph/step_results.h"

namespace ikkuna::graph {

class StepRunner final : private ResultsTaker {
 public:
  StepRunner(GraphContext& context, Intake& intake) : context_(context), intake_(intake) {}

  // Runs the nodes of a closed frame that can run now, into `batch`. `blocked`: nodes (by index) that an earlier step
  // of the scene still waits for, which come first; it gets those added that wait here.
  void Advance(Frame& frame, std::vector<bool>& blocked, Batch& batch);
  // What one node of it gave later; the node is done.
  void TakeLate(Frame& frame, LateResults late, Batch& batch);
  // Nobody waits for the frame any more: what still runs for it is cancelled and counted.
  void GiveUp(Frame& frame);
  // A node of it runs, of whose work nobody but this run waits.
  static bool Computes(const Frame& frame);
  // Values that a step brought again since the last call.
  uint64_t TakeRepeated() { return std::exchange(repeated_, 0); }

 private:
  bool IsReady(const Frame& frame, uint32_t index) const;
  void RunNode();
  void RunSeries();
  void RunFed();
  void RunCalls(NodeWork& work);
  void RunQueued(NodeWork work);
  void RunJob(NodeWork& work);
  bool FeedTopics();
  bool IsWithheld(const FedInstance& instance) const;
  bool HasGap(const FedInstance& instance) const;
  metrics::ResultsRef OpenResults();
  void Settle(metrics::ResultsRef ref);
  void Enter(Frame& frame, uint32_t index, Batch& batch);
  void Apply(LateResults late);
  Origin OriginOf(const Slot& slot);
  void Count(MissReason reason, uint64_t count);
  metrics::StepInfo InfoOf(const Frame& frame) const;

  // ResultsTaker: of the node under way.
  void TakeValue(uint32_t output, metrics::Subject subject, Value value) override;
  void TakeEvent(Severity severity, std::string text, std::optional<Action> action) override;
  void TakeMissing(MissReason reason, uint64_t count) override { Count(reason, count); }
  uint32_t SeriesOf(const Slot& slot, uint32_t output, bool wide);
  void TellStateLost();
  bool IsRecorded(const SeriesRef& ref) const;
  bool PutNumber(SeriesRef& ref, const Slot& slot, uint32_t output, double number, Origin origin);
  bool Replace(uint32_t series, const Slot& slot, uint32_t output, double number);
  void KeepForTakers(const Slot& slot, uint32_t output, const Value& value, Origin origin);

  GraphContext& context_;
  Intake& intake_;
  WorkBuilder builder_;
  EventFilter filter_;
  InputList list_;
  uint64_t repeated_ = 0;
  size_t samples_before_ = 0;

  // The node under way.
  Frame* frame_ = nullptr;
  uint32_t index_ = 0;
  SceneNode* node_ = nullptr;
  NodeState* state_ = nullptr;
  NodeFeed* feed_ = nullptr;
  Batch* batch_ = nullptr;
  const Slot* about_ = nullptr;  // of the call under way
  Origin origin_;
  uint64_t given_ = 0;  // values and events
};

}  // namespace ikkuna::graph
