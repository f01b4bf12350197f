// Loops that evaluate in the midst of training, or train in evaluation mode.
#include <torch/torch.h>

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "tests/probe/torch/scenario.h"

namespace ikkuna::scenario {
namespace {

using torch::Tensor;
using torch::optim::SGD;
using torch::optim::SGDOptions;

class EvaluationLoops : public AtPeriods {};
INSTANTIATE_TEST_SUITE_P(Periods, EvaluationLoops, ::testing::Values(1u, 3u, 7u));

// An attack on an evaluation (FGSM), a saliency map: backward reaches the pass, and no parameter.
TEST_P(EvaluationLoops, AfterALookThroughAnEvaluationSkippedStepsAreSeen) {
  Scenario s(GetParam());
  Mlp model;
  s.Attach(model);
  SGD optimizer(model.parameters(), SGDOptions(.05));
  for (int i = 0; i < 24; ++i) {
    if (i % 5 == 0) {
      model.eval();
      const Tensor seen = x_.clone().requires_grad_();
      (void)torch::autograd::grad({torch::nn::functional::cross_entropy(model.forward(seen), y_)}, {seen});
      model.train();
    }
    optimizer.zero_grad();
    s.Forward(model);
    Loss(model).backward();
    if (i % 3 == 1) {
      s.Skip(model);
      continue;
    }
    s.Step(model);
    optimizer.step();
  }
  s.Check();
}

// A loop whose writes nobody sees leaves its step open until the next gradient: an evaluation comes in the midst of it.
TEST(EvaluationsOfInferredSteps, AreHeardWhereNothingIsDue) {
  ::setenv("IKKUNA_DIR", "/nonexistent/ikkuna-evaluations", 1);
  torch::manual_seed(4);
  Mlp model;
  Probe probe(ProbeOptions{.run = "evaluations", .quiet = true});
  std::vector<double> got, want;
  probe.Subscribe(
      {"loss"}, [&](const ProbeMessage& message) { got.push_back(message.scalar); }, 1, "test");
  probe.Subscribe(
      {"weights"}, [](const ProbeMessage&) {}, 50);
  probe.Attach(model);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(10, {4});
  for (int i = 0; i < 200; ++i) {
    model.zero_grad();
    torch::nn::functional::cross_entropy(model.forward(x), y).backward();
    for (auto& p : model.parameters()) {
      auto* w = p.data_ptr<float>();
      const auto* g = p.grad().data_ptr<float>();
      for (int64_t k = 0; k < p.numel(); ++k) w[k] -= .05f * g[k];
    }
    if (i % 10 != 3) continue;
    torch::NoGradGuard no_grad;
    model.eval();
    want.push_back(torch::nn::functional::cross_entropy(model.forward(x), y).item<double>());
    model.train();
  }
  probe.Detach();
  EXPECT_EQ(got, want);
}

// One thread runs forward passes in evaluation mode, another their backward passes.
TEST_P(EvaluationLoops, TrainingInEvaluationModeIsThatWhicheverThreadRunsBackward) {
  Scenario s(GetParam());
  Mlp model;
  model.eval();
  s.Attach(model);
  SGD optimizer(model.parameters(), SGDOptions(.05));
  std::map<uint64_t, size_t> gradients;
  std::set<std::string> tags;
  std::mutex mutex;
  s.probe().Subscribe({"layer_gradients", "batch_started"}, [&](const ProbeMessage& message) {
    std::lock_guard lock(mutex);
    if (message.kind == "layer_gradients") ++gradients[message.global_step];
    if (message.kind == "batch_started" && message.global_step > 2) tags.insert(message.tag);
  });
  for (int i = 0; i < 12; ++i) {
    optimizer.zero_grad();
    s.Forward(model);
    Tensor loss = Loss(model);
    std::thread([&] { loss.backward(); }).join();
    s.Step(model);
    optimizer.step();
  }
  s.probe().Detach();
  if (Scenario::bare != nullptr) return;
  for (uint64_t step = 3; step < 12; ++step) EXPECT_EQ(gradients[step], 5u) << step;  // of three layers and two relu
  EXPECT_EQ(tags, std::set<std::string>{"default"});
}

}  // namespace
}  // namespace ikkuna::scenario
