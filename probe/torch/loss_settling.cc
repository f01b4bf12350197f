#include "probe/torch/loss_settling.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <set>
#include <string>
#include <string_view>

#include "probe/torch/name_list.h"

namespace ikkuna::torch_probe {

namespace {

constexpr uint32_t kStepsWithoutLoss = 2;  // then it is said

// Of the terms of all passes of a step. Those that several backward passes give by one function are averaged, as
// accumulation is; of several functions there is no mean.
LossKnown KnownOf(const std::vector<LossValue>& values) {
  LossKnown known = LossKnown::kNothing;
  std::set<std::string> functions;
  for (const LossValue& value : values) {
    known = std::max(known, value.known);
    functions.insert(value.function);
  }
  return functions.size() > 1 ? std::max(known, LossKnown::kSeveral) : known;
}

// A term of training and what it is in an evaluation: `cross_entropy_2`.
std::string TermOf(const LossValue& loss) {
  const size_t function = loss.name.find(loss.function);
  const size_t end = function == std::string::npos ? loss.name.size() : function + loss.function.size();
  return FamilyOf(loss.function) + loss.name.substr(end);
}

}  // namespace

// `name`: empty where it is the loss.
void LossSettling::Publish(const Pass& pass, const LossValue& loss, std::optional<double> value,
                           const std::string& name) {
  if (!value || !pass.identity->AnyOf(Kind::kLoss)) return;
  const uint32_t id = name.empty() ? 0 : session_.NameId(name);
  if (!name.empty() && id == 0) return;  // the registry is full, which is said
  capture_.PublishScalar(*pass.identity, Kind::kLoss, id, loss.call, loss.pass.get(), *value, name);
}

void LossSettling::SettleBatch(const Pass& pass, WatchedModel& model) {
  NoteTargets(model, false);
  SettledLosses settled = pass.losses->Settle(false, {}, true);
  if (!settled.given) LookAtCalls(settled.values, model);
  // An evaluation by one of the terms that training adds up is not by its loss.
  const bool of_several =
      !model.manual_loss.load(std::memory_order_relaxed) && model.several_losses.load(std::memory_order_relaxed);
  const bool by_name = !settled.given && (of_several || KnownOf(settled.values) != LossKnown::kKnown);
  for (const LossValue& loss : settled.values) {
    const std::string name = by_name ? loss.name : std::string();
    if (settled.given) {
      Publish(pass, loss, loss.loss, name);
      continue;
    }
    if (!loss.given) {
      NoteElements(loss, model);
      continue;
    }
    PublishEvaluated(pass, loss, by_name, model);
  }
}

// What an evaluation makes of many elements shows nowhere: no backward pass starts from it.
void LossSettling::NoteElements(const LossValue& loss, WatchedModel& model) {
  constexpr std::string_view kReason = " with reduction=none are not known";
  if (!model.evaluations_noted.emplace(loss.function, kReason).second) return;
  session_.AddNote("evaluation losses of " + model.name() + " by " + loss.function + std::string(kReason) +
                   ": what the trainer makes of many elements is not seen; call probe.Loss(loss) in the evaluation");
}

// Training may call the model several times for one loss (two views, a look behind the step), an evaluation once for
// each: then what counts as one pass of it holds several batches, each with its loss.
void LossSettling::LookAtCalls(std::vector<LossValue>& values, const WatchedModel& model) {
  for (const LossValue& loss : values) {
    const auto trained = model.trained_losses.find(FamilyOf(loss.function));
    const bool is_loss = trained != model.trained_losses.end() && trained->second.alone();
    if (!is_loss || loss.known_of_call == LossKnown::kSeveral) return;
  }
  for (LossValue& loss : values) {
    loss.known = loss.known_of_call;
    loss.name = loss.name_of_call;
  }
}

void LossSettling::PublishEvaluated(const Pass& pass, const LossValue& loss, bool by_name, WatchedModel& model) {
  const bool manual = model.manual_loss.load(std::memory_order_relaxed), summed = loss.count.summed;
  std::optional<TrainedLoss> trained;
  if (const auto own = model.trained_losses.find(TermOf(loss)); own != model.trained_losses.end())
    trained = own->second;
  if (model.trained_losses.empty()) trained = roots_.LossOfLast(TermOf(loss));
  const bool by_this = !manual && trained;
  std::string name = by_name ? loss.name : std::string();
  std::string_view reason;
  std::optional<double> value;
  if (by_this) {
    value = InUnits(trained->units(), loss.count, *loss.given);
    if (!by_name && !trained->alone()) {
      name = loss.name;
      reason = " are those of a term that is not training's loss";
    }
    if (!value) reason = summed ? " with reduction=sum cannot be compared with those of training"
                                : " with reduction=mean cannot be compared with those of training";
  } else if (manual) {
    value = loss.given;
    reason = " stand beside what training gives by probe.Loss()";
  } else if (!model.trained_losses.empty()) {
    name = loss.name;
    if (!summed) value = loss.given;
    reason = " are by another function than training's";
  } else {
    value = Untrained(loss.count, *loss.given, loss.function);
    if (!value) reason = " are sums over what is not counted";
  }
  if (!value) {
    name = loss.name + (summed ? "_sum" : "_mean");
    value = loss.given;
  }
  Publish(pass, loss, value, name);
  if (reason.empty() || !model.evaluations_noted.emplace(name, reason).second) return;
  session_.AddNote("evaluation losses of " + model.name() + " by " + loss.function + std::string(reason) +
                   ": published as " + (name.empty() ? "loss" : name) + "; call probe.Loss(loss) in the evaluation");
}

void LossSettling::LearnUnits(const std::vector<LossValue>& values, bool by_name, WatchedModel& model) {
  std::map<std::string, UnitSet> of_step;
  for (const LossValue& loss : values) {
    const std::string term = TermOf(loss);
    model.trained_losses[term].Saw(!by_name);
    const std::optional<double> published = by_name ? loss.value : loss.loss;
    if (!published) continue;
    const auto units = loss.given ? UnitsOf(loss.count, *loss.given, *published, loss.rounded)
                                   : std::optional(loss.reduced);
    if (units) of_step.try_emplace(term, kAnyUnit).first->second &= *units;
  }
  for (const auto& [term, units] : of_step) model.trained_losses[term].Fits(units);
  // Not in each step: the map is copied.
  constexpr uint64_t kEarly = 8, kKeptEach = 64;
  if (roots_.count() < 2) return;
  const uint64_t steps = tracker_.steps_ended(model.index());
  const bool first = !kept_.exchange(true, std::memory_order_relaxed);
  if (first || steps < kEarly || steps % kKeptEach == 0) roots_.KeepLosses(model.trained_losses);
}

void LossSettling::SettleStep(const std::vector<std::shared_ptr<Pass>>& passes, WatchedModel& model, bool heard) {
  struct Part {
    const Pass* pass;
    SettledLosses settled;
  };
  std::vector<const PassNumber*> over;
  for (const auto& pass : passes) over.push_back(pass->number.get());
  const bool by_hooks = !passes.empty() && tracker_.Accumulates(model.index());
  std::vector<Part> parts;
  bool ran = false, unreached = false;
  for (const auto& pass : passes) {
    ran |= pass->losses->settled();
    parts.push_back({pass.get(), pass->losses->Settle(true, over, by_hooks)});
    const SettledLosses& settled = parts.back().settled;
    ran |= settled.any;
    unreached |= settled.any && pass->walked.load();
    PublishOutputs(settled.outputs, model, true);
  }
  NoteTargets(model, true);
  const bool given = std::any_of(parts.begin(), parts.end(), [](const Part& part) { return part.settled.given; });
  std::vector<LossValue> values;
  for (const Part& part : parts) {
    if (part.settled.given != given) continue;
    values.insert(values.end(), part.settled.values.begin(), part.settled.values.end());
  }
  const LossKnown known = given ? LossKnown::kKnown : KnownOf(values);
  // Once the trainer gives it, what is recognised beside it is not the loss.
  if (given || !model.manual_loss.load(std::memory_order_relaxed)) {
    std::vector<std::string> names;
    const bool by_name = known != LossKnown::kKnown;
    for (const Part& part : parts) {
      if (part.settled.given != given) continue;
      for (const LossValue& loss : part.settled.values) {
        const std::optional<double> value = by_name ? loss.value : loss.loss;
        Publish(*part.pass, loss, value, by_name ? loss.name : std::string());
        if (loss.value) names.push_back(loss.name);
      }
    }
    if (!given && (!values.empty() || unreached)) NoteLosses(known, names, model);
    // Of passes that are not recorded the last one of the thread is all there is of an accumulation.
    const bool recorded = std::all_of(values.begin(), values.end(), [](const LossValue& loss) { return loss.pass; });
    if (!given && !by_name && !values.empty() && recorded) NoteWeight(values, model);
    if (!given) LearnUnits(values, by_name, model);
  } else {
    NoteNotGiven(passes, model);
  }
  const bool elsewhere = passes.empty() && model.has_layers.load(std::memory_order_relaxed);
  if (!heard || elsewhere || model.manual_loss.load(std::memory_order_relaxed) ||
      model.loss_elsewhere.load(std::memory_order_relaxed)) {
    return;
  }
  if (ran) return model.steps_without_loss.store(0, std::memory_order_relaxed);
  if (model.steps_without_loss.fetch_add(1, std::memory_order_relaxed) + 1 != kStepsWithoutLoss) return;
  session_.AddNote("the loss of " + model.name() +
                   " is not known: no loss function of LibTorch ran on its output; call probe.Loss(loss) before "
                   "optimizer.step()");
}

// One that is given behind the step is taken all the same, and was in each step until now.
void LossSettling::NoteNotGiven(const std::vector<std::shared_ptr<Pass>>& passes, WatchedModel& model) {
  const bool due = std::any_of(passes.begin(), passes.end(), [](const auto& pass) {
    return pass->number && pass->identity->AnyOf(Kind::kLoss);
  });
  if (!due || model.steps_not_given.fetch_add(1, std::memory_order_relaxed) + 1 != kStepsWithoutLoss) return;
  session_.AddNote("the loss of " + model.name() +
                   " is missing: probe.Loss() has given it before, and what is recognised is not taken in its place; call "
                   "probe.Loss(loss) in each step");
}

void LossSettling::NoteLosses(LossKnown known, const std::vector<std::string>& names, WatchedModel& model) {
  if (known == LossKnown::kKnown) return model.several_losses.store(false, std::memory_order_relaxed);
  NameList shown;
  for (const std::string& name : names) shown.Add(name);
  const std::string give = "; call probe.Loss(total) before optimizer.step()";
  const std::string unknown = "the loss of " + model.name() + " is not known: ";
  switch (known) {
    case LossKnown::kSeveral:
    case LossKnown::kComposite:
      model.several_losses.store(true, std::memory_order_relaxed);
      session_.AddNote(unknown + "what backward starts from is made of several terms, of which " +
                       (shown.empty() ? "none is a scalar" : "these are published by name: " + shown.Text()) + give);
      break;
    case LossKnown::kUnreduced:
      session_.AddNote(unknown +
                       "its loss function gives many elements or their sum, and what was made of them was not seen" +
                       give);
      break;
    case LossKnown::kNothing:
      session_.AddNote(unknown + "backward starts from nothing that a loss function of LibTorch gave" + give);
      break;
    case LossKnown::kKnown:
      break;
  }
}

// An evaluation knows of no weight, so the loss is published without it. Less than 1 in each of several backward passes is
// an average over micro-batches; a single step of one may be what is left of such.
void LossSettling::NoteWeight(const std::vector<LossValue>& values, WatchedModel& model) {
  constexpr uint32_t kStepsWeighted = 2;
  const bool weighted = std::all_of(values.begin(), values.end(), [&](const LossValue& loss) {
    if (!loss.weight || std::abs(*loss.weight - 1) < .01) return false;
    return *loss.weight > 1 || values.size() == 1;
  });
  if (!weighted) return model.steps_weighted.store(0, std::memory_order_relaxed);
  if (model.steps_weighted.fetch_add(1, std::memory_order_relaxed) + 1 != kStepsWeighted) return;
  char weight[32];
  std::snprintf(weight, sizeof weight, "%.3g", *values.front().weight);
  session_.AddNote("the loss of " + model.name() + " is its " + values.front().function +
                   " before the loop multiplies it (by " + weight +
                   "); to have the product, call probe.Loss(total) before optimizer.step()");
}

// Of several losses one that has class indices is enough.
void LossSettling::NoteTargets(WatchedModel& model, bool training) {
  auto& targets = training ? model.targets_in_training : model.targets_in_evaluation;
  const char* const other = targets.other.exchange(nullptr, std::memory_order_relaxed);
  if (other == nullptr || targets.classes.load(std::memory_order_relaxed)) return;
  session_.AddNote("the accuracy of " + model.name() + " is not known: the targets of its " + LossFunctionName(other) +
                   " loss are no class indices");
}

void LossSettling::WithholdOutputs(const PassNumber* pass, const WatchedModel& model) {
  if (pass != nullptr) pass->dropped_kinds.fetch_or(probe::kSmallKinds);
  session_.AddNote(
      "the accuracy of " + model.name() +
      " is not known: several losses of one pass have class labels, and which of them is meant cannot be seen");
}

void LossSettling::PublishOutputs(const std::vector<LabelledOutput>& outputs, WatchedModel& model, bool training) {
  auto& targets = training ? model.targets_in_training : model.targets_in_evaluation;
  for (const LabelledOutput& one : outputs) {
    if (one.identity->AnyOf(Kind::kInputLabels)) {
      if (one.classes)
        targets.classes.store(true, std::memory_order_relaxed);
      else
        targets.other.store(one.loss, std::memory_order_relaxed);
    }
    if (one.mixed) {
      WithholdOutputs(one.pass.get(), model);
      continue;
    }
    capture_.PublishMeta(*one.identity, Kind::kNetworkOutput, one.call, one.pass.get(), one.output);
    capture_.PublishMeta(*one.identity, Kind::kInputLabels, one.call, one.pass.get(), one.labels, one.name);
  }
}

}  // namespace ikkuna::torch_probe
