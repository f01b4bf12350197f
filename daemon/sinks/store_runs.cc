// Runs as a whole: who produces, what was saved of them, and what is done to a run's file.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "daemon/model/counted.h"
#include "daemon/sinks/store_impl.h"
#include "shared/base/clock.h"
#include "shared/base/utf8.h"

namespace ikkuna::sinks {
namespace {

constexpr size_t kTagsMax = 64;
constexpr size_t kTagBytesMax = 255;
// A producer whose file may be one that cannot be read waits for it so long after the store was opened.
constexpr std::chrono::seconds kUnreadableWait{30};

Error NoRun(const RunKey& run) { return {ErrorCode::kNotFound, "there is no run " + Describe(run)}; }

}  // namespace

Result<std::vector<ProducerStatus>> Store::Impl::LoadProducers() {
  std::vector<ProducerStatus> producers;
  for (const EntryPtr& entry : Entries()) {
    if (entry == own_) continue;
    std::lock_guard reading(entry->mutex);
    producers.push_back(entry->head.producer);
    CatchUp(producers.back(), entry->head.totals.progress);
  }
  std::stable_sort(producers.begin(), producers.end(), [](const ProducerStatus& a, const ProducerStatus& b) {
    return a.info.start_unix_ns < b.info.start_unix_ns;
  });
  return producers;
}

std::vector<ProducerStatus> Store::Impl::TakeFound() {
  std::vector<EntryPtr> entries;
  {
    std::lock_guard lock(mutex_);
    for (const RunKey& key : std::exchange(found_, {})) {
      if (EntryPtr entry = FindLocked(key)) entries.push_back(std::move(entry));
    }
  }
  std::vector<ProducerStatus> found;
  for (const EntryPtr& entry : entries) {
    std::lock_guard reading(entry->mutex);
    found.push_back(entry->head.producer);
    CatchUp(found.back(), entry->head.totals.progress);
  }
  return found;
}

std::optional<Progress> Store::Impl::LoadProgress(const RunKey& run) {
  const EntryPtr entry = Find(run);
  if (!entry) return std::nullopt;
  std::lock_guard reading(entry->mutex);
  return entry->head.totals.progress;
}

// In a file of its own: no file that is there and is not known to be broken becomes another run's.
std::string Store::Impl::FreePathLocked(const RunKey& key) const {
  for (int number = 1;; ++number) {
    std::string path = folder_ + "/" + RunFileName(key, number);
    const bool taken = untouched_.count(path) > 0 || std::any_of(entries_.begin(), entries_.end(), [&](const auto& one) {
                         return one.second->path() == path;
                       });
    if (!taken) return path;
  }
}

Store::Impl::EntryPtr Store::Impl::NewEntryLocked(const ProducerInfo& producer) {
  auto entry = std::make_shared<RunEntry>(producer.run_key, FreePathLocked(producer.run_key));
  entry->head.producer.info = producer;
  entry->head.host = host_;
  // One that is broken is set aside for it.
  if (const auto found = broken_here_.find(entry->path()); found != broken_here_.end()) entry->file = found->second;
  // Whole before anybody finds it: its file is not there yet.
  entry->loaded = std::make_shared<LoadedRun>();
  entry->loaded->run = std::make_shared<Run>(producer);
  entry->run = entry->loaded->run;
  entries_.emplace(producer.run_key, entry);
  return entry;
}

Result<std::shared_ptr<Run>> Store::Impl::Begin(const ProducerInfo& producer) {
  const RunKey& key = producer.run_key;
  EntryPtr entry;
  std::unique_lock<std::mutex> writing;
  for (;;) {
    {
      std::lock_guard lock(mutex_);
      if (closing_) return Error{ErrorCode::kUnavailable, "the run store is closed"};
      entry = FindLocked(key);
      if (!entry && later_.count(FreePathLocked(key)) > 0) {
        // Its producer comes again, and after a while goes on under another key.
        const bool waits = Clock::now() - opened_at_ < kUnreadableWait;
        return Error{waits ? ErrorCode::kUnavailable : ErrorCode::kAlreadyExists,
                     "'" + FreePathLocked(key) + "', which may be the file of run " + Describe(key) +
                         ", cannot be read now; it is tried again"};
      }
      if (!entry) entry = NewEntryLocked(producer);
    }
    writing = std::unique_lock(entry->writer_mutex);
    std::lock_guard lock(mutex_);
    if (!entry->deleted) break;  // else it was deleted meanwhile, and begins anew
    writing.unlock();
  }
  auto run = std::shared_ptr<Run>();
  {
    std::lock_guard reading(entry->mutex);
    if (entry->head.producer.info.uuid != producer.uuid) {
      return Error{ErrorCode::kAlreadyExists, "run " + Describe(key) + " is that of another producer"};
    }
    run = entry->run.lock();
  }
  Status opened = EnsureWriter(entry);
  bool gone = false;
  if (!opened && opened.error().code == ErrorCode::kNotFound) {
    std::lock_guard lock(mutex_);
    gone = entry->deleted;  // else it is the folder that is not there
  }
  if (gone) {
    writing.unlock();
    return Begin(producer);  // it was over and its file is gone: it begins anew
  }
  if (!opened && opened.error().code == ErrorCode::kCorrupt) {
    SetAside(entry, opened.error().text);
    opened = EnsureWriter(entry);
  }
  if (!opened) {
    Failed(entry, opened.error());  // it is recorded as soon as that is possible
    if (Status known = KnowSeries(entry, run); !known) return known.error();
  }
  {
    std::lock_guard reading(entry->mutex);
    if (!entry->loaded) {
      entry->loaded = std::make_shared<LoadedRun>();
      entry->loaded->run = run ? run : std::make_shared<Run>(producer);
    }
    run = entry->loaded->run;
    entry->run = run;
    entry->head.producer.info = producer;
    entry->head.producer.state = RunState::kRunning;
    run->SetInfo(producer);
  }
  std::vector<std::shared_ptr<const Batch>> waiting;
  {
    std::lock_guard lock(mutex_);
    for (const Pending& one : entry->pending) waiting.push_back(one.batch);
  }
  run->SetRecorded(LoadRecorded(entry, waiting));
  SaveState(entry, false);
  return run;
}

// What cannot be written now is read: series keep the ids that they have in the file, or it could not be gone on with.
Status Store::Impl::KnowSeries(const EntryPtr& entry, const std::shared_ptr<Run>& run) {
  {
    std::lock_guard reading(entry->mutex);
    if (entry->loaded) return {};
  }
  Result<std::unique_ptr<RunFile>> file = RunFile::Open(entry->path(), Database::Mode::kReadWrite, false);
  if (!file && file.error().code == ErrorCode::kNotFound) return {};  // it is there, and empty
  Result<std::shared_ptr<LoadedRun>> loaded = file ? LoadRun(*entry, **file, run) : file.error();
  if (!loaded) {
    // Its producer comes again.
    return Error{ErrorCode::kUnavailable, "cannot read '" + entry->path() + "', which run " + Describe(entry->key) +
                                              " goes on in: " + loaded.error().text};
  }
  std::lock_guard reading(entry->mutex);
  entry->loaded = *std::move(loaded);
  return {};
}

void Store::Impl::SaveProducer(const ProducerStatus& status) {
  const EntryPtr entry = Find(status.info.run_key);
  if (!entry) return;
  {
    std::lock_guard reading(entry->mutex);
    entry->head.producer = status;
  }
  SaveState(entry, !IsOpen(status.state));
}

void Store::Impl::SaveState(const EntryPtr& entry, bool is_over) {
  std::lock_guard reading(entry->mutex);
  std::lock_guard lock(mutex_);
  if (closing_ || entry->deleted) return;
  awake_.insert(entry);
  entry->status_to_save = entry->head.producer;
  ++entry->said_version;
  entry->wants_rest = is_over;
  entry->idle_since = Clock::now();
  if (sleeping_) wake_.notify_one();
}

void Store::Impl::SaveModules(const RunKey& run, std::vector<ModuleInfo> modules) {
  const EntryPtr entry = Find(run);
  if (!entry) return;
  {
    std::lock_guard reading(entry->mutex);
    entry->modules = std::move(modules);
  }
  std::lock_guard lock(mutex_);
  if (closing_ || entry->deleted) return;
  awake_.insert(entry);
  entry->modules_to_save = true;
  ++entry->said_version;
  if (sleeping_) wake_.notify_one();
}

Status Store::Impl::DeleteRun(const RunKey& run) {
  const EntryPtr entry = Find(run);
  if (!entry) return NoRun(run);
  return Remove(entry, "deleted", nullptr);
}

// What lies in the place of a file that somebody took away is not deleted for it.
Status Store::Impl::CheckOurs(const EntryPtr& entry) {
  struct stat found {};
  if (::stat(entry->path().c_str(), &found) != 0) {
    return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? Status() : PosixError("cannot look at it", errno);
  }
  if (HasItsFile(entry)) return {};
  if (!S_ISREG(found.st_mode)) return Error{ErrorCode::kFailedPrecondition, "it is no file"};
  // Without what lies beside it as a log, which may be the old one's.
  const Result<std::unique_ptr<RunFile>> file = RunFile::Open(entry->path(), Database::Mode::kFrozen, false);
  const Result<RunHead> head = file ? (*file)->LoadHead() : Result<RunHead>(file.error());
  if (!head) {
    const ErrorCode code = head.error().code;
    const bool known = code == ErrorCode::kCorrupt || code == ErrorCode::kNotFound;
    return Error{known ? ErrorCode::kFailedPrecondition : code, head.error().text};
  }
  std::lock_guard reading(entry->mutex);
  if (head->producer.info.run_key == entry->key && head->producer.info.uuid == entry->head.producer.info.uuid) return {};
  return Error{ErrorCode::kFailedPrecondition, "it is of another producer, " + Describe(head->producer.info.run_key)};
}

Status Store::Impl::Remove(const EntryPtr& entry, std::string_view reason, Event* event) {
  const RunKey& run = entry->key;
  std::lock_guard writing(entry->writer_mutex);
  {
    std::lock_guard lock(mutex_);
    if (entry->deleted) return NoRun(run);
  }
  {
    std::lock_guard reading(entry->mutex);
    if (IsOpen(entry->head.producer.state)) {
      return Error{ErrorCode::kFailedPrecondition, "cannot delete run " + Describe(run) + ": it goes on"};
    }
  }
  // Where that cannot be written now it is later: on a disk that is full only this makes room.
  (void)MarkEvents();
  auto was_replaced = [&](const std::string& why) {
    return Error{ErrorCode::kNotFound, "the file of run " + Describe(run) + " was taken away, and the one in its place, '" +
                                           entry->path() + "', stays" + why + "; the run is not listed any more"};
  };
  if (ReplaceGone(entry, true)) return IsMissing(entry->path()) ? Status() : was_replaced("");
  {
    std::lock_guard reading(entry->mutex);
    entry->idle.clear();
    entry->loaded.reset();
  }
  entry->writer.reset();
  if (const Status ours = CheckOurs(entry); !ours && ours.error().code == ErrorCode::kFailedPrecondition) {
    (void)LoseFile(entry, ours.error().text, true);
    return was_replaced(": " + ours.error().text);
  } else if (!ours) {
    std::lock_guard lock(mutex_);
    if (entry->rest_bytes == 0 && entry->wants_rest) awake_.insert(entry);
    return Error{ours.error().code, "cannot delete run " + Describe(run) + ": '" + entry->path() +
                                        "' is another file than it was, and cannot be read: " + ours.error().text};
  }
  // The log before the file: what is left after a crash in between is the run, or nothing.
  (void)::unlink((entry->path() + "-wal").c_str());
  (void)::unlink((entry->path() + "-journal").c_str());
  if (::unlink(entry->path().c_str()) != 0 && errno != ENOENT) {
    return PosixError("cannot delete '" + entry->path() + "'", errno);
  }
  Forget(entry, reason, event);
  if (event) Tell(*event);
  return {};
}

void Store::Impl::Forget(const EntryPtr& entry, std::string_view reason, Event* event) {
  entry->on_disk = false;
  std::lock_guard reading(entry->mutex);
  catalogue_.Remove(std::filesystem::path(entry->path()).filename().string());
  std::lock_guard lock(mutex_);
  while (!entry->pending.empty()) {
    DropLocked(nullptr, reason, entry->pending.front().batch->values());
    events_dropped_ += entry->pending.front().batch->events.size();
    PopLocked(*entry);
  }
  entry->staged = entry->published = 0;
  entry->status_to_save.reset();
  entry->modules_to_save = entry->tags_to_save = entry->wants_rest = false;
  entry->deleted = true;
  awake_.erase(entry);
  entries_.erase(entry->key);
  recent_.erase(std::remove(recent_.begin(), recent_.end(), entry), recent_.end());
  if (event) ListLocked(*event);
  flushed_.notify_all();
}

Status Store::Impl::MarkEvents() {
  Status marked;
  {
    std::lock_guard own_writing(own_->writer_mutex);
    marked = EnsureWriter(own_);
    if (marked) {
      marked = own_->writer->file().database().Run("INSERT OR REPLACE INTO meta VALUES ('event_last', ?1)",
                                                   next_event_id_.load(std::memory_order_relaxed) - 1);
    }
  }
  std::lock_guard lock(mutex_);
  mark_wanted_ = !marked;
  return marked;
}

Status Store::Impl::TagRun(const RunKey& run, const std::vector<std::string>& add,
                           const std::vector<std::string>& remove) {
  const EntryPtr entry = Find(run);
  if (!entry) return NoRun(run);
  for (const std::string& tag : add) {
    if (tag.empty() || tag.size() > kTagBytesMax || !IsValidUtf8(tag)) {
      return Error{ErrorCode::kInvalidArgument, "a tag is UTF-8 text of 1 to 255 bytes"};
    }
  }
  std::lock_guard writing(entry->writer_mutex);
  std::vector<std::string> tags;
  {
    std::lock_guard reading(entry->mutex);
    tags = entry->head.tags;
  }
  for (const std::string& tag : remove) tags.erase(std::remove(tags.begin(), tags.end(), tag), tags.end());
  for (const std::string& tag : add) {
    if (std::find(tags.begin(), tags.end(), tag) == tags.end()) tags.push_back(tag);
  }
  std::sort(tags.begin(), tags.end());
  if (tags.size() > kTagsMax) return Error{ErrorCode::kResourceExhausted, "a run has at most 64 tags"};
  const bool rested = !entry->writer;
  Status saved = EnsureWriter(entry);
  if (saved) {
    Database& db = entry->writer->file().database();
    Transaction transaction(db);
    saved = transaction.Begin();
    if (saved) saved = entry->writer->file().SaveTags(tags);
    if (saved) saved = transaction.Commit();
  }
  if (!saved) {
    return Error{saved.error().code, "cannot tag run " + Describe(run) + ": " + saved.error().text};
  }
  {
    std::lock_guard reading(entry->mutex);
    entry->head.tags = tags;
  }
  std::lock_guard lock(mutex_);
  if (rested) entry->wants_rest = true;
  return {};
}

void Store::Impl::EndCopies() {
  copies_end_.store(true);
  std::lock_guard lock(mutex_);
  flushed_.notify_all();
}

Status Store::Impl::ExportFile(const RunKey& run, const std::string& path) {
  const EntryPtr entry = Find(run);
  if (!entry) return NoRun(run);
  if (copies_end_.load()) return Error{ErrorCode::kUnavailable, "cannot copy run " + Describe(run) + ": the daemon ends"};
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return PosixError("cannot make '" + path + "'", errno);
  ::close(fd);  // empty: SQLite takes it as its own
  auto refused = [&](const Error& error) {
    (void)::unlink(path.c_str());
    return Error{error.code, "cannot copy run " + Describe(run) + " to '" + path + "': " + error.text};
  };
  if (Status written = FlushRun(entry); !written) return refused(written.error());
  const std::string parent = std::filesystem::path(path).parent_path().string();
  const std::string to = parent.empty() ? "." : parent;
  // The copy leaves the store again: what is kept free for the store's own last words is enough.
  Status copied = CheckRoom(to, FileBytes(*entry), free_bytes_pause_);
  if (copied) {
    Result<BorrowedFile> file = BorrowedFile::Borrow(entry, Database::Mode::kReadWrite);
    const auto allowed = [&]() -> Status {
      if (copies_end_.load()) return Error{ErrorCode::kUnavailable, "the daemon ends"};
      return CheckRoom(to, 0, free_bytes_pause_);
    };
    copied = file ? (*file)->CopyTo(path, allowed) : Status(file.error());
  }
  if (!copied) return refused(copied.error());
  return {};
}

Status Store::Impl::CheckRoom(const std::string& folder, uint64_t bytes, uint64_t stays) const {
  std::error_code code;
  const auto space = std::filesystem::space(folder, code);
  if (code || stays == 0 || space.available >= stays + bytes) return {};
  return Error{ErrorCode::kResourceExhausted,
               "there is no room for " + (bytes > 0 ? std::to_string(bytes) + " bytes" : "more") +
                   " on the file system of '" + folder + "', where " + std::to_string(space.available) +
                   " are free and " + std::to_string(stays) +
                   " shall stay free; make room, or see --store-min-free-mb"};
}

Result<RunKey> Store::Impl::ImportFile(const std::string& path, bool moves) {
  auto refused = [&](const Error& error) {
    return Error{error.code, "cannot import '" + path + "': " + error.text};
  };
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) return refused(PosixError("cannot look at it", errno));
  if (!S_ISREG(found.st_mode)) return refused({ErrorCode::kInvalidArgument, "it is no file"});
  RunHead head;
  {
    Result<std::unique_ptr<RunFile>> file = OpenStored(path);
    if (!file) return refused(file.error());
    Result<RunHead> loaded = (*file)->LoadHead();
    if (!loaded) return refused(loaded.error());
    head = *std::move(loaded);
  }
  const RunKey key = head.producer.info.run_key;
  if (Find(key)) return refused({ErrorCode::kAlreadyExists, "there is a run " + Describe(key) + " already"});
  if (Status room = RoomFor(head, FileBytes(path), moves); !room) return refused(room.error());

  std::string target;
  {
    std::lock_guard lock(mutex_);
    target = FreePathLocked(key);
  }
  const std::string part = target + ".part-" + std::to_string(next_event_id_.fetch_add(1));
  auto give_up = [&](const Error& error) {
    for (const char* suffix : {"", "-wal", "-journal"}) (void)::unlink((part + suffix).c_str());
    return refused(error);
  };
  // What is looked at is the copy, or was the caller's alone: nobody else can change that one.
  for (const char* suffix : {"", "-wal", "-journal"}) {
    std::error_code code;
    if (*suffix != '\0' && !std::filesystem::exists(path + suffix, code)) continue;
    if (moves) std::filesystem::rename(path + suffix, part + suffix, code);
    if (!moves || code) {
      code.clear();
      std::filesystem::copy_file(path + suffix, part + suffix, code);
    }
    if (code) return give_up({ErrorCode::kSystem, code.message()});
    (void)::chmod((part + suffix).c_str(), 0600);
  }
  if (Result<RunHead> taken = TakeOver(part); !taken) {
    return give_up(taken.error());
  } else if (taken->producer.info.run_key != key) {
    return give_up({ErrorCode::kUnavailable, "it changed while it was read"});
  } else {
    head = *std::move(taken);
  }
  auto entry = std::make_shared<RunEntry>(key, target);
  entry->head = std::move(head);
  entry->on_disk = true;
  entry->file = FileIdOf(part);
  std::lock_guard writing(entry->writer_mutex);
  {
    std::lock_guard lock(mutex_);
    if (closing_) return give_up({ErrorCode::kUnavailable, "the run store is closed"});
    if (entries_.count(key) > 0) {
      return give_up({ErrorCode::kAlreadyExists, "there is a run " + Describe(key) + " already"});
    }
    if (::access(target.c_str(), F_OK) == 0) {
      return give_up({ErrorCode::kAlreadyExists, "'" + target + "' is in its place"});
    }
    if (::rename(part.c_str(), target.c_str()) != 0) return give_up(PosixError("cannot put it at '" + target + "'", errno));
    entries_.emplace(key, entry);
    found_.push_back(key);  // whoever numbers attempts hears of it as of one that could not be read at first
  }
  NoteAtRest(entry);
  return key;
}

// Whether it would stay: what retention takes at once is not taken in.
Status Store::Impl::RoomFor(const RunHead& head, uint64_t bytes, bool moves) {
  const int64_t ended = std::max(head.totals.last_unix_ns, head.producer.info.start_unix_ns);
  const int64_t age_max_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(options_.age_max).count();
  if (age_max_ns > 0 && ended < UnixNs() - age_max_ns) {
    return Error{ErrorCode::kFailedPrecondition, "it ended more than " +
                                                     Counted(static_cast<uint64_t>(options_.age_max.count()), "hour") +
                                                     " ago, and runs as old as that do not stay here"};
  }
  const uint64_t held = store_bytes();
  if (bytes_max_ > 0 && held + bytes > bytes_max_) {
    return Error{ErrorCode::kResourceExhausted, "it takes " + std::to_string(bytes) + " bytes, and the store has " +
                                                    std::to_string(held) + " of the " + std::to_string(bytes_max_) +
                                                    " that it may have; delete runs first"};
  }
  return CheckRoom(moves ? 0 : bytes);
}

// Makes a copied file one of this store: looked at wholly, its events with ids above all before; a run that went on when it
// was copied is over here.
Result<RunHead> Store::Impl::TakeOver(const std::string& part) {
  Result<std::unique_ptr<RunFile>> file = RunFile::Open(part, Database::Mode::kReadWrite, false);
  if (!file) return file.error();
  if (Status whole = (*file)->CheckWhole(); !whole) return whole.error();
  Result<RunHead> head = (*file)->LoadHead();
  if (!head) return head.error();
  Database& db = (*file)->database();
  Transaction transaction(db);
  std::vector<uint64_t> ids;
  Status done = transaction.Begin();
  if (done) {
    done = db.Each("SELECT id FROM event ORDER BY id", [&](Statement& row) {
      ids.push_back(row.Unsigned(0));
      return true;
    });
  }
  const uint64_t shift = next_event_id_.fetch_add(ids.size());
  // By way of negative ones, so that no two are the same meanwhile.
  if (done) done = db.Run("UPDATE event SET id = -id");
  for (size_t i = 0; i < ids.size() && done; ++i) {
    done = db.Run("UPDATE event SET id = ?2 WHERE id = ?1", -static_cast<int64_t>(ids[i]), shift + i);
  }
  if (IsOpen(head->producer.state)) head->producer.state = RunState::kDied;
  if (done) done = (*file)->SaveProducer(head->producer, head->host);
  if (done) done = transaction.Commit();
  if (done) done = (*file)->Rest();
  if (!done) return done.error();
  return (*file)->LoadHead();
}

}  // namespace ikkuna::sinks
