// TransportPair: both ends of PUB and CTL in one process, for tests; the fds travel as they would over the socket.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "shared/ctl.h"
#include "shared/pub.h"

namespace ikkuna::shm {

inline UniqueFd Duplicate(int fd) { return UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

struct TransportPair {
  std::unique_ptr<PubWriter> writer;
  std::unique_ptr<PubView> view;
  std::unique_ptr<CtlWriter> ctl;
  std::shared_ptr<const CtlView> ctl_view;

  // Not null-safe: ASSERT_TRUE(pair.ok()) first.
  bool ok() const { return writer && view && ctl && ctl_view; }

  explicit TransportPair(const PubSizes& sizes = {.ring_slots = 8, .arena_bytes = 4096, .registry_bytes = 65536}) {
    auto made = PubWriter::Create(sizes);
    EXPECT_TRUE(made.ok()) << made.error().text;
    if (!made) return;
    writer = std::move(made).value();
    if (sizes.arena_bytes > 0) {
      EXPECT_EQ(writer->BackArena(sizes.arena_bytes), sizes.arena_bytes);
    }
    Connect();
  }

  // A daemon arrives (again).
  void Connect() {
    auto opened = PubView::Open(Duplicate(writer->fd()));
    EXPECT_TRUE(opened.ok()) << opened.error().text;
    auto control = CtlWriter::Create(7, writer->heads(), 0);
    EXPECT_TRUE(control.ok()) << control.error().text;
    if (!opened || !control) return;
    view = std::move(opened).value();
    ctl = std::move(control).value();
    auto seen = CtlView::Open(Duplicate(ctl->fd()));
    EXPECT_TRUE(seen.ok()) << seen.error().text;
    if (!seen) return;
    ctl_view = std::move(seen).value();
    writer->SetHeadSource(ctl_view);
    auto started = view->StartAt(writer->heads());
    EXPECT_TRUE(started.ok()) << started.error().text;
  }

  void FreeAll() { ctl->SetHeads({view->ring_position(), view->arena_position(), view->late_position()}); }

  PubStatus& shared_status() { return writer->status(); }
  Record& slot(uint64_t position) {
    const PubHeader& header = writer->header();
    return *reinterpret_cast<Record*>(writer->segment().data() + header.ring_offset +
                                      position % header.ring_slots * kRecordBytes);
  }
};

// The fields of a record that a publisher writes; PayloadRef, dropped_total and seq are the transport's.
inline void FillScalar(Record& record, double value) {
  record.time_ns = 1;
  record.global_step = 2;
  record.module = 0;
  record.param = 1;
  record.epoch = 3;
  record.train_step = 4;
  record.pass = 0;
  record.call = 0;
  record.root = 1;
  record.tag = kTagDefault;
  record.type = static_cast<uint8_t>(RecordType::kScalar);
  record.kind = static_cast<uint8_t>(Kind::kScalar);
  record.dtype = 0;
  record.ndim = 0;
  record.space = static_cast<uint8_t>(Space::kInline);
  record.layout = 0;
  record.flags = 0;
  for (int64_t& size : record.sizes) size = 0;
  record.scalar = value;
}

// A byte tensor of one dimension whose payload the transport placed.
inline void FillTensor(Record& record, uint64_t bytes) {
  const PayloadRef placed = record.payload;
  FillScalar(record, 0);
  record.module = 1;
  record.type = static_cast<uint8_t>(RecordType::kTensor);
  record.kind = static_cast<uint8_t>(Kind::kActivations);
  record.dtype = static_cast<uint8_t>(DType::kU8);
  record.ndim = 1;
  record.space = static_cast<uint8_t>(Space::kHostArena);
  record.layout = static_cast<uint8_t>(Layout::kRowMajor);
  record.sizes[0] = static_cast<int64_t>(bytes);
  record.payload = placed;
}

inline bool PublishScalar(PubWriter& writer, double value) {
  auto reservation = writer.Reserve(Space::kInline, 0);
  if (!reservation) return false;
  FillScalar(reservation.record(), value);
  reservation.Commit();
  return true;
}

inline bool PublishBytes(PubWriter& writer, uint64_t bytes, unsigned char fill) {
  auto reservation = writer.Reserve(Space::kHostArena, bytes);
  if (!reservation) return false;
  FillTensor(reservation.record(), bytes);
  if (bytes > 0) std::memset(reservation.payload(), fill, bytes);
  reservation.Commit();
  return true;
}

// The next message, which must be there.
// A byte tensor whose bytes come late; none: it was dropped.
inline std::optional<LateSpan> PublishLate(PubWriter& writer, uint64_t bytes) {
  auto reservation = writer.Reserve(Space::kHostLate, bytes);
  if (!reservation) return std::nullopt;
  FillTensor(reservation.record(), bytes);
  reservation.record().space = static_cast<uint8_t>(Space::kHostLate);
  const LateSpan span = reservation.TakeLate();
  reservation.Commit();
  return span;
}
inline void Deliver(const LateSpan& span, unsigned char fill) {
  std::memset(span.data(), fill, span.bytes());
  span.SetReady();
}

inline uint64_t Dropped(TransportPair& pair, DropReason reason) {
  return pair.writer->status().dropped[static_cast<size_t>(reason)];
}

inline Message MustRead(PubView& view) {
  auto next = view.Next();
  EXPECT_TRUE(next.ok()) << next.error().text;
  if (!next || !*next) {
    ADD_FAILURE() << "no message";
    return {};
  }
  return std::move(**next);
}

inline bool ReadsNothing(PubView& view) {
  auto next = view.Next();
  EXPECT_TRUE(next.ok()) << next.error().text;
  return next.ok() && !next->has_value();
}

}  // namespace ikkuna::shm
