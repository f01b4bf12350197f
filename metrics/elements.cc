#include "metrics/elements.h"

#include <cstring>

#include "shared/base/half.h"

namespace ikkuna::metrics {

namespace {

template <typename T>
T LoadAt(const void* data, uint64_t index) {
  T value;
  std::memcpy(&value, static_cast<const unsigned char*>(data) + index * sizeof(T), sizeof(T));
  return value;
}

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};
struct Bool {
  uint8_t byte;
};

template <typename T>
double ToDouble(T value) {
  return static_cast<double>(value);
}
double ToDouble(BFloat value) { return BrainToFloat(value.bits); }
double ToDouble(Bool value) { return value.byte != 0 ? 1 : 0; }
double ToDouble(Half value) { return HalfToFloat(value.bits); }

template <typename T>
void Convert(const void* data, uint64_t first, size_t count, double* out) {
  for (size_t i = 0; i < count; ++i) out[i] = ToDouble(LoadAt<T>(data, first + i));
}

}  // namespace

void LoadDoubles(const TensorView& tensor, uint64_t first, size_t count, double* out) {
  switch (tensor.dtype) {
    case DType::kF32:
      return Convert<float>(tensor.data, first, count, out);
    case DType::kF64:
      return Convert<double>(tensor.data, first, count, out);
    case DType::kF16:
      return Convert<Half>(tensor.data, first, count, out);
    case DType::kBF16:
      return Convert<BFloat>(tensor.data, first, count, out);
    case DType::kI8:
      return Convert<int8_t>(tensor.data, first, count, out);
    case DType::kU8:
      return Convert<uint8_t>(tensor.data, first, count, out);
    case DType::kI16:
      return Convert<int16_t>(tensor.data, first, count, out);
    case DType::kI32:
      return Convert<int32_t>(tensor.data, first, count, out);
    case DType::kI64:
      return Convert<int64_t>(tensor.data, first, count, out);
    case DType::kBool:
      return Convert<Bool>(tensor.data, first, count, out);
    case DType::kInvalid:
      break;
  }
  for (size_t i = 0; i < count; ++i) out[i] = 0;
}

bool IsInteger(DType dtype) {
  switch (dtype) {
    case DType::kI8:
    case DType::kU8:
    case DType::kI16:
    case DType::kI32:
    case DType::kI64:
    case DType::kBool:
      return true;
    default:
      return false;
  }
}

int64_t LoadInteger(const TensorView& tensor, uint64_t index) {
  switch (tensor.dtype) {
    case DType::kI8:
      return LoadAt<int8_t>(tensor.data, index);
    case DType::kU8:
      return LoadAt<uint8_t>(tensor.data, index);
    case DType::kI16:
      return LoadAt<int16_t>(tensor.data, index);
    case DType::kI32:
      return LoadAt<int32_t>(tensor.data, index);
    case DType::kI64:
      return LoadAt<int64_t>(tensor.data, index);
    case DType::kBool:
      return LoadAt<Bool>(tensor.data, index).byte != 0 ? 1 : 0;
    default:
      return 0;
  }
}

}  // namespace ikkuna::metrics
