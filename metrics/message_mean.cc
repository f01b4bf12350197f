#include "metrics/message_mean.h"

namespace ikkuna::metrics {

namespace {

class MessageMean final : public Subscriber {
 public:
  void Compute(Bundle bundle, Publisher&) override {
    sum_ += bundle[0].scalar;
    ++count_;
  }
  void StepClosed(const StepInfo&, Publisher& publisher) override {
    publisher.Publish(sum_ / static_cast<double>(count_));
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
  definition.create = [] { return std::make_unique<MessageMean>(); };
  return definition;
}

}  // namespace

constexpr Descriptor kMessageMean{
    .name = "message_mean",
    .accepts = Inputs::kTopics,
    .publishes = "{topic}_message_mean",
    .help = "mean over modules of a topic's values within one step",
    .define = DefineMessageMean,
};

}  // namespace ikkuna::metrics
