#include "daemon/ingest/step_meter.h"

#include <algorithm>

namespace ikkuna::ingest {

void StepMeter::Update(const shm::PubStatus& status, uint64_t now_ns) {
  Point point{now_ns, {}};
  for (size_t i = 0; i < kMaxRoots; ++i) {
    const shm::RootStatus& root = status.roots[i];
    if (root.phase == 0 && root.step == 0) continue;
    known_[i] = true;
    point.step[i] = std::max(root.step, root.start_step);
    // Those up to its start it did not make, whether it was attached since or told its start since.
    for (Point& earlier : points_) earlier.step[i] = std::max(earlier.step[i], root.start_step);
  }
  if (points_.empty() || now_ns - points_.back().time_ns >= kSampleNs) {
    points_.push_back(point);
    if (points_.size() > kSamplesKept) points_.pop_front();
    if (points_.size() == kSamplesKept) {
      for (size_t i = 0; i < kMaxRoots; ++i) {
        if (TrainsThroughout(i)) training_[i] = StepsPerSecond(i);
      }
    }
  }
  if (status.step_ns > 0) {
    mean_ = static_cast<double>(status.steps_timed) / (static_cast<double>(status.step_ns) * 1e-9);
  }
}

double StepMeter::StepsPerSecond(size_t root_index) const {
  if (points_.size() < 2) return 0;
  const Point& from = points_.front();
  const Point& to = points_.back();
  if (to.step[root_index] <= from.step[root_index]) return 0;
  return static_cast<double>(to.step[root_index] - from.step[root_index]) /
         (static_cast<double>(to.time_ns - from.time_ns) * 1e-9);
}

// A window of which neither half has far fewer steps than the other, nor its end fewer than the whole.
bool StepMeter::TrainsThroughout(size_t root_index) const {
  const auto step = [&](size_t point) { return points_[point].step[root_index]; };
  const size_t middle = points_.size() / 2, end = points_.size() - 1;
  if (step(0) > step(middle) || step(middle) > step(end - 1) || step(end - 1) >= step(end)) return false;
  const uint64_t first = step(middle) - step(0), second = step(end) - step(middle), last = step(end) - step(end - 1);
  return std::max(first, second) <= 2 * std::min(first, second) + 1 && 2 * last * end >= first + second;
}

double StepMeter::UsualStepsPerSecond(size_t root_index) const {
  if (training_[root_index] > 0) return training_[root_index];
  return std::max(known_[root_index] ? mean_ : 0.0, StepsPerSecond(root_index));
}

}  // namespace ikkuna::ingest
