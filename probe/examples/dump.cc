#include "probe/examples/dump.h"

#include <filesystem>
#include <fstream>
#include <stdexcept>

#include <ATen/ATen.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>

namespace trainer {
namespace {

// The type as NumPy writes it. NumPy has no bfloat16; those numbers go out as float32, which holds each of them
// exactly.
const char* NumpyType(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return "<f4";
    case at::kDouble:
      return "<f8";
    case at::kHalf:
      return "<f2";
    case at::kLong:
      return "<i8";
    default:
      return nullptr;
  }
}

// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, version 1.0.
void WriteNpy(const std::string& path, at::Tensor tensor) {
  tensor = tensor.detach().cpu().contiguous();
  if (NumpyType(tensor.scalar_type()) == nullptr) tensor = tensor.to(at::kFloat);
  std::string header =
      std::string("{'descr': '") + NumpyType(tensor.scalar_type()) + "', 'fortran_order': False, 'shape': (";
  for (int64_t size : tensor.sizes()) header += std::to_string(size) + ",";
  header += ")}";
  constexpr size_t kFixed = 10, kAlign = 64;
  header.resize((kFixed + header.size() + 1 + kAlign - 1) / kAlign * kAlign - kFixed - 1, ' ');
  header += '\n';
  std::ofstream file(path, std::ios::binary);
  file << "\x93NUMPY\x01" << '\0' << static_cast<char>(header.size() & 0xff) << static_cast<char>(header.size() >> 8)
       << header;
  file.write(static_cast<const char*>(tensor.const_data_ptr()), static_cast<std::streamsize>(tensor.nbytes()));
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

std::pair<std::string, std::string> SplitName(const std::string& name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return {"", name};
  return {name.substr(0, dot), name.substr(dot + 1)};
}

}  // namespace

Dump::Dump(std::string folder, int64_t steps) : folder_(std::move(folder)), steps_(steps) {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error) throw std::runtime_error("cannot make folder '" + folder_ + "' of --dump-dir: " + error.message());
}

void Dump::Write(const std::string& kind, const std::string& module, const std::string& param, const at::Tensor& tensor,
                 int64_t call) {
  Entry entry{std::to_string(entries_.size()) + ".npy", kind,  module, param, tag_,
              toString(tensor.scalar_type()),           step_, micro_, call};
  WriteNpy(folder_ + "/" + entry.file, tensor);
  entries_.push_back(std::move(entry));
}

void Dump::WriteParameters(torch::nn::Module& model, const std::string& weight_kind, const std::string& bias_kind,
                           const std::function<at::Tensor(const std::string&, const at::Tensor&)>& value) {
  for (const auto& item : model.named_parameters()) {
    const at::Tensor tensor = value(item.key(), item.value());
    if (!tensor.defined()) continue;
    const auto [module, param] = SplitName(item.key());
    Write(param == "bias" ? bias_kind : weight_kind, module, param, tensor);
  }
}

void Dump::WriteBuffers(torch::nn::Module& model, const std::string& kind) {
  for (const auto& item : model.named_buffers()) {
    const auto [module, param] = SplitName(item.key());
    Write(kind, module, param, item.value());
  }
}

void Dump::WriteState(torch::nn::Module& model, torch::optim::Optimizer& optimizer, const std::string& suffix) {
  auto state = [&](const at::Tensor& parameter) -> const torch::optim::OptimizerParamState* {
    const auto found = optimizer.state().find(parameter.unsafeGetTensorImpl());
    return found == optimizer.state().end() ? nullptr : found->second.get();
  };
  for (const bool squared : {false, true}) {
    const std::string kind = (squared ? "exp_avg_sq_" : "exp_avg_") + suffix;
    WriteParameters(model, kind, kind, [&](const std::string&, const at::Tensor& parameter) -> at::Tensor {
      const auto* adam = dynamic_cast<const torch::optim::AdamParamState*>(state(parameter));
      if (adam == nullptr) return {};
      return squared ? adam->exp_avg_sq() : adam->exp_avg();
    });
  }
  const std::string kind = "momentum_buffer_" + suffix;
  WriteParameters(model, kind, kind, [&](const std::string&, const at::Tensor& parameter) -> at::Tensor {
    const auto* sgd = dynamic_cast<const torch::optim::SGDParamState*>(state(parameter));
    return sgd == nullptr ? at::Tensor() : sgd->momentum_buffer();
  });
}

void Dump::BeginStep(int64_t step, torch::nn::Module& model, torch::optim::Optimizer& optimizer) {
  step_ = step;
  micro_ = 0;
  tag_ = "default";
  before_.clear();
  WriteParameters(model, "weights", "biases", [&](const std::string& name, const at::Tensor& parameter) {
    return before_[name] = parameter.detach().clone();
  });
  WriteBuffers(model, "buffers_before");
  WriteState(model, optimizer, "before");
  for (const auto& item : model.named_parameters()) {
    const at::Tensor& parameter = item.value();
    if (!parameter.requires_grad()) continue;
    const unsigned hook = parameter.register_hook(
        [this, name = item.key()](const at::Tensor& gradient) { raw_[name] = gradient.detach().clone(); });
    hooks_.emplace_back(parameter, hook);
  }
}

void Dump::BeginPass(int64_t step, int64_t micro, const std::string& tag) {
  step_ = step;
  micro_ = micro;
  tag_ = tag;
  kept_.clear();
  calls_.clear();
}

void Dump::Output(const std::string& module, const at::Tensor& output) {
  const int64_t call = calls_[module]++;
  Write("activations", module, "", output, call);
  if (!output.requires_grad()) return;
  output.retain_grad();
  kept_.push_back({module, call, output});
}

void Dump::EndPass(const at::Tensor& input, const at::Tensor& labels, const at::Tensor& output,
                   const at::Tensor& loss) {
  Write("input_data", "", "", input);
  Write("input_labels", "", "", labels);
  Write("network_output", "", "", output);
  Write("loss", "", "", loss);
}

void Dump::AfterBackward(torch::nn::Module& model) {
  for (const Kept& kept : kept_) Write("layer_gradients", kept.module, "", kept.output.grad(), kept.call);
  kept_.clear();
  WriteParameters(model, "raw_weight_gradients", "raw_bias_gradients",
                  [&](const std::string& name, const at::Tensor&) { return std::exchange(raw_[name], {}); });
}

void Dump::BeforeUpdate(torch::nn::Module& model) {
  for (const auto& [parameter, hook] : hooks_) parameter.remove_hook(hook);
  hooks_.clear();
  micro_ = 0;
  WriteParameters(model, "weight_gradients", "bias_gradients",
                  [](const std::string&, const at::Tensor& parameter) { return parameter.grad(); });
}

void Dump::AfterUpdate(torch::nn::Module& model, torch::optim::Optimizer& optimizer) {
  WriteParameters(model, "weight_updates", "bias_updates", [&](const std::string& name, const at::Tensor& parameter) {
    return parameter.detach() - before_.at(name);
  });
  WriteBuffers(model, "buffers_after");
  WriteState(model, optimizer, "after");
}

void Dump::Finish() {
  const std::string path = folder_ + "/index.json";
  std::ofstream file(path);
  file << "{\"entries\": [";
  const char* separator = "\n";
  for (const Entry& e : entries_) {
    file << separator << "  {\"file\": \"" << e.file << "\", \"kind\": \"" << e.kind << "\", \"module\": \"" << e.module
         << "\", \"param\": \"" << e.param << "\", \"tag\": \"" << e.tag << "\", \"dtype\": \"" << e.dtype
         << "\", \"step\": " << e.step << ", \"micro\": " << e.micro << ", \"call\": " << e.call << "}";
    separator = ",\n";
  }
  file << "\n]}\n";
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

}  // namespace trainer
