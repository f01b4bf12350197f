#include "metrics/message_mean.h"

namespace ikkuna::metrics {

namespace {

class MeanOfScalars final : public Subscriber {
 public:
  void OnMessage(const Input& input, const Payload*) override {
    sum_ = count_ == 0 ? input.scalar : sum_ + input.scalar;  // -0.0 alone is -0.0
    ++count_;
  }
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    results->Put(inputs.empty() ? Subject{} : inputs[0].subject, sum_ / static_cast<double>(count_));
  }
  void Merge(Subscriber& pass) override {
    const auto& more = static_cast<const MeanOfScalars&>(pass);
    sum_ += more.sum_;
    count_ += more.count_;
  }
  void Reset() override {
    sum_ = 0;
    count_ = 0;
  }

 private:
  double sum_ = 0;
  uint64_t count_ = 0;
};

Result<Definition> DefineMessageMean(std::span<const std::string> inputs, std::span<const std::string>) {
  Definition definition;
  definition.content = Content::kScalar;
  definition.delivery = Delivery::kEachMessage;
  definition.scope = Scope::kRoot;
  definition.topic = inputs[0] + "_message_mean";
  definition.create = MakeMeanOfScalars;
  return definition;
}

}  // namespace

std::unique_ptr<Subscriber> MakeMeanOfScalars() { return std::make_unique<MeanOfScalars>(); }

constexpr Descriptor kMessageMean{
    .name = "message_mean",
    .accepts = Inputs::kTopics,
    .publishes = "{topic}_message_mean",
    .help = "mean over modules of a topic's values within one step",
    .define = DefineMessageMean,
};

}  // namespace ikkuna::metrics
