#include "probe/torch/operators.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>
#include <vector>

#include "probe/torch/module_outputs.h"
#include "probe/torch/operator_callback.h"

namespace ikkuna::torch_probe {

namespace {

constexpr uint64_t kLayerKinds = KindBit(Kind::kActivations) | KindBit(Kind::kLayerGradients);

const c10::IValue* At(c10::ArrayRef<const c10::IValue> inputs, int index) {
  return index >= 0 && static_cast<size_t>(index) < inputs.size() ? &inputs[static_cast<size_t>(index)] : nullptr;
}

// The interpreter passes its whole stack: the arguments are the last of it.
c10::ArrayRef<const c10::IValue> ArgumentsOf(const OperatorInfo* info, c10::ArrayRef<const c10::IValue> inputs) {
  if (info == nullptr || inputs.size() <= info->arguments) return inputs;
  return inputs.slice(inputs.size() - info->arguments);
}

// Calls `visit` for each tensor that the operator writes.
template <typename Visit>
void EachWritten(const OperatorInfo& info, c10::ArrayRef<const c10::IValue> inputs, Visit&& visit) {
  for (uint32_t rest = info.written; rest != 0; rest &= rest - 1) {
    const auto i = static_cast<size_t>(std::countr_zero(rest));
    if (i < inputs.size()) EachTensor(inputs[i], visit);
  }
}

}  // namespace

std::unique_ptr<OperatorContext> Operators::Started(ThreadState& thread, const at::RecordFunction& function,
                                                    const OperatorInfo* info) {
  auto inputs = ArgumentsOf(info, function.inputs());
  if (inputs.empty()) return nullptr;
  OperatorContext context;
  context.listener = serial_;
  context.info = info;
  bool follow = false;
  if (info == nullptr) {
    follow = CarryStarted(thread, inputs, context);
  } else if (info->what == OperatorClass::kLayer) {
    follow = LayerStarted(thread, inputs, context);
  } else if (info->what == OperatorClass::kFunctional) {
    follow = FunctionalStarted(thread, inputs, context);
  } else if (info->what == OperatorClass::kLoss) {
    follow = losses_.LossStarted(thread, inputs, context);
  } else if (info->what == OperatorClass::kRoot) {
    losses_.BackwardStarts(thread, FirstTensor(inputs[0]));
    follow = context.deeper = true;
  } else {
    follow = WriteStarted(thread, inputs, context);
  }
  if (!follow) return nullptr;
  if (context.end != OperatorEnd::kNothing) AskForResults(function);
  if (context.deeper) ++thread.depth;
  return std::make_unique<OperatorContext>(std::move(context));
}

// An optimizer writes more of its own state than of the model.
bool Operators::MayCount(const ThreadState& thread, const OperatorInfo& info,
                         c10::ArrayRef<const c10::IValue> inputs) const {
  if (info.collective || thread.awaits_bias.output) return true;
  bool counts = false;
  EachWritten(info, ArgumentsOf(&info, inputs), [&](const at::Tensor& tensor) {
    const void* const data = DataOf(tensor);
    for (int m = 0; data != nullptr && !counts && m < roots_.count(); ++m) counts = roots_.model(m).ParamAt(data) >= 0;
  });
  return counts;
}

// Without gradients nothing but the operators themselves tells what a tensor was made of.
bool Operators::CarryStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context) {
  if (InBackward()) return false;
  // What is put together of several batches is of the last of them, the only one that is under way.
  const Origin* origin = nullptr;
  for (const c10::IValue& input : inputs) {
    EachTensor(input, [&](const at::Tensor& tensor) {
      if (origin != nullptr || tensor.grad_fn()) return;
      const Origin* const of_tensor = thread.provenance.Of(tensor);
      if (of_tensor != nullptr && UnderWay(*of_tensor)) origin = of_tensor;
    });
    if (origin != nullptr) break;
  }
  if (origin == nullptr) return false;
  context.origin = *origin;
  context.origin.module = -1;
  context.end = OperatorEnd::kMark;
  return true;
}

bool Operators::WriteStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context) {
  const OperatorInfo& info = *context.info;
  // The bias of a Linear on more than two dimensions is added in place.
  if (info.what == OperatorClass::kArithmetic && inputs.size() > 1 && (info.written & 1) != 0 &&
      thread.awaits_bias.output) {
    const at::Tensor output = FirstTensor(inputs[0]);
    if (output.defined() && thread.awaits_bias.output->_unsafe_get_target() == output.unsafeGetTensorImpl()) {
      context.module = roots_.FindBias(inputs[1], &context.model);
      thread.awaits_bias.output.reset();
      if (context.module >= 0 && context.module == thread.awaits_bias.module &&
          context.model == thread.awaits_bias.model) {
        context.layer = context.module;
        return Counted(thread, context);
      }
    }
  }
  // What a write is made of is no write of its own: a sparse one resizes.
  context.deeper = true;
  if (InBackward()) return false;
  if (info.collective) {
    std::vector<const void*> storages;
    EachWritten(info, inputs, [&](const at::Tensor& tensor) {
      if (tensor.has_storage()) storages.push_back(tensor.storage().unsafeGetStorageImpl());
    });
    ends_.GradientsWritten(storages);
  }
  return FindWritten(thread, inputs, context);
}

Operators::Weighed Operators::FindWeight(ThreadState& thread, const OperatorInfo& info,
                                         c10::ArrayRef<const c10::IValue> inputs) {
  Weighed weighed;
  int bias_owner = -1;
  int bias_model = -1;
  for (const size_t i : {size_t{0}, size_t{2}}) {
    if (bias_owner < 0 && i < inputs.size()) bias_owner = roots_.FindBias(inputs[i], &bias_model);
  }
  for (const int8_t i : {info.weight, info.other_weight}) {
    const c10::IValue* const at = At(inputs, i);
    if (weighed.layer || at == nullptr) continue;
    const at::Tensor tensor = FirstTensor(*at);
    if (!tensor.defined()) continue;
    if (!weighed.weight.defined()) weighed.weight = tensor;
    weighed.layer = finder_.Find(thread, tensor, bias_owner, info.name);
  }
  if (!weighed.layer) weighed.layer = finder_.FindAnew(thread, weighed.weight, bias_owner, info);
  if (const c10::IValue* const data = At(inputs, info.data)) weighed.input = FirstTensor(*data);
  return weighed;
}

// Of the operands of a product at most one is a weight: where all are parameters it is a term of a regularization.
Operators::Weighed Operators::FindOperand(ThreadState& thread, const OperatorInfo& info,
                                          c10::ArrayRef<const c10::IValue> inputs) {
  Weighed weighed;
  std::vector<at::Tensor> operands;
  if (const c10::IValue* const list = At(inputs, info.operands)) {
    EachTensor(*list, [&](const at::Tensor& tensor) { operands.push_back(tensor); });
  }
  for (const int8_t i : {info.weight, info.other_weight}) {
    if (const c10::IValue* const at = At(inputs, i)) operands.push_back(FirstTensor(*at));
  }
  std::erase_if(operands, [](const at::Tensor& tensor) { return !tensor.defined(); });
  const auto watched = [&](const at::Tensor& tensor) { return roots_.FindLeaf(tensor).model >= 0; };
  if (operands.size() < 2 || std::all_of(operands.begin(), operands.end(), watched)) return weighed;
  // A vector without gradients: an iteration that looks for the norm of a weight.
  const auto vector = [](const at::Tensor& tensor) { return tensor.dim() < 2; };
  if (!thread.grad_mode && info.basic && std::any_of(operands.begin(), operands.end(), vector)) return weighed;
  if (!thread.grad_mode && vector(operands[0])) return weighed;
  for (size_t i = 0; i < operands.size() && !weighed.layer; ++i) {
    weighed.weight = operands[i];
    weighed.input = operands[i == 0 ? 1 : 0];
    weighed.layer = finder_.Find(thread, operands[i], -1, info.name);
  }
  if (weighed.layer) return weighed;
  weighed.weight = operands[0];
  weighed.input = operands[1];
  for (size_t i = 0; i < operands.size() && !weighed.layer; ++i) {
    const bool parameter = operands[i].requires_grad() && !IsComputed(operands[i]);
    if (parameter || (i == 0 && !info.basic)) weighed.layer = finder_.FindAnew(thread, operands[i], -1, info);
    if (weighed.layer) weighed.input = operands[i == 0 ? 1 : 0];
  }
  return weighed;
}

// Whether passes without gradients may begin with the module, or one is under way: a product of a weight and a constant
// is otherwise a look at the weight.
bool Operators::BeginsPasses(const ThreadState& thread, const WatchedModel& model, int module) const {
  const auto& state = thread.roots[static_cast<size_t>(model.index())];
  return !state || state->evaluation || !state->training || state->training->first_module == module;
}

bool Operators::LayerStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context) {
  const OperatorInfo& info = *context.info;
  const bool backward = InBackward();
  if (backward && info.basic) return false;
  const auto [found, weight, input] =
      info.product ? FindOperand(thread, info, inputs) : FindWeight(thread, info, inputs);
  if (!found && info.basic) {
    if (!thread.provenance.carries()) return false;
    context.info = nullptr;
    return CarryStarted(thread, inputs, context);
  }
  if (!found) {
    if (backward || thread.provenance.empty()) return false;
    // A layer of another network: what it gives comes from ours, but is none of it. Where the weight was computed it is
    // no layer at all (the product of queries and keys).
    const bool computed = !weight.defined() || IsComputed(weight) || thread.provenance.Of(weight) != nullptr;
    const Origin* const origin = thread.provenance.Of(input);
    if (origin == nullptr || !UnderWay(*origin)) return false;
    if (computed && input.grad_fn()) return false;  // its history tells
    context.origin = *origin;
    context.origin.module = -1;
    context.origin.foreign |= !computed;
    context.end = OperatorEnd::kMark;
    context.deeper = true;
    return true;
  }
  context.model = found->model;
  context.layer = found->layer;
  context.module = found->module;
  WatchedModel& model = roots_.model(context.model);
  context.input = input;
  if (!backward && info.product && !thread.grad_mode && !BeginsPasses(thread, model, context.layer)) return false;
  if (!backward) passes_.LayerBegins(thread, model, {context.layer, DataOf(weight), input, inputs});
  if (info.without_bias && context.module == context.layer && model.module(context.module).has_bias) {
    context.deeper = true;
    context.end = OperatorEnd::kAwait;
    return true;
  }
  // What a layer is made of is none, whether it is looked at or not: autocast calls it again with a copy of the weight.
  if (!Counted(thread, context)) context.deeper = !backward;
  return context.deeper;
}

// By what made its input, not by what ran before: a network that nobody attached runs on the same thread.
bool Operators::FunctionalStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs,
                                  OperatorContext& context) {
  if (thread.provenance.empty() || InBackward()) return false;
  context.deeper = true;
  const at::Tensor input = FirstTensor(inputs[0]);
  // What has a history is found again by it.
  if (thread.grad_mode && input.defined() && input.grad_fn() && !LooksForLayers(thread)) return true;
  bool exact = false;
  const Origin* const origin = thread.provenance.Of(input, &exact);
  if (origin == nullptr || !UnderWay(*origin)) return false;
  context.origin = *origin;
  context.end = OperatorEnd::kMark;
  context.origin.module = -1;
  // Nor is what looks at an output from outside the pass: without gradients at what has them, or after the loss.
  if (origin->foreign || origin->grad_mode != thread.grad_mode || origin->pass->after_loss) return !input.grad_fn();
  context.model = origin->model;
  WatchedModel& model = roots_.model(origin->model);
  // Its module's own name where a Sequential proves it: the tensor that flows in is what the module before gave.
  if (exact && origin->module >= 0) {
    const int next = model.module(origin->module).next_in_sequence;
    if (next >= 0 && !model.module(next).has_params && model.module(next).of_torch &&
        Lists(context.info->module_types, model.module(next).type)) {
      context.module = next;
    }
  }
  if (context.module < 0) {
    // What follows a layer that is not published (depth, filter) is not published either.
    if (origin->layer >= 0 && model.module(origin->layer).reports_as != origin->layer) return !input.grad_fn();
    context.module = model.FunctionalModule(session_, origin->layer, context.info->name, context.info->name);
    if (context.module < 0) return !input.grad_fn();
  }
  context.pass = origin->pass;
  context.wanted = origin->pass->identity->AnyOf(kLayerKinds);
  context.call = origin->pass->calls.Next(context.module);
  context.origin.module = context.module;
  context.end = OperatorEnd::kLayer;
  return true;
}

// Whether it is to be known, on this thread, which operators of a network stand behind which layers.
bool Operators::LooksForLayers(const ThreadState& thread) const {
  for (int m = 0; m < roots_.count(); ++m) {
    const std::unique_ptr<RootThread>& state = thread.roots[static_cast<size_t>(m)];
    if (!state) continue;
    if (roots_.state(m).learning.load(std::memory_order_relaxed)) return true;
    const auto pass = state->asks_layers.lock();
    if (pass && !pass->over.load()) return true;
  }
  return false;
}

// A layer of an attached model, whose output is to be looked at, or at least to be known again.
bool Operators::Counted(ThreadState& thread, OperatorContext& context) {
  const bool backward = InBackward();
  WatchedModel& model = roots_.model(context.model);
  // What backward computes again belongs to the pass that it has reached last.
  const std::shared_ptr<Pass> pass = backward ? StateOn(thread, model).training : thread.pass;
  if (!pass) return false;
  const bool learning = roots_.StateOf(model).learning.load(std::memory_order_relaxed);
  context.wanted = pass->identity->AnyOf(kLayerKinds);
  if (context.wanted && !backward) {
    std::weak_ptr<const Pass>& asks = StateOn(thread, model).asks_layers;
    if (asks.owner_before(pass) || pass.owner_before(asks)) asks = pass;
  }
  // Of which pass a loss, a step of a recurrence or a computed weight is shows at the last layer behind it.
  const bool marked = context.wanted || learning || pass->training || pass->identity->AnyOf(kLossKinds);
  // The first outputs of a pass say when backward reaches it.
  if (!marked && !(pass->tracked != 0 && !pass->hooked) && !MayTrain(model, *pass)) return false;
  context.pass = pass;
  context.recomputed = backward;
  context.call = (backward ? pass->recomputed : pass->calls).Next(context.module);
  context.origin = {context.model, context.layer, context.module, thread.grad_mode, false, pass};
  context.end = OperatorEnd::kLayer;
  context.deeper = true;
  return true;
}

void Operators::Ended(ThreadState& thread, const at::RecordFunction& function, OperatorContext& context) {
  const auto& outputs = function.outputs();
  if (context.end == OperatorEnd::kMark) {
    for (const c10::IValue& result : outputs) {
      EachTensor(result, [&](const at::Tensor& tensor) {
        const bool known = !tensor.grad_fn() && thread.provenance.Of(tensor) != nullptr;
        if (!known && (context.info != nullptr || !tensor.grad_fn())) thread.provenance.Mark(tensor, context.origin);
      });
    }
    return;
  }
  if (outputs.size() < context.info->results) return;  // the operator threw
  if (context.end == OperatorEnd::kAwait) {
    thread.awaits_bias.model = context.model;
    thread.awaits_bias.module = context.module;
    const at::Tensor product = FirstTensor(outputs[outputs.size() - 1]);
    if (product.defined()) thread.awaits_bias.output.emplace(product.getIntrusivePtr());
    return;
  }
  const at::Tensor output = FirstTensor(outputs[outputs.size() - context.info->results]);
  if (!output.defined()) return;
  if (context.end == OperatorEnd::kLoss) return losses_.LossEnded(context, output);
  LayerEnded(thread, context, output);
  if (context.recomputed) return;
  for (size_t i = 1; i < context.info->results; ++i) {
    Origin other = context.origin;
    other.module = -1;
    EachTensor(outputs[outputs.size() - context.info->results + i],
               [&](const at::Tensor& tensor) { thread.provenance.Mark(tensor, other); });
  }
}

void Operators::LayerEnded(ThreadState& thread, OperatorContext& context, const at::Tensor& output) {
  WatchedModel& model = roots_.model(context.model);
  const WatchedModule& module = model.module(context.module);
  if (context.layer >= 0) thread.last_layer = context.layer;
  if (!context.recomputed) thread.provenance.Mark(output, context.origin);
  if (output.requires_grad() && output.grad_fn() && !context.recomputed) {
    backward_.HookPass(context.pass, context.model, context.input, output);
  }
  if (!context.wanted) return;
  LayerReported(model, module.reports_as, context, output);
  if (module.also_reports >= 0) LayerReported(model, model.module(module.also_reports).reports_as, context, output);
}

void Operators::LayerReported(WatchedModel& model, int reported, OperatorContext& context, const at::Tensor& output) {
  if (reported < 0) return;
  const Pass& pass = *context.pass;
  if (!context.recomputed) {
    capture_.Publish(*pass.identity, Kind::kActivations, model, reported, nullptr, 0, context.call, pass.number.get(),
                     output);
  }
  if (!output.requires_grad() || !output.grad_fn()) return;
  if (!pass.identity->Wants(Kind::kLayerGradients, model.module(reported).id)) return;
  if (context.recomputed && pass.calls.Of(context.module) > 1) {
    session_.AddNote("layer gradients of " + Shown(model.module(reported)) + " of " + model.name() +
                     ", which a pass calls several times, may bear the number of another call where backward computes "
                     "it again (checkpointing)");
  }
  backward_.HookLayerGradient(context.pass, context.model, reported, context.call, output);
}

// Whether it is to be known if backward reaches an evaluation pass.
bool Operators::MayTrain(const WatchedModel& model, const Pass& pass) {
  return !pass.training && !pass.hooked && !roots_.StateOf(model).evaluation_trains.load(std::memory_order_relaxed);
}

// A parameter that several models share is written for each of them; a write of a list is one of all that it holds.
bool Operators::FindWritten(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context) {
  const OperatorInfo& info = *context.info;
  c10::SmallVector<int, 8> params;            // of one model behind those of the other
  std::array<size_t, kMaxRoots + 1> begin{};  // of a model's
  int models = 0;
  const int count = roots_.count();
  for (int m = 0; m < count; ++m) {
    WatchedModel& model = roots_.model(m);
    EachWritten(info, inputs, [&](const at::Tensor& tensor) {
      const void* data = DataOf(tensor);
      int param = data == nullptr ? -1 : model.ParamAt(data);
      // What lay there may have moved (set_data), and its memory be another tensor's by now.
      if (param >= 0 && model.HasMoved(param) && model.Refresh()) param = model.ParamAt(data);
      if (param >= 0) params.push_back(param);
    });
    const auto index = static_cast<size_t>(m);
    begin[index + 1] = params.size();
    models += begin[index + 1] > begin[index] ? 1 : 0;
  }
  for (size_t m = 0; m < static_cast<size_t>(count) && models != 0; ++m) {
    const auto written = c10::ArrayRef<int>(params).slice(begin[m], begin[m + 1] - begin[m]);
    if (written.empty()) continue;
    context.writes |= 1u << m;
    roots_.state(static_cast<int>(m)).writes_under_way.fetch_add(1);
    ends_.Written(thread, roots_.model(static_cast<int>(m)), info, written, models > 1);
  }
  return models != 0;
}

void Operators::WriteEnded(const OperatorContext& context) {
  for (uint32_t rest = context.writes; rest != 0; rest &= rest - 1) {
    roots_.state(std::countr_zero(rest)).writes_under_way.fetch_sub(1);
  }
}

}  // namespace ikkuna::torch_probe
