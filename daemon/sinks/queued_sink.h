// QueuedSink: a sink of which only the writing is left to do: a bounded queue of shared batches, a thread of low
// priority, the counters. What is written where is a BatchWriter's business; a new sink is one of those.
//
// Owner: the daemon's list of sinks. Thread rule: as Sink says; the writer is used by the sink's own thread alone.
// Whatever the writer throws costs the values at hand, counted as `failed`, with an event; the thread goes on.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "daemon/model/sink.h"

namespace ikkuna::sinks {

// What became of values and events, since the last look.
struct Tally {
  uint64_t written = 0;
  std::map<std::string_view, uint64_t> drops;  // by reason, a literal
  uint64_t left_out = 0;                       // by a filter of the sink: no loss
  uint64_t events_dropped = 0;

  void Drop(std::string_view reason, uint64_t values) {
    if (values > 0) drops[reason] += values;
  }
};

class BatchWriter {
 public:
  virtual ~BatchWriter() = default;
  // Batches in the order in which they were offered. `ticket`: how many were offered up to this one; those that were
  // dropped on the way are left out.
  virtual void Write(const std::shared_ptr<const Batch>& batch, uint64_t ticket, Tally& tally) = 0;
  // Puts what was written where it is kept. Afterwards every value given so far is in some tally: the queue counts as
  // dropped what is not.
  virtual void Commit(Tally& tally) = 0;
  // The last call. Nothing comes any more.
  virtual void End() {}
};

enum class DropPolicy : uint8_t {
  kNewest = 1,  // what is there stays: for what is kept
  kOldest = 2,  // what is new comes in: for what is looked at
};

struct QueueOptions {
  std::string name;
  size_t batches_max = 65'536;          // 64 producers, a second at 1,000 steps/s
  size_t bytes_max = size_t{64} << 20;  // a minute of 20,000 series at 3 steps/s; one batch is taken whatever its size
  DropPolicy drop = DropPolicy::kNewest;
  bool takes_values = true;
  bool takes_events = false;
  // How long batches gather before the thread looks at them, unless half of the room is used; 0: it is woken for each.
  std::chrono::milliseconds gather{0};
  std::chrono::milliseconds commit_every{1000};
  int niceness = 5;
  // Tells of a failure; must not block, and may be called on the sink's thread. Empty: nobody is told.
  std::function<void(Event)> report = {};
};

class QueuedSink : public Sink {
 public:
  QueuedSink(QueueOptions options, std::unique_ptr<BatchWriter> writer);
  ~QueuedSink() override;  // closes
  QueuedSink(const QueuedSink&) = delete;
  QueuedSink& operator=(const QueuedSink&) = delete;

  std::string name() const override { return options_.name; }
  void Offer(std::shared_ptr<const Batch> batch) override;
  SinkCounters Counters() const override;
  Status Flush(std::chrono::steady_clock::time_point deadline) override;
  void Close() override;

  // Batches offered so far, those without anything for this sink left out.
  uint64_t ticket() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Waiting {
    std::shared_ptr<const Batch> batch;
    uint64_t ticket;
    size_t bytes;
    Clock::time_point since;
  };

  enum class Doing : uint8_t { kSleeping, kGathering, kWorking };

  void Run();
  void WriteOne(std::unique_lock<std::mutex>& lock);
  void Commit(std::unique_lock<std::mutex>& lock);
  // The writer's call, with its exceptions caught; the text of one, or empty.
  template <typename Call>
  std::string Guarded(Call call);
  void ReportFailure(const std::string& what, const Batch* batch);
  void DropLocked(const Batch& batch, std::string_view reason);
  void SettleLocked(const Tally& tally, const std::string& failure);
  bool HalfFullLocked() const;
  uint64_t WaitingLocked() const;
  double LagLocked() const;
  uint64_t ValuesOf(const Batch& batch) const { return options_.takes_values ? batch.values() : 0; }
  uint64_t EventsOf(const Batch& batch) const { return options_.takes_events ? batch.events.size() : 0; }

  // Constant after construction.
  const QueueOptions options_;
  // The thread's own.
  const std::unique_ptr<BatchWriter> writer_;
  Clock::time_point report_due_{};
  uint64_t failures_untold_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable thread_wakes_;
  std::condition_variable flushed_;
  // Guarded by mutex_.
  std::deque<Waiting> queue_;
  size_t bytes_queued_ = 0;
  uint64_t ticket_ = 0;          // batches offered
  uint64_t taken_ticket_ = 0;    // the last that the writer was given, or that Close dropped
  uint64_t writing_ticket_ = 0;  // the last that was taken from the queue
  uint64_t committed_ticket_ = 0;
  uint64_t flush_ticket_ = 0;       // a Flush waits for it
  Clock::time_point busy_since_{};  // of the oldest batch that was taken and not committed; 0: none
  Doing doing_ = Doing::kWorking;
  bool closing_ = false;
  uint64_t offered_ = 0;
  uint64_t written_ = 0;
  uint64_t handed_ = 0;  // values given to the writer and not settled
  std::map<std::string_view, uint64_t> drops_;
  uint64_t events_dropped_ = 0;
  uint64_t failures_ = 0;

  std::once_flag closed_;
  std::thread thread_;
};

}  // namespace ikkuna::sinks
