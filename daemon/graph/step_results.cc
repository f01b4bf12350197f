#include "daemon/graph/step_results.h"

#include <chrono>

#include "shared/base/clock.h"

namespace ikkuna::graph {

void Mailbox::Post(std::list<LateResults>& late) {
  if (ended()) return;
  std::lock_guard lock(mutex_);
  late_.splice(late_.end(), late);
  any_.store(true, std::memory_order_release);  // pairs with the acquire of any()
  came_.notify_all();
}

std::list<LateResults> Mailbox::Take() {
  std::lock_guard lock(mutex_);
  any_.store(false, std::memory_order_relaxed);  // under the mutex of whoever sets it
  return std::exchange(late_, {});
}

bool Mailbox::Wait(uint64_t deadline_ns) {
  std::unique_lock lock(mutex_);
  const uint64_t now = MonotonicNs();
  if (now >= deadline_ns) return !late_.empty();
  const auto for_ns = std::chrono::nanoseconds(std::min<uint64_t>(deadline_ns - now, 3'600'000'000'000));
  return came_.wait_for(lock, for_ns, [this] { return !late_.empty(); });
}

StepResults::~StepResults() {
  if (!taken_back_) mailbox_->Post(letter_);
}

LateResults StepResults::TakeBack() {
  taken_back_ = true;
  std::lock_guard lock(mutex_);
  return std::move(late_);
}

void StepResults::Put(uint32_t output, metrics::Subject subject, Value value) {
  if (inside()) return taker_->TakeValue(output, subject, std::move(value));
  std::lock_guard lock(mutex_);
  late_.values.push_back({output, subject, std::move(value)});
}

void StepResults::Raise(Severity severity, std::string text, std::optional<Action> action) {
  if (inside()) return taker_->TakeEvent(severity, std::move(text), std::move(action));
  std::lock_guard lock(mutex_);
  late_.events.push_back({severity, std::move(text), std::move(action)});
}

bool StepResults::cancelled() const {
  return cancelled_.load(std::memory_order_relaxed) || entry_->ended() || mailbox_->ended();
}

void StepResults::Miss(MissReason reason) {
  if (inside()) return taker_->TakeMissing(reason, 1);
  std::lock_guard lock(mutex_);
  ++late_.missing[static_cast<size_t>(reason)];
}

void StepResults::Threw(const std::string& what) {
  std::lock_guard lock(mutex_);
  if (!late_.threw) late_.threw = what;
}

}  // namespace ikkuna::graph
