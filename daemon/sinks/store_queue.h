// StoreQueue: what waits for the store's writer, in chunks of one transaction each.
//
// Owner: the store. Thread rule: Take, Committed, Failed and WaitToRetry by the writer's thread, the rest from any
// thread. A chunk holds whole batches, so that the Progress of a batch is never committed before its samples. When the
// limits of store.h are reached samples are dropped and counted; the batch's events and progress still join the last
// chunk.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <variant>
#include <vector>

#include "daemon/monitor.h"
#include "daemon/sample.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

struct RunUpsert {
  ProducerInfo producer;
  std::string state;
};
struct RunModules {
  RunKey run;
  std::vector<ModuleInfo> modules;
};
using RunWrite = std::variant<RunUpsert, ProducerStatus, RunModules>;

struct StoreChunk {
  std::vector<RunWrite> run_writes;  // in the order they came, before the samples
  std::vector<Sample> samples;
  std::vector<TextSample> texts;
  std::vector<Event> events;
  std::map<Uuid, Progress> progress;
  uint64_t batches = 0;
  uint64_t last_ticket = 0;  // of the newest thing in it
  std::chrono::steady_clock::time_point oldest;

  uint64_t rows() const { return samples.size() + texts.size(); }
};

class StoreQueue {
 public:
  using Clock = std::chrono::steady_clock;

  void Offer(const Batch& batch);
  void Push(RunWrite write);
  void Push(Event event);

  // Makes the waiting chunk due at once; the ticket of the newest thing offered.
  uint64_t Nudge();
  // Until everything up to the ticket is committed or dropped at closing. An error: the writer failed meanwhile.
  // Without one but false: the deadline passed.
  Result<bool> WaitCommitted(uint64_t ticket, std::optional<Clock::time_point> deadline);
  // No more offers are taken (they count as dropped); the writer drains.
  void Close();
  bool closing() const;

  // The next chunk once it is due: full, kCommitAfter old, nudged or closing. None when `until` passes, Wake() is
  // called, or nothing will ever come again, which `ended` says: asked for afterwards, closing() is also true of a
  // queue that was filled and closed since.
  struct Taken {
    std::optional<StoreChunk> chunk;
    bool ended = false;
  };
  Taken Take(Clock::time_point until);
  void Wake();
  // `dropped`: rows of the chunk that could not be kept for a reason of their own.
  void Committed(const StoreChunk& chunk, uint64_t dropped);
  void Failed(const Error& error);
  // At closing: the chunk is given up.
  void GivenUp(const StoreChunk& chunk);
  // Until it is worth trying again: `until`, a Flush, or closing.
  void WaitToRetry(Clock::time_point until);

  SinkCounters counters() const;
  uint64_t events_dropped() const;

 private:
  StoreChunk& TailLocked();
  void ReleaseLocked(const StoreChunk& chunk);

  mutable std::mutex mutex_;
  std::condition_variable writer_wakes_;
  std::condition_variable waiters_wake_;
  // Guarded by mutex_.
  std::deque<StoreChunk> chunks_;
  std::optional<Clock::time_point> in_flight_since_;  // age of the chunk that the writer holds
  uint64_t batches_ = 0;                              // waiting or in flight, as are the next three
  uint64_t rows_ = 0;
  uint64_t events_ = 0;
  uint64_t run_writes_ = 0;
  uint64_t ticket_ = 0;
  uint64_t committed_ticket_ = 0;
  uint64_t nudged_ticket_ = 0;
  uint64_t failures_ = 0;
  bool failing_ = false;
  Error last_error_{};
  bool closing_ = false;
  bool wake_ = false;
  uint64_t offered_ = 0;
  uint64_t written_ = 0;
  uint64_t dropped_ = 0;
  uint64_t events_dropped_ = 0;  // and run writes
};

}  // namespace ikkuna::sinks
