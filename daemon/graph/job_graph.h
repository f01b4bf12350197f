// JobGraphs: the subscribers of scope `job`, behind the graphs of all ranks of a run on this host. Each graph brings
// what its rank has for a step; when all have (JobSteps), the subscriber runs once, and its results go to the run's
// timeline of all ranks (kAllRanks).
//
// Owner: the daemon, one for all graphs, which it outlives. Thread rule: every method from any thread; `emit` and
// `open` are called from any thread too. What a subscriber throws switches it off, and harms no rank.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>

#include "daemon/graph/job_steps.h"
#include "daemon/graph/subscriber_entry.h"
#include "daemon/graph/work_queue.h"
#include "daemon/model/batch.h"

namespace ikkuna::graph {

class SubscriberSet;
class JobNode;

struct JobParts {
  SubscriberSet* subscribers = nullptr;
  MemoryBudget* memory = nullptr;
  WorkQueue* queue = nullptr;
  // The run of all ranks of the job that this producer belongs to; null: it cannot be recorded.
  std::function<std::shared_ptr<Run>(const ProducerInfo& producer)> open;
  std::function<void(Batch)> emit;
  uint64_t deadline_ns = JobSteps::kDefaultDeadlineNs;
};

// One rank's part in the job; the rank leaves when it ends. One thread at a time.
class JobMember {
 public:
  ~JobMember();
  // What the rank has of a step for one subscriber; without inputs: nothing, but it closed the step. False: it is not
  // waited for (see JobSteps::Taken), or nobody records it; the hold is gone.
  bool Contribute(const std::shared_ptr<SubscriberEntry>& entry, const Timeline& timeline, uint64_t step,
                  JobContribution contribution);

 private:
  friend class JobGraphs;
  JobMember(class JobGraphs& owner, ProducerInfo producer) : owner_(owner), producer_(std::move(producer)) {}
  class JobGraphs& owner_;
  const ProducerInfo producer_;
  std::map<uint64_t, std::pair<std::shared_ptr<JobNode>, uint64_t>> joined_;  // by entry: node and member
};

class JobGraphs {
 public:
  explicit JobGraphs(JobParts parts);
  ~JobGraphs();
  JobGraphs(const JobGraphs&) = delete;
  JobGraphs& operator=(const JobGraphs&) = delete;

  std::unique_ptr<JobMember> Join(const ProducerInfo& producer);
  // A look at the deadlines; about every 50 ms. Lets go of subscribers that ended.
  void Tick(uint64_t now_ns);

 private:
  friend class JobMember;
  std::shared_ptr<JobNode> NodeOf(const std::shared_ptr<SubscriberEntry>& entry, const ProducerInfo& producer);

  const JobParts parts_;
  std::shared_ptr<WorkShare> share_;
  std::mutex mutex_;
  // Guarded by mutex_. By run, attempt and entry.
  std::map<std::tuple<std::string, uint32_t, uint64_t>, std::shared_ptr<JobNode>> nodes_;
};

}  // namespace ikkuna::graph
