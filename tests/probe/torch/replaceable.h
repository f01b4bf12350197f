// Replaceable: a model of which a trainer replaces modules, and to which it adds a parameter.
#pragma once

#include <torch/torch.h>

namespace ikkuna {

struct Replaceable : torch::nn::Module {
  Replaceable() {
    fc1 = register_module("fc1", torch::nn::Linear(8, 16));
    head = register_module("head", torch::nn::Linear(16, 4));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    torch::Tensor hidden = fc1(x);
    if (gain.defined()) hidden = hidden * gain;
    return head(torch::relu(hidden));
  }
  torch::nn::Linear fc1{nullptr}, head{nullptr};
  torch::Tensor gain;
};

}  // namespace ikkuna
