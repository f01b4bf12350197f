// The graph: the subscribers of one producer and the messages on their way through them.
//
// One a producer, on its ingest thread; messages come in order, state is the producer's own. Everything of one step is
// gathered in a frame (root, tag, step), everything of a pass by itself until a step names it, which then takes it over.
// Statistics of the calls and passes of a series merge as if the tensors were concatenated; whole tensors are handed to
// the subscribers that read them at once, and copied for those that read them later. When the step closes the
// subscribers run in topological order. What is there then leaves as one Batch; what a queue or a device gives later
// leaves in batches of its own, with the same stamp, from the ingest thread as well (any call but Demand, done_seq,
// held, Missing, steps_observed).
//
// A frame is published only when it is whole: its batch_started was seen, and only what needs no kind that was dropped
// meanwhile. What cannot be published is counted (daemon/model/missing.h).
#pragma once

#include <functional>
#include <memory>

#include "daemon/model/message_graph.h"
#include "metrics/event.h"

namespace ikkuna::graph {

class JobGraphs;      // job_graph.h: subscribers over all ranks of a run
class MemoryBudget;   // memory_budget.h
class SubscriberSet;  // subscriber_set.h
class WorkQueue;      // work_queue.h

// What all graphs of a daemon share; each outlives them.
struct GraphParts {
  SubscriberSet* subscribers = nullptr;
  WorkQueue* queue = nullptr;
  MemoryBudget* memory = nullptr;
  JobGraphs* jobs = nullptr;  // null: none runs
  // An event that asks for something (Results::Raise), on the ingest thread; null: nobody acts, the event says so.
  std::function<void(const Run& run, const Event& event, const Action& action)> act = nullptr;
  // What a step, or a pass of one, may take that does not end; no model brings so much.
  uint64_t step_bytes_max = 1ull << 30;
};

MakeMessageGraph MakeGraph(GraphParts parts);

}  // namespace ikkuna::graph
