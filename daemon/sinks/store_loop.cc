// The store's thread: commits what is due, compacts a slice between commits, puts finished runs at rest.
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <filesystem>

#include "daemon/model/counted.h"
#include "daemon/model/missing.h"
#include "daemon/sinks/store_impl.h"

namespace ikkuna::sinks {
namespace {

using namespace std::chrono_literals;

constexpr auto kRestAfter = 1s;  // last words of a run come a moment after its end
constexpr uint32_t kFailuresMax = 5;  // exceptions in a row, of one run, before what causes them is dropped
constexpr auto kTellEvery = 10s;
constexpr auto kSaveDropsAfter = 1s;  // where nothing else is saved: while recording is paused they come all the time
constexpr int kShrinkPages = 512;
constexpr int kSlicesCrowded = 8;
constexpr int kPathsMax = 16;  // files that are not ours, one after another, before the disk is said to fail

Error FileIsGone(const RunEntry& entry) {
  return {ErrorCode::kNotFound, "the file of run " + Describe(entry.key) + ", '" + entry.path() +
                                    "', is gone or is another, and with it the run that was listed"};
}

}  // namespace

Status Store::Impl::EnsureWriter(const EntryPtr& entry) {
  if (entry->writer && !ReplaceGone(entry)) return {};
  {
    std::lock_guard lock(mutex_);
    if (entry->deleted) return FileIsGone(*entry);
  }
  if (entry->on_disk && IsMissing(entry->path()) && !LoseFile(entry, "")) return FileIsGone(*entry);
  Result<std::unique_ptr<RunWriter>> writer = RunWriter::Open(*entry);
  auto is_foreign = [&](const Error& error) {
    return error.code == ErrorCode::kFailedPrecondition || (error.code == ErrorCode::kCorrupt && !HasItsFile(entry));
  };
  for (int i = 0; i < kPathsMax && !writer && is_foreign(writer.error()); ++i) {
    // Somebody put a file there that is not ours. It stays, and the run gets another.
    if (!LoseFile(entry, writer.error().text)) return FileIsGone(*entry);
    writer = RunWriter::Open(*entry);
  }
  if (!writer) {
    return Error{writer.error().code, "cannot open '" + entry->path() + "': " + writer.error().text};
  }
  entry->file = FileIdOf(entry->path());
  entry->writer = *std::move(writer);
  entry->on_disk = true;
  entry->rest_bytes = 0;
  uint64_t hidden = 0;
  {
    std::lock_guard reading(entry->mutex);
    hidden = entry->loaded->hidden;
  }
  if (hidden > 0) ReadFailed(*entry, HiddenValues(entry->path(), hidden));
  std::lock_guard lock(mutex_);
  if (!entry->deleted) awake_.insert(entry);
  return {};
}

void Store::Impl::Doze(const EntryPtr& entry) {
  std::unique_lock writing(entry->writer_mutex, std::try_to_lock);
  if (!writing || entry->writer) return;
  std::lock_guard lock(mutex_);
  if (entry->pending.empty() && !entry->saves() && entry->drops_unsaved.empty() && !entry->wants_rest) awake_.erase(entry);
}

// What the next daemon shall know of it without opening it.
void Store::Impl::NoteAtRest(const EntryPtr& entry) {
  entry->log.reset();
  entry->rest_bytes = FileBytes(entry->path());
  const std::optional<Catalogue::Stamp> stamp = Catalogue::StampOf(entry->path());
  if (!stamp) return;
  RunHead head;
  {
    std::lock_guard reading(entry->mutex);
    if (entry->loaded) entry->head.series = entry->loaded->run->series().size();
    head = entry->head;
  }
  catalogue_.Save(std::filesystem::path(entry->path()).filename().string(), *stamp, head);
}

void Store::Impl::Loop() {
  // Linux: of this thread alone. It never takes a trainer's processor while another would do; nor does it come before the
  // rest of a daemon that was started with less.
  const auto thread = static_cast<id_t>(::syscall(SYS_gettid));
  (void)::setpriority(PRIO_PROCESS, thread, std::max(options_.nice, ::getpriority(PRIO_PROCESS, thread)));
  nice_.store(::getpriority(PRIO_PROCESS, thread), std::memory_order_relaxed);
  std::unique_lock lock(mutex_);
  for (;;) {
    const bool closing = closing_;
    const bool flush = flush_wanted_ || closing;
    flush_wanted_ = false;
    if (flush) ++flushes_;
    const auto now = Clock::now();
    auto next = now + 1s;
    std::vector<EntryPtr> due;
    auto look = [&](const EntryPtr& entry) {
      if (!entry->pending.empty() || entry->saves() || !entry->drops_unsaved.empty()) {
        auto at = entry->saves() ? now : entry->drops_since + kSaveDropsAfter;
        if (!entry->pending.empty()) at = entry->pending.front().since + kCommitAfter;
        if (entry->values_pending >= kValuesPerCommit || flush) at = now;
        if (!flush) at = std::max(at, entry->retry_at);
        if (at <= now) {
          due.push_back(entry);
          // What all ranks came to goes before the progress of each (Commit).
          if (EntryPtr all = AllRanksLocked(*entry); all && !all->pending.empty() && all->failing.empty()) {
            if (std::find(due.begin(), due.end(), all) == due.end()) due.push_back(std::move(all));
          }
        }
        next = std::min(next, at);
      }
      if (entry->wants_rest) next = std::min(next, std::max(entry->idle_since + kRestAfter, entry->retry_at));
    };
    for (const EntryPtr& entry : awake_) look(entry);
    lock.unlock();
    std::stable_partition(due.begin(), due.end(), [](const EntryPtr& entry) { return entry->key.rank == kAllRanks; });

    for (const EntryPtr& entry : due) Guarded(entry);
    // A slice of work for each run that has some, then of what concerns all.
    bool more = false;
    const Crowd crowd = Crowded();
    for (const EntryPtr& entry : Awake()) {
      try {
        if (closing) more = TellDrops(entry, true) || more;
        more = Rest(entry, closing, entry == crowd.entry ? crowd.slices : 0) || more;
      } catch (const std::exception& error) {
        UpkeepFailed(entry, {ErrorCode::kSystem, error.what()});
      }
    }
    for (const EntryPtr& entry : Awake()) Doze(entry);
    try {
      if (!closing) more = Upkeep() || more;
    } catch (const std::exception& error) {
      if (TellOnce("upkeep", error.what())) {
        Raise(Severity::kError, "store_failing", std::string("Old runs are not looked after: ") + error.what() + ".", {});
      }
    }

    lock.lock();
    if (flush) flushed_.notify_all();
    if (closing && due.empty() && !more) break;
    // What cannot be written now is not waited for.
    if (closing && !more && std::all_of(due.begin(), due.end(), [](const EntryPtr& e) { return !e->failing.empty(); })) break;
    if (more || flush_wanted_ || closing_ || !due.empty()) continue;
    sleeping_ = true;
    wake_.wait_until(lock, next);
    sleeping_ = false;
  }
  const bool mark = mark_wanted_;
  lock.unlock();
  if (mark) (void)MarkEvents();
  for (const EntryPtr& entry : Entries()) {
    std::lock_guard writing(entry->writer_mutex);
    {
      std::lock_guard reading(entry->mutex);
      entry->idle.clear();
    }
    // One file each, also where nobody may write: those that go on begin their log anew.
    if (!entry->writer) continue;
    const Status rested = entry->writer->file().Rest();
    entry->writer.reset();
    if (rested) NoteAtRest(entry);
  }
}

// The run whose tail shall be compacted although it is short: all of them together are too long.
Store::Impl::Crowd Store::Impl::Crowded() const {
  size_t bytes = 0, most = 0;
  EntryPtr longest;
  for (const EntryPtr& entry : Awake()) {
    std::lock_guard lock(entry->mutex);
    if (!entry->loaded) continue;
    const LoadedRun& loaded = *entry->loaded;
    bytes += loaded.open.bytes + (loaded.sealed ? loaded.sealed->bytes : 0);
    // One that is at it already will do.
    const size_t weight = loaded.sealed ? SIZE_MAX : loaded.open.bytes;
    if (weight <= most) continue;
    most = weight;
    longest = entry;
  }
  if (bytes <= options_.tail_bytes_max) return {};
  return {longest, bytes > options_.tail_bytes_max / 4 * 5 ? kSlicesCrowded : 1};
}

Store::Impl::EntryPtr Store::Impl::AllRanksLocked(const RunEntry& entry) const {
  if (entry.key.rank == kAllRanks || entry.key.run_id.empty()) return nullptr;
  return FindLocked({entry.key.run_id, entry.key.attempt, kAllRanks});
}

void Store::Impl::PopLocked(RunEntry& entry) {
  const Pending& one = entry.pending.front();
  entry.values_pending -= one.batch->values();
  events_queued_ -= one.batch->events.size();
  entry.bytes_pending -= one.bytes;
  bytes_queued_ -= one.bytes;
  --batches_queued_;
  entry.pending.pop_front();
}

void Store::Impl::Guarded(const EntryPtr& entry) {
  try {
    Commit(entry);
    return;
  } catch (const std::exception& error) {
    Failed(entry, {ErrorCode::kSystem, error.what()});
  }
  // Nobody knows how far it came: what is not committed is looked at once more, on what the file holds.
  std::lock_guard writing(entry->writer_mutex);
  entry->writer.reset();
  std::lock_guard reading(entry->mutex);
  std::lock_guard lock(mutex_);
  ++failures_;
  for (; entry->published > 0; --entry->published) {
    const uint64_t values = entry->pending.front().batch->values();
    entry->written += values;
    written_ += values;
    PopLocked(*entry);
  }
  entry->staged = 0;
  if (++entry->failures < kFailuresMax) return;
  // Whatever it is in them, others shall not wait for it.
  entry->failures = 0;
  while (!entry->pending.empty()) {
    DropLocked(entry, "failed", entry->pending.front().batch->values());
    events_dropped_ += entry->pending.front().batch->events.size();
    PopLocked(*entry);
  }
}

void Store::Impl::Commit(const EntryPtr& entry) {
  std::lock_guard writing(entry->writer_mutex);
  {
    std::lock_guard lock(mutex_);
    if (entry->deleted) return;
  }
  if (Status opened = EnsureWriter(entry); !opened) {
    if (opened.error().code == ErrorCode::kCorrupt) {
      SetAside(entry, opened.error().text);
    } else {
      Failed(entry, opened.error());
    }
    return;
  }
  RunWriter& writer = *entry->writer;
  std::vector<std::shared_ptr<const Batch>> batches;
  std::optional<ProducerStatus> status;
  uint64_t said_version = 0;
  bool says_all = false, modules_to_save = false, tags_to_save = false, stuck = false;
  std::map<std::string, uint64_t> unrecorded;
  std::map<std::string, uint64_t, std::less<>> drops;
  const auto drops_until = Clock::now();
  {
    std::lock_guard reading(entry->mutex);
    unrecorded = entry->head.unrecorded;
    std::lock_guard lock(mutex_);
    drops = entry->drops_unsaved;
  }
  for (const auto& [reason, count] : drops) unrecorded[reason] += count;
  {
    std::lock_guard lock(mutex_);
    // A rank's progress speaks for what all ranks came to as well: it is not safe before that is. Where that cannot be
    // written at all, which an event has said, the rank does not wait for it.
    uint64_t before = UINT64_MAX;
    if (const EntryPtr all = AllRanksLocked(*entry); all && !all->pending.empty() && all->failing.empty()) {
      before = all->pending.front().first_ticket;
    }
    uint64_t values = writer.staged_values();
    size_t room = writer.room();
    stuck = room == 0 && entry->upkeep_failing;
    while (entry->staged < entry->pending.size() && values < kValuesPerCommit && room > 0 &&
           entry->staged < entry->commit_most &&
           entry->pending[entry->staged].ticket < before) {
      batches.push_back(entry->pending[entry->staged++].batch);
      values += batches.back()->values();
      --room;
    }
    // That a run is over is said with its last values or after them, never before.
    const bool last = entry->staged == entry->pending.size();
    if (entry->status_to_save && (last || IsOpen(entry->status_to_save->state))) {
      status = entry->status_to_save;
    }
    says_all = status || !entry->status_to_save;
    said_version = entry->said_version;
    modules_to_save = entry->modules_to_save;
    tags_to_save = entry->tags_to_save;
  }
  std::optional<std::vector<ModuleInfo>> modules;
  std::vector<std::string> tags;
  {
    std::lock_guard lock(entry->mutex);
    if (modules_to_save) modules = entry->modules;
    tags = entry->head.tags;
  }
  for (const auto& batch : batches) writer.Stage(batch);
  if (!writer.staged() && !status && !modules_to_save && !tags_to_save && drops.empty()) {
    // It waits for room, or for all ranks.
    if (stuck) Failed(entry, {ErrorCode::kResourceExhausted, "'" + entry->path() + "' takes no more before it is compacted"});
    return;
  }
  CommitReport report;
  Status committed = writer.Commit(status ? &*status : nullptr, modules ? &*modules : nullptr,
                                   tags_to_save ? &tags : nullptr, unrecorded, &report);
  if (!committed) {
    if (committed.error().code == ErrorCode::kCorrupt) {
      SetAside(entry, committed.error().text);
    } else if (committed.error().code == ErrorCode::kInvalidArgument) {
      Bisect(entry, committed.error());
    } else {
      Failed(entry, Error{committed.error().code, "cannot write '" + entry->path() + "': " + committed.error().text});
    }
    return;
  }
  if (!drops.empty()) {
    std::lock_guard reading(entry->mutex);
    entry->head.unrecorded = std::move(unrecorded);
    std::lock_guard lock(mutex_);
    for (const auto& [reason, count] : drops) {
      const auto found = entry->drops_unsaved.find(reason);
      found->second -= count;  // more may have come meanwhile
      if (found->second == 0) entry->drops_unsaved.erase(found);
    }
    entry->drops_since = drops_until;
  }
  // What went into a file that nobody will find is no part of a run: it is written once more.
  if (ReplaceGone(entry)) return;
  if (entry->sync_at == Clock::time_point()) entry->sync_at = Clock::now() + options_.sync_every;
  {
    std::lock_guard reading(entry->mutex);
    report.AddDropsTo(entry->head.unrecorded);
    std::lock_guard lock(mutex_);
    if (entry->commit_most != SIZE_MAX) entry->commit_most = std::min(entry->commit_most, SIZE_MAX / 2) * 2;
    if (says_all) entry->said_saved = std::max(entry->said_saved, said_version);
    // Else another came meanwhile, and all of it is said once more.
    if (entry->said_version == said_version) {
      if (status) entry->status_to_save.reset();
      entry->modules_to_save = entry->tags_to_save = false;
    }
  }
  Settle(entry, report);
}

void Store::Impl::Settle(const EntryPtr& entry, const CommitReport& report) {
  uint64_t done_seq = 0;
  bool is_over = false;
  {
    std::lock_guard reading(entry->mutex);
    is_over = entry != own_ && !IsOpen(entry->head.producer.state);
    done_seq = entry->head.totals.progress.done_seq;
  }
  bool progressed = false;
  std::vector<std::shared_ptr<const Batch>> kept;
  {
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < entry->staged; ++i) {
      kept.push_back(entry->pending[i].batch);
      progressed = progressed || kept.back()->progress.has_value();
    }
  }
  // Before a Flush that waits for it returns.
  for (const auto& batch : kept) {
    if (options_.on_kept) options_.on_kept(batch);
  }
  if (progressed && options_.on_committed && entry != own_) options_.on_committed(entry->key, done_seq);
  std::string recovered;
  {
    std::lock_guard reading(entry->mutex);
    std::lock_guard lock(mutex_);
    const size_t settled = entry->staged;
    for (; entry->staged > 0; --entry->staged) PopLocked(*entry);
    entry->published = 0;
    entry->written += report.written;
    written_ += report.written;
    for (const auto& [reason, count] : report.drops()) DropLocked(entry, reason, count, InFile::kYes);
    if (!report.refusal.empty()) entry->refusal = report.refusal;
    events_dropped_ += report.events_dropped;
    entry->failures = 0;
    entry->idle_since = Clock::now();
    entry->wants_rest = entry->wants_rest || is_over;  // a last word opened it once more
    // Words about the run itself are taken even where its values have no room.
    if (settled > 0 || entry->pending.empty()) recovered.swap(entry->failing);
    if (entry->pending.empty() || flush_wanted_) flushed_.notify_all();
  }
  if (!recovered.empty()) {
    Raise(Severity::kInfo, "store_recovered", "What is recorded of this run is written again.", entry->key);
  }
  (void)TellDrops(entry, false);
}

bool Store::Impl::TellDrops(const EntryPtr& entry, bool all) {
  std::map<std::string, uint64_t, std::less<>> untold;
  std::string refusal;
  {
    std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    if (entry->drops_untold.empty() || (!all && now < entry->tell_at)) return false;
    untold.swap(entry->drops_untold);
    refusal.swap(entry->refusal);
    entry->tell_at = now + kTellEvery;
  }
  uint64_t values = 0;
  std::string parts;
  for (const auto& [reason, count] : untold) {
    values += count;
    parts += " " + std::to_string(count) + " " + UnrecordedText(reason, count);
    if (reason == "refused" && !refusal.empty()) parts += " (" + refusal + ")";
    parts += ",";
  }
  parts.back() = '.';
  Raise(Severity::kWarning, "values_dropped",
        Counted(values, "value") + " of this run " + Were(values) + " not recorded:" + parts, entry->key);
  return true;
}

bool Store::Impl::Rest(const EntryPtr& entry, bool closing, int slices) {
  bool wants_rest = false;
  {
    std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    wants_rest = entry->wants_rest && entry->pending.empty() && !entry->status_to_save && entry->drops_unsaved.empty() &&
                 entry->retry_at <= now && (closing || entry->idle_since + kRestAfter <= now);
  }
  // Its last word, which is written first.
  if (wants_rest && TellDrops(entry, true)) return false;
  std::lock_guard writing(entry->writer_mutex);
  if (!entry->writer && !wants_rest) return false;
  {
    std::lock_guard lock(mutex_);
    if (entry->deleted || entry->upkeep_at > Clock::now()) return false;
  }
  if (Status opened = EnsureWriter(entry); !opened) {
    if (opened.error().code == ErrorCode::kCorrupt) {
      SetAside(entry, opened.error().text);
    } else {
      UpkeepFailed(entry, opened.error());
    }
    return false;
  }
  RunWriter& writer = *entry->writer;
  if (writer.Seal(wants_rest || slices > 0)) {
    Result<bool> more = writer.Compact(options_.slice_bytes);
    // Where there is no room for what comes, it waits.
    while (more && *more && (writer.room() == 0 || --slices > 0)) {
      more = writer.Compact(options_.slice_bytes);
    }
    if (!more) {
      if (more.error().code == ErrorCode::kCorrupt) {
        SetAside(entry, more.error().text);
      } else {
        UpkeepFailed(entry, more.error());
      }
      return false;
    }
    std::lock_guard lock(mutex_);
    entry->upkeep_failing = false;
    return true;
  }
  if (!wants_rest && entry->sync_at != Clock::time_point() && entry->sync_at <= Clock::now()) {
    // As far as readers allow; what they hold is folded in next time.
    Status synced = writer.file().Sync();
    if (!synced) UpkeepFailed(entry, synced.error());
    entry->sync_at = synced ? Clock::time_point() : Clock::now() + options_.sync_every;
  }
  if (!wants_rest) return false;
  if (Status saved = writer.SaveCounts(); !saved) {
    UpkeepFailed(entry, saved.error());
    return false;
  }
  Result<bool> more = writer.file().Shrink(kShrinkPages);
  if (!more) {
    UpkeepFailed(entry, more.error());
    return false;
  }
  if (*more) return true;
  {
    std::lock_guard reading(entry->mutex);
    entry->idle.clear();
  }
  Status rested = writer.file().Rest();
  if (!rested) {
    // Somebody reads it.
    std::lock_guard lock(mutex_);
    entry->retry_at = Clock::now() + kRetryAfter;
    return false;
  }
  entry->writer.reset();
  {
    std::lock_guard reading(entry->mutex);
    entry->loaded.reset();
    entry->idle.clear();
  }
  entry->held_bytes = 0;
  NoteAtRest(entry);
  std::lock_guard lock(mutex_);
  entry->wants_rest = false;
  entry->upkeep_failing = false;
  return false;
}

}  // namespace ikkuna::sinks
