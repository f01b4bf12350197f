// The loops for any machine: 16-byte vectors, which the compiler makes SSE2, NEON or plain arithmetic.
#include <cstdint>

#include "shared/stats/stats_kernel.h"

#define IKKUNA_STATS_VECTOR_BYTES 16
#include "shared/stats/stats_kernel.inc"
#include "shared/stats/stats_widen.inc"

namespace ikkuna::stats_internal {
const Kernels& PortableKernels() noexcept { return kKernels; }
}  // namespace ikkuna::stats_internal
