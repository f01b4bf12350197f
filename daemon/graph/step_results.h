// StepResults: where one subscriber's results of one step go, on the ingest thread while the graph calls it, and from
// any thread later. Mailbox: what came later, on its way to the graph.
//
// Thread rule: as metrics::Results; the first group of methods is for the graph's thread. Lifetime: both may outlive
// the graph; what they are told then is nobody's.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "daemon/graph/subscriber_entry.h"
#include "metrics/subscriber.h"

namespace ikkuna::graph {

struct LateValue {
  uint32_t output = 0;
  metrics::Subject subject;
  Value value;
};

struct LateEvent {
  Severity severity = Severity::kInfo;
  std::string text;
  std::optional<Action> action;
};

// All that one subscriber gave of one step after the graph had called it.
struct LateResults {
  uint64_t frame = 0;  // its id
  uint32_t node = 0;
  std::vector<LateValue> values;
  std::vector<LateEvent> events;
  MissCounts missing{};
  std::optional<std::string> threw;
};

class Mailbox {
 public:
  // Takes the one letter out of the list, and allocates nothing: it comes from destructors.
  void Post(std::list<LateResults>& late);
  bool any() const { return any_.load(std::memory_order_acquire); }  // pairs with the release in Post
  std::list<LateResults> Take();
  // False: nothing came until then (CLOCK_MONOTONIC).
  bool Wait(uint64_t deadline_ns);
  // Nobody reads any more.
  void End() { ended_.store(true, std::memory_order_relaxed); }
  bool ended() const { return ended_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> any_{false};
  std::atomic<bool> ended_{false};
  std::mutex mutex_;
  std::condition_variable came_;
  std::list<LateResults> late_;  // guarded by mutex_
};

// Takes what a subscriber gives inside the graph's own call.
class ResultsTaker {
 public:
  virtual void TakeValue(uint32_t output, metrics::Subject subject, Value value) = 0;
  virtual void TakeEvent(Severity severity, std::string text, std::optional<Action> action) = 0;
  virtual void TakeMissing(MissReason reason, uint64_t count) = 0;

 protected:
  ~ResultsTaker() = default;
};

class StepResults final : public metrics::Results {
 public:
  StepResults(ResultsTaker& taker, std::shared_ptr<Mailbox> mailbox, std::shared_ptr<SubscriberEntry> entry,
              uint64_t frame, uint32_t node)
      : taker_(&taker), mailbox_(std::move(mailbox)), entry_(std::move(entry)) {
    late_.frame = frame;
    late_.node = node;
  }
  // The last reference is gone.
  ~StepResults() override;

  // The graph's call is over; what comes now is late.
  void CloseInline() { taker_ = nullptr; }
  // Nobody but the graph holds it: what came from other threads meanwhile, instead of a letter.
  LateResults TakeBack();

  // Any thread.
  void Put(uint32_t output, metrics::Subject subject, Value value) override;
  void Raise(Severity severity, std::string text, std::optional<Action> action) override;
  void Incomplete() override { Miss(MissReason::kIncomplete); }
  bool cancelled() const override;
  void Miss(MissReason reason);
  void Threw(const std::string& what);
  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }

 private:
  bool inside() const { return std::this_thread::get_id() == owner_ && taker_ != nullptr; }

  const std::thread::id owner_ = std::this_thread::get_id();
  ResultsTaker* taker_;  // read and written by the owner only
  const std::shared_ptr<Mailbox> mailbox_;
  const std::shared_ptr<SubscriberEntry> entry_;
  std::atomic<bool> cancelled_{false};
  bool taken_back_ = false;  // by the owner, when nobody else holds this
  std::mutex mutex_;
  std::list<LateResults> letter_{1};  // made with this, so that it can always be posted
  LateResults& late_ = letter_.front();  // guarded by mutex_
};

}  // namespace ikkuna::graph
