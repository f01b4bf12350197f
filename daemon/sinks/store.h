// Store: the runs of this host under a data directory, one SQLite file for each run, attempt and rank (STORE.md says
// what is in a file), and a catalogue of them, which is a cache.
//
// Owner: the daemon, which opens it first and closes it last. Thread rule: every method from any thread; one thread of
// its own, of low priority, writes and compacts; those who read do so on their own thread. `Offer` only queues.
//
// A commit is one transaction of one run: the values of some batches with the Progress of the last. Whatever kills the
// daemon, a file holds exactly what the records up to its done_seq came to; of the run of all ranks, which has no
// progress of its own, at least what the ranks' progress speaks for. Where the machine goes down, and its trainers with it,
// a file is whole, and as it was at a commit that is not older than `sync_every`: so often, and with each 16 MiB of commits,
// and where a run is put at rest, the disk is waited for (fsync). Once for each commit would be hundreds of times a second.
//
// What waits in the queue is part of every answer. A series of anything but texts has one value a step: one that comes
// again for a step is refused, and counted. A disk that is full or fails is tried again, and what waits for it fills a part
// of the queue, which is dropped beyond that; a run whose file breaks loses what was in it, with an event, and goes on
// in a new one; nothing else that happens to one run concerns another.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/model/recorded.h"
#include "daemon/model/run_store.h"
#include "daemon/model/sink.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

constexpr int kNiceDefault = 10;  // what trains on these cores comes first

struct StoreOptions {
  std::string data_dir;    // created when missing, 0700
  std::string host = {};   // folder of the runs written here; empty: this machine's name
  std::optional<uint64_t> bytes_max = {};  // of all runs of this host; 0: no cap; none: BytesMaxDefault()
  // What stays free of the file system; 0: not looked at; none: FreeBytesMinDefault().
  std::optional<uint64_t> free_bytes_min = {};
  std::chrono::hours age_max{0};                // finished runs that ended before leave; 0: none
  // Below it nothing is recorded; 0: not looked at. Not more than FreeBytesMinDefault() where that stays free.
  uint64_t free_bytes_pause = uint64_t{64} << 20;
  uint64_t events_max = 100'000;                   // a run; the oldest leave beyond it
  uint64_t others_bytes_max = uint64_t{256} << 20;  // texts, histograms, tensors of a run; the oldest leave
  uint64_t tail_bytes_max = uint64_t{160} << 20;  // memory of what is not compacted yet, all runs together
  size_t slice_bytes = size_t{1} << 20;  // that compaction writes between two commits
  // How long a run that ended may take to become one file before the cap bites.
  std::chrono::milliseconds rest_within{60'000};
  std::chrono::milliseconds sync_every{60'000};  // a commit is safe from the death of the machine after so long
  int nice = kNiceDefault;                        // of its threads
  // After a commit, on the store's thread, before a Flush that waits for it returns: each batch of it, as it was offered.
  // Does not throw.
  std::function<void(const std::shared_ptr<const Batch>& batch)> on_kept = {};
  // Then: everything of this run up to done_seq is safe.
  std::function<void(const RunKey& run, uint64_t done_seq)> on_committed = {};
  // Events that the store raises itself, with their id, on its thread or on that of Open, Begin and the like. They are
  // stored too, as soon as that is possible. Neither calls the store back.
  std::function<void(const Event& event)> on_event = {};
};

// What the store is and does, for `status`.
struct StoreStatus {
  std::string folder;       // data_dir/runs/host
  std::string file_system;  // "ext4", "nfs", ...
  uint64_t bytes = 0;       // of all runs of this host, with their write-ahead logs
  uint64_t bytes_max = 0;   // 0: no cap
  uint64_t free_bytes = 0;
  uint32_t runs = 0;
  uint32_t runs_open = 0;   // being written
  uint64_t tail_bytes = 0;  // memory of what is not compacted
  uint32_t threads = 0;     // of its own
  int nice = 0;
  bool paused = false;      // the disk is too full to record; what comes is dropped and counted
  std::vector<Count> dropped;  // values, by reason: queue_full, repeated, no_series, disk, corrupt, ...
};

class Store : public Sink, public RunStore, public Recorded {
 public:
  static constexpr size_t kValuesPerCommit = 16'384;  // or kCommitAfter, whichever comes first
  static constexpr std::chrono::milliseconds kCommitAfter{250};
  static constexpr size_t kBatchesQueuedMax = 65'536;     // one batch a step: half a minute of the fastest trainers
  static constexpr size_t kBytesQueuedMax = 64 << 20;     // 4,000,000 numbers: some seconds at the rate of the writer
  static constexpr size_t kEventsQueuedMax = 10'000;      // beyond it events are dropped too, and counted
  // What one run may have of the queue while its file takes nothing, and all such runs together: the others go on.
  static constexpr size_t kFailingShare = 4, kAllFailingShare = 2;

  // 16 GiB or a tenth of the file system that `folder` is on, whichever is less.
  static uint64_t BytesMaxDefault(const std::string& folder);
  // 2 GiB or a twentieth of it, whichever is less.
  static uint64_t FreeBytesMinDefault(const std::string& folder);

  // Refuses a folder that another daemon of this host has open, and one that cannot be written, with a text that says
  // what to do. Scans no values: the catalogue, or the head of each file that it does not know.
  static Result<std::unique_ptr<Store>> Open(StoreOptions options);
  ~Store() override;  // closes
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  // Sink
  std::string name() const override { return "store"; }
  void Offer(std::shared_ptr<const Batch> batch) override;  // batch->run is one that Begin gave
  SinkCounters Counters() const override;
  Status Flush(std::chrono::steady_clock::time_point deadline) override;
  void Close() override;  // commits what waits where the disk allows, and leaves finished runs as one file each

  // The id of an event that is about to be offered, so that all sinks show the same; one without gets its id here.
  uint64_t TakeEventId();
  // The daemon before this one ended without closing it.
  bool was_unclosed() const;

  // RunStore
  Result<std::vector<ProducerStatus>> LoadProducers() override;
  std::vector<ProducerStatus> TakeFound() override;
  std::optional<Progress> LoadProgress(const RunKey& run) override;
  Result<std::shared_ptr<Run>> Begin(const ProducerInfo& producer) override;
  // A state that is not open lets the run's file become one, at rest.
  void SaveProducer(const ProducerStatus& status) override;
  void SaveModules(const RunKey& run, std::vector<ModuleInfo> modules) override;

  // Recorded
  Result<std::vector<RunInfo>> ListRuns() override;
  Result<std::vector<RunInfo>> FindRuns(const std::string& name) override;
  Result<std::vector<ModuleInfo>> ListModules(const RunKey& run) override;
  Result<SeriesPage> ListSeries(const SeriesQuery& query) override;
  Result<std::unique_ptr<SeriesReader>> Read(const ReadQuery& query) override;
  Result<EventList> ListEvents(const EventQuery& query) override;

  // Removes the run for good. kFailedPrecondition: it is open.
  Status DeleteRun(const RunKey& run);
  // Tags that users give: at most 64 a run, of 255 bytes.
  Status TagRun(const RunKey& run, const std::vector<std::string>& add, const std::vector<std::string>& remove);
  // A copy of the run as it is now, in one file that must not exist; also of a run that goes on. kResourceExhausted: it
  // would leave less free on the file system of `path` than shall stay.
  Status ExportFile(const RunKey& run, const std::string& path);
  // Copies that are being made fail, and so do later ones: nothing waits for them any more.
  void EndCopies();
  // Takes in a run's file. kAlreadyExists: its key is taken. `moves`: the file is the caller's alone, and is not kept where
  // it is.
  Result<RunKey> ImportFile(const std::string& path, bool moves = false);
  // kResourceExhausted: values of this run would be dropped now, or nearly: recording is paused, its file takes nothing, or
  // the queue is all but full. For those who can wait.
  Status CanTake(const RunKey& run) const;
  // kResourceExhausted: so many bytes more beside the runs would leave less free than shall stay.
  Status CheckRoom(uint64_t bytes) const;

  StoreStatus GetStatus() const;
  uint64_t store_bytes() const;
  uint64_t bytes_max() const;

 private:
  class Impl;
  explicit Store(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace ikkuna::sinks
