#include "probe/torch/layer_finder.h"

#include "probe/torch/operator_context.h"

namespace ikkuna::torch_probe {

std::optional<FoundLayer> LayerFinder::Find(const ThreadState& thread, const at::Tensor& weight, int bias_owner,
                                            const char* operator_name) {
  for (int m = 0; m < roots_.count(); ++m) {
    WatchedModel& model = roots_.model(m);
    const WatchedModel::Candidates candidates = model.ModulesOf(weight, operator_name);
    if (candidates.modules.empty()) continue;
    // Tied weights: first the operator tells the modules apart, then the bias; without one they take their turns.
    const size_t count = candidates.own != 0 ? candidates.own : candidates.modules.size();
    int layer = candidates.modules.front();
    const int after = thread.last_root == m ? thread.last_layer : -1;
    bool chosen = false;
    for (size_t i = 0; i < count && !chosen; ++i) chosen = (layer = candidates.modules[i]) == bias_owner;
    for (size_t i = 0; i < count && !chosen; ++i) chosen = (layer = candidates.modules[i]) > after;
    if (!chosen) layer = candidates.modules.front();
    if (candidates.own > 1 && layer != bias_owner) NoteOrder(model, candidates);
    FoundLayer found{m, layer, layer};
    // What another operator makes of a parameter is not what its module returns.
    if (candidates.own == 0 && model.module(layer).reports_as == layer) {
      found.module = model.FunctionalModule(session_, layer, operator_name, model.module(layer).type.c_str());
    }
    return found.module >= 0 ? std::optional(found) : std::nullopt;
  }
  return std::nullopt;
}

void LayerFinder::NoteOrder(const WatchedModel& model, const WatchedModel::Candidates& candidates) {
  std::atomic<bool>& noted = model.module(candidates.modules.front()).order_noted;
  if (noted.load(std::memory_order_relaxed) || noted.exchange(true, std::memory_order_relaxed)) return;
  std::string names;
  for (size_t i = 0; i < candidates.own; ++i) {
    names += (i == 0 ? "" : i + 1 < candidates.own ? ", " : " and ") + Shown(model.module(candidates.modules[i]));
  }
  session_.AddNote("activations of " + names + " of " + model.name() +
                   ", which share a weight, are told apart by their order alone: in passes that do not call each in "
                   "turn they may stand under each other's name");
}

std::optional<FoundLayer> LayerFinder::FindAnew(ThreadState& thread, const at::Tensor& weight, int bias_owner,
                                                const OperatorInfo& info) {
  constexpr size_t kForeignMax = 4096;
  if (!weight.defined() || !weight.has_storage()) return std::nullopt;
  if (IsComputed(weight)) {
    NoteComputed(thread, weight, info);
    return std::nullopt;
  }
  const void* const storage = weight.storage().unsafeGetStorageImpl();
  const auto foreign = thread.foreign_weights.find(storage);
  if (foreign != thread.foreign_weights.end() && !foreign->second.expired()) return std::nullopt;
  for (int m = 0; m < roots_.count(); ++m) {
    WatchedModel& model = roots_.model(m);
    if (model.FindGone()) {
      session_.AddNote(model.name() +
                       " was destroyed and is watched no more: it was attached by reference, and has to outlive the "
                       "probe");
    }
    bool changed = model.Refresh();
    if (model.TreeChanged()) {
      roots_.RenewTree(model);
      changed = true;
    }
    if (!changed) continue;
    if (const auto found = Find(thread, weight, bias_owner, info.name)) return found;
  }
  if (thread.foreign_weights.size() >= kForeignMax) thread.foreign_weights.clear();
  thread.foreign_weights.insert_or_assign(storage, weight.storage().getWeakStorageImpl());
  return std::nullopt;
}

// A weight that is made of parameters (a replica's, a parametrization, a mask) names no module.
void LayerFinder::NoteComputed(ThreadState& thread, const at::Tensor& weight, const OperatorInfo& info) {
  constexpr size_t kNodesMax = 32;
  // Where no marks are, the product of two activations looks the same.
  if (InBackward() || (info.product && thread.provenance.empty()) || thread.provenance.Of(weight) != nullptr) return;
  WatchedLeaf leaf;
  Provenance::Walk(weight.grad_fn().get(), kNodesMax, [&](torch::autograd::Node& node) {
    if (leaf.model < 0) {
      leaf = Provenance::LeafAt(node, [this](const at::Tensor& tensor) { return roots_.FindLeaf(tensor); });
    }
    return leaf.model < 0;
  });
  if (leaf.model < 0) return;
  const WatchedModel& model = roots_.model(leaf.model);
  const WatchedModule& module = model.module(leaf.module);
  if (module.computed_noted.exchange(true, std::memory_order_relaxed)) return;
  session_.AddNote("activations of " + Shown(module) + " of " + model.name() +
                   " are not captured where its weight is computed from its parameters (a replica of data_parallel, a "
                   "parametrization)");
}

}  // namespace ikkuna::torch_probe
