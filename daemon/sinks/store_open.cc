#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <tuple>

#include "daemon/model/counted.h"
#include "daemon/sinks/store_impl.h"
#include "shared/base/clock.h"
#include "shared/places.h"

namespace ikkuna::sinks {
namespace {

constexpr size_t kToldEach = 4;  // files that are left for the same reason; of more one event tells
// Ids of events that a file which cannot be read may have above the others.
constexpr uint64_t kIdsUnknown = uint64_t{1} << 24;
// Ids that `lock` is ahead of those that were given: half of it is more than a second's events.
constexpr uint64_t kIdsAhead = uint64_t{1} << 20;

// What the file `lock` says.
struct LockText {
  int64_t pid = 0;        // of who has it; 0: it was closed
  uint64_t event_id = 0;  // no event had this id yet, nor one above it
};

LockText ReadLock(int fd) {
  char text[64] = {};
  LockText read;
  if (::pread(fd, text, sizeof(text) - 1, 0) <= 0) return read;
  char* rest = nullptr;
  read.pid = std::strtoll(text, &rest, 10);
  read.event_id = std::strtoull(rest, nullptr, 10);
  return read;
}

std::string HolderText(int fd) {
  const int64_t pid = ReadLock(fd).pid;
  return pid == 0 ? "" : " (pid " + std::to_string(pid) + ")";
}

// The name that the store itself gives, with any number.
bool HasOwnName(const RunEntry& entry) {
  const std::string name = std::filesystem::path(entry.path()).filename().string();
  const std::string own = RunFileName(entry.key);
  if (name == own) return true;
  const size_t stem = own.size() - 4;  // without ".run"
  if (name.size() <= own.size() + 1 || !name.starts_with(own.substr(0, stem) + ".") || !name.ends_with(".run")) return false;
  const std::string number = name.substr(stem + 1, name.size() - own.size() - 1);
  return number.find_first_not_of("0123456789") == std::string::npos;
}

// A database of ours, as its first bytes say; what follows may be broken.
bool HasRunHeader(const std::string& path) {
  constexpr std::string_view kMagic = "SQLite format 3";
  constexpr size_t kApplicationAt = 68;
  std::array<char, kApplicationAt + 4> bytes{};
  std::ifstream in(path, std::ios::binary);
  if (!in.read(bytes.data(), bytes.size()) || !std::string_view(bytes.data(), bytes.size()).starts_with(kMagic)) return false;
  uint32_t application = 0;
  for (size_t i = kApplicationAt; i < bytes.size(); ++i)
    application = application << 8 | static_cast<unsigned char>(bytes[i]);
  return application == uint32_t{kRunFileApplication};
}

// Of two files of one run: which of them it is that goes on. A copy that somebody made of it has another name, or has come
// less far.
bool IsBetter(const RunEntry& a, const RunEntry& b) {
  auto rank = [](const RunEntry& entry) {
    const Totals& totals = entry.head.totals;
    return std::tuple(HasOwnName(entry), entry.head.producer.info.start_unix_ns, totals.progress.done_seq, totals.written);
  };
  return rank(a) > rank(b);
}

std::string FileText(const std::string& path) {
  const bool own = std::filesystem::path(path).extension() == ".db";
  return (own ? "The file of the daemon's own events '" : "The run's file '") + path + "'";
}

// Of the file system that the folder is on.
uint64_t ShareOf(std::string folder, uint64_t parts, uint64_t most) {
  struct statvfs found {};
  while (::statvfs(folder.c_str(), &found) != 0) {  // it may be yet to be made
    const std::string parent = std::filesystem::absolute(folder).parent_path().string();
    if (parent.empty() || parent == folder) return most;
    folder = parent;
  }
  return std::min(most, uint64_t{found.f_blocks} * found.f_frsize / parts);
}

}  // namespace

uint64_t Store::BytesMaxDefault(const std::string& folder) { return ShareOf(folder, 10, uint64_t{16} << 30); }
uint64_t Store::FreeBytesMinDefault(const std::string& folder) { return ShareOf(folder, 20, uint64_t{2} << 30); }

Result<std::unique_ptr<Store>> Store::Open(StoreOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  if (Status opened = impl->Open(); !opened) return opened.error();
  return std::unique_ptr<Store>(new Store(std::move(impl)));
}

Status Store::Impl::Open() {
  host_ = options_.host.empty() ? HostName() : options_.host;
  folder_ = options_.data_dir + "/runs/" + host_;
  auto refused = [&](const Error& why) {
    const char* what_to_do = why.code == ErrorCode::kResourceExhausted ? "free some space or pass" : "pass";
    return Error{why.code, "cannot open run store '" + folder_ + "': " + why.text + "; " + what_to_do + " --data-dir"};
  };
  if (Status made = MakePrivateDirectories(folder_); !made) return refused(made.error());
  if (Status locked = LockFolder(); !locked) return refused(locked.error());
  bytes_max_ = options_.bytes_max ? *options_.bytes_max : BytesMaxDefault(folder_);
  free_bytes_min_ = options_.free_bytes_min ? *options_.free_bytes_min : FreeBytesMinDefault(folder_);
  free_bytes_pause_ =
      options_.free_bytes_min ? options_.free_bytes_pause : std::min(options_.free_bytes_pause, free_bytes_min_);

  opened_at_ = Clock::now();
  Scan();
  thread_ = std::thread([this] { Loop(); });
  return {};
}

Status Store::Impl::LockFolder() {
  const std::string path = folder_ + "/lock";
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) return PosixError("cannot open '" + path + "'", errno);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      return Error{ErrorCode::kAlreadyExists, "another daemon" + HolderText(fd.get()) + " has it open"};
    }
    // A file system without locks: two daemons of one host are kept apart by the directory of their sockets.
  }
  const LockText before = ReadLock(fd.get());
  pid_before_ = before.pid;
  event_ids_kept_ = before.event_id;
  lock_ = std::move(fd);
  if (!WriteLock(::getpid())) return PosixError("cannot write '" + path + "'", errno);
  return {};
}

bool Store::Impl::WriteLock(int64_t pid) {
  const std::string text = std::to_string(pid) + "\n" + std::to_string(event_ids_kept_) + "\n";
  return ::pwrite(lock_.get(), text.data(), text.size(), 0) >= 0 &&
         ::ftruncate(lock_.get(), static_cast<off_t>(text.size())) == 0;
}

// Whatever becomes of the file in which the last events are, the next daemon gives none of their ids again.
void Store::Impl::KeepEventIds() {
  const uint64_t next = next_event_id_.load(std::memory_order_relaxed);
  if (next + kIdsAhead / 2 < event_ids_kept_) return;
  event_ids_kept_ = next + kIdsAhead;
  (void)WriteLock(::getpid());
}

Store::Impl::Looked Store::Impl::Look(const std::string& path, int busy_ms) {
  Looked looked;
  struct stat there {};
  if (::stat(path.c_str(), &there) != 0 && (errno == ENOENT || errno == ELOOP)) {
    if (::lstat(path.c_str(), &there) == 0) looked.unread = Unread{path, "it is a link to a file that is not there", false};
    return looked;
  }
  if (!S_ISREG(there.st_mode) && there.st_mode != 0) {
    looked.unread = Unread{path, "it is no file", false};
    return looked;
  }
  looked.file = FileIdOf(path);
  Result<std::unique_ptr<RunFile>> file = RunFile::Open(path, Database::Mode::kReadWrite, false, busy_ms);
  // To fold its log into it takes time, which whoever writes it next has.
  if (file) sqlite3_db_config((*file)->database().handle(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  Result<RunHead> head = file ? (*file)->LoadHead() : Result<RunHead>(file.error());
  if (!head && head.error().code == ErrorCode::kNotFound) {
    if (catalogue_.Knows(std::filesystem::path(path).filename().string())) {
      looked.unread = Unread{path, "it is empty, and a run was in it", true};
      return looked;
    }
    // A daemon was killed between making it and writing into it.
    if (file) file->reset();
    for (const char* suffix : {"-wal", "-journal", ""}) (void)::unlink((path + suffix).c_str());
    looked.emptied = true;
    return looked;
  }
  if (!head) {
    const ErrorCode code = head.error().code;
    // Another program has it, or the disk or this process fails: that passes, unlike rights that we lack.
    looked.later = (code == ErrorCode::kUnavailable || code == ErrorCode::kSystem || code == ErrorCode::kResourceExhausted) &&
                   ::access(path.c_str(), R_OK | W_OK) == 0;
    // What is broken and not known to be ours may be anything.
    const std::string name = std::filesystem::path(path).filename().string();
    const bool ours = code == ErrorCode::kCorrupt && looked.file &&
                      (catalogue_.IsOf(name, *looked.file) || HasRunHeader(path));
    looked.unread = Unread{path, head.error().text, ours, looked.file};
    return looked;
  }
  Result<int64_t> mark = (*file)->database().QueryInt("SELECT value FROM meta WHERE name = 'event_last'");
  looked.event_last = std::max(head->event_last, mark ? static_cast<uint64_t>(*mark) : 0);
  Result<std::string> mode = (*file)->database().QueryText("PRAGMA journal_mode");
  looked.has_log = mode && *mode == "wal";
  looked.head = *std::move(head);
  return looked;
}

// The name of the daemon's own events; another where a file that is not ours has it.
std::string Store::Impl::OwnPath(int number) const {
  return folder_ + "/events." + (number > 1 ? std::to_string(number) + "." : "") + "db";
}

Store::Impl::Looked Store::Impl::FindOwn(std::vector<Unread>* unread) {
  for (int number = 1;; ++number) {
    Looked looked = Look(OwnPath(number), Database::kBusyTimeoutMs);
    const bool there = looked.head || looked.unread;
    // One that is ours and broken is set aside with the first event.
    const bool foreign = looked.unread && !looked.unread->ours && !looked.later;
    if (looked.unread && !looked.later) unread->push_back(*looked.unread);
    if (foreign) continue;
    own_ = std::make_shared<RunEntry>(RunKey{}, OwnPath(number));
    if (looked.head) own_->head = *looked.head;
    own_->head.host = host_;
    own_->on_disk = there;
    own_->file = looked.file;
    return looked;
  }
}

// One that was read is a run of this store.
void Store::Impl::TakeIn(const std::string& path, RunHead head, const std::optional<FileId>& file,
                         const std::optional<Catalogue::Stamp>& at_rest, bool scanning, std::vector<Unread>* unread) {
  // Nobody has told this daemon that its process lives.
  if (head.producer.state == RunState::kRunning) head.producer.state = RunState::kDisconnected;
  const RunKey key = head.producer.info.run_key;
  auto entry = std::make_shared<RunEntry>(key, path);
  entry->head = std::move(head);
  entry->on_disk = true;
  entry->file = file;
  if (at_rest) {
    entry->rest_bytes = at_rest->bytes;
  } else {
    entry->log = FileIdOf(path + "-wal");
  }
  // One that ended and could not be put at rest.
  entry->wants_rest = !IsOpen(entry->head.producer.state) && !at_rest;
  entry->idle_since = Clock::now();
  std::lock_guard lock(mutex_);
  if (const auto [found, fresh] = entries_.emplace(key, entry); !fresh) {
    const EntryPtr other = found->second;
    // Where it is found later the other is in use.
    const bool better = scanning && IsBetter(*entry, *other);
    unread->push_back({better ? other->path() : path,
                       "there is another file of the same run, '" + (better ? path : other->path()) + "'", false});
    if (!better) return;
    awake_.erase(other);
    found->second = entry;
  }
  if (entry->wants_rest) awake_.insert(entry);
  // With it: whoever begins the run a moment later hears first that it was there.
  if (!scanning) found_.push_back(key);
}

void Store::Impl::TellUnread(const std::vector<Unread>& unread) {
  std::map<std::string, std::vector<std::string>> paths;  // by the reason
  for (const Unread& one : unread) {
    paths[one.why].push_back(one.path);
    std::lock_guard lock(mutex_);
    if (!one.ours) {
      untouched_.insert(one.path);
    } else if (one.file) {
      broken_here_[one.path] = *one.file;
    }
  }
  for (const auto& [why, those] : paths) {
    const bool each = those.size() <= kToldEach;
    for (size_t i = 0; i < (each ? those.size() : 1); ++i) {
      const std::string what =
          each ? FileText(those[i]) + " is left as it is"
               : Counted(those.size(), "file") + " of runs, '" + those[i] + "' among them, are left as they are";
      Raise(Severity::kError, "run_unreadable", what + " and not shown: " + why + ".", {});
    }
  }
}

void Store::Impl::TellEmptied(const std::string& path) {
  Raise(Severity::kWarning, "run_file_removed",
        "'" + path + "' was empty, and is deleted: a daemon was killed as it made it, or its file system has lost what was " +
            "in it.", {});
}

// What went while no daemon had the store, or with one that was killed before it had said so.
void Store::Impl::TellGone(const std::vector<std::string>& names) {
  const bool each = names.size() <= kToldEach;
  for (size_t i = 0; i < (each ? names.size() : 1) && !names.empty(); ++i) {
    const std::string path = folder_ + "/" + names[i];
    Raise(Severity::kWarning, "run_file_removed",
          (each ? FileText(path) + " is" : Counted(names.size(), "file") + " of runs, '" + path + "' among them, are") +
              " not there any more: taken away since a daemon had this store last, or deleted by one that was killed "
              "as it did.",
          {});
  }
}

// Files that could not be read when the store was opened. One a look: each may take a while.
void Store::Impl::LookAgain() {
  std::string path;
  {
    std::lock_guard lock(mutex_);
    if (later_.empty()) return;
    auto next = later_.upper_bound(looked_again_);
    path = looked_again_ = next == later_.end() ? *later_.begin() : *next;
  }
  Looked looked = Look(path, 0);
  if (looked.later) return;
  if (looked.emptied) TellEmptied(path);
  std::vector<Unread> unread;
  if (looked.unread) unread.push_back(*std::move(looked.unread));
  if (looked.head) {
    uint64_t next = next_event_id_.load(std::memory_order_relaxed);
    while (next <= looked.event_last && !next_event_id_.compare_exchange_weak(next, looked.event_last + 1)) {
    }
    const RunKey key = looked.head->producer.info.run_key;
    TakeIn(path, *std::move(looked.head), looked.file, std::nullopt, false, &unread);
    if (unread.empty()) Raise(Severity::kInfo, "run_readable", "'" + path + "' can be read again, and is shown.", key);
  }
  TellUnread(unread);
  std::lock_guard lock(mutex_);
  later_.erase(path);
}

void Store::Impl::Scan() {
  std::vector<Unread> unread;
  std::vector<Unread> later;
  const Looked own = FindOwn(&unread);
  std::vector<std::string> emptied;
  if (own.emptied) emptied.push_back(own_->path());
  uint64_t event_last = own.event_last;
  std::error_code code;
  std::set<std::string> names;
  for (const auto& item : std::filesystem::directory_iterator(folder_, code)) names.insert(item.path().filename().string());
  auto with_log = [&](const std::string& name) {
    return names.count(name + "-wal") > 0 || names.count(name + "-journal") > 0;
  };
  catalogue_.Open(folder_ + "/catalogue.db");
  for (const std::string& name : names) {
    const std::string path = folder_ + "/" + name;
    for (const char* of : {".run", ".db"}) {
      if (name.find(std::string(of) + ".broken-") != std::string::npos && !name.ends_with("-wal")) broken_.push_back(path);
      if (name.find(std::string(of) + ".removed-") != std::string::npos) broken_.push_back(path);  // a log without its file
    }
    if (name.find(".run.part") != std::string::npos) (void)::unlink(path.c_str());  // an import that was not finished
    if (!name.ends_with(".run")) continue;
    // A file with a log is not at rest, whatever the catalogue says of it.
    bool at_rest = !with_log(name);
    std::optional<Catalogue::Stamp> stamp = Catalogue::StampOf(path);
    std::optional<FileId> file = FileIdOf(path);
    std::optional<RunHead> head = at_rest && stamp ? catalogue_.Find(name, *stamp) : std::nullopt;
    if (!head) {
      Looked looked = Look(path, Database::kBusyTimeoutMs);
      if (looked.unread) (looked.later ? later : unread).push_back(*std::move(looked.unread));
      if (looked.emptied) emptied.push_back(path);
      if (!looked.head) continue;
      head = std::move(looked.head);
      file = looked.file;
      event_last = std::max(event_last, looked.event_last);
      at_rest = at_rest && !looked.has_log;
      if (at_rest && stamp) catalogue_.Save(name, *stamp, *head);
    }
    event_last = std::max(event_last, head->event_last);
    if (!at_rest) stamp.reset();
    TakeIn(path, *std::move(head), file, stamp, true, &unread);
  }
  uint32_t going_on = 0;
  for (auto next = entries_.begin(); next != entries_.end();) {
    const EntryPtr entry = next++->second;
    // What has no process went on with others, or not at all.
    if (entry->head.producer.state == RunState::kDisconnected && entry->head.producer.info.pid != 0) ++going_on;
    const std::string own_name = folder_ + "/" + RunFileName(entry->key);
    if (entry->path() == own_name ||
        std::none_of(later.begin(), later.end(), [&](const Unread& one) { return one.path == own_name; })) {
      continue;
    }
    // A copy does not take the place of a file that is only busy.
    unread.push_back({entry->path(), "it may be a copy of '" + own_name + "', which cannot be read now", false});
    awake_.erase(entry);
    entries_.erase(entry->key);
  }
  // Where the folder cannot be listed nothing is known to be gone.
  const auto is_listed = [&](const std::string& name) { return code || names.count(name) > 0; };
  const std::vector<std::string> gone = catalogue_.RemoveUnless(is_listed);
  // Ids that a killed daemon had shown and not stored are not given again: who goes on behind one misses nothing.
  next_event_id_ = event_last + 1 + (pid_before_ != 0 ? 2 * kEventsQueuedMax : 0);
  // Nor are those in files that are not known yet, or that somebody took away.
  if (!later.empty() || own.later) next_event_id_ += kIdsUnknown;
  if (!own.head) next_event_id_ = std::max(next_event_id_.load(), event_ids_kept_);
  KeepEventIds();
  TellUnread(unread);
  for (const std::string& path : emptied) TellEmptied(path);
  TellGone(gone);
  if (own.later) {
    Raise(Severity::kError, "run_unreadable",
          "The daemon's own events in '" + own_->path() + "' cannot be read now: " + own.unread->why +
              ". They are shown, and further ones kept, as soon as they can.",
          {});
  }
  for (const Unread& one : later) {
    later_.insert(one.path);
    Raise(Severity::kError, "run_unreadable",
          "The run's file '" + one.path + "' cannot be read now, which is tried again each second; until then it is not "
          "shown and its producer is not recorded: " + one.why + ".", {});
  }
  if (pid_before_ != 0) {
    Raise(Severity::kWarning, "store_unclosed",
          "The daemon before this one (pid " + std::to_string(pid_before_) +
              ") ended without closing the store. What it had committed is there; " + Counted(going_on, "run") +
              " went on then, and " +
              (going_on == 1 ? "is disconnected until it is known what became of its process."
                             : "are disconnected until it is known what became of their processes."),
          {});
  }
}

}  // namespace ikkuna::sinks
