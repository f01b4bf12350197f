// MemoryLeft: how many bytes this process can still take before the machine or its cgroup runs out.
#pragma once

#include <cstdint>
#include <string>

namespace ikkuna {

// The least of MemAvailable and, for the process's cgroup (v2 `memory.max - memory.current`, v1 `memory.limit_in_bytes
// - memory.usage_in_bytes`) and each of its ancestors, what is left; reclaimable file cache counts as used, so the
// answer errs low. 0 when nothing can be read. `root` stands before every path (tests). Reads files: not for a training
// thread.
uint64_t MemoryLeft(const std::string& root = "");

}  // namespace ikkuna
