// Demand as the probe holds it: a copy of what the daemon asked, and what of it is due at one step.
//
// A DemandTable is immutable and shared; a StepDemand is made at a step's beginning and held to its end, so that a step
// is either captured by one demand or not at all. Thread rule: values, used by one thread; tables may be shared.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <vector>

#include "probe/core/pace.h"
#include "shared/codes.h"
#include "shared/ctl.h"

namespace ikkuna::probe {

// Small tensors that accuracy is made of: they count with the scalars, which the budget thins last.
constexpr uint64_t kSmallKinds = KindBit(Kind::kNetworkOutput) | KindBit(Kind::kInputLabels);

// log2 of the factors by which the budget stretches the asked periods, by what a message costs.
struct PeriodShifts {
  uint32_t tensor = 0;
  uint32_t summary = 0;
  uint32_t scalar = 0;
  bool operator==(const PeriodShifts&) const = default;
};

class DemandTable {
 public:
  explicit DemandTable(std::vector<shm::DemandItem> items) : items_(std::move(items)) {}
  const std::vector<shm::DemandItem>& items() const { return items_; }
  // Whether anything at all is asked of passes that are not training, of this root.
  bool WatchesEvaluation(uint16_t root) const;
  bool NeedsArena() const;
  // Of what would be due at a step, asked before one begins; no occasion is counted, and of logged kinds nothing is said.
  // Set of kinds:
  uint64_t DueAt(uint16_t root, uint16_t tag, uint64_t step, const PeriodShifts& shifts) const;
  // The first step from `step` on of which DueAt() is not empty; UINT64_MAX: none.
  uint64_t NextDue(uint16_t root, uint16_t tag, uint64_t step, const PeriodShifts& shifts) const;

 private:
  std::vector<shm::DemandItem> items_;
};

// What is wanted of one message.
struct Want {
  Level level = Level::kInvalid;  // kInvalid: nothing
  uint64_t moments = 0;           // of its statistics, where these go (Moment set)
  explicit operator bool() const { return level != Level::kInvalid; }
};

// What is due for one (root, tag, step).
//
// Kinds of a step or pass are due by the step, on multiples of the asked period that the budget stretches; those of a
// pass that is not training only if such passes come often (Pace). Logged kinds (scalar, text, the ends of epochs) come
// when the trainer says so: each name is thinned by itself, and only if it comes often; until one is taken they make no
// step due.
class StepDemand {
 public:
  StepDemand() = default;
  // `pace` outlives this; null: nothing is known of what came before, and all is as if it came at each step.
  StepDemand(std::shared_ptr<const DemandTable> table, uint16_t root, uint16_t tag, uint64_t step,
             const PeriodShifts& shifts, bool arena_ready, Pace* pace = nullptr);

  bool any() const { return due_kinds() != 0; }
  uint64_t due_kinds() const { return summary_ | tensor_ | filtered_kinds_ | taken_.load(); }
  // None of these kinds costs more than a scalar: the budget thins them last.
  static bool OnlyScalars(uint64_t kinds);
  // One of them, beyond a step's markers, costs no more.
  static bool AnyScalars(uint64_t kinds);
  // Whether any module's messages of this kind are wanted. Of a logged kind: those of some name may be.
  bool AnyOf(uint64_t kinds) const { return ((due_kinds() | logged_) & kinds) != 0; }
  bool AnyOf(Kind kind) const { return AnyOf(KindBit(kind)); }
  // Kinds that are due here of which a pass of `other` may have brought less.
  uint64_t NotIn(const StepDemand& other) const;
  // What is left of it, in the midst of the step, of what is `asked` by now and of classes that the budget has not
  // stretched further since; the markers of the step stay. What was not asked when the step began waits for the next.
  StepDemand Reduced(const DemandTable& asked, const PeriodShifts& before, const PeriodShifts& now) const;
  Want Wanted(Kind kind, uint32_t module) const;
  // Asked once for each value that is about to be published: whether this one is. From then on the step is due. `name`
  // is its registry id, 0 for the end of an epoch. Any thread.
  bool TakesLogged(Kind kind, uint32_t name);
  // A pass that came rarely: what it cost cannot be thinned.
  bool rare() const { return rare_; }

 private:
  std::shared_ptr<const DemandTable> table_;
  uint64_t summary_ = 0;  // kinds wanted of every module
  uint64_t tensor_ = 0;
  std::array<uint64_t, std::bit_width(kAllMoments)> with_moment_{};  // of summary_, by bit of Moment
  uint64_t filtered_kinds_ = 0;
  uint64_t logged_ = 0;         // kinds that are asked of this step
  uint64_t logged_window_ = 1;  // steps in which one of a name is taken
  struct Taken {                // logged kinds of which a value was taken; copied with the rest
    std::atomic<uint64_t> kinds{0};
    Taken() = default;
    Taken(const Taken& other) : kinds(other.load()) {}
    Taken& operator=(const Taken& other) {
      kinds.store(other.load(), std::memory_order_relaxed);
      return *this;
    }
    uint64_t load() const { return kinds.load(std::memory_order_relaxed); }
  } taken_;
  Pace* pace_ = nullptr;
  uint16_t root_ = 0;
  uint16_t tag_ = kTagDefault;
  bool rare_ = false;
  struct Filtered {
    const shm::DemandItem* item;  // points into table_
    uint64_t due;
    Level level;  // in which it is taken
  };
  std::vector<Filtered> filtered_;  // entries with a module set
};

}  // namespace ikkuna::probe
