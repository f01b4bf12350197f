// Store: the run store, an SQLite file `ikkuna.db` under the data directory.
//
// Owner: the daemon's core, which opens it first and closes it last. Thread rule: every method from any thread; one
// thread of its own writes, queries use read connections of their own. `Offer` and the other writes only queue.
//
// Samples are committed in transactions of kRowsPerCommit rows or kCommitAfter, whichever comes first, together with
// the Progress of their batches: after a crash the file holds exactly the samples of the records up to done_seq. A
// later sample of the same series and step replaces the earlier one. When the disk is full or slow the queue fills,
// then samples are dropped and counted; events, progress and facts of runs are kept longer. Nothing here ends the
// daemon.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/monitor.h"
#include "daemon/sample.h"
#include "daemon/series_catalogue.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

struct StoreOptions {
  std::string data_dir;                       // created when missing
  uint64_t bytes_max = uint64_t{2048} << 20;  // above it the longest series are thinned; 0: no cap
  // After a commit, on the writer's thread: everything of this producer up to done_seq is safe.
  std::function<void(const Uuid& producer, uint64_t done_seq)> on_committed;
  // Events that the store raises itself (thinned, disk full, space is back), on the writer's thread. They are stored
  // too, as soon as that is possible.
  std::function<void(const Event& event)> on_event;
};

// What a daemon must know to go on with a producer that an earlier daemon served.
struct StoredProgress {
  Progress progress;
  uint64_t handled = 0;  // records handled by all daemons so far: done_seq - lost_in_daemon
};

class Store : public SampleSink {
 public:
  static constexpr size_t kRowsPerCommit = 10'000;  // measured: twice the rows a second of 1,000
  static constexpr std::chrono::milliseconds kCommitAfter{250};
  static constexpr size_t kBatchesQueuedMax = 65'536;     // one batch a step: half a minute of the fastest trainers
  static constexpr size_t kSamplesQueuedMax = 1'000'000;  // 56 MB: five seconds at the rate the store can write
  static constexpr size_t kEventsQueuedMax = 10'000;      // beyond it events are dropped too, and counted
  static constexpr size_t kRunWritesQueuedMax = 4'096;    // UpsertRun, SaveProducer, SaveModules waiting
  static constexpr size_t kEventsKeptMax = 100'000;       // the oldest leave the store beyond it

  // Loads what is stored into the catalogue. Refuses a store that another process has open, one written by a newer
  // version, and anything unreadable, with a text that says what to do.
  static Result<std::unique_ptr<Store>> Open(const StoreOptions& options, SeriesCatalogue& catalogue);
  ~Store() override;  // closes
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  void Offer(std::shared_ptr<const Batch> batch) override;
  // Asks the writer to commit now instead of waiting for kCommitAfter.
  void Nudge();
  // Waits until everything offered before is committed. An error says why it cannot be: the disk refuses.
  Status Flush();
  // Drains, commits, folds the write-ahead log into the file and closes. What cannot be written is counted as dropped.
  void Close();

  // A producer came (or came back) in this state: makes or updates its run and itself.
  void UpsertRun(const ProducerInfo& producer, const std::string& state);
  // The last known counters of a producer; its state becomes the run's. Call it now and then and at the end.
  void SaveProducer(const ProducerStatus& status);
  // Replaces what was stored of the run's modules.
  void SaveModules(const RunKey& run, std::vector<ModuleInfo> modules);
  // Removes the run with its series, samples, texts, events, modules. Refused while it runs. Waits for the writer.
  Status DeleteRun(const RunKey& run);

  // Of the last commit (or of the store as it was opened).
  std::optional<StoredProgress> LoadProgress(const Uuid& producer) const;
  // Every producer ever stored, by start time; counters as last saved. The record counts of one that was running or
  // disconnected are those committed with its samples.
  Result<std::vector<ProducerStatus>> LoadProducers() const;

  // Queries see everything offered before, unless the writer is more than 250 ms behind.
  Result<std::vector<RunInfo>> ListRuns();  // by start time, latest last
  Result<std::vector<ModuleInfo>> ListModules(const RunKey& run);
  Result<std::vector<SeriesInfo>> ListSeries(const SeriesFilter& filter);
  Result<ReadAnswer> Read(const ReadQuery& query);  // max_points below 4 counts as 4
  Result<std::vector<TextSample>> ReadTexts(uint64_t series_id);
  Result<std::vector<Event>> ListEvents(const EventQuery& query);

  // Texts count as samples. offered == written + dropped once the queue is empty.
  SinkCounters counters() const;
  uint64_t store_bytes() const;  // the file and its write-ahead log
  uint64_t bytes_max() const;
  const std::string& path() const;

 private:
  class Impl;
  explicit Store(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace ikkuna::sinks
