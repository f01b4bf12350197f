#include "daemon/sinks/run_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <map>

namespace ikkuna::sinks {
namespace {

// Numbers of 64 bits without sign are kept as the integer of the same bits.
constexpr char kTables[] = R"sql(
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE fact (position INTEGER PRIMARY KEY, name TEXT NOT NULL, value TEXT NOT NULL);
CREATE TABLE count (kind TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY (kind, reason)) WITHOUT ROWID;
CREATE TABLE note (position INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE tag (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE root (name TEXT PRIMARY KEY, phase INTEGER NOT NULL, step INTEGER NOT NULL, epoch INTEGER NOT NULL,
  samples_seen INTEGER NOT NULL, steps_due INTEGER NOT NULL, steps_observed INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE module (position INTEGER PRIMARY KEY, root TEXT NOT NULL, name TEXT NOT NULL, type TEXT NOT NULL,
  functional INTEGER NOT NULL);
CREATE TABLE param (module INTEGER NOT NULL, position INTEGER NOT NULL, name TEXT NOT NULL, dtype TEXT NOT NULL,
  sizes TEXT NOT NULL, bias INTEGER NOT NULL, trainable INTEGER NOT NULL, buffer INTEGER NOT NULL,
  PRIMARY KEY (module, position)) WITHOUT ROWID;
CREATE TABLE timeline (id INTEGER PRIMARY KEY, root TEXT NOT NULL, tag TEXT NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE series (id INTEGER PRIMARY KEY, timeline INTEGER NOT NULL, module TEXT NOT NULL, param TEXT NOT NULL,
  topic TEXT NOT NULL, type INTEGER NOT NULL, precision INTEGER NOT NULL, module_type TEXT NOT NULL,
  unit TEXT NOT NULL, sum INTEGER NOT NULL);
CREATE TABLE log (seq INTEGER PRIMARY KEY, totals BLOB NOT NULL, frames BLOB NOT NULL);
CREATE TABLE segment (id INTEGER PRIMARY KEY, place INTEGER NOT NULL, level INTEGER NOT NULL);
CREATE TABLE garbage (segment INTEGER PRIMARY KEY);
CREATE TABLE step (id INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL, stamps BLOB NOT NULL);
CREATE TABLE chunk (id INTEGER PRIMARY KEY, heads BLOB NOT NULL, data BLOB NOT NULL);
CREATE TABLE tally (grp INTEGER PRIMARY KEY, tallies BLOB NOT NULL);
CREATE TABLE value (id INTEGER PRIMARY KEY, series INTEGER NOT NULL, step INTEGER NOT NULL, epoch INTEGER NOT NULL,
  unix_ns INTEGER NOT NULL, samples_seen INTEGER NOT NULL, flags INTEGER NOT NULL, value, sum INTEGER NOT NULL);
CREATE INDEX value_by_series ON value (series, step);
CREATE TABLE event (id INTEGER PRIMARY KEY, unix_ns INTEGER NOT NULL, severity INTEGER NOT NULL, kind TEXT NOT NULL,
  text TEXT NOT NULL, step INTEGER NOT NULL, sum INTEGER NOT NULL);
)sql";

constexpr uint32_t kSeriesPerTally = 256;
constexpr size_t kTallyBytes = 40;

std::string EncodeTotals(const Totals& totals) {
  ByteWriter out;
  for (uint64_t value : {totals.progress.done_seq, totals.progress.lost_in_daemon, totals.progress.killed,
                         totals.written, totals.values, totals.thinned, totals.last_step,
                         static_cast<uint64_t>(totals.last_unix_ns), totals.others_bytes,
                         totals.progress.steps_total, totals.progress.steps_connected}) {
    out.PutVarint(value);
  }
  out.PutVarint(totals.progress.read_seq);
  out.PutVarint(totals.progress.done_beyond);
  for (const auto* counts : {&totals.progress.steps_observed, &totals.progress.missing}) {
    out.PutVarint(counts->size());
    for (const auto& [name, count] : *counts) {
      out.PutText(name);
      out.PutVarint(count);
    }
  }
  return std::move(out.bytes());
}

bool DecodeTotals(std::string_view bytes, uint64_t seed, Totals* totals) {
  if (!CheckSigned(&bytes, seed)) return false;
  ByteReader in(bytes);
  for (uint64_t* value : {&totals->progress.done_seq, &totals->progress.lost_in_daemon, &totals->progress.killed,
                          &totals->written, &totals->values, &totals->thinned, &totals->last_step}) {
    *value = in.GetVarint();
  }
  totals->last_unix_ns = static_cast<int64_t>(in.GetVarint());
  totals->others_bytes = in.GetVarint();
  totals->progress.steps_total = in.GetVarint();
  totals->progress.steps_connected = in.GetVarint();
  totals->progress.read_seq = in.GetVarint();
  totals->progress.done_beyond = in.GetVarint();
  for (auto* counts : {&totals->progress.steps_observed, &totals->progress.missing}) {
    counts->clear();
    for (uint64_t left = in.GetVarint(); in.ok() && left > 0; --left) {
      std::string name(in.GetText());
      counts->emplace_back(std::move(name), in.GetVarint());
    }
  }
  return in.ok();
}

uint64_t SumOf(uint64_t id, const Timeline& timeline) {
  ByteWriter out;
  out.PutText(timeline.root);
  out.PutText(timeline.tag);
  return ChecksumOf(out.bytes(), id);
}

uint64_t SumOf(const Series& series) {
  ByteWriter out;
  out.Put(series.timeline);
  for (const std::string* text : {&series.name.module, &series.name.param, &series.name.topic,
                                  &series.traits.module_type, &series.traits.unit}) {
    out.PutText(*text);
  }
  out.Put(static_cast<uint8_t>(series.traits.type));
  out.Put(static_cast<uint8_t>(series.traits.precision));
  return ChecksumOf(out.bytes(), series.id);
}

}  // namespace

uint64_t SumOf(const Event& event) {
  ByteWriter out;
  out.Put(event.unix_ns);
  out.Put(event.step);
  out.Put(static_cast<uint8_t>(event.severity));
  out.PutText(event.kind);
  return ChecksumOf(event.text, ChecksumOf(out.bytes(), 0));
}

uint64_t SumOfOther(uint32_t series, const StepStamp& stamp, std::string_view value) {
  ByteWriter out;
  out.Put(series);
  out.Put(stamp.step);
  out.Put(stamp.epoch);
  out.Put(stamp.unix_ns);
  out.Put(stamp.samples_seen);
  out.Put(stamp.flags);
  return ChecksumOf(value, ChecksumOf(out.bytes(), 0));
}

Result<std::unique_ptr<RunFile>> RunFile::Open(const std::string& path, Database::Mode mode, bool to_write, int busy_ms) {
  Result<Database> database = Database::Open(path, mode, busy_ms);
  if (!database) return database.error();
  std::unique_ptr<RunFile> file(new RunFile(path, *std::move(database)));
  Database& db = file->database_;
  Result<int64_t> version = db.QueryInt("PRAGMA user_version");
  if (!version) return version.error();
  Result<int64_t> application = db.QueryInt("PRAGMA application_id");
  if (!application) return application.error();
  Result<int64_t> tables = db.QueryInt("SELECT count(*) FROM sqlite_schema");
  if (!tables) return tables.error();
  const bool empty = *version == 0 && *application == 0 && *tables == 0;
  if (!empty && *application != kRunFileApplication) {
    return Error{ErrorCode::kFailedPrecondition, "it is a database of another program"};
  }
  if (*version > kRunFileVersion) {
    return Error{ErrorCode::kFailedPrecondition, "a newer version of ikkuna wrote it (format " +
                                                     std::to_string(*version) + ", this one reads up to " +
                                                     std::to_string(kRunFileVersion) + ")"};
  }
  if (*version > 0 && *version < kRunFileVersion) {
    return Error{ErrorCode::kFailedPrecondition,
                 "a version of ikkuna before its first release wrote it (format " + std::to_string(*version) +
                     "), which this one does not read; read it with that build, or delete it"};
  }
  if (empty && mode != Database::Mode::kCreate) return Error{ErrorCode::kNotFound, "nothing was recorded in it"};
  if (!to_write) return file;
  // NORMAL: a commit is safe from the death of the process at once, from that of the machine after the next checkpoint.
  if (Status set = db.Execute(empty ? "PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL;" : ""); !set) {
    return set.error();
  }
  Result<std::string> wal = db.QueryText("PRAGMA journal_mode = WAL");
  if (!wal) return wal.error();
  if (*wal != "wal") return Error{ErrorCode::kUnavailable, "no write-ahead log can be kept beside it"};
  Status set = db.Execute(
      "PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 4096; PRAGMA journal_size_limit = 33554432; "
      "PRAGMA secure_delete = OFF; PRAGMA cache_size = -4096; PRAGMA foreign_keys = OFF; PRAGMA temp_store = MEMORY");
  if (!set) return set.error();
  if (empty) {
    if (Status made = file->MakeTables(); !made) return made.error();
  }
  return file;
}

const char* RunFile::Tables() { return kTables; }

Status RunFile::MakeTables() {
  Transaction transaction(database_);
  if (Status begun = transaction.Begin(); !begun) return begun;
  if (Status made = database_.Execute(kTables); !made) return made;
  const std::string pragmas = "PRAGMA application_id = " + std::to_string(kRunFileApplication) +
                              "; PRAGMA user_version = " + std::to_string(kRunFileVersion);
  if (Status set = database_.Execute(pragmas.c_str()); !set) return set;
  return transaction.Commit();
}

Status RunFile::LoadTotals(Totals* totals) {
  bool found = false, good = true;
  Status read = database_.Each("SELECT totals, seq FROM log ORDER BY seq DESC LIMIT 1", [&](Statement& row) {
    found = true;
    good = DecodeTotals(row.Blob(0), row.Unsigned(1), totals);
    return false;
  });
  if (read && !found) {
    read = database_.Each("SELECT value FROM meta WHERE name = 'totals'", [&](Statement& row) {
      good = DecodeTotals(row.Blob(0), 0, totals);
      return false;
    });
  }
  if (read && !good) return Error{ErrorCode::kCorrupt, "its totals are broken"};
  return read;
}

Status RunFile::LoadSeries(std::vector<Timeline>* timelines, std::vector<Series>* series) {
  bool good = true;
  Status read = database_.Each("SELECT id, root, tag, sum FROM timeline ORDER BY id", [&](Statement& row) {
    timelines->push_back({row.Text(1), row.Text(2)});
    good = row.Unsigned(0) == timelines->size() && row.Unsigned(3) == SumOf(row.Unsigned(0), timelines->back());
    return good;
  });
  if (read && !good) return Error{ErrorCode::kCorrupt, "its list of timelines is broken"};
  if (!read) return read;
  read = database_.Each(
      "SELECT id, timeline, module, param, topic, type, precision, module_type, unit, sum FROM series ORDER BY id",
      [&](Statement& row) {
        Series one;
        one.id = static_cast<uint32_t>(row.Int(0));
        const int64_t timeline = row.Int(1);
        good = row.Int(0) > 0 && row.Int(0) <= int64_t{SeriesCatalogue::kMaxSeries} && timeline > 0 &&
               static_cast<size_t>(timeline) <= timelines->size() && row.Int(5) >= 1 && row.Int(5) <= 4;
        if (!good) return false;
        one.timeline = static_cast<TimelineId>(timeline);
        one.name = {(*timelines)[static_cast<size_t>(timeline - 1)], row.Text(2), row.Text(3), row.Text(4)};
        one.traits.type = static_cast<ValueType>(row.Int(5));
        one.traits.precision = row.Int(6) == 1 ? Precision::kSingle : Precision::kDouble;
        one.traits.module_type = row.Text(7);
        one.traits.unit = row.Text(8);
        // A row that is not there any more would take all its values along.
        good = row.Unsigned(9) == SumOf(one) && one.id == series->size() + 1;
        series->push_back(std::move(one));
        return good;
      });
  if (read && !good) return Error{ErrorCode::kCorrupt, "its list of series is broken"};
  return read;
}

Result<std::vector<Segment>> RunFile::LoadSegments() {
  std::map<uint64_t, Segment> segments;
  Status read = database_.Each("SELECT id, place, level FROM segment", [&](Statement& row) {
    segments[row.Unsigned(0)] = {row.Unsigned(0), row.Unsigned(1), static_cast<uint32_t>(row.Int(2)), {}};
    return true;
  });
  if (!read) return read.error();
  read = database_.Each("SELECT id, first, last FROM step ORDER BY id", [&](Statement& row) {
    const uint64_t id = row.Unsigned(0);
    if (const auto found = segments.find(id >> 16); found != segments.end()) {
      found->second.ranges.push_back({static_cast<TimelineId>(id & 0xffff), row.Unsigned(1), row.Unsigned(2)});
    }
    return true;
  });
  if (!read) return read.error();
  std::vector<Segment> list;
  for (auto& [id, segment] : segments) list.push_back(std::move(segment));
  std::sort(list.begin(), list.end(), [](const Segment& a, const Segment& b) { return a.place < b.place; });
  return list;
}

Status RunFile::LoadTallies(std::vector<SeriesTally>* tallies) {
  bool good = true;
  Status read = database_.Each("SELECT grp, tallies FROM tally", [&](Statement& row) {
    std::string bytes;
    const uint64_t group = row.Unsigned(0);
    std::string_view blob = row.Blob(1);
    good = group < SeriesCatalogue::kMaxSeries / kSeriesPerTally + 1 && CheckSigned(&blob, group) &&
           Unpack(blob, kSeriesPerTally * kTallyBytes, &bytes) && bytes.size() % kTallyBytes == 0;
    if (!good) return false;
    ByteReader in(bytes);
    size_t at = group * kSeriesPerTally;
    const size_t n = bytes.size() / kTallyBytes;
    if (tallies->size() < at + n) tallies->resize(at + n);
    for (; in.left() > 0; ++at) {
      SeriesTally& tally = (*tallies)[at];
      for (uint64_t* value : {&tally.count, &tally.thinned, &tally.first_step, &tally.last_step}) {
        *value = in.Get<uint64_t>();
      }
      tally.last = in.Get<double>();
    }
    return true;
  });
  if (read && !good) return Error{ErrorCode::kCorrupt, "its counts are broken"};
  if (!read) return read;
  // What came since then and is no number. Steps ascend without sign.
  return database_.Each(
      "SELECT series, step FROM value WHERE id > coalesce((SELECT value FROM meta WHERE name = 'value_tallied'), 0) "
      "ORDER BY id",
      [&](Statement& row) {
        const uint64_t series = row.Unsigned(0), step = row.Unsigned(1);
        if (series == 0 || series > SeriesCatalogue::kMaxSeries) return true;
        if (tallies->size() < series) tallies->resize(series);
        SeriesTally& tally = (*tallies)[series - 1];
        tally.first_step = tally.count == 0 ? step : std::min(tally.first_step, step);
        tally.last_step = tally.count == 0 ? step : std::max(tally.last_step, step);
        ++tally.count;
        return true;
      });
}

Status RunFile::LoadTail(PlaneCoder& coder, Tail* tail) {
  Status decoded;
  Layouts layouts;
  Status read = database_.Each("SELECT seq, frames FROM log ORDER BY seq", [&](Statement& row) {
    tail->log_last = row.Unsigned(0);
    std::string_view blob = row.Blob(1);
    if (blob.empty()) return true;
    if (!CheckSigned(&blob, row.Unsigned(0))) {
      decoded = Error{ErrorCode::kCorrupt, "a commit's blob is broken"};
      return false;
    }
    Result<std::vector<std::shared_ptr<const Frame>>> frames = DecodeFrames(blob, coder, layouts);
    if (!frames) {
      decoded = frames.error();
      return false;
    }
    for (auto& frame : *frames) tail->Add(std::move(frame), tail->log_last);
    return true;
  });
  if (!read || !decoded) return read ? decoded : read;
  return database_.Each("SELECT value FROM meta WHERE name = 'log_last'", [&](Statement& row) {
    tail->log_last = std::max(tail->log_last, row.Unsigned(0));
    return false;
  });
}

Result<StampColumns> RunFile::LoadStamps(uint64_t segment, TimelineId timeline) {
  const uint64_t id = (segment << 16) | timeline;
  StampColumns columns;
  bool good = false;
  Status read = database_.Each(
      "SELECT stamps FROM step WHERE id = ?1",
      [&](Statement& row) {
        std::string_view blob = row.Blob(0);
        good = CheckSigned(&blob, id) && StampColumns::Parse(std::string(blob), timeline, &columns);
        return false;
      },
      id);
  if (!read) return read.error();
  if (!good) return Error{ErrorCode::kCorrupt, "the steps of segment " + std::to_string(segment) + " are broken"};
  return columns;
}

Status RunFile::LoadGroup(uint64_t segment, uint32_t group, GroupRow* row) {
  const uint64_t id = segment * kGroupsMax + group;
  row->heads.clear();
  row->data.clear();
  bool good = true;
  Status read = database_.Each(
      "SELECT heads, data FROM chunk WHERE id = ?1",
      [&](Statement& found) {
        std::string_view heads = found.Blob(0);
        good = CheckSigned(&heads, id) && ParseHeads(heads, &row->heads);
        row->data.assign(found.Blob(1));
        return false;
      },
      id);
  if (read && !good) return Error{ErrorCode::kCorrupt, "chunks of segment " + std::to_string(segment) + " are broken"};
  return read;
}

Status RunFile::AddTimelines(std::span<const Timeline> timelines, TimelineId from) {
  for (size_t i = from; i < timelines.size(); ++i) {
    Status added = database_.Run("INSERT OR REPLACE INTO timeline VALUES (?1, ?2, ?3, ?4)", static_cast<int64_t>(i + 1),
                                 std::string_view(timelines[i].root), std::string_view(timelines[i].tag),
                                 SumOf(i + 1, timelines[i]));
    if (!added) return added;
  }
  return {};
}

Status RunFile::AddSeries(std::span<const std::shared_ptr<const Series>> series) {
  for (const auto& one : series) {
    const SeriesTraits& traits = one->traits;
    Status added = database_.Run(
        "INSERT OR REPLACE INTO series VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)", static_cast<int64_t>(one->id),
        static_cast<int64_t>(one->timeline), std::string_view(one->name.module), std::string_view(one->name.param),
        std::string_view(one->name.topic), static_cast<int64_t>(traits.type), static_cast<int64_t>(traits.precision),
        std::string_view(traits.module_type), std::string_view(traits.unit), SumOf(*one));
    if (!added) return added;
  }
  return {};
}

Status RunFile::AddEvent(const Event& event) {
  return database_.Run("INSERT INTO event VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)", event.id, event.unix_ns,
                       static_cast<int64_t>(event.severity), std::string_view(event.kind),
                       std::string_view(event.text), event.step, SumOf(event));
}

Status RunFile::AddOther(const StepStamp& stamp, const OtherValue& other, uint64_t* bytes) {
  constexpr char kInsert[] =
      "INSERT INTO value (series, step, epoch, unix_ns, samples_seen, flags, value, sum) VALUES (?1, ?2, ?3, ?4, "
      "?5, ?6, ?7, ?8)";
  const auto flags = static_cast<int64_t>(other.flags | stamp.flags);
  const auto series = static_cast<int64_t>(other.series);
  const auto epoch = static_cast<int64_t>(stamp.epoch);
  StepStamp row_stamp = stamp;
  row_stamp.flags = static_cast<uint16_t>(flags);
  if (const auto* text = std::get_if<Text>(&other.value)) {
    *bytes = text->text.size() + kOtherRowBytes;
    return database_.Run(kInsert, series, stamp.step, epoch, stamp.unix_ns, stamp.samples_seen, flags,
                         std::string_view(text->text), SumOfOther(other.series, row_stamp, text->text));
  }
  const std::string blob = EncodeOther(other.value);
  *bytes = blob.size() + kOtherRowBytes;
  return database_.Run(kInsert, series, stamp.step, epoch, stamp.unix_ns, stamp.samples_seen, flags, BlobView{blob},
                       SumOfOther(other.series, row_stamp, blob));
}

Status RunFile::AddLog(uint64_t seq, const Totals& totals, std::string_view blob) {
  const std::string bytes = Signed(EncodeTotals(totals), seq);
  // Rows of progress alone do not gather.
  if (blob.empty()) {
    Status removed = database_.Run("DELETE FROM log WHERE seq = ?1 AND length(frames) = 0", seq - 1);
    if (!removed) return removed;
  }
  const std::string frames = blob.empty() ? std::string() : Signed(blob, seq);
  return database_.Run("INSERT INTO log VALUES (?1, ?2, ?3)", seq, BlobView{bytes},
                       BlobView{blob.empty() ? blob : std::string_view(frames)});
}

Result<bool> RunFile::HasOther(uint32_t series, uint64_t step) {
  bool found = false;
  Status read = database_.Each(
      "SELECT 1 FROM value WHERE series = ?1 AND step = ?2 LIMIT 1",
      [&](Statement&) {
        found = true;
        return false;
      },
      static_cast<int64_t>(series), step);
  if (!read) return read.error();
  return found;
}

Status RunFile::AddChunks(uint64_t segment, uint32_t group, ChunkRow& row) {
  const uint64_t id = segment * kGroupsMax + group;
  return database_.Run("INSERT OR REPLACE INTO chunk VALUES (?1, ?2, ?3)", id, BlobView{Signed(row.heads(), id)},
                       BlobView{row.data()});
}

Status RunFile::SaveTallies(std::span<const SeriesTally> tallies) {
  for (size_t begin = 0; begin < tallies.size(); begin += kSeriesPerTally) {
    ByteWriter out;
    for (size_t i = begin; i < std::min(begin + kSeriesPerTally, tallies.size()); ++i) {
      const SeriesTally& tally = tallies[i];
      for (uint64_t value : {tally.count, tally.thinned, tally.first_step, tally.last_step}) out.Put(value);
      out.Put(tally.last);
    }
    Status saved =
        database_.Run("INSERT OR REPLACE INTO tally VALUES (?1, ?2)", static_cast<int64_t>(begin / kSeriesPerTally),
                      BlobView{Signed(Pack(out.bytes()), begin / kSeriesPerTally)});
    if (!saved) return saved;
  }
  return database_.Run(
      "INSERT OR REPLACE INTO meta VALUES ('value_tallied', (SELECT coalesce(max(id), 0) FROM value))");
}

Status RunFile::AddStamps(uint64_t segment, const std::vector<Stamps>& stamps) {
  for (const Stamps& one : stamps) {
    const uint64_t id = (segment << 16) | one.timeline;
    Status added = database_.Run("INSERT OR REPLACE INTO step VALUES (?1, ?2, ?3, ?4)", id, one.first_step,
                                 one.last_step, BlobView{Signed(one.columns, id)});
    if (!added) return added;
  }
  return {};
}

Status RunFile::FinishSegment(uint64_t segment, uint64_t log_last, const std::vector<Stamps>& stamps,
                              std::span<const SeriesTally> tallies, const Totals& totals) {
  if (Status added = AddStamps(segment, stamps); !added) return added;
  if (Status saved = SaveTallies(tallies); !saved) return saved;
  const std::string bytes = Signed(EncodeTotals(totals), 0);
  Status saved = database_.Run("INSERT OR REPLACE INTO meta VALUES ('totals', ?1)", BlobView{bytes});
  if (saved) saved = database_.Run("INSERT OR REPLACE INTO meta VALUES ('log_last', ?1)", log_last);
  if (saved) saved = database_.Run("INSERT INTO segment VALUES (?1, ?1, 0)", segment);
  if (saved) saved = database_.Run("DELETE FROM log WHERE seq <= ?1", log_last);
  if (saved) saved = database_.Run("DELETE FROM garbage WHERE segment = ?1", segment);
  return saved;
}

Status RunFile::ReplaceSegments(const Segment& segment, std::span<const uint64_t> old,
                                const std::vector<Stamps>& stamps, std::span<const SeriesTally> tallies) {
  Status done = AddStamps(segment.id, stamps);
  if (done) done = SaveTallies(tallies);
  for (const uint64_t id : old) {
    if (done) done = database_.Run("DELETE FROM segment WHERE id = ?1", id);
    if (done) done = AddGarbage(id);
  }
  if (done) {
    done = database_.Run("INSERT INTO segment VALUES (?1, ?2, ?3)", segment.id, segment.place, int64_t{segment.level});
  }
  if (done) done = database_.Run("DELETE FROM garbage WHERE segment = ?1", segment.id);
  return done;
}

Status RunFile::AddGarbage(uint64_t segment) {
  return database_.Run("INSERT OR REPLACE INTO garbage VALUES (?1)", segment);
}

Result<std::vector<uint64_t>> RunFile::LoadGarbage() {
  std::vector<uint64_t> garbage;
  Status listed = database_.Each("SELECT segment FROM garbage", [&](Statement& row) {
    garbage.push_back(row.Unsigned(0));
    return true;
  });
  if (!listed) return listed.error();
  return garbage;
}

Result<bool> RunFile::DropGarbage(uint64_t segment, int rows) {
  Status done = database_.Run(
      "DELETE FROM chunk WHERE id IN (SELECT id FROM chunk WHERE id >= ?1 AND id < ?2 LIMIT ?3)", segment * kGroupsMax,
      (segment + 1) * kGroupsMax, static_cast<int64_t>(rows));
  if (!done) return done.error();
  if (sqlite3_changes(database_.handle()) >= rows) return true;
  done = database_.Run("DELETE FROM step WHERE id >= ?1 AND id < ?2", segment << 16, (segment + 1) << 16);
  if (done) done = database_.Run("DELETE FROM garbage WHERE segment = ?1", segment);
  if (!done) return done.error();
  return false;
}

Result<bool> RunFile::Shrink(int pages) {
  Result<int64_t> free = database_.QueryInt("PRAGMA freelist_count");
  if (!free) return free.error();
  if (*free == 0) return false;
  const std::string sql = "PRAGMA incremental_vacuum(" + std::to_string(pages) + ")";
  if (Status done = database_.Execute(sql.c_str()); !done) return done.error();
  return *free > pages;
}

// A checkpoint syncs the log first and the file then; who reads an older state keeps it from nothing but folding.
Status RunFile::Sync() { return database_.Execute("PRAGMA wal_checkpoint(PASSIVE)"); }

Status RunFile::FoldLog() { return database_.Execute("PRAGMA wal_checkpoint(TRUNCATE)"); }

Status RunFile::Rest() {
  Result<std::string> mode = database_.QueryText("PRAGMA journal_mode = DELETE");
  if (!mode) return Error{ErrorCode::kUnavailable, mode.error().text};
  if (*mode != "delete") return Error{ErrorCode::kUnavailable, "somebody reads it"};
  return {};
}

bool RunFile::IsGone() {
  auto has_moved = [&] {
    int moved = 0;
    return sqlite3_file_control(database_.handle(), "main", SQLITE_FCNTL_HAS_MOVED, &moved) == SQLITE_OK && moved != 0;
  };
  if (!has_moved()) {
    if (log_) return false;
    // SQLite makes it once and keeps it for as long as the file is open. It is ours if the file is, still.
    const std::optional<FileId> log = FileIdOf(path_ + "-wal");
    if (!has_moved()) {
      log_ = log;
      return false;
    }
  }
  struct stat found {};
  // A file system that fails for a moment says nothing of that.
  return ::stat(path_.c_str(), &found) == 0 || errno == ENOENT || errno == ENOTDIR || errno == ELOOP;
}

Status RunFile::CopyTo(const std::string& path, const std::function<Status()>& allowed) {
  constexpr int kOpsPerLook = 20'000;  // of SQLite's machine: some megabytes
  Result<Statement> vacuum = database_.Prepare("VACUUM INTO ?1");
  if (!vacuum) return vacuum.error();
  vacuum->Bind(1, std::string_view(path));
  struct Look {
    const std::function<Status()>& allowed;
    Status answer;
  } look{allowed, {}};
  sqlite3_progress_handler(
      database_.handle(), kOpsPerLook,
      [](void* at) {
        auto& asked = *static_cast<Look*>(at);
        asked.answer = asked.allowed();
        return asked.answer ? 0 : 1;
      },
      &look);
  const int code = vacuum->Run();
  sqlite3_progress_handler(database_.handle(), 0, nullptr, nullptr);
  if (!look.answer) return look.answer;
  if (code != SQLITE_DONE) return SqliteError("", database_.handle());
  return {};
}

}  // namespace ikkuna::sinks
