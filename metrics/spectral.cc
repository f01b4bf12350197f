#include "metrics/spectral.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "metrics/elements.h"
#include "metrics/norm.h"
#include "metrics/number.h"

namespace ikkuna::metrics {

namespace {

constexpr uint64_t kIterationsMax = 1'000;
constexpr uint64_t kSeed = 0x5eed;
constexpr size_t kSums = 8;  // independent, so that an addition need not wait for the one before

double Dot(const double* x, const double* y, size_t n) {
  double sums[kSums] = {};
  size_t i = 0;
  for (; i + kSums <= n; i += kSums) {
    for (size_t k = 0; k < kSums; ++k) sums[k] += x[i + k] * y[i + k];
  }
  for (; i < n; ++i) sums[0] += x[i] * y[i];
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

void Add(double factor, const double* x, size_t n, double* to) {
  for (size_t i = 0; i < n; ++i) to[i] += factor * x[i];
}

// What of the matrix is published, of its largest singular value and the sum of its squared elements.
enum class Of { kNorm, kRank };

class Spectral final : public Subscriber {
 public:
  Spectral(Of of, int iterations) : of_(of), iterations_(iterations) {}

  void OnStep(const StepInfo&, std::span<const Input> inputs, const ResultsRef& results) override {
    const TensorView& view = inputs[0].payload->view;
    double sigma = 0, squares = 0;
    if (view.elements != 0) {
      const uint64_t rows = view.sizes.empty() ? 1 : static_cast<uint64_t>(view.sizes[0]);
      const size_t width = static_cast<size_t>(view.elements / rows);
      if (vector_.size() != width) Begin(width);
      for (int i = 0; i < iterations_ && !results->cancelled(); ++i) sigma = Round(view, rows, width);
      if (of_ == Of::kRank) squares = SumOfPowers(view, 2);
    }
    const double rank = squares / (sigma * sigma);
    results->Put(inputs[0].subject, of_ == Of::kNorm ? sigma : rank);
  }
  uint64_t bytes() const override { return vector_.capacity() * sizeof(double); }

 private:
  void Begin(size_t width) {
    vector_.resize(width);
    std::mt19937_64 random(kSeed);
    std::normal_distribution<double> normal;
    for (double& x : vector_) x = normal(random);
    Normalise(vector_);
  }
  // False: there is no direction in it.
  static bool Normalise(std::vector<double>& vector) {
    // By the greatest first: squares of small numbers vanish, and of large ones are no doubles.
    double greatest = 0;
    for (const double x : vector) greatest = std::max(greatest, std::fabs(x));
    if (!(greatest > 0) || !std::isfinite(greatest)) return false;
    for (double& x : vector) x /= greatest;
    const double length = std::sqrt(Dot(vector.data(), vector.data(), vector.size()));
    if (!std::isfinite(length)) return false;
    for (double& x : vector) x /= length;
    return true;
  }

  // v becomes A^T A v, of length 1; returns |A v| of the v before.
  double Round(const TensorView& view, uint64_t rows, size_t width) {
    std::vector<double> elements(width), next(width);
    double length = 0;
    for (uint64_t row = 0; row < rows; ++row) {
      LoadDoubles(view, row * width, width, elements.data());
      const double along = Dot(elements.data(), vector_.data(), width);
      Add(along, elements.data(), width, next.data());
      length += along * along;
    }
    vector_ = std::move(next);
    if (!Normalise(vector_)) Begin(width);
    return std::sqrt(length);
  }

  const Of of_;
  const int iterations_;
  std::vector<double> vector_;
};

Result<Definition> Define(Of of, const std::string& name, std::span<const std::string> inputs,
                          std::span<const std::string> values) {
  const auto iterations = ParseParameter(name, "iterations", values[0], kIterationsMax);
  if (!iterations) return iterations.error();
  Definition definition;
  definition.values = {std::to_string(*iterations)};
  definition.content = Content::kTensor;
  definition.delivery = Delivery::kLast;
  definition.runs = Runs::kQueue;
  definition.keeps = Keeps::kRun;
  definition.topic = inputs[0] + "_" + name;
  definition.create = [of, rounds = static_cast<int>(*iterations)] { return std::make_unique<Spectral>(of, rounds); };
  return definition;
}

constexpr Parameter kSpectralParameters[] = {
    {"iterations", "3", "rounds of power iteration at each step, 1 to 1000; what they found is kept for the next"},
};

}  // namespace

constexpr Descriptor kSpectralNorm{
    .name = "spectral_norm",
    .parameters = kSpectralParameters,
    .publishes = "{kind}_spectral_norm",
    .cost = Cost::kHeavy,
    .help = "largest singular value of the tensor as [size(0), the rest]; settles over the first steps, from below",
    .define = [](std::span<const std::string> inputs,
                 std::span<const std::string> values) { return Define(Of::kNorm, "spectral_norm", inputs, values); },
};
constexpr Descriptor kStableRank{
    .name = "stable_rank",
    .parameters = kSpectralParameters,
    .publishes = "{kind}_stable_rank",
    .cost = Cost::kHeavy,
    .help = "sum of squares over the square of the largest singular value",
    .define = [](std::span<const std::string> inputs,
                 std::span<const std::string> values) { return Define(Of::kRank, "stable_rank", inputs, values); },
};

}  // namespace ikkuna::metrics
