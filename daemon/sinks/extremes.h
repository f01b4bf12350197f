// Extremes: a long series made short so that spikes survive: of each bucket of steps the smallest and the largest value
// and, if there is one, the first NaN. Used for reading with max_points and for thinning the store.
//
// Thread rule: as a value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "daemon/sample.h"

namespace ikkuna::sinks {

class Extremes {
 public:
  // Samples from step_min to step_max, in ascending steps, are reduced to at most `points_max` (at least 4).
  Extremes(uint64_t step_min, uint64_t step_max, size_t points_max);

  void Add(const Sample& sample);
  // In ascending steps.
  std::vector<Sample> Take() &&;

 private:
  struct Bucket {
    std::optional<Sample> smallest, largest, nan;
  };
  static void Put(const Sample& sample, Bucket& bucket);
  static void Merge(const Bucket& from, Bucket& to);
  static size_t Emit(const Bucket& bucket, std::vector<Sample>* samples);

  // Constant after construction.
  uint64_t step_min_;
  size_t points_max_;
  double steps_per_bucket_;

  std::vector<Bucket> buckets_;
};

// Half of the samples: of each four in a row the two extremes.
std::vector<Sample> Halve(const std::vector<Sample>& samples);

}  // namespace ikkuna::sinks
