#include "daemon/sinks/store_reader.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "daemon/sinks/extremes.h"
#include "daemon/sinks/sample_filter.h"
#include "daemon/sinks/store_reader_rows.h"
#include "daemon/sinks/store_schema.h"

namespace ikkuna::sinks {
namespace {

constexpr char kSeriesColumns[] =
    "SELECT s.id, r.run_id, r.attempt, r.rank, s.tag, s.root, s.module, s.param, s.topic, s.module_type, s.unit, r.run "
    "FROM series s JOIN runs r ON r.id = s.run ";

Series SeriesOfRow(Statement& row) {
  Series series;
  series.id = row.Unsigned(0);
  series.key.run = {row.Text(1), static_cast<uint32_t>(row.Int(2)), static_cast<uint32_t>(row.Int(3))};
  series.key.tag = row.Text(4);
  series.key.root = row.Text(5);
  series.key.module = row.Text(6);
  series.key.param = row.Text(7);
  series.key.topic = row.Text(8);
  series.module_type = row.Text(9);
  series.unit = row.Text(10);
  return series;
}

std::vector<int64_t> SizesOf(const std::string& text) {
  std::vector<int64_t> sizes;
  for (const char *begin = text.data(), *end = begin + text.size(); begin < end; ++begin) {
    int64_t size = 0;
    begin = std::from_chars(begin, end, size).ptr;
    sizes.push_back(size);
  }
  return sizes;
}

}  // namespace

Result<std::unique_ptr<StoreReader::Lease>> StoreReader::Borrow() {
  std::unique_lock lock(mutex_);
  returned_.wait(lock, [this] { return closed_ || lent_ < kConnectionsMax; });
  if (closed_) return Error{ErrorCode::kUnavailable, "the run store is closed"};
  ++lent_;
  if (!idle_.empty()) {
    auto lease = std::make_unique<Lease>(*this, std::move(idle_.back()));
    idle_.pop_back();
    return lease;
  }
  lock.unlock();
  Result<Database> db = Database::Open(path_, Database::Mode::kReadOnly);
  if (!db) {
    Return(nullptr);
    return Error{db.error().code, "cannot read run store '" + path_ + "': " + db.error().text};
  }
  return std::make_unique<Lease>(*this, std::make_unique<Database>(*std::move(db)));
}

void StoreReader::Return(std::unique_ptr<Database> db) {
  {
    std::lock_guard lock(mutex_);
    --lent_;
    if (db) idle_.push_back(std::move(db));
  }
  returned_.notify_all();
}

void StoreReader::Close() {
  std::unique_lock lock(mutex_);
  closed_ = true;
  returned_.notify_all();
  returned_.wait(lock, [this] { return lent_ == 0; });
  idle_.clear();
}

Result<std::vector<RunInfo>> StoreReader::ListRuns() {
  auto lease = Borrow();
  if (!lease) return lease.error();
  Database& db = (*lease)->db();
  std::vector<RunInfo> runs;
  std::map<int64_t, size_t> places;
  std::map<int64_t, RunTotals> totals = index_.Totals();
  Status status = ForEachRow(
      db,
      "SELECT id, run_id, attempt, rank, run, state, start_unix_ns, last_unix_ns FROM runs "
      "ORDER BY start_unix_ns, id",
      [](Statement&) {},
      [&](Statement& row) {
        RunInfo info;
        info.key = {row.Text(1), static_cast<uint32_t>(row.Int(2)), static_cast<uint32_t>(row.Int(3))};
        info.run = row.Text(4);
        info.state = row.Text(5);
        info.start_unix_ns = row.Int(6);
        const RunTotals& total = totals[row.Int(0)];
        info.last_unix_ns = std::max(row.Int(7), total.last_unix_ns);
        info.last_step = total.last_step;
        info.series = total.series;
        info.samples = total.samples;
        places[row.Int(0)] = runs.size();
        runs.push_back(std::move(info));
      });
  if (!status) return status.error();
  status = ForEachRow(
      db, "SELECT run, name, value FROM facts ORDER BY run, position", [](Statement&) {},
      [&](Statement& row) {
        auto place = places.find(row.Int(0));
        if (place != places.end()) runs[place->second].facts.emplace_back(row.Text(1), row.Text(2));
      });
  if (!status) return status.error();
  return runs;
}

Result<std::vector<ModuleInfo>> StoreReader::ListModules(const RunKey& run) {
  auto lease = Borrow();
  if (!lease) return lease.error();
  Database& db = (*lease)->db();
  auto bind = [&run](Statement& statement) {
    statement.Bind(1, run.run_id).Bind(2, uint64_t{run.attempt}).Bind(3, uint64_t{run.rank});
  };
  constexpr std::string_view kOfRun =
      " WHERE run = (SELECT id FROM runs WHERE run_id = ?1 AND attempt = ?2 AND rank = ?3) ";
  std::vector<ModuleInfo> modules;
  Status status =
      ForEachRow(db, "SELECT root, name, type, functional FROM modules" + std::string(kOfRun) + "ORDER BY position",
                 bind, [&](Statement& row) {
                   ModuleInfo& module = modules.emplace_back();
                   module.root = row.Text(0);
                   module.name = row.Text(1);
                   module.type = row.Text(2);
                   module.functional = row.Int(3) != 0;
                 });
  if (!status) return status.error();
  status = ForEachRow(db,
                      "SELECT module, name, dtype, sizes, bias, trainable, buffer FROM params" + std::string(kOfRun) +
                          "ORDER BY module, position",
                      bind, [&](Statement& row) {
                        if (row.Unsigned(0) >= modules.size()) return;  // a file that someone else wrote in
                        modules[row.Unsigned(0)].params.push_back({.name = row.Text(1),
                                                                   .dtype = row.Text(2),
                                                                   .sizes = SizesOf(row.Text(3)),
                                                                   .bias = row.Int(4) != 0,
                                                                   .trainable = row.Int(5) != 0,
                                                                   .buffer = row.Int(6) != 0});
                      });
  if (!status) return status.error();
  return modules;
}

Result<std::vector<SeriesInfo>> StoreReader::ListSeries(const SeriesFilter& filter) {
  auto lease = Borrow();
  if (!lease) return lease.error();
  const SampleFilter matches(filter);
  std::vector<SeriesInfo> answer;
  Status status = ForEachRow((*lease)->db(), std::string(kSeriesColumns) + "ORDER BY s.id", [](Statement&) {},
                             [&](Statement& row) {
                               SeriesInfo info{.series = SeriesOfRow(row), .last = std::nullopt};
                               if (!matches.Matches(info.series.key, row.Text(11))) return;
                               std::optional<SeriesStats> stats = index_.Find(info.series.id);
                               if (!stats) return;  // deleted meanwhile
                               info.count = stats->count;
                               info.first_step = stats->first_step;
                               info.last_step = stats->last_step;
                               info.last = stats->last;
                               answer.push_back(std::move(info));
                             });
  if (!status) return status.error();
  return answer;
}

Result<Series> StoreReader::FindSeries(Database& db, uint64_t series_id) {
  std::optional<Series> found;
  Status status = ForEachRow(
      db, std::string(kSeriesColumns) + "WHERE s.id = ?1", [&](Statement& s) { s.Bind(1, series_id); },
      [&](Statement& row) { found = SeriesOfRow(row); });
  if (!status) return status.error();
  if (!found) return Error{ErrorCode::kNotFound, "no series has the id " + std::to_string(series_id)};
  return *std::move(found);
}

Result<ReadAnswer> StoreReader::Read(const ReadQuery& query) {
  auto lease = Borrow();
  if (!lease) return lease.error();
  Database& db = (*lease)->db();
  Result<Series> series = FindSeries(db, query.series_id);
  if (!series) return series.error();
  ReadAnswer answer{.series = *std::move(series), .samples = {}};
  const uint64_t from = query.step_min.value_or(0);
  const uint64_t to = query.step_max.value_or(std::numeric_limits<uint64_t>::max());
  auto bind = [&](Statement& statement) { statement.Bind(1, query.series_id).Bind(2, from).Bind(3, to); };
  uint64_t count = 0, first = 0, last = 0;
  if (query.max_points > 0) {
    Status status = ForEachRow(
        db, "SELECT count(*), min(step), max(step) FROM samples WHERE series = ?1 AND step BETWEEN ?2 AND ?3", bind,
        [&](Statement& row) {
          count = row.Unsigned(0);
          first = row.Unsigned(1);
          last = row.Unsigned(2);
        });
    if (!status) return status.error();
    answer.reduced = count > std::max<uint64_t>(query.max_points, 4);
  }
  std::optional<Extremes> extremes;
  if (answer.reduced) extremes.emplace(first, last, query.max_points);
  Status status = ForEachRow(db, "SELECT * FROM samples WHERE series = ?1 AND step BETWEEN ?2 AND ?3 ORDER BY step",
                             bind, [&](Statement& row) {
                               const Sample sample = SampleOfRow(row);
                               if (extremes) {
                                 extremes->Add(sample);
                               } else {
                                 answer.samples.push_back(sample);
                               }
                             });
  if (!status) return status.error();
  if (extremes) answer.samples = std::move(*extremes).Take();
  return answer;
}

Result<std::vector<TextSample>> StoreReader::ReadTexts(uint64_t series_id) {
  auto lease = Borrow();
  if (!lease) return lease.error();
  std::vector<TextSample> texts;
  Status status = ForEachRow((*lease)->db(), "SELECT step, unix_ns, text FROM texts WHERE series = ?1 ORDER BY step",
                             [&](Statement& statement) { statement.Bind(1, series_id); },
                             [&](Statement& row) {
                               texts.push_back({series_id, row.Unsigned(0), row.Int(1), row.Text(2)});
                             });
  if (!status) return status.error();
  return texts;
}

Result<std::vector<Event>> StoreReader::ListEvents(const EventQuery& query) {
  auto lease = Borrow();
  if (!lease) return lease.error();
  std::vector<Event> events;
  Status status = ForEachRow(
      (*lease)->db(),
      "SELECT id, run_id, attempt, rank, unix_ns, severity, kind, text, step FROM events e WHERE id > ?1 AND "
      "(?2 = '' OR run_id = ?2 OR EXISTS (SELECT 1 FROM runs r WHERE r.run = ?2 AND r.run_id = e.run_id)) "
      "ORDER BY id LIMIT ?3",
      [&](Statement& statement) {
        statement.Bind(1, query.after_id).Bind(2, query.run_id).Bind(3, uint64_t{query.limit});
      },
      [&](Statement& row) {
        Event& event = events.emplace_back();
        event.id = row.Unsigned(0);
        event.run = {row.Text(1), static_cast<uint32_t>(row.Int(2)), static_cast<uint32_t>(row.Int(3))};
        event.unix_ns = row.Int(4);
        event.severity = static_cast<Severity>(row.Int(5));
        event.kind = row.Text(6);
        event.text = row.Text(7);
        event.step = row.Unsigned(8);
      });
  if (!status) return status.error();
  return events;
}

}  // namespace ikkuna::sinks
