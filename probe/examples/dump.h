// Writes the tensors of the first training steps as .npy files, for a comparison by somebody else's arithmetic.
//
// Knows LibTorch alone: it takes activations from the forward pass by name, keeps their gradients with retain_grad(),
// and clones the rest at the places where the loop stands. It draws no random number and changes none of the
// training's. `index.json` in the folder names every file: step, micro-batch, call, kind, module, param, tag.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

namespace trainer {

class Dump {
 public:
  // Makes `folder`. Throws std::runtime_error if that, or later writing, fails.
  Dump(std::string folder, int64_t steps);

  // Whether this step is one of those to write; the calls below are for such steps only, in this order.
  bool Covers(int64_t step) const { return step < steps_; }

  // Before the first forward pass of the step: weights, biases, buffers, optimizer state.
  void BeginStep(int64_t step, torch::nn::Module& model, torch::optim::Optimizer& optimizer);
  // Before each forward pass. `tag` is "default" for training, "test" for evaluation, which belongs to no step: `step`
  // is the number of steps made so far.
  void BeginPass(int64_t step, int64_t micro, const std::string& tag);
  // During it: the output of one operator.
  void Output(const std::string& module, const at::Tensor& output);
  void EndPass(const at::Tensor& input, const at::Tensor& labels, const at::Tensor& output, const at::Tensor& loss);
  // After the backward pass: layer gradients, and what this pass alone gave to the parameters' gradients.
  void AfterBackward(torch::nn::Module& model);
  // Just before optimizer.step(): the gradients that it will see.
  void BeforeUpdate(torch::nn::Module& model);
  // Just after it: updates, optimizer state, buffers.
  void AfterUpdate(torch::nn::Module& model, torch::optim::Optimizer& optimizer);

  // Writes index.json.
  void Finish();

 private:
  struct Kept {
    std::string module;
    int64_t call;
    at::Tensor output;
  };
  struct Entry {
    std::string file, kind, module, param, tag, dtype;
    int64_t step, micro, call;
  };

  void Write(const std::string& kind, const std::string& module, const std::string& param, const at::Tensor& tensor,
             int64_t call = 0);
  // One file a parameter: `bias` under `bias_kind`, every other name under `weight_kind`; undefined tensors are left
  // out.
  void WriteParameters(torch::nn::Module& model, const std::string& weight_kind, const std::string& bias_kind,
                       const std::function<at::Tensor(const std::string& name, const at::Tensor& parameter)>& value);
  void WriteBuffers(torch::nn::Module& model, const std::string& kind);
  void WriteState(torch::nn::Module& model, torch::optim::Optimizer& optimizer, const std::string& suffix);

  const std::string folder_;
  const int64_t steps_;
  std::vector<Entry> entries_;

  // Of the step under way.
  int64_t step_ = 0, micro_ = 0;
  std::string tag_ = "default";
  std::map<std::string, at::Tensor> before_;  // parameters by name, cloned
  std::map<std::string, at::Tensor> raw_;     // gradients of the pass, by parameter
  std::vector<std::pair<at::Tensor, unsigned>> hooks_;
  std::vector<Kept> kept_;                    // outputs of the pass, in order
  std::map<std::string, int64_t> calls_;      // of each module in the pass
};

}  // namespace trainer
