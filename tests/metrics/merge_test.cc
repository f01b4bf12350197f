// What a step's passes bring each for itself merges into what they bring together: for every metric that is fed as the
// messages come.
#include <algorithm>
#include <random>

#include "tests/metrics/metric_probe.h"

namespace ikkuna::metrics {
namespace {

bool IsFedAtOnce(const Definition& definition) {
  return definition.delivery == Delivery::kEachMessage && definition.runs == Runs::kInline &&
         definition.keeps == Keeps::kStep;
}

// A message with what it owns.
struct Sent {
  Input input;
  TestTensor tensor{DType::kF64, {}};
  TensorStats stats;
  std::string text;
};

class MergeTest : public testing::TestWithParam<const Descriptor*> {
 protected:
  // Passes 1 to 3 and, for what takes no outputs and labels, messages of the step as a whole (0).
  std::vector<Sent> Messages(const Definition& definition, std::mt19937& random) const {
    const auto below = [&](int n) { return std::uniform_int_distribution<int>(0, n - 1)(random); };
    const bool classes = GetParam()->name.find("accuracy") != std::string_view::npos;
    std::vector<Sent> all;
    for (int i = 0; i < 12; ++i) {
      Sent sent;
      sent.input.pass = static_cast<uint32_t>(classes ? 1 + below(3) : below(4));
      sent.input.call = static_cast<uint16_t>(i);
      std::vector<double> values;
      for (int v = 0; v < 6; ++v) values.push_back(below(9) - 4);
      sent.tensor = classes ? TestTensor::Of(DType::kF64, values, {2, 3}) : TestTensor::Of(DType::kF64, values);
      sent.stats = ComputeStats(sent.tensor.view().data, DType::kF64, 6);
      sent.input.scalar = values[0];
      sent.text = "text " + std::to_string(i);
      all.push_back(sent);
      if (!classes) continue;
      sent.input.index = 1;
      sent.tensor = TestTensor::Of(DType::kI64, {double(below(3)), double(below(3))});
      all.push_back(sent);
    }
    for (size_t i = 0; i < all.size(); ++i) {
      all[i].input.seq = i + 1;
      all[i].input.kind = definition.content == Content::kStatistics ? Kind::kActivations : Kind::kInvalid;
    }
    return all;
  }
  static void Feed(const Definition& definition, Subscriber& subscriber, Sent& sent) {
    sent.input.text = sent.text;
    sent.input.stats = &sent.stats;
    const Payload payload{sent.tensor.view()};
    sent.input.payload = &payload;
    subscriber.OnMessage(sent.input, definition.content == Content::kTensor ? &payload : nullptr);
  }
  static std::shared_ptr<Recorder> End(Subscriber& subscriber) {
    const auto recorder = std::make_shared<Recorder>();
    Input about;
    subscriber.OnStep({}, {&about, 1}, recorder);
    return recorder;
  }
};

TEST_P(MergeTest, PassesGiveTogetherWhatTheirMessagesGive) {
  std::vector<std::string> inputs;
  for (const Kind kind : GetParam()->default_inputs) inputs.emplace_back(KindName(kind));
  if (inputs.empty()) inputs.emplace_back(GetParam()->accepts == Inputs::kTopics ? "weights_mean" : "weights");
  for (const char* order : {"3", "0.5"}) {
    const bool norm = GetParam()->name == "norm";
    const Definition definition =
        Define(std::string(GetParam()->name), inputs, norm ? std::vector<std::string>{order} : std::vector<std::string>{});
    ASSERT_TRUE(IsFedAtOnce(definition));
    for (unsigned seed = 0; seed < 20; ++seed) {
      std::mt19937 random(seed);
      std::vector<Sent> messages = Messages(definition, random);
      // All of one pass after the other, as texts are given; numbers do not mind.
      std::vector<Sent> ordered = messages;
      std::stable_sort(ordered.begin(), ordered.end(),
                       [](const Sent& a, const Sent& b) { return a.input.pass < b.input.pass; });
      const auto whole = definition.create();
      for (Sent& sent : ordered) Feed(definition, *whole, sent);
      std::vector<std::unique_ptr<Subscriber>> passes;
      for (int i = 0; i < 4; ++i) passes.push_back(definition.create());
      for (Sent& sent : messages) Feed(definition, *passes[sent.input.pass], sent);
      for (int i = 1; i < 4; ++i) {
        passes[0]->Merge(*passes[static_cast<size_t>(i)]);
        passes[static_cast<size_t>(i)]->Reset();
      }
      const auto want = End(*whole);
      const auto got = End(*passes[0]);
      ASSERT_EQ(got->values.size(), want->values.size());
      for (size_t i = 0; i < want->values.size(); ++i) EXPECT_NEAR(got->values[i], want->values[i], 1e-9);
      EXPECT_EQ(got->texts, want->texts);
      EXPECT_EQ(got->events, want->events);
      EXPECT_EQ(got->incomplete, want->incomplete);
      EXPECT_FALSE(want->values.empty() && want->texts.empty() && GetParam()->name != "non_finite");
    }
  }
}

std::vector<const Descriptor*> FedAtOnce() {
  std::vector<const Descriptor*> fed;
  for (const Descriptor* descriptor : Descriptors()) {
    std::vector<std::string> inputs;
    for (const Kind kind : descriptor->default_inputs) inputs.emplace_back(KindName(kind));
    while (inputs.size() < std::max<size_t>(1, descriptor->inputs_min)) {
      inputs.emplace_back(descriptor->accepts == Inputs::kTopics ? "weights_mean" : "weights");
    }
    std::vector<std::string> values;
    for (const Parameter& parameter : descriptor->parameters) values.emplace_back(parameter.default_value);
    if (descriptor->name == "norm") values = {"3"};
    const auto definition = descriptor->define(inputs, values);
    if (definition.ok() && IsFedAtOnce(*definition)) fed.push_back(descriptor);
  }
  return fed;
}

INSTANTIATE_TEST_SUITE_P(Metrics, MergeTest, testing::ValuesIn(FedAtOnce()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST(Merge, AccuracyPairsNothingAcrossPasses) {
  const Definition definition = Define("train_accuracy", {"network_output", "input_labels"});
  const auto one = definition.create();
  const auto other = definition.create();
  const TestTensor scores = TestTensor::Of(DType::kF64, {1, 0}, {1, 2});
  const TestTensor labels = TestTensor::Of(DType::kI64, {0});
  const Payload output{scores.view()}, label{labels.view()};
  Input input;
  one->OnMessage(input, &output);
  input.index = 1;
  other->OnMessage(input, &label);
  one->Merge(*other);
  const auto recorder = std::make_shared<Recorder>();
  one->OnStep({}, {}, recorder);
  EXPECT_TRUE(recorder->values.empty());
  EXPECT_EQ(recorder->incomplete, 1);
}

// ---- The rule that finds the first.

struct Fact {
  uint64_t seq;
  uint32_t pass;
  Kind kind;
  const char* module;
  double value;
};

std::string FirstOf(const std::vector<Fact>& facts, const std::vector<uint32_t>& order) {
  const Definition definition = Define("non_finite", {"loss", "weights", "activations"});
  std::vector<std::unique_ptr<Subscriber>> passes;
  for (int i = 0; i < 4; ++i) passes.push_back(definition.create());
  for (const Fact& fact : facts) {
    const TensorStats stats = ComputeStats(&fact.value, DType::kF64, 1);
    Input input;
    input.seq = fact.seq;
    input.pass = fact.pass;
    input.kind = fact.kind;
    input.module = fact.module;
    input.stats = &stats;
    passes[fact.pass]->OnMessage(input, nullptr);
  }
  for (const uint32_t pass : order) passes[0]->Merge(*passes[pass]);
  const auto recorder = std::make_shared<Recorder>();
  passes[0]->OnStep({}, {}, recorder);
  EXPECT_EQ(recorder->events.size(), 1u);
  return recorder->events.empty() ? "" : recorder->events[0];
}

TEST(Merge, TheFirstThatIsNotFiniteIsTheFirstOfAllPasses) {
  const std::vector<Fact> facts = {{1, 0, Kind::kWeights, "a", 1},    {2, 1, Kind::kActivations, "a", 1},
                                   {3, 2, Kind::kActivations, "a", 1}, {4, 2, Kind::kActivations, "b", kNan},
                                   {5, 1, Kind::kActivations, "b", kNan}, {6, 1, Kind::kLoss, "", kNan},
                                   {7, 0, Kind::kWeightGradients, "b", kNan}};
  for (const auto& order : {std::vector<uint32_t>{1, 2, 3}, {3, 2, 1}, {2, 1, 3}}) {
    EXPECT_EQ(FirstOf(facts, order),
              "step 0: activations of b is not finite; the activations before it, of a, were finite: this module "
              "produced them");
  }
}

TEST(Merge, WhatAnotherPassComputedSaysNothingOfAModulesInput) {
  const std::vector<Fact> facts = {{1, 1, Kind::kActivations, "z", 1}, {2, 2, Kind::kActivations, "a", kNan}};
  for (const auto& order : {std::vector<uint32_t>{1, 2}, {2, 1}}) {
    EXPECT_EQ(FirstOf(facts, order),
              "step 0: activations of a is not finite; nothing before it in this step shows whether its input was "
              "finite");
  }
  // But of what comes after all of them.
  const std::vector<Fact> gradients = {{1, 1, Kind::kActivations, "a", 1},
                                       {2, 2, Kind::kActivations, "b", 1},
                                       {3, 0, Kind::kWeightGradients, "a", kNan},
                                       {4, 3, Kind::kActivations, "c", 1}};
  for (const auto& order : {std::vector<uint32_t>{1, 2, 3}, {3, 2, 1}}) {
    EXPECT_EQ(FirstOf(gradients, order),
              "step 0: weight_gradients of a is not finite; the activations before it, of b, were finite");
  }
}

}  // namespace
}  // namespace ikkuna::metrics
