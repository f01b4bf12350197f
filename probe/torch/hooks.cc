#include "probe/torch/hooks.h"

#include <atomic>

#include <torch/csrc/autograd/variable.h>

#include "probe/torch/listener.h"

namespace ikkuna::torch_probe {

struct ParameterHooks::Hook : torch::autograd::PostAccumulateGradHook {
  uint64_t listener = 0;                                        // serial
  std::atomic<const std::vector<ParamOwner>*> owners{nullptr};  // held by the listener's hooks
  std::unique_ptr<torch::autograd::PostAccumulateGradHook> before;
  torch::autograd::PostAccumulateGradHook* chained = nullptr;  // `before`, also when it is back in its place
  void operator()(const at::Tensor& tensor) override {
    const Listener::Inside inside;
    if (chained != nullptr) (*chained)(tensor);
    Listener::OnGradient(listener, tensor, *owners.load());
  }
};

void ParameterHooks::Install(WatchedModel& model) {
  auto& params = model.params();
  for (size_t i = 0; i < params.size(); ++i) {
    const at::Tensor& tensor = params[i].tensor;
    const ParamOwner owner{model.index(), static_cast<int>(i)};
    // One that never required a gradient has nothing that could hold a hook; it may require one later.
    static_cast<void>(torch::autograd::impl::materialize_autograd_meta(tensor));
    auto& slot = torch::autograd::impl::post_acc_grad_hooks(tensor);
    if (Hook* mine = On(tensor)) {
      // Tied within one model: the first owner speaks for it.
      if (mine->owners.load()->back().model == owner.model) continue;
      auto more = std::make_unique<std::vector<ParamOwner>>(*mine->owners.load());
      more->push_back(owner);
      for (Place& place : places_) {
        if (place.parameter.is_same(tensor)) place.owners = more.get();
      }
      mine->owners.store(more.get());
      owners_.push_back(std::move(more));
      continue;
    }
    auto hook = std::make_unique<Hook>();
    owners_.push_back(std::make_unique<std::vector<ParamOwner>>(1, owner));
    hook->listener = listener_;
    hook->owners.store(owners_.back().get());
    hook->before = std::move(slot);
    hook->chained = hook->before.get();
    places_.push_back({tensor, owners_.back().get()});
    torch::autograd::impl::set_post_acc_grad_hooks(tensor, std::move(hook));
  }
  // A model all of whose parameters also belong to others shares their steps; one that shares a part only must not
  // take the others' backward passes for its own.
  for (const Place& place : places_) {
    for (const ParamOwner& owner : *place.owners) all_shared_[static_cast<size_t>(owner.model)] = true;
  }
  for (const Place& place : places_) {
    if (place.owners->size() == 1) all_shared_[static_cast<size_t>(place.owners->front().model)] = false;
  }
}

// Ours, where it is the one that backward calls.
ParameterHooks::Hook* ParameterHooks::On(const at::Tensor& parameter) const {
  if (torch::autograd::impl::get_autograd_meta(parameter) == nullptr) return nullptr;
  auto* hook = dynamic_cast<Hook*>(torch::autograd::impl::post_acc_grad_hooks(parameter).get());
  return hook != nullptr && hook->listener == listener_ ? hook : nullptr;
}

void ParameterHooks::Remove() {
  for (const Place& place : places_) {
    Hook* const mine = On(place.parameter);
    if (mine == nullptr) continue;  // somebody chained theirs onto ours: it stays, deaf
    auto& slot = torch::autograd::impl::post_acc_grad_hooks(place.parameter);
    static_cast<void>(slot.release());
    removed_.emplace_back(mine);
    slot = std::move(mine->before);
  }
  places_.clear();
}

}  // namespace ikkuna::torch_probe
