// Loops whose writes come elsewhere than behind one backward pass: within it, from other networks' gradients, behind what
// the trainer says, behind an evaluation.
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/torch.h>

#include <cmath>
#include <map>
#include <memory>
#include <vector>

#include "tests/probe/torch/capture_fixture.h"
#include "tests/probe/torch/scenario.h"

namespace ikkuna::scenario {
namespace {

using torch::Tensor;
using torch::optim::SGD;
using torch::optim::SGDOptions;

class Writes : public AtPeriods {};
INSTANTIATE_TEST_SUITE_P(Periods, Writes, ::testing::Values(1, 3, 7));

void WriteOnPointers(Mlp& model) {
  for (const Tensor& p : model.parameters()) {
    auto* const w = p.data_ptr<float>();
    const auto* const g = p.grad().data_ptr<float>();
    for (int64_t k = 0; k < p.numel(); ++k) w[k] -= .1f * g[k];
  }
}

struct StepInBackward : torch::autograd::PostAccumulateGradHook {
  void operator()(const Tensor& parameter) override {
    torch::NoGradGuard no_grad;
    parameter.sub_(.1 * parameter.grad());
    parameter.mutable_grad().reset();
  }
};

TEST_P(Writes, AnOptimizerInBackward) {
  Scenario s(GetParam());
  Mlp model;
  for (const Tensor& parameter : model.parameters()) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameter, std::make_unique<StepInBackward>());
  }
  s.Attach(model);
  for (int i = 0; i < 15; ++i) {
    s.Forward(model);
    const Tensors before = ParametersOf(model, false);
    Loss(model).backward();
    s.InferWith(model, before);
  }
  s.Forward(model);
  s.Check();
}

// An optimizer within backward for the most of the parameters, one as ever for the rest.
TEST_P(Writes, AnOptimizerInBackwardBesideAnother) {
  for (const bool first_layer : {true, false}) {
    Scenario s(GetParam());
    Mlp model;
    std::vector<Tensor> rest;
    for (const auto& item : model.named_parameters()) {
      if (item.key().rfind("f2", 0) == 0 || (item.key().rfind("f1", 0) == 0) == first_layer)
        torch::autograd::impl::set_post_acc_grad_hooks(item.value(), std::make_unique<StepInBackward>());
      else
        rest.push_back(item.value());
    }
    SGD optimizer(rest, SGDOptions(.1));
    s.Attach(model);
    for (int i = 0; i < 15; ++i) {
      s.Forward(model);
      const Tensors before = ParametersOf(model, false);
      optimizer.zero_grad();
      Loss(model).backward();
      s.StepFrom(model, before);
      optimizer.step();
    }
    s.Forward(model);
    s.Check();
  }
}

// A loop that is known, and goes on in a way that nobody sees: the weights of a step are those that its pass has used.
TEST(WritesOfUpdates, AreThoseOfAnOptimizerOnPointersBehindOneThatWasSeen) {
  ::setenv("IKKUNA_DIR", "/nonexistent/ikkuna-writes", 1);
  torch::manual_seed(4);
  Mlp model;
  SGD optimizer(model.parameters(), SGDOptions(.05));
  Probe probe(ProbeOptions{.run = "writes", .quiet = true});
  std::map<uint64_t, Tensor> weights, updates;
  probe.Subscribe({"weights", "weight_updates"}, [&](const ProbeMessage& message) {
    if (message.module == "f2")
      (message.kind == "weights" ? weights : updates)[message.global_step] = message.tensor.clone();
  });
  probe.Attach(model);
  std::vector<Tensor> used;
  constexpr uint64_t kSeen = 12, kSteps = 24;
  for (uint64_t i = 0; i < kSteps; ++i) {
    optimizer.zero_grad();
    used.push_back(model.f2->weight.detach().clone());
    model.forward(torch::randn({4, 8})).pow(2).mean().backward();
    if (i < kSeen) {
      optimizer.step();
      continue;
    }
    for (auto& p : model.parameters()) {
      auto* w = p.data_ptr<float>();
      const auto* g = p.grad().data_ptr<float>();
      for (int64_t k = 0; k < p.numel(); ++k) w[k] -= .05f * g[k];
    }
  }
  probe.Detach();
  for (uint64_t i = 0; i + 1 < kSteps; ++i) {
    if (i == kSeen) continue;  // flagged as skipped: nobody knows yet
    ASSERT_EQ(weights.count(i), 1u) << i;
    EXPECT_TRUE(torch::equal(weights[i], used[i])) << i;
    ASSERT_EQ(updates.count(i), 1u) << i;
    EXPECT_TRUE(torch::equal(updates[i], used[i + 1] - used[i])) << i;
  }
}

// Workers run a copy each and hand their gradients over; a step is known from the third on.
TEST_P(Writes, GradientsOfOtherNetworks) {
  Scenario s(GetParam());
  Mlp global, local;
  s.Attach(global);
  // It writes each parameter twice, the weight decay first.
  torch::optim::AdamW optimizer(global.parameters(), torch::optim::AdamWOptions(.01));
  for (int i = 0; i < 17; ++i) {
    local.zero_grad();
    Loss(local).backward();
    for (size_t p = 0; p < global.parameters().size(); ++p) {
      global.parameters()[p].mutable_grad() = local.parameters()[p].grad().clone();
    }
    s.Forward(global);
    if (i >= 2) s.Step(global);
    optimizer.step();
    torch::NoGradGuard no_grad;
    for (size_t p = 0; p < global.parameters().size(); ++p) local.parameters()[p].copy_(global.parameters()[p]);
  }
  s.Check();
}

// Gradients go into a buffer of the loop's own, in a hook; the optimizer writes what it holds after four backward passes.
struct IntoBuffer : torch::autograd::PostAccumulateGradHook {
  explicit IntoBuffer(Tensor* to) : buffer(to) {}
  void operator()(const Tensor& parameter) override {
    torch::NoGradGuard no_grad;
    buffer->add_(parameter.grad());
    parameter.mutable_grad().reset();
  }
  Tensor* buffer;
};

TEST_P(Writes, GradientsThatAHookTakesAway) {
  Scenario s(GetParam());
  Mlp model;
  std::vector<Tensor> buffers;
  for (const Tensor& parameter : model.parameters()) buffers.push_back(torch::zeros_like(parameter));
  for (size_t i = 0; i < buffers.size(); ++i) {
    torch::autograd::impl::set_post_acc_grad_hooks(model.parameters()[i], std::make_unique<IntoBuffer>(&buffers[i]));
  }
  s.Attach(model, {.manual_steps = true});
  for (int i = 0; i < 9; ++i) {
    for (Tensor& buffer : buffers) buffer.zero_();
    const Tensors before = ParametersOf(model, false);
    s.Forward(model);
    for (int micro = 0; micro < 4; ++micro)
      torch::nn::functional::mse_loss(model.forward(x_), torch::ones({4, 10})).backward();
    {
      torch::NoGradGuard no_grad;
      for (size_t p = 0; p < buffers.size(); ++p) model.parameters()[p].sub_(.1 * buffers[p]);
    }
    s.StepWith(model, before);
    s.probe().Step();
  }
  s.Check();
}

// The hook of one layer that is held still: its gradient, which comes last, goes at once.
struct Drop : torch::autograd::PostAccumulateGradHook {
  void operator()(const Tensor& parameter) override { parameter.mutable_grad().reset(); }
};

TEST_P(Writes, TheLastGradientIsDroppedByAHook) {
  Scenario s(GetParam());
  Mlp model;
  for (const Tensor& parameter : model.f1->parameters()) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameter, std::make_unique<Drop>());
  }
  s.Attach(model);
  SGD optimizer(model.parameters(), SGDOptions(.1));
  for (int i = 0; i < 15; ++i) {
    optimizer.zero_grad();
    s.Forward(model);
    Loss(model).backward();
    s.Step(model);
    optimizer.step();
  }
  s.Check();
}

// Only updates are asked: the optimizers that follow are waited for all the same.
TEST(WritesOfUpdates, AnEvaluationBetweenTwoOptimizers) {
  ::setenv("IKKUNA_DIR", "/nonexistent/ikkuna-writes", 1);
  Mlp model;
  SGD first(model.f1->parameters(), SGDOptions(.1)), second(model.f2->parameters(), SGDOptions(.1));
  Probe probe({.run = "updates", .quiet = true});
  std::map<uint64_t, std::map<std::string, Tensor>> updates;
  probe.Subscribe({"weight_updates"}, [&](const ProbeMessage& message) {
    updates[message.global_step][message.module] = message.tensor.clone();
  });
  probe.Attach(model);
  probe.Attach(first);
  probe.Attach(second);
  std::vector<Tensor> want;
  for (int i = 0; i < 6; ++i) {
    model.zero_grad();
    model.forward(torch::randn({4, 8})).sum().backward();
    const Tensor before = model.f1->weight.detach().clone();
    second.step();
    {
      torch::NoGradGuard no_grad;
      model.forward(torch::randn({4, 8}));
    }
    first.step();
    want.push_back(model.f1->weight.detach() - before);
  }
  probe.Detach();
  ASSERT_EQ(updates.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(torch::equal(updates[i]["f1"], want[i])) << i;
}

// What another model's backward ends behind is no look at this one's weights.
TEST_P(Writes, OfTwoModelsInTurnThatAreNotSeenAreInferred) {
  for (const bool by_grad : {false, true}) {
    SCOPED_TRACE(by_grad ? "autograd::grad" : "pointers");
    Scenario s(GetParam());
    Mlp first, second;
    s.Attach(first);
    s.Attach(second);
    for (int i = 0; i < 12; ++i) {
      for (Mlp* model : {&first, &second}) {
        s.Forward(*model);
        auto parameters = model->parameters();
        if (by_grad) {
          const auto gradients = torch::autograd::grad({Loss(*model)}, parameters);
          s.Infer(*model, false);
          torch::NoGradGuard no_grad;
          for (size_t k = 0; k < parameters.size(); ++k) parameters[k].sub_(.1 * gradients[k]);
        } else {
          model->zero_grad();
          Loss(*model).backward();
          s.Infer(*model, false);
          WriteOnPointers(*model);
        }
      }
    }
    s.Check();
  }
}

// Nor is a look by an evaluation that runs between the write and the next backward.
TEST_P(Writes, BeforeALookThroughTheModelThatAreNotSeenAreInferred) {
  Scenario s(GetParam());
  Mlp model;
  s.Attach(model);
  for (int i = 0; i < 12; ++i) {
    model.zero_grad();
    s.Forward(model);
    Loss(model).backward();
    s.Infer(model, false);
    WriteOnPointers(model);
    model.eval();
    const Tensor x = x_.clone().requires_grad_();
    torch::autograd::grad({torch::nn::functional::cross_entropy(model.forward(x), y_)}, {x});
    model.train();
  }
  s.Check();
}

TEST_P(Writes, TheEndIsSaidBeforeTheWrite) {
  Scenario s(GetParam());
  Mlp model;
  s.Attach(model, {.manual_steps = true});
  SGD optimizer(model.parameters(), SGDOptions(.1).momentum(.9));
  for (int i = 0; i < 15; ++i) {
    optimizer.zero_grad();
    s.Forward(model);
    Loss(model).backward();
    s.Step(model);
    s.probe().Step();
    optimizer.step();
  }
  s.Check();
}

TEST_P(Writes, AnEvaluationBetweenTwoOptimizers) {
  Scenario s(GetParam());
  Mlp model;
  s.Attach(model);
  SGD first(model.f1->parameters(), SGDOptions(.1));
  SGD second(model.f2->parameters(), SGDOptions(.1));
  SGD third(model.f3->parameters(), SGDOptions(.1));
  s.probe().Attach(first);
  s.probe().Attach(second);
  s.probe().Attach(third);
  for (int i = 0; i < 15; ++i) {
    model.zero_grad();
    s.Forward(model);
    Loss(model).backward();
    s.Step(model);
    second.step();
    {
      torch::NoGradGuard no_grad;
      model.forward(x_);
    }
    first.step();
    third.step();
  }
  s.Check();
}

}  // namespace
}  // namespace ikkuna::scenario

namespace ikkuna {
namespace {

class WritesOfPasses : public Capture {};

// The loss and the layer gradients are those of the backward pass whose gradients were used.
TEST_F(WritesOfPasses, GradientsThatAreThrownAwayBeforeTheTrainerSaysTheEnd) {
  torch::nn::Sequential net(torch::nn::Linear(8, 16), torch::nn::ReLU(), torch::nn::Linear(16, 4));
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Probe& probe = Start({"loss", "batch_finished"});
  probe.Attach(*net, {.manual_steps = true});
  std::vector<double> want, got;
  for (int batch = 0; want.size() < 12; ++batch) {
    optimizer.zero_grad();
    Tensor x = torch::randn({12, 8});
    if (batch % 4 == 2) x[0][0] = INFINITY;
    const Tensor loss = F::mse_loss(net->forward(x), torch::randn({12, 4}));
    loss.backward();
    if (!std::isfinite(loss.item<double>())) continue;
    want.push_back(loss.item<double>());
    optimizer.step();
    probe.Step();
  }
  probe.Detach();
  for (const Kept& end : Of("batch_finished")) {
    for (const Kept& loss : Of("loss")) {
      const auto& passes = end.message.passes;
      if (std::count(passes.begin(), passes.end(), loss.message.pass) != 0) got.push_back(loss.message.scalar);
    }
  }
  EXPECT_EQ(got, want);
}

// What the loop has done behind the write does not change what the step was written with.
TEST_F(WritesOfPasses, TheEndIsSaidBehindTheSchedulerAndZeroGrad) {
  for (const bool to_none : {true, false}) {
    kept_.clear();
    torch::nn::Sequential net(torch::nn::Linear(8, 4));
    torch::optim::SGD optimizer(net->parameters(), 1.0);
    Probe& probe = Start({"learning_rate", "weight_gradients", "batch_finished"});
    probe.Attach(*net, {.manual_steps = true});
    probe.Attach(optimizer);
    for (int step = 0; step < 4; ++step) {
      F::mse_loss(net->forward(torch::randn({12, 8})), torch::randn({12, 4})).backward();
      optimizer.step();
      optimizer.zero_grad(to_none);
      optimizer.param_groups()[0].options().set_lr(1.0 / (step + 2));
      probe.Step();
    }
    probe.Detach();
    const auto rates = Of("learning_rate");
    ASSERT_EQ(rates.size(), 4u);
    for (size_t i = 0; i < rates.size(); ++i) EXPECT_EQ(rates[i].message.scalar, 1.0 / static_cast<double>(i + 1));
    EXPECT_EQ(Of("weight_gradients").size(), to_none ? 0u : 4u);
    ASSERT_EQ(Of("batch_finished").size(), 4u);
    for (const Kept& end : Of("batch_finished")) {
      EXPECT_EQ((end.message.flags & kFlagGradModified) != 0, !to_none);
    }
    probe_.reset();
  }
}

// Of a backward pass that goes on into a pass that an earlier step was made of.
TEST_F(WritesOfPasses, RawGradientsOfTwoNetworksThatAreOneModel) {
  struct Gan : torch::nn::Module {
    Gan() {
      generator = register_module("generator", torch::nn::Linear(8, 8));
      critic = register_module("critic", torch::nn::Linear(8, 1));
    }
    torch::nn::Linear generator{nullptr}, critic{nullptr};
  };
  auto gan = std::make_shared<Gan>();
  torch::optim::SGD of_generator(gan->generator->parameters(), .05), of_critic(gan->critic->parameters(), .05);
  Start({"raw_weight_gradients", "batch_finished"}).Attach(gan);
  std::vector<Tensor> want;
  for (int step = 0; step < 4; ++step) {
    gan->zero_grad();
    const Tensor fake = gan->generator(torch::randn({12, 8}));
    gan->critic(fake.detach()).mean().backward();
    of_critic.step();
    gan->zero_grad();
    (-gan->critic(fake)).mean().backward();
    want.push_back(gan->generator->weight.grad().clone());
    of_generator.step();
  }
  probe_->Detach();
  const auto got = Of("raw_weight_gradients", "generator");
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(torch::equal(got[i].tensor, want[i])) << i;
}

// Clipped in inference mode, say: LibTorch counts no writes of such tensors.
TEST_F(WritesOfPasses, GradientsThatAreMadeInInferenceModeAreTakenLikeOthers) {
  torch::nn::Sequential net(torch::nn::Linear(8, 16), torch::nn::ReLU(), torch::nn::Linear(16, 4));
  Start({"weight_gradients"}).Attach(net);
  torch::optim::SGD optimizer(net->parameters(), .1);
  std::vector<Tensor> expected;
  for (int step = 0; step < 4; ++step) {
    optimizer.zero_grad();
    F::mse_loss(net->forward(torch::randn({12, 8})), torch::randn({12, 4})).backward();
    {
      const c10::InferenceMode inference;
      for (Tensor& p : net->parameters()) p.mutable_grad() = p.grad() * .5;
    }
    expected.push_back(net->parameters()[0].grad().clone());
    optimizer.step();
  }
  EXPECT_TRUE(probe_->active());
  const auto kept = Of("weight_gradients", "0");
  ASSERT_EQ(kept.size(), expected.size());
  for (size_t i = 0; i < kept.size(); ++i) EXPECT_TRUE(torch::equal(kept[i].tensor, expected[i])) << i;
}

}  // namespace
}  // namespace ikkuna
