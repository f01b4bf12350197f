// OperatorTable: what each dispatcher operator means to the probe, by the address of its schema's name.
//
// Built once from the dispatcher, then read-only: any thread may look up, without a lock unless operators were
// registered since.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

namespace ikkuna::torch_probe {

enum class OperatorClass : uint8_t {
  kLayer,       // takes a parameter of a module: its output is that module's activation
  kFunctional,  // takes none: ReLU, pooling, dropout
  kLoss,        // (output, labels, ...) -> loss
  kRoot,        // backward makes the gradient of the scalar that it starts from
  kArithmetic,  // writes an argument from its old value: what optimizers do
  kAssign,      // replaces an argument: loads, swaps, and optimizers written by hand
  kOtherWrite,  // clamp_, fill_: never an optimizer's step
};

constexpr bool IsWrite(OperatorClass what) { return what >= OperatorClass::kArithmetic; }

struct OperatorInfo {
  OperatorClass what = OperatorClass::kLayer;
  int8_t weight = -1;         // kLayer: index of the parameter that names the module
  int8_t other_weight = -1;   // kLayer: where to look when that one is absent (a norm's running mean)
  int8_t data = 0;            // kLayer: index of the input
  uint32_t written = 0;       // writes: set of the arguments written, by index
  bool collective = false;    // writes: of a collective, which leaves the versions of tensors as they are
  bool quotient = false;      // kArithmetic: of an optimizer's state (addcdiv_, addcmul_), which nobody else writes by
  bool list = false;          // kArithmetic: of all that a list holds
  bool multiplies = false;    // kArithmetic: and no more than that
  int8_t reduction = -1;      // kLoss: index of how it reduces
  int8_t ignore_index = -1;   // kLoss: index of the label that does not count
  bool labelled = false;      // kLoss: of an output and its labels
  bool classes = false;       // kLoss: and that may be class indices
  bool product = false;       // kLayer: of operands of which any may be the weight, or none
  bool basic = false;         // kLayer: backward is made of this product, too
  int8_t operands = -1;       // kLayer: index of the list that they are in, of a product that has one
  bool without_bias = false;  // kLayer: a bias follows as add_ (matmul of a Linear on more than two dimensions)
  uint8_t arguments = 0;
  uint8_t results = 1;
  const char* name = "";         // relu, max_pool2d: how a functional operator is shown
  const char* module_types = "";  // kFunctional: the module types whose output it makes, separated by blanks
};

class LateOperators;

class OperatorTable {
 public:
  OperatorTable();
  ~OperatorTable();
  // `schema_name` must be the pointer that RecordFunction::name() returns.
  const OperatorInfo* Find(const char* schema_name) const {
    const auto found = operators_.find(schema_name);
    const bool known = found != operators_.end() && !some_gone_.load(std::memory_order_relaxed);
    return known ? &found->second : FindLate(schema_name);
  }

 private:
  friend class LateOperators;
  void Add(const char* name, const char* overload, OperatorInfo info);
  void AddLayers();
  void AddFunctionals();
  void AddLosses();
  void AddWrites();
  const OperatorInfo* FindLate(const char* schema_name) const;

  std::atomic<bool> some_gone_{false};  // of these operators; then there may be others at their addresses
  std::unordered_map<const void*, OperatorInfo> operators_;  // constant after construction
  const std::shared_ptr<LateOperators> late_;                // of libraries that were loaded since
};

}  // namespace ikkuna::torch_probe
