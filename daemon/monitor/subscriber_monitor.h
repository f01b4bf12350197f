// SubscriberMonitor: what is computed.
//
// Thread rule: every method from any thread.
#pragma once

#include <string>
#include <vector>

#include "daemon/model/subscribers.h"
#include "daemon/monitor/answer.h"
#include "daemon/monitor/caller.h"

namespace ikkuna {

class SubscriberMonitor {
 public:
  virtual ~SubscriberMonitor() = default;
  virtual std::vector<MetricInfo> ListMetrics() = 0;
  // Ascending by id. `run` (a run_id, a display name or `latest`): those that see this run; empty: all.
  virtual Answer<std::vector<SubscriberInfo>> ListSubscribers(const std::string& run) = 0;
  // `text` in written form; may give several subscribers separated by ';'. All or nothing. Whoever has the role read
  // has to limit each to runs of their own.
  virtual Answer<SubscribeAnswer> AddSubscribers(const Caller& caller, const std::string& text) = 0;
  // Those of others need the role control.
  virtual Answer<UnsubscribeAnswer> RemoveSubscribers(const Caller& caller, const SubscriberChoice& choice) = 0;
};

}  // namespace ikkuna
