#include "metrics/direction.h"

#include <algorithm>
#include <cmath>

#include "metrics/elements.h"

namespace ikkuna::metrics {

namespace {

// A tensor that outlives its step.
struct Kept {
  std::shared_ptr<const void> bytes;
  TensorView view;

  explicit operator bool() const { return view.dtype != DType::kInvalid; }
  void Keep(const Payload& payload) {
    bytes = payload.bytes;
    view = payload.view;
    view.sizes = {};  // of the call
  }
};

// `each` of every pair of elements.
template <typename Each>
void ForPairs(const TensorView& a, const TensorView& b, Each each) {
  double x[kChunk], y[kChunk];
  for (uint64_t first = 0; first < a.elements; first += kChunk) {
    const auto count = static_cast<size_t>(std::min<uint64_t>(kChunk, a.elements - first));
    LoadDoubles(a, first, count, x);
    LoadDoubles(b, first, count, y);
    for (size_t i = 0; i < count; ++i) each(x[i], y[i]);
  }
}

class Cosine final : public Subscriber {
 public:
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    const Payload& now = *inputs[0].payload;
    if (before_ && before_.view.elements == now.view.elements) {
      double product = 0, squares_x = 0, squares_y = 0;
      ForPairs(now.view, before_.view, [&](double x, double y) {
        product += x * y;
        squares_x += x * x;
        squares_y += y * y;
      });
      results->Put(inputs[0].subject, product / (std::sqrt(squares_x) * std::sqrt(squares_y)));
    }
    before_.Keep(now);
  }

 private:
  Kept before_;
};

class DistanceFromStart final : public Subscriber {
 public:
  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    const Payload& now = *inputs[0].payload;
    if (!start_ || start_.view.elements != now.view.elements) return start_.Keep(now);
    double squares = 0;
    ForPairs(now.view, start_.view, [&](double x, double y) { squares += (x - y) * (x - y); });
    results->Put(inputs[0].subject, std::sqrt(squares));
  }

 private:
  Kept start_;
};

template <typename Metric>
Result<Definition> Define(std::span<const std::string> inputs, const char* name) {
  Definition definition;
  definition.content = Content::kTensor;
  definition.delivery = Delivery::kLast;
  definition.runs = Runs::kQueue;
  definition.keeps = Keeps::kRun;
  definition.topic = inputs[0] + "_" + name;
  definition.create = [] { return std::make_unique<Metric>(); };
  return definition;
}

Result<Definition> DefineCosine(std::span<const std::string> inputs, std::span<const std::string>) {
  return Define<Cosine>(inputs, "cosine");
}
Result<Definition> DefineDistance(std::span<const std::string> inputs, std::span<const std::string>) {
  return Define<DistanceFromStart>(inputs, "distance_from_start");
}

}  // namespace

constexpr Descriptor kCosine{
    .name = "cosine",
    .publishes = "{kind}_cosine",
    .cost = Cost::kHeavy,
    .help = "of the angle to the module's tensor of the step before; 1: the same direction, 0: none in common",
    .define = DefineCosine,
};
constexpr Descriptor kDistanceFromStart{
    .name = "distance_from_start",
    .publishes = "{kind}_distance_from_start",
    .cost = Cost::kHeavy,
    .help = "norm of what has changed since the first that was seen",
    .define = DefineDistance,
};

}  // namespace ikkuna::metrics
