#include "probe/torch/module_outputs.h"

#include <cstddef>

namespace ikkuna::torch_probe {

namespace {

struct Class {
  std::string_view name;  // after "torch::nn::", without "Impl"
  const char* operators;
};
// A Linear of more than two dimensions adds its bias in place after `matmul`.
constexpr Class kWithParameters[] = {
    {"Linear", "addmm linear matmul"},
    {"Bilinear", "bilinear"},
    {"Conv1d", "conv1d _convolution"},
    {"Conv2d", "conv2d _convolution"},
    {"Conv3d", "conv3d _convolution"},
    {"ConvTranspose1d", "conv_transpose1d _convolution"},
    {"ConvTranspose2d", "conv_transpose2d _convolution"},
    {"ConvTranspose3d", "conv_transpose3d _convolution"},
    {"BatchNorm1d", "batch_norm"},
    {"BatchNorm2d", "batch_norm"},
    {"BatchNorm3d", "batch_norm"},
    {"InstanceNorm1d", "instance_norm"},
    {"InstanceNorm2d", "instance_norm"},
    {"InstanceNorm3d", "instance_norm"},
    {"LayerNorm", "layer_norm"},
    {"GroupNorm", "group_norm"},
    {"Embedding", "embedding"},
    {"EmbeddingBag", "embedding_bag"},
    {"PReLU", "prelu"},
    {"LSTM", "lstm"},
    {"GRU", "gru"},
    {"RNN", "rnn_tanh rnn_relu"},
    {"LSTMCell", "lstm_cell"},
    {"GRUCell", "gru_cell"},
    {"RNNCell", "rnn_tanh_cell rnn_relu_cell"},
};

struct Functional {
  std::string_view name;
  const char* types;
};
constexpr Functional kFunctionals[] = {
    {"relu", "ReLU"},
    {"relu_", "ReLU"},
    {"relu6", "ReLU6"},
    {"relu6_", "ReLU6"},
    {"leaky_relu", "LeakyReLU"},
    {"leaky_relu_", "LeakyReLU"},
    {"rrelu", "RReLU"},
    {"rrelu_", "RReLU"},
    {"elu", "ELU"},
    {"elu_", "ELU"},
    {"selu", "SELU"},
    {"selu_", "SELU"},
    {"celu", "CELU"},
    {"celu_", "CELU"},
    {"glu", "GLU"},
    {"gelu", "GELU"},
    {"silu", "SiLU"},
    {"silu_", "SiLU"},
    {"mish", "Mish"},
    {"hardtanh", "Hardtanh"},
    {"hardtanh_", "Hardtanh"},
    {"hardshrink", "Hardshrink"},
    {"softshrink", "Softshrink"},
    {"tanh", "Tanh"},
    {"tanh_", "Tanh"},
    {"sigmoid", "Sigmoid"},
    {"sigmoid_", "Sigmoid"},
    {"log_sigmoid", "LogSigmoid"},
    {"softplus", "Softplus"},
    {"threshold", "Threshold"},
    {"threshold_", "Threshold"},
    {"softmax", "Softmax Softmax2d"},
    {"log_softmax", "LogSoftmax"},
    {"max_pool1d", "MaxPool1d"},
    {"max_pool2d", "MaxPool2d"},
    {"max_pool3d", "MaxPool3d"},
    {"max_pool1d_with_indices", "MaxPool1d"},
    {"max_pool2d_with_indices", "MaxPool2d"},
    {"max_pool3d_with_indices", "MaxPool3d"},
    {"avg_pool1d", "AvgPool1d"},
    {"avg_pool2d", "AvgPool2d"},
    {"avg_pool3d", "AvgPool3d"},
    {"adaptive_avg_pool1d", "AdaptiveAvgPool1d"},
    {"adaptive_avg_pool2d", "AdaptiveAvgPool2d"},
    {"adaptive_avg_pool3d", "AdaptiveAvgPool3d"},
    {"adaptive_max_pool1d", "AdaptiveMaxPool1d"},
    {"adaptive_max_pool2d", "AdaptiveMaxPool2d"},
    {"adaptive_max_pool3d", "AdaptiveMaxPool3d"},
    {"fractional_max_pool2d", "FractionalMaxPool2d"},
    {"fractional_max_pool3d", "FractionalMaxPool3d"},
    {"dropout", "Dropout"},
    {"dropout_", "Dropout"},
    {"feature_dropout", "Dropout2d Dropout3d"},
    {"feature_dropout_", "Dropout2d Dropout3d"},
    {"alpha_dropout", "AlphaDropout"},
    {"alpha_dropout_", "AlphaDropout"},
    {"feature_alpha_dropout", "FeatureAlphaDropout"},
    {"feature_alpha_dropout_", "FeatureAlphaDropout"},
    {"flatten", "Flatten"},
    {"unflatten", "Unflatten"},
    {"pixel_shuffle", "PixelShuffle"},
    {"pixel_unshuffle", "PixelUnshuffle"},
};

}  // namespace

const char* OperatorsOf(std::string_view class_name) {
  constexpr std::string_view kSpace = "torch::nn::";
  constexpr std::string_view kEnd = "Impl";
  if (!class_name.starts_with(kSpace) || !class_name.ends_with(kEnd)) return nullptr;
  class_name = class_name.substr(kSpace.size(), class_name.size() - kSpace.size() - kEnd.size());
  for (const Class& known : kWithParameters) {
    if (known.name == class_name) return known.operators;
  }
  return nullptr;
}

const char* TypesMadeBy(std::string_view operator_name) {
  for (const Functional& known : kFunctionals) {
    if (known.name == operator_name) return known.types;
  }
  return "";
}

bool HasOwnOperator(std::string_view type) {
  for (const Functional& known : kFunctionals) {
    if (Lists(known.types, type)) return true;
  }
  return false;
}

bool Lists(const char* list, std::string_view word) {
  if (list == nullptr || word.empty()) return false;
  std::string_view rest(list);
  while (!rest.empty()) {
    const size_t blank = rest.find(' ');
    if (rest.substr(0, blank) == word) return true;
    if (blank == std::string_view::npos) return false;
    rest.remove_prefix(blank + 1);
  }
  return false;
}

}  // namespace ikkuna::torch_probe
