// LastGradient: the gradient that came last in a root's last backward pass.
//
// What became of it tells whether gradients were cleared since. Guarded by the root's mutex.
#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include "probe/core/step_tracker.h"
#include "probe/torch/watched_model.h"

namespace ikkuna::torch_probe {

// A gradient as it was: another tensor, or the same one written, is another gradient. It is held weakly, so that no
// other tensor has its address. Some words of it tell of writes that LibTorch does not count (by .data(), to a tensor
// that was made in inference mode).
class GradientVersion {
 public:
  void Take(const at::Tensor& gradient);
  // By LibTorch's count alone, which costs less.
  void TakeVersion(const at::Tensor& gradient);
  void Forget() { gradient_.reset(); }
  // It is about to be written, and nothing will show it.
  void Spoil() { spoilt_ = true; }
  bool taken() const { return gradient_.has_value(); }
  uint32_t version() const { return version_; }
  // The same tensor, written since or not.
  bool IsTensor(const at::Tensor& gradient) const {
    return gradient_ && !gradient_->expired() && gradient_->_unsafe_get_target() == gradient.unsafeGetTensorImpl();
  }
  bool Is(const at::Tensor& gradient) const;

 private:
  std::optional<c10::weak_intrusive_ptr<c10::TensorImpl>> gradient_;
  uint32_t version_ = 0;
  std::optional<uint64_t> words_;
  bool spoilt_ = false;
};

class LastGradient {
 public:
  // Until the backward pass that is under way ends nobody can tell from it.
  void Forget() { gradient_.Forget(); }
  // Backward has ended, and the gradient of this parameter came last; -1: of none. `closely`: something is due of the
  // step, Untouched() may be asked. False: it is gone already.
  bool Note(const WatchedModel& model, int param, bool closely);
  // What became of it. `fired`: the parameter that has just got another; -1: none has.
  probe::GradientState Now(const WatchedModel& model, int fired) const;
  // Whether it is as backward has left it: what that multiplied it by it still carries.
  bool Untouched(const WatchedModel& model) const;

 private:
  int param_ = -1;
  GradientVersion gradient_;
};

}  // namespace ikkuna::torch_probe
