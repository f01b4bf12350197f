#include "probe/torch/local_subscribers.h"

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

#include "probe/core/notices.h"

namespace ikkuna::torch_probe {

LocalSubscribers::~LocalSubscribers() {
  for (const auto& subscriber : list_) subscriber->callback = nullptr;
}

void LocalSubscribers::Add(std::shared_ptr<LocalSubscriber> subscriber) {
  if (subscriber->kinds == 0) return;
  std::lock_guard lock(mutex_);
  list_.push_back(std::move(subscriber));
  any_.store(true, std::memory_order_release);
}

LocalSubscribers::List LocalSubscribers::DueAt(uint16_t tag, uint64_t step) const {
  List due;
  if (!any_.load(std::memory_order_acquire)) return due;
  std::lock_guard lock(mutex_);
  for (const auto& subscriber : list_) {
    if (subscriber->tag == tag && step % subscriber->period == 0 && !subscriber->failed.load()) {
      due.push_back(subscriber);
    }
  }
  return due;
}

bool LocalSubscribers::AskFor(uint64_t kinds) const {
  if (!any_.load(std::memory_order_acquire)) return false;
  std::lock_guard lock(mutex_);
  return std::any_of(list_.begin(), list_.end(), [kinds](const auto& subscriber) {
    return (subscriber->kinds & kinds) != 0 && !subscriber->failed.load();
  });
}

bool LocalSubscribers::AskForEvaluation() const {
  if (!any_.load(std::memory_order_acquire)) return false;
  std::lock_guard lock(mutex_);
  return std::any_of(list_.begin(), list_.end(), [](const auto& subscriber) {
    return subscriber->tag != kTagDefault && !subscriber->failed.load();
  });
}

bool ToldInOrder::Add(Untold&& untold, bool left) {
  std::lock_guard lock(mutex_);
  if (waits_.size() >= kMax) return false;
  waits_.push_back(std::move(untold));
  if (left) left_.store(true, std::memory_order_relaxed);
  return true;
}

void ToldInOrder::Tell() noexcept {
  std::vector<Untold> now;
  {
    std::lock_guard lock(mutex_);
    left_.store(telling_ && !waits_.empty(), std::memory_order_relaxed);
    if (telling_ || waits_.empty()) return;
    telling_ = true;
    now.swap(waits_);
  }
  for (const Untold& untold : now) TellOne(untold);
  std::lock_guard lock(mutex_);
  telling_ = false;
  left_.store(!waits_.empty(), std::memory_order_relaxed);
}

size_t ToldInOrder::Drop() {
  std::vector<Untold> dropped;
  std::lock_guard lock(mutex_);
  if (telling_) return 0;
  dropped.swap(waits_);
  left_.store(false, std::memory_order_relaxed);
  return dropped.size();
}

void TellOne(const Untold& untold) noexcept {
  if (untold.subscriber->failed.load()) return;
  try {
    untold.subscriber->callback(untold.message);
  } catch (const std::exception& error) {
    untold.subscriber->failed.store(true);
    probe::PrintNow(std::string("an in-process subscriber threw and was removed: ") + error.what());
  } catch (...) {
    untold.subscriber->failed.store(true);
    probe::PrintNow("an in-process subscriber threw what is no exception and was removed");
  }
}

}  // namespace ikkuna::torch_probe
