// LayerFinder: which module an operator is a layer of, by the weight among its inputs.
//
// Thread rule: training threads.
#pragma once

#include <optional>

#include "probe/torch/operator_table.h"
#include "probe/torch/threads.h"
#include "probe/torch/watch.h"

namespace ikkuna::torch_probe {

struct FoundLayer {
  int model = -1;
  int layer = -1;   // the module whose weight it is
  int module = -1;  // the one whose output the operator makes
};

class LayerFinder {
 public:
  explicit LayerFinder(Watch& watch) : session_(watch.session), roots_(watch.roots) {}

  // `operator_name` takes `weight`, and the bias of module `bias_owner` (-1: of none).
  std::optional<FoundLayer> Find(const ThreadState& thread, const at::Tensor& weight, int bias_owner,
                                 const char* operator_name);
  // A weight that no model has: moved, or of a module that has taken another's place. Of a network that nobody attached
  // it is found out once.
  std::optional<FoundLayer> FindAnew(ThreadState& thread, const at::Tensor& weight, int bias_owner,
                                     const OperatorInfo& info);

 private:
  // Where neither operator nor bias tells these apart.
  void NoteOrder(const WatchedModel& model, const WatchedModel::Candidates& candidates);
  void NoteComputed(ThreadState& thread, const at::Tensor& weight, const OperatorInfo& info);

  probe::Session& session_;
  Roots& roots_;
};

// With a history of its own, beyond that of a view (weight.t()).
inline bool IsComputed(const at::Tensor& tensor) {
  return tensor.grad_fn() && !(tensor.is_view() && !tensor._base().grad_fn());
}

}  // namespace ikkuna::torch_probe
