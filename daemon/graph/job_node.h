// JobNode: one subscriber of scope `job` at work on one run: gathers the steps of all ranks, and calls it once for
// each.
//
// Shared by the members, the jobs of the pool and the results that are still held. Thread rule: public methods from any
// thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/graph/closed_steps.h"
#include "daemon/graph/job_graph.h"
#include "daemon/graph/job_steps.h"
#include "daemon/graph/subscriber_entry.h"
#include "daemon/graph/work_queue.h"
#include "daemon/model/series.h"
#include "metrics/subscriber.h"

namespace ikkuna::graph {

class JobNode : public std::enable_shared_from_this<JobNode> {
 public:
  // `share`: where it runs, if it is of the queue.
  JobNode(const JobParts& parts, std::shared_ptr<JobOutside> outside, std::shared_ptr<SubscriberEntry> entry,
          std::shared_ptr<Run> run, uint32_t world_size, WorkShare* share);

  JobSteps& steps() { return steps_; }
  const SubscriberEntry& entry() const { return *entry_; }
  // A step of it is lost, since something of ours failed.
  void CountFailed() { entry_->Count(MissReason::kFailed, 1); }
  // Nothing more is made of it.
  void Retire();
  bool retired() const { return retired_.load(std::memory_order_relaxed); }

 private:
  class StepOfJob;
  static constexpr size_t kMissingSetsMax = 16;  // that are told of in EventFilter::kEverySteps
  struct Slot {
    std::string module;
    std::string module_type;
    std::string param;
  };

  // False: there is nobody to do it for any more.
  template <typename Call>
  bool Outside(Call call);
  std::optional<uint64_t> LastRecorded(const Timeline& timeline) const;
  void Give(JobStep step) noexcept;
  void Take(JobStep step);
  void Run(std::shared_ptr<JobStep> step);
  metrics::Subject SubjectOf(const JobInput& input);
  EventFilter::Answer AskForEvent(const StepStamp& stamp, const Action* action);
  void Do(JobStep& step, const std::shared_ptr<StepOfJob>& results);
  void NameMissing(const JobStep& step, Batch& batch);

  const JobParts parts_;
  const std::shared_ptr<JobOutside> outside_;
  const std::shared_ptr<SubscriberEntry> entry_;
  const std::shared_ptr<ikkuna::Run> run_;
  std::shared_ptr<WorkSource> source_;
  std::shared_ptr<WorkLane> lane_;
  std::atomic<bool> retired_{false};
  std::mutex mutex_;
  // Guarded by mutex_.
  std::map<std::pair<std::string, std::string>, uint32_t> numbers_;
  std::vector<Slot> slots_;  // [i] has the number i + 1
  EventFilter filter_;
  // Used by one call after another: JobSteps gives one at a time, and so does a lane.
  std::unique_ptr<metrics::Subscriber> subscriber_;
  std::string missing_said_;
  std::map<std::string, uint64_t> missing_told_;  // the step at which a set of ranks was told
  JobSteps steps_;  // last: it calls the rest
};

}  // namespace ikkuna::graph
