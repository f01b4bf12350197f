// OperatorContext: what the beginning of an operator leaves for its end.
#pragma once

#include <memory>

#include <ATen/record_function.h>
#include <torch/csrc/autograd/graph_task.h>

#include "probe/torch/operator_table.h"
#include "probe/torch/provenance.h"
#include "probe/torch/step_state.h"

namespace ikkuna::torch_probe {

// What is to be done when the operator has ended.
enum class OperatorEnd : uint8_t {
  kNothing,  // it only keeps what runs inside from being looked at
  kLayer,    // its output is an activation
  kLoss,
  kMark,   // its output comes from a pass, and is nothing that anybody asks for
  kAwait,  // its output is a layer's but for the bias, which comes as an operator of its own
};

struct OperatorContext : at::ObserverContext {
  uint64_t listener = 0;               // serial
  const OperatorInfo* info = nullptr;  // null: of an operator that the table does not know
  OperatorEnd end = OperatorEnd::kNothing;
  bool deeper = false;  // what runs inside is not looked at
  int model = -1;
  int module = -1;  // reports the output
  int layer = -1;   // the module whose parameter it took; -1: an operator without parameters
  uint16_t call = 0;
  bool recomputed = false;
  uint32_t writes = 0;  // models whose parameters it writes, a bit each
  bool wanted = true;  // activations or layer gradients
  Origin origin;       // of the output
  std::shared_ptr<Pass> pass;
  at::Tensor input;   // layer: what flows into it
  at::Tensor output;  // loss: what the network gave
  at::Tensor labels;
  int64_t ignore_index = -1;  // loss: label that does not count; negative: those that are no class anyway
  bool summed = false;
  bool weighted = false;  // loss: by class weights
};

// The tensor of an argument, or the first of a list; undefined when there is none.
inline at::Tensor FirstTensor(const c10::IValue& value) {
  if (value.isTensor()) return value.toTensor();
  if (value.isTensorList()) {
    const auto list = value.toTensorList();
    if (!list.empty()) return list.get(0);
  }
  return {};
}

// Calls `visit` for each tensor of an argument or result, also of a list of lists, which collectives gather into.
template <typename Visit>
void EachTensor(const c10::IValue& value, Visit&& visit) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) visit(value.toTensor());
  } else if (value.isTensorList()) {
    const auto list = value.toTensorList();
    for (size_t i = 0; i < list.size(); ++i) visit(at::Tensor(list.get(i)));
  } else if (value.isList()) {
    for (const c10::IValue& inner : value.toListRef()) {
      if (!inner.isTensorList()) break;
      EachTensor(inner, visit);
    }
  }
}

// The pass that made it goes on.
inline bool UnderWay(const Origin& origin) { return origin.pass && !origin.pass->over.load(); }

inline bool InBackward() { return torch::autograd::get_current_graph_task_id() != -1; }

}  // namespace ikkuna::torch_probe
