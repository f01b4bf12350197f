// CoreSubscribers: what is computed, and who may change it.
//
// Owner: CoreMonitor. Thread rule: as SubscriberMonitor.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "daemon/monitor/core_parts.h"
#include "daemon/monitor/publisher.h"
#include "daemon/monitor/subscriber_monitor.h"

namespace ikkuna {

class CoreSubscribers : public SubscriberMonitor {
 public:
  CoreSubscribers(const CoreParts& parts, Publisher& publisher) : parts_(parts), publisher_(publisher) {}
  std::vector<MetricInfo> ListMetrics() override;
  Answer<std::vector<SubscriberInfo>> ListSubscribers(const std::string& run) override;
  Answer<SubscribeAnswer> AddSubscribers(const Caller& caller, const std::string& text) override;
  Answer<UnsubscribeAnswer> RemoveSubscribers(const Caller& caller, const SubscriberChoice& choice) override;

 private:
  // Nothing, or why the caller may not subscribe this.
  std::optional<Failure> Refusal(const Caller& caller, const std::string& text) const;
  std::vector<std::string> Warnings(const std::vector<SubscriberInfo>& subscribers) const;
  // An event for each that had other owners than the caller: they lose it without having a hand in that.
  void TellOwners(const Caller& caller, const SubscriberChoice& choice,
                  const std::vector<SubscriberInfo>& removed) const;
  void Changed() const;

  const CoreParts& parts_;
  Publisher& publisher_;
};

}  // namespace ikkuna
