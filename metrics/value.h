// Value: what a subscriber puts out, and what a series is made of. A series has one type.
//
// Plain values. Thread rule: none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace ikkuna {

enum class ValueType : uint8_t { kNumber = 1, kText = 2, kHistogram = 3, kTensor = 4 };
std::string_view ValueTypeName(ValueType type);  // "number", "text", "histogram", "tensor"

// How exactly numbers are kept. kSingle: float32, where that does not turn a value into 0, a subnormal or an infinity;
// that one is kept as a double. For what is computed of tensors of 32 bits and less.
enum class Precision : uint8_t { kSingle = 1, kDouble = 2 };

struct Text {
  std::string text;  // UTF-8
  bool operator==(const Text&) const = default;
};

// Counts of equal bins over [min, max] of the finite elements; the last bin contains max. min > max: there was none.
struct Histogram {
  static constexpr size_t kMaxBins = 4096;
  double min = 0;
  double max = 0;
  uint64_t n = 0;  // finite elements: the sum of `counts`
  double sum = 0;  // of finite elements
  double sum_squares = 0;
  uint64_t nans = 0;
  uint64_t positive_infinities = 0;
  uint64_t negative_infinities = 0;
  std::vector<uint64_t> counts;
  bool operator==(const Histogram&) const = default;
};

// A small tensor to be looked at: a confusion matrix, a picture. Row-major.
struct TensorValue {
  static constexpr size_t kMaxElements = 1 << 22;
  enum class Form : uint8_t { kMatrix = 1, kImage = 2 };  // an image: [H, W] or [H, W, C] with C 1, 3 or 4, in [0, 1]
  Form form = Form::kMatrix;
  std::vector<int64_t> sizes;
  std::vector<float> values;
  bool operator==(const TensorValue&) const = default;
};

// The order of the alternatives is that of ValueType.
using Value = std::variant<double, Text, Histogram, TensorValue>;

inline ValueType TypeOf(const Value& value) { return static_cast<ValueType>(value.index() + 1); }
// What it takes in memory, roughly: what queues bound.
size_t BytesOf(const Value& value);

}  // namespace ikkuna
