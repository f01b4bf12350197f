// Bytes that come late: published before they are there, said to be ready by their word, and used again only when both
// sides are through with them.
#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "shared/late_ring.h"
#include "shared/stats/stats_pass.h"
#include "tests/shared/transport_pair.h"

namespace ikkuna::shm {
namespace {

constexpr uint64_t kLatePage = 4096;
constexpr uint64_t kSpan = 1024;  // four fill a page
constexpr uint64_t kBytes = kSpan - sizeof(LateSpanHeader);
constexpr PubSizes kSizes{.ring_slots = 32, .arena_bytes = 0, .registry_bytes = kLatePage, .late_bytes = kLatePage};

bool IsReady(const PubView& view, Message& message) {
  auto ready = view.ReadLate(message);
  EXPECT_TRUE(ready.ok()) << ready.error().text;
  return ready.ok() && *ready;
}

TEST(Late, BytesAreThereWhenTheirWordSaysSo) {
  TransportPair pair(kSizes);
  ASSERT_TRUE(pair.ok());
  const auto span = PublishLate(*pair.writer, 100);
  ASSERT_TRUE(span);
  Message message = MustRead(*pair.view);
  EXPECT_TRUE(IsLate(message));
  EXPECT_EQ(message.payload, nullptr);
  EXPECT_FALSE(IsReady(*pair.view, message));
  std::memset(span->data(), 7, 100);
  EXPECT_FALSE(IsReady(*pair.view, message)) << "written is not said";
  std::thread([&] { span->SetReady(); }).join();
  ASSERT_TRUE(IsReady(*pair.view, message));
  ASSERT_EQ(message.payload_bytes, 100u);
  for (uint64_t i = 0; i < 100; ++i) EXPECT_EQ(message.payload[i], 7);
}

// As a device writes it: the number of the record into the word.
TEST(Late, NumbersStandInTheRecordWhenTheyAreThere) {
  TransportPair pair(kSizes);
  ASSERT_TRUE(pair.ok());
  const float values[] = {1, 2, 4};
  const TensorStats stats = ComputeStats(values, DType::kF32, 3);
  auto reservation = pair.writer->Reserve(Space::kHostLate, sizeof stats);
  ASSERT_TRUE(reservation);
  FillTensor(reservation.record(), sizeof stats);
  reservation.record().type = static_cast<uint8_t>(RecordType::kSummary);
  reservation.record().space = static_cast<uint8_t>(Space::kHostLate);
  reservation.record().sizes[0] = 3;
  const LateSpan summary = reservation.TakeLate();
  reservation.Commit();
  reservation = pair.writer->Reserve(Space::kHostLate, sizeof(double));
  ASSERT_TRUE(reservation);
  const PayloadRef placed = reservation.record().payload;
  FillScalar(reservation.record(), 0);
  reservation.record().payload = placed;
  reservation.record().space = static_cast<uint8_t>(Space::kHostLate);
  const LateSpan scalar = reservation.TakeLate();
  reservation.Commit();

  Message first = MustRead(*pair.view), second = MustRead(*pair.view);
  const double loss = 0.5;
  std::memcpy(scalar.data(), &loss, sizeof loss);
  StoreRelease(*scalar.word(), scalar.seq());
  EXPECT_FALSE(IsReady(*pair.view, first));
  ASSERT_TRUE(IsReady(*pair.view, second));
  EXPECT_EQ(second.record.scalar, 0.5);
  EXPECT_FALSE(IsLate(second)) << "it is one like others now";
  std::memcpy(summary.data(), &stats, sizeof stats);
  StoreRelease(*summary.word(), summary.seq());
  ASSERT_TRUE(IsReady(*pair.view, first));
  EXPECT_EQ(std::memcmp(&first.record.stats, &stats, sizeof stats), 0);
}

TEST(Late, WhatIsNotReadyHoldsUpNoRecord) {
  TransportPair pair(kSizes);
  ASSERT_TRUE(pair.ok());
  const auto first = PublishLate(*pair.writer, 64), second = PublishLate(*pair.writer, 64);
  ASSERT_TRUE(first && second);
  ASSERT_TRUE(PublishScalar(*pair.writer, 3));
  Message one = MustRead(*pair.view), two = MustRead(*pair.view);
  EXPECT_EQ(MustRead(*pair.view).record.scalar, 3);
  Deliver(*second, 2);
  EXPECT_FALSE(IsReady(*pair.view, one));
  EXPECT_TRUE(IsReady(*pair.view, two));
  Deliver(*first, 1);
  EXPECT_TRUE(IsReady(*pair.view, one));
}

TEST(Late, FullDropsAndCountsAndNothingElse) {
  TransportPair pair(kSizes);
  ASSERT_TRUE(pair.ok());
  EXPECT_FALSE(PublishLate(*pair.writer, kLatePage - sizeof(LateSpanHeader) + 1));
  EXPECT_EQ(Dropped(pair, DropReason::kOversize), 1u);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(PublishLate(*pair.writer, kBytes)) << i;
  EXPECT_FALSE(PublishLate(*pair.writer, 1));
  EXPECT_EQ(Dropped(pair, DropReason::kArenaFull), 1u);
  EXPECT_TRUE(PublishScalar(*pair.writer, 1));
}

// A full record ring takes no late bytes.
TEST(Late, AFullRingReservesNoBytes) {
  TransportPair pair({.ring_slots = 2, .arena_bytes = 0, .registry_bytes = kLatePage, .late_bytes = kLatePage});
  ASSERT_TRUE(pair.ok());
  ASSERT_TRUE(PublishScalar(*pair.writer, 1));
  ASSERT_TRUE(PublishScalar(*pair.writer, 2));
  EXPECT_FALSE(PublishLate(*pair.writer, 64));
  EXPECT_EQ(Dropped(pair, DropReason::kRingFull), 1u);
  EXPECT_EQ(pair.writer->status().late_tail, 0u);
}

TEST(Late, ASpanIsUsedAgainWhenItsWordHasComeAndTheDaemonIsThrough) {
  TransportPair pair(kSizes);
  ASSERT_TRUE(pair.ok());
  std::vector<LateSpan> spans;
  for (int i = 0; i < 4; ++i) spans.push_back(PublishLate(*pair.writer, kBytes).value());
  for (int i = 0; i < 4; ++i) MustRead(*pair.view);
  Deliver(spans[0], 1);
  EXPECT_FALSE(PublishLate(*pair.writer, kBytes)) << "the daemon is not through with it";
  pair.FreeAll();
  ASSERT_TRUE(PublishLate(*pair.writer, kBytes));
  EXPECT_FALSE(PublishLate(*pair.writer, kBytes)) << "whatever the head says, the second may be written to";
  Deliver(spans[2], 3);
  EXPECT_FALSE(PublishLate(*pair.writer, kBytes)) << "first in, first out";
  Deliver(spans[1], 2);
  EXPECT_TRUE(PublishLate(*pair.writer, kBytes));
  EXPECT_TRUE(PublishLate(*pair.writer, kBytes));
  EXPECT_FALSE(PublishLate(*pair.writer, kBytes));
  EXPECT_FALSE(pair.writer->peer_lied());
}

TEST(Late, AWordOfAnotherRecordFreesNothing) {
  TransportPair pair(kSizes);
  ASSERT_TRUE(pair.ok());
  const auto span = PublishLate(*pair.writer, kLatePage - sizeof(LateSpanHeader));
  ASSERT_TRUE(span);
  MustRead(*pair.view);
  pair.FreeAll();
  StoreRelease(*span->word(), span->seq() + 1);
  EXPECT_FALSE(PublishLate(*pair.writer, 1));
  span->SetReady();
  EXPECT_TRUE(PublishLate(*pair.writer, 1));
}

TEST(Late, AnExceptionLeavesAVoidWhoseBytesAreFree) {
  TransportPair pair(kSizes);
  ASSERT_TRUE(pair.ok());
  for (int round = 0; round < 10; ++round) {
    try {
      Reservation reservation = pair.writer->Reserve(Space::kHostLate, 3000);
      ASSERT_TRUE(reservation) << round;
      throw std::runtime_error("the kernel could not be launched");
    } catch (const std::runtime_error&) {
    }
    const Message message = MustRead(*pair.view);
    EXPECT_EQ(message.record.type, static_cast<uint8_t>(RecordType::kVoid));
    EXPECT_TRUE(IsLate(message));
    EXPECT_EQ(message.record.payload.bytes, 3000u);
    pair.FreeAll();
  }
}

// Whoever was given the span may write to it still.
TEST(Late, BytesOfAVoidThatAnotherMayWriteAreKept) {
  TransportPair pair(kSizes);
  ASSERT_TRUE(pair.ok());
  LateSpan span;
  {
    Reservation reservation = pair.writer->Reserve(Space::kHostLate, 3000);
    ASSERT_TRUE(reservation);
    span = reservation.TakeLate();
  }
  EXPECT_EQ(MustRead(*pair.view).record.type, static_cast<uint8_t>(RecordType::kVoid));
  pair.FreeAll();
  EXPECT_FALSE(PublishLate(*pair.writer, 3000));
  span.SetReady();
  EXPECT_TRUE(PublishLate(*pair.writer, 3000));
}

// Whoever asks for the span of what has none writes nowhere.
TEST(Late, OtherReservationsHaveNoSpan) {
  TransportPair pair({.ring_slots = 32, .arena_bytes = 4096, .registry_bytes = kLatePage, .late_bytes = kLatePage});
  ASSERT_TRUE(pair.ok());
  ASSERT_TRUE(PublishBytes(*pair.writer, 64, 7));
  auto reservation = pair.writer->Reserve(Space::kHostArena, 64);
  ASSERT_TRUE(reservation);
  FillTensor(reservation.record(), 64);
  reservation.TakeLate().SetReady();
  reservation.TakeLate().GiveUp();
  reservation.Commit();
  const Message first = MustRead(*pair.view);
  for (uint64_t i = 0; i < 64; ++i) ASSERT_EQ(first.payload[i], 7) << "the neighbour's";
  reservation = pair.writer->Reserve(Space::kHostLate, kLatePage);  // dropped
  EXPECT_EQ(reservation.TakeLate().data(), nullptr);
  EXPECT_EQ(Reservation().TakeLate().bytes(), 0u);
}

// It stands on a training thread: after a pause of the daemon it does not give all back that is free by then.
TEST(Late, RoomIsGivenBackBitByBit) {
  constexpr uint64_t kSpanBytes = 128, kSpans = 512;
  std::vector<unsigned char> bytes(kSpanBytes * kSpans + 64);
  void* aligned = bytes.data();
  size_t space = bytes.size();
  ASSERT_NE(std::align(64, kSpanBytes * kSpans, aligned, space), nullptr);
  LateRing ring(static_cast<unsigned char*>(aligned), kSpanBytes * kSpans, 0);
  uint64_t position = 0, seq = 0;
  const auto take = [&](uint64_t size) {
    ring.Take(position, size, ++seq);
    StoreRelaxed(*reinterpret_cast<uint64_t*>(ring.at(position)), seq);
  };
  while (ring.Place(64, 0, position)) take(64);
  EXPECT_EQ(seq, kSpans);
  ASSERT_TRUE(ring.Place(64, ring.tail(), position));
  EXPECT_EQ(ring.open(), kSpans - 1 - LateRing::kAheadMax);
  take(64);
  ASSERT_TRUE(ring.Place(kSpanBytes * kSpans / 2, ring.tail(), position)) << "what it needs it gives back";
  EXPECT_GE(ring.open(), kSpans / 2 - 64);
}

// However small spans are: what is kept of them is bounded.
TEST(Late, OpenSpansAreBounded) {
  const uint64_t extent = LateRing::kOpenMax * 128 * 2;
  std::vector<unsigned char> bytes(extent + 64);
  void* aligned = bytes.data();
  size_t space = bytes.size();
  ASSERT_NE(std::align(64, extent, aligned, space), nullptr);
  LateRing ring(static_cast<unsigned char*>(aligned), extent, 0);
  uint64_t position = 0, seq = 0;
  while (ring.Place(64, 0, position)) ring.Take(position, 64, ++seq);
  EXPECT_EQ(seq, LateRing::kOpenMax);
}

TEST(Late, WithoutARingNothingComesLate) {
  TransportPair pair;
  ASSERT_TRUE(pair.ok());
  EXPECT_EQ(pair.view->header().feature_bits & kFeatureLateBytes, 0u);
  EXPECT_FALSE(pair.writer->Reserve(Space::kHostLate, 8));
  EXPECT_EQ(Dropped(pair, DropReason::kArenaFull), 1u);
  LateSpan().SetReady();
}

// What a daemon before this one had not released, nobody waits for any more; the probe still does.
TEST(Late, ADaemonThatComesGoesOnAtTheOldHead) {
  TransportPair pair(kSizes);
  ASSERT_TRUE(pair.ok());
  std::vector<LateSpan> spans;
  for (int i = 0; i < 3; ++i) spans.push_back(PublishLate(*pair.writer, kBytes).value());
  for (int i = 0; i < 2; ++i) MustRead(*pair.view);
  pair.ctl->SetHeads({2, 0, kSpan});
  ASSERT_TRUE(pair.writer->AcceptHeads(pair.ctl_view->heads()));
  pair.writer->SetHeadSource(nullptr);
  pair.Connect();
  EXPECT_EQ(pair.view->late_position(), kSpan);
  EXPECT_EQ(MustRead(*pair.view).record.seq, 3u);
  EXPECT_TRUE(ReadsNothing(*pair.view));
  EXPECT_EQ(pair.view->late_position(), 3 * kSpan);
  pair.FreeAll();
  for (const LateSpan& span : spans) span.SetReady();
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(PublishLate(*pair.writer, kBytes)) << i;
}

// A daemon of an earlier minor version knows no such head: its word is none, and no lie.
TEST(Late, ADaemonWithoutLateBytesMovesTheOtherHeads) {
  TransportPair pair(kSizes);
  ASSERT_TRUE(pair.ok());
  ASSERT_TRUE(PublishLate(*pair.writer, 64));
  ASSERT_TRUE(pair.writer->AcceptHeads({1, 0, sizeof(LateSpanHeader) + 64}));
  const Heads before = pair.writer->heads();
  EXPECT_TRUE(pair.writer->AcceptHeads({1, 0, std::nullopt}));
  EXPECT_EQ(pair.writer->heads(), before);
  EXPECT_FALSE(pair.writer->AcceptHeads({1, 0, 0})) << "backwards";
  EXPECT_FALSE(pair.writer->AcceptHeads({1, 0, 4096})) << "beyond the tail";
}

TEST(Late, AProbeOfAnEarlierMinorVersionHasNone) {
  auto made = PubWriter::Create(kSizes);
  ASSERT_TRUE(made.ok());
  auto& header = *reinterpret_cast<PubHeader*>((*made)->segment().data());
  header.abi_minor = 1;
  header.header_bytes = kPubHeaderBytesMin;
  auto view = PubView::Open(Duplicate((*made)->fd()));
  ASSERT_TRUE(view.ok()) << view.error().text;
  EXPECT_EQ((*view)->header().late_bytes, 0u);
  EXPECT_TRUE((*view)->StartAt({}).ok());
}

// Many laps, from positions of a long run: spans of any size, said to be ready in any order, read whole.
TEST(Late, LapsKeepEverySpanWhole) {
  PubSizes sizes = kSizes;
  sizes.first_position = (uint64_t{1} << 40) - kLatePage;
  TransportPair pair(sizes);
  ASSERT_TRUE(pair.ok());
  struct Sent {
    LateSpan span;
    Message message;
    unsigned char fill;
    bool ready;
  };
  std::deque<Sent> open;
  std::mt19937 random(5);
  uint64_t read = 0;
  for (int i = 0; i < 20000; ++i) {
    const uint64_t bytes = 1 + random() % 1500;
    if (const auto span = PublishLate(*pair.writer, bytes)) {
      open.push_back({*span, MustRead(*pair.view), static_cast<unsigned char>(i), false});
    }
    if (open.empty()) continue;
    Sent& one = open[random() % open.size()];
    if (!one.ready) Deliver(one.span, one.fill);
    one.ready = true;
    for (; !open.empty() && open.front().ready; open.pop_front(), ++read) {
      Sent& front = open.front();
      ASSERT_TRUE(IsReady(*pair.view, front.message));
      ASSERT_EQ(front.message.payload_bytes, front.span.bytes());
      for (uint64_t b = 0; b < front.message.payload_bytes; ++b) ASSERT_EQ(front.message.payload[b], front.fill);
      const PayloadRef& ref = front.message.record.payload;
      const uint64_t released = ref.position + LateSpanBytes(ref.bytes);
      pair.ctl->SetHeads({pair.view->ring_position(), pair.view->arena_position(), released});
    }
  }
  EXPECT_GT(read, 5000u);
  EXPECT_FALSE(pair.writer->peer_lied());
}

// ---- A producer that lies

void ExpectLateCorrupt(const Result<std::optional<Message>>& next, const char* what) {
  ASSERT_FALSE(next.ok()) << what;
  EXPECT_EQ(next.error().code, ErrorCode::kCorrupt) << what;
}

TEST(Malicious_Late, PlacesAreChecked) {
  using Lie = std::function<void(Record&)>;
  const std::pair<const char*, Lie> lies[] = {
      {"misaligned", [](Record& r) { r.payload.position += 8; }},
      {"beyond the tail", [](Record& r) { r.payload.position += kSpan; }},
      {"at the end of positions", [](Record& r) { r.payload.position = ~uint64_t{63}; }},
      {"over the one before", [](Record& r) { r.payload.position -= kSpan; }},
      {"across the end of the ring", [](Record& r) { r.payload.position = kLatePage - 64; }},
      {"an event", [](Record& r) { r.payload.event = 1; }},
      {"a device", [](Record& r) { r.payload.device = 1; }},
      {"more than the ring", [](Record& r) { r.payload.bytes = r.sizes[0] = kLatePage; }},
      {"bytes that overflow",
       [](Record& r) { r.payload.bytes = static_cast<uint64_t>(r.sizes[0] = std::numeric_limits<int64_t>::max()); }},
      {"nothing", [](Record& r) { r.payload.bytes = r.sizes[0] = 0; }},
      {"a summary of the wrong size", [](Record& r) { r.type = static_cast<uint8_t>(RecordType::kSummary); }},
      {"a late text",
       [](Record& r) {
         r.type = static_cast<uint8_t>(RecordType::kText);
         r.kind = static_cast<uint8_t>(Kind::kText);
         r.module = r.dtype = r.layout = r.ndim = 0;
         r.sizes[0] = 0;
       }},
      {"an unknown space", [](Record& r) { r.space = 5; }},
  };
  for (const auto& [what, lie] : lies) {
    TransportPair pair(kSizes);
    ASSERT_TRUE(pair.ok());
    ASSERT_TRUE(PublishLate(*pair.writer, kBytes));
    ASSERT_TRUE(PublishLate(*pair.writer, kBytes));
    lie(pair.slot(1));
    MustRead(*pair.view);
    ExpectLateCorrupt(pair.view->Next(), what);
  }
}

TEST(Malicious_Late, AnotherWordIsALie) {
  for (const uint64_t word : {uint64_t{2}, uint64_t{0x5a5a5a5a}, ~uint64_t{0}}) {
    TransportPair pair(kSizes);
    ASSERT_TRUE(pair.ok());
    const auto span = PublishLate(*pair.writer, 64);
    ASSERT_TRUE(span);
    Message message = MustRead(*pair.view);
    StoreRelease(*span->word(), word);
    const auto ready = pair.view->ReadLate(message);
    ASSERT_FALSE(ready.ok()) << word;
    EXPECT_EQ(ready.error().code, ErrorCode::kCorrupt);
  }
}

TEST(Malicious_Late, StatisticsThatNoTensorHas) {
  TransportPair pair(kSizes);
  ASSERT_TRUE(pair.ok());
  const auto span = PublishLate(*pair.writer, sizeof(TensorStats));
  ASSERT_TRUE(span);
  Record& record = pair.slot(0);
  record.type = static_cast<uint8_t>(RecordType::kSummary);
  record.sizes[0] = 3;
  Message message = MustRead(*pair.view);
  Deliver(*span, 0xff);
  const Record before = message.record;
  const auto ready = pair.view->ReadLate(message);
  ASSERT_FALSE(ready.ok());
  EXPECT_EQ(ready.error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(std::memcmp(&message.record, &before, sizeof before), 0) << "its place is the one that was checked";
}

TEST(Malicious_Late, TailsAndHeadersAreChecked) {
  using Lie = std::function<void(PubHeader&)>;
  const std::pair<const char*, Lie> lies[] = {
      {"huge", [](PubHeader& h) { h.late_bytes = kMaxLateBytes + kLatePage; }},
      {"no whole pages", [](PubHeader& h) { h.late_bytes -= 64; }},
      {"outside", [](PubHeader& h) { h.late_offset += kLatePage; }},
      {"over the ring", [](PubHeader& h) { h.late_offset = h.ring_offset; }},
      {"misaligned", [](PubHeader& h) { h.late_offset -= 8; }},
  };
  for (const auto& [what, lie] : lies) {
    auto made = PubWriter::Create(kSizes);
    ASSERT_TRUE(made.ok());
    lie(*reinterpret_cast<PubHeader*>((*made)->segment().data()));
    const auto opened = PubView::Open(Duplicate((*made)->fd()));
    ASSERT_FALSE(opened.ok()) << what;
    EXPECT_EQ(opened.error().code, ErrorCode::kCorrupt) << what;
  }
  TransportPair pair(kSizes);
  ASSERT_TRUE(pair.ok());
  ASSERT_TRUE(PublishLate(*pair.writer, 64));
  MustRead(*pair.view);
  StoreRelease(pair.shared_status().late_tail, 64);
  ExpectLateCorrupt(pair.view->Next(), "tail backwards");
  auto view = PubView::Open(Duplicate(pair.writer->fd()));
  ASSERT_TRUE(view.ok());
  EXPECT_FALSE((*view)->StartAt({0, 0, 128}).ok()) << "a head beyond the tail";
}

}  // namespace
}  // namespace ikkuna::shm
