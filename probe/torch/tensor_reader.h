// TensorReader: from an at::Tensor to what the session publishes: statistics, or bytes in the arena.
//
// Thread rule: stateless but for the session; called on training threads with recording of our own operators off.
#pragma once

#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "probe/core/session.h"

namespace ikkuna::torch_probe {

// Our frozen code, kInvalid for a type that is not published (complex, quantized).
DType DTypeOf(at::ScalarType type);

// Of the tensor's own sizes, which it must outlive.
probe::TensorShape ShapeOf(const at::Tensor& tensor);

// Why a tensor cannot be read, for a note; empty when it can.
std::string WhyUnreadable(const at::Tensor& tensor);

// Publishes a readable tensor at `level`. False: dropped (counted) or unreadable (not attempted).
bool PublishTensor(probe::Session& session, const probe::MessageHeader& header, Level level, const at::Tensor& tensor);

// Publishes now - kept, elementwise in the tensor's own type. Shapes and types are equal, kept is contiguous.
bool PublishDifference(probe::Session& session, const probe::MessageHeader& header, Level level, const at::Tensor& now,
                       const at::Tensor& kept);

// The single number of a one-element tensor; nothing for others.
std::optional<double> ReadScalar(const at::Tensor& tensor);

}  // namespace ikkuna::torch_probe
