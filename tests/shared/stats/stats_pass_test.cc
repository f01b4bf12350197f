#include "shared/stats/stats_pass.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <thread>

#include "shared/stats/derive.h"
#include "tests/shared/stats/reference.h"
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace ikkuna {
namespace {

// Around a vector, four vectors, a block and a batch of every path.
const std::vector<size_t> kSizes = {0,    1,    2,    3,    7,    8,    9,    15,    16,   17,   31,   32,
                                    33,   47,   48,   63,   64,   65,   79,   95,    96,   127,  128,  129,
                                    255,  511,  512,  513,  527,  1023, 1024, 1025,  2047, 2048, 2049, 4095,
                                    4096, 4097, 4607, 4608, 8191, 8192, 8193, 12289, 50001};

using Generator = float (*)(std::mt19937&, size_t);
float Normal(std::mt19937& random, size_t) { return std::normal_distribution<float>()(random); }
float Uniform(std::mt19937& random, size_t) { return std::uniform_real_distribution<float>()(random); }
float Offset(std::mt19937& random, size_t i) { return 1e3f + Normal(random, i); }
float FarOffset(std::mt19937& random, size_t i) { return -3e6f + Normal(random, i); }
float Huge(std::mt19937& random, size_t i) { return 1e30f * Normal(random, i); }
float NearlyMax(std::mt19937& random, size_t i) { return Normal(random, i) > 0 ? 3.4e38f : -3.4e38f; }
float Tiny(std::mt19937& random, size_t i) { return 1e-30f * Normal(random, i); }
float Subnormal(std::mt19937& random, size_t i) { return 1e-41f * Normal(random, i); }
float Constant(std::mt19937&, size_t) { return 0.1f; }
float Zero(std::mt19937&, size_t i) { return i % 2 == 0 ? 0.0f : -0.0f; }
float Relu(std::mt19937& random, size_t i) { return std::max(0.0f, Normal(random, i)); }
float Sparse(std::mt19937& random, size_t i) { return random() % 50 == 0 ? Normal(random, i) : 0.0f; }
float HeavyTail(std::mt19937& random, size_t i) { return std::pow(Normal(random, i), 9.0f); }
float TwoValues(std::mt19937& random, size_t) { return random() % 3 == 0 ? 7.25f : -1.5f; }
float Ramp(std::mt19937&, size_t i) { return static_cast<float>(i); }
float Channels(std::mt19937& random, size_t i) { return 20.0f * static_cast<float>((i / 784) % 7) + Normal(random, i); }
float Scales(std::mt19937& random, size_t i) {
  return std::ldexp(Normal(random, i), static_cast<int>((i / 600) % 9) * 20 - 80);
}
float FirstIsFar(std::mt19937& random, size_t i) { return i == 0 ? 1e9f : Normal(random, i); }
float AllMagnitudes(std::mt19937& random, size_t i) {
  return std::ldexp(Normal(random, i), static_cast<int>(random() % 200) - 100);
}

struct Data {
  const char* name;
  Generator generator;
};
const std::vector<Data> kData = {{"Normal", Normal},
                                 {"Uniform", Uniform},
                                 {"Offset", Offset},
                                 {"FarOffset", FarOffset},
                                 {"Huge", Huge},
                                 {"NearlyMax", NearlyMax},
                                 {"Tiny", Tiny},
                                 {"Subnormal", Subnormal},
                                 {"Constant", Constant},
                                 {"Zero", Zero},
                                 {"Relu", Relu},
                                 {"Sparse", Sparse},
                                 {"HeavyTail", HeavyTail},
                                 {"TwoValues", TwoValues},
                                 {"Ramp", Ramp},
                                 {"Channels", Channels},
                                 {"Scales", Scales},
                                 {"FirstIsFar", FirstIsFar},
                                 {"AllMagnitudes", AllMagnitudes}};

std::vector<float> Make(Generator generator, size_t n, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::vector<float> x(n);
  for (size_t i = 0; i < n; ++i) x[i] = generator(random, i);
  return x;
}

class StatsPassTest : public testing::TestWithParam<StatsPath> {
 protected:
  PathScope path_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Paths, StatsPassTest, testing::ValuesIn(AvailablePaths()),
                         [](const auto& info) { return PathName(info.param); });

TEST_P(StatsPassTest, EveryMetricOfEverySizeAndShapeOfData) {
  for (const Data& data : kData) {
    for (const size_t n : kSizes) {
      const std::vector<float> x = Make(data.generator, n);
      ExpectMatches(ComputeStats(x.data(), DType::kF32, n), Decode(x.data(), DType::kF32, n),
                    std::string(data.name) + " " + std::to_string(n), 0.3);
    }
  }
}

TEST_P(StatsPassTest, ClosedFormOfARamp) {
  const size_t n = 100000;
  const TensorStats s = ComputeStats(Make(Ramp, n).data(), DType::kF32, n);
  const double m = static_cast<double>(n);
  EXPECT_NEAR(stats::Sum(s), m * (m - 1) / 2, 1e-7 * m * m);
  EXPECT_NEAR(stats::Variance(s), m * (m + 1) / 12, 1e-7 * m * m);
  EXPECT_NEAR(stats::Norm2(s), std::sqrt((m - 1) * m * (2 * m - 1) / 6), 1e-7 * m * std::sqrt(m));
  EXPECT_NEAR(stats::Skewness(s), 0, 1e-6);
  EXPECT_NEAR(stats::Kurtosis(s), -1.2 * (m * m + 1) / (m * m - 1), 1e-6);
}

TEST_P(StatsPassTest, ConstantHasNoVariance) {
  for (const float value : {0.1f, -3e30f, 1e-40f, 12345.678f}) {
    for (const size_t n : {2, 17, 100, 513, 70000}) {
      const TensorStats s = ComputeStats(std::vector<float>(n, value).data(), DType::kF32, n);
      EXPECT_EQ(stats::Variance(s), 0);
      EXPECT_TRUE(std::isnan(stats::Kurtosis(s)));
      EXPECT_EQ(stats::Mean(s), static_cast<double>(value));
    }
  }
}

TEST_P(StatsPassTest, LargeTensor) {
  const size_t n = 3'000'001;
  for (const Data& data : {Data{"Normal", Normal}, Data{"Offset", Offset}, Data{"Channels", Channels}}) {
    const std::vector<float> x = Make(data.generator, n);
    ExpectMatches(ComputeStats(x.data(), DType::kF32, n), Decode(x.data(), DType::kF32, n), data.name, 0.3);
  }
}

TEST_P(StatsPassTest, FewOutliersAmongMillions) {
  std::vector<float> x = Make(Normal, 1'000'000);
  x[123'456] = 1.2345678e6f;
  x[123'500] = -1.2345679e6f;
  ExpectMatches(ComputeStats(x.data(), DType::kF32, x.size()), Decode(x.data(), DType::kF32, x.size()), "one block");
  x[123'500] = 0;
  x[700'001] = -1.2345679e6f;
  ExpectMatches(ComputeStats(x.data(), DType::kF32, x.size()), Decode(x.data(), DType::kF32, x.size()), "two blocks");
}

TEST_P(StatsPassTest, NonFiniteAtEveryPosition) {
  const auto bits = [](uint32_t pattern) {
    float x;
    std::memcpy(&x, &pattern, sizeof x);
    return x;
  };
  const std::vector<float> patterns = {
      bits(0x7fc00000), bits(0xffc00000), bits(0x7f800001), bits(0xffffffff), kInfF, -kInfF};
  for (const size_t n : {5, 40, 137, 600}) {
    for (size_t at = 0; at < n; ++at) {
      std::vector<float> x = Make(Normal, n);
      std::memcpy(&x[at], &patterns[at % patterns.size()], sizeof(float));
      if (at % 7 == 0) std::memcpy(&x[(at + 1) % n], &patterns[(at + 1) % patterns.size()], sizeof(float));
      const auto what = std::to_string(n) + " at " + std::to_string(at);
      const TensorStats s = ComputeStats(x.data(), DType::kF32, n);
      ExpectMatches(s, Decode(x.data(), DType::kF32, n), what);
      // What is finite is summed all the same.
      std::vector<float> finite;
      for (const float v : x) {
        if (std::isfinite(v)) finite.push_back(v);
      }
      TensorStats of_finite = s;
      of_finite.n = s.finite_n;
      of_finite.nans = of_finite.positive_infinities = of_finite.negative_infinities = 0;
      ExpectMatches(of_finite, Decode(finite.data(), DType::kF32, finite.size()), what + " finite part");
    }
  }
}

TEST_P(StatsPassTest, ManyNonFinite) {
  for (const float other : {kNanF, kInfF, -kInfF}) {
    for (const size_t every : {1, 2, 3, 511, 512, 4096}) {
      std::vector<float> x = Make(Offset, 20'003);
      for (size_t i = 0; i < x.size(); i += every) x[i] = other;
      ExpectMatches(ComputeStats(x.data(), DType::kF32, x.size()), Decode(x.data(), DType::kF32, x.size()),
                    std::to_string(other) + " every " + std::to_string(every));
    }
  }
  const std::vector<float> none(1000, kNanF);
  const TensorStats s = ComputeStats(none.data(), DType::kF32, none.size());
  EXPECT_EQ(s.finite_n, 0u);
  EXPECT_EQ(s.min, kInfF);
  EXPECT_EQ(s.max, -kInfF);
  EXPECT_EQ(s.shift, 0);
}

TEST_P(StatsPassTest, UnalignedData) {
  const size_t n = 5001;
  const std::vector<float> x = Make(Normal, n);
  std::vector<char> bytes(n * sizeof(float) + 64);
  for (size_t offset = 0; offset < 64; offset += offset < 8 ? 1 : 4) {
    std::memcpy(bytes.data() + offset, x.data(), n * sizeof(float));
    ExpectMatches(ComputeStats(bytes.data() + offset, DType::kF32, n), Decode(x.data(), DType::kF32, n),
                  "offset " + std::to_string(offset));
  }
}

// Tensors end where their memory does: neither end may be overstepped, not even by a load whose lanes are not used.
TEST_P(StatsPassTest, ReadsNothingBesideTheData) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), middle = 8 * page;
  char* area = static_cast<char*>(mmap(nullptr, middle + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(static_cast<void*>(area), MAP_FAILED);
  ASSERT_EQ(mprotect(area + page, middle, PROT_READ | PROT_WRITE), 0);
  std::memset(area + page, 0x3f, middle);
  for (const DType dtype :
       {DType::kF32, DType::kF64, DType::kF16, DType::kBF16, DType::kU8, DType::kI32, DType::kI64}) {
    const size_t bytes = DTypeBytes(dtype);
    for (size_t n = 0; n <= 600; ++n) {
      EXPECT_EQ(ComputeStats(area + page + middle - n * bytes, dtype, n).n, n);
      EXPECT_EQ(ComputeStats(area + page, dtype, n).n, n);
    }
    EXPECT_EQ(ComputeStats(area + page, dtype, middle / bytes).finite_n, middle / bytes);
  }
  EXPECT_EQ(munmap(area, middle + 2 * page), 0);
}

TEST_P(StatsPassTest, PiecesGiveTheWhole) {
  std::mt19937 random(5);
  for (const Data& data : kData) {
    const std::vector<float> x = Make(data.generator, 9000);
    StatsPass pass;
    for (size_t done = 0; done < x.size();) {
      const size_t n = std::min<size_t>(x.size() - done, random() % (random() % 4 == 0 ? 3000 : 20));
      pass.Add(x.data() + done, DType::kF32, n);
      done += n;
    }
    ExpectMatches(pass.Finish(), Decode(x.data(), DType::kF32, x.size()), data.name);
  }
}

TEST_P(StatsPassTest, TypesMixInOnePass) {
  const std::vector<float> x = Make(Normal, 1000);
  const std::vector<double> huge = {1e200, -1e200}, y(1000, 1e-3);
  StatsPass pass;
  pass.Add(x.data(), DType::kF32, x.size());
  pass.Add(y.data(), DType::kF64, y.size());
  pass.Add(x.data(), DType::kF32, x.size());
  std::vector<double> all = Decode(x.data(), DType::kF32, x.size());
  const std::vector<double> once = all;
  all.insert(all.end(), y.begin(), y.end());
  all.insert(all.end(), once.begin(), once.end());
  ExpectMatches(pass.Finish(), all, "mixed");
  pass.Add(huge.data(), DType::kF64, huge.size());
  pass.Add(x.data(), DType::kF32, x.size());
  EXPECT_EQ(pass.Finish().max, 1e200);
  EXPECT_EQ(pass.Finish().n, 4002u - 1000u + 1000u);
}

TEST_P(StatsPassTest, NothingAdded) {
  StatsPass pass;
  pass.Add(nullptr, DType::kF32, 0);
  pass.Add("x", DType::kInvalid, 1);
  const TensorStats s = pass.Finish();
  ExpectMatches(s, {}, "nothing");
  EXPECT_EQ(s.min, kInfF);
  EXPECT_EQ(s.max, -kInfF);
}

TEST_P(StatsPassTest, AnyThread) {
  const std::vector<float> x = Make(Offset, 30'000);
  const TensorStats expected = ComputeStats(x.data(), DType::kF32, x.size());
  std::vector<TensorStats> results(4);
  std::vector<std::thread> threads;
  for (TensorStats& result : results) {
    threads.emplace_back([&] { result = ComputeStats(x.data(), DType::kF32, x.size()); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const TensorStats& result : results) EXPECT_EQ(std::memcmp(&result, &expected, sizeof result), 0);
}

#if defined(__SSE__)
TEST_P(StatsPassTest, ATrainerThatFlushesSubnormals) {
  const unsigned before = _mm_getcsr();
  const std::vector<float> small = Make(Tiny, 5000), normal = Make(Normal, 5000);
  std::vector<float> some_subnormal = normal;
  for (size_t i = 0; i < some_subnormal.size(); i += 3) some_subnormal[i] = 1e-41f;
  _mm_setcsr(before | 0x8040);  // flush to zero, denormals are zero
  const TensorStats of_small = ComputeStats(small.data(), DType::kF32, small.size());
  const TensorStats of_some = ComputeStats(some_subnormal.data(), DType::kF32, some_subnormal.size());
  _mm_setcsr(before);
  ExpectMatches(of_small, Decode(small.data(), DType::kF32, small.size()), "1e-30");
  ExpectMatches(of_some, Decode(some_subnormal.data(), DType::kF32, some_subnormal.size()), "some subnormals");
}
#endif

TEST(StatsPath, BestIsChosenAndForcedOnesAnswer) {
  EXPECT_TRUE(ForceStatsPath(CurrentStatsPath()));
  const std::vector<StatsPath> paths = AvailablePaths();
  ASSERT_FALSE(paths.empty());
  EXPECT_EQ(paths.front(), StatsPath::kPortable);
  EXPECT_EQ(CurrentStatsPath(), paths.back());
}

}  // namespace
}  // namespace ikkuna
