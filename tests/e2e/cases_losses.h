// Cases of cases_trainer: what is a loss and what is none, several terms, the trainer's own, evaluation; accuracy.
#pragma once

#include <string>
#include <vector>

#include "tests/e2e/cases_life.h"

namespace cases {

// --- A loss, and what is none.

inline void MetricLoss(Life& life) {
  Train(life, Net(), [&](int64_t step, const Tensor& out) {
    const Tensor labels = K(), loss = F::cross_entropy(out, labels);
    {
      torch::NoGradGuard no_grad;
      Life::Same(F::l1_loss(out, Y() * 100));
    }
    life.Loss(step, loss);
    life.Accuracy(step, out, labels);
    return loss;
  });
}

// Diagnostics with a graph that nobody walks, behind backward and behind the write, and one of a pass of its own.
inline void MetricLate(Life& life) {
  Net net;
  life.Watch(net);
  optim::SGD optimizer(net->parameters(), .05);
  life.Watch(optimizer);
  for (int64_t step = 0; step < life.steps(); ++step) {
    optimizer.zero_grad();
    const Tensor x = X(), labels = K(), out = net->forward(x), loss = F::cross_entropy(out, labels);
    loss.backward();
    Life::Same(F::l1_loss(out, Y() * 100));
    life.Step(step, *net, optimizer);
    Life::Same(F::smooth_l1_loss(out, Y() * 100));
    {
      torch::NoGradGuard no_grad;
      Life::Same(F::cross_entropy(net->forward(x), labels));
    }
    life.Loss(step, loss);
    life.Accuracy(step, out, labels);
  }
  life.End(*net);
}

inline void Composite(Life& life) {
  Train(life, Net(), [&](int64_t step, const Tensor& out) {
    const Tensor labels = K(), first = F::cross_entropy(out, labels), second = F::mse_loss(out, Y() * 10);
    life.Loss(step, first, "loss_cross_entropy");
    life.Loss(step, second, "loss_mse");
    life.Accuracy(step, out, labels);
    return first + .1 * second;
  });
}

// Weight decay in the loss; a term that a learned uncertainty weighs; terms that are stacked.
inline void Penalty(Life& life) {
  Net net;
  Train(life, net, [&](int64_t step, const Tensor& out) {
    const Tensor loss = F::mse_loss(out, Y());
    life.Loss(step, loss, "loss_mse");
    return loss + 1e-3 * net->head->weight.pow(2).sum();
  });
}

inline void Uncertainty(Life& life) {
  Net net;
  const Tensor sigma = net->register_parameter("sigma", torch::zeros({1}));
  Train(life, net, [&](int64_t step, const Tensor& out) {
    const Tensor loss = F::mse_loss(out, Y());
    life.Loss(step, loss, "loss_mse");
    return ((-sigma).exp() * loss + sigma).sum();
  });
}

inline void Stacked(Life& life) {
  Train(life, Net(), [&](int64_t step, const Tensor& out) {
    const Tensor first = F::mse_loss(out, Y()), second = F::smooth_l1_loss(out, Y()), third = F::mse_loss(out, Y() * 2);
    life.Loss(step, first, "loss_mse");
    life.Loss(step, second, "loss_smooth_l1");
    life.Loss(step, third, "loss_mse_2");
    return (torch::stack({first, second, third}) * torch::tensor({1.f, .5f, .25f})).sum();
  });
}

inline void Reduced(Life& life) {
  Train(life, Net(), [&](int64_t step, const Tensor& out) {
    const Tensor labels = K();
    const Tensor each = F::cross_entropy(out, labels, F::CrossEntropyFuncOptions().reduction(torch::kNone));
    const Tensor loss = (each * torch::linspace(0, 1, 12)).mean();
    life.Loss(step, loss);
    life.Accuracy(step, out, labels);
    return loss;
  });
}

inline void Smoothed(Life& life) {
  Train(life, Net(), [&](int64_t step, const Tensor& out) {
    const Tensor labels = K(), loss = F::cross_entropy(out, labels, F::CrossEntropyFuncOptions().label_smoothing(.1));
    life.Loss(step, loss);
    life.Accuracy(step, out, labels);
    return loss;
  });
}

// Knowledge distillation: the second term is divided by the rows.
inline void Distilled(Life& life) {
  Train(life, Net(), [&](int64_t step, const Tensor& out) {
    const Tensor labels = K(), hard = F::cross_entropy(out, labels);
    const Tensor soft = F::kl_div(torch::log_softmax(out / 2, 1), torch::softmax(Y(), 1),
                                  F::KLDivFuncOptions().reduction(torch::kBatchMean));
    life.Loss(step, hard, "loss_cross_entropy");
    life.Loss(step, soft, "loss_kl_div");
    life.Accuracy(step, out, labels);
    return .5 * hard + 2 * soft;
  });
}

inline void Triplet(Life& life) {
  Net net;
  Train(life, net, [&](int64_t step, const Tensor& anchor) {
    const Tensor loss = F::triplet_margin_loss(anchor, net->forward(X()), net->forward(X()));
    life.Loss(step, loss);
    return loss;
  });
}

struct VaeImpl : nn::Module {
  VaeImpl() {
    enc = register_module("enc", nn::Linear(8, 16));
    mu = register_module("mu", nn::Linear(16, 3));
    logvar = register_module("logvar", nn::Linear(16, 3));
    dec = register_module("dec", nn::Linear(3, 8));
  }
  nn::Linear enc{nullptr}, mu{nullptr}, logvar{nullptr}, dec{nullptr};
};
TORCH_MODULE(Vae);

struct VaeTerms {
  Tensor reconstruction, divergence;
};

inline VaeTerms TermsOf(Vae& model, const Tensor& x) {
  const Tensor hidden = torch::relu(model->enc(x)), mu = model->mu(hidden), logvar = model->logvar(hidden);
  const Tensor z = mu + torch::randn_like(mu) * (logvar * .5).exp();
  const Tensor reconstruction = F::binary_cross_entropy(torch::sigmoid(model->dec(z)), x,
                                                        F::BinaryCrossEntropyFuncOptions().reduction(torch::kSum));
  return {reconstruction, -10 * torch::sum(1 + logvar - mu.pow(2) - logvar.exp())};
}

enum class Given { kNever, kBeforeBackward, kBehindBackward };

inline void RunVae(Life& life, Given given, int micro_batches) {
  Vae model;
  life.Watch(model);
  optim::Adam optimizer(model->parameters(), optim::AdamOptions(1e-3));
  life.Watch(optimizer);
  for (int64_t step = 0; step < life.steps(); ++step) {
    optimizer.zero_grad();
    std::vector<Tensor> totals, reconstructions;
    for (int micro = 0; micro < micro_batches; ++micro) {
      const VaeTerms terms = TermsOf(model, torch::rand({12, 8}));
      const Tensor total = terms.reconstruction + terms.divergence;
      if (given == Given::kBeforeBackward) life.Give(total);
      (total / micro_batches).backward();
      if (given == Given::kBehindBackward) life.Give(total);
      totals.push_back(total);
      reconstructions.push_back(terms.reconstruction);
    }
    if (given == Given::kNever)
      life.MeanLoss(step, reconstructions, "loss_binary_cross_entropy");
    else
      life.MeanLoss(step, totals);
    life.Step(step, *model, optimizer);
  }
  life.End(*model);
}

// Training by a loss of two terms, each step followed by an evaluation of two batches.
enum class Evaluation { kPlain, kGiven, kNothingGiven };

inline void RunEvaluated(Life& life, Evaluation evaluation) {
  Net net;
  life.Watch(net);
  optim::SGD optimizer(net->parameters(), .05);
  life.Watch(optimizer);
  const bool given = evaluation != Evaluation::kNothingGiven;
  for (int64_t step = 0; step < life.steps(); ++step) {
    optimizer.zero_grad();
    const Tensor labels = K(), out = net->forward(X());
    const Tensor term = F::cross_entropy(out, labels), total = term + out.pow(2).mean();
    if (given) life.Give(total);
    total.backward();
    life.Loss(step, given ? total : term, given ? "" : "loss_cross_entropy");
    life.Accuracy(step, out, labels);
    life.Step(step, *net, optimizer);
    net->eval();
    torch::NoGradGuard no_grad;
    std::vector<Tensor> losses, outputs, targets;
    for (int batch = 0; batch < 2; ++batch) {
      const Tensor test_labels = K(), test_out = net->forward(X());
      Tensor loss = F::cross_entropy(test_out, test_labels);
      if (evaluation == Evaluation::kGiven) {
        loss = loss + test_out.pow(2).mean();
        life.Give(loss);
      }
      losses.push_back(loss);
      outputs.push_back(test_out);
      targets.push_back(test_labels);
    }
    // Under the number of steps that the model has made.
    life.MeanLoss(step + 1, losses, given ? "" : "loss_cross_entropy", "test");
    life.Accuracy(step + 1, torch::cat(outputs), torch::cat(targets), -100, "test");
    net->train();
  }
  life.End(*net);
}

// --- Accuracy.

inline void RunIgnored(Life& life, int64_t ignored) {
  Train(life, Net(), [&](int64_t step, const Tensor& out) {
    const Tensor labels = K();
    labels.slice(0, 0, 5).fill_(ignored);
    const Tensor loss = F::cross_entropy(out, labels, F::CrossEntropyFuncOptions().ignore_index(ignored));
    life.Loss(step, loss);
    life.Accuracy(step, out, labels, ignored);
    return loss;
  });
}

// Positions of sequences, by nll_loss; two micro-batches with different numbers of rows that count.
inline void IgnoredInSequences(Life& life) {
  Net net;
  life.Watch(net);
  optim::SGD optimizer(net->parameters(), .05);
  life.Watch(optimizer);
  for (int64_t step = 0; step < life.steps(); ++step) {
    optimizer.zero_grad();
    std::vector<Tensor> losses, outputs, targets;
    for (int micro = 0; micro < 2; ++micro) {
      const Tensor labels = K();
      labels.slice(0, 0, 2 + 4 * micro).fill_(3);
      const Tensor out = net->forward(X());
      const Tensor loss = F::nll_loss(torch::log_softmax(out.view({3, 4, 4}).transpose(1, 2), 1), labels.view({3, 4}),
                                      F::NLLLossFuncOptions().ignore_index(3));
      (loss / 2).backward();
      losses.push_back(loss);
      outputs.push_back(out);
      targets.push_back(labels);
    }
    life.MeanLoss(step, losses);
    life.Accuracy(step, torch::cat(outputs), torch::cat(targets), 3);
    life.Step(step, *net, optimizer);
  }
  life.End(*net);
}

inline void SoftTargets(Life& life) {
  Train(life, Net(), [&](int64_t step, const Tensor& out) {
    const Tensor loss = F::cross_entropy(out, torch::softmax(Y(), 1));
    life.Loss(step, loss);
    return loss;
  });
}

}  // namespace cases
