// The arena: where payloads go, what frees them, and what happens when there is no room.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/shared/transport_pair.h"

namespace ikkuna::shm {
namespace {

void ExpectBytes(const Message& message, uint64_t bytes, unsigned char fill) {
  ASSERT_EQ(message.payload_bytes, bytes);
  ASSERT_NE(message.payload, nullptr);
  EXPECT_TRUE(std::all_of(message.payload, message.payload + bytes, [&](unsigned char b) { return b == fill; }));
}

TEST(Arena, PayloadArrivesAlignedAndWhole) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  ASSERT_TRUE(PublishBytes(*pair.writer, 100, 0xa5));
  ASSERT_TRUE(PublishBytes(*pair.writer, 1, 0x5a));
  const Message first = MustRead(*pair.view);
  EXPECT_EQ(first.record.payload.position, 0u);
  ExpectBytes(first, 100, 0xa5);
  EXPECT_EQ(pair.view->arena_position(), 128u);
  const Message second = MustRead(*pair.view);
  EXPECT_EQ(second.record.payload.position, 128u);
  ExpectBytes(second, 1, 0x5a);
  EXPECT_EQ(pair.view->arena_position(), 192u);
}

TEST(Arena, EmptyTensorTakesNoBytes) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  ASSERT_TRUE(PublishBytes(*pair.writer, 0, 0));
  const Message message = MustRead(*pair.view);
  EXPECT_EQ(message.payload_bytes, 0u);
  EXPECT_EQ(pair.view->arena_position(), 0u);
}

TEST(Arena, ShortRestIsSkippedAndFreedWithThePayloadBehindIt) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  ASSERT_TRUE(PublishBytes(*pair.writer, 3008, 1));
  MustRead(*pair.view);
  pair.FreeAll();
  ASSERT_TRUE(PublishBytes(*pair.writer, 2048, 2));  // 1088 bytes are left before the end
  const Message message = MustRead(*pair.view);
  EXPECT_EQ(message.record.payload.position, 4096u);
  ExpectBytes(message, 2048, 2);
  EXPECT_EQ(pair.view->arena_position(), 4096u + 2048u);
  // In use: the skipped 1088 and the 2048. Free: the rest.
  EXPECT_FALSE(PublishBytes(*pair.writer, 1024, 3)) << "the skipped bytes are not free before the payload is";
  EXPECT_EQ(Dropped(pair, DropReason::kArenaFull), 1u);
  EXPECT_TRUE(PublishBytes(*pair.writer, 960, 3));
  pair.FreeAll();
  EXPECT_TRUE(PublishBytes(*pair.writer, 1024, 4));
}

TEST(Arena, WholeExtentFitsWhereverTheTailStands) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  ASSERT_TRUE(PublishBytes(*pair.writer, 64, 1));
  EXPECT_FALSE(PublishBytes(*pair.writer, 4096, 2)) << "64 bytes are in use";
  MustRead(*pair.view);
  pair.FreeAll();
  ASSERT_TRUE(PublishBytes(*pair.writer, 4096, 2));
  const Message message = MustRead(*pair.view);
  EXPECT_EQ(message.record.payload.position, 4096u);
  ExpectBytes(message, 4096, 2);
  EXPECT_FALSE(PublishBytes(*pair.writer, 1, 3));
  pair.FreeAll();
  EXPECT_TRUE(PublishBytes(*pair.writer, 4096, 4));
}

TEST(Arena, OversizeIsNotFull) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  EXPECT_FALSE(PublishBytes(*pair.writer, 4097, 1));
  EXPECT_EQ(Dropped(pair, DropReason::kOversize), 1u);
  EXPECT_FALSE(pair.writer->Reserve(Space::kHostArena, ~uint64_t{0}));
  EXPECT_EQ(Dropped(pair, DropReason::kOversize), 2u);
  EXPECT_EQ(Dropped(pair, DropReason::kArenaFull), 0u);
}

TEST(Arena, UnbackedArenaDropsPayloadsOnly) {
  auto writer = PubWriter::Create({.ring_slots = 8, .arena_bytes = 1 << 20, .registry_bytes = 4096});
  ASSERT_TRUE(writer.ok());
  EXPECT_FALSE((*writer)->Reserve(Space::kHostArena, 64));
  EXPECT_EQ((*writer)->status().dropped[static_cast<size_t>(DropReason::kArenaFull)], 1u);
  EXPECT_TRUE(PublishScalar(**writer, 1));
}

TEST(Arena, ExtentMayBeSmallerThanTheCapacityAndIsFixedOnce) {
  TransportPair pair({.ring_slots = 8, .arena_bytes = 0, .registry_bytes = 4096});
  ASSERT_TRUE(pair.ok());
  EXPECT_EQ(pair.writer->BackArena(1 << 20), 0u) << "no arena";
  auto made = PubWriter::Create({.ring_slots = 8, .arena_bytes = 1 << 20, .registry_bytes = 4096});
  ASSERT_TRUE(made.ok());
  pair.writer = std::move(made).value();
  EXPECT_EQ(pair.writer->BackArena(3 * 4096 + 1), 3 * 4096u);
  EXPECT_EQ(pair.writer->BackArena(1 << 20), 3 * 4096u);
  pair.Connect();
  auto entries = pair.view->ReadRegistry();
  ASSERT_TRUE(entries.ok());
  ASSERT_EQ(entries->size(), 1u);
  EXPECT_EQ(entries->front().type, EntryType::kArenaExtent);
  EXPECT_EQ(entries->front().value, 3 * 4096u);
  // Laps of an extent that is no power of two.
  for (int lap = 0; lap < 20; ++lap) {
    ASSERT_TRUE(PublishBytes(*pair.writer, 5000, static_cast<unsigned char>(lap)));
    ExpectBytes(MustRead(*pair.view), 5000, static_cast<unsigned char>(lap));
    pair.FreeAll();
  }
}

TEST(Arena, ReaderFindsAnExtentThatItHasNotBeenAskedToRead) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  ASSERT_TRUE(PublishBytes(*pair.writer, 64, 9));
  ExpectBytes(MustRead(*pair.view), 64, 9);
  auto entries = pair.view->ReadRegistry();
  ASSERT_TRUE(entries.ok());
  EXPECT_EQ(entries->size(), 1u) << "read on the way, and still handed out";
}

// A daemon died after it had freed the ring slots, before it freed the payloads: nothing would ever free them.
TEST(Arena, BytesThatADeadDaemonKeptAreFreedByTheNext) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  ASSERT_TRUE(PublishBytes(*pair.writer, 4096, 1));
  MustRead(*pair.view);
  pair.ctl->SetHeads({pair.view->ring_position(), 0});
  EXPECT_FALSE(PublishBytes(*pair.writer, 64, 2));
  pair.writer->SetHeadSource(nullptr);
  pair.Connect();
  EXPECT_TRUE(ReadsNothing(*pair.view));
  EXPECT_EQ(pair.view->arena_position(), 4096u);
  pair.FreeAll();
  EXPECT_TRUE(PublishBytes(*pair.writer, 64, 2));
}

TEST(Arena, TailOfAReservationUnderWayIsNotFreed) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  auto reservation = pair.writer->Reserve(Space::kHostArena, 128);
  ASSERT_TRUE(reservation);
  EXPECT_TRUE(ReadsNothing(*pair.view));
  EXPECT_EQ(pair.view->arena_position(), 0u);
  FillTensor(reservation.record(), 128);
  reservation.Commit();
  MustRead(*pair.view);
}

}  // namespace
}  // namespace ikkuna::shm
