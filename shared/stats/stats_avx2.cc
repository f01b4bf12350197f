// The loops for AVX2 with FMA and F16C. The target is set after the headers, so that nothing inline of theirs is
// compiled for it.
#include "shared/stats/stats_kernel.h"

#if defined(IKKUNA_STATS_X86)
#include <immintrin.h>

#include <cstdint>

#pragma GCC target("avx2,fma,f16c")

#define IKKUNA_STATS_VECTOR_BYTES 32
#include "shared/stats/stats_kernel.inc"
#include "shared/stats/stats_widen.inc"

namespace ikkuna::stats_internal {
const Kernels& Avx2Kernels() noexcept { return kKernels; }
}  // namespace ikkuna::stats_internal
#endif
