#include "daemon/sinks/catalogue.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <map>

#include "daemon/sinks/store_bytes.h"

namespace ikkuna::sinks {
namespace {

constexpr size_t kListMax = 1 << 20;  // entries of one list of a head: beyond it the bytes are broken

uint64_t SeedOf(const std::string& name) { return ChecksumOf(name, 0); }

// One description for both ways: what Write puts, Read takes.
class Write {
 public:
  explicit Write(ByteWriter& out) : out_(out) {}
  template <typename T>
  void operator()(T value) {
    out_.Put(value);
  }
  void operator()(bool value) { out_.Put(static_cast<uint8_t>(value)); }
  void operator()(const std::string& text) { out_.PutText(text); }
  template <typename T, typename Each>
  void List(const std::vector<T>& list, Each&& each) {
    out_.PutVarint(list.size());
    for (const T& one : list) each(one);
  }
  void Map(const std::map<std::string, uint64_t>& map) {
    out_.PutVarint(map.size());
    for (const auto& [name, count] : map) {
      out_.PutText(name);
      out_.Put(count);
    }
  }

 private:
  ByteWriter& out_;
};

class Read {
 public:
  explicit Read(ByteReader& in) : in_(in) {}
  template <typename T>
  void operator()(T& value) {
    value = in_.Get<T>();
  }
  void operator()(bool& value) { value = in_.Get<uint8_t>() != 0; }
  void operator()(std::string& text) { text = std::string(in_.GetText()); }
  template <typename T, typename Each>
  void List(std::vector<T>& list, Each&& each) {
    for (uint64_t n = in_.GetVarint(); n > 0 && in_.ok() && list.size() < kListMax; --n) {
      each(list.emplace_back());
    }
  }
  void Map(std::map<std::string, uint64_t>& map) {
    for (uint64_t n = in_.GetVarint(); n > 0 && in_.ok() && map.size() < kListMax; --n) {
      std::string name(in_.GetText());
      map[std::move(name)] = in_.Get<uint64_t>();
    }
  }

 private:
  ByteReader& in_;
};

template <typename Way, typename Enum>
void AsByte(Way& way, Enum& value) {
  auto byte = static_cast<uint8_t>(value);
  way(byte);
  value = static_cast<Enum>(byte);
}

template <typename Way, typename Head>
void Visit(Way& way, Head& head) {
  auto& producer = head.producer;
  auto& info = producer.info;
  for (auto& byte : info.uuid) way(byte);
  way(info.run_key.run_id);
  way(info.run_key.attempt);
  way(info.run_key.rank);
  way(info.run);
  way(info.world_size);
  way(info.job.address);
  way(info.job.port);
  way(info.pid);
  way(info.uid);
  way(info.start_unix_ns);
  way(info.start_step);
  way(info.unnamed);
  way(info.restarts);
  way.List(info.facts, [&](auto& fact) {
    way(fact.first);
    way(fact.second);
  });
  for (auto* number :
       {&producer.attempted, &producer.handled, &producer.dropped_total, &producer.lost_in_daemon, &producer.killed,
        &producer.steps_total, &producer.steps_while_connected, &producer.kinds_asked}) {
    way(*number);
  }
  for (auto* factor :
       {&producer.period_factor_tensor, &producer.period_factor_summary, &producer.period_factor_scalar}) {
    way(*factor);
  }
  for (auto* number : {&producer.coverage, &producer.probe_cost, &producer.budget}) way(*number);
  for (auto* counts : {&producer.drops, &producer.missing}) {
    way.List(*counts, [&](auto& count) {
      way(count.reason);
      way(count.count);
    });
  }
  way.List(producer.notes, [&](auto& note) { way(note); });
  way.List(producer.roots, [&](auto& root) {
    way(root.name);
    way(root.step);
    way(root.epoch);
    way(root.samples_seen);
    way(root.steps_due);
    way(root.steps_observed);
  });
  way(head.host);
  way.List(head.tags, [&](auto& tag) { way(tag); });
  way.Map(head.unrecorded);
  auto& totals = head.totals;
  for (auto* number : {&totals.progress.done_seq, &totals.progress.lost_in_daemon, &totals.progress.killed,
                       &totals.progress.steps_total, &totals.progress.steps_connected, &totals.progress.read_seq,
                       &totals.progress.done_beyond,
                       &totals.written, &totals.values, &totals.thinned, &totals.last_step,
                       &totals.others_bytes, &head.series, &head.events, &head.event_first, &head.event_last}) {
    way(*number);
  }
  way(totals.last_unix_ns);
  for (auto* counts : {&totals.progress.steps_observed, &totals.progress.missing}) {
    way.List(*counts, [&](auto& count) {
      way(count.first);
      way(count.second);
    });
  }
}

}  // namespace

std::string EncodeHead(const RunHead& head) {
  ByteWriter out;
  Write way(out);
  Visit(way, head);
  out.Put(static_cast<uint8_t>(head.producer.state));
  const auto& continues = head.producer.info.continues;
  out.Put(static_cast<uint8_t>(continues.has_value()));
  out.Put(continues.value_or(0));
  out.Put(head.producer.info.line);
  for (const RootStatusInfo& root : head.producer.roots) out.Put(static_cast<uint8_t>(root.phase));
  return std::move(out.bytes());
}

std::optional<RunHead> DecodeHead(std::string_view bytes) {
  ByteReader in(bytes);
  RunHead head;
  Read way(in);
  Visit(way, head);
  head.producer.state = static_cast<RunState>(in.Get<uint8_t>());
  const bool continues = in.Get<uint8_t>() != 0;
  const auto attempt = in.Get<uint32_t>();
  if (continues) head.producer.info.continues = attempt;
  head.producer.info.line = in.Get<uint32_t>();
  for (RootStatusInfo& root : head.producer.roots) root.phase = static_cast<RootPhase>(in.Get<uint8_t>());
  if (!in.ok() || in.left() > 0 || !ParseRunState(RunStateName(head.producer.state))) return std::nullopt;
  return head;
}

std::optional<Catalogue::Stamp> Catalogue::StampOf(const std::string& path) {
  const std::optional<FileLook> look = LookAtFile(path);
  if (!look) return std::nullopt;
  return Stamp{look->bytes, look->id.inode, look->changed_ns, look->id.born_ns};
}

void Catalogue::Open(const std::string& path) {
  std::lock_guard lock(mutex_);
  if (Load(path)) return;
  rows_.clear();
  database_.reset();
  for (const char* suffix : {"", "-journal", "-wal"}) (void)::unlink((path + suffix).c_str());
  if (!Load(path)) {
    rows_.clear();
    database_.reset();
  }
}

Status Catalogue::Load(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd >= 0) ::close(fd);
  Result<Database> opened = Database::Open(path, Database::Mode::kCreate);
  if (!opened) return opened.error();
  database_ = *std::move(opened);
  Result<int64_t> version = database_->QueryInt("PRAGMA user_version");
  if (!version) return version.error();
  // A cache needs no patience: what a crash of the machine breaks is made anew.
  Status set = database_->Execute("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF");
  if (set && *version == 0) {
    const std::string make =
        "CREATE TABLE run (name TEXT PRIMARY KEY, bytes INTEGER NOT NULL, inode INTEGER NOT NULL, changed_ns INTEGER "
        "NOT NULL, born_ns INTEGER NOT NULL, head BLOB NOT NULL) WITHOUT ROWID; PRAGMA user_version = " +
        std::to_string(kVersion);
    set = database_->Execute(make.c_str());
  } else if (set && *version != kVersion) {
    return Error{ErrorCode::kFailedPrecondition, "it is of another version"};
  }
  if (!set) return set;
  return database_->Each("SELECT name, bytes, inode, changed_ns, born_ns, head FROM run", [&](Statement& row) {
    rows_[row.Text(0)] = {{row.Unsigned(1), row.Unsigned(2), row.Int(3), row.Int(4)}, std::string(row.Blob(5))};
    return true;
  });
}

std::optional<RunHead> Catalogue::Find(const std::string& name, const Stamp& stamp) const {
  std::lock_guard lock(mutex_);
  const auto found = rows_.find(name);
  if (found == rows_.end() || found->second.stamp != stamp) return std::nullopt;
  std::string_view bytes = found->second.head;
  if (!CheckSigned(&bytes, SeedOf(name))) return std::nullopt;
  return DecodeHead(bytes);
}

bool Catalogue::Knows(const std::string& name) const {
  std::lock_guard lock(mutex_);
  return rows_.count(name) > 0;
}

bool Catalogue::IsOf(const std::string& name, const FileId& file) const {
  std::lock_guard lock(mutex_);
  const auto found = rows_.find(name);
  return found != rows_.end() && found->second.stamp.inode == file.inode && found->second.stamp.born_ns == file.born_ns;
}

void Catalogue::Save(const std::string& name, const Stamp& stamp, const RunHead& head) {
  const std::string bytes = Signed(EncodeHead(head), SeedOf(name));
  std::lock_guard lock(mutex_);
  // Of use when the next daemon starts: this one has the head.
  if (!database_) return;
  (void)database_->Run("INSERT OR REPLACE INTO run VALUES (?1, ?2, ?3, ?4, ?5, ?6)", std::string_view(name), stamp.bytes,
                       stamp.inode, stamp.changed_ns, stamp.born_ns, BlobView{bytes});
}

void Catalogue::Remove(const std::string& name) {
  std::lock_guard lock(mutex_);
  rows_.erase(name);
  if (database_) (void)database_->Run("DELETE FROM run WHERE name = ?1", std::string_view(name));
}

void Catalogue::Close() {
  std::lock_guard lock(mutex_);
  rows_.clear();
  database_.reset();
}

}  // namespace ikkuna::sinks
