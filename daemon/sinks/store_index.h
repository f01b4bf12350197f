// StoreIndex: what the store holds, in numbers, kept in memory so that listings need no scan.
//
// Owner: the store. Thread rule: all methods from any thread (one mutex); only the writer's thread changes it, always
// after the commit that made it true.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "daemon/sample.h"
#include "daemon/sinks/store.h"

namespace ikkuna::sinks {

struct SeriesStats {
  int64_t run = 0;  // runs.id
  uint64_t count = 0;
  uint64_t first_step = 0;
  uint64_t last_step = 0;
  std::optional<Sample> last;  // none for a series of texts
};

// What one commit added to a series. `stats.count` counts new steps, not replaced ones.
struct SeriesGain {
  uint64_t series_id = 0;
  SeriesStats stats;
};

struct RunTotals {
  uint64_t series = 0;
  uint64_t samples = 0;
  uint64_t last_step = 0;
  int64_t last_unix_ns = 0;
};

class StoreIndex {
 public:
  void Add(const SeriesGain& gain);
  void Add(const std::vector<SeriesGain>& gains);
  // After thinning: the series now holds this.
  void Replace(uint64_t series_id, const SeriesStats& stats);
  void EraseRun(int64_t run);
  void PutProgress(const Progress& progress);

  bool Contains(uint64_t series_id) const;
  std::optional<SeriesStats> Find(uint64_t series_id) const;
  // Series of at least `count_min` samples, the longest first.
  std::vector<uint64_t> Longest(uint64_t count_min) const;
  std::vector<uint64_t> SeriesOfRun(int64_t run) const;
  std::map<int64_t, RunTotals> Totals() const;
  std::optional<Progress> FindProgress(const Uuid& producer) const;

 private:
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::unordered_map<uint64_t, SeriesStats> series_;
  std::map<Uuid, Progress> progress_;
};

}  // namespace ikkuna::sinks
