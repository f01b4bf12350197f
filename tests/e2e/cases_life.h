// What the cases of cases_trainer share: a case is run twice, bare and watched by a probe, and states what is true of
// it.
//
// Lines that are printed: `CASE name bare|watched`; `L what hexadecimal`, which both lives have to agree on to the bit;
// of the watched one `T step tag module param topic value` (`-`: empty), what a client is to read, computed here by
// LibTorch from the tensors of the loop, with no help of the probe. Thread rule: the one that trains.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "probe/ikkuna/probe.hpp"
#include "tests/e2e/small_training.h"

namespace cases {

namespace nn = torch::nn;
namespace F = torch::nn::functional;
namespace optim = torch::optim;
using torch::Tensor;

inline double Norm(const Tensor& tensor) {
  const Tensor detached = tensor.detach();
  return (detached.is_sparse() ? detached.to_dense() : detached).to(torch::kDouble).norm().item<double>();
}

class Life {
 public:
  Life(const std::string& name, bool watched, int64_t steps) : steps_(steps) {
    torch::manual_seed(7);
    std::printf("CASE %s %s\n", name.c_str(), watched ? "watched" : "bare");
    if (watched) probe_ = std::make_unique<ikkuna::Probe>(ikkuna::ProbeOptions{.run = name, .quiet = true});
  }

  int64_t steps() const { return steps_; }
  ikkuna::Probe* probe() { return probe_.get(); }
  // A model, by what the trainer holds it with, or an optimizer.
  template <typename Watched>
  void Watch(Watched& watched) {
    if (probe_) probe_->Attach(watched);
  }
  template <typename Model>
  void Watch(const Model& model, const ikkuna::AttachOptions& options) {
    if (probe_) probe_->Attach(model, options);
  }
  void Give(const Tensor& loss) {
    if (probe_) probe_->Loss(loss);
  }
  // Before what it watches goes.
  void End(const nn::Module& model) {
    std::printf("L end %llx\n", static_cast<unsigned long long>(small_training::HashOf(model)));
    probe_.reset();
  }

  // Nothing is read of the step: it is not known that it ended.
  void Silent(bool silent) { silent_ = silent; }
  // A client reads this value.
  void Say(int64_t step, const std::string& module, const std::string& param, const std::string& topic, double value,
           const std::string& tag = "default") const {
    if (!probe_ || silent_) return;
    const auto word = [](const std::string& text) { return text.empty() ? "-" : text.c_str(); };
    std::printf("T %lld %s %s %s %s %.17g\n", static_cast<long long>(step), tag.c_str(), word(module), word(param),
                topic.c_str(), value);
  }
  void Loss(int64_t step, const Tensor& loss, const std::string& name = "", const std::string& tag = "default") const {
    Same(loss);
    Say(step, "", name, "loss", loss.item<double>(), tag);
  }
  // Of several micro-batches or evaluation batches.
  void MeanLoss(int64_t step, const std::vector<Tensor>& losses, const std::string& name = "",
                const std::string& tag = "default") const {
    double sum = 0;
    for (const Tensor& loss : losses) {
      Same(loss);
      sum += loss.item<double>();
    }
    Say(step, "", name, "loss", sum / static_cast<double>(losses.size()), tag);
  }
  // Rows of both: a matrix with a column a class, and class indices.
  void Accuracy(int64_t step, const Tensor& output, const Tensor& labels, int64_t ignored = -100,
                const std::string& tag = "default") const {
    const Tensor counts = (labels != ignored).logical_and(labels >= 0);
    const Tensor right = (output.detach().argmax(1) == labels).logical_and(counts);
    Say(step, "", "", tag == "test" ? "test_accuracy" : "train_accuracy",
        right.sum().item<double>() / counts.sum().item<double>(), tag);
  }
  void Activation(int64_t step, const std::string& module, const Tensor& output) const {
    Say(step, module, "", "activations_norm2", Norm(output));
  }
  static void Same(const Tensor& loss) { std::printf("L loss %a\n", loss.item<double>()); }

  // What the step begins with, the gradients that it uses, what it changes.
  void Begins(int64_t step, const nn::Module& model) {
    before_.clear();
    for (const auto& item : model.named_parameters()) {
      before_[item.key()] = item.value().detach().clone();
      SayOf(step, model, item.key(), "weights", "biases", item.value());
    }
  }
  void Gradients(int64_t step, const nn::Module& model) const {
    for (const auto& item : model.named_parameters()) {
      const Tensor& gradient = item.value().grad();
      if (!gradient.defined() || gradient.is_sparse()) continue;  // no statistics of what is sparse: a note says so
      SayOf(step, model, item.key(), "weight_gradients", "bias_gradients", gradient);
    }
  }
  void Ends(int64_t step, const nn::Module& model) const {
    for (const auto& item : model.named_parameters()) {
      SayOf(step, model, item.key(), "weight_updates", "bias_updates", item.value().detach() - before_.at(item.key()));
    }
  }
  void Rates(int64_t step, const optim::Optimizer& optimizer) const {
    const auto& groups = optimizer.param_groups();
    for (size_t group = 0; group < groups.size(); ++group) {
      Say(step, "", "group" + std::to_string(group), "learning_rate", groups[group].options().get_lr());
    }
  }
  void Moments(int64_t step, const nn::Module& model, const optim::Optimizer& optimizer) const {
    for (const auto& item : model.named_parameters()) {
      const auto found = optimizer.state().find(item.value().unsafeGetTensorImpl());
      if (found == optimizer.state().end()) continue;
      Tensor moment;
      if (const auto* adam = dynamic_cast<const optim::AdamParamState*>(found->second.get())) moment = adam->exp_avg();
      if (const auto* adamw = dynamic_cast<const optim::AdamWParamState*>(found->second.get())) {
        moment = adamw->exp_avg();
      }
      if (const auto* sgd = dynamic_cast<const optim::SGDParamState*>(found->second.get())) {
        moment = sgd->momentum_buffer();
      }
      if (moment.defined()) SayOf(step, model, item.key(), "exp_avg", "exp_avg", moment);
    }
  }
  // One that is written by `optimizer`; `attached`: its learning rates and moments are to be read.
  void Step(int64_t step, const nn::Module& model, optim::Optimizer& optimizer, bool attached = true) {
    Begins(step, model);
    Gradients(step, model);
    if (attached) Rates(step, optimizer);
    optimizer.step();
    Ends(step, model);
    if (attached) Moments(step, model, optimizer);
  }

 private:
  // The model's own parameters stand under the name of its class.
  void SayOf(int64_t step, const nn::Module& model, const std::string& name, const std::string& kind,
             const std::string& kind_of_bias, const Tensor& tensor) const {
    const size_t dot = name.rfind('.');
    std::string module = dot == std::string::npos ? model.name() : name.substr(0, dot);
    const std::string param = dot == std::string::npos ? name : name.substr(dot + 1);
    if (dot == std::string::npos) {
      module.erase(0, module.rfind(':') + 1);
      module.resize(module.size() - std::string("Impl").size());
    }
    Say(step, module, param, (param == "bias" ? kind_of_bias : kind) + "_norm2", Norm(tensor));
  }

  const int64_t steps_;
  bool silent_ = false;
  std::unique_ptr<ikkuna::Probe> probe_;
  std::map<std::string, Tensor> before_;  // by name of a parameter: what the step began with
};

struct NetImpl : nn::Module {
  explicit NetImpl(int64_t out = 4) {
    fc1 = register_module("fc1", nn::Linear(8, 16));
    head = register_module("head", nn::Linear(16, out));
  }
  Tensor forward(const Tensor& x) { return head(torch::relu(fc1(x))); }
  void ReplaceHead(int64_t out) { head = replace_module("head", nn::Linear(16, out)); }
  nn::Linear fc1{nullptr}, head{nullptr};
};
TORCH_MODULE(Net);

inline Tensor X() { return torch::randn({12, 8}); }
inline Tensor Y(int64_t out = 4) { return torch::randn({12, out}); }
inline Tensor K() { return torch::randint(0, 4, {12}); }

// Plain steps of gradient descent; `loss` makes of the output what backward starts from, and says what a client reads.
inline void Train(Life& life, Net net, const std::function<Tensor(int64_t, const Tensor&)>& loss) {
  life.Watch(net);
  optim::SGD optimizer(net->parameters(), .05);
  life.Watch(optimizer);
  for (int64_t step = 0; step < life.steps(); ++step) {
    optimizer.zero_grad();
    loss(step, net->forward(X())).backward();
    life.Step(step, *net, optimizer);
  }
  life.End(*net);
}

}  // namespace cases
