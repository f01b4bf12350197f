#include "daemon/sinks/store_schema.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

namespace ikkuna::sinks {
namespace {

// producers: done_seq, lost_in_daemon and killed are the committed Progress; the saved_ ones are those of the last
// status. samples: clustered by (series, step), so that a range of one series is read in one run. `value` has no
// declared type: a REAL column would store -0.0 as the integer 0.
constexpr char kTables[] = R"sql(
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
INSERT INTO meta VALUES ('counts_valid', 1);

CREATE TABLE runs (
  id INTEGER PRIMARY KEY, run_id TEXT NOT NULL, attempt INTEGER NOT NULL, rank INTEGER NOT NULL,
  run TEXT NOT NULL DEFAULT '', world_size INTEGER NOT NULL DEFAULT 1, state TEXT NOT NULL DEFAULT '',
  start_unix_ns INTEGER NOT NULL DEFAULT 0, last_unix_ns INTEGER NOT NULL DEFAULT 0,
  UNIQUE (run_id, attempt, rank));
CREATE TABLE facts (
  run INTEGER NOT NULL, position INTEGER NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,
  PRIMARY KEY (run, position)) WITHOUT ROWID;

CREATE TABLE modules (
  run INTEGER NOT NULL, position INTEGER NOT NULL, root TEXT NOT NULL, name TEXT NOT NULL, type TEXT NOT NULL,
  functional INTEGER NOT NULL, PRIMARY KEY (run, position)) WITHOUT ROWID;
CREATE TABLE params (
  run INTEGER NOT NULL, module INTEGER NOT NULL, position INTEGER NOT NULL, name TEXT NOT NULL, dtype TEXT NOT NULL,
  sizes TEXT NOT NULL, bias INTEGER NOT NULL, trainable INTEGER NOT NULL, buffer INTEGER NOT NULL,
  PRIMARY KEY (run, module, position)) WITHOUT ROWID;

CREATE TABLE series (
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL, tag TEXT NOT NULL, root TEXT NOT NULL, module TEXT NOT NULL,
  param TEXT NOT NULL, topic TEXT NOT NULL, module_type TEXT NOT NULL, unit TEXT NOT NULL,
  count INTEGER NOT NULL DEFAULT 0);
CREATE INDEX series_by_run ON series (run);
CREATE TABLE samples (
  series INTEGER NOT NULL, step INTEGER NOT NULL, epoch INTEGER NOT NULL, flags INTEGER NOT NULL,
  unix_ns INTEGER NOT NULL, samples_seen INTEGER NOT NULL, class INTEGER NOT NULL, value,
  PRIMARY KEY (series, step)) WITHOUT ROWID;
CREATE TABLE texts (
  series INTEGER NOT NULL, step INTEGER NOT NULL, unix_ns INTEGER NOT NULL, text TEXT NOT NULL,
  PRIMARY KEY (series, step));

CREATE TABLE events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, attempt INTEGER NOT NULL, rank INTEGER NOT NULL,
  unix_ns INTEGER NOT NULL, severity INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, step INTEGER NOT NULL);

CREATE TABLE producers (
  uuid BLOB PRIMARY KEY, run INTEGER, pid INTEGER NOT NULL DEFAULT 0, uid INTEGER NOT NULL DEFAULT 0,
  start_unix_ns INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL DEFAULT '',
  done_seq INTEGER NOT NULL DEFAULT 0, lost_in_daemon INTEGER NOT NULL DEFAULT 0, killed INTEGER NOT NULL DEFAULT 0,
  attempted INTEGER NOT NULL DEFAULT 0, saved_handled INTEGER NOT NULL DEFAULT 0,
  saved_lost_in_daemon INTEGER NOT NULL DEFAULT 0, saved_killed INTEGER NOT NULL DEFAULT 0, dropped_total INTEGER NOT NULL DEFAULT 0, drops TEXT NOT NULL DEFAULT '',
  steps_total INTEGER NOT NULL DEFAULT 0, steps_while_connected INTEGER NOT NULL DEFAULT 0,
  coverage REAL NOT NULL DEFAULT 0, incomplete_bundles INTEGER NOT NULL DEFAULT 0,
  probe_cost REAL NOT NULL DEFAULT 0, notes TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
CREATE TABLE roots (
  producer BLOB NOT NULL, position INTEGER NOT NULL, name TEXT NOT NULL, phase TEXT NOT NULL, step INTEGER NOT NULL,
  epoch INTEGER NOT NULL, samples_seen INTEGER NOT NULL, steps_due INTEGER NOT NULL, steps_observed INTEGER NOT NULL,
  PRIMARY KEY (producer, position)) WITHOUT ROWID;
)sql";

Status MakeTables(Database& db) {
  std::string sql = "BEGIN IMMEDIATE;";
  sql += kTables;
  sql += "PRAGMA application_id = " + std::to_string(kApplicationId) + ";";
  sql += "PRAGMA user_version = " + std::to_string(kSchemaVersion) + "; COMMIT;";
  return db.Execute(sql.c_str());
}

// Of the write-ahead log.
constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kLogBytesMin = uint64_t{1} << 20, kLogBytesMax = uint64_t{64} << 20;

// NORMAL: a power cut may lose the last commits, never the file; a killed daemon loses nothing.
Status SetUpConnection(Database& db, uint64_t bytes_max) {
  Result<std::string> mode = db.QueryText("PRAGMA journal_mode = WAL");
  if (!mode) return mode.error();
  if (*mode != "wal") {
    return Error{ErrorCode::kFailedPrecondition,
                 "this file system cannot hold a write-ahead log; pass --data-dir with a folder on a local disk"};
  }
  // The log is long, for speed, but a small part of what the whole store may take.
  const uint64_t log_bytes = bytes_max == 0 ? kLogBytesMax : std::clamp(bytes_max / 8, kLogBytesMin, kLogBytesMax);
  const std::string sql =
      "PRAGMA synchronous = NORMAL; PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY;"
      "PRAGMA wal_autocheckpoint = " +
      std::to_string(log_bytes / kPageBytes) + "; PRAGMA journal_size_limit = " + std::to_string(log_bytes) + ";";
  return db.Execute(sql.c_str());
}

}  // namespace

ValueClass ClassOf(double value) {
  if (std::isnan(value)) return ValueClass::kNan;
  if (std::isinf(value)) return value > 0 ? ValueClass::kPlusInfinity : ValueClass::kMinusInfinity;
  return ValueClass::kFinite;
}

double ValueOf(ValueClass value_class, double stored) {
  switch (value_class) {
    case ValueClass::kNan:
      return std::numeric_limits<double>::quiet_NaN();
    case ValueClass::kPlusInfinity:
      return std::numeric_limits<double>::infinity();
    case ValueClass::kMinusInfinity:
      return -std::numeric_limits<double>::infinity();
    case ValueClass::kFinite:
      break;
  }
  return stored;
}

void BindSample(Statement& statement, const Sample& sample) {
  statement.Bind(1, sample.series_id).Bind(2, sample.step).Bind(3, uint64_t{sample.epoch});
  statement.Bind(4, uint64_t{sample.flags}).Bind(5, sample.unix_ns).Bind(6, sample.samples_seen);
  const ValueClass value_class = ClassOf(sample.value);
  statement.Bind(7, static_cast<int64_t>(value_class));
  if (value_class == ValueClass::kFinite) {
    statement.Bind(8, sample.value);
  } else {
    statement.BindNull(8);
  }
}

Sample SampleOfRow(Statement& row) {
  Sample sample;
  sample.series_id = row.Unsigned(0);
  sample.step = row.Unsigned(1);
  sample.epoch = static_cast<uint32_t>(row.Int(2));
  sample.flags = static_cast<uint16_t>(row.Int(3));
  sample.unix_ns = row.Int(4);
  sample.samples_seen = row.Unsigned(5);
  sample.value = ValueOf(static_cast<ValueClass>(row.Int(6)), row.Double(7));
  return sample;
}

Status PrepareSchema(Database& db, uint64_t bytes_max) {
  if (db.read_only()) return Error{ErrorCode::kPermissionDenied, "the file is read-only"};
  // Incremental vacuum has to be chosen before the first table; with it thinning gives pages back to the disk.
  if (Status status = db.Execute("PRAGMA auto_vacuum = INCREMENTAL"); !status) return status;
  Result<int64_t> tables = db.QueryInt("SELECT count(*) FROM sqlite_master");
  if (!tables) return tables.error();
  Result<int64_t> application = db.QueryInt("PRAGMA application_id");
  if (!application) return application.error();
  if (*tables > 0 && *application != kApplicationId) {
    return Error{ErrorCode::kFailedPrecondition, "it is a database of another program"};
  }
  Result<int64_t> version = db.QueryInt("PRAGMA user_version");
  if (!version) return version.error();
  if (*tables > 0 && *version > kSchemaVersion) {
    return Error{ErrorCode::kFailedPrecondition,
                 "it was written by a newer version (schema " + std::to_string(*version) + ", this one knows " +
                     std::to_string(kSchemaVersion) + "); use that version or pass another --data-dir"};
  }
  if (Status status = SetUpConnection(db, bytes_max); !status) return status;
  return *tables == 0 ? MakeTables(db) : Status{};
}

}  // namespace ikkuna::sinks
