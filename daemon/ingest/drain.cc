#include "daemon/ingest/drain.h"

#include "shared/base/clock.h"

#include <optional>
#include <utility>

namespace ikkuna::ingest {

Drain::Drain(shm::PubView& view, shm::CtlWriter& ctl, std::vector<std::unique_ptr<PayloadSource>> sources,
             uint64_t skip_through, uint64_t counted_through, uint64_t unready_ns,
             std::function<void(const shm::Message&)> handle)
    : view_(view),
      ctl_(ctl),
      sources_(std::move(sources)),
      skip_through_(skip_through),
      counted_through_(counted_through),
      handle_(std::move(handle)),
      late_(view, unready_ns, counted_through, handle_, [this] { return MayGoOn(); }),
      arena_head_(view.arena_position()),
      late_step_(std::min(kBytesPerHead, view.header().late_bytes / kHeadsPerLateRing)),
      published_{view.ring_position(), view.arena_position(), view.late_position()} {}

Status Drain::AddEntries(const std::vector<shm::RegistryEntry>& entries) {
  for (const auto& entry : entries) {
    for (const auto& source : sources_) {
      if (auto added = source->AddEntry(entry); !added) return added;
    }
  }
  return {};
}

PayloadSource* Drain::SourceOf(const shm::Message& message) const {
  for (const auto& source : sources_) {
    if (static_cast<uint8_t>(source->space()) == message.record.space) return source.get();
  }
  return nullptr;
}

// True when the message is done with; false when it has to wait.
Result<bool> Drain::TryFinish(shm::Message& message, bool skipped) {
  if (message.record.type == static_cast<uint8_t>(RecordType::kVoid)) {
    read_seq_ = message.record.seq;
    if (shm::IsLate(message)) {
      if (auto passed = late_.Pass(message); !passed) return passed.error();
    }
    handled_ += skipped ? 0 : 1;
    voids_ += skipped || message.record.seq <= counted_through_ ? 0 : 1;
    return true;
  }
  if (message.record.space == static_cast<uint8_t>(Space::kInline)) {
    if (!skipped && message.record.kind == static_cast<uint8_t>(Kind::kBatchStarted)) late_.Begin(message.record);
    if (skipped || !late_.Wants(message.record)) {
      HandOn(message, skipped);
      return true;
    }
    read_seq_ = message.record.seq;
    if (auto taken = late_.TakeMarker(std::move(message)); !taken) return taken.error();
    return true;
  }
  if (shm::IsLate(message)) {
    read_seq_ = message.record.seq;
    if (auto taken = skipped ? late_.Pass(message) : late_.Take(std::move(message)); !taken) return taken.error();
    return true;
  }
  PayloadSource* source = SourceOf(message);
  if (source == nullptr) return Error{ErrorCode::kCorrupt, "a payload lies in a space that was not agreed on"};
  if (!skipped) {
    if (!source->Ready(message)) return false;
    auto payload = source->Resolve(message);
    if (!payload) return payload.error();
    message.payload = payload->data;
    message.payload_bytes = payload->bytes;
  }
  HandOn(message, skipped);
  source->Release(message);
  return true;
}

// It counts as read while it is handled: what is said meanwhile of what was counted speaks of it.
void Drain::HandOn(const shm::Message& message, bool skipped) {
  read_seq_ = message.record.seq;
  if (skipped) return;
  handle_(message);
  ++handled_;
}

Result<uint64_t> Drain::RunWaiting() {
  uint64_t finished = 0;
  while (!waiting_.empty()) {
    Waiting& front = waiting_.front();
    auto done = TryFinish(front.message, front.skipped);
    if (!done) return done.error();
    if (!*done) break;
    arena_head_ = front.arena_end;
    waiting_.pop_front();
    ++finished;
  }
  return finished;
}

Status Drain::Take(shm::Message message) {
  const bool skipped = message.record.seq <= skip_through_;
  if (waiting_.empty()) {
    auto done = TryFinish(message, skipped);
    if (!done) return done.error();
    if (*done) {
      arena_head_ = view_.arena_position();
      return {};
    }
  }
  waiting_.push_back({std::move(message), view_.arena_position(), skipped});
  return {};
}

Result<uint64_t> Drain::Run(uint64_t records_max, uint64_t end) {
  run_until_ns_ = MonotonicNs() + kRunNs;
  auto polled = late_.Poll();
  if (!polled) return polled.error();
  auto finished = RunWaiting();
  if (!finished) return finished.error();
  uint64_t done = *polled + *finished;
  uint64_t taken = 0;
  for (; taken < records_max && view_.ring_position() < end; ++taken) {
    if (waiting_.size() >= kWaitingMax) break;
    // Where a record costs milliseconds, the session looks up between them: at its peer, and whether it is to end.
    if (taken % 16 == 15 && MonotonicNs() > run_until_ns_) break;
    auto next = view_.Next();
    if (!next) return next.error();
    if (!next->has_value()) break;
    if (auto status = Take(std::move(**next)); !status) return status.error();
    ++done;
    PublishHeadsSometimes();
  }
  // What was ready when it was read need not wait for the next turn.
  if (taken > 0) {
    polled = late_.Poll();
    if (!polled) return polled.error();
    done += *polled;
  }
  FreeRead();
  PublishHeads();
  return done;
}

// Much may be ready at once, and the producer waits for its room, the session for its turn.
bool Drain::MayGoOn() {
  PublishHeadsSometimes();
  return MonotonicNs() <= run_until_ns_;
}

// With nothing waiting, all that the view has read is done with.
void Drain::FreeRead() {
  if (!waiting_.empty()) return;
  arena_head_ = view_.arena_position();
  late_.CatchUp();
}

uint64_t Drain::SkipHole() { return view_.SkipHole(); }

uint64_t Drain::AbandonWaiting() {
  uint64_t abandoned = 0;
  for (Waiting& waiting : waiting_) {
    if (PayloadSource* source = SourceOf(waiting.message)) source->Release(waiting.message);
    if (!waiting.skipped) ++abandoned;
  }
  waiting_.clear();
  FreeRead();
  return abandoned;
}

void Drain::PublishHeadsSometimes() {
  if (view_.ring_position() - published_.ring_head >= kRecordsPerHead ||
      arena_head_ - published_.arena_head >= kBytesPerHead || late_.head() - *published_.late_head > late_step_) {
    PublishHeads();
  }
}

void Drain::PublishHeads() {
  const shm::Heads now{view_.ring_position(), arena_head_, late_.head()};
  if (now != published_) {
    ctl_.SetHeads(now);
    published_ = now;
  }
  for (const auto& source : sources_) source->PublishHeads(ctl_);
}

}  // namespace ikkuna::ingest
