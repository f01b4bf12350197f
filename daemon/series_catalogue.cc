#include "daemon/series_catalogue.h"

#include <algorithm>

namespace ikkuna {

void SeriesCatalogue::Load(std::vector<Series> series) {
  std::sort(series.begin(), series.end(), [](const Series& a, const Series& b) { return a.id < b.id; });
  std::lock_guard lock(mutex_);
  for (Series& one : series) {
    if (one.id < next_id_ || !ids_.emplace(one.key, one.id).second) continue;  // 0, or there already
    next_id_ = one.id + 1;
    series_.push_back(std::move(one));
  }
}

uint64_t SeriesCatalogue::Intern(const SeriesKey& key, const std::string& module_type, const std::string& unit) {
  std::lock_guard lock(mutex_);
  if (const auto found = ids_.find(key); found != ids_.end()) return found->second;
  if (series_.size() >= kMaxSeries) {
    ++refused_;
    return 0;
  }
  const uint64_t id = next_id_++;
  ids_.emplace(key, id);
  series_.push_back({id, key, module_type, unit});
  return id;
}

std::optional<Series> SeriesCatalogue::Find(uint64_t id) const {
  std::lock_guard lock(mutex_);
  const auto at = std::lower_bound(series_.begin(), series_.end(), id,
                                   [](const Series& series, uint64_t wanted) { return series.id < wanted; });
  if (at == series_.end() || at->id != id) return std::nullopt;
  return *at;
}

std::optional<uint64_t> SeriesCatalogue::FindId(const SeriesKey& key) const {
  std::lock_guard lock(mutex_);
  const auto found = ids_.find(key);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

std::vector<Series> SeriesCatalogue::Since(uint64_t after) const {
  std::lock_guard lock(mutex_);
  const auto from = std::upper_bound(series_.begin(), series_.end(), after,
                                     [](uint64_t wanted, const Series& series) { return wanted < series.id; });
  return {from, series_.end()};
}

size_t SeriesCatalogue::size() const {
  std::lock_guard lock(mutex_);
  return series_.size();
}

uint64_t SeriesCatalogue::refused() const {
  std::lock_guard lock(mutex_);
  return refused_;
}

}  // namespace ikkuna
