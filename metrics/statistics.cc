#include "metrics/statistics.h"

#include <array>

#include "shared/stats/derive.h"

namespace ikkuna::metrics {

namespace {

class Statistic final : public Subscriber {
 public:
  explicit Statistic(Derive derive) : derive_(derive) {}
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    results->Put(inputs[0].subject, derive_(*inputs[0].stats));
  }

 private:
  const Derive derive_;
};

template <Derive derive>
Result<Definition> Define(std::string_view name, uint64_t moments, std::span<const std::string> inputs) {
  Definition definition;
  definition.moments = moments;
  if (derive == stats::NanCount || derive == stats::InfCount) {
    definition.outputs = {Output{.precision = Precision::kDouble}};
  }
  definition.topic = inputs[0] + "_" + std::string(name);
  definition.create = [] { return MakeStatistic(derive); };
  return definition;
}

// The metric's name stands once: it is both the descriptor's and the end of its topic.
#define IKKUNA_STATISTIC(metric, derive, moments, text)                                        \
  Descriptor {                                                                        \
    .name = metric, .publishes = "{kind}_" metric, .help = text,                      \
    .define = [](std::span<const std::string> inputs, std::span<const std::string>) { \
      return Define<derive>(metric, moments, inputs);                                          \
    },                                                                                \
  }

constexpr std::array kStatistics{
    IKKUNA_STATISTIC("mean", stats::Mean, stats::kRestsOnMean, "sum(x) / n"),
    IKKUNA_STATISTIC("variance", stats::Variance, stats::kRestsOnVariance, "unbiased variance; NaN for one element"),
    IKKUNA_STATISTIC("sum", stats::Sum, stats::kRestsOnMean, "sum(x)"),
    IKKUNA_STATISTIC("min", stats::Min, stats::kRestsOnBounds, "least element"),
    IKKUNA_STATISTIC("max", stats::Max, stats::kRestsOnBounds, "greatest element"),
    IKKUNA_STATISTIC("abs_max", stats::AbsMax, stats::kRestsOnBounds, "greatest |x|"),
    IKKUNA_STATISTIC("abs_mean", stats::AbsMean, stats::kRestsOnAbs, "mean of |x|"),
    IKKUNA_STATISTIC("rms", stats::Rms, stats::kRestsOnSquare, "root of the mean of x^2"),
    IKKUNA_STATISTIC("std", stats::Std, stats::kRestsOnVariance, "root of the unbiased variance; NaN for one element"),
    IKKUNA_STATISTIC("zero_fraction", stats::ZeroFraction, stats::kRestsOnCounts, "share of elements that are 0"),
    IKKUNA_STATISTIC("nan_count", stats::NanCount, stats::kRestsOnCounts, "number of NaN"),
    IKKUNA_STATISTIC("inf_count", stats::InfCount, stats::kRestsOnCounts, "number of infinities of either sign"),
    IKKUNA_STATISTIC("skewness", stats::Skewness, stats::kRestsOnSkewness,
                     "third standardised moment; NaN for zero variance"),
    IKKUNA_STATISTIC("kurtosis", stats::Kurtosis, stats::kRestsOnKurtosis, "excess kurtosis; NaN for zero variance"),
};

#undef IKKUNA_STATISTIC

}  // namespace

std::unique_ptr<Subscriber> MakeStatistic(Derive derive) { return std::make_unique<Statistic>(derive); }

std::span<const Descriptor> StatisticsDescriptors() { return kStatistics; }

}  // namespace ikkuna::metrics
