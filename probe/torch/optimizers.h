// Optimizers: those that the trainer attached: which parameters each has, their learning rates and moments.
//
// Thread rule: the list is replaced whole under a mutex and read without it; an optimizer's moments have one of their
// own. An optimizer itself is read only on the thread of the trainer that calls us.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>

#include "probe/core/session.h"
#include "probe/torch/watched_model.h"

namespace ikkuna::torch_probe {

struct WatchedOptimizer {
  torch::optim::Optimizer* optimizer = nullptr;
  std::unordered_map<const void*, int> groups;  // TensorImpl of a parameter -> group
  std::vector<uint32_t> group_names;            // registry ids of group0, group1, ...
  std::mutex mutex;
  // Guarded by mutex. Moments as last found, so that the last step's can be read when the optimizer itself may be gone.
  std::unordered_map<const void*, std::pair<at::Tensor, at::Tensor>> moments;
};

class Optimizers {
 public:
  using List = std::vector<std::shared_ptr<WatchedOptimizer>>;

  void Attach(probe::Session& session, torch::optim::Optimizer& optimizer);
  std::shared_ptr<const List> All() const {
    std::lock_guard lock(mutex_);
    return list_;
  }
  // Index of the one that has the parameter; of several the one attached last: a trainer that changes over attaches the
  // new one. -1: none.
  static int IndexOf(const List& list, const WatchedParam& param);
  // None where the options of an optimizer of the trainer's own do not say.
  static std::optional<double> LearningRate(const torch::optim::OptimizerParamGroup& group);
  // First and second moment estimates of a parameter; undefined where there are none. Looks into the optimizer itself
  // only if it is alive.
  static std::pair<at::Tensor, at::Tensor> Moments(WatchedOptimizer& optimizer, const WatchedParam& param, bool alive);

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const List> list_ = std::make_shared<List>();  // guarded by mutex_; replaced whole
};

}  // namespace ikkuna::torch_probe
