#include "metrics/non_finite.h"

#include <utility>

#include "shared/stats/derive.h"

namespace ikkuna::metrics {

namespace {

std::string Count(uint64_t count, const char* what) { return std::to_string(count) + " " + what; }

class NonFinite final : public Subscriber {
 public:
  void OnMessage(const Input& input, const Payload*) override {
    if (!seen_.what.empty()) return;
    const TensorStats& stats = *input.stats;
    if (stats.finite_n == stats.n) {
      // Everything before the first is finite: what is kept is only which activation came last.
      if (input.kind != Kind::kActivations) return;
      seen_.before = input.module;
      seen_.before_seq = input.seq;
      return;
    }
    seen_.seq = input.seq;
    seen_.pass = input.pass;
    seen_.activation = input.kind == Kind::kActivations;
    const uint64_t infinities = stats.positive_infinities + stats.negative_infinities;
    seen_.what = std::string(KindName(input.kind));
    if (!input.module.empty()) seen_.what += " of " + std::string(input.module);
    seen_.what += stats.n == 1 ? " is not finite" : " hold";
    if (stats.n != 1) {
      if (stats.nans != 0) seen_.what += " " + Count(stats.nans, "NaN");
      if (stats.nans != 0 && infinities != 0) seen_.what += " and";
      if (infinities != 0) seen_.what += " " + Count(infinities, infinities == 1 ? "infinity" : "infinities");
      seen_.what += " among " + Count(stats.n, "elements");
    }
  }

  // The first in the order of execution counts, whatever passes the two belong to. What a module got came of its own
  // pass: what another thread computed meanwhile says nothing of it.
  void Merge(Subscriber& pass) override {
    auto& more = static_cast<NonFinite&>(pass);
    if (!more.seen_.what.empty() && (seen_.what.empty() || more.seen_.seq < seen_.seq)) std::swap(seen_, more.seen_);
    if (seen_.activation && seen_.pass != 0) return;
    const bool in_time = seen_.what.empty() || more.seen_.before_seq < seen_.seq;
    if (more.seen_.before.empty() || more.seen_.before_seq < seen_.before_seq || !in_time) return;
    seen_.before = std::move(more.seen_.before);
    seen_.before_seq = more.seen_.before_seq;
  }

  void OnStep(const StepInfo& step, std::span<const Input>, const ResultsRef& results) override {
    if (seen_.what.empty()) return;
    const std::string text = "step " + std::to_string(step.global_step) + ": " + seen_.what + "; " + Origin();
    results->Raise(Severity::kWarning, text, std::nullopt);
  }

  void Reset() override { seen_ = {}; }

 private:
  std::string Origin() const {
    if (!seen_.before.empty()) {
      return "the activations before it, of " + seen_.before + ", were finite" +
             (seen_.activation ? ": this module produced them" : "");
    }
    return "nothing before it in this step shows whether its input was finite";
  }

  struct Seen {
    std::string what;         // the first that is not finite; empty: none so far
    uint64_t seq = 0;         // its message
    uint32_t pass = 0;        // that it belongs to
    bool activation = false;  // it is one
    std::string before;       // module of the last activations before it
    uint64_t before_seq = 0;
  };
  Seen seen_;
};

constexpr Kind kInputs[] = {Kind::kLoss, Kind::kWeights, Kind::kActivations, Kind::kLayerGradients,
                            Kind::kWeightGradients};

Result<Definition> DefineNonFinite(std::span<const std::string>, std::span<const std::string>) {
  Definition definition;
  definition.delivery = Delivery::kEachMessage;
  definition.scope = Scope::kRoot;
  definition.moments = stats::kRestsOnCounts;
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
