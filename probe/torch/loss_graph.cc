#include "probe/torch/loss_graph.h"

#include <torch/csrc/autograd/generated/Functions.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "probe/torch/tensor_reader.h"

namespace ikkuna::torch_probe {

namespace {

using torch::autograd::Node;

enum class Made : uint8_t { kShape, kMultiple, kQuotient, kMean, kSum, kOther };

Made MadeBy(const Node& node) {
  const std::string name = node.name();
  const auto named = [&](const char* begin) { return name.rfind(begin, 0) == 0; };
  if (named("MulBackward")) return Made::kMultiple;
  if (named("DivBackward")) return Made::kQuotient;
  if (named("MeanBackward")) return Made::kMean;
  if (named("SumBackward")) return Made::kSum;
  for (const char* shape : {"ToCopy", "View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Clone", "Expand",
                            "Alias", "Select", "Slice", "Index", "MaskedSelect", "Copy"}) {
    if (named(shape)) return Made::kShape;
  }
  return Made::kOther;
}

// The only node behind this one that gets a gradient; null: none, or several.
const Node* OnlyBehind(const Node& node) {
  const Node* only = nullptr;
  for (const auto& edge : node.next_edges()) {
    if (!edge.function) continue;
    if (only != nullptr) return nullptr;
    only = edge.function.get();
  }
  return only;
}

// No unpack(): hooks of the trainer's may hang on it.
std::optional<double> ValueOf(const torch::autograd::SavedVariable& saved) {
  const auto tensor = saved.get_raw_data();
  return tensor && tensor->defined() ? ReadScalar(*tensor) : std::nullopt;
}

std::optional<double> ValueOf(const at::Scalar& scalar) {
  return scalar.isComplex() ? std::nullopt : std::optional(scalar.toDouble());
}

std::optional<double> OperandOf(const Node& node) {
  namespace generated = torch::autograd::generated;
  if (const auto* by = dynamic_cast<const generated::MulBackward1*>(&node)) return ValueOf(by->other);
  if (const auto* by = dynamic_cast<const generated::DivBackward1*>(&node)) return ValueOf(by->other);
  if (const auto* by = dynamic_cast<const generated::DivBackward0*>(&node)) return ValueOf(by->other_);
  if (const auto* by = dynamic_cast<const generated::MulBackward0*>(&node)) {
    const bool first = node.num_outputs() > 0 && node.next_edge(0).is_valid();
    return ValueOf(first ? by->other_ : by->self_);
  }
  return std::nullopt;
}

std::optional<double> OperandAt(const LossRoot& root, const Node* node) {
  for (const auto& [known, operand] : root.operands) {
    if (known == node) return operand;
  }
  return std::nullopt;
}

// From the root down to what lies above the term; nothing where other things flow in on the way.
std::optional<std::vector<const Node*>> ChainTo(const Node* root, const Node& term) {
  std::vector<const Node*> chain;
  for (const Node* above = root; above != &term; above = OnlyBehind(*above)) {
    if (above == nullptr) return std::nullopt;
    chain.push_back(above);
  }
  return chain;
}

// A sum that is divided right behind the operator is a mean that the loss function makes (kl_div with `batchmean`) or
// the trainer (by the tokens of the batch); what comes behind that is a scale, or an average over micro-batches.
LossReading MeanOf(const LossRoot& root, const std::vector<const Node*>& chain, double sum) {
  const bool divided =
      std::any_of(chain.begin(), chain.end(), [](const Node* node) { return MadeBy(*node) == Made::kQuotient; });
  if (!divided) return {true, sum};
  const auto first =
      std::find_if(chain.rbegin(), chain.rend(), [](const Node* node) { return MadeBy(*node) != Made::kShape; });
  if (MadeBy(**first) != Made::kQuotient) return {true, std::nullopt};
  if (const auto operand = OperandAt(root, *first))
    return {true, *operand == 0 ? std::nullopt : std::optional(sum / *operand)};
  return {true, std::next(first) == chain.rend() ? root.value : std::nullopt, true};
}

// The loss scale that the node multiplies by, else 1.
double ScaleAt(const LossRoot& root, const Node& node) {
  const auto operand = MadeBy(node) == Made::kMultiple ? OperandAt(root, &node) : std::nullopt;
  return operand && IsLossScale(*operand) ? *operand : 1;
}

// The loss scale that many elements were multiplied by before the `last` of the nodes over the term reduced them.
double ScaleBefore(const LossRoot& root, const Node* last, const Node& term) {
  double scale = 1;
  for (const Node* above = OnlyBehind(*last); above != &term && above != nullptr; above = OnlyBehind(*above)) {
    scale *= ScaleAt(root, *above);
  }
  return scale;
}

// The unit of what is reduced by the `last` of the nodes over the term, and what is done to it before.
UnitSet ReducedTo(const LossRoot& root, const Node* last, const Node& term) {
  const Made reduction = MadeBy(*last);
  for (const Node* above = OnlyBehind(*last); above != &term; above = OnlyBehind(*above)) {
    if (above == nullptr) return kNoUnit;
    const Made made = MadeBy(*above);
    if (made != Made::kShape && made != reduction && ScaleAt(root, *above) == 1) return kNoUnit;
  }
  return Only(reduction == Made::kMean ? LossUnit::kMean : LossUnit::kSum);
}

// Many elements have no value before they are reduced: it is that of the root, less what was done to it since.
LossReading ReadReduced(const LossRoot& root, const Node* top, const Node& term) {
  std::vector<std::pair<const Node*, Made>> factors;
  bool opaque = false;
  double scale = 1;
  Made reduction = Made::kOther;
  LossReading reading{true, std::nullopt};
  for (const Node* above = top; above != &term; above = OnlyBehind(*above)) {
    if (above == nullptr) return {};
    const Made made = MadeBy(*above);
    opaque |= made == Made::kOther;
    if (made == Made::kMultiple || made == Made::kQuotient) factors.emplace_back(above, made);
    if (made != Made::kMean && made != Made::kSum) continue;
    reduction = made;
    if (!opaque) reading.reduced = ReducedTo(root, above, term);
    scale = ScaleBefore(root, above, term);
    break;
  }
  if (!root.value || (opaque && !factors.empty())) return reading;
  if (reduction == Made::kSum && !factors.empty()) {
    const bool mean = factors.back().second == Made::kQuotient;
    if (mean) {
      factors.pop_back();
      reading.reduced = kNoUnit;
    }
    const auto divides = [](const auto& factor) { return factor.second == Made::kQuotient; };
    if (!mean && std::any_of(factors.begin(), factors.end(), divides)) return reading;
  }
  double value = *root.value / scale;
  for (const auto& [node, made] : factors) {
    const auto operand = OperandAt(root, node);
    if (!operand || *operand == 0) return reading;
    value = made == Made::kMultiple ? value / *operand : value * *operand;
  }
  reading.value = value;
  return reading;
}

LossReading ReadValue(const LossRoot& root, const Node& term, std::optional<double> given, bool summed) {
  // Added to a sum that began with 0.
  if (given && root.value && (*root.value == *given || (std::isnan(*root.value) && std::isnan(*given)))) {
    return {true, given};
  }
  const auto top = root.node.lock();
  if (!top) return {};
  if (!given) return ReadReduced(root, top.get(), term);
  const auto chain = ChainTo(top.get(), term);
  if (!chain || (root.value && *root.value * *given < 0)) return {};
  if (std::any_of(chain->begin(), chain->end(), [](const Node* node) { return MadeBy(*node) == Made::kOther; }))
    return {};
  return summed ? MeanOf(root, *chain, *given) : LossReading{true, given};
}

}  // namespace

bool IsLossScale(double factor) {
  constexpr double kLeast = 128;
  int exponent = 0;
  return std::isfinite(factor) && factor >= kLeast && std::frexp(factor, &exponent) == 0.5;
}

std::optional<double> DivisorOf(const Node& node) {
  return MadeBy(node) == Made::kQuotient ? OperandOf(node) : std::nullopt;
}

LossRoot LossRootOf(const at::Tensor& scalar, std::optional<double> value) {
  constexpr int kNodesMax = 32;
  LossRoot root;
  root.node = scalar.grad_fn();
  root.value = value;
  const Node* node = scalar.grad_fn().get();
  for (int i = 0; node != nullptr && i < kNodesMax; ++i, node = OnlyBehind(*node)) {
    const Made made = MadeBy(*node);
    if (made == Made::kOther) break;
    if (made != Made::kMultiple && made != Made::kQuotient) continue;
    const auto operand = OperandOf(*node);
    if (!operand) continue;
    root.operands.emplace_back(node, *operand);
    if (made != Made::kMultiple || !IsLossScale(*operand)) continue;
    root.scaled = true;
    root.scale *= *operand;
  }
  return root;
}

LossReading ReadLoss(const LossRoot& root, const Node& term, std::optional<double> given, bool summed) {
  LossReading reading = ReadValue(root, term, given, summed);
  if (!reading.value || !root.value) return reading;
  const double weight = *root.value / root.scale / *reading.value;
  if (std::isfinite(weight)) reading.weight = weight;
  return reading;
}

}  // namespace ikkuna::torch_probe
