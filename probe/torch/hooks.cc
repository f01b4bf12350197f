#include "probe/torch/hooks.h"

#include <algorithm>
#include <atomic>

#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/variable.h>

#include "probe/torch/listener.h"

namespace ikkuna::torch_probe {

struct ParameterHooks::Hook : torch::autograd::PostAccumulateGradHook {
  uint64_t listener = 0;                                        // serial
  std::atomic<const std::vector<ParamOwner>*> owners{nullptr};  // held by the listener's hooks
  std::unique_ptr<torch::autograd::PostAccumulateGradHook> before;
  torch::autograd::PostAccumulateGradHook* chained = nullptr;  // `before`, also when it is back in its place
  std::shared_ptr<Fired> fired;
  // What the listener said of the parameter when it was asked last: that one model has it, as which of its own, and
  // where its data lay.
  std::atomic<uint32_t> asked_at{0};  // installs; 0: it was never asked, or it is to be asked each time
  std::atomic<ParamOwner> sole{ParamOwner{-1, -1}};
  std::atomic<const void*> data{nullptr};

  void operator()(const at::Tensor& tensor) override {
    if (Repeats(tensor)) {
      if (chained != nullptr) (*chained)(tensor);
      return;
    }
    const Listener::Inside inside;
    if (chained != nullptr) (*chained)(tensor);
    const uint32_t installs = fired->installs.load(std::memory_order_acquire);
    const std::vector<ParamOwner>& all = *owners.load();
    const bool settled = Listener::OnGradient(listener, tensor, all) && all.size() == 1;
    if (settled) {
      sole.store(all.front(), std::memory_order_relaxed);
      data.store(DataOf(tensor), std::memory_order_relaxed);
    }
    asked_at.store(settled ? installs : 0, std::memory_order_release);
  }
  // The backward pass under way has given the model a gradient on this thread before: nothing but that this one came
  // last is to be known of it. Nothing is touched that threads fight for, nor anything of a listener that may be gone.
  bool Repeats(const at::Tensor& tensor) const {
    if (asked_at.load(std::memory_order_acquire) != fired->installs.load(std::memory_order_relaxed)) return false;
    if (data.load(std::memory_order_relaxed) != DataOf(tensor)) return false;
    const ParamOwner owner = sole.load(std::memory_order_relaxed);
    ThreadState& thread = CurrentThread();
    const auto& state = thread.roots[static_cast<size_t>(owner.model)];
    if (thread.listener != listener || !state) return false;
    if (state->graph_task != torch::autograd::get_current_graph_task_id()) return false;
    thread.cost.total_ns += kIdleHookNs;
    fired->last[static_cast<size_t>(owner.model)].store(owner.param, std::memory_order_relaxed);
    return true;
  }
};

void ParameterHooks::Install(WatchedModel& model) {
  fired_->installs.fetch_add(1, std::memory_order_release);
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
    hook->fired = fired_;
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
