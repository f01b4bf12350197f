// Numbers of passes, and the set of them that a marker names.
//
// A pass of a root has a number, from 1, one more each; 2^32 - 1 is followed by 1. So of two numbers the one that is
// less than half the way ahead of the other is the later: a trainer would have to keep a pass open over two billion
// others for that to be wrong. Shared by the probe, which numbers them, and the daemon, which puts them in order.
// Thread rule: none, no state.
#pragma once

#include <bit>
#include <cstdint>

#include "shared/layout.h"

namespace ikkuna::shm {

// `a` was opened before `b`. Neither is 0.
constexpr bool PassBefore(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) < 0; }
constexpr uint32_t NextPass(uint32_t pass) { return pass == UINT32_MAX ? 1 : pass + 1; }

// Adds a pass to those that `marker` names. False: it lies outside of what one marker reaches, from its first one on.
constexpr bool NamePass(MarkerInfo& marker, uint32_t pass) {
  if (marker.first_pass == 0) marker.first_pass = pass;
  const uint32_t at = pass - marker.first_pass;
  if (pass == 0 || at >= kPassesInMarker) return false;
  marker.named[at / 64] |= uint64_t{1} << (at % 64);
  return true;
}

constexpr bool NamesPass(const MarkerInfo& marker, uint32_t pass) {
  const uint32_t at = pass - marker.first_pass;
  return marker.first_pass != 0 && at < kPassesInMarker && (marker.named[at / 64] >> (at % 64) & 1) != 0;
}

// How many a marker names.
constexpr uint32_t CountNamed(const MarkerInfo& marker) {
  uint32_t count = 0;
  for (const uint64_t word : marker.named) count += static_cast<uint32_t>(std::popcount(word));
  return count;
}

// Calls `act` with each pass that a marker names, in ascending order.
template <typename Act>
constexpr void ForEachNamed(const MarkerInfo& marker, Act act) {
  for (uint32_t w = 0; w < kPassesInMarker / 64; ++w) {
    for (uint64_t word = marker.named[w]; word != 0; word &= word - 1) {
      act(marker.first_pass + 64 * w + static_cast<uint32_t>(std::countr_zero(word)));
    }
  }
}

}  // namespace ikkuna::shm
