#include "probe/core/demand.h"

#include <algorithm>
#include <utility>

namespace ikkuna::probe {

namespace {

constexpr uint64_t kScalarKinds = KindBit(Kind::kBatchStarted) | KindBit(Kind::kBatchFinished) |
                                  KindBit(Kind::kEpochStarted) | KindBit(Kind::kEpochFinished) | KindBit(Kind::kLoss) |
                                  KindBit(Kind::kLearningRate) | KindBit(Kind::kScalar) | KindBit(Kind::kText);
constexpr uint64_t kMarkers = KindBit(Kind::kBatchStarted) | KindBit(Kind::kBatchFinished);
constexpr uint64_t kEpochKinds = KindBit(Kind::kEpochStarted) | KindBit(Kind::kEpochFinished);
constexpr uint64_t kLoggedKinds = kEpochKinds | KindBit(Kind::kScalar) | KindBit(Kind::kText);

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
                       const PeriodShifts& shifts, bool arena_ready, Pace* pace)
    : table_(std::move(table)), pace_(pace), root_(root), tag_(tag) {
  if (!table_) return;
  const bool training = tag == kTagDefault;
  bool seen = false;
  // Whether what is asked each `period` steps comes now; `lane` is its class.
  const auto due_now = [&](uint32_t period, size_t lane, uint32_t shift) {
    if (step % period != 0) return false;
    const uint64_t window = Stretch(period, shift);
    if (training || pace == nullptr) return step % window == 0;
    return rare_ || pace->TakesFirst({root, tag, 0, period}, lane, window);
  };
  for (const shm::DemandItem& item : table_->items()) {
    if (item.tag != tag || (item.root != kAnyRoot && item.root != root)) continue;
    if (!training && pace != nullptr && !std::exchange(seen, true)) rare_ = pace->IsRare({root, tag, 0, 0});
    const uint64_t logged = pace == nullptr ? 0 : item.kinds & kLoggedKinds;
    uint64_t kinds = item.kinds & ~logged;
    logged_ |= logged & kEpochKinds;
    if ((logged & ~kEpochKinds) != 0 && step % item.period == 0) {
      const uint64_t window = Stretch(item.period, shifts.scalar);
      logged_window_ = (logged_ & ~kEpochKinds) == 0 ? window : std::min(logged_window_, window);
      logged_ |= logged;
    }
    // The markers of a step come with what is logged in it.
    if (logged != 0 && (kinds & ~kMarkers) == 0) continue;
    const bool tensor = item.level == Level::kTensor;
    // Until the arena is backed whole tensors cannot travel; asking for them is then not yet delivered, not dropped.
    if (tensor && !arena_ready) kinds &= kScalarKinds;
    uint64_t due = 0;
    const uint64_t cheap = kinds & (kScalarKinds | kSmallKinds);
    const uint64_t dear = kinds & ~cheap;
    const uint32_t dear_shift = tensor ? shifts.tensor : shifts.summary;
    if (cheap != 0 && due_now(item.period, 2, shifts.scalar)) due |= cheap;
    if (dear != 0 && due_now(item.period, tensor ? 0 : 1, dear_shift)) due |= dear;
    if (due == 0) continue;
    if (item.all_modules) {
      (tensor ? tensor_ : summary_) |= due;
    } else {
      filtered_kinds_ |= due;
      filtered_.push_back({&item, due});
    }
  }
}

bool StepDemand::TakesLogged(Kind kind, uint32_t name) {
  const uint64_t bit = KindBit(kind);
  if ((logged_ & bit) == 0) return false;
  if ((kEpochKinds & bit) == 0 && logged_window_ > 1) {
    const Pace::Thing thing{root_, tag_, static_cast<uint8_t>(kind), name};
    if (!pace_->IsRare(thing) && !pace_->TakesFirst(thing, 2, logged_window_)) return false;
  }
  taken_.kinds.fetch_or(bit | kMarkers, std::memory_order_relaxed);
  return true;
}

uint64_t StepDemand::NotIn(const StepDemand& other) const {
  uint64_t kinds = (summary_ & ~(other.summary_ | other.tensor_)) | (tensor_ & ~other.tensor_);
  for (const Filtered& entry : filtered_) {
    const uint64_t whole = entry.item->level == Level::kTensor ? other.tensor_ : other.summary_ | other.tensor_;
    const bool same = std::any_of(other.filtered_.begin(), other.filtered_.end(), [&](const Filtered& its) {
      return its.due == entry.due && its.item->level == entry.item->level && its.item->modules == entry.item->modules;
    });
    if (!same) kinds |= entry.due & ~whole;
  }
  return kinds;
}

Level StepDemand::Wanted(Kind kind, uint32_t module) const {
  const uint64_t bit = KindBit(kind);
  if (tensor_ & bit) return Level::kTensor;
  Level level = ((summary_ | logged_ | taken_.load()) & bit) ? Level::kSummary : Level::kInvalid;
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
