// Notes on what is missing or may be wrong, of which nothing else tells.
#include <torch/torch.h>

#include <memory>

#include "tests/probe/torch/notes_fixture.h"

namespace ikkuna {
namespace {

struct ScaledNet : nn::Module {
  ScaledNet() {
    fc = register_module("fc", nn::Linear(8, 4));
    scale = register_parameter("scale", torch::ones({4}));
  }
  Tensor forward(const Tensor& x) { return fc(x) * scale; }
  nn::Linear fc = nullptr;
  Tensor scale;
};

TEST_F(Notes, ARawGradientThatComesBeforeAnyLayerIsReached) {
  Asks({Kind::kRawWeightGradients});
  auto net = std::make_shared<ScaledNet>();
  torch::optim::SGD optimizer(net->parameters(), .05);
  probe_->Attach(net);
  Train(net, optimizer, Mse);
  ExpectOne({"raw weight gradients of ", "ScaledNet of model are missing", "behind the last"});
}

TEST_F(Notes, RawGradientsOfLayersAreNotSaidToBeMissing) {
  Asks({Kind::kRawWeightGradients}, 2);
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), .05);
  probe_->Attach(net);
  Train(net, optimizer, Mse, 7);
  ExpectNone();
}

// As checkpointing does: forward without gradients, then again within backward.
struct ComputedTwice : torch::autograd::Function<ComputedTwice> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, int64_t layer) {
    context->saved_data["layer"] = layer;
    context->save_for_backward({x});
    torch::NoGradGuard no_grad;
    return (*reinterpret_cast<nn::Linear*>(layer))(x);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const Tensor x = context->get_saved_variables()[0].detach().requires_grad_(true);
    Tensor y;
    {
      torch::AutoGradMode grad(true);
      y = (*reinterpret_cast<nn::Linear*>(context->saved_data["layer"].toInt()))(x);
    }
    torch::autograd::backward({y}, {gradients[0]});
    return {x.grad(), Tensor()};
  }
};

TEST_F(Notes, CallsThatBackwardComputesAgainInAnotherOrder) {
  Asks({Kind::kLayerGradients});
  for (const int calls : {1, 2}) {
    auto net = nn::Sequential(nn::Linear(8, 8), nn::Linear(8, 8));
    auto again = net->ptr<nn::LinearImpl>(1);
    nn::Linear layer(again);
    torch::optim::SGD optimizer(net->parameters(), .05);
    probe_->Attach(net, {.name = calls == 1 ? "once" : "twice"});
    for (int step = 0; step < 3; ++step) {
      optimizer.zero_grad();
      Tensor hidden = net[0]->as<nn::Linear>()->forward(X());
      for (int call = 0; call < calls; ++call) {
        hidden = ComputedTwice::apply(hidden, reinterpret_cast<int64_t>(&layer));
      }
      F::mse_loss(hidden, torch::zeros({12, 8})).backward();
      optimizer.step();
    }
    if (calls == 1) ExpectNone();
  }
  ExpectOne({"layer gradients of 1 of twice", "another call"});
}

// One probe, and a model a fold, which no shared pointer owns: the next network's first layer looks whether it has come
// into one that is known.
TEST_F(Notes, AModelThatWasDestroyedIsNotReadAnyMore) {
  Asks({Kind::kActivations});
  {
    auto net = std::make_unique<ScaledNet>();
    torch::optim::SGD optimizer(net->parameters(), .05);
    probe_->Attach(*net, {.name = "first"});
    Train(net, optimizer, Mse);
  }
  nn::Linear(8, 4)(X());
  nn::Linear(8, 4)(X());
  ExpectOne({"first was destroyed and is watched no more"});
}

class NoBackward : public Notes {
 protected:
  // An evolution strategy of a kind.
  void Evolve(nn::Sequential& net, bool says) {
    torch::NoGradGuard no_grad;
    for (int round = 0; round < 12; ++round) {
      net->forward(X());
      for (const Tensor& parameter : net->parameters()) parameter.add_(torch::randn_like(parameter), .01);
      if (says) probe_->Step();
    }
  }
};

TEST_F(NoBackward, IsToldToSayItsSteps) {
  Asks({Kind::kWeights});
  auto net = Net();
  probe_->Attach(net);
  Evolve(net, false);
  ExpectOne({"parameters of model are written, and no backward pass was seen", "probe.Step()"});
}

TEST_F(NoBackward, ThatSaysItsStepsIsNotToldTo) {
  Asks({Kind::kWeights});
  auto net = Net();
  probe_->Attach(net);
  Evolve(net, true);
  ExpectNone();
}

TEST_F(NoBackward, OfAnAverageIsNothingToSay) {
  Asks({Kind::kWeights});
  auto average = Net(), trained = Net();
  probe_->Attach(average, {.name = "average"});
  probe_->Attach(trained, {.name = "trained"});
  torch::optim::SGD optimizer(trained->parameters(), .05);
  Train(trained, optimizer, Mse, 1);
  Evolve(average, false);
  ExpectNone();
}

}  // namespace
}  // namespace ikkuna
