// SubscriberEntry: one subscriber as the set holds it and every graph runs it, with its counters.
//
// Owner: the SubscriberSet; graphs share it. Thread rule: the first group is constant; the rest are atomics that need
// no order among each other.
#pragma once

#include <atomic>
#include <cstdint>

#include "daemon/graph/subscriber_set.h"
#include "daemon/graph/subscription.h"

namespace ikkuna::graph {

struct SubscriberEntry {
  // Constant after construction.
  uint64_t id = 0;
  Subscription subscription;
  bool is_default = false;  // of the default set, whoever else asks for it too

  // Written by the set.
  std::atomic<Source> source{Source::kDefault};
  std::atomic<bool> removed{false};  // open steps publish nothing of it any more

  // Added to by all graphs.
  std::atomic<uint64_t> computed{0};
  std::atomic<uint64_t> incomplete{0};
  std::atomic<uint64_t> cpu_ns{0};
};

}  // namespace ikkuna::graph
