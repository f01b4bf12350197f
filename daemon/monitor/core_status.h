// CoreStatus: the state of the daemon, from its parts.
//
// Owner: CoreMonitor. Thread rule: as StatusMonitor.
#pragma once

#include "daemon/monitor/core_parts.h"
#include "daemon/monitor/status_monitor.h"

namespace ikkuna {

class CoreStatus : public StatusMonitor {
 public:
  explicit CoreStatus(const CoreParts& parts);
  DaemonStatus GetStatus() override;

 private:
  const CoreParts& parts_;
  const int64_t start_unix_ns_;
};

}  // namespace ikkuna
