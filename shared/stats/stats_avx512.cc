// The loops for AVX-512 F, BW, DQ and VL. The target is set after the headers, so that nothing inline of theirs is
// compiled for it.
#include "shared/stats/stats_kernel.h"

#if defined(IKKUNA_STATS_X86)
#include <immintrin.h>

#include <cstdint>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")

#define IKKUNA_STATS_VECTOR_BYTES 64
#include "shared/stats/stats_kernel.inc"
#include "shared/stats/stats_widen.inc"

namespace ikkuna::stats_internal {
const Kernels& Avx512Kernels() noexcept { return kKernels; }
}  // namespace ikkuna::stats_internal
#endif
