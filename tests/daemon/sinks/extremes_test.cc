#include "daemon/sinks/extremes.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "tests/daemon/sinks/sinks_fixture.h"

namespace ikkuna::sinks {
namespace {

using ::testing::ElementsAre;

std::vector<Sample> Reduce(const std::vector<Sample>& samples, size_t points_max) {
  Extremes extremes(samples.front().step, samples.back().step, points_max);
  for (const Sample& sample : samples) extremes.Add(sample);
  return std::move(extremes).Take();
}

std::vector<uint64_t> Steps(const std::vector<Sample>& samples) {
  std::vector<uint64_t> steps;
  for (const Sample& sample : samples) steps.push_back(sample.step);
  return steps;
}

TEST(Extremes, KeepsTheSmallestAndLargestOfEachBucket) {
  std::vector<Sample> samples;
  for (uint64_t step = 0; step < 8; ++step) samples.push_back(At(1, step, step == 1 ? 9.0 : double(step)));
  // Two buckets of four steps: values 0 9 2 3 and 4 5 6 7.
  EXPECT_THAT(Steps(Reduce(samples, 4)), ElementsAre(0u, 1u, 4u, 7u));
}

TEST(Extremes, NeverMoreThanAskedHoweverManyNans) {
  std::mt19937 random(3);
  for (size_t points_max : {4u, 5u, 7u, 100u, 333u}) {
    for (int nan_of_ten : {0, 1, 5, 10}) {
      std::vector<Sample> samples;
      double smallest = INFINITY, largest = -INFINITY;
      for (uint64_t step = 0; step < 5'000; ++step) {
        const double value =
            static_cast<int>(random() % 10) < nan_of_ten ? NAN : static_cast<double>(random()) / 1e6 - 2'000;
        samples.push_back(At(1, 1'000'000 + 3 * step, value));
        smallest = std::fmin(smallest, value);
        largest = std::fmax(largest, value);
      }
      const std::vector<Sample> kept = Reduce(samples, points_max);
      EXPECT_LE(kept.size(), points_max);
      EXPECT_GE(kept.size(), nan_of_ten == 10 ? 1u : points_max / 4);
      EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end(), [](auto& a, auto& b) { return a.step < b.step; }));
      auto has = [&](auto is) { return std::any_of(kept.begin(), kept.end(), [&](auto& s) { return is(s.value); }); };
      if (nan_of_ten < 10) {
        EXPECT_TRUE(has([&](double value) { return value == smallest; }));
        EXPECT_TRUE(has([&](double value) { return value == largest; }));
      }
      if (nan_of_ten > 0) {
        EXPECT_TRUE(has([](double value) { return std::isnan(value); }));
      }
    }
  }
}

TEST(Extremes, HoldsTheWholeRangeOfSteps) {
  constexpr uint64_t kLast = std::numeric_limits<int64_t>::max();
  EXPECT_THAT(Steps(Reduce({At(1, 0, 1), At(1, kLast, 2)}, 4)), ElementsAre(0u, kLast));
  EXPECT_THAT(Steps(Reduce({At(1, 5, 1)}, 4)), ElementsAre(5u));
}

TEST(Halve, KeepsTwoExtremesOfFour) {
  EXPECT_TRUE(Halve({}).empty());
  EXPECT_THAT(Steps(Halve({At(1, 0, 1)})), ElementsAre(0u));
  EXPECT_THAT(Steps(Halve({At(1, 0, 1), At(1, 1, 5), At(1, 2, -3), At(1, 3, 2)})), ElementsAre(1u, 2u));
  EXPECT_THAT(Steps(Halve({At(1, 0, 1), At(1, 1, NAN), At(1, 2, NAN), At(1, 3, -2)})), ElementsAre(1u, 3u));
  EXPECT_THAT(Steps(Halve({At(1, 0, 1), At(1, 1, 1), At(1, 2, 1), At(1, 3, 1)})), ElementsAre(0u, 1u));
  EXPECT_THAT(Steps(Halve({At(1, 0, INFINITY), At(1, 1, 1), At(1, 2, 2), At(1, 3, -INFINITY)})), ElementsAre(0u, 3u));
}

}  // namespace
}  // namespace ikkuna::sinks
