// What StatsPass runs on, private to shared/stats/: the running sums, and the table of loops that one instruction set
// compiles to. The same source, stats_kernel.inc, is compiled once for each StatsPath.
#pragma once

#include <cstddef>

#include "shared/codes.h"
#include "shared/stats/tensor_stats.h"

// Clang 14 has no pragma that sets the instruction set for the rest of a file: its builds have the portable loops
// alone.
#if defined(__x86_64__) && !defined(__clang__)
#define IKKUNA_STATS_X86 1
#endif

namespace ikkuna::stats_internal {

struct Running {
  TensorStats stats;       // shift is the centre of the first block; min and max hold only if finite_n > 0
  double centre = 0;       // what the last block was centred on: the next is likely to lie there too
  double scale = 1;        // the power of two that brought the last block of floats near 1
  bool started = false;    // centre and scale come from data
  bool in_double = false;  // the last block did not suit the float loop
};

// Elements that are looked at together when they do not suit the fast loop.
constexpr size_t kBlock = 512;
// Elements converted, or subtracted, at a time: 16 KiB of doubles on the stack.
constexpr size_t kBuffer = 2048;

// Whether elements of `dtype` are summed as double, because float would lose digits of the value itself.
constexpr bool SummedInDouble(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kI32 || dtype == DType::kI64;
}

using AddElementsFn = void(Running& running, const void* data, size_t n) noexcept;

struct Kernels {
  AddElementsFn* add_f32[2];  // without the third and fourth moment, with them
  AddElementsFn* add_f64[2];
  // n <= kBuffer elements of a known `dtype` to float, or to double where SummedInDouble().
  void (*widen)(const void* data, DType dtype, size_t n, void* out) noexcept;
  // The same for the n differences a[i] - b[i].
  void (*subtract)(const void* a, const void* b, DType dtype, size_t n, void* out) noexcept;
};

const Kernels& PortableKernels() noexcept;
#if defined(IKKUNA_STATS_X86)
const Kernels& Avx2Kernels() noexcept;
const Kernels& Avx512Kernels() noexcept;
#endif

}  // namespace ikkuna::stats_internal
