#include "probe/torch/operator_table.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

#include "probe/torch/module_outputs.h"

namespace ikkuna::torch_probe {

namespace {

struct Layer {
  const char* name;
  const char* overload;
  int8_t weight;
  int8_t other_weight;
  int8_t data;
};
constexpr Layer kLayers[] = {
    {"aten::linear", "", 1, -1, 0},
    {"aten::addmm", "", 2, -1, 1},
    {"aten::bilinear", "", 2, -1, 0},
    {"aten::conv1d", "", 1, -1, 0},
    {"aten::conv1d", "padding", 1, -1, 0},
    {"aten::conv2d", "", 1, -1, 0},
    {"aten::conv2d", "padding", 1, -1, 0},
    {"aten::conv3d", "", 1, -1, 0},
    {"aten::conv3d", "padding", 1, -1, 0},
    {"aten::conv_transpose1d", "", 1, -1, 0},
    {"aten::conv_transpose2d", "input", 1, -1, 0},
    {"aten::conv_transpose3d", "input", 1, -1, 0},
    {"aten::_convolution", "", 1, -1, 0},
    {"aten::batch_norm", "", 1, 3, 0},
    {"aten::layer_norm", "", 2, -1, 0},
    {"aten::group_norm", "", 2, -1, 0},
    {"aten::instance_norm", "", 1, 3, 0},
    {"aten::embedding", "", 0, -1, 1},
    {"aten::embedding_bag", "padding_idx", 0, -1, 1},
    {"aten::embedding_bag", "", 0, -1, 1},
    {"aten::prelu", "", 1, -1, 0},
    {"aten::lstm", "input", 2, -1, 0},
    {"aten::gru", "input", 2, -1, 0},
    {"aten::rnn_tanh", "input", 2, -1, 0},
    {"aten::rnn_relu", "input", 2, -1, 0},
    {"aten::lstm", "data", 3, -1, 0},
    {"aten::gru", "data", 3, -1, 0},
    {"aten::rnn_tanh", "data", 3, -1, 0},
    {"aten::rnn_relu", "data", 3, -1, 0},
    {"aten::lstm_cell", "", 2, -1, 0},
    {"aten::gru_cell", "", 2, -1, 0},
    {"aten::rnn_tanh_cell", "", 2, -1, 0},
    {"aten::rnn_relu_cell", "", 2, -1, 0},
};

struct Functional {
  const char* name;
  const char* overload;
};
constexpr Functional kFunctionals[] = {
    {"relu", ""},
    {"relu_", ""},
    {"relu6", ""},
    {"relu6_", ""},
    {"leaky_relu", ""},
    {"leaky_relu_", ""},
    {"rrelu", ""},
    {"rrelu_", ""},
    {"elu", ""},
    {"elu_", ""},
    {"selu", ""},
    {"selu_", ""},
    {"celu", ""},
    {"celu_", ""},
    {"glu", ""},
    {"gelu", ""},
    {"silu", ""},
    {"silu_", ""},
    {"mish", ""},
    {"hardtanh", ""},
    {"hardtanh_", ""},
    {"hardshrink", ""},
    {"softshrink", ""},
    {"tanh", ""},
    {"tanh_", ""},
    {"sigmoid", ""},
    {"sigmoid_", ""},
    {"log_sigmoid", ""},
    {"softplus", ""},
    {"threshold", ""},
    {"threshold_", ""},
    {"softmax", "int"},
    {"log_softmax", "int"},
    {"max_pool1d", ""},
    {"max_pool2d", ""},
    {"max_pool3d", ""},
    {"max_pool1d_with_indices", ""},
    {"max_pool2d_with_indices", ""},
    {"max_pool3d_with_indices", ""},
    {"avg_pool1d", ""},
    {"avg_pool2d", ""},
    {"avg_pool3d", ""},
    {"adaptive_avg_pool1d", ""},
    {"adaptive_avg_pool2d", ""},
    {"adaptive_avg_pool3d", ""},
    {"adaptive_max_pool1d", ""},
    {"adaptive_max_pool2d", ""},
    {"adaptive_max_pool3d", ""},
    {"fractional_max_pool2d", ""},
    {"fractional_max_pool3d", ""},
    {"dropout", ""},
    {"dropout_", ""},
    {"feature_dropout", ""},
    {"feature_dropout_", ""},
    {"alpha_dropout", ""},
    {"alpha_dropout_", ""},
    {"feature_alpha_dropout", ""},
    {"feature_alpha_dropout_", ""},
    {"flatten", "using_ints"},
    {"unflatten", "int"},
    {"pixel_shuffle", ""},
    {"pixel_unshuffle", ""},
};

struct LossFunction {
  const char* name;
  const char* overload;
  bool labelled;  // of what the network gave and what it should have given
};
constexpr LossFunction kLosses[] = {
    {"aten::cross_entropy_loss", "", true},
    {"aten::nll_loss_nd", "", true},
    {"aten::nll_loss", "", true},
    {"aten::nll_loss2d", "", true},
    {"aten::mse_loss", "", true},
    {"aten::l1_loss", "", true},
    {"aten::smooth_l1_loss", "", true},
    {"aten::huber_loss", "", true},
    {"aten::binary_cross_entropy", "", true},
    {"aten::binary_cross_entropy_with_logits", "", true},
    {"aten::kl_div", "", true},
    {"aten::poisson_nll_loss", "", true},
    {"aten::soft_margin_loss", "", true},
    {"aten::hinge_embedding_loss", "", true},
    {"aten::multi_margin_loss", "", true},
    {"aten::multilabel_margin_loss", "", true},
    {"aten::cosine_embedding_loss", "", false},
    {"aten::margin_ranking_loss", "", false},
    {"aten::triplet_margin_loss", "", false},
    {"aten::ctc_loss", "IntList", false},
    {"aten::ctc_loss", "Tensor", false},
};

const std::set<std::string_view> kArithmeticWrites = {"add_",
                                                      "sub_",
                                                      "mul_",
                                                      "div_",
                                                      "addcdiv_",
                                                      "addcmul_",
                                                      "lerp_",
                                                      "_foreach_add_",
                                                      "_foreach_sub_",
                                                      "_foreach_mul_",
                                                      "_foreach_div_",
                                                      "_foreach_addcdiv_",
                                                      "_foreach_addcmul_",
                                                      "_foreach_lerp_",
                                                      "addmm_",
                                                      "addmv_",
                                                      "addr_",
                                                      "addbmm_",
                                                      "baddbmm_",
                                                      "index_add_",
                                                      "scatter_add_",
                                                      "_fused_sgd_",
                                                      "_fused_adam_",
                                                      "_fused_adamw_",
                                                      "_fused_adagrad_"};
const std::set<std::string_view> kAssignWrites = {"copy_", "_foreach_copy_", "set_"};

// The arguments that the schema says are written: an optimizer of another library may begin with a state of its own.
uint32_t WrittenArguments(const c10::FunctionSchema& schema) {
  uint32_t written = 0;
  const auto& arguments = schema.arguments();
  for (size_t i = 0; i < std::min<size_t>(arguments.size(), 32); ++i) {
    const auto* alias = arguments[i].alias_info();
    if (alias != nullptr && alias->isWrite()) written |= 1u << i;
  }
  return written;
}

}  // namespace

OperatorTable::OperatorTable() {
  AddWrites();  // first: what follows is more precise about a few of them (relu_)
  AddLayers();
  AddFunctionals();
  AddLosses();
}

void OperatorTable::Add(const char* name, const char* overload, OperatorInfo info) {
  const auto handle = c10::Dispatcher::singleton().findSchema({name, overload});
  if (!handle) return;  // another release of LibTorch may lack it; what it would have named is found by position
  const auto& schema = handle->schema();
  info.arguments = static_cast<uint8_t>(schema.arguments().size());
  info.results = static_cast<uint8_t>(schema.returns().size());
  for (size_t i = 0; info.what == OperatorClass::kLoss && i < schema.arguments().size(); ++i) {
    if (schema.arguments()[i].name() == "reduction") info.reduction = static_cast<int8_t>(i);
    if (schema.arguments()[i].name() == "ignore_index") info.ignore_index = static_cast<int8_t>(i);
  }
  operators_[schema.name().c_str()] = info;
}

void OperatorTable::AddLayers() {
  for (const Layer& layer : kLayers) {
    OperatorInfo info;
    info.what = OperatorClass::kLayer;
    info.weight = layer.weight;
    info.other_weight = layer.other_weight;
    info.data = layer.data;
    info.name = layer.name + 6;  // after "aten::"
    Add(layer.name, layer.overload, info);
  }
  OperatorInfo matmul;
  matmul.what = OperatorClass::kLayer;
  matmul.weight = 1;
  matmul.without_bias = true;
  matmul.name = "matmul";
  Add("aten::matmul", "", matmul);
}

void OperatorTable::AddFunctionals() {
  for (const Functional& functional : kFunctionals) {
    OperatorInfo info;
    info.what = OperatorClass::kFunctional;
    info.name = functional.name;
    info.module_types = TypesMadeBy(functional.name);
    const std::string full = std::string("aten::") + functional.name;
    Add(full.c_str(), functional.overload, info);
  }
}

void OperatorTable::AddLosses() {
  for (const LossFunction& loss : kLosses) {
    OperatorInfo info;
    info.what = OperatorClass::kLoss;
    info.labelled = loss.labelled;
    info.name = loss.name + 6;
    Add(loss.name, loss.overload, info);
  }
  OperatorInfo root;
  root.what = OperatorClass::kRoot;
  root.name = "ones_like";
  Add("aten::ones_like", "", root);
}

void OperatorTable::AddWrites() {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& operator_name : dispatcher.getAllOpNames()) {
    const size_t colons = operator_name.name.find("::");
    if (colons == std::string::npos) continue;
    const std::string space = operator_name.name.substr(0, colons);
    const auto handle = dispatcher.findSchema(operator_name);
    if (!handle) continue;
    const auto& schema = handle->schema();
    const bool collective = space == "c10d" || space == "_c10d_functional";
    uint32_t written = WrittenArguments(schema);
    // Most collectives do not say in their schemas what they write: it is what they are given first.
    if (collective && written == 0 && operator_name.name.back() == '_') written = 1;
    if (written == 0) continue;
    // An out= form writes a later argument: sub_out(p, p, g) is p.sub_(g).
    std::string name = operator_name.name.substr(colons + 2);
    if ((written & 1) == 0 && name.back() != '_') name += '_';
    OperatorInfo info;
    // An operator of another library that writes parameters is an optimizer only where the loop has no other.
    if (space != "aten")
      info.what = collective ? OperatorClass::kOtherWrite : OperatorClass::kAssign;
    else
      info.what = kArithmeticWrites.count(name) != 0 ? OperatorClass::kArithmetic
                  : kAssignWrites.count(name) != 0   ? OperatorClass::kAssign
                                                     : OperatorClass::kOtherWrite;
    info.written = written;
    info.collective = collective;
    info.arguments = static_cast<uint8_t>(schema.arguments().size());
    info.results = static_cast<uint8_t>(schema.returns().size());
    info.name = schema.name().c_str() + colons + 2;
    operators_[schema.name().c_str()] = info;
  }
  // Tensor::set_data() runs no write; this query precedes it.
  OperatorInfo set_data;
  set_data.what = OperatorClass::kAssign;
  set_data.written = 1;
  set_data.name = "set_data";
  Add("aten::_has_compatible_shallow_copy_type", "", set_data);
}

}  // namespace ikkuna::torch_probe
