// Whether the process that a number named at some time is still that process.
//
// Thread rule: none, no state.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace ikkuna::ingest {

// False when no process has the number, or one that began after `unix_ns`. True when it cannot be known.
bool ProcessLivesSince(pid_t pid, int64_t unix_ns);

}  // namespace ikkuna::ingest
