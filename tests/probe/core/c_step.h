// A step of one pass through the C interface, as a test writes it.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "probe/ikkuna/probe.h"
#include "shared/codes.h"

namespace ikkuna {

inline ikkuna_array CArray(const void* data, const std::vector<int64_t>& sizes, int dtype = IKKUNA_F32) {
  ikkuna_array array{};
  array.size = sizeof array;
  array.data = data;
  array.dtype = dtype;
  array.ndim = static_cast<int32_t>(sizes.size());
  array.sizes = sizes.data();
  return array;
}

class CStep {
 public:
  CStep(ikkuna_session* session, uint16_t root, uint64_t step, uint16_t tag = IKKUNA_TAG_DEFAULT, uint32_t epoch = 0)
      : step_(ikkuna_step_begin(session, root, tag, step, epoch)), pass_(ikkuna_pass_begin(step_)) {}
  ~CStep() { End(); }
  CStep(const CStep&) = delete;
  CStep& operator=(const CStep&) = delete;

  bool began() const { return step_ != nullptr; }
  ikkuna_step* step() const { return step_; }
  ikkuna_pass* pass() const { return pass_; }
  int Wanted(int kind, uint32_t module = 0) const { return ikkuna_step_wanted(step_, kind, module); }
  int Loss(double value) { return ikkuna_pass_scalar(pass_, IKKUNA_LOSS, losses_++, value); }
  // Of the step or of its pass, as the kind is; `call`: of the pass.
  int Tensor(int kind, uint32_t module, uint32_t param, const float* data, const std::vector<int64_t>& sizes,
             uint16_t call = 0) {
    const ikkuna_array array = CArray(data, sizes);
    return IsPerCallKind(static_cast<Kind>(kind)) ? ikkuna_pass_array(pass_, kind, module, param, call, 0, &array)
                                                  : ikkuna_step_array(step_, kind, module, param, 0, &array);
  }
  void End(uint16_t flags = 0) {
    ikkuna_pass_end(std::exchange(pass_, nullptr));
    ikkuna_step_end(std::exchange(step_, nullptr), flags);
  }

 private:
  ikkuna_step* step_;
  ikkuna_pass* pass_;
  uint16_t losses_ = 0;
};

}  // namespace ikkuna
