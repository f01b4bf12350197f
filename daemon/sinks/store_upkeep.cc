// Upkeep of all runs together, on the store's thread: what leaves by age, bytes and free space, what is thinned where
// runs that go on are too large together, the pause where the disk is full.
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "daemon/model/counted.h"
#include "daemon/sinks/store_impl.h"
#include "shared/base/clock.h"

namespace ikkuna::sinks {
namespace {

using namespace std::chrono_literals;

constexpr auto kUpkeepEvery = 1s;
constexpr auto kSlimRetryAfter = 5s;
constexpr auto kFreedWithin = 60s;        // how long a file system may take to give back what was deleted
constexpr int kDeletedPerLook = 8;        // commits come in between
constexpr uint64_t kEventsSlack = 1'000;  // the oldest leave in batches
constexpr int kRowsPerSlice = 512;
constexpr int kTrimPages = 1'024;
constexpr uint64_t kLogBytesMin = 64 << 10;  // of a write-ahead log that is worth being folded in

std::string Megabytes(uint64_t bytes) {
  if (bytes < 10 << 20) return std::to_string(bytes >> 10) + " KiB";
  return std::to_string(bytes >> 20) + " MiB";
}

std::optional<uint64_t> FreeBytes(const std::string& folder) {
  struct statvfs found {};
  if (::statvfs(folder.c_str(), &found) != 0) return std::nullopt;
  return uint64_t{found.f_bavail} * found.f_frsize;
}

}  // namespace

bool Store::Impl::Upkeep() {
  const auto now = Clock::now();
  if (now < upkeep_at_) return false;
  upkeep_at_ = now + kUpkeepEvery;
  LookAtFreeSpace();
  LookAgain();
  LookForMissing();
  KeepEventIds();
  bool mark = false;
  {
    std::lock_guard lock(mutex_);
    mark = mark_wanted_;
  }
  if (mark) (void)MarkEvents();
  const bool deleted = Retire();
  bool more = deleted;
  for (const EntryPtr& entry : Awake()) more = TrimOne(entry) || more;
  if (!deleted) more = Slim() || more;
  if (more) upkeep_at_ = now;
  return more;
}

void Store::Impl::LookAtFreeSpace() {
  if (free_bytes_pause_ == 0) return;
  const std::optional<uint64_t> free = FreeBytes(folder_);
  if (!free) return;
  std::optional<Event> event;
  {
    std::lock_guard lock(mutex_);
    if (!paused_ && *free < free_bytes_pause_) {
      paused_ = true;
      const auto found = drops_.find("paused");
      paused_before_ = found == drops_.end() ? 0 : found->second;
      event = MakeEvent(Severity::kError, "store_paused",
                        "Only " + Megabytes(*free) + " are free on the file system of '" + folder_ +
                            "': nothing is recorded until there is more, and what comes is dropped and counted.",
                        {});
    } else if (paused_ && *free >= free_bytes_pause_ + free_bytes_pause_ / 4) {
      paused_ = false;
      const auto found = drops_.find("paused");
      const uint64_t lost = (found == drops_.end() ? 0 : found->second) - paused_before_;
      event = MakeEvent(Severity::kWarning, "store_resumed",
                        "There is room again on the file system of '" + folder_ + "': it is recorded again. " +
                            Counted(lost, "value") + " " + Were(lost) + " dropped meanwhile.",
                        {});
    }
    if (event) ListLocked(*event);
  }
  if (event) Tell(*event);
}

// A file system may give back late what was deleted, and never while somebody has the file open: more would be deleted
// for the same want.
std::optional<uint64_t> Store::Impl::FreeSoon() {
  const std::optional<uint64_t> free = FreeBytes(folder_);
  if (!free) return std::nullopt;
  std::erase_if(leaving_, [](const Leaving& one) { return one.entry.expired(); });
  uint64_t soon = *free;
  for (const Leaving& one : leaving_) soon += one.bytes;
  return Clock::now() < free_soon_until_ ? std::max(soon, free_soon_) : soon;
}

// Finished runs leave, the oldest first. True: some did, and there may be more.
bool Store::Impl::Retire() {
  struct Old {
    int64_t ended;
    uint64_t bytes;
    EntryPtr entry;      // or
    std::string broken;  // a file that was set aside
    bool stuck = false;  // it could not be deleted
  };
  std::vector<Old> old;
  uint64_t bytes = 0;
  const auto now = Clock::now();
  bool in_motion = false, live = false;
  for (const EntryPtr& entry : Entries()) {
    const uint64_t file = FileBytes(*entry);
    // What a reader holds goes when it does: neither a run nor more of this one leaves for it.
    bytes += file - std::min(file, entry->held_bytes.load(std::memory_order_relaxed));
    if (entry == own_) continue;
    std::lock_guard reading(entry->mutex);
    if (IsOpen(entry->head.producer.state)) {
      live = live || !IsDaemonRun(entry->key);
      continue;
    }
    if (entry->rest_bytes.load(std::memory_order_relaxed) == 0) {
      // It is larger for a moment than it will be, and nothing shall leave for that. Where that moment does not end,
      // for a reader or a bad disk, it leaves in its turn.
      std::lock_guard lock(mutex_);
      if (entry->wants_rest && now - entry->idle_since < options_.rest_within) {
        in_motion = true;
        continue;
      }
    }
    const int64_t ended = std::max(entry->head.totals.last_unix_ns, entry->head.producer.info.start_unix_ns);
    old.push_back({ended, file, entry, {}});
  }
  {
    std::lock_guard lock(mutex_);
    for (const std::string& path : broken_) {
      struct stat found {};
      if (::stat(path.c_str(), &found) != 0) continue;
      bytes += static_cast<uint64_t>(found.st_size);
      old.push_back({int64_t{found.st_mtime} * 1'000'000'000, static_cast<uint64_t>(found.st_size), nullptr, path});
    }
    bytes_held_ = bytes;
  }
  // Where runs end faster than they come to rest there is always one in motion, and the cap bites all the same.
  if (!in_motion || bytes <= bytes_max_) over_since_ = now;
  const bool waits = in_motion && now - over_since_ < options_.rest_within;
  std::sort(old.begin(), old.end(), [](const Old& a, const Old& b) { return a.ended < b.ended; });
  // For want of free space the newest run never leaves, and none does where all of them would not be enough: then the
  // disk is full of something else, and a run would be gone for nothing as soon as it has ended. The health of a daemon
  // before this one is none that somebody trained.
  const Old* newest = nullptr;
  uint64_t spare = 0;  // what all others have
  for (const Old& one : old) {
    spare += one.bytes;
    if (one.entry && !IsDaemonRun(one.entry->key)) newest = &one;
  }
  // The last that is left stays, if nothing needs its room.
  const auto stays = [&](const Old& one) { return !live && &one == (newest ? newest : &old.back()); };
  if (newest) spare -= newest->bytes;
  std::optional<uint64_t> free = free_bytes_min_ > 0 ? FreeSoon() : std::nullopt;
  const uint64_t lacking = free && *free < free_bytes_min_ ? free_bytes_min_ - *free : 0;
  const bool helps = lacking > 0 && spare >= lacking;
  // Some more than must be, or who writes and deletes around the limit hears of it all day.
  if (lacking == 0 && (!free || *free >= free_bytes_min_ + free_bytes_min_ / 8)) (void)TellOnce("free", "");
  if (lacking > 0 && !helps && TellOnce("free", "low")) {
    Raise(Severity::kWarning, "store_low_space",
          "Only " + Megabytes(*free) + " are free on the file system of '" + folder_ + "', and " +
              Megabytes(free_bytes_min_) +
              " shall stay free. To delete finished runs would not be enough, so all stay: "
              "make room there, let less stay free (--store-min-free-mb), or record elsewhere (--data-dir)." +
              (free_bytes_pause_ > 0 ? " Below " + Megabytes(free_bytes_pause_) + " nothing is recorded." : ""),
          {});
  }
  int deleted = 0;
  for (Old& one : old) {
    std::string why;
    const int64_t age_max_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(options_.age_max).count();
    if (age_max_ns > 0 && one.ended < UnixNs() - age_max_ns) {
      why = "it ended more than " + Counted(static_cast<uint64_t>(options_.age_max.count()), "hour") + " ago";
    } else if (bytes_max_ > 0 && bytes > bytes_max_ && !waits && !stays(one)) {
      why = "all runs of this host take " + Megabytes(bytes) + ", and may take " + Megabytes(bytes_max_);
    } else if (helps && *free < free_bytes_min_ && &one != newest) {
      why =
          "only " + Megabytes(*free) + " are free on the disk, and " + Megabytes(free_bytes_min_) + " shall stay free";
    } else if (&one == newest) {
      continue;
    } else {
      break;  // those that follow are younger
    }
    const std::string what = one.entry ? "Run " + Describe(one.entry->key) : "What was set aside, '" + one.broken + "'";
    Event event = MakeEvent(Severity::kInfo, "run_retired",
                            what + ", " + Megabytes(one.bytes) + ", was deleted: " + why + ".", {});
    if (one.entry) {
      Status removed = Remove(one.entry, "retired", &event);
      if (!removed) {
        // Begun again or gone a moment ago, or the disk refuses: the next look finds out.
        const ErrorCode code = removed.error().code;
        if (code != ErrorCode::kFailedPrecondition && code != ErrorCode::kNotFound &&
            TellOnce("retire", removed.error().text)) {
          Raise(Severity::kError, "store_failing", "An old run cannot be deleted: " + removed.error().text + ".", {});
        }
        one.stuck = true;
        continue;
      }
      leaving_.push_back({one.entry, one.bytes});
    } else {
      (void)::unlink((one.broken + "-wal").c_str());
      if (::unlink(one.broken.c_str()) != 0 && errno != ENOENT) {
        one.stuck = true;
        continue;
      }
      {
        std::lock_guard lock(mutex_);
        std::erase(broken_, one.broken);
        ListLocked(event);
      }
      Tell(event);
    }
    bytes -= std::min(bytes, one.bytes);
    if (free) {
      free_soon_ = *free += one.bytes;
      free_soon_until_ = Clock::now() + kFreedWithin;
    }
    {
      std::lock_guard lock(mutex_);
      bytes_held_ = bytes;
    }
    if (++deleted >= kDeletedPerLook) break;
  }
  finished_may_leave_ =
      waits || std::any_of(old.begin(), old.end(), [&](const Old& one) { return !one.stuck && !stays(one); });
  return deleted > 0;
}

bool Store::Impl::TellOnce(const std::string& about, const std::string& text) {
  std::lock_guard lock(mutex_);
  std::string& told = told_[about];
  if (told == text) return false;
  told = text;
  return true;
}

// What has a bound of its own in each run: events, and values that are no numbers.
bool Store::Impl::TrimOne(const EntryPtr& entry) {
  std::unique_lock writing(entry->writer_mutex);
  if (!entry->writer) return false;
  if (ReplaceGone(entry)) return true;
  uint64_t events = 0, others_bytes = 0;
  {
    std::lock_guard reading(entry->mutex);
    events = entry->head.events;
    others_bytes = entry->head.totals.others_bytes;
  }
  {
    std::lock_guard lock(mutex_);
    if (entry->deleted || entry->upkeep_at > Clock::now()) return false;
  }
  if (events > options_.events_max + std::min(kEventsSlack, options_.events_max / 10)) {
    Transaction transaction(entry->writer->file().database());
    uint64_t removed = 0;
    Status trimmed = transaction.Begin();
    if (trimmed) {
      Result<uint64_t> done = entry->writer->file().TrimEvents(options_.events_max);
      trimmed = done ? Status() : Status(done.error());
      removed = done ? *done : 0;
    }
    if (trimmed) trimmed = transaction.Commit();
    if (!trimmed) {
      UpkeepFailed(entry, trimmed.error());
      return false;
    }
    {
      std::lock_guard reading(entry->mutex);
      entry->head.events -= std::min(entry->head.events, removed);
    }
    if (removed > 0) TellEventsGone(entry, removed);
  }
  if (others_bytes <= options_.others_bytes_max) return false;
  return TrimOthers(entry, options_.others_bytes_max - options_.others_bytes_max / 16);
}

bool Store::Impl::TrimOthers(const EntryPtr& entry, uint64_t bytes_max) {
  Result<uint64_t> removed = entry->writer->TrimOthers(bytes_max);
  if (!removed) {
    UpkeepFailed(entry, removed.error());
    return false;
  }
  if (*removed > 0) TellThinned(entry);
  return *removed > 0;
}

// Once, and each time that it has become twice as much.
void Store::Impl::TellThinned(const EntryPtr& entry) {
  uint64_t thinned = 0, values = 0;
  {
    std::lock_guard reading(entry->mutex);
    thinned = entry->head.totals.thinned;
    values = entry->head.totals.values;
  }
  {
    std::lock_guard lock(mutex_);
    if (thinned == 0 || thinned < 2 * entry->thinned_told) return;
    entry->thinned_told = thinned;
  }
  Raise(Severity::kWarning, "run_thinned",
        "Of this run " + std::to_string(thinned) + " of " + Counted(thinned + values, "value") + " " + Were(thinned) +
            " thinned away, the oldest first, so that it fits into the store.",
        entry->key);
}

// As TellThinned().
void Store::Impl::TellEventsGone(const EntryPtr& entry, uint64_t more) {
  uint64_t gone = 0;
  {
    std::lock_guard lock(mutex_);
    gone = entry->events_gone += more;
    if (gone < 2 * entry->events_gone_told) return;
    entry->events_gone_told = gone;
  }
  Raise(Severity::kWarning, "events_thinned",
        "Of this run the " + std::to_string(gone) +
            " oldest events were removed since this daemon began: a run keeps " + std::to_string(options_.events_max) +
            ".",
        entry->key);
}

// Where runs that go on are too large together, and no finished one can leave for them, the largest gives a slice.
// True: there is more to do.
bool Store::Impl::Slim() {
  uint64_t bytes = 0, held = 0;  // held: of segments that readers hold, as good as gone
  std::vector<std::pair<uint64_t, EntryPtr>> written;
  for (const EntryPtr& entry : Entries()) {
    const uint64_t file = FileBytes(*entry);
    held += std::min(file, entry->held_bytes.load(std::memory_order_relaxed));
    bytes += file;
    if (entry != own_ && entry->rest_bytes.load(std::memory_order_relaxed) == 0) written.emplace_back(file, entry);
  }
  {
    std::lock_guard lock(mutex_);
    bytes_held_ = bytes;
    for (const std::string& path : broken_) bytes_held_ += FileBytes(path);
    bytes = bytes_held_ - std::min(bytes_held_, held);
  }
  const bool over = bytes_max_ > 0 && bytes > bytes_max_;
  if (over) slimming_ = true;
  if (!over) (void)TellOnce("cap", "");
  // Some more than it must be, so that not every look finds something.
  if (finished_may_leave_ || bytes <= bytes_max_ - bytes_max_ / 16) slimming_ = false;
  std::sort(written.begin(), written.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  bool more = false, busy = false;
  for (const auto& [file, entry] : written) {
    std::unique_lock writing(entry->writer_mutex);
    if (!entry->writer) continue;
    {
      std::lock_guard lock(mutex_);
      if (entry->deleted || entry->upkeep_at > Clock::now()) continue;
    }
    bool open = false;
    {
      std::lock_guard reading(entry->mutex);
      open = IsOpen(entry->head.producer.state);
    }
    // What was begun is ended, and what readers have left goes, whatever the size is now.
    const Result<bool> did = SlimOne(entry, slimming_ && open && !more);
    busy = busy || entry->writer->compacting();
    entry->held_bytes = entry->writer->held_bytes();
    if (!did) {
      if (did.error().code == ErrorCode::kCorrupt) {
        SetAside(entry, did.error().text);
      } else {
        UpkeepFailed(entry, did.error());
      }
      continue;
    }
    more = more || *did;
  }
  if (slimming_ && !more) {
    slimming_ = false;
    if (over && !busy && TellOnce("cap", "over")) {
      Raise(Severity::kWarning, "store_over_cap",
            "The runs that are left take " + Megabytes(bytes) + ", more than the " + Megabytes(bytes_max_) +
                " that all may take, and nothing is left in those that go on that could be thinned. They are recorded "
                "all the same.",
            {});
    }
  }
  return more;
}

// Under its writer_mutex. True: something was done.
Result<bool> Store::Impl::SlimOne(const EntryPtr& entry, bool begin) {
  RunWriter& writer = *entry->writer;
  if (Result<bool> dropped = writer.DropRetired(kRowsPerSlice); !dropped || *dropped) return dropped;
  if (writer.thinning()) {
    Result<bool> more = writer.Thin(options_.slice_bytes);
    if (more && !*more) TellThinned(entry);
    return more ? Result<bool>(true) : more;
  }
  if (!begin) return false;
  // First what costs nothing: free pages, the write-ahead log.
  Result<int64_t> free_pages = writer.file().database().QueryInt("PRAGMA freelist_count");
  if (!free_pages) return free_pages.error();
  if (*free_pages > 0) {
    Result<bool> shrunk = writer.file().Shrink(kTrimPages);
    return shrunk ? Result<bool>(true) : shrunk;
  }
  const uint64_t log = FileBytes(entry->path() + "-wal");
  if (log > kLogBytesMin && log > FileBytes(*entry) / 16) {
    if (Status folded = writer.file().FoldLog(); !folded) return folded.error();
    if (FileBytes(entry->path() + "-wal") < log) return true;
  }
  uint64_t others_bytes = 0;
  {
    std::lock_guard reading(entry->mutex);
    others_bytes = entry->head.totals.others_bytes;
  }
  if (others_bytes > FileBytes(*entry) / 2 && TrimOthers(entry, others_bytes - others_bytes / 8)) return true;
  if (writer.BeginThinning()) return true;
  // Nothing in segments: what is in the tail becomes one.
  if (!writer.compacting() && writer.Seal(true)) return true;
  if (writer.compacting()) return false;
  return others_bytes > 0 && TrimOthers(entry, others_bytes - others_bytes / 8);
}

void Store::Impl::UpkeepFailed(const EntryPtr& entry, const Error& error) {
  {
    std::lock_guard lock(mutex_);
    if (entry->deleted) return;
    entry->upkeep_at = Clock::now() + kSlimRetryAfter;
    if (std::exchange(entry->upkeep_failing, true)) return;
  }
  Raise(Severity::kWarning, "store_failing",
        "'" + entry->path() +
            "' cannot be compacted, which is tried again; values are recorded as long as that is possible: " +
            error.text + ".",
        entry->key);
}

}  // namespace ikkuna::sinks
