// Publisher: the way of one producer's batches and events to every sink.
//
// The graph's batches come on the ingest thread, where they wait for the word on how far the graph is. A record counts as
// done only after its results were offered, so progress offered afterwards is true in every sink. Shared by the session
// and the graph's callback; the sinks outlive both.
// Thread rule: OfferEvent from any thread, the rest on the ingest thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon/model/batch.h"
#include "daemon/model/sink.h"

namespace ikkuna::ingest {

class Publisher {
 public:
  static constexpr uint64_t kProgressNs = 250'000'000;  // how late sinks may learn of progress without values

  Publisher(std::shared_ptr<Run> run, std::vector<Sink*> sinks) : run_(std::move(run)), sinks_(std::move(sinks)) {}

  const std::shared_ptr<Run>& run() const { return run_; }

  void Emit(Batch batch);
  void OfferEvent(Severity severity, const std::string& kind, const std::string& text);

  bool waits() const { return !emitted_.empty(); }
  // Offers what waits. Only the last batch bears the progress: the results of its records may be in any of them.
  void OfferEmitted(const Progress& progress);
  // Progress alone, if it moved and the last was a while ago.
  void OfferProgress(const Progress& progress, bool at_once);

 private:
  void Offer(Batch batch);

  // Constant after construction.
  const std::shared_ptr<Run> run_;
  const std::vector<Sink*> sinks_;

  // Ingest thread only.
  std::vector<Batch> emitted_;
  Progress offered_;
  uint64_t offered_ns_ = 0;
};

}  // namespace ikkuna::ingest
