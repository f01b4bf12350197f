#include "metrics/logged.h"

namespace ikkuna::metrics {

namespace {

class LastScalar final : public Subscriber {
 public:
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    results->Put(inputs[0].subject, inputs[0].scalar);
  }
};

class Texts final : public Subscriber {
 public:
  void OnMessage(const Input& input, const Payload*) override {
    if (texts_.size() < kTextsMax) {
      texts_.emplace_back(input.text);
    } else {
      ++left_out_;
    }
  }
  void Merge(Subscriber& pass) override {
    auto& more = static_cast<Texts&>(pass);
    left_out_ += more.left_out_;
    for (std::string& text : more.texts_) {
      if (texts_.size() < kTextsMax) {
        texts_.push_back(std::move(text));
      } else {
        ++left_out_;
      }
    }
  }
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    for (std::string& text : texts_) results->Put(inputs[0].subject, Text{std::move(text)});
    for (; left_out_ != 0; --left_out_) results->Incomplete();
  }
  uint64_t bytes() const override { return texts_.size() * kTextBytes; }
  void Reset() override {
    texts_.clear();
    left_out_ = 0;
  }

 private:
  static constexpr size_t kTextsMax = 1000;  // of one name in one step: 124 KB; a loop that logs more is no log
  static constexpr uint64_t kTextBytes = 160;  // with what a string takes
  std::vector<std::string> texts_;
  uint64_t left_out_ = 0;
};

constexpr Kind kLearningRateInputs[] = {Kind::kLearningRate};
constexpr Kind kScalarInputs[] = {Kind::kScalar};
constexpr Kind kTextInputs[] = {Kind::kText};

Result<Definition> DefineScalar(const char* topic) {
  Definition definition;
  definition.content = Content::kScalar;
  definition.delivery = Delivery::kLast;
  definition.topic = topic;
  definition.create = [] { return std::make_unique<LastScalar>(); };
  return definition;
}

Result<Definition> DefineTexts(std::span<const std::string>, std::span<const std::string>) {
  Definition definition;
  definition.content = Content::kText;
  definition.delivery = Delivery::kEachMessage;
  definition.topic = "text";
  definition.outputs = {Output{.type = ValueType::kText}};
  definition.create = [] { return std::make_unique<Texts>(); };
  return definition;
}

}  // namespace

constexpr Descriptor kLearningRate{
    .name = "learning_rate",
    .inputs_min = 0,
    .inputs_max = 0,
    .default_inputs = kLearningRateInputs,
    .publishes = "learning_rate",
    .help = "of each parameter group of an attached optimizer",
    .define = [](std::span<const std::string>, std::span<const std::string>) { return DefineScalar("learning_rate"); },
};

constexpr Descriptor kScalar{
    .name = "scalar",
    .inputs_min = 0,
    .inputs_max = 0,
    .default_inputs = kScalarInputs,
    .publishes = "scalar",
    .help = "numbers that the trainer logs by name",
    .define = [](std::span<const std::string>, std::span<const std::string>) { return DefineScalar("scalar"); },
};

constexpr Descriptor kText{
    .name = "text",
    .inputs_min = 0,
    .inputs_max = 0,
    .default_inputs = kTextInputs,
    .publishes = "text",
    .help = "texts that the trainer logs by name",
    .define = DefineTexts,
};

}  // namespace ikkuna::metrics
