// The ring: half-written states made by hand, then what each side does with them.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "tests/shared/leave_open.h"
#include "tests/shared/transport_pair.h"

namespace ikkuna::shm {
namespace {

TEST(Ring, EmptyReadsNothing) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  EXPECT_TRUE(ReadsNothing(*pair.view));
  EXPECT_EQ(pair.view->pending(), 0u);
}

TEST(Ring, MessageArrivesWithEveryField) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  auto reservation = pair.writer->Reserve(Space::kInline, 0);
  ASSERT_TRUE(reservation);
  FillScalar(reservation.record(), 2.5);
  reservation.record().flags = kFlagStepInferred;
  reservation.Commit();
  const Message message = MustRead(*pair.view);
  EXPECT_EQ(message.record.seq, 1u);
  EXPECT_EQ(message.record.scalar, 2.5);
  EXPECT_EQ(message.record.global_step, 2u);
  EXPECT_EQ(message.record.epoch, 3u);
  EXPECT_EQ(message.record.train_step, 4u);
  EXPECT_EQ(message.record.flags, kFlagStepInferred);
  EXPECT_EQ(message.payload, nullptr);
  EXPECT_EQ(pair.view->ring_position(), 1u);
  EXPECT_TRUE(ReadsNothing(*pair.view));
}

TEST(Ring, ReservedIsNotReadBeforeCommit) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  auto reservation = pair.writer->Reserve(Space::kInline, 0);
  FillScalar(reservation.record(), 1);
  EXPECT_TRUE(ReadsNothing(*pair.view));
  EXPECT_EQ(pair.view->pending(), 1u);
  reservation.Commit();
  EXPECT_EQ(MustRead(*pair.view).record.scalar, 1);
}

// Two threads reserve; the second commits first. Order is that of the positions.
TEST(Ring, ReaderStopsAtFirstUncommittedSlot) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  auto first = pair.writer->Reserve(Space::kInline, 0);
  FillScalar(first.record(), 1);
  // As another thread would leave it: reserved and committed by hand, since this thread is inside a publish.
  StoreRelease(pair.shared_status().reserved, 2);
  FillScalar(pair.slot(1), 2);
  StoreRelease(pair.slot(1).seq, 2);
  EXPECT_TRUE(ReadsNothing(*pair.view));
  first.Commit();
  EXPECT_EQ(MustRead(*pair.view).record.scalar, 1);
  EXPECT_EQ(MustRead(*pair.view).record.scalar, 2);
}

TEST(Ring, SequenceOfALapBeforeIsNotCommitted) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(PublishScalar(*pair.writer, i));
  for (int i = 0; i < 8; ++i) MustRead(*pair.view);
  pair.FreeAll();
  auto second_lap = pair.writer->Reserve(Space::kInline, 0);
  ASSERT_TRUE(second_lap);
  EXPECT_EQ(second_lap.position(), 8u);
  EXPECT_EQ(pair.slot(8).seq, 1u) << "the seq of position 0 is still in the slot";
  EXPECT_TRUE(ReadsNothing(*pair.view));
  FillScalar(second_lap.record(), 8);
  second_lap.Commit();
  EXPECT_EQ(MustRead(*pair.view).record.scalar, 8);
}

TEST(Ring, FullDropsAndCountsUntilTheHeadMoves) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(PublishScalar(*pair.writer, i));
  EXPECT_FALSE(PublishScalar(*pair.writer, 8));
  EXPECT_FALSE(PublishScalar(*pair.writer, 9));
  MustRead(*pair.view);
  EXPECT_FALSE(PublishScalar(*pair.writer, 10)) << "read, but its slot not given back";
  pair.FreeAll();
  EXPECT_TRUE(PublishScalar(*pair.writer, 11));
  const StatusSnapshot status = pair.view->ReadStatus();
  EXPECT_EQ(status.status.attempted, 12u);
  EXPECT_EQ(status.status.dropped[static_cast<size_t>(DropReason::kRingFull)], 3u);
  EXPECT_EQ(status.dropped_total, 3u);
  EXPECT_EQ(status.status.reserved, 9u);
  for (int i = 1; i < 8; ++i) EXPECT_EQ(MustRead(*pair.view).record.dropped_total, 0u);
  EXPECT_EQ(MustRead(*pair.view).record.dropped_total, 3u) << "the gap shows in the next record";
}

TEST(Ring, NestedPublishIsReentrant) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  auto outer = pair.writer->Reserve(Space::kInline, 0);
  ASSERT_TRUE(outer);
  EXPECT_FALSE(pair.writer->Reserve(Space::kInline, 0));
  FillScalar(outer.record(), 1);
  outer.Commit();
  EXPECT_TRUE(PublishScalar(*pair.writer, 2));
  const StatusSnapshot status = pair.view->ReadStatus();
  EXPECT_EQ(status.status.dropped[static_cast<size_t>(DropReason::kReentrant)], 1u);
  EXPECT_EQ(status.status.attempted, 3u);
}

TEST(Ring, ReservationLeftOpenEndsWithItsWriter) {
  alignas(TransportPair) unsigned char place[sizeof(TransportPair)];
  for (int i = 0; i < 4; ++i) {  // each writer likely where the one before was
    auto* pair = new (place) TransportPair();
    EXPECT_TRUE(pair->ok());
    Reservation reservation = pair->writer->Reserve(Space::kInline, 0);
    EXPECT_TRUE(reservation);
    LeaveOpen(std::move(reservation));
    pair->~TransportPair();
  }
}

// What is thrown between Reserve and Commit leaves no hole: the reader goes on behind it, its bytes are free again.
TEST(Ring, AnExceptionLeavesAVoidRecordAndNoHole) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  for (int round = 0; round < 20; ++round) {
    const uint64_t bytes = round % 2 == 0 ? 1000 : 0;
    try {
      Reservation reservation = pair.writer->Reserve(Space::kHostArena, bytes);
      ASSERT_TRUE(reservation) << round;
      FillTensor(reservation.record(), bytes);
      throw std::runtime_error("no memory for a copy");
    } catch (const std::runtime_error&) {
    }
    ASSERT_TRUE(PublishBytes(*pair.writer, 1000, 7)) << "nor is the thread still inside a publish";
    const Message message = MustRead(*pair.view);
    EXPECT_EQ(message.record.type, static_cast<uint8_t>(RecordType::kVoid));
    EXPECT_EQ(message.record.payload.bytes, bytes);
    EXPECT_EQ(message.payload, nullptr);
    EXPECT_EQ(message.payload_bytes, 0u);
    EXPECT_EQ(MustRead(*pair.view).payload_bytes, 1000u);
    pair.FreeAll();
  }
  EXPECT_EQ(pair.view->ReadStatus().dropped_total, 0u);
  EXPECT_EQ(pair.view->SkipHole(), 0u);
}

TEST(Ring, AReservationIsCommittedOnceWhereverItIsMoved) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  {
    Reservation reservation = pair.writer->Reserve(Space::kInline, 0);
    FillScalar(reservation.record(), 5);
    Reservation moved = std::move(reservation);
    EXPECT_FALSE(reservation);  // NOLINT(bugprone-use-after-move): that it is empty is what is asked
    reservation.Commit();
    EXPECT_TRUE(ReadsNothing(*pair.view)) << "it is the other's to commit";
    reservation = std::move(moved);
    reservation.Commit();
    EXPECT_FALSE(reservation);
  }
  EXPECT_EQ(MustRead(*pair.view).record.scalar, 5);
  EXPECT_TRUE(ReadsNothing(*pair.view));
}

// One that takes the place of another: what it held is void, not forgotten.
TEST(Ring, AReservationThatIsOverwrittenIsVoid) {
  TransportPair pair, other;
  ASSERT_TRUE(pair.ok() && other.ok());
  Reservation reservation = pair.writer->Reserve(Space::kInline, 0);
  ASSERT_TRUE(reservation);
  reservation = Reservation();
  EXPECT_EQ(MustRead(*pair.view).record.type, static_cast<uint8_t>(RecordType::kVoid));
  reservation = other.writer->Reserve(Space::kHostArena, 64);
  ASSERT_TRUE(reservation);
  FillTensor(reservation.record(), 64);
  reservation.Commit();
  EXPECT_EQ(MustRead(*other.view).payload_bytes, 64u);
}

// Each of its own thread; whichever ends first, none is lost and the order is that of their places.
TEST(Ring, SeveralOpenAtOnceEndInAnyOrder) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  constexpr int kThreads = 3;
  std::atomic<int> reserved{0}, may_end{kThreads};
  std::vector<std::jthread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      while (reserved.load() != i) std::this_thread::yield();
      Reservation reservation = pair.writer->Reserve(i == 1 ? Space::kHostArena : Space::kInline, i == 1 ? 64 : 0);
      EXPECT_TRUE(reservation);
      ++reserved;
      while (may_end.load() != i + 1) std::this_thread::yield();  // the last first
      if (i == 1) {
        FillTensor(reservation.record(), 64);
        reservation.Commit();
      } else {
        reservation = {};
      }
      --may_end;
    });
  }
  threads.clear();
  EXPECT_EQ(MustRead(*pair.view).record.type, static_cast<uint8_t>(RecordType::kVoid));
  EXPECT_EQ(MustRead(*pair.view).payload_bytes, 64u);
  EXPECT_EQ(MustRead(*pair.view).record.type, static_cast<uint8_t>(RecordType::kVoid));
}

TEST(Ring, OnlyTheArenaHasRoomForBytes) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  EXPECT_FALSE(pair.writer->Reserve(Space::kInline, 8));
  EXPECT_FALSE(pair.writer->Reserve(Space::kDevicePool, 8));
  EXPECT_EQ(pair.writer->status().dropped[static_cast<size_t>(DropReason::kOversize)], 2u);
  EXPECT_EQ(pair.writer->status().reserved, 0u);
}

// Each word is read as it is stored; no two stand in each other's place.
TEST(Ring, EveryStatusWordIsRead) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  PubStatus& status = pair.shared_status();
  uint32_t value = 100;
  for (uint32_t* word : {&status.state, &status.attempt, &status.shift_tensor, &status.shift_summary,
                         &status.shift_scalar, &status.control, &status.budget_ppm}) {
    *word = ++value;
  }
  for (uint64_t* word :
       {&status.command_done, &status.command_late, &status.steps_unwatched, &status.registry_count,
        &status.registry_used_bytes, &status.registry_rejected, &status.reserved, &status.arena_tail, &status.late_tail,
        &status.attempted, &status.probe_ns, &status.step_ns, &status.steps_timed, &status.fixed_ns}) {
    *word = (uint64_t{1} << 40) + ++value;
  }
  for (size_t i = 0; i < std::size(status.dropped); ++i) status.dropped[i] = 1000 + i;
  for (size_t i = 0; i < kMaxRoots; ++i) {
    RootStatus& root = status.roots[i];
    root = {++value, ++value, ++value, ++value, ++value, ++value, ++value, {}};
  }
  const StatusSnapshot read = pair.view->ReadStatus();
  EXPECT_EQ(std::memcmp(&read.status, &status, sizeof status), 0);
  EXPECT_EQ(read.dropped_total, 8u * 1000 + 28);
}

TEST(Ring, CountDropAttemptsToo) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  pair.writer->CountDrop(DropReason::kFailed);
  pair.writer->CountDrop(DropReason::kPoolFull);
  const StatusSnapshot status = pair.view->ReadStatus();
  EXPECT_EQ(status.status.attempted, 2u);
  EXPECT_EQ(status.status.dropped[static_cast<size_t>(DropReason::kFailed)], 1u);
  EXPECT_EQ(status.status.dropped[static_cast<size_t>(DropReason::kPoolFull)], 1u);
}

TEST(Ring, HoleOfADeadProducerIsSkippedAndCounted) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  ASSERT_TRUE(PublishScalar(*pair.writer, 0));
  // Two threads died between reserving and committing; a third had committed behind them.
  StoreRelease(pair.shared_status().reserved, 4);
  FillScalar(pair.slot(3), 3);
  StoreRelease(pair.slot(3).seq, 4);
  EXPECT_EQ(MustRead(*pair.view).record.scalar, 0);
  EXPECT_TRUE(ReadsNothing(*pair.view));
  EXPECT_EQ(pair.view->SkipHole(), 2u);
  EXPECT_EQ(MustRead(*pair.view).record.scalar, 3);
  EXPECT_EQ(pair.view->SkipHole(), 0u);
  EXPECT_TRUE(ReadsNothing(*pair.view));
}

TEST(Ring, RestartedDaemonGoesOnAtTheOldHead) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(PublishScalar(*pair.writer, i));
  MustRead(*pair.view);
  MustRead(*pair.view);
  pair.FreeAll();
  ASSERT_TRUE(pair.writer->AcceptHeads(pair.ctl_view->heads()));
  MustRead(*pair.view);  // read, never given back: the daemon dies
  pair.writer->SetHeadSource(nullptr);
  pair.Connect();
  EXPECT_EQ(pair.view->ring_position(), 2u);
  EXPECT_EQ(MustRead(*pair.view).record.scalar, 2) << "read again, since nobody said it was done";
}

TEST(Ring, WithoutADaemonItFillsAndGoesOnDropping) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  pair.writer->SetHeadSource(nullptr);
  int published = 0;
  for (int i = 0; i < 100; ++i) published += PublishScalar(*pair.writer, i) ? 1 : 0;
  EXPECT_EQ(published, 8);
  pair.Connect();
  for (int i = 0; i < 8; ++i) EXPECT_EQ(MustRead(*pair.view).record.scalar, i);
}

TEST(Ring, CreateRefusesSizesThatCannotBe) {
  EXPECT_FALSE(PubWriter::Create({.ring_slots = 12}).ok());
  EXPECT_FALSE(PubWriter::Create({.ring_slots = 0}).ok());
  EXPECT_FALSE(PubWriter::Create({.ring_slots = kMaxRingSlots * 2}).ok());
  EXPECT_FALSE(PubWriter::Create({.arena_bytes = kMaxArenaBytes + 1}).ok());
  EXPECT_FALSE(PubWriter::Create({.registry_bytes = 0}).ok());
  EXPECT_FALSE(PubWriter::Create({.first_position = 64}).ok());
}

}  // namespace
}  // namespace ikkuna::shm
