#include "daemon/sinks/extremes.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace ikkuna::sinks {
namespace {

constexpr size_t kPointsMin = 4;

bool ByStep(const Sample& a, const Sample& b) { return a.step < b.step; }

}  // namespace

Extremes::Extremes(uint64_t step_min, uint64_t step_max, size_t points_max)
    : step_min_(step_min), points_max_(std::max(points_max, kPointsMin)) {
  const size_t buckets = points_max_ / 2;
  buckets_.resize(buckets);
  steps_per_bucket_ = (static_cast<double>(step_max - step_min) + 1) / static_cast<double>(buckets);
}

void Extremes::Put(const Sample& sample, Bucket& bucket) {
  if (std::isnan(sample.value)) {
    if (!bucket.nan) bucket.nan = sample;
    return;
  }
  if (!bucket.smallest || sample.value < bucket.smallest->value) bucket.smallest = sample;
  if (!bucket.largest || sample.value > bucket.largest->value) bucket.largest = sample;
}

void Extremes::Merge(const Bucket& from, Bucket& to) {
  for (const auto& sample : {from.smallest, from.largest, from.nan}) {
    if (sample) Put(*sample, to);
  }
}

size_t Extremes::Emit(const Bucket& bucket, std::vector<Sample>* samples) {
  std::vector<Sample> kept;
  if (bucket.smallest) kept.push_back(*bucket.smallest);
  if (bucket.largest && bucket.largest->step != bucket.smallest->step) kept.push_back(*bucket.largest);
  if (bucket.nan) kept.push_back(*bucket.nan);
  std::sort(kept.begin(), kept.end(), ByStep);
  if (samples) samples->insert(samples->end(), kept.begin(), kept.end());
  return kept.size();
}

void Extremes::Add(const Sample& sample) {
  const double index = static_cast<double>(sample.step - step_min_) / steps_per_bucket_;
  Put(sample, buckets_[std::min(static_cast<size_t>(index), buckets_.size() - 1)]);
}

std::vector<Sample> Extremes::Take() && {
  auto points = [this] {
    size_t sum = 0;
    for (const Bucket& bucket : buckets_) sum += Emit(bucket, nullptr);
    return sum;
  };
  // Only NaNs beside the two extremes make it too many; then neighbours are joined.
  while (points() > points_max_ && buckets_.size() > 1) {
    const size_t half = (buckets_.size() + 1) / 2;
    for (size_t i = 0; i < half; ++i) {
      Bucket joined = buckets_[2 * i];
      if (2 * i + 1 < buckets_.size()) Merge(buckets_[2 * i + 1], joined);
      buckets_[i] = std::move(joined);
    }
    buckets_.resize(half);
  }
  std::vector<Sample> samples;
  for (const Bucket& bucket : buckets_) Emit(bucket, &samples);
  return samples;
}

std::vector<Sample> Halve(const std::vector<Sample>& samples) {
  std::vector<Sample> kept;
  kept.reserve(samples.size() / 2 + 2);
  for (size_t begin = 0; begin < samples.size(); begin += 4) {
    const size_t end = std::min(begin + 4, samples.size());
    // A NaN is the rarest news of all: it outranks the extreme that it displaces.
    auto rank_high = [](const Sample& s) { return std::isnan(s.value) ? INFINITY : s.value; };
    size_t high = begin, low = begin;
    for (size_t i = begin + 1; i < end; ++i) {
      const bool first_nan = std::isnan(samples[i].value) && !std::isnan(samples[high].value);
      if (first_nan || (!std::isnan(samples[high].value) && rank_high(samples[i]) > rank_high(samples[high]))) high = i;
    }
    for (size_t i = begin; i < end; ++i) {
      if (i == high) continue;
      if (low == high || samples[i].value < samples[low].value) low = i;
    }
    kept.push_back(samples[std::min(low, high)]);
    if (low != high) kept.push_back(samples[std::max(low, high)]);
  }
  return kept;
}

}  // namespace ikkuna::sinks
