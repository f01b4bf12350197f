// SubscriberEntry: one subscriber as the set holds it and every graph runs it, with its counters.
//
// Owner: the SubscriberSet; graphs share it. Thread rule: the first group is constant, the second is the set's, under
// its mutex; the rest are atomics that need no order among each other.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon/graph/subscription.h"
#include "daemon/graph/work_queue.h"
#include "daemon/model/missing.h"
#include "daemon/model/subscribers.h"

namespace ikkuna::graph {

struct SubscriberEntry {
  // Constant after construction.
  uint64_t id = 0;
  Subscription subscription;
  bool is_default = false;  // of the default set, whoever else asks for it too
  const std::shared_ptr<QueueCounters> queue = std::make_shared<QueueCounters>();

  // Guarded by the set's mutex.
  std::vector<std::string> owners;  // clients
  bool by_operator = false;         // configuration or flag

  // Written by the set.
  std::atomic<SubscriberSource> source{SubscriberSource::kDefault};
  std::atomic<bool> removed{false};  // open steps publish nothing of it any more
  std::atomic<bool> off{false};      // it threw

  // Added to by all graphs.
  std::atomic<uint64_t> computed{0};
  std::atomic<uint64_t> cpu_ns{0};
  std::array<std::atomic<uint64_t>, kMissReasonCount> missing{};

  void Count(MissReason reason, uint64_t count) {
    missing[static_cast<size_t>(reason)].fetch_add(count, std::memory_order_relaxed);
  }
  // No step publishes anything of it any more.
  bool ended() const { return removed.load(std::memory_order_relaxed) || off.load(std::memory_order_relaxed); }
};

using EntryPtr = std::shared_ptr<SubscriberEntry>;

// With the set's mutex held.
SubscriberInfo InfoOf(const SubscriberEntry& entry);
std::vector<SubscriberInfo> InfosOf(const std::vector<EntryPtr>& entries);
// Everything that is published, by name, once.
std::vector<std::string> TopicsOf(const std::vector<EntryPtr>& entries);

}  // namespace ikkuna::graph
