// Scenario: a training loop written by hand, with the truth taken by hand in the loop, against what a probe captured.
//
// The loop calls Forward() just before a training forward pass and Step() just before the optimizer writes; both clone
// the parameters and gradients themselves. Check() then compares every captured step bit for bit.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "probe/ikkuna/probe.hpp"
#include "shared/codes.h"

namespace ikkuna::scenario {

using Tensors = std::map<std::string, torch::Tensor>;  // by dotted name of the parameter

struct StepTruth {
  Tensors weights;
  Tensors gradients;
  std::optional<Tensors> updates;
  uint16_t flags = 0;
  bool finished = false;
  bool skipped = false;
};

inline Tensors ParametersOf(torch::nn::Module& model, bool gradients) {
  torch::NoGradGuard no_grad;
  Tensors tensors;
  std::vector<torch::Tensor> seen;
  for (const auto& item : model.named_parameters()) {
    bool tied = false;
    for (const auto& other : seen) tied |= other.is_same(item.value());
    if (tied) continue;
    seen.push_back(item.value());
    const torch::Tensor tensor = gradients ? item.value().grad() : item.value();
    if (tensor.defined()) tensors[item.key()] = tensor.detach().clone();
  }
  return tensors;
}

class Scenario {
 public:
  explicit Scenario(uint32_t period) : period_(period) {
    ::setenv("IKKUNA_DIR", "/nonexistent/ikkuna-scenario", 1);
    torch::manual_seed(7);
    probe_ = std::make_unique<Probe>(ProbeOptions{.run = "scenario", .quiet = true});
    EXPECT_TRUE(probe_->active());
    probe_->Subscribe(
        {"weights", "biases", "weight_gradients", "bias_gradients", "weight_updates", "bias_updates", "batch_finished"},
        [this](const ProbeMessage& message) { Receive(message); }, period);
  }
  ~Scenario() { probe_.reset(); }

  Probe& probe() { return *probe_; }
  void Attach(torch::nn::Module& model, const AttachOptions& options = {}) {
    const std::string name = roots_.empty() ? "model" : "model" + std::to_string(roots_.size());
    roots_.push_back({&model, name, {}, false});
    probe_->Attach(model, options);
  }

  void Forward(torch::nn::Module& model) {
    Root& root = RootOf(model);
    if (!std::exchange(root.open, false)) return;
    torch::NoGradGuard no_grad;
    StepTruth& last = root.steps.back();
    Tensors updates;
    for (const auto& [name, now] : ParametersOf(model, false)) {
      if (now.scalar_type() == last.weights.at(name).scalar_type()) updates[name] = now - last.weights.at(name);
    }
    last.updates = std::move(updates);
  }
  void Step(torch::nn::Module& model) {
    Root& root = RootOf(model);
    root.steps.push_back({ParametersOf(model, false), ParametersOf(model, true), std::nullopt, 0, true});
    root.open = true;
  }

  // Where the loop leaves out the write: a step of its own, whose gradients are gone when that is known.
  void Skip(torch::nn::Module& model) {
    Root& root = RootOf(model);
    root.steps.push_back({ParametersOf(model, false), {}, std::nullopt, kFlagStepSkipped, true, true});
    root.open = true;
  }

  // Where the loop writes in a way that nobody sees. Its gradients are known only if they are still there then.
  void Infer(torch::nn::Module& model, bool gradients) {
    Root& root = RootOf(model);
    root.steps.push_back({ParametersOf(model, false), gradients ? ParametersOf(model, true) : Tensors(), std::nullopt,
                          kFlagStepInferred, true, true});
    root.open = true;
  }

  // After the optimizer wrote, for loops that say where a step ends: gradients are those the loop leaves behind.
  void StepWith(torch::nn::Module& model, const Tensors& weights_before) {
    Root& root = RootOf(model);
    root.steps.push_back({weights_before, ParametersOf(model, true), std::nullopt, 0, true});
    root.open = true;
  }

  void Check() { CheckAll(true); }
  // For loops in which a second hand moves the weights before an evaluation pass: an update that spans it is flagged.
  void CheckWithFlaggedUpdates() { CheckAll(false); }
  void CheckAll(bool flagged_too) {
    probe_->Detach();
    for (Root& root : roots_) {
      std::map<uint64_t, StepTruth>& captured = captured_[root.name];
      for (const auto& [step, messages] : captured) {
        // The last pass may have begun a step that never came.
        if (messages.finished) {
          EXPECT_LT(step, root.steps.size()) << root.name << ": a step that was never taken";
        }
      }
      for (size_t step = 0; step < root.steps.size(); step += period_) {
        // Whether the write of the last one was left out nobody knows.
        if (root.steps[step].skipped && step + 1 == root.steps.size()) continue;
        ASSERT_TRUE(captured.count(step) != 0) << root.name << " step " << step << " of " << root.steps.size();
        const StepTruth& got = captured[step];
        EXPECT_TRUE(got.finished) << root.name << " step " << step << " never finished";
        Compare(root.name, step, "weights", root.steps[step].weights, got.weights);
        Compare(root.name, step, "gradients", root.steps[step].gradients, got.gradients);
        EXPECT_EQ(got.flags & (kFlagStepSkipped | kFlagStepInferred), root.steps[step].flags)
            << root.name << " " << step;
        if (!flagged_too && (got.flags & kFlagWeightsChangedOutside) != 0) continue;
        if (root.steps[step].updates) Compare(root.name, step, "updates", *root.steps[step].updates, *got.updates);
      }
    }
  }
  uint16_t FlagsOf(const std::string& root, uint64_t step) { return captured_[root][step].flags; }
  size_t Captured(const std::string& root) { return captured_[root].size(); }

 private:
  struct Root {
    torch::nn::Module* model;
    std::string name;
    std::vector<StepTruth> steps;
    bool open;
  };
  Root& RootOf(torch::nn::Module& model) {
    for (Root& root : roots_) {
      if (root.model == &model) return root;
    }
    throw std::logic_error("not attached");
  }
  void Receive(const ProbeMessage& message) {
    std::lock_guard lock(mutex_);
    // Markers carry no root name: this test attaches what it names, one root a marker.
    if (message.kind == "batch_finished") {
      for (auto& [name, steps] : captured_) {
        const auto found = steps.find(message.global_step);
        if (found != steps.end()) {
          found->second.finished = true;
          found->second.flags |= message.flags;
        }
      }
      return;
    }
    StepTruth& step = captured_[message.root][message.global_step];
    if (!step.updates) step.updates.emplace();
    const std::string name = message.module.empty() ? message.param : message.module + "." + message.param;
    const torch::Tensor copy = message.tensor.clone();
    if (message.kind == "weights" || message.kind == "biases")
      step.weights[name] = copy;
    else if (message.kind == "weight_gradients" || message.kind == "bias_gradients")
      step.gradients[name] = copy;
    else
      (*step.updates)[name] = copy;
  }
  static void Compare(const std::string& root, size_t step, const char* what, const Tensors& want, const Tensors& got) {
    EXPECT_EQ(want.size(), got.size()) << root << " step " << step << " " << what;
    for (const auto& [name, tensor] : want) {
      const auto found = got.find(name);
      if (found == got.end()) {
        ADD_FAILURE() << root << " step " << step << " has no " << what << " of " << name;
        continue;
      }
      EXPECT_TRUE(found->second.scalar_type() == tensor.scalar_type() && torch::equal(found->second, tensor))
          << root << " step " << step << " " << what << " of " << name << " differ";
    }
  }

  const uint32_t period_;
  std::unique_ptr<Probe> probe_;
  std::vector<Root> roots_;
  std::mutex mutex_;
  std::map<std::string, std::map<uint64_t, StepTruth>> captured_;
};

// A small perceptron, eight wide, as most scenarios use.
struct Mlp : torch::nn::Module {
  explicit Mlp(int64_t out = 10) {
    f1 = register_module("f1", torch::nn::Linear(8, 8));
    f2 = register_module("f2", torch::nn::Linear(8, 8));
    f3 = register_module("f3", torch::nn::Linear(8, out));
  }
  torch::Tensor forward(const torch::Tensor& x) { return f3(torch::relu(f2(torch::relu(f1(x))))); }
  torch::nn::Linear f1{nullptr}, f2{nullptr}, f3{nullptr};
};

// Periods 1, 3 and 7: always awake, and two that sleep in between.
class AtPeriods : public ::testing::TestWithParam<uint32_t> {
 protected:
  void SetUp() override {
    torch::manual_seed(3);
    x_ = torch::randn({4, 8});
    y_ = torch::randint(10, {4});
  }
  torch::Tensor Loss(Mlp& model) { return torch::nn::functional::cross_entropy(model.forward(x_), y_); }
  torch::Tensor x_, y_;
};

}  // namespace ikkuna::scenario
