// VersionOf: how often a tensor was written, as LibTorch counts it.
//
// Thread rule: function without state.
#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace ikkuna::torch_probe {

// 0 for those of which LibTorch keeps no count: undefined ones, and those made in inference mode.
inline uint32_t VersionOf(const at::Tensor& tensor) {
  return !tensor.defined() || tensor.is_inference() ? 0 : static_cast<uint32_t>(tensor._version());
}

}  // namespace ikkuna::torch_probe
