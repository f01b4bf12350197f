#include "probe/torch/roots.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "probe/torch/threads.h"

namespace ikkuna::torch_probe {

void Roots::Add(std::unique_ptr<WatchedModel> model) {
  const int index = count_.load(std::memory_order_relaxed);
  states_[static_cast<size_t>(index)] = std::make_unique<RootState>();
  states_[static_cast<size_t>(index)]->model = index;
  states_[static_cast<size_t>(index)]->pauses_at_end.store(pauses_());
  models_[static_cast<size_t>(index)] = std::move(model);
  {
    std::lock_guard lock(tree_mutex_);
    hooks_.Install(this->model(index));
  }
  count_.store(index + 1, std::memory_order_release);
}

uint64_t Roots::StepsBehind(WatchedModel& model, uint64_t start_step, const Optimizers& optimizers) const {
  const uint64_t own = model.steps_finished.load(std::memory_order_relaxed);
  const int trained = trained_.load(std::memory_order_relaxed);
  if (own > start_step || trained < 0) return own;
  const uint64_t attached = optimizers.attached();
  if (model.optimizers_asked.load(std::memory_order_relaxed) != attached) {
    const auto list = optimizers.All();
    const auto optimized = [&](const WatchedParam& param) { return Optimizers::IndexOf(*list, param) >= 0; };
    model.optimized.store(std::any_of(model.params().begin(), model.params().end(), optimized));
    model.optimizers_asked.store(attached);
  }
  if (model.optimized.load()) return own;
  return this->model(trained).steps_finished.load(std::memory_order_relaxed);
}

void Roots::KeepLosses(const std::map<std::string, TrainedLoss>& losses) {
  std::lock_guard lock(losses_mutex_);
  last_losses_ = losses;
}

std::optional<TrainedLoss> Roots::LossOfLast(const std::string& term) const {
  std::lock_guard lock(losses_mutex_);
  const auto found = last_losses_.find(term);
  return found != last_losses_.end() && found->second.alone() ? std::optional(found->second) : std::nullopt;
}

void Roots::Forget() {
  std::lock_guard lock(tree_mutex_);
  hooks_.Remove();
  for (int m = 0; m < count(); ++m) model(m).Forget();
}

WatchedModel& Roots::LastOn(const ThreadState& thread) const { return model(std::max(thread.last_root, 0)); }

WatchedLeaf Roots::FindLeaf(const at::Tensor& leaf) const {
  bool shared = false;
  return FindLeaf(leaf, {}, &shared);
}

WatchedLeaf Roots::FindLeaf(const at::Tensor& leaf, const Models& preferred, bool* shared) const {
  const void* const data = DataOf(leaf);
  WatchedLeaf found;
  *shared = false;
  for (int m = 0; data != nullptr && m < count(); ++m) {
    const WatchedModel& model = this->model(m);
    const int param = model.ParamAt(data);
    if (param < 0) continue;
    const WatchedLeaf here{m, model.params()[static_cast<size_t>(param)].module};
    if (preferred[static_cast<size_t>(m)]) {
      *shared = false;
      return here;
    }
    *shared = found.model >= 0;
    if (found.model < 0) found = here;
  }
  return found;
}

void Roots::RenewTree(WatchedModel& model, bool told) {
  std::lock_guard lock(tree_mutex_);
  if (!model.TreeChanged()) return;  // another thread was here first
  const bool all_new = model.RenewTree(session_);
  hooks_.Install(model);
  // Nothing has told of the steps since the new ones came, where no operator was heard meanwhile.
  RootState& root = StateOf(model);
  if (all_new && !told && pauses_() != root.pauses_at_end.load()) root.steps_missed.store(true);
}

void Roots::ReleaseRetired(WatchedModel& model, RootState& root, std::vector<at::Tensor>* released) {
  for (WatchedModel::Released& one : model.ReleaseRetired()) {
    const auto index = static_cast<size_t>(one.param);
    if (index < root.raw_hooks.size() && root.raw_hooks[index]) {
      one.tensor.remove_hook(*std::exchange(root.raw_hooks[index], std::nullopt));
    }
    if (!one.lives_on) {
      std::lock_guard lock(tree_mutex_);
      hooks_.RemoveFrom(one.tensor);
    }
    released->push_back(std::move(one.tensor));
  }
}

bool Roots::IsOfOthers(const WatchedOptimizer& optimizer, const WatchedModel& model) const {
  const auto has = [&](const WatchedModel& one) {
    return std::any_of(one.params().begin(), one.params().end(),
                       [&](const WatchedParam& param) { return optimizer.Has(param); });
  };
  if (count() < 2 || has(model)) return false;
  for (int m = 0; m < count(); ++m) {
    if (m != model.index() && has(this->model(m))) return true;
  }
  return false;
}

int Roots::FindBias(const c10::IValue& value, int* model) const {
  if (!value.isTensor()) return -1;
  const void* data = DataOf(value.toTensor());
  if (data == nullptr) return -1;
  for (int m = 0; m < count(); ++m) {
    const int owner = this->model(m).BiasOwner(data);
    if (owner < 0) continue;
    *model = m;
    return owner;
  }
  return -1;
}

}  // namespace ikkuna::torch_probe
