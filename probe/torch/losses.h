// PassLosses: the loss terms of one pass, and what of them is the loss.
//
// A term is what a loss function of LibTorch gave for an output of the model. Whether it is the loss shows when
// backward reaches it: from a scalar that the term alone flows into, at most scaled, it is; where something else flows
// in, too, where it is made into something else (-l, sqrt(l), l + 1), or where several terms do, each is a value under
// a name of its own (`loss_mse`, a second one `loss_mse_2`) and the loss is not known until the trainer gives it.
// So no value goes out before the step is over. Output and labels of a term go out with the backward pass that reaches
// it, and are let go with its graph. Passes that begin before backward has reached the one before share one object: what
// was reached by one backward pass is one loss.
//
// Thread rule: any thread; the one that ends a step need not be the one that runs its pass.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include "probe/torch/loss_graph.h"
#include "probe/torch/loss_unit.h"

namespace ikkuna::torch_probe {

struct PassNumber;
struct StepIdentity;

// "cross_entropy_loss" -> "cross_entropy": how a term is called, after `loss_`.
std::string LossFunctionName(const std::string& operator_name);

// What is known of one root; of several, the last of these.
enum class LossKnown : uint8_t {
  kNothing,    // backward starts from nothing that a loss function gave
  kKnown,      // the loss
  kUnreduced,  // a term of many elements, or a sum of them, and what backward started from does not tell their mean
  kSeveral,    // several terms, by name
  kComposite,  // something beside the named term flows into it
};

struct LossValue {
  std::string function;  // cross_entropy; empty: given by the trainer
  std::string name;      // loss_cross_entropy_2
  LossKnown known = LossKnown::kKnown;
  // The same where each call of the model within the pass is looked at by itself.
  LossKnown known_of_call = LossKnown::kKnown;
  std::string name_of_call;
  std::optional<double> value;  // of the term
  std::optional<double> loss;   // of the loss, if the term is that
  std::optional<double> given;  // by the loss function, as it reduces
  LossCount count;
  bool rounded = false;       // `loss` is in the precision of what backward starts from
  UnitSet reduced = kNoUnit;  // where nothing is `given`: the unit of `loss`
  std::optional<double> weight;  // by which the loop multiplied it before backward, but for a loss scale
  uint16_t call = 0;
  std::shared_ptr<const PassNumber> pass;  // null: not published
};

// What a loss function compares, until backward shows that the model is trained by it. The tensors are the trainer's;
// most of its loss functions keep them for that backward as well.
struct LabelledOutput {
  at::Tensor output;
  at::Tensor labels;
  std::string name;  // of the labels, as the daemon reads it: that one does not count, or that they are no classes
  const char* loss = "";  // the operator that compares them
  bool classes = false;  // the labels are class indices
  int layer = -1;        // module index of the layer whose output it is, or comes from; -1: not known
  bool mixed = false;    // those of another loss of the pass are, too
  std::shared_ptr<StepIdentity> identity;
  std::shared_ptr<const PassNumber> pass;
  uint16_t call = 0;
};

struct SettledLosses {
  bool any = false;    // loss functions ran, or the trainer gave one
  bool given = false;  // by the trainer
  std::vector<LossValue> values;
  std::vector<LabelledOutput> outputs;  // that have not been taken
};

struct LossTerm {
  std::string function;
  std::shared_ptr<torch::autograd::Node> node;  // null: without a gradient
  std::optional<double> given;                  // by the operator, if that is one number
  LossCount count;
  uint16_t call = 0;
  std::shared_ptr<const PassNumber> pass;  // null: not published
  std::optional<LabelledOutput> labelled;
};

class PassLosses {
 public:
  // Terms and given ones count together: so a term's output and labels are found beside it.
  uint16_t NextCall() {
    std::lock_guard lock(mutex_);
    return calls_++;
  }
  // They were settled before.
  bool settled() const {
    std::lock_guard lock(mutex_);
    return settled_;
  }
  // Parameters have gradients by one of its terms.
  bool gave() const {
    std::lock_guard lock(mutex_);
    return std::any_of(roots_.begin(), roots_.end(), [](const Root& root) { return root.gave; });
  }
  // Gradients of the pass carry a loss scale.
  bool scaled() const;
  void NoteScale() { root_scaled_.store(true, std::memory_order_relaxed); }

  // An operator has given a term. Its number, for Reached(); 0: there are too many.
  uint64_t AddTerm(LossTerm&& term);
  // The graph of the term is gone: no backward reaches it any more, and its output and labels are let go.
  void Drop(uint64_t term);
  // The trainer's own.
  void Give(double value, uint16_t call, std::shared_ptr<const PassNumber> pass);
  // Labels of an evaluation, where nothing waits, are class indices: how often they were before, since the model was
  // called last (NewCall).
  int CountClassLabels();
  // The model is called again in the same pass of an evaluation; `apart`: on what does not come from the pass itself.
  void NewCall(bool apart);

  // Backward has brought the term a gradient, `gradient` if that is one number. `seen`: what it starts from; empty
  // where that was not seen, then `is_root` says whether it starts from the term itself.
  void Reached(uint64_t term, int64_t task, const std::vector<LossRoot>& seen, bool is_root,
               std::optional<double> gradient);
  // That backward pass has given parameters of the model gradients.
  void Gave(int64_t task);
  // Outputs and labels of the terms that the backward pass has reached, once. `by_hooks`: only if it gave gradients.
  std::vector<LabelledOutput> TakeOutputs(int64_t task, bool by_hooks);
  // What is to be published of what was seen, which is forgotten. In training a term counts only if backward reached
  // it; where gradients come by hooks (`by_hooks`) and that gave none, it was a look (autograd::grad). One that may yet
  // be reached, since its pass is not among those that are `over`, is kept.
  SettledLosses Settle(bool training, const std::vector<const PassNumber*>& over, bool by_hooks);

 private:
  struct Term {
    uint64_t id = 0;
    std::string function;
    std::weak_ptr<torch::autograd::Node> node;  // expired, or never there: without a gradient
    bool graph = false;                         // it was there
    std::optional<double> given;
    std::optional<double> named;  // what goes out under its name, where it is not the loss
    LossCount count;
    uint16_t call = 0;
    uint32_t model_call = 0;
    std::shared_ptr<const PassNumber> pass;
    std::optional<LabelledOutput> labelled;
    size_t root = 0;             // of roots_, from 1; 0: none
    bool alone = true;           // the root is but a multiple of it
    std::optional<double> loss;  // what the root says of its value
    bool rounded = false;
    UnitSet reduced = kNoUnit;
    std::optional<double> weight;
  };
  struct Root {
    int64_t task = 0;
    bool seen = false;
    bool gave = false;
  };
  static constexpr size_t kNodesMax = 4096;   // between a root and its terms; behind them nothing is looked at
  static constexpr size_t kTermsMax = 1024;   // of one pass; a loop that calls a loss function for each row
  static constexpr size_t kLabelledMax = 64;  // of one pass, of which output and labels are kept

  // With the mutex held. `held` outlives that: with the last reference to a node goes the hook that calls Drop().
  using Held = std::vector<std::shared_ptr<torch::autograd::Node>>;
  void StartFrom(const LossRoot& root, int64_t task, Held* held);

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<Term> terms_;
  std::vector<LossValue> given_;
  std::vector<Root> roots_;                        // from which backward has started
  // Outputs with class labels that went out, or were withheld, by pass.
  struct Classes {
    int count = 0;
    int layer = -1;
    std::vector<const void*> outputs;  // where they lie
    bool mixed = false;                // they are no longer outputs of one layer, each compared once
  };
  std::map<const PassNumber*, Classes> classes_;
  bool settled_ = false;
  uint16_t calls_ = 0;
  uint32_t model_calls_ = 0;  // behind the first, in an evaluation
  uint64_t last_id_ = 0;
  std::atomic<bool> root_scaled_{false};
  // Of terms that are not the loss alone.
  std::atomic<bool> term_scaled_{false};
  std::atomic<bool> term_plain_{false};
};

}  // namespace ikkuna::torch_probe
