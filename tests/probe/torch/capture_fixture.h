// Capture: a probe without a daemon, and every message of it as an in-process subscriber sees them.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "probe/ikkuna/probe.hpp"

namespace ikkuna {

namespace F = torch::nn::functional;
using torch::Tensor;

// Why what malloc() has given away cannot be counted here (mallinfo2); null: it can be.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr const char* kNoHeapCount = "the sanitizer has a malloc of its own, of which mallinfo2() knows nothing";
#else
inline constexpr const char* kNoHeapCount = nullptr;
#endif

struct Kept {
  ProbeMessage message;
  Tensor tensor;  // a copy
};

class Capture : public ::testing::Test {
 protected:
  void SetUp() override {
    ::setenv("IKKUNA_DIR", "/nonexistent/ikkuna-capture", 1);
    torch::manual_seed(11);
  }
  void TearDown() override { probe_.reset(); }

  Probe& Start(const std::vector<std::string>& kinds, const std::string& tag = "default", uint32_t period = 1) {
    probe_ = std::make_unique<Probe>(ProbeOptions{.run = "capture", .quiet = true});
    Also(kinds, tag, period);
    return *probe_;
  }
  void Also(const std::vector<std::string>& kinds, const std::string& tag, uint32_t period = 1) {
    probe_->Subscribe(
        kinds,
        [this](const ProbeMessage& message) {
          kept_.push_back({message, message.tensor.defined() ? message.tensor.clone() : Tensor()});
        },
        period, tag);
  }
  std::vector<Kept> Of(const std::string& kind, const std::string& module = "*") const {
    std::vector<Kept> found;
    for (const Kept& kept : kept_) {
      if (kept.message.kind == kind && (module == "*" || kept.message.module == module)) found.push_back(kept);
    }
    return found;
  }
  template <typename Model>
  static void Train(Model& model, torch::optim::Optimizer& optimizer, const Tensor& x, const Tensor& y) {
    optimizer.zero_grad();
    F::cross_entropy(model->forward(x), y).backward();
    optimizer.step();
  }

  std::vector<Kept> kept_;
  std::unique_ptr<Probe> probe_;
};

}  // namespace ikkuna
