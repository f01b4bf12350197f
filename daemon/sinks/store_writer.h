// StoreWriter: puts one chunk into the database in one transaction.
//
// Owner and thread rule: the store's writer thread alone. A Write that fails leaves the database and this object as
// they were before, so the same chunk can be tried again.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/series_catalogue.h"
#include "daemon/sinks/sqlite.h"
#include "daemon/sinks/store_index.h"
#include "daemon/sinks/store_queue.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

struct WriteOutcome {
  std::vector<SeriesGain> gains;
  std::vector<Progress> progress;  // as it stands in the store now
  uint64_t dropped = 0;            // rows without a known series, or with a step beyond int64
};

class StoreWriter {
 public:
  static Result<std::unique_ptr<StoreWriter>> Make(Database& db, const SeriesCatalogue& catalogue,
                                                   const StoreIndex& index);

  // Sorts the chunk's samples. With `refuse_samples` its samples and texts count as dropped, the rest is written.
  Result<WriteOutcome> Write(StoreChunk& chunk, bool refuse_samples);
  // The run has been deleted behind the writer's back.
  void Forget() { runs_.clear(); }

 private:
  StoreWriter(Database& db, const SeriesCatalogue& catalogue, const StoreIndex& index)
      : db_(db), catalogue_(catalogue), index_(index) {}

  Status PrepareStatements();
  Status WriteAll(StoreChunk& chunk, bool refuse_samples, WriteOutcome& outcome);
  Status WriteSamples(std::vector<Sample>& samples, WriteOutcome& outcome);
  Status WriteTexts(const std::vector<TextSample>& texts, WriteOutcome& outcome);
  Status WriteEvents(const std::vector<Event>& events);
  Status WriteProgress(const Progress& progress, WriteOutcome& outcome);
  Status WriteRun(const RunUpsert& upsert);
  Status WriteProducer(const ProducerStatus& status);
  Status WriteRoots(const ProducerStatus& status);
  Status WriteModules(const RunModules& modules);

  Status PutSample(const Sample& sample, SeriesStats& stats);
  // The series' row, made when it is new; run 0: nobody knows this series.
  Result<int64_t> EnsureSeries(uint64_t series_id);
  Result<int64_t> EnsureRun(const RunKey& key);
  Status Run(Statement& statement);
  Error LastError() const { return SqliteError("", db_.handle()); }

  // Constant after construction.
  Database& db_;
  const SeriesCatalogue& catalogue_;
  const StoreIndex& index_;

  std::map<RunKey, int64_t> runs_;              // rows known to exist
  std::map<uint64_t, int64_t> series_in_work_;  // rows made in this transaction
  Statement insert_sample_, update_sample_, insert_text_, find_text_, insert_event_, trim_events_, insert_series_;
  Statement find_run_, insert_run_, upsert_run_, delete_facts_, insert_fact_;
  Statement upsert_producer_, save_producer_, delete_roots_, insert_root_, save_run_state_, upsert_progress_,
      find_progress_;
  Statement delete_modules_, delete_params_, insert_module_, insert_param_;
};

// "ring_full=3,arena_full=1" and back.
std::string DropsText(const std::vector<DropCount>& drops);
std::vector<DropCount> DropsOf(const std::string& text);

}  // namespace ikkuna::sinks
