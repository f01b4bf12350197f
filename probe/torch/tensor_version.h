// VersionOf: how often a tensor was written, as LibTorch counts it.
//
// Thread rule: function without state.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "probe/torch/tensor_reader.h"

namespace ikkuna::torch_probe {

// Of those that were made in inference mode, of which LibTorch keeps no count, a hash of some words: another number where
// they were written. 0: undefined, or it cannot be read.
inline uint32_t VersionOf(const at::Tensor& tensor) {
  if (!tensor.defined()) return 0;
  if (!tensor.is_inference()) return static_cast<uint32_t>(tensor._version());
  return WhyUnreadable(tensor).empty() ? static_cast<uint32_t>(WordsOf(tensor, 16, 0)) : 0;
}

}  // namespace ikkuna::torch_probe
