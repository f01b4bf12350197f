#include "metrics/ratio.h"

#include "shared/stats/derive.h"

namespace ikkuna::metrics {

namespace {

class Ratio final : public Subscriber {
 public:
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    results->Put(inputs[0].subject, stats::Norm2(*inputs[0].stats) / stats::Norm2(*inputs[1].stats));
  }
};

Result<Definition> DefineRatio(std::span<const std::string> inputs, std::span<const std::string>) {
  Definition definition;
  definition.scope = Scope::kModule;
  definition.moments = stats::kRestsOnSquare;
  definition.topic = inputs[0] + "_" + inputs[1] + "_ratio";
  definition.create = [] { return std::make_unique<Ratio>(); };
  return definition;
}

}  // namespace

constexpr Descriptor kRatio{
    .name = "ratio",
    .inputs_min = 2,
    .inputs_max = 2,
    .publishes = "{a}_{b}_ratio",
    .help = "norm2(a) / norm2(b) of one module and step",
    .define = DefineRatio,
};

}  // namespace ikkuna::metrics
