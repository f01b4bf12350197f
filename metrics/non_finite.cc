#include "metrics/non_finite.h"

namespace ikkuna::metrics {

namespace {

std::string Count(uint64_t count, const char* what) { return std::to_string(count) + " " + what; }

class NonFinite final : public Subscriber {
 public:
  void OnMessage(const Input& input, const Payload*) override {
    if (!what_.empty()) return;
    const TensorStats& stats = *input.stats;
    if (stats.finite_n == stats.n) {
      // Everything before the first is finite: what is kept is only which activation came last.
      if (input.kind == Kind::kActivations) before_ = input.module;
      return;
    }
    const uint64_t infinities = stats.positive_infinities + stats.negative_infinities;
    what_ = std::string(KindName(input.kind));
    if (!input.module.empty()) what_ += " of " + std::string(input.module);
    what_ += stats.n == 1 ? " is not finite" : " hold";
    if (stats.n != 1) {
      if (stats.nans != 0) what_ += " " + Count(stats.nans, "NaN");
      if (stats.nans != 0 && infinities != 0) what_ += " and";
      if (infinities != 0) what_ += " " + Count(infinities, infinities == 1 ? "infinity" : "infinities");
      what_ += " among " + Count(stats.n, "elements");
    }
    what_ += "; " + Origin(input);
  }

  void OnStep(const StepInfo& step, std::span<const Input>, const ResultsRef& results) override {
    if (what_.empty()) return;
    results->Raise(Severity::kWarning, "step " + std::to_string(step.global_step) + ": " + what_, std::nullopt);
  }

  void Reset() override {
    what_.clear();
    before_.clear();
  }

 private:
  std::string Origin(const Input& input) const {
    if (!before_.empty()) {
      const bool activation = input.kind == Kind::kActivations;
      return "the activations before it, of " + before_ + ", were finite" +
             (activation ? ": this module produced them" : "");
    }
    return "nothing before it in this step shows whether its input was finite";
  }

  std::string what_;
  std::string before_;
};

constexpr Kind kInputs[] = {Kind::kLoss, Kind::kWeights, Kind::kActivations, Kind::kLayerGradients,
                            Kind::kWeightGradients};

Result<Definition> DefineNonFinite(std::span<const std::string>, std::span<const std::string>) {
  Definition definition;
  definition.delivery = Delivery::kEachMessage;
  definition.scope = Scope::kRoot;
  definition.topic = "non_finite";
  definition.outputs = {};
  definition.create = [] { return std::make_unique<NonFinite>(); };
  return definition;
}

}  // namespace

constexpr Descriptor kNonFinite{
    .name = "non_finite",
    .inputs_min = 0,
    .inputs_max = 16,
    .default_inputs = kInputs,
    .publishes = "non_finite",
    .help = "rule: an event for the first message of a step that holds a NaN or an infinity",
    .define = DefineNonFinite,
};

}  // namespace ikkuna::metrics
