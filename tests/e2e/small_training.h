// What the trainers of the fault tests share: a perceptron, fixed batches, losses written as hexadecimal floats.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace small_training {

struct Mlp : torch::nn::Module {
  explicit Mlp(int64_t width = 32) {
    f1 = register_module("f1", torch::nn::Linear(16, width));
    f2 = register_module("f2", torch::nn::Linear(width, width));
    f3 = register_module("f3", torch::nn::Linear(width, 4));
  }
  torch::Tensor forward(const torch::Tensor& x) { return f3(torch::relu(f2(torch::relu(f1(x))))); }
  torch::nn::Linear f1{nullptr}, f2{nullptr}, f3{nullptr};
};

// Batches that are drawn before training: threads take them without a generator in common.
struct Batches {
  std::vector<torch::Tensor> x, y;
  explicit Batches(int count) {
    for (int i = 0; i < count; ++i) {
      x.push_back(torch::randn({8, 16}));
      y.push_back(torch::randint(4, {8}));
    }
  }
  size_t size() const { return x.size(); }
};

// `--name value` pairs.
class Arguments {
 public:
  Arguments(int argc, char** argv) {
    for (int i = 1; i + 1 < argc; i += 2) values_[argv[i]] = argv[i + 1];
  }
  std::string Text(const std::string& name, const std::string& otherwise = "") const {
    const auto found = values_.find(name);
    return found == values_.end() ? otherwise : found->second;
  }
  int64_t Number(const std::string& name, int64_t otherwise) const {
    const std::string text = Text(name);
    return text.empty() ? otherwise : std::strtoll(text.c_str(), nullptr, 10);
  }

 private:
  std::map<std::string, std::string> values_;
};

// A file of lines, each of which is there for a reader as soon as it was written.
class Lines {
 public:
  explicit Lines(const std::string& path) : file_(std::fopen(path.c_str(), "we")) {
    if (file_ == nullptr) {
      std::perror(path.c_str());
      std::exit(2);
    }
    std::setvbuf(file_, nullptr, _IOLBF, 1 << 16);
  }
  ~Lines() { std::fclose(file_); }
  Lines(const Lines&) = delete;
  Lines& operator=(const Lines&) = delete;
  template <typename... Values>
  void Write(const char* format, Values... values) {
    std::fprintf(file_, format, values...);
  }

 private:
  std::FILE* file_;
};

// FNV-1a over the bytes of a module's parameters: equal exactly if no bit changed.
inline uint64_t HashOf(const torch::nn::Module& module) {
  uint64_t hash = 14695981039346656037ull;
  for (const torch::Tensor& parameter : module.parameters()) {
    const torch::Tensor flat = parameter.detach().contiguous();
    const auto* bytes = static_cast<const unsigned char*>(flat.const_data_ptr());
    for (size_t i = 0; i < flat.nbytes(); ++i) hash = (hash ^ bytes[i]) * 1099511628211ull;
  }
  return hash;
}

}  // namespace small_training
