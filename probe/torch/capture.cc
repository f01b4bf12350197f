#include "probe/torch/capture.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <tuple>

#include "probe/torch/roots.h"
#include "probe/torch/tensor_reader.h"
#include "probe/torch/threads.h"

namespace ikkuna::torch_probe {

namespace {

// How a step ended is said of the step alone: a pass that began in it may be part of the next.
uint16_t FlagsOf(const StepIdentity& identity, const PassNumber* pass) {
  constexpr uint16_t kOfSteps = kFlagStepSkipped | kFlagStepInferred;
  const uint16_t flags = identity.flags.load(std::memory_order_relaxed);
  return pass == nullptr ? flags : static_cast<uint16_t>(flags & ~kOfSteps);
}

}  // namespace

probe::MessageHeader Capture::HeaderOf(const StepIdentity& identity, Kind kind, const PassNumber* pass) {
  probe::MessageHeader header;
  header.kind = kind;
  header.root = identity.root;
  header.tag = identity.tag;
  header.step = identity.step;
  header.train_step = identity.train_step.load(std::memory_order_relaxed);
  header.epoch = identity.epoch.load(std::memory_order_relaxed);
  header.flags = FlagsOf(identity, pass);
  header.pass = pass == nullptr ? 0 : pass->value;
  header.dropped_kinds = pass == nullptr ? &identity.dropped_kinds : &pass->dropped_kinds;
  return header;
}

// When nothing of ours is held any more; what a callback says itself is told to none.
void Capture::TellLocal(const StepIdentity& identity, ProbeMessage message, Kind kind, const PassNumber* pass) {
  ThreadState& thread = CurrentThread();
  constexpr uint64_t kSaid =
      KindBit(Kind::kScalar) | KindBit(Kind::kText) | KindBit(Kind::kEpochStarted) | KindBit(Kind::kEpochFinished);
  if (thread.telling && (kSaid & KindBit(kind)) != 0) return;
  message.kind = std::string(KindName(kind));
  message.root = *identity.name;
  message.tag = session_.TagName(identity.tag);
  message.global_step = identity.step;
  message.train_step = identity.train_step.load(std::memory_order_relaxed);
  message.epoch = identity.epoch.load(std::memory_order_relaxed);
  message.flags |= FlagsOf(identity, pass);
  message.pass = pass == nullptr ? 0 : pass->value;
  for (const auto& subscriber : identity.local) {
    if ((subscriber->kinds & KindBit(kind)) == 0 || subscriber->failed.load()) continue;
    // Of a tensor nobody may write meanwhile: it is told before the trainer goes on.
    if (thread.tells && (identity.tag == kTagDefault || message.tensor.defined())) {
      thread.untold.push_back({subscriber, message});
      continue;
    }
    if (!thread.in_order->Add({subscriber, message}, !thread.tells)) {
      session_.AddNote("messages of evaluations for Subscribe() were dropped: 65536 wait for a callback that goes on");
    } else if (thread.untold.empty() || thread.untold.back().subscriber != nullptr) {
      thread.untold.push_back({nullptr, {}});
    }
  }
}

void Capture::Publish(const StepIdentity& identity, Kind kind, WatchedModel& model, int module,
                      const WatchedParam* param, uint32_t param_id, uint16_t call, const PassNumber* pass,
                      const at::Tensor& tensor, uint16_t flags) {
  const WatchedModule& watched = model.module(module);
  if (watched.id == 0 || !tensor.defined() || !identity.Wants(kind, watched.id)) return;
  const std::string why = WhyUnreadable(tensor);
  if (!why.empty()) {
    session_.AddNote(std::string(KindName(kind)) + " of " + Shown(watched) + " of " + model.name() +
                     " are not captured: " + why);
    return;
  }
  if (const probe::Want want = identity.demand.Wanted(kind, watched.id)) {
    probe::MessageHeader header = HeaderOf(identity, kind, pass);
    header.module = watched.id;
    header.param = param_id;
    header.call = call;
    header.flags |= flags;
    const uint64_t begin = MonotonicNs();
    probe::PublishArray(session_, header, want, ArrayOf(tensor));
    if (want.level == Level::kTensor) CurrentThread().cost.tensor_ns += MonotonicNs() - begin;
  }
  if (!identity.local.empty()) {
    ProbeMessage message;
    message.module = watched.path;
    if (param != nullptr) message.param = param->name;
    message.call = call;
    message.flags = flags;
    message.tensor = tensor.detach();
    TellLocal(identity, std::move(message), kind, pass);
  }
}

void Capture::PublishMeta(const StepIdentity& identity, Kind kind, uint16_t call,
                          const PassNumber* pass, const at::Tensor& tensor, const std::string& name) {
  if (!tensor.defined() || !identity.Wants(kind, 0) || !WhyUnreadable(tensor).empty()) return;
  if (const probe::Want want = identity.demand.Wanted(kind, 0)) {
    probe::MessageHeader header = HeaderOf(identity, kind, pass);
    header.call = call;
    if (!name.empty()) header.param = session_.NameId(name);
    const uint64_t begin = MonotonicNs();
    probe::PublishArray(session_, header, want, ArrayOf(tensor));
    const uint64_t spent = MonotonicNs() - begin;
    ThreadCost& cost = CurrentThread().cost;
    if ((KindBit(kind) & probe::kSmallKinds) != 0)
      cost.scalar_ns += spent;
    else if (want.level == Level::kTensor)
      cost.tensor_ns += spent;
  }
  if (!identity.local.empty()) {
    ProbeMessage message;
    message.call = call;
    message.param = name;
    message.tensor = tensor.detach();
    TellLocal(identity, std::move(message), kind, pass);
  }
}

void Capture::PublishScalar(const StepIdentity& identity, Kind kind, uint32_t param, uint16_t call,
                            const PassNumber* pass, double value, const std::string& name) {
  if (!identity.Wants(kind, 0)) return;
  if (identity.demand.Wanted(kind, 0)) {
    probe::MessageHeader header = HeaderOf(identity, kind, pass);
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
    message.scalar = value;
    TellLocal(identity, std::move(message), kind, pass);
  }
}

void Capture::PublishLogged(StepIdentity& identity, const std::string& name,
                            const std::variant<double, std::string>& value) {
  const auto* const number = std::get_if<double>(&value);
  const Kind kind = number != nullptr ? Kind::kScalar : Kind::kText;
  if (!identity.AnyOf(kind)) return;
  const uint64_t begin = MonotonicNs();
  const uint32_t id = session_.NameId(name);
  const bool taken = identity.demand.TakesLogged(kind, id);  // without an id it is dropped, and counted
  if (!taken && identity.local.empty()) return;
  EnsureStarted(identity);
  if (taken) {
    probe::MessageHeader header = HeaderOf(identity, kind);
    header.param = id;
    if (number != nullptr)
      session_.PublishScalar(header, *number);
    else
      session_.PublishText(header, std::get<std::string>(value));
    CurrentThread().cost.scalar_ns += MonotonicNs() - begin;
  }
  if (identity.local.empty()) return;
  ProbeMessage message;
  message.param = name;
  if (number != nullptr)
    message.scalar = *number;
  else
    message.text = std::get<std::string>(value);
  TellLocal(identity, std::move(message), kind);
}

void Capture::PublishMarker(const StepIdentity& identity, Kind kind, const probe::StepPasses& passes) {
  const bool bounds = kind == Kind::kBatchStarted || kind == Kind::kBatchFinished || kind == Kind::kPassesNamed;
  // Whatever is published of a step stands between its markers.
  if (bounds ? identity.demand.any() : identity.demand.TakesLogged(kind, 0)) {
    session_.PublishMarker(HeaderOf(identity, kind), kind == Kind::kBatchFinished ? identity.samples : 0, passes);
  }
  if (identity.local.empty()) return;
  ProbeMessage message;
  message.passes.assign(passes.named.begin(), passes.named.end());
  TellLocal(identity, std::move(message), kind);
}

void Capture::PublishPassStarted(const StepIdentity& identity, const PassNumber& pass) {
  if (identity.demand.any()) session_.PublishMarker(HeaderOf(identity, Kind::kPassStarted, &pass));
  if (!identity.local.empty()) TellLocal(identity, {}, Kind::kPassStarted, &pass);
}

void Capture::EnsureStarted(StepIdentity& identity) {
  const bool due = identity.demand.any();
  const auto done = [&](std::memory_order order) {
    return identity.started.load(order) && (!due || identity.marked.load(order));
  };
  if (done(std::memory_order_acquire)) return;
  // Others of the step wait for the marker: what is published before it belongs to no step.
  std::lock_guard lock(identity.start_mutex);
  if (done(std::memory_order_relaxed)) return;
  if (due) session_.PublishMarker(HeaderOf(identity, Kind::kBatchStarted));
  if (!identity.started.load(std::memory_order_relaxed)) {
    if (!identity.local.empty()) TellLocal(identity, {}, Kind::kBatchStarted);
    shm::AddRelaxed(session_.root_status(identity.root).steps_due, 1);
  }
  identity.marked.store(due, std::memory_order_release);
  identity.started.store(true, std::memory_order_release);
}

void Capture::TakeWeights(LaneState& lane, const StepIdentity& identity, WatchedModel& model,
                          const std::function<bool()>& torn) {
  lane.weights_taken = true;
  constexpr uint64_t kWanted =
      KindBit(Kind::kWeights) | KindBit(Kind::kBiases) | KindBit(Kind::kWeightUpdates) | KindBit(Kind::kBiasUpdates);
  if (!identity.AnyOf(kWanted)) return;
  auto& params = model.params();
  lane.kept.resize(params.size());
  for (size_t i = 0; i < lane.kept.size(); ++i) {  // more may be registered meanwhile
    const WatchedParam& param = params[i];
    if (param.id == 0) {
      lane.kept[i].reset();
      continue;
    }
    Publish(identity, param.bias ? Kind::kBiases : Kind::kWeights, model, param.module, &param, param.id, 0, nullptr,
            param.tensor, torn() ? uint16_t{kFlagWeightsChangedOutside} : uint16_t{0});
    const Kind update = param.bias ? Kind::kBiasUpdates : Kind::kWeightUpdates;
    if (!identity.Wants(update, model.module(param.module).id) || !WhyUnreadable(param.tensor).empty()) {
      lane.kept[i].reset();
      continue;
    }
    at::Tensor& kept = lane.kept[i];
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
    Publish(identity, Kind::kBuffers, model, buffer.module, nullptr, buffer.id, 0, nullptr, buffer.tensor);
  }
}

void Capture::TakeUpdates(LaneState& lane, const StepIdentity& identity, WatchedModel& model) {
  auto& params = model.params();
  for (size_t i = 0; i < params.size() && i < lane.kept.size(); ++i) {
    const WatchedParam& param = params[i];
    at::Tensor& kept = lane.kept[i];
    if (param.id == 0 || !kept.defined()) continue;
    const WatchedModule& module = model.module(param.module);
    const Kind kind = param.bias ? Kind::kBiasUpdates : Kind::kWeightUpdates;
    if (!identity.Wants(kind, module.id)) continue;
    if (kept.sizes() != param.tensor.sizes() || kept.scalar_type() != param.tensor.scalar_type() ||
        kept.is_neg() != param.tensor.is_neg() || !WhyUnreadable(param.tensor).empty()) {
      session_.AddNote("the update of " + Shown(module) + " of " + model.name() +
                       " that spans a change of its type, shape or device is not captured");
      continue;
    }
    if (!identity.local.empty()) {
      ProbeMessage message;
      message.module = module.path;
      message.param = param.name;
      message.tensor = param.tensor.detach() - kept;
      TellLocal(identity, std::move(message), kind);
    }
    const probe::Want want = identity.demand.Wanted(kind, module.id);
    if (!want) continue;
    probe::MessageHeader header = HeaderOf(identity, kind);
    header.module = module.id;
    header.param = param.id;
    const uint64_t begin = MonotonicNs();
    probe::PublishDifference(session_, header, want, ArrayOf(param.tensor), ArrayOf(kept));
    if (want.level == Level::kTensor) CurrentThread().cost.tensor_ns += MonotonicNs() - begin;
  }
}

void Capture::TakeGradients(LaneState& lane, WatchedModel& model, const StepIdentity& identity, int written_param,
                            uint16_t flags, bool first) {
  if (!identity.AnyOf(KindBit(Kind::kWeightGradients) | KindBit(Kind::kBiasGradients))) return;
  auto& params = model.params();
  const auto optimizers = optimizers_.All();
  const int writer =
      written_param < 0 ? -1 : Optimizers::IndexOf(*optimizers, params[static_cast<size_t>(written_param)]);
  size_t index = 0;
  for (const WatchedParam& param : params) {
    const size_t i = index++;
    if (i >= lane.taken.size()) break;  // registered meanwhile
    if (param.id == 0) continue;
    const at::Tensor& gradient = param.tensor.grad();
    if (!gradient.defined()) continue;
    const int optimizer = writer < 0 ? -1 : Optimizers::IndexOf(*optimizers, param);
    if (writer >= 0 && optimizer != writer && (optimizer >= 0 || !first)) continue;
    Publish(identity, param.bias ? Kind::kBiasGradients : Kind::kWeightGradients, model, param.module, &param, param.id,
            0, nullptr, gradient, flags);
    lane.taken[i].Take(gradient);
  }
}

void Capture::TakeLearningRates(const StepIdentity& identity, WatchedModel& model, int written_param,
                                const Roots& roots, bool others_train) {
  if (!identity.AnyOf(Kind::kLearningRate)) return;
  const auto optimizers = optimizers_.All();
  if (optimizers->empty()) return;
  const WatchedParam* const written = written_param < 0 ? nullptr : &model.params()[static_cast<size_t>(written_param)];
  // A parameter that trains and belongs to none may have come with a group that was added.
  bool looked = false;
  for (const WatchedParam& param : model.params()) {
    const auto of_none = [&] { return Optimizers::IndexOf(*optimizers, param) < 0; };
    if (param.retired.load() || !param.tensor.grad().defined() || !of_none()) continue;
    if (!std::exchange(looked, true)) {
      for (const auto& optimizer : *optimizers) optimizer->LookForMore();
      if (!of_none()) continue;
    }
    for (const auto& optimizer : *optimizers) {
      if (optimizer->LookAgain(param)) break;
    }
  }
  const int writer = written == nullptr ? -1 : Optimizers::IndexOf(*optimizers, *written);
  // Of several that have the parameter it may be another thread's, in the midst of its step: then its state is not
  // read.
  const WatchedParam* const read =
      others_train && written != nullptr && Optimizers::Share(*optimizers, *written) ? nullptr : written;
  for (size_t i = 0; i < optimizers->size(); ++i) {
    if (writer >= 0 && static_cast<int>(i) != writer) continue;
    if (writer < 0 && roots.IsOfOthers(*(*optimizers)[i], model)) continue;
    for (const auto& rate : (*optimizers)[i]->Rates(writer >= 0 ? read : nullptr)) {
      PublishScalar(identity, Kind::kLearningRate, rate.name_id, 0, nullptr, rate.value, rate.name);
    }
  }
}

std::vector<int> Capture::LateOptimizers(WatchedModel& model, int written_param) const {
  std::vector<int> late;
  const auto optimizers = optimizers_.All();
  if (optimizers->size() < 2 || written_param < 0) return late;
  const int writer = Optimizers::IndexOf(*optimizers, model.params()[static_cast<size_t>(written_param)]);
  for (const WatchedParam& param : model.params()) {
    const int index = param.tensor.grad().defined() ? Optimizers::IndexOf(*optimizers, param) : -1;
    if (index < 0 || index == writer || std::find(late.begin(), late.end(), index) != late.end()) continue;
    late.push_back(index);
  }
  return late;
}

// By optimizer: whether the step that closes was written by it, and by all of it. One that has written nothing yet may
// be about to, and one in the midst of its step makes the states of its parameters on the way.
std::vector<bool> Capture::WholeOf(const LaneState& lane, const WatchedModel& model, const Optimizers::List& list) {
  std::vector<bool> whole(list.size(), false), left(list.size(), false);
  for (size_t i = 0; i < std::min(lane.had_gradient.size(), lane.written.size()); ++i) {
    const int index = lane.had_gradient[i] ? Optimizers::IndexOf(list, model.params()[i]) : -1;
    if (index >= 0) (lane.written[i] == lane.write_round ? whole : left)[static_cast<size_t>(index)] = true;
  }
  for (size_t index = 0; index < list.size(); ++index) {
    if (whole[index] && left[index]) {
      session_.AddNote("moments of " + model.name() +
                       " are missing where another thread may be in the midst of its optimizer.step()");
    }
    whole[index] = whole[index] && !left[index];
  }
  return whole;
}

void Capture::TakeMoments(const LaneState& lane, WatchedModel& model, const StepIdentity& identity,
                          const Optimizers::List& optimizers, Others others) {
  if (!identity.AnyOf(KindBit(Kind::kExpAvg) | KindBit(Kind::kExpAvgSq))) return;
  const bool alone = others == Others::kNone;
  const auto shared = [&](const WatchedParam& param) { return Optimizers::Share(optimizers, param); };
  if (others == Others::kWrite || (!alone && std::any_of(model.params().begin(), model.params().end(), shared))) {
    session_.AddNote("moments of " + model.name() + " are not captured: several threads train it at once");
    return;
  }
  const auto moments_in = [](const Optimizers::List& list, const WatchedParam& param) {
    const int index = Optimizers::IndexOf(list, param);
    return index < 0 ? WatchedOptimizer::Moments() : list[static_cast<size_t>(index)]->MomentsOf(param);
  };
  const std::vector<bool> whole = alone ? std::vector<bool>() : WholeOf(lane, model, optimizers);
  const auto now = optimizers_.All();
  for (const WatchedParam& param : model.params()) {
    if (param.id == 0) continue;
    if (!alone) {
      const int index = Optimizers::IndexOf(optimizers, param);
      if (index < 0 || !whole[static_cast<size_t>(index)]) continue;
    }
    auto [first, second] = moments_in(optimizers, param);
    // The step's own may have been attached behind its write.
    if (alone && now.get() != &optimizers && !first.defined() && !second.defined()) {
      std::tie(first, second) = moments_in(*now, param);
    }
    Publish(identity, Kind::kExpAvg, model, param.module, &param, param.id, 0, nullptr, first);
    Publish(identity, Kind::kExpAvgSq, model, param.module, &param, param.id, 0, nullptr, second);
  }
}

}  // namespace ikkuna::torch_probe
