#include "daemon/monitor/core_events.h"

#include "daemon/monitor/run_names.h"

namespace ikkuna {

Answer<EventList> CoreEvents::ListEvents(const EventQuery& query) {
  EventQuery resolved = query;
  if (!query.filter.run.empty()) {
    Answer<std::vector<RunInfo>> runs = FindRun(*parts_.recorded, query.filter.run);
    if (!runs) return runs.failure();
    resolved.filter.run = runs->front().info.run_key.run_id;
    resolved.filter.run_is_id = true;
  }
  return parts_.recorded->ListEvents(resolved);
}

}  // namespace ikkuna
