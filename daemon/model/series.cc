#include "daemon/model/series.h"

namespace ikkuna {

void SeriesCatalogue::Load(std::vector<Timeline> timelines, std::vector<Series> series) {
  std::lock_guard lock(mutex_);
  timelines_ = std::move(timelines);
  for (size_t i = 0; i < timelines_.size(); ++i) timeline_ids_.emplace(timelines_[i], static_cast<TimelineId>(i + 1));
  for (Series& one : series) {
    if (one.id == 0 || one.id > kMaxSeries || !ids_.emplace(one.name, one.id).second) continue;
    if (series_.size() < one.id) series_.resize(one.id);
    const size_t at = one.id - 1;
    series_[at] = std::make_shared<const Series>(std::move(one));
  }
}

TimelineId SeriesCatalogue::InternTimeline(const Timeline& timeline) {
  std::lock_guard lock(mutex_);
  if (const auto found = timeline_ids_.find(timeline); found != timeline_ids_.end()) return found->second;
  if (timelines_.size() >= kMaxTimelines) {
    ++refused_;
    return 0;
  }
  timelines_.push_back(timeline);
  return timeline_ids_[timeline] = static_cast<TimelineId>(timelines_.size());
}

uint32_t SeriesCatalogue::Intern(const SeriesName& name, const SeriesTraits& traits) {
  const TimelineId timeline = InternTimeline(name.timeline);
  std::lock_guard lock(mutex_);
  if (const auto found = ids_.find(name); found != ids_.end()) {
    if (series_[found->second - 1]->traits.type == traits.type) return found->second;
    ++refused_;
    return 0;
  }
  if (timeline == 0 || series_.size() >= kMaxSeries) {
    ++refused_;
    return 0;
  }
  const auto id = static_cast<uint32_t>(series_.size() + 1);
  ids_.emplace(name, id);
  series_.push_back(std::make_shared<const Series>(Series{id, timeline, name, traits}));
  return id;
}

std::shared_ptr<const Series> SeriesCatalogue::Find(uint32_t id) const {
  std::lock_guard lock(mutex_);
  return id == 0 || id > series_.size() ? nullptr : series_[id - 1];
}

std::optional<uint32_t> SeriesCatalogue::FindId(const SeriesName& name) const {
  std::lock_guard lock(mutex_);
  const auto found = ids_.find(name);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

std::vector<std::shared_ptr<const Series>> SeriesCatalogue::Since(uint32_t after) const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<const Series>> found;
  for (size_t i = after; i < series_.size(); ++i) {
    if (series_[i]) found.push_back(series_[i]);
  }
  return found;
}

std::vector<Timeline> SeriesCatalogue::Timelines() const {
  std::lock_guard lock(mutex_);
  return timelines_;
}

size_t SeriesCatalogue::size() const {
  std::lock_guard lock(mutex_);
  return ids_.size();
}

uint64_t SeriesCatalogue::refused() const {
  std::lock_guard lock(mutex_);
  return refused_;
}

std::shared_ptr<const ProducerInfo> Run::info() const {
  std::lock_guard lock(mutex_);
  return info_;
}

void Run::SetInfo(ProducerInfo info) {
  auto fresh = std::make_shared<const ProducerInfo>(std::move(info));
  std::lock_guard lock(mutex_);
  info_ = std::move(fresh);
}

std::shared_ptr<const RecordedSteps> Run::recorded() const {
  std::lock_guard lock(mutex_);
  return recorded_;
}

void Run::SetRecorded(RecordedSteps recorded) {
  auto fresh = std::make_shared<const RecordedSteps>(std::move(recorded));
  std::lock_guard lock(mutex_);
  recorded_ = std::move(fresh);
}

}  // namespace ikkuna
