// Demand as the probe holds it: a copy of what the daemon asked, and what of it is due at one step.
//
// A DemandTable is immutable and shared; a StepDemand is made at a step's beginning and held to its end, so that a step
// is either captured by one demand or not at all. Thread rule: values, used by one thread; tables may be shared.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "shared/codes.h"
#include "shared/ctl.h"

namespace ikkuna::probe {

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

 private:
  std::vector<shm::DemandItem> items_;
};

// What is due for one (root, tag, step).
class StepDemand {
 public:
  StepDemand() = default;
  StepDemand(std::shared_ptr<const DemandTable> table, uint16_t root, uint16_t tag, uint64_t step,
             const PeriodShifts& shifts, bool arena_ready);

  bool any() const { return due_kinds() != 0; }
  uint64_t due_kinds() const { return summary_ | tensor_ | filtered_kinds_; }
  // None of these kinds costs more than a scalar: the budget thins them last.
  static bool OnlyScalars(uint64_t kinds);
  // Whether any module's messages of this kind are wanted.
  bool AnyOf(uint64_t kinds) const { return ((summary_ | tensor_ | filtered_kinds_) & kinds) != 0; }
  bool AnyOf(Kind kind) const { return AnyOf(KindBit(kind)); }
  // kInvalid: not wanted.
  Level Wanted(Kind kind, uint32_t module) const;

 private:
  uint64_t summary_ = 0;  // kinds wanted of every module
  uint64_t tensor_ = 0;
  uint64_t filtered_kinds_ = 0;
  struct Filtered {
    const shm::DemandItem* item;  // points into table_
    uint64_t due;
  };
  std::vector<Filtered> filtered_;  // entries with a module set
  std::shared_ptr<const DemandTable> table_;
};

}  // namespace ikkuna::probe
