// Identity: which module a parameter among an operator's inputs speaks for, and what becomes of those that change.
#include <map>
#include <set>

#include <torch/script.h>

#include "shared/codes.h"
#include "tests/probe/torch/capture_fixture.h"
#include "tests/probe/torch/replaceable.h"

namespace ikkuna {
namespace {

namespace nn = torch::nn;

class Identity : public Capture {
 protected:
  static double Norm(const Tensor& tensor) { return tensor.detach().to(torch::kDouble).norm().item<double>(); }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const Kept& kept : Of("activations")) names.push_back(kept.message.module);
    return names;
  }
};

// A weight that an embedding and a projection share, whichever is registered first.
struct Tied : nn::Module {
  explicit Tied(bool embedding_first) {
    if (embedding_first) {
      in = register_module("in", nn::Embedding(10, 8));
      out = register_module("out", nn::Linear(nn::LinearOptions(8, 10).bias(false)));
    } else {
      out = register_module("out", nn::Linear(nn::LinearOptions(8, 10).bias(false)));
      in = register_module("in", nn::Embedding(10, 8));
    }
    out->weight.set_data(in->weight.detach());  // one storage

  }
  Tensor forward(const Tensor& ids) { return out(in(ids).tanh()); }
  nn::Embedding in{nullptr};
  nn::Linear out{nullptr};
};

TEST_F(Identity, OfTiedWeightsTheOperatorTellsTheModule) {
  for (const bool embedding_first : {true, false}) {
    kept_.clear();
    auto net = std::make_shared<Tied>(embedding_first);
    torch::optim::SGD optimizer(net->parameters(), 0.1);
    Start({"activations"}).Attach(net);
    for (int step = 0; step < 2; ++step) {
      optimizer.zero_grad();
      F::cross_entropy(net->forward(torch::randint(10, {4})), torch::randint(10, {4})).backward();
      optimizer.step();
    }
    EXPECT_EQ(Names(), (std::vector<std::string>{"in", "in > tanh", "out", "in", "in > tanh", "out"}));
    probe_.reset();
  }
}

TEST_F(Identity, AWeightThatAnotherOperatorTakesDoesNotSpeakForItsModule) {
  struct Net : nn::Module {
    Net() {
      in = register_module("in", nn::Embedding(10, 8));
      scale = register_parameter("scale", torch::randn({8, 8}));
    }
    Tensor forward(const Tensor& ids) { return in(ids).matmul(scale).matmul(in->weight.t()); }
    nn::Embedding in{nullptr};
    Tensor scale;
  };
  auto net = std::make_shared<Net>();
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"activations"}).Attach(net);
  F::cross_entropy(net->forward(torch::randint(10, {4})), torch::randint(10, {4})).backward();
  EXPECT_EQ(Names(), (std::vector<std::string>{"in", "> matmul", "in > matmul"}));
}

// A decoder that is tied to its encoder takes the weight in another layout than the encoder itself.
TEST_F(Identity, ATiedDecoderIsNoSecondCallOfItsEncoder) {
  struct Net : nn::Module {
    explicit Net(int64_t hidden) {
      enc = register_module("enc", nn::Linear(8, hidden));
      b_dec = register_parameter("b_dec", torch::zeros({8}));
    }
    Tensor forward(const Tensor& x) { return F::linear(torch::tanh(enc(x)), enc->weight.t(), b_dec); }
    nn::Linear enc{nullptr};
    Tensor b_dec;
  };
  for (const int64_t hidden : {3, 8}) {
    SCOPED_TRACE(hidden);
    kept_.clear();
    auto net = std::make_shared<Net>(hidden);
    torch::optim::SGD optimizer(net->parameters(), 0.1);
    Start({"activations"}).Attach(net);
    for (const Tensor& x : {torch::randn({4, 8}), torch::randn({2, 4, 8})}) {
      kept_.clear();
      optimizer.zero_grad();
      F::mse_loss(net->forward(x), x).backward();
      optimizer.step();
      EXPECT_EQ(Names(), (std::vector<std::string>{"enc", "enc > tanh", x.dim() == 2 ? "enc > addmm" : "enc > matmul"}));
    }
    probe_.reset();
  }
}

TEST_F(Identity, TheThreeProjectionsOfCrossAttentionAreFound) {
  struct Net : nn::Module {
    Net() { attention = register_module("attention", nn::MultiheadAttention(8, 2)); }
    nn::MultiheadAttention attention{nullptr};
  };
  auto net = std::make_shared<Net>();
  Start({"activations", "layer_gradients"}).Attach(net);
  const Tensor query = torch::randn({3, 2, 8}), key = torch::randn({5, 2, 8}), value = torch::randn({5, 2, 8});
  const Tensor out = std::get<0>(net->attention->forward(query, key, value));
  out.sum().backward();
  std::map<std::string, int> names;
  for (const std::string& name : Names()) ++names[name];
  EXPECT_EQ(names["attention"], 1);
  EXPECT_EQ(names["attention.out_proj"], 1);
  EXPECT_EQ(names["attention > matmul"] + names["attention > linear"] + names["attention > addmm"], 3);
  EXPECT_TRUE(torch::equal(Of("activations", "attention").at(0).tensor, out));
  EXPECT_EQ(Of("layer_gradients", "attention").size(), 1u);
}

class Replaced : public Identity, public ::testing::WithParamInterface<std::vector<std::string>> {};

TEST_P(Replaced, AModuleThatTakesAnothersPlaceIsWatched) {
  auto net = std::make_shared<Replaceable>();
  auto optimizer = std::make_unique<torch::optim::SGD>(net->parameters(), .05);
  Probe& probe = Start(GetParam());
  probe.Attach(net);
  probe.Attach(*optimizer);
  std::map<std::string, std::vector<double>> want;
  for (int step = 0; step < 7; ++step) {
    if (step == 3 || step == 5) {
      net->head = net->replace_module("head", nn::Linear(16, step == 3 ? 4 : 5));
      optimizer = std::make_unique<torch::optim::SGD>(net->parameters(), .05);
      probe.Attach(*optimizer);
    }
    optimizer->zero_grad();
    const Tensor out = net->forward(torch::randn({12, 8}));
    F::mse_loss(out, torch::randn({12, out.size(1)})).backward();
    want["weights"].push_back(Norm(net->head->weight));
    want["weight_gradients"].push_back(Norm(net->head->weight.grad()));
    want["activations"].push_back(Norm(out));
    optimizer->step();
  }
  probe.Detach();
  for (const std::string& kind : GetParam()) {
    const auto got = Of(kind, "head");
    ASSERT_EQ(got.size(), 7u) << kind;
    for (size_t step = 0; step < 7; ++step) {
      EXPECT_EQ(got[step].message.global_step, step);
      EXPECT_DOUBLE_EQ(Norm(got[step].tensor), want[kind][step]) << kind << " " << step;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Kinds, Replaced,
                         ::testing::Values(std::vector<std::string>{"weights"},
                                           std::vector<std::string>{"weight_gradients"},
                                           std::vector<std::string>{"activations"},
                                           std::vector<std::string>{"weights", "weight_gradients", "activations"}));

// What the trainer has replaced lives no longer for us, and its hook is gone.
// One probe lives through many folds.
TEST_F(Identity, AModelThatASharedPointerOwnsIsKeptThoughItIsAttachedByReference) {
  auto net = std::make_shared<torch::nn::SequentialImpl>(torch::nn::Linear(8, 4));
  const std::weak_ptr<torch::nn::SequentialImpl> before = net;
  Start({}).Attach(*net);
  net.reset();
  EXPECT_FALSE(before.expired());
  probe_.reset();
  EXPECT_TRUE(before.expired());
}

TEST_F(Identity, AModuleThatWasReplacedIsLetGo) {
  auto net = std::make_shared<Replaceable>();
  Probe& probe = Start({"weights", "weight_updates"});
  probe.Attach(net);
  std::vector<c10::weak_intrusive_ptr<c10::TensorImpl>> replaced;
  for (int round = 0; round < 3; ++round) {
    torch::optim::SGD optimizer(net->parameters(), .05);
    for (int step = 0; step < 3; ++step) Train(net, optimizer, torch::randn({4, 8}), torch::randint(4, {4}));
    replaced.emplace_back(net->head->weight.getIntrusivePtr());
    net->head = net->replace_module("head", nn::Linear(16, 4));
  }
  torch::optim::SGD optimizer(net->parameters(), .05);
  kept_.clear();
  for (int step = 0; step < 2; ++step) Train(net, optimizer, torch::randn({4, 8}), torch::randint(4, {4}));
  for (const auto& tensor : replaced) EXPECT_TRUE(tensor.expired());
}

// A head that is taken out for an evaluation and put back is the one that it was.
TEST_F(Identity, AModuleThatComesBackTrainsOn) {
  auto net = std::make_shared<Replaceable>();
  for (Tensor& parameter : net->fc1->parameters()) parameter.requires_grad_(false);
  torch::optim::SGD optimizer(net->head->parameters(), .05);
  Probe& probe = Start({"weight_gradients", "raw_weight_gradients", "batch_finished"});
  probe.Attach(net);
  const auto own = net->head;
  std::vector<double> want;
  for (int round = 0; round < 3; ++round) {
    for (int step = 0; step < 3; ++step) {
      optimizer.zero_grad();
      F::cross_entropy(net->forward(torch::randn({4, 8})), torch::randint(4, {4})).backward();
      want.push_back(Norm(own->weight.grad()));
      optimizer.step();
    }
    net->head = net->replace_module("head", nn::Linear(16, 4));
    {
      torch::NoGradGuard no_grad;
      net->forward(torch::randn({4, 8}));
    }
    net->head = net->replace_module("head", own);
  }
  probe.Detach();
  EXPECT_FALSE(probe.active());
  const auto got = Of("weight_gradients", "head");
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(got[i].message.global_step, i);
    EXPECT_DOUBLE_EQ(Norm(got[i].tensor), want[i]) << i;
  }
  EXPECT_EQ(Of("batch_finished").size(), want.size());
}

// Its hooks, ours for raw gradients too, go with it, and the probe ends as ever.
TEST_F(Identity, RawGradientsOfAModuleThatIsReplaced) {
  auto net = std::make_shared<Replaceable>();
  Probe& probe = Start({"raw_weight_gradients", "batch_finished"});
  probe.Attach(net);
  for (int round = 0; round < 3; ++round) {
    torch::optim::SGD optimizer(net->parameters(), .05);
    for (int step = 0; step < 2; ++step) Train(net, optimizer, torch::randn({4, 8}), torch::randint(4, {4}));
    net->head = net->replace_module("head", nn::Linear(16, 4));
  }
  torch::optim::SGD optimizer(net->parameters(), .05);
  Train(net, optimizer, torch::randn({4, 8}), torch::randint(4, {4}));
  const Tensor weight = net->fc1->weight;
  probe.Detach();
  EXPECT_EQ(Of("batch_finished").size(), 7u) << "the last one by Detach()";
  EXPECT_EQ(torch::autograd::impl::post_acc_grad_hooks(weight).get(), nullptr) << "ours is taken back";
}

TEST_F(Identity, AParameterThatIsRegisteredLaterIsFound) {
  auto net = std::make_shared<Replaceable>();
  torch::optim::SGD first(net->parameters(), .05);
  Probe& probe = Start({"weights", "weight_gradients", "weight_updates"});
  probe.Attach(net);
  Train(net, first, torch::randn({4, 8}), torch::randint(4, {4}));
  net->gain = net->register_parameter("gain", torch::ones({16}));
  torch::optim::SGD second(net->parameters(), .05);
  for (int step = 0; step < 2; ++step) Train(net, second, torch::randn({4, 8}), torch::randint(4, {4}));
  probe.Detach();
  std::map<std::string, int> of_gain;
  for (const Kept& kept : kept_) of_gain[kept.message.kind] += kept.message.param == "gain";
  EXPECT_EQ(of_gain["weights"], 2);
  EXPECT_EQ(of_gain["weight_gradients"], 2);
  EXPECT_EQ(of_gain["weight_updates"], 2);
}

// Registered without a gradient it is watched all the same, and may be the only one that trains later.
TEST_F(Identity, AParameterThatNeverHadAGradientMayBeginToTrain) {
  struct Net : nn::Module {
    Net() {
      fixed = register_parameter("fixed", torch::randn({8, 8}), false);
      head = register_module("head", nn::Linear(8, 4));
    }
    Tensor forward(const Tensor& x) { return head(x.matmul(fixed)); }
    Tensor fixed;
    nn::Linear head{nullptr};
  };
  auto net = std::make_shared<Net>();
  torch::optim::SGD optimizer(net->parameters(), .05);
  Probe& probe = Start({"weights", "weight_gradients", "batch_finished"});
  probe.Attach(net);
  ASSERT_TRUE(probe.active());
  const auto train = [&] { Train(net, optimizer, torch::randn({4, 8}), torch::randint(4, {4})); };
  for (int step = 0; step < 2; ++step) train();
  net->fixed.set_requires_grad(true);
  for (Tensor& parameter : net->head->parameters()) {
    parameter.mutable_grad().reset();
    parameter.set_requires_grad(false);
  }
  for (int step = 0; step < 3; ++step) train();
  probe.Detach();
  EXPECT_EQ(Of("weights", "head").size(), 5u);
  EXPECT_EQ(Of("weight_gradients", "head").size(), 2u);
  ASSERT_EQ(Of("batch_finished").size(), 5u);
  for (const Kept& end : Of("batch_finished")) EXPECT_EQ(end.message.flags, 0);
  std::vector<uint64_t> steps;
  for (const Kept& kept : kept_) {
    if (kept.message.kind == "weight_gradients" && kept.message.param == "fixed")
      steps.push_back(kept.message.global_step);
  }
  EXPECT_EQ(steps, (std::vector<uint64_t>{2, 3, 4}));
}

TEST_F(Identity, AModelThatIsAttachedAgainIsTheSame) {
  auto net = std::make_shared<Replaceable>();
  torch::optim::SGD optimizer(net->parameters(), .05);
  Probe& probe = Start({"weights", "loss"});
  probe.Attach(net);
  Train(net, optimizer, torch::randn({4, 8}), torch::randint(4, {4}));
  probe.Attach(net);
  probe.Attach(*net, {.name = "again"});
  Train(net, optimizer, torch::randn({4, 8}), torch::randint(4, {4}));
  EXPECT_EQ(Of("loss").size(), 2u);
  std::set<std::string> roots;
  for (const Kept& kept : Of("weights")) roots.insert(kept.message.root);
  EXPECT_EQ(roots, std::set<std::string>{"model"});
  EXPECT_EQ(Of("weights").size(), 4u);
}

// Sharded parameters: while they are let go of, nothing is read of them.
TEST_F(Identity, AStorageThatIsResizedToNothingIsNotRead) {
  auto net = std::make_shared<Replaceable>();
  torch::optim::SGD optimizer(net->parameters(), .05);
  Probe& probe = Start({"weights", "weight_updates"});
  probe.Attach(net);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(4, {4});
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    F::cross_entropy(net->forward(x), y).backward();
    torch::NoGradGuard no_grad;
    Tensor weight = net->fc1->weight;
    const Tensor kept = weight.detach().clone();
    const auto bytes = static_cast<int64_t>(weight.storage().nbytes());
    weight.storage().unsafeGetStorageImpl()->set_nbytes(0);
    optimizer.param_groups()[0].params()[2].add_(net->head->weight.grad(), -0.1);  // ends the step
    weight.storage().unsafeGetStorageImpl()->set_nbytes(static_cast<size_t>(bytes));
    weight.copy_(kept);
  }
  probe.Detach();
  EXPECT_EQ(Of("weights", "head").size(), 3u);
  EXPECT_TRUE(probe.active() == false);
}

// The gradient of an embedding is sparse; the optimizer that writes it is no second hand.
TEST_F(Identity, SparseGradientsFlagNothing) {
  nn::Sequential net(nn::Embedding(nn::EmbeddingOptions(50, 8).sparse(true)), nn::Flatten(), nn::Linear(24, 4));
  torch::optim::SGD optimizer(net->parameters(), .05);
  Start({"weight_updates", "bias_updates"}).Attach(net);
  for (int step = 0; step < 4; ++step) {
    optimizer.zero_grad();
    F::mse_loss(net->forward(torch::randint(50, {12, 3})), torch::randn({12, 4})).backward();
    optimizer.step();
  }
  probe_->Detach();
  EXPECT_EQ(Of("weight_updates").size(), 8u);
  for (const Kept& kept : kept_) EXPECT_EQ(kept.message.flags & kFlagWeightsChangedOutside, 0);
}

TEST_F(Identity, WhatAClassOfOnesOwnComputesIsNamedByItsOperator) {
  struct Scaled : nn::LinearImpl {  // a name and a weight like Linear's, and another output
    Scaled() : nn::LinearImpl(8, 4) {}
    Tensor forward(const Tensor& x) { return nn::LinearImpl::forward(x) * 2; }
  };
  struct Net : nn::Module {
    Net() { layer = register_module("layer", std::make_shared<Scaled>()); }
    std::shared_ptr<Scaled> layer;
  };
  auto net = std::make_shared<Net>();
  Start({"activations"}).Attach(net);
  net->layer->forward(torch::randn({2, 8}));
  EXPECT_EQ(Names(), std::vector<std::string>{"layer > addmm"});
}

TEST_F(Identity, AScriptedModelIsRefusedWithASentence) {
  torch::jit::Module scripted("scripted");
  Probe& probe = Start({"loss"});
  probe.Attach(scripted, {.name = "scripted"});
  EXPECT_TRUE(probe.active());
}

}  // namespace
}  // namespace ikkuna
