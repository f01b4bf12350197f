// The clocks of this host, in nanoseconds. Thread rule: none, no state; no system call (vDSO) but for the clocks of
// processor time.
#pragma once

#include <time.h>

#include <cstdint>

namespace ikkuna {

inline int64_t ClockNs(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

// CLOCK_MONOTONIC: the same in every process of this machine, so that a producer's times can be compared with now.
inline uint64_t MonotonicNs() { return static_cast<uint64_t>(ClockNs(CLOCK_MONOTONIC)); }

// Since 1970.
inline int64_t UnixNs() { return ClockNs(CLOCK_REALTIME); }

}  // namespace ikkuna
