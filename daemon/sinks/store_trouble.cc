// What goes wrong with one run's file: rows that it refuses, a disk that fails, a file that is broken or taken away.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "daemon/sinks/store_impl.h"

namespace ikkuna::sinks {
namespace {

using namespace std::chrono_literals;

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
      DropLocked(entry.get(), "refused", batch.values());
      Told(*entry, "refused", batch.values());
      events_dropped_ += batch.events.size();
      dropped = std::to_string(batch.values()) + " values and " + std::to_string(batch.events.size()) +
                " events of step " + std::to_string(batch.stamp.step);
      PopLocked(*entry);
      entry->commit_most = 1;
    } else {
      entry->status_to_save.reset();
      entry->modules_to_save = entry->tags_to_save = false;
      dropped = "what was said of the run itself";
    }
    flushed_.notify_all();
  }
  Raise(Severity::kError, "values_dropped",
        "The file of this run refused " + dropped + ", which is dropped: " + error.text + ".", entry->key);
}

void Store::Impl::Failed(const EntryPtr& entry, const Error& error) {
  bool first = false;
  {
    std::lock_guard lock(mutex_);
    first = entry->failing.empty();
    entry->failing = error.text;
    entry->retry_at = Clock::now() + kRetryAfter;
  }
  if (first) {
    Raise(Severity::kError, "store_failing",
          "What is recorded of this run waits, then is dropped, until this is over: " + error.text + ".", entry->key);
  }
}

void Store::Impl::SetAside(const EntryPtr& entry, const std::string& reason) {
  entry->writer.reset();
  std::string aside;
  for (int i = 1; i < 1000; ++i) {
    aside = entry->path + ".broken-" + std::to_string(i);
    if (::access(aside.c_str(), F_OK) != 0) break;
  }
  {
    std::lock_guard lock(entry->mutex);
    entry->idle.clear();
  }
  if (std::rename(entry->path.c_str(), aside.c_str()) != 0) {
    // Nothing of it is forgotten, and nothing else takes its place.
    const int why = errno;
    {
      std::lock_guard lock(mutex_);
      entry->staged = 0;
    }
    return Failed(entry, PosixError("'" + entry->path + "' is broken (" + reason + ") and cannot be moved aside", why));
  }
  (void)std::rename((entry->path + "-wal").c_str(), (aside + "-wal").c_str());
  BeginAnew(entry);
  {
    std::lock_guard lock(mutex_);
    broken_.push_back(aside);
  }
  Raise(Severity::kError, "run_file_broken",
        "The file of this run is broken and what was in it is not shown any more; it goes on in a new one. The old one "
        "is kept as '" + aside + "', where what is left of it can be read without a daemon: " + reason + ".",
        entry->key);
}

// Looked at with each commit and, where there are none, each second. Nothing of it can be brought back; what was written
// is counted as what it is now.
bool Store::Impl::ReplaceGone(const EntryPtr& entry) {
  if (!entry->writer || !entry->writer->file().IsGone()) return false;
  // Who moved it away has it whole.
  (void)entry->writer->file().FoldLog();
  uint64_t lost = 0;
  {
    std::lock_guard reading(entry->mutex);
    entry->idle.clear();
    lost = entry->head.totals.values;
    std::lock_guard lock(mutex_);
    // What the last commit brought is staged still, and was not counted as written.
    for (size_t i = 0; i < entry->published; ++i) lost -= std::min(lost, entry->pending[i].batch->values());
    const uint64_t of_now = std::min(lost, entry->written);
    entry->written -= of_now;
    written_ -= of_now;
    DropLocked(entry.get(), "file_removed", of_now);
    Told(*entry, "file_removed", of_now);
    entry->drops_unsaved["file_removed"] += lost - of_now;
  }
  entry->writer.reset();
  // The log of the file that is gone is none of the one that comes.
  (void)::unlink((entry->path + "-wal").c_str());
  (void)::unlink((entry->path + "-journal").c_str());
  BeginAnew(entry);
  Raise(Severity::kError, "run_file_removed",
        "Somebody deleted or moved '" + entry->path + "' while this run is recorded in it: the " + std::to_string(lost) +
            " values that were in it are not shown any more, and it goes on in a new file. To be rid of a run, use "
            "'ikkuna delete'.",
        entry->key);
  return true;
}

// Nothing of what was in the old file is shown; what waits goes into the new one.
void Store::Impl::BeginAnew(const EntryPtr& entry) {
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
}

}  // namespace ikkuna::sinks
