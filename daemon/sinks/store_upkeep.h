// StoreUpkeep: keeps the store below its cap by thinning, deletes runs, gives free pages back to the disk.
//
// Owner and thread rule: the store's writer thread alone, between two chunks. Work is cut into slices of at most
// kRowsPerSlice rows, a transaction each, so that samples that arrive meanwhile do not wait long.
//
// Thinning takes the longest series first and replaces the older half of its samples by half as many: the extremes of
// each four in a row. Where the longest series are too short to be thinned, new samples are refused and counted.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/sample.h"
#include "daemon/sinks/sqlite.h"
#include "daemon/sinks/store_index.h"
#include "shared/base/result.h"

namespace ikkuna::sinks {

class StoreUpkeep {
 public:
  static constexpr int64_t kRowsPerSlice = 50'000;  // a quarter of a second
  static constexpr uint64_t kThinFrom = 256;        // a series shorter than this is left alone
  static constexpr int64_t kVacuumPagesPerSlice = 1'000;

  // `bytes_max` 0: no cap. `on_event` receives what happened, for people.
  StoreUpkeep(Database& db, StoreIndex& index, uint64_t bytes_max,
              std::function<void(Severity, std::string kind, std::string text)> on_event)
      : db_(db), index_(index), bytes_max_(bytes_max), on_event_(std::move(on_event)) {}

  // Starts the deletion of a run; `done` is called when it is over.
  void DeleteRun(const RunKey& run, std::function<void(Status)> done);
  // Does one slice of what there is to do. False: nothing to do now.
  Result<bool> Slice();
  // Ends deletions that are not done, with an error.
  void Abandon();

  // The cap is reached and nothing is left to thin.
  bool refuse_samples() const { return refusing_; }
  // Tables whose rows of a run are gone, since the last call: the writer must forget the run.
  bool TakeRunDeleted() { return std::exchange(run_deleted_, false); }

 private:
  struct Deletion {
    RunKey run;
    std::function<void(Status)> done;
    int64_t row = 0;  // 0: not begun
    std::vector<uint64_t> series;
  };
  // One series on its way through thinning.
  struct Thinning {
    uint64_t series_id = 0;
    uint64_t next_step = 0;
    uint64_t end_step = 0;
    uint64_t removed = 0;
  };

  Result<uint64_t> UsedBytes();
  Status CheckCap();
  void BeginPass();
  Status ThinSlice();
  Result<bool> BeginSeries(uint64_t series_id);
  Status ThinRows();
  void EndPass();
  Status DeleteSlice(Deletion& deletion);
  Status FinishDeletion(const Deletion& deletion);
  Result<bool> VacuumSlice();
  // `work` in a transaction.
  Status InTransaction(const std::function<Status()>& work);
  Status RunFor(const char* sql, uint64_t id);

  // Constant after construction.
  Database& db_;
  StoreIndex& index_;
  const uint64_t bytes_max_;
  const std::function<void(Severity, std::string, std::string)> on_event_;

  std::deque<Deletion> deletions_;
  bool run_deleted_ = false;
  bool refusing_ = false;
  bool thinning_pass_ = false;
  std::vector<uint64_t> to_thin_;  // the next one last
  std::optional<Thinning> thinning_;
  uint64_t pass_series_ = 0;
  uint64_t pass_removed_ = 0;
};

}  // namespace ikkuna::sinks
