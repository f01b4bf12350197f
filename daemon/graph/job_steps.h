// JobSteps: what the ranks of one run bring for one subscriber of scope job, gathered by timeline and step. A step is
// given out, in ascending order of a timeline, when every rank that is waited for has closed it.
//
// A rank is waited for
//   - from its Join to its Leave, but in a timeline in which it let a deadline pass only when it was heard there again;
//   - before its first Join, if its number is below world_size, until `deadline` after the run's first Join: ranks of
//     other hosts never come.
// When nobody is there, nobody is waited for.
//
// A step that waited for `deadline` since its first contribution is given out without those that are still missing, and
// with it all before it. Whoever is missing, waited for or not, is named with the reason. A step for which nobody
// brought anything is none.
//
// A rank's steps of a timeline ascend: its watermark is the last that it closed, with inputs (Contribute) or without
// (Pass). A step that an earlier daemon recorded is not made again, whatever ranks bring of it once more. Bounded: bytes
// by a MemoryBudget, steps by kMaxWaiting; what finds no room is counted.
//
// Owner: the JobNode. Thread rule: every method from any thread. `give` is called without a lock, one call after
// another, on the thread of whichever method let the step go; it may not wait, and may call any method here.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "daemon/graph/memory_budget.h"
#include "daemon/model/batch.h"
#include "daemon/model/series.h"
#include "metrics/value.h"
#include "shared/codes.h"
#include "shared/stats/tensor_stats.h"

namespace ikkuna::graph {

// One input of a rank at a step; owns what it refers to.
struct JobInput {
  size_t index = 0;            // which of the subscriber's inputs
  Kind kind = Kind::kInvalid;  // kInvalid: a topic
  std::string module;          // dotted path; empty: the step as a whole
  std::string module_type;
  std::string param;
  uint16_t flags = 0;  // RecordFlag
  std::variant<TensorStats, Value> content;
};

// What one rank brings of a step.
struct JobContribution {
  uint32_t epoch = 0;
  int64_t unix_ns = 0;
  uint64_t samples_seen = 0;
  uint16_t flags = 0;  // RecordFlag, of the step
  std::vector<JobInput> inputs;
  std::shared_ptr<void> hold = {};        // let go when all that is made of the step is out
  MemoryBudget::Reservation memory = {};  // set by JobSteps
};

enum class MissingRank : uint8_t {
  kNotSeen = 1,   // it never came to this daemon: not watched, not yet there, or on another host
  kLeft = 2,      // its process ended, or is not connected
  kLate = 3,      // it did not close the step in time
  kNothing = 4,   // it closed the step without inputs: not due there, or withheld
  kNoMemory = 5,  // there was no room for what it brought
};
std::string_view MissingRankName(MissingRank reason);  // "not_seen", "left", ...
constexpr size_t kMissingRankCount = 5;

struct RankRange {
  uint32_t first = 0;
  uint32_t last = 0;
  bool operator==(const RankRange&) const = default;
};

struct JobStep {
  Timeline timeline;
  uint64_t step = 0;
  std::map<uint32_t, JobContribution> ranks;               // at least one
  std::map<uint32_t, MissingRank> missing;                 // of ranks that were ever seen
  std::shared_ptr<const std::vector<RankRange>> not_seen;  // of world_size, ascending; never null
  bool complete() const { return missing.empty() && not_seen->empty(); }
};

class JobSteps {
 public:
  static constexpr uint64_t kDefaultDeadlineNs = 10'000'000'000;
  // Steps that wait, of all timelines: some seconds of small steps; then the oldest go early.
  static constexpr size_t kMaxWaiting = 1024;

  enum class Taken : uint8_t { kTaken = 1, kLate = 2, kRepeated = 3, kMemoryFull = 4, kNotJoined = 5, kRecorded = 6 };

  // The last step of a timeline that an earlier daemon recorded, and with it all before; none: it did not.
  using LastRecorded = std::function<std::optional<uint64_t>(const Timeline& timeline)>;

  JobSteps(uint32_t world_size, uint64_t deadline_ns, MemoryBudget& budget, std::function<void(JobStep)> give,
           LastRecorded last_recorded = nullptr);

  // A rank is there; what it is afterwards called by. A rank that comes again takes its place over: what its former
  // self says is still heard, but its Leave is not.
  uint64_t Join(uint32_t rank, uint64_t now_ns);
  void Leave(uint64_t member);
  // What is not taken is destroyed, its hold with it; the rank's watermark moves all the same.
  Taken Contribute(uint64_t member, const Timeline& timeline, uint64_t step, JobContribution contribution,
                   uint64_t now_ns);
  // The rank closed all steps up to this one, and has nothing (more) for them.
  void Pass(uint64_t member, const Timeline& timeline, uint64_t step);
  // A look at the deadlines; about every 50 ms.
  void Tick(uint64_t now_ns);
  // Gives out all that waits, as it is.
  void Flush();

 private:
  struct Rank {
    uint64_t member = 0;  // the one that holds the place; 0: it left
  };
  // Of one rank in one timeline.
  struct Mark {
    bool any = false;
    uint64_t step = 0;    // closed up to here, where `any`
    bool silent = false;  // let a deadline pass since it was last heard
  };
  struct Waiting {
    std::map<uint32_t, JobContribution> ranks;
    std::vector<uint32_t> no_memory;  // ranks
    uint64_t first_ns = 0;            // when its first contribution came
    uint64_t number = 0;              // of steps, in the order of that
  };
  struct Line {
    std::map<uint64_t, Waiting> waiting;  // by step
    bool any_given = false;
    uint64_t given = 0;  // up to here, where any_given
    std::optional<uint64_t> recorded;
    std::map<uint32_t, Mark> marks;
  };

  // All with the mutex held, but Deliver, which comes with it and leaves without.
  uint32_t* RankOf(uint64_t member);
  Line& LineOf(const Timeline& timeline);
  void Hear(Line& line, uint32_t rank, uint64_t step);
  void FindNotSeen();
  void GiveReady(const Timeline& timeline, Line& line);
  void GiveReadyOfAll();
  void GiveUpTo(const Timeline& timeline, Line& line, uint64_t step);
  void Give(const Timeline& timeline, const Line& line, uint64_t step, Waiting waiting);
  MissingRank WhyMissing(const Line& line, uint32_t rank, uint64_t step, const Waiting& waiting) const;
  void MakeRoom();
  void Deliver(std::unique_lock<std::mutex> lock);

  // Constant after construction.
  const uint32_t world_size_;
  const uint64_t deadline_ns_;
  MemoryBudget& budget_;
  const std::function<void(JobStep)> give_;
  const LastRecorded last_recorded_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::map<uint32_t, Rank> ranks_;            // that were ever seen
  std::map<uint64_t, uint32_t> member_rank_;  // of all that joined
  uint64_t next_member_ = 1;
  uint64_t first_join_ns_ = 0;
  std::shared_ptr<const std::vector<RankRange>> not_seen_;
  bool not_seen_over_ = false;  // they are waited for no more
  std::map<Timeline, Line> lines_;
  uint64_t next_number_ = 0;
  size_t waiting_ = 0;
  std::deque<JobStep> outbox_;
  bool delivering_ = false;
};

}  // namespace ikkuna::graph
