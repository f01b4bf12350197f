// SinkList: the daemon's list of sinks, in their order, and the one door to all of them.
//
// It does for each of them what no sink should have to: gives an event its number before the first sees it, goes on with
// the counters of an earlier daemon, and keeps what one throws from harming the others.
// Owner: the daemon. Thread rule: Restore and Add by the owner, Restore first; the rest from any thread, also while Add
// runs. Lifetime: whoever offers is gone before the list is.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/model/sink.h"

namespace ikkuna {

// Which batches a sink gets.
enum class Takes : uint8_t {
  kAll = 1,
  kKept = 2,  // those of trainings, and not before the store has committed them: see OfferKept
};

class SinkList : public Sink {
 public:
  static constexpr size_t kMaxSinks = 16;  // they are written down in the source

  SinkList();
  ~SinkList() override;

  // What the sinks of an earlier daemon had counted, by their names.
  void Restore(std::vector<SinkCounters> before);
  // The next of the list; the watch hub is the last, see watch_hub.h.
  void Add(std::shared_ptr<Sink> sink, Takes takes = Takes::kAll);
  // Where events get their numbers; without it they have none.
  void SetEventIds(std::function<uint64_t()> take_event_id);

  std::string name() const override { return "all"; }
  void Offer(std::shared_ptr<const Batch> batch) override;
  // A batch that the store has committed, to the sinks that take no other. What an earlier daemon had taken and not
  // committed comes once more from the records, so that these would have it twice.
  void OfferKept(const std::shared_ptr<const Batch>& batch);
  // One event, to all of them but the one called `except`, which has it already.
  void Offer(Event event, const std::string& except = {});
  // Of all together.
  SinkCounters Counters() const override;
  // Each gets a part of the time of its own. The error names all that could not take everything.
  Status Flush(std::chrono::steady_clock::time_point deadline) override;
  // The last first, and those that take what is kept after who keeps it; the first of all at the end.
  void Close() override;

  // The sinks one by one, with counters that go on. They live as long as the list.
  std::vector<Sink*> sinks() const;
  // For Restore of another process. What still waits is left out of it: nobody knows what becomes of it.
  std::vector<SinkCounters> Export() const;

 private:
  class One;

  // Constant after Restore.
  std::map<std::string, SinkCounters> before_;
  // Written by Add and SetEventIds before the count and the flag, which are stored with release.
  std::array<std::unique_ptr<One>, kMaxSinks> sinks_;
  std::function<uint64_t()> take_event_id_;
  std::atomic<size_t> count_{0};
  std::atomic<bool> has_ids_{false};
};

}  // namespace ikkuna
