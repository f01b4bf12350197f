#include "daemon/sinks/store_upkeep.h"

#include <algorithm>
#include <utility>

#include "daemon/sinks/extremes.h"
#include "daemon/sinks/store_schema.h"

namespace ikkuna::sinks {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

// Thinning goes on to this share of the cap, so that it is not needed again at once.
constexpr uint64_t Target(uint64_t bytes_max) { return bytes_max / 10 * 9; }

std::string CapText(uint64_t bytes_max) { return std::to_string(bytes_max / kMiB) + " MB"; }

}  // namespace

void StoreUpkeep::DeleteRun(const RunKey& run, std::function<void(Status)> done) {
  Deletion& deletion = deletions_.emplace_back();
  deletion.run = run;
  deletion.done = std::move(done);
}

void StoreUpkeep::Abandon() {
  for (Deletion& deletion : deletions_) {
    deletion.done(Error{ErrorCode::kUnavailable, "the run store was closed before the run was deleted; try again"});
  }
  deletions_.clear();
}

Result<bool> StoreUpkeep::Slice() {
  if (!deletions_.empty()) {
    Deletion& deletion = deletions_.front();
    Status status = DeleteSlice(deletion);
    if (!status || (deletion.row != 0 && deletion.series.empty())) {
      if (status) status = FinishDeletion(deletion);
      deletion.done(status);
      deletions_.pop_front();
    }
    return true;
  }
  if (!thinning_pass_) {
    if (Status status = CheckCap(); !status) return status.error();
  }
  if (thinning_pass_) {
    if (Status status = ThinSlice(); !status) return status.error();
    return true;
  }
  return VacuumSlice();
}

Result<uint64_t> StoreUpkeep::UsedBytes() {
  Result<int64_t> used = db_.QueryInt(
      "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, "
      "pragma_page_size");
  if (!used) return used.error();
  return static_cast<uint64_t>(*used);
}

Status StoreUpkeep::CheckCap() {
  if (bytes_max_ == 0) return {};
  Result<uint64_t> used = UsedBytes();
  if (!used) return used.error();
  if (*used > bytes_max_) {
    BeginPass();
  } else if (refusing_) {
    refusing_ = false;
    on_event_(Severity::kInfo, "store_accepts",
              "run store is below its cap of " + CapText(bytes_max_) + " again: samples are kept");
  }
  return {};
}

void StoreUpkeep::BeginPass() {
  to_thin_ = index_.Longest(kThinFrom);
  if (to_thin_.empty()) {
    if (!std::exchange(refusing_, true)) {
      on_event_(Severity::kError, "store_full",
                "run store reached its cap of " + CapText(bytes_max_) +
                    " and holds no series long enough to thin: new samples are dropped; raise --store-max-mb");
    }
    return;
  }
  std::reverse(to_thin_.begin(), to_thin_.end());
  thinning_pass_ = true;
  pass_series_ = pass_removed_ = 0;
}

Status StoreUpkeep::ThinSlice() {
  if (!thinning_) {
    Result<uint64_t> used = UsedBytes();
    if (!used) return used.error();
    if (*used <= Target(bytes_max_) || to_thin_.empty()) {
      EndPass();
      return {};
    }
    const uint64_t series_id = to_thin_.back();
    to_thin_.pop_back();
    Result<bool> begun = BeginSeries(series_id);
    if (!begun) return begun.error();
    if (!*begun) return {};
  }
  return ThinRows();
}

Result<bool> StoreUpkeep::BeginSeries(uint64_t series_id) {
  std::optional<SeriesStats> stats = index_.Find(series_id);
  if (!stats || stats->count < kThinFrom) return false;
  Result<Statement> middle = db_.Prepare("SELECT step FROM samples WHERE series = ?1 ORDER BY step LIMIT 1 OFFSET ?2");
  if (!middle) return middle.error();
  middle->Bind(1, series_id).Bind(2, stats->count / 2);
  if (middle->Step() != SQLITE_ROW) return false;  // a series of texts
  thinning_ = Thinning{.series_id = series_id, .next_step = 0, .end_step = middle->Unsigned(0)};
  return true;
}

Status StoreUpkeep::ThinRows() {
  Thinning& thinning = *thinning_;
  std::vector<Sample> rows;
  {
    Result<Statement> select =
        db_.Prepare("SELECT * FROM samples WHERE series = ?1 AND step >= ?2 AND step < ?3 ORDER BY step LIMIT ?4");
    if (!select) return select.error();
    select->Bind(1, thinning.series_id).Bind(2, thinning.next_step).Bind(3, thinning.end_step).Bind(4, kRowsPerSlice);
    int code;
    while ((code = select->Step()) == SQLITE_ROW) rows.push_back(SampleOfRow(*select));
    if (code != SQLITE_DONE) return SqliteError("", db_.handle());
  }
  std::optional<SeriesStats> stats = index_.Find(thinning.series_id);
  if (rows.empty() || !stats) {
    pass_series_ += thinning.removed > 0;
    pass_removed_ += thinning.removed;
    thinning_.reset();
    return {};
  }
  const std::vector<Sample> kept = Halve(rows);
  // Deleting every other row would leave every page half empty; a range that is deleted and written again is dense.
  Status status = InTransaction([&]() -> Status {
    Result<Statement> remove = db_.Prepare("DELETE FROM samples WHERE series = ?1 AND step BETWEEN ?2 AND ?3");
    if (!remove) return remove.error();
    remove->Bind(1, thinning.series_id).Bind(2, rows.front().step).Bind(3, rows.back().step);
    if (remove->Run() != SQLITE_DONE) return SqliteError("", db_.handle());
    Result<Statement> insert = db_.Prepare("INSERT INTO samples VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)");
    if (!insert) return insert.error();
    for (const Sample& sample : kept) {
      BindSample(*insert, sample);
      if (insert->Run() != SQLITE_DONE) return SqliteError("", db_.handle());
    }
    return {};
  });
  if (!status) return status;
  stats->count -= rows.size() - kept.size();
  if (stats->first_step == rows.front().step) stats->first_step = kept.front().step;
  index_.Replace(thinning.series_id, *stats);
  thinning.removed += rows.size() - kept.size();
  thinning.next_step = rows.back().step + 1;
  return {};
}

void StoreUpkeep::EndPass() {
  thinning_pass_ = false;
  to_thin_.clear();
  if (pass_removed_ == 0) return;
  on_event_(Severity::kWarning, "store_thinned",
            "run store reached its cap of " + CapText(bytes_max_) + ": the older half of " +
                std::to_string(pass_series_) + " series was thinned, " + std::to_string(pass_removed_) +
                " samples removed, extremes kept; raise --store-max-mb to keep more");
}

Status StoreUpkeep::InTransaction(const std::function<Status()>& work) {
  Status status = db_.Execute("BEGIN IMMEDIATE");
  if (status) status = work();
  if (status) status = db_.Execute("COMMIT");
  if (!status && !sqlite3_get_autocommit(db_.handle())) (void)db_.Execute("ROLLBACK");
  return status;
}

Status StoreUpkeep::RunFor(const char* sql, uint64_t id) {
  Result<Statement> statement = db_.Prepare(sql);
  if (!statement) return statement.error();
  statement->Bind(1, id);
  if (statement->Run() != SQLITE_DONE) return SqliteError("", db_.handle());
  return {};
}

Status StoreUpkeep::DeleteSlice(Deletion& deletion) {
  const RunKey& key = deletion.run;
  if (deletion.row == 0) {
    Result<Statement> find = db_.Prepare("SELECT id, state FROM runs WHERE run_id = ?1 AND attempt = ?2 AND rank = ?3");
    if (!find) return find.error();
    find->Bind(1, key.run_id).Bind(2, uint64_t{key.attempt}).Bind(3, uint64_t{key.rank});
    if (find->Step() != SQLITE_ROW) return Error{ErrorCode::kNotFound, "no run '" + key.run_id + "' in the store"};
    if (find->Text(1) == "running") {
      return Error{ErrorCode::kFailedPrecondition, "run '" + key.run_id + "' is still running; stop it first"};
    }
    deletion.row = find->Int(0);
    deletion.series = index_.SeriesOfRun(deletion.row);
    return {};
  }
  const uint64_t series_id = deletion.series.back();
  Result<Statement> last = db_.Prepare("SELECT step FROM samples WHERE series = ?1 ORDER BY step LIMIT 1 OFFSET ?2");
  if (!last) return last.error();
  last->Bind(1, series_id).Bind(2, kRowsPerSlice);
  if (last->Step() == SQLITE_ROW) {
    const uint64_t step = last->Unsigned(0);
    last->Reset();
    Result<Statement> remove = db_.Prepare("DELETE FROM samples WHERE series = ?1 AND step < ?2");
    if (!remove) return remove.error();
    remove->Bind(1, series_id).Bind(2, step);
    if (remove->Run() != SQLITE_DONE) return SqliteError("", db_.handle());
    return {};
  }
  last->Reset();
  if (Status status = RunFor("DELETE FROM samples WHERE series = ?1", series_id); !status) return status;
  if (Status status = RunFor("DELETE FROM texts WHERE series = ?1", series_id); !status) return status;
  deletion.series.pop_back();
  return {};
}

Status StoreUpkeep::FinishDeletion(const Deletion& deletion) {
  const auto row = static_cast<uint64_t>(deletion.row);
  Status status = InTransaction([&]() -> Status {
    for (const char* sql :
         {"DELETE FROM events WHERE (run_id, attempt, rank) = (SELECT run_id, attempt, rank FROM runs WHERE id = ?1)",
          "DELETE FROM series WHERE run = ?1", "DELETE FROM params WHERE run = ?1",
          "DELETE FROM modules WHERE run = ?1", "DELETE FROM facts WHERE run = ?1",
          "DELETE FROM roots WHERE producer IN (SELECT uuid FROM producers WHERE run = ?1)",
          "DELETE FROM producers WHERE run = ?1", "DELETE FROM runs WHERE id = ?1"}) {
      if (Status done = RunFor(sql, row); !done) return done;
    }
    return {};
  });
  if (!status) return status;
  index_.EraseRun(deletion.row);
  run_deleted_ = true;
  return {};
}

Result<bool> StoreUpkeep::VacuumSlice() {
  Result<int64_t> free_pages = db_.QueryInt("PRAGMA freelist_count");
  if (!free_pages) return free_pages.error();
  Result<int64_t> pages = db_.QueryInt("PRAGMA page_count");
  if (!pages) return pages.error();
  // Some are left for what is written next.
  const int64_t spare = std::max<int64_t>(kVacuumPagesPerSlice, *pages / 20);
  if (*free_pages <= spare) return false;
  const int64_t count = std::min(*free_pages - spare, kVacuumPagesPerSlice);
  if (Status status = db_.Execute(("PRAGMA incremental_vacuum(" + std::to_string(count) + ")").c_str()); !status) {
    return status.error();
  }
  return true;
}

}  // namespace ikkuna::sinks
