// Scenario: a training loop written by hand, with the truth taken by hand in the loop, against what a probe captured.
//
// The loop calls Forward() just before a training forward pass and Step() just before the optimizer writes; both clone
// the parameters and gradients themselves, and NoteLoss() keeps the losses of the passes in between. Check() then
// compares every captured step bit for bit. AtPeriods runs each loop twice without a probe before: where those two runs
// end with the same weights, the watched ones have to: one that is asked for the loss alone, which hears operators but
// looks at no layers, and one that is asked for everything.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <atomic>
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
  std::vector<double> losses;  // of the passes that the step is made of
  std::map<std::string, std::vector<torch::Tensor>> layers;  // what their modules gave, by dotted name
  uint16_t flags = 0;
  bool finished = false;
  bool skipped = false;
  bool lacks = false;  // it says that a pass is missing
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
  // The weights that each loop of a test ends with.
  using Ends = std::vector<std::vector<torch::Tensor>>;
  static inline Ends* bare = nullptr;    // of a run without a probe; null: this one is watched
  static inline Ends expected = {};      // what a watched one has to end with
  static inline size_t watched_ends = 0;  // loops of the test that have ended
  static inline bool losses_alone = false;

  explicit Scenario(uint32_t period) : period_(period) {
    ::setenv("IKKUNA_DIR", "/nonexistent/ikkuna-scenario", 1);
    if (bare != nullptr) ::setenv("IKKUNA", "off", 1);
    torch::manual_seed(7);
    probe_ = std::make_unique<Probe>(ProbeOptions{.run = "scenario", .quiet = true});
    ::unsetenv("IKKUNA");
    EXPECT_EQ(probe_->active(), bare == nullptr);
    current = this;
    std::vector<std::string> kinds = {"loss", "pass_started", "batch_finished"};
    if (!losses_alone) {
      kinds.insert(kinds.end(), {"weights", "biases", "weight_gradients", "bias_gradients", "weight_updates",
                                 "bias_updates", "activations"});
    }
    probe_->Subscribe(kinds, [this](const ProbeMessage& message) { Receive(message); }, period);
  }
  ~Scenario() {
    probe_.reset();
    current = nullptr;
  }
  static inline Scenario* current = nullptr;

  // When backward first reaches `loss`, that is a loss of the step, and what modules gave for it activations.
  void NoteLoss(torch::nn::Module& model, const torch::Tensor& loss, const Tensors& layers) {
    if (!loss.requires_grad()) return;
    loss.register_hook([this, &model, value = loss.item<double>(), layers,
                        noted = std::make_shared<std::atomic<bool>>(false)](const torch::Tensor&) {
      if (noted->exchange(true)) return;
      std::lock_guard lock(mutex_);
      for (Root& root : roots_) {
        if (root.model != &model) continue;
        root.passes.losses.push_back(value);
        for (const auto& [name, tensor] : layers) root.passes.layers[name].push_back(tensor);
      }
    });
  }

  Probe& probe() { return *probe_; }
  void Attach(torch::nn::Module& model, const AttachOptions& options = {}) {
    const std::string name = roots_.empty() ? "model" : "model" + std::to_string(roots_.size());
    roots_.push_back({&model, name, {}, false, {}});
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
    Push(model, {ParametersOf(model, false), ParametersOf(model, true), std::nullopt, {}, {}, 0, true});
  }

  // The same where some has been written already, with gradients that are gone.
  void StepFrom(torch::nn::Module& model, const Tensors& weights_before) {
    Push(model, {weights_before, ParametersOf(model, true), std::nullopt, {}, {}, 0, true});
  }

  // Where the loop leaves out the write: a step of its own, whose gradients are gone when that is known.
  void Skip(torch::nn::Module& model) {
    Push(model, {ParametersOf(model, false), {}, std::nullopt, {}, {}, kFlagStepSkipped, true, true});
  }

  // Where the loop writes in a way that nobody sees. Its gradients are known only if they are still there then.
  void Infer(torch::nn::Module& model, bool gradients) {
    Push(model, {ParametersOf(model, false), gradients ? ParametersOf(model, true) : Tensors(), std::nullopt, {}, {},
                 kFlagStepInferred, true, true});
  }

  // The same when it has been written.
  void InferWith(torch::nn::Module& model, const Tensors& weights_before) {
    Push(model, {weights_before, {}, std::nullopt, {}, {}, kFlagStepInferred, true, true});
  }

  // After the optimizer wrote, for loops that say where a step ends: gradients are those the loop leaves behind, what
  // passes bring is the first evaluation's.
  void StepWith(torch::nn::Module& model, const Tensors& weights_before) {
    Root& root = RootOf(model);
    if (!root.passes.losses.empty()) root.passes.losses.resize(1);
    for (auto& [name, tensors] : root.passes.layers) tensors.resize(1);
    Push(model, {weights_before, ParametersOf(model, true), std::nullopt, {}, {}, 0, true});
  }

  // Steps may carry these; any other flag of gradients or weights is wrong.
  void MayFlag(uint16_t flags) { may_flag_ |= flags; }
  // Of some steps a pass may be missing, which they say, also where something is taken of each.
  void MayLack() { may_lack_ = true; }
  void Check() { CheckAll(true, true); }
  // For loops in which a second hand moves the weights before an evaluation pass: an update that spans it is flagged.
  // `some_plain`: not each does.
  void CheckWithFlaggedUpdates(bool some_plain) {
    MayFlag(kFlagWeightsChangedOutside);
    CheckAll(false, some_plain);
  }
  void CheckAll(bool flagged_too, bool some_plain) {
    constexpr uint16_t kOfNumbers = kFlagGradScaled | kFlagGradModified | kFlagWeightsChangedOutside;
    probe_->Detach();
    std::vector<torch::Tensor> weights;
    for (Root& root : roots_) {
      for (const torch::Tensor& parameter : root.model->parameters()) weights.push_back(parameter.detach().clone());
    }
    if (bare != nullptr) return bare->push_back(std::move(weights));
    if (!expected.empty()) {
      ASSERT_LT(watched_ends, expected.size());
      EXPECT_TRUE(Same(weights, expected[watched_ends++])) << "watching has changed what the loop computes";
    }
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
        if (losses_alone) {
          root.steps[step].layers.clear();
          Compare(root.name, step, root.steps[step], got);
          continue;
        }
        Compare(root.name, step, "weights", root.steps[step].weights, got.weights);
        Compare(root.name, step, "gradients", root.steps[step].gradients, got.gradients);
        EXPECT_EQ(got.flags & (kFlagStepSkipped | kFlagStepInferred), root.steps[step].flags)
            << root.name << " " << step;
        EXPECT_EQ(got.flags & kOfNumbers & ~may_flag_, 0) << root.name << " " << step;
        Compare(root.name, step, root.steps[step], got);
        if (!flagged_too && (got.flags & kFlagWeightsChangedOutside) != 0) continue;
        updates_compared_ += root.steps[step].updates.has_value();
        if (root.steps[step].updates) Compare(root.name, step, "updates", *root.steps[step].updates, *got.updates);
      }
    }
    EXPECT_TRUE(losses_alone || !some_plain || updates_compared_ != 0) << "no update was compared";
    EXPECT_TRUE(passes_compared_ != 0 || passes_lacking_ == 0) << "each step lacks a pass";
    if (period_ == 1 && !may_lack_) {
      EXPECT_EQ(passes_lacking_, 0u) << "steps that lack a pass";
    }
  }
  static bool Same(const std::vector<torch::Tensor>& left, const std::vector<torch::Tensor>& right) {
    return std::equal(left.begin(), left.end(), right.begin(), right.end(), [](const auto& one, const auto& other) {
      return one.scalar_type() == other.scalar_type() && torch::equal(one, other);
    });
  }
  uint16_t FlagsOf(const std::string& root, uint64_t step) { return captured_[root][step].flags; }
  size_t Captured(const std::string& root) { return captured_[root].size(); }

 private:
  struct Root {
    torch::nn::Module* model;
    std::string name;
    std::vector<StepTruth> steps;
    bool open;
    StepTruth passes;  // what backward has reached since the last step
  };
  void Push(torch::nn::Module& model, StepTruth step) {
    Root& root = RootOf(model);
    std::lock_guard lock(mutex_);
    step.losses = std::exchange(root.passes.losses, {});
    step.layers = std::exchange(root.passes.layers, {});
    root.steps.push_back(std::move(step));
    root.open = true;
  }
  Root& RootOf(torch::nn::Module& model) {
    for (Root& root : roots_) {
      if (root.model == &model) return root;
    }
    throw std::logic_error("not attached");
  }
  void Receive(const ProbeMessage& message) {
    std::lock_guard lock(mutex_);
    if (message.kind == "batch_finished") {
      StepTruth& step = captured_[message.root][message.global_step];
      step.finished = true;
      step.flags |= message.flags;
      for (const uint32_t pass : message.passes) {
        step.lacks |= passes_[message.root].count(pass) == 0;
        const StepTruth& of_pass = passes_[message.root][pass];
        step.losses.insert(step.losses.end(), of_pass.losses.begin(), of_pass.losses.end());
        for (const auto& [name, tensors] : of_pass.layers) {
          step.layers[name].insert(step.layers[name].end(), tensors.begin(), tensors.end());
        }
      }
      return;
    }
    if (message.pass != 0) {
      StepTruth& pass = passes_[message.root][message.pass];
      if (message.kind == "loss")
        pass.losses.push_back(message.scalar);
      else if (message.kind == "activations")
        pass.layers[message.module].push_back(message.tensor.clone());
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

  // What passes bring, where the loop has noted it, in whatever order.
  void Compare(const std::string& root, size_t step, StepTruth want, StepTruth got) {
    if (want.losses.empty()) return;
    ++(got.lacks ? passes_lacking_ : passes_compared_);
    if (got.lacks) return;
    std::sort(want.losses.begin(), want.losses.end());
    std::sort(got.losses.begin(), got.losses.end());
    EXPECT_EQ(want.losses, got.losses) << root << " step " << step;
    for (const auto& [name, tensors] : want.layers) {
      std::vector<torch::Tensor>& found = got.layers[name];
      EXPECT_EQ(found.size(), tensors.size()) << root << " step " << step << " activations of " << name;
      for (const torch::Tensor& tensor : tensors) {
        const auto same = std::find_if(found.begin(), found.end(),
                                       [&](const torch::Tensor& other) { return torch::equal(other, tensor); });
        EXPECT_NE(same, found.end()) << root << " step " << step << " activations of " << name << " differ";
        if (same != found.end()) found.erase(same);
      }
    }
  }

  const uint32_t period_;
  uint16_t may_flag_ = 0;
  bool may_lack_ = false;
  size_t updates_compared_ = 0, passes_compared_ = 0, passes_lacking_ = 0;  // steps
  std::unique_ptr<Probe> probe_;
  std::vector<Root> roots_;
  std::mutex mutex_;
  std::map<std::string, std::map<uint64_t, StepTruth>> captured_;
  std::map<std::string, std::map<uint32_t, StepTruth>> passes_;
};

// A small perceptron, eight wide, as most scenarios use.
struct Mlp : torch::nn::Module {
  explicit Mlp(int64_t out = 10) {
    f1 = register_module("f1", torch::nn::Linear(8, 8));
    f2 = register_module("f2", torch::nn::Linear(8, 8));
    f3 = register_module("f3", torch::nn::Linear(8, out));
  }
  torch::Tensor forward(const torch::Tensor& x) { return Keep("f3", f3(forward2(x))); }
  torch::Tensor forward2(const torch::Tensor& x) {
    return torch::relu(Keep("f2", f2(torch::relu(Keep("f1", f1(x))))));
  }
  torch::Tensor Keep(const std::string& name, const torch::Tensor& output) {
    layers[name] = output.detach().clone();
    return output;
  }
  Tensors layers;  // what they gave last
  torch::nn::Linear f1{nullptr}, f2{nullptr}, f3{nullptr};
};

// Periods 1, 3 and 7: always awake, and two that sleep in between.
class AtPeriods : public ::testing::TestWithParam<uint32_t> {
 protected:
  void SetUp() override {
    std::array<Scenario::Ends, 2> bare;
    for (Scenario::Ends& ends : bare) {
      Scenario::bare = &ends;
      MakeData();
      TestBody();
    }
    Scenario::bare = nullptr;
    const bool repeats = std::equal(bare[0].begin(), bare[0].end(), bare[1].begin(), bare[1].end(), Scenario::Same);
    Scenario::expected = repeats ? bare[0] : Scenario::Ends();
    Scenario::watched_ends = 0;
    if (Repeats()) {
      ASSERT_TRUE(repeats) << "without a probe the loop ends with other weights each time";
    }
    Scenario::losses_alone = true;
    MakeData();
    TestBody();
    Scenario::losses_alone = false;
    Scenario::watched_ends = 0;
    MakeData();
  }
  // Its loops compute the same each time: nothing that threads do side by side goes into the weights.
  virtual bool Repeats() const { return true; }
  void MakeData() {
    torch::manual_seed(3);
    x_ = torch::randn({4, 8});
    y_ = torch::randint(10, {4});
  }
  void TearDown() override { Scenario::expected.clear(); }
  void TestBody() override = 0;
  torch::Tensor Loss(Mlp& model) {
    const torch::Tensor loss = torch::nn::functional::cross_entropy(model.forward(x_), y_);
    if (Scenario::current != nullptr) Scenario::current->NoteLoss(model, loss, model.layers);
    return loss;
  }
  torch::Tensor x_, y_;
};

}  // namespace ikkuna::scenario
