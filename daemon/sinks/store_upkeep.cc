// Upkeep of all runs together, on the store's thread: what leaves by age, bytes and free space, what is thinned where runs
// that go on are too large together, the pause where the disk is full.
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "daemon/sinks/store_impl.h"
#include "shared/base/clock.h"

namespace ikkuna::sinks {
namespace {

using namespace std::chrono_literals;

constexpr auto kUpkeepEvery = 1s;
constexpr auto kSlimRetryAfter = 5s;
constexpr auto kRestWithin = 60s;  // how long a run that ended may take to become one file before the cap bites
constexpr int kDeletedPerLook = 8;         // commits come in between
constexpr uint64_t kEventsSlack = 1'000;   // the oldest leave in batches
constexpr int kRowsPerSlice = 512;
constexpr int kShrinkPages = 1'024;
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
  const bool deleted = Retire();
  bool more = deleted;
  for (const EntryPtr& entry : Awake()) more = TrimOne(entry) || more;
  if (!deleted) more = Slim() || more;
  if (more) upkeep_at_ = now;
  return more;
}

void Store::Impl::LookAtFreeSpace() {
  if (options_.free_bytes_pause == 0) return;
  const std::optional<uint64_t> free = FreeBytes(folder_);
  if (!free) return;
  bool pauses = false, resumes = false;
  uint64_t lost = 0;
  {
    std::lock_guard lock(mutex_);
    if (!paused_ && *free < options_.free_bytes_pause) {
      paused_ = pauses = true;
      const auto found = drops_.find("paused");
      paused_before_ = found == drops_.end() ? 0 : found->second;
    } else if (paused_ && *free >= options_.free_bytes_pause + options_.free_bytes_pause / 4) {
      paused_ = false;
      resumes = true;
      const auto found = drops_.find("paused");
      lost = (found == drops_.end() ? 0 : found->second) - paused_before_;
    }
  }
  if (pauses) {
    Raise(Severity::kError, "store_paused",
          "Only " + Megabytes(*free) + " are free on the file system of '" + folder_ +
              "': nothing is recorded until there is more, and what comes is dropped and counted.",
          {});
  }
  if (resumes) {
    Raise(Severity::kWarning, "store_resumed",
          "There is room again on the file system of '" + folder_ + "': it is recorded again. " + std::to_string(lost) +
              " values were dropped meanwhile.",
          {});
  }
}

// Finished runs leave, the oldest first. True: some did, and there may be more.
bool Store::Impl::Retire() {
  struct Old {
    int64_t ended;
    uint64_t bytes;
    EntryPtr entry;      // or
    std::string broken;  // a file that was set aside
  };
  std::vector<Old> old;
  uint64_t bytes = 0;
  bool in_motion = false, live = false;
  for (const EntryPtr& entry : Entries()) {
    const uint64_t file = FileBytes(*entry);
    bytes += file;
    if (entry == own_) continue;
    std::lock_guard reading(entry->mutex);
    if (IsOpen(entry->head.producer.state)) {
      live = live || !IsDaemonRun(entry->key);
      continue;
    }
    if (entry->rest_bytes.load(std::memory_order_relaxed) == 0) {
      // It is larger for a moment than it will be, and nothing shall leave for that.
      std::lock_guard lock(mutex_);
      in_motion = in_motion || (entry->wants_rest && Clock::now() - entry->idle_since < kRestWithin);
      if (entry->wants_rest) continue;
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
  std::sort(old.begin(), old.end(), [](const Old& a, const Old& b) { return a.ended < b.ended; });
  int deleted = 0;
  for (const Old& one : old) {
    const std::optional<uint64_t> free = FreeBytes(folder_);
    std::string why;
    const int64_t age_max_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(options_.age_max).count();
    if (age_max_ns > 0 && one.ended < UnixNs() - age_max_ns) {
      why = "it ended more than " + std::to_string(options_.age_max.count()) + " hours ago";
    } else if (bytes_max_ > 0 && bytes > bytes_max_ && !in_motion && (live || &one != &old.back())) {
      // The last that is left stays, if nothing needs its room.
      why = "all runs of this host take " + Megabytes(bytes) + ", and may take " + Megabytes(bytes_max_);
    } else if (options_.free_bytes_min > 0 && free && *free < options_.free_bytes_min) {
      why = "only " + Megabytes(*free) + " are free on the disk, and " + Megabytes(options_.free_bytes_min) +
            " shall stay free";
    } else {
      break;  // those that follow are younger
    }
    const std::string what = one.entry ? "Run " + Describe(one.entry->key) : "The broken file '" + one.broken + "'";
    if (one.entry) {
      Status removed = Remove(one.entry, "retired");
      if (!removed) {
        // Begun again a moment ago, or the disk refuses: the next look finds out.
        if (removed.error().code != ErrorCode::kFailedPrecondition && TellOnce("retire", removed.error().text)) {
          Raise(Severity::kError, "store_failing", "An old run cannot be deleted: " + removed.error().text + ".", {});
        }
        continue;
      }
    } else {
      (void)::unlink((one.broken + "-wal").c_str());
      if (::unlink(one.broken.c_str()) != 0 && errno != ENOENT) continue;
      std::lock_guard lock(mutex_);
      std::erase(broken_, one.broken);
    }
    bytes -= std::min(bytes, one.bytes);
    {
      std::lock_guard lock(mutex_);
      bytes_held_ = bytes;
    }
    Raise(Severity::kInfo, "run_retired", what + ", " + Megabytes(one.bytes) + ", was deleted: " + why + ".", {});
    if (++deleted >= kDeletedPerLook) break;
  }
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
    Status trimmed = transaction.Begin();
    if (trimmed) trimmed = entry->writer->file().TrimEvents(options_.events_max);
    if (trimmed) trimmed = transaction.Commit();
    if (!trimmed) {
      UpkeepFailed(entry, trimmed.error());
      return false;
    }
    std::lock_guard reading(entry->mutex);
    entry->head.events = options_.events_max;
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
        "Of this run " + std::to_string(thinned) + " of " + std::to_string(thinned + values) +
            " values were thinned away, the oldest first, so that it fits into the store.",
        entry->key);
}

// Where runs that go on are too large together, the largest gives a slice. True: there is more to do.
bool Store::Impl::Slim() {
  uint64_t bytes = 0;
  std::vector<std::pair<uint64_t, EntryPtr>> live;
  for (const EntryPtr& entry : Entries()) {
    const uint64_t file = FileBytes(*entry);
    bytes += file;
    if (entry != own_ && entry->rest_bytes.load(std::memory_order_relaxed) == 0) live.emplace_back(file, entry);
  }
  {
    std::lock_guard lock(mutex_);
    bytes_held_ = bytes;
    for (const std::string& path : broken_) bytes_held_ += FileBytes(path);
    bytes = bytes_held_;
  }
  const bool over = bytes_max_ > 0 && bytes > bytes_max_;
  if (over) slimming_ = true;
  if (!over) (void)TellOnce("cap", "");
  // Some more than it must be, so that not every look finds something.
  if (slimming_ && bytes <= bytes_max_ - bytes_max_ / 16) slimming_ = false;
  std::sort(live.begin(), live.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  bool more = false;
  for (const auto& [file, entry] : live) {
    std::unique_lock writing(entry->writer_mutex);
    if (!entry->writer) continue;
    {
      std::lock_guard lock(mutex_);
      if (entry->deleted || entry->upkeep_at > Clock::now()) continue;
    }
    // What was begun is ended, and what readers have left goes, whatever the size is now.
    const Result<bool> did = SlimOne(entry, slimming_ && !more);
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
    if (over && TellOnce("cap", "over")) {
      Raise(Severity::kWarning, "store_over_cap",
            "The runs that go on take " + Megabytes(bytes) + ", more than the " + Megabytes(bytes_max_) +
                " that all runs may take, and nothing is left in them that could be thinned. They are recorded all the same.",
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
    Result<bool> shrunk = writer.file().Shrink(kShrinkPages);
    return shrunk ? Result<bool>(true) : shrunk;
  }
  const uint64_t log = FileBytes(entry->path + "-wal");
  if (log > kLogBytesMin && log > FileBytes(*entry) / 16) {
    if (Status folded = writer.file().FoldLog(); !folded) return folded.error();
    if (FileBytes(entry->path + "-wal") < log) return true;
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
    entry->upkeep_at = Clock::now() + kSlimRetryAfter;
    if (std::exchange(entry->upkeep_failing, true)) return;
  }
  Raise(Severity::kWarning, "store_failing",
        "'" + entry->path + "' cannot be compacted, which is tried again; values are recorded as long as that is possible: " +
            error.text + ".",
        entry->key);
}

}  // namespace ikkuna::sinks
