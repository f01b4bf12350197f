// Sink: a destination of batches. The daemon has one list of them.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon/model/batch.h"
#include "daemon/model/status.h"
#include "shared/base/result.h"

namespace ikkuna {

// In values (samples and others); always: offered == written + dropped + waiting. What a sink's own filter leaves out
// is not counted as offered, once the sink has looked at it.
struct SinkCounters {
  std::string name;
  uint64_t offered = 0;
  uint64_t written = 0;
  uint64_t dropped = 0;  // because the sink could not keep up, or refused them; the sum of `drops`
  uint64_t waiting = 0;
  uint64_t events_dropped = 0;
  uint64_t failures = 0;   // times that its writer failed with an exception
  double lag_seconds = 0;  // age of the oldest batch that waits
  std::vector<Count>
      drops;  // by reason (queue_full, closed, failed, the sink's own); those that never happened are left out
};

// Thread rule: every method from any thread.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual std::string name() const = 0;
  // Never blocks, never fails, and costs the caller next to nothing: what cannot be taken is dropped and counted.
  virtual void Offer(std::shared_ptr<const Batch> batch) = 0;
  virtual SinkCounters Counters() const = 0;
  // Until everything offered before is written or dropped, `deadline` at the latest. An error says what could not be.
  virtual Status Flush(std::chrono::steady_clock::time_point deadline) = 0;
  // Takes nothing more and ends its thread. Flush first; what still waits is dropped and counted.
  virtual void Close() = 0;
};

}  // namespace ikkuna
