#include "metrics/loss.h"

namespace ikkuna::metrics {

namespace {

class Loss final : public Subscriber {
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

constexpr Kind kInputs[] = {Kind::kLoss};

Result<Definition> DefineLoss(std::span<const std::string>, std::span<const std::string>) {
  Definition definition;
  definition.content = Content::kScalar;
  definition.delivery = Delivery::kEachMessage;
  definition.topic = "loss";
  definition.create = [] { return std::make_unique<Loss>(); };
  return definition;
}

}  // namespace

constexpr Descriptor kLoss{
    .name = "loss",
    .inputs_min = 0,
    .inputs_max = 0,
    .default_inputs = kInputs,
    .publishes = "loss",
    .help = "what the loss function gives, mean of a step's losses",
    .define = DefineLoss,
};

}  // namespace ikkuna::metrics
