#include "probe/torch/optimizers.h"

#include <sys/uio.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "probe/torch/tensor_version.h"

namespace ikkuna::torch_probe {

namespace {

using torch::optim::Optimizer;
using torch::optim::OptimizerOptions;

// First and second moment estimates, where the optimizer has them under whatever name.
WatchedOptimizer::Moments MomentsIn(torch::optim::OptimizerParamState& state) {
  using namespace torch::optim;
  if (auto* adam = dynamic_cast<AdamParamState*>(&state)) return {adam->exp_avg(), adam->exp_avg_sq()};
  if (auto* adamw = dynamic_cast<AdamWParamState*>(&state)) return {adamw->exp_avg(), adamw->exp_avg_sq()};
  if (auto* sgd = dynamic_cast<SGDParamState*>(&state)) return {sgd->momentum_buffer(), {}};
  if (auto* rms = dynamic_cast<RMSpropParamState*>(&state)) return {rms->momentum_buffer(), rms->square_avg()};
  if (auto* ada = dynamic_cast<AdagradParamState*>(&state)) return {at::Tensor(), ada->sum()};
  return {};
}

// Where within an optimizer the pointer to its default options lies: nobody else owns those.
const void* DefaultsPlace(Optimizer& optimizer) {
  struct Open : Optimizer {
    static auto member() { return &Open::defaults_; }
  };
  return &(optimizer.*Open::member());
}

// The pointer at an address that may not be there any more. The kernel looks: it fails where we would die.
std::optional<const void*> PointerAt(const void* place) {
  const void* found = nullptr;
  const iovec to{&found, sizeof(found)};
  const iovec from{const_cast<void*>(place), sizeof(found)};
  if (::process_vm_readv(::getpid(), &to, 1, &from, 1, 0) != static_cast<ssize_t>(sizeof(found))) return std::nullopt;
  return found;
}

size_t CountParameters(Optimizer& optimizer) {
  size_t count = 0;
  for (const auto& group : optimizer.param_groups()) count += group.params().size();
  return count;
}

}  // namespace

WatchedOptimizer::WatchedOptimizer(probe::Session& session, Optimizer& optimizer, std::shared_ptr<Optimizer> owner,
                                   size_t first_group)
    : session_(session), place_(&optimizer), owner_(owner), owned_(owner != nullptr), first_group_(first_group) {
  if (!owned_) {
    defaults_place_ = DefaultsPlace(optimizer);
    defaults_ = OptionLife::Watch(optimizer.defaults());
  }
  std::lock_guard lock(mutex_);
  ReadGroups(optimizer);
  if (!owned_ && defaults_ == nullptr) {
    session_.AddNote(
        "the learning rates and moments of an attached optimizer are not captured: its options are of a class of its "
        "own, and whether it is still there cannot be seen; attach it by a std::shared_ptr");
  }
}

bool WatchedOptimizer::SharesWith(Optimizer& other) const {
  std::lock_guard lock(mutex_);
  for (const auto& group : other.param_groups()) {
    for (const at::Tensor& parameter : group.params()) {
      if (group_of_.count(parameter.unsafeGetTensorImpl()) != 0) return true;
    }
  }
  return false;
}

size_t WatchedOptimizer::groups() const {
  std::lock_guard lock(mutex_);
  return groups_.size();
}

bool WatchedOptimizer::Has(const WatchedParam& param) const {
  std::lock_guard lock(mutex_);
  return group_of_.count(param.tensor.unsafeGetTensorImpl()) != 0;
}

template <typename Reader>
bool WatchedOptimizer::Read(Reader&& read) {
  if (owned_) {
    const std::shared_ptr<Optimizer> owner = owner_.lock();
    if (owner != nullptr) read(*owner);
    return owner != nullptr;
  }
  if (defaults_ == nullptr) return false;
  bool there = false;
  defaults_->Read([&](const OptimizerOptions& defaults) {
    // It is alive, for its options are; and it has not moved, for what lay there points to them.
    if (PointerAt(defaults_place_) != static_cast<const void*>(&defaults)) return;
    there = true;
    read(*place_);
  });
  return there;
}

void WatchedOptimizer::ReadGroups(Optimizer& optimizer) {
  group_of_.clear();
  parameters_read_ = CountParameters(optimizer);
  auto& groups = optimizer.param_groups();
  for (size_t g = 0; g < groups.size(); ++g) {
    if (g == groups_.size()) groups_.push_back({nullptr, session_.NameId("group" + std::to_string(first_group_ + g))});
    groups_[g].options = groups[g].has_options() ? OptionLife::Watch(groups[g].options()) : nullptr;
    for (const at::Tensor& parameter : groups[g].params()) {
      group_of_.emplace(parameter.unsafeGetTensorImpl(), static_cast<int>(g));
    }
  }
  groups_.resize(groups.size());
}

void WatchedOptimizer::End(const std::string& why) {
  if (!alive_.exchange(false)) return;
  states_.clear();
  session_.AddNote("an attached optimizer " + why +
                   ": its learning rates and moments end; attach the one that goes on");
}

std::vector<WatchedOptimizer::Rate> WatchedOptimizer::Rates(const WatchedParam* written) {
  std::vector<Rate> rates;
  std::lock_guard lock(mutex_);
  if (!alive()) return rates;
  if (owned_) {
    const bool there = Read([&](Optimizer& optimizer) { ReadGroups(optimizer); });
    if (!there) {
      End("was destroyed");
      return rates;
    }
  }
  if (written != nullptr && !StepsStill(*written)) return rates;
  bool lost = false;
  for (size_t g = 0; g < groups_.size(); ++g) {
    const auto read = [&](const OptimizerOptions& options) {
      try {
        rates.push_back({groups_[g].name_id, "group" + std::to_string(first_group_ + g), options.get_lr()});
      } catch (const std::exception&) {
        session_.AddNote("learning rates of an attached optimizer are not captured: its options have no get_lr()");
      }
    };
    if (groups_[g].options != nullptr) {
      lost |= !groups_[g].options->Read(read);
    } else if (owned_) {
      Read([&](Optimizer& optimizer) {
        if (g < optimizer.param_groups().size() && optimizer.param_groups()[g].has_options()) {
          read(optimizer.param_groups()[g].options());
        }
      });
    }
  }
  if (!lost) return rates;
  // Other options, or other groups; or none of them any more.
  rates.clear();
  const bool there = Read([&](Optimizer& optimizer) {
    ReadGroups(optimizer);
    for (size_t g = 0; g < groups_.size(); ++g) {
      if (groups_[g].options == nullptr) continue;
      groups_[g].options->Read([&](const OptimizerOptions& options) {
        rates.push_back({groups_[g].name_id, "group" + std::to_string(first_group_ + g), options.get_lr()});
      });
    }
  });
  if (!there) End(defaults_ != nullptr && !defaults_->gone() ? "was moved, and its groups changed" : "was destroyed");
  return rates;
}

// False: it is there, but another one writes its parameters now.
bool WatchedOptimizer::StepsStill(const WatchedParam& written) {
  const void* const key = written.tensor.unsafeGetTensorImpl();
  const c10::intrusive_ptr<c10::TensorImpl> before = witness_ ? witness_->lock() : nullptr;
  if (witness_of_ == key && before) {
    const uint32_t now = VersionOf(at::Tensor(before));
    if (std::exchange(witness_version_, now) != now) return true;
  }
  const bool stood_still = witness_of_ == key && before;
  ReadState(written);
  const auto state = states_.find(key);
  if (!alive()) return false;
  if (state == states_.end()) return true;  // it keeps none, or not yet
  const Moments moments = state->second.moments;
  states_.erase(state);  // kept only for those who ask for moments
  const at::Tensor& moment = moments.first.defined() ? moments.first : moments.second;
  if (!moment.defined() || moment.is_inference()) return true;
  if (stood_still && moment.unsafeGetTensorImpl() == before.get()) {
    End("steps no more while its parameters are written");
    return false;
  }
  witness_of_ = key;
  witness_.emplace(moment.getIntrusivePtr());
  witness_version_ = VersionOf(moment);
  return true;
}

void WatchedOptimizer::LookForMore() {
  std::lock_guard lock(mutex_);
  if (!alive()) return;
  Read([&](Optimizer& optimizer) {
    if (CountParameters(optimizer) != parameters_read_) ReadGroups(optimizer);
  });
}

bool WatchedOptimizer::LookAgain(const WatchedParam& param) {
  std::lock_guard lock(mutex_);
  if (!alive()) return false;
  // A parameter may be another optimizer's, at every step: then it is looked at less and less.
  const uint64_t look = ++looks_;
  if ((look & (look - 1)) != 0) return false;
  const bool there = Read([&](Optimizer& optimizer) { ReadGroups(optimizer); });
  if (!there && defaults_ != nullptr && defaults_->gone()) End("was destroyed");
  return there && group_of_.count(param.tensor.unsafeGetTensorImpl()) != 0;
}

void WatchedOptimizer::ReadState(const WatchedParam& param) {
  const void* const key = param.tensor.unsafeGetTensorImpl();
  const bool there = Read([&](Optimizer& optimizer) {
    const auto& states = optimizer.state();
    const auto found = states.find(const_cast<void*>(key));
    if (found == states.end()) return;
    State& state = states_[key];
    state.moments = MomentsIn(*found->second);
    state.versions[0] = state.versions[1] = 0;
  });
  if (!there && (owned_ || (defaults_ != nullptr && defaults_->gone()))) End("was destroyed");
}

WatchedOptimizer::Moments WatchedOptimizer::MomentsOf(const WatchedParam& param) {
  std::lock_guard lock(mutex_);
  if (!alive()) return {};
  const void* const key = param.tensor.unsafeGetTensorImpl();
  const auto written = [&]() -> bool {
    const auto found = states_.find(key);
    if (found == states_.end()) return false;
    State& state = found->second;
    const at::Tensor* const tensors[2] = {&state.moments.first, &state.moments.second};
    bool any = false;
    for (int i = 0; i < 2; ++i) {
      any |= VersionOf(*tensors[i]) != state.versions[i];
      state.versions[i] = VersionOf(*tensors[i]);
    }
    return any;
  };
  // Where they stand still, the optimizer may have others by now (loaded from a file), or be none any more.
  if (!written()) {
    const auto before = states_.find(key);
    const at::Tensor old = before == states_.end() ? at::Tensor() : before->second.moments.first;
    const at::Tensor old_second = before == states_.end() ? at::Tensor() : before->second.moments.second;
    ReadState(param);
    const auto now = states_.find(key);
    if (!alive() || now == states_.end()) return {};
    State& state = now->second;
    const bool same = state.moments.first.is_same(old) && state.moments.second.is_same(old_second);
    state.versions[0] = VersionOf(state.moments.first);
    state.versions[1] = VersionOf(state.moments.second);
    if (same) return {};
  }
  return states_[key].moments;
}

void Optimizers::Attach(probe::Session& session, Optimizer& optimizer, std::shared_ptr<Optimizer> owner) {
  if (dynamic_cast<torch::optim::LBFGS*>(&optimizer) != nullptr) {
    session.AddNote(
        "an attached LBFGS evaluates several times in one step(): unless the model is attached with manual_steps and "
        "probe.Step() is called behind each step(), each evaluation counts as a step");
  }
  std::lock_guard lock(mutex_);
  // Of several that train different parameters each has its groups; one that takes another's place has its names.
  size_t first_group = 0;
  for (const auto& other : *list_) {
    if (!other->alive() || other->IsAt(&optimizer)) continue;
    if (other->SharesWith(optimizer)) {
      first_group = other->first_group();
      break;
    }
    first_group = std::max(first_group, other->first_group() + other->groups());
  }
  auto watched = std::make_shared<WatchedOptimizer>(session, optimizer, std::move(owner), first_group);
  auto more = std::make_shared<List>();
  // Those that are over need not be looked through; a search that makes a thousand optimizers attaches them all.
  for (const auto& other : *list_) {
    if (other->alive() && !other->IsAt(&optimizer)) more->push_back(other);
  }
  more->push_back(std::move(watched));
  list_ = std::move(more);
  attached_.fetch_add(1);
}

int Optimizers::IndexOf(const List& list, const WatchedParam& param) {
  for (size_t i = list.size(); i-- > 0;) {
    if (list[i]->alive() && list[i]->Has(param)) return static_cast<int>(i);
  }
  return -1;
}

bool Optimizers::Share(const List& list, const WatchedParam& param) {
  if (list.size() < 2) return false;
  const auto has = [&](const auto& optimizer) { return optimizer->alive() && optimizer->Has(param); };
  return std::count_if(list.begin(), list.end(), has) > 1;
}

}  // namespace ikkuna::torch_probe
