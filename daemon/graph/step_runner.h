// StepRunner: a whole step goes through its subscribers, in topological order, and leaves as one Batch.
//
// Owner: the Graph, on one thread. Nothing is published of a step in which messages were dropped where one of a kind
// that was dropped could belong to it: series that have several messages a step, and what runs over the whole step.
#pragma once

#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "daemon/graph/frame.h"
#include "daemon/graph/graph.h"
#include "daemon/sample.h"
#include "daemon/series_catalogue.h"

namespace ikkuna::graph {

class StepRunner {
 public:
  // An event of one rule comes at most once in so many steps of a root: a network full of NaN stays so.
  static constexpr uint64_t kEventEverySteps = 100;

  StepRunner(const ProducerInfo& producer, SeriesCatalogue& catalogue)
      : run_(producer.run_key), catalogue_(catalogue) {}

  // `finished` is the step's batch_finished; `frame` has a scene.
  Batch Run(Frame& frame, const shm::Record& finished, GraphCounters& counters);

 private:
  class NodePublisher;

  // A series of one input of a bundle.
  struct Part {
    uint32_t module = 0;
    uint32_t param = 0;
    uint32_t input = 0;
    const Slot* slot = nullptr;  // null: of the whole step
    TensorStats stats;
    Origin origin;
    bool withheld = false;
  };

  void RunNode();
  void RunSeries();
  void RunBundles();
  void RunModule(size_t begin, size_t end);
  bool RunBundle(size_t begin, size_t end, uint32_t param, const std::vector<bool>& for_all);
  void RunInstances();
  void FeedTopics();
  void CollectParts(uint32_t input);
  bool MayMiss(Kind kind) const { return (dropped_kinds_ & KindBit(kind)) != 0 && IsPerCallKind(kind); }
  uint64_t KindsRead(const SceneNode& node) const;
  bool WithholdsInstance(const Instance& instance) const;
  void CountWithheld(uint64_t count);
  void CountIncomplete(uint64_t count);

  const RunKey run_;
  SeriesCatalogue& catalogue_;
  std::map<std::tuple<uint64_t, uint16_t, uint16_t>, uint64_t> event_steps_;  // by subscriber, root and tag

  // The step under way.
  Frame* frame_ = nullptr;
  GraphCounters* counters_ = nullptr;
  Batch batch_;
  metrics::StepInfo step_;
  uint64_t dropped_kinds_ = 0;        // of which a message of the step may be missing
  std::vector<uint64_t> kinds_read_;  // by node, through topics as well; of a step with drops
  uint16_t step_flags_ = 0;
  uint64_t samples_seen_ = 0;
  uint64_t unix_offset_ = 0;
  // The node under way.
  uint32_t index_ = 0;
  SceneNode* node_ = nullptr;
  NodeState* state_ = nullptr;

  // Kept for the next step's sake.
  std::vector<Part> parts_;
  std::vector<metrics::Input> inputs_;
  size_t samples_before_ = 0;
};

}  // namespace ikkuna::graph
