// StoreReader: the store's queries, on read connections of their own.
//
// Owner: the store. Thread rule: every method from any thread; up to kConnectionsMax run at once, others wait. A query
// sees one commit from its beginning to its end; it never holds up the writer.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/monitor.h"
#include "daemon/sinks/sqlite.h"
#include "daemon/sinks/store_index.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

class StoreReader {
 public:
  static constexpr size_t kConnectionsMax = 4;  // each has a page cache of its own

  StoreReader(std::string path, const StoreIndex& index) : path_(std::move(path)), index_(index) {}

  Result<std::vector<RunInfo>> ListRuns();
  Result<std::vector<ModuleInfo>> ListModules(const RunKey& run);
  Result<std::vector<SeriesInfo>> ListSeries(const SeriesFilter& filter);
  Result<ReadAnswer> Read(const ReadQuery& query);
  Result<std::vector<TextSample>> ReadTexts(uint64_t series_id);
  Result<std::vector<Event>> ListEvents(const EventQuery& query);
  Result<std::vector<ProducerStatus>> ListProducers();

  // Waits for queries that run; later ones are refused.
  void Close();

 private:
  // One connection, lent for one query.
  class Lease;
  Result<std::unique_ptr<Lease>> Borrow();
  void Return(std::unique_ptr<Database> db);
  Result<Series> FindSeries(Database& db, uint64_t series_id);

  // Constant after construction.
  const std::string path_;
  const StoreIndex& index_;

  std::mutex mutex_;
  std::condition_variable returned_;
  // Guarded by mutex_.
  std::vector<std::unique_ptr<Database>> idle_;
  size_t lent_ = 0;
  bool closed_ = false;
};

}  // namespace ikkuna::sinks
