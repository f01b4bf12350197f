#include "daemon/model/run.h"

#include <gtest/gtest.h>

#include "metrics/value.h"

namespace ikkuna {
namespace {

TEST(RunState, NamesThereAndBack) {
  for (int code = 1; code <= 6; ++code) {
    const auto state = static_cast<RunState>(code);
    EXPECT_EQ(ParseRunState(RunStateName(state)), state) << code;
    EXPECT_EQ(IsOpen(state), state == RunState::kRunning || state == RunState::kDisconnected) << code;
  }
  EXPECT_EQ(RunStateName(static_cast<RunState>(0)), "invalid");
  EXPECT_EQ(RunStateName(static_cast<RunState>(7)), "invalid");
  EXPECT_FALSE(ParseRunState("invalid"));
  EXPECT_FALSE(ParseRunState(""));
}

TEST(Uuid, TextThereAndBack) {
  Uuid uuid{};
  for (size_t i = 0; i < uuid.size(); ++i) uuid[i] = static_cast<unsigned char>(17 * i);
  const std::string text = UuidText(uuid);
  EXPECT_EQ(text, "00112233445566778899aabbccddeeff");
  EXPECT_EQ(ParseUuid(text), uuid);
  EXPECT_FALSE(ParseUuid("00112233445566778899aabbccddeef"));
  EXPECT_FALSE(ParseUuid("00112233445566778899aabbccddeefg"));
}

TEST(Describe, NamesAttemptAndRank) {
  EXPECT_EQ(Describe({"job-17", 2, 3}), "'job-17' (attempt 2, rank 3)");
  EXPECT_EQ(Describe({"job-17", 0, kAllRanks}), "'job-17' (attempt 0, all ranks)");
}

TEST(Value, KnowsItsTypeAndItsSize) {
  EXPECT_EQ(TypeOf(Value(1.0)), ValueType::kNumber);
  EXPECT_EQ(TypeOf(Value(Text{"a"})), ValueType::kText);
  EXPECT_EQ(TypeOf(Value(Histogram{})), ValueType::kHistogram);
  EXPECT_EQ(TypeOf(Value(TensorValue{})), ValueType::kTensor);
  EXPECT_GE(BytesOf(Text{std::string(1000, 'x')}), BytesOf(Text{}) + 1000);
  Histogram histogram;
  histogram.counts.resize(64);
  EXPECT_EQ(BytesOf(histogram), BytesOf(Histogram{}) + 64 * 8);
  TensorValue tensor;
  tensor.values.resize(12);
  EXPECT_EQ(BytesOf(tensor), BytesOf(TensorValue{}) + 12 * 4);
}

}  // namespace
}  // namespace ikkuna
