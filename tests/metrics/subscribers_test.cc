// The metrics that are more than a function of one tensor, and the catalogue itself.
#include <set>

#include "metrics/number.h"
#include "tests/metrics/metric_probe.h"

namespace ikkuna::metrics {
namespace {

TensorStats Stats(const std::vector<double>& values) { return ComputeStats(values.data(), DType::kF64, values.size()); }

double RatioOf(const std::vector<double>& a, const std::vector<double>& b) {
  const Definition definition = Define("ratio", {"weight_updates", "weights"});
  EXPECT_EQ(definition.scope, Scope::kModule);
  const TensorStats stats[] = {Stats(a), Stats(b)};
  Input inputs[2];
  inputs[0].stats = &stats[0];
  inputs[1].stats = &stats[1];
  inputs[0].subject = inputs[1].subject = {1, 2};  // a pair has one
  const auto recorder = std::make_shared<Recorder>();
  definition.create()->OnStep({}, inputs, recorder);
  EXPECT_EQ(recorder->subjects, (std::vector<Subject>{{1, 2}}));
  return recorder->values.at(0);
}

TEST(Ratio, OfNorms) {
  EXPECT_DOUBLE_EQ(RatioOf({3, -4}, {6, 8}), 0.5);
  EXPECT_EQ(RatioOf({1}, {0}), kInf);
  EXPECT_TRUE(std::isnan(RatioOf({0}, {0})));
  EXPECT_EQ(RatioOf({0}, {2}), 0);
  EXPECT_TRUE(std::isnan(RatioOf({kNan}, {2})));
  EXPECT_EQ(RatioOf({kInf}, {2}), kInf);
}

// What a subscriber that is fed scalars publishes.
std::vector<double> FeedScalars(const Definition& definition, Subscriber& subscriber,
                                const std::vector<double>& scalars) {
  const auto recorder = std::make_shared<Recorder>();
  EXPECT_EQ(definition.content, Content::kScalar);
  std::vector<Input> inputs(scalars.size());
  for (size_t i = 0; i < scalars.size(); ++i) inputs[i].scalar = scalars[i];
  if (definition.delivery == Delivery::kLast) {
    subscriber.OnStep({}, {&inputs.back(), 1}, recorder);
    return recorder->values;
  }
  for (const Input& input : inputs) subscriber.OnMessage(input, nullptr);
  subscriber.OnStep({}, {}, recorder);
  subscriber.Reset();
  return recorder->values;
}

TEST(Scalars, LossIsTheMean) {
  const Definition definition = Define("loss", {});
  const auto loss = definition.create();
  EXPECT_EQ(FeedScalars(definition, *loss, {1, 2, 6}), std::vector<double>{3});
  EXPECT_EQ(FeedScalars(definition, *loss, {5}), std::vector<double>{5});
  EXPECT_TRUE(std::signbit(FeedScalars(definition, *loss, {-0.0}).at(0)));
  EXPECT_TRUE(std::isnan(FeedScalars(definition, *loss, {1, kNan}).at(0)));
}

TEST(Scalars, MessageMean) {
  const Definition definition = Define("message_mean", {"weights_norm2"});
  EXPECT_EQ(definition.topic, "weights_norm2_message_mean");
  EXPECT_EQ(definition.scope, Scope::kRoot);
  const auto mean = definition.create();
  EXPECT_EQ(FeedScalars(definition, *mean, {1, 2, 4.5}), std::vector<double>{2.5});
  EXPECT_EQ(FeedScalars(definition, *mean, {7}), std::vector<double>{7});
  EXPECT_EQ(FeedScalars(definition, *mean, {1, kInf}), std::vector<double>{kInf});
}

TEST(Scalars, OfWhatIsLoggedTheLastCounts) {
  for (const char* name : {"scalar", "learning_rate"}) {
    const Definition definition = Define(name, {});
    EXPECT_EQ(definition.topic, name);
    EXPECT_EQ(FeedScalars(definition, *definition.create(), {1, 2, 6}), std::vector<double>{6});
  }
}

TEST(Texts, AllStay) {
  const Definition definition = Define("text", {});
  ASSERT_EQ(definition.outputs.size(), 1u);
  EXPECT_EQ(definition.outputs[0].type, ValueType::kText);
  const auto text = definition.create();
  const auto recorder = std::make_shared<Recorder>();
  Input input;
  for (const char* said : {"one", "", "three"}) {
    input.text = said;
    text->OnMessage(input, nullptr);
  }
  text->OnStep({}, {&input, 1}, recorder);
  EXPECT_EQ(recorder->texts, (std::vector<std::string>{"one", "", "three"}));
  text->Reset();
  const auto nothing = std::make_shared<Recorder>();
  text->OnStep({}, {&input, 1}, nothing);
  EXPECT_TRUE(nothing->texts.empty());
}

TEST(Texts, ThatAreTooManyAreCounted) {
  const auto text = Define("text", {}).create();
  const auto recorder = std::make_shared<Recorder>();
  Input input;
  input.text = "again";
  for (int i = 0; i < 1003; ++i) text->OnMessage(input, nullptr);
  text->OnStep({}, {&input, 1}, recorder);
  EXPECT_EQ(recorder->texts.size(), 1000u);
  EXPECT_EQ(recorder->incomplete, 3);
}

class NonFiniteTest : public testing::Test {
 protected:
  void Give(Kind kind, const char* module, const std::vector<double>& values) {
    const TensorStats stats = Stats(values);
    Input input;
    input.kind = kind;
    input.module = module;
    input.stats = &stats;
    rule_->OnMessage(input, nullptr);
  }
  std::vector<std::string> Close() {
    const auto recorder = std::make_shared<Recorder>();
    StepInfo step;
    step.global_step = 7;
    rule_->OnStep(step, {}, recorder);
    rule_->Reset();
    EXPECT_TRUE(recorder->values.empty());
    return recorder->events;
  }
  std::unique_ptr<Subscriber> rule_ = Define("non_finite", {}).create();
};

TEST_F(NonFiniteTest, SaysNothingOfFiniteSteps) {
  Give(Kind::kActivations, "fc1", {1, 2});
  Give(Kind::kLoss, "", {1});
  EXPECT_TRUE(Close().empty());
}

TEST_F(NonFiniteTest, NamesTheFirstAndWhatFlowedIntoIt) {
  Give(Kind::kActivations, "fc1", {1, 2});
  Give(Kind::kActivations, "fc2", {kNan, kNan, kInf, 4});
  Give(Kind::kActivations, "fc3", {kNan});
  EXPECT_EQ(Close(),
            std::vector<std::string>{
                "step 7: activations of fc2 hold 2 NaN and 1 infinity among 4 elements; the activations before "
                "it, of fc1, were finite: this module produced them"});
}

TEST_F(NonFiniteTest, WithoutAPredecessorItSaysSo) {
  Give(Kind::kActivations, "fc1", {-kInf, kInf});
  EXPECT_EQ(Close(),
            std::vector<std::string>{
                "step 7: activations of fc1 hold 2 infinities among 2 elements; nothing before it in this step "
                "shows whether its input was finite"});
}

TEST_F(NonFiniteTest, LossAndGradients) {
  Give(Kind::kActivations, "fc2", {1});
  Give(Kind::kLoss, "", {kNan});
  EXPECT_EQ(Close(),
            std::vector<std::string>{"step 7: loss is not finite; the activations before it, of fc2, were finite"});
  // The step before is forgotten.
  Give(Kind::kWeightGradients, "fc1", {kNan, 1});
  EXPECT_EQ(Close(), std::vector<std::string>{
                         "step 7: weight_gradients of fc1 hold 1 NaN among 2 elements; nothing before it in this step "
                         "shows whether its input was finite"});
}

TEST(Norm, OnlyOtherOrdersNeedTheTensor) {
  for (const char* order : {"0", "1", "2", "inf"}) {
    EXPECT_EQ(Define("norm", {"weights"}, {order}).content, Content::kStatistics) << order;
  }
  for (const char* order : {"3", "2.5", "0.5"}) {
    EXPECT_EQ(Define("norm", {"weights"}, {order}).content, Content::kTensor) << order;
  }
}

TEST(Norm, TopicsAndTheOneWayToWriteTheOrder) {
  const std::vector<std::vector<std::string>> cases{
      {"2", "2", "weights_norm2"},        {"2.0", "2", "weights_norm2"},      {"2e0", "2", "weights_norm2"},
      {"inf", "inf", "weights_norm_inf"}, {"2.50", "2.5", "weights_norm2p5"}, {"0", "0", "weights_norm0"},
      {"-0", "0", "weights_norm0"},       {"1e3", "1000", "weights_norm1000"}};
  for (const auto& c : cases) {
    const Definition definition = Define("norm", {"weights"}, {c[0]});
    EXPECT_EQ(definition.values, std::vector<std::string>{c[1]}) << c[0];
    EXPECT_EQ(definition.topic, c[2]) << c[0];
  }
}

TEST(Norm, RefusesWhatIsNoOrder) {
  for (const char* order : {"x", "-1", "nan", "2x", "", "0.001", "1001", "1e400", "infinity"}) {
    const std::vector<std::string> inputs{"weights"}, values{order};
    const auto definition = FindDescriptor("norm")->define(inputs, values);
    ASSERT_FALSE(definition.ok()) << order;
    EXPECT_EQ(definition.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(definition.error().text.find("order='" + std::string(order) + "'"), std::string::npos);
  }
}

TEST(Catalogue, EveryMetricIsDescribed) {
  std::set<std::string_view> names;
  for (const Descriptor* descriptor : Descriptors()) {
    EXPECT_TRUE(names.insert(descriptor->name).second) << descriptor->name;
    EXPECT_FALSE(descriptor->help.empty()) << descriptor->name;
    EXPECT_FALSE(descriptor->publishes.empty()) << descriptor->name;
    EXPECT_LE(descriptor->inputs_min, descriptor->inputs_max);
    EXPECT_TRUE(descriptor->inputs_min > 0 || !descriptor->default_inputs.empty()) << descriptor->name;
    for (const Parameter& parameter : descriptor->parameters) {
      EXPECT_FALSE(parameter.help.empty()) << descriptor->name << " " << parameter.name;
    }
    std::vector<std::string> inputs(descriptor->inputs_max, "weights");
    const Definition definition = Define(std::string(descriptor->name), inputs);
    EXPECT_EQ(definition.values.size(), descriptor->parameters.size()) << descriptor->name;
    EXPECT_NE(definition.create(), nullptr) << descriptor->name;
    const size_t count = descriptor->inputs_max == 0 ? descriptor->default_inputs.size() : descriptor->inputs_max;
    const bool topics = descriptor->accepts == Inputs::kTopics;
    const Status checked = CheckDefinition(definition, {topics ? 0 : count, topics ? count : 0});
    EXPECT_TRUE(checked.ok()) << checked.error().text;
  }
  for (const char* name :
       {"mean",           "variance",      "sum",           "norm",          "ratio",     "loss",
        "train_accuracy", "test_accuracy", "message_mean",  "min",           "max",       "abs_max",
        "abs_mean",       "rms",           "std",           "zero_fraction", "nan_count", "inf_count",
        "skewness",       "kurtosis",      "learning_rate", "scalar",        "text",      "non_finite"}) {
    EXPECT_TRUE(names.count(name)) << name;
  }
  EXPECT_EQ(FindDescriptor("spectral"), nullptr);
}

TEST(Numbers, WrittenAndRead) {
  EXPECT_EQ(FormatNumber(0.1), "0.1");
  EXPECT_EQ(FormatNumber(1e20), "100000000000000000000");
  EXPECT_EQ(FormatNumber(1e-7), "0.0000001");
  EXPECT_EQ(FormatNumber(kInf), "inf");
  EXPECT_EQ(ParseCount("12"), 12u);
  EXPECT_EQ(ParseCount("+1"), std::nullopt);
  EXPECT_EQ(ParseCount("1 "), std::nullopt);
  EXPECT_EQ(ParseCount("99999999999999999999"), std::nullopt);
  EXPECT_EQ(ParseNumber("1.5"), 1.5);
  EXPECT_EQ(ParseNumber("1.5 "), std::nullopt);
}

}  // namespace
}  // namespace ikkuna::metrics
