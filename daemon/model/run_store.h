// RunStore: what the daemon knows of runs beyond their values: ingest asks it who was here before, and tells it who is.
// The store implements it (daemon/sinks/).
//
// Thread rule: every method from any thread. Writers queue; what they were told is part of every answer at once.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "daemon/model/batch.h"
#include "daemon/model/series.h"
#include "daemon/model/status.h"
#include "shared/base/result.h"

namespace ikkuna {

class RunStore {
 public:
  virtual ~RunStore() = default;

  // Every producer of this host that the store has, by start time, with its counters as last saved; the record counts of
  // one that was running or disconnected are those committed with its samples.
  virtual Result<std::vector<ProducerStatus>> LoadProducers() = 0;
  // Those whose files could not be read then and can be now, each once.
  virtual std::vector<ProducerStatus> TakeFound() = 0;
  // Of the last commit (or of the file as it was opened): where to go on with a producer that an earlier daemon served.
  virtual std::optional<Progress> LoadProgress(const RunKey& run) = 0;

  // A producer comes (or comes back: same uuid and key, then the catalogue has the series of before).
  // kAlreadyExists: the key is that of another producer.
  virtual Result<std::shared_ptr<Run>> Begin(const ProducerInfo& producer) = 0;
  // The last known counters; its state becomes the run's. Call it now and then and at the end.
  virtual void SaveProducer(const ProducerStatus& status) = 0;
  // Replaces what was stored of the run's modules.
  virtual void SaveModules(const RunKey& run, std::vector<ModuleInfo> modules) = 0;
};

}  // namespace ikkuna
