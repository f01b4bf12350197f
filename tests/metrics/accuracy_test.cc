#include "metrics/accuracy.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "tests/metrics/metric_probe.h"

namespace ikkuna::metrics {
namespace {

class AccuracyTest : public testing::Test {
 protected:
  void Start(const std::string& top = "1", const std::string& name = "train_accuracy") {
    definition_ = Define(name, {}, {top});
    subscriber_ = definition_.create();
  }
  void Output(const TestTensor& tensor, uint32_t pass = 0, uint16_t call = 0) { Give(0, tensor, pass, call); }
  void Labels(const TestTensor& tensor, uint32_t pass = 0, uint16_t call = 0, std::string_view name = {}) {
    Give(1, tensor, pass, call, name);
  }
  // The step's result; NaN where 0 rows counted, and nothing at all as a failure.
  double Close() {
    const auto recorder = std::make_shared<Recorder>();
    subscriber_->OnStep({}, {}, recorder);
    subscriber_->Reset();
    incomplete_ = recorder->incomplete;
    published_ = recorder->values.size();
    return recorder->values.size() == 1 ? recorder->values[0] : -1;
  }

  Definition definition_;
  std::unique_ptr<Subscriber> subscriber_;
  int incomplete_ = 0;
  size_t published_ = 0;

 private:
  void Give(size_t index, const TestTensor& tensor, uint32_t pass, uint16_t call, std::string_view name = {}) {
    const Payload payload{tensor.view()};
    Input input;
    input.index = index;
    input.pass = pass;
    input.call = call;
    input.param = name;
    subscriber_->OnMessage(input, &payload);
  }
};

TestTensor Scores(const std::vector<double>& values, std::vector<int64_t> sizes) {
  return TestTensor::Of(DType::kF32, values, std::move(sizes));
}
TestTensor Ints(const std::vector<double>& values) { return TestTensor::Of(DType::kI64, values); }

TEST_F(AccuracyTest, ShareOfRowsWhoseLabelIsGreatest) {
  Start();
  Output(Scores({0, 1, 2, 5, 4, 3, -1, -2, -3, 1, 9, 1}, {4, 3}));
  Labels(Ints({2, 0, 1, 1}));
  EXPECT_DOUBLE_EQ(Close(), 0.75);
}

TEST_F(AccuracyTest, TheLabelThatTheLossIgnoresIsNoRow) {
  Start();
  const TestTensor output = Scores({9, 1, 1, 9, 9, 1, 1, 9}, {4, 2});
  Output(output);
  Labels(Ints({0, 0, 0, 1}), 0, 0, "ignore_index=0");
  EXPECT_DOUBLE_EQ(Close(), 1);
  Output(output);
  Labels(Ints({0, 0, 0, 1}), 0, 0, "ignore_index=1");
  EXPECT_DOUBLE_EQ(Close(), 2.0 / 3);
  Output(output);
  Labels(Ints({0, 0, 0, 1}), 0, 0, "ignore_index=");
  EXPECT_DOUBLE_EQ(Close(), 0.75);
}

TEST_F(AccuracyTest, ALossByOtherTargetsBesideItDoesNotCount) {
  Start();
  Output(Scores({9, 1, 1, 9}, {2, 2}));
  Labels(Ints({0, 0}));
  Output(Scores({9, 1, 1, 9}, {2, 2}), 0, 1);
  Labels(Scores({9, 1, 1, 9}, {2, 2}), 0, 1);
  EXPECT_DOUBLE_EQ(Close(), 0.5);
}

// Counts, signs: integers that are no classes, as the probe says.
TEST_F(AccuracyTest, IntegerTargetsThatAreNoClassesPublishNothing) {
  Start();
  const TestTensor output = Scores({9, 1, 1, 9}, {2, 2});
  Output(output);
  Labels(Ints({0, 0}), 0, 0, "no_classes");
  Close();
  EXPECT_EQ(published_, 0u);
  EXPECT_EQ(incomplete_, 0);
}

TEST_F(AccuracyTest, TopK) {
  const TestTensor output = Scores({4, 3, 2, 1, 1, 2, 3, 4}, {2, 4});
  const double want[] = {0.5, 0.5, 1, 1, 1};  // labels rank first and third
  for (int k = 1; k <= 5; ++k) {
    Start(std::to_string(k));
    Output(output);
    Labels(Ints({0, 1}));
    EXPECT_DOUBLE_EQ(Close(), want[k - 1]) << k;
  }
}

TEST_F(AccuracyTest, TiesGoToTheSmallerIndexAndNanIsGreatest) {
  Start();
  Output(Scores({1, 1, 1, kNan, 2, kInf, 0, 0, kNan}, {3, 3}));
  Labels(Ints({0, 0, 2}));
  EXPECT_DOUBLE_EQ(Close(), 1);
  Output(Scores({1, 1, 1}, {1, 3}));
  Labels(Ints({1}));
  EXPECT_DOUBLE_EQ(Close(), 0);
  Start("2");
  Output(Scores({1, 1, 1}, {1, 3}));
  Labels(Ints({2}));
  EXPECT_DOUBLE_EQ(Close(), 0);
}

// Sorting the row stably is another way to the same.
TEST_F(AccuracyTest, EqualsAStableSortOnRandomRowsOfEveryShape) {
  std::mt19937 random(3);
  for (const std::vector<int64_t>& sizes :
       std::vector<std::vector<int64_t>>{{64, 10}, {5, 300}, {3, 7, 70}, {2, 5, 9, 8}, {4, 1}, {6, 513, 2}}) {
    int64_t elements = 1, inner = 1;
    for (const int64_t size : sizes) elements *= size;
    for (size_t i = 2; i < sizes.size(); ++i) inner *= sizes[i];
    const int64_t classes = sizes[1];
    std::vector<double> scores(static_cast<size_t>(elements));
    for (double& score : scores) score = static_cast<double>(random() % 8);  // many ties
    const size_t rows = static_cast<size_t>(sizes[0] * inner);
    std::vector<double> labels(rows);
    for (double& label : labels) label = static_cast<double>(random() % static_cast<unsigned>(classes));
    for (const size_t k : {1u, 3u}) {
      size_t right = 0;
      for (size_t row = 0; row < rows; ++row) {
        const size_t n = row / static_cast<size_t>(inner), i = row % static_cast<size_t>(inner);
        std::vector<size_t> order(static_cast<size_t>(classes));
        std::iota(order.begin(), order.end(), 0);
        const auto score = [&](size_t c) {
          return scores[(n * static_cast<size_t>(classes) + c) * static_cast<size_t>(inner) + i];
        };
        std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return score(a) > score(b); });
        for (size_t j = 0; j < std::min(k, order.size()); ++j) right += order[j] == static_cast<size_t>(labels[row]);
      }
      Start(std::to_string(k));
      Output(Scores(scores, sizes));
      Labels(Ints(labels));
      EXPECT_DOUBLE_EQ(Close(), static_cast<double>(right) / static_cast<double>(rows)) << sizes.size() << " " << k;
    }
  }
}

TEST_F(AccuracyTest, AddsUpOverCallsAndMicroBatches) {
  Start();
  Output(Scores({1, 0}, {1, 2}), 0, 0);
  Labels(Ints({0}), 0, 0);
  Labels(Ints({1, 1, 1}), 0, 1);  // labels first
  Output(Scores({0, 1, 1, 0, 0, 1}, {3, 2}), 0, 1);
  Output(Scores({0, 1}, {1, 2}), 1, 0);
  Labels(Ints({0}), 1, 0);
  EXPECT_DOUBLE_EQ(Close(), 3.0 / 5);
  EXPECT_EQ(incomplete_, 0);
}

TEST_F(AccuracyTest, AHalfWithoutItsOtherHalfIsIncomplete) {
  Start();
  Output(Scores({1, 0}, {1, 2}), 0);
  Labels(Ints({0}), 0);
  Output(Scores({1, 0}, {1, 2}), 1);
  Close();
  EXPECT_EQ(published_, 0u);
  EXPECT_EQ(incomplete_, 1);
  // And the next step is clean.
  Output(Scores({1, 0}, {1, 2}));
  Labels(Ints({0}));
  EXPECT_DOUBLE_EQ(Close(), 1);
}

TEST_F(AccuracyTest, WaitsForABoundedNumberOfHalves) {
  Start();
  for (uint32_t pass = 0; pass < 200; ++pass) Output(Scores({1, 0}, {1, 2}), pass);
  for (uint32_t pass = 0; pass < 200; ++pass) Labels(Ints({0}), pass);
  Close();
  EXPECT_EQ(published_, 0u);
  EXPECT_EQ(incomplete_, 1);
}

TEST_F(AccuracyTest, KeepsABoundedNumberOfIndices) {
  Start("1000");
  const std::vector<double> rows(20'000 * 1000, 0.5);
  for (uint32_t pass = 0; pass < 4; ++pass) Output(TestTensor::Of(DType::kF32, rows, {20'000, 1000}), pass);
  const std::vector<double> labels(20'000, 1);
  for (uint32_t pass = 0; pass < 4; ++pass) Labels(Ints(labels), pass);
  Close();
  EXPECT_EQ(published_, 0u);  // the first was given up
  EXPECT_EQ(incomplete_, 1);
}

TEST_F(AccuracyTest, LabelsBelowZeroAreNoRows) {
  Start();
  Output(Scores({1, 0, 1, 0, 1, 0}, {3, 2}));
  Labels(Ints({0, -100, 1}));
  EXPECT_DOUBLE_EQ(Close(), 0.5);
  Output(Scores({1, 0}, {1, 2}));
  Labels(Ints({-100}));
  EXPECT_TRUE(std::isnan(Close()));
}

TEST_F(AccuracyTest, LabelsBeyondTheClassesAreWrong) {
  Start();
  Output(Scores({1, 0}, {1, 2}));
  Labels(Ints({int64_t{1} << 40}));
  EXPECT_DOUBLE_EQ(Close(), 0);
}

TEST_F(AccuracyTest, UnbatchedOutputIsOneRow) {
  Start();
  Output(Scores({1, 3, 2}, {3}));
  Labels(TestTensor::Of(DType::kI64, {1}, {}));
  EXPECT_DOUBLE_EQ(Close(), 1);
}

TEST_F(AccuracyTest, EveryTypeOfScoreAndLabel) {
  for (const DType scores : {DType::kF32, DType::kF64, DType::kF16, DType::kBF16}) {
    for (const DType labels : {DType::kI8, DType::kU8, DType::kI16, DType::kI32, DType::kI64, DType::kBool}) {
      Start();
      Output(TestTensor::Of(scores, {0, 1, 1, 0, -1, -2}, {3, 2}));
      Labels(TestTensor::Of(labels, {1, 1, 0}));
      EXPECT_DOUBLE_EQ(Close(), 2.0 / 3);
    }
  }
}

TEST_F(AccuracyTest, WhatIsNoClassificationPublishesNothing) {
  Start();
  Output(Scores({1, 2, 3, 4}, {2, 2}));
  Labels(Scores({1, 2, 3, 4}, {2, 2}));  // a regression
  Close();
  EXPECT_EQ(published_, 0u);
  EXPECT_EQ(incomplete_, 0);
  Output(Scores({1, 2, 3, 4}, {2, 2}));
  Labels(Ints({0}));  // rows that do not fit
  Close();
  EXPECT_EQ(published_, 0u);
  EXPECT_EQ(incomplete_, 1) << "it is a classification, whose accuracy is missing";
  Output(Scores({1}, {}));
  Labels(Ints({0}));
  Close();
  EXPECT_EQ(published_, 0u);
}

TEST_F(AccuracyTest, AnEmptyTensorMayClaimAnySizes) {
  Start();
  Output(Scores({}, {int64_t{1} << 60, 10, 0}));  // walking them would never end
  Labels(Ints({}));
  EXPECT_TRUE(std::isnan(Close()));
}

TEST_F(AccuracyTest, EmptyBatch) {
  Start();
  Output(Scores({}, {0, 10}));
  Labels(Ints({}));
  EXPECT_TRUE(std::isnan(Close()));
}

TEST_F(AccuracyTest, TestAccuracyIsTheSameUnderItsOwnTag) {
  EXPECT_EQ(FindDescriptor("test_accuracy")->default_tag, "test");
  EXPECT_EQ(FindDescriptor("train_accuracy")->default_tag, "default");
  Start("1", "test_accuracy");
  EXPECT_EQ(definition_.topic, "test_accuracy");
  for (uint16_t batch = 0; batch < 100; ++batch) {
    Output(Scores({0, 1}, {1, 2}), batch);
    Labels(Ints({static_cast<double>(batch < 37)}), batch);
  }
  EXPECT_DOUBLE_EQ(Close(), 0.37);
}

TEST(AccuracyParameters, TopIsAWholeNumber) {
  for (const char* top : {"0", "-1", "1.5", "many", "1001", ""}) {
    const std::vector<std::string> values{top};
    const auto definition = kTrainAccuracy.define({}, values);
    ASSERT_FALSE(definition.ok()) << top;
    EXPECT_EQ(definition.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(definition.error().text.find("top='"), std::string::npos);
  }
}

}  // namespace
}  // namespace ikkuna::metrics
