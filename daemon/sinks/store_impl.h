// Store::Impl: the store's parts, which are in several files: opening (store_open.cc), the queue and its counters
// (store.cc), the thread (store_loop.cc), what goes wrong on it (store_trouble.cc) and what it does now and then
// (store_upkeep.cc), answers (store_query.cc), what is done to whole runs (store_runs.cc).
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
  Status FlushRun(const EntryPtr& entry);  // what waits now of one run
  void Close();
  Status CanTake(const RunKey& run) const;
  uint64_t TakeEventId() { return next_event_id_.fetch_add(1, std::memory_order_relaxed); }
  bool was_unclosed() const { return pid_before_ != 0; }
  StoreStatus GetStatus() const;
  uint64_t store_bytes() const;
  uint64_t bytes_max() const { return bytes_max_; }
  // store_runs.cc
  Result<std::vector<ProducerStatus>> LoadProducers();
  std::vector<ProducerStatus> TakeFound();
  std::optional<Progress> LoadProgress(const RunKey& run);
  Result<std::shared_ptr<Run>> Begin(const ProducerInfo& producer);
  void SaveProducer(const ProducerStatus& status);
  void SaveModules(const RunKey& run, std::vector<ModuleInfo> modules);
  Status DeleteRun(const RunKey& run);
  Status TagRun(const RunKey& run, const std::vector<std::string>& add, const std::vector<std::string>& remove);
  Status ExportFile(const RunKey& run, const std::string& path);
  void EndCopies();
  Result<RunKey> ImportFile(const std::string& path, bool moves);
  // Whether so many bytes more leave `stays` free.
  Status CheckRoom(const std::string& folder, uint64_t bytes, uint64_t stays) const;
  Status CheckRoom(uint64_t bytes) const { return CheckRoom(folder_, bytes, free_bytes_min_); }
  // store_query.cc
  Result<std::vector<RunInfo>> ListRuns(const std::string* name);
  Result<std::vector<ModuleInfo>> ListModules(const RunKey& run);
  Result<SeriesPage> ListSeries(const SeriesQuery& query);
  Result<std::unique_ptr<SeriesReader>> Read(const ReadQuery& query);
  Result<EventList> ListEvents(const EventQuery& query);

 private:
  // store_open.cc
  Status LockFolder();
  bool WriteLock(int64_t pid);  // 0: closed
  void KeepEventIds();
  struct Unread {
    std::string path, why;
    bool ours;  // it is broken: another may take its place
    std::optional<FileId> file = {};
  };
  struct Looked {  // none of head and unread: there is nothing
    std::optional<RunHead> head;
    std::optional<Unread> unread;
    bool emptied = false;  // it was there, and nothing in it: it is deleted
    bool later = false;  // it may be read another time
    bool has_log = false;
    uint64_t event_last = 0;
    std::optional<FileId> file;
  };
  Looked Look(const std::string& path, int busy_ms);
  std::string OwnPath(int number) const;
  Clock::time_point opened_at_{};  // constant after Open()
  Looked FindOwn(std::vector<Unread>* unread);
  // `scanning`: when the store opens, and nobody uses its runs yet.
  void TakeIn(const std::string& path, RunHead head, const std::optional<FileId>& file,
              const std::optional<Catalogue::Stamp>& at_rest, bool scanning, std::vector<Unread>* unread);
  void TellUnread(const std::vector<Unread>& unread);
  void TellGone(const std::vector<std::string>& names);
  void TellEmptied(const std::string& path);
  void LookAgain();
  void Scan();
  // store.cc
  // Whether the file of the run knows of what was dropped.
  enum class InFile { kNo, kYes };
  void DropLocked(const EntryPtr& entry, std::string_view reason, uint64_t values, InFile in_file = InFile::kNo);
  void PushLocked(const EntryPtr& entry, std::shared_ptr<const Batch> batch);
  // What of the queue a run whose file takes nothing may have.
  struct Share {
    size_t bytes, batches;
  };
  Share ShareLocked(const RunEntry& failing) const;
  void ShedLocked(const EntryPtr& entry);  // what it has beyond that
  EntryPtr FindLocked(const RunKey& run) const;
  EntryPtr Find(const RunKey& run) const;
  // An event is listed together with the state that it is of, under one lock, and told then: who sees the state finds
  // the event, and who hears the event finds both. Then it gets its id: who asks for events behind one misses none.
  Event MakeEvent(Severity severity, std::string kind, std::string text, const RunKey& run);
  void ListLocked(Event& event);
  void Tell(const Event& event);
  void Raise(Severity severity, std::string kind, std::string text, const RunKey& run);  // all of it
  std::vector<EntryPtr> Entries() const;                                                 // with own_
  std::vector<EntryPtr> Awake() const;  // those that are written, or have something to be written
  // store_trouble.cc
  void Bisect(const EntryPtr& entry, const Error& error);
  void Failed(const EntryPtr& entry, const Error& error);
  // The run goes on in a new file, its writer_mutex held.
  void SetAside(const EntryPtr& entry, const std::string& reason);  // the old one is broken
  // Somebody took the open one away (LoseFile); false: it is there.
  bool ReplaceGone(const EntryPtr& entry, bool leaves = false);
  void BeginAnew(const EntryPtr& entry);
  uint64_t CountGone(const EntryPtr& entry, std::string_view reason);  // the values that are lost
  // The file of a run, which is closed, is not there any more, or (`foreign`: why) is another. False: the run is over,
  // and forgotten; with `leaves` it is whatever waits of it.
  bool LoseFile(const EntryPtr& entry, const std::string& foreign, bool leaves = false);
  bool HasItsFile(const EntryPtr& entry) const;  // what lies in its place is the file that it had, however broken
  std::string TakeLogAway(const std::string& path, const std::optional<FileId>& ours);  // a sentence, where one is kept
  bool IsMissing(const std::string& path) const;
  void LookForMissing();
  void LookForCut(const EntryPtr& entry);
  // store_loop.cc
  void Loop();
  void Guarded(const EntryPtr& entry);
  void Commit(const EntryPtr& entry);
  void Settle(const EntryPtr& entry, const CommitReport& report);
  // Says what was dropped since it was last said; all of it, or where that is a while ago. True: an event was raised.
  bool TellDrops(const EntryPtr& entry, bool all);
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
  void PopLocked(RunEntry& entry);             // the first that waits
  Status EnsureWriter(const EntryPtr& entry);  // under its writer_mutex
  void Doze(const EntryPtr& entry);            // where nothing is left to do
  void NoteAtRest(const EntryPtr& entry);      // likewise
  // store_upkeep.cc; true: there is more to do
  bool Upkeep();
  void LookAtFreeSpace();
  bool Retire();
  // What is free, and what will be because of what was deleted a moment ago. None: nobody knows.
  std::optional<uint64_t> FreeSoon();
  bool TrimOne(const EntryPtr& entry);
  bool TrimOthers(const EntryPtr& entry, uint64_t bytes_max);  // under its writer_mutex
  bool Slim();
  Result<bool> SlimOne(const EntryPtr& entry, bool begin);
  void TellThinned(const EntryPtr& entry);
  void TellEventsGone(const EntryPtr& entry, uint64_t more);
  void UpkeepFailed(const EntryPtr& entry, const Error& error);
  bool TellOnce(const std::string& about, const std::string& text);
  // store_runs.cc
  Status KnowSeries(const EntryPtr& entry, const std::shared_ptr<Run>& run);  // under its writer_mutex
  void SaveState(const EntryPtr& entry, bool is_over);
  // `event`: what is said of it; null: nothing.
  Status Remove(const EntryPtr& entry, std::string_view reason, Event* event);
  // Its file is gone; under its writer_mutex. `event` is listed and not yet told.
  void Forget(const EntryPtr& entry, std::string_view reason, Event* event);
  Status CheckOurs(const EntryPtr& entry);  // kFailedPrecondition: it is another's; any other error: nobody knows
  Status MarkEvents();                      // ids of events never come again, whatever goes
  Status RoomFor(const RunHead& head, uint64_t bytes, bool moves);
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
  uint64_t bytes_max_ = 0, free_bytes_min_ = 0, free_bytes_pause_ = 0;
  UniqueFd lock_;
  int64_t pid_before_ = 0;  // of a daemon that ended without closing the store; 0: none
  Catalogue catalogue_;
  EntryPtr own_;  // events of the daemon itself; has no run

  std::atomic<uint64_t> next_event_id_{1};
  uint64_t event_ids_kept_ = 0;  // as `lock` says; of Open, then of the store's thread, then of Close
  std::atomic<bool> copies_end_{false};
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

  std::set<std::string> untouched_;  // files that could not be read, or took a run's place, and are not ours to replace
  std::map<std::string, FileId> broken_here_;  // files that are ours and were broken when they were first read
  std::set<std::string> later_;                // files that Open could not read, and that are tried again
  std::vector<RunKey> found_;                  // of those that could be read since; nobody took them yet
  bool mark_wanted_ = false;                   // MarkEvents failed
  std::vector<std::string> broken_;            // files that were set aside
  uint64_t bytes_held_ = 0;                    // as of the last look
  std::map<std::string, std::string> told_;
  bool paused_ = false;
  uint64_t paused_before_ = 0;  // values dropped by earlier pauses

  // The thread's own.
  Clock::time_point upkeep_at_{};
  std::string looked_again_;  // the last of later_
  RunKey looked_missing_;     // the last entry that LookForMissing saw
  struct Leaving {            // a run that was deleted, while somebody reads it
    std::weak_ptr<RunEntry> entry;
    uint64_t bytes = 0;
  };
  std::vector<Leaving> leaving_;
  uint64_t free_soon_ = 0;  // what was free at the last deletion and what it freed: believed until
  Clock::time_point free_soon_until_{};
  Clock::time_point over_since_ = Clock::now();  // runs were not below the cap, with one in motion towards rest
  bool finished_may_leave_ = false;              // for the cap, now or in a moment
  bool slimming_ = false;

  std::once_flag close_once_;
  std::thread thread_;
};

}  // namespace ikkuna::sinks
