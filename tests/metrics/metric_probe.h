// Runs one metric on tensors, outside any graph, and keeps what it publishes.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "metrics/subscriber.h"
#include "shared/stats/merge.h"
#include "shared/stats/stats_pass.h"

namespace ikkuna::metrics {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

class Recorder final : public Results {
 public:
  void Put(uint32_t output, Subject subject, Value value) override {
    EXPECT_EQ(output, 0u);
    subjects.push_back(subject);
    if (const auto* number = std::get_if<double>(&value)) values.push_back(*number);
    if (const auto* text = std::get_if<Text>(&value)) texts.push_back(text->text);
    if (auto* histogram = std::get_if<Histogram>(&value)) histograms.push_back(std::move(*histogram));
  }
  void Raise(Severity, std::string text, std::optional<Action>) override { events.push_back(std::move(text)); }
  void Incomplete() override { ++incomplete; }
  bool cancelled() const override { return false; }

  std::vector<Subject> subjects;
  std::vector<double> values;
  std::vector<std::string> texts;
  std::vector<Histogram> histograms;
  std::vector<std::string> events;
  int incomplete = 0;
};

// A tensor that owns its bytes, at an odd address so that nothing may rely on alignment.
class TestTensor {
 public:
  TestTensor(DType dtype, std::vector<int64_t> sizes) : dtype_(dtype), sizes_(std::move(sizes)) { bytes_.push_back(0); }

  // `values` converted to the data type: f16 and bf16 round to nearest even, integers as given.
  static TestTensor Of(DType dtype, const std::vector<double>& values, std::vector<int64_t> sizes) {
    TestTensor tensor(dtype, std::move(sizes));
    for (const double value : values) tensor.Append(value);
    return tensor;
  }
  static TestTensor Of(DType dtype, const std::vector<double>& values) {
    return Of(dtype, values, {static_cast<int64_t>(values.size())});
  }

  TensorView view() const {
    uint64_t elements = 1;
    for (const int64_t size : sizes_) elements *= static_cast<uint64_t>(size);
    return {elements == 0 ? nullptr : bytes_.data() + 1, dtype_, sizes_, elements};
  }
  const unsigned char* data() const { return bytes_.data() + 1; }
  size_t byte_count() const { return bytes_.size() - 1; }
  DType dtype() const { return dtype_; }
  const std::vector<int64_t>& sizes() const { return sizes_; }

 private:
  template <typename T>
  void Put(T value) {
    const auto* from = reinterpret_cast<const unsigned char*>(&value);
    bytes_.insert(bytes_.end(), from, from + sizeof value);
  }
  void Append(double value) {
    switch (dtype_) {
      case DType::kF32:
        return Put(static_cast<float>(value));
      case DType::kF64:
        return Put(value);
      case DType::kF16:
        return Put(ToHalf(value));
      case DType::kBF16:
        return Put(ToBFloat(static_cast<float>(value)));
      case DType::kI8:
        return Put(static_cast<int8_t>(value));
      case DType::kU8:
        return Put(static_cast<uint8_t>(value));
      case DType::kI16:
        return Put(static_cast<int16_t>(value));
      case DType::kI32:
        return Put(static_cast<int32_t>(value));
      case DType::kI64:
        return Put(static_cast<int64_t>(value));
      case DType::kBool:
        return Put(static_cast<uint8_t>(value != 0));
      default:
        FAIL() << "no such data type";
    }
  }
  static uint16_t ToBFloat(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
  // By arithmetic, not by the bit tricks of the code under test.
  static uint16_t ToHalf(double value) {
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const double magnitude = std::fabs(value);
    if (std::isnan(value)) return 0x7e00;
    if (magnitude >= 65520) return sign | 0x7c00;
    if (magnitude < 0x1p-14) return static_cast<uint16_t>(sign | std::lrint(magnitude * 0x1p24));
    int exponent = 0;
    const double fraction = std::frexp(magnitude, &exponent);  // in [0.5, 1)
    const long mantissa = std::lrint(fraction * 2048);         // 1024 to 2048
    return static_cast<uint16_t>(sign | (((exponent + 13) << 10) + static_cast<int>(mantissa)));
  }

  DType dtype_;
  std::vector<int64_t> sizes_;
  std::vector<unsigned char> bytes_;
};

inline Definition Define(const std::string& name, const std::vector<std::string>& inputs,
                         std::vector<std::string> values = {}) {
  const Descriptor* descriptor = FindDescriptor(name);
  EXPECT_NE(descriptor, nullptr) << name;
  if (values.empty()) {
    for (const Parameter& parameter : descriptor->parameters) values.emplace_back(parameter.default_value);
  }
  auto definition = descriptor->define(inputs, values);
  EXPECT_TRUE(definition.ok()) << (definition.ok() ? "" : definition.error().text);
  return std::move(definition).value();
}

// What one series with these messages publishes in one step.
inline std::vector<double> RunSeries(const Definition& definition, Subscriber& subscriber,
                                     const std::vector<TestTensor>& messages) {
  const auto recorder = std::make_shared<Recorder>();
  Input input;
  input.subject = {3, 4};
  if (definition.delivery == Delivery::kMerged) {
    TensorStats stats;
    for (size_t i = 0; i < messages.size(); ++i) {
      const TensorView view = messages[i].view();
      const TensorStats one = ComputeStats(view.data, view.dtype, view.elements);
      stats = i == 0 ? one : MergeStats(stats, one);
    }
    input.stats = &stats;
    subscriber.OnStep({}, {&input, 1}, recorder);
  } else {
    for (const TestTensor& message : messages) {
      const Payload payload{message.view()};
      subscriber.OnMessage(input, &payload);
    }
    subscriber.OnStep({}, {&input, 1}, recorder);
    subscriber.Reset();
  }
  for (const Subject subject : recorder->subjects) EXPECT_EQ(subject, input.subject);
  return recorder->values;
}

inline double RunOnce(const std::string& name, const std::vector<std::string>& values,
                      const std::vector<TestTensor>& messages) {
  const Definition definition = Define(name, {"weights"}, values);
  const auto subscriber = definition.create();
  const std::vector<double> published = RunSeries(definition, *subscriber, messages);
  EXPECT_EQ(published.size(), 1u);
  return published.empty() ? kNan : published[0];
}

}  // namespace ikkuna::metrics
