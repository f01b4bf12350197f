// EventLog: writes events to the daemon's log as they happen; a sink without a queue, since the logger has one.
//
// Owner: the daemon's list of sinks. Thread rule: any thread, also under a lock: the logger takes the line and returns
// (log.h).
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "daemon/model/sink.h"

namespace ikkuna {

// One line for an event, at its severity. What a peer wrote is escaped, so that it stays one line and moves no cursor.
void LogEvent(const Event& event);

// Control characters as \n, \t, \x1b; bytes that are no UTF-8 as \xff; backslashes doubled.
std::string Escaped(std::string_view text);

class EventLog : public Sink {
 public:
  std::string name() const override { return "log"; }
  void Offer(std::shared_ptr<const Batch> batch) override;
  SinkCounters Counters() const override;
  Status Flush(std::chrono::steady_clock::time_point) override { return {}; }
  void Close() override { closed_.store(true, std::memory_order_relaxed); }

 private:
  // Relaxed: counts, and a flag that guards nothing.
  std::atomic<bool> closed_{false};
  std::atomic<uint64_t> events_dropped_{0};
};

}  // namespace ikkuna
