#include <fcntl.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <set>

#include "daemon/sinks/store_impl.h"
#include "shared/base/clock.h"
#include "shared/places.h"

namespace ikkuna::sinks {
namespace {

std::string HolderText(int fd) {
  char text[32] = {};
  const ssize_t size = ::pread(fd, text, sizeof(text) - 1, 0);
  std::string pid(text, size > 0 ? static_cast<size_t>(size) : 0);
  pid.erase(std::find_if(pid.begin(), pid.end(), [](char c) { return c < '0' || c > '9'; }), pid.end());
  return pid.empty() ? "" : " (pid " + pid + ")";
}

}  // namespace

uint64_t Store::BytesMaxDefault(const std::string& folder) {
  constexpr uint64_t kMost = uint64_t{16} << 30;
  struct statvfs found {};
  if (::statvfs(folder.c_str(), &found) != 0) return kMost;
  return std::min<uint64_t>(kMost, uint64_t{found.f_blocks} * found.f_frsize / 10);
}

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

  own_ = std::make_shared<RunEntry>(RunKey{}, folder_ + "/events.db");
  own_->head.host = host_;
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
  // A daemon that closes takes its number away.
  char before[32] = {};
  if (::pread(fd.get(), before, sizeof(before) - 1, 0) > 0) pid_before_ = std::strtoll(before, nullptr, 10);
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(fd.get(), 0) != 0 || ::pwrite(fd.get(), pid.data(), pid.size(), 0) < 0) return PosixError("cannot write '" + path + "'", errno);
  lock_ = std::move(fd);
  return {};
}

void Store::Impl::Scan() {
  struct Unread {
    std::string path, why;
    bool ours;  // it is broken: another may take its place
  };
  std::vector<Unread> unread;
  uint64_t event_last = 0;
  bool has_log = false;  // of the last that was loaded
  auto load = [&](const std::string& path) -> std::optional<RunHead> {
    Result<std::unique_ptr<RunFile>> file = RunFile::Open(path, Database::Mode::kReadWrite, false);
    // To fold its log into it takes time, which whoever writes it next has.
    if (file) sqlite3_db_config((*file)->database().handle(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
    Result<RunHead> head = file ? (*file)->LoadHead() : Result<RunHead>(file.error());
    if (!head && head.error().code == ErrorCode::kNotFound) {
      if (catalogue_.Knows(std::filesystem::path(path).filename().string())) {
        unread.push_back({path, "it is empty, and a run was in it", true});
        return std::nullopt;
      }
      // A daemon was killed between making it and writing into it.
      if (file) file->reset();
      for (const char* suffix : {"-wal", "-journal", ""}) (void)::unlink((path + suffix).c_str());
      return std::nullopt;
    }
    if (!head) {
      unread.push_back({path, head.error().text, head.error().code == ErrorCode::kCorrupt});
      return std::nullopt;
    }
    Result<int64_t> mark = (*file)->database().QueryInt("SELECT value FROM meta WHERE name = 'event_last'");
    if (mark) event_last = std::max(event_last, static_cast<uint64_t>(*mark));
    Result<std::string> mode = (*file)->database().QueryText("PRAGMA journal_mode");
    has_log = mode && *mode == "wal";
    return *std::move(head);
  };
  std::error_code code;
  if (std::filesystem::exists(own_->path, code)) {
    if (std::optional<RunHead> head = load(own_->path)) {
      event_last = std::max(event_last, head->event_last);
      own_->head = std::move(*head);
      own_->head.host = host_;
    }
  }
  std::set<std::string> names;
  for (const auto& item : std::filesystem::directory_iterator(folder_, code)) names.insert(item.path().filename().string());
  auto with_log = [&](const std::string& name) { return names.count(name + "-wal") > 0 || names.count(name + "-journal") > 0; };
  catalogue_.Open(folder_ + "/catalogue.db");
  uint32_t going_on = 0;
  for (const std::string& name : names) {
    const std::string path = folder_ + "/" + name;
    if (name.find(".run.broken-") != std::string::npos && !name.ends_with("-wal")) broken_.push_back(path);
    if (name.find(".run.part") != std::string::npos) (void)::unlink(path.c_str());  // an import that was not finished
    if (!name.ends_with(".run")) continue;
    // A file with a log is not at rest, whatever the catalogue says of it.
    bool at_rest = !with_log(name);
    const std::optional<Catalogue::Stamp> stamp = Catalogue::StampOf(path);
    std::optional<RunHead> head = at_rest && stamp ? catalogue_.Find(name, *stamp) : std::nullopt;
    const bool known = head.has_value();
    if (!known) head = load(path);
    if (!head) continue;
    if (!known && has_log) at_rest = false;
    if (!known && at_rest && stamp) catalogue_.Save(name, *stamp, *head);
    event_last = std::max(event_last, head->event_last);
    const RunKey key = head->producer.info.run_key;
    // Nobody has told this daemon that its process lives.
    if (head->producer.state == RunState::kRunning) {
      head->producer.state = RunState::kDisconnected;
      ++going_on;
    }
    auto entry = std::make_shared<RunEntry>(key, path);
    entry->head = std::move(*head);
    if (const auto [found, fresh] = entries_.emplace(key, entry); !fresh) {
      const bool newer = found->second->head.producer.info.start_unix_ns < entry->head.producer.info.start_unix_ns;
      unread.push_back({newer ? found->second->path : path, "there is another file of the same run", false});
      if (!newer) continue;
      found->second = entry;
    }
    if (at_rest && stamp) entry->rest_bytes = stamp->bytes;
    // One that ended and could not be put at rest.
    entry->wants_rest = !IsOpen(entry->head.producer.state) && !at_rest;
    if (entry->wants_rest) awake_.insert(entry);
  }
  catalogue_.RemoveUnless([&](const std::string& name) { return names.count(name) > 0; });
  // Ids that a killed daemon had shown and not stored are not given again: who goes on behind one misses nothing.
  next_event_id_ = event_last + 1 + (pid_before_ != 0 ? 2 * kEventsQueuedMax : 0);
  for (const Unread& one : unread) {
    if (!one.ours) untouched_.insert(one.path);
    Raise(Severity::kError, "run_unreadable",
          "The run's file '" + one.path + "' is left as it is and not shown: " + one.why + ".", {});
  }
  if (pid_before_ != 0) {
    Raise(Severity::kWarning, "store_unclosed",
          "The daemon before this one (pid " + std::to_string(pid_before_) +
              ") ended without closing the store. What it had committed is there; " + std::to_string(going_on) +
              " runs went on then, and are disconnected until it is known what became of their processes.",
          {});
  }
}

}  // namespace ikkuna::sinks
