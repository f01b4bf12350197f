// Messages whose bytes come late, from the ring to the graph: who waits for whom, what is given up, and what is
// counted.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "daemon/ingest/drain.h"
#include "shared/passes.h"
#include "shared/stats/stats_pass.h"
#include "tests/daemon/ingest/ingest_fixture.h"
#include "tests/shared/transport_pair.h"

namespace ikkuna::ingest {
namespace {

constexpr uint64_t kNever = ~uint64_t{0};
constexpr uint64_t kSpan = 128;  // of 64 bytes

class LateRoomTest : public testing::Test {
 protected:
  void Open(uint64_t unready_ns, uint32_t slots = 1024, uint64_t late_bytes = 1 << 16, uint64_t skip_through = 0) {
    drain_.reset();
    pair_ = std::make_unique<shm::TransportPair>(
        shm::PubSizes{.ring_slots = slots, .arena_bytes = 4096, .registry_bytes = 4096, .late_bytes = late_bytes});
    ASSERT_TRUE(pair_->ok());
    Start(unready_ns, skip_through);
  }
  void Start(uint64_t unready_ns, uint64_t skip_through = 0) {
    std::vector<std::unique_ptr<PayloadSource>> sources;
    sources.push_back(std::make_unique<HostArenaSource>());
    drain_ = std::make_unique<Drain>(*pair_->view, *pair_->ctl, std::move(sources), skip_through, 0, unready_ns,
                                     [this](const shm::Message& message) { Take(message); });
  }
  void Take(const shm::Message& message) {
    seqs_.push_back(message.record.seq);
    last_ = message.record;
    if (at_each_) at_each_();
    if (message.payload != nullptr) first_bytes_.push_back(message.payload[0]);
  }
  struct Where {
    uint8_t root = 1;
    uint64_t step = 0;
    uint32_t pass = 0;
    uint32_t module = 1;
  };
  shm::LateSpan Late(const Where& where) {
    auto reservation = pair_->writer->Reserve(Space::kHostLate, 64);
    EXPECT_TRUE(reservation);
    shm::Record& record = reservation.record();
    shm::FillTensor(record, 64);
    record.space = static_cast<uint8_t>(Space::kHostLate);
    record.root = where.root;
    record.global_step = where.step;
    record.pass = where.pass;
    record.module = where.module;
    const shm::LateSpan span = reservation.TakeLate();
    reservation.Commit();
    return span;
  }
  // Of 4 elements, as the record says.
  shm::LateSpan LateStats() {
    auto reservation = pair_->writer->Reserve(Space::kHostLate, sizeof(TensorStats));
    EXPECT_TRUE(reservation);
    shm::Record& record = reservation.record();
    shm::FillTensor(record, 4);
    record.type = static_cast<uint8_t>(RecordType::kSummary);
    record.space = static_cast<uint8_t>(Space::kHostLate);
    const shm::LateSpan span = reservation.TakeLate();
    reservation.Commit();
    return span;
  }
  void FailLate() { shm::Reservation failed = pair_->writer->Reserve(Space::kHostLate, 64); }
  void ExpectCorrupt() {
    auto done = drain_->Run(100, kNever);
    ASSERT_FALSE(done.ok());
    EXPECT_EQ(done.error().code, ErrorCode::kCorrupt);
  }
  unsigned char* late_ring() { return pair_->writer->segment().data() + pair_->writer->header().late_offset; }
  void Marker(Kind kind, const Where& where, std::vector<uint32_t> passes = {}, uint32_t lowest_open = 0) {
    auto reservation = pair_->writer->Reserve(Space::kInline, 0);
    ASSERT_TRUE(reservation);
    shm::Record& record = reservation.record();
    shm::FillScalar(record, 0);
    record.type = static_cast<uint8_t>(RecordType::kMarker);
    record.kind = static_cast<uint8_t>(kind);
    record.param = 0;
    record.root = where.root;
    record.global_step = where.step;
    record.marker = {};
    for (const uint32_t pass : passes) ASSERT_TRUE(shm::NamePass(record.marker, pass));
    record.marker.passes = static_cast<uint32_t>(passes.size());
    record.marker.lowest_open = lowest_open;
    record.marker.flags = shm::kMarkerKindsKnown;
    reservation.Commit();
  }
  void End(const Where& where, std::vector<uint32_t> passes = {}, uint32_t lowest_open = 0) {
    Marker(Kind::kBatchFinished, where, std::move(passes), lowest_open);
  }
  // Until all is read.
  void Run() {
    do {
      auto done = drain_->Run(1 << 20, kNever);
      ASSERT_TRUE(done.ok()) << done.error().text;
    } while (drain_->position() < pair_->view->reserved());
  }
  void RunUntilNoMoreWait(size_t than) {
    while (drain_->late_waiting() > than) ASSERT_TRUE(drain_->Run(1 << 20, kNever).ok());
  }
  std::vector<uint64_t> TakeSeqs() { return std::exchange(seqs_, {}); }
  using Seqs = std::vector<uint64_t>;

  std::unique_ptr<shm::TransportPair> pair_;
  std::unique_ptr<Drain> drain_;
  Seqs seqs_;
  shm::Record last_{};
  std::vector<unsigned char> first_bytes_;
  std::function<void()> at_each_;
};

TEST_F(LateRoomTest, EachIsHandedOnWhenItIsReadyAndHoldsUpNobody) {
  Open(kNever);
  const auto one = Late({.module = 1}), two = Late({.module = 2});
  ASSERT_TRUE(shm::PublishScalar(*pair_->writer, 1));
  ASSERT_TRUE(shm::PublishBytes(*pair_->writer, 64, 9));
  Run();
  EXPECT_EQ(TakeSeqs(), (Seqs{3, 4}));
  EXPECT_EQ(drain_->handled(), 2u);
  EXPECT_EQ(drain_->read_seq(), 0u) << "what waits is read, and not done with";
  EXPECT_EQ(drain_->first_late_seq(), 1u);
  EXPECT_EQ(pair_->ctl_view->heads(), (shm::Heads{4, 64, 0})) << "neither ring nor arena waits";
  shm::Deliver(two, 22);
  Run();
  EXPECT_EQ(TakeSeqs(), (Seqs{2}));
  EXPECT_EQ(pair_->ctl_view->heads().late_head, 0u) << "first in, first out";
  shm::Deliver(one, 11);
  Run();
  EXPECT_EQ(TakeSeqs(), (Seqs{1}));
  EXPECT_EQ(first_bytes_, (std::vector<unsigned char>{9, 22, 11}));
  EXPECT_EQ(pair_->ctl_view->heads().late_head, 2 * kSpan);
  EXPECT_EQ(drain_->handled(), 4u);
  EXPECT_EQ(drain_->read_seq(), 4u);
  EXPECT_EQ(drain_->unready(), 0u);
}

TEST_F(LateRoomTest, WhatIsReadyWhenItIsReadWaitsForNoTurn) {
  Open(kNever);
  shm::Deliver(Late({}), 1);
  End({});
  Run();
  EXPECT_EQ(TakeSeqs(), (Seqs{1, 2}));
}

// Calls of a module are merged in their order, within a pass.
TEST_F(LateRoomTest, MessagesOfOneSlotKeepTheirOrder) {
  Open(kNever);
  const auto first = Late({.pass = 3}), second = Late({.pass = 3}), other = Late({.pass = 4});
  shm::Deliver(second, 2);
  shm::Deliver(other, 3);
  Run();
  EXPECT_EQ(TakeSeqs(), (Seqs{3}));
  shm::Deliver(first, 1);
  Run();
  EXPECT_EQ(TakeSeqs(), (Seqs{1, 2}));
}

TEST_F(LateRoomTest, StepsOfARootCloseWholeAndInOrder) {
  Open(kNever);
  const auto first = Late({.step = 0});
  End({.step = 0});
  Marker(Kind::kBatchStarted, {.step = 1});
  Marker(Kind::kPassesNamed, {.step = 1}, {5});
  const auto second = Late({.step = 1, .module = 2});
  End({.step = 1});
  End({.root = 2, .step = 7});
  Run();
  EXPECT_EQ(TakeSeqs(), (Seqs{3, 7})) << "beginnings and other roots go by";
  shm::Deliver(second, 2);
  Run();
  EXPECT_EQ(TakeSeqs(), (Seqs{5})) << "its step waits for the one before";
  shm::Deliver(first, 1);
  Run();
  EXPECT_EQ(TakeSeqs(), (Seqs{1, 2, 4, 6}));
  EXPECT_EQ(last_.marker.dropped_kinds, 0u);
  EXPECT_EQ(drain_->handled(), 7u);
}

TEST_F(LateRoomTest, WhatIsNeverReadyIsCountedAndItsStepLacksTheKind) {
  Open(0);
  const auto span = Late({.step = 4});
  End({.step = 4});
  Run();
  EXPECT_EQ(TakeSeqs(), (Seqs{2}));
  EXPECT_EQ(last_.marker.dropped_kinds, KindBit(Kind::kActivations));
  EXPECT_EQ(drain_->unready(), 1u);
  EXPECT_EQ(drain_->handled(), 2u);
  EXPECT_EQ(pair_->ctl_view->heads().late_head, kSpan) << "the daemon is through with it";
  End({.step = 5});
  Run();
  EXPECT_EQ(last_.marker.dropped_kinds, 0u) << "the next step has all its own";
  // Its room stays taken until its word comes: what is left fits no more than once.
  uint64_t published = 0;
  while (shm::PublishLate(*pair_->writer, 64)) {
    ++published;
    Run();
  }
  EXPECT_EQ(published, (1u << 16) / kSpan - 1);
  span.SetReady();
  EXPECT_TRUE(shm::PublishLate(*pair_->writer, 64));
}

// The step that it belongs to is the one that names its pass.
TEST_F(LateRoomTest, WhatIsNeverReadyOfAPassIsLackingWhereThePassIsNamed) {
  Open(0);
  Late({.step = 4, .pass = 9});
  Late({.step = 4, .pass = 10});
  End({.step = 4}, {8});
  Run();
  EXPECT_EQ(last_.marker.dropped_kinds, 0u);
  Marker(Kind::kPassesNamed, {.step = 5}, {9});
  End({.step = 5}, {}, 11);  // pass 10 will not be named any more
  Run();
  EXPECT_EQ(last_.marker.dropped_kinds, KindBit(Kind::kActivations));
  End({.step = 6}, {10});
  Run();
  EXPECT_EQ(last_.marker.dropped_kinds, 0u);
  EXPECT_EQ(drain_->unready(), 2u);
}

// The probe drops none of these for want of room, though much may be ready at once.
TEST_F(LateRoomTest, MuchThatIsReadyIsHandedOnInTurnsAndItsRoomIsTold) {
  Open(kNever, 1024, 4096);
  std::vector<shm::LateSpan> spans;
  for (uint32_t i = 0; i < 20; ++i) spans.push_back(Late({.module = i + 1}));
  Run();
  EXPECT_EQ(drain_->late_waiting(), 20u);
  for (const auto& span : spans) shm::Deliver(span, 1);
  uint64_t told = 0;
  at_each_ = [&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    told = std::max(told, pair_->ctl_view->heads().late_head.value());
  };
  ASSERT_TRUE(drain_->Run(1 << 20, kNever).ok());
  EXPECT_LT(seqs_.size(), 20u) << "the session looks up";
  RunUntilNoMoreWait(0);
  EXPECT_EQ(seqs_.size(), 20u);
  EXPECT_GT(told, 0u) << "the probe may go on while they are handled";
}

// Those that are done with behind one that waits are no crowd.
TEST_F(LateRoomTest, OneThatWaitsIsNotGivenUpForThoseThatAreThrough) {
  Open(kNever, 65536, (LateRoom::kWaitingMax + 100) * kSpan);
  Late({.module = 1});
  for (uint32_t i = 0; i < LateRoom::kWaitingMax + 10; ++i) shm::Deliver(Late({.module = i % 1000 + 2}), 1);
  while (drain_->position() < pair_->view->reserved())
    ASSERT_TRUE(drain_->Run(4096, kNever).ok());  // as a session does
  RunUntilNoMoreWait(1);
  EXPECT_EQ(drain_->crowded() + drain_->unready(), 0u);
  EXPECT_EQ(seqs_.size(), LateRoom::kWaitingMax + 10);
}

TEST_F(LateRoomTest, VoidsBehindOneThatWaitsTakeNoMemory) {
  Open(kNever);
  const auto first = Late({});
  for (int i = 0; i < 400; ++i) FailLate();
  Run();
  EXPECT_EQ(drain_->voids(), 400u);
  EXPECT_EQ(drain_->late_waiting(), 1u);
  EXPECT_EQ(pair_->ctl_view->heads().late_head, 0u);
  shm::Deliver(first, 1);
  Run();
  EXPECT_EQ(pair_->ctl_view->heads().late_head, 401 * kSpan);
}

// Many that are not ready at the front do not hide what is, for long.
TEST_F(LateRoomTest, OneThatIsReadyBehindManyThatAreNotIsFound) {
  Open(kNever);
  for (uint32_t i = 0; i < 3 * LateRoom::kUnreadyRow; ++i) Late({.module = i + 1});
  const auto last = Late({.module = 1000});
  Run();
  shm::Deliver(last, 1);
  while (seqs_.empty()) ASSERT_TRUE(drain_->Run(1, kNever).ok());
  EXPECT_EQ(TakeSeqs(), (Seqs{3 * LateRoom::kUnreadyRow + 1}));
}

TEST_F(LateRoomTest, MoreThanMayWaitGivesUpTheOldest) {
  constexpr uint64_t kMore = 3;
  Open(kNever, 65536, (LateRoom::kWaitingMax + kMore) * kSpan + 4096);
  std::vector<shm::LateSpan> spans;
  for (uint32_t i = 0; i < LateRoom::kWaitingMax; ++i) spans.push_back(Late({.module = i + 1}));
  Run();
  EXPECT_EQ(drain_->crowded(), 0u);
  shm::Deliver(spans[1], 1);
  for (uint32_t i = 0; i < kMore; ++i) Late({.module = i + 10'000});
  auto done = drain_->Run(kMore, kNever);
  ASSERT_TRUE(done.ok());
  EXPECT_EQ(TakeSeqs(), (Seqs{2})) << "the second was ready";
  EXPECT_EQ(drain_->crowded(), 2u);
  EXPECT_EQ(drain_->unready(), 0u) << "not for want of time";
  EXPECT_EQ(drain_->handled(), 3u);
  EXPECT_EQ(drain_->first_late_seq(), 4u);
}

TEST_F(LateRoomTest, TooManyStepsBehindItGiveItUp) {
  Open(kNever);
  Late({.step = 0});
  for (uint64_t step = 0; step < LateRoom::kStepsMax; ++step) End({.step = step});
  Run();
  EXPECT_TRUE(TakeSeqs().empty());
  End({.step = LateRoom::kStepsMax});
  Run();
  EXPECT_EQ(seqs_.size(), LateRoom::kStepsMax + 1);
  EXPECT_TRUE(std::is_sorted(seqs_.begin(), seqs_.end()));
  EXPECT_EQ(drain_->crowded(), 1u);
}

// ---- What a step lacks

// Each of more passes than are kept in mind lacks something: what was forgotten is withheld of every step.
TEST_F(LateRoomTest, LacksThatAreForgottenCountForEveryStepOfTheirRoot) {
  Open(0, 1024, 1 << 18);
  Late({.step = 4, .pass = 9});
  Run();
  for (uint32_t i = 0; i < LateRoom::kLacksMax; ++i) {
    Late({.root = 2, .step = 4, .pass = i + 1});
    if (i % 512 != 511) continue;
    Run();
    RunUntilNoMoreWait(0);
  }
  ASSERT_EQ(drain_->unready(), LateRoom::kLacksMax + 1);
  End({.step = 4}, {9});
  Run();
  EXPECT_EQ(last_.marker.dropped_kinds, KindBit(Kind::kActivations));
  End({.step = 5});
  Run();
  EXPECT_EQ(last_.marker.dropped_kinds, KindBit(Kind::kActivations)) << "it is not known which";
  End({.root = 2, .step = 4});
  Run();
  EXPECT_EQ(last_.marker.dropped_kinds, 0u) << "another root's are known";
  for (uint64_t step = 6; step < 6 + LateRoom::kEndsMax; ++step) {
    End({.step = step});
    if (step % 512 == 0) Run();
  }
  Run();
  EXPECT_EQ(last_.marker.dropped_kinds, 0u) << "it has ended by now, or never will";
}

TEST_F(LateRoomTest, AStepThatBeginsAnewLacksNothing) {
  Open(0);
  Late({.step = 4});
  Run();
  EXPECT_EQ(drain_->unready(), 1u);
  Marker(Kind::kBatchStarted, {.step = 4});
  End({.step = 4});
  Run();
  EXPECT_EQ(last_.marker.dropped_kinds, 0u);
}

TEST_F(LateRoomTest, AStepThatNeverEndsIsForgotten) {
  Open(0);
  Late({.step = 4});
  Run();
  for (uint64_t step = 5; step <= 5 + LateRoom::kEndsMax; ++step) {
    End({.step = step});
    if (step % 512 == 0) Run();
  }
  End({.step = 4});
  Run();
  EXPECT_EQ(last_.marker.dropped_kinds, 0u);
}

// ---- Ends

TEST_F(LateRoomTest, AtTheEndWhatIsReadyIsTakenAndTheRestCounted) {
  Open(kNever);
  Late({.module = 1});
  const auto ready = Late({.module = 2});
  End({});
  Run();
  shm::Deliver(ready, 2);
  drain_->FinishLate(kNever);
  EXPECT_EQ(TakeSeqs(), (Seqs{2, 3}));
  EXPECT_EQ(last_.marker.dropped_kinds, KindBit(Kind::kActivations));
  EXPECT_EQ(drain_->handled(), 3u);
  EXPECT_EQ(drain_->unready(), 1u);
  EXPECT_EQ(drain_->first_late_seq(), kNever);
}

TEST_F(LateRoomTest, TheEndWaitsForNoneBeyondItsTime) {
  Open(kNever);
  const auto span = Late({});
  End({});
  Run();
  shm::Deliver(span, 1);
  drain_->FinishLate(0);
  EXPECT_EQ(TakeSeqs(), (Seqs{2}));
  EXPECT_EQ(last_.marker.dropped_kinds, KindBit(Kind::kActivations));
  EXPECT_EQ(drain_->unready(), 1u);
}

TEST_F(LateRoomTest, VoidsAndWhatWasHandledBeforeOnlyFreeTheirBytes) {
  Open(kNever, 1024, 1 << 16, 1);
  Late({});  // of an earlier session
  FailLate();
  Run();
  EXPECT_TRUE(TakeSeqs().empty());
  EXPECT_EQ(drain_->handled(), 1u);
  EXPECT_EQ(drain_->voids(), 1u);
  EXPECT_EQ(drain_->unready(), 0u);
  EXPECT_EQ(pair_->ctl_view->heads().late_head, 2 * kSpan);
}

TEST_F(LateRoomTest, Malicious_AWordOfAnotherRecord) {
  Open(kNever);
  const auto span = Late({});
  Run();
  shm::StoreRelease(*span.word(), 77);
  ExpectCorrupt();
}

// Where the record keeps the place of its bytes there are their numbers afterwards: a peer's place, which nobody
// checked. The first of these has all that is wanted of a span, the second lies at the end of the mapping.
TEST_F(LateRoomTest, Malicious_WhatIsRefusedIsNotReadAgain) {
  constexpr uint64_t kLateBytes = 4096;
  for (const uint64_t place : {uint64_t{1024}, kLateBytes - 8}) {
    Open(kNever, 64, kLateBytes);
    const auto span = LateStats();
    Run();
    const float values[4] = {1, 2, 3, 4};
    TensorStats stats = ComputeStats(values, DType::kF32, 4);
    if (place == 1024) std::memcpy(late_ring() + place + sizeof(shm::LateSpanHeader), &stats, sizeof stats);
    const uint64_t seq = span.seq();
    std::memcpy(late_ring() + place, &seq, sizeof seq);
    stats.n = place;
    std::memcpy(span.data(), &stats, sizeof stats);
    span.SetReady();
    ExpectCorrupt();
    drain_->FinishLate(kNever);
    EXPECT_TRUE(TakeSeqs().empty()) << place;
    EXPECT_EQ(drain_->unready(), 1u);
  }
}

// A ring of two pages: no probe has room eight pages ahead of what is released.
TEST_F(LateRoomTest, Malicious_BytesBeyondTheRoom) {
  for (const bool is_void : {false, true}) {
    Open(kNever, 64, 8192);
    Late({});
    if (is_void) {
      FailLate();
    } else {
      Late({.module = 2});
    }
    pair_->slot(1).payload.position += 32768;
    shm::StoreRelease(pair_->shared_status().late_tail, 65536);
    ExpectCorrupt();
  }
}

// ---- From a producer to the store

class LateIngestTest : public IngestTest {
 protected:
  static shm::PubSizes Sizes() {
    shm::PubSizes sizes = TestProducer::SmallSizes();
    sizes.late_bytes = 4096;
    return sizes;
  }
  std::unique_ptr<TestCore> MakeCore(uint64_t unready_ns = IngestContext{}.unready_ns) {
    return std::make_unique<TestCore>(temp_.sub("dir"), store_, AcceptorOptions{},
                                      decltype(IngestContext::make_sources){}, IngestContext{}.unseen_grace_ns,
                                      unready_ns);
  }
  // A step whose weights, all `value`, are a device's work. Delivered by Deliver().
  static shm::LateSpan Step(TestProducer& producer, uint64_t step) {
    producer.Marker(Kind::kBatchStarted, step);
    const shm::LateSpan span = producer.LateSummary(step);
    producer.Scalar(Kind::kLoss, step, 1);
    producer.Marker(Kind::kBatchFinished, step);
    return span;
  }
  static void Deliver(const shm::LateSpan& span, float value) {
    const float data[4] = {value, value, value, value};
    const TensorStats stats = ComputeStats(data, DType::kF32, 4);
    std::memcpy(span.data(), &stats, sizeof stats);
    span.SetReady();
  }
  static uint64_t Missing(const ProducerStatus& status, const std::string& reason) {
    for (const Count& count : status.missing) {
      if (count.reason == reason) return count.count;
    }
    return 0;
  }
};

TEST_F(LateIngestTest, StatisticsOfADeviceReachTheirStep) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"), Sizes());
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  for (uint64_t step = 0; step < 100; ++step) {  // laps of the ring of late bytes
    const auto span = Step(producer, step);
    ASSERT_TRUE(Eventually([&] { return producer.ctl().heads().ring_head == 4 * (step + 1); }));
    Deliver(span, static_cast<float>(step));
    ASSERT_TRUE(AllHandled(*core, producer));
    ASSERT_TRUE(Eventually([&] { return core->Values("weights_mean").size() == step + 1; }));
    EXPECT_EQ(core->Values("weights_mean")[step], static_cast<double>(step));
  }
  const auto status = core->StatusOf(producer.hello().uuid);
  ExpectBalanced(status);
  EXPECT_EQ(status.dropped_total, 0u);
  EXPECT_TRUE(status.missing.empty());
  EXPECT_EQ(core->Values("loss").size(), 100u);
}

TEST_F(LateIngestTest, WhatIsNeverReadyIsCountedWhileTheTrainerGoesOn) {
  auto core = MakeCore(1);
  TestProducer producer(temp_.sub("dir"), Sizes());
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  Step(producer, 0);
  ASSERT_TRUE(AllHandled(*core, producer));  // the graph of these tests knows one step at a time
  producer.Step(1, 1);
  ASSERT_TRUE(AllHandled(*core, producer));
  const auto status = core->StatusOf(producer.hello().uuid);
  EXPECT_EQ(Missing(status, "unready"), 1u);
  EXPECT_EQ(status.handled, 8u);
  ExpectBalanced(status);
  EXPECT_TRUE(Eventually([&] { return core->Values("loss").size() == 2u; }));
}

TEST_F(LateIngestTest, WhatIsNotReadyAtACleanEndIsCounted) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"), Sizes());
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  Step(producer, 0);
  producer.Finish();
  ASSERT_TRUE(Reaches(*core, producer, RunState::kFinished));
  const auto status = core->StatusOf(producer.hello().uuid);
  EXPECT_EQ(Missing(status, "unready"), 1u);
  ExpectBalanced(status);
}

// It is not done, whatever has overtaken it: what an earlier daemon left waiting is lost with it, and counted as that.
TEST_F(LateIngestTest, WhatWaitsIsNotDoneForTheStore) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"), Sizes());
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  const RunKey key = core->StatusOf(producer.hello().uuid).info.run_key;
  producer.Step(0, 1);
  ASSERT_TRUE(Eventually([&] { return store_->LoadProgress(key)->done_seq == 4; }));
  // No step of the graph's holds it; another root's overtakes it, and goes to the store.
  const auto span = producer.LateSummary(1);
  const auto publish = [&](Kind kind, RecordType type) {
    producer.Publish(7, kind, [&](shm::Record& record) {
      record.root = 2;
      record.type = static_cast<uint8_t>(type);
    });
  };
  publish(Kind::kBatchStarted, RecordType::kMarker);
  publish(Kind::kLoss, RecordType::kScalar);
  publish(Kind::kBatchFinished, RecordType::kMarker);
  ASSERT_TRUE(Eventually([&] { return core->Values("loss").contains(7); }));
  EXPECT_EQ(store_->LoadProgress(key)->done_seq, 4u) << "it came with the values";
  Deliver(span, 3);
  ASSERT_TRUE(Eventually([&] { return store_->LoadProgress(key)->done_seq == 8; }));
}

TEST_F(LateIngestTest, Malicious_AWordOfAnotherRecordQuarantines) {
  auto core = MakeCore();
  TestProducer producer(temp_.sub("dir"), Sizes());
  producer.Register();
  ASSERT_TRUE(producer.Connect()) << producer.reject();
  const auto span = Step(producer, 0);
  shm::StoreRelease(*span.word(), 1000);
  ASSERT_TRUE(Reaches(*core, producer, RunState::kQuarantined));
  EXPECT_EQ(core->Events("quarantined").size(), 1u);
}

}  // namespace
}  // namespace ikkuna::ingest
