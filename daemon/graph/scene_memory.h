// SceneMemory: what a graph knows of one (root, tag), whatever is subscribed: its slots and groups, and for each
// subscriber the series that it publishes. Plans come and go with the subscriptions; this stays, so that subscribing
// costs no more than the new one's own series. Instances: the subscribers at work there.
//
// Owner: the graph and its plans, on the graph's one thread; what other threads touch is said below.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "daemon/graph/slots.h"
#include "daemon/graph/subscriber_entry.h"
#include "daemon/graph/work_queue.h"
#include "daemon/model/series.h"
#include "metrics/subscriber.h"

namespace ikkuna::graph {

// A series of a subscriber's output.
struct SeriesRef {
  static constexpr uint32_t kUnknown = ~uint32_t{0};
  uint32_t id = kUnknown;  // in the run's catalogue; 0: it is full
  uint64_t next = 0;       // step of the last value, + 1: of the greatest step
  uint64_t put = 0;        // the same of the one that was put last
};

// What a subscriber publishes and lets in.
struct NodeNames {
  std::vector<std::vector<SeriesRef>> series;  // by output and slot number
  std::vector<uint8_t> match;                  // by slot number: 0 not looked at, 1 the filter refuses, 2 passes

  SeriesRef& Ref(uint32_t output, uint32_t number) {
    if (series.size() <= output) series.resize(output + 1);
    std::vector<SeriesRef>& refs = series[output];
    if (refs.size() <= number) refs.resize(number + 1);
    return refs[number];
  }
};

// The subscribers at work for one entry in one (root, tag).
class Instances {
 public:
  // Series and modules of a queue subscriber are worked on side by side; those of one lane in order.
  static constexpr size_t kLanes = 4;
  // Of one lane, that wait. Some are better than none where work comes in bursts; more would only be older when they
  // are done, and hold the producer's done_seq back.
  static constexpr size_t kStepsWaiting = 8;

  Instances(std::shared_ptr<SubscriberEntry> entry, WorkShare* share);
  ~Instances() { Retire(); }
  Instances(const Instances&) = delete;
  Instances& operator=(const Instances&) = delete;

  // Keeps::kStep: one at rest, or a new one; Rest() takes it back, reset. Any thread. May throw what `create` throws.
  std::unique_ptr<metrics::Subscriber> Rouse();
  void Rest(std::unique_ptr<metrics::Subscriber> subscriber);
  // Keeps::kRun: the one that works on `subject`.
  const std::shared_ptr<metrics::Subscriber>& Of(metrics::Subject subject);
  bool has_run_state() const { return !of_run_.empty(); }
  // Delivery::kMerged, Keeps::kStep, inline: the one that works on all.
  metrics::Subscriber& common();

  WorkLane* lane(size_t index) const { return lanes_[index].get(); }  // null: not a queue subscriber
  // What waits in its lanes is not run.
  void Retire();
  // One of them threw: what waits for them is not run any more. Any thread.
  void SetFailed() { failed_.store(true, std::memory_order_relaxed); }
  bool failed() const { return failed_.load(std::memory_order_relaxed); }

 private:
  const std::shared_ptr<SubscriberEntry> entry_;
  std::shared_ptr<WorkSource> source_;
  std::array<std::shared_ptr<WorkLane>, kLanes> lanes_;
  std::unordered_map<uint64_t, std::shared_ptr<metrics::Subscriber>> of_run_;
  std::unique_ptr<metrics::Subscriber> common_;
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::vector<std::unique_ptr<metrics::Subscriber>> idle_;  // guarded by mutex_
};

struct SceneMemory {
  uint16_t root = 0;
  uint16_t tag = 0;
  std::string root_name;
  std::string tag_name;
  TimelineId timeline = 0;  // 0: the catalogue has no room for it
  Slots slots;
  std::array<std::unique_ptr<Group>, 64> groups;         // by kind; null: nobody took it so far
  std::map<uint64_t, std::shared_ptr<NodeNames>> names;  // by id of the subscriber's entry
};

}  // namespace ikkuna::graph
