#include "daemon/sinks/store_writer.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "daemon/sinks/store.h"
#include "daemon/sinks/store_schema.h"

namespace ikkuna::sinks {
namespace {

constexpr uint64_t kStepMax = std::numeric_limits<int64_t>::max();  // SQLite has no unsigned integers

bool Before(const Sample& a, const Sample& b) {
  return a.series_id != b.series_id ? a.series_id < b.series_id : a.step < b.step;
}

}  // namespace

Result<std::unique_ptr<StoreWriter>> StoreWriter::Make(Database& db, const SeriesCatalogue& catalogue,
                                                       const StoreIndex& index) {
  std::unique_ptr<StoreWriter> writer(new StoreWriter(db, catalogue, index));
  if (Status status = writer->PrepareStatements(); !status) return status.error();
  return writer;
}

Status StoreWriter::PrepareStatements() {
  const std::pair<Statement*, const char*> list[] = {
      {&insert_sample_, "INSERT INTO samples VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"},
      {&update_sample_,
       "UPDATE samples SET epoch = ?3, flags = ?4, unix_ns = ?5, samples_seen = ?6, class = ?7, value = ?8 "
       "WHERE series = ?1 AND step = ?2"},
      {&insert_text_, "INSERT OR REPLACE INTO texts VALUES (?1, ?2, ?3, ?4)"},
      {&find_text_, "SELECT 1 FROM texts WHERE series = ?1 AND step = ?2"},
      {&insert_event_, "INSERT INTO events VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"},
      {&trim_events_, "DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?1"},
      {&insert_series_,
       "INSERT INTO series (id, run, tag, root, module, param, topic, module_type, unit) "
       "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"},
      {&find_run_, "SELECT id FROM runs WHERE run_id = ?1 AND attempt = ?2 AND rank = ?3"},
      {&insert_run_, "INSERT INTO runs (run_id, attempt, rank) VALUES (?1, ?2, ?3)"},
      {&upsert_run_,
       "UPDATE runs SET run = ?2, world_size = ?3, state = ?4, "
       "start_unix_ns = CASE start_unix_ns WHEN 0 THEN ?5 ELSE start_unix_ns END WHERE id = ?1"},
      {&delete_facts_, "DELETE FROM facts WHERE run = ?1"},
      {&insert_fact_, "INSERT INTO facts VALUES (?1, ?2, ?3, ?4)"},
      {&upsert_producer_,
       "INSERT INTO producers (uuid, run, pid, uid, start_unix_ns, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6) "
       "ON CONFLICT (uuid) DO UPDATE SET run = ?2, pid = ?3, uid = ?4, start_unix_ns = ?5, state = ?6"},
      {&save_producer_,
       "UPDATE producers SET state = ?2, attempted = ?3, saved_handled = ?4, saved_lost_in_daemon = ?5, "
       "saved_killed = ?6, dropped_total = ?7, drops = ?8, steps_total = ?9, steps_while_connected = ?10, "
       "coverage = ?11, incomplete_bundles = ?12, probe_cost = ?13, notes = ?14 WHERE uuid = ?1"},
      {&delete_roots_, "DELETE FROM roots WHERE producer = ?1"},
      {&insert_root_, "INSERT INTO roots VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"},
      {&save_run_state_, "UPDATE runs SET state = ?2, last_unix_ns = max(last_unix_ns, ?3) WHERE id = ?1"},
      {&upsert_progress_,
       "INSERT INTO producers (uuid, done_seq, lost_in_daemon, killed) VALUES (?1, ?2, ?3, ?4) "
       "ON CONFLICT (uuid) DO UPDATE SET done_seq = max(done_seq, ?2), lost_in_daemon = max(lost_in_daemon, ?3), "
       "killed = max(killed, ?4)"},
      {&find_progress_, "SELECT done_seq, lost_in_daemon, killed FROM producers WHERE uuid = ?1"},
      {&delete_modules_, "DELETE FROM modules WHERE run = ?1"},
      {&delete_params_, "DELETE FROM params WHERE run = ?1"},
      {&insert_module_, "INSERT INTO modules VALUES (?1, ?2, ?3, ?4, ?5, ?6)"},
      {&insert_param_, "INSERT INTO params VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"},
  };
  for (const auto& [statement, sql] : list) {
    Result<Statement> prepared = db_.Prepare(sql);
    if (!prepared) return prepared.error();
    *statement = *std::move(prepared);
  }
  return {};
}

Status StoreWriter::Run(Statement& statement) {
  if (statement.Run() != SQLITE_DONE) return LastError();
  return {};
}

Result<WriteOutcome> StoreWriter::Write(StoreChunk& chunk, bool refuse_samples) {
  WriteOutcome outcome;
  series_in_work_.clear();
  Status status = db_.Execute("BEGIN IMMEDIATE");
  if (status) status = WriteAll(chunk, refuse_samples, outcome);
  if (status) status = db_.Execute("COMMIT");
  if (!status) {
    // Some errors have rolled back already; a second time is an error of no interest.
    if (!sqlite3_get_autocommit(db_.handle())) (void)db_.Execute("ROLLBACK");
    runs_.clear();
    return status.error();
  }
  return outcome;
}

Status StoreWriter::WriteAll(StoreChunk& chunk, bool refuse_samples, WriteOutcome& outcome) {
  for (const RunWrite& write : chunk.run_writes) {
    Status status;
    if (const auto* upsert = std::get_if<RunUpsert>(&write)) {
      status = WriteRun(*upsert);
    } else if (const auto* producer = std::get_if<ProducerStatus>(&write)) {
      status = WriteProducer(*producer);
    } else {
      status = WriteModules(std::get<RunModules>(write));
    }
    if (!status) return status;
  }
  if (refuse_samples) {
    outcome.dropped += chunk.rows();
  } else {
    if (Status status = WriteSamples(chunk.samples, outcome); !status) return status;
    if (Status status = WriteTexts(chunk.texts, outcome); !status) return status;
  }
  if (Status status = WriteEvents(chunk.events); !status) return status;
  for (const auto& [producer, progress] : chunk.progress) {
    if (Status status = WriteProgress(progress, outcome); !status) return status;
  }
  return {};
}

Status StoreWriter::WriteSamples(std::vector<Sample>& samples, WriteOutcome& outcome) {
  // In the order of the table each page is touched once; stable, so that the later of two equal steps comes last.
  if (!std::is_sorted(samples.begin(), samples.end(), Before)) {
    std::stable_sort(samples.begin(), samples.end(), Before);
  }
  for (size_t begin = 0; begin < samples.size();) {
    const uint64_t series_id = samples[begin].series_id;
    size_t end = begin;
    while (end < samples.size() && samples[end].series_id == series_id) ++end;
    Result<int64_t> run = EnsureSeries(series_id);
    if (!run) return run.error();
    SeriesGain gain;
    gain.series_id = series_id;
    gain.stats.run = *run;
    for (; begin < end; ++begin) {
      if (*run == 0 || samples[begin].step > kStepMax) {
        ++outcome.dropped;
      } else if (Status status = PutSample(samples[begin], gain.stats); !status) {
        return status;
      }
    }
    if (gain.stats.last) outcome.gains.push_back(std::move(gain));
  }
  return {};
}

Status StoreWriter::PutSample(const Sample& sample, SeriesStats& stats) {
  BindSample(insert_sample_, sample);
  int code = insert_sample_.Run();
  if (code == SQLITE_DONE) {
    ++stats.count;
  } else if ((code & 0xff) == SQLITE_CONSTRAINT) {
    BindSample(update_sample_, sample);
    code = update_sample_.Run();
  }
  if (code != SQLITE_DONE) return LastError();
  if (!stats.last) stats.first_step = sample.step;
  stats.last_step = sample.step;
  stats.last = sample;
  return {};
}

Status StoreWriter::WriteTexts(const std::vector<TextSample>& texts, WriteOutcome& outcome) {
  for (const TextSample& text : texts) {
    Result<int64_t> run = EnsureSeries(text.series_id);
    if (!run) return run.error();
    if (*run == 0 || text.step > kStepMax) {
      ++outcome.dropped;
      continue;
    }
    find_text_.Bind(1, text.series_id).Bind(2, text.step);
    const bool known = find_text_.Step() == SQLITE_ROW;
    find_text_.Reset();
    insert_text_.Bind(1, text.series_id).Bind(2, text.step).Bind(3, text.unix_ns).Bind(4, text.text);
    if (Status status = Run(insert_text_); !status) return status;
    SeriesGain gain;
    gain.series_id = text.series_id;
    gain.stats.run = *run;
    gain.stats.count = known ? 0 : 1;
    gain.stats.first_step = gain.stats.last_step = text.step;
    outcome.gains.push_back(std::move(gain));
  }
  return {};
}

Status StoreWriter::WriteEvents(const std::vector<Event>& events) {
  for (const Event& event : events) {
    insert_event_.Bind(1, event.run.run_id).Bind(2, uint64_t{event.run.attempt}).Bind(3, uint64_t{event.run.rank});
    insert_event_.Bind(4, event.unix_ns).Bind(5, static_cast<int64_t>(event.severity)).Bind(6, event.kind);
    insert_event_.Bind(7, event.text).Bind(8, event.step);
    if (Status status = Run(insert_event_); !status) return status;
  }
  if (events.empty()) return {};
  trim_events_.Bind(1, uint64_t{Store::kEventsKeptMax});
  return Run(trim_events_);
}

Status StoreWriter::WriteProgress(const Progress& progress, WriteOutcome& outcome) {
  upsert_progress_.BindBlob(1, progress.producer.data(), progress.producer.size());
  upsert_progress_.Bind(2, progress.done_seq).Bind(3, progress.lost_in_daemon).Bind(4, progress.killed);
  if (Status status = Run(upsert_progress_); !status) return status;
  find_progress_.BindBlob(1, progress.producer.data(), progress.producer.size());
  if (find_progress_.Step() != SQLITE_ROW) return LastError();
  outcome.progress.push_back({.producer = progress.producer,
                              .done_seq = find_progress_.Unsigned(0),
                              .lost_in_daemon = find_progress_.Unsigned(1),
                              .killed = find_progress_.Unsigned(2)});
  find_progress_.Reset();
  return {};
}

Result<int64_t> StoreWriter::EnsureSeries(uint64_t series_id) {
  if (auto stats = index_.Find(series_id)) return stats->run;
  if (auto made = series_in_work_.find(series_id); made != series_in_work_.end()) return made->second;
  std::optional<Series> series = catalogue_.Find(series_id);
  if (!series || series_id == 0 || series_id > kStepMax) return int64_t{0};
  Result<int64_t> run = EnsureRun(series->key.run);
  if (!run) return run;
  insert_series_.Bind(1, series_id).Bind(2, *run).Bind(3, series->key.tag).Bind(4, series->key.root);
  insert_series_.Bind(5, series->key.module).Bind(6, series->key.param).Bind(7, series->key.topic);
  insert_series_.Bind(8, series->module_type).Bind(9, series->unit);
  if (Status status = Run(insert_series_); !status) return status.error();
  series_in_work_[series_id] = *run;
  return *run;
}

}  // namespace ikkuna::sinks
