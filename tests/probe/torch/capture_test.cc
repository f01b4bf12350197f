// Capture: which messages a model's tensors become, under which names, tags, calls and micro-batches.
#include <gtest/gtest.h>
#include <malloc.h>
#include <torch/torch.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "probe/ikkuna/probe.hpp"
#include "shared/codes.h"

namespace ikkuna {
namespace {

namespace F = torch::nn::functional;
using torch::Tensor;

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

TEST_F(Capture, ASequentialProvesTheNamesOfItsChildren) {
  torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::ReLU(), torch::nn::Dropout(0.5),
                            torch::nn::Linear(6, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"activations", "layer_gradients"}).Attach(net);
  Train(net, optimizer, torch::randn({4, 8}), torch::randint(3, {4}));
  std::vector<std::string> names;
  for (const Kept& kept : Of("activations")) names.push_back(kept.message.module);
  EXPECT_EQ(names, (std::vector<std::string>{"0", "1", "2", "3"}));
  EXPECT_EQ(Of("layer_gradients").size(), 4u);
}

TEST_F(Capture, OtherOperatorsAreNamedByPosition) {
  struct Net : torch::nn::Module {
    Net() {
      a = register_module("a", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 2, 3)));
      b = register_module("b", torch::nn::Linear(2 * 2 * 2, 3));
    }
    Tensor forward(const Tensor& x) {
      return b(F::max_pool2d(torch::relu(a(x)), F::MaxPool2dFuncOptions(2)).flatten(1));
    }
    torch::nn::Conv2d a{nullptr};
    torch::nn::Linear b{nullptr};
  };
  auto net = std::make_shared<Net>();
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"activations"}).Attach(net);
  Train(net, optimizer, torch::randn({2, 1, 6, 6}), torch::randint(3, {2}));
  std::vector<std::string> names;
  for (const Kept& kept : Of("activations")) names.push_back(kept.message.module);
  EXPECT_EQ(names, (std::vector<std::string>{"a", "a > relu", "a > max_pool2d", "a > flatten", "b"}));
}

TEST_F(Capture, ActivationsBeforeAnInPlaceOperatorAndGradientsAsRetained) {
  torch::nn::Linear layer(8, 6), last(6, 3);
  torch::nn::Sequential net(layer, torch::nn::ReLU(torch::nn::ReLUOptions(true)), last);
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"activations", "layer_gradients"}).Attach(net);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  const Tensor before = F::linear(x, layer->weight, layer->bias).detach().clone();
  Tensor hidden = F::linear(x, layer->weight, layer->bias).detach().clone().relu().requires_grad_(true);
  F::cross_entropy(F::linear(hidden, last->weight, last->bias), y).backward();
  const Tensor gradient = hidden.grad().clone();
  net->zero_grad();
  kept_.clear();
  Train(net, optimizer, x, y);
  ASSERT_GE(Of("activations", "0").size(), 1u);
  EXPECT_TRUE(torch::equal(Of("activations", "0").back().tensor, before));
  EXPECT_TRUE(torch::allclose(Of("layer_gradients", "1").back().tensor, gradient));
}

TEST_F(Capture, CallsAndMicroBatches) {
  struct Twice : torch::nn::Module {
    Twice() {
      shared = register_module("shared", torch::nn::Linear(8, 8));
      out = register_module("out", torch::nn::Linear(8, 3));
    }
    Tensor forward(const Tensor& x) { return out(torch::tanh(shared(torch::tanh(shared(x))))); }
    torch::nn::Linear shared{nullptr}, out{nullptr};
  };
  auto net = std::make_shared<Twice>();
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"activations", "input_data", "loss", "raw_weight_gradients"}).Attach(net);
  for (int step = 0; step < 2; ++step) {
    optimizer.zero_grad();
    for (int micro = 0; micro < 3; ++micro) {
      F::cross_entropy(net->forward(torch::randn({4, 8})), torch::randint(3, {4})).backward();
    }
    optimizer.step();
  }
  std::vector<std::vector<int>> seen;
  for (const Kept& kept : Of("activations", "shared")) {
    seen.push_back({static_cast<int>(kept.message.global_step), kept.message.micro, kept.message.call});
  }
  std::vector<std::vector<int>> want;
  for (int step = 0; step < 2; ++step) {
    for (int micro = 0; micro < 3; ++micro) {
      for (int call = 0; call < 2; ++call) want.push_back({step, micro, call});
    }
  }
  EXPECT_EQ(seen, want);
  EXPECT_EQ(Of("input_data").size(), 6u);
  EXPECT_EQ(Of("loss").size(), 6u);
  EXPECT_EQ(Of("raw_weight_gradients", "out").size(), 6u);
}

TEST_F(Capture, RawGradientsComeBeforeClipping) {
  torch::nn::Sequential net(torch::nn::Linear(8, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"raw_weight_gradients", "weight_gradients"}).Attach(net);
  optimizer.zero_grad();
  F::cross_entropy(net->forward(torch::randn({4, 8})) * 100, torch::randint(3, {4})).backward();
  const Tensor raw = net[0]->parameters()[0].grad().clone();
  torch::nn::utils::clip_grad_norm_(net->parameters(), 0.01);
  const Tensor clipped = net[0]->parameters()[0].grad().clone();
  optimizer.step();
  EXPECT_TRUE(torch::equal(Of("raw_weight_gradients").at(0).tensor, raw));
  EXPECT_TRUE(torch::equal(Of("weight_gradients").at(0).tensor, clipped));
  EXPECT_FALSE(torch::equal(raw, clipped));
}

TEST_F(Capture, EvaluationPassesCarryTheirTag) {
  torch::nn::Sequential net(torch::nn::Linear(8, 3), torch::nn::ReLU(), torch::nn::Linear(3, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"activations"}).Attach(net);
  for (const char* tag : {"test", "no_grad", "validation"}) Also({"loss", "batch_started", "batch_finished"}, tag);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  for (int step = 0; step < 12; ++step) Train(net, optimizer, x, y);
  {
    torch::NoGradGuard no_grad;
    F::cross_entropy(net->forward(x), y);
    net->eval();
    for (int batch = 0; batch < 3; ++batch) F::cross_entropy(net->forward(x), y);
    probe_->Tag("validation");
    F::cross_entropy(net->forward(x), y);
    probe_->Tag("");
    net->train();
  }
  Train(net, optimizer, x, y);
  EXPECT_EQ(Of("activations").size(), 13u * 3u);
  std::map<std::string, int> losses;
  std::vector<int> batches;
  for (const Kept& kept : Of("loss")) {
    ++losses[kept.message.tag];
    EXPECT_EQ(kept.message.global_step, 12u);
    if (kept.message.tag == "test") batches.push_back(kept.message.micro);
  }
  EXPECT_EQ(losses["no_grad"], 1);
  EXPECT_EQ(losses["test"], 3);
  EXPECT_EQ(batches, (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(Of("loss").size(), 5u) << "one of a tag of the caller's";
  EXPECT_EQ(Of("batch_started").size(), 3u);
  EXPECT_EQ(Of("batch_finished").size(), 3u);
}

TEST_F(Capture, DataTypesAndStrides) {
  struct Net : torch::nn::Module {
    Net() {
      odd = register_parameter("odd", torch::randn({6, 8}).t());  // not contiguous
      half = register_parameter("half", torch::randn({8, 3}).to(torch::kHalf));
    }
    Tensor forward(const Tensor& x) { return x.matmul(odd).matmul(half.to(torch::kFloat).slice(0, 0, 6)); }
    Tensor odd, half;
  };
  auto net = std::make_shared<Net>();
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"weights", "weight_gradients", "weight_updates"}).Attach(net);
  const Tensor before = net->odd.detach().clone(), before_half = net->half.detach().clone();
  Train(net, optimizer, torch::randn({4, 8}), torch::randint(3, {4}));
  probe_->Detach();
  std::map<std::string, Tensor> weights, updates;
  for (const Kept& kept : Of("weights")) weights[kept.message.param] = kept.tensor;
  for (const Kept& kept : Of("weight_updates")) updates[kept.message.param] = kept.tensor;
  EXPECT_TRUE(torch::equal(weights.at("odd"), before));
  EXPECT_TRUE(torch::equal(weights.at("half"), before_half));
  EXPECT_TRUE(torch::equal(updates.at("odd"), net->odd.detach() - before));
  EXPECT_EQ(updates.at("half").scalar_type(), torch::kHalf);
}

struct Nested : torch::nn::Module {
  Nested() {
    register_module("block", block);
    register_module("out", out);
  }
  Tensor forward(const Tensor& x) { return out(block->forward(x)); }
  torch::nn::Sequential block{torch::nn::Linear(8, 8), torch::nn::Tanh(), torch::nn::Linear(8, 8)};
  torch::nn::Linear out{8, 3};
};

TEST_F(Capture, DepthAndFilterChooseTheNames) {
  const auto names_with = [this](const AttachOptions& options) {
    kept_.clear();
    auto net = std::make_shared<Nested>();
    torch::optim::SGD optimizer(net->parameters(), 0.1);
    Start({"activations"}).Attach(net, options);
    Train(net, optimizer, torch::randn({4, 8}), torch::randint(3, {4}));
    std::vector<std::string> names;
    for (const Kept& kept : Of("activations")) names.push_back(kept.message.module);
    probe_.reset();
    return names;
  };
  EXPECT_EQ(names_with({}), (std::vector<std::string>{"block.0", "block.1", "block.2", "out"}));
  EXPECT_EQ(names_with({.depth = 1}), (std::vector<std::string>{"block", "out"}))
      << "a cut container reports its last layer";
  EXPECT_EQ(names_with({.filter = "block.*"}), (std::vector<std::string>{"block.0", "block.1", "block.2"}));
}

TEST_F(Capture, WhatTheTrainerLogs) {
  torch::nn::Sequential net(torch::nn::Linear(8, 3));
  torch::optim::Adam optimizer(net->parameters(), torch::optim::AdamOptions(0.003));
  Probe& probe = Start({"scalar", "text", "loss", "learning_rate", "exp_avg", "exp_avg_sq"});
  probe.Attach(net);
  probe.Attach(optimizer);
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    const Tensor loss = net->forward(torch::randn({4, 8})).pow(2).mean() * 2;  // no loss function that one could know
    probe.Loss(loss);
    probe.Log("half", loss.item<double>() / 2);
    probe.Log("phase", "warm-up");
    loss.backward();
    optimizer.step();
  }
  probe.Detach();
  ASSERT_EQ(Of("loss").size(), 3u);
  ASSERT_EQ(Of("scalar").size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_DOUBLE_EQ(Of("loss")[i].message.scalar, 2 * Of("scalar")[i].message.scalar);
    EXPECT_EQ(Of("scalar")[i].message.param, "half");
    EXPECT_EQ(Of("text")[i].message.text, "warm-up");
    EXPECT_EQ(Of("loss")[i].message.global_step, i);
  }
  ASSERT_EQ(Of("learning_rate").size(), 3u);
  EXPECT_DOUBLE_EQ(Of("learning_rate")[0].message.scalar, 0.003);
  EXPECT_EQ(Of("exp_avg").size(), 6u);
  EXPECT_EQ(Of("exp_avg_sq").size(), 6u);
}

TEST_F(Capture, EpochsAndSteps) {
  torch::nn::Sequential net(torch::nn::Linear(8, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Probe& probe = Start({"loss", "epoch_started", "epoch_finished"});
  probe.Attach(net);
  for (uint32_t epoch = 0; epoch < 3; ++epoch) {
    probe.Epoch(epoch);
    for (int step = 0; step < 4; ++step) Train(net, optimizer, torch::randn({4, 8}), torch::randint(3, {4}));
  }
  ASSERT_EQ(Of("loss").size(), 12u);
  for (uint32_t i = 0; i < 12; ++i) {
    EXPECT_EQ(Of("loss")[i].message.global_step, i);
    EXPECT_EQ(Of("loss")[i].message.epoch, i / 4);
    EXPECT_EQ(Of("loss")[i].message.train_step, i % 4);
  }
  EXPECT_EQ(Of("epoch_started").size(), 3u);
  EXPECT_EQ(Of("epoch_finished").size(), 2u);
}

TEST_F(Capture, AThreadThatBeginsDuringAnothersBackwardIsHeard) {
  torch::nn::Linear first(8, 6), last(6, 3);
  torch::nn::Sequential net(first, last);
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"loss"}).Attach(net);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  // In the midst of a backward pass, of which operators have been heard already, another thread runs a forward pass.
  const auto losses_of_both = [&] {
    const size_t before = Of("loss").size();
    optimizer.zero_grad();
    const Tensor hidden = first->forward(x);
    hidden.register_hook([&](const Tensor& gradient) {
      std::thread([&] { F::cross_entropy(net->forward(x), y); }).join();
      return gradient;
    });
    F::cross_entropy(last->forward(hidden), y).backward();
    optimizer.step();
    return Of("loss").size() - before;
  };
  Train(net, optimizer, x, y);
  EXPECT_EQ(losses_of_both(), 2u) << "early on";
  for (int step = 0; step < 100; ++step) Train(net, optimizer, x, y);
  std::thread([&] { Train(net, optimizer, x, y); }).join();
  EXPECT_EQ(losses_of_both(), 2u) << "where several threads train";
}

// A thread an epoch: each takes over from the one before, whose last step is closed with its update.
TEST_F(Capture, ThreadsThatComeAndGoTrainOneModel) {
  torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::Linear(6, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"loss", "weights", "weight_updates", "batch_finished"}).Attach(net);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  constexpr uint64_t kEpochs = 20, kSteps = 5;
  for (uint64_t epoch = 0; epoch < kEpochs; ++epoch) {
    std::thread([&] {
      for (uint64_t step = 0; step < kSteps; ++step) Train(net, optimizer, x, y);
    }).join();
  }
  const Tensor last = net->parameters()[0].detach().clone();
  probe_->Detach();
  ASSERT_EQ(Of("loss").size(), kEpochs * kSteps);
  ASSERT_EQ(Of("batch_finished").size(), kEpochs * kSteps);
  ASSERT_EQ(Of("weight_updates", "0").size(), kEpochs * kSteps);
  for (uint64_t step = 0; step < kEpochs * kSteps; ++step) {
    EXPECT_EQ(Of("loss")[step].message.global_step, step);
    EXPECT_EQ(Of("batch_finished")[step].message.global_step, step);
    const Tensor after = step + 1 < kEpochs * kSteps ? Of("weights", "0")[step + 1].tensor : last;
    EXPECT_TRUE(torch::equal(Of("weight_updates", "0")[step].tensor, after - Of("weights", "0")[step].tensor)) << step;
  }
}

// A thread for each backward pass, a thousand of them: what each was needed for goes on to the next.
TEST_F(Capture, ThreadsThatRunBackwardLeaveNothingBehind) {
  torch::nn::Sequential net(torch::nn::Linear(8, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  size_t losses = 0;
  Probe& probe = Start({});
  probe.Subscribe({"loss"}, [&](const ProbeMessage&) { ++losses; });
  probe.Attach(net);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  const auto train = [&](int steps) {
    for (int step = 0; step < steps; ++step) {
      optimizer.zero_grad();
      const Tensor loss = F::cross_entropy(net->forward(x), y);
      std::thread([&] { loss.backward(); }).join();
      optimizer.step();
    }
  };
  train(200);
  const size_t before = ::mallinfo2().uordblks;
  train(1000);
  EXPECT_LT(::mallinfo2().uordblks, before + (size_t{128} << 10));
  EXPECT_EQ(losses, 1200u);
}

// What a thread left open is closed by whichever comes next, before anybody trains on.
TEST_F(Capture, TheLastStepOfAThreadThatEndedHasItsUpdate) {
  torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::Linear(6, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"weights", "weight_updates"}).Attach(net);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  const auto train_on_a_thread = [&] {
    std::thread([&] {
      for (int step = 0; step < 3; ++step) Train(net, optimizer, x, y);
    }).join();
  };
  train_on_a_thread();
  const Tensor left = net->parameters()[0].detach().clone();
  probe_->Log("epoch", 1.0);
  train_on_a_thread();
  probe_->Detach();
  ASSERT_EQ(Of("weight_updates", "0").size(), 6u);
  // The logged value stands alone in the step that it was the first of.
  std::vector<uint64_t> steps;
  for (const Kept& kept : Of("weight_updates", "0")) steps.push_back(kept.message.global_step);
  EXPECT_EQ(steps, (std::vector<uint64_t>{0, 1, 2, 4, 5, 6}));
  EXPECT_TRUE(torch::equal(Of("weight_updates", "0")[2].tensor, left - Of("weights", "0")[2].tensor));
}

// Forward and backward on a worker, the step on another thread: one step, one number.
TEST_F(Capture, AStepThatAnotherThreadTakesIsTheOneOfThePass) {
  torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::Linear(6, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"loss", "activations", "weight_gradients", "batch_started", "batch_finished"}).Attach(net);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  constexpr uint64_t kSteps = 80;
  std::mutex mutex;
  std::condition_variable turn;
  uint64_t passes = 0, steps = 0;
  std::thread worker([&] {
    for (uint64_t i = 0; i < kSteps; ++i) {
      std::unique_lock lock(mutex);
      turn.wait(lock, [&] { return steps == i; });
      F::cross_entropy(net->forward(x), y).backward();
      ++passes;
      turn.notify_all();
    }
  });
  for (uint64_t i = 0; i < kSteps; ++i) {
    std::unique_lock lock(mutex);
    turn.wait(lock, [&] { return passes == i + 1; });
    optimizer.step();
    optimizer.zero_grad();
    ++steps;
    turn.notify_all();
  }
  worker.join();
  probe_->Detach();
  for (const char* kind : {"loss", "batch_started", "batch_finished"}) {
    ASSERT_EQ(Of(kind).size(), kSteps) << kind;
    for (uint64_t i = 0; i < kSteps; ++i) EXPECT_EQ(Of(kind)[i].message.global_step, i) << kind;
  }
  ASSERT_EQ(Of("activations", "0").size(), kSteps);
  ASSERT_EQ(Of("weight_gradients", "0").size(), kSteps);
  for (uint64_t i = 0; i < kSteps; ++i) {
    EXPECT_EQ(Of("activations", "0")[i].message.micro, 0);
    EXPECT_EQ(Of("activations", "0")[i].message.global_step, i);
    EXPECT_EQ(Of("weight_gradients", "0")[i].message.global_step, i);
  }
}

// Passes on several threads for one write: from the second step on all share its number.
TEST_F(Capture, PassesOfSeveralThreadsForOneWriteShareItsStep) {
  torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::Linear(6, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({});
  std::mutex mutex;
  std::multimap<uint64_t, std::string> seen;  // kinds by step
  probe_->Subscribe({"loss", "weight_gradients", "batch_started", "batch_finished"}, [&](const ProbeMessage& message) {
    std::lock_guard lock(mutex);
    seen.emplace(message.global_step, message.kind);
  });
  probe_->Attach(net);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  constexpr int kSteps = 20;
  for (int step = 0; step < kSteps; ++step) {
    optimizer.zero_grad();
    // Both passes are under way before either ends, as in a loop that hands shards to a pool.
    std::atomic<int> begun{0};
    std::vector<std::thread> shards;
    for (int shard = 0; shard < 2; ++shard) {
      shards.emplace_back([&] {
        const Tensor loss = F::cross_entropy(net->forward(x), y);
        begun.fetch_add(1);
        while (begun.load() < 2) std::this_thread::yield();
        loss.backward();
      });
    }
    for (std::thread& shard : shards) shard.join();
    optimizer.step();
  }
  probe_->Detach();
  std::map<uint64_t, int> losses;
  for (const auto& [step, kind] : seen) losses[step] += kind == "loss";
  std::vector<uint64_t> shared;
  for (const auto& [step, count] : losses) {
    if (count == 2) shared.push_back(step);
    EXPECT_LE(count, 2);
  }
  ASSERT_EQ(shared.size(), kSteps - 1u);
  for (const uint64_t step : shared) {
    const auto [from, to] = seen.equal_range(step);
    std::multiset<std::string> kinds;
    for (auto it = from; it != to; ++it) kinds.insert(it->second);
    EXPECT_EQ(kinds.count("weight_gradients"), 2u) << step;
    EXPECT_EQ(kinds.count("batch_finished"), 1u) << step;
    EXPECT_EQ(kinds.count("batch_started"), 1u) << step;
  }
  EXPECT_EQ(shared.back() - shared.front() + 1, shared.size()) << "no number is left out";
}

// A thread that only evaluates is no reason to leave what a training thread left to nobody.
TEST_F(Capture, ThreadsThatComeAndGoBesideOneThatEvaluates) {
  torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::Linear(6, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"loss", "weights", "weight_updates"}).Attach(net);
  Also({"loss"}, "test");
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  constexpr uint64_t kEpochs = 10, kSteps = 5;
  for (uint64_t epoch = 0; epoch < kEpochs; ++epoch) {
    net->eval();
    {
      torch::NoGradGuard no_grad;
      F::cross_entropy(net->forward(x), y);
    }
    net->train();
    std::thread([&] {
      for (uint64_t step = 0; step < kSteps; ++step) Train(net, optimizer, x, y);
    }).join();
  }
  const Tensor last = net->parameters()[0].detach().clone();
  probe_->Detach();
  std::vector<uint64_t> steps;
  size_t evaluated = 0;
  for (const Kept& kept : Of("loss")) {
    if (kept.message.tag == "test")
      ++evaluated;
    else
      steps.push_back(kept.message.global_step);
  }
  EXPECT_EQ(evaluated, kEpochs);
  ASSERT_EQ(steps.size(), kEpochs * kSteps);
  for (uint64_t step = 0; step < steps.size(); ++step) EXPECT_EQ(steps[step], step);
  ASSERT_EQ(Of("weight_updates", "0").size(), kEpochs * kSteps);
  for (uint64_t step = 0; step < kEpochs * kSteps; ++step) {
    const Tensor after = step + 1 < kEpochs * kSteps ? Of("weights", "0")[step + 1].tensor : last;
    EXPECT_TRUE(torch::equal(Of("weight_updates", "0")[step].tensor, after - Of("weights", "0")[step].tensor)) << step;
  }
}

// The pass of a critic that a generator's step runs through it is no step of the critic that was skipped.
TEST_F(Capture, APassForAnotherModelsStepIsNoSkippedStep) {
  torch::nn::Sequential generator(torch::nn::Linear(4, 8)), critic(torch::nn::Linear(8, 1));
  torch::optim::SGD of_generator(generator->parameters(), 0.1), of_critic(critic->parameters(), 0.1);
  Probe& probe = Start({"activations"});
  probe.Attach(generator);
  probe.Attach(critic);
  for (int i = 0; i < 4; ++i) {
    of_critic.zero_grad();
    (critic->forward(torch::randn({2, 8})).mean() -
     critic->forward(generator->forward(torch::randn({2, 4})).detach()).mean())
        .backward();
    of_critic.step();
    of_generator.zero_grad();
    critic->forward(generator->forward(torch::randn({2, 4}))).mean().backward();
    of_generator.step();
  }
  ASSERT_GT(Of("activations").size(), 8u);
  for (const Kept& kept : Of("activations")) EXPECT_EQ(kept.message.flags & kFlagStepSkipped, 0);
}

// Where the parameters become what nobody can read (complex here, on a GPU elsewhere) their updates are left out.
TEST_F(Capture, ParametersThatBecomeUnreadableAreLeftOut) {
  torch::nn::Sequential net(torch::nn::Linear(8, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"weights", "weight_updates"}).Attach(net);
  Train(net, optimizer, torch::randn({4, 8}), torch::randint(3, {4}));
  Train(net, optimizer, torch::randn({4, 8}), torch::randint(3, {4}));
  net->to(torch::kComplexFloat);
  for (int i = 0; i < 3; ++i) {
    optimizer.zero_grad();
    net->forward(torch::randn({4, 8}, torch::kComplexFloat)).abs().sum().backward();
    optimizer.step();
  }
  probe_->Detach();
  EXPECT_EQ(Of("weights").size(), 2u);
  EXPECT_EQ(Of("weight_updates").size(), 1u);
}

TEST_F(Capture, AnOptimizerThatTakesOverIsTheOneWhoseRateCounts) {
  torch::nn::Sequential net(torch::nn::Linear(8, 3));
  torch::optim::SGD first(net->parameters(), 0.5);
  torch::optim::Adam second(net->parameters(), 0.25);
  Probe& probe = Start({"learning_rate"});
  probe.Attach(net);
  probe.Attach(first);
  Train(net, first, torch::randn({4, 8}), torch::randint(3, {4}));
  probe.Attach(second);
  Train(net, second, torch::randn({4, 8}), torch::randint(3, {4}));
  ASSERT_EQ(Of("learning_rate").size(), 2u);
  EXPECT_EQ(Of("learning_rate")[0].message.scalar, 0.5);
  EXPECT_EQ(Of("learning_rate")[1].message.scalar, 0.25);
}

// What a probe held goes with it: a search over a thousand trainings attaches a thousand probes.
TEST_F(Capture, AProbeThatIsGoneHoldsNothing) {
  const auto files = [] { return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}); };
  std::weak_ptr<torch::nn::Module> model;
  std::weak_ptr<int> captured;
  Tensor weight;
  const auto before = files();
  for (int trial = 0; trial < 5; ++trial) {
    torch::nn::Sequential net(torch::nn::Linear(8, 3));
    torch::optim::SGD optimizer(net->parameters(), 0.1);
    auto mine = std::make_shared<int>(trial);
    model = net.ptr();
    captured = mine;
    weight = net->parameters()[0];
    auto probe = std::make_unique<Probe>(ProbeOptions{.run = "trial", .quiet = true});
    probe->Subscribe({"weight_updates"}, [mine](const ProbeMessage&) {});
    probe->Attach(net);
    probe->Attach(optimizer);
    for (int step = 0; step < 3; ++step) Train(net, optimizer, torch::randn({4, 8}), torch::randint(3, {4}));
    std::thread([&] { Train(net, optimizer, torch::randn({4, 8}), torch::randint(3, {4})); }).join();
  }
  EXPECT_TRUE(model.expired());
  EXPECT_TRUE(captured.expired());
  EXPECT_EQ(weight.use_count(), 1u);
  EXPECT_EQ(files(), before);
}

// A probe ends while other threads are in the midst of operators, hooks and backward passes of its models.
TEST_F(Capture, AProbeMayEndWhileOtherThreadsTrain) {
  for (int trial = 0; trial < 60; ++trial) {
    torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::ReLU(), torch::nn::Linear(6, 3));
    const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
    F::cross_entropy(net->forward(x), y).backward();  // gradients are there, and zeroed in place: threads share them
    auto probe = std::make_unique<Probe>(ProbeOptions{.run = "trial", .quiet = true});
    std::atomic<uint64_t> heard{0};
    probe->Subscribe({"layer_gradients", "weight_updates"}, [&](const ProbeMessage&) { heard.fetch_add(1); });
    probe->Attach(net);
    std::atomic<bool> stop{false};
    std::vector<std::thread> crew;
    for (int t = 0; t < 3; ++t) {
      crew.emplace_back([&] {
        torch::optim::SGD optimizer(net->parameters(), 0.01);
        while (!stop.load()) {
          optimizer.zero_grad(false);
          F::cross_entropy(net->forward(x), y).backward();
          optimizer.step();
        }
      });
    }
    while (heard.load() < 50) std::this_thread::yield();
    probe.reset();
    const uint64_t before = heard.load();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    stop.store(true);
    for (std::thread& thread : crew) thread.join();
    EXPECT_LE(heard.load(), before + 3 * 8) << "but for what was under way";
  }
}

TEST_F(Capture, ASubscriberThatThrowsWhatIsNoExceptionIsRemovedToo) {
  torch::nn::Sequential net(torch::nn::Linear(8, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Probe& probe = Start({"loss"});
  probe.Subscribe({"loss"}, [](const ProbeMessage&) { throw 1; });
  probe.Attach(net);
  for (int step = 0; step < 3; ++step) Train(net, optimizer, torch::randn({4, 8}), torch::randint(3, {4}));
  EXPECT_EQ(Of("loss").size(), 3u);
  EXPECT_TRUE(probe.active());
}

TEST_F(Capture, ASubscriberThatThrowsIsRemovedAndTrainingGoesOn) {
  torch::nn::Sequential net(torch::nn::Linear(8, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Probe& probe = Start({"loss"});
  int calls = 0;
  probe.Subscribe({"loss"}, [&](const ProbeMessage&) {
    ++calls;
    throw std::runtime_error("the subscriber's");
  });
  probe.Attach(net);
  for (int step = 0; step < 3; ++step) Train(net, optimizer, torch::randn({4, 8}), torch::randint(3, {4}));
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(Of("loss").size(), 3u);
  EXPECT_TRUE(probe.active());
}

TEST_F(Capture, DetachLeavesNothingBehindAndASecondProbeDoesNothing) {
  torch::nn::Sequential net(torch::nn::Linear(8, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Probe& probe = Start({"loss"});
  probe.Attach(net);
  {
    Probe second({.run = "second", .quiet = true});
    EXPECT_FALSE(second.active());
    second.Attach(net);
    second.Log("x", 1.0);
  }
  Train(net, optimizer, torch::randn({4, 8}), torch::randint(3, {4}));
  EXPECT_EQ(Of("loss").size(), 1u);
  probe.Detach();
  EXPECT_FALSE(probe.active());
  for (const Tensor& parameter : net->parameters()) {
    EXPECT_EQ(torch::autograd::impl::post_acc_grad_hooks(parameter), nullptr);
  }
  Train(net, optimizer, torch::randn({4, 8}), torch::randint(3, {4}));
  EXPECT_EQ(Of("loss").size(), 1u);
  // After one has ended, the next may begin.
  kept_.clear();
  Start({"loss"}).Attach(net);
  Train(net, optimizer, torch::randn({4, 8}), torch::randint(3, {4}));
  EXPECT_EQ(Of("loss").size(), 1u);
}

TEST_F(Capture, LossesAreTheSameWithAndWithoutAProbe) {
  const auto losses = [&](bool watched) {
    torch::manual_seed(5);
    torch::nn::Sequential net(torch::nn::Linear(8, 16), torch::nn::ReLU(), torch::nn::Dropout(0.5),
                              torch::nn::Linear(16, 3));
    torch::optim::Adam optimizer(net->parameters(), torch::optim::AdamOptions(0.01));
    if (watched) {
      Probe& probe = Start({"weights", "activations", "layer_gradients", "weight_updates", "exp_avg"});
      probe.Attach(net);
      probe.Attach(optimizer);
    }
    std::vector<float> values;
    for (int step = 0; step < 20; ++step) {
      optimizer.zero_grad();
      const Tensor loss = F::cross_entropy(net->forward(torch::randn({4, 8})), torch::randint(3, {4}));
      values.push_back(loss.item<float>());
      loss.backward();
      optimizer.step();
    }
    probe_.reset();
    return values;
  };
  const auto bare = losses(false);
  EXPECT_EQ(bare, losses(true));
  EXPECT_FALSE(kept_.empty());
}

}  // namespace
}  // namespace ikkuna
