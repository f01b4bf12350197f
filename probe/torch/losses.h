// PassLosses: the loss terms of one pass, and what of them is the loss.
//
// A term is what a loss function of LibTorch gave for an output of the model. Whether it is the loss shows when
// backward starts: at a scalar that the term alone flows into, at most scaled, it is; where something else flows in, too,
// where it is made into something else (-l, sqrt(l), l + 1), or where several terms do, each is a value under a name of its own (`loss_mse`, a second one `loss_mse_2`) and the loss is not
// known until the trainer gives it. So nothing goes out before the micro-batch is over. Passes that begin before
// backward has reached the one before share one object: what was reached by one backward pass is one loss.
//
// Thread rule: any thread; the one that ends a step need not be the one that runs its pass.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

namespace ikkuna::torch_probe {

struct PassNumber;

// "cross_entropy_loss" -> "cross_entropy": how a term is called, after `loss_`.
std::string LossFunctionName(const std::string& operator_name);

struct LossValue {
  std::string name;  // empty: the loss itself
  double value = 0;
  uint16_t call = 0;
  std::shared_ptr<const PassNumber> pass;  // null: not published
};

// What is known of one root; of several, the last of these.
enum class LossKnown : uint8_t {
  kNothing,    // no loss function ran on the model's output
  kKnown,      // the loss
  kSeveral,    // several terms, by name
  kComposite,  // something beside the named term flows into it
  kUnreduced,  // a term of many elements, and where backward started was not seen
};

struct SettledLosses {
  LossKnown known = LossKnown::kNothing;
  std::vector<LossValue> values;
  bool given = false;  // by the trainer
};

class PassLosses {
 public:
  // Terms and given ones count together: so a term's output and labels are found beside it.
  uint16_t NextCall() {
    std::lock_guard lock(mutex_);
    return calls_++;
  }
  // Backward has brought a term's result a gradient of `value`. Above 1 it is a loss scale, unless another term's is
  // not.
  void NoteGradient(double value) {
    if (value > 1)
      scaled_.store(true, std::memory_order_relaxed);
    else
      plain_.store(true, std::memory_order_relaxed);
  }
  bool scaled() const { return scaled_.load(std::memory_order_relaxed) && !plain_.load(std::memory_order_relaxed); }
  // They were settled before.
  bool settled() const {
    std::lock_guard lock(mutex_);
    return settled_;
  }
  bool empty() const {
    std::lock_guard lock(mutex_);
    return terms_.empty() && given_.empty();
  }
  // An operator has given `result`, of `value` if that is a scalar. Of a sum over `rows` rows a mean may be made later.
  void AddTerm(const char* operator_name, const at::Tensor& result, std::optional<double> value, bool summed,
               double rows, uint16_t call, std::shared_ptr<const PassNumber> pass);
  // The trainer's own.
  void Give(double value, uint16_t call, std::shared_ptr<const PassNumber> pass) {
    std::lock_guard lock(mutex_);
    given_.push_back({"", value, call, std::move(pass)});
  }
  // The backward pass that started last gave no gradients: it was a look (autograd::grad), and its terms wait for another.
  void ForgetLastRoot();
  // Backward starts from here on the thread of the pass.
  void BackwardFrom(const at::Tensor& root, std::optional<double> value);
  // What is to be published of what was seen, which is forgotten. In training a term counts only if backward started
  // from it, where it was seen at all that it started; one that it may yet start from, since its pass is not among
  // those that are `over`, is kept. `name_all`: a loss that is known has its term's name, too.
  SettledLosses Settle(bool training, const std::vector<const PassNumber*>& over, bool name_all);

 private:
  struct Term {
    std::string function;
    std::weak_ptr<torch::autograd::Node> node;  // expired, or never there: without a gradient
    std::optional<double> value;                // of a scalar; a mean, once that is known of a sum
    std::optional<double> given;                // what the operator gave
    bool summed = false;
    double rows = 1;
    uint16_t call = 0;
    std::shared_ptr<const PassNumber> pass;  // null: not published
    int root = 0;                            // of the roots from which backward started: it flows into that; 0: none
    bool alone = true;                       // nothing else flows into that, and it is but a multiple of the term
    std::optional<double> of_root;           // value of that
  };
  static constexpr size_t kNodesMax = 4096;  // between a root and its terms; behind them nothing is looked at
  static constexpr size_t kTermsMax = 1024;  // of one pass; a loop that calls a loss function for each row

  static bool IsMultiple(const Term& term, torch::autograd::Node* root, std::optional<double> value);
  static void MeanOfSum(Term& term, torch::autograd::Node* root, std::optional<double> value);

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<Term> terms_;
  std::vector<LossValue> given_;
  int roots_ = 0;  // from which backward was seen to start
  bool settled_ = false;
  uint16_t calls_ = 0;
  std::atomic<bool> scaled_{false};
  std::atomic<bool> plain_{false};
};

}  // namespace ikkuna::torch_probe
