// WriteWitness: a parameter that tells, when the next backward pass begins, whether its optimizer has written it since the
// one before ended: 64 words of it are others, or its version is.
//
// That costs a few reads where hearing the write costs operators; but other hands move it, too, and a write that is small,
// or to a few rows, may move none of these. So it is trusted only where it has agreed with what was heard at each of the
// last passes. Guarded by the root's mutex.
#pragma once

#include <cstdint>

#include "probe/torch/watched_model.h"

namespace ikkuna::torch_probe {

class WriteWitness {
 public:
  // A backward pass has ended, and the gradient of this parameter came last; -1: of none.
  void Look(const WatchedModel& model, int param);
  // A step has ended by a write that was heard.
  void Heard() { ++heard_; }
  // Whether it was written since Look().
  bool Written(const WatchedModel& model) const { return MarkOf(model, param_) != mark_; }
  // The next backward pass begins, and operators were heard since Look(), of which nothing more is asked.
  void Compare(const WatchedModel& model);
  void Forget() { param_ = -1; }
  void Distrust() { agreed_ = 0; }
  bool trusted() const { return param_ >= 0 && agreed_ >= kPasses; }
  int param() const { return param_; }

 private:
  static constexpr uint32_t kPasses = 64;
  static uint64_t MarkOf(const WatchedModel& model, int param);

  int param_ = -1;
  uint64_t mark_ = 0;
  uint32_t heard_ = 0;   // since Look()
  uint32_t agreed_ = 0;  // backward passes in a row
};

}  // namespace ikkuna::torch_probe
