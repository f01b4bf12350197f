#include "probe/torch/optimizers.h"

#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <string>

namespace ikkuna::torch_probe {

namespace {

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

}  // namespace

void Optimizers::Attach(probe::Session& session, torch::optim::Optimizer& optimizer) {
  if (dynamic_cast<torch::optim::LBFGS*>(&optimizer) != nullptr) {
    session.AddNote(
        "an attached LBFGS evaluates several times in one step(), and each evaluation counts as a step; call "
        "probe.Step() behind each step() (and attach the model with manual_steps)");
  }
  auto watched = std::make_shared<WatchedOptimizer>();
  watched->optimizer = &optimizer;
  int group = 0;
  for (const auto& parameters : optimizer.param_groups()) {
    for (const at::Tensor& parameter : parameters.params()) {
      watched->groups.emplace(parameter.unsafeGetTensorImpl(), group);
    }
    watched->group_names.push_back(session.NameId("group" + std::to_string(group++)));
  }
  std::lock_guard lock(mutex_);
  auto more = std::make_shared<List>(*list_);
  more->push_back(std::move(watched));
  list_ = std::move(more);
}

int Optimizers::IndexOf(const List& list, const WatchedParam& param) {
  for (size_t i = list.size(); i-- > 0;) {
    if (list[i]->groups.count(param.tensor.unsafeGetTensorImpl()) != 0) return static_cast<int>(i);
  }
  return -1;
}

std::optional<double> Optimizers::LearningRate(const torch::optim::OptimizerParamGroup& group) {
  try {
    return group.options().get_lr();
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

std::pair<at::Tensor, at::Tensor> Optimizers::Moments(WatchedOptimizer& optimizer, const WatchedParam& param,
                                                      bool alive) {
  std::lock_guard lock(optimizer.mutex);
  const void* key = param.tensor.unsafeGetTensorImpl();
  if (alive) {
    const auto& states = optimizer.optimizer->state();
    const auto found = states.find(const_cast<void*>(key));
    if (found == states.end()) return {};
    optimizer.moments[key] = MomentsOf(*found->second);
  }
  const auto moments = optimizer.moments.find(key);
  return moments == optimizer.moments.end() ? std::pair<at::Tensor, at::Tensor>() : moments->second;
}

}  // namespace ikkuna::torch_probe
