// The two clocks of this host: records carry CLOCK_MONOTONIC, samples unix time.
#pragma once

#include <time.h>

#include <cstdint>

namespace ikkuna::graph {

inline uint64_t ClockNs(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}
inline uint64_t MonotonicNs() { return ClockNs(CLOCK_MONOTONIC); }

// Added to a monotonic time it gives unix time. Unsigned: a peer's time may be anything.
inline uint64_t UnixOffsetNs() { return ClockNs(CLOCK_REALTIME) - MonotonicNs(); }

}  // namespace ikkuna::graph
