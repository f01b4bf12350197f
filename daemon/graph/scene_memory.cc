#include "daemon/graph/scene_memory.h"

#include <utility>

namespace ikkuna::graph {

namespace {

// Instances at rest beyond these are for a burst that is over.
constexpr size_t kMaxIdle = 65'536;

}  // namespace

Instances::Instances(std::shared_ptr<SubscriberEntry> entry, WorkShare* share) : entry_(std::move(entry)) {
  const metrics::Definition& definition = entry_->subscription.definition;
  if (definition.runs != metrics::Runs::kQueue || definition.scope == metrics::Scope::kJob || share == nullptr) return;
  const size_t lanes = definition.scope == metrics::Scope::kRoot ? 1 : kLanes;
  source_ = share->OpenSource({.waiting_max = kStepsWaiting * lanes, .counters = entry_->queue});
  for (size_t i = 0; i < kLanes; ++i) lanes_[i] = i < lanes ? source_->OpenLane() : lanes_[0];
}

std::unique_ptr<metrics::Subscriber> Instances::Rouse() {
  {
    std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      auto subscriber = std::move(idle_.back());
      idle_.pop_back();
      return subscriber;
    }
  }
  return entry_->subscription.definition.create();
}

void Instances::Rest(std::unique_ptr<metrics::Subscriber> subscriber) {
  subscriber->Reset();
  std::lock_guard lock(mutex_);
  if (idle_.size() < kMaxIdle) idle_.push_back(std::move(subscriber));
}

const std::shared_ptr<metrics::Subscriber>& Instances::Of(metrics::Subject subject) {
  auto& one = of_run_[(uint64_t{subject.module} << 32) | subject.param];
  if (!one) one = entry_->subscription.definition.create();
  return one;
}

metrics::Subscriber& Instances::common() {
  if (!common_) common_ = entry_->subscription.definition.create();
  return *common_;
}

void Instances::Retire() {
  if (source_) source_->Cancel();
}

}  // namespace ikkuna::graph
