// ParameterHooks: our post-accumulate hooks on the parameters of the attached models, each one calling whatever hook it
// found there before.
//
// The listener installs and removes them under the mutex of `Roots` and outlives them: backward may be in one that was
// removed, so removed hooks are handed on to whoever knows when nobody is.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function_hook.h>

#include "probe/torch/watched_model.h"

namespace ikkuna::torch_probe {

// Whose parameter a hook stands on: one of several models, where they share it.
struct ParamOwner {
  int model;
  int param;
};

class ParameterHooks {
 public:
  using Removed = std::vector<std::unique_ptr<torch::autograd::PostAccumulateGradHook>>;

  explicit ParameterHooks(uint64_t listener) : listener_(listener), fired_(std::make_shared<Fired>()) {}
  // The parameter of the model whose gradient came last; -1: none's.
  int LastFired(int model) const { return fired_->last[static_cast<size_t>(model)].load(std::memory_order_relaxed); }
  void SetLastFired(int model, int param) {
    fired_->last[static_cast<size_t>(model)].store(param, std::memory_order_relaxed);
  }
  void Install(WatchedModel& model);
  void Remove();
  // From a parameter that its model has not any more.
  void RemoveFrom(const at::Tensor& parameter);
  // Hooks that were removed; backward may be in one.
  Removed TakeRemoved() { return std::move(removed_); }
  // Whether a gradient of a parameter with these owners is one of the pass of `model`. A layer that several models
  // share counts for none of them, unless a model has nothing else.
  bool Counts(const std::vector<ParamOwner>& owners, int model) const {
    return owners.size() == 1 || all_shared_[static_cast<size_t>(model)].load(std::memory_order_relaxed);
  }

 private:
  struct Hook;
  // What hooks touch that have nothing to say; it lives for as long as one of them.
  struct Fired {
    Fired() {
      for (auto& one : last) one.store(-1, std::memory_order_relaxed);
    }
    std::atomic<uint32_t> installs{1};             // whose a parameter is may have changed
    std::array<std::atomic<int>, kMaxRoots> last;  // by model
  };
  // A parameter with a hook of ours, unless the trainer has set another in its place.
  struct Place {
    at::Tensor parameter;
    const std::vector<ParamOwner>* owners;
  };
  Hook* On(const at::Tensor& parameter) const;
  void TakeOff(const at::Tensor& parameter);

  const uint64_t listener_;  // serial
  const std::shared_ptr<Fired> fired_;
  std::vector<Place> places_;
  Removed removed_;
  std::vector<std::unique_ptr<const std::vector<ParamOwner>>> owners_;  // superseded ones, too
  std::array<std::atomic<bool>, kMaxRoots> all_shared_{};  // every parameter of the model belongs to another model too
};

}  // namespace ikkuna::torch_probe
