// StepMeter: how fast a producer trains, whatever its numbers do.
#include "daemon/ingest/step_meter.h"

#include <gtest/gtest.h>

namespace ikkuna::ingest {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;

void SetRoot(shm::PubStatus& status, size_t index, uint64_t step, uint64_t start = 0) {
  status.roots[index].phase = static_cast<uint32_t>(shm::Phase::kTrain);
  status.roots[index].step = step;
  status.roots[index].start_step = start;
}

TEST(StepMeter, RateIsThatOfTheLastSeconds) {
  shm::PubStatus status{};
  StepMeter meter;
  for (uint64_t second = 0; second <= 20; ++second) {
    SetRoot(status, 0, second * 10);
    meter.Update(status, second * kSecond);
  }
  EXPECT_DOUBLE_EQ(meter.StepsPerSecond(0), 10.0);
  EXPECT_EQ(meter.StepsPerSecond(1), 0.0);
  for (uint64_t second = 21; second <= 40; ++second) meter.Update(status, second * kSecond);
  EXPECT_EQ(meter.StepsPerSecond(0), 0.0);
}

// A pause is no pace: who counts ahead needs that of training.
TEST(StepMeter, TheUsualRateOutlivesAPause) {
  shm::PubStatus status{};
  StepMeter meter;
  EXPECT_EQ(meter.UsualStepsPerSecond(0), 0.0);
  for (uint64_t second = 0; second <= 20; ++second) {
    SetRoot(status, 0, second * 10);
    meter.Update(status, second * kSecond);
  }
  for (uint64_t second = 21; second <= 3600; ++second) meter.Update(status, second * kSecond);
  EXPECT_EQ(meter.StepsPerSecond(0), 0.0);
  EXPECT_DOUBLE_EQ(meter.UsualStepsPerSecond(0), 10.0);
  EXPECT_EQ(meter.UsualStepsPerSecond(1), 0.0);
}

TEST(StepMeter, TheUsualRateIsThatOfNow) {
  shm::PubStatus status{};
  StepMeter meter;
  uint64_t step = 0;
  for (uint64_t second = 0; second <= 20; ++second) {
    SetRoot(status, 0, step += 100);
    meter.Update(status, second * kSecond);
  }
  EXPECT_DOUBLE_EQ(meter.UsualStepsPerSecond(0), 100.0);
  for (uint64_t second = 21; second <= 60; ++second) {
    SetRoot(status, 0, step += 2);  // a phase with longer steps
    meter.Update(status, second * kSecond);
  }
  EXPECT_DOUBLE_EQ(meter.UsualStepsPerSecond(0), 2.0);
}

TEST(StepMeter, TheStartOfAResumedRunIsNoPace) {
  shm::PubStatus status{};
  StepMeter meter;
  for (uint64_t i = 0; i < 4; ++i) meter.Update(status, i * StepMeter::kSampleNs);
  for (uint64_t i = 4; i < 30; ++i) {
    SetRoot(status, 0, 1'000'000 + i - 4, 1'000'000);
    meter.Update(status, i * StepMeter::kSampleNs);
    EXPECT_LE(meter.StepsPerSecond(0), 2.0);
    EXPECT_LE(meter.UsualStepsPerSecond(0), 2.0);
  }
  EXPECT_DOUBLE_EQ(meter.UsualStepsPerSecond(0), 2.0);
}

TEST(StepMeter, AStartThatIsSaidAfterTheModelIsAttachedIsNoPaceEither) {
  shm::PubStatus status{};
  StepMeter meter;
  SetRoot(status, 0, 0);
  for (uint64_t i = 0; i < 4; ++i) meter.Update(status, i * StepMeter::kSampleNs);
  SetRoot(status, 0, 1'000'000, 1'000'000);
  for (uint64_t i = 4; i < 8; ++i) meter.Update(status, i * StepMeter::kSampleNs);
  EXPECT_EQ(meter.UsualStepsPerSecond(0), 0.0);
}

TEST(StepMeter, WhoComesDuringAPauseHasTheProducersMean) {
  shm::PubStatus status{};
  SetRoot(status, 0, 400);
  status.steps_timed = 400;
  status.step_ns = 20 * kSecond;
  StepMeter meter;
  meter.Update(status, 0);
  meter.Update(status, kSecond);
  EXPECT_DOUBLE_EQ(meter.UsualStepsPerSecond(0), 20.0);
  EXPECT_EQ(meter.UsualStepsPerSecond(1), 0.0) << "no such root";
}

TEST(StepMeter, Malicious_StepsThatGoBackAddNothing) {
  shm::PubStatus status{};
  StepMeter meter;
  SetRoot(status, 0, 10);
  meter.Update(status, kSecond);
  SetRoot(status, 0, 3, ~uint64_t{0});
  meter.Update(status, 2 * kSecond);
  EXPECT_EQ(meter.StepsPerSecond(0), 0.0);
}

}  // namespace
}  // namespace ikkuna::ingest
