#include "daemon/ingest/late_room.h"

#include <algorithm>
#include <iterator>
#include <limits>
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

}  // namespace

LateRoom::LateRoom(shm::PubView& view, uint64_t unready_ns, uint64_t counted_through,
                   std::function<void(const shm::Message&)> handle, std::function<bool()> go_on)
    : view_(view),
      unready_ns_(unready_ns),
      counted_through_(counted_through),
      handle_(std::move(handle)),
      go_on_(std::move(go_on)),
      head_(view.late_position()) {}

uint64_t LateRoom::first_seq() const {
  return entries_.empty() ? std::numeric_limits<uint64_t>::max() : entries_.front().message.record.seq;
}

Result<bool> LateRoom::IsReady(shm::Message& message) {
  auto ready = view_.ReadLate(message);
  broken_ = broken_ || !ready;
  return ready;
}

// No probe has room further ahead: its ring behind what is released, or all of it behind what it skipped.
Result<uint64_t> LateRoom::EndOf(const shm::PayloadRef& ref) {
  const uint64_t end = ref.position + shm::LateSpanBytes(ref.bytes);
  if (end - head_ <= 2 * view_.header().late_bytes) return end;
  broken_ = true;
  return Error{ErrorCode::kCorrupt, "the producer's late bytes lie beyond what is free of their ring"};
}

void LateRoom::Release(uint64_t end) { (entries_.empty() ? head_ : entries_.back().end) = end; }

void LateRoom::CatchUp() {
  if (entries_.empty()) head_ = view_.late_position();
}

Status LateRoom::Pass(const shm::Message& message) {
  auto end = EndOf(message.record.payload);
  if (!end) return end.error();
  Release(*end);
  return {};
}

Status LateRoom::Take(shm::Message message) {
  auto end = EndOf(message.record.payload);
  if (!end) return end.error();
  // One that is ready as it comes, which nothing of its root stands before, keeps its place.
  if (RootOf(message.record).messages == 0) {
    auto ready = IsReady(message);
    if (!ready) return ready.error();
    if (*ready) {
      Release(*end);
      Handle(message);
      return {};
    }
  }
  Enlist({.message = std::move(message), .end = *end, .since_ns = MonotonicNs()});
  return Shorten();
}

bool LateRoom::Wants(const shm::Record& record) const {
  const Root& root = roots_[record.root];
  return NamesPasses(record) && (root.messages + root.markers > 0 || root.lacked_kinds != 0 || !lacks_.empty());
}

Status LateRoom::TakeMarker(shm::Message message) {
  Root& root = RootOf(message.record);
  if (root.messages + root.markers == 0) {
    Handle(message);
    return {};
  }
  const uint8_t number = message.record.root;
  Enlist({.message = std::move(message), .end = entries_.back().end});
  for (auto at = entries_.begin(); root.ends > kStepsMax;) {
    const auto entry = at++;
    if (entry->message.record.root != number) continue;
    if (auto ended = End(entry); !ended) return ended;
  }
  return Shorten();
}

void LateRoom::Enlist(Entry entry) {
  const shm::Record& record = entries_.emplace_back(std::move(entry)).message.record;
  Entry& listed = entries_.back();
  Root& root = RootOf(record);
  if (listed.is_marker()) {
    ++root.markers;
    root.ends += EndsStep(record) ? 1 : 0;
    return;
  }
  ++root.messages;
  Entry*& last = last_of_slot_[SlotOf(record)];
  if (last != nullptr) {
    last->next = &listed;
    listed.behind = true;
  }
  last = &listed;
}

// In ring order within a slot.
LateRoom::Entries LateRoom::Delist(Entries::iterator at) {
  (at == entries_.begin() ? head_ : std::prev(at)->end) = at->end;
  const shm::Record& record = at->message.record;
  Root& root = RootOf(record);
  if (at->is_marker()) {
    --root.markers;
    root.ends -= EndsStep(record) ? 1 : 0;
  } else {
    --root.messages;
    if (at->next != nullptr) {
      at->next->behind = false;
    } else {
      last_of_slot_.erase(SlotOf(record));
    }
  }
  Entries out;
  out.splice(out.begin(), entries_, at);
  return out;
}

void LateRoom::Handle(shm::Message& message) {
  if (message.record.type == static_cast<uint8_t>(RecordType::kMarker)) TellLacks(message.record);
  handle_(message);
  ++handled_;
}

// It does not wait any more while it is handled: what is said meanwhile of what was read speaks of it.
void LateRoom::HandOn(Entries::iterator at) {
  Entries out = Delist(at);
  Handle(out.front().message);
}

void LateRoom::GiveUp(Entries::iterator at, uint64_t& count) {
  const Entries out = Delist(at);
  const shm::Record& record = out.front().message.record;
  ++handled_;
  if (record.seq > counted_through_) ++count;
  AddLack(record);
}

// The first waits for nothing but its own bytes, and so does the first of a root.
Status LateRoom::End(Entries::iterator at) {
  bool goes = at->is_marker();
  if (!goes) {
    auto ready = IsReady(at->message);
    if (!ready) return ready.error();
    goes = *ready;
  }
  if (goes) {
    HandOn(at);
  } else {
    GiveUp(at, crowded_);
  }
  return {};
}

Status LateRoom::Shorten() {
  while (entries_.size() > kWaitingMax) {
    if (auto ended = End(entries_.begin()); !ended) return ended;
  }
  return {};
}

Result<uint64_t> LateRoom::Poll() {
  uint64_t finished = 0;
  if (entries_.empty()) return finished;
  const uint64_t now = MonotonicNs();
  const bool whole = now - looked_ns_ >= kWholeLookNs;
  if (whole) looked_ns_ = now;
  std::array<bool, kMaxRoots + 1> waits{};
  size_t row = 0;
  for (auto next = entries_.begin(); next != entries_.end() && (whole || row < kUnreadyRow);) {
    const auto at = next++;
    const uint8_t root = at->message.record.root;
    bool goes = at->is_marker() && !waits[root];
    if (!at->is_marker() && !at->behind) {
      auto ready = IsReady(at->message);
      if (!ready) return ready.error();
      goes = *ready;
    }
    if (goes) {
      HandOn(at);
    } else if (!at->is_marker() && now - at->since_ns >= unready_ns_) {
      GiveUp(at, unready_);
    } else {
      waits[root] = true;
      ++row;
      continue;
    }
    row = 0;
    ++finished;
    if (!go_on_()) break;
  }
  return finished;
}

void LateRoom::Finish(uint64_t until_ns) {
  while (!entries_.empty()) {
    const auto at = entries_.begin();
    bool goes = at->is_marker();
    if (!goes && !broken_ && MonotonicNs() < until_ns) {
      auto ready = IsReady(at->message);
      goes = ready && *ready;  // a lie ends nothing any more
    }
    if (goes) {
      HandOn(at);
    } else {
      GiveUp(at, unready_);
    }
  }
  CatchUp();
}

void LateRoom::Begin(const shm::Record& started) {
  std::erase_if(lacks_, [&](const Lack& lack) {
    return lack.root == started.root && lack.tag == started.tag && lack.has_step && lack.step == started.global_step;
  });
}

void LateRoom::AddLack(const shm::Record& record) {
  const bool has_step = record.pass == 0;
  const Lack lack{record.root, record.tag, record.kind, has_step, record.pass, has_step ? record.global_step : 0};
  const auto same = std::find_if(lacks_.begin(), lacks_.end(), [&](Lack known) {
    known.ends = 0;
    return known == lack;
  });
  if (same != lacks_.end()) {
    same->ends = 0;
    return;
  }
  if (lacks_.size() >= kLacksMax) {
    Root& root = roots_[lacks_.front().root];
    root.lacked_kinds |= KindBit(static_cast<Kind>(lacks_.front().kind));
    root.lacked_ends = 0;
    lacks_.erase(lacks_.begin());
  }
  lacks_.push_back(lack);
}

// A step that lacks a message is as one of which the probe dropped it.
void LateRoom::TellLacks(shm::Record& record) {
  shm::MarkerInfo& marker = record.marker;
  const bool ends = EndsStep(record);
  for (Lack& lack : lacks_) {
    if (lack.root != record.root || lack.tag != record.tag) continue;
    if (!lack.has_step && shm::NamesPass(marker, lack.pass)) {
      lack.has_step = true;
      lack.step = record.global_step;
    }
    if (!ends) continue;
    ++lack.ends;
    if (lack.has_step && lack.step == record.global_step) marker.dropped_kinds |= KindBit(static_cast<Kind>(lack.kind));
  }
  std::erase_if(lacks_, [&](const Lack& lack) {
    if (lack.root != record.root) return false;
    if (lack.ends > kEndsMax) return true;
    if (lack.has_step) return ends && lack.tag == record.tag && lack.step == record.global_step;
    return marker.lowest_open != 0 && shm::PassBefore(lack.pass, marker.lowest_open);
  });
  Root& root = RootOf(record);
  if (!ends || root.lacked_kinds == 0) return;
  marker.dropped_kinds |= root.lacked_kinds;
  if (++root.lacked_ends > kEndsMax) root.lacked_kinds = 0;
}

}  // namespace ikkuna::ingest
