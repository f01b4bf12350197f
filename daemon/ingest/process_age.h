// Whether the process that a number named at some time is still that process, and whose child it is.
//
// Thread rule: none, no state.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace ikkuna::ingest {

// False when no process has the number (none has one below 1), or one that began after `unix_ns`. True when it cannot
// be known.
bool ProcessLivesSince(pid_t pid, int64_t unix_ns);

// The parent of a process; 0: not known.
pid_t ParentOf(pid_t pid);

// "pid 17", or that there is no number.
std::string PidText(pid_t pid);

}  // namespace ikkuna::ingest
