// Capture: which messages a model's tensors become, under which names, tags, calls and micro-batches.
#include <limits>
#include <map>
#include <set>

#include "shared/codes.h"
#include "tests/probe/torch/capture_fixture.h"

namespace ikkuna {
namespace {

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
    seen.push_back({static_cast<int>(kept.message.global_step), kept.message.call});
  }
  std::vector<std::vector<int>> want;
  for (int step = 0; step < 2; ++step) {
    for (int micro = 0; micro < 3; ++micro) {
      for (int call = 0; call < 2; ++call) want.push_back({step, call});
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
  std::set<uint32_t> batches;  // passes
  for (const Kept& kept : Of("loss")) {
    ++losses[kept.message.tag];
    EXPECT_EQ(kept.message.global_step, 12u);
    if (kept.message.tag == "test") batches.insert(kept.message.pass);
  }
  EXPECT_EQ(losses["no_grad"], 1);
  EXPECT_EQ(losses["test"], 3);
  EXPECT_EQ(batches.size(), 3u);
  EXPECT_EQ(Of("loss").size(), 5u) << "one of a tag of the caller's";
  EXPECT_EQ(Of("batch_started").size(), 3u);
  EXPECT_EQ(Of("batch_finished").size(), 3u);
}

struct Unrolled : torch::nn::Module {
  Unrolled() {
    cell = register_module("cell", torch::nn::GRUCell(8, 6));
    out = register_module("out", torch::nn::Linear(6, 4));
  }
  Tensor forward(const Tensor& x, int64_t length) {
    Tensor hidden = torch::zeros({x.size(0), 6});
    for (int64_t t = 0; t < length; ++t) hidden = cell(x, hidden);
    return out(hidden);
  }
  torch::nn::GRUCell cell{nullptr};
  torch::nn::Linear out{nullptr};
};

TEST_F(Capture, AnUnrolledEvaluationIsOneBatchWithCalls) {
  auto net = std::make_shared<Unrolled>();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"activations", "batch_finished"}, "test").Attach(net);
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    F::mse_loss(net->forward(torch::randn({12, 8}), 4), torch::randn({12, 4})).backward();
    optimizer.step();
  }
  net->eval();
  torch::NoGradGuard no_grad;
  for (int batch = 0; batch < 3; ++batch) net->forward(torch::randn({12, 8}), 4);
  probe_->Detach();
  std::map<uint32_t, std::vector<int>> calls;
  for (const Kept& kept : Of("activations", "cell")) calls[kept.message.pass].push_back(kept.message.call);
  ASSERT_EQ(calls.size(), 3u);
  for (const auto& [pass, of_pass] : calls) EXPECT_EQ(of_pass, (std::vector<int>{0, 1, 2, 3}));
  EXPECT_EQ(Of("activations", "out").size(), 3u);
  ASSERT_EQ(Of("batch_finished").size(), 1u);
  EXPECT_EQ(Of("batch_finished")[0].message.passes.size(), 3u);
}

// Nobody knows before its write that an evaluation was the first pass of a step: what went out as `test` says so.
TEST_F(Capture, TheFirstPassOfATrainingInEvaluationModeIsFlagged) {
  torch::nn::Sequential net(torch::nn::Linear(8, 16), torch::nn::ReLU(), torch::nn::Linear(16, 4));
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"activations", "batch_finished"}, "test").Attach(net);
  Also({"activations", "batch_finished"}, "default");
  net->eval();
  for (int step = 0; step < 5; ++step) Train(net, optimizer, torch::randn({12, 8}), torch::randint(4, {12}));
  {
    torch::NoGradGuard no_grad;
    net->forward(torch::randn({12, 8}));
  }
  Train(net, optimizer, torch::randn({12, 8}), torch::randint(4, {12}));
  probe_->Detach();
  std::map<std::string, std::vector<bool>> flagged;
  for (const Kept& end : Of("batch_finished")) {
    flagged[end.message.tag].push_back((end.message.flags & kFlagStepInferred) != 0);
  }
  EXPECT_EQ(flagged["test"], (std::vector<bool>{true, false})) << "the first pass, and a real evaluation";
  EXPECT_EQ(flagged["default"], std::vector<bool>(6, false));
  std::map<std::string, size_t> activations;
  for (const Kept& kept : Of("activations", "0")) ++activations[kept.message.tag];
  EXPECT_EQ(activations["test"], 2u);
  EXPECT_EQ(activations["default"], 5u);
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

// Of a container that `depth` cuts: its own output, or nothing.
TEST_F(Capture, ACutContainerReportsWhatItReturns) {
  struct Residual : torch::nn::Module {
    Residual() { register_module("inner", inner); }
    Tensor forward(const Tensor& x) { return x + inner(x); }
    torch::nn::Linear inner{8, 8};
  };
  struct Net : torch::nn::Module {
    Net() {
      register_module("ends_in_relu", ends_in_relu);
      register_module("nested", nested);
      register_module("ends_in_own", ends_in_own);
      register_module("own", own);
    }
    Tensor forward(const Tensor& x) {
      first = ends_in_relu->forward(x);
      second = nested->forward(first);
      return own->forward(ends_in_own->forward(second));
    }
    torch::nn::Sequential ends_in_relu{torch::nn::Linear(8, 8), torch::nn::ReLU()};
    torch::nn::Sequential nested{torch::nn::Sequential(torch::nn::Linear(8, 8), torch::nn::Linear(8, 8))};
    torch::nn::Sequential ends_in_own{torch::nn::Linear(8, 8), Residual()};
    std::shared_ptr<Residual> own = std::make_shared<Residual>();
    Tensor first, second;
  };
  auto net = std::make_shared<Net>();
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"activations"}).Attach(net, {.depth = 1});
  Train(net, optimizer, torch::randn({4, 8}), torch::randint(3, {4}));
  ASSERT_EQ(Of("activations").size(), 2u);
  ASSERT_EQ(Of("activations", "ends_in_relu").size(), 1u);
  EXPECT_TRUE(torch::equal(Of("activations", "ends_in_relu")[0].tensor, net->first));
  ASSERT_EQ(Of("activations", "nested").size(), 1u);
  EXPECT_TRUE(torch::equal(Of("activations", "nested")[0].tensor, net->second));
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

// The pass of a critic that a generator's step runs through it is no step of the critic that was skipped.
TEST_F(Capture, APassForAnotherModelsStepIsNoSkippedStep) {
  torch::nn::Sequential generator(torch::nn::Linear(4, 8)), critic(torch::nn::Linear(8, 1));
  torch::optim::SGD of_generator(generator->parameters(), 0.1), of_critic(critic->parameters(), 0.1);
  Probe& probe = Start({"batch_finished"});
  probe.Attach(generator);
  probe.Attach(critic);
  constexpr int kSteps = 4;
  for (int i = 0; i < kSteps; ++i) {
    of_critic.zero_grad();
    (critic->forward(torch::randn({2, 8})).mean() -
     critic->forward(generator->forward(torch::randn({2, 4})).detach()).mean())
        .backward();
    of_critic.step();
    of_generator.zero_grad();
    critic->forward(generator->forward(torch::randn({2, 4}))).mean().backward();
    of_generator.step();
  }
  probe.Detach();
  EXPECT_EQ(Of("batch_finished").size(), 2u * kSteps);
  for (const Kept& kept : Of("batch_finished")) EXPECT_EQ(kept.message.flags, 0);
}

// Step() ends the steps of every model that makes some.
TEST_F(Capture, ATeacherMakesNoStepsWhateverIsSaid) {
  torch::nn::Sequential student(torch::nn::Linear(8, 3)), teacher(torch::nn::Linear(8, 3));
  torch::optim::SGD optimizer(student->parameters(), 0.1);
  Probe& probe = Start({"batch_finished"});
  probe.Attach(student, {.name = "student", .manual_steps = true});
  probe.Attach(teacher, {.name = "teacher", .manual_steps = true});
  for (int i = 0; i < 3; ++i) {
    const Tensor x = torch::randn({4, 8});
    Tensor target;
    {
      torch::NoGradGuard no_grad;
      target = teacher->forward(x);
    }
    optimizer.zero_grad();
    F::mse_loss(student->forward(x), target).backward();
    optimizer.step();
    probe.Step();
  }
  probe.Detach();
  EXPECT_EQ(Of("batch_finished").size(), 3u);
  for (const Kept& kept : Of("batch_finished")) EXPECT_EQ(kept.message.root, "student");
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

// A process that only evaluates: nobody listens for its first step any more, but whoever asks for evaluations has them,
// before and after.
TEST_F(Capture, AModelThatIsOnlyEvaluatedIsHeardByWhoeverAsks) {
  torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::Linear(6, 3));
  Start({"loss"}).Attach(net);
  net->eval();
  torch::NoGradGuard no_grad;
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  for (int batch = 0; batch < 100; ++batch) net->forward(x);
  Also({"activations"}, "test");
  // The watchdog looks from time to time; the limit is for a test that fails.
  for (int i = 0; i < 10'000 && Of("activations").empty(); ++i) {
    net->forward(x);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_FALSE(Of("activations").empty());
  const size_t before = Of("activations", "0").size();
  for (int batch = 0; batch < 100; ++batch) net->forward(x);
  EXPECT_EQ(Of("activations", "0").size() - before, 100u);
}

}  // namespace
}  // namespace ikkuna
