// SeriesCatalogue: every series this daemon knows, with ids that stay the same over restarts.
//
// Owner: the daemon's main. Thread rule: all methods from any thread (one mutex; callers keep the returned ids).
// Loaded from the store at start; the store persists new series before the first sample that names them (it asks for
// series above the highest id that it has written).
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "daemon/sample.h"
#include "shared/base/result.h"

namespace ikkuna {

class SeriesCatalogue {
 public:
  // A named maximum: 1,000,000 series is 10,000 parameters under 100 metrics; beyond it new ones are refused and counted.
  static constexpr size_t kMaxSeries = 1'000'000;

  // Puts back what the store held. Call before anything else.
  void Load(std::vector<Series> series);

  // The id of the key, created when new. 0: full, counted in refused().
  uint64_t Intern(const SeriesKey& key, const std::string& module_type, const std::string& unit);

  std::optional<Series> Find(uint64_t id) const;
  std::optional<uint64_t> FindId(const SeriesKey& key) const;
  // Series with id > after, in id order.
  std::vector<Series> Since(uint64_t after) const;
  size_t size() const;
  uint64_t refused() const;

 private:
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::deque<Series> series_;  // sorted by id; ids may have gaps after deletions
  std::map<SeriesKey, uint64_t> ids_;
  uint64_t next_id_ = 1;
  uint64_t refused_ = 0;
};

}  // namespace ikkuna
