// The two clocks of ingest. Thread rule: none, no state.
#pragma once

#include <time.h>

#include <cstdint>

namespace ikkuna::ingest {

// CLOCK_MONOTONIC: the same in every process of this machine, so that records of a producer can be compared with now.
inline uint64_t NowNs() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

inline int64_t UnixNs() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

}  // namespace ikkuna::ingest
