// Losses: which pass of which model they belong to, and when it is known what of them is the loss.
#include <algorithm>
#include <array>
#include <utility>

#include "probe/torch/listener.h"
#include "probe/torch/operator_context.h"
#include "probe/torch/tensor_reader.h"

namespace ikkuna::torch_probe {

namespace {

constexpr uint64_t kLossKinds = KindBit(Kind::kLoss) | KindBit(Kind::kNetworkOutput) | KindBit(Kind::kInputLabels);
constexpr size_t kGraphNodesMax = 16'384;  // of several models that feed each other
constexpr uint32_t kStepsWithoutLoss = 2;  // then it is said

int64_t IntOr(c10::ArrayRef<const c10::IValue> inputs, int index, int64_t otherwise) {
  if (index < 0 || static_cast<size_t>(index) >= inputs.size()) return otherwise;
  const c10::IValue& value = inputs[static_cast<size_t>(index)];
  return value.isInt() ? value.toInt() : otherwise;
}

bool AreClassIndices(const at::Tensor& labels) { return c10::isIntegralType(labels.scalar_type(), false); }

}  // namespace

// Its pass has not ended since the tensor was made.
bool Listener::UnderWay(const Origin& origin) {
  if (origin.pass == nullptr || origin.pass->micro != origin.micro) return false;
  const auto& now = origin.pass->identity;
  return now && !origin.identity.owner_before(now) && !now.owner_before(origin.identity);
}

WatchedLeaf Listener::FindLeaf(const at::Tensor& leaf) const {
  const void* const data = DataOf(leaf);
  for (int m = 0; data != nullptr && m < model_count_.load(std::memory_order_acquire); ++m) {
    WatchedModel& model = *models_[static_cast<size_t>(m)];
    const int param = model.ParamAt(data);
    if (param >= 0) return {m, model.params()[static_cast<size_t>(param)].module};
  }
  return {};
}

// Of several models in a row (a generator and the critic that judges it) the one that the others take their input from:
// it is for its sake that gradients flow through all of them.
Listener::LossOwner Listener::OwnerOfLoss(ThreadState& thread, const at::Tensor& tensor) {
  LossOwner owner;
  if (!tensor.defined()) return owner;
  int found = -1;
  const Origin* origin = nullptr;
  if (!tensor.grad_fn()) {
    origin = thread.provenance.Of(tensor);
    if (origin == nullptr || origin->grad_mode != thread.grad_mode) return owner;
    found = origin->model;
  } else {
    if (!thread.grad_mode) return owner;  // a look at what has gradients, from outside
    const bool alone = model_count_.load(std::memory_order_acquire) == 1;
    std::array<bool, kMaxRoots> met{};
    Provenance::Walk(tensor.grad_fn().get(), alone ? Provenance::kNodesMax : kGraphNodesMax,
                     [&](torch::autograd::Node& node) {
                       if (found >= 0 && alone) return false;
                       const WatchedLeaf leaf = Provenance::LeafAt(node, [this](const at::Tensor& t) { return FindLeaf(t); });
                       if (leaf.model < 0) return true;
                       if (found >= 0 && !met[static_cast<size_t>(leaf.model)]) {
                         models_[static_cast<size_t>(found)]->loss_elsewhere.store(true, std::memory_order_relaxed);
                       }
                       if (!std::exchange(met[static_cast<size_t>(leaf.model)], true)) found = leaf.model;
                       return true;
                     });
    if (found < 0) return owner;
  }
  RootThread* const state = thread.roots[static_cast<size_t>(found)];
  if (state == nullptr) return owner;
  Pass* pass = nullptr;
  if (origin != nullptr)
    pass = UnderWay(*origin) ? origin->pass : nullptr;
  else if (state->in_pass)
    pass = &state->pass;
  else if (state->evaluation.identity)
    pass = &state->evaluation;
  if (pass == nullptr || !pass->identity) return owner;
  owner.model = models_[static_cast<size_t>(found)].get();
  owner.state = state;
  owner.pass = pass;
  return owner;
}

bool Listener::LossStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context) {
  if (InBackward() || inputs.size() < 2) return false;
  context.deeper = true;  // what a loss is made of is no layer, whether the loss is wanted or not
  size_t output = 0;
  LossOwner owner = OwnerOfLoss(thread, FirstTensor(inputs[0]));
  // Some write the target first.
  for (size_t i = 1; owner.pass == nullptr && i < std::min<size_t>(inputs.size(), 3); ++i) {
    owner = OwnerOfLoss(thread, FirstTensor(inputs[i]));
    output = i;
  }
  if (owner.pass == nullptr) return true;
  owner.pass->after_loss = true;
  const bool learning = owner.training() && owner.state->learning.load(std::memory_order_relaxed);
  if (!learning && !owner.pass->identity->AnyOf(kLossKinds)) return true;
  context.end = OperatorEnd::kLoss;
  context.model = owner.model->index();
  context.state = owner.state;
  context.pass = owner.pass;
  context.output = FirstTensor(inputs[output]);
  if (context.info->labelled && output < 2) context.labels = FirstTensor(inputs[1 - output]);
  context.ignore_index = IntOr(inputs, context.info->ignore_index, -1);
  constexpr int64_t kSum = 2;
  context.summed = IntOr(inputs, context.info->reduction, -1) == kSum;
  return true;
}

void Listener::LossEnded(OperatorContext& context, const at::Tensor& result) {
  Pass& pass = *context.pass;
  WatchedModel& model = *models_[static_cast<size_t>(context.model)];
  const StepIdentity& identity = *pass.identity;
  const bool training = &pass == &context.state->pass;
  if (training && !result.requires_grad()) return;  // a diagnostic: nothing is trained by it
  const uint16_t call = pass.losses.NextCall();
  if (context.labels.defined()) {
    const bool classes = AreClassIndices(context.labels);
    capture_.PublishMeta(identity, Kind::kNetworkOutput, model, call, pass.micro, context.output);
    capture_.PublishMeta(identity, Kind::kInputLabels, model, call, pass.micro, context.labels,
                         classes && context.ignore_index >= 0 ? "ignore_index=" + std::to_string(context.ignore_index)
                                                              : std::string());
    if (!classes && identity.AnyOf(Kind::kInputLabels)) {
      session_->AddNote("the accuracy of " + model.name() + " is not known: the targets of its " +
                        LossFunctionName(context.info->name) + " loss are no class indices");
    }
  }
  const double rows = context.output.dim() > 0 ? static_cast<double>(context.output.size(0)) : 1;
  pass.losses.AddTerm(context.info->name, result, ReadScalar(result), context.summed, rows, call, pass.micro);
}

// LibTorch makes the gradient of the scalar that backward is called on just before it starts.
void Listener::BackwardStarts(ThreadState& thread, const at::Tensor& root) {
  if (!thread.grad_mode || InBackward() || !root.defined() || root.numel() != 1 || !root.grad_fn()) return;
  std::optional<double> value;
  for (RootThread* state : thread.roots) {
    if (state == nullptr || !state->in_pass || state->pass.losses.empty()) continue;
    if (!value) value = ReadScalar(root);
    state->pass.losses.BackwardFrom(root, value);
  }
}

void Listener::SettleLosses(Pass& pass, WatchedModel& model, bool training) {
  if (pass.losses.empty()) return;
  SettledLosses settled = pass.losses.Settle(training);
  const bool given = settled.given;
  // Once the trainer gives it, what is recognised beside it is not the loss.
  if (training && !given && model.manual_loss.load(std::memory_order_relaxed)) return;
  if (training) NoteLosses(settled, model);
  // An evaluation by one of the terms that training adds up is not by its loss.
  const bool of_several = !training && !model.manual_loss.load(std::memory_order_relaxed) &&
                          model.several_losses.load(std::memory_order_relaxed);
  if (of_several && settled.known == LossKnown::kKnown && !given) settled.NameAll();
  for (const LossValue& loss : settled.values) {
    const uint32_t name = loss.name.empty() ? 0 : session_->NameId(loss.name);
    if (!loss.name.empty() && name == 0) continue;  // the registry is full, which is said
    capture_.PublishScalar(*pass.identity, Kind::kLoss, name, loss.call, loss.micro, loss.value, loss.name);
  }
}

// Of a step that ends: also what other threads have run for it.
void Listener::SettleLossesOfStep(RootThread& state, WatchedModel& model) {
  const bool heard = state.pass.identity->any() || state.learning.load(std::memory_order_relaxed);
  const bool none = state.in_pass && state.pass.micro == 0 && state.pass.losses.empty();
  SettleLosses(state.pass, model, true);
  std::vector<RootThread*> others;
  {
    std::lock_guard lock(mutex_);
    for (const auto& other : states_[static_cast<size_t>(model.index())]) {
      if (other.get() != &state && other->pending.load() && !other->stepper.load()) others.push_back(other.get());
    }
  }
  for (RootThread* other : others) SettleLosses(other->pass, model, true);
  if (!heard || model.manual_loss.load(std::memory_order_relaxed) ||
      model.loss_elsewhere.load(std::memory_order_relaxed)) {
    return;
  }
  if (!none || !others.empty()) return model.steps_without_loss.store(0, std::memory_order_relaxed);
  if (model.steps_without_loss.fetch_add(1, std::memory_order_relaxed) + 1 != kStepsWithoutLoss) return;
  session_->AddNote("the loss of " + model.name() +
                    " is not known: no loss function of LibTorch ran on its output; call probe.Loss(loss) before "
                    "optimizer.step()");
}

void Listener::NoteLosses(const SettledLosses& settled, WatchedModel& model) {
  std::string names;
  for (const LossValue& loss : settled.values) names += (names.empty() ? "" : ", ") + loss.name;
  const std::string give = "; call probe.Loss(total) before optimizer.step()";
  const std::string unknown = "the loss of " + model.name() + " is not known: ";
  switch (settled.known) {
    case LossKnown::kSeveral:
    case LossKnown::kComposite:
      model.several_losses.store(true, std::memory_order_relaxed);
      session_->AddNote(unknown + "what backward starts from is made of several terms, of which " +
                        (names.empty() ? std::string("none is a scalar") : "these are published by name: " + names) +
                        give);
      break;
    case LossKnown::kUnreduced:
      session_->AddNote(unknown + "its loss function gives many elements, and what was made of them was not seen" +
                        give);
      break;
    case LossKnown::kNothing:
      session_->AddNote(unknown + "backward starts from nothing that a loss function of LibTorch gave" + give);
      break;
    case LossKnown::kKnown:
      break;
  }
}

void Listener::TakeLoss(ThreadState& thread, const at::Tensor& loss) {
  if (model_count_.load(std::memory_order_acquire) == 0 || !loss.defined()) return;
  LossOwner owner = OwnerOfLoss(thread, loss);
  if (owner.pass == nullptr) {  // made of numbers, or on another thread: it is for what ran last here
    owner.model = models_[thread.last_root < 0 ? 0 : static_cast<size_t>(thread.last_root)].get();
    owner.state = &State(thread, *owner.model);
    owner.pass = thread.pass != nullptr && thread.pass_state == owner.state ? thread.pass : &owner.state->pass;
  }
  const bool training = owner.training();
  if (training) owner.model->manual_loss.store(true);
  if (!owner.pass->identity) return;
  if (training && !owner.state->in_pass) {
    // The step it is for has ended. Where its updates are still open it can be added.
    const std::shared_ptr<StepIdentity> ended = owner.state->closing;
    const auto value = ended && ended->AnyOf(Kind::kLoss) ? ReadScalar(loss) : std::nullopt;
    if (value) return capture_.PublishScalar(*ended, Kind::kLoss, 0, 0, 0, *value, "");
    if (owner.pass->identity->step == options_.start_step) return;  // nothing was trained yet
    session_->AddNote("probe.Loss() of " + owner.model->name() +
                      " came when its step had ended: call it before optimizer.step()");
    return;
  }
  if (!owner.pass->identity->AnyOf(Kind::kLoss)) return;
  const auto value = ReadScalar(loss);
  if (!value) {
    session_->AddNote("probe.Loss() of " + owner.model->name() + " got what is not one number on the host");
    return;
  }
  owner.pass->losses.Give(*value, owner.pass->losses.NextCall(), owner.pass->micro);
}

}  // namespace ikkuna::torch_probe
