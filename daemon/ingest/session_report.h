// From the numbers of one session to the ProducerStatus that is shown and stored.
//
// Thread rule: none, no state. PUB's numbers are the producer's word: they are bounded here and only shown.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "daemon/ingest/registry_names.h"
#include "daemon/ingest/step_meter.h"
#include "daemon/model/status.h"
#include "shared/pub.h"

namespace ikkuna::ingest {

inline uint64_t Above(uint64_t value, uint64_t floor) { return value > floor ? value - floor : 0; }

// What all sessions of one producer did so far; carried from one to the next, over restarts of the daemon too.
// Each counter is counted where the thing happens; none is derived from another.
struct Ledger {
  uint64_t done_seq = 0;  // every record up to here was handled or counted, and its results have left the graph
  uint64_t done_beyond = 0;  // of an earlier daemon's records behind done_seq, those that it kept: see Progress
  uint64_t read_seq = 0;  // every record up to here was handed to the graph: see Progress
  uint64_t handled = 0;   // records handed to the graph
  uint64_t lost_in_daemon = 0;
  uint64_t killed = 0;
  uint64_t kinds_asked = 0;                        // set of kinds (KindBit) that were ever demanded
  std::map<std::string, uint64_t> steps_observed;  // by name of the root
  std::map<std::string, uint64_t> missing;         // by reason: see MessageGraph::Missing
};

// Where a session stands, as its ingest thread last saw it.
struct SessionNumbers {
  shm::StatusSnapshot pub;
  Ledger ledger;                                     // earlier sessions and this one
  std::array<uint64_t, kMaxRoots> steps_observed{};  // by root id - 1
  std::vector<Count> missing;                        // of this session
  uint64_t ring_position = 0;
  uint64_t arena_position = 0;
  uint64_t now_ns = 0;  // CLOCK_MONOTONIC of the snapshot
  // Nothing is read any more, `pub` neither: what the producer attempted beyond what is accounted for is not claimed.
  bool closed = false;
};

// The counters of `now` can have come after those of `before`, and the ring was read up to
// `ring_position`: to be asked where a producer is known to lie.
bool Follows(const shm::PubStatus& now, const shm::PubStatus& before, uint64_t ring_position, uint32_t ring_slots);

ProducerStatus MakeReport(const ProducerInfo& info, RunState state, const SessionNumbers& numbers,
                          const RegistryNames& names, const StepMeter& meter, uint32_t ring_slots);

}  // namespace ikkuna::ingest
