#include "probe/torch/losses.h"

#include <algorithm>
#include <iterator>

#include "probe/torch/provenance.h"

namespace ikkuna::torch_probe {

namespace {

using torch::autograd::Node;

void CutEnd(std::string& name, const std::string& end) {
  if (name.size() > end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0) {
    name.resize(name.size() - end.size());
  }
}

}  // namespace

std::string LossFunctionName(const std::string& operator_name) {
  std::string name = operator_name;
  for (const char* end : {"_nd", "2d", "_loss"}) CutEnd(name, end);
  return name;
}

bool PassLosses::scaled() const {
  return root_scaled_.load(std::memory_order_relaxed) ||
         (term_scaled_.load(std::memory_order_relaxed) && !term_plain_.load(std::memory_order_relaxed));
}

uint64_t PassLosses::AddTerm(LossTerm&& given) {
  std::lock_guard lock(mutex_);
  if (terms_.size() >= kTermsMax)
    std::erase_if(terms_, [](const Term& term) { return term.graph && term.node.expired(); });
  if (terms_.size() >= kTermsMax) return 0;
  Term term;
  term.id = ++last_id_;
  term.function = std::move(given.function);
  term.node = given.node;
  term.graph = given.node != nullptr;
  term.given = term.named = term.loss = given.given;
  term.count = given.count;
  term.call = given.call;
  term.model_call = model_calls_;
  term.pass = std::move(given.pass);
  if (given.labelled) {
    const auto kept = std::count_if(terms_.begin(), terms_.end(), [&](const Term& other) {
      return other.pass == term.pass && other.labelled.has_value();
    });
    term.labelled = std::move(given.labelled);
    // Too many of one pass to be its accuracy, whatever becomes of them.
    if (static_cast<size_t>(kept) >= kLabelledMax) {
      classes_[term.pass.get()].mixed = true;
      term.labelled->output = term.labelled->labels = at::Tensor();
    }
  }
  terms_.push_back(std::move(term));
  return last_id_;
}

void PassLosses::Give(double value, uint16_t call, std::shared_ptr<const PassNumber> pass) {
  std::lock_guard lock(mutex_);
  LossValue given;
  given.value = given.loss = value;
  given.call = call;
  given.pass = std::move(pass);
  given_.push_back(std::move(given));
}

void PassLosses::Drop(uint64_t id) {
  std::optional<LabelledOutput> dropped;  // destroyed last, without the mutex
  std::lock_guard lock(mutex_);
  const auto term = std::find_if(terms_.begin(), terms_.end(), [&](const Term& one) { return one.id == id; });
  if (term != terms_.end()) dropped.swap(term->labelled);
}

int PassLosses::CountClassLabels() {
  std::lock_guard lock(mutex_);
  return classes_[nullptr].count++;
}

void PassLosses::NewCall(bool apart) {
  std::lock_guard lock(mutex_);
  classes_.clear();
  model_calls_ += apart ? 1 : 0;
}

void PassLosses::StartFrom(const LossRoot& root, int64_t task, Held* held) {
  const auto hold = [&](const std::weak_ptr<Node>& node) { return held->emplace_back(node.lock()).get(); };
  Node* const top = hold(root.node);
  if (top == nullptr) return;
  std::map<const Node*, Term*> at;  // those not yet reached from elsewhere, but by a look
  for (Term& term : terms_) {
    const Node* const node = hold(term.node);
    const bool free = term.root == 0 || (roots_[term.root - 1].task != task && !roots_[term.root - 1].gave);
    if (node != nullptr && free) at[node] = &term;
  }
  std::vector<std::pair<const Node*, Term*>> reached;
  std::vector<Term*> divided;
  bool others = false;
  const bool whole = Provenance::Walk(top, kNodesMax, [&](Node& node) {
    if (const auto term = at.find(&node); term != at.end()) {
      reached.push_back(*term);
      return false;
    }
    others |= node.next_edges().empty();
    // kl_div with `batchmean` divides by the rows itself.
    for (const auto& edge : node.next_edges()) {
      const auto sum = at.find(edge.function.get());
      if (sum == at.end() || !sum->second->count.summed || sum->second->function != "kl_div") continue;
      if (DivisorOf(node) == sum->second->count.rows) divided.push_back(sum->second);
    }
    return !(others && reached.size() == at.size());
  });
  if (reached.empty()) return;
  roots_.push_back({task, true, false});
  const bool one = reached.size() == 1 && !others && whole;
  for (const auto& [node, term] : reached) {
    const LossReading reading = one ? ReadLoss(root, *node, term->given, term->count.summed) : LossReading();
    term->root = roots_.size();
    term->alone = reading.is_loss;
    term->loss = reading.value;
    term->rounded = reading.rounded;
    term->reduced = reading.reduced;
    term->weight = reading.weight;
    term->named = term->given;
  }
  for (Term* term : divided) {
    if (term->given) term->named = *term->given / term->count.rows;
  }
  if (root.scaled) NoteScale();
}

void PassLosses::Reached(uint64_t id, int64_t task, const std::vector<LossRoot>& seen, bool is_root,
                         std::optional<double> gradient) {
  Held held;  // destroyed last, without the mutex
  std::lock_guard lock(mutex_);
  const auto term = std::find_if(terms_.begin(), terms_.end(), [&](const Term& one) { return one.id == id; });
  if (term == terms_.end()) return;
  const auto of_task = [&](const Root& root) { return root.task == task; };
  if (std::none_of(roots_.begin(), roots_.end(), of_task)) {
    for (const LossRoot& root : seen) StartFrom(root, task, &held);
  }
  if (term->root == 0 || (roots_[term->root - 1].task != task && !roots_[term->root - 1].gave)) {
    // Where it starts was not seen, or is too far away.
    const auto known =
        std::find_if(roots_.begin(), roots_.end(), [&](const Root& root) { return of_task(root) && !root.seen; });
    term->root = static_cast<size_t>(known - roots_.begin()) + 1;
    if (known == roots_.end()) roots_.push_back({task, false, false});
    term->alone = is_root;
    term->loss = is_root ? term->given : std::nullopt;
    term->weight.reset();
  }
  const Root& root = roots_[term->root - 1];
  if (!gradient || (root.seen && term->alone)) return;
  const bool scale = IsLossScale(*gradient);
  if (scale && !root.seen)
    NoteScale();  // of several terms the one of most weight carries it
  else
    (scale ? term_scaled_ : term_plain_).store(true, std::memory_order_relaxed);
}

void PassLosses::Gave(int64_t task) {
  std::lock_guard lock(mutex_);
  for (Root& root : roots_) root.gave |= root.task == task;
}

std::vector<LabelledOutput> PassLosses::TakeOutputs(int64_t task, bool by_hooks) {
  std::lock_guard lock(mutex_);
  std::vector<LabelledOutput> outputs;
  const auto is_reached = [&](const Term& term) {
    if (!term.labelled || term.root == 0) return false;
    const Root& root = roots_[term.root - 1];
    return root.task == task && (root.gave || !by_hooks);
  };
  for (const Term& term : terms_) {
    if (!is_reached(term) || !term.labelled->classes) continue;
    Classes& classes = classes_[term.pass.get()];
    const int layer = term.labelled->layer;
    const void* const output = term.labelled->output.defined() ? term.labelled->output.const_data_ptr() : nullptr;
    auto& known = classes.outputs;
    // A loss at each time step is of one layer's outputs, each compared once.
    const bool another = layer < 0 || layer != classes.layer || std::find(known.begin(), known.end(), output) != known.end();
    if (classes.count++ != 0) classes.mixed |= another;
    classes.layer = layer;
    known.push_back(output);
  }
  for (Term& term : terms_) {
    if (!is_reached(term)) continue;
    LabelledOutput labelled = std::move(*term.labelled);
    term.labelled.reset();
    labelled.mixed = (labelled.classes && classes_[term.pass.get()].mixed) || !labelled.output.defined();
    outputs.push_back(std::move(labelled));
  }
  return outputs;
}

SettledLosses PassLosses::Settle(bool training, const std::vector<const PassNumber*>& over, bool by_hooks) {
  SettledLosses settled;
  if (training) {
    std::vector<int64_t> tasks;
    {
      std::lock_guard lock(mutex_);
      for (const Root& root : roots_) tasks.push_back(root.task);
    }
    for (const int64_t task : tasks) {
      auto outputs = TakeOutputs(task, by_hooks);
      std::move(outputs.begin(), outputs.end(), std::back_inserter(settled.outputs));
    }
  }
  std::vector<Term> terms;  // destroyed last, without the mutex
  std::lock_guard lock(mutex_);
  const std::vector<Root> roots = std::exchange(roots_, {});
  terms.swap(terms_);
  settled.given = !given_.empty();
  settled.any = settled.given || !terms.empty();
  settled_ |= settled.any;
  classes_.clear();
  if (training) {
    const bool gave = by_hooks || std::any_of(roots.begin(), roots.end(), [](const Root& root) { return root.gave; });
    const auto reached = [&](const Term& term) { return term.root != 0 && (!gave || roots[term.root - 1].gave); };
    for (Term& term : terms) {
      const bool open = std::find(over.begin(), over.end(), term.pass.get()) == over.end();
      if (reached(term) || !term.pass || !open || term.node.expired()) continue;
      Term kept = term;
      kept.root = 0;
      terms_.push_back(std::move(kept));
    }
    std::erase_if(terms, [&](const Term& term) { return !reached(term); });
  }
  if (terms_.empty()) calls_ = 0;
  if (settled.given) {
    settled.values = std::exchange(given_, {});
    return settled;
  }
  std::map<size_t, int> of_root;
  std::map<const PassNumber*, int> of_pass;
  std::map<uint32_t, int> of_call;
  for (const Term& term : terms) {
    ++of_root[term.root];
    ++of_pass[term.pass.get()];
    ++of_call[term.model_call];
  }
  const auto known = [](const Term& term, bool several) {
    return several       ? LossKnown::kSeveral
           : !term.alone ? LossKnown::kComposite
           : term.loss   ? LossKnown::kKnown
                         : LossKnown::kUnreduced;
  };
  const auto name = [](const Term& term, int nth) {
    return "loss_" + term.function + (nth == 1 ? "" : "_" + std::to_string(nth));
  };
  std::map<std::pair<size_t, std::string>, int> nth_of;
  std::map<std::pair<uint32_t, std::string>, int> nth_of_call;
  for (const Term& term : terms) {
    LossValue value;
    value.known = known(term, of_root[term.root] > 1 || of_pass[term.pass.get()] > 1);
    value.known_of_call = known(term, of_call[term.model_call] > 1);
    value.function = term.function;
    value.name = name(term, ++nth_of[{term.root, term.function}]);
    value.name_of_call = name(term, ++nth_of_call[{term.model_call, term.function}]);
    value.loss = term.loss;
    value.given = term.given;
    value.count = term.count;
    value.rounded = term.rounded;
    value.reduced = term.reduced;
    value.weight = term.weight;
    // Of what is no scalar there is no value before it is reduced, and then it may be mixed with others.
    value.value = term.given && term.alone && term.loss ? term.loss : term.named;
    value.call = term.call;
    value.pass = term.pass;
    settled.values.push_back(std::move(value));
  }
  return settled;
}

}  // namespace ikkuna::torch_probe
