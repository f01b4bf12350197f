// The frozen codes: each known one has a name, no two share one, and everything else is unknown.
#include "shared/codes.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace ikkuna {
namespace {

TEST(Codes, KindsKeepTheirNumbersAndNames) {
  std::set<std::string_view> names;
  size_t known = 0;
  for (int code = 0; code < 256; ++code) {
    const Kind kind = static_cast<Kind>(code);
    if (!IsKnownKind(static_cast<uint8_t>(code))) {
      EXPECT_EQ(KindName(kind), "invalid") << code;
      continue;
    }
    ++known;
    EXPECT_TRUE(names.insert(KindName(kind)).second) << KindName(kind);
    EXPECT_EQ(KindFromName(KindName(kind)), kind);
    EXPECT_LT(code, 64) << "a set of kinds is one word";
  }
  EXPECT_EQ(known, 25u);
  EXPECT_EQ(KindFromName("weight_gradients"), Kind::kWeightGradients);
  EXPECT_EQ(KindFromName("invalid"), std::nullopt);
  EXPECT_EQ(KindFromName(""), std::nullopt);
  EXPECT_EQ(KindBit(Kind::kBuffers), uint64_t{1} << 27);
  EXPECT_FALSE(IsDataKind(Kind::kText));
  for (const Kind kind : {Kind::kBatchStarted, Kind::kEpochFinished, Kind::kPassStarted, Kind::kPassesNamed}) {
    EXPECT_TRUE(IsMarkerKind(kind)) << KindName(kind);
  }
  for (const Kind kind : {Kind::kInvalid, Kind::kInputData, Kind::kText, Kind::kWeights}) {
    EXPECT_FALSE(IsMarkerKind(kind)) << KindName(kind);
  }
  EXPECT_TRUE(IsDataKind(Kind::kWeights));
}

TEST(Codes, DataTypesHaveSizesAndNames) {
  const size_t bytes[] = {0, 4, 8, 2, 2, 1, 1, 2, 4, 8, 1};
  std::set<std::string_view> names;
  for (uint8_t code = 0; code < 11; ++code) {
    EXPECT_EQ(DTypeBytes(static_cast<DType>(code)), bytes[code]) << int{code};
    EXPECT_EQ(IsKnownDType(code), code != 0);
    EXPECT_TRUE(names.insert(DTypeName(static_cast<DType>(code))).second);
  }
  EXPECT_FALSE(IsKnownDType(11));
  EXPECT_EQ(DTypeBytes(static_cast<DType>(11)), 0u);
  EXPECT_EQ(DTypeName(static_cast<DType>(11)), "invalid");
}

TEST(Codes, OtherTables) {
  for (int code = 0; code < 256; ++code) {
    const auto byte = static_cast<uint8_t>(code);
    EXPECT_EQ(IsKnownRecordType(byte), code >= 1 && code <= 6) << code;
    EXPECT_EQ(IsKnownLayout(byte), code == 1) << code;
    EXPECT_EQ(IsKnownSpace(byte), code >= 1 && code <= 4) << code;
  }
  std::set<std::string_view> names;
  for (size_t reason = 0; reason < kDropReasonCount; ++reason) {
    const auto name = DropReasonName(static_cast<DropReason>(reason));
    EXPECT_NE(name, "invalid");
    EXPECT_TRUE(names.insert(name).second) << name;
  }
  EXPECT_EQ(DropReasonName(static_cast<DropReason>(kDropReasonCount)), "invalid");
}

}  // namespace
}  // namespace ikkuna
