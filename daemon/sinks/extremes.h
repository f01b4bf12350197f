// Extremes: a long series made short so that its shape and its spikes survive: of each bucket of steps the first, the
// last, the least and the greatest point and, if there is one, the first NaN.
//
// Thread rule: as a value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "daemon/model/query.h"
#include "daemon/sinks/store_chunk.h"

namespace ikkuna::sinks {

class Extremes {
 public:
  // Points from step_min to step_max are reduced to at most `points_max` (at least kPointsMin).
  Extremes(uint64_t step_min, uint64_t step_max, size_t points_max);

  // In ascending steps.
  void Add(const Point& point) { Put(point, buckets_[BucketOf(point.step)]); }
  // Several points in a row as if all were where the first is: for a chunk of which only these matter.
  void AddTogether(const std::vector<Point>& points);
  uint64_t steps_per_bucket() const { return steps_per_bucket_; }
  std::vector<Point> Take() &&;

 private:
  struct Bucket {
    std::optional<Point> first, last, least, greatest, nan;
  };
  size_t BucketOf(uint64_t step) const;
  static void Put(const Point& point, Bucket& bucket);
  static std::vector<Point> PointsOf(const Bucket& bucket);

  // Constant after construction.
  uint64_t step_min_;
  size_t points_max_;
  uint64_t steps_per_bucket_;

  std::vector<Bucket> buckets_;
};

}  // namespace ikkuna::sinks
