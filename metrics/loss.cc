#include "metrics/loss.h"

#include "metrics/message_mean.h"

namespace ikkuna::metrics {

namespace {

constexpr Kind kLossInputs[] = {Kind::kLoss};

Result<Definition> DefineLoss(std::span<const std::string>, std::span<const std::string>) {
  Definition definition;
  definition.content = Content::kScalar;
  definition.delivery = Delivery::kEachMessage;
  definition.topic = "loss";
  definition.outputs = {Output{.precision = Precision::kDouble}};
  definition.create = MakeMeanOfScalars;
  return definition;
}

}  // namespace

constexpr Descriptor kLoss{
    .name = "loss",
    .inputs_min = 0,
    .inputs_max = 0,
    .default_inputs = kLossInputs,
    .publishes = "loss",
    .help = "what the loss function gives, mean of a step's losses",
    .define = DefineLoss,
};

}  // namespace ikkuna::metrics
