#include "daemon/sinks/tensorboard/values.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "daemon/sinks/tensorboard/png.h"
#include "shared/base/utf8.h"

namespace ikkuna::sinks {
namespace {

// Height, width, channels.
std::optional<PngShape> ShapeOf(const TensorValue& tensor) {
  const auto& sizes = tensor.sizes;
  const bool matrix = tensor.form == TensorValue::Form::kMatrix;
  if (sizes.size() != 2 && (matrix || sizes.size() != 3)) return std::nullopt;
  const int64_t channels = sizes.size() == 3 ? sizes[2] : 1;
  constexpr auto kMost = static_cast<int64_t>(TensorValue::kMaxElements);
  if (sizes[0] <= 0 || sizes[1] <= 0 || sizes[0] > kMost || sizes[1] > kMost) return std::nullopt;
  if (channels != 1 && channels != 3 && channels != 4) return std::nullopt;
  if (static_cast<uint64_t>(sizes[0] * sizes[1] * channels) != tensor.values.size()) return std::nullopt;
  return PngShape{static_cast<uint32_t>(sizes[0]), static_cast<uint32_t>(sizes[1]), static_cast<uint32_t>(channels)};
}

}  // namespace

void SetNumber(tb::Summary::Value& value, double number) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  if (std::fabs(number) > kLargest) number = std::copysign(INFINITY, number);
  value.set_simple_value(static_cast<float>(number));
}

void AddText(tb::Summary::Value& value, const std::string& text) {
  value.mutable_metadata()->mutable_plugin_data()->set_plugin_name("text");
  tb::TensorProto* tensor = value.mutable_tensor();
  tensor->set_dtype(tb::DT_STRING);
  tensor->add_string_val(CleanUtf8(text, text.size()));
  if (tensor->tensor_shape().dim_size() == 0) tensor->mutable_tensor_shape()->add_dim();
  tensor->mutable_tensor_shape()->mutable_dim(0)->set_size(tensor->string_val_size());
}

void SetHistogram(tb::Summary::Value& value, const Histogram& histogram) {
  tb::HistogramProto* out = value.mutable_histo();
  out->set_num(static_cast<double>(histogram.n));
  out->set_sum(histogram.sum);
  out->set_sum_squares(histogram.sum_squares);
  const size_t bins = histogram.counts.size();
  // Readers need a bucket.
  if (bins == 0 || !(histogram.min <= histogram.max)) {
    out->add_bucket_limit(0);
    out->add_bucket(0);
    return;
  }
  out->set_min(histogram.min);
  out->set_max(histogram.max);
  for (size_t i = 0; i < bins; ++i) {
    // Not min + i * width: the width of [-1e308, 1e308] is infinite.
    const double part = static_cast<double>(i + 1) / static_cast<double>(bins);
    out->add_bucket_limit(i + 1 == bins ? histogram.max : histogram.min * (1 - part) + histogram.max * part);
    out->add_bucket(static_cast<double>(histogram.counts[i]));
  }
}

bool SetTensor(tb::Summary::Value& value, const TensorValue& tensor) {
  const std::optional<PngShape> shape = ShapeOf(tensor);
  if (!shape) return false;
  double low = 0;
  double high = 1;
  if (tensor.form == TensorValue::Form::kMatrix) {
    low = INFINITY;
    high = -INFINITY;
    for (const float element : tensor.values) {
      if (!std::isfinite(element)) continue;
      low = std::min<double>(low, element);
      high = std::max<double>(high, element);
    }
  }
  std::string pixels(tensor.values.size(), '\0');
  for (size_t i = 0; i < pixels.size(); ++i) {
    if (!std::isfinite(tensor.values[i]) || !(high > low)) continue;
    const double grey = std::clamp((tensor.values[i] - low) / (high - low), 0.0, 1.0);
    pixels[i] = static_cast<char>(std::lround(grey * 255));
  }
  tb::Image* image = value.mutable_image();
  image->set_height(static_cast<int32_t>(shape->height));
  image->set_width(static_cast<int32_t>(shape->width));
  image->set_colorspace(static_cast<int32_t>(shape->channels));
  image->set_encoded_image_string(EncodePng(*shape, pixels));
  return true;
}

std::string FactsTable(const std::vector<std::pair<std::string, std::string>>& facts) {
  std::string table = "| fact | value |\n|---|---|\n";
  const auto append_cell = [&](const std::string& text) {
    for (const char c : text) {
      if (c == '|') table += '\\';
      table += c == '\n' || c == '\r' ? ' ' : c;
    }
  };
  for (const auto& [name, text] : facts) {
    table += "| ";
    append_cell(name);
    table += " | ";
    append_cell(text);
    table += " |\n";
  }
  return table;
}

std::string Preformatted(const std::string& text) {
  std::string lines = "    ";
  for (const char c : text) {
    lines += c;
    if (c == '\n') lines += "    ";
  }
  return lines;
}

}  // namespace ikkuna::sinks
