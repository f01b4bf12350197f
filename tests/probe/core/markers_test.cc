// Markers that name passes, as the session publishes them and a daemon reads them.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "probe/core/session.h"
#include "tests/probe/core/daemon_by_hand.h"

namespace ikkuna::probe {
namespace {

class MarkersTest : public testing::Test {
 protected:
  void SetUp() override {
    SessionOptions options;
    options.directory = daemon_.directory();
    options.arena_mb = 1;
    options.ring_slots = 64;
    session_ = Session::Open(options);
    ASSERT_NE(session_, nullptr);
    daemon_.Accept({});
    for (int i = 0; i < 30'000 && !session_->connected(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ASSERT_TRUE(session_->connected());
  }
  MessageHeader HeaderOf(Kind kind) {
    MessageHeader header;
    header.kind = kind;
    header.root = 1;
    header.step = 7;
    header.dropped_kinds = &dropped_;
    return header;
  }
  struct Told {
    Kind kind;
    std::vector<uint32_t> named;
    uint32_t lowest_open;
    uint32_t passes;
    uint64_t samples;
    uint64_t dropped_kinds;
    uint32_t flags;
  };
  std::vector<Told> Read() {
    std::vector<Told> all;
    for (const auto& got : daemon_.Drain()) {
      const shm::Record& record = got.record;
      EXPECT_EQ(record.global_step, 7u);
      EXPECT_EQ(record.pass, 0u);
      Told told{static_cast<Kind>(record.kind),
                {},
                record.marker.lowest_open,
                record.marker.passes,
                record.marker.samples,
                record.marker.dropped_kinds,
                record.marker.flags};
      shm::ForEachNamed(record.marker, [&](uint32_t pass) { told.named.push_back(pass); });
      all.push_back(std::move(told));
    }
    return all;
  }

  DaemonByHand daemon_;
  std::unique_ptr<Session> session_;
  std::atomic<uint64_t> dropped_{0};
};

TEST_F(MarkersTest, AnEndNamesThePassesOfItsStep) {
  const std::vector<uint32_t> passes = {3, 4, 9};
  EXPECT_TRUE(session_->PublishMarker(HeaderOf(Kind::kBatchFinished), 640, {passes, 2, 5}));
  const auto told = Read();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].kind, Kind::kBatchFinished);
  EXPECT_EQ(told[0].flags, shm::kMarkerKindsKnown);  // nothing of it was dropped, whatever went of others
  EXPECT_EQ(told[0].named, passes);
  EXPECT_EQ(told[0].lowest_open, 5u);
  EXPECT_EQ(told[0].passes, 5u);
  EXPECT_EQ(told[0].samples, 640u);
}

TEST_F(MarkersTest, AnEndWithoutPassesNamesNone) {
  EXPECT_TRUE(session_->PublishMarker(HeaderOf(Kind::kBatchFinished)));
  EXPECT_TRUE(session_->PublishMarker(HeaderOf(Kind::kPassesNamed), 0, {{}, 0, 12}));
  const auto told = Read();
  ASSERT_EQ(told.size(), 2u);
  EXPECT_TRUE(told[0].named.empty());
  EXPECT_EQ(told[0].lowest_open, 0u);
  EXPECT_TRUE(told[1].named.empty());
  EXPECT_EQ(told[1].lowest_open, 12u);
}

TEST_F(MarkersTest, WhatOneRecordDoesNotReachGoesBeforeIt) {
  std::vector<uint32_t> passes;
  for (uint32_t pass = 1; pass <= 5000; ++pass) passes.push_back(pass);
  passes.push_back(4'000'000'000);  // far away
  EXPECT_TRUE(session_->PublishMarker(HeaderOf(Kind::kBatchFinished), 1, {passes, 0, 4'000'000'001}));
  const auto told = Read();
  ASSERT_EQ(told.size(), (5000 + shm::kPassesInMarker - 1) / shm::kPassesInMarker + 1);
  std::vector<uint32_t> named;
  for (size_t i = 0; i < told.size(); ++i) {
    const bool last = i + 1 == told.size();
    EXPECT_EQ(told[i].kind, last ? Kind::kBatchFinished : Kind::kPassesNamed);
    EXPECT_EQ(told[i].lowest_open, last ? 4'000'000'001u : 0u) << "those behind are not named yet";
    EXPECT_EQ(told[i].samples, last ? 1u : 0u);
    named.insert(named.end(), told[i].named.begin(), told[i].named.end());
    EXPECT_EQ(told[i].passes, named.size());
  }
  EXPECT_EQ(named, passes);
}

TEST_F(MarkersTest, TheEndOfTheirNumbersIsNoEnd) {
  const std::vector<uint32_t> passes = {UINT32_MAX - 1, UINT32_MAX, 1, 2};
  EXPECT_TRUE(session_->PublishMarker(HeaderOf(Kind::kBatchFinished), 0, {passes, 0, 3}));
  const auto told = Read();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].named, passes);
}

// A front end's fault: the daemon would take it for a broken producer.
TEST_F(MarkersTest, WhatIsNoPassOrOutOfOrderBreaksNothing) {
  const std::vector<uint32_t> passes = {0, 9, 3, 0, 9};
  EXPECT_TRUE(session_->PublishMarker(HeaderOf(Kind::kBatchFinished), 0, {passes, 0, 1}));
  const auto told = Read();
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(told[0].named, (std::vector<uint32_t>{9}));
  EXPECT_EQ(told[1].named, (std::vector<uint32_t>{3, 9}));
}

TEST_F(MarkersTest, NamesThatFindNoRoomAreKeptAsDroppedOfTheStep) {
  std::vector<uint32_t> passes;
  for (uint32_t i = 0; i < 80; ++i) passes.push_back(1 + i * 10'000);  // a record each, of 64
  EXPECT_FALSE(session_->PublishMarker(HeaderOf(Kind::kBatchFinished), 0, {passes, 0, 1'000'000}));
  EXPECT_EQ(Read().size(), 64u);
  EXPECT_EQ(dropped_.load(), KindBit(Kind::kPassesNamed) | KindBit(Kind::kBatchFinished));
  EXPECT_TRUE(session_->PublishMarker(HeaderOf(Kind::kBatchFinished), 0, {{}, 80, 1'000'000}));
  const auto told = Read();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].dropped_kinds, dropped_.load());
}

TEST_F(MarkersTest, ABeginningBearsItsPass) {
  MessageHeader header = HeaderOf(Kind::kPassStarted);
  header.pass = UINT32_MAX;
  EXPECT_TRUE(session_->PublishMarker(header));
  const auto got = daemon_.Drain();
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].record.kind, static_cast<uint8_t>(Kind::kPassStarted));
  EXPECT_EQ(got[0].record.pass, UINT32_MAX);
}

}  // namespace
}  // namespace ikkuna::probe
