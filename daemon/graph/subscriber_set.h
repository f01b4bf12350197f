// SubscriberSet: what is subscribed, process-wide. Graphs of all producers follow it by version.
//
// Owner: the daemon's main. Thread rule: all methods from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "daemon/model/subscribers.h"
#include "shared/base/result.h"

namespace ikkuna::graph {

using Source = SubscriberSource;
struct SubscriberEntry;  // subscriber_entry.h

class SubscriberSet {
 public:
  // A named maximum: the demand holds 256 entries, many subscribers share one.
  static constexpr size_t kMaxSubscribers = 1024;

  // Parses one or more subscribers separated by ';', checks kinds, parameters, topics and cycles; all or nothing. An
  // identical subscription is shared (its info comes back), and has an owner more. An explicit one replaces a default
  // of the same topic: of all runs, or of those that its run= names. `owner`: who may remove it; empty: the operator.
  // The answer has no warnings: those need the runs.
  Result<SubscribeAnswer> Add(const std::string& text, Source source, const std::string& owner = {});
  // What is left of the default set where these stood is on again, with its old id and counters; a default that is
  // removed while it is on stays away until it is removed once more. Whatever takes a topic that nobody publishes any
  // more goes too. kNotFound names the nearest topic. With `owner` only what that client asked for:
  // kPermissionDenied otherwise; what another asked for too stays on for that one.
  Result<UnsubscribeAnswer> Remove(const SubscriberChoice& which, const std::optional<std::string>& owner = {});
  std::vector<SubscriberInfo> List() const;
  std::vector<MetricInfo> Metrics() const;
  // What clients subscribed, one for each owner, for Restore of another process.
  std::vector<SavedSubscription> Export() const;
  // Puts back what Export gave, after the defaults and those of the operator: with its owners, under its numbers where
  // these are free, whatever the order. What cannot be put back any more is returned; the rest is there.
  struct NotRestored {
    SavedSubscription saved;
    std::string why;
  };
  std::vector<NotRestored> Restore(std::vector<SavedSubscription> saved);

  // For graphs. The version moves with what is subscribed, and when one is switched off.
  uint64_t version() const { return version_.load(std::memory_order_acquire); }
  std::vector<std::shared_ptr<SubscriberEntry>> Snapshot() const;
  // It threw: no graph runs it any more. True for the first who says so.
  bool SwitchOff(SubscriberEntry& entry);

 private:
  // The first new one gets the number `id`, where that is not 0.
  Result<SubscribeAnswer> AddLocked(const std::string& text, Source source, const std::string& owner, uint64_t id);
  bool IsFreeLocked(uint64_t id) const;

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
