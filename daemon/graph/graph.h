// Graph: the subscribers of one producer and the messages on their way through them.
//
// A Graph belongs to one producer and one thread, its ingest thread. Messages come in order; state is the producer's
// own. Everything of one step is gathered in a frame (root, tag, step). Statistics of the calls and micro-batches of a
// series merge in it as if the tensors were concatenated; whole tensors are handed to the subscribers that need them
// while their bytes are valid; when the step closes the subscribers run in topological order and the results leave as
// one Batch.
//
// A frame is published only when it is whole: its batch_started was seen, and of series that can have several messages
// a step only if no message was dropped meanwhile (the record's dropped_total). What cannot be published is counted.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/sample.h"
#include "daemon/series_catalogue.h"
#include "shared/base/result.h"
#include "shared/ctl.h"
#include "shared/pub.h"

namespace ikkuna::graph {

class SubscriberSet;  // subscriber_set.h: the process-wide, versioned list of what is subscribed

struct GraphCounters {
  uint64_t frames_closed = 0;     // whole steps published
  uint64_t frames_discarded = 0;  // began before we were there, or never closed
  uint64_t incomplete_bundles = 0;
  uint64_t series_withheld = 0;  // per-call series of a step in which messages were dropped
};

class Graph {
 public:
  // `emit` receives each finished batch on the calling thread.
  Graph(std::shared_ptr<const ProducerInfo> producer, SeriesCatalogue& catalogue, SubscriberSet& subscribers,
        std::function<void(Batch)> emit);
  ~Graph();

  // Names for ids; also grows what module filters match.
  void AddRegistry(const std::vector<shm::RegistryEntry>& entries);

  // Handles one message, in ring order; the payload is not touched after it returns.
  void Handle(const shm::Message& message);

  // Takes over added and removed subscribers; true when the demand changed. Cheap when nothing changed (one atomic).
  bool Refresh();
  // What to ask of this producer for all subscribers, with the fewest entries; always contains batch_started and
  // batch_finished of each (root, tag, period) asked for.
  std::vector<shm::DemandItem> Demand() const;

  // Highest seq below which nothing is waiting in an open frame.
  uint64_t done_seq() const;
  // The producer is gone: discards open frames (counted), flushes what is whole.
  void Finish();
  GraphCounters counters() const;
  // Last finished step of a root in this graph: steps that were closed whole.
  uint64_t steps_observed(uint16_t root) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ikkuna::graph
