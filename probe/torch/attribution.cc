// Losses: which pass of which model they belong to, and when it is known what of them is the loss.
#include <algorithm>
#include <array>
#include <utility>

#include "probe/torch/listener.h"
#include "probe/torch/name_list.h"
#include "probe/torch/operator_context.h"
#include "probe/torch/tensor_reader.h"

namespace ikkuna::torch_probe {

namespace {

// What carries the scale that a loss was multiplied by.
constexpr uint64_t kScaledKinds = KindBit(Kind::kLayerGradients) | KindBit(Kind::kRawWeightGradients) |
                                  KindBit(Kind::kWeightGradients) | KindBit(Kind::kBiasGradients);
constexpr size_t kGraphNodesMax = 16'384;  // of several models that feed each other
constexpr uint32_t kStepsWithoutLoss = 2;  // then it is said

int64_t IntOr(c10::ArrayRef<const c10::IValue> inputs, int index, int64_t otherwise) {
  if (index < 0 || static_cast<size_t>(index) >= inputs.size()) return otherwise;
  const c10::IValue& value = inputs[static_cast<size_t>(index)];
  return value.isInt() ? value.toInt() : otherwise;
}

bool AreClassIndices(const at::Tensor& labels) { return c10::isIntegralType(labels.scalar_type(), false); }

}  // namespace

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
    Provenance::Walk(
        tensor.grad_fn().get(), alone ? Provenance::kNodesMax : kGraphNodesMax, [&](torch::autograd::Node& node) {
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
  const std::unique_ptr<RootThread>& state = thread.roots[static_cast<size_t>(found)];
  if (!state) return owner;
  // Not the last pass of the thread, where the tensor shows which it is of: a target may have been made after it.
  const Origin* const made = origin != nullptr ? origin : thread.provenance.Of(tensor);
  std::shared_ptr<Pass> pass;
  if (origin != nullptr)
    pass = UnderWay(*origin) ? origin->pass : nullptr;
  else if (made != nullptr && made->model == found && made->pass && UnderWay(*made))
    pass = made->pass;
  else if (state->training && !state->training->over.load())
    pass = state->training;
  else
    pass = state->evaluation;
  if (!pass) return owner;
  owner.model = models_[static_cast<size_t>(found)].get();
  owner.pass = std::move(pass);
  return owner;
}

bool Listener::LossStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context) {
  if (InBackward() || inputs.size() < 2) return false;
  context.deeper = true;  // what a loss is made of is no layer, whether the loss is wanted or not
  size_t output = 0;
  LossOwner owner = OwnerOfLoss(thread, FirstTensor(inputs[0]));
  // Some write the target first.
  for (size_t i = 1; !owner.pass && i < std::min<size_t>(inputs.size(), 3); ++i) {
    owner = OwnerOfLoss(thread, FirstTensor(inputs[i]));
    output = i;
  }
  if (!owner.pass) return true;
  owner.pass->after_loss = true;
  const bool learning = owner.pass->training && StateOf(*owner.model).learning.load(std::memory_order_relaxed);
  if (!learning && !owner.pass->identity->AnyOf(kLossKinds | kScaledKinds)) return true;
  context.end = OperatorEnd::kLoss;
  context.model = owner.model->index();
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
  const bool training = pass.training;
  if (training && !result.requires_grad()) return;  // a diagnostic: nothing is trained by it
  if (training && pass.number && result.grad_fn() && result.numel() == 1) {
    result.register_hook([serial = serial_, losses = pass.losses](const at::Tensor& gradient) {
      const Inside inside;
      Listener* const live = Live(serial);
      if (live == nullptr) return;
      live->Guarded([&](ThreadState&) {
        if (const auto value = ReadScalar(gradient)) losses->NoteGradient(*value);
      });
    });
  }
  const uint16_t call = pass.losses->NextCall();
  if (context.labels.defined()) {
    const bool classes = AreClassIndices(context.labels);
    capture_.PublishMeta(identity, Kind::kNetworkOutput, model, call, pass.number.get(), context.output);
    capture_.PublishMeta(
        identity, Kind::kInputLabels, model, call, pass.number.get(), context.labels,
        classes && context.ignore_index >= 0 ? "ignore_index=" + std::to_string(context.ignore_index) : std::string());
    if (!classes && identity.AnyOf(Kind::kInputLabels)) {
      session_->AddNote("the accuracy of " + model.name() + " is not known: the targets of its " +
                        LossFunctionName(context.info->name) + " loss are no class indices");
    }
  }
  const double rows = context.output.dim() > 0 ? static_cast<double>(context.output.size(0)) : 1;
  pass.losses->AddTerm(context.info->name, result, ReadScalar(result), context.summed, rows, call, pass.number);
}

// LibTorch makes the gradient of the scalar that backward is called on just before it starts.
void Listener::BackwardStarts(ThreadState& thread, const at::Tensor& root) {
  if (!thread.grad_mode || InBackward() || !root.defined() || root.numel() != 1 || !root.grad_fn()) return;
  std::optional<double> value;
  for (const auto& state : thread.roots) {
    if (!state || !state->training || state->training->over.load() || state->training->losses->empty()) continue;
    if (!value) value = ReadScalar(root);
    state->training->losses->BackwardFrom(root, value);
  }
}

// Of all passes between two backward passes; a second time there is nothing left. `over`: those that end now.
bool Listener::SettleLosses(const Pass& pass, WatchedModel& model, const std::vector<std::shared_ptr<Pass>>& over) {
  if (pass.losses->empty()) return false;
  const bool training = pass.training;
  // An evaluation by one of the terms that training adds up is not by its loss.
  const bool of_several = !training && !model.manual_loss.load(std::memory_order_relaxed) &&
                          model.several_losses.load(std::memory_order_relaxed);
  std::vector<const PassNumber*> numbers;
  for (const auto& ended : over) numbers.push_back(ended->number.get());
  const SettledLosses settled = pass.losses->Settle(training, numbers, of_several);
  const bool given = settled.given;
  // Once the trainer gives it, what is recognised beside it is not the loss.
  if (training && !given && model.manual_loss.load(std::memory_order_relaxed)) return true;
  if (training) NoteLosses(settled, model);
  for (const LossValue& loss : settled.values) {
    const uint32_t name = loss.name.empty() ? 0 : session_->NameId(loss.name);
    if (!loss.name.empty() && name == 0) continue;  // the registry is full, which is said
    capture_.PublishScalar(*pass.identity, Kind::kLoss, name, loss.call, loss.pass.get(), loss.value, loss.name);
  }
  return true;
}

// Of a step that ends, whichever threads have run its passes.
void Listener::SettleLossesOfStep(const std::vector<std::shared_ptr<Pass>>& passes, WatchedModel& model, bool heard) {
  bool any = false;
  for (const auto& pass : passes) any |= SettleLosses(*pass, model, passes) || pass->losses->settled();
  if (!heard || passes.empty() || model.manual_loss.load(std::memory_order_relaxed) ||
      model.loss_elsewhere.load(std::memory_order_relaxed)) {
    return;
  }
  if (any) return model.steps_without_loss.store(0, std::memory_order_relaxed);
  if (model.steps_without_loss.fetch_add(1, std::memory_order_relaxed) + 1 != kStepsWithoutLoss) return;
  session_->AddNote("the loss of " + model.name() +
                    " is not known: no loss function of LibTorch ran on its output; call probe.Loss(loss) before "
                    "optimizer.step()");
}

void Listener::NoteLosses(const SettledLosses& settled, WatchedModel& model) {
  NameList names;
  for (const LossValue& loss : settled.values) names.Add(loss.name);
  const std::string give = "; call probe.Loss(total) before optimizer.step()";
  const std::string unknown = "the loss of " + model.name() + " is not known: ";
  switch (settled.known) {
    case LossKnown::kSeveral:
    case LossKnown::kComposite:
      model.several_losses.store(true, std::memory_order_relaxed);
      session_->AddNote(unknown + "what backward starts from is made of several terms, of which " +
                        (names.empty() ? std::string("none is a scalar") : "these are published by name: " + names.Text()) +
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
  if (!owner.pass) {  // made of numbers, or on another thread: it is for what ran last here
    owner.model = models_[thread.last_root < 0 ? 0 : static_cast<size_t>(thread.last_root)].get();
    const auto& state = thread.roots[static_cast<size_t>(owner.model->index())];
    if (state) owner.pass = state->evaluation ? state->evaluation : state->training;
  }
  const bool training = !owner.pass || owner.pass->training;
  if (training) owner.model->manual_loss.store(true);
  if (!owner.pass) return;
  if (training && owner.pass->over.load()) {
    // The step it is for has ended. Where its updates are still open it can be added.
    RootState& root = StateOf(*owner.model);
    std::lock_guard lock(root.mutex);
    for (const auto& lane : root.lanes) {
      if (lane->closing != owner.pass->identity || !lane->closing->AnyOf(Kind::kLoss)) continue;
      if (const auto value = ReadScalar(loss)) {
        return capture_.PublishScalar(*lane->closing, Kind::kLoss, 0, 0, owner.pass->number.get(), *value, "");
      }
    }
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
  owner.pass->losses->Give(*value, owner.pass->losses->NextCall(), owner.pass->number);
}

}  // namespace ikkuna::torch_probe
