#include "probe/torch/hooks.h"

#include <algorithm>
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
    if (params[i].retired.load(std::memory_order_relaxed)) continue;
    const at::Tensor& tensor = params[i].tensor;
    const ParamOwner owner{model.index(), static_cast<int>(i)};
    // One that never required a gradient has nothing that could hold a hook; it may require one later.
    static_cast<void>(torch::autograd::impl::materialize_autograd_meta(tensor));
    auto& slot = torch::autograd::impl::post_acc_grad_hooks(tensor);
    if (Hook* mine = On(tensor)) {
      // Tied within one model: the first owner speaks for it.
      const std::vector<ParamOwner>& known = *mine->owners.load();
      const auto same = std::find_if(known.begin(), known.end(),
                                     [&](const ParamOwner& one) { return one.model == owner.model; });
      const bool there = same != known.end();
      // It may have been another's tied twin, or have come back, under what is retired now.
      if (there && !params[static_cast<size_t>(same->param)].retired.load(std::memory_order_relaxed)) continue;
      auto more = std::make_unique<std::vector<ParamOwner>>(known);
      if (there)
        (*more)[static_cast<size_t>(same - known.begin())] = owner;
      else
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
  std::array<bool, kMaxRoots> has_any{}, has_own{};
  for (const Place& place : places_) {
    for (const ParamOwner& owner : *place.owners) has_any[static_cast<size_t>(owner.model)] = true;
    if (place.owners->size() == 1) has_own[static_cast<size_t>(place.owners->front().model)] = true;
  }
  for (size_t m = 0; m < kMaxRoots; ++m) all_shared_[m].store(has_any[m] && !has_own[m], std::memory_order_relaxed);
}

// Ours, where it is the one that backward calls.
ParameterHooks::Hook* ParameterHooks::On(const at::Tensor& parameter) const {
  if (torch::autograd::impl::get_autograd_meta(parameter) == nullptr) return nullptr;
  auto* hook = dynamic_cast<Hook*>(torch::autograd::impl::post_acc_grad_hooks(parameter).get());
  return hook != nullptr && hook->listener == listener_ ? hook : nullptr;
}

void ParameterHooks::Remove() {
  for (const Place& place : places_) TakeOff(place.parameter);
  places_.clear();
}

void ParameterHooks::RemoveFrom(const at::Tensor& parameter) {
  const auto place = std::find_if(places_.begin(), places_.end(),
                                  [&](const Place& one) { return one.parameter.is_same(parameter); });
  if (place == places_.end() || place->owners->size() != 1) return;  // of another model, too
  TakeOff(parameter);
  places_.erase(place);
}

void ParameterHooks::TakeOff(const at::Tensor& parameter) {
  Hook* const mine = On(parameter);
  if (mine == nullptr) return;  // somebody chained theirs onto ours: it stays, deaf
  auto& slot = torch::autograd::impl::post_acc_grad_hooks(parameter);
  static_cast<void>(slot.release());
  removed_.emplace_back(mine);
  slot = std::move(mine->before);
}

}  // namespace ikkuna::torch_probe
