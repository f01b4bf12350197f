// EventLog: writes events to the daemon's log as they happen.
//
// Owner: Daemon. Thread rule: Offer from any thread, also under a lock: the logger takes the line and returns (log.h).
#pragma once

#include <memory>

#include "daemon/sample.h"

namespace ikkuna {

// One line for an event, at its severity.
void LogEvent(const Event& event);

class EventLog : public SampleSink {
 public:
  void Offer(std::shared_ptr<const Batch> batch) override {
    for (const Event& event : batch->events) LogEvent(event);
  }
};

}  // namespace ikkuna
