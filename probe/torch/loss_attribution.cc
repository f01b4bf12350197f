#include "probe/torch/loss_attribution.h"

#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "probe/torch/listener.h"
#include "probe/torch/tensor_reader.h"

namespace ikkuna::torch_probe {

namespace {

// What carries the scale that a loss was multiplied by.
constexpr uint64_t kScaledKinds = KindBit(Kind::kLayerGradients) | KindBit(Kind::kRawWeightGradients) |
                                  KindBit(Kind::kWeightGradients) | KindBit(Kind::kBiasGradients);
constexpr size_t kGraphNodesMax = 16'384;  // of several models that feed each other, of a cell that is unrolled

int64_t IntOr(c10::ArrayRef<const c10::IValue> inputs, int index, int64_t otherwise) {
  if (index < 0 || static_cast<size_t>(index) >= inputs.size()) return otherwise;
  const c10::IValue& value = inputs[static_cast<size_t>(index)];
  return value.isInt() ? value.toInt() : otherwise;
}

bool AreIntegers(const at::Tensor& labels) { return c10::isIntegralType(labels.scalar_type(), false); }

// Held by the hook on a term: when it is destroyed no backward can reach the term any more.
class TermLife {
 public:
  TermLife(const std::shared_ptr<PassLosses>& losses, uint64_t term) : losses_(losses), term_(term) {}
  ~TermLife() {
    if (const auto losses = losses_.lock()) losses->Drop(term_);
  }
  TermLife(const TermLife&) = delete;
  TermLife& operator=(const TermLife&) = delete;

 private:
  const std::weak_ptr<PassLosses> losses_;
  const uint64_t term_;
};

bool IsUnderWay(const std::shared_ptr<Pass>& pass) { return pass && !pass->over.load(); }

}  // namespace

// Of several models in a row (a generator and the critic that judges it) the one that the others take their input from:
// it is for its sake that gradients flow through all of them.
LossAttribution::LossOwner LossAttribution::OwnerOfLoss(ThreadState& thread, const at::Tensor& tensor) {
  LossOwner owner;
  if (!tensor.defined()) return owner;
  int found = -1;
  const Origin* origin = nullptr;
  if (!tensor.grad_fn()) {
    origin = thread.provenance.Of(tensor);
    // Made without gradients it may be compared outside of the guard.
    if (origin == nullptr || (origin->grad_mode && !thread.grad_mode)) return owner;
    found = origin->model;
  } else {
    if (!thread.grad_mode) return owner;  // a look at what has gradients, from outside
    const bool alone = roots_.count() == 1;
    Roots::Models met{};
    int of_several = -1;
    bool shared = false;
    const Provenance::FindLeaf find = [&](const at::Tensor& leaf) { return roots_.FindLeaf(leaf, met, &shared); };
    Provenance::Walk(tensor.grad_fn().get(), kGraphNodesMax, [&](torch::autograd::Node& node) {
      if (found >= 0 && alone) return false;
      shared = false;
      const WatchedLeaf leaf = Provenance::LeafAt(node, find);
      if (leaf.model < 0) return true;
      if (shared) {  // whose pass it is shows at a parameter of its own
        if (of_several < 0) of_several = leaf.model;
        return true;
      }
      if (found >= 0 && !met[static_cast<size_t>(leaf.model)]) {
        roots_.model(found).loss_elsewhere.store(true, std::memory_order_relaxed);
      }
      if (!std::exchange(met[static_cast<size_t>(leaf.model)], true)) found = leaf.model;
      return true;
    });
    if (found < 0) found = of_several;
    if (found < 0) return owner;
  }
  owner.model = &roots_.model(found);
  if (origin != nullptr) {
    if (UnderWay(*origin)) owner.pass = origin->pass;
    return owner;
  }
  // Not the last pass of the thread, where the tensor shows which it is of: a target may have been made after it.
  const std::unique_ptr<RootThread>& state = thread.roots[static_cast<size_t>(found)];
  const Origin* const made = thread.provenance.Of(tensor);
  if (made != nullptr && made->model == found && made->pass && UnderWay(*made))
    owner.pass = made->pass;
  else if (state && IsUnderWay(state->training) && owner.model->layer_threads.load(std::memory_order_relaxed) <= 1)
    owner.pass = state->training;
  else if (auto elsewhere = PassOnAnyThread(roots_.state(found), tensor))
    owner.pass = std::move(elsewhere);
  else if (state && IsUnderWay(state->training))
    owner.pass = state->training;
  else if (state)
    owner.pass = state->evaluation;
  return owner;
}

// Of the training passes under way, of which something is published, the one that the tensor was made by.
std::shared_ptr<Pass> LossAttribution::PassOnAnyThread(RootState& root, const at::Tensor& tensor) {
  std::vector<std::shared_ptr<Pass>> passes;
  {
    std::lock_guard lock(root.mutex);
    for (const RootState::Recorded& recorded : root.recorded) {
      if (IsUnderWay(recorded.pass) && recorded.pass->training) passes.push_back(recorded.pass);
    }
  }
  std::map<const torch::autograd::Node*, std::shared_ptr<Pass>> first;
  std::vector<std::shared_ptr<torch::autograd::Node>> alive;
  for (const auto& one : passes) {
    std::lock_guard lock(one->walks_mutex);
    auto node = one->first_output.lock();
    if (!node) continue;
    first[node.get()] = one;
    alive.push_back(std::move(node));
  }
  std::shared_ptr<Pass> pass;
  if (first.empty()) return pass;
  Provenance::Walk(tensor.grad_fn().get(), kGraphNodesMax, [&](torch::autograd::Node& node) {
    if (const auto at = first.find(&node); !pass && at != first.end()) pass = at->second;
    return !pass;
  });
  return pass;
}

// No layer of the model is known: what a loss is made of is a pass.
bool LossAttribution::BeginsPass(const ThreadState& thread, const LossOwner& owner) const {
  if (owner.model == nullptr || !thread.grad_mode) return false;
  if (owner.model->has_layers.load(std::memory_order_relaxed)) return false;
  if (!owner.pass || owner.pass->walked.load()) return true;
  return owner.pass->hooked && owner.pass->life.expired();  // its graph is gone
}

bool LossAttribution::LossStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs,
                                  OperatorContext& context) {
  if (InBackward() || inputs.size() < 2) return false;
  context.deeper = true;  // what a loss is made of is no layer, whether the loss is wanted or not
  size_t output = 0;
  LossOwner owner;
  // Some write the target first. It may be a model's output as well: what has gradients is trained by it.
  for (const bool trains : {true, false}) {
    for (size_t i = 0; i < std::min<size_t>(inputs.size(), 3) && !owner.pass; ++i) {
      const at::Tensor tensor = FirstTensor(inputs[i]);
      if (!tensor.defined() || (tensor.grad_fn() != nullptr) != trains) continue;
      LossOwner of_input = OwnerOfLoss(thread, tensor);
      if (trains && BeginsPass(thread, of_input)) of_input.pass = passes_.BeginWithoutLayer(thread, *of_input.model);
      owner = std::move(of_input);
      output = i;
    }
  }
  if (!owner.pass) return true;
  owner.pass->after_loss = true;
  const bool learning = owner.pass->training && roots_.StateOf(*owner.model).learning.load(std::memory_order_relaxed);
  if (!learning && !owner.pass->identity->AnyOf(kLossKinds | kScaledKinds)) return true;
  context.end = OperatorEnd::kLoss;
  context.model = owner.model->index();
  context.pass = owner.pass;
  context.output = FirstTensor(inputs[output]);
  if (context.info->labelled && output < 2) context.labels = FirstTensor(inputs[1 - output]);
  if (context.labels.defined() && owner.pass->identity->AnyOf(probe::kSmallKinds)) {
    const Origin* const made = thread.provenance.Of(context.output);
    context.layer = made == nullptr ? -1 : made->layer;
  }
  context.ignore_index = IntOr(inputs, context.info->ignore_index, -1);
  constexpr int64_t kSum = 2;
  context.summed = IntOr(inputs, context.info->reduction, -1) == kSum;
  context.weighted = context.info->ignore_index >= 0 && inputs.size() > 2 && FirstTensor(inputs[2]).defined();
  return true;
}

void LossAttribution::LossEnded(OperatorContext& context, const at::Tensor& result) {
  Pass& pass = *context.pass;
  WatchedModel& model = roots_.model(context.model);
  if (pass.training && !result.requires_grad()) return;  // a diagnostic: nothing is trained by it
  LossTerm term;
  term.function = LossFunctionName(context.info->name);
  term.node = result.grad_fn();
  term.given = ReadScalar(result);
  term.count.summed = context.summed;
  term.count.rows = context.output.dim() > 0 ? static_cast<double>(context.output.size(0)) : 1;
  if (context.summed) {
    term.count.elements =
        ElementsOf(context.info->name, context.output, context.labels, context.ignore_index, context.weighted);
  }
  term.call = pass.losses->NextCall();
  term.pass = pass.number;
  if (context.labels.defined() && pass.identity->AnyOf(probe::kSmallKinds)) {
    LabelledOutput labelled;
    labelled.output = context.output.detach();
    labelled.labels = context.labels.detach();
    const bool integers = AreIntegers(context.labels);
    labelled.classes = integers && context.info->classes;
    labelled.layer = context.layer;
    if (labelled.classes && context.ignore_index >= 0) {
      labelled.name = "ignore_index=" + std::to_string(context.ignore_index);
    } else if (integers && !labelled.classes) {
      labelled.name = "no_classes";
    }
    labelled.loss = context.info->name;
    labelled.identity = pass.identity;
    labelled.pass = pass.number;
    labelled.call = term.call;
    if (pass.training) {
      term.labelled = std::move(labelled);
    } else {
      // No backward tells which is meant, and the tensors may be gone after this call: what has gone out is taken back.
      labelled.mixed = labelled.classes && pass.losses->CountClassLabels() > 0;
      settling_.PublishOutputs({labelled}, model, false);
    }
  }
  const uint64_t number = pass.losses->AddTerm(std::move(term));
  if (number == 0) {
    if (pass.number) pass.number->dropped_kinds.fetch_or(KindBit(Kind::kLoss));
    session_.AddNote("a pass of " + model.name() + " has more than 1024 losses: its further ones are not published");
    return;
  }
  if (!pass.training || !result.grad_fn()) return;
  auto life = std::make_shared<TermLife>(pass.losses, number);
  result.register_hook([serial = serial_, losses = pass.losses, m = model.index(), number,
                        node = result.grad_fn().get(), life = std::move(life)](const at::Tensor& gradient) {
    const Listener::Inside inside;
    Listener* const live = Listener::Live(serial);
    if (live == nullptr) return;
    live->Guarded([&](ThreadState& thread) { live->losses().TermReached(thread, losses, m, number, node, gradient); });
  });
  if (pass.first_module < 0) backward_.HookPass(context.pass, model.index(), {}, result);
}

void LossAttribution::TermReached(ThreadState& thread, const std::shared_ptr<PassLosses>& losses, int model,
                                  uint64_t term, const torch::autograd::Node* node, const at::Tensor& gradient) {
  ThreadTimer timer(thread);
  const int64_t task = torch::autograd::get_current_graph_task_id();
  backward_.HearEndOfBackward(thread, task);
  // It is among what backward goes through, unless that starts there.
  const auto* const nodes = torch::autograd::get_current_graph_task_nodes_in_graph();
  const bool is_root = nodes != nullptr && nodes->count(const_cast<torch::autograd::Node*>(node)) == 0;
  losses->Reached(term, task, loss_roots_.For(thread.id), is_root, ReadScalar(gradient));
  RootState& root = roots_.state(model);
  std::lock_guard lock(root.mutex);
  if (root.last_task.load(std::memory_order_relaxed) == task) losses->Gave(task);
  const auto known = [&](const RootState::ReachedLosses& one) { return one.losses == losses && one.task == task; };
  if (std::any_of(root.losses_reached.begin(), root.losses_reached.end(), known)) return;
  root.losses_reached.push_back({losses, task});
}

void LossAttribution::BackwardStarts(ThreadState& thread, const at::Tensor& root) {
  if (!thread.grad_mode || InBackward() || !root.defined() || root.numel() != 1 || !root.grad_fn()) return;
  thread.starts_backward = true;
  loss_roots_.Add(thread.id, LossRootOf(root, ReadScalar(root)));
}

void LossAttribution::TakeLoss(ThreadState& thread, const at::Tensor& loss) {
  if (roots_.count() == 0 || !loss.defined()) return;
  LossOwner owner = OwnerOfLoss(thread, loss);
  const bool made_of_it = owner.model != nullptr && loss.grad_fn();
  if (owner.model == nullptr) owner.model = &roots_.LastOn(thread);
  WatchedModel& model = *owner.model;
  if (!owner.pass) {  // made of numbers, or of what is over: it is for what ran last here
    const auto& state = thread.roots[static_cast<size_t>(model.index())];
    if (state) owner.pass = state->evaluation ? state->evaluation : state->training;
  }
  const auto value = WhyUnreadable(loss).empty() && loss.numel() == 1 ? ReadScalar(loss) : std::nullopt;
  if (!value) {
    session_.AddNote("probe.Loss() of " + model.name() + " got what is not one number on the host");
    return;
  }
  if (owner.pass && !owner.pass->training) {
    owner.pass->after_loss = true;
    if (owner.pass->identity->AnyOf(Kind::kLoss)) {
      owner.pass->losses->Give(*value, owner.pass->losses->NextCall(), owner.pass->number);
    }
    return;
  }
  // Of an evaluation that nobody asked for no pass is heard: what it gives is not training's.
  const bool evaluates =
      !model.is_training() && !roots_.StateOf(model).evaluation_trains.load(std::memory_order_relaxed);
  if (evaluates && !(made_of_it && IsUnderWay(owner.pass) && owner.pass->identity->AnyOf(Kind::kLoss))) return;
  if (!IsUnderWay(owner.pass)) {
    if (TakeWithoutPass(thread, model, owner.pass, *value)) {
      model.GivesLoss();
      return;
    }
    if (!made_of_it || !BeginsPass(thread, {&model, nullptr})) {
      if (made_of_it && passes_.NotHeard(thread, model, Kind::kLoss)) {
        model.GivesLoss();
        return;
      }
      session_.AddNote("probe.Loss() of " + model.name() +
                       " came when its step had ended: call it before optimizer.step()");
      return;
    }
    owner.pass = passes_.BeginWithoutLayer(thread, model);
    if (!owner.pass) return;
    backward_.HookPass(owner.pass, model.index(), {}, loss);
  }
  model.GivesLoss();
  if (!owner.pass->identity->AnyOf(Kind::kLoss)) return;
  owner.pass->losses->Give(*value, owner.pass->losses->NextCall(), owner.pass->number);
}

// Others ran the passes of the step that is open, or nobody did that is known: the value is of the step as a whole.
// Where the last pass of this thread has ended with a step whose updates are still open, it can be added to that.
bool LossAttribution::TakeWithoutPass(ThreadState& thread, WatchedModel& model, const std::shared_ptr<Pass>& last,
                                      double value) {
  RootState& root = roots_.StateOf(model);
  std::lock_guard lock(root.mutex);
  if (const auto open = tracker_.OpenStep(model.index(), thread.id)) {
    const uint32_t lane = tracker_.LaneOf(model.index(), thread.id);
    const auto identity = lane < root.lanes.size() ? root.lanes[lane]->identity : nullptr;
    if (!identity || identity->step != *open) return false;
    if (!identity->AnyOf(Kind::kLoss)) return true;
    capture_.EnsureStarted(*identity);
    capture_.PublishScalar(*identity, Kind::kLoss, 0, 0, nullptr, value, "");
    return true;
  }
  if (!last || last->first_module < 0) return false;
  for (const auto& lane : root.lanes) {
    if (!lane->closing || lane->closing->step != last->identity->step || !lane->closing->AnyOf(Kind::kLoss)) continue;
    // What was recognised is out: the trainer's own begins with the next step.
    if (last->losses->settled() && !model.manual_loss.load(std::memory_order_relaxed)) return true;
    capture_.PublishScalar(*lane->closing, Kind::kLoss, 0, 0, last->number.get(), value, "");
    return true;
  }
  return false;
}

}  // namespace ikkuna::torch_probe
