// The networks of ikkuna-train, written as one writes them without Ikkuna.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <torch/nn/module.h>

namespace trainer {

// Told the output of each operator of a forward pass as it comes: `module` is the dotted path of the module, or, where
// a plain function made it, `path > function` with the path of the last module with parameters before it.
using Observer = std::function<void(const std::string& module, const at::Tensor& output)>;

class Network : public torch::nn::Module {
 public:
  // Images [n, 1, 28, 28] to the scores of the ten classes [n, 10].
  virtual at::Tensor Forward(at::Tensor images, const Observer& observer) = 0;
};

// fc            784-1024-1024-1024-10 with ReLU, 2.9 million weights
// alexnet-mini  two convolutions, pooling, dropout, two linear layers
// resnet-small  two stages of two residual blocks with batch norm
// tiny          784-16-10 with ReLU
// The weights come from LibTorch's global generator. Throws std::invalid_argument for another name.
std::shared_ptr<Network> MakeNetwork(const std::string& name);

}  // namespace trainer
