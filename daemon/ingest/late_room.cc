#include "daemon/ingest/late_room.h"

#include <algorithm>
#include <limits>
#include <set>
#include <tuple>
#include <utility>

#include "shared/base/clock.h"
#include "shared/passes.h"

namespace ikkuna::ingest {

namespace {

bool EndsStep(const shm::Record& record) { return record.kind == static_cast<uint8_t>(Kind::kBatchFinished); }

bool NamesPasses(const shm::Record& record) {
  return record.type == static_cast<uint8_t>(RecordType::kMarker) &&
         (EndsStep(record) || record.kind == static_cast<uint8_t>(Kind::kPassesNamed));
}

// What the graph merges in the order it is given.
using SlotKey = std::tuple<uint8_t, uint8_t, uint8_t, uint32_t, uint32_t, uint32_t>;
SlotKey SlotOf(const shm::Record& r) { return {r.root, r.tag, r.kind, r.module, r.param, r.pass}; }

}  // namespace

LateRoom::LateRoom(shm::PubView& view, uint64_t unready_ns, uint64_t counted_through,
                   std::function<void(const shm::Message&)> handle)
    : view_(view),
      unready_ns_(unready_ns),
      counted_through_(counted_through),
      handle_(std::move(handle)),
      head_(view.late_position()) {}

uint64_t LateRoom::first_seq() const {
  const auto at = std::find_if(entries_.begin(), entries_.end(), [](const Entry& entry) { return !entry.done; });
  return at == entries_.end() ? std::numeric_limits<uint64_t>::max() : at->message.record.seq;
}

void LateRoom::Add(Entry entry) {
  entries_.push_back(std::move(entry));
  DropDone();
}

void LateRoom::DropDone() {
  while (!entries_.empty() && entries_.front().done) {
    if (!entries_.front().is_marker()) head_ = entries_.front().end;
    entries_.pop_front();
  }
}

void LateRoom::CatchUp() {
  if (entries_.empty()) head_ = view_.late_position();
}

void LateRoom::Pass(const shm::Message& message) {
  const shm::PayloadRef& ref = message.record.payload;
  Add({message, ref.position + shm::LateSpanBytes(ref.bytes), 0, true});
}

Status LateRoom::Take(shm::Message message) {
  const shm::PayloadRef ref = message.record.payload;
  Root& root = RootOf(message.record);
  Entry entry{std::move(message), ref.position + shm::LateSpanBytes(ref.bytes), 0, false};
  // One that is ready as it comes, which nothing of its root stands before, keeps its place.
  bool ready = false;
  if (root.messages == 0) {
    auto there = view_.ReadLate(entry.message);
    if (!there) return there.error();
    ready = *there;
  }
  ++root.messages;
  if (ready) {
    HandOn(entry);
  } else {
    entry.since_ns = MonotonicNs();
  }
  Add(std::move(entry));
  return Shorten();
}

bool LateRoom::Wants(const shm::Record& record) const {
  const Root& root = roots_[record.root];
  return NamesPasses(record) && (root.messages + root.markers > 0 || !lacks_.empty());
}

Status LateRoom::TakeMarker(shm::Message message) {
  const uint8_t number = message.record.root;
  Root& root = roots_[number];
  Entry entry{std::move(message), 0, 0, false};
  if (EndsStep(entry.message.record)) ++root.ends;
  if (root.messages + root.markers++ == 0) {
    HandOn(entry);
    return {};
  }
  Add(std::move(entry));
  if (root.ends > kStepsMax) {
    for (Entry& waiting : entries_) {
      if (waiting.done || waiting.message.record.root != number) continue;
      if (auto ended = End(waiting); !ended) return ended;
      if (root.ends <= kStepsMax) break;
    }
    DropDone();
  }
  return Shorten();
}

// The first waits for nothing but its own bytes, and so does the first of a root.
Status LateRoom::End(Entry& entry) {
  bool ready = entry.is_marker();
  if (!ready) {
    auto there = view_.ReadLate(entry.message);
    if (!there) return there.error();
    ready = *there;
  }
  if (ready) {
    HandOn(entry);
  } else {
    GiveUp(entry);
  }
  return {};
}

Status LateRoom::Shorten() {
  while (entries_.size() > kWaitingMax) {
    if (auto ended = End(entries_.front()); !ended) return ended;
    DropDone();
  }
  return {};
}

Result<uint64_t> LateRoom::Poll() {
  if (entries_.empty()) return uint64_t{0};
  auto finished = Scan();
  DropDone();
  return finished;
}

Result<uint64_t> LateRoom::Scan() {
  const uint64_t now = MonotonicNs();
  uint64_t finished = 0;
  std::array<bool, kMaxRoots + 1> waits{};
  std::set<SlotKey> waiting;
  for (Entry& entry : entries_) {
    const shm::Record& record = entry.message.record;
    if (entry.done || (entry.is_marker() && waits[record.root])) continue;
    const SlotKey slot = SlotOf(record);
    bool ready = entry.is_marker();
    if (!ready && !waiting.contains(slot)) {
      auto there = view_.ReadLate(entry.message);
      if (!there) return there.error();
      ready = *there;
    }
    if (ready) {
      HandOn(entry);
    } else if (now - entry.since_ns >= unready_ns_) {
      GiveUp(entry);
    } else {
      waits[record.root] = true;
      waiting.insert(slot);
      continue;
    }
    ++finished;
  }
  return finished;
}

void LateRoom::Finish() {
  static_cast<void>(Poll());  // a lie ends nothing any more
  for (Entry& entry : entries_) {
    if (entry.done) continue;
    if (entry.is_marker()) {
      HandOn(entry);
    } else {
      GiveUp(entry);
    }
  }
  DropDone();
  CatchUp();
}

// It does not wait any more while it is handled: what is said meanwhile of what was read speaks of it.
void LateRoom::HandOn(Entry& entry) {
  entry.done = true;
  shm::Record& record = entry.message.record;
  if (!entry.is_marker()) {
    --RootOf(record).messages;
  } else {
    --RootOf(record).markers;
    if (EndsStep(record)) --RootOf(record).ends;
    AddLacks(record);
  }
  handle_(entry.message);
  ++handled_;
}

void LateRoom::GiveUp(Entry& entry) {
  const shm::Record& record = entry.message.record;
  entry.done = true;
  --RootOf(record).messages;
  ++handled_;
  if (record.seq > counted_through_) ++unready_;
  const bool has_step = record.pass == 0;
  const Lack lack{record.root, record.tag, record.kind, has_step, record.pass, has_step ? record.global_step : 0};
  if (std::find(lacks_.begin(), lacks_.end(), lack) != lacks_.end()) return;
  if (lacks_.size() >= kLacksMax) lacks_.erase(lacks_.begin());
  lacks_.push_back(lack);
}

// A step that lacks a message is as one of which the probe dropped it.
void LateRoom::AddLacks(shm::Record& record) {
  shm::MarkerInfo& marker = record.marker;
  for (Lack& lack : lacks_) {
    if (lack.root != record.root || lack.tag != record.tag) continue;
    if (!lack.has_step && shm::NamesPass(marker, lack.pass)) {
      lack.has_step = true;
      lack.step = record.global_step;
    }
    if (EndsStep(record) && lack.has_step && lack.step == record.global_step) {
      marker.dropped_kinds |= KindBit(static_cast<Kind>(lack.kind));
    }
  }
  std::erase_if(lacks_, [&](const Lack& lack) {
    if (lack.root != record.root) return false;
    if (lack.has_step) return EndsStep(record) && lack.tag == record.tag && lack.step == record.global_step;
    return marker.lowest_open != 0 && shm::PassBefore(lack.pass, marker.lowest_open);
  });
}

}  // namespace ikkuna::ingest
