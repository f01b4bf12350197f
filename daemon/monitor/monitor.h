// Monitor: everything a client may ask of the daemon, by what it asks about, in plain types. The gRPC service and the
// page are edges over it; core_monitor.h has it over ingest, graph and sinks.
//
// Thread rule: every method of every part from any thread. Failures have a text that can be shown to a person as it is.
#pragma once

#include "daemon/monitor/activity.h"
#include "daemon/monitor/control_monitor.h"
#include "daemon/monitor/event_monitor.h"
#include "daemon/monitor/run_monitor.h"
#include "daemon/monitor/series_monitor.h"
#include "daemon/monitor/status_monitor.h"
#include "daemon/monitor/subscriber_monitor.h"

namespace ikkuna {

// The parts outlive it.
struct Monitor {
  StatusMonitor& status;
  RunMonitor& runs;
  SeriesMonitor& series;
  SubscriberMonitor& subscribers;
  EventMonitor& events;
  ControlMonitor& control;
  Activity& activity;
};

}  // namespace ikkuna
