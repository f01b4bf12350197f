#include "daemon/sinks/extremes.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace ikkuna::sinks {

Extremes::Extremes(uint64_t step_min, uint64_t step_max, size_t points_max)
    : step_min_(step_min), points_max_(std::max<size_t>(points_max, kPointsMin)) {
  const size_t buckets = points_max_ / kPointsMin;
  steps_per_bucket_ = (step_max - step_min) / buckets + 1;
  buckets_.resize(buckets);
}

size_t Extremes::BucketOf(uint64_t step) const {
  const uint64_t index = step < step_min_ ? 0 : (step - step_min_) / steps_per_bucket_;
  return static_cast<size_t>(std::min<uint64_t>(index, buckets_.size() - 1));
}

void Extremes::Put(const Point& point, Bucket& bucket) {
  if (!bucket.first) bucket.first = point;
  bucket.last = point;
  if (std::isnan(point.value)) {
    if (!bucket.nan) bucket.nan = point;
    return;
  }
  if (!bucket.least || point.value < bucket.least->value) bucket.least = point;
  if (!bucket.greatest || point.value > bucket.greatest->value) bucket.greatest = point;
}

void Extremes::AddTogether(const std::vector<Point>& points) {
  if (points.empty()) return;
  Bucket& bucket = buckets_[BucketOf(points.front().step)];
  for (const Point& point : points) Put(point, bucket);
}

std::vector<Point> Extremes::PointsOf(const Bucket& bucket) {
  std::vector<Point> points;
  for (const auto& point : {bucket.first, bucket.last, bucket.least, bucket.greatest, bucket.nan}) {
    if (point) points.push_back(*point);
  }
  std::sort(points.begin(), points.end(), [](const Point& a, const Point& b) { return a.step < b.step; });
  points.erase(std::unique(points.begin(), points.end(), [](const Point& a, const Point& b) { return a.step == b.step; }),
               points.end());
  return points;
}

std::vector<Point> Extremes::Take() && {
  for (;;) {
    std::vector<Point> points;
    for (const Bucket& bucket : buckets_) {
      const std::vector<Point> some = PointsOf(bucket);
      points.insert(points.end(), some.begin(), some.end());
    }
    if (points.size() <= points_max_) return points;
    // Only NaNs beside the others make it too many; then neighbours are joined.
    if (buckets_.size() == 1) {
      buckets_[0].nan.reset();
      continue;
    }
    const size_t half = (buckets_.size() + 1) / 2;
    for (size_t i = 0; i < half; ++i) {
      std::vector<Point> both = PointsOf(buckets_[2 * i]);
      if (2 * i + 1 < buckets_.size()) {
        const std::vector<Point> more = PointsOf(buckets_[2 * i + 1]);
        both.insert(both.end(), more.begin(), more.end());
      }
      buckets_[i] = {};
      for (const Point& point : both) Put(point, buckets_[i]);
    }
    buckets_.resize(half);
  }
}

}  // namespace ikkuna::sinks
