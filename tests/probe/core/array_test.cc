// Arrays of any strides, types and scales against a walk that multiplies out every index.
#include "probe/core/array.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "shared/base/half.h"
#include "shared/stats/derive.h"
#include "shared/stats/stats_pass.h"

namespace ikkuna::probe {
namespace {

using testing::HasSubstr;

const DType kTypes[] = {DType::kF32, DType::kF64, DType::kF16, DType::kBF16, DType::kI8,
                        DType::kU8,  DType::kI16, DType::kI32, DType::kI64,  DType::kBool};

// Sizes, strides and where the first element lies, in elements.
struct Form {
  std::string name;
  std::vector<int64_t> sizes, strides;
  int64_t offset = 0;
};

const std::vector<Form> kForms = {
    {"dense", {3, 4, 5}, {20, 5, 1}},
    {"transposed", {5, 4, 3}, {1, 5, 20}},
    {"channels last", {2, 3, 4, 5}, {60, 1, 15, 3}},
    {"every second", {30, 20}, {80, 2}},
    {"a column", {100}, {7}},
    {"rows of a wider matrix", {9, 600}, {700, 1}},
    {"short rows of a wider matrix", {300, 7}, {11, 1}},
    {"expanded", {6, 5, 4}, {0, 1, 5}},
    {"expanded inside", {6, 5, 4}, {1, 0, 6}},
    {"backwards", {50}, {-1}, 49},
    {"backwards in rows", {4, 5}, {-5, 1}, 15},
    {"overlapping windows", {20, 8}, {3, 1}},
    {"ones", {1, 3, 1, 2}, {99, 2, -7, 1}},
    {"no dimension", {}, {}},
    {"one element", {1}, {5}},
    {"nothing", {3, 0, 2}, {4, 9, 1}},
    {"more than a buffer, strided", {3, 9000}, {20000, 2}},
};

struct Stored {
  std::vector<unsigned char> bytes;
  Array array;
};

// Memory enough for the form, with small values of which every type has its own.
Stored Make(const Form& form, DType dtype, unsigned seed = 1) {
  Stored stored;
  std::mt19937 random(seed);
  const size_t count = 70'000;
  stored.bytes.resize(count * DTypeBytes(dtype));
  for (size_t i = 0; i < count; ++i) {
    const int value = static_cast<int>(random() % 200) - (dtype == DType::kU8 ? 0 : 100);
    unsigned char* to = stored.bytes.data() + i * DTypeBytes(dtype);
    const auto put = [&](auto x) { std::memcpy(to, &x, sizeof x); };
    switch (dtype) {
      case DType::kF32:
        put(static_cast<float>(value) / 8);
        break;
      case DType::kF64:
        put(static_cast<double>(value) / 8);
        break;
      case DType::kF16:
        put(FloatToHalf(static_cast<float>(value) / 8));
        break;
      case DType::kBF16:
        put(FloatToBrain(static_cast<float>(value) / 8));
        break;
      case DType::kI16:
        put(static_cast<int16_t>(value));
        break;
      case DType::kI32:
        put(static_cast<int32_t>(value));
        break;
      case DType::kI64:
        put(static_cast<int64_t>(value));
        break;
      default:
        put(static_cast<uint8_t>(dtype == DType::kBool ? value % 2 != 0 : value));
    }
  }
  stored.array = {stored.bytes.data() + form.offset * static_cast<int64_t>(DTypeBytes(dtype)), dtype,
                  static_cast<int>(form.sizes.size()), form.sizes.data(), form.strides.data()};
  return stored;
}

// Row-major, by arithmetic on each index.
std::vector<unsigned char> Reference(const Array& array) {
  const size_t element = DTypeBytes(array.dtype);
  std::vector<unsigned char> out;
  const uint64_t elements = ElementsOf(array);
  for (uint64_t i = 0; i < elements; ++i) {
    int64_t at = 0;
    uint64_t rest = i;
    for (int d = array.ndim - 1; d >= 0; --d) {
      const auto size = static_cast<uint64_t>(array.sizes[d]);
      at += static_cast<int64_t>(rest % size) * array.strides[d];
      rest /= size;
    }
    const auto* from = static_cast<const unsigned char*>(array.data) + at * static_cast<int64_t>(element);
    out.insert(out.end(), from, from + element);
  }
  return out;
}

template <typename T>
std::vector<double> DecodedAs(const std::vector<unsigned char>& bytes, double (*value)(T)) {
  std::vector<double> values(bytes.size() / sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) {
    T stored;
    std::memcpy(&stored, bytes.data() + i * sizeof(T), sizeof(T));
    values[i] = value(stored);
  }
  return values;
}
template <typename T>
double AsItIs(T x) {
  return static_cast<double>(x);
}
std::vector<double> Decoded(const std::vector<unsigned char>& bytes, DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return DecodedAs<float>(bytes, AsItIs);
    case DType::kF64:
      return DecodedAs<double>(bytes, AsItIs);
    case DType::kF16:
      return DecodedAs<uint16_t>(bytes, [](uint16_t x) -> double { return HalfToFloat(x); });
    case DType::kBF16:
      return DecodedAs<uint16_t>(bytes, [](uint16_t x) -> double { return BrainToFloat(x); });
    case DType::kI8:
      return DecodedAs<int8_t>(bytes, AsItIs);
    case DType::kI16:
      return DecodedAs<int16_t>(bytes, AsItIs);
    case DType::kI32:
      return DecodedAs<int32_t>(bytes, AsItIs);
    case DType::kI64:
      return DecodedAs<int64_t>(bytes, AsItIs);
    default:
      return DecodedAs<uint8_t>(bytes, AsItIs);
  }
}

void ExpectSame(const TensorStats& a, const TensorStats& b, const std::string& what) {
  EXPECT_EQ(a.n, b.n) << what;
  EXPECT_EQ(a.finite_n, b.finite_n) << what;
  EXPECT_EQ(a.min, b.min) << what;
  EXPECT_EQ(a.max, b.max) << what;
  EXPECT_EQ(a.zeros, b.zeros) << what;
  EXPECT_EQ(a.nans, b.nans) << what;
  EXPECT_EQ(a.positive_infinities, b.positive_infinities) << what;
  EXPECT_EQ(a.negative_infinities, b.negative_infinities) << what;
  const auto near = [&](double x, double y, double size) {
    EXPECT_NEAR(x, y, 1e-6 * (size + 1e-30)) << what;
  };  // as shared/stats promises
  near(stats::Sum(a), stats::Sum(b), b.abs_sum);
  near(a.abs_sum, b.abs_sum, b.abs_sum);
  near(a.square_sum, b.square_sum, b.square_sum);
  if (a.n < 2) return;
  near(stats::Variance(a), stats::Variance(b), b.square_sum);
  if (std::isfinite(stats::Kurtosis(b))) {
    EXPECT_NEAR(stats::Skewness(a), stats::Skewness(b), 1e-5) << what;
    EXPECT_NEAR(stats::Kurtosis(a), stats::Kurtosis(b), 1e-5) << what;
  }
}

TEST(Array, CopiesAndStatisticsAreThoseOfEachElement) {
  for (const Form& form : kForms) {
    for (const DType dtype : kTypes) {
      const std::string what = form.name + " " + std::to_string(static_cast<int>(dtype));
      const Stored stored = Make(form, dtype);
      ASSERT_EQ(WhyUnreadable(stored.array), "") << what;
      const std::vector<unsigned char> expected = Reference(stored.array);
      ASSERT_EQ(CopiedBytes(stored.array), expected.size()) << what;
      std::vector<unsigned char> copy(expected.size() + 1, 0xAA);
      CopyDense(stored.array, copy.data());
      EXPECT_EQ(copy.back(), 0xAA) << what << ": written beyond its end";
      copy.pop_back();
      EXPECT_EQ(copy, expected) << what;
      ExpectSame(StatsOf(stored.array, kAllMoments),
                 ComputeStats(expected.data(), dtype, expected.size() / DTypeBytes(dtype)), what);
      EXPECT_EQ(StatsOf(stored.array, kMomentFirst).left_out, kAllMoments & ~kCheapMoments);
    }
  }
}

TEST(Array, WithoutStridesItIsDense) {
  Stored stored = Make(kForms[0], DType::kF32);
  const std::vector<unsigned char> expected = Reference(stored.array);
  stored.array.strides = nullptr;
  std::vector<unsigned char> copy(expected.size());
  CopyDense(stored.array, copy.data());
  EXPECT_EQ(copy, expected);
}

TEST(Array, ADifferenceIsThatOfItsType) {
  for (const Form& now_form : kForms) {
    for (const Form& before_form : kForms) {
      if (now_form.sizes != before_form.sizes && now_form.name != "rows of a wider matrix") continue;
      Form other = before_form;
      if (now_form.name == "rows of a wider matrix") other = {"dense", {9, 600}, {600, 1}};
      for (const DType dtype : kTypes) {
        const std::string what = now_form.name + " - " + other.name + " " + std::to_string(static_cast<int>(dtype));
        const Stored now = Make(now_form, dtype, 1), before = Make(other, dtype, 2);
        ASSERT_EQ(WhyNoDifference(now.array, before.array), "") << what;
        const std::vector<unsigned char> a = Reference(now.array), b = Reference(before.array);
        std::vector<unsigned char> copy(a.size());
        CopyDenseDifference(now.array, before.array, copy.data());
        const std::vector<double> x = Decoded(a, dtype), y = Decoded(b, dtype), d = Decoded(copy, dtype);
        for (size_t i = 0; i < d.size(); ++i) {
          double expected = x[i] - y[i];
          if (dtype == DType::kBool) expected = std::fabs(expected);
          if (dtype == DType::kI8) expected = static_cast<int8_t>(static_cast<int>(expected));
          if (dtype == DType::kU8) expected = static_cast<uint8_t>(static_cast<int>(expected));
          if (dtype == DType::kBF16) expected = BrainToFloat(FloatToBrain(static_cast<float>(expected)));
          ASSERT_EQ(d[i], expected) << what << " at " << i;
        }
        StatsPass pass;
        pass.AddDifference(a.data(), b.data(), dtype, x.size());
        ExpectSame(StatsOfDifference(now.array, before.array, kAllMoments), pass.Finish(), what);
      }
    }
  }
}

TEST(Array, AScaleIsThatOfEveryElement) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kF16, DType::kBF16}) {
    for (const double scale : {-1.0, 0.5, -3.0, 1.0 / 65536}) {
      const std::string what = std::to_string(static_cast<int>(dtype)) + " times " + std::to_string(scale);
      Stored stored = Make(kForms[3], dtype);
      std::vector<double> expected = Decoded(Reference(stored.array), dtype);
      stored.array.scale = scale;
      std::vector<unsigned char> copy(CopiedBytes(stored.array));
      CopyDense(stored.array, copy.data());
      const std::vector<double> scaled = Decoded(copy, CopiedAs(stored.array));
      ASSERT_EQ(scaled.size(), expected.size()) << what;
      for (size_t i = 0; i < expected.size(); ++i) {
        expected[i] *= scale;
        EXPECT_NEAR(scaled[i], expected[i], 1e-7 * std::fabs(expected[i])) << what;
      }
      ExpectSame(StatsOf(stored.array, kAllMoments), ComputeStats(expected.data(), DType::kF64, expected.size()), what);
      const Stored before = Make(kForms[3], dtype, 2);
      Array scaled_before = before.array;
      scaled_before.scale = scale;
      CopyDenseDifference(stored.array, scaled_before, copy.data());
      const std::vector<double> difference = Decoded(copy, CopiedAs(stored.array));
      ExpectSame(StatsOfDifference(stored.array, scaled_before, kAllMoments),
                 ComputeStats(difference.data(), DType::kF64, difference.size()), what + " difference");
    }
  }
  // A loss scale has lifted it to where halves are exact; what it stands for is below the least of them.
  const uint16_t gradient = FloatToHalf(0.001f);
  const Array tiny{&gradient, DType::kF16, 0, nullptr, nullptr, 1.0 / 65536};
  float copy = 0;
  CopyDense(tiny, reinterpret_cast<unsigned char*>(&copy));
  EXPECT_EQ(CopiedAs(tiny), DType::kF32);
  EXPECT_EQ(copy, HalfToFloat(gradient) / 65536);
  Array turned = tiny;
  turned.scale = -1;
  EXPECT_EQ(CopiedAs(turned), DType::kF16);
}

TEST(Array, AScaleOfInfinitiesAndNaN) {
  const float x[] = {1, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), -2};
  const int64_t sizes[] = {4};
  const TensorStats s = StatsOf({x, DType::kF32, 1, sizes, nullptr, -2}, kAllMoments);
  EXPECT_EQ(s.nans, 1u);
  EXPECT_EQ(s.positive_infinities, 0u);
  EXPECT_EQ(s.negative_infinities, 1u);
  EXPECT_EQ(s.min, -2);
  EXPECT_EQ(s.max, 4);
  // Without bounds there are none to turn round; without a finite element neither.
  const float none[] = {std::numeric_limits<float>::infinity()};
  const int64_t one[] = {1};
  const TensorStats infinite = StatsOf({none, DType::kF32, 1, one, nullptr, -1}, kAllMoments);
  EXPECT_EQ(infinite.negative_infinities, 1u);
  EXPECT_TRUE(std::isinf(infinite.min) && infinite.min > 0);
}

TEST(Array, WhatCannotBeReadIsSaid) {
  const float x[4] = {};
  const int64_t sizes[] = {2, 2}, negative[] = {2, -2}, far[] = {int64_t{1} << 61, 1};
  const int64_t huge[] = {int64_t{1} << 40, int64_t{1} << 40}, hidden[] = {0, int64_t{1} << 62};
  const int64_t bytes_far[] = {int64_t{1} << 60, 1};
  const Array good{x, DType::kF32, 2, sizes};
  EXPECT_EQ(WhyUnreadable(good), "");
  const auto with = [&](auto change) {
    Array array = good;
    change(array);
    return WhyUnreadable(array);
  };
  EXPECT_THAT(with([](Array& a) { a.dtype = static_cast<DType>(77); }), HasSubstr("data type"));
  EXPECT_THAT(with([](Array& a) { a.ndim = -1; }), HasSubstr("-1 dimensions"));
  EXPECT_THAT(with([](Array& a) { a.ndim = 65; }), HasSubstr("65 dimensions"));
  EXPECT_THAT(with([](Array& a) { a.sizes = nullptr; }), HasSubstr("sizes are not given"));
  EXPECT_THAT(with([&](Array& a) { a.sizes = negative; }), HasSubstr("dimension 1 has the size -2"));
  EXPECT_THAT(with([&](Array& a) { a.sizes = huge; }), HasSubstr("more than there is memory"));
  EXPECT_THAT(with([&](Array& a) { a.strides = far; }), HasSubstr("count elements, not bytes"));
  EXPECT_THAT(with([&](Array& a) { a.sizes = hidden; }), HasSubstr("more than there is memory"));
  EXPECT_THAT(with([&](Array& a) { a.dtype = DType::kU8, a.strides = bytes_far; }), HasSubstr("count elements"));
  EXPECT_THAT(with([](Array& a) { a.data = nullptr; }), HasSubstr("no data"));
  EXPECT_THAT(with([](Array& a) { a.scale = 1e40; }), HasSubstr("2^100"));
  EXPECT_THAT(with([](Array& a) { a.scale = 0; }), HasSubstr("scale"));
  EXPECT_THAT(with([](Array& a) { a.scale = std::nan(""); }), HasSubstr("scale"));
  EXPECT_THAT(with([](Array& a) { a.dtype = DType::kI32, a.scale = 2; }), HasSubstr("only floats"));
  Array other = good;
  other.dtype = DType::kI32;
  EXPECT_THAT(WhyNoDifference(good, other), HasSubstr("data type"));
  other = good;
  other.ndim = 1;
  EXPECT_THAT(WhyNoDifference(good, other), HasSubstr("sizes"));
  other = good;
  other.scale = 2;
  EXPECT_THAT(WhyNoDifference(good, other), HasSubstr("scale"));
}

}  // namespace
}  // namespace ikkuna::probe
