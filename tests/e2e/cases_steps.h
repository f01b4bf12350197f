// Cases of cases_trainer: where a step ends and what it is made of: writes that are not seen, several evaluations,
// graphs that are walked more than once, batches that are skipped.
#pragma once

#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "tests/e2e/cases_life.h"

namespace cases {

// --- Steps whose end is not seen, or is not one write.

enum class Hand { kPointers, kAutogradGrad, kNewData, kAccumulated, kAssigned };

inline void RunByHand(Life& life, Hand hand) {
  Net net;
  life.Watch(net);
  std::optional<optim::SGD> optimizer;
  if (hand == Hand::kAssigned) life.Watch(optimizer.emplace(net->parameters(), .05));
  for (int64_t step = 0; step < life.steps(); ++step) {
    const bool inferred = hand == Hand::kPointers || hand == Hand::kAccumulated || hand == Hand::kAutogradGrad;
    life.Silent(inferred && step + 1 == life.steps());  // nothing behind it shows its end
    std::vector<Tensor> losses, gradients;
    net->zero_grad();
    for (int micro = 0; micro < (hand == Hand::kAccumulated ? 2 : 1); ++micro) {
      losses.push_back(F::mse_loss(net->forward(X()), Y()));
      if (hand == Hand::kAutogradGrad || hand == Hand::kAssigned)
        gradients = torch::autograd::grad({losses.back()}, net->parameters());
      else
        losses.back().backward();
    }
    const auto parameters = net->parameters();
    const auto write = [&] {
      torch::NoGradGuard no_grad;
      for (size_t i = 0; i < parameters.size(); ++i) {
        Tensor parameter = parameters[i];
        if (hand == Hand::kAutogradGrad) {
          parameter.sub_(.05 * gradients[i]);
        } else if (hand == Hand::kNewData) {
          parameter.set_data(parameter.detach() - .05 * parameter.grad());
        } else {
          float* const weights = parameter.data_ptr<float>();
          const float* const by = parameter.grad().data_ptr<float>();
          for (int64_t k = 0; k < parameter.numel(); ++k) weights[k] -= .05f * by[k];
        }
      }
    };
    life.MeanLoss(step, losses);
    if (optimizer) {
      for (size_t i = 0; i < parameters.size(); ++i) Tensor(parameters[i]).mutable_grad() = gradients[i];
      life.Step(step, *net, *optimizer);
    } else {
      life.Begins(step, *net);
      if (!inferred) life.Gradients(step, *net);
      write();
      life.Ends(step, *net);
    }
  }
  life.Silent(false);
  life.End(*net);
}

inline void RunLbfgs(Life& life, bool manual) {
  Net net;
  life.Watch(net, {.manual_steps = manual});
  optim::LBFGS optimizer(net->parameters(), optim::LBFGSOptions(.1).max_iter(4));
  life.Watch(optimizer);
  int64_t evaluations = 0;
  for (int64_t step = 0; step < life.steps(); ++step) {
    const Tensor x = X(), y = Y();
    if (manual) life.Begins(step, *net);
    const Tensor loss = optimizer.step([&] {
      if (!manual && evaluations > 0) life.Ends(evaluations - 1, *net);
      if (!manual) life.Begins(evaluations, *net);
      optimizer.zero_grad();
      const Tensor evaluated = F::mse_loss(net->forward(x), y);
      evaluated.backward();
      if (!manual) {
        life.Gradients(evaluations, *net);
        life.Rates(evaluations, optimizer);
        life.Loss(evaluations++, evaluated);
      }
      return evaluated;
    });
    if (!manual) continue;
    life.Gradients(step, *net);
    life.Rates(step, optimizer);
    life.Ends(step, *net);
    life.Loss(step, loss);
    if (life.probe() != nullptr) life.probe()->Step();
  }
  if (!manual) life.Ends(evaluations - 1, *net);
  life.End(*net);
}

// Sharpness-aware: a second evaluation at weights that are moved uphill and back.
inline void Sharpness(Life& life) {
  Net net;
  life.Watch(net, {.manual_steps = true});
  optim::SGD optimizer(net->parameters(), optim::SGDOptions(.05).momentum(.9));
  life.Watch(optimizer);
  for (int64_t step = 0; step < life.steps(); ++step) {
    const Tensor x = X(), y = Y();
    life.Begins(step, *net);
    optimizer.zero_grad();
    const Tensor loss = F::mse_loss(net->forward(x), y);
    loss.backward();
    std::vector<Tensor> moved;
    {
      torch::NoGradGuard no_grad;
      for (Tensor& parameter : net->parameters()) {
        moved.push_back(parameter.grad() * .1);
        parameter.add_(moved.back());
      }
    }
    optimizer.zero_grad();
    F::mse_loss(net->forward(x), y).backward();
    {
      torch::NoGradGuard no_grad;
      size_t i = 0;
      for (Tensor& parameter : net->parameters()) parameter.sub_(moved[i++]);
    }
    life.Gradients(step, *net);
    life.Rates(step, optimizer);
    optimizer.step();
    life.Ends(step, *net);
    life.Moments(step, *net, optimizer);
    life.Loss(step, loss);
    if (life.probe() != nullptr) life.probe()->Step();
  }
  life.End(*net);
}

// --- Graphs that are walked more than once.

enum class Walks { kPenalty, kTwice, kThrice, kDoubleBackprop, kCritic };

inline void RunWalks(Life& life, Walks walks) {
  Net net(walks == Walks::kCritic ? 1 : 4);
  life.Watch(net);
  optim::SGD optimizer(net->parameters(), .05);
  life.Watch(optimizer);
  for (int64_t step = 0; step < life.steps(); ++step) {
    optimizer.zero_grad();
    std::vector<std::shared_ptr<Tensor>> last;  // layer gradients of each call of fc1, of the last walk
    const auto forward = [&](const Tensor& x) {
      Tensor before = net->fc1(x);
      last.push_back(std::make_shared<Tensor>());
      before.register_hook([seen = last.back()](const Tensor& gradient) { *seen = gradient.detach().clone(); });
      return net->head(torch::relu(before));
    };
    const auto penalty = [](const Tensor& of, const Tensor& x) {
      const Tensor slope = torch::autograd::grad({of}, {x}, {}, true, true)[0];
      return (slope.norm(2, 1) - 1).pow(2).mean();
    };
    const Tensor x = X().requires_grad_(walks != Walks::kTwice && walks != Walks::kThrice);
    if (walks == Walks::kCritic) {
      const Tensor fake = forward(X()), real = forward(X()), between = forward(x);
      const Tensor loss = fake.mean() - real.mean() + 10 * penalty(between.sum(), x);
      Life::Same(loss);
      loss.backward();
    } else {
      const Tensor out = forward(x), loss = F::mse_loss(out, Y());
      const bool composite = walks == Walks::kPenalty || walks == Walks::kDoubleBackprop;
      life.Loss(step, loss, composite ? "loss_mse" : "");
      if (walks == Walks::kPenalty) {
        (loss + penalty(out.sum(), x)).backward();
      } else if (walks == Walks::kDoubleBackprop) {
        (loss + penalty(loss, x)).backward();
      } else {
        loss.backward({}, true);
        if (walks == Walks::kThrice) out.exp().mean().backward({}, true);
        out.pow(2).mean().backward();
      }
    }
    double squares = 0;
    for (const auto& seen : last) squares += std::pow(Norm(*seen), 2);
    life.Say(step, "fc1", "", "layer_gradients_norm2", std::sqrt(squares));
    life.Step(step, *net, optimizer);
  }
  life.End(*net);
}

// --- Batches that are skipped.

// By `continue` before backward, where the loss is no number.
inline void RunSkipped(Life& life, const std::function<bool(int64_t, int64_t)>& bad) {
  Net net;
  life.Watch(net);
  optim::SGD optimizer(net->parameters(), .05);
  life.Watch(optimizer);
  int64_t step = 0;
  for (int64_t batch = 0; batch < 2 * life.steps(); ++batch) {
    Tensor x = X();
    if (bad(batch, 2 * life.steps())) x[0][0] = NAN;
    optimizer.zero_grad();
    const Tensor hidden = net->fc1(x), loss = F::mse_loss(net->head(torch::relu(hidden)), Y());
    if (!std::isfinite(loss.item<double>())) continue;
    loss.backward();
    life.Loss(step, loss);
    life.Activation(step, "fc1", hidden);
    life.Step(step, *net, optimizer);
    ++step;
  }
  life.End(*net);
}

// The same where the trainer keeps the losses, and with them the graphs of what it skips.
inline void SkippedAndKept(Life& life) {
  Net net;
  life.Watch(net);
  optim::SGD optimizer(net->parameters(), .05);
  life.Watch(optimizer);
  std::vector<Tensor> kept;
  for (int64_t step = 0; step < life.steps(); ++step) {
    for (const bool bad : {true, false}) {
      if (bad && step % 2 == 0) continue;
      optimizer.zero_grad();
      const Tensor hidden = net->fc1(bad ? X() / 0 : X());
      kept.push_back(F::mse_loss(net->head(torch::relu(hidden)), Y()));
      if (!std::isfinite(kept.back().item<double>())) continue;
      kept.back().backward();
      life.Loss(step, kept.back());
      life.Activation(step, "fc1", hidden);
      life.Step(step, *net, optimizer);
    }
  }
  life.End(*net);
}

// Behind backward, as a loss scaler does: the step has its number, and no write.
inline void SkippedBehindBackward(Life& life) {
  Net net;
  life.Watch(net);
  optim::SGD optimizer(net->parameters(), .05);
  life.Watch(optimizer);
  for (int64_t step = 0; step < 2 * life.steps(); ++step) {
    const bool skipped = step % 5 == 3 || step % 5 == 4;
    life.Silent(skipped && step + 1 == 2 * life.steps());  // nothing behind it shows that it is over
    optimizer.zero_grad();
    const Tensor hidden = net->fc1(X()), loss = F::mse_loss(net->head(torch::relu(hidden)), Y());
    loss.backward();
    life.Loss(step, loss);
    life.Activation(step, "fc1", hidden);
    if (!skipped) {
      life.Step(step, *net, optimizer);
      continue;
    }
    life.Begins(step, *net);  // gradients are read just before a write
    life.Ends(step, *net);
  }
  life.Silent(false);
  life.End(*net);
}

}  // namespace cases
