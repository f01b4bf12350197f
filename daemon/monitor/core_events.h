// CoreEvents: recorded events.
//
// Owner: CoreMonitor. Thread rule: as EventMonitor.
#pragma once

#include <vector>

#include "daemon/monitor/core_parts.h"
#include "daemon/monitor/event_monitor.h"

namespace ikkuna {

class CoreEvents : public EventMonitor {
 public:
  explicit CoreEvents(const CoreParts& parts) : parts_(parts) {}
  Answer<EventList> ListEvents(const EventQuery& query) override;

 private:
  const CoreParts& parts_;
};

}  // namespace ikkuna
