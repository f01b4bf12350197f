#include "probe/torch/tensor_reader.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

namespace ikkuna::torch_probe {

DType DTypeOf(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return DType::kF32;
    case at::kDouble:
      return DType::kF64;
    case at::kHalf:
      return DType::kF16;
    case at::kBFloat16:
      return DType::kBF16;
    case at::kChar:
      return DType::kI8;
    case at::kByte:
      return DType::kU8;
    case at::kShort:
      return DType::kI16;
    case at::kInt:
      return DType::kI32;
    case at::kLong:
      return DType::kI64;
    case at::kBool:
      return DType::kBool;
    default:
      return DType::kInvalid;
  }
}

// Sharded parameters are let go of by resizing their storage to nothing, while the tensor keeps its sizes.
static bool IsFreed(const at::Tensor& tensor) {
  if (tensor.numel() == 0) return false;
  int64_t last = tensor.storage_offset();
  for (int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
  return tensor.storage().nbytes() < static_cast<size_t>(last + 1) * tensor.itemsize();
}

std::string WhyUnreadable(const at::Tensor& tensor) {
  if (!tensor.defined()) return "undefined";
  if (!tensor.device().is_cpu()) return "on device " + tensor.device().str() + ", and only host tensors are read";
  if (tensor.layout() != at::kStrided) return "sparse or opaque layout";
  if (!tensor.has_storage()) return "without storage (a functorch or fake tensor)";
  if (tensor._is_zerotensor()) return "all zeros, without memory of its own";
  if (IsFreed(tensor)) return "its storage was resized, and holds less than the tensor";
  if (tensor.dim() > probe::kMaxArrayDims) return "more than " + std::to_string(probe::kMaxArrayDims) + " dimensions";
  if (DTypeOf(tensor.scalar_type()) == DType::kInvalid) {
    return std::string("data type ") + at::toString(tensor.scalar_type());
  }
  return {};
}

probe::TensorShape ShapeOf(const at::Tensor& tensor) {
  return {DTypeOf(tensor.scalar_type()), static_cast<int>(tensor.dim()), tensor.sizes().data()};
}

probe::Array ArrayOf(const at::Tensor& tensor) {
  return {tensor.const_data_ptr(),      DTypeOf(tensor.scalar_type()), static_cast<int>(tensor.dim()),
          tensor.sizes().data(),        tensor.strides().data(),       tensor.is_neg() ? -1.0 : 1.0};
}

uint64_t WordsOf(const at::Tensor& tensor, size_t most, uint64_t hash) {
  const auto& storage = tensor.storage();
  const auto* bytes = static_cast<const unsigned char*>(storage.data());
  const size_t words = bytes == nullptr ? 0 : storage.nbytes() / sizeof(uint32_t);
  const size_t stride = std::max<size_t>(1, words / most);
  for (size_t i = 0; i < words; i += stride) {
    uint32_t word = 0;
    std::memcpy(&word, bytes + i * sizeof word, sizeof word);
    hash = (hash ^ word) * 0x100000001b3;  // FNV
  }
  return hash;
}

std::optional<double> ReadScalar(const at::Tensor& tensor) {
  if (!WhyUnreadable(tensor).empty() || tensor.numel() != 1) return std::nullopt;
  // By far the most are; the others cost two operators.
  if (tensor.scalar_type() == at::kFloat && !tensor._is_zerotensor()) {
    const auto value = static_cast<double>(*tensor.const_data_ptr<float>());
    return tensor.is_neg() ? -value : value;
  }
  return tensor.item().toDouble();
}

}  // namespace ikkuna::torch_probe
