// Every metric of one tensor against its definition, evaluated in long double over plain vectors, for every data type.
#include <functional>
#include <numeric>
#include <random>

#include "tests/metrics/metric_probe.h"

namespace ikkuna::metrics {
namespace {

using Values = std::vector<double>;
using Reference = std::function<long double(const Values&)>;

long double Total(const Values& x, const std::function<long double(long double)>& f) {
  long double sum = 0;
  for (const double value : x) sum += f(value);
  return sum;
}
long double MeanOf(const Values& x) {
  return Total(x, [](long double v) { return v; }) / x.size();
}
long double CentralOf(const Values& x, int order) {
  const long double mean = MeanOf(x);
  return Total(x, [=](long double v) { return std::pow(v - mean, order); }) / x.size();
}
long double VarianceOf(const Values& x) {
  return x.size() < 2 ? std::nanl("") : CentralOf(x, 2) * x.size() / (x.size() - 1);
}
long double NormOf(const Values& x, long double p) {
  return std::pow(Total(x, [=](long double v) { return std::pow(std::fabs(v), p); }), 1 / p);
}
bool AnyNan(const Values& x) {
  return std::any_of(x.begin(), x.end(), [](double v) { return std::isnan(v); });
}
long double GreatestOf(const Values& x, const std::function<long double(long double)>& f) {
  if (x.empty() || AnyNan(x)) return std::nanl("");
  long double best = f(x[0]);
  for (const double v : x) best = std::max(best, f(v));
  return best;
}

struct Case {
  std::string name;
  std::vector<std::string> values;
  Reference reference;
  double tolerance = 1e-7;  // relative to the value or to `scale`; the pass sums short chains in the tensor's type
  std::function<long double(const Values&)> scale = [](const Values&) { return 0.0L; };
  double of_empty = kNan;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.name << (c.values.empty() ? "" : c.values[0]);
}

std::vector<Case> AllCases() {
  const auto mean_abs = [](const Values& x) {
    return x.empty() ? 0 : Total(x, [](auto v) { return std::fabs(v); }) / x.size();
  };
  const auto sum_abs = [](const Values& x) { return Total(x, [](auto v) { return std::fabs(v); }); };
  const auto one = [](const Values&) { return 1.0L; };
  std::vector<Case> cases{
      {"mean", {}, MeanOf, 1e-7, mean_abs},
      {"sum", {}, [](const Values& x) { return Total(x, [](auto v) { return v; }); }, 1e-7, sum_abs, 0},
      {"variance", {}, VarianceOf, 1e-6},
      {"std", {}, [](const Values& x) { return std::sqrt(VarianceOf(x)); }, 1e-6},
      {"min", {}, [](const Values& x) { return -GreatestOf(x, [](auto v) { return -v; }); }, 0},
      {"max", {}, [](const Values& x) { return GreatestOf(x, [](auto v) { return v; }); }, 0},
      {"abs_max", {}, [](const Values& x) { return GreatestOf(x, [](auto v) { return std::fabs(v); }); }, 0},
      {"abs_mean", {}, [](const Values& x) { return Total(x, [](auto v) { return std::fabs(v); }) / x.size(); }},
      {"rms", {}, [](const Values& x) { return std::sqrt(Total(x, [](auto v) { return v * v; }) / x.size()); }},
      {"zero_fraction", {}, [](const Values& x) { return Total(x, [](auto v) { return v == 0; }) / x.size(); }},
      {"nan_count", {}, [](const Values& x) { return Total(x, [](auto v) { return std::isnan(v); }); }, 0, one, 0},
      {"inf_count", {}, [](const Values& x) { return Total(x, [](auto v) { return std::isinf(v); }); }, 0, one, 0},
      {"skewness", {}, [](const Values& x) { return CentralOf(x, 3) / std::pow(CentralOf(x, 2), 1.5L); }, 1e-5, one},
      {"kurtosis", {}, [](const Values& x) { return CentralOf(x, 4) / std::pow(CentralOf(x, 2), 2) - 3; }, 1e-5, one},
      {"norm", {"0"}, [](const Values& x) { return Total(x, [](auto v) { return v != 0; }); }, 0, one, 0},
      {"norm", {"inf"}, [](const Values& x) { return GreatestOf(x, [](auto v) { return std::fabs(v); }); }, 0, one, 0},
  };
  for (const char* order : {"0.5", "1", "1.5", "2", "2.5", "3", "4", "7", "16", "20"}) {
    const long double p = std::stold(order);
    cases.push_back({"norm",
                     {order},
                     [p](const Values& x) { return NormOf(x, p); },
                     p == 1 || p == 2 ? 1e-7 : 1e-11,
                     [](const Values&) { return 0.0L; },
                     0});
  }
  return cases;
}

void ExpectNear(const Case& c, const Values& x, double got) {
  const double want = static_cast<double>(c.reference(x));
  if (!std::isfinite(want)) {
    EXPECT_TRUE(got == want || (std::isnan(got) && std::isnan(want))) << got << " instead of " << want;
    return;
  }
  const double scale = std::max(std::fabs(want), static_cast<double>(c.scale(x)));
  EXPECT_NEAR(got, want, c.tolerance * scale);
}

// What the type can hold exactly, so that reference and metric see the same numbers.
Values Exact(DType dtype, size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0.25, 1.0);
  Values values(n);
  for (double& v : values) {
    v = normal(random);
    switch (dtype) {
      case DType::kF32:
        v = static_cast<float>(v);
        break;
      case DType::kF16:
        v = std::round(v * 256) / 256;
        break;
      case DType::kBF16:
        v = std::round(v * 16) / 16;
        break;
      case DType::kF64:
        break;
      case DType::kU8:
        v = std::min(255.0, std::round(std::fabs(v) * 20));
        break;
      case DType::kBool:
        v = v > 0;
        break;
      default:
        v = std::max(-128.0, std::min(127.0, std::round(v * 20)));
    }
  }
  return values;
}

class EveryMetric : public testing::TestWithParam<Case> {};

constexpr DType kAllTypes[] = {DType::kF32, DType::kF64, DType::kF16, DType::kBF16, DType::kI8,
                               DType::kU8,  DType::kI16, DType::kI32, DType::kI64,  DType::kBool};

TEST_P(EveryMetric, EqualsItsDefinitionForEveryType) {
  for (const DType dtype : kAllTypes) {
    for (const size_t n : {2u, 3u, 255u, 256u, 257u, 5000u}) {
      SCOPED_TRACE(std::string(DTypeName(dtype)) + " n=" + std::to_string(n));
      const Values x = Exact(dtype, n, static_cast<unsigned>(n));
      const double got = RunOnce(GetParam().name, GetParam().values, {TestTensor::Of(dtype, x)});
      const bool of_constant = CentralOf(x, 2) == 0;
      if (of_constant && (GetParam().name == "skewness" || GetParam().name == "kurtosis")) {
        EXPECT_TRUE(std::isnan(got));
        continue;
      }
      ExpectNear(GetParam(), x, got);
    }
  }
}

TEST_P(EveryMetric, MergesMessagesAsIfConcatenated) {
  const Values whole = Exact(DType::kF32, 1000, 11);
  std::vector<TestTensor> parts;
  for (const auto& [begin, end] : {std::pair<int, int>{0, 1}, {1, 1}, {1, 400}, {400, 1000}}) {
    parts.push_back(TestTensor::Of(DType::kF32, Values(whole.begin() + begin, whole.begin() + end)));
  }
  ExpectNear(GetParam(), whole, RunOnce(GetParam().name, GetParam().values, parts));
}

TEST_P(EveryMetric, Empty) {
  const double got = RunOnce(GetParam().name, GetParam().values, {TestTensor::Of(DType::kF32, {}, {3, 0})});
  if (std::isnan(GetParam().of_empty)) {
    EXPECT_TRUE(std::isnan(got)) << got;
  } else {
    EXPECT_EQ(got, GetParam().of_empty);
  }
}

TEST_P(EveryMetric, ZeroDimensional) {
  const Values x{-1.5};
  const double got = RunOnce(GetParam().name, GetParam().values, {TestTensor::Of(DType::kF64, x, {})});
  if (GetParam().name == "skewness" || GetParam().name == "kurtosis") {
    EXPECT_TRUE(std::isnan(got));
  } else {
    ExpectNear(GetParam(), x, got);
  }
}

TEST_P(EveryMetric, NanAndInfinities) {
  const std::vector<Values> tensors{{1, kNan, 2}, {1, kInf, 2}, {1, -kInf, 2}, {kInf, -kInf}, {kInf, kNan, -1}};
  for (const Values& x : tensors) {
    for (const DType dtype : {DType::kF32, DType::kF64, DType::kF16, DType::kBF16}) {
      SCOPED_TRACE(std::string(DTypeName(dtype)) + " " + std::to_string(x[0]) + " " + std::to_string(x[1]));
      ExpectNear(GetParam(), x, RunOnce(GetParam().name, GetParam().values, {TestTensor::Of(dtype, x)}));
    }
  }
}

TEST_P(EveryMetric, RepeatGivesTheSameAnswer) {
  const Definition definition = Define(GetParam().name, {"weights"}, GetParam().values);
  const auto subscriber = definition.create();
  const std::vector<TestTensor> tensor{TestTensor::Of(DType::kF32, Exact(DType::kF32, 777, 5))};
  const auto first = RunSeries(definition, *subscriber, tensor);
  RunSeries(definition, *subscriber, {TestTensor::Of(DType::kF32, {kNan, 1})});
  EXPECT_EQ(first, RunSeries(definition, *subscriber, tensor));
}

INSTANTIATE_TEST_SUITE_P(Metrics, EveryMetric, testing::ValuesIn(AllCases()), [](const auto& info) {
  std::string name = info.param.name + (info.param.values.empty() ? "" : info.param.values[0]);
  std::replace(name.begin(), name.end(), '.', 'p');
  return name;
});

// Closed forms, so that the references above are not the only witness.
TEST(ClosedForms, OfOneToFour) {
  const TestTensor x = TestTensor::Of(DType::kF32, {1, -2, 3, -4});
  EXPECT_DOUBLE_EQ(RunOnce("mean", {}, {x}), -0.5);
  EXPECT_DOUBLE_EQ(RunOnce("sum", {}, {x}), -2);
  EXPECT_DOUBLE_EQ(RunOnce("variance", {}, {x}), 29.0 / 3);
  EXPECT_DOUBLE_EQ(RunOnce("norm", {"1"}, {x}), 10);
  EXPECT_DOUBLE_EQ(RunOnce("norm", {"2"}, {x}), std::sqrt(30.0));
  EXPECT_DOUBLE_EQ(RunOnce("norm", {"3"}, {x}), std::cbrt(100.0));
  EXPECT_DOUBLE_EQ(RunOnce("norm", {"inf"}, {x}), 4);
  EXPECT_DOUBLE_EQ(RunOnce("norm", {"0"}, {x}), 4);
  EXPECT_DOUBLE_EQ(RunOnce("norm", {"0.5"}, {TestTensor::Of(DType::kF32, {1, 4, 9})}), 36);
  EXPECT_DOUBLE_EQ(RunOnce("kurtosis", {}, {TestTensor::Of(DType::kF32, {-1, 1, -1, 1})}), -2);
}

// 1/3 is not exact, so neither is the root.
TEST(ClosedForms, HalvesAreReadDownToTheSmallest) {
  for (const double x : {0x1p-24, 0x1p-14, 1.0, 65504.0}) {
    EXPECT_NEAR(RunOnce("norm", {"3"}, {TestTensor::Of(DType::kF16, {-x})}), x, 1e-13 * x);
  }
  EXPECT_NEAR(RunOnce("norm", {"3"}, {TestTensor::Of(DType::kBF16, {-0x1p100})}), 0x1p100, 0x1p100 * 1e-13);
}

}  // namespace
}  // namespace ikkuna::metrics
