#include "daemon/sinks/queued_sink.h"

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <exception>
#include <utility>

#include "daemon/model/counted.h"
#include "shared/base/clock.h"

namespace ikkuna::sinks {
namespace {

constexpr std::chrono::minutes kFailuresToldEvery{1};  // a disk that fails for a night does not fill the log

// Reasons that are the queue's own. Their counts exist from the start, so that counting a drop needs no memory.
constexpr std::string_view kQueueFull = "queue_full";
constexpr std::string_view kClosed = "closed";
constexpr std::string_view kFailed = "failed";
constexpr std::string_view kMemory = "memory";

}  // namespace

QueuedSink::QueuedSink(QueueOptions options, std::unique_ptr<BatchWriter> writer)
    : options_(std::move(options)), writer_(std::move(writer)) {
  for (std::string_view reason : {kQueueFull, kClosed, kFailed, kMemory}) drops_[reason] = 0;
  thread_ = std::thread([this] { Run(); });
}

QueuedSink::~QueuedSink() { Close(); }

void QueuedSink::DropLocked(const Batch& batch, std::string_view reason) {
  drops_[reason] += ValuesOf(batch);
  events_dropped_ += EventsOf(batch);
}

void QueuedSink::Offer(std::shared_ptr<const Batch> batch) {
  const uint64_t values = ValuesOf(*batch);
  if (values == 0 && EventsOf(*batch) == 0) return;
  const size_t bytes = BytesOf(*batch);
  bool wake = false;
  {
    std::lock_guard lock(mutex_);
    ++ticket_;
    offered_ += values;
    if (closing_) return DropLocked(*batch, kClosed);
    const auto full = [&] {
      return !queue_.empty() && (queue_.size() >= options_.batches_max || bytes_queued_ + bytes > options_.bytes_max);
    };
    if (full() && options_.drop == DropPolicy::kNewest) return DropLocked(*batch, kQueueFull);
    while (full()) {
      DropLocked(*queue_.front().batch, kQueueFull);
      bytes_queued_ -= queue_.front().bytes;
      queue_.pop_front();
    }
    const Batch& kept = *batch;
    try {
      queue_.push_back({std::move(batch), ticket_, bytes, Clock::now()});
    } catch (...) {
      return DropLocked(kept, kMemory);
    }
    bytes_queued_ += bytes;
    // It is woken once: while it gathers, only by a queue that is filling up.
    wake = doing_ == Doing::kSleeping || (doing_ == Doing::kGathering && HalfFullLocked());
    if (wake) doing_ = Doing::kWorking;
  }
  if (wake) thread_wakes_.notify_one();
}

bool QueuedSink::HalfFullLocked() const {
  return queue_.size() >= options_.batches_max / 2 || bytes_queued_ >= options_.bytes_max / 2;
}

void QueuedSink::Run() {
  // Best effort both: a name and a niceness change nothing of what is written.
  (void)pthread_setname_np(pthread_self(), ("sink-" + options_.name).substr(0, 15).c_str());
  // It does not come before the rest of a daemon that was started with less either.
  const auto thread = static_cast<id_t>(gettid());
  (void)setpriority(PRIO_PROCESS, thread, std::max(options_.niceness, getpriority(PRIO_PROCESS, thread)));
  Clock::time_point commit_due = Clock::now() + options_.commit_every;
  std::unique_lock lock(mutex_);
  while (true) {
    const auto asked = [this] { return closing_ || flush_ticket_ > committed_ticket_; };
    const auto anything = [&] { return asked() || !queue_.empty(); };
    if (!anything()) {
      doing_ = Doing::kSleeping;
      if (taken_ticket_ > committed_ticket_) {
        thread_wakes_.wait_until(lock, commit_due, anything);
      } else {
        thread_wakes_.wait(lock, anything);
      }
    }
    if (options_.gather.count() > 0 && !asked() && !queue_.empty()) {
      doing_ = Doing::kGathering;
      thread_wakes_.wait_for(lock, options_.gather, [&] { return asked() || HalfFullLocked(); });
    }
    doing_ = Doing::kWorking;
    if (closing_) break;
    // One at a time: what is still in the queue counts against its bounds, and may give way to newer ones.
    while (!queue_.empty() && !closing_) {
      WriteOne(lock);
      // A queue that never empties must not put off what a flush waits for.
      if (Clock::now() >= commit_due || (flush_ticket_ > committed_ticket_ && taken_ticket_ >= flush_ticket_)) break;
    }
    if (Clock::now() >= commit_due || (flush_ticket_ > committed_ticket_ && taken_ticket_ >= flush_ticket_)) {
      Commit(lock);
      commit_due = Clock::now() + options_.commit_every;
    }
  }
  for (const Waiting& waiting : queue_) {
    DropLocked(*waiting.batch, kClosed);
    taken_ticket_ = waiting.ticket;
  }
  queue_.clear();
  bytes_queued_ = 0;
  Commit(lock);
  lock.unlock();
  const std::string failure = Guarded([&] { writer_->End(); });
  if (!failure.empty()) ReportFailure(failure, nullptr);
}

void QueuedSink::WriteOne(std::unique_lock<std::mutex>& lock) {
  const Waiting waiting = std::move(queue_.front());
  queue_.pop_front();
  bytes_queued_ -= waiting.bytes;
  if (busy_since_ == Clock::time_point()) busy_since_ = waiting.since;
  handed_ += ValuesOf(*waiting.batch);
  writing_ticket_ = waiting.ticket;
  lock.unlock();
  Tally tally;
  const std::string failure = Guarded([&] { writer_->Write(waiting.batch, waiting.ticket, tally); });
  if (!failure.empty()) ReportFailure(failure, waiting.batch.get());
  lock.lock();
  taken_ticket_ = waiting.ticket;
  if (!failure.empty()) events_dropped_ += EventsOf(*waiting.batch);
  SettleLocked(tally, failure);
}

void QueuedSink::Commit(std::unique_lock<std::mutex>& lock) {
  if (taken_ticket_ > committed_ticket_) {
    lock.unlock();
    Tally tally;
    const std::string failure = Guarded([&] { writer_->Commit(tally); });
    if (!failure.empty()) ReportFailure(failure, nullptr);
    lock.lock();
    SettleLocked(tally, failure);
    drops_[kFailed] += std::exchange(handed_, 0);
    busy_since_ = {};
    committed_ticket_ = taken_ticket_;
  }
  flushed_.notify_all();
}

void QueuedSink::SettleLocked(const Tally& tally, const std::string& failure) {
  // Never more than it was given: after an exception a writer may find in its buffers what was counted as lost.
  const auto settled = [this](uint64_t values) {
    const uint64_t counted = std::min(values, handed_);
    handed_ -= counted;
    return counted;
  };
  written_ += settled(tally.written);
  offered_ -= settled(tally.left_out);
  for (const auto& [reason, values] : tally.drops) {
    const uint64_t counted = settled(values);
    try {
      drops_[reason] += counted;
    } catch (...) {
      drops_[kMemory] += counted;  // a reason that is new needs memory, this one has it
    }
  }
  events_dropped_ += tally.events_dropped;
  if (!failure.empty()) ++failures_;
}

template <typename Call>
std::string QueuedSink::Guarded(Call call) {
  try {
    call();
    return {};
  } catch (const std::exception& error) {
    return *error.what() ? error.what() : "an exception without a text";
  } catch (...) {
    return "an unknown exception";
  }
}

void QueuedSink::ReportFailure(const std::string& what, const Batch* batch) {
  ++failures_untold_;
  if (!options_.report || Clock::now() < report_due_) return;
  report_due_ = Clock::now() + kFailuresToldEvery;
  (void)Guarded([&] {
    Event event;
    event.unix_ns = UnixNs();
    event.severity = Severity::kError;
    event.kind = "sink_failed";
    event.text = "the sink '" + options_.name + "' failed with '" + what + "'";
    if (batch && batch->run)
      event.text += " at step " + std::to_string(batch->stamp.step) + " of run " + Describe(batch->run->key());
    if (failures_untold_ > 1)
      event.text += ", and " + Counted(failures_untold_ - 1, "time") + " since it was last told";
    event.text += "; what it could not write is dropped and counted ('ikkuna status'), and it goes on";
    failures_untold_ = 0;
    options_.report(std::move(event));
  });
}

Status QueuedSink::Flush(Clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  const uint64_t ticket = queue_.empty() ? taken_ticket_ : queue_.back().ticket;
  // What is being written at this moment has been taken from the queue, but is not in taken_ticket_ yet.
  const uint64_t wanted = std::max(ticket, writing_ticket_);
  if (committed_ticket_ >= wanted) return {};
  flush_ticket_ = std::max(flush_ticket_, wanted);
  thread_wakes_.notify_one();
  if (flushed_.wait_until(lock, deadline, [&] { return committed_ticket_ >= wanted; })) return {};
  const uint64_t left = WaitingLocked();
  return Error{ErrorCode::kUnavailable, "the sink '" + options_.name +
                                            "' could not write all in time: " + Counted(left, "value") +
                                            (left == 1 ? " waits" : " wait") + ", the oldest for " +
                                            std::to_string(static_cast<uint64_t>(LagLocked())) + " s"};
}

void QueuedSink::Close() {
  std::call_once(closed_, [this] {
    {
      std::lock_guard lock(mutex_);
      closing_ = true;
    }
    thread_wakes_.notify_one();
    thread_.join();
  });
}

uint64_t QueuedSink::WaitingLocked() const {
  uint64_t settled = written_;
  for (const auto& [reason, values] : drops_) settled += values;
  return offered_ - settled;
}

double QueuedSink::LagLocked() const {
  if (queue_.empty() && handed_ == 0) return 0;  // what was taken needed nothing, or is written
  const Clock::time_point oldest = busy_since_ != Clock::time_point() ? busy_since_
                                   : queue_.empty()                   ? Clock::time_point()
                                                                      : queue_.front().since;
  return oldest == Clock::time_point() ? 0 : std::chrono::duration<double>(Clock::now() - oldest).count();
}

SinkCounters QueuedSink::Counters() const {
  std::lock_guard lock(mutex_);
  SinkCounters counters;
  counters.name = options_.name;
  counters.offered = offered_;
  counters.written = written_;
  counters.waiting = WaitingLocked();
  counters.dropped = offered_ - written_ - counters.waiting;
  counters.events_dropped = events_dropped_;
  counters.failures = failures_;
  counters.lag_seconds = LagLocked();
  for (const auto& [reason, values] : drops_) {
    if (values > 0) counters.drops.push_back({std::string(reason), values});
  }
  return counters;
}

uint64_t QueuedSink::ticket() const {
  std::lock_guard lock(mutex_);
  return ticket_;
}

}  // namespace ikkuna::sinks
