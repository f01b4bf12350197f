// IngestContext: what every session works with.
//
// A plain value; what it refers to outlives Ingest.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/ingest/payload_source.h"
#include "daemon/model/message_graph.h"
#include "daemon/model/run_store.h"
#include "daemon/model/sink.h"

namespace ikkuna::ingest {

struct IngestContext {
  MakeMessageGraph make_graph;
  RunStore* store = nullptr;
  std::vector<Sink*> sinks;      // the store's own among them: it learns of progress as the others do
  // How long one whose process cannot be seen (kPidUnknown) may stay away before it counts as ended: a probe that lives
  // comes back within a second or two of a daemon's start. As long as it counts as alive a job that is started again
  // under its name is another job.
  uint64_t unseen_grace_ns = 60'000'000'000;
  uint32_t budget_ppm = 10'000;  // share of the step time that a probe may cost; 0: no budget
  // Other users' trainers are let in as well (--allow-uid): whose a run is counts.
  bool several_users = false;
  uint64_t unready_ns = 10'000'000'000;  // how long bytes that come late may take
  std::string version;           // told to the producer
  // Payload sources of a new session; empty: the host arena alone.
  std::function<std::vector<std::unique_ptr<PayloadSource>>()> make_sources;
};

}  // namespace ikkuna::ingest
