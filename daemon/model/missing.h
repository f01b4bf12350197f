// Missing: why something that was read came to nothing in the graph. Counted for a producer and for a subscriber.
//
// Plain values. Thread rule: none.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "daemon/model/status.h"

namespace ikkuna {

enum class MissReason : uint8_t {
  kWithheld = 0,     // results: some of what they need was dropped, or a call of theirs is missing in the step
  kIncomplete = 1,   // results: a part of what they are made of never came
  kNoTensor = 2,     // messages that came as statistics for one who needs the tensor
  kUnnamed = 3,      // messages of an id without a name
  kDiscarded = 4,    // steps: their beginning was not seen, or their end was lost
  kSilent = 5,       // steps given up, since nothing came of them for too long
  kRepeated = 6,     // values of a step that was closed before
  kQueueFull = 7,    // steps of a subscriber, dropped for newer ones
  kMemoryFull = 8,   // messages that found no room in --memory-mb
  kCancelled = 9,    // steps of a subscriber that was removed, or whose producer or daemon ended first
  kThrew = 10,       // calls in which a subscriber threw
  kRefused = 11,     // values: of another type than their series, about nothing known, or the catalogue is full
  kSuppressed = 12,  // events that came too soon after one of the same rule
  kNoStep = 13,      // messages of passes that no step named in time, or whose beginning was not seen
  kLate = 14,        // steps of a rank that the others' were given out without, when it had let a deadline pass
  kFailed = 15,      // results that the daemon could not hand on, for want of memory
};
constexpr size_t kMissReasonCount = 16;
std::string_view MissReasonName(MissReason reason);  // "withheld", ..., "failed"

using MissCounts = std::array<uint64_t, kMissReasonCount>;
// Those that are not 0, by name.
std::vector<Count> CountsOf(const MissCounts& missing);

// Why the store did not keep a value, as its drops are named; goes on from "7 values ".
std::string UnrecordedText(std::string_view reason, uint64_t values);

}  // namespace ikkuna
