// What goes wrong with one run's file: rows that it refuses, a disk that fails, a file that is broken or taken away.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <fstream>

#include "daemon/model/counted.h"
#include "daemon/sinks/store_impl.h"

namespace ikkuna::sinks {
namespace {

using namespace std::chrono_literals;

constexpr size_t kLookedForMax = 64;  // files a second: some tens of microseconds, where the disk is not far away

// It has not all the pages that it says it has (the file format of SQLite: page size at 16, pages at 28).
bool IsCut(const std::string& path) {
  std::array<unsigned char, 32> head{};
  std::ifstream in(path, std::ios::binary);
  if (!in.read(reinterpret_cast<char*>(head.data()), head.size())) return !in.bad();
  const uint64_t page = head[16] << 8 | head[17];
  const uint64_t pages = uint64_t{head[28]} << 24 | head[29] << 16 | head[30] << 8 | head[31];
  in.seekg(0, std::ios::end);
  return in.good() && static_cast<uint64_t>(in.tellg()) < (page == 1 ? 65'536 : page) * pages;
}

// An event of its own speaks of these.
void Told(RunEntry& entry, std::string_view reason, uint64_t values) {
  const auto found = entry.drops_untold.find(reason);
  if (found == entry.drops_untold.end()) return;
  found->second -= std::min(found->second, values);
  if (found->second == 0) entry.drops_untold.erase(found);
}

}  // namespace

// Something in what was staged will never be taken, however often it is tried: halves are, until it is one batch, which is
// dropped. Where nothing was staged it is what was said of the run itself.
void Store::Impl::Bisect(const EntryPtr& entry, const Error& error) {
  entry->writer.reset();  // with what it had staged
  std::string dropped;
  {
    std::lock_guard reading(entry->mutex);
    std::lock_guard lock(mutex_);
    const size_t staged = std::exchange(entry->staged, 0);
    if (staged > 1) {
      entry->commit_most = staged / 2;
      return;
    }
    if (staged == 1) {
      const Batch& batch = *entry->pending.front().batch;
      DropLocked(entry, "refused", batch.values());
      Told(*entry, "refused", batch.values());
      events_dropped_ += batch.events.size();
      dropped = Counted(batch.values(), "value") + " and " + Counted(batch.events.size(), "event") + " of step " +
                std::to_string(batch.stamp.step);
      PopLocked(*entry);
      entry->commit_most = 1;
    } else {
      // Counts of drops come with the next commit; where they alone were refused they would be for ever.
      if (!entry->status_to_save && !entry->modules_to_save && !entry->tags_to_save) entry->drops_unsaved.clear();
      entry->status_to_save.reset();
      entry->modules_to_save = entry->tags_to_save = false;
      entry->said_saved = entry->said_version;
      dropped = "what was said of the run itself";
    }
    flushed_.notify_all();
  }
  Raise(Severity::kError, "values_dropped",
        "The file of this run refused " + dropped + ", which is dropped: " + error.text + ".", entry->key);
}

void Store::Impl::Failed(const EntryPtr& entry, const Error& error) {
  std::optional<Event> event;
  {
    std::lock_guard lock(mutex_);
    if (entry->deleted) return;
    if (entry->failing.empty()) {
      event = MakeEvent(Severity::kError, "store_failing",
                        "What is recorded of this run waits, then is dropped, until this is over: " + error.text + ".",
                        entry->key);
      ListLocked(*event);
    }
    entry->failing = error.text;
    entry->retry_at = Clock::now() + kRetryAfter;
    ShedLocked(entry);
  }
  if (event) Tell(*event);
}

void Store::Impl::SetAside(const EntryPtr& entry, const std::string& reason) {
  if (ReplaceGone(entry)) return;
  entry->writer.reset();
  if (!HasItsFile(entry)) {
    (void)LoseFile(entry, IsMissing(entry->path()) ? "" : reason);
    return;
  }
  std::string aside;
  for (int i = 1; i < 1000; ++i) {
    aside = entry->path() + ".broken-" + std::to_string(i);
    if (::access(aside.c_str(), F_OK) != 0) break;
  }
  {
    std::lock_guard lock(entry->mutex);
    entry->idle.clear();
  }
  if (std::rename(entry->path().c_str(), aside.c_str()) != 0) {
    // Nothing of it is forgotten, and nothing else takes its place.
    const int why = errno;
    {
      std::lock_guard lock(mutex_);
      entry->staged = 0;
    }
    return Failed(entry, PosixError("'" + entry->path() + "' is broken (" + reason + ") and cannot be moved aside", why));
  }
  (void)std::rename((entry->path() + "-wal").c_str(), (aside + "-wal").c_str());
  const uint64_t lost = CountGone(entry, "file_broken");
  BeginAnew(entry);
  {
    std::lock_guard lock(mutex_);
    broken_.push_back(aside);
  }
  Raise(Severity::kError, "run_file_broken",
        "The file of this run is broken and " +
            (lost == 0   ? "what was in it is"
             : lost == 1 ? "the value that was in it is"
                         : "the " + Counted(lost, "value") + " that were in it are") +
            " not shown any more; it goes on in a new one. The old one is kept as '" + aside +
            "', where what is left of it can be read without a daemon: " + reason + ".",
        entry->key);
}

// Looked at before and after each commit and, where there are none, each second. Nothing of it can be brought back; what
// was written is counted as what it is now.
bool Store::Impl::ReplaceGone(const EntryPtr& entry, bool leaves) {
  if (!entry->writer || !entry->writer->file().IsGone()) return false;
  // Who moved it away has it whole.
  (void)entry->writer->file().FoldLog();
  entry->log = entry->writer->file().log();
  entry->writer.reset();
  (void)LoseFile(entry, "", leaves);
  return true;
}

uint64_t Store::Impl::CountGone(const EntryPtr& entry, std::string_view reason) {
  std::lock_guard reading(entry->mutex);
  entry->idle.clear();
  uint64_t lost = entry->head.totals.values;
  std::lock_guard lock(mutex_);
  // What the last commit brought is staged still, and was not counted as written.
  for (size_t i = 0; i < entry->published; ++i) lost -= std::min(lost, entry->pending[i].batch->values());
  const uint64_t of_now = std::min(lost, entry->written);
  entry->written -= of_now;
  written_ -= of_now;
  DropLocked(entry, reason, of_now);
  Told(*entry, reason, of_now);
  if (lost > of_now) entry->drops_unsaved[std::string(reason)] += lost - of_now;
  return lost;
}

bool Store::Impl::HasItsFile(const EntryPtr& entry) const {
  return entry->file && FileIdOf(entry->path()) == entry->file;
}

// Where the whole folder cannot be seen (a file system that is not mounted now) nothing is known of the file.
bool Store::Impl::IsMissing(const std::string& path) const {
  struct stat found {};
  return ::stat(path.c_str(), &found) != 0 && (errno == ENOENT || errno == ELOOP) &&
         ::stat((folder_ + "/lock").c_str(), &found) == 0;
}

// The log of a file that was taken away would be applied to the next one of its name. What is not known to be ours may be
// that of a file which somebody puts there just now: it stays, or where no file is there gets a name that keeps it for ever.
std::string Store::Impl::TakeLogAway(const std::string& path, const std::optional<FileId>& ours) {
  std::string kept;
  for (const char* suffix : {"-wal", "-journal"}) {
    const std::string log = path + suffix;
    struct stat found {};
    if (::lstat(log.c_str(), &found) != 0) continue;
    const bool known = ours && FileIdOf(log) == ours;
    if (!known && !IsMissing(path)) continue;
    if (found.st_size == 0) {
      (void)::unlink(log.c_str());
      continue;
    }
    std::string aside;
    for (int i = 1; i < 1000; ++i) {
      aside = path + (known ? ".removed-" : ".unknown-") + std::to_string(i) + suffix;
      if (::access(aside.c_str(), F_OK) != 0) break;
    }
    if (std::rename(log.c_str(), aside.c_str()) != 0) continue;
    kept += (known ? " Its log is kept as '" : " A log that lay there is kept as '") + aside + "'.";
    std::lock_guard lock(mutex_);
    if (known) broken_.push_back(aside);
  }
  return kept;
}

bool Store::Impl::LoseFile(const EntryPtr& entry, const std::string& foreign, bool leaves) {
  const std::string path = entry->path();
  const bool had = entry->on_disk;
  const uint64_t lost = had ? CountGone(entry, "file_removed") : 0;
  bool over = false;
  {
    std::lock_guard reading(entry->mutex);
    std::lock_guard lock(mutex_);
    const bool ended = had && entry != own_ && !IsOpen(entry->head.producer.state);
    over = leaves || (ended && entry->pending.empty());
    if (!foreign.empty()) untouched_.insert(path);
  }
  const std::string what = foreign.empty()
                               ? "Somebody deleted or moved '" + path + "'"
                               : "'" + path + "' is another file than it was, and is left as it is (" + foreign + ")";
  const std::string kept = foreign.empty() ? TakeLogAway(path, entry->log) : "";
  if (over) {
    Event event = MakeEvent(Severity::kError, "run_file_removed",
                            what + ": run " + Describe(entry->key) + ", with its " + Counted(lost, "value") +
                                ", is not listed any more. To be rid of a run, use 'ikkuna delete'." + kept,
                            {});
    Forget(entry, "file_removed", &event);
    Tell(event);
    return false;
  }
  if (!foreign.empty()) {
    std::lock_guard lock(mutex_);
    int number = 1;
    while (entry == own_ && untouched_.count(OwnPath(number)) > 0) ++number;
    entry->MoveTo(entry == own_ ? OwnPath(number) : FreePathLocked(entry->key));
  }
  entry->rest_bytes = 0;
  if (!had) {
    Raise(Severity::kWarning, "run_unreadable",
          "The file '" + path + "' is left as it is, and this run gets another: " + foreign + ".", entry->key);
    return true;
  }
  BeginAnew(entry);
  if (entry == own_) {
    Raise(Severity::kError, "run_file_removed",
          what +
              ": the daemon's own events that were in it are not shown any more, and further ones are kept in a new "
              "file." +
              kept,
          {});
    return true;
  }
  Raise(Severity::kError, "run_file_removed",
        what + ": the " + (lost == 1 ? "value" : Counted(lost, "value")) + " that this run had there " +
            (lost == 1 ? "is" : "are") +
            " not shown any more, and it goes on in a new file. To be rid of a run, use 'ikkuna delete'." + kept,
        entry->key);
  return true;
}

// Some of the runs at rest a look: nobody opens their files, and what somebody deletes shall not stay listed.
void Store::Impl::LookForMissing() {
  std::vector<EntryPtr> some;
  {
    std::lock_guard lock(mutex_);
    auto next = entries_.upper_bound(looked_missing_);
    for (size_t i = 0; i < std::min(kLookedForMax, entries_.size()); ++i, ++next) {
      if (next == entries_.end()) next = entries_.begin();
      some.push_back(next->second);
    }
  }
  if (!some.empty()) looked_missing_ = some.back()->key;
  for (const EntryPtr& entry : some) {
    std::unique_lock writing(entry->writer_mutex, std::try_to_lock);
    if (!writing || entry->writer || !entry->on_disk) continue;
    std::string foreign;
    if (!IsMissing(entry->path())) {
      const std::optional<FileId> there = FileIdOf(entry->path());
      if (there && there == entry->file) LookForCut(entry);
      if (!entry->file || !there || there == entry->file) continue;
      const Status ours = CheckOurs(entry);
      if (ours) {
        // It was taken away for a while, and has come back as a copy.
        entry->file = there;
        std::lock_guard reading(entry->mutex);
        entry->idle.clear();
      }
      if (ours || ours.error().code != ErrorCode::kFailedPrecondition) continue;
      foreign = ours.error().text;  // whose values would stand under this name
    }
    {
      std::lock_guard lock(mutex_);
      if (entry->deleted) continue;
    }
    (void)LoseFile(entry, foreign);
  }
}

// Nobody writes a file at rest. One that is shorter than it was cannot be read; whoever has read of it still has old
// pages.
void Store::Impl::LookForCut(const EntryPtr& entry) {
  const uint64_t had = entry->rest_bytes.load(std::memory_order_relaxed), has = FileBytes(entry->path());
  if (has >= had || !IsCut(entry->path())) return;
  {
    std::lock_guard reading(entry->mutex);
    entry->idle.clear();
  }
  ReadFailed(*entry, {ErrorCode::kCorrupt, "somebody cut '" + entry->path() + "' to " + Counted(has, "byte") + " of " +
                                               std::to_string(had)});
}

// Nothing of what was in the old file is shown; what waits goes into the new one.
void Store::Impl::BeginAnew(const EntryPtr& entry) {
  entry->on_disk = false;
  entry->file.reset();
  entry->log.reset();
  bool has_tags = false, has_modules = false;
  {
    std::lock_guard lock(entry->mutex);
    auto fresh = std::make_shared<LoadedRun>();
    if (entry->loaded) fresh->run = entry->loaded->run;
    if (!fresh->run) fresh->run = entry->run.lock();
    if (!fresh->run) fresh->run = std::make_shared<Run>(entry->head.producer.info);
    entry->loaded = std::move(fresh);
    entry->published = 0;
    const Progress progress = entry->head.totals.progress;
    has_tags = !entry->head.tags.empty();
    has_modules = entry->modules.has_value();
    entry->head.totals = {};
    entry->head.totals.progress = progress;
    entry->head.events = 0;
  }
  std::lock_guard lock(mutex_);
  entry->staged = 0;
  entry->tags_to_save = entry->tags_to_save || has_tags;
  entry->modules_to_save = entry->modules_to_save || has_modules;
  ++entry->said_version;
}

}  // namespace ikkuna::sinks
