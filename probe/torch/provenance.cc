#include "probe/torch/provenance.h"

#include <torch/csrc/autograd/functions/accumulate_grad.h>

#include <c10/util/SmallVector.h>

#include <algorithm>
#include <unordered_set>

#include "probe/torch/tensor_version.h"

namespace ikkuna::torch_probe {

void Provenance::Mark(const at::Tensor& output, const Origin& origin) {
  if (!output.defined()) return;
  if (nodes_.size() + storages_.size() >= sweep_at_) Sweep();
  if (const std::shared_ptr<Node>& node = output.grad_fn()) {
    auto& marked = nodes_[node.get()];
    marked.weak = node;
    marked.origin = origin;
    marked.impl = output.unsafeGetTensorImpl();
    return;
  }
  if (!output.has_storage()) return;
  const c10::Storage& storage = output.storage();
  storages_.insert_or_assign(
      storage.unsafeGetStorageImpl(),
      Marked<c10::weak_intrusive_ptr<c10::StorageImpl>>{storage.getWeakStorageImpl(), origin,
                                                        output.unsafeGetTensorImpl(), VersionOf(output)});
}

// What is gone, and with it what passes that are over have left.
void Provenance::Sweep() {
  for (auto it = nodes_.begin(); it != nodes_.end();) it = it->second.weak.expired() ? nodes_.erase(it) : std::next(it);
  for (auto it = storages_.begin(); it != storages_.end();) {
    it = it->second.weak.expired() ? storages_.erase(it) : std::next(it);
  }
  sweep_at_ = std::max<size_t>(256, 2 * (nodes_.size() + storages_.size()));
}

const Origin* Provenance::Of(const at::Tensor& tensor, bool* exact) const {
  if (exact != nullptr) *exact = false;
  if (!tensor.defined()) return nullptr;
  if (const std::shared_ptr<Node>& node = tensor.grad_fn()) {
    const Origin* found = nullptr;
    Walk(node.get(), kNodesMax, [&](Node& behind) {
      if (found != nullptr) return false;
      const auto marked = nodes_.find(&behind);
      if (marked == nodes_.end() || marked->second.weak.lock().get() != &behind) return true;
      found = &marked->second.origin;
      if (exact != nullptr) {
        *exact = &behind == node.get() && marked->second.impl == tensor.unsafeGetTensorImpl();
      }
      return false;
    });
    return found;
  }
  if (!tensor.has_storage() || storages_.empty()) return nullptr;
  const auto marked = storages_.find(tensor.storage().unsafeGetStorageImpl());
  if (marked == storages_.end() || marked->second.weak.expired()) return nullptr;
  if (exact != nullptr) {
    *exact = marked->second.impl == tensor.unsafeGetTensorImpl() && marked->second.version == VersionOf(tensor);
  }
  return &marked->second.origin;
}

bool Provenance::Walk(Node* root, size_t nodes_max, const std::function<bool(Node&)>& visit) {
  constexpr size_t kFew = 48;  // up to here the list is looked through, which costs less than a set
  c10::SmallVector<Node*, kFew> found{root};
  std::unordered_set<const Node*> seen;
  for (size_t next = 0; next < found.size(); ++next) {
    Node& node = *found[next];
    if (!visit(node)) continue;
    for (const auto& edge : node.next_edges()) {
      Node* const behind = edge.function.get();
      if (behind == nullptr) continue;
      if (found.size() < kFew) {
        if (std::find(found.begin(), found.end(), behind) != found.end()) continue;
      } else {
        if (seen.empty()) seen.insert(found.begin(), found.end());
        if (!seen.insert(behind).second) continue;
      }
      if (found.size() >= nodes_max) return false;
      found.push_back(behind);
    }
  }
  return true;
}

WatchedLeaf Provenance::LeafAt(Node& node, const FindLeaf& find) {
  if (!node.next_edges().empty()) return {};
  const auto* accumulate = dynamic_cast<torch::autograd::AccumulateGrad*>(&node);
  return accumulate == nullptr ? WatchedLeaf() : find(accumulate->variable);
}

}  // namespace ikkuna::torch_probe
