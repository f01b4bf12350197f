// JobGraphs: the subscribers of scope `job`, behind the graphs of all ranks of a run on this host. Each graph brings
// what its rank has for a step; when all have (JobSteps), the subscriber runs once, and its results go to the run's
// timeline of all ranks (kAllRanks).
//
// Owner: the daemon, one for all graphs, which it outlives. Thread rule: every method from any thread; `emit`, `act`
// and `open` are called from any thread too, and never after its end: what comes then is cancelled. What a subscriber
// throws switches it off, and harms no rank.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <tuple>

#include "daemon/graph/job_steps.h"
#include "daemon/graph/subscriber_entry.h"
#include "daemon/graph/work_queue.h"
#include "daemon/model/batch.h"
#include "metrics/event.h"

namespace ikkuna::graph {

class SubscriberSet;
class JobNode;

struct JobParts {
  SubscriberSet* subscribers = nullptr;
  MemoryBudget* memory = nullptr;
  WorkQueue* queue = nullptr;
  // The run of all ranks of a job, as RunStore::Begin has it: `all` is AllRanksOf a rank. Null: it cannot be recorded,
  // and is asked for again after kRetryNs.
  std::function<std::shared_ptr<Run>(const ProducerInfo& all)> open;
  // No rank of it is there any more, and all its results are out. It may be opened again.
  std::function<void(const Run& run)> close = nullptr;
  std::function<void(Batch)> emit;
  // As GraphParts has it; `run` is that of all ranks.
  std::function<void(const Run& run, const Event& event, const Action& action)> act = nullptr;
  uint64_t deadline_ns = JobSteps::kDefaultDeadlineNs;
};

// Whether what JobParts names is there still: results may be held by threads that outlive JobGraphs.
struct JobOutside {
  std::shared_mutex mutex;
  bool gone = false;  // guarded by mutex
};

// Who the run of all ranks is: the same for every rank, and after a restart of the daemon.
ProducerInfo AllRanksOf(const ProducerInfo& rank);

// One rank's part in the job; the rank leaves when it ends. One thread at a time.
class JobMember {
 public:
  ~JobMember();
  // What the rank has of a step for one subscriber; without inputs: nothing, but it closed the step. What is not taken
  // is gone, its hold with it; kNotJoined: the subscriber ended, or the run cannot be recorded.
  JobSteps::Taken Contribute(const std::shared_ptr<SubscriberEntry>& entry, const Timeline& timeline, uint64_t step,
                             JobContribution contribution);

 private:
  friend class JobGraphs;
  JobMember(class JobGraphs& owner, std::shared_ptr<const Run> run);
  class JobGraphs& owner_;
  const std::shared_ptr<const Run> run_;  // where it begins may be known later than its session begins
  std::map<uint64_t, std::pair<std::shared_ptr<JobNode>, uint64_t>> joined_;  // by entry: node and member
};

class JobGraphs {
 public:
  explicit JobGraphs(JobParts parts);
  ~JobGraphs();
  JobGraphs(const JobGraphs&) = delete;
  JobGraphs& operator=(const JobGraphs&) = delete;

  std::unique_ptr<JobMember> Join(std::shared_ptr<const Run> run);  // of the rank
  static constexpr uint64_t kRetryNs = 10'000'000'000;
  // A look at the deadlines; about every 50 ms, also where no rank is left. Lets go of subscribers that ended, and
  // closes runs.
  void Tick(uint64_t now_ns);

 private:
  friend class JobMember;
  // One life of a run on all its ranks.
  struct Job {
    std::shared_ptr<Run> run;  // null: not opened yet
    uint64_t retry_ns = 0;     // when to try again, after it could not be opened
    uint64_t members = 0;
    std::map<uint64_t, std::shared_ptr<JobNode>> nodes;  // by entry
  };
  using JobId = std::pair<std::string, uint32_t>;  // run_id and attempt

  void Come(const RunKey& rank);
  void Go(const RunKey& rank);
  std::shared_ptr<JobNode> NodeOf(const std::shared_ptr<SubscriberEntry>& entry, const ProducerInfo& producer);
  void Sweep(uint64_t now_ns, bool tick);

  const JobParts parts_;
  const std::shared_ptr<JobOutside> outside_ = std::make_shared<JobOutside>();
  std::shared_ptr<WorkShare> share_;
  std::mutex mutex_;
  // Guarded by mutex_; held while a run is opened and closed, so that the two come in order.
  std::map<JobId, Job> jobs_;
};

}  // namespace ikkuna::graph
