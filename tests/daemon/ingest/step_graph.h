// StepGraph: the least that a graph does, so that ingest is tested without the daemon's own: `loss` and the mean of
// `weights` of each step that is whole, at its end; what it holds open, it does not call done. A step without a loss
// counts as withheld, an end without a beginning as discarded.
//
// Knobs are shared by all graphs of a core and may be turned by any thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "daemon/model/message_graph.h"
#include "shared/base/clock.h"

namespace ikkuna::ingest {

struct GraphKnobs {
  std::atomic<uint64_t> kinds{KindBit(Kind::kLoss) | KindBit(Kind::kWeights)};
  std::atomic<bool> later{false};      // results come from another thread
  std::atomic<bool> hold{false};       // ... and not before this is false again
  std::atomic<int> throws_at{-1};      // step at whose loss Handle throws
  std::atomic<int> handle_ms{0};       // how long each message takes
  std::atomic<uint64_t> ticks{0};
};

class StepGraph : public MessageGraph {
 public:
  StepGraph(std::shared_ptr<Run> run, std::function<void(Batch)> emit, std::shared_ptr<GraphKnobs> knobs)
      : run_(std::move(run)), emit_(std::move(emit)), knobs_(std::move(knobs)), kinds_(knobs_->kinds.load()) {}
  ~StepGraph() override {
    for (auto& worker : workers_) worker.join();
  }

  void AddRegistry(const std::vector<shm::RegistryEntry>&) override {}
  bool Refresh() override {
    const uint64_t kinds = knobs_->kinds.load();
    return std::exchange(kinds_, kinds) != kinds;
  }
  std::vector<shm::DemandItem> Demand() override {
    shm::DemandItem item;
    item.kinds = kinds_;
    return {item};
  }
  void Tick(uint64_t) override {
    knobs_->ticks.fetch_add(1);
    EmitReady();
  }

  void Handle(const shm::Message& message) override {
    const shm::Record& record = message.record;
    seen_ = std::max(seen_, record.seq);  // what comes late was overtaken
    if (const int ms = knobs_->handle_ms.load(); ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(ms));
    switch (static_cast<Kind>(record.kind)) {
      case Kind::kBatchStarted:
        step_ = record.global_step;
        open_ = Open{record.seq - 1, {}};
        break;
      case Kind::kLoss:
        if (knobs_->throws_at.load() == static_cast<int>(record.global_step)) throw std::runtime_error("no memory");
        if (open_) open_->values["loss"] = record.scalar;
        break;
      case Kind::kWeights:
        if (open_) open_->values["weights_mean"] = MeanOf(message);
        break;
      case Kind::kBatchFinished:
        if (open_) {
          Close(record.seq);
        } else if (record.seq > run_->counted_until()) {
          ++discarded_;
        }
        break;
      default:
        break;
    }
  }
  uint64_t done_seq() const override {
    std::lock_guard lock(mutex_);
    uint64_t done = seen_;
    if (open_) done = std::min(done, open_->before);
    for (const auto& [before, records] : working_) done = std::min(done, before);
    return done;
  }
  uint64_t held() const override {
    std::lock_guard lock(mutex_);
    uint64_t held = open_ ? seen_ - open_->before : 0;
    for (const auto& [before, records] : working_) held += records;
    return held;
  }
  bool computes() const override {
    std::lock_guard lock(mutex_);
    return !working_.empty();
  }
  void Finish(uint64_t deadline_ns) override {
    if (open_) ++discarded_;
    open_.reset();
    EmitReady();
    std::unique_lock lock(mutex_);
    while (!working_.empty() && MonotonicNs() < deadline_ns) {
      changed_.wait_for(lock, std::chrono::milliseconds(5));
      lock.unlock();
      EmitReady();
      lock.lock();
    }
    cancelled_ += working_.size();
    cancel_.store(true);
    working_.clear();
  }
  std::vector<Count> Missing() const override {
    std::vector<Count> counts;
    if (discarded_ != 0) counts.push_back({"discarded", discarded_});
    if (cancelled_ != 0) counts.push_back({"cancelled", cancelled_});
    if (withheld_ != 0) counts.push_back({"withheld", withheld_});
    return counts;
  }
  uint64_t steps_observed(uint16_t root) const override { return root == 1 ? closed_ : 0; }

 private:
  struct Open {
    uint64_t before;  // seq of the last record before it
    std::map<std::string, double> values;
  };

  static double MeanOf(const shm::Message& message) {
    if (message.payload != nullptr) {
      const auto* values = reinterpret_cast<const float*>(message.payload);
      double sum = 0;
      for (uint64_t i = 0; i < message.payload_bytes / sizeof(float); ++i) sum += static_cast<double>(values[i]);
      return sum / static_cast<double>(message.payload_bytes / sizeof(float));
    }
    const TensorStats& stats = message.record.stats;
    return stats.shift + stats.sum1 / static_cast<double>(stats.finite_n);
  }
  // Results go out on the thread of ingest alone, and only then is what they came of done.
  void EmitReady() {
    std::vector<std::pair<uint64_t, Batch>> ready;
    {
      std::lock_guard lock(mutex_);
      ready.swap(ready_);
    }
    for (auto& [before, batch] : ready) {
      emit_(std::move(batch));
      std::lock_guard lock(mutex_);
      working_.erase(before);
    }
  }
  void Close(uint64_t seq) {
    if (seq > run_->counted_until()) {
      ++closed_;
      if (!open_->values.contains("loss")) ++withheld_;
    }
    Batch batch;
    batch.stamp.step = step_;
    for (const auto& [topic, value] : open_->values) {
      batch.samples.push_back({run_->series().Intern({{"model", "default"}, "", "", topic}, {}), 0, value});
    }
    if (!knobs_->later.load()) {
      open_.reset();
      return emit_(std::move(batch));
    }
    const uint64_t before = open_->before;
    open_.reset();
    {
      std::lock_guard lock(mutex_);
      working_.emplace(before, seen_ - before);
    }
    workers_.emplace_back([this, before, batch = std::move(batch)]() mutable {
      while (knobs_->hold.load() && !cancel_.load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      std::lock_guard lock(mutex_);
      if (!cancel_.load()) ready_.emplace_back(before, std::move(batch));
      changed_.notify_all();
    });
  }

  const std::shared_ptr<Run> run_;
  const std::function<void(Batch)> emit_;
  const std::shared_ptr<GraphKnobs> knobs_;
  uint64_t kinds_;
  uint64_t seen_ = 0;
  uint64_t step_ = 0;
  std::optional<Open> open_;
  uint64_t closed_ = 0;
  uint64_t discarded_ = 0;
  uint64_t cancelled_ = 0;
  uint64_t withheld_ = 0;
  std::vector<std::thread> workers_;
  std::atomic<bool> cancel_{false};
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, uint64_t> working_;  // records of each step, by the seq before it; guarded by mutex_
  std::vector<std::pair<uint64_t, Batch>> ready_;  // guarded by mutex_: worked out, not emitted
};

}  // namespace ikkuna::ingest
