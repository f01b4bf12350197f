#include "metrics/averages.h"

#include <cmath>
#include <vector>

#include "metrics/number.h"
#include "shared/stats/derive.h"

namespace ikkuna::metrics {

namespace {

constexpr uint64_t kWindowMax = 10'000;  // each step looks at all of them

void PutBoth(Subject subject, double mean, double squares, uint64_t count, const ResultsRef& results) {
  results->Put(0, subject, mean);
  if (count >= 2) results->Put(1, subject, std::sqrt(squares / static_cast<double>(count - 1)));
}

// Welford's update: mean and sum of squared deviations from it.
class AverageValue final : public Subscriber {
 public:
  explicit AverageValue(bool each_epoch) : each_epoch_(each_epoch) {}
  void OnStep(const StepInfo& step, std::span<const Input> inputs, const ResultsRef& results) override {
    if (each_epoch_ && step.epoch != epoch_) count_ = 0;
    epoch_ = step.epoch;
    if (count_ == 0) mean_ = squares_ = 0;
    const double value = stats::Mean(*inputs[0].stats);
    const double before = value - mean_;
    mean_ += before / static_cast<double>(++count_);
    squares_ += before * (value - mean_);
    PutBoth(inputs[0].subject, mean_, squares_, count_, results);
  }

 private:
  const bool each_epoch_;
  uint32_t epoch_ = 0;
  uint64_t count_ = 0;
  double mean_ = 0, squares_ = 0;
};

class MovingAverage final : public Subscriber {
 public:
  explicit MovingAverage(size_t window) : window_(window) {}
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    const double value = stats::Mean(*inputs[0].stats);
    if (values_.size() < window_) {
      values_.push_back(value);
    } else {
      values_[next_] = value;
    }
    next_ = (next_ + 1) % window_;
    // In two passes over the window: sums that follow it drift, and never recover from a NaN.
    const auto count = static_cast<double>(values_.size());
    double mean = 0, squares = 0;
    for (const double one : values_) mean += one / count;
    for (const double one : values_) squares += (one - mean) * (one - mean);
    PutBoth(inputs[0].subject, mean, squares, values_.size(), results);
  }
  uint64_t bytes() const override { return values_.capacity() * sizeof(double); }

 private:
  const size_t window_;
  std::vector<double> values_;
  size_t next_ = 0;
};

Definition MeterOf(const std::string& input, const char* name) {
  Definition definition;
  definition.topic = input + "_" + name;
  definition.outputs = {Output{.precision = Precision::kDouble},
                        Output{.suffix = "_std", .precision = Precision::kDouble}};
  definition.moments = stats::kRestsOnMean;
  definition.keeps = Keeps::kRun;
  return definition;
}

Result<Definition> DefineAverageValue(std::span<const std::string> inputs, std::span<const std::string> values) {
  if (values[0] != "epoch" && values[0] != "never") {
    return Error{ErrorCode::kInvalidArgument, "reset='" + values[0] + "' of average_value is neither epoch nor never"};
  }
  Definition definition = MeterOf(inputs[0], "average_value");
  definition.values = {values[0]};
  definition.create = [each_epoch = values[0] == "epoch"] { return std::make_unique<AverageValue>(each_epoch); };
  return definition;
}

Result<Definition> DefineMovingAverage(std::span<const std::string> inputs, std::span<const std::string> values) {
  const auto window = ParseParameter("moving_average", "window", values[0], kWindowMax);
  if (!window) return window.error();
  Definition definition = MeterOf(inputs[0], "moving_average");
  definition.values = {std::to_string(*window)};
  definition.create = [window = static_cast<size_t>(*window)] { return std::make_unique<MovingAverage>(window); };
  return definition;
}

constexpr Parameter kAverageParameters[] = {
    {"reset", "epoch", "epoch: begin anew with each; never: all steps of the run"},
};
constexpr Parameter kMovingParameters[] = {
    {"window", "100", "how many of the last values, 1 to 10000"},
};

}  // namespace

constexpr Descriptor kAverageValue{
    .name = "average_value",
    .parameters = kAverageParameters,
    .publishes = "{kind}_average_value",
    .help = "mean of the epoch so far, with _std; of a kind or a topic, such as average_value(loss)",
    .define = DefineAverageValue,
};
constexpr Descriptor kMovingAverage{
    .name = "moving_average",
    .parameters = kMovingParameters,
    .publishes = "{kind}_moving_average",
    .help = "mean of the last values, with _std; of a kind or a topic, such as moving_average(loss, window=20)",
    .define = DefineMovingAverage,
};

}  // namespace ikkuna::metrics
