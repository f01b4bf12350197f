#include "metrics/value.h"

namespace ikkuna {

std::string_view ValueTypeName(ValueType type) {
  switch (type) {
    case ValueType::kNumber:
      return "number";
    case ValueType::kText:
      return "text";
    case ValueType::kHistogram:
      return "histogram";
    case ValueType::kTensor:
      return "tensor";
  }
  return "invalid";
}

size_t BytesOf(const Value& value) {
  size_t bytes = sizeof value;
  if (const auto* text = std::get_if<Text>(&value)) bytes += text->text.size();
  if (const auto* histogram = std::get_if<Histogram>(&value)) bytes += histogram->counts.size() * sizeof(uint64_t);
  if (const auto* tensor = std::get_if<TensorValue>(&value)) {
    bytes += tensor->values.size() * sizeof(float) + tensor->sizes.size() * sizeof(int64_t);
  }
  return bytes;
}

}  // namespace ikkuna
