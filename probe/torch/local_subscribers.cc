#include "probe/torch/local_subscribers.h"

#include <algorithm>
#include <utility>

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

}  // namespace ikkuna::torch_probe
