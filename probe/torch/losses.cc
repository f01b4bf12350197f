#include "probe/torch/losses.h"

#include <algorithm>
#include <map>
#include <utility>

#include "probe/torch/provenance.h"

namespace ikkuna::torch_probe {

namespace {

using torch::autograd::Node;

void CutEnd(std::string& name, const std::string& end) {
  if (name.size() > end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0) {
    name.resize(name.size() - end.size());
  }
}

// The only node behind this one that gets a gradient; null: none, or several.
Node* OnlyBehind(const Node& node) {
  Node* only = nullptr;
  for (const auto& edge : node.next_edges()) {
    if (!edge.function) continue;
    if (only != nullptr) return nullptr;
    only = edge.function.get();
  }
  return only;
}

}  // namespace

std::string LossFunctionName(const std::string& operator_name) {
  std::string name = operator_name;
  for (const char* end : {"_nd", "2d", "_loss"}) CutEnd(name, end);
  return name;
}

void PassLosses::AddTerm(const char* operator_name, const at::Tensor& result, std::optional<double> value, bool summed,
                         double rows, uint16_t call, std::shared_ptr<const PassNumber> pass) {
  std::lock_guard lock(mutex_);
  if (terms_.size() >= kTermsMax) return;
  Term term;
  term.function = LossFunctionName(operator_name);
  term.node = result.grad_fn();
  term.value = term.given = value;
  term.summed = summed;
  term.rows = rows;
  term.call = call;
  term.pass = std::move(pass);
  terms_.push_back(std::move(term));
}

void PassLosses::BackwardFrom(const at::Tensor& root, std::optional<double> value) {
  std::lock_guard lock(mutex_);
  ++roots_;
  if (terms_.empty() || !root.grad_fn()) return;
  std::map<const Node*, Term*> at;  // those not yet reached by another root
  for (Term& term : terms_) {
    const auto node = term.node.lock();
    if (node && term.root == 0) at[node.get()] = &term;
  }
  std::vector<Term*> reached;
  bool others = false;
  const bool whole = Provenance::Walk(root.grad_fn().get(), kNodesMax, [&](Node& node) {
    if (const auto term = at.find(&node); term != at.end()) {
      reached.push_back(term->second);
      return false;
    }
    others |= node.next_edges().empty();
    return !(others && reached.size() == at.size());
  });
  for (Term* term : reached) {
    term->root = roots_;
    term->alone = reached.size() == 1 && !others && whole && IsMultiple(*term, root.grad_fn().get(), value);
    term->of_root = value;
    if (term->summed && term->alone) MeanOfSum(*term, root.grad_fn().get(), value);
  }
}

void PassLosses::ForgetLastRoot() {
  std::lock_guard lock(mutex_);
  if (roots_ == 0) return;
  for (Term& term : terms_) {
    if (term.root != roots_) continue;
    term.root = 0;
    term.alone = true;
    term.value = term.given;
    term.of_root.reset();
  }
  --roots_;
}

// A loss scale, a division by the micro-batches, a reduction: backward starts from the term all the same. A term of many
// elements has no value before it is reduced, and none that is known where that is multiplied later.
bool PassLosses::IsMultiple(const Term& term, Node* root, std::optional<double> value) {
  if (value && term.value && *value == *term.value) return true;  // added to a sum that began with 0
  const auto node = term.node.lock();
  bool scaled = false;
  bool divided = false;
  const auto named = [](const Node& of, const char* name) { return of.name().rfind(name, 0) == 0; };
  for (Node* above = root; node && above != node.get(); above = OnlyBehind(*above)) {
    if (above == nullptr) return false;
    if (named(*above, "MulBackward")) {
      scaled = true;
    } else if (named(*above, "DivBackward")) {
      divided = true;
    } else if (named(*above, "MeanBackward")) {
      if (!term.value) return !scaled && !divided;  // what was done to the elements is part of the loss
    } else if (named(*above, "SumBackward")) {
      if (!term.value) return !scaled;
    } else {
      bool shape_only = false;
      for (const char* name : {"ToCopy", "View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Clone", "Expand", "Alias",
                               "Select", "Slice", "Index", "MaskedSelect", "Copy"}) {
        shape_only |= named(*above, name);
      }
      if (!shape_only && term.value) return false;
    }
  }
  return !value || !term.value || *value * *term.value >= 0;
}

// A sum that is divided right behind the operator is a mean that the loss function makes (kl_div with `batchmean`) or
// the trainer (by the tokens of the batch).
void PassLosses::MeanOfSum(Term& term, Node* root, std::optional<double> value) {
  const auto node = term.node.lock();
  for (Node* above = root; node && above != nullptr && above != node.get();) {
    Node* const behind = OnlyBehind(*above);
    if (behind == node.get() && above->name().rfind("DivBackward", 0) == 0) {
      if (above == root && value)
        term.value = value;
      else if (term.value && term.function == "kl_div")
        *term.value /= term.rows;
    }
    above = behind;
  }
}

SettledLosses PassLosses::Settle(bool training, const std::vector<const PassNumber*>& over, bool name_all) {
  std::lock_guard lock(mutex_);
  SettledLosses settled;
  settled_ = true;
  const bool root_seen = std::exchange(roots_, 0) != 0;
  std::vector<Term> terms = std::exchange(terms_, {});
  std::vector<LossValue> given = std::exchange(given_, {});
  calls_ = 0;
  if (training && root_seen) {
    for (Term& term : terms) {
      const bool open = std::find(over.begin(), over.end(), term.pass.get()) == over.end();
      if (term.root == 0 && term.pass && open && !term.node.expired()) terms_.push_back(term);
    }
    std::erase_if(terms, [](const Term& term) { return term.root == 0; });
  }
  if (!given.empty()) {
    settled.known = LossKnown::kKnown;
    settled.given = true;
    settled.values = std::move(given);
    return settled;
  }
  std::map<int, int> of_root;
  std::map<const PassNumber*, int> of_pass;
  for (const Term& term : terms) {
    ++of_root[term.root];
    ++of_pass[term.pass.get()];
  }
  for (const Term& term : terms) {
    LossKnown known = LossKnown::kSeveral;
    if (of_root[term.root] == 1 && of_pass[term.pass.get()] == 1) {
      known = !term.alone                  ? LossKnown::kComposite
              : term.value || term.of_root ? LossKnown::kKnown
                                           : LossKnown::kUnreduced;
    }
    settled.known = std::max(settled.known, known);
  }
  const bool name = name_all || settled.known != LossKnown::kKnown;
  std::map<std::pair<int, std::string>, int> seen;
  for (const Term& term : terms) {
    const int nth = ++seen[{term.root, term.function}];
    const std::string own = "loss_" + term.function + (nth == 1 ? "" : "_" + std::to_string(nth));
    // Of what is no scalar there is no value before it is reduced, and then it may be mixed with others.
    const auto value = term.value ? term.value : name ? std::nullopt : term.of_root;
    if (value) settled.values.push_back({name ? own : "", *value, term.call, term.pass});
  }
  return settled;
}

}  // namespace ikkuna::torch_probe
