// RunEntry: one run in the store: what listings show of it, what is in memory of its values, and its file's
// connections.
//
// Owner: the store or StoredRuns, shared with those who read. Thread rule: as each group of members says. Lock order:
// writer_mutex, mutex, the store's own.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/model/batch.h"
#include "daemon/model/query.h"
#include "daemon/model/series.h"
#include "daemon/model/status.h"
#include "daemon/sinks/run_file.h"

namespace ikkuna::sinks {

// What is in memory of a run that is written, or was read a moment ago.
struct LoadedRun {
  std::shared_ptr<Run> run;          // its catalogue
  std::vector<SeriesTally> tallies;  // of what is committed; [id - 1]
  std::vector<std::shared_ptr<const Segment>> segments;
  std::shared_ptr<const Tail> sealed;  // committed before what is in `open`, and being compacted
  Tail open;
  uint64_t value_last = 0;  // the last committed row of `value`
  // Values that the file says it has and that no count of a series tells of, when it was loaded: damage hides them.
  uint64_t hidden = 0;
};

// A batch that waits for the writer.
struct Pending {
  std::shared_ptr<const Batch> batch;
  uint64_t ticket = 0;        // when it was offered, among all batches of all runs
  uint64_t first_ticket = 0;  // of the first progress whose place it took; else `ticket`
  size_t bytes = 0;
  std::chrono::steady_clock::time_point since;
};

class RunWriter;

struct RunEntry {
  RunEntry(RunKey run_key, std::string file);
  ~RunEntry();

  // Constant after construction.
  const RunKey key;

  // Of its file. It gets another where somebody put a file there that is not its own.
  std::string path() const {
    std::lock_guard lock(path_mutex_);
    return path_;
  }
  void MoveTo(std::string path) {  // under writer_mutex
    std::lock_guard lock(path_mutex_);
    path_ = std::move(path);
  }

  std::atomic<uint64_t> rest_bytes{0};  // of its file while that is at rest; 0: it is not, or nobody looked

  // Of segments that were merged into others and that somebody reads still: bytes that go when the reader does.
  std::atomic<uint64_t> held_bytes{0};

  std::mutex writer_mutex;  // held while the file is written
  // Guarded by writer_mutex.
  std::unique_ptr<RunWriter> writer;                // null: at rest
  std::chrono::steady_clock::time_point sync_at{};  // of commits that the disk was not waited for; 0: there are none
  bool on_disk = false;                             // there is a file of it, or was when it was last looked at
  // Which file is its own, however broken; and its log, where it has one that is known.
  std::optional<FileId> file, log;

  mutable std::mutex mutex;
  // Guarded by mutex.
  RunHead head;
  std::shared_ptr<LoadedRun> loaded;
  std::vector<std::unique_ptr<RunFile>> idle;      // connections for reading
  std::optional<std::vector<ModuleInfo>> modules;  // newer than the file's
  std::weak_ptr<Run> run;                          // as its producer's part of the daemon has it
  // By id: one object for each that anybody has, over all times that the file is loaded, so that its holders are
  // counted.
  std::map<uint64_t, std::weak_ptr<const Segment>> segments;
  size_t published = 0;  // of `pending`, from its front: committed and in `loaded` already

  // Guarded by the store's mutex. What leaves the front of `pending` does so under `mutex` too.
  std::deque<Pending> pending;
  size_t staged = 0;              // of `pending`, from its front, with the writer
  size_t commit_most = SIZE_MAX;  // batches of one commit: few while one is looked for that the file refuses
  uint64_t values_pending = 0;
  size_t bytes_pending = 0;
  // What is said of the run itself and is yet to be saved: of this version. The file has what it was as of said_saved.
  std::optional<ProducerStatus> status_to_save;
  bool modules_to_save = false;
  bool tags_to_save = false;
  bool saves() const { return status_to_save || modules_to_save || tags_to_save; }
  uint64_t said_version = 0, said_saved = 0;
  bool wants_rest = false;  // not open any more: one file as soon as nothing waits
  bool deleted = false;
  uint64_t written = 0;  // values, of this daemon
  // Values that were dropped, by reason: of which no event spoke yet, and of which the file does not know yet.
  std::map<std::string, uint64_t, std::less<>> drops_untold, drops_unsaved;
  std::chrono::steady_clock::time_point drops_since{};  // of the first of drops_unsaved
  std::string refusal;                                  // the last, of what drops_untold has as refused
  uint32_t failures = 0;                                // commits that failed in a row
  std::chrono::steady_clock::time_point retry_at{};
  std::chrono::steady_clock::time_point idle_since{};
  std::chrono::steady_clock::time_point tell_at{};    // no event of drops before
  std::string failing;                                // why the last commit failed; empty: it did not
  std::chrono::steady_clock::time_point upkeep_at{};  // compaction and the like failed: not before
  bool upkeep_failing = false;
  bool told_broken = false;                        // an event said that what is in its file cannot all be read
  uint64_t thinned_told = 0;                       // values that were thinned away when an event last said so
  uint64_t events_gone = 0, events_gone_told = 0;  // the same of events

 private:
  mutable std::mutex path_mutex_;  // the last in the lock order
  std::string path_;
};

// One look at a run: later commits and compaction do not change it.
struct RunSnapshot {
  std::shared_ptr<RunEntry> entry;
  std::shared_ptr<const ProducerInfo> info;
  std::shared_ptr<Run> run;
  std::vector<std::shared_ptr<const Segment>> segments;
  std::vector<std::shared_ptr<const Frame>> frames;   // committed, not compacted, in the order of commits
  std::vector<std::shared_ptr<const Batch>> batches;  // not committed
  uint64_t value_last = 0;
};

// Loads counts, segments, tail and, where there is no `run` that has them already, the series from the file.
Result<std::shared_ptr<LoadedRun>> LoadRun(RunEntry& entry, RunFile& file, std::shared_ptr<Run> run);
// What its file has of steps, and what waits to be written there, for a producer that comes back; of a file that cannot
// be read only the latter, and whoever reads it says so.
RecordedSteps LoadRecorded(const std::shared_ptr<RunEntry>& entry,
                           const std::vector<std::shared_ptr<const Batch>>& waiting);
// The segment as all of this process have it. Under the entry's mutex.
std::shared_ptr<const Segment> SharedSegment(RunEntry& entry, Segment segment);

// Numbers and others of series, over runs.
struct SeriesToRead {
  std::shared_ptr<const RunSnapshot> run;
  struct One {
    std::shared_ptr<const Series> series;
    uint64_t kept = 0;     // values that are committed
    uint64_t thinned = 0;  // values that are gone
  };
  std::vector<One> series;
};
// Series of the run that the question is about, with what is known of them.
SeriesToRead ToRead(std::shared_ptr<const RunSnapshot> run, std::vector<SeriesTally> tallies, const ReadQuery& query);
// The runs to read, one after another, each looked at when the reader comes to it: nobody holds what all runs have in
// memory. None: that was all. An error is that of one run.
using NextToRead = std::function<Result<std::optional<SeriesToRead>>()>;
// `mode`: how connections to files are opened. A run that cannot be read is told to `on_failure` and left; the others
// are given, and then the first failure.
std::unique_ptr<SeriesReader> MakeReader(NextToRead next, const ReadQuery& query, Database::Mode mode,
                                         std::function<void(RunEntry&, const Error&)> on_failure);

// A file that no daemon of this process writes, for reading; nothing in its folder changes.
Result<std::unique_ptr<RunFile>> OpenStored(const std::string& path);

// Why the run cannot be read: its file is gone (kNotFound), or `error`.
Error CannotRead(const RunEntry& entry, const Error& error);

// A connection for reading, given back at the end of its life.
class BorrowedFile {
 public:
  static Result<BorrowedFile> Borrow(std::shared_ptr<RunEntry> entry, Database::Mode mode);
  ~BorrowedFile();
  BorrowedFile(BorrowedFile&&) noexcept = default;
  BorrowedFile& operator=(BorrowedFile&&) noexcept = default;
  RunFile* operator->() { return file_.get(); }
  RunFile& operator*() { return *file_; }

 private:
  BorrowedFile(std::shared_ptr<RunEntry> entry, std::unique_ptr<RunFile> file)
      : entry_(std::move(entry)), file_(std::move(file)) {}
  std::shared_ptr<RunEntry> entry_;
  std::unique_ptr<RunFile> file_;
};

// Adds what is in `frames` and `batches` to counts.
void CountFrame(const Frame& frame, std::vector<SeriesTally>& tallies);
void CountValue(uint32_t series, uint64_t step, double value, std::vector<SeriesTally>& tallies);

// Series of a run that the filter matches, from `after` on, with their counts, at most `limit`.
std::vector<SeriesInfo> MatchSeries(const RunSnapshot& snapshot, std::vector<SeriesTally> tallies,
                                    const SeriesFilter& filter, uint32_t after, size_t limit);

// Damage hides so many values of a file.
Error HiddenValues(const std::string& path, uint64_t values);

RunInfo InfoOf(const RunHead& head, uint64_t bytes);
// "the run's name" in a path: letters that any file system takes, short, and its own for each key. `number`: above 1
// where that name is taken by a file that is not to be touched.
std::string RunFileName(const RunKey& key, int number = 1);
// Of the file and its write-ahead log.
uint64_t FileBytes(const std::string& path);
uint64_t FileBytes(const RunEntry& entry);  // as it was remembered, while it is at rest

}  // namespace ikkuna::sinks
