// Provenance: which pass of which attached model a tensor comes from, by what made it and not by what ran last.
//
// With gradients a tensor's history is its autograd graph: the walk goes from its node towards the leaves, nearest
// first, until it meets the output of a layer that was marked, or a watched parameter. A tensor without history is known
// by its storage: operators that are no layers hand the mark on from their inputs to their results (Carry). Marks hold
// weakly, so no activation lives longer for them, and no address is taken for another tensor's.
//
// Thread rule: each thread has its own. Lifetime: marks of passes that are over are dropped when the next is marked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

namespace ikkuna::torch_probe {

struct Pass;

// What is known of a marked tensor.
struct Origin {
  int model = -1;
  int layer = -1;           // module index of the last layer with parameters that it went through
  int module = -1;          // of the module that made it
  bool grad_mode = true;    // of the pass, when it was made
  bool foreign = false;     // it went through a layer of no attached model since
  std::shared_ptr<Pass> pass;  // under way when it was made
};

// A watched parameter that a walk has met.
struct WatchedLeaf {
  int model = -1;
  int module = -1;
};

class Provenance {
 public:
  using FindLeaf = std::function<WatchedLeaf(const at::Tensor& leaf)>;  // model -1: not watched
  using Node = torch::autograd::Node;

  // Nothing was marked: nothing can be found by marks.
  bool empty() const { return nodes_.empty() && storages_.empty(); }
  // Whether tensors without history are known: then operators hand marks on.
  bool carries() const { return !storages_.empty(); }
  void Clear() {
    nodes_.clear();
    storages_.clear();
  }

  // `output` was made so.
  void Mark(const at::Tensor& output, const Origin& origin);
  // The nearest mark behind the tensor; null: none. `exact`: the tensor is what the marked module gave, untouched.
  const Origin* Of(const at::Tensor& tensor, bool* exact = nullptr) const;
  // The watched parameter whose gradient the node takes.
  static WatchedLeaf LeafAt(Node& node, const FindLeaf& find);

  // Walks the history of `root`, nearest first, each node once; stops at what `visit` does not want to go behind.
  // False: it ended at `nodes_max` nodes, and there are more.
  static bool Walk(Node* root, size_t nodes_max, const std::function<bool(Node&)>& visit);
  static constexpr size_t kNodesMax = 512;  // between an output and what is made of it; a loss takes a dozen

 private:
  template <typename Weak>
  struct Marked {
    Weak weak;
    Origin origin;
    const void* impl = nullptr;  // TensorImpl
    uint32_t version = 0;
  };
  void Sweep();

  std::unordered_map<const void*, Marked<std::weak_ptr<Node>>> nodes_;
  std::unordered_map<const void*, Marked<c10::weak_intrusive_ptr<c10::StorageImpl>>> storages_;
  size_t sweep_at_ = 256;
};

}  // namespace ikkuna::torch_probe
