// The calls of one subscriber for one step, on whatever thread: inline, or jobs of the pool.
//
// Thread rule: one thread at a time for each call; see Instances for what the calls share.
#pragma once

#include <memory>
#include <vector>

#include "daemon/graph/node_work.h"
#include "daemon/graph/scene_memory.h"
#include "daemon/graph/step_results.h"

namespace ikkuna::graph {

// OnMessage for each input where they are delivered so, then OnStep. Payloads that were read are let go.
void DoCall(const metrics::Definition& definition, metrics::Subscriber& subscriber, std::span<KeptInput> inputs,
            const WorkCall& call, const metrics::StepInfo& step, const metrics::ResultsRef& results, InputList& list);

// The work of one queue subscriber for one step; holds what it refers to.
struct QueuedWork {
  std::shared_ptr<SubscriberEntry> entry;
  std::shared_ptr<SceneMemory> memory;
  std::shared_ptr<Instances> instances;
  std::shared_ptr<StepResults> results;
  NodeWork work;
  std::vector<std::shared_ptr<metrics::Subscriber>> of_run;  // by call; Keeps::kRun
  metrics::StepInfo step;                                    // its texts are the memory's
  MemoryBudget::Reservation room;                            // of what is no payload
};

// Pushes the jobs; consumes `work`.
void PushWork(std::shared_ptr<QueuedWork> work);

}  // namespace ikkuna::graph
