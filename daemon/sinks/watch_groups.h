// WatchGroups: the hub's batches of the last while, and who watches what of them.
//
// Owner: WatchHub and its watchers together. Thread rule: Accept and End on the hub's thread, all else from any thread;
// one mutex, which is held for one batch or one Take.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "daemon/model/filter.h"
#include "daemon/model/sink.h"
#include "daemon/model/watch.h"
#include "daemon/sinks/watch_group.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

class WatchGroups {
 public:
  WatchGroups(size_t past_bytes_max, size_t waiting_bytes_max)
      : past_bytes_max_(past_bytes_max), waiting_bytes_max_(waiting_bytes_max) {}

  // `values_lost`, `events_lost`: of batches before this one that never came here, since the last call.
  void Accept(const std::shared_ptr<const Batch>& batch, uint64_t position, uint64_t values_lost, uint64_t events_lost);
  // Nothing comes any more.
  void End(uint64_t values_lost, uint64_t events_lost);

  // What comes behind `position`. `must_have`: all of it, else kFailedPrecondition where some of it is gone.
  Result<std::shared_ptr<WatchMember>> Join(const SeriesFilter& filter, uint64_t position, bool must_have);
  void SetWakeUp(WatchMember& member, std::function<void()> wake_up);
  void Leave(WatchMember& member);
  WatchTaken Take(WatchMember& member, size_t values_max);

  size_t members() const;
  void AddCounts(SinkCounters& counters) const;

 private:
  struct Past {
    std::shared_ptr<const Batch> batch;
    uint64_t position;
    size_t bytes;
  };

  WatchSource SourceLocked(const Batch& batch);
  // Whoever is to be woken for it is added to `to_wake`.
  void AppendLocked(WatchGroup& group, const std::shared_ptr<const Batch>& batch, uint64_t position,
                    const WatchSource& source, std::vector<std::shared_ptr<WatchMember>>& to_wake);
  void WakeAll(const std::vector<std::shared_ptr<WatchMember>>& members);
  void EvictLocked();
  // Which of them would have passed nobody knows: they count for all.
  void LoseLocked(uint64_t values_lost, uint64_t events_lost);
  void ForgetRunsLocked();
  // Of what came before it joined, one batch; false: there is no more of that.
  bool TakePastLocked(WatchMember& member, WatchTaken& taken);

  // Constant after construction.
  const size_t past_bytes_max_;
  const size_t waiting_bytes_max_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::deque<Past> past_;
  size_t past_bytes_ = 0;
  uint64_t accepted_ = 0;  // position of the newest
  uint64_t evicted_ = 0;   // position of the last that left the ring, or never came
  std::list<WatchGroup> groups_;
  size_t members_ = 0;
  std::unordered_map<const Run*, WatchRun> runs_;
  uint64_t run_numbers_ = 0;
  size_t runs_looked_at_ = 0;  // when they were last looked through for runs that are gone
  bool ended_ = false;
  WatchCounts departed_;  // sums of the members that left
};

}  // namespace ikkuna::sinks
