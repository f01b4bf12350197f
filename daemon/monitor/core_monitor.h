// CoreMonitor: answers what clients ask, from the parts of a daemon.
//
// Owner: the daemon's main; all that it refers to outlives it, the sinks open. Thread rule: as Monitor, every method of
// every part from any thread.
#pragma once

#include "daemon/monitor/core_control.h"
#include "daemon/monitor/core_events.h"
#include "daemon/monitor/core_parts.h"
#include "daemon/monitor/core_runs.h"
#include "daemon/monitor/core_series.h"
#include "daemon/monitor/core_status.h"
#include "daemon/monitor/core_subscribers.h"
#include "daemon/monitor/monitor.h"
#include "daemon/monitor/publisher.h"

namespace ikkuna {

class CoreMonitor {
 public:
  explicit CoreMonitor(CoreParts parts);
  CoreMonitor(const CoreMonitor&) = delete;
  CoreMonitor& operator=(const CoreMonitor&) = delete;

  Monitor& monitor() { return monitor_; }
  // A look at the time, once a second or so: runs of clients of which nothing comes any more have finished.
  void Tick() { publisher_.Tick(); }
  // Whether clients ask anything: the service tells it, the daemon asks.
  const Activity& activity() const { return activity_; }

 private:
  const CoreParts parts_;
  Publisher publisher_;
  CoreStatus status_;
  CoreRuns runs_;
  CoreSeries series_;
  CoreSubscribers subscribers_;
  CoreEvents events_;
  CoreControl control_;
  Activity activity_;
  Monitor monitor_;
};

}  // namespace ikkuna
