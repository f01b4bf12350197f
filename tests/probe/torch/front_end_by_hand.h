// A front end for a LibTorch model of two layers that knows the C interface alone: the loop and hooks of autograd tell
// it what there is to see, and it takes what it is told to.
#pragma once

#include <gtest/gtest.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/torch.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "probe/ikkuna/probe.h"

namespace ikkuna::through_c {

struct Net : torch::nn::Module {
  Net() {
    fc1 = register_module("fc1", torch::nn::Linear(6, 5));
    fc2 = register_module("fc2", torch::nn::Linear(5, 3));
  }
  torch::nn::Linear fc1{nullptr}, fc2{nullptr};
};

inline ikkuna_array ArrayOf(const torch::Tensor& tensor) {
  ikkuna_array array{};
  array.size = sizeof array;
  array.data = tensor.const_data_ptr();
  array.dtype = IKKUNA_F32;
  array.ndim = static_cast<int32_t>(tensor.dim());
  array.sizes = tensor.sizes().data();
  array.strides = tensor.strides().data();
  return array;
}

// The front end by hand.
class Hand {
 public:
  struct Param {
    std::string name;
    torch::Tensor tensor;
    uint32_t module, id;
    bool bias;
  };
  struct Model {
    uint16_t root = 0;
    uint32_t modules[2] = {};
    std::vector<Param> params;
    std::map<uint64_t, std::vector<torch::Tensor>> kept;
    bool cleared = false;
    std::vector<torch::Tensor> at_backward;
    std::mutex mutex;
  };
  // A pass, for as long as its graph stands.
  struct Pass {
    Model* model = nullptr;
    ikkuna_pass* handle = nullptr;
    ~Pass() { ikkuna_pass_end(handle); }
  };

  explicit Hand(ikkuna_session* session) : session_(session) {}
  ~Hand() {
    for (auto& [id, thread] : threads_) ikkuna_thread_end(thread);
  }

  void Attach(Net& net, bool manual) {
    auto model = std::make_unique<Model>();
    const std::string name = models_.empty() ? "model" : "model" + std::to_string(models_.size());
    model->root = ikkuna_root_tracked(session_, name.c_str(), manual ? IKKUNA_SAYS_BOUNDARIES : 0);
    int index = 0;
    for (auto* layer : {&net.fc1, &net.fc2}) {
      const uint32_t module = model->modules[index] =
          ikkuna_module(session_, model->root, index == 0 ? "fc1" : "fc2", "Linear", 0);
      ++index;
      for (const auto& item : (*layer)->named_parameters()) {
        const bool bias = item.key() == "bias";
        model->params.push_back({item.key(), item.value(), module,
                                 ikkuna_param(session_, model->root, module, item.key().c_str(), IKKUNA_F32,
                                              static_cast<int>(item.value().dim()), item.value().sizes().data(),
                                              IKKUNA_TRAINABLE | (bias ? IKKUNA_BIAS : 0)),
                                 bias});
        // The first gradient of a backward pass is told, before it is accumulated.
        item.value().register_hook([this, model = model.get()](const torch::Tensor&) {
          ikkuna_on_gradient(Thread(), model->root, torch::autograd::get_current_graph_task_id(), Seen(*model));
          Take(*model);
          model->cleared = false;
        });
      }
    }
    models_[&net] = std::move(model);
  }
  std::shared_ptr<Pass> Forward(Net& net) {
    auto pass = std::make_shared<Pass>();
    pass->model = models_.at(&net).get();
    const uint32_t mode = net.is_training() ? 0 : IKKUNA_SEEN_EVALUATING;
    pass->handle = ikkuna_on_pass(Thread(), pass->model->root, Seen(*pass->model) | mode);
    Take(*pass->model);
    return pass;
  }
  void Layer(const std::shared_ptr<Pass>& pass, int layer, const torch::Tensor& output) {
    const uint32_t module = pass->model->modules[layer];
    if (ikkuna_pass_wanted(pass->handle, IKKUNA_ACTIVATIONS, module) != IKKUNA_NOTHING) {
      const ikkuna_array array = ArrayOf(output);
      EXPECT_EQ(ikkuna_pass_array(pass->handle, IKKUNA_ACTIVATIONS, module, 0, 0, 0, &array), 1);
    }
    output.register_hook([this, pass, module](const torch::Tensor& gradient) {
      ikkuna_pass* walk = ikkuna_on_reached(Thread(), pass->handle, torch::autograd::get_current_graph_task_id());
      tasks_.insert_or_assign(std::this_thread::get_id(), torch::autograd::get_current_graph_task_id());
      if (walk == nullptr) return;
      const ikkuna_array array = ArrayOf(gradient);
      EXPECT_EQ(ikkuna_pass_array(walk, IKKUNA_LAYER_GRADIENTS, module, 0, 0, 0, &array), 1);
    });
  }
  void Loss(const std::shared_ptr<Pass>& pass, const torch::Tensor& loss) {
    ikkuna_pass_scalar(pass->handle, IKKUNA_LOSS, 0, loss.item<float>());
  }
  void BackwardEnded() {
    const auto task = tasks_.find(std::this_thread::get_id());
    if (task == tasks_.end()) return;
    ikkuna_on_backward_end(Thread(), task->second);
    for (auto& [net, model] : models_) {
      model->at_backward.clear();
      for (const Param& param : model->params) model->at_backward.push_back(param.tensor.detach().clone());
    }
  }
  void Cleared(Net& net) { models_.at(&net)->cleared = true; }
  void Write(Net& net) {
    Model& model = *models_.at(&net);
    for (const Param& param : model.params) {
      if (!param.tensor.grad().defined()) continue;
      ikkuna_on_write(Thread(), model.root, IKKUNA_WRITE_ARITHMETIC, param.id, IKKUNA_SEEN_GRADIENT);
      Take(model);
    }
  }
  void Boundary(Net& net) {
    ikkuna_on_boundary(Thread(), models_.at(&net)->root);
    Take(*models_.at(&net));
  }
  void End() {
    for (auto& [net, model] : models_) {
      EXPECT_GE(ikkuna_on_end(Thread(), model->root), 0);
      Take(*model);
    }
  }
  void Evaluation(Net& net) {
    ikkuna_on_evaluation(Thread(), models_.at(&net)->root);
    Take(*models_.at(&net));
  }
  void ThreadEnds() {
    std::lock_guard lock(mutex_);
    ikkuna_thread_end(threads_.extract(std::this_thread::get_id()).mapped());
    tasks_.erase(std::this_thread::get_id());
  }

 private:
  ikkuna_thread* Thread() {
    std::lock_guard lock(mutex_);
    ikkuna_thread*& thread = threads_[std::this_thread::get_id()];
    if (thread == nullptr) thread = ikkuna_thread_begin(session_);
    return thread;
  }
  uint32_t Seen(Model& model) {
    const uint32_t look = ikkuna_look(session_, model.root);
    uint32_t seen = 0;
    if ((look & IKKUNA_LOOK_GRADIENTS) != 0 && model.cleared) seen |= IKKUNA_SEEN_CLEARED;
    if ((look & IKKUNA_LOOK_WEIGHTS) == 0) return seen;
    for (size_t i = 0; i < model.at_backward.size(); ++i) {
      if (!torch::equal(model.at_backward[i], model.params[i].tensor)) seen |= IKKUNA_SEEN_MOVED;
    }
    return seen;
  }
  void Take(Model& model) {
    ikkuna_take take{};
    take.size = sizeof take;
    while (ikkuna_next_take(Thread(), &take) == 1) {
      std::vector<torch::Tensor> keep;
      for (size_t i = 0; i < model.params.size(); ++i) {
        const Param& param = model.params[i];
        const auto publish = [&](int weights, int biases, const torch::Tensor& tensor) {
          const ikkuna_array array = ArrayOf(tensor);
          EXPECT_GE(
              ikkuna_step_array(take.step, param.bias ? biases : weights, param.module, param.id, take.flags, &array),
              0);
        };
        if ((take.take & IKKUNA_TAKE_WEIGHTS) != 0) {
          publish(IKKUNA_WEIGHTS, IKKUNA_BIASES, param.tensor);
          keep.push_back(param.tensor.detach().clone());
        }
        if ((take.take & IKKUNA_TAKE_GRADIENTS) != 0 && param.tensor.grad().defined()) {
          publish(IKKUNA_WEIGHT_GRADIENTS, IKKUNA_BIAS_GRADIENTS, param.tensor.grad());
        }
        if ((take.take & IKKUNA_TAKE_UPDATES) == 0) continue;
        const torch::Tensor& before = model.kept.at(take.number).at(i);
        const ikkuna_array now = ArrayOf(param.tensor), old = ArrayOf(before);
        EXPECT_GE(ikkuna_step_difference(take.step, param.bias ? IKKUNA_BIAS_UPDATES : IKKUNA_WEIGHT_UPDATES,
                                         param.module, param.id, take.flags, &now, &old),
                  0);
      }
      if ((take.take & IKKUNA_TAKE_WEIGHTS) != 0) model.kept[take.number] = std::move(keep);
      if ((take.take & IKKUNA_TAKE_UPDATES) != 0) model.kept.erase(take.number);
      EXPECT_EQ(ikkuna_step_end(take.step, 0), 1);
    }
  }

  ikkuna_session* const session_;
  std::map<const Net*, std::unique_ptr<Model>> models_;
  std::mutex mutex_;
  std::map<std::thread::id, ikkuna_thread*> threads_;
  std::map<std::thread::id, int64_t> tasks_;
};

}  // namespace ikkuna::through_c
