// StatsPass: TensorStats of a tensor in one pass over its bytes, at the speed of reading them.
//
// Owner: the caller, on its stack. Thread rule: one thread a pass; any thread may hold one of its own. Nothing here
// allocates, throws or makes a system call, so it may run on a training thread. The answer does not depend on the
// floating-point control register beyond the fact that a caller who flushes subnormals has them count as 0 in the sums.
#pragma once

#include <cstddef>

#include "shared/codes.h"
#include "shared/stats/stats_kernel.h"
#include "shared/stats/tensor_stats.h"

namespace ikkuna {

class StatsPass {
 public:
  // `moments`: what is asked (Moment set). More may be taken; Finish() says what was left out.
  explicit StatsPass(uint64_t moments = kAllMoments) noexcept : higher_((moments & ~kCheapMoments) != 0) {}

  // Adds `n` contiguous elements; call it once per contiguous piece. `data` need not be aligned; it may be null when n
  // is 0. Data types mix freely; an invalid one adds nothing. Integers count as their value, bool as 0 and 1 (any
  // byte but 0 is 1); i64 beyond 2^53 is rounded to the nearest double.
  void Add(const void* data, DType dtype, size_t n) noexcept;

  // Adds the n values a[i] - b[i] as the subtraction of that type gives them: f32 and f64 in their own arithmetic,
  // f16 and bf16 through f32 and rounded to nearest even. Integers do not wrap: their difference is taken in double.
  void AddDifference(const void* a, const void* b, DType dtype, size_t n) noexcept;

  // The statistics of everything added so far. More may be added afterwards.
  TensorStats Finish() const noexcept;

 private:
  const bool higher_;  // all are taken, else the cheap ones
  stats_internal::Running running_;
};

TensorStats ComputeStats(const void* data, DType dtype, size_t n, uint64_t moments = kAllMoments) noexcept;

// The code a pass runs on. All give the same statistics up to rounding.
enum class StatsPath {
  kPortable,  // 16-byte vectors: SSE2 or NEON where the machine has them
  kAvx2,      // with FMA and F16C
  kAvx512,    // F, BW, DQ and VL
};

// The path in use; the best this processor has unless a test forced another.
StatsPath CurrentStatsPath() noexcept;

// Test hook: every later pass of this process takes `path`. False, and no change, if the processor or the build lacks
// it.
bool ForceStatsPath(StatsPath path) noexcept;

}  // namespace ikkuna
