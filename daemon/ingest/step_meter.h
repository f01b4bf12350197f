// StepMeter: how fast a producer's roots make their steps.
//
// Owner: ProducerSession, under its mutex. Fed with copies of PUB's status, which the producer wrote: its numbers are
// shown, never used for a decision.
#pragma once

#include <array>
#include <cstdint>
#include <deque>

#include "shared/layout.h"

namespace ikkuna::ingest {

class StepMeter {
 public:
  void Update(const shm::PubStatus& status, uint64_t now_ns);

  // Over the last seconds; 0: standing still.
  double StepsPerSecond(size_t root_index) const;
  // How fast it is when it trains: over the last five seconds without a pause or, before there were any, the mean of all
  // steps of the process by its own word. 0: not known.
  double UsualStepsPerSecond(size_t root_index) const;

  static constexpr uint64_t kSampleNs = 500'000'000;

 private:
  static constexpr size_t kSamplesKept = 11;  // five seconds

  struct Point {
    uint64_t time_ns;
    std::array<uint64_t, kMaxRoots> step;
  };
  bool TrainsThroughout(size_t root_index) const;

  std::array<bool, kMaxRoots> known_{};
  std::deque<Point> points_;
  std::array<double, kMaxRoots> training_{};  // steps a second, over the last window without a pause
  double mean_ = 0;
};

}  // namespace ikkuna::ingest
