#include "probe/torch/operator_table.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <optional>
#include <set>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>

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

// Which of the operands is the weight depends on who calls: mm(x, W), mv(W, x), mm(adjacency, mm(x, W)).
struct Product {
  const char* name;
  int8_t weight;  // looked at first
  int8_t other_weight;
  int8_t operands;
};
constexpr Product kProducts[] = {
    {"aten::mm", 1, 0, -1},   {"aten::bmm", 1, 0, -1},   {"aten::mv", 0, 1, -1},       {"aten::dot", 1, 0, -1},
    {"aten::addmv", 1, 2, -1}, {"aten::baddbmm", 2, 1, -1}, {"aten::einsum", -1, -1, 1},
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
  bool labelled;         // of what the network gave and what it should have given
  bool classes = false;  // and that may be class indices
};
constexpr LossFunction kLosses[] = {
    {"aten::cross_entropy_loss", "", true, true},
    {"aten::nll_loss_nd", "", true, true},
    {"aten::nll_loss", "", true, true},
    {"aten::nll_loss2d", "", true, true},
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
    {"aten::multi_margin_loss", "", true, true},
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

// What an operator writes of what it is given; nothing: it writes none of it.
std::optional<OperatorInfo> WriteOf(const c10::FunctionSchema& schema) {
  const std::string& full = schema.name();
  const size_t colons = full.find("::");
  if (colons == std::string::npos) return std::nullopt;
  const std::string space = full.substr(0, colons);
  const bool collective = space == "c10d" || space == "_c10d_functional";
  uint32_t written = WrittenArguments(schema);
  // Most collectives do not say in their schemas what they write: it is what they are given first.
  if (collective && written == 0 && full.back() == '_') written = 1;
  if (written == 0) return std::nullopt;
  // An out= form writes a later argument: sub_out(p, p, g) is p.sub_(g).
  std::string name = full.substr(colons + 2);
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
  if (info.what == OperatorClass::kArithmetic) {
    const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
    info.quotient = has("addcdiv_") || has("addcmul_");
    info.list = has("_foreach_");
    info.multiplies = has("mul_") && !info.quotient;
  }
  info.arguments = static_cast<uint8_t>(schema.arguments().size());
  info.results = static_cast<uint8_t>(schema.returns().size());
  info.name = full.c_str() + colons + 2;
  return info;
}

}  // namespace

// Operators that were not there when the table was made: they come with a library that the trainer loads for its
// optimizer, say. Of these only writes matter. And those that have gone with such a library: the address of a name may
// be another's then. LibTorch calls from any thread, under its own lock.
class LateOperators {
 public:
  const OperatorInfo* Find(const char* schema_name) const {
    if (count_.load(std::memory_order_relaxed) == 0) return nullptr;  // whoever calls it has seen it registered
    std::shared_lock lock(mutex_);
    const auto found = operators_.find(schema_name);
    return found == operators_.end() ? nullptr : &found->second;
  }
  // Of an operator of the table: it is no longer there.
  bool Gone(const char* schema_name) const {
    std::shared_lock lock(mutex_);
    return gone_.count(schema_name) != 0;
  }
  // `table`: lives until Forget().
  static void Hear(const std::shared_ptr<LateOperators>& late, OperatorTable& table) {
    late->registration_.emplace(
        c10::Dispatcher::singleton().addRegistrationListener(std::make_unique<Ear>(late, table)));
  }
  void Forget() { registration_.reset(); }

 private:
  class Ear : public c10::OpRegistrationListener {
   public:
    Ear(std::shared_ptr<LateOperators> late, OperatorTable& table) : late_(std::move(late)), table_(table) {}
    // Nothing of ours is thrown into a library's beginning or end.
    void onOperatorRegistered(const c10::OperatorHandle& handle) override try {
      const c10::FunctionSchema& schema = handle.schema();
      const char* const name = schema.name().c_str();
      // LibTorch calls for all that are there when the table begins to hear.
      if (table_.operators_.count(name) != 0 && !late_->Gone(name)) return;
      const auto write = WriteOf(schema);
      if (!write) return;
      std::lock_guard lock(late_->mutex_);
      late_->operators_[name] = *write;
      late_->count_.store(late_->operators_.size(), std::memory_order_relaxed);
    } catch (...) {
    }
    void onOperatorDeregistered(const c10::OperatorHandle& handle) override try {
      const char* const name = handle.schema().name().c_str();
      std::lock_guard lock(late_->mutex_);
      if (table_.operators_.count(name) != 0) {
        late_->gone_.insert(name);
        table_.some_gone_.store(true, std::memory_order_relaxed);
      }
      late_->operators_.erase(name);
      late_->count_.store(late_->operators_.size(), std::memory_order_relaxed);
    } catch (...) {
    }

   private:
    const std::shared_ptr<LateOperators> late_;
    OperatorTable& table_;
  };

  mutable std::shared_mutex mutex_;
  std::unordered_map<const void*, OperatorInfo> operators_;  // guarded by mutex_
  std::unordered_set<const void*> gone_;                     // guarded by mutex_; of those in the table
  std::atomic<size_t> count_{0};
  std::optional<c10::RegistrationHandleRAII> registration_;  // the table's alone
};

OperatorTable::OperatorTable() : late_(std::make_shared<LateOperators>()) {
  AddWrites();  // first: what follows is more precise about a few of them (relu_)
  AddLayers();
  AddFunctionals();
  AddLosses();
  LateOperators::Hear(late_, *this);
}

OperatorTable::~OperatorTable() { late_->Forget(); }

const OperatorInfo* OperatorTable::FindLate(const char* schema_name) const {
  const auto found = operators_.find(schema_name);
  return found == operators_.end() || late_->Gone(schema_name) ? late_->Find(schema_name) : &found->second;
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
  for (const Product& product : kProducts) {
    OperatorInfo info;
    info.what = OperatorClass::kLayer;
    info.product = info.basic = true;
    info.weight = product.weight;
    info.other_weight = product.other_weight;
    info.operands = product.operands;
    info.name = product.name + 6;
    Add(product.name, "", info);
  }
  OperatorInfo matmul;
  matmul.what = OperatorClass::kLayer;
  matmul.product = true;
  matmul.weight = 1;
  matmul.other_weight = 0;
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
    info.classes = loss.classes;
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
    const auto handle = dispatcher.findSchema(operator_name);
    if (!handle) continue;
    if (const auto write = WriteOf(handle->schema())) operators_[handle->schema().name().c_str()] = *write;
  }
  // Tensor::set_data() runs no write; this query precedes it.
  OperatorInfo set_data;
  set_data.what = OperatorClass::kAssign;
  set_data.written = 1;
  set_data.name = "set_data";
  Add("aten::_has_compatible_shallow_copy_type", "", set_data);
}

}  // namespace ikkuna::torch_probe
