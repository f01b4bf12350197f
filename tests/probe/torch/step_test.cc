// Steps: where a training step begins and ends, found from outside, against loops that know.
#include <torch/torch.h>

#include <thread>

#include "shared/codes.h"
#include "tests/probe/torch/scenario.h"

namespace ikkuna::scenario {
namespace {

namespace F = torch::nn::functional;
using torch::Tensor;
using namespace torch::optim;

class Steps : public AtPeriods {
 protected:
  template <typename O, typename Options>
  void Plain(Options options) {
    Scenario scenario(GetParam());
    Mlp model;
    scenario.Attach(model);
    O optimizer(model.parameters(), options);
    for (int i = 0; i < 10; ++i) {
      optimizer.zero_grad();
      scenario.Forward(model);
      Loss(model).backward();
      scenario.Step(model);
      optimizer.step();
    }
    scenario.Check();
  }
  // A loop of twelve steps with SGD and momentum, whose body is the scenario.
  void Sgd(const std::function<void(int, Mlp&, SGD&, Scenario&)>& body) {
    Scenario scenario(GetParam());
    Mlp model;
    scenario.Attach(model);
    SGD optimizer(model.parameters(), SGDOptions(.05).momentum(.9));
    for (int i = 0; i < 12; ++i) body(i, model, optimizer, scenario);
    scenario.Check();
  }
};
INSTANTIATE_TEST_SUITE_P(Periods, Steps, ::testing::Values(1u, 3u, 7u));

TEST_P(Steps, Sgd) { Plain<SGD>(SGDOptions(.1)); }
TEST_P(Steps, SgdMomentumNesterovDecay) { Plain<SGD>(SGDOptions(.1).momentum(.9).weight_decay(.01).nesterov(true)); }
TEST_P(Steps, Adam) { Plain<torch::optim::Adam>(AdamOptions(.01)); }
TEST_P(Steps, AdamAmsgradDecay) { Plain<torch::optim::Adam>(AdamOptions(.01).amsgrad(true).weight_decay(.1)); }
TEST_P(Steps, AdamW) { Plain<torch::optim::AdamW>(AdamWOptions(.01)); }
TEST_P(Steps, RmsProp) { Plain<RMSprop>(RMSpropOptions(.01)); }
TEST_P(Steps, RmsPropCenteredMomentum) { Plain<RMSprop>(RMSpropOptions(.01).centered(true).momentum(.9)); }
TEST_P(Steps, Adagrad) { Plain<torch::optim::Adagrad>(AdagradOptions(.01)); }

TEST_P(Steps, ClippedGradients) {
  Sgd([this](int, Mlp& model, SGD& optimizer, Scenario& s) {
    optimizer.zero_grad();
    s.Forward(model);
    Loss(model).backward();
    torch::nn::utils::clip_grad_norm_(model.parameters(), .1);
    s.Step(model);
    optimizer.step();
  });
}

TEST_P(Steps, AccumulationOfThree) {
  Sgd([this](int, Mlp& model, SGD& optimizer, Scenario& s) {
    optimizer.zero_grad();
    for (int j = 0; j < 3; ++j) {
      s.Forward(model);
      (Loss(model) / 3).backward();
    }
    s.Step(model);
    optimizer.step();
  });
}

TEST_P(Steps, SkippedSteps) {
  for (const bool set_to_none : {true, false}) {
    Sgd([&](int i, Mlp& model, SGD& optimizer, Scenario& s) {
      optimizer.zero_grad(set_to_none);
      s.Forward(model);
      Loss(model).backward();
      if (i % 3 == 0) return s.Skip(model);
      s.Step(model);
      optimizer.step();
    });
  }
}

TEST_P(Steps, EvaluationBetweenSteps) {
  Sgd([this](int, Mlp& model, SGD& optimizer, Scenario& s) {
    optimizer.zero_grad();
    s.Forward(model);
    Loss(model).backward();
    s.Step(model);
    optimizer.step();
    model.eval();
    {
      torch::NoGradGuard no_grad;
      Loss(model);
      Loss(model);
    }
    model.train();
  });
}

TEST_P(Steps, PassWithoutGradientsBetweenBackwardAndStep) {
  Sgd([this](int, Mlp& model, SGD& optimizer, Scenario& s) {
    optimizer.zero_grad();
    s.Forward(model);
    Loss(model).backward();
    {
      torch::NoGradGuard no_grad;
      Loss(model);
    }
    s.Step(model);
    optimizer.step();
  });
}

TEST_P(Steps, TrainingPassWithoutBackwardBeforeStep) {
  Sgd([this](int, Mlp& model, SGD& optimizer, Scenario& s) {
    optimizer.zero_grad();
    s.Forward(model);
    Loss(model).backward();
    Loss(model);
    s.Step(model);
    optimizer.step();
  });
}

TEST_P(Steps, ZeroGradKeepsTensors) {
  Sgd([this](int, Mlp& model, SGD& optimizer, Scenario& s) {
    optimizer.zero_grad(false);
    s.Forward(model);
    Loss(model).backward();
    s.Step(model);
    optimizer.step();
  });
}

TEST_P(Steps, GanVariants) {
  enum Variant { kDetach, kFrozen, kBothThenSteps, kKeepGradients, kClampAfter, kClampBefore, kPenalty, kVariants };
  for (int v = 0; v < kVariants; ++v) {
    SCOPED_TRACE("variant " + std::to_string(v));
    Scenario s(GetParam());
    Mlp critic(1), generator(8);
    s.Attach(critic);
    s.Attach(generator);
    if (v == kClampAfter) s.MayFlag(kFlagWeightsChangedOutside);
    torch::optim::Adam critic_optimizer(critic.parameters(), AdamOptions(.01));
    torch::optim::Adam generator_optimizer(generator.parameters(), AdamOptions(.01));
    const auto freeze = [&](bool frozen) {
      for (auto& p : critic.parameters()) p.set_requires_grad(!frozen);
    };
    const auto clamp = [&] {
      torch::NoGradGuard no_grad;
      for (auto& p : critic.parameters()) p.clamp_(-.2, .2);
    };
    for (int i = 0; i < 10; ++i) {
      const Tensor z = torch::randn({4, 8});
      if (v == kClampBefore) clamp();
      critic_optimizer.zero_grad(v != kKeepGradients);
      s.Forward(critic);
      s.Forward(generator);
      const Tensor fake = generator.forward(z);
      Tensor loss = (critic.forward(x_) - critic.forward(fake.detach())).mean();
      if (v == kPenalty) {
        const Tensor mix = x_.detach().clone().requires_grad_(true);
        const Tensor slope = torch::autograd::grad({critic.forward(mix).sum()}, {mix}, {}, true, true)[0];
        loss = loss + (slope.norm() - 1).pow(2);
      }
      loss.backward();
      if (v == kBothThenSteps) {
        generator_optimizer.zero_grad();
        freeze(true);
        critic.forward(fake).mean().backward();
        freeze(false);
        s.Step(critic);
        critic_optimizer.step();
        s.Step(generator);
        generator_optimizer.step();
        continue;
      }
      s.Step(critic);
      critic_optimizer.step();
      if (v == kClampAfter) clamp();
      if (v == kFrozen) freeze(true);
      generator_optimizer.zero_grad(v != kKeepGradients);
      s.Forward(critic);
      critic.forward(fake).mean().backward();
      s.Step(generator);
      generator_optimizer.step();
      if (v == kFrozen) freeze(false);
    }
    s.Check();
  }
}

TEST_P(Steps, FrozenLayers) {
  Scenario s(GetParam());
  Mlp model;
  for (auto& p : model.f1->parameters()) p.set_requires_grad(false);
  s.Attach(model);
  SGD optimizer(model.parameters(), SGDOptions(.1));
  for (int i = 0; i < 12; ++i) {
    for (auto& p : model.f3->parameters()) p.set_requires_grad(i >= 5);
    optimizer.zero_grad();
    s.Forward(model);
    Loss(model).backward();
    s.Step(model);
    optimizer.step();
  }
  s.Check();
}

TEST_P(Steps, ParametersWithoutGradientsInTurn) {
  struct Gate : torch::nn::Module {
    Gate() {
      a = register_module("a", torch::nn::Linear(8, 8));
      b = register_module("b", torch::nn::Linear(8, 8));
      c = register_module("c", torch::nn::Linear(8, 8));
    }
    Tensor forward(int way, const Tensor& x) {
      return way == 0 ? c(a(x)) : way == 1 ? c(b(x)) : way == 2 ? b(x) : c(x);
    }
    torch::nn::Linear a{nullptr}, b{nullptr}, c{nullptr};
  };
  Scenario s(GetParam());
  Gate model;
  s.Attach(model);
  torch::optim::Adam optimizer(model.parameters(), AdamOptions(.01));
  for (int i = 0; i < 16; ++i) {
    optimizer.zero_grad();
    s.Forward(model);
    F::mse_loss(model.forward(i % 4, x_), torch::zeros({4, 8})).backward();
    s.Step(model);
    optimizer.step();
  }
  s.Check();
}

TEST_P(Steps, SecondHands) {
  enum Variant { kSwapEveryStep, kSwapSkipped, kSwapData, kLoad, kLoadSkipped, kSwapBeforeStep, kVariants };
  for (int v = 0; v < kVariants; ++v) {
    SCOPED_TRACE("variant " + std::to_string(v));
    Scenario s(GetParam());
    Mlp model, average;
    s.Attach(model);
    torch::optim::AdamW optimizer(model.parameters(), AdamWOptions(.01));
    const auto swap = [&](bool data) {
      torch::NoGradGuard no_grad;
      auto mine = model.parameters(), theirs = average.parameters();
      std::vector<Tensor> kept;
      for (auto& p : mine) kept.push_back(data ? p.data() : p.clone());
      for (size_t k = 0; k < mine.size(); ++k)
        data ? mine[k].set_data(theirs[k].data()) : (void)mine[k].copy_(theirs[k]);
      model.eval();
      Loss(model);
      model.train();
      for (size_t k = 0; k < mine.size(); ++k) data ? mine[k].set_data(kept[k]) : (void)mine[k].copy_(kept[k]);
    };
    for (int i = 0; i < 12; ++i) {
      optimizer.zero_grad(false);
      s.Forward(model);
      Loss(model).backward();
      const bool skip = (v == kSwapSkipped && i % 2 == 1) || (v == kLoadSkipped && i % 4 == 3);
      if (v == kSwapBeforeStep) swap(false);
      if (skip) {
        s.Skip(model);
      } else {
        s.Step(model);
        optimizer.step();
      }
      // The evaluation inside a swap closes the update, on the swapped weights: those updates are flagged, not
      // compared.
      if (v == kSwapEveryStep || v == kSwapSkipped) swap(false);
      if (v == kSwapData) swap(true);
      if ((v == kLoad || v == kLoadSkipped) && i % 4 == 3) {
        torch::NoGradGuard no_grad;
        auto mine = model.parameters(), theirs = average.parameters();
        for (size_t k = 0; k < mine.size(); ++k) mine[k].copy_(theirs[k]);
      }
    }
    s.CheckWithFlaggedUpdates(v == kLoad || v == kLoadSkipped);
  }
}

TEST_P(Steps, TiedWeights) {
  struct Tied : torch::nn::Module {
    Tied() {
      a = register_module("a", torch::nn::Linear(8, 8));
      b = register_module("b", torch::nn::Bilinear(8, 8, 1));
      tied = register_parameter("tied", a->weight);
    }
    Tensor forward(const Tensor& x) { return torch::relu(a(x)).matmul(tied.t()); }
    torch::nn::Linear a{nullptr};
    torch::nn::Bilinear b{nullptr};
    Tensor tied;
  };
  Scenario s(GetParam());
  Tied model;
  s.Attach(model);
  SGD optimizer({model.a->weight, model.a->bias}, SGDOptions(.1));
  for (int i = 0; i < 10; ++i) {
    optimizer.zero_grad();
    s.Forward(model);
    model.forward(x_).pow(2).mean().backward();
    s.Step(model);
    optimizer.step();
  }
  s.Check();
}

TEST_P(Steps, TypeChange) {
  Scenario s(GetParam());
  s.MayFlag(kFlagWeightsChangedOutside);
  Mlp model;
  s.Attach(model);
  SGD optimizer(model.parameters(), SGDOptions(.1));
  for (int i = 0; i < 14; ++i) {
    const auto type = (i >= 5 && i < 9) ? torch::kDouble : torch::kFloat;
    if (i == 5 || i == 9) {
      optimizer.zero_grad();
      model.to(type);
    }
    s.Forward(model);
    optimizer.zero_grad();
    F::cross_entropy(model.forward(x_.to(type)), y_).backward();
    s.Step(model);
    optimizer.step();
  }
  s.Check();
}

TEST_P(Steps, WrittenByHand) {
  for (int v = 0; v < 5; ++v) {
    SCOPED_TRACE("variant " + std::to_string(v));
    Scenario s(GetParam());
    Mlp model;
    s.Attach(model);
    for (int i = 0; i < 10; ++i) {
      model.zero_grad();
      s.Forward(model);
      Loss(model).backward();
      s.Step(model);
      for (auto& p : model.parameters()) {
        if (v == 0) {
          p.data().sub_(p.grad() * .1);
          continue;
        }
        torch::NoGradGuard no_grad;
        if (v == 1) p -= p.grad() * .1;
        if (v == 2) p.copy_(p - p.grad() * .1);
        if (v == 3) p.set_data(p - p.grad() * .1);
        if (v == 4) at::sub_out(p, p, p.grad() * .1);
      }
    }
    s.Check();
  }
}

TEST_P(Steps, ExceptionInBackward) {
  for (const bool steps_anyway : {false, true}) {
    Sgd([&](int i, Mlp& model, SGD& optimizer, Scenario& s) {
      optimizer.zero_grad();
      s.Forward(model);
      Tensor h = torch::relu(model.f1(x_));
      if (i % 3 == 1) h.register_hook([](const Tensor&) -> Tensor { throw std::runtime_error("the user's"); });
      const Tensor loss = F::cross_entropy(model.f3(torch::relu(model.f2(h))), y_);
      try {
        loss.backward();
      } catch (const std::exception&) {
        if (!steps_anyway) return s.Skip(model);
      }
      s.Step(model);
      optimizer.step();
    });
  }
}

// As checkpointing does: forward without gradients, then again within backward.
struct Checkpoint : torch::autograd::Function<Checkpoint> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, int64_t layer) {
    context->saved_data["layer"] = layer;
    context->save_for_backward({x});
    torch::NoGradGuard no_grad;
    return (*reinterpret_cast<torch::nn::Linear*>(layer))(x);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const Tensor x = context->get_saved_variables()[0].detach().requires_grad_(true);
    Tensor y;
    {
      torch::AutoGradMode grad(true);
      y = (*reinterpret_cast<torch::nn::Linear*>(context->saved_data["layer"].toInt()))(x);
    }
    torch::autograd::backward({y}, {gradients[0]});
    return {x.grad(), Tensor()};
  }
};

TEST_P(Steps, CheckpointedLayers) {
  Sgd([this](int, Mlp& model, SGD& optimizer, Scenario& s) {
    optimizer.zero_grad();
    s.Forward(model);
    Tensor h = torch::relu(model.f1(x_));
    h = torch::relu(Checkpoint::apply(h, reinterpret_cast<int64_t>(&model.f2)));
    F::cross_entropy(model.f3(h), y_).backward();
    s.Step(model);
    optimizer.step();
  });
}

TEST_P(Steps, BackwardOnAnotherThread) {
  Sgd([this](int, Mlp& model, SGD& optimizer, Scenario& s) {
    optimizer.zero_grad();
    s.Forward(model);
    const Tensor loss = Loss(model);
    std::thread([&] { loss.backward(); }).join();
    s.Step(model);
    optimizer.step();
  });
}

TEST_P(Steps, BackwardOfAModelThatIsNotAttached) {
  Mlp other;
  Sgd([&](int, Mlp& model, SGD& optimizer, Scenario& s) {
    optimizer.zero_grad();
    s.Forward(model);
    Loss(model).backward();
    Loss(other).backward();
    s.Step(model);
    optimizer.step();
  });
}

TEST_P(Steps, TwoOptimizersOnOneModel) {
  for (const bool attached : {false, true}) {
    SCOPED_TRACE(attached ? "attached" : "not attached");
    Scenario s(GetParam());
    Mlp model;
    s.Attach(model);
    const auto all = model.parameters();
    SGD first(std::vector<Tensor>(all.begin(), all.begin() + 4), SGDOptions(.1));
    torch::optim::Adam second(std::vector<Tensor>(all.begin() + 4, all.end()), AdamOptions(.01));
    if (attached) {
      s.probe().Attach(first);
      s.probe().Attach(second);
    }
    for (int i = 0; i < 12; ++i) {
      first.zero_grad();
      second.zero_grad();
      s.Forward(model);
      Loss(model).backward();
      s.Step(model);
      first.step();
      second.step();
    }
    s.Check();
  }
}

// LBFGS evaluates its closure several times a step, SAM perturbs the weights on the way: both say where a step ends.
TEST_P(Steps, LbfgsWithLineSearchSaysItsSteps) {
  Scenario s(GetParam());
  Mlp model;
  s.Attach(model, {.manual_steps = true});
  LBFGS optimizer(model.parameters(), LBFGSOptions(.1).max_iter(4).line_search_fn("strong_wolfe"));
  for (int i = 0; i < 8; ++i) {
    s.Forward(model);
    const Tensors before = ParametersOf(model, false);
    optimizer.step([&] {
      optimizer.zero_grad();
      const Tensor loss = Loss(model);
      loss.backward();
      return loss;
    });
    s.StepWith(model, before);
    s.probe().Step();
  }
  s.Check();
}

TEST_P(Steps, SamSaysItsSteps) {
  Scenario s(GetParam());
  Mlp model;
  s.Attach(model, {.manual_steps = true});
  SGD optimizer(model.parameters(), SGDOptions(.05));
  for (int i = 0; i < 10; ++i) {
    s.Forward(model);
    const Tensors before = ParametersOf(model, false);
    optimizer.zero_grad();
    Loss(model).backward();
    std::vector<Tensor> moved;
    {
      torch::NoGradGuard no_grad;
      for (auto& p : model.parameters()) {
        moved.push_back(p.grad() * .05);
        p.add_(moved.back());
      }
    }
    optimizer.zero_grad();
    Loss(model).backward();
    {
      torch::NoGradGuard no_grad;
      size_t k = 0;
      for (auto& p : model.parameters()) p.sub_(moved[k++]);
    }
    optimizer.step();
    s.StepWith(model, before);
    s.probe().Step();
  }
  s.Check();
}

// Weights moved by another hand between two steps: the number is right, and it says that it is not the optimizer's.
TEST(StepFlags, ClampAndLoadAreNamed) {
  Scenario s(1);
  s.MayFlag(kFlagWeightsChangedOutside);
  Mlp model;
  s.Attach(model);
  SGD optimizer(model.parameters(), SGDOptions(.1));
  const Tensor x = torch::randn({4, 8});
  for (int i = 0; i < 6; ++i) {
    optimizer.zero_grad();
    s.Forward(model);
    model.forward(x).pow(2).mean().backward();
    s.Step(model);
    optimizer.step();
    torch::NoGradGuard no_grad;
    if (i == 2) model.f1->weight.clamp_(-.05, .05);
    if (i == 4) model.f2->weight.copy_(model.f2->weight * .5);
  }
  s.Check();
  for (uint64_t step = 0; step < 6; ++step) {
    EXPECT_EQ((s.FlagsOf("model", step) & kFlagWeightsChangedOutside) != 0, step == 2 || step == 4) << step;
  }
}

}  // namespace
}  // namespace ikkuna::scenario
