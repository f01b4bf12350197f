// LateRing: the probe's side of the ring of late bytes: where spans go, and when their bytes may be used again.
//
// A span is used again only when its readiness word has come, or it was given up, and the daemon has released it:
// whoever fills it (a device, another thread) may do so at any time before, whatever the head says. Spans are given
// back first in, first out. Owner: PubWriter. Thread rule: under its reservation lock; the words are stored by anybody.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "shared/base/round_up.h"
#include "shared/layout.h"

namespace ikkuna::shm {

// Positions never wrap: at their end nothing more is published. A billion records a second take 584 years to get there.
constexpr uint64_t kEndOfPositions = std::numeric_limits<uint64_t>::max();

// Where `bytes` (1 to `extent`) would go in a ring of `extent` bytes that is in use from `head` to `tail`; false when
// they do not fit now. What is skipped at the end of the extent counts as part of what stands behind it. With nothing
// in use the skipped bytes take no room, or else what fills the whole extent would fit only when the tail happens to
// stand at its start.
inline bool PlaceInRing(uint64_t head, uint64_t tail, uint64_t extent, uint64_t bytes, uint64_t& position) {
  const uint64_t rounded = RoundUp(bytes, kPayloadAlign);
  const uint64_t rest = extent - tail % extent;
  const uint64_t skipped = rest < rounded ? rest : 0;
  if (tail > kEndOfPositions - skipped - rounded) return false;
  position = tail + skipped;
  return head == tail || position + rounded - head <= extent;
}

class LateRing {
 public:
  // Spans that are not given back; beyond it there is no room. Several times what a daemon waits for; 3 MiB.
  static constexpr uint64_t kOpenMax = 1 << 17;
  // Spans that one Place() gives back beyond what it needs: it stands on a training thread, and after a pause of the
  // daemon all may be free at once.
  static constexpr int kAheadMax = 16;

  LateRing() = default;
  LateRing(unsigned char* bytes, uint64_t extent, uint64_t first_position)
      : bytes_(bytes),
        extent_(extent),
        free_(first_position),
        tail_(first_position),
        open_(std::min(extent / kLateSpanMin, kOpenMax)) {}

  // The most that one span can hold; 0: there is no ring.
  uint64_t bytes_max() const { return extent_ == 0 ? 0 : extent_ - sizeof(LateSpanHeader); }
  uint64_t tail() const { return tail_; }
  size_t open() const { return count_; }  // spans that are not given back
  unsigned char* at(uint64_t position) const { return bytes_ + position % extent_; }

  // Where a span of `bytes` (1 to bytes_max()) would go; false when there is no room. `head`: the daemon's.
  bool Place(uint64_t bytes, uint64_t head, uint64_t& position) noexcept {
    for (int ahead = 0;;) {
      const bool fits =
          count_ < open_.size() && PlaceInRing(free_, tail_, extent_, sizeof(LateSpanHeader) + bytes, position);
      if (fits && ahead++ == kAheadMax) return true;
      if (!GiveBack(head)) return fits;
    }
  }
  // Takes what Place() found, for the record of number `seq`.
  void Take(uint64_t position, uint64_t bytes, uint64_t seq) noexcept {
    StoreRelaxed(*reinterpret_cast<uint64_t*>(at(position)), 0);  // seen with the record, which is committed later
    tail_ = position + LateSpanBytes(bytes);
    open_[(first_ + count_++) % open_.size()] = {position, tail_, seq};
  }

 private:
  // The first span, if both sides are through with it.
  bool GiveBack(uint64_t head) noexcept {
    if (count_ == 0) return false;
    const Span& front = open_[first_];
    if (front.end > head) return false;
    // Acquire: what its writer did to the bytes is over. Pairs with LateSpan::SetReady.
    const auto& header = *reinterpret_cast<const LateSpanHeader*>(at(front.position));
    if (LoadAcquire(header.ready) != front.seq && LoadAcquire(header.given_up) != front.seq) return false;
    free_ = front.end;
    first_ = (first_ + 1) % open_.size();
    --count_;
    return true;
  }

  struct Span {
    uint64_t position;
    uint64_t end;
    uint64_t seq;
  };
  static constexpr uint64_t kLateSpanMin = sizeof(LateSpanHeader) + kPayloadAlign;

  unsigned char* bytes_ = nullptr;
  uint64_t extent_ = 0;
  uint64_t free_ = 0;  // positions before it may be used again
  uint64_t tail_ = 0;
  std::vector<Span> open_;  // not given back yet, in a ring
  size_t first_ = 0;
  size_t count_ = 0;
};

}  // namespace ikkuna::shm
