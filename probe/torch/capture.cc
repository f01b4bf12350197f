// Messages: what of the model's tensors becomes which record.
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <cstring>

#include "probe/torch/listener.h"
#include "probe/torch/tensor_reader.h"

namespace ikkuna::torch_probe {

namespace {

constexpr uint64_t kSmallKinds = KindBit(Kind::kNetworkOutput) | KindBit(Kind::kInputLabels);

// First and second moment estimates, where the optimizer has them under whatever name.
std::pair<at::Tensor, at::Tensor> MomentsOf(torch::optim::OptimizerParamState& state) {
  using namespace torch::optim;
  if (auto* adam = dynamic_cast<AdamParamState*>(&state)) return {adam->exp_avg(), adam->exp_avg_sq()};
  if (auto* adamw = dynamic_cast<AdamWParamState*>(&state)) return {adamw->exp_avg(), adamw->exp_avg_sq()};
  if (auto* sgd = dynamic_cast<SGDParamState*>(&state)) return {sgd->momentum_buffer(), {}};
  if (auto* rms = dynamic_cast<RMSpropParamState*>(&state)) return {rms->momentum_buffer(), rms->square_avg()};
  if (auto* ada = dynamic_cast<AdagradParamState*>(&state)) return {at::Tensor(), ada->sum()};
  return {};
}

// None where the options of an optimizer of the trainer's own do not say.
std::optional<double> LearningRate(const torch::optim::OptimizerParamGroup& group) {
  try {
    return group.options().get_lr();
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

}  // namespace

probe::MessageHeader Listener::HeaderOf(const StepIdentity& identity, Kind kind) const {
  probe::MessageHeader header;
  header.kind = kind;
  header.root = identity.root;
  header.tag = identity.tag;
  header.step = identity.step;
  header.train_step = identity.train_step;
  header.epoch = identity.epoch;
  header.flags = identity.flags.load(std::memory_order_relaxed);
  header.dropped_kinds = &identity.dropped_kinds;
  return header;
}

void Listener::TellLocal(const StepIdentity& identity, ProbeMessage message, Kind kind) {
  message.kind = std::string(KindName(kind));
  message.tag = identity.tag == kTagDefault  ? "default"
                : identity.tag == kTagTest   ? "test"
                : identity.tag == kTagNoGrad ? "no_grad"
                                             : "other";
  message.global_step = identity.step;
  message.train_step = identity.train_step;
  message.epoch = identity.epoch;
  message.flags = identity.flags.load(std::memory_order_relaxed);
  for (const auto& subscriber : identity.local) {
    if ((subscriber->kinds & KindBit(kind)) == 0 || subscriber->failed.load()) continue;
    try {
      subscriber->callback(message);
    } catch (const std::exception& error) {
      subscriber->failed.store(true);
      std::fprintf(stderr, "ikkuna: an in-process subscriber threw and was removed: %s\n", error.what());
    } catch (...) {
      subscriber->failed.store(true);
      std::fprintf(stderr, "ikkuna: an in-process subscriber threw what is no exception and was removed\n");
    }
  }
}

void Listener::Emit(const StepIdentity& identity, Kind kind, WatchedModel& model, int module, const WatchedParam* param,
                    uint32_t param_id, uint16_t call, uint16_t micro, const at::Tensor& tensor) {
  const WatchedModule& watched = model.module(module);
  if (watched.id == 0 || !tensor.defined() || !identity.Wants(kind, watched.id)) return;
  const std::string why = WhyUnreadable(tensor);
  if (!why.empty()) {
    session_->AddNote(std::string(KindName(kind)) + " of " + watched.path + " are not captured: " + why);
    return;
  }
  if (const Level level = identity.demand.Wanted(kind, watched.id); level != Level::kInvalid) {
    probe::MessageHeader header = HeaderOf(identity, kind);
    header.module = watched.id;
    header.param = param_id;
    header.call = call;
    header.micro = micro;
    const uint64_t begin = MonotonicNs();
    PublishTensor(*session_, header, level, tensor);
    if (level == Level::kTensor) OwnThread().cost.tensor_ns += MonotonicNs() - begin;
  }
  if (!identity.local.empty()) {
    ProbeMessage message;
    message.root = model.name();
    message.module = watched.path;
    if (param != nullptr) message.param = param->name;
    message.call = call;
    message.micro = micro;
    message.tensor = tensor.detach();
    TellLocal(identity, std::move(message), kind);
  }
}

void Listener::EmitMeta(const StepIdentity& identity, Kind kind, WatchedModel& model, uint16_t call, uint16_t micro,
                        const at::Tensor& tensor) {
  if (!tensor.defined() || !identity.Wants(kind, 0) || !WhyUnreadable(tensor).empty()) return;
  if (const Level level = identity.demand.Wanted(kind, 0); level != Level::kInvalid) {
    probe::MessageHeader header = HeaderOf(identity, kind);
    header.call = call;
    header.micro = micro;
    const uint64_t begin = MonotonicNs();
    PublishTensor(*session_, header, level, tensor);
    const uint64_t spent = MonotonicNs() - begin;
    ThreadCost& cost = OwnThread().cost;
    if ((KindBit(kind) & kSmallKinds) != 0)
      cost.scalar_ns += spent;
    else if (level == Level::kTensor)
      cost.tensor_ns += spent;
  }
  if (!identity.local.empty()) {
    ProbeMessage message;
    message.root = model.name();
    message.call = call;
    message.micro = micro;
    message.tensor = tensor.detach();
    TellLocal(identity, std::move(message), kind);
  }
}

void Listener::EmitScalar(const StepIdentity& identity, Kind kind, uint32_t param, uint16_t call, uint16_t micro,
                          double value, const std::string& name) {
  if (!identity.Wants(kind, 0)) return;
  if (identity.demand.Wanted(kind, 0) != Level::kInvalid) {
    probe::MessageHeader header = HeaderOf(identity, kind);
    header.param = param;
    header.call = call;
    header.micro = micro;
    const uint64_t begin = MonotonicNs();
    session_->PublishScalar(header, value);
    OwnThread().cost.scalar_ns += MonotonicNs() - begin;
  }
  if (!identity.local.empty()) {
    ProbeMessage message;
    message.param = name;
    message.call = call;
    message.micro = micro;
    message.scalar = value;
    TellLocal(identity, std::move(message), kind);
  }
}

void Listener::EmitMarker(const StepIdentity& identity, Kind kind) {
  const bool bounds = kind == Kind::kBatchStarted || kind == Kind::kBatchFinished;
  // Whatever is published of a step stands between its markers.
  if (bounds ? identity.demand.any() : identity.demand.Wanted(kind, 0) != Level::kInvalid) {
    session_->PublishMarker(HeaderOf(identity, kind), kind == Kind::kBatchFinished ? identity.samples : 0);
  }
  if (!identity.local.empty()) TellLocal(identity, {}, kind);
}

void Listener::EnsureStarted(RootThread& state) {
  StepIdentity& identity = *state.pass.identity;
  if (identity.started.load(std::memory_order_acquire)) return;
  // Others of the step wait for the marker: what is published before it belongs to no step.
  std::lock_guard lock(identity.start_mutex);
  if (identity.started.load(std::memory_order_relaxed)) return;
  EmitMarker(identity, Kind::kBatchStarted);
  shm::AddRelaxed(session_->root_status(identity.root).steps_due, 1);
  identity.started.store(true, std::memory_order_release);
}

void Listener::TakeWeights(RootThread& state, WatchedModel& model) {
  state.weights_taken = true;
  const StepIdentity& identity = *state.pass.identity;
  constexpr uint64_t kWanted =
      KindBit(Kind::kWeights) | KindBit(Kind::kBiases) | KindBit(Kind::kWeightUpdates) | KindBit(Kind::kBiasUpdates);
  if (!identity.AnyOf(kWanted)) return;
  auto& params = model.params();
  state.kept.resize(params.size());
  for (size_t i = 0; i < params.size(); ++i) {
    const WatchedParam& param = params[i];
    if (param.id == 0) continue;
    Emit(identity, param.bias ? Kind::kBiases : Kind::kWeights, model, param.module, &param, param.id, 0, 0,
         param.tensor);
    const Kind update = param.bias ? Kind::kBiasUpdates : Kind::kWeightUpdates;
    if (!identity.Wants(update, model.module(param.module).id) || !WhyUnreadable(param.tensor).empty()) {
      state.kept[i].reset();
      continue;
    }
    at::Tensor& kept = state.kept[i];
    if (kept.defined() && kept.sizes() == param.tensor.sizes() && kept.scalar_type() == param.tensor.scalar_type() &&
        param.tensor.is_contiguous()) {
      std::memcpy(kept.mutable_data_ptr(), param.tensor.const_data_ptr(), kept.nbytes());
    } else {
      kept = param.tensor.detach().clone(at::MemoryFormat::Contiguous);
    }
  }
}

// Running statistics as the step's first pass found them; the pass itself moves them.
void Listener::TakeBuffers(RootThread& state, WatchedModel& model) {
  const StepIdentity& identity = *state.pass.identity;
  if (!identity.AnyOf(Kind::kBuffers)) return;
  for (const WatchedBuffer& buffer : model.buffers()) {
    Emit(identity, Kind::kBuffers, model, buffer.module, nullptr, buffer.id, 0, 0, buffer.tensor);
  }
}

void Listener::TakeUpdates(RootThread& state, WatchedModel& model) {
  const StepIdentity& identity = *state.closing;
  auto& params = model.params();
  for (size_t i = 0; i < params.size() && i < state.kept.size(); ++i) {
    const WatchedParam& param = params[i];
    at::Tensor& kept = state.kept[i];
    if (param.id == 0 || !kept.defined()) continue;
    const WatchedModule& module = model.module(param.module);
    const Kind kind = param.bias ? Kind::kBiasUpdates : Kind::kWeightUpdates;
    if (!identity.Wants(kind, module.id)) continue;
    if (kept.sizes() != param.tensor.sizes() || kept.scalar_type() != param.tensor.scalar_type() ||
        !WhyUnreadable(param.tensor).empty()) {
      session_->AddNote("the update of " + module.path +
                        " that spans a change of its type, shape or device is not captured");
      continue;
    }
    if (!identity.local.empty()) {
      ProbeMessage message;
      message.root = model.name();
      message.module = module.path;
      message.param = param.name;
      message.tensor = param.tensor.detach() - kept;
      TellLocal(identity, std::move(message), kind);
    }
    const Level level = identity.demand.Wanted(kind, module.id);
    if (level == Level::kInvalid) continue;
    probe::MessageHeader header = HeaderOf(identity, kind);
    header.module = module.id;
    header.param = param.id;
    const uint64_t begin = MonotonicNs();
    PublishDifference(*session_, header, level, param.tensor.detach(), kept);
    if (level == Level::kTensor) OwnThread().cost.tensor_ns += MonotonicNs() - begin;
  }
}

std::shared_ptr<const WatchedOptimizers> Listener::Optimizers() const {
  std::lock_guard lock(mutex_);
  return optimizers_;
}

// The one attached last, where several have the parameter: a trainer that changes over attaches the new one.
int Listener::OptimizerOf(const WatchedOptimizers& optimizers, const WatchedParam& param) {
  for (size_t i = optimizers.size(); i-- > 0;) {
    if (optimizers[i]->groups.count(param.tensor.unsafeGetTensorImpl()) != 0) return static_cast<int>(i);
  }
  return -1;
}

// Of the optimizer that writes, if it is attached; the others attached follow with their own first write (`late`).
void Listener::TakeGradients(WatchedModel& model, const std::shared_ptr<StepIdentity>& identity, int written_param,
                             std::vector<int>* late) {
  if (!identity->AnyOf(KindBit(Kind::kWeightGradients) | KindBit(Kind::kBiasGradients))) return;
  auto& params = model.params();
  const auto optimizers = Optimizers();
  const int writer = written_param < 0 ? -1 : OptimizerOf(*optimizers, params[static_cast<size_t>(written_param)]);
  for (const WatchedParam& param : params) {
    if (param.id == 0) continue;
    const at::Tensor& gradient = param.tensor.grad();
    if (!gradient.defined()) continue;
    const int optimizer = writer < 0 ? -1 : OptimizerOf(*optimizers, param);
    if (writer >= 0 && optimizer != writer) {
      if (late != nullptr && optimizer >= 0 && std::find(late->begin(), late->end(), optimizer) == late->end()) {
        late->push_back(optimizer);
      }
      if (optimizer >= 0 || late == nullptr) continue;
    }
    Emit(*identity, param.bias ? Kind::kBiasGradients : Kind::kWeightGradients, model, param.module, &param, param.id,
         0, 0, gradient);
  }
}

void Listener::TakeLearningRates(const StepIdentity& identity, WatchedModel& model, int written_param) {
  if (!identity.AnyOf(Kind::kLearningRate)) return;
  const auto optimizers = Optimizers();
  const int writer =
      written_param < 0 ? -1 : OptimizerOf(*optimizers, model.params()[static_cast<size_t>(written_param)]);
  for (size_t i = 0; i < optimizers->size(); ++i) {
    if (writer >= 0 && static_cast<int>(i) != writer) continue;
    const WatchedOptimizer& watched = *(*optimizers)[i];
    auto& groups = watched.optimizer->param_groups();
    for (size_t g = 0; g < groups.size() && g < watched.group_names.size(); ++g) {
      const std::optional<double> rate = LearningRate(groups[g]);
      if (!rate) {
        session_->AddNote("learning rates of an attached optimizer are not captured: its options have no get_lr()");
        continue;
      }
      EmitScalar(identity, Kind::kLearningRate, watched.group_names[g], 0, 0, *rate, "group" + std::to_string(g));
    }
  }
}

void Listener::TakeMoments(WatchedModel& model, const StepIdentity& identity, bool optimizers_alive) {
  if (!identity.AnyOf(KindBit(Kind::kExpAvg) | KindBit(Kind::kExpAvgSq))) return;
  const auto optimizers = Optimizers();
  for (const WatchedParam& param : model.params()) {
    const int index = OptimizerOf(*optimizers, param);
    if (param.id == 0 || index < 0) continue;
    WatchedOptimizer& optimizer = *(*optimizers)[static_cast<size_t>(index)];
    std::lock_guard lock(optimizer.mutex);
    const void* key = param.tensor.unsafeGetTensorImpl();
    if (optimizers_alive) {
      const auto& states = optimizer.optimizer->state();
      const auto found = states.find(const_cast<void*>(key));
      if (found == states.end()) continue;
      optimizer.moments[key] = MomentsOf(*found->second);
    }
    const auto moments = optimizer.moments.find(key);
    if (moments == optimizer.moments.end()) continue;
    Emit(identity, Kind::kExpAvg, model, param.module, &param, param.id, 0, 0, moments->second.first);
    Emit(identity, Kind::kExpAvgSq, model, param.module, &param, param.id, 0, 0, moments->second.second);
  }
}

void Listener::TakeLoss(ThreadState& thread, const at::Tensor& loss) {
  if (model_count_.load(std::memory_order_acquire) == 0) return;
  WatchedModel& model = *models_[thread.last_root < 0 ? 0 : static_cast<size_t>(thread.last_root)];
  model.manual_loss.store(true);
  RootThread& state = State(thread, model);
  Pass* pass = thread.pass != nullptr ? thread.pass : &state.pass;
  if (!pass->identity || !pass->identity->AnyOf(Kind::kLoss)) return;
  const auto value = ReadScalar(loss);
  if (!value) return;
  if (pass == &state.pass) EnsureStarted(state);
  EmitScalar(*pass->identity, Kind::kLoss, 0, pass->losses++, pass->micro, *value, "");
}

void Listener::Log(const std::string& name, double value) {
  Guarded([&](ThreadState& thread) {
    ThreadTimer timer(thread);
    if (model_count_.load(std::memory_order_acquire) == 0) return;
    WatchedModel& model = *models_[thread.last_root < 0 ? 0 : static_cast<size_t>(thread.last_root)];
    RootThread& state = State(thread, model);
    SeenFirst(state, model);
    if (!state.pass.identity->AnyOf(Kind::kScalar)) return;
    EnsureStarted(state);
    EmitScalar(*state.pass.identity, Kind::kScalar, session_->NameId(name), 0, 0, value, name);
  });
}

void Listener::Log(const std::string& name, const std::string& text) {
  Guarded([&](ThreadState& thread) {
    ThreadTimer timer(thread);
    if (model_count_.load(std::memory_order_acquire) == 0) return;
    WatchedModel& model = *models_[thread.last_root < 0 ? 0 : static_cast<size_t>(thread.last_root)];
    RootThread& state = State(thread, model);
    SeenFirst(state, model);
    const StepIdentity& identity = *state.pass.identity;
    if (!identity.AnyOf(Kind::kText)) return;
    EnsureStarted(state);
    if (identity.demand.Wanted(Kind::kText, 0) != Level::kInvalid) {
      probe::MessageHeader header = HeaderOf(identity, Kind::kText);
      header.param = session_->NameId(name);
      session_->PublishText(header, text);
    }
    if (!identity.local.empty()) {
      ProbeMessage message;
      message.param = name;
      message.text = text;
      TellLocal(identity, std::move(message), Kind::kText);
    }
  });
}

}  // namespace ikkuna::torch_probe
