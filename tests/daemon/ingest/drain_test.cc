// Drain: order, what is freed and when, what waits, what is passed over, what ends it. And a message in a device pool,
// carried by a source that stands in for a device, from publish to release.
#include "daemon/ingest/drain.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/daemon/ingest/fake_pool.h"
#include "tests/shared/leave_open.h"
#include "tests/shared/transport_pair.h"

namespace ikkuna::ingest {
namespace {

constexpr uint64_t kAll = ~uint64_t{0};

std::vector<std::unique_ptr<PayloadSource>> HostOnly() {
  std::vector<std::unique_ptr<PayloadSource>> sources;
  sources.push_back(std::make_unique<HostArenaSource>());
  return sources;
}

struct Collector {
  std::vector<double> scalars;
  std::vector<std::string> payloads;
  std::vector<uint64_t> seqs;
  void Take(const shm::Message& message) {
    seqs.push_back(message.record.seq);
    if (message.record.type == static_cast<uint8_t>(RecordType::kScalar)) scalars.push_back(message.record.scalar);
    if (message.record.type == static_cast<uint8_t>(RecordType::kTensor)) {
      payloads.emplace_back(reinterpret_cast<const char*>(message.payload), message.payload_bytes);
    }
  }
};

std::unique_ptr<Drain> MakeDrain(shm::TransportPair& pair, Collector& collector, uint64_t skip_through = 0,
                                 std::vector<std::unique_ptr<PayloadSource>> sources = HostOnly(),
                                 uint64_t unready_ns = kAll) {
  return std::make_unique<Drain>(*pair.view, *pair.ctl, std::move(sources), skip_through, 0, unready_ns,
                                 [&collector](const shm::Message& message) { collector.Take(message); });
}

TEST(Drain, HandsOnInOrderAndFreesBehind) {
  shm::TransportPair pair;
  ASSERT_TRUE(pair.ok());
  Collector collector;
  auto drain = MakeDrain(pair, collector);
  ASSERT_TRUE(shm::PublishScalar(*pair.writer, 1));
  ASSERT_TRUE(shm::PublishBytes(*pair.writer, 100, 'a'));
  ASSERT_TRUE(shm::PublishScalar(*pair.writer, 2));
  auto done = drain->Run(100, kAll);
  ASSERT_TRUE(done.ok()) << done.error().text;
  EXPECT_EQ(*done, 3u);
  EXPECT_EQ(collector.scalars, (std::vector<double>{1, 2}));
  EXPECT_EQ(collector.payloads, (std::vector<std::string>{std::string(100, 'a')}));
  EXPECT_EQ(collector.seqs, (std::vector<uint64_t>{1, 2, 3}));
  EXPECT_EQ(drain->handled(), 3u);
  EXPECT_EQ(pair.ctl_view->heads(), (shm::Heads{3, 128}));  // 100 bytes, 64-byte aligned
  EXPECT_TRUE(pair.writer->AcceptHeads(pair.ctl_view->heads()));
  auto again = drain->Run(100, kAll);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(*again, 0u);
}

TEST(Drain, StopsAtTheLimitAndAtTheEnd) {
  shm::TransportPair pair;
  ASSERT_TRUE(pair.ok());
  Collector collector;
  auto drain = MakeDrain(pair, collector);
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(shm::PublishScalar(*pair.writer, i));
  auto done = drain->Run(2, kAll);
  ASSERT_TRUE(done.ok());
  EXPECT_EQ(*done, 2u);
  done = drain->Run(100, 5);
  ASSERT_TRUE(done.ok());
  EXPECT_EQ(*done, 3u);
  EXPECT_EQ(drain->position(), 5u);
}

TEST(Drain, FreesLongBeforeItReturns) {
  shm::TransportPair pair({.ring_slots = 1024, .arena_bytes = 4096, .registry_bytes = 65536});
  ASSERT_TRUE(pair.ok());
  std::vector<uint64_t> heads;
  Drain drain(*pair.view, *pair.ctl, HostOnly(), 0, 0, kAll,
              [&](const shm::Message&) { heads.push_back(pair.ctl_view->heads().ring_head); });
  for (int i = 0; i < 500; ++i) ASSERT_TRUE(shm::PublishScalar(*pair.writer, i));
  ASSERT_TRUE(drain.Run(1000, kAll).ok());
  // The producer never saw more than kRecordsPerHead handled records still taking places.
  for (size_t i = 0; i < heads.size(); ++i) EXPECT_GE(heads[i] + Drain::kRecordsPerHead, i);
}

TEST(Drain, PassesOverWhatAnEarlierSessionHandled) {
  shm::TransportPair pair;
  ASSERT_TRUE(pair.ok());
  for (int i = 1; i <= 5; ++i) ASSERT_TRUE(shm::PublishScalar(*pair.writer, i));
  ASSERT_TRUE(shm::PublishBytes(*pair.writer, 64, 'b'));
  Collector collector;
  auto drain = MakeDrain(pair, collector, 3);
  auto done = drain->Run(100, kAll);
  ASSERT_TRUE(done.ok());
  EXPECT_EQ(*done, 6u);
  EXPECT_EQ(collector.scalars, (std::vector<double>{4, 5}));
  EXPECT_EQ(drain->handled(), 3u);
  EXPECT_EQ(pair.ctl_view->heads().ring_head, 6u);
}

TEST(Drain, HoleIsLeftUntilItIsSkipped) {
  shm::TransportPair pair;
  ASSERT_TRUE(pair.ok());
  Collector collector;
  auto drain = MakeDrain(pair, collector);
  ASSERT_TRUE(shm::PublishScalar(*pair.writer, 1));
  std::thread([&] { shm::LeaveOpen(pair.writer->Reserve(Space::kInline, 0)); }).join();  // ended before it could commit
  ASSERT_TRUE(shm::PublishScalar(*pair.writer, 2));
  ASSERT_TRUE(drain->Run(100, kAll).ok());
  EXPECT_EQ(collector.scalars, (std::vector<double>{1}));
  EXPECT_EQ(drain->SkipHole(), 1u);
  ASSERT_TRUE(drain->Run(100, kAll).ok());
  EXPECT_EQ(collector.scalars, (std::vector<double>{1, 2}));
  EXPECT_EQ(drain->handled(), 2u);
}

TEST(Drain, Malicious_RecordThatBreaksTheFormat) {
  shm::TransportPair pair;
  ASSERT_TRUE(pair.ok());
  Collector collector;
  auto drain = MakeDrain(pair, collector);
  auto reservation = pair.writer->Reserve(Space::kInline, 0);
  shm::FillScalar(reservation.record(), 1);
  reservation.record().kind = 63;
  reservation.Commit();
  auto done = drain->Run(100, kAll);
  ASSERT_FALSE(done.ok());
  EXPECT_EQ(done.error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(drain->handled(), 0u);
}

// ---- A message in a device pool ----

class DevicePoolTest : public testing::Test {
 protected:
  DevicePoolTest() {
    if (!pair_.ok()) return;
    RegisterPool(*pair_.writer);
    auto sources = HostOnly();
    auto source = std::make_unique<FakePoolSource>(device_);
    source_ = source.get();
    sources.push_back(std::move(source));
    drain_ = MakeDrain(pair_, collector_, 0, std::move(sources));
    auto entries = pair_.view->ReadRegistry();
    EXPECT_TRUE(entries.ok());
    EXPECT_TRUE(drain_->AddEntries(*entries).ok());
  }

  // As a probe does: the copy is queued on the device, an event recorded behind it, then the record published.
  void PublishOnDevice(uint64_t position, const std::string& bytes, uint32_t event, uint32_t pool = kPoolId) {
    std::memcpy(device_.pool.data() + position % kPoolBytes, bytes.data(), bytes.size());
    auto reservation = pair_.writer->Reserve(Space::kInline, 0);
    ASSERT_TRUE(reservation);
    shm::FillTensor(reservation.record(), bytes.size());
    reservation.record().space = static_cast<uint8_t>(Space::kDevicePool);
    reservation.record().payload = {position, bytes.size(), event, pool};
    reservation.Commit();
  }
  void Run() {
    auto done = drain_->Run(100, kAll);
    ASSERT_TRUE(done.ok()) << done.error().text;
  }

  shm::TransportPair pair_;
  FakeDevice device_;
  FakePoolSource* source_ = nullptr;
  Collector collector_;
  std::unique_ptr<Drain> drain_;
};

TEST_F(DevicePoolTest, WaitsForItsEventWithoutHoldingTheRing) {
  PublishOnDevice(0, "first", 1);
  ASSERT_TRUE(shm::PublishScalar(*pair_.writer, 5));
  ASSERT_TRUE(shm::PublishBytes(*pair_.writer, 64, 'c'));
  Run();
  // Copied out of the ring, not handled: the device is still at work, and what came later keeps its place behind.
  EXPECT_EQ(pair_.ctl_view->heads().ring_head, 3u);
  EXPECT_EQ(pair_.ctl_view->heads().arena_head, 0u) << "the host payload behind it is not handled yet";
  EXPECT_EQ(pair_.ctl_view->pool_heads(kPoolId), (shm::PoolHeads{0, 0}));
  EXPECT_EQ(drain_->handled(), 0u);
  EXPECT_EQ(drain_->waiting(), 3u);
  EXPECT_GT(source_->asked(), 0);

  device_.Complete(1);
  Run();
  EXPECT_EQ(collector_.seqs, (std::vector<uint64_t>{1, 2, 3}));
  EXPECT_EQ(collector_.payloads, (std::vector<std::string>{"first", std::string(64, 'c')}));
  EXPECT_EQ(pair_.ctl_view->pool_heads(kPoolId), (shm::PoolHeads{64, 1}));
  EXPECT_EQ(pair_.ctl_view->heads(), (shm::Heads{3, 64}));
  EXPECT_EQ(drain_->waiting(), 0u);
}

TEST_F(DevicePoolTest, ReleasesFirstInFirstOutWhateverCompletesFirst) {
  PublishOnDevice(0, "one", 1);
  PublishOnDevice(64, "two", 2);
  PublishOnDevice(128, "three", 3);
  device_.Complete(3);
  device_.Complete(2);
  Run();
  EXPECT_TRUE(collector_.payloads.empty());
  EXPECT_EQ(pair_.ctl_view->pool_heads(kPoolId), (shm::PoolHeads{0, 0}));
  device_.Complete(1);
  Run();
  EXPECT_EQ(collector_.payloads, (std::vector<std::string>{"one", "two", "three"}));
  EXPECT_EQ(source_->released(), (std::vector<uint64_t>{1, 2, 3}));
  EXPECT_EQ(pair_.ctl_view->pool_heads(kPoolId), (shm::PoolHeads{192, 3}));
}

TEST_F(DevicePoolTest, WhatNeverCompletesCanBeAbandoned) {
  PublishOnDevice(0, "one", 1);
  ASSERT_TRUE(shm::PublishScalar(*pair_.writer, 5));
  Run();
  EXPECT_EQ(drain_->AbandonWaiting(), 2u);
  EXPECT_EQ(drain_->waiting(), 0u);
  EXPECT_EQ(drain_->handled(), 0u);
}

TEST_F(DevicePoolTest, Malicious_PoolEventOrRangeThatDoesNotExist) {
  device_.Complete(1);
  PublishOnDevice(0, "one", 1, 2);
  auto done = drain_->Run(100, kAll);
  ASSERT_FALSE(done.ok());
  EXPECT_EQ(done.error().code, ErrorCode::kCorrupt);
}

TEST(Drain, Malicious_SpaceThatWasNotAgreedOn) {
  shm::TransportPair pair;
  ASSERT_TRUE(pair.ok());
  Collector collector;
  auto drain = MakeDrain(pair, collector);
  auto reservation = pair.writer->Reserve(Space::kInline, 0);
  shm::FillTensor(reservation.record(), 5);
  reservation.record().space = static_cast<uint8_t>(Space::kDevicePool);
  reservation.record().payload = {0, 5, 1, 1};
  reservation.Commit();
  auto done = drain->Run(100, kAll);
  ASSERT_FALSE(done.ok());
  EXPECT_EQ(done.error().code, ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace ikkuna::ingest
