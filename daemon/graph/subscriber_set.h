// SubscriberSet: what is subscribed, process-wide. Graphs of all producers follow it by version.
//
// Owner: the daemon's main. Thread rule: all methods from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/monitor.h"
#include "shared/base/result.h"

namespace ikkuna::graph {

enum class Source : uint8_t { kDefault = 1, kConfig = 2, kFlag = 3, kClient = 4 };

struct SubscriberEntry;  // parsed text, descriptor, topics, counters; defined by the graph

class SubscriberSet {
 public:
  // A named maximum: the demand holds 256 entries, many subscribers share one.
  static constexpr size_t kMaxSubscribers = 1024;

  // Parses one or more subscribers separated by ';', checks kinds, parameters, topics and cycles; all or nothing. An
  // identical subscription is shared (its info comes back). An explicit one replaces a default of the same topic. The
  // answer has no warnings: those need the runs.
  Result<SubscribeAnswer> Add(const std::string& text, Source source);
  // By decimal id, written form, or published topic. What is left of the default set where these stood is on again
  // afterwards, with its id; so is a default that was also asked for as it is, until it is removed once more. Whatever
  // takes a topic that nobody publishes any more goes too. kNotFound names the nearest topic.
  Result<UnsubscribeAnswer> Remove(const std::string& what);
  std::vector<SubscriberInfo> List() const;
  std::vector<MetricInfo> Metrics() const;

  // For graphs.
  uint64_t version() const { return version_.load(std::memory_order_acquire); }
  std::vector<std::shared_ptr<SubscriberEntry>> Snapshot() const;

 private:
  mutable std::mutex mutex_;
  std::atomic<uint64_t> version_{1};
  // Guarded by mutex_.
  std::vector<std::shared_ptr<SubscriberEntry>> entries_;
  std::vector<std::shared_ptr<SubscriberEntry>> replaced_;  // defaults that wait for their place to be free
  uint64_t next_id_ = 1;
};

// The written form of the set that is on when nothing is configured.
const std::vector<std::string>& DefaultSubscribers();

}  // namespace ikkuna::graph
