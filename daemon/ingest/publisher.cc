#include "daemon/ingest/publisher.h"

#include <tuple>
#include <utility>

#include "shared/base/clock.h"

namespace ikkuna::ingest {

void Publisher::Offer(Batch batch) {
  batch.run = run_;
  const auto shared = std::make_shared<const Batch>(std::move(batch));
  for (Sink* sink : sinks_) sink->Offer(shared);
}

void Publisher::Emit(Batch batch) { emitted_.push_back(std::move(batch)); }

void Publisher::OfferEvent(Severity severity, const std::string& kind, const std::string& text) {
  Event event;
  event.unix_ns = UnixNs();
  event.severity = severity;
  event.run = run_->key();
  event.kind = kind;
  event.text = text;
  Batch batch;
  batch.events.push_back(std::move(event));
  Offer(std::move(batch));
}

void Publisher::OfferEmitted(const Progress& progress) {
  std::vector<Batch> batches = std::exchange(emitted_, {});
  for (size_t i = 0; i < batches.size(); ++i) {
    if (i + 1 == batches.size()) batches[i].progress = progress;
    Offer(std::move(batches[i]));
  }
  offered_ = progress;
  offered_ns_ = MonotonicNs();
}

void Publisher::OfferProgress(const Progress& progress, bool at_once) {
  const uint64_t now = MonotonicNs();
  // Steps of which nothing was asked move no record: those the producer's status tells of, now and then.
  const auto records = [](const Progress& of) {
    return std::tie(of.done_seq, of.done_beyond, of.read_seq, of.lost_in_daemon, of.killed, of.missing);
  };
  const bool moved = records(progress) != records(offered_);
  if (!at_once && (!moved || now - offered_ns_ < kProgressNs)) return;
  Batch batch;
  batch.progress = progress;
  Offer(std::move(batch));
  offered_ = progress;
  offered_ns_ = now;
}

}  // namespace ikkuna::ingest
