#include "probe/torch/last_gradient.h"

#include "probe/torch/tensor_reader.h"
#include "probe/torch/tensor_version.h"

namespace ikkuna::torch_probe {

namespace {

uint64_t SomeWords(const at::Tensor& gradient) {
  return WhyUnreadable(gradient).empty() ? WordsOf(gradient, 16, 0) : 0;
}

}  // namespace

void GradientVersion::Take(const at::Tensor& gradient) {
  TakeVersion(gradient);
  words_ = SomeWords(gradient);
}

void GradientVersion::TakeVersion(const at::Tensor& gradient) {
  gradient_.emplace(gradient.getIntrusivePtr());
  version_ = VersionOf(gradient);
  words_.reset();
  spoilt_ = false;
}

bool GradientVersion::Is(const at::Tensor& gradient) const {
  return !spoilt_ && IsTensor(gradient) && VersionOf(gradient) == version_ &&
         (!words_ || SomeWords(gradient) == *words_);
}

bool LastGradient::Note(const WatchedModel& model, int param, bool closely) {
  gradient_.Forget();
  if (param < 0) return true;
  const at::Tensor& gradient = model.params()[static_cast<size_t>(param)].tensor.grad();
  if (!gradient.defined()) return false;
  param_ = param;
  if (closely) {
    gradient_.Take(gradient);
  } else {
    gradient_.TakeVersion(gradient);
  }
  return true;
}

probe::GradientState LastGradient::Now(const WatchedModel& model, int fired) const {
  if (!gradient_.taken()) return probe::GradientState::kKept;
  const at::Tensor& gradient = model.params()[static_cast<size_t>(param_)].tensor.grad();
  if (!gradient.defined()) return probe::GradientState::kCleared;
  if (!gradient_.IsTensor(gradient)) {
    // Where the graph is to be differentiated again the sum is a new tensor.
    return fired == param_ && gradient.requires_grad() ? probe::GradientState::kKept : probe::GradientState::kCleared;
  }
  const auto version = VersionOf(gradient);
  if (fired == param_) {
    return version <= gradient_.version() + 1 ? probe::GradientState::kKept : probe::GradientState::kCleared;
  }
  if (version == gradient_.version() || gradient.is_sparse()) return probe::GradientState::kKept;
  // Written since: zeroed in place, or clipped and averaged.
  return gradient.any().item<bool>() ? probe::GradientState::kKept : probe::GradientState::kCleared;
}

bool LastGradient::Untouched(const WatchedModel& model) const {
  if (!gradient_.taken()) return false;
  const at::Tensor& gradient = model.params()[static_cast<size_t>(param_)].tensor.grad();
  return gradient.defined() && gradient_.Is(gradient);
}

}  // namespace ikkuna::torch_probe
