#include "probe/core/step_time.h"

#include <gtest/gtest.h>

namespace ikkuna::probe {
namespace {

constexpr uint64_t kStepNs = 25'000'000;

TEST(StepTimeTest, APauseIsNotTheStepsTime) {
  StepTime time;
  for (int step = 0; step < 100; ++step) EXPECT_EQ(time.Count(kStepNs), kStepNs);
  EXPECT_EQ(time.Count(1000 * kStepNs), StepTime::kPauseFactor * kStepNs);
  // One pause does not make the next step's limit useless.
  EXPECT_LT(time.Count(1000 * kStepNs), 2 * StepTime::kPauseFactor * kStepNs);
}

TEST(StepTimeTest, ALoopThatBecomesSlowerIsFollowed) {
  StepTime time;
  for (int step = 0; step < 10; ++step) time.Count(kStepNs);
  int steps = 0;
  while (time.Count(100 * kStepNs) < 100 * kStepNs) ASSERT_LT(++steps, 20);
  for (int step = 0; step < 100; ++step) EXPECT_EQ(time.Count(100 * kStepNs), 100 * kStepNs);
  EXPECT_GT(time.usual_ns(), 99 * kStepNs);
}

TEST(StepTimeTest, ALoopThatBecomesFasterIsCountedAtOnce) {
  StepTime time;
  for (int step = 0; step < 10; ++step) time.Count(100 * kStepNs);
  EXPECT_EQ(time.Count(kStepNs), kStepNs);
}

}  // namespace
}  // namespace ikkuna::probe
