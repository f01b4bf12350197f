// SubscriberMonitor: what is computed.
//
// Thread rule: every method from any thread.
#pragma once

#include <string>
#include <vector>

#include "daemon/model/subscriber_info.h"
#include "daemon/monitor/answer.h"
#include "daemon/monitor/caller.h"

namespace ikkuna {

class SubscriberMonitor {
 public:
  virtual ~SubscriberMonitor() = default;
  virtual std::vector<MetricInfo> ListMetrics() = 0;
  // Ascending by id. `run`: those that see this run; empty: all.
  virtual Answer<std::vector<SubscriberInfo>> ListSubscribers(const std::string& run) = 0;
  // `text` in written form; may give several subscribers separated by ';'. All or nothing. `run`: only this one; empty:
  // every run, which needs the role control.
  virtual Answer<SubscribeAnswer> AddSubscribers(const Caller& caller, const std::string& text,
                                                 const std::string& run) = 0;
  // Those of others need the role control.
  virtual Answer<UnsubscribeAnswer> RemoveSubscribers(const Caller& caller, const SubscriberChoice& choice) = 0;
};

}  // namespace ikkuna
