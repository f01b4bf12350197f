#include "daemon/sinks/store_index.h"

#include <algorithm>
#include <utility>

namespace ikkuna::sinks {
namespace {

void Merge(const SeriesStats& gain, SeriesStats& stats) {
  if (stats.count == 0) {
    stats = gain;
    return;
  }
  stats.count += gain.count;
  stats.first_step = std::min(stats.first_step, gain.first_step);
  if (gain.last_step >= stats.last_step) {
    stats.last_step = gain.last_step;
    if (gain.last) stats.last = gain.last;
  }
}

}  // namespace

void StoreIndex::Add(const SeriesGain& gain) {
  std::lock_guard lock(mutex_);
  Merge(gain.stats, series_[gain.series_id]);
}

void StoreIndex::Add(const std::vector<SeriesGain>& gains) {
  std::lock_guard lock(mutex_);
  for (const SeriesGain& gain : gains) Merge(gain.stats, series_[gain.series_id]);
}

void StoreIndex::Replace(uint64_t series_id, const SeriesStats& stats) {
  std::lock_guard lock(mutex_);
  series_[series_id] = stats;
}

void StoreIndex::EraseRun(int64_t run) {
  std::lock_guard lock(mutex_);
  std::erase_if(series_, [run](const auto& item) { return item.second.run == run; });
}

void StoreIndex::PutProgress(const Progress& progress) {
  std::lock_guard lock(mutex_);
  progress_[progress.producer] = progress;
}

bool StoreIndex::Contains(uint64_t series_id) const {
  std::lock_guard lock(mutex_);
  return series_.contains(series_id);
}

std::optional<SeriesStats> StoreIndex::Find(uint64_t series_id) const {
  std::lock_guard lock(mutex_);
  auto found = series_.find(series_id);
  if (found == series_.end()) return std::nullopt;
  return found->second;
}

std::vector<uint64_t> StoreIndex::Longest(uint64_t count_min) const {
  std::vector<std::pair<uint64_t, uint64_t>> counts;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, stats] : series_) {
      if (stats.count >= count_min) counts.emplace_back(stats.count, id);
    }
  }
  std::sort(counts.rbegin(), counts.rend());
  std::vector<uint64_t> ids;
  ids.reserve(counts.size());
  for (const auto& [count, id] : counts) ids.push_back(id);
  return ids;
}

std::vector<uint64_t> StoreIndex::SeriesOfRun(int64_t run) const {
  std::lock_guard lock(mutex_);
  std::vector<uint64_t> ids;
  for (const auto& [id, stats] : series_) {
    if (stats.run == run) ids.push_back(id);
  }
  return ids;
}

std::map<int64_t, RunTotals> StoreIndex::Totals() const {
  std::lock_guard lock(mutex_);
  std::map<int64_t, RunTotals> totals;
  for (const auto& [id, stats] : series_) {
    RunTotals& total = totals[stats.run];
    total.series += 1;
    total.samples += stats.count;
    total.last_step = std::max(total.last_step, stats.last_step);
    if (stats.last) total.last_unix_ns = std::max(total.last_unix_ns, stats.last->unix_ns);
  }
  return totals;
}

std::optional<Progress> StoreIndex::FindProgress(const Uuid& producer) const {
  std::lock_guard lock(mutex_);
  auto found = progress_.find(producer);
  if (found == progress_.end()) return std::nullopt;
  return found->second;
}

}  // namespace ikkuna::sinks
