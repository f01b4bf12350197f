// Roots: the attached models, each with its state, and whose a tensor is.
//
// Owner: the listener. Thread rule: any thread. Models are only added, one thread at a time, up to kMaxRoots, and are
// read without a lock through the count. Hooks and changed trees are guarded by a mutex of their own, which may be
// taken under any other and takes none but a model's own and the session's; so are the losses kept of training, by one
// that takes none.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/ivalue.h>

#include "probe/core/session.h"
#include "probe/torch/hooks.h"
#include "probe/torch/provenance.h"
#include "probe/torch/step_state.h"
#include "probe/torch/watched_model.h"

namespace ikkuna::torch_probe {

struct ThreadState;

class Roots {
 public:
  Roots(probe::Session& session, uint64_t listener) : session_(session), hooks_(listener) {}
  // See OperatorCallback::pauses().
  void SetPauses(std::function<uint64_t()> pauses) { pauses_ = std::move(pauses); }

  int count() const { return count_.load(std::memory_order_acquire); }
  WatchedModel& model(int index) const { return *models_[static_cast<size_t>(index)]; }
  RootState& state(int index) const { return *states_[static_cast<size_t>(index)]; }
  RootState& StateOf(const WatchedModel& model) const { return state(model.index()); }
  // The model that a thread's layers ran in last: what the trainer says there is about it.
  WatchedModel& LastOn(const ThreadState& thread) const;

  // A step of it has ended.
  void Trained(int index) { trained_.store(index, std::memory_order_relaxed); }
  // How many steps have trained what is evaluated now: the model's own, or, of one that makes none (an average, a
  // target network), those of the model that trained last. One whose parameters an attached optimizer has is yet to
  // train.
  uint64_t StepsBehind(WatchedModel& model, uint64_t start_step, const Optimizers& optimizers) const;

  // What training has shown of its terms: an average of the weights, which makes no steps itself, is evaluated in the
  // units of the model that trained last.
  void KeepLosses(const std::map<std::string, TrainedLoss>& losses);
  // If the term was its loss.
  std::optional<TrainedLoss> LossOfLast(const std::string& term) const;

  // The next one; the tracker knows it already. One thread at a time.
  void Add(std::unique_ptr<WatchedModel> model);
  // Walks the tree of modules again where it has changed; `told`: the trainer says so.
  void RenewTree(WatchedModel& model, bool told = false);
  // See WatchedModel::ReleaseRetired(). Our hooks are taken off what is let go; the caller, who holds the root's mutex,
  // destroys `released` when it holds nothing.
  void ReleaseRetired(WatchedModel& model, RootState& root, std::vector<at::Tensor>* released);
  // The hooks are taken back, and no root module is touched any more.
  void Forget();
  // Hooks that were taken back; backward may be in one.
  ParameterHooks::Removed TakeRemovedHooks() { return hooks_.TakeRemoved(); }

  WatchedLeaf FindLeaf(const at::Tensor& leaf) const;
  // The same, of the first of these models that has it, if one has. `shared`: several have it, and none of these.
  using Models = std::array<bool, kMaxRoots>;
  WatchedLeaf FindLeaf(const at::Tensor& leaf, const Models& preferred, bool* shared) const;
  // The module that has this bias, -1: none does.
  int FindBias(const c10::IValue& value, int* model) const;
  // It has parameters of other models, and none of this one.
  bool IsOfOthers(const WatchedOptimizer& optimizer, const WatchedModel& model) const;
  int LastFired(int model) const { return hooks_.LastFired(model); }
  void SetLastFired(int model, int param) { hooks_.SetLastFired(model, param); }
  // Whether a gradient of a parameter with these owners is one of the pass of `model`.
  bool Counts(const std::vector<ParamOwner>& owners, int model) const { return hooks_.Counts(owners, model); }

 private:
  probe::Session& session_;
  std::function<uint64_t()> pauses_;  // set before the first model comes
  std::array<std::unique_ptr<WatchedModel>, kMaxRoots> models_;
  std::array<std::unique_ptr<RootState>, kMaxRoots> states_;
  std::atomic<int> count_{0};
  std::atomic<int> trained_{-1};  // the last; -1: none has
  mutable std::mutex losses_mutex_;
  std::map<std::string, TrainedLoss> last_losses_;  // guarded by losses_mutex_
  std::mutex tree_mutex_;
  ParameterHooks hooks_;  // guarded by tree_mutex_, but for what is asked of it
};

}  // namespace ikkuna::torch_probe
