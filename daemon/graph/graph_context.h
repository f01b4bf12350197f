// GraphContext: what the parts of one graph share: the run, the names, what outlives plans, and what came to nothing.
//
// Owner: the graph, on its one thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "daemon/graph/graph.h"
#include "daemon/graph/job_graph.h"
#include "daemon/graph/plan.h"
#include "daemon/graph/registry_index.h"
#include "daemon/graph/step_results.h"
#include "daemon/model/missing.h"

namespace ikkuna::graph {

struct GraphContext {
  // Constant after construction.
  std::shared_ptr<Run> run;
  GraphParts parts;
  std::shared_ptr<WorkShare> share;
  std::unique_ptr<JobMember> job;  // null: no subscriber of scope job runs
  std::shared_ptr<Mailbox> mailbox;

  RegistryIndex registry;
  PlanMemory memory;
  MissCounts missing{};
  std::vector<Event> events;  // of the graph itself; they leave with the next batch

  void Count(MissReason reason, uint64_t count, SubscriberEntry* entry = nullptr) {
    missing[static_cast<size_t>(reason)] += count;
    if (entry != nullptr) entry->Count(reason, count);
  }
  // A subscriber threw: no graph runs it any more.
  void Fail(SubscriberEntry& entry, const std::string& what, uint64_t step);
  // `text`: without the root's name.
  void Say(Severity severity, const std::string& kind, std::string text, uint64_t step);
};

// Calls `act`; what it throws is the subscriber's failure. False: it threw.
template <typename Act>
bool Guarded(GraphContext& context, SubscriberEntry& entry, uint64_t step, Act act) {
  try {
    act();
    return true;
  } catch (const std::exception& error) {
    context.Fail(entry, error.what(), step);
  } catch (...) {
    context.Fail(entry, "something that is no std::exception", step);
  }
  return false;
}

}  // namespace ikkuna::graph
