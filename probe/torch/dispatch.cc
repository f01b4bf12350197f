// Operators: which layer or loss they are, what flows through them, and which writes they make.
#include <algorithm>
#include <bit>
#include <string_view>
#include <utility>

#include "probe/torch/listener.h"
#include "probe/torch/module_outputs.h"
#include "probe/torch/operator_context.h"
#include "probe/torch/tensor_reader.h"

namespace ikkuna::torch_probe {

namespace {

constexpr uint64_t kLayerKinds = KindBit(Kind::kActivations) | KindBit(Kind::kLayerGradients);

const c10::IValue* At(c10::ArrayRef<const c10::IValue> inputs, int index) {
  return index >= 0 && static_cast<size_t>(index) < inputs.size() ? &inputs[static_cast<size_t>(index)] : nullptr;
}

// Calls `visit` for each tensor that the operator writes.
template <typename Visit>
void EachWritten(const OperatorInfo& info, c10::ArrayRef<const c10::IValue> inputs, Visit&& visit) {
  for (uint32_t rest = info.written; rest != 0; rest &= rest - 1) {
    const auto i = static_cast<size_t>(std::countr_zero(rest));
    if (i < inputs.size()) EachTensor(inputs[i], visit);
  }
}

// With a history of its own, beyond that of a view (weight.t()).
bool IsComputed(const at::Tensor& tensor) {
  return tensor.grad_fn() && !(tensor.is_view() && !tensor._base().grad_fn());
}

}  // namespace

std::unique_ptr<at::ObserverContext> Listener::OnStart(const at::RecordFunction& function) {
  const Inside inside;
  Listener* self = live_listener_.load();
  if (self == nullptr || !self->active()) return nullptr;
  ThreadState& thread = self->OwnThread();
  ++thread.cost.calls;  // whatever comes of it: LibTorch has boxed the operator's arguments for us
  if (thread.busy || thread.depth > 0) return nullptr;
  if (InBackward() && !self->WantsRecomputation(thread)) {
    if (self->OneThreadRunsLayers()) self->Guarded([&](ThreadState& own) { self->SleepDuringBackward(own); });
    return nullptr;
  }
  const OperatorInfo* const info = self->operators_.Find(function.name());
  if (info == nullptr && !thread.provenance.carries()) return nullptr;
  thread.grad_mode = at::GradMode::is_enabled();
  std::unique_ptr<at::ObserverContext> context;
  self->Guarded([&](ThreadState& own) {
    ThreadTimer timer(own);
    context = self->Started(own, function, info);
  });
  return context;
}

void Listener::OnEnd(const at::RecordFunction& function, at::ObserverContext* context) {
  if (context == nullptr) return;
  const Inside inside;
  Listener* self = live_listener_.load();
  ThreadState& thread = CurrentThread();
  auto& begun = static_cast<OperatorContext&>(*context);
  if (begun.deeper && thread.depth > 0) --thread.depth;
  if (self == nullptr || thread.listener != self->serial_ || begun.listener != self->serial_) return;
  if (begun.end == OperatorEnd::kNothing) return;
  self->Guarded([&](ThreadState& own) {
    ThreadTimer timer(own);
    self->Ended(own, function, begun);
  });
}

std::unique_ptr<at::ObserverContext> Listener::Started(ThreadState& thread, const at::RecordFunction& function,
                                                       const OperatorInfo* info) {
  auto inputs = function.inputs();
  // The interpreter passes its whole stack: the arguments are the last of it.
  if (info != nullptr && inputs.size() > info->arguments) inputs = inputs.slice(inputs.size() - info->arguments);
  if (inputs.empty()) return nullptr;
  auto context = std::make_unique<OperatorContext>();
  context->listener = serial_;
  context->info = info;
  bool follow = false;
  if (info == nullptr) {
    follow = CarryStarted(thread, inputs, *context);
  } else if (info->what == OperatorClass::kLayer) {
    follow = LayerStarted(thread, inputs, *context);
  } else if (info->what == OperatorClass::kFunctional) {
    follow = FunctionalStarted(thread, inputs, *context);
  } else if (info->what == OperatorClass::kLoss) {
    follow = LossStarted(thread, inputs, *context);
  } else if (info->what == OperatorClass::kRoot) {
    BackwardStarts(thread, FirstTensor(inputs[0]));
  } else {
    follow = WriteStarted(thread, inputs, *context);
  }
  if (!follow) return nullptr;
  if (context->deeper) ++thread.depth;
  return context;
}

// Without gradients nothing but the operators themselves tells what a tensor was made of.
bool Listener::CarryStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context) {
  if (InBackward()) return false;
  const Origin* origin = nullptr;
  for (const c10::IValue& input : inputs) {
    EachTensor(input, [&](const at::Tensor& tensor) {
      if (origin == nullptr && !tensor.grad_fn()) origin = thread.provenance.Of(tensor);
    });
    if (origin != nullptr) break;
  }
  if (origin == nullptr || !UnderWay(*origin)) return false;
  context.origin = *origin;
  context.origin.module = -1;
  context.end = OperatorEnd::kMark;
  return true;
}

bool Listener::WriteStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context) {
  const OperatorInfo& info = *context.info;
  // The bias of a Linear on more than two dimensions is added in place.
  if (info.what == OperatorClass::kArithmetic && inputs.size() > 1 && (info.written & 1) != 0 &&
      thread.awaits_bias.output) {
    const at::Tensor output = FirstTensor(inputs[0]);
    if (output.defined() && thread.awaits_bias.output->_unsafe_get_target() == output.unsafeGetTensorImpl()) {
      context.module = FindBias(inputs[1], &context.model);
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
  if (info.collective) GradientsWritten(info, inputs);
  return FindWritten(thread, info, inputs);
}

bool Listener::LayerStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs, OperatorContext& context) {
  const OperatorInfo& info = *context.info;
  const bool backward = InBackward();
  int bias_owner = -1;
  int bias_model = -1;
  for (const size_t i : {size_t{0}, size_t{2}}) {
    if (bias_owner < 0 && i < inputs.size()) bias_owner = FindBias(inputs[i], &bias_model);
  }
  bool found = false;
  at::Tensor weight;
  for (const int8_t i : {info.weight, info.other_weight}) {
    const c10::IValue* const at = At(inputs, i);
    if (found || at == nullptr) continue;
    const at::Tensor tensor = FirstTensor(*at);
    if (!tensor.defined()) continue;
    if (!weight.defined()) weight = tensor;
    found = FindLayer(thread, tensor, bias_owner, context);
  }
  if (!found) found = FindLayerAnew(thread, weight, bias_owner, context);
  const c10::IValue* const data = At(inputs, info.data);
  const at::Tensor input = data == nullptr ? at::Tensor() : FirstTensor(*data);
  if (!found) {
    if (backward || thread.provenance.empty()) return false;
    // A layer of another network: what it gives comes from ours, but is none of it. Where the weight was computed, it is
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
  WatchedModel& model = *models_[static_cast<size_t>(context.model)];
  context.input = input;
  if (!backward) LayerBegins(thread, model, context.layer, input, inputs);
  if (info.without_bias && context.module == context.layer && model.module(context.module).has_bias) {
    context.deeper = true;
    context.end = OperatorEnd::kAwait;
    return true;
  }
  return Counted(thread, context);
}

// By what made its input, not by what ran before: a network that nobody attached runs on the same thread.
bool Listener::FunctionalStarted(ThreadState& thread, c10::ArrayRef<const c10::IValue> inputs,
                                 OperatorContext& context) {
  if (thread.provenance.empty() || InBackward()) return false;
  const at::Tensor input = FirstTensor(inputs[0]);
  bool exact = false;
  const Origin* const origin = thread.provenance.Of(input, &exact);
  if (origin == nullptr || !UnderWay(*origin)) return false;
  context.origin = *origin;
  context.deeper = true;
  context.end = OperatorEnd::kMark;
  context.origin.module = -1;
  // Nor is what looks at an output from outside the pass: without gradients at what has them, or after the loss.
  if (origin->foreign || origin->grad_mode != thread.grad_mode || origin->pass->after_loss) return !input.grad_fn();
  context.model = origin->model;
  WatchedModel& model = *models_[static_cast<size_t>(origin->model)];
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
    context.module = model.FunctionalModule(*session_, origin->layer, context.info->name, context.info->name);
    if (context.module < 0) return !input.grad_fn();
  }
  context.pass = origin->pass;
  context.wanted = origin->pass->identity->AnyOf(kLayerKinds);
  context.call = origin->pass->calls.Next(context.module);
  context.origin.module = context.module;
  context.end = OperatorEnd::kLayer;
  return true;
}

// A layer of an attached model, whose output is to be looked at, or at least to be known again.
bool Listener::Counted(ThreadState& thread, OperatorContext& context) {
  const bool backward = InBackward();
  WatchedModel& model = *models_[static_cast<size_t>(context.model)];
  // What backward computes again belongs to the pass that it has reached last.
  const std::shared_ptr<Pass> pass = backward ? State(thread, model).training : thread.pass;
  if (!pass) return false;
  const bool learning = StateOf(model).learning.load(std::memory_order_relaxed);
  context.wanted = pass->identity->AnyOf(kLayerKinds);
  // A loss finds the model by the history of its input where it has one.
  const bool marked =
      context.wanted || learning || (!thread.grad_mode && (pass->training || pass->identity->AnyOf(kLossKinds)));
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

void Listener::Ended(ThreadState& thread, const at::RecordFunction& function, OperatorContext& context) {
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
  if (context.end == OperatorEnd::kLoss) return LossEnded(context, output);
  LayerEnded(thread, context, output);
  if (context.recomputed) return;
  for (size_t i = 1; i < context.info->results; ++i) {
    Origin other = context.origin;
    other.module = -1;
    EachTensor(outputs[outputs.size() - context.info->results + i],
               [&](const at::Tensor& tensor) { thread.provenance.Mark(tensor, other); });
  }
}

void Listener::LayerEnded(ThreadState& thread, OperatorContext& context, const at::Tensor& output) {
  WatchedModel& model = *models_[static_cast<size_t>(context.model)];
  const WatchedModule& module = model.module(context.module);
  if (context.layer >= 0) thread.last_layer = context.layer;
  if (!context.recomputed) thread.provenance.Mark(output, context.origin);
  if (output.requires_grad() && output.grad_fn() && !context.recomputed) {
    HookPass(context.pass, context.model, context.input, output);
  }
  if (!context.wanted) return;
  LayerReported(model, module.reports_as, context, output);
  if (module.also_reports >= 0) LayerReported(model, model.module(module.also_reports).reports_as, context, output);
}

void Listener::LayerReported(WatchedModel& model, int reported, OperatorContext& context, const at::Tensor& output) {
  if (reported < 0) return;
  const Pass& pass = *context.pass;
  if (!context.recomputed) {
    capture_.Publish(*pass.identity, Kind::kActivations, model, reported, nullptr, 0, context.call, pass.number.get(),
                     output);
  }
  if (!output.requires_grad() || !output.grad_fn()) return;
  if (!pass.identity->Wants(Kind::kLayerGradients, model.module(reported).id)) return;
  output.register_hook([serial = serial_, root = context.model, reported, call = context.call, pass = context.pass,
                        life = pass.life.lock()](const at::Tensor& gradient) {
    const Inside inside;
    if (Listener* live = Live(serial)) live->LayerGradient(root, reported, call, pass, gradient);
  });
}

// Whether it is to be known if backward reaches an evaluation pass.
bool Listener::MayTrain(const WatchedModel& model, const Pass& pass) {
  return !pass.training && !pass.hooked && !StateOf(model).evaluation_trains.load(std::memory_order_relaxed);
}

bool Listener::FindLayer(ThreadState& thread, const at::Tensor& weight, int bias_owner, OperatorContext& context) {
  for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
    WatchedModel& model = *models_[static_cast<size_t>(m)];
    const WatchedModel::Candidates candidates = model.ModulesOf(weight, context.info->name);
    if (candidates.modules.empty()) continue;
    // Tied weights: first the operator tells the modules apart, then the bias; without one they take their turns.
    const size_t count = candidates.own != 0 ? candidates.own : candidates.modules.size();
    int layer = candidates.modules.front();
    const int after = thread.last_root == m ? thread.last_layer : -1;
    bool chosen = false;
    for (size_t i = 0; i < count && !chosen; ++i) chosen = (layer = candidates.modules[i]) == bias_owner;
    for (size_t i = 0; i < count && !chosen; ++i) chosen = (layer = candidates.modules[i]) > after;
    if (!chosen) layer = candidates.modules.front();
    context.model = m;
    context.layer = context.module = layer;
    // What another operator makes of a parameter is not what its module returns.
    if (candidates.own == 0 && model.module(layer).reports_as == layer) {
      context.module = model.FunctionalModule(*session_, layer, context.info->name, model.module(layer).type.c_str());
    }
    return context.module >= 0;
  }
  return false;
}

// A weight that no model has: moved, or of a module that has taken another's place. Of a network that nobody attached it
// is found out once.
bool Listener::FindLayerAnew(ThreadState& thread, const at::Tensor& weight, int bias_owner, OperatorContext& context) {
  constexpr size_t kForeignMax = 4096;
  if (!weight.defined() || !weight.has_storage()) return false;
  if (IsComputed(weight)) {
    NoteComputed(thread, weight, context);
    return false;
  }
  const void* const storage = weight.storage().unsafeGetStorageImpl();
  const auto foreign = thread.foreign_weights.find(storage);
  if (foreign != thread.foreign_weights.end() && !foreign->second.expired()) return false;
  for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
    WatchedModel& model = *models_[static_cast<size_t>(m)];
    bool changed = model.Refresh();
    if (model.TreeChanged()) {
      RenewTree(model);
      changed = true;
    }
    if (changed && FindLayer(thread, weight, bias_owner, context)) return true;
  }
  if (thread.foreign_weights.size() >= kForeignMax) thread.foreign_weights.clear();
  thread.foreign_weights.insert_or_assign(storage, weight.storage().getWeakStorageImpl());
  return false;
}

// A weight that is made of parameters (a replica's, a parametrization, a mask) names no module.
void Listener::NoteComputed(ThreadState& thread, const at::Tensor& weight, const OperatorContext& context) {
  constexpr size_t kNodesMax = 32;
  // Where no marks are, the product of two activations looks the same.
  const bool product = std::string_view(context.info->name) == "matmul";
  if (InBackward() || (product && thread.provenance.empty()) || thread.provenance.Of(weight) != nullptr) return;
  WatchedLeaf leaf;
  Provenance::Walk(weight.grad_fn().get(), kNodesMax, [&](torch::autograd::Node& node) {
    if (leaf.model < 0) leaf = Provenance::LeafAt(node, [this](const at::Tensor& t) { return FindLeaf(t); });
    return leaf.model < 0;
  });
  if (leaf.model < 0) return;
  const WatchedModel& model = *models_[static_cast<size_t>(leaf.model)];
  const WatchedModule& module = model.module(leaf.module);
  if (module.computed_noted.exchange(true, std::memory_order_relaxed)) return;
  session_->AddNote("activations of " + (module.path.empty() ? module.type : module.path) + " of " + model.name() +
                    " are not captured where its weight is computed from its parameters (a replica of data_parallel, a "
                    "parametrization)");
}

void Listener::RenewTree(WatchedModel& model) {
  std::lock_guard lock(tree_mutex_);
  if (!model.TreeChanged()) return;  // another thread was here first
  model.RenewTree(*session_);
  hooks_.Install(model);
}

int Listener::FindBias(const c10::IValue& value, int* model) const {
  if (!value.isTensor()) return -1;
  const void* data = DataOf(value.toTensor());
  if (data == nullptr) return -1;
  for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
    const int owner = models_[static_cast<size_t>(m)]->BiasOwner(data);
    if (owner < 0) continue;
    *model = m;
    return owner;
  }
  return -1;
}

// A parameter that several models share is written for each of them; a write of a list is one of all that it holds.
bool Listener::FindWritten(ThreadState& thread, const OperatorInfo& info, c10::ArrayRef<const c10::IValue> inputs) {
  bool found = false;
  std::vector<int> params;
  for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
    WatchedModel& model = *models_[static_cast<size_t>(m)];
    params.clear();
    EachWritten(info, inputs, [&](const at::Tensor& tensor) {
      const void* data = DataOf(tensor);
      const int param = data == nullptr ? -1 : model.ParamAt(data);
      if (param >= 0) params.push_back(param);
    });
    if (params.empty()) continue;
    Written(thread, model, info, params);
    found = true;
  }
  return found;
}

// The version of a gradient tells whether it is still what was taken of it for a step; a collective does not move it.
void Listener::GradientsWritten(const OperatorInfo& info, c10::ArrayRef<const c10::IValue> inputs) {
  constexpr int64_t kNoVersion = INT64_MAX;
  std::vector<const void*> written;
  EachWritten(info, inputs, [&](const at::Tensor& tensor) {
    if (tensor.has_storage()) written.push_back(tensor.storage().unsafeGetStorageImpl());
  });
  for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
    const WatchedModel& model = *models_[static_cast<size_t>(m)];
    RootState& root = StateOf(model);
    std::lock_guard lock(root.mutex);
    for (const auto& lane : root.lanes) {
      for (size_t i = 0; lane->closing && i < std::min(lane->taken.size(), model.params().size()); ++i) {
        const at::Tensor& gradient = model.params()[i].tensor.grad();
        if (lane->taken[i] < 0 || !gradient.defined() || !gradient.has_storage()) continue;
        const void* const storage = gradient.storage().unsafeGetStorageImpl();
        if (std::find(written.begin(), written.end(), storage) != written.end()) lane->taken[i] = kNoVersion;
      }
    }
  }
}

void Listener::LayerBegins(ThreadState& thread, WatchedModel& model, int module, const at::Tensor& input,
                           c10::ArrayRef<const c10::IValue> inputs) {
  if (watchdog_awake_.load(std::memory_order_relaxed) && watchdog_awake_.exchange(false)) callback_.Need(-1);
  RootThread& state = State(thread, model);
  RootState& root = StateOf(model);
  if (!std::exchange(state.runs_layers, true)) model.layer_threads.fetch_add(1);
  if (thread.last_root != model.index()) thread.last_layer = -1;
  thread.last_root = model.index();
  const bool training = model.is_training();
  const bool trains = training || root.evaluation_trains.load(std::memory_order_relaxed);
  // Checkpointing runs its forward without gradients, on what a pass that has them made. Other passes without gradients
  // (pseudo labels, old policies) run in the middle of one, too, on data of their own.
  const std::shared_ptr<Pass>& under_way = state.training;
  const Origin* const from = thread.grad_mode ? nullptr : thread.provenance.Of(input);
  const bool within = under_way && !under_way->over.load() && !under_way->walked.load() && input.defined() &&
                      (input.requires_grad() || (from != nullptr && from->pass == under_way && UnderWay(*from)));
  if (trains && (thread.grad_mode || within)) {
    const bool first = !under_way || module == under_way->first_module;
    if (ContinuesPass(thread, state, root, module, inputs)) {
      thread.pass = state.training;
      if (first) tracker_.FirstModuleCalled(model.index(), thread.id);
    } else {
      BeginTrainingPass(thread, state, model, module, input);
      tracker_.FirstModuleCalled(model.index(), thread.id);
    }
  } else {
    uint16_t tag = evaluation_tag_.load(std::memory_order_relaxed);
    if (tag == kTagDefault) tag = training ? kTagNoGrad : kTagTest;
    BeginEvaluationPass(thread, state, model, tag, module, input);
  }
  thread.pass->after_loss = false;
}

}  // namespace ikkuna::torch_probe
