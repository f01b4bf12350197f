#include "metrics/non_finite.h"

#include <utility>

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
      if (input.kind != Kind::kActivations) return;
      before_ = input.module;
      before_seq_ = input.seq;
      return;
    }
    seq_ = input.seq;
    activation_ = input.kind == Kind::kActivations;
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
  }

  // The first in the order of execution counts, whatever passes the two belong to.
  void Merge(Subscriber& pass) override {
    auto& more = static_cast<NonFinite&>(pass);
    if (!more.what_.empty() && (what_.empty() || more.seq_ < seq_)) {
      std::swap(what_, more.what_);
      std::swap(seq_, more.seq_);
      std::swap(activation_, more.activation_);
    }
    // Of activations the last before it, as far as either saw one.
    const auto counts = [&](const NonFinite& one) {
      return !one.before_.empty() && (what_.empty() || one.before_seq_ < seq_);
    };
    if (!counts(*this)) before_.clear();
    if (!counts(more) || (!before_.empty() && more.before_seq_ < before_seq_)) return;
    std::swap(before_, more.before_);
    std::swap(before_seq_, more.before_seq_);
  }

  void OnStep(const StepInfo& step, std::span<const Input>, const ResultsRef& results) override {
    if (what_.empty()) return;
    results->Raise(Severity::kWarning, "step " + std::to_string(step.global_step) + ": " + what_ + "; " + Origin(), std::nullopt);
  }

  void Reset() override {
    what_.clear();
    before_.clear();
    seq_ = before_seq_ = 0;
    activation_ = false;
  }

 private:
  std::string Origin() const {
    if (!before_.empty()) {
      return "the activations before it, of " + before_ + ", were finite" +
             (activation_ ? ": this module produced them" : "");
    }
    return "nothing before it in this step shows whether its input was finite";
  }

  std::string what_;         // the first that is not finite; empty: none so far
  uint64_t seq_ = 0;         // its message
  bool activation_ = false;  // it is one
  std::string before_;       // module of the last activations before it
  uint64_t before_seq_ = 0;
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
