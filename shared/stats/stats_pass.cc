#include "shared/stats/stats_pass.h"

#include <atomic>
#include <cstdint>
#include <limits>

namespace ikkuna {
namespace {

using stats_internal::kBuffer;
using stats_internal::Kernels;

const Kernels* KernelsFor(StatsPath path) noexcept {
  switch (path) {
    case StatsPath::kPortable:
      return &stats_internal::PortableKernels();
#if defined(IKKUNA_STATS_X86)
    case StatsPath::kAvx2:
      if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
        return &stats_internal::Avx2Kernels();
      }
      return nullptr;
    case StatsPath::kAvx512:
      if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        return &stats_internal::Avx512Kernels();
      }
      return nullptr;
#else
    default:
      return nullptr;
#endif
  }
  return nullptr;
}

// Chosen at the first use. Relaxed: the tables are constants, and every thread that finds null chooses the same one.
std::atomic<const Kernels*> g_kernels{nullptr};

const Kernels& ActiveKernels() noexcept {
  const Kernels* active = g_kernels.load(std::memory_order_relaxed);
  if (active != nullptr) return *active;
  for (const StatsPath path : {StatsPath::kAvx512, StatsPath::kAvx2, StatsPath::kPortable}) {
    active = KernelsFor(path);
    if (active != nullptr) break;
  }
  g_kernels.store(active, std::memory_order_relaxed);
  return *active;
}

// Elements in the type they are summed in.
union Buffer {
  float f32[kBuffer];
  double f64[kBuffer];
};

void AddBuffer(stats_internal::Running& running, const Kernels& kernels, bool higher, const Buffer& buffer, DType dtype,
               size_t n) {
  if (stats_internal::SummedInDouble(dtype)) {
    kernels.add_f64[higher](running, buffer.f64, n);
  } else {
    kernels.add_f32[higher](running, buffer.f32, n);
  }
}

}  // namespace

void StatsPass::Add(const void* data, DType dtype, size_t n) noexcept {
  const size_t element_bytes = DTypeBytes(dtype);
  if (n == 0 || element_bytes == 0) return;
  const Kernels& kernels = ActiveKernels();
  if (dtype == DType::kF32) return kernels.add_f32[higher_](running_, data, n);
  if (dtype == DType::kF64) return kernels.add_f64[higher_](running_, data, n);
  Buffer buffer;
  const auto* bytes = static_cast<const unsigned char*>(data);
  for (size_t done = 0; done < n; done += kBuffer) {
    const size_t count = n - done < kBuffer ? n - done : kBuffer;
    kernels.widen(bytes + done * element_bytes, dtype, count, &buffer);
    AddBuffer(running_, kernels, higher_, buffer, dtype, count);
  }
}

void StatsPass::AddDifference(const void* a, const void* b, DType dtype, size_t n) noexcept {
  const size_t element_bytes = DTypeBytes(dtype);
  if (n == 0 || element_bytes == 0) return;
  const Kernels& kernels = ActiveKernels();
  Buffer buffer;
  const auto* a_bytes = static_cast<const unsigned char*>(a);
  const auto* b_bytes = static_cast<const unsigned char*>(b);
  for (size_t done = 0; done < n; done += kBuffer) {
    const size_t count = n - done < kBuffer ? n - done : kBuffer;
    kernels.subtract(a_bytes + done * element_bytes, b_bytes + done * element_bytes, dtype, count, &buffer);
    AddBuffer(running_, kernels, higher_, buffer, dtype, count);
  }
}

TensorStats StatsPass::Finish() const noexcept {
  TensorStats stats = running_.stats;
  if (!higher_) stats.left_out = kAllMoments & ~kCheapMoments;
  if (stats.finite_n == 0) {
    stats.min = std::numeric_limits<double>::infinity();
    stats.max = -std::numeric_limits<double>::infinity();
  }
  // Moving a block to the common shift can leave -1e-17 where the sum is 0.
  if (stats.sum2 < 0) stats.sum2 = 0;
  if (stats.sum4 < 0) stats.sum4 = 0;
  if (stats.square_sum < 0) stats.square_sum = 0;
  return stats;
}

TensorStats ComputeStats(const void* data, DType dtype, size_t n, uint64_t moments) noexcept {
  StatsPass pass(moments);
  pass.Add(data, dtype, n);
  return pass.Finish();
}

StatsPath CurrentStatsPath() noexcept {
  const Kernels* active = &ActiveKernels();
#if defined(IKKUNA_STATS_X86)
  if (active == &stats_internal::Avx512Kernels()) return StatsPath::kAvx512;
  if (active == &stats_internal::Avx2Kernels()) return StatsPath::kAvx2;
#endif
  (void)active;
  return StatsPath::kPortable;
}

bool ForceStatsPath(StatsPath path) noexcept {
  const Kernels* kernels = KernelsFor(path);
  if (kernels == nullptr) return false;
  g_kernels.store(kernels, std::memory_order_relaxed);
  return true;
}

}  // namespace ikkuna
