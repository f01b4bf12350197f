#include "daemon/sinks/store_queue.h"

#include <algorithm>
#include <utility>

#include "daemon/sinks/store.h"

namespace ikkuna::sinks {
namespace {

void Merge(const Progress& from, Progress& to) {
  to.producer = from.producer;
  to.done_seq = std::max(to.done_seq, from.done_seq);
  to.lost_in_daemon = std::max(to.lost_in_daemon, from.lost_in_daemon);
  to.killed = std::max(to.killed, from.killed);
}

// Status of a producer comes again and again; while the disk refuses only the latest needs to wait.
bool ReplaceLast(const RunWrite& write, std::vector<RunWrite>& writes) {
  const auto* status = std::get_if<ProducerStatus>(&write);
  if (!status) return false;
  for (auto it = writes.rbegin(); it != writes.rend(); ++it) {
    if (auto* upsert = std::get_if<RunUpsert>(&*it); upsert && upsert->producer.uuid == status->info.uuid) return false;
    auto* earlier = std::get_if<ProducerStatus>(&*it);
    if (earlier && earlier->info.uuid == status->info.uuid) {
      *earlier = *status;
      return true;
    }
  }
  return false;
}

}  // namespace

StoreChunk& StoreQueue::TailLocked() {
  if (chunks_.empty() || chunks_.back().rows() >= Store::kRowsPerCommit) {
    chunks_.emplace_back();
    chunks_.back().oldest = Clock::now();
  }
  chunks_.back().last_ticket = ++ticket_;
  return chunks_.back();
}

void StoreQueue::Offer(const Batch& batch) {
  const uint64_t rows = batch.samples.size() + batch.texts.size();
  bool due;
  {
    std::lock_guard lock(mutex_);
    offered_ += rows;
    if (closing_) {
      dropped_ += rows;
      events_dropped_ += batch.events.size();
      return;
    }
    const bool was_empty = chunks_.empty();
    const bool full = rows_ + rows > Store::kSamplesQueuedMax || batches_ >= Store::kBatchesQueuedMax;
    StoreChunk& chunk = TailLocked();
    if (full) {
      dropped_ += rows;
    } else {
      chunk.samples.insert(chunk.samples.end(), batch.samples.begin(), batch.samples.end());
      chunk.texts.insert(chunk.texts.end(), batch.texts.begin(), batch.texts.end());
      rows_ += rows;
      ++chunk.batches;
      ++batches_;
    }
    for (const Event& event : batch.events) {
      if (events_ >= Store::kEventsQueuedMax) {
        ++events_dropped_;
        continue;
      }
      chunk.events.push_back(event);
      ++events_;
    }
    if (batch.progress.producer != Uuid{}) Merge(batch.progress, chunk.progress[batch.progress.producer]);
    // Otherwise the writer already waits for this chunk's time.
    due = was_empty || chunk.rows() >= Store::kRowsPerCommit;
  }
  if (due) writer_wakes_.notify_one();
}

void StoreQueue::Push(RunWrite write) {
  {
    std::lock_guard lock(mutex_);
    if (closing_ || run_writes_ >= Store::kRunWritesQueuedMax) {
      ++events_dropped_;
      return;
    }
    StoreChunk& chunk = TailLocked();
    if (!ReplaceLast(write, chunk.run_writes)) {
      chunk.run_writes.push_back(std::move(write));
      ++run_writes_;
    }
  }
  writer_wakes_.notify_one();
}

void StoreQueue::Push(Event event) {
  {
    std::lock_guard lock(mutex_);
    if (closing_ || events_ >= Store::kEventsQueuedMax) {
      ++events_dropped_;
      return;
    }
    TailLocked().events.push_back(std::move(event));
    ++events_;
  }
  writer_wakes_.notify_one();
}

uint64_t StoreQueue::Nudge() {
  uint64_t ticket;
  {
    std::lock_guard lock(mutex_);
    ticket = nudged_ticket_ = ticket_;
  }
  writer_wakes_.notify_one();
  return ticket;
}

Result<bool> StoreQueue::WaitCommitted(uint64_t ticket, std::optional<Clock::time_point> deadline) {
  std::unique_lock lock(mutex_);
  const uint64_t failures = failures_;
  auto over = [&] { return committed_ticket_ >= ticket || failures_ != failures; };
  if (!deadline) {
    waiters_wake_.wait(lock, over);
  } else if (!failing_) {
    waiters_wake_.wait_until(lock, *deadline, over);
  }
  if (committed_ticket_ >= ticket) return true;
  if (failures_ != failures) return last_error_;
  return false;
}

void StoreQueue::Close() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  writer_wakes_.notify_one();
}

bool StoreQueue::closing() const {
  std::lock_guard lock(mutex_);
  return closing_;
}

void StoreQueue::Wake() {
  {
    std::lock_guard lock(mutex_);
    wake_ = true;
  }
  writer_wakes_.notify_one();
}

StoreQueue::Taken StoreQueue::Take(Clock::time_point until) {
  std::unique_lock lock(mutex_);
  auto due = [&] {
    if (chunks_.empty()) return false;
    const StoreChunk& chunk = chunks_.front();
    return closing_ || chunks_.size() > 1 || chunk.rows() >= Store::kRowsPerCommit ||
           nudged_ticket_ > committed_ticket_ || Clock::now() >= chunk.oldest + Store::kCommitAfter;
  };
  while (!due() && !closing_ && !std::exchange(wake_, false)) {
    Clock::time_point deadline = until;
    if (!chunks_.empty()) deadline = std::min(deadline, chunks_.front().oldest + Store::kCommitAfter);
    if (writer_wakes_.wait_until(lock, deadline) == std::cv_status::timeout && Clock::now() >= until) break;
  }
  if (!due()) return {std::nullopt, closing_};
  Taken taken{std::move(chunks_.front()), false};
  chunks_.pop_front();
  in_flight_since_ = taken.chunk->oldest;
  return taken;
}

void StoreQueue::ReleaseLocked(const StoreChunk& chunk) {
  rows_ -= chunk.rows();
  batches_ -= chunk.batches;
  events_ -= chunk.events.size();
  run_writes_ -= chunk.run_writes.size();
  committed_ticket_ = std::max(committed_ticket_, chunk.last_ticket);
  in_flight_since_.reset();
}

void StoreQueue::Committed(const StoreChunk& chunk, uint64_t dropped) {
  {
    std::lock_guard lock(mutex_);
    ReleaseLocked(chunk);
    written_ += chunk.rows() - dropped;
    dropped_ += dropped;
    failing_ = false;
  }
  waiters_wake_.notify_all();
}

void StoreQueue::GivenUp(const StoreChunk& chunk) {
  {
    std::lock_guard lock(mutex_);
    ReleaseLocked(chunk);
    dropped_ += chunk.rows();
    events_dropped_ += chunk.events.size() + chunk.run_writes.size();
  }
  waiters_wake_.notify_all();
}

void StoreQueue::Failed(const Error& error) {
  {
    std::lock_guard lock(mutex_);
    ++failures_;
    failing_ = true;
    last_error_ = error;
    // What was nudged has been tried.
    nudged_ticket_ = committed_ticket_;
  }
  waiters_wake_.notify_all();
}

void StoreQueue::WaitToRetry(Clock::time_point until) {
  std::unique_lock lock(mutex_);
  writer_wakes_.wait_until(lock, until, [&] { return closing_ || nudged_ticket_ > committed_ticket_; });
}

SinkCounters StoreQueue::counters() const {
  std::lock_guard lock(mutex_);
  SinkCounters counters;
  counters.name = "store";
  counters.offered = offered_;
  counters.written = written_;
  counters.dropped = dropped_;
  counters.queued = batches_;
  std::optional<Clock::time_point> oldest = in_flight_since_;
  if (!oldest && !chunks_.empty()) oldest = chunks_.front().oldest;
  if (oldest) counters.lag_seconds = std::chrono::duration<double>(Clock::now() - *oldest).count();
  return counters;
}

uint64_t StoreQueue::events_dropped() const {
  std::lock_guard lock(mutex_);
  return events_dropped_;
}

}  // namespace ikkuna::sinks
