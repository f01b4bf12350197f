// Loops that the first table does not have: where a step's end is not a write that is seen, where passes and steps do
// not go together one by one, and where several threads share a model.
#include <ATen/record_function.h>
#include <torch/torch.h>

#include <atomic>
#include <barrier>
#include <cmath>
#include <functional>
#include <set>
#include <thread>
#include <utility>

#include "shared/codes.h"
#include "tests/probe/torch/capture_fixture.h"
#include "tests/probe/torch/scenario.h"

namespace ikkuna::scenario {
namespace {

using namespace torch::optim;

class Loops : public AtPeriods {};
INSTANTIATE_TEST_SUITE_P(Periods, Loops, ::testing::Values(1u, 3u, 7u));

TEST_P(Loops, AnOptimizerOnPointersIsInferred) {
  for (const bool zeroed_first : {false, true}) {
    Scenario s(GetParam());
    Mlp model;
    s.Attach(model);
    for (int i = 0; i < 12; ++i) {
      if (zeroed_first) model.zero_grad();
      s.Forward(model);
      const Tensor loss = Loss(model);
      if (!zeroed_first) model.zero_grad();
      loss.backward();
      s.Infer(model, !zeroed_first);
      for (auto& p : model.parameters()) {
        auto* w = p.data_ptr<float>();
        const auto* g = p.grad().data_ptr<float>();
        for (int64_t k = 0; k < p.numel(); ++k) w[k] -= .1f * g[k];
      }
    }
    s.Check();
  }
}

TEST_P(Loops, GradientsByAutogradGradAreInferred) {
  Scenario s(GetParam());
  Mlp model;
  s.Attach(model);
  for (int i = 0; i < 12; ++i) {
    s.Forward(model);
    auto parameters = model.parameters();
    const auto gradients = torch::autograd::grad({Loss(model)}, parameters);
    s.Infer(model, false);
    torch::NoGradGuard no_grad;
    for (size_t k = 0; k < parameters.size(); ++k) parameters[k].sub_(.1 * gradients[k]);
  }
  s.Check();
}

TEST_P(Loops, GradientsThatTheLoopAssigns) {
  Scenario s(GetParam());
  Mlp model;
  s.Attach(model);
  SGD optimizer(model.parameters(), SGDOptions(.1));
  for (int i = 0; i < 12; ++i) {
    s.Forward(model);
    auto parameters = model.parameters();
    const auto gradients = torch::autograd::grad({Loss(model)}, parameters);
    for (size_t k = 0; k < parameters.size(); ++k) parameters[k].mutable_grad() = gradients[k];
    s.Step(model);
    optimizer.step();
  }
  s.Check();
}

TEST_P(Loops, AScalerThatSkips) {
  enum Clear { kBefore, kBeforeInPlace, kAfterForward, kAfterForwardInPlace, kClears };
  for (int clear = 0; clear < kClears; ++clear) {
    SCOPED_TRACE("clears " + std::to_string(clear));
    Scenario s(GetParam());
    Mlp model;
    s.Attach(model);
    SGD optimizer(model.parameters(), SGDOptions(.05).momentum(.9));
    for (int i = 0; i < 14; ++i) {
      if (clear <= kBeforeInPlace) optimizer.zero_grad(clear == kBefore);
      s.Forward(model);
      const Tensor loss = Loss(model);
      if (clear > kBeforeInPlace) optimizer.zero_grad(clear == kAfterForward);
      loss.backward();
      if (i < 2 || i % 4 == 3) {
        s.Skip(model);
        continue;
      }
      s.Step(model);
      optimizer.step();
    }
    s.Check();
  }
}

TEST_P(Loops, WarmUpOnTheMainThreadThenWorkers) {
  Scenario s(GetParam());
  Mlp model;
  s.Attach(model);
  SGD optimizer(model.parameters(), SGDOptions(.1));
  for (int i = 0; i < 14; ++i) {
    optimizer.zero_grad();
    s.Forward(model);
    if (i == 0) {
      Loss(model).backward();
    } else {
      std::thread([&] { Loss(model).backward(); }).join();
    }
    s.Step(model);
    optimizer.step();
  }
  s.Check();
}

TEST_P(Loops, ModelsInOneList) {
  Scenario s(GetParam());
  Mlp first, second;
  s.Attach(first);
  s.Attach(second);
  for (int i = 0; i < 10; ++i) {
    first.zero_grad();
    second.zero_grad();
    s.Forward(first);
    s.Forward(second);
    Loss(first).backward();
    Loss(second).backward();
    s.Step(first);
    s.Step(second);
    std::vector<Tensor> parameters = first.parameters(), gradients;
    for (const Tensor& p : second.parameters()) parameters.push_back(p);
    for (const Tensor& p : parameters) gradients.push_back(p.grad());
    torch::NoGradGuard no_grad;
    at::_foreach_add_(parameters, gradients, -.1);
  }
  s.Check();
}

TEST_P(Loops, TrainingInEvaluationMode) {
  Scenario s(GetParam());
  s.MayLack();  // the first pass goes out as an evaluation
  Mlp model;
  s.Attach(model);
  SGD optimizer(model.parameters(), SGDOptions(.1));
  model.eval();
  for (int i = 0; i < 12; ++i) {
    optimizer.zero_grad();
    s.Forward(model);
    Loss(model).backward();
    s.Step(model);
    optimizer.step();
  }
  s.Check();
}

}  // namespace
}  // namespace ikkuna::scenario

namespace ikkuna {
namespace {

class Passes : public Capture {
 protected:
  static torch::nn::Sequential Net() {
    return torch::nn::Sequential(torch::nn::Linear(8, 16), torch::nn::ReLU(), torch::nn::Linear(16, 4));
  }
  static Tensor X() { return torch::randn({12, 8}); }
  static Tensor Y() { return torch::randn({12, 4}); }
  // The messages of a kind that the steps are made of, in the order of the steps: those of the passes that they name.
  std::vector<Kept> Named(const std::string& kind, const std::string& module = "*") const {
    std::vector<Kept> named;
    for (const Kept& end : Of("batch_finished")) {
      for (const Kept& kept : Of(kind, module)) {
        const auto& passes = end.message.passes;
        if (std::count(passes.begin(), passes.end(), kept.message.pass) == 0) continue;
        named.push_back(kept);
        named.back().message.global_step = end.message.global_step;
      }
    }
    return named;
  }
};

TEST_F(Passes, ABatchThatIsSkippedBeforeBackwardIsNamedByNoStep) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss", "activations", "batch_finished"}).Attach(net);
  std::vector<double> want;
  for (int batch = 0; want.size() < 16; ++batch) {
    Tensor x = X();
    if (batch % 5 == 3) x[0][0] = NAN;
    optimizer.zero_grad();
    const Tensor loss = F::mse_loss(net->forward(x), Y());
    if (!std::isfinite(loss.item<double>())) continue;
    want.push_back(loss.item<double>());
    loss.backward();
    optimizer.step();
  }
  probe_->Detach();
  const auto got = Named("loss");
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(got[i].message.global_step, i);
    EXPECT_FLOAT_EQ(got[i].message.scalar, want[i]);
  }
  EXPECT_EQ(Named("activations", "0").size(), want.size());
  EXPECT_GT(Of("activations", "0").size(), want.size());
}

TEST_F(Passes, APassWhoseLossThrowsIsNamedByNoStep) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"activations", "batch_finished"}).Attach(net);
  for (int batch = 0; batch < 9; ++batch) {
    optimizer.zero_grad();
    try {
      const Tensor out = net->forward(X());
      if (batch % 3 == 1) throw std::runtime_error("the user's");
      F::mse_loss(out, Y()).backward();
      optimizer.step();
    } catch (const std::exception&) {
    }
  }
  probe_->Detach();
  EXPECT_EQ(Named("activations", "0").size(), 6u);
}

TEST_F(Passes, TwoForwardPassesAndOneBackwardAreBothNamed) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"activations", "layer_gradients", "batch_finished"}).Attach(net);
  for (int step = 0; step < 4; ++step) {
    optimizer.zero_grad();
    const Tensor a = net->forward(X()), b = net->forward(X());
    (a - b).pow(2).mean().backward();
    optimizer.step();
  }
  probe_->Detach();
  EXPECT_EQ(Named("activations", "0").size(), 8u);
  EXPECT_EQ(Named("layer_gradients", "0").size(), 8u);
}

// The next forward pass runs before this step is written, as where a thread prepares it. Of a step that is due behind
// one that is not, the first pass was never taken: it names one that nobody has published.
TEST_F(Passes, ALoopThatRunsAheadLacksWhatItsStepBeganBeforeItWasDue) {
  for (const uint32_t period : {1u, 3u}) {
    SCOPED_TRACE(period);
    kept_.clear();
    auto net = Net();
    torch::optim::SGD optimizer(net->parameters(), 0.05);
    Start({"loss", "activations", "batch_finished"}, "default", period).Attach(net);
    constexpr int kMicro = 2, kSteps = 24;
    std::vector<double> want;
    Tensor loss = F::mse_loss(net->forward(X()), Y());
    for (int micro = 0; micro < kMicro * kSteps; ++micro) {
      if (micro % kMicro == 0) optimizer.zero_grad();
      const Tensor next = F::mse_loss(net->forward(X()), Y());
      want.push_back(loss.item<double>());
      loss.backward();
      if (micro % kMicro == kMicro - 1) optimizer.step();
      loss = next;
    }
    probe_->Detach();
    for (const Kept& end : Of("batch_finished")) {
      const uint64_t step = end.message.global_step;
      std::vector<double> came;
      for (const Kept& kept : Named("loss")) {
        if (kept.message.global_step == step) came.push_back(kept.message.scalar);
      }
      const auto at = want.begin() + static_cast<std::ptrdiff_t>(step * kMicro);
      const bool whole = end.message.passes.size() == came.size();
      if (whole) {
        EXPECT_EQ(came.size(), size_t{kMicro}) << step;
        for (size_t i = 0; i < came.size(); ++i) EXPECT_FLOAT_EQ(came[i], at[static_cast<std::ptrdiff_t>(i)]) << step;
      }
      EXPECT_EQ(whole, period == 1 || step == 0) << step;
    }
    EXPECT_EQ(Of("batch_finished").size(), kSteps / period);
  }
}

// A step that is skipped is known as such when the next one's backward begins: that one's first pass ran within it.
TEST_F(Passes, AStepBehindASkippedOneLacksThePassThatRanBeforeItWasKnown) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss", "batch_finished"}, "default", 3).Attach(net);
  constexpr int kMicro = 2;
  std::vector<double> want;
  for (int step = 0; step < 24; ++step) {
    optimizer.zero_grad();
    double sum = 0;
    for (int micro = 0; micro < kMicro; ++micro) {
      const Tensor loss = F::mse_loss(net->forward(X()), Y());
      loss.backward();
      sum += loss.item<double>();
    }
    want.push_back(sum / kMicro);
    if (step % 3 != 2) optimizer.step();
  }
  probe_->Detach();
  int whole = 0;
  for (const Kept& end : Of("batch_finished")) {
    const uint64_t step = end.message.global_step;
    std::vector<double> came;
    for (const Kept& kept : Named("loss")) {
      if (kept.message.global_step == step) came.push_back(kept.message.scalar);
    }
    if (end.message.passes.size() != came.size()) continue;  // one is named that was never published
    ++whole;
    ASSERT_EQ(came.size(), size_t{kMicro}) << step;
    EXPECT_FLOAT_EQ((came[0] + came[1]) / kMicro, want[static_cast<size_t>(step)]) << step;
  }
  EXPECT_GE(whole, 1);
}

TEST_F(Passes, AGraphWalkedTwiceKeepsItsLastLayerGradients) {
  for (const bool penalty : {false, true}) {
    SCOPED_TRACE(penalty ? "gradient penalty" : "retained graph");
    kept_.clear();
    torch::nn::Linear first(8, 16), last(16, 4);
    torch::nn::Sequential net(first, torch::nn::ReLU(), last);
    torch::optim::SGD optimizer(net->parameters(), 0.05);
    Start({"layer_gradients", "batch_finished"}).Attach(net);
    std::vector<Tensor> want;
    for (int step = 0; step < 5; ++step) {
      optimizer.zero_grad();
      const Tensor x = X().requires_grad_(penalty);
      const Tensor pre = first->forward(x);
      Tensor seen;
      pre.register_hook([&](const Tensor& g) { seen = g.detach().clone(); });
      const Tensor out = last->forward(torch::relu(pre));
      const Tensor loss = F::mse_loss(out, Y());
      if (penalty) {
        const Tensor slope = torch::autograd::grad({out.sum()}, {x}, {}, true, true)[0];
        (loss + (slope.norm(2, 1) - 1).pow(2).mean()).backward();
      } else {
        loss.backward({}, true);
        out.pow(2).mean().backward();
      }
      want.push_back(seen);
      optimizer.step();
    }
    probe_->Detach();
    const auto got = Named("layer_gradients", "0");
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(torch::allclose(got[i].tensor, want[i])) << i;
    EXPECT_EQ(Of("layer_gradients", "0").size(), 2 * want.size()) << "the other walk is named by nobody";
    probe_.reset();
  }
}

TEST_F(Passes, RawGradientsAreEachMicroBatchsOwn) {
  torch::nn::Linear layer(8, 4);
  torch::nn::Sequential net(layer);
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"raw_weight_gradients", "batch_finished"}).Attach(net);
  std::vector<Tensor> want;
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    for (int micro = 0; micro < 3; ++micro) {
      const Tensor x = X(), y = Y();
      F::mse_loss(net->forward(x), y).backward();
      want.push_back(
          torch::autograd::grad({F::mse_loss(F::linear(x, layer->weight, layer->bias), y)}, {layer->weight})[0]);
    }
    optimizer.step();
  }
  probe_->Detach();
  const auto got = Named("raw_weight_gradients");  // not those of the loop's own look
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(torch::allclose(got[i].tensor, want[i])) << i;
}

TEST_F(Passes, ALossScaleIsFlaggedOnWhatCarriesIt) {
  for (const bool unscaled : {false, true}) {
    kept_.clear();
    auto net = Net();
    torch::optim::SGD optimizer(net->parameters(), 1e-4);
    Start({"layer_gradients", "weight_gradients", "weights"}).Attach(net);
    for (int step = 0; step < 4; ++step) {
      optimizer.zero_grad();
      const double scale = step % 2 == 0 ? 1024 : 1;
      (F::mse_loss(net->forward(X()), Y()) * scale).backward();
      if (unscaled) {
        for (Tensor& p : net->parameters()) p.mutable_grad().div_(scale);
      }
      optimizer.step();
    }
    probe_->Detach();
    for (const Kept& kept : kept_) {
      const bool scaled = kept.message.global_step % 2 == 0 && kept.message.kind != "weights" &&
                          (kept.message.kind == "layer_gradients" || !unscaled);
      EXPECT_EQ((kept.message.flags & kFlagGradScaled) != 0, scaled) << kept.message.kind << " " << unscaled;
    }
    EXPECT_EQ(Of("layer_gradients").size(), 4 * 3u);
    EXPECT_EQ(Of("weight_gradients").size(), 4 * 2u);
    probe_.reset();
  }
}

TEST_F(Passes, GradientsThatTheLoopChangesWhileItWritesAreFlagged) {
  const std::pair<const char*, std::function<void(Tensor&)>> ways[] = {
      {"not at all", [](Tensor&) {}},
      {"in place", [](Tensor& p) { p.mutable_grad().clamp_(-1e-3, 1e-3); }},
      {"by another tensor", [](Tensor& p) { p.mutable_grad() = p.grad().clamp(-1e-3, 1e-3); }},
      {"by other data", [](Tensor& p) { p.mutable_grad().set_data(p.grad().clamp(-1e-3, 1e-3)); }},
      {"uncounted", [](Tensor& p) { p.mutable_grad().data().mul_(.5); }},
      {"by one without a count",
       [](Tensor& p) {
         const c10::InferenceMode inference;
         p.mutable_grad() = p.grad() * .5;
       }},
  };
  for (const auto& [way, change] : ways) {
    SCOPED_TRACE(way);
    kept_.clear();
    auto net = Net();
    Start({"weight_gradients", "batch_finished"}).Attach(net);
    for (int step = 0; step < 3; ++step) {
      net->zero_grad();
      F::mse_loss(net->forward(X()), Y()).backward();
      torch::NoGradGuard no_grad;
      for (Tensor& p : net->parameters()) {
        change(p);
        p.sub_(p.grad() * .1);
      }
    }
    probe_->Detach();
    ASSERT_EQ(Of("batch_finished").size(), 3u);
    for (const Kept& end : Of("batch_finished")) {
      EXPECT_EQ((end.message.flags & kFlagGradModified) != 0, &way != &ways[0].first);
    }
    probe_.reset();
  }
}

TEST_F(Passes, StepsThatAreSaidAreNeitherSkippedNorInferred) {
  auto net = Net();
  torch::optim::LBFGS optimizer(net->parameters(), torch::optim::LBFGSOptions(.1).max_iter(4));
  Start({"loss", "batch_finished"}).Attach(net, {.manual_steps = true});
  std::vector<double> want;
  for (int step = 0; step < 5; ++step) {
    const Tensor x = X(), y = Y();
    const Tensor loss = optimizer.step([&] {
      optimizer.zero_grad();
      const Tensor evaluated = F::mse_loss(net->forward(x), y);
      evaluated.backward();
      return evaluated;
    });
    want.push_back(loss.item<double>());
    probe_->Step();
  }
  probe_->Detach();
  const auto got = Named("loss");
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_FLOAT_EQ(got[i].message.scalar, want[i]) << i;
  for (const Kept& kept : kept_) EXPECT_EQ(kept.message.flags, 0) << kept.message.kind;
}

TEST_F(Passes, ASiameseEvaluationIsOneBatchWithCalls) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"activations", "batch_finished"}, "test").Attach(net);
  const auto both = [&] { return (net->forward(X()) - net->forward(X())).pow(2).mean(); };
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    both().backward();
    optimizer.step();
  }
  net->eval();
  torch::NoGradGuard no_grad;
  both();
  both();
  probe_->Detach();
  std::map<uint32_t, std::vector<int>> calls;
  for (const Kept& kept : Of("activations", "0")) calls[kept.message.pass].push_back(kept.message.call);
  ASSERT_EQ(calls.size(), 2u);
  for (const auto& [pass, of_pass] : calls) EXPECT_EQ(of_pass, (std::vector<int>{0, 1}));
}

TEST_F(Passes, WhatAThreadThatDoesNotTrainSaysTakesNoNumber) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss", "scalar"}).Attach(net);
  for (int step = 0; step < 12; ++step) {
    Train(net, optimizer, X(), torch::randint(4, {12}));
    std::thread([&] {
      probe_->Log("reward", 1.0 * step);
      probe_->Epoch(static_cast<uint32_t>(step));
    }).join();
  }
  std::vector<uint64_t> steps;
  for (const Kept& kept : Of("loss")) steps.push_back(kept.message.global_step);
  for (uint64_t step = 0; step < steps.size(); ++step) EXPECT_EQ(steps[step], step);
  EXPECT_EQ(steps.size(), 12u);
  EXPECT_EQ(Of("scalar").size(), 12u);
}

// With nothing asked the operators are not listened to, whatever threads have said and gone.
TEST_F(Passes, NothingIsListenedForWithoutAReason) {
  auto net = Net(), teacher = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({}).Attach(net);
  probe_->Attach(teacher);
  for (int step = 0; step < 80; ++step) {
    {
      torch::NoGradGuard no_grad;
      teacher->forward(X());
    }
    Train(net, optimizer, X(), torch::randint(4, {12}));
    std::thread([&] { probe_->Log("reward", 1.0); }).join();
  }
  EXPECT_FALSE(at::hasGlobalCallbacks());
}

// A callback may say what it likes: it is no part of a step under way, and what it says is told to no callback again.
TEST_F(Passes, CallbacksMayCallTheProbe) {
  auto net = Net();
  torch::optim::Adam optimizer(net->parameters(), torch::optim::AdamOptions(0.01));
  Probe& probe = Start({"scalar", "epoch_started"});
  int told = 0;
  probe.Subscribe({"loss", "batch_started", "batch_finished", "exp_avg", "weights", "scalar", "epoch_started"},
                  [&](const ProbeMessage& message) {
                    ++told;
                    probe.Log("from a callback", 1.0);
                    probe.Epoch(static_cast<uint32_t>(message.global_step));
                    if (message.kind == "weights") probe.Tag("");
                  });
  probe.Attach(net);
  probe.Attach(optimizer);
  for (int step = 0; step < 5; ++step) Train(net, optimizer, X(), torch::randint(4, {12}));
  probe.Detach();
  EXPECT_GE(told, 5 * 5);
  EXPECT_TRUE(Of("scalar").empty());
}

// Threads side by side, each with an optimizer of its own on shared parameters: no step is lost, each has its number,
// and an update that another thread's write is part of says so.
TEST_F(Passes, ThreadsSideBySideLoseNoStepAndFlagTheirUpdates) {
  auto net = Net();
  Start({});
  std::mutex mutex;
  std::multiset<uint64_t> finished;
  std::set<uint64_t> unflagged;
  probe_->Subscribe({"weight_updates", "batch_finished"}, [&](const ProbeMessage& message) {
    std::lock_guard lock(mutex);
    if (message.kind == "batch_finished") {
      finished.insert(message.global_step);
    } else if ((message.flags & kFlagWeightsChangedOutside) == 0) {
      unflagged.insert(message.global_step);
    }
  });
  probe_->Attach(net);
  constexpr int kThreads = 3, kSteps = 30;
  for (Tensor& p : net->parameters()) p.mutable_grad() = torch::zeros_like(p);
  std::barrier round(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      torch::optim::SGD optimizer(net->parameters(), 1e-3);
      for (int step = 0; step < kSteps; ++step) {
        const Tensor loss = F::mse_loss(net->forward(torch::ones({2, 8})), torch::ones({2, 4}));
        round.arrive_and_wait();
        loss.backward();
        round.arrive_and_wait();
        optimizer.step();
        round.arrive_and_wait();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  probe_->Detach();
  EXPECT_EQ(finished.size(), size_t{kThreads} * kSteps);
  EXPECT_EQ(std::set<uint64_t>(finished.begin(), finished.end()).size(), finished.size());
  for (const uint64_t step : unflagged) ADD_FAILURE() << "the update of step " << step << " spans another's write";
}

}  // namespace
}  // namespace ikkuna
