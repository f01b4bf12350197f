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
  std::shared_ptr<const RecordedSteps> recorded;  // by daemons, and sessions, before; never null
  GraphParts parts;
  std::shared_ptr<WorkShare> share;
  std::unique_ptr<JobMember> job;  // null: no subscriber of scope job runs
  std::shared_ptr<Mailbox> mailbox;

  RegistryIndex registry;
  PlanMemory memory;
  MissCounts missing{};
  bool counts = true;         // what is being done; else an earlier daemon did it, and counted: see Counting
  std::vector<Event> events;  // of the graph itself; they leave with the next batch

  // For the producer, whose counts go on from one daemon to the next, and for the subscriber of this one.
  void Count(MissReason reason, uint64_t count, SubscriberEntry* entry = nullptr) {
    if (counts) missing[static_cast<size_t>(reason)] += count;
    if (entry != nullptr) entry->Count(reason, count);
  }
  // A subscriber threw: no graph runs it any more.
  void Fail(SubscriberEntry& entry, const std::string& what, uint64_t step);
  // `text`: without the root's name.
  void Say(Severity severity, const std::string& kind, std::string text, uint64_t step);
};

// While it lives, what is counted came of the record `seq`, or of a step that ended with it.
class Counting {
 public:
  Counting(GraphContext& context, uint64_t seq) : context_(context), before_(context.counts) {
    context_.counts = seq > context_.run->counted_until();
  }
  ~Counting() { context_.counts = before_; }
  Counting(const Counting&) = delete;
  Counting& operator=(const Counting&) = delete;

 private:
  GraphContext& context_;
  const bool before_;
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
