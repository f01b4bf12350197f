// Speed of the statistics pass against a plain read of the same memory, and against the same statistics by one ATen
// call each, all in turn within each round, so that a busy neighbour slows all. Absolute figures are for the reader;
// those of the last line count: AVX-512, AVX2 or whatever this machine has, float32, 64 MiB, one core.
//
//   stats_bench [--check]     with --check: exit 1 if of_read is below 0.8
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "shared/stats/stats_pass.h"

namespace ikkuna {
namespace {

constexpr size_t kMemoryBytes = size_t{64} << 20;  // larger than any cache level of one core
constexpr size_t kCacheBytes = size_t{256} << 10;
constexpr int kRounds = 15;
constexpr double kLeastOfRead = 0.8;

volatile uint64_t g_sink;  // keeps what is computed alive

// Processor time, so that a machine with other work measures the same.
double Seconds(auto&& work) {
  const auto now = [] {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  const double start = now();
  work();
  return now() - start;
}

// Reads every byte once, 16 at a time. With prefetch it is sometimes faster: the better one counts.
template <bool kPrefetch>
uint64_t Read(const std::vector<unsigned char>& memory) {
  typedef uint64_t Vector __attribute__((vector_size(16)));
  constexpr size_t kUnroll = 8;
  Vector lanes[kUnroll] = {}, words[kUnroll];
  for (size_t i = 0; i + sizeof words <= memory.size(); i += sizeof words) {
    if (kPrefetch) {
      __builtin_prefetch(memory.data() + i + 4096);
      __builtin_prefetch(memory.data() + i + 4160);
    }
    for (size_t k = 0; k < kUnroll; ++k) std::memcpy(&words[k], memory.data() + i + 16 * k, 16);
    for (size_t k = 0; k < kUnroll; ++k) lanes[k] ^= words[k];
  }
  uint64_t all = 0;
  for (const Vector& lane : lanes) all ^= lane[0] ^ lane[1];
  return all;
}

template <typename T>
std::vector<unsigned char> Filled(size_t bytes, T (*value)(float)) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<T> some(size_t{1} << 16);
  for (T& v : some) v = value(normal(random));
  std::vector<unsigned char> memory(bytes);
  for (size_t i = 0; i < bytes; i += some.size() * sizeof(T)) {
    std::memcpy(memory.data() + i, some.data(), std::min(some.size() * sizeof(T), bytes - i));
  }
  return memory;
}

float AsFloat(float x) { return x; }
double AsDouble(float x) { return x; }
uint16_t AsBrain(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>(bits >> 16);
}
uint16_t AsHalf(float x) { return static_cast<uint16_t>(0x3c00 + static_cast<int>(x * 100)); }
int8_t AsByte(float x) { return static_cast<int8_t>(x * 20); }
float AsRelu(float x) { return x > 0 ? x : 0; }
float AsNan(float x) { return x > 1 ? __builtin_nanf("") : x; }

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Prints GB/s of the pass and of the read, and returns the ratio of the median round.
double Compare(const char* name, const std::vector<unsigned char>& memory, auto&& pass) {
  const size_t repeats = std::max<size_t>(1, kMemoryBytes / memory.size());
  std::vector<double> ratios, reads, passes;
  for (int round = 0; round < kRounds; ++round) {
    const auto repeat = [&](auto&& work) {
      return Seconds([&] {
        for (size_t i = 0; i < repeats; ++i) g_sink = work();
      });
    };
    const double read =
        std::min(repeat([&] { return Read<false>(memory); }), repeat([&] { return Read<true>(memory); }));
    const double seconds = repeat([&] { return pass(memory); });
    reads.push_back(read);
    passes.push_back(seconds);
    ratios.push_back(read / seconds);
  }
  const double gigabytes = static_cast<double>(memory.size() * repeats) / 1e9;
  std::printf("%-34s %7.2f GB/s   read %7.2f GB/s   ratio %.2f\n", name, gigabytes / Median(passes),
              gigabytes / Median(reads), Median(ratios));
  return Median(ratios);
}

auto Pass(DType dtype, size_t element_bytes) {
  return [=](const std::vector<unsigned char>& memory) {
    return ComputeStats(memory.data(), dtype, memory.size() / element_bytes).zeros;
  };
}

// What TensorStats holds, as one would ask LibTorch for it: an operator for each number.
uint64_t ByAten(const at::Tensor& x) {
  const at::Tensor mean = x.mean(), centred = x - mean, squares = centred * centred;
  const double numbers[] = {
      x.sum().item<double>(),
      squares.sum().item<double>(),
      (squares * centred).sum().item<double>(),
      (squares * squares).sum().item<double>(),
      x.abs().sum().item<double>(),
      (x * x).sum().item<double>(),
      x.min().item<double>(),
      x.max().item<double>(),
      (x == 0).sum().item<double>(),
      x.isnan().sum().item<double>(),
      x.isposinf().sum().item<double>(),
      x.isneginf().sum().item<double>(),
  };
  uint64_t bits;
  std::memcpy(&bits, numbers, sizeof bits);
  return bits;
}

// How many times as fast as ByAten the pass is, in the median round.
double CompareWithAten(const std::vector<unsigned char>& memory) {
  at::set_num_threads(1);
  const at::Tensor tensor = at::from_blob(const_cast<unsigned char*>(memory.data()),
                                          {static_cast<int64_t>(memory.size() / sizeof(float))}, at::kFloat);
  std::vector<double> ratios;
  for (int round = 0; round < kRounds; ++round) {
    const double aten = Seconds([&] { g_sink = ByAten(tensor); });
    const double own = Seconds([&] { g_sink = ComputeStats(memory.data(), DType::kF32, memory.size() / 4).zeros; });
    ratios.push_back(aten / own);
  }
  std::printf("the same by ATen, a call for each number: %.1f times as long\n", Median(ratios));
  return Median(ratios);
}

void SmallTensors() {
  const std::vector<unsigned char> memory = Filled(kCacheBytes, AsFloat);
  for (const size_t n : {1, 10, 64, 512, 1024, 10'000}) {
    const size_t calls = 4'000'000 / (n + 200);
    const double seconds = Seconds([&] {
      for (size_t i = 0; i < calls; ++i) g_sink = ComputeStats(memory.data(), DType::kF32, n).zeros;
    });
    std::printf("float32, %6zu elements in cache     %7.0f ns a tensor\n", n,
                seconds / static_cast<double>(calls) * 1e9);
  }
}

struct Figures {
  double of_read = 0, of_aten = 0;
};

Figures Run() {
  const std::vector<unsigned char> floats = Filled(kMemoryBytes, AsFloat);
  const StatsPath best = CurrentStatsPath();
  for (const auto& [path, name] : {std::pair{StatsPath::kPortable, "float32, portable"},
                                   {StatsPath::kAvx2, "float32, AVX2"},
                                   {StatsPath::kAvx512, "float32, AVX-512"}}) {
    if (ForceStatsPath(path)) Compare(name, floats, Pass(DType::kF32, 4));
  }
  ForceStatsPath(best);
  Compare("float32, in cache", Filled(kCacheBytes, AsFloat), Pass(DType::kF32, 4));
  Compare("float32, half zeros", Filled(kMemoryBytes, AsRelu), Pass(DType::kF32, 4));
  Compare("float32, one NaN in six", Filled(kMemoryBytes, AsNan), Pass(DType::kF32, 4));
  Compare("float64", Filled(kMemoryBytes, AsDouble), Pass(DType::kF64, 8));
  Compare("bfloat16", Filled(kMemoryBytes, AsBrain), Pass(DType::kBF16, 2));
  Compare("float16", Filled(kMemoryBytes, AsHalf), Pass(DType::kF16, 2));
  Compare("int8", Filled(kMemoryBytes, AsByte), Pass(DType::kI8, 1));
  const std::vector<unsigned char> before = floats;
  Compare("float32, difference of two", floats, [&](const std::vector<unsigned char>& memory) {
    StatsPass pass;
    pass.AddDifference(memory.data(), before.data(), DType::kF32, memory.size() / 4);
    return pass.Finish().zeros;
  });
  SmallTensors();
  const double of_aten = CompareWithAten(floats);
  return {Compare("float32, best path", floats, Pass(DType::kF32, 4)), of_aten};
}

}  // namespace
}  // namespace ikkuna

int main(int argc, char** argv) {
  const auto [of_read, of_aten] = ikkuna::Run();
  std::printf("of_read=%.3f of_aten=%.1f\n", of_read, of_aten);
  return argc > 1 && std::string(argv[1]) == "--check" && of_read < ikkuna::kLeastOfRead ? 1 : 0;
}
