#include "daemon/sinks/store_open.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include "daemon/sinks/store_schema.h"

namespace ikkuna::sinks {
namespace {

// The reason alone; the caller names the store and says what to do.
Error OpenError(int errno_value) {
  Error error = PosixError("", errno_value);
  error.text = std::strerror(errno_value);
  error.text[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(error.text[0])));
  return error;
}

std::string HolderText(int fd) {
  char text[32] = {};
  ssize_t size = pread(fd, text, sizeof(text) - 1, 0);
  std::string pid(text, size > 0 ? static_cast<size_t>(size) : 0);
  pid.erase(std::find_if(pid.begin(), pid.end(), [](char c) { return c < '0' || c > '9'; }), pid.end());
  return pid.empty() ? "" : " (pid " + pid + ")";
}

Status CountRows(Database& db, const char* sql, std::unordered_map<uint64_t, uint64_t>& counts) {
  Result<Statement> statement = db.Prepare(sql);
  if (!statement) return statement.error();
  int code;
  while ((code = statement->Step()) == SQLITE_ROW) counts[statement->Unsigned(0)] += statement->Unsigned(1);
  if (code != SQLITE_DONE) return SqliteError("", db.handle());
  return {};
}

// The numbers of one series, by two seeks.
class StatsFinder {
 public:
  static Result<StatsFinder> Make(Database& db) {
    StatsFinder finder;
    const std::pair<Statement*, const char*> list[] = {
        {&finder.first_, "SELECT step FROM samples WHERE series = ?1 ORDER BY step LIMIT 1"},
        {&finder.last_, "SELECT * FROM samples WHERE series = ?1 ORDER BY step DESC LIMIT 1"},
        {&finder.text_, "SELECT min(step), max(step) FROM texts WHERE series = ?1"},
    };
    for (const auto& [statement, sql] : list) {
      Result<Statement> prepared = db.Prepare(sql);
      if (!prepared) return prepared.error();
      *statement = *std::move(prepared);
    }
    return finder;
  }

  SeriesStats Find(uint64_t series_id) {
    SeriesStats stats;
    first_.Bind(1, series_id);
    if (first_.Step() == SQLITE_ROW) stats.first_step = first_.Unsigned(0);
    first_.Reset();
    last_.Bind(1, series_id);
    if (last_.Step() == SQLITE_ROW) stats.last = SampleOfRow(last_);
    last_.Reset();
    if (stats.last) {
      stats.last_step = stats.last->step;
      return stats;
    }
    text_.Bind(1, series_id);
    if (text_.Step() == SQLITE_ROW && !text_.IsNull(0)) {
      stats.first_step = text_.Unsigned(0);
      stats.last_step = text_.Unsigned(1);
    }
    text_.Reset();
    return stats;
  }

 private:
  Statement first_, last_, text_;
};

Status LoadSeries(Database& db, SeriesCatalogue& catalogue, StoreIndex& index) {
  Result<int64_t> valid = db.QueryInt("SELECT value FROM meta WHERE name = 'counts_valid'");
  if (!valid) return valid.error();
  std::unordered_map<uint64_t, uint64_t> counts;
  if (*valid == 0) {
    Status counted = CountRows(db,
                               "SELECT series, count(*) FROM samples GROUP BY series "
                               "UNION ALL SELECT series, count(*) FROM texts GROUP BY series",
                               counts);
    if (!counted) return counted;
  }
  Result<StatsFinder> finder = StatsFinder::Make(db);
  if (!finder) return finder.error();
  Result<Statement> rows = db.Prepare(
      "SELECT s.id, r.run_id, r.attempt, r.rank, s.tag, s.root, s.module, s.param, s.topic, s.module_type, s.unit, "
      "s.run, s.count FROM series s JOIN runs r ON r.id = s.run ORDER BY s.id");
  if (!rows) return rows.error();
  std::vector<Series> series;
  int code;
  while ((code = rows->Step()) == SQLITE_ROW) {
    SeriesGain gain;
    gain.series_id = rows->Unsigned(0);
    gain.stats = finder->Find(gain.series_id);
    gain.stats.run = rows->Int(11);
    gain.stats.count = *valid != 0 ? rows->Unsigned(12) : counts[gain.series_id];
    index.Add(gain);
    RunKey run{rows->Text(1), static_cast<uint32_t>(rows->Int(2)), static_cast<uint32_t>(rows->Int(3))};
    SeriesKey key{std::move(run), rows->Text(4), rows->Text(5), rows->Text(6), rows->Text(7), rows->Text(8)};
    series.push_back({gain.series_id, std::move(key), rows->Text(9), rows->Text(10)});
  }
  if (code != SQLITE_DONE) return SqliteError("", db.handle());
  catalogue.Load(std::move(series));
  return {};
}

Status LoadProgress(Database& db, StoreIndex& index) {
  Result<Statement> rows = db.Prepare("SELECT uuid, done_seq, lost_in_daemon, killed FROM producers");
  if (!rows) return rows.error();
  int code;
  while ((code = rows->Step()) == SQLITE_ROW) {
    Progress progress;
    const std::string uuid = rows->Text(0);
    std::memcpy(progress.producer.data(), uuid.data(), std::min(uuid.size(), progress.producer.size()));
    progress.done_seq = rows->Unsigned(1);
    progress.lost_in_daemon = rows->Unsigned(2);
    progress.killed = rows->Unsigned(3);
    index.PutProgress(progress);
  }
  if (code != SQLITE_DONE) return SqliteError("", db.handle());
  return {};
}

}  // namespace

Result<UniqueFd> LockDataDirectory(const std::string& data_dir) {
  std::error_code code;
  std::filesystem::create_directories(data_dir, code);
  if (code) return OpenError(code.value());
  const std::string path = data_dir + "/ikkuna.lock";
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (!fd) return OpenError(errno);
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return OpenError(errno);
    return Error{ErrorCode::kAlreadyExists, "another ikkuna-daemon" + HolderText(fd.get()) +
                                                " has it open; stop that one or pass another --data-dir"};
  }
  // For the text above alone: that it fails on a full disk must not keep the store from being read.
  const std::string pid = std::to_string(getpid()) + "\n";
  if (ftruncate(fd.get(), 0) == 0 && pwrite(fd.get(), pid.data(), pid.size(), 0) < 0) errno = 0;
  return fd;
}

Status LoadStore(Database& db, SeriesCatalogue& catalogue, StoreIndex& index) {
  if (Status status = LoadSeries(db, catalogue, index); !status) return status;
  if (Status status = LoadProgress(db, index); !status) return status;
  return db.Execute(
      "BEGIN IMMEDIATE; UPDATE meta SET value = 0 WHERE name = 'counts_valid';"
      "UPDATE runs SET state = 'disconnected' WHERE state = 'running';"
      "UPDATE producers SET state = 'disconnected' WHERE state = 'running'; COMMIT");
}

Status SaveCounts(Database& db, const StoreIndex& index) {
  Status status = db.Execute("BEGIN IMMEDIATE");
  if (!status) return status;
  Result<Statement> update = db.Prepare("UPDATE series SET count = ?2 WHERE id = ?1");
  if (!update) return update.error();
  for (uint64_t series_id : index.Longest(0)) {
    update->Bind(1, series_id).Bind(2, index.Find(series_id)->count);
    if (update->Run() != SQLITE_DONE) return SqliteError("", db.handle());
  }
  return db.Execute("UPDATE meta SET value = 1 WHERE name = 'counts_valid'; COMMIT");
}

}  // namespace ikkuna::sinks
