// The meters over steps against their definitions.
#include "metrics/averages.h"

#include <deque>
#include <random>

#include "tests/metrics/metric_probe.h"

namespace ikkuna::metrics {
namespace {

struct MeanAndStd {
  double mean = kNan, std = kNan;  // no std: NaN
};

// By output.
class Both final : public Results {
 public:
  void Put(uint32_t output, Subject subject, Value value) override {
    EXPECT_EQ(subject, (Subject{3, 4}));
    (output == 0 ? got.mean : got.std) = std::get<double>(value);
  }
  void Raise(Severity, std::string, std::optional<Action>) override { ADD_FAILURE(); }
  void Incomplete() override { ADD_FAILURE(); }
  bool cancelled() const override { return false; }
  MeanAndStd got;
};

MeanAndStd Step(Subscriber& meter, uint32_t epoch, const std::vector<double>& elements) {
  const TensorStats stats = ComputeStats(elements.data(), DType::kF64, elements.size());
  Input input;
  input.subject = {3, 4};
  input.stats = &stats;
  StepInfo step;
  step.epoch = epoch;
  const auto both = std::make_shared<Both>();
  meter.OnStep(step, {&input, 1}, both);
  return both->got;
}

void ExpectOf(const MeanAndStd& got, const std::deque<double>& values) {
  double mean = 0, squares = 0;
  for (const double value : values) mean += value / static_cast<double>(values.size());
  for (const double value : values) squares += (value - mean) * (value - mean);
  EXPECT_NEAR(got.mean, mean, 1e-12 * (1 + std::fabs(mean)));
  if (values.size() < 2) {
    EXPECT_TRUE(std::isnan(got.std));
  } else {
    const double std = std::sqrt(squares / static_cast<double>(values.size() - 1));
    EXPECT_NEAR(got.std, std, 1e-9 * (1 + std));
  }
}

TEST(AverageValueTest, IsOfTheEpochAndOfAStepItsMean) {
  for (const bool each_epoch : {true, false}) {
    const auto meter = Define("average_value", {"loss"}, {each_epoch ? "epoch" : "never"}).create();
    std::mt19937 random(1);
    std::normal_distribution<double> normal(1e3, 5);
    std::deque<double> values;
    for (uint32_t step = 0; step < 90; ++step) {
      if (each_epoch && step % 30 == 0) values.clear();
      const double a = normal(random), b = normal(random);
      values.push_back((a + b) / 2);
      ExpectOf(Step(*meter, step / 30, {a, b}), values);
    }
  }
}

TEST(AverageValueTest, ANanStaysToTheEndOfItsEpoch) {
  const auto meter = Define("average_value", {"loss"}).create();
  Step(*meter, 0, {1});
  EXPECT_TRUE(std::isnan(Step(*meter, 0, {kNan}).mean));
  EXPECT_TRUE(std::isnan(Step(*meter, 0, {2}).mean));
  EXPECT_EQ(Step(*meter, 1, {2}).mean, 2);
}

TEST(MovingAverageTest, IsOfTheLastValuesWhateverWentBefore) {
  for (const size_t window : {1u, 2u, 7u, 100u}) {
    const auto meter = Define("moving_average", {"loss"}, {std::to_string(window)}).create();
    std::mt19937 random(2);
    std::normal_distribution<double> normal(0, 1);
    std::deque<double> values;
    for (int step = 0; step < 300; ++step) {
      // One that would leave its rounding behind in a running sum, and one that would poison it.
      const double value = step == 50 ? 1e300 : step == 120 ? kNan : normal(random);
      values.push_back(value);
      if (values.size() > window) values.pop_front();
      const MeanAndStd got = Step(*meter, 0, {value});
      const bool poisoned = std::any_of(values.begin(), values.end(), [](double x) { return std::isnan(x); });
      if (poisoned) {
        EXPECT_TRUE(std::isnan(got.mean)) << step;
      } else if (std::count(values.begin(), values.end(), 1e300) == 0) {
        ExpectOf(got, values);
      }
    }
    EXPECT_GE(meter->bytes(), window * sizeof(double));
  }
}

TEST(MetersTest, TopicsAndBadValues) {
  EXPECT_EQ(Define("average_value", {"loss"}).topic, "loss_average_value");
  EXPECT_EQ(Define("moving_average", {"weights_norm2"}, {"020"}).values, std::vector<std::string>{"20"});
  EXPECT_EQ(Define("moving_average", {"loss"}).outputs.at(1).suffix, "_std");
  const std::vector<std::string> inputs = {"loss"};
  for (const char* bad : {"0", "-1", "10001", "1.5", "", "all"}) {
    const std::vector<std::string> values = {bad};
    EXPECT_FALSE(FindDescriptor("moving_average")->define(inputs, values).ok()) << bad;
    EXPECT_FALSE(FindDescriptor("average_value")->define(inputs, values).ok()) << bad;
  }
}

}  // namespace
}  // namespace ikkuna::metrics
