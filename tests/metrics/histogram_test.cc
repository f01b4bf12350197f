// histogram against its definition: the edges by numpy's formula, each element looked for among them.
#include "metrics/histogram.h"

#include <algorithm>
#include <random>

#include "metrics/elements.h"
#include "tests/metrics/metric_probe.h"

namespace ikkuna::metrics {
namespace {

using Values = std::vector<double>;

std::vector<uint64_t> CountsOf(const Values& finite, size_t bins) {
  std::vector<uint64_t> counts(bins);
  const auto [min, max] = std::minmax_element(finite.begin(), finite.end());
  for (const double x : finite) {
    size_t bin = 0;
    while (bin + 1 < bins && x >= *min + static_cast<double>(bin + 1) * ((*max - *min) / static_cast<double>(bins)))
      ++bin;
    ++counts[x == *max ? bins - 1 : bin];
  }
  return counts;
}

Histogram HistogramOf(const std::vector<TestTensor>& messages, size_t bins = 64) {
  const Definition definition = Define("histogram", {"weights"}, {std::to_string(bins)});
  const auto subscriber = definition.create();
  const auto recorder = std::make_shared<Recorder>();
  Input input;
  input.subject = {3, 4};
  for (const TestTensor& message : messages) {
    const Payload payload{message.view()};
    subscriber->OnMessage(input, &payload);
  }
  subscriber->OnStep({}, {&input, 1}, recorder);
  EXPECT_EQ(recorder->subjects, std::vector<Subject>{input.subject});
  EXPECT_EQ(subscriber->bytes(), 0u) << "what it held is given back";
  return recorder->histograms.empty() ? Histogram{} : recorder->histograms[0];
}

Values Random(size_t n, uint64_t seed, double scale) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal(0, scale);
  Values values(n);
  for (double& value : values) value = normal(random);
  return values;
}

// As the tensor holds them.
Values Held(const TestTensor& tensor) {
  Values values;
  for (uint64_t i = 0; i < tensor.view().elements; ++i) {
    values.push_back(0);
    LoadDoubles(tensor.view(), i, 1, &values.back());
  }
  return values;
}

TEST(HistogramTest, OfEveryDataTypeIsItsDefinition) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kF16, DType::kBF16, DType::kI8, DType::kU8, DType::kI16,
                            DType::kI32, DType::kI64, DType::kBool}) {
    for (const size_t n : {1u, 2u, 7u, 255u, 256u, 257u, 3'000u}) {
      Values values = Random(n, n, 20);
      if (dtype == DType::kU8)
        std::transform(values.begin(), values.end(), values.begin(), [](double x) { return std::fabs(x); });
      const TestTensor tensor = TestTensor::Of(dtype, values);
      values = Held(tensor);
      for (const size_t bins : {1u, 2u, 10u, 64u, 4'096u}) {
        const Histogram got = HistogramOf({tensor}, bins);
        EXPECT_EQ(got.counts, CountsOf(values, bins)) << static_cast<int>(dtype) << " " << n << " " << bins;
        EXPECT_EQ(got.n, n);
        EXPECT_EQ(got.min, *std::min_element(values.begin(), values.end()));
        EXPECT_EQ(got.max, *std::max_element(values.begin(), values.end()));
        double sum = 0, squares = 0, magnitude = 0;
        for (const double x : values) sum += x, squares += x * x, magnitude += std::fabs(x);
        EXPECT_NEAR(got.sum, sum, 1e-6 * magnitude);
        EXPECT_NEAR(got.sum_squares, squares, 1e-6 * squares);
      }
    }
  }
}

// What lies on an edge belongs to the bin above it, whatever the quotient is rounded to.
TEST(HistogramTest, WhatLiesOnAnEdgeIsInTheBinAboveIt) {
  for (const double width : {0.1, 1.0 / 3, 0.7, 1e-3, 123.456}) {
    for (const size_t bins : {3u, 10u, 64u, 100u, 1'000u}) {
      Values values;
      for (size_t i = 0; i <= bins; ++i) values.push_back(0.3 + static_cast<double>(i) * width);
      const double min = values.front(), max = values.back();
      for (size_t i = 0; i < bins; ++i) {
        const double edge = min + static_cast<double>(i) * ((max - min) / static_cast<double>(bins));
        values.push_back(edge);
        if (i > 0) values.push_back(std::nextafter(edge, min));
      }
      EXPECT_EQ(HistogramOf({TestTensor::Of(DType::kF64, values)}, bins).counts, CountsOf(values, bins))
          << width << " " << bins;
    }
  }
}

TEST(HistogramTest, MessagesOfAStepAreAsIfConcatenated) {
  const Values a = Random(1'000, 1, 1), b = Random(400, 2, 50), c = Random(3, 3, 1e-3);
  Values all = a;
  all.insert(all.end(), b.begin(), b.end());
  all.insert(all.end(), c.begin(), c.end());
  const Histogram whole = HistogramOf({TestTensor::Of(DType::kF64, all)});
  const std::vector<TestTensor> parts = {TestTensor::Of(DType::kF64, a), TestTensor::Of(DType::kF64, b),
                                         TestTensor::Of(DType::kF64, c)};
  const Histogram got = HistogramOf(parts);
  EXPECT_EQ(got.counts, whole.counts);
  EXPECT_EQ(got.n, whole.n);
  EXPECT_EQ(got.min, whole.min);
  EXPECT_EQ(got.max, whole.max);

  // Passes that are merged are as messages; what they came in may be gone.
  const Definition definition = Define("histogram", {"weights"});
  const auto first = definition.create(), second = definition.create();
  Input input;
  {
    const std::vector<TestTensor> gone = parts;
    for (size_t i = 0; i < gone.size(); ++i) {
      const Payload payload{gone[i].view()};
      (i == 0 ? first : second)->OnMessage(input, &payload);
    }
  }
  EXPECT_GE(first->bytes(), 8 * a.size());
  EXPECT_GE(second->bytes(), 8 * (b.size() + c.size()));
  first->Merge(*second);
  const auto recorder = std::make_shared<Recorder>();
  first->OnStep({}, {&input, 1}, recorder);
  ASSERT_EQ(recorder->histograms.size(), 1u);
  EXPECT_EQ(recorder->histograms[0], got);
  EXPECT_EQ(second->bytes(), 0u);
}

TEST(HistogramTest, WhatIsNotFiniteIsCountedBesideIt) {
  const Histogram got = HistogramOf({TestTensor::Of(DType::kF32, {1, kNan, kInf, 3, -kInf, kInf, 2, kNan, kNan})}, 2);
  EXPECT_EQ(got.counts, (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(got.n, 3u);
  EXPECT_EQ(got.nans, 3u);
  EXPECT_EQ(got.positive_infinities, 2u);
  EXPECT_EQ(got.negative_infinities, 1u);
  EXPECT_EQ(got.sum, 6);
  EXPECT_EQ(got.sum_squares, 14);
}

TEST(HistogramTest, OfNothingHasNoRange) {
  for (const Values& values : {Values{}, Values{kNan, kInf}}) {
    const Histogram got = HistogramOf({TestTensor::Of(DType::kF32, values)}, 4);
    EXPECT_GT(got.min, got.max);
    EXPECT_EQ(got.n, 0u);
    EXPECT_EQ(got.nans, values.size() / 2);
    EXPECT_EQ(got.counts, std::vector<uint64_t>(4));
  }
}

TEST(HistogramTest, RangesAtTheEndsOfDoubles) {
  EXPECT_EQ(HistogramOf({TestTensor::Of(DType::kF64, {5, 5, 5})}, 3).counts, (std::vector<uint64_t>{0, 0, 3}));
  constexpr double kMost = std::numeric_limits<double>::max(), kLeast = std::numeric_limits<double>::denorm_min();
  EXPECT_EQ(HistogramOf({TestTensor::Of(DType::kF64, {-kMost, -1, 0, 1, kMost})}, 2).counts,
            (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(HistogramOf({TestTensor::Of(DType::kF64, {-kMost, kMost})}, 64).counts[63], 1u);
  const Histogram tiny = HistogramOf({TestTensor::Of(DType::kF64, {0, kLeast, 2 * kLeast, 3 * kLeast})}, 64);
  uint64_t sum = 0;
  for (const uint64_t count : tiny.counts) sum += count;
  EXPECT_EQ(sum, 4u);
  EXPECT_EQ(tiny.counts[63], 1u);
}

TEST(HistogramTest, BinsAreAWholeNumberInRange) {
  const Descriptor* descriptor = FindDescriptor("histogram");
  ASSERT_NE(descriptor, nullptr);
  const std::vector<std::string> inputs = {"weights"};
  for (const char* bad : {"0", "-1", "4097", "1.5", "", "many", "99999999999999999999"}) {
    const std::vector<std::string> values = {bad};
    const auto refused = descriptor->define(inputs, values);
    ASSERT_FALSE(refused.ok()) << bad;
    EXPECT_NE(refused.error().text.find("from 1 to 4096"), std::string::npos) << refused.error().text;
  }
  EXPECT_EQ(Define("histogram", {"weights"}, {"064"}).values, std::vector<std::string>{"64"});
  EXPECT_EQ(Define("histogram", {"activations"}).topic, "activations_histogram");
}

}  // namespace
}  // namespace ikkuna::metrics
