// EventMonitor: what happened.
//
// Thread rule: every method from any thread; they may read files.
#pragma once

#include <vector>

#include "daemon/model/batch.h"
#include "daemon/model/query.h"
#include "daemon/monitor/answer.h"

namespace ikkuna {

class EventMonitor {
 public:
  virtual ~EventMonitor() = default;
  // Ascending by id; the last ones by time. The run of the filter is a run_id, a display name or `latest`.
  virtual Answer<EventList> ListEvents(const EventQuery& query) = 0;
};

}  // namespace ikkuna
