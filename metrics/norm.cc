#include "metrics/norm.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "metrics/elements.h"
#include "metrics/number.h"
#include "metrics/statistics.h"
#include "shared/stats/derive.h"

namespace ikkuna::metrics {

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kOrderMin = 0.01;  // below, the root of any sum overflows
constexpr double kOrderMax = 1000;  // above, powers do
constexpr int kWholeOrderMax = 16;  // up to here multiplying is faster than pow()
constexpr size_t kLanes = 4;        // independent sums, so that an addition need not wait for the one before

double WholePower(double x, int order) {
  double power = 1;
  for (double square = x; order != 0; order >>= 1, square *= square) {
    if ((order & 1) != 0) power *= square;
  }
  return power;
}

template <typename Power>
double Sum(const TensorView& tensor, Power power) {
  double sums[kLanes] = {};
  ForChunks(tensor, [&](const double* chunk, size_t count) {
    for (size_t i = 0; i < count; ++i) sums[i % kLanes] += power(std::fabs(chunk[i]));
  });
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

class PowerNorm final : public Subscriber {
 public:
  explicit PowerNorm(double order) : order_(order) {}
  void OnMessage(const Input&, const Payload* payload) override { sum_ += SumOfPowers(payload->view, order_); }
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    results->Put(inputs[0].subject, std::pow(sum_, 1 / order_));
  }
  void Merge(Subscriber& pass) override { sum_ += static_cast<PowerNorm&>(pass).sum_; }
  void Reset() override { sum_ = 0; }

 private:
  const double order_;
  double sum_ = 0;
};

// norm2, norm_inf, norm2p5
std::string Suffix(const std::string& order) {
  if (order == "inf") return "norm_inf";
  std::string suffix = "norm" + order;
  std::replace(suffix.begin(), suffix.end(), '.', 'p');
  return suffix;
}

struct FromStatistics {
  Derive derive;
  uint64_t moments;
};

FromStatistics NormFromStatistics(double order) {
  if (order == 0) return {stats::Norm0, stats::kRestsOnCounts};
  if (order == 1) return {stats::Norm1, stats::kRestsOnAbs};
  if (order == 2) return {stats::Norm2, stats::kRestsOnSquare};
  return {stats::NormInf, stats::kRestsOnBounds};
}

Result<Definition> DefineNorm(std::span<const std::string> inputs, std::span<const std::string> values) {
  const auto order = ParseNumber(values[0]);
  if (!order || !(*order == 0 || *order == kInf || (*order >= kOrderMin && *order <= kOrderMax))) {
    return Error{ErrorCode::kInvalidArgument,
                 "order='" + values[0] + "' of norm is not a number: give 0, inf, or 0.01 to 1000"};
  }
  Definition definition;
  definition.values = {FormatNumber(*order == 0 ? 0 : *order)};  // -0 is 0
  definition.topic = inputs[0] + "_" + Suffix(definition.values[0]);
  if (*order == 0) definition.outputs = {Output{.precision = Precision::kDouble}};  // a count
  if (stats::HasNorm(*order)) {
    const auto [derive, moments] = NormFromStatistics(*order);
    definition.moments = moments;
    definition.create = [derive = derive] { return MakeStatistic(derive); };
  } else {
    definition.content = Content::kTensor;
    definition.delivery = Delivery::kEachMessage;
    definition.create = [order = *order] { return std::make_unique<PowerNorm>(order); };
  }
  return definition;
}

constexpr Parameter kParameters[] = {
    {"order", "2", "0, inf, or 0.01 to 1000; 0, 1, 2 and inf need no whole tensors"},
};

}  // namespace

double SumOfPowers(const TensorView& tensor, double order) {
  if (order == std::floor(order) && order <= kWholeOrderMax) {
    const int whole = static_cast<int>(order);
    return Sum(tensor, [whole](double x) { return WholePower(x, whole); });
  }
  return Sum(tensor, [order](double x) { return std::pow(x, order); });
}

constexpr Descriptor kNorm{
    .name = "norm",
    .parameters = kParameters,
    .publishes = "{kind}_norm{order}",
    .help = "(sum |x|^order)^(1/order); 0 counts non-zeros, inf is the greatest |x|",
    .define = DefineNorm,
};

}  // namespace ikkuna::metrics
