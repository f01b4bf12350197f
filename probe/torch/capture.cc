#include "probe/torch/capture.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "probe/torch/tensor_reader.h"
#include "probe/torch/threads.h"

namespace ikkuna::torch_probe {

namespace {

constexpr uint64_t kSmallKinds = KindBit(Kind::kNetworkOutput) | KindBit(Kind::kInputLabels);

}  // namespace

probe::MessageHeader Capture::HeaderOf(const StepIdentity& identity, Kind kind) const {
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

void Capture::TellLocal(const StepIdentity& identity, ProbeMessage message, Kind kind) {
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

void Capture::Publish(const StepIdentity& identity, Kind kind, WatchedModel& model, int module,
                      const WatchedParam* param, uint32_t param_id, uint16_t call, uint16_t micro,
                      const at::Tensor& tensor) {
  const WatchedModule& watched = model.module(module);
  if (watched.id == 0 || !tensor.defined() || !identity.Wants(kind, watched.id)) return;
  const std::string why = WhyUnreadable(tensor);
  if (!why.empty()) {
    session_.AddNote(std::string(KindName(kind)) + " of " + watched.path + " are not captured: " + why);
    return;
  }
  if (const Level level = identity.demand.Wanted(kind, watched.id); level != Level::kInvalid) {
    probe::MessageHeader header = HeaderOf(identity, kind);
    header.module = watched.id;
    header.param = param_id;
    header.call = call;
    const uint64_t begin = MonotonicNs();
    PublishTensor(session_, header, level, tensor);
    if (level == Level::kTensor) CurrentThread().cost.tensor_ns += MonotonicNs() - begin;
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

void Capture::PublishMeta(const StepIdentity& identity, Kind kind, WatchedModel& model, uint16_t call, uint16_t micro,
                          const at::Tensor& tensor, const std::string& name) {
  if (!tensor.defined() || !identity.Wants(kind, 0) || !WhyUnreadable(tensor).empty()) return;
  if (const Level level = identity.demand.Wanted(kind, 0); level != Level::kInvalid) {
    probe::MessageHeader header = HeaderOf(identity, kind);
    header.call = call;
    if (!name.empty()) header.param = session_.NameId(name);
    const uint64_t begin = MonotonicNs();
    PublishTensor(session_, header, level, tensor);
    const uint64_t spent = MonotonicNs() - begin;
    ThreadCost& cost = CurrentThread().cost;
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
    message.param = name;
    message.tensor = tensor.detach();
    TellLocal(identity, std::move(message), kind);
  }
}

void Capture::PublishScalar(const StepIdentity& identity, Kind kind, uint32_t param, uint16_t call, uint16_t micro,
                            double value, const std::string& name) {
  if (!identity.Wants(kind, 0)) return;
  if (identity.demand.Wanted(kind, 0) != Level::kInvalid) {
    probe::MessageHeader header = HeaderOf(identity, kind);
    header.param = param;
    header.call = call;
    const uint64_t begin = MonotonicNs();
    session_.PublishScalar(header, value);
    CurrentThread().cost.scalar_ns += MonotonicNs() - begin;
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

void Capture::PublishText(const StepIdentity& identity, const std::string& name, const std::string& text) {
  if (identity.demand.Wanted(Kind::kText, 0) != Level::kInvalid) {
    probe::MessageHeader header = HeaderOf(identity, Kind::kText);
    header.param = session_.NameId(name);
    session_.PublishText(header, text);
  }
  if (!identity.local.empty()) {
    ProbeMessage message;
    message.param = name;
    message.text = text;
    TellLocal(identity, std::move(message), Kind::kText);
  }
}

void Capture::PublishMarker(const StepIdentity& identity, Kind kind) {
  const bool bounds = kind == Kind::kBatchStarted || kind == Kind::kBatchFinished;
  // Whatever is published of a step stands between its markers.
  if (bounds ? identity.demand.any() : identity.demand.Wanted(kind, 0) != Level::kInvalid) {
    session_.PublishMarker(HeaderOf(identity, kind), kind == Kind::kBatchFinished ? identity.samples : 0);
  }
  if (!identity.local.empty()) TellLocal(identity, {}, kind);
}

void Capture::EnsureStarted(StepIdentity& identity) {
  if (identity.started.load(std::memory_order_acquire)) return;
  // Others of the step wait for the marker: what is published before it belongs to no step.
  std::lock_guard lock(identity.start_mutex);
  if (identity.started.load(std::memory_order_relaxed)) return;
  PublishMarker(identity, Kind::kBatchStarted);
  shm::AddRelaxed(session_.root_status(identity.root).steps_due, 1);
  identity.started.store(true, std::memory_order_release);
}

void Capture::TakeWeights(RootThread& state, WatchedModel& model) {
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
    Publish(identity, param.bias ? Kind::kBiases : Kind::kWeights, model, param.module, &param, param.id, 0, 0,
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
void Capture::TakeBuffers(const StepIdentity& identity, WatchedModel& model) {
  if (!identity.AnyOf(Kind::kBuffers)) return;
  for (const WatchedBuffer& buffer : model.buffers()) {
    Publish(identity, Kind::kBuffers, model, buffer.module, nullptr, buffer.id, 0, 0, buffer.tensor);
  }
}

void Capture::TakeUpdates(RootThread& state, WatchedModel& model) {
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
      session_.AddNote("the update of " + module.path +
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
    PublishDifference(session_, header, level, param.tensor.detach(), kept);
    if (level == Level::kTensor) CurrentThread().cost.tensor_ns += MonotonicNs() - begin;
  }
}

void Capture::TakeGradients(WatchedModel& model, const std::shared_ptr<StepIdentity>& identity, int written_param,
                            std::vector<int>* late) {
  if (!identity->AnyOf(KindBit(Kind::kWeightGradients) | KindBit(Kind::kBiasGradients))) return;
  auto& params = model.params();
  const auto optimizers = optimizers_.All();
  const int writer =
      written_param < 0 ? -1 : Optimizers::IndexOf(*optimizers, params[static_cast<size_t>(written_param)]);
  for (const WatchedParam& param : params) {
    if (param.id == 0) continue;
    const at::Tensor& gradient = param.tensor.grad();
    if (!gradient.defined()) continue;
    const int optimizer = writer < 0 ? -1 : Optimizers::IndexOf(*optimizers, param);
    if (writer >= 0 && optimizer != writer) {
      if (late != nullptr && optimizer >= 0 && std::find(late->begin(), late->end(), optimizer) == late->end()) {
        late->push_back(optimizer);
      }
      if (optimizer >= 0 || late == nullptr) continue;
    }
    Publish(*identity, param.bias ? Kind::kBiasGradients : Kind::kWeightGradients, model, param.module, &param,
            param.id, 0, 0, gradient);
  }
}

void Capture::TakeLearningRates(const StepIdentity& identity, WatchedModel& model, int written_param) {
  if (!identity.AnyOf(Kind::kLearningRate)) return;
  const auto optimizers = optimizers_.All();
  const int writer =
      written_param < 0 ? -1 : Optimizers::IndexOf(*optimizers, model.params()[static_cast<size_t>(written_param)]);
  for (size_t i = 0; i < optimizers->size(); ++i) {
    if (writer >= 0 && static_cast<int>(i) != writer) continue;
    const WatchedOptimizer& watched = *(*optimizers)[i];
    auto& groups = watched.optimizer->param_groups();
    for (size_t g = 0; g < groups.size() && g < watched.group_names.size(); ++g) {
      const std::optional<double> rate = Optimizers::LearningRate(groups[g]);
      if (!rate) {
        session_.AddNote("learning rates of an attached optimizer are not captured: its options have no get_lr()");
        continue;
      }
      PublishScalar(identity, Kind::kLearningRate, watched.group_names[g], 0, 0, *rate, "group" + std::to_string(g));
    }
  }
}

void Capture::TakeMoments(WatchedModel& model, const StepIdentity& identity, bool optimizers_alive) {
  if (!identity.AnyOf(KindBit(Kind::kExpAvg) | KindBit(Kind::kExpAvgSq))) return;
  const auto optimizers = optimizers_.All();
  for (const WatchedParam& param : model.params()) {
    const int index = Optimizers::IndexOf(*optimizers, param);
    if (param.id == 0 || index < 0) continue;
    const auto [first, second] =
        Optimizers::Moments(*(*optimizers)[static_cast<size_t>(index)], param, optimizers_alive);
    Publish(identity, Kind::kExpAvg, model, param.module, &param, param.id, 0, 0, first);
    Publish(identity, Kind::kExpAvgSq, model, param.module, &param, param.id, 0, 0, second);
  }
}

}  // namespace ikkuna::torch_probe
