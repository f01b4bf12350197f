// kWatchdog: how long a test waits for what must come, before it says that something hangs. It is no expectation: a sanitizer
// on a machine with two slow cores and other work gets there.
#pragma once

#include <chrono>

namespace ikkuna::test {

inline constexpr std::chrono::seconds kWatchdog{120};

}  // namespace ikkuna::test
