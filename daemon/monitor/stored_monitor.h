// StoredMonitor: answers what clients ask of recorded runs without a daemon, as CoreMonitor answers it; what changes
// anything, or needs a trainer, is refused.
//
// Owner: whoever reads (`ikkuna --data-dir`); the StoredRuns outlives it. Thread rule: as Monitor, every method of every
// part from any thread.
#pragma once

#include <memory>

#include "daemon/monitor/monitor.h"
#include "daemon/sinks/stored_runs.h"

namespace ikkuna {

class StoredMonitor {
 public:
  explicit StoredMonitor(sinks::StoredRuns& stored);
  ~StoredMonitor();
  StoredMonitor(const StoredMonitor&) = delete;
  StoredMonitor& operator=(const StoredMonitor&) = delete;

  Monitor& monitor();

 private:
  struct Parts;
  const std::unique_ptr<Parts> parts_;
};

}  // namespace ikkuna
