// TensorReader: an at::Tensor as the core reads it.
//
// Thread rule: none, no state.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "probe/core/array.h"

namespace ikkuna::torch_probe {

// Our frozen code, kInvalid for a type that is not published (complex, quantized).
DType DTypeOf(at::ScalarType type);

// Why a tensor cannot be read, for a note; empty when it can.
std::string WhyUnreadable(const at::Tensor& tensor);

// Of the tensor's own sizes, which it must outlive.
probe::TensorShape ShapeOf(const at::Tensor& tensor);

// Of a readable tensor, which it must outlive.
probe::Array ArrayOf(const at::Tensor& tensor);

// A hash of some words, at least `most` where it has as many, of the memory of a readable tensor.
uint64_t WordsOf(const at::Tensor& tensor, size_t most, uint64_t hash);

// The single number of a one-element tensor; nothing for others.
std::optional<double> ReadScalar(const at::Tensor& tensor);

}  // namespace ikkuna::torch_probe
