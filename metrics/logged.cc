#include "metrics/logged.h"

namespace ikkuna::metrics {

namespace {

class LastScalar final : public Subscriber {
 public:
  void Compute(Bundle bundle, Publisher&) override { last_ = bundle[0].scalar; }
  void StepClosed(const StepInfo&, Publisher& publisher) override { publisher.Publish(last_); }

 private:
  double last_ = 0;
};

class Texts final : public Subscriber {
 public:
  void Compute(Bundle bundle, Publisher&) override {
    if (texts_.size() < kTextsMax) {
      texts_.emplace_back(bundle[0].text);
    } else {
      ++left_out_;
    }
  }
  void StepClosed(const StepInfo&, Publisher& publisher) override {
    for (const std::string& text : texts_) publisher.PublishText(text);
    for (; left_out_ != 0; --left_out_) publisher.Incomplete();
  }
  void Reset() override {
    texts_.clear();
    left_out_ = 0;
  }

 private:
  static constexpr size_t kTextsMax = 1000;  // of one name in one step: 124 KB; a loop that logs more is no log
  std::vector<std::string> texts_;
  uint64_t left_out_ = 0;
};

constexpr Kind kLearningRateInputs[] = {Kind::kLearningRate};
constexpr Kind kScalarInputs[] = {Kind::kScalar};
constexpr Kind kTextInputs[] = {Kind::kText};

template <typename T>
Result<Definition> Define(Content content, const char* topic) {
  Definition definition;
  definition.content = content;
  definition.delivery = Delivery::kEachMessage;
  definition.topic = topic;
  definition.numbers = content == Content::kScalar;
  definition.create = [] { return std::make_unique<T>(); };
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
    .define = [](std::span<const std::string>,
                 std::span<const std::string>) { return Define<LastScalar>(Content::kScalar, "learning_rate"); },
};

constexpr Descriptor kScalar{
    .name = "scalar",
    .inputs_min = 0,
    .inputs_max = 0,
    .default_inputs = kScalarInputs,
    .publishes = "scalar",
    .help = "numbers that the trainer logs by name",
    .define = [](std::span<const std::string>,
                 std::span<const std::string>) { return Define<LastScalar>(Content::kScalar, "scalar"); },
};

constexpr Descriptor kText{
    .name = "text",
    .inputs_min = 0,
    .inputs_max = 0,
    .default_inputs = kTextInputs,
    .publishes = "text",
    .help = "texts that the trainer logs by name",
    .define = [](std::span<const std::string>,
                 std::span<const std::string>) { return Define<Texts>(Content::kText, "text"); },
};

}  // namespace ikkuna::metrics
