// MessageGraph: what ingest does with a producer's messages, as ingest sees it. Implemented by daemon/graph/graph.h.
//
// One a producer, on its ingest thread, unless said otherwise.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "daemon/model/batch.h"
#include "daemon/model/status.h"
#include "shared/ctl.h"
#include "shared/pub.h"

namespace ikkuna {

class MessageGraph {
 public:
  virtual ~MessageGraph() = default;

  // Names for ids; also grows what module filters match.
  virtual void AddRegistry(const std::vector<shm::RegistryEntry>& entries) = 0;
  // Handles one message, in ring order but for those whose bytes came late, which come before the end of their step;
  // the payload is not touched after it returns (what works longer has a copy).
  virtual void Handle(const shm::Message& message) = 0;
  // Takes over added and removed subscribers; true when the demand changed. Cheap when nothing changed (one atomic).
  virtual bool Refresh() = 0;
  // What to ask of this producer for all subscribers, with the fewest entries.
  virtual std::vector<shm::DemandItem> Demand() = 0;
  // A look at time: what waits too long (a frame whose end was lost, a root that went silent) is given up. Called about
  // every 50 ms, also where no messages come.
  virtual void Tick(uint64_t monotonic_ns) = 0;

  // Highest seq up to which nothing is waiting: in no open frame and in no queue.
  virtual uint64_t done_seq() const = 0;
  // Records behind done_seq() that something waits for.
  virtual uint64_t held() const = 0;
  // Something of a closed step is computed still, on another thread, by this run alone.
  virtual bool computes() const = 0;
  // The producer is gone: discards open frames (counted), flushes what is whole, and gives what is still computed until
  // `deadline_ns` (CLOCK_MONOTONIC); what is not there then is cancelled and counted.
  virtual void Finish(uint64_t deadline_ns) = 0;

  // What was read and nothing came of, by reason, such as withheld, incomplete, discarded, unnamed, queue_full,
  // memory_full, cancelled, repeated, no_step. Reasons that never happened are left out, and so is what an earlier daemon
  // counted (Run::counted_until).
  virtual std::vector<Count> Missing() const = 0;
  // Steps of a root that were closed whole; those that an earlier daemon counted are not among them.
  virtual uint64_t steps_observed(uint16_t root) const = 0;
};

// `emit` receives each finished batch, on the ingest thread: what is computed later goes out with a Tick(). The batch has
// no progress; that is ingest's.
using MakeMessageGraph =
    std::function<std::unique_ptr<MessageGraph>(std::shared_ptr<Run> run, std::function<void(Batch)> emit)>;

}  // namespace ikkuna
