#include "probe/core/demand.h"

#include <algorithm>

namespace ikkuna::probe {

namespace {

constexpr uint64_t kScalarKinds = KindBit(Kind::kBatchStarted) | KindBit(Kind::kBatchFinished) |
                                  KindBit(Kind::kEpochStarted) | KindBit(Kind::kEpochFinished) | KindBit(Kind::kLoss) |
                                  KindBit(Kind::kLearningRate) | KindBit(Kind::kScalar) | KindBit(Kind::kText);
// Small tensors that accuracy is made of: they count with the scalars, which the budget thins last.
constexpr uint64_t kSmallKinds = KindBit(Kind::kNetworkOutput) | KindBit(Kind::kInputLabels);

uint64_t Stretch(uint32_t period, uint32_t shift) { return static_cast<uint64_t>(period) << std::min(shift, 31u); }

}  // namespace

bool DemandTable::WatchesEvaluation(uint16_t root) const {
  return std::any_of(items_.begin(), items_.end(), [root](const shm::DemandItem& item) {
    return item.tag != kTagDefault && (item.root == kAnyRoot || item.root == root);
  });
}

bool DemandTable::NeedsArena() const {
  return std::any_of(items_.begin(), items_.end(),
                     [](const shm::DemandItem& item) { return item.level == Level::kTensor; });
}

bool StepDemand::OnlyScalars(uint64_t kinds) { return (kinds & ~(kScalarKinds | kSmallKinds)) == 0; }

StepDemand::StepDemand(std::shared_ptr<const DemandTable> table, uint16_t root, uint16_t tag, uint64_t step,
                       const PeriodShifts& shifts, bool arena_ready)
    : table_(std::move(table)) {
  if (!table_) return;
  for (const shm::DemandItem& item : table_->items()) {
    if (item.tag != tag || (item.root != kAnyRoot && item.root != root)) continue;
    uint64_t kinds = item.kinds;
    const bool tensor = item.level == Level::kTensor;
    // Until the arena is backed whole tensors cannot travel; asking for them is then not yet delivered, not dropped.
    if (tensor && !arena_ready) kinds &= kScalarKinds;
    uint64_t due = 0;
    const uint64_t cheap = kinds & (kScalarKinds | kSmallKinds);
    const uint64_t dear = kinds & ~cheap;
    if (cheap != 0 && step % Stretch(item.period, shifts.scalar) == 0) due |= cheap;
    if (dear != 0 && step % Stretch(item.period, tensor ? shifts.tensor : shifts.summary) == 0) due |= dear;
    if (due == 0) continue;
    if (item.all_modules) {
      (tensor ? tensor_ : summary_) |= due;
    } else {
      filtered_kinds_ |= due;
      filtered_.push_back({&item, due});
    }
  }
}

Level StepDemand::Wanted(Kind kind, uint32_t module) const {
  const uint64_t bit = KindBit(kind);
  if (tensor_ & bit) return Level::kTensor;
  Level level = (summary_ & bit) ? Level::kSummary : Level::kInvalid;
  if ((filtered_kinds_ & bit) == 0) return level;
  for (const Filtered& entry : filtered_) {
    if ((entry.due & bit) == 0 || entry.item->level <= level) continue;
    const size_t word = module / 64;
    const auto& words = entry.item->modules;
    if (word < words.size() && ((words[word] >> (module % 64)) & 1)) level = entry.item->level;
  }
  return level;
}

}  // namespace ikkuna::probe
