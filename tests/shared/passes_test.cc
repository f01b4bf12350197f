// Numbers of passes, where they wrap around too, and the sets of them that markers name, honest and not.
#include "shared/passes.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "shared/record_check.h"
#include "tests/shared/transport_pair.h"

namespace ikkuna::shm {
namespace {

std::vector<uint32_t> NamedOf(const MarkerInfo& marker) {
  std::vector<uint32_t> named;
  ForEachNamed(marker, [&](uint32_t pass) { named.push_back(pass); });
  return named;
}

TEST(Passes, AreInOrderAcrossTheEndOfTheirNumbers) {
  EXPECT_TRUE(PassBefore(1, 2));
  EXPECT_FALSE(PassBefore(2, 1));
  EXPECT_FALSE(PassBefore(2, 2));
  EXPECT_TRUE(PassBefore(UINT32_MAX, 1));
  EXPECT_FALSE(PassBefore(1, UINT32_MAX));
  EXPECT_TRUE(PassBefore(UINT32_MAX - 1'000'000, 1'000'000));
  EXPECT_EQ(NextPass(1), 2u);
  EXPECT_EQ(NextPass(UINT32_MAX), 1u) << "0 is no pass";
}

TEST(Passes, AreNamedWithinTheReachOfAMarker) {
  MarkerInfo marker{};
  EXPECT_FALSE(NamePass(marker, 0));
  const std::vector<uint32_t> passes = {7, 8, 71, 774};
  for (const uint32_t pass : passes) EXPECT_TRUE(NamePass(marker, pass));
  EXPECT_FALSE(NamePass(marker, 775)) << "one too far";
  EXPECT_FALSE(NamePass(marker, 6)) << "before the first";
  EXPECT_FALSE(NamePass(marker, 0));
  EXPECT_EQ(NamedOf(marker), passes);
  EXPECT_EQ(CountNamed(marker), 4u);
}

TEST(Passes, AreNamedAcrossTheEndOfTheirNumbers) {
  MarkerInfo marker{};
  const std::vector<uint32_t> passes = {UINT32_MAX - 1, UINT32_MAX, 1, 2, 700};
  for (const uint32_t pass : passes) EXPECT_TRUE(NamePass(marker, pass));
  EXPECT_EQ(NamedOf(marker), passes);
}

// ---- What the daemon makes of them.

Record MarkerOf(Kind kind) {
  Record record{};
  FillScalar(record, 0);
  record.param = 0;
  record.type = static_cast<uint8_t>(RecordType::kMarker);
  record.kind = static_cast<uint8_t>(kind);
  record.marker = {};
  return record;
}

Record Named(Kind kind, const std::vector<uint32_t>& passes) {
  Record record = MarkerOf(kind);
  for (const uint32_t pass : passes) EXPECT_TRUE(NamePass(record.marker, pass));
  record.marker.passes = static_cast<uint32_t>(passes.size());
  return record;
}

void ExpectFault(const Record& record, const std::string& what) {
  const char* fault = CheckRecord(record);
  EXPECT_NE(fault, nullptr) << what;
}

TEST(Passes, HonestMarkersAreTaken) {
  for (const Kind kind : {Kind::kBatchFinished, Kind::kPassesNamed}) {
    EXPECT_EQ(CheckRecord(MarkerOf(kind)), nullptr);
    EXPECT_EQ(CheckRecord(Named(kind, {1})), nullptr);
    EXPECT_EQ(CheckRecord(Named(kind, {5, 5 + kPassesInMarker - 1})), nullptr);
    EXPECT_EQ(CheckRecord(Named(kind, {UINT32_MAX, 1, 2})), nullptr);
    Record more = Named(kind, {5});
    more.marker.passes = UINT32_MAX;  // others were named before
    EXPECT_EQ(CheckRecord(more), nullptr);
    Record open = Named(kind, {5, 8});  // none of these is impossible: what is open is the other threads' too
    for (const uint32_t lowest : {0u, 1u, 5u, 7u, 9u, UINT32_MAX}) {
      open.marker.lowest_open = lowest;
      EXPECT_EQ(CheckRecord(open), nullptr) << lowest;
    }
    Record later = MarkerOf(kind);  // all were named before
    later.marker.passes = 3;
    EXPECT_EQ(CheckRecord(later), nullptr);
  }
  Record started = MarkerOf(Kind::kPassStarted);
  started.pass = UINT32_MAX;
  EXPECT_EQ(CheckRecord(started), nullptr);
  EXPECT_EQ(CheckRecord(MarkerOf(Kind::kBatchStarted)), nullptr);
}

TEST(Malicious_Passes, EachLieIsRefused) {
  for (const Kind kind : {Kind::kBatchFinished, Kind::kPassesNamed}) {
    Record record = Named(kind, {5, 8});
    record.marker.first_pass = 0;
    ExpectFault(record, "names without a first");
    record = MarkerOf(kind);
    record.marker.first_pass = 5;
    ExpectFault(record, "a first without names");
    record = Named(kind, {5, 8});
    record.marker.named[0] &= ~uint64_t{1};
    ExpectFault(record, "a first that is not named");
    record = Named(kind, {5, 8});
    record.marker.passes = 1;
    ExpectFault(record, "fewer than it names");
    record = Named(kind, {UINT32_MAX - 2});
    record.marker.named[0] |= 1 << 3;
    record.marker.passes = 2;
    ExpectFault(record, "a pass 0");
    record = Named(kind, {uint32_t{0} - 700});
    record.marker.named[700 / 64] |= uint64_t{1} << (700 % 64);
    record.marker.passes = 2;
    ExpectFault(record, "a pass 0 far from the first");
    record = Named(kind, {5});
    record.pass = 5;
    ExpectFault(record, "a marker of the step that belongs to a pass");
    record = Named(kind, {5});
    record.marker.samples = uint64_t{kMaxStep} + 1;
    ExpectFault(record, "more samples than can be");
  }
  ExpectFault(MarkerOf(Kind::kPassStarted), "no pass has begun");
  ExpectFault(MarkerOf(Kind::kLoss), "a loss that is a marker");
  Record scalar{};
  FillScalar(scalar, 0);
  scalar.kind = static_cast<uint8_t>(Kind::kBatchFinished);
  ExpectFault(scalar, "an end that is a scalar");
}

}  // namespace
}  // namespace ikkuna::shm
