#include "daemon/service/watch_reactor.h"

#include <utility>

#include "daemon/service/cursor_text.h"
#include "daemon/service/message_size.h"

namespace ikkuna::service {
namespace {

// Slices of one message, each of which costs the connection some bookkeeping.
constexpr size_t kSlicesMax = 512;

grpc::Status Gone() { return {grpc::StatusCode::CANCELLED, "the client has gone"}; }

}  // namespace

std::shared_ptr<WatchReactor> WatchReactor::Create(OpenCalls& calls, LetIn let_in,
                                                   std::function<void(WatchReactor*)> on_done) {
  std::shared_ptr<WatchReactor> reactor(new WatchReactor(calls, std::move(let_in), std::move(on_done)));
  reactor->self_ = reactor;
  return reactor;
}

WatchReactor::WatchReactor(OpenCalls& calls, LetIn let_in, std::function<void(WatchReactor*)> on_done)
    : calls_(calls), on_done_(std::move(on_done)), let_in_(std::move(let_in)) {}

void WatchReactor::Begin(WatchAnswer answer, WatchParts parts) {
  // A thread of the hub may still be inside the callback when this stream is gone.
  answer.watcher->SetWakeUp([weak = weak_from_this()] {
    std::shared_ptr<WatchReactor> self = weak.lock();
    if (!self || self->pump_waiting_.exchange(true)) return;
    bool taken = self->calls_.Post(Lane::kWatches, [weak] {
      std::shared_ptr<WatchReactor> reactor = weak.lock();
      if (!reactor) return;
      reactor->pump_waiting_ = false;
      reactor->Pump();
    });
    if (!taken) self->pump_waiting_ = false;
  });
  {
    std::lock_guard lock(mutex_);
    // Ended meanwhile: with the status that was given then.
    if (end_) return;
    watcher_ = std::move(answer.watcher);
    daemon_ = answer.daemon;
    parts_ = parts;
    StartSendInitialMetadata();
  }
  Pump();
}

void WatchReactor::End(const Failure& failure) { End(ToGrpc(failure)); }

void WatchReactor::End(const grpc::Status& status) {
  {
    std::lock_guard lock(mutex_);
    if (!end_) end_ = status;
    at_once_ = true;
  }
  Pump();
}

void WatchReactor::EndWhenEmpty(const Failure& failure) {
  {
    std::lock_guard lock(mutex_);
    if (!end_) end_ = ToGrpc(failure);
  }
  Pump();
}

void WatchReactor::OnWriteDone(bool ok) {
  {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) {
      if (!end_) end_ = Gone();
      at_once_ = true;
    }
  }
  Pump();
}

void WatchReactor::OnCancel() { End(Gone()); }

void WatchReactor::OnDone() {
  on_done_(this);
  self_.reset();
}

void WatchReactor::Pump() {
  // The calls into gRPC are made without the lock; writing_ and finished_ keep others from making them meanwhile.
  std::unique_ptr<Watcher> ended;
  std::optional<grpc::Status> end;
  {
    std::lock_guard lock(mutex_);
    if (writing_ || finished_) return;
    if (const grpc::Status let_in = let_in_.Ask(); !let_in.ok()) {
      if (!end_) end_ = let_in;
      at_once_ = true;
    }
    const Answer<bool> filled = Guarded<Answer<bool>>([&]() -> Answer<bool> { return !at_once_ && FillLocked(); });
    if (!filled) {
      if (!end_) end_ = ToGrpc(filled.failure());
      at_once_ = true;
    }
    if (filled && *filled) {
      writing_ = true;
    } else if (end_) {
      finished_ = true;
      ended = std::move(watcher_);
      end = end_;
    } else {
      return;
    }
  }
  if (end) {
    ended.reset();
    Finish(*end);
  } else {
    StartWrite(&message_);
  }
}

bool WatchReactor::NextLocked() {
  if (update_) return true;
  if (taken_.empty()) {
    if (!watcher_) return false;
    WatchTaken taken = watcher_->Take(kValuesTaken);
    taken_.insert(taken_.end(), taken.updates.begin(), taken.updates.end());
    taken.updates.clear();
    counted_ = std::move(taken);
    if (counted_.ended && !end_) end_ = ToGrpc(Stopping());
    if (taken_.empty()) return false;
  }
  encoding_ = taken_.front()->Once<WatchEncoding>(Encode);
  update_ = std::move(taken_.front());
  taken_.pop_front();
  next_piece_ = 0;
  return true;
}

bool WatchReactor::FillLocked() {
  std::vector<grpc::Slice> slices;
  MessageRoom room;
  uint64_t position = 0;
  bool full = false;
  while (!full && slices.size() < kSlicesMax && NextLocked()) {
    for (; next_piece_ < encoding_->pieces.size(); ++next_piece_) {
      const WatchPiece& piece = encoding_->pieces[next_piece_];
      if ((piece.part & parts_) == 0) continue;
      const bool fresh = update_->run_number != 0 && runs_told_.count(update_->run_number) == 0;
      full = !room.Take(piece.bytes.size() + (fresh ? encoding_->run.size() : 0));
      if (full) break;
      if (fresh) {
        slices.push_back(encoding_->run);
        runs_told_.insert(update_->run_number);
      }
      slices.push_back(piece.bytes);
    }
    if (full) break;
    if (update_->position > 0) position = update_->position;
    update_.reset();
    encoding_.reset();
  }
  const bool lost = counted_.dropped != dropped_told_ || counted_.events_dropped != events_dropped_told_;
  if (slices.empty() && !lost) return false;
  v1::WatchResponse tail;
  if (counted_.dropped != dropped_told_) tail.set_dropped(dropped_told_ = counted_.dropped);
  if (counted_.events_dropped != events_dropped_told_) {
    tail.set_events_dropped(events_dropped_told_ = counted_.events_dropped);
  }
  if (position > 0) tail.set_cursor(ToText({daemon_, position}));
  slices.push_back(ToSlice(tail));
  message_ = grpc::ByteBuffer(slices.data(), slices.size());
  return true;
}

}  // namespace ikkuna::service
