// Every data type through StatsPass, and differences of two tensors in each.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "shared/stats/derive.h"
#include "shared/stats/merge.h"
#include "shared/stats/stats_pass.h"
#include "tests/shared/stats/reference.h"

namespace ikkuna {
namespace {

const std::vector<DType> kTypes = {DType::kF32, DType::kF64, DType::kF16, DType::kBF16, DType::kI8,
                                   DType::kU8,  DType::kI16, DType::kI32, DType::kI64,  DType::kBool};
const std::vector<size_t> kSizesOfHalves = {0,  1,   7,   15,  16,  17,  33,   63,   64,
                                            65, 127, 500, 511, 512, 513, 1025, 4096, 5001};

bool IsFloating(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF64 || dtype == DType::kF16 || dtype == DType::kBF16;
}

std::vector<unsigned char> RandomBytes(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<unsigned char> bytes(n);
  for (unsigned char& b : bytes) b = static_cast<unsigned char>(random());
  return bytes;
}

template <typename T>
void Append(std::vector<unsigned char>& bytes, T value) {
  const auto* p = reinterpret_cast<const unsigned char*>(&value);
  bytes.insert(bytes.end(), p, p + sizeof value);
}

// Elements of any type near `mean` with a spread of about 1, or at random where the type has no room for that.
std::vector<unsigned char> Values(DType dtype, size_t n, double mean, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(mean, 1);
  std::vector<unsigned char> bytes;
  for (size_t i = 0; i < n; ++i) {
    const double x = normal(random);
    const auto as_float = static_cast<float>(x);
    uint32_t bits;
    std::memcpy(&bits, &as_float, sizeof bits);
    switch (dtype) {
      case DType::kF32:
        Append(bytes, as_float);
        break;
      case DType::kF64:
        Append(bytes, x);
        break;
      case DType::kBF16:
        Append(bytes, static_cast<uint16_t>(bits >> 16));
        break;
      // Sign, an exponent from 2^-3 to 2^4, any mantissa.
      case DType::kF16:
        Append(bytes, static_cast<uint16_t>((random() & 0x83ff) | (12 + random() % 8) << 10));
        break;
      case DType::kBool:
        Append(bytes, static_cast<uint8_t>(random() % 3));
        break;
      case DType::kI8:
        Append(bytes, static_cast<int8_t>(random()));
        break;
      case DType::kU8:
        Append(bytes, static_cast<uint8_t>(random()));
        break;
      case DType::kI16:
        Append(bytes, static_cast<int16_t>(random()));
        break;
      case DType::kI32:
        Append(bytes, static_cast<int32_t>(random()));
        break;
      default:
        Append(bytes, static_cast<int64_t>(static_cast<uint64_t>(random()) << 32 | random()));
        break;
    }
  }
  return bytes;
}

// a - b as the type's own subtraction gives it, from the definition.
std::vector<double> Difference(const void* a, const void* b, DType dtype, size_t n) {
  const std::vector<double> x = Decode(a, dtype, n), y = Decode(b, dtype, n);
  std::vector<double> d(n);
  for (size_t i = 0; i < n; ++i) {
    const auto in_float = static_cast<float>(x[i]) - static_cast<float>(y[i]);
    switch (dtype) {
      case DType::kF32:
        d[i] = in_float;
        break;
      case DType::kF16:
        d[i] = NearestHalf(in_float);
        break;
      case DType::kBF16:
        d[i] = NearestBrain(in_float);
        break;
      default:
        d[i] = x[i] - y[i];
        break;
    }
  }
  return d;
}

std::string Named(DType dtype, size_t n) { return std::string(DTypeName(dtype)) + " " + std::to_string(n); }

class DTypesTest : public testing::TestWithParam<StatsPath> {
 protected:
  PathScope path_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Paths, DTypesTest, testing::ValuesIn(AvailablePaths()),
                         [](const auto& info) { return PathName(info.param); });

TEST_P(DTypesTest, Values) {
  for (const DType dtype : kTypes) {
    for (const double mean : {0.0, 100.0}) {
      for (const size_t n : kSizesOfHalves) {
        const auto bytes = Values(dtype, n, mean, 11);
        ExpectMatches(ComputeStats(bytes.data(), dtype, n), Decode(bytes.data(), dtype, n), Named(dtype, n), 0.3);
      }
    }
  }
}

// All bit patterns of the small types: subnormals, both zeros, infinities, every NaN.
TEST_P(DTypesTest, EveryPatternOfTheSmallTypes) {
  std::vector<uint16_t> patterns(65536);
  for (size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<uint16_t>(i);
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kI16, DType::kI8, DType::kU8, DType::kBool}) {
    const size_t n = patterns.size() * 2 / DTypeBytes(dtype);
    ExpectMatches(ComputeStats(patterns.data(), dtype, n), Decode(patterns.data(), dtype, n), Named(dtype, n));
    if (!IsFloating(dtype)) continue;
    // One at a time, so that no infinity hides a wrong value.
    for (size_t i = 0; i < patterns.size(); i += 37) {
      ExpectMatches(ComputeStats(&patterns[i], dtype, 1), Decode(&patterns[i], dtype, 1),
                    "pattern " + std::to_string(i));
    }
  }
}

TEST_P(DTypesTest, FiniteHalvesOfAllMagnitudes) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    std::vector<uint16_t> finite;
    for (uint32_t i = 0; i < 65536; ++i) {
      const auto bits = static_cast<uint16_t>(i);
      if (std::isfinite(dtype == DType::kF16 ? DecodeHalf(bits) : DecodeBrain(bits))) finite.push_back(bits);
    }
    ExpectMatches(ComputeStats(finite.data(), dtype, finite.size()), Decode(finite.data(), dtype, finite.size()),
                  Named(dtype, finite.size()));
    for (size_t i = 0; i + 16 <= finite.size(); i += 16) {
      const auto what = Named(dtype, i);
      ExpectMatches(ComputeStats(&finite[i], dtype, 16), Decode(&finite[i], dtype, 16), what);
    }
  }
}

TEST_P(DTypesTest, AnyBytesAtAnyAddress) {
  for (const DType dtype : kTypes) {
    for (const size_t n : {64, 1000}) {
      auto bytes = RandomBytes(n * DTypeBytes(dtype) + 1, 3);
      if (dtype == DType::kF64) {  // the fourth powers of most doubles are none
        for (size_t i = 8; i < bytes.size(); i += 8) bytes[i] = (bytes[i] & 0x80) | 0x3f;
      }
      const TensorStats s = ComputeStats(bytes.data() + 1, dtype, n);
      ExpectMatches(s, Decode(bytes.data() + 1, dtype, n), Named(dtype, n));
    }
  }
}

// Doubles keep their digits: a spread that a float at that distance does not even show.
TEST_P(DTypesTest, DoublesAreNotNarrowed) {
  std::mt19937_64 random(4);
  std::normal_distribution<double> normal;
  std::vector<double> far(3000), small(3000), huge(3000);
  for (size_t i = 0; i < far.size(); ++i) {
    far[i] = 1e6 + 1e-5 * normal(random);
    small[i] = 1e-60 * normal(random);
    huge[i] = 1e60 * normal(random);
  }
  for (const auto& x : {far, small, huge}) {
    ExpectMatches(ComputeStats(x.data(), DType::kF64, x.size()), x, "doubles", 1e-5);
  }
  // The spread of `far` is some 2^17 steps of a double at 1e6: its variance is good to 1e-6 of itself all the same.
  const double variance = stats::Variance(ComputeStats(far.data(), DType::kF64, far.size()));
  EXPECT_NEAR(variance, ReferenceOf(far).variance, 1e-9 * variance);
}

TEST_P(DTypesTest, DoublesBeyondTheRangeOfTheirPowers) {
  const std::vector<double> x = {1e300, -1e300, 3e300, 1.7e308, -1.7e308};
  std::vector<double> many;
  for (int i = 0; i < 300; ++i) many.insert(many.end(), x.begin(), x.end());
  const TensorStats s = ComputeStats(many.data(), DType::kF64, many.size());
  EXPECT_EQ(s.finite_n, many.size());
  EXPECT_EQ(s.min, -1.7e308);
  EXPECT_EQ(s.max, 1.7e308);
  EXPECT_TRUE(std::isfinite(s.shift));
  EXPECT_EQ(stats::NanCount(s), 0);
  const TensorStats t = ComputeStats(x.data(), DType::kF64, 3);  // as numpy: the squares overflow
  EXPECT_EQ(stats::Variance(t), std::numeric_limits<double>::infinity());
  EXPECT_EQ(stats::Norm2(t), std::numeric_limits<double>::infinity());
  EXPECT_DOUBLE_EQ(stats::Norm1(t), 5e300);
  EXPECT_TRUE(std::isnan(stats::Skewness(t)));
  EXPECT_TRUE(std::isnan(stats::Kurtosis(t)));
}

// What overflows is infinite, at every number of elements, and the mean is the mean.
TEST_P(DTypesTest, NoNumberOfLargeDoublesMakesANan) {
  constexpr double kLargest = std::numeric_limits<double>::max(), kInf = std::numeric_limits<double>::infinity();
  for (const double magnitude : {1e155, 1e200, 1e300, 1.7e308}) {
    for (size_t n = 1; n < 200; ++n) {
      SCOPED_TRACE(std::to_string(magnitude) + " " + std::to_string(n));
      std::vector<double> x(n);
      long double sum = 0, abs_sum = 0;
      for (size_t i = 0; i < n; ++i) {
        x[i] = magnitude * (i % 3 == 0 ? 1 : i % 3 == 1 ? -1 : 0.25);
        sum += x[i];
        abs_sum += std::fabs(x[i]);
      }
      const TensorStats s = ComputeStats(x.data(), DType::kF64, n);
      ASSERT_TRUE(ValidateStats(s).ok());
      EXPECT_EQ(stats::Norm2(s), kInf);
      EXPECT_EQ(stats::Rms(s), kInf);
      EXPECT_TRUE(n == 1 ? std::isnan(stats::Variance(s)) : stats::Variance(s) == kInf);
      if (abs_sum > kLargest) {
        EXPECT_EQ(stats::Norm1(s), kInf);
      } else {
        EXPECT_NEAR(stats::Norm1(s), static_cast<double>(abs_sum), 1e-10 * magnitude);
      }
      if (n > 2 && abs_sum > kLargest) continue;  // sums of some of them may overflow
      EXPECT_NEAR(stats::Mean(s), static_cast<double>(sum / n), 1e-10 * magnitude);
    }
  }
}

TEST_P(DTypesTest, NonFiniteDoublesAtEveryPosition) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  for (const size_t n : {7, 50, 700}) {
    for (size_t at = 0; at < n; ++at) {
      std::vector<double> x(n);
      for (size_t i = 0; i < n; ++i) x[i] = 0.25 * static_cast<double>(i % 9) - 1;
      x[at] = at % 4 == 0 ? inf : at % 4 == 1 ? -inf : at % 4 == 2 ? nan : -nan;
      ExpectMatches(ComputeStats(x.data(), DType::kF64, n), x, std::to_string(n) + " at " + std::to_string(at));
    }
  }
}

TEST_P(DTypesTest, IntegersKeepTheirDigits) {
  std::vector<int32_t> a(2000);
  std::vector<int64_t> b(2000);
  for (size_t i = 0; i < a.size(); ++i) {
    a[i] = 2'000'000'000 + static_cast<int32_t>(i % 3);
    b[i] = 4'000'000'000'000'000 + static_cast<int64_t>(i % 5);
  }
  const TensorStats s = ComputeStats(a.data(), DType::kI32, a.size()),
                    t = ComputeStats(b.data(), DType::kI64, b.size());
  EXPECT_NEAR(stats::Variance(s), ReferenceOf(Decode(a.data(), DType::kI32, a.size())).variance, 1e-9);
  EXPECT_NEAR(stats::Variance(t), 2.0 * 2000 / 1999, 1e-9);
  EXPECT_EQ(s.max, 2'000'000'002);
}

TEST_P(DTypesTest, Differences) {
  for (const DType dtype : kTypes) {
    for (const size_t n : kSizesOfHalves) {
      const auto a = Values(dtype, n, 100, 21), b = Values(dtype, n, 100, 22);
      const std::vector<double> expected = Difference(a.data(), b.data(), dtype, n);
      StatsPass pass;
      pass.AddDifference(a.data(), b.data(), dtype, n);
      ExpectMatches(pass.Finish(), expected, Named(dtype, n));
    }
  }
}

// Differences one at a time, so that each is held to the exact rounding of its type.
TEST_P(DTypesTest, DifferencesAreRoundedToTheType) {
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    const size_t count = 4000, bytes = DTypeBytes(dtype);
    const auto a = RandomBytes(count * bytes, 31), b = RandomBytes(count * bytes, 32);
    const std::vector<double> expected = Difference(a.data(), b.data(), dtype, count);
    for (size_t i = 0; i < count; ++i) {
      // By eights: the vector loop; the ninth: the loop after it.
      unsigned char nine_a[9 * sizeof(float)], nine_b[9 * sizeof(float)];
      for (size_t k = 0; k < 9; ++k) {
        std::memcpy(nine_a + k * bytes, a.data() + i * bytes, bytes);
        std::memcpy(nine_b + k * bytes, b.data() + i * bytes, bytes);
      }
      StatsPass pass;
      pass.AddDifference(nine_a, nine_b, dtype, 9);
      const TensorStats s = pass.Finish();
      if (std::isnan(expected[i])) {
        EXPECT_EQ(s.nans, 9u) << Named(dtype, i);
      } else {
        EXPECT_EQ(stats::Min(s), expected[i]) << Named(dtype, i);
        EXPECT_EQ(stats::Max(s), expected[i]) << Named(dtype, i);
      }
    }
  }
}

TEST_P(DTypesTest, HalfDifferencesAtTheEdges) {
  // Pairs of halves whose difference is subnormal, a tie, just below and just above the greatest half.
  const std::vector<std::pair<uint16_t, uint16_t>> pairs = {{0x0001, 0x0002}, {0x0400, 0x0001}, {0x7bff, 0xcc00},
                                                            {0x7bff, 0xcbff}, {0x7bff, 0xfbff}, {0x3c00, 0x1000},
                                                            {0x3c01, 0x1000}, {0x0000, 0x8000}, {0x8000, 0x0000}};
  for (const auto& [a, b] : pairs) {
    StatsPass pass;
    pass.AddDifference(&a, &b, DType::kF16, 1);
    const double expected = NearestHalf(DecodeHalf(a) - DecodeHalf(b));
    EXPECT_EQ(stats::Max(pass.Finish()), expected) << std::hex << a << " - " << b;
  }
}

TEST_P(DTypesTest, DifferenceOfInfinitiesIsNan) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> a = {inf, inf, -inf, 1, std::numeric_limits<float>::quiet_NaN()}, b = {inf, -inf, 1, inf, 1};
  StatsPass pass;
  pass.AddDifference(a.data(), b.data(), DType::kF32, a.size());
  const TensorStats s = pass.Finish();
  EXPECT_EQ(s.nans, 2u);
  EXPECT_EQ(s.positive_infinities, 1u);
  EXPECT_EQ(s.negative_infinities, 2u);
}

TEST_P(DTypesTest, EqualTensorsHaveNoDifference) {
  const auto x = Values(DType::kF32, 3000, 5, 1);
  StatsPass pass;
  pass.AddDifference(x.data(), x.data(), DType::kF32, 3000);
  EXPECT_EQ(pass.Finish().zeros, 3000u);
  EXPECT_EQ(stats::Norm2(pass.Finish()), 0);
}

TEST(DTypes, ReferenceRoundsAsExpected) {
  EXPECT_EQ(NearestHalf(65519.99), 65504);
  EXPECT_EQ(NearestHalf(65520), std::numeric_limits<double>::infinity());
  EXPECT_EQ(NearestHalf(1 + 0x1p-11), 1);
  EXPECT_EQ(NearestHalf(1 + 3 * 0x1p-11), 1 + 0x1p-9);
  EXPECT_EQ(NearestHalf(-0x1p-25), 0);
  EXPECT_EQ(NearestHalf(0x1.8p-25), 0x1p-24);
  EXPECT_EQ(NearestBrain(1 + 0x1p-8), 1);
  EXPECT_EQ(DecodeHalf(0xc000), -2);
  EXPECT_EQ(DecodeBrain(0x3f80), 1);
}

}  // namespace
}  // namespace ikkuna
