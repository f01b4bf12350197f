// Store::Impl: the store's parts, which are in several files: opening (store_open.cc), the queue and its counters
// (store.cc), the thread (store_loop.cc) and what goes wrong on it (store_trouble.cc), answers (store_query.cc), what is done
// to whole runs (store_runs.cc).
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <thread>

#include "daemon/sinks/catalogue.h"
#include "daemon/sinks/run_entry.h"
#include "daemon/sinks/run_writer.h"
#include "daemon/sinks/store.h"
#include "shared/base/unique_fd.h"

namespace ikkuna::sinks {

class Store::Impl {
 public:
  using Clock = std::chrono::steady_clock;
  using EntryPtr = std::shared_ptr<RunEntry>;

  static constexpr std::chrono::seconds kRetryAfter{1};  // what failed

  explicit Impl(StoreOptions options) : options_(std::move(options)) {}
  ~Impl() { Close(); }

  // store_open.cc
  Status Open();
  // store.cc
  void Offer(std::shared_ptr<const Batch> batch);
  SinkCounters Counters() const;
  Status Flush(Clock::time_point deadline);
  void Close();
  uint64_t TakeEventId() { return next_event_id_.fetch_add(1, std::memory_order_relaxed); }
  StoreStatus GetStatus() const;
  uint64_t store_bytes() const;
  uint64_t bytes_max() const { return bytes_max_; }
  // store_runs.cc
  Result<std::vector<ProducerStatus>> LoadProducers();
  std::optional<StoredProgress> LoadProgress(const RunKey& run);
  Result<std::shared_ptr<Run>> Begin(const ProducerInfo& producer);
  void SaveProducer(const ProducerStatus& status);
  void SaveModules(const RunKey& run, std::vector<ModuleInfo> modules);
  Status DeleteRun(const RunKey& run);
  Status TagRun(const RunKey& run, const std::vector<std::string>& add, const std::vector<std::string>& remove);
  Status ExportFile(const RunKey& run, const std::string& path);
  Result<RunKey> ImportFile(const std::string& path);
  // store_query.cc
  Result<std::vector<RunInfo>> ListRuns(const std::string* name);
  Result<std::vector<ModuleInfo>> ListModules(const RunKey& run);
  Result<SeriesPage> ListSeries(const SeriesQuery& query);
  Result<std::unique_ptr<SeriesReader>> Read(const ReadQuery& query);
  Result<std::vector<Event>> ListEvents(const EventQuery& query);

 private:
  // store_open.cc
  Status LockFolder();
  void Scan();
  // store.cc
  void DropLocked(RunEntry* entry, std::string_view reason, uint64_t values);
  void PushLocked(const EntryPtr& entry, std::shared_ptr<const Batch> batch);
  EntryPtr FindLocked(const RunKey& run) const;
  EntryPtr Find(const RunKey& run) const;
  void Raise(Severity severity, std::string kind, std::string text, const RunKey& run);
  std::vector<EntryPtr> Entries() const;  // with own_
  std::vector<EntryPtr> Awake() const;    // those that are written, or have something to be written
  // store_trouble.cc
  void Bisect(const EntryPtr& entry, const Error& error);
  void Failed(const EntryPtr& entry, const Error& error);
  // The run goes on in a new file, its writer_mutex held.
  void SetAside(const EntryPtr& entry, const std::string& reason);  // the old one is broken
  bool ReplaceGone(const EntryPtr& entry);  // somebody took the old one away; false: it is there
  void BeginAnew(const EntryPtr& entry);
  // store_loop.cc
  void Loop();
  void Guarded(const EntryPtr& entry);
  void Commit(const EntryPtr& entry);
  void Settle(const EntryPtr& entry, const CommitReport& report);
  // A slice of what makes one file of a run that is over. True: there is more to do.
  // `slices`: above 0 even though its tail is short.
  bool Rest(const EntryPtr& entry, bool closing, int slices);
  struct Crowd {
    EntryPtr entry;  // null: there is room
    int slices = 0;
  };
  Crowd Crowded() const;
  // Of all ranks of its run; null: there is none, or it is the one.
  EntryPtr AllRanksLocked(const RunEntry& entry) const;
  void PopLocked(RunEntry& entry);  // the first that waits
  Status EnsureWriter(const EntryPtr& entry);  // under its writer_mutex
  void Doze(const EntryPtr& entry);            // where nothing is left to do
  void NoteAtRest(const EntryPtr& entry);      // likewise
  // store_upkeep.cc; true: there is more to do
  bool Upkeep();
  void LookAtFreeSpace();
  bool Retire();
  bool TrimOne(const EntryPtr& entry);
  bool TrimOthers(const EntryPtr& entry, uint64_t bytes_max);  // under its writer_mutex
  bool Slim();
  Result<bool> SlimOne(const EntryPtr& entry, bool begin);
  void TellThinned(const EntryPtr& entry);
  void UpkeepFailed(const EntryPtr& entry, const Error& error);
  bool TellOnce(const std::string& about, const std::string& text);
  // store_runs.cc
  Status KnowSeries(const EntryPtr& entry, const std::shared_ptr<Run>& run);  // under its writer_mutex
  void SaveState(const EntryPtr& entry, bool is_over);
  Status Remove(const EntryPtr& entry, std::string_view reason);
  Status RoomFor(const RunHead& head, uint64_t bytes);
  Result<RunHead> TakeOver(const std::string& part);
  std::string FreePathLocked(const RunKey& key) const;
  EntryPtr NewEntryLocked(const ProducerInfo& producer);
  // store_query.cc
  void ReadFailed(RunEntry& entry, const Error& error);
  Result<std::shared_ptr<const RunSnapshot>> Snapshot(const EntryPtr& entry, std::vector<SeriesTally>* tallies);
  std::vector<EntryPtr> Matching(const SeriesFilter& filter) const;  // newest first

  // Constant after Open.
  const StoreOptions options_;
  std::string folder_, host_;
  uint64_t bytes_max_ = 0;
  UniqueFd lock_;
  int64_t pid_before_ = 0;  // of a daemon that ended without closing the store; 0: none
  Catalogue catalogue_;
  EntryPtr own_;  // events of the daemon itself; has no run

  std::atomic<uint64_t> next_event_id_{1};
  std::atomic<int> nice_{kNiceDefault};  // of the thread, as the system has it

  mutable std::mutex mutex_;
  std::condition_variable wake_, flushed_;
  // Guarded by mutex_.
  std::map<RunKey, EntryPtr> entries_;
  std::set<EntryPtr> awake_;      // the others, of which there are thousands after a year, cost the thread nothing
  std::vector<EntryPtr> recent_;  // at rest and loaded for a reader, the latest last
  size_t bytes_queued_ = 0, batches_queued_ = 0, events_queued_ = 0;
  uint64_t ticket_ = 0;
  uint64_t offered_ = 0, written_ = 0, dropped_ = 0, events_dropped_ = 0, failures_ = 0;
  std::map<std::string, uint64_t, std::less<>> drops_;
  bool sleeping_ = false, flush_wanted_ = false, closing_ = false, closed_ = false;
  uint64_t flushes_ = 0;  // rounds of the thread that began with flush_wanted_

  std::set<std::string> untouched_;  // files that Open could not read and that are not ours to replace
  std::vector<std::string> broken_;  // files that were set aside
  uint64_t bytes_held_ = 0;          // as of the last look
  std::map<std::string, std::string> told_;
  bool paused_ = false;
  uint64_t paused_before_ = 0;  // values dropped by earlier pauses

  // The thread's own.
  Clock::time_point upkeep_at_{};
  bool slimming_ = false;

  std::once_flag close_once_;
  std::thread thread_;
};

}  // namespace ikkuna::sinks
