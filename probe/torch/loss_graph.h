// LossGraph: what stands between the result of a loss function and the scalar that backward starts from.
//
// It reads nodes of the autograd graph and changes nothing. Thread rule: the caller's; the graph must be alive.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include "probe/torch/loss_unit.h"

namespace ikkuna::torch_probe {

// A scalar from which backward starts, as it was just before: later what its operators had kept is gone.
struct LossRoot {
  std::weak_ptr<torch::autograd::Node> node;
  std::optional<double> value;
  // By what the operators next to it multiply or divide; those that are not here are not known.
  std::vector<std::pair<const torch::autograd::Node*, double>> operands;
  bool scaled = false;  // by what is taken for a loss scale
  double scale = 1;     // by which, if that is known
};
// By what a division divides, where that is one number that is still there.
std::optional<double> DivisorOf(const torch::autograd::Node& node);
LossRoot LossRootOf(const at::Tensor& scalar, std::optional<double> value);

// Loss scalers double and halve: a power of two, and none so small that it may be a weight of a term.
bool IsLossScale(double factor);

// What a term is for a root that it alone flows into.
struct LossReading {
  bool is_loss = false;         // the root is a multiple of it
  std::optional<double> value;  // of the loss, without its scale; null: not known
  bool rounded = false;         // it was read from the root, in whose precision it is
  UnitSet reduced = kNoUnit;    // of many elements: what the trainer has made of them
  std::optional<double> weight = std::nullopt;  // what the root is, without a loss scale, by that value; null: not known
};
// `given`: what the loss function gave, if that was one number; `summed`: it is a sum over elements.
LossReading ReadLoss(const LossRoot& root, const torch::autograd::Node& term, std::optional<double> given, bool summed);

}  // namespace ikkuna::torch_probe
