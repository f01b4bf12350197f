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

// The kinds of an entry by what they cost, 0 whole tensors, 1 statistics, 2 scalars: calls `visit(kinds, lane, shift)` for
// each class. Markers go with the others: alone they make no step due.
template <typename Visit>
void ForClasses(uint64_t kinds, Level level, const PeriodShifts& shifts, Visit&& visit) {
  const uint64_t markers = kinds & kMarkers;
  const uint64_t cheap = kinds & (kScalarKinds | kSmallKinds) & ~kMarkers, dear = kinds & ~(kScalarKinds | kSmallKinds);
  const bool tensor = level == Level::kTensor;
  if (cheap != 0) visit(cheap | markers, size_t{2}, shifts.scalar);
  if (dear != 0) visit(dear | markers, size_t{tensor ? 0u : 1u}, tensor ? shifts.tensor : shifts.summary);
}

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

uint64_t DemandTable::DueAt(uint16_t root, uint16_t tag, uint64_t step, const PeriodShifts& shifts) const {
  uint64_t due = 0;
  for (const shm::DemandItem& item : items_) {
    if (item.tag != tag || (item.root != kAnyRoot && item.root != root)) continue;
    ForClasses(item.kinds & ~kLoggedKinds, item.level, shifts, [&](uint64_t kinds, size_t, uint32_t shift) {
      if (step % Stretch(item.period, shift) == 0) due |= kinds;
    });
  }
  return due;
}

uint64_t DemandTable::NextDue(uint16_t root, uint16_t tag, uint64_t step, const PeriodShifts& shifts) const {
  uint64_t next = UINT64_MAX;
  for (const shm::DemandItem& item : items_) {
    if (item.tag != tag || (item.root != kAnyRoot && item.root != root)) continue;
    ForClasses(item.kinds & ~kLoggedKinds, item.level, shifts, [&](uint64_t, size_t, uint32_t shift) {
      const uint64_t window = Stretch(item.period, shift), past = step % window;
      const uint64_t wait = past == 0 ? 0 : window - past;
      if (step <= UINT64_MAX - wait) next = std::min(next, step + wait);
    });
  }
  return next;
}

bool StepDemand::OnlyScalars(uint64_t kinds) { return (kinds & ~(kScalarKinds | kSmallKinds)) == 0; }
bool StepDemand::AnyScalars(uint64_t kinds) { return (kinds & (kScalarKinds | kSmallKinds) & ~kMarkers) != 0; }

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
    // Until the arena is backed whole tensors cannot travel: they go as their statistics, and the daemon counts what
    // cannot be made of these.
    const bool tensor = item.level == Level::kTensor && arena_ready;
    uint64_t due = 0;
    ForClasses(kinds, item.level, shifts, [&](uint64_t of_class, size_t lane, uint32_t shift) {
      if (due_now(item.period, lane, shift)) due |= of_class;
    });
    if (due == 0) continue;
    if (item.all_modules) {
      (tensor ? tensor_ : summary_) |= due;
      for (size_t bit = 0; !tensor && bit < with_moment_.size(); ++bit) {
        if ((item.moments >> bit & 1) != 0) with_moment_[bit] |= due;
      }
    } else {
      filtered_kinds_ |= due;
      filtered_.push_back({&item, due, tensor ? Level::kTensor : Level::kSummary});
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
  for (size_t bit = 0; bit < with_moment_.size(); ++bit) {
    kinds |= with_moment_[bit] & ~(other.with_moment_[bit] | other.tensor_);
  }
  for (const Filtered& entry : filtered_) {
    const uint64_t whole = entry.level == Level::kTensor ? other.tensor_ : other.summary_ | other.tensor_;
    const bool same = std::any_of(other.filtered_.begin(), other.filtered_.end(), [&](const Filtered& its) {
      return its.due == entry.due && its.level == entry.level && its.item->modules == entry.item->modules &&
             (entry.item->moments & ~its.item->moments) == 0;
    });
    if (!same) kinds |= entry.due & ~whole;
  }
  return kinds;
}

StepDemand StepDemand::Reduced(const DemandTable& asked, const PeriodShifts& before, const PeriodShifts& now) const {
  constexpr uint64_t kCheap = kScalarKinds | kSmallKinds;
  uint64_t summaries = 0;
  uint64_t tensors = 0;
  for (const shm::DemandItem& item : asked.items()) {
    if (item.tag != tag_ || (item.root != kAnyRoot && item.root != root_)) continue;
    (item.level == Level::kTensor ? tensors : summaries) |= item.kinds;
  }
  summaries |= tensors;  // who has the tensor has its summary
  if (now.scalar > before.scalar) {
    summaries &= ~kCheap;
    tensors &= ~kCheap;
  }
  if (now.summary > before.summary) summaries &= kCheap;
  if (now.tensor > before.tensor) tensors &= kCheap;
  StepDemand reduced = *this;
  reduced.summary_ = (summary_ & summaries) | kMarkers;
  reduced.tensor_ &= tensors;
  reduced.filtered_kinds_ = 0;
  for (Filtered& entry : reduced.filtered_) {
    entry.due &= entry.level == Level::kTensor ? tensors : summaries;
    reduced.filtered_kinds_ |= entry.due;
  }
  return reduced;
}

Want StepDemand::Wanted(Kind kind, uint32_t module) const {
  const uint64_t bit = KindBit(kind);
  if (tensor_ & bit) return {Level::kTensor, kAllMoments};
  Want want;
  if ((summary_ | logged_ | taken_.load()) & bit) want.level = Level::kSummary;
  for (size_t i = 0; i < with_moment_.size(); ++i) {
    if (with_moment_[i] & bit) want.moments |= uint64_t{1} << i;
  }
  if ((filtered_kinds_ & bit) == 0) return want;
  for (const Filtered& entry : filtered_) {
    if ((entry.due & bit) == 0) continue;
    const size_t word = module / 64;
    const auto& words = entry.item->modules;
    if (word >= words.size() || ((words[word] >> (module % 64)) & 1) == 0) continue;
    want.level = std::max(want.level, entry.level);
    want.moments |= entry.item->moments;
  }
  return want;
}

}  // namespace ikkuna::probe
