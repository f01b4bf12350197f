#include "daemon/sinks/stored_runs.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <mutex>

#include "daemon/sinks/run_entry.h"
#include "shared/base/unique_fd.h"

namespace ikkuna::sinks {
namespace {

namespace fs = std::filesystem;

// Whether a process has the file open to write it, as far as one that may not write can see: by the bytes that SQLite
// locks.
bool IsHeld(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct flock lock {};
  lock.l_type = F_RDLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = 0x40000000;
  lock.l_len = 512;
  return fd.valid() && ::fcntl(fd.get(), F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

// A file that was left with its log can only be read by one who may write it (SQLite), or as a copy.
bool NeedsACopy(const std::string& path) {
  std::error_code code;
  const auto log_bytes = fs::file_size(path + "-wal", code);
  if (code || log_bytes == 0) return false;
  return ::access(path.c_str(), W_OK) != 0 || ::access((path + "-wal").c_str(), W_OK) != 0 ||
         ::access(fs::path(path).parent_path().c_str(), W_OK) != 0;
}

// Copies of files with their logs; gone with this.
class Copies {
 public:
  ~Copies() {
    std::error_code ignored;
    if (!folder_.empty()) fs::remove_all(folder_, ignored);
  }
  Result<std::string> Make(const std::string& path) {
    if (IsHeld(path)) return Error{ErrorCode::kUnavailable, "a daemon has it open"};
    std::error_code code;
    if (folder_.empty()) {
      std::string name = (fs::temp_directory_path(code) / "ikkuna-read-XXXXXX").string();
      if (::mkdtemp(name.data()) == nullptr) return PosixError("cannot make a folder for a copy", errno);
      folder_ = name;
    }
    const std::string copy = folder_ + "/" + std::to_string(++count_) + ".run";
    for (const char* suffix : {"", "-wal"}) {
      fs::copy_file(path + suffix, copy + suffix, code);
      if (code) return PosixError("cannot copy it to '" + folder_ + "', which it must be read from", code.value());
      fs::permissions(copy + suffix, fs::perms(0600), code);
    }
    return copy;
  }

 private:
  std::string folder_;
  int count_ = 0;
};

}  // namespace

class StoredRuns::Impl {
 public:
  struct One {
    std::shared_ptr<RunEntry> entry;
    std::shared_ptr<const RunSnapshot> snapshot;  // once it was asked for
    std::vector<SeriesTally> tallies;
  };

  Status Open(const std::string& path) {
    std::error_code code;
    if (!std::filesystem::exists(path, code)) return Error{ErrorCode::kNotFound, "there is no '" + path + "'"};
    if (!std::filesystem::is_directory(path, code)) {
      Add(path);
      if (runs_.empty()) {
        return Error{ErrorCode::kFailedPrecondition, unread_.empty() ? "'" + path + "' holds no run" : unread_.front()};
      }
      return {};
    }
    const std::string folder = std::filesystem::exists(path + "/runs", code) ? path + "/runs" : path;
    for (auto item = std::filesystem::recursive_directory_iterator(
             folder, std::filesystem::directory_options::skip_permission_denied, code);
         item != std::filesystem::recursive_directory_iterator(); item.increment(code)) {
      if (code) return Error{ErrorCode::kPermissionDenied, "cannot list '" + folder + "': " + code.message()};
      const std::string name = item->path().filename().string();
      if (name.ends_with(".run") || (name.starts_with("events.") && name.ends_with(".db"))) Add(item->path().string());
    }
    if (code) return Error{ErrorCode::kPermissionDenied, "cannot list '" + folder + "': " + code.message()};
    std::sort(runs_.begin(), runs_.end(), [](const One& a, const One& b) {
      const int64_t a_start = a.entry->head.producer.info.start_unix_ns;
      const int64_t b_start = b.entry->head.producer.info.start_unix_ns;
      return a_start != b_start ? a_start > b_start : b.entry->key < a.entry->key;
    });
    return {};
  }

  Status Load(One& one) {
    if (one.snapshot) return {};
    Result<std::unique_ptr<RunFile>> file = OpenStored(one.entry->path());
    if (!file) return file.error();
    Result<std::shared_ptr<LoadedRun>> loaded = LoadRun(*one.entry, **file, nullptr);
    if (!loaded) return Error{loaded.error().code, "cannot read '" + one.entry->path() + "': " + loaded.error().text};
    auto snapshot = std::make_shared<RunSnapshot>();
    snapshot->entry = one.entry;
    snapshot->info = std::make_shared<const ProducerInfo>(one.entry->head.producer.info);
    snapshot->run = (*loaded)->run;
    snapshot->segments = (*loaded)->segments;
    snapshot->frames = (*loaded)->open.frames;
    snapshot->value_last = (*loaded)->value_last;
    one.tallies = (*loaded)->tallies;
    one.snapshot = std::move(snapshot);
    // The connection waits for the reader that comes, set up as it must be.
    std::lock_guard lock(one.entry->mutex);
    one.entry->loaded = *loaded;
    one.entry->idle.push_back(*std::move(file));
    return {};
  }

  bool Matches(const One& one, const SeriesFilter& filter) const {
    return !one.entry->key.run_id.empty() && filter.MatchesRun(one.entry->key, one.entry->head.producer.info.run);
  }

  Copies copies_;  // outlives those who read them
  std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<One> runs_;  // newest first
  std::vector<std::string> unread_;

 private:
  void Add(const std::string& path) {
    const Result<std::string> readable = NeedsACopy(path) ? copies_.Make(path) : Result<std::string>(path);
    Result<std::unique_ptr<RunFile>> file =
        readable ? OpenStored(*readable) : Result<std::unique_ptr<RunFile>>(readable.error());
    Result<RunHead> head = file ? (*file)->LoadHead() : Result<RunHead>(file.error());
    if (!head && head.error().code == ErrorCode::kNotFound) return;  // no run yet
    if (!head) {
      const bool busy = head.error().code == ErrorCode::kUnavailable;
      unread_.push_back("'" + path + "' is not read: " +
                        (busy ? "a daemon has it open, read it through that" : head.error().text) + ".");
      return;
    }
    One one;
    one.entry = std::make_shared<RunEntry>(head->producer.info.run_key, *readable);
    if (head->producer.state == RunState::kRunning) head->producer.state = RunState::kDisconnected;
    one.entry->head = *std::move(head);
    runs_.push_back(std::move(one));
  }
};

StoredRuns::StoredRuns(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
StoredRuns::~StoredRuns() = default;

Result<std::unique_ptr<StoredRuns>> StoredRuns::Open(const std::string& path) {
  auto impl = std::make_unique<Impl>();
  if (Status opened = impl->Open(path); !opened) {
    return Error{opened.error().code, "cannot read recorded runs: " + opened.error().text};
  }
  return std::unique_ptr<StoredRuns>(new StoredRuns(std::move(impl)));
}

const std::vector<std::string>& StoredRuns::unread() const { return impl_->unread_; }

Result<std::vector<RunInfo>> StoredRuns::ListRuns() {
  std::lock_guard lock(impl_->mutex_);
  std::vector<RunInfo> runs;
  for (const Impl::One& one : impl_->runs_) {
    if (!one.entry->key.run_id.empty()) runs.push_back(InfoOf(one.entry->head, FileBytes(one.entry->path())));
  }
  return runs;
}

Result<std::vector<ProducerStatus>> StoredRuns::LoadProducers() {
  std::lock_guard lock(impl_->mutex_);
  std::vector<ProducerStatus> producers;
  for (const Impl::One& one : impl_->runs_) {
    if (!one.entry->key.run_id.empty()) producers.push_back(one.entry->head.producer);
  }
  return producers;
}

Result<std::vector<RunInfo>> StoredRuns::FindRuns(const std::string& name) {
  Result<std::vector<RunInfo>> runs = ListRuns();
  if (!runs) return runs;
  runs->erase(std::remove_if(runs->begin(), runs->end(),
                             [&](const RunInfo& run) {
                               const RunKey& key = run.info.run_key;
                               return name.empty() ? IsDaemonRun(key) : name != key.run_id && name != run.info.run;
                             }),
              runs->end());
  return runs;
}

Result<std::vector<ModuleInfo>> StoredRuns::ListModules(const RunKey& run) {
  std::lock_guard lock(impl_->mutex_);
  for (const Impl::One& one : impl_->runs_) {
    if (one.entry->key != run) continue;
    Result<std::unique_ptr<RunFile>> file = OpenStored(one.entry->path());
    if (!file) return file.error();
    return (*file)->LoadModules();
  }
  return Error{ErrorCode::kNotFound, "there is no run " + Describe(run)};
}

// A page is the number of series before it: nothing here changes.
Result<SeriesPage> StoredRuns::ListSeries(const SeriesQuery& query) {
  std::lock_guard lock(impl_->mutex_);
  uint64_t skip = 0;
  if (!query.page.empty()) {
    if (query.page.size() > 12 || query.page.find_first_not_of("0123456789") != std::string::npos) {
      return Error{ErrorCode::kInvalidArgument, "'" + query.page + "' is no page of a list of series"};
    }
    skip = std::stoull(query.page);
  }
  const uint64_t begin = skip;
  SeriesPage page;
  std::optional<Error> failed;
  for (Impl::One& one : impl_->runs_) {
    if (!impl_->Matches(one, query.filter)) continue;
    if (Status loaded = impl_->Load(one); !loaded) {
      page.unread.push_back(loaded.error().text);
      if (!failed) failed = loaded.error();
      continue;  // others are shown
    }
    for (SeriesInfo& info : MatchSeries(*one.snapshot, one.tallies, query.filter, 0, SIZE_MAX)) {
      if (skip > 0) {
        --skip;
        continue;
      }
      if (page.series.size() >= query.limit) {
        page.next = std::to_string(begin + page.series.size());
        return page;
      }
      page.series.push_back(std::move(info));
    }
  }
  if (page.series.empty() && failed) return *failed;
  return page;
}

Result<std::unique_ptr<SeriesReader>> StoredRuns::Read(const ReadQuery& query) {
  std::lock_guard lock(impl_->mutex_);
  std::vector<SeriesToRead> what;
  std::optional<Error> failed;
  for (Impl::One& one : impl_->runs_) {
    if (!impl_->Matches(one, query.filter)) continue;
    if (Status loaded = impl_->Load(one); !loaded) {
      if (!failed) failed = loaded.error();
      continue;
    }
    if (one.entry->loaded->hidden > 0 && !failed) failed = HiddenValues(one.entry->path(), one.entry->loaded->hidden);
    SeriesToRead to_read = ToRead(one.snapshot, one.tallies, query);
    if (!to_read.series.empty()) what.push_back(std::move(to_read));
  }
  if (what.empty() && failed) return *failed;
  if (query.oldest_first) std::reverse(what.begin(), what.end());
  // What could not be read is said behind the others.
  auto next = [what = std::move(what), failed, at = size_t{0}]() mutable -> Result<std::optional<SeriesToRead>> {
    if (at < what.size()) return std::optional<SeriesToRead>(std::move(what[at++]));
    if (failed) return *std::exchange(failed, std::nullopt);
    return std::optional<SeriesToRead>();
  };
  return MakeReader(std::move(next), query, Database::Mode::kAtRest, nullptr);
}

Result<EventList> StoredRuns::ListEvents(const EventQuery& query) {
  std::lock_guard lock(impl_->mutex_);
  EventList events;
  std::optional<Error> failed;
  const size_t most = query.last.value_or(query.limit);
  const bool all = query.filter.run.empty() && !query.filter.attempt && !query.filter.rank;
  for (const Impl::One& one : impl_->runs_) {
    if (!all && !impl_->Matches(one, query.filter)) continue;
    Result<std::unique_ptr<RunFile>> file = OpenStored(one.entry->path());
    Status read = file ? (*file)->LoadEvents(query, most, &events) : Status(file.error());
    if (!read) {
      events.unread.push_back("cannot read the events in '" + one.entry->path() + "': " + read.error().text);
      if (!failed) failed = Error{read.error().code, events.unread.back()};
    }
  }
  if (events.empty() && failed) return *failed;
  std::stable_sort(events.begin(), events.end(), [&](const Event& a, const Event& b) {
    if (query.last && a.unix_ns != b.unix_ns) return a.unix_ns < b.unix_ns;  // as a daemon's store has it
    return a.id < b.id;
  });
  if (events.size() > most) {
    if (query.last) {
      events.erase(events.begin(), events.end() - static_cast<ptrdiff_t>(most));
    } else {
      events.resize(most);
    }
  }
  return events;
}

}  // namespace ikkuna::sinks
