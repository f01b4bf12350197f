// Operators: which layer or loss they are, what flows through them, and which writes they make.
#include <torch/csrc/autograd/graph_task.h>

#include <utility>

#include "probe/torch/listener.h"
#include "probe/torch/tensor_reader.h"

namespace ikkuna::torch_probe {

struct Listener::OperatorContext : at::ObserverContext {
  uint64_t listener = 0;  // serial
  const OperatorInfo* info = nullptr;
  int model = -1;
  int module = -1;  // reports the output; -1: a loss
  uint16_t call = 0;
  uint16_t micro = 0;
  bool recomputed = false;
  bool nothing = false;  // only keeps what runs inside from being looked at
  std::shared_ptr<StepIdentity> identity;
  at::Tensor output;  // loss: what the network gave
  at::Tensor labels;
};

namespace {

// The tensor of an argument, or the first of a list; undefined when there is none.
at::Tensor FirstTensor(const c10::IValue& value) {
  if (value.isTensor()) return value.toTensor();
  if (value.isTensorList()) {
    const auto list = value.toTensorList();
    if (!list.empty()) return list.get(0);
  }
  return {};
}

// A forward pass has begun on this thread and, if it is a training pass, its backward has not.
bool InsidePass(const ThreadState& thread) {
  if (thread.pass == nullptr || !thread.pass->identity || thread.last_root < 0) return false;
  const RootThread& state = *thread.pass_state;
  return thread.pass != &state.pass || (state.in_pass && !state.backward_seen.load(std::memory_order_relaxed));
}

bool InBackward() { return torch::autograd::get_current_graph_task_id() != -1; }

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
  if (self->operators_.Find(function.name()) == nullptr) return nullptr;
  thread.grad_mode = at::GradMode::is_enabled();
  std::unique_ptr<at::ObserverContext> context;
  self->Guarded([&](ThreadState& own) {
    ThreadTimer timer(own);
    context = self->Started(own, function);
  });
  return context;
}

void Listener::OnEnd(const at::RecordFunction& function, at::ObserverContext* context) {
  if (context == nullptr) return;
  const Inside inside;
  Listener* self = live_listener_.load();
  ThreadState& thread = CurrentThread();
  if (thread.depth > 0) --thread.depth;
  auto& begun = static_cast<OperatorContext&>(*context);
  if (self == nullptr || thread.listener != self->serial_ || begun.listener != self->serial_) return;
  self->Guarded([&](ThreadState& own) {
    ThreadTimer timer(own);
    self->Ended(own, function, begun);
  });
}

std::unique_ptr<at::ObserverContext> Listener::Started(ThreadState& thread, const at::RecordFunction& function) {
  const OperatorInfo& info = *operators_.Find(function.name());
  auto inputs = function.inputs();
  // The interpreter passes its whole stack: the arguments are the last of it.
  if (inputs.size() > info.arguments) inputs = inputs.slice(inputs.size() - info.arguments);
  if (inputs.empty()) return nullptr;
  const bool backward = InBackward();
  auto context = std::make_unique<OperatorContext>();
  context->listener = serial_;
  context->info = &info;

  if (info.what == OperatorClass::kLoss) {
    if (backward || inputs.size() < 2 || !InsidePass(thread)) return nullptr;
    ++thread.depth;  // what a loss is made of is no layer, whether the loss is wanted or not
    context->nothing = !thread.pass->identity->AnyOf(KindBit(Kind::kLoss) | KindBit(Kind::kNetworkOutput) |
                                                     KindBit(Kind::kInputLabels));
    context->output = FirstTensor(inputs[0]);
    context->labels = FirstTensor(inputs[1]);
    return context;
  }

  if (info.what >= OperatorClass::kArithmetic) {
    if (static_cast<size_t>(info.data) >= inputs.size()) return nullptr;
    // The bias of a Linear on more than two dimensions is added in place.
    int model = -1;
    const int bias_module = info.what == OperatorClass::kArithmetic && inputs.size() > 1 && info.data == 0
                                ? FindBias(inputs[1], &model)
                                : -1;
    if (bias_module < 0) {
      if (!backward) FindWritten(thread, info, inputs[static_cast<size_t>(info.data)]);
      return nullptr;
    }
    context->model = model;
    context->module = bias_module;
  } else if (info.what == OperatorClass::kLayer) {
    int bias_owner = -1;
    int bias_model = -1;
    for (const size_t i : {size_t{0}, size_t{2}}) {
      if (bias_owner < 0 && i < inputs.size()) bias_owner = FindBias(inputs[i], &bias_model);
    }
    const auto at = [&](int8_t i) -> const c10::IValue* {
      return i >= 0 && static_cast<size_t>(i) < inputs.size() ? &inputs[static_cast<size_t>(i)] : nullptr;
    };
    bool found = false;
    for (int attempt = 0; attempt < 2 && !found; ++attempt) {
      for (const int8_t i : {info.weight, info.other_weight}) {
        if (!found && at(i) != nullptr) found = FindLayer(*at(i), &context->model, &context->module, bias_owner);
      }
      if (found || attempt > 0) break;
      bool moved = false;
      for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
        moved |= models_[static_cast<size_t>(m)]->Refresh();
      }
      if (!moved) break;
    }
    if (!found) return nullptr;
    WatchedModel& model = *models_[static_cast<size_t>(context->model)];
    if (!backward) {
      const c10::IValue* data = at(info.data);
      LayerBegins(thread, model, context->module, data == nullptr ? at::Tensor() : FirstTensor(*data));
    }
    if (info.without_bias && model.module(context->module).has_bias) {
      context->nothing = true;  // its add_ of the bias makes the activation
      ++thread.depth;
      return context;
    }
  } else {
    if (backward || !InsidePass(thread) || thread.pass->losses != 0) return nullptr;
    context->model = thread.last_root;
    context->module = FunctionalModule(thread, info, inputs[0]);
    if (context->module < 0) return nullptr;
  }

  RootThread& state = State(thread, *models_[static_cast<size_t>(context->model)], backward);
  Pass* pass = backward ? &ForwardState(thread, *models_[static_cast<size_t>(context->model)]).pass : thread.pass;
  if (pass == nullptr || !pass->identity) return nullptr;
  const bool wanted = pass->identity->AnyOf(KindBit(Kind::kActivations) | KindBit(Kind::kLayerGradients));
  if (!wanted && !state.learning.load(std::memory_order_relaxed)) return nullptr;
  context->identity = pass->identity;
  context->recomputed = backward;
  context->micro = pass->micro;
  context->call = (backward ? pass->recomputed : pass->calls).Next(context->module);
  ++thread.depth;
  return context;
}

void Listener::Ended(ThreadState& thread, const at::RecordFunction& function, OperatorContext& context) {
  if (context.nothing) return;
  const auto& outputs = function.outputs();
  if (outputs.size() < context.info->results) return;  // the operator threw
  const at::Tensor output = FirstTensor(outputs[outputs.size() - context.info->results]);
  if (!output.defined()) return;
  if (context.info->what == OperatorClass::kLoss) {
    Pass& pass = *thread.pass;
    WatchedModel& model = *models_[static_cast<size_t>(thread.last_root)];
    if (model.manual_loss.load(std::memory_order_relaxed)) return;
    const uint16_t call = pass.losses++;
    capture_.PublishMeta(*pass.identity, Kind::kNetworkOutput, model, call, pass.micro, context.output);
    capture_.PublishMeta(*pass.identity, Kind::kInputLabels, model, call, pass.micro, context.labels);
    if (const auto value = ReadScalar(output)) {
      capture_.PublishScalar(*pass.identity, Kind::kLoss, 0, call, pass.micro, *value, "");
    }
    return;
  }
  WatchedModel& model = *models_[static_cast<size_t>(context.model)];
  const WatchedModule& module = model.module(context.module);
  thread.last_module = context.module;
  thread.last_output.emplace(output.getIntrusivePtr());
  if (module.has_params) thread.last_layer = context.module;
  const int reported = module.reports_as;
  if (reported < 0) return;
  if (!context.recomputed) {
    capture_.Publish(*context.identity, Kind::kActivations, model, reported, nullptr, 0, context.call, context.micro, output);
  }
  if (!output.requires_grad() || !output.grad_fn()) return;
  if (!context.identity->Wants(Kind::kLayerGradients, model.module(reported).id)) return;
  output.register_hook([serial = serial_, root = context.model, reported, call = context.call, micro = context.micro,
                        identity = context.identity](const at::Tensor& gradient) {
    const Inside inside;
    if (Listener* live = Live(serial)) live->LayerGradient(root, reported, call, micro, identity, gradient);
  });
}

void Listener::LayerGradient(int model, int module, uint16_t call, uint16_t micro,
                             const std::shared_ptr<StepIdentity>& identity, const at::Tensor& gradient) {
  Guarded([&](ThreadState& thread) {
    ThreadTimer timer(thread);
    capture_.Publish(*identity, Kind::kLayerGradients, *models_[static_cast<size_t>(model)], module, nullptr, 0, call, micro,
         gradient);
  });
}

bool Listener::FindLayer(const c10::IValue& value, int* model, int* module, int bias_owner) const {
  const at::Tensor tensor = FirstTensor(value);
  const void* data = DataOf(tensor);
  if (data == nullptr) return false;
  for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
    const std::vector<int>* candidates = models_[static_cast<size_t>(m)]->ModulesAt(data);
    if (candidates == nullptr) continue;
    *model = m;
    *module = candidates->front();
    // Tied weights: the bias tells the modules apart; without one they take their turns in order.
    if (candidates->size() > 1) {
      const ThreadState& thread = CurrentThread();
      int after = thread.last_root == m ? thread.last_layer : -1;
      for (int candidate : *candidates) {
        if (candidate == bias_owner) {
          *module = candidate;
          return true;
        }
      }
      for (int candidate : *candidates) {
        if (candidate > after) {
          *module = candidate;
          break;
        }
      }
    }
    return true;
  }
  return false;
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

void Listener::FindWritten(ThreadState& thread, const OperatorInfo& info, const c10::IValue& value) {
  const void* data = DataOf(FirstTensor(value));
  if (data == nullptr) return;
  // A parameter that several models share is written for each of them.
  for (int m = 0; m < model_count_.load(std::memory_order_acquire); ++m) {
    WatchedModel& model = *models_[static_cast<size_t>(m)];
    const int param = model.ParamAt(data);
    if (param >= 0) Written(thread, model, info, param);
  }
}

// Its module's own name where a Sequential proves it: the tensor that flows in is what the module before gave.
int Listener::FunctionalModule(ThreadState& thread, const OperatorInfo& info, const c10::IValue& input) {
  WatchedModel& model = *models_[static_cast<size_t>(thread.last_root)];
  const at::Tensor tensor = FirstTensor(input);
  if (!tensor.defined()) return -1;
  if (thread.last_module >= 0 && thread.last_output &&
      thread.last_output->_unsafe_get_target() == tensor.unsafeGetTensorImpl()) {
    const int next = model.module(thread.last_module).next_in_sequence;
    if (next >= 0 && !model.module(next).has_params && model.module(next).type == info.module_type) return next;
  }
  // What follows a layer that is not published (depth, filter) is not published either.
  if (thread.last_layer >= 0 && model.module(thread.last_layer).reports_as != thread.last_layer) return -1;
  return model.FunctionalModule(*session_, thread.last_layer, info.name, info.module_type);
}

void Listener::LayerBegins(ThreadState& thread, WatchedModel& model, int module, const at::Tensor& input) {
  if (watchdog_awake_.load(std::memory_order_relaxed) && watchdog_awake_.exchange(false)) callback_.Need(-1);
  RootThread& state = State(thread, model);
  if (!state.runs_layers.load(std::memory_order_relaxed) && !state.runs_layers.exchange(true)) {
    model.layer_threads.fetch_add(1);
  }
  if (thread.last_root != model.index()) {
    thread.last_layer = thread.last_module = -1;
    thread.last_output.reset();
  }
  thread.last_root = model.index();
  const bool training = model.is_training();
  // Checkpointing runs its forward without gradients, in the middle of a pass that has them.
  const bool within = state.in_pass && !state.backward_seen.load(std::memory_order_relaxed);
  if (training && (thread.grad_mode || within)) {
    BeginTrainingPass(thread, state, model, input);
    thread.pass = &state.pass;
  } else {
    uint16_t tag = evaluation_tag_.load(std::memory_order_relaxed);
    if (tag == kTagDefault) tag = training ? kTagNoGrad : kTagTest;
    BeginEvaluationPass(thread, state, model, tag, module, input);
    thread.pass = &state.evaluation;
  }
  thread.pass_state = &state;
}

}  // namespace ikkuna::torch_probe
