#include "daemon/cli/smoothing.h"

#include <algorithm>
#include <cmath>

namespace ikkuna::cli {

double Smoother::Add(double value) {
  if (!std::isfinite(value)) return value;
  sum_ = keep_ * sum_ + (1 - keep_) * value;
  weight_ = keep_ * weight_ + (1 - keep_);
  return sum_ / weight_;
}

void Thinner::Put(Bucket* bucket, const Point& point) {
  if (!std::isfinite(point.y)) {
    if (!bucket->has_not_finite) bucket->not_finite = point;
    bucket->has_not_finite = true;
    return;
  }
  if (!bucket->has_finite || point.y < bucket->low.y) bucket->low = point;
  if (!bucket->has_finite || point.y > bucket->high.y) bucket->high = point;
  bucket->has_finite = true;
}

void Thinner::Put(Bucket* bucket, const Bucket& other) {
  if (other.has_finite) {
    Put(bucket, other.low);
    Put(bucket, other.high);
  }
  if (other.has_not_finite) Put(bucket, other.not_finite);
}

void Thinner::Halve() {
  for (size_t i = 0; i < buckets_.size(); i += 2) {
    Bucket merged = buckets_[i];
    if (i + 1 < buckets_.size()) Put(&merged, buckets_[i + 1]);
    buckets_[i / 2] = merged;
  }
  buckets_.resize((buckets_.size() + 1) / 2);
  per_bucket_ *= 2;
}

void Thinner::Add(double x, double y) {
  const Point point{x, y, size_};
  if (size_ == 0) first_ = point;
  last_ = point;
  ++size_;
  if (buckets_.empty() || in_last_ == per_bucket_) {
    if (buckets_.size() == buckets_max_) Halve();
    // After halving an odd number the last group is half full; it is simply left so.
    buckets_.emplace_back();
    in_last_ = 0;
  }
  Put(&buckets_.back(), point);
  ++in_last_;
}

std::vector<std::pair<double, double>> Thinner::Points() const {
  std::vector<Point> points;
  if (size_ > 0) points = {first_, last_};
  for (const Bucket& bucket : buckets_) {
    if (bucket.has_finite) points.insert(points.end(), {bucket.low, bucket.high});
    if (bucket.has_not_finite) points.push_back(bucket.not_finite);
  }
  std::sort(points.begin(), points.end(), [](const Point& a, const Point& b) { return a.at < b.at; });
  points.erase(std::unique(points.begin(), points.end(), [](const Point& a, const Point& b) { return a.at == b.at; }),
               points.end());
  std::vector<std::pair<double, double>> pairs;
  pairs.reserve(points.size());
  for (const Point& point : points) pairs.emplace_back(point.x, point.y);
  return pairs;
}

}  // namespace ikkuna::cli
