#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "daemon/sinks/store_impl.h"

namespace ikkuna::sinks {
namespace {

constexpr size_t kRecentMax = 16;  // runs at rest of which catalogue and counts stay in memory
constexpr uint32_t kEventsMost = 100'000;

bool Newer(const RunEntry& a, int64_t a_start, const RunEntry& b, int64_t b_start) {
  return a_start != b_start ? a_start > b_start : b.key < a.key;
}

}  // namespace

std::vector<Store::Impl::EntryPtr> Store::Impl::Matching(const SeriesFilter& filter) const {
  std::vector<std::pair<int64_t, EntryPtr>> found;
  for (const EntryPtr& entry : Entries()) {
    if (entry == own_) continue;
    std::lock_guard lock(entry->mutex);
    const ProducerInfo& info = entry->head.producer.info;
    if (filter.MatchesRun(entry->key, info.run)) found.emplace_back(info.start_unix_ns, entry);
  }
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return Newer(*a.second, a.first, *b.second, b.first); });
  std::vector<EntryPtr> entries;
  for (auto& [start, entry] : found) entries.push_back(std::move(entry));
  return entries;
}

Result<std::shared_ptr<const RunSnapshot>> Store::Impl::Snapshot(const EntryPtr& entry,
                                                                 std::vector<SeriesTally>* tallies) {
  auto snapshot = std::make_shared<RunSnapshot>();
  snapshot->entry = entry;
  for (int attempt = 0; attempt < 2; ++attempt) {
    {
      std::lock_guard reading(entry->mutex);
      if (entry->loaded) {
        const LoadedRun& loaded = *entry->loaded;
        snapshot->info = std::make_shared<const ProducerInfo>(entry->head.producer.info);
        snapshot->run = loaded.run;
        snapshot->segments = loaded.segments;
        if (loaded.sealed) snapshot->frames = loaded.sealed->frames;
        snapshot->frames.insert(snapshot->frames.end(), loaded.open.frames.begin(), loaded.open.frames.end());
        snapshot->value_last = loaded.value_last;
        if (tallies) *tallies = loaded.tallies;
        std::lock_guard lock(mutex_);
        for (size_t i = entry->published; i < entry->pending.size(); ++i) {
          const auto& batch = entry->pending[i].batch;
          if (batch->values() > 0) snapshot->batches.push_back(batch);
        }
        return std::shared_ptr<const RunSnapshot>(std::move(snapshot));
      }
    }
    // At rest: what is small is loaded, and stays for the next who asks. The file may be put to use meanwhile.
    std::lock_guard writing(entry->writer_mutex);
    {
      std::lock_guard reading(entry->mutex);
      if (entry->loaded) continue;
    }
    Result<std::unique_ptr<RunFile>> file = RunFile::Open(entry->path(), Database::Mode::kReadWrite, false);
    Result<std::shared_ptr<LoadedRun>> loaded = Error{ErrorCode::kSystem, ""};
    if (file) {
      loaded = LoadRun(*entry, **file, entry->run.lock());
    } else {
      loaded = file.error();
    }
    if (!loaded && entry->on_disk && IsMissing(entry->path()) && !LoseFile(entry, "")) {
      return Error{ErrorCode::kNotFound, "the file of run " + Describe(entry->key) + " is gone"};
    }
    if (!loaded) return CannotRead(*entry, loaded.error());
    {
      std::lock_guard reading(entry->mutex);
      entry->loaded = *loaded;
    }
    if ((*loaded)->hidden > 0) ReadFailed(*entry, HiddenValues(entry->path(), (*loaded)->hidden));
    std::vector<EntryPtr> leave;
    {
      std::lock_guard lock(mutex_);
      recent_.erase(std::remove(recent_.begin(), recent_.end(), entry), recent_.end());
      recent_.push_back(entry);
      while (recent_.size() > kRecentMax) {
        leave.push_back(recent_.front());
        recent_.erase(recent_.begin());
      }
    }
    for (const EntryPtr& other : leave) {
      std::unique_lock other_writing(other->writer_mutex, std::try_to_lock);
      if (!other_writing || other->writer) continue;
      std::lock_guard reading(other->mutex);
      other->loaded.reset();
      other->idle.clear();
    }
  }
  return Error{ErrorCode::kUnavailable, Describe(entry->key) + " is just being put away; ask again"};
}

Result<std::vector<RunInfo>> Store::Impl::ListRuns(const std::string* name) {
  std::vector<RunInfo> runs;
  for (const EntryPtr& entry : Entries()) {
    if (entry == own_) continue;
    if (name) {
      // Before anything is copied, or the disk is asked.
      std::lock_guard reading(entry->mutex);
      const bool other = name->empty() ? IsDaemonRun(entry->key)
                                       : *name != entry->key.run_id && *name != entry->head.producer.info.run;
      if (other) continue;
    }
    const uint64_t bytes = FileBytes(*entry);
    std::lock_guard reading(entry->mutex);
    RunInfo info = InfoOf(entry->head, bytes);
    if (entry->loaded) info.series = entry->loaded->run->series().size();
    std::lock_guard lock(mutex_);
    for (const auto& [reason, count] : entry->drops_unsaved) {
      const auto same = std::find_if(info.unrecorded.begin(), info.unrecorded.end(),
                                     [&reason](const Count& one) { return one.reason == reason; });
      if (same == info.unrecorded.end()) {
        info.unrecorded.push_back({reason, count});
      } else {
        same->count += count;
      }
    }
    for (size_t i = entry->published; i < entry->pending.size(); ++i) {
      const Batch& batch = *entry->pending[i].batch;
      if (batch.values() == 0) continue;
      info.values += batch.values();
      info.last_step = std::max(info.last_step, batch.stamp.step);
      info.last_unix_ns = std::max(info.last_unix_ns, batch.stamp.unix_ns);
    }
    runs.push_back(std::move(info));
  }
  std::sort(runs.begin(), runs.end(), [](const RunInfo& a, const RunInfo& b) {
    return a.info.start_unix_ns != b.info.start_unix_ns ? a.info.start_unix_ns > b.info.start_unix_ns
                                                        : b.info.run_key < a.info.run_key;
  });
  return runs;
}

Result<std::vector<ModuleInfo>> Store::Impl::ListModules(const RunKey& run) {
  const EntryPtr entry = Find(run);
  if (!entry) return Error{ErrorCode::kNotFound, "there is no run " + Describe(run)};
  {
    std::lock_guard reading(entry->mutex);
    if (entry->modules) return *entry->modules;
  }
  Result<BorrowedFile> file = BorrowedFile::Borrow(entry, Database::Mode::kReadWrite);
  if (!file) return file.error();
  return (*file)->LoadModules();
}

// A page is "<series id> <attempt> <rank> <run id>" of the last series before it.
Result<SeriesPage> Store::Impl::ListSeries(const SeriesQuery& query) {
  SeriesPage page;
  std::optional<Error> failed;
  RunKey from;
  uint32_t after = 0;
  if (!query.page.empty()) {
    uint32_t numbers[3] = {};
    const char* at = query.page.data();
    const char* end = at + query.page.size();
    for (uint32_t& number : numbers) {
      const auto parsed = std::from_chars(at, end, number);
      if (parsed.ec != std::errc() || parsed.ptr == end || *parsed.ptr != ' ') {
        return Error{ErrorCode::kInvalidArgument, "'" + query.page + "' is no page of a list of series"};
      }
      at = parsed.ptr + 1;
    }
    after = numbers[0];
    from = {std::string(at, end), numbers[1], numbers[2]};
  }
  bool begun = query.page.empty();
  for (const EntryPtr& entry : Matching(query.filter)) {
    if (!begun && entry->key != from) continue;
    const uint32_t begin = begun ? 0 : after;
    begun = true;
    if (page.series.size() >= query.limit) {
      page.next = "0 " + std::to_string(entry->key.attempt) + " " + std::to_string(entry->key.rank) + " " +
                  entry->key.run_id;
      break;
    }
    std::vector<SeriesTally> tallies;
    Result<std::shared_ptr<const RunSnapshot>> snapshot = Snapshot(entry, &tallies);
    if (!snapshot) {
      ReadFailed(*entry, snapshot.error());
      page.unread.push_back(snapshot.error().text);
      if (!failed) failed = snapshot.error();
      continue;  // others are shown
    }
    // One more than fits tells whether there is a next page.
    const size_t room = query.limit - page.series.size();
    std::vector<SeriesInfo> found = MatchSeries(**snapshot, std::move(tallies), query.filter, begin, room + 1);
    const bool more = found.size() > room;
    if (more) found.pop_back();
    page.series.insert(page.series.end(), found.begin(), found.end());
    if (more) {
      page.next = std::to_string(found.empty() ? begin : found.back().series->id) + " " +
                  std::to_string(entry->key.attempt) + " " + std::to_string(entry->key.rank) + " " + entry->key.run_id;
      break;
    }
  }
  if (!begun) return Error{ErrorCode::kInvalidArgument, "the run of page '" + query.page + "' is gone; begin again"};
  if (page.series.empty() && page.next.empty() && failed) return *failed;
  return page;
}

Result<std::unique_ptr<SeriesReader>> Store::Impl::Read(const ReadQuery& query) {
  std::vector<EntryPtr> entries = Matching(query.filter);
  if (query.oldest_first) std::reverse(entries.begin(), entries.end());
  // Whoever reads slowly keeps no run that is deleted meanwhile.
  std::vector<std::weak_ptr<RunEntry>> waiting(entries.begin(), entries.end());
  auto next = [this, waiting = std::move(waiting), query,
               at = size_t{0}]() mutable -> Result<std::optional<SeriesToRead>> {
    while (at < waiting.size()) {
      const EntryPtr entry = waiting[at++].lock();
      if (!entry) continue;
      std::vector<SeriesTally> tallies;
      Result<std::shared_ptr<const RunSnapshot>> snapshot = Snapshot(entry, &tallies);
      if (!snapshot) {
        {
          std::lock_guard lock(mutex_);
          if (entry->deleted) continue;
        }
        ReadFailed(*entry, snapshot.error());
        return snapshot.error();
      }
      SeriesToRead one = ToRead(*std::move(snapshot), std::move(tallies), query);
      if (!one.series.empty()) return std::optional<SeriesToRead>(std::move(one));
    }
    return std::optional<SeriesToRead>();
  };
  entries.clear();
  // Where nothing can be read at all, that is the answer.
  std::optional<Error> failed;
  Result<std::optional<SeriesToRead>> first = next();
  for (; !first; first = next()) {
    if (!failed) failed = first.error();
  }
  if (failed && !*first) return *failed;
  auto all = [first = *std::move(first), failed, next = std::move(next)]() mutable -> Result<std::optional<SeriesToRead>> {
    if (first) return std::exchange(first, std::nullopt);
    if (failed) return *std::exchange(failed, std::nullopt);
    return next();
  };
  return MakeReader(std::move(all), query, Database::Mode::kReadWrite,
                    [this](RunEntry& entry, const Error& error) { ReadFailed(entry, error); });
}

void Store::Impl::ReadFailed(RunEntry& entry, const Error& error) {
  if (error.code != ErrorCode::kCorrupt) return;
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(entry.told_broken, true)) return;
  }
  Raise(Severity::kError, "run_file_broken",
        "The file of this run is broken, and not all in it can be shown: " + error.text + ".", entry.key);
}

namespace {

// When the file or its log was last written, with some room for a clock that was set back.
int64_t LastWriteNs(const std::string& path) {
  constexpr int64_t kNsPerSecond = 1'000'000'000, kSlackNs = 60 * kNsPerSecond;
  int64_t last = 0;
  for (const char* suffix : {"", "-wal"}) {
    struct stat found {};
    if (::stat((path + suffix).c_str(), &found) != 0) continue;
    last = std::max(last, found.st_mtim.tv_sec * kNsPerSecond + found.st_mtim.tv_nsec);
  }
  return last + kSlackNs;
}

}  // namespace

Result<EventList> Store::Impl::ListEvents(const EventQuery& query) {
  struct Source {
    EntryPtr entry;
    int64_t newest_ns = 0;  // no event in it is newer
  };
  std::vector<Source> sources;
  // The last are those that happened last: a run that was imported has ids above all that were there, of last year's events.
  std::map<std::pair<int64_t, uint64_t>, Event> found;
  const auto place = [&](const Event& event) { return std::pair(query.last ? event.unix_ns : 0, event.id); };
  const size_t most = std::min<uint32_t>(query.last.value_or(query.limit), kEventsMost);
  EventList list;
  if (most == 0) return list;
  for (const EntryPtr& entry : Entries()) {
    std::lock_guard reading(entry->mutex);
    const bool all = query.filter.run.empty() && !query.filter.attempt && !query.filter.rank;
    if (!all && (entry == own_ || !query.filter.MatchesRun(entry->key, entry->head.producer.info.run))) continue;
    if (entry->head.events > 0 && entry->head.event_last > query.after_id) {
      sources.push_back({entry, query.last ? LastWriteNs(entry->path()) : 0});
    }
    std::lock_guard lock(mutex_);
    for (const Pending& one : entry->pending) {
      for (const Event& event : one.batch->events) {
        if (event.id > query.after_id && (query.kind.empty() || event.kind == query.kind)) found.emplace(place(event), event);
      }
    }
  }
  std::sort(sources.begin(), sources.end(),
            [](const Source& a, const Source& b) { return a.newest_ns > b.newest_ns; });
  auto cut = [&] {
    while (found.size() > most) found.erase(query.last ? found.begin() : std::prev(found.end()));
  };
  std::optional<Error> failed;
  for (const Source& source : sources) {
    cut();
    if (query.last && found.size() == most && source.newest_ns < found.begin()->first.first) break;
    Result<BorrowedFile> file = BorrowedFile::Borrow(source.entry, Database::Mode::kReadWrite);
    std::vector<Event> events;
    Status read = file ? (*file)->LoadEvents(query, most, &events) : Status(file.error());
    if (!read) {
      ReadFailed(*source.entry, read.error());
      list.unread.push_back(
          "cannot read the " +
          (source.entry == own_ ? "daemon's own events" : "events of " + Describe(source.entry->key)) + " from '" +
          source.entry->path() + "': " + read.error().text);
      if (!failed) failed = read.error();
    }
    for (Event& event : events) found.emplace(place(event), std::move(event));
  }
  if (found.empty() && failed) return *failed;
  cut();
  for (auto& [at, event] : found) list.push_back(std::move(event));
  return list;
}

}  // namespace ikkuna::sinks
