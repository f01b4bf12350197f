// Losses: which pass they belong to, what of several terms is the loss, and what is said where it is not known.
#include <functional>
#include <map>
#include <set>

#include "tests/probe/torch/losses_fixture.h"

namespace ikkuna {
namespace {

TEST_F(Losses, WhatHasNoGradientIsNoLoss) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss", "network_output"}).Attach(net);
  std::vector<double> want;
  for (int step = 0; step < 4; ++step) {
    optimizer.zero_grad();
    const Tensor out = net->forward(X());
    const Tensor loss = F::cross_entropy(out, K());
    {
      torch::NoGradGuard no_grad;
      F::l1_loss(out, Y() * 100);
    }
    F::mse_loss(out.detach(), Y() * 100);
    F::smooth_l1_loss(out, Y() * 100);  // with a gradient that nobody uses
    want.push_back(loss.item<double>());
    loss.backward();
    optimizer.step();
  }
  EXPECT_EQ(Values().size(), 1u);
  Expect(Values()[""], want);
}

TEST_F(Losses, SeveralTermsGoByNameAndTheLossIsUnknown) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss"}).Attach(net);
  std::vector<double> first, second, third;
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    const Tensor out = net->forward(X());
    const Tensor a = F::cross_entropy(out, K()), b = F::mse_loss(out, Y()), c = F::mse_loss(out, Y());
    first.push_back(a.item<double>());
    second.push_back(b.item<double>());
    third.push_back(c.item<double>());
    (a + 0.1 * b + c).backward();
    optimizer.step();
  }
  EXPECT_EQ(Values().size(), 3u);
  Expect(Values()["loss_cross_entropy"], first);
  Expect(Values()["loss_mse"], second);
  Expect(Values()["loss_mse_2"], third);
}

TEST_F(Losses, ATermThatAnotherIsAddedToByHandIsNotTheLoss) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss"}).Attach(net);
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    const Tensor out = net->forward(X());
    (F::mse_loss(out, Y()) + out.exp().mean()).backward();
    optimizer.step();
  }
  EXPECT_EQ(Values().size(), 1u);
  EXPECT_EQ(Values()["loss_mse"].size(), 3u);
}

TEST_F(Losses, ScaledForAccumulationATermIsStillTheLoss) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss"}).Attach(net);
  std::vector<double> want;
  for (int step = 0; step < 2; ++step) {
    optimizer.zero_grad();
    for (int micro = 0; micro < 3; ++micro) {
      const Tensor loss = F::mse_loss(net->forward(X()), Y());
      want.push_back(loss.item<double>());
      (loss / 3).backward();
    }
    optimizer.step();
  }
  Expect(Values()[""], want);
  EXPECT_EQ(Values().size(), 1u);
}

TEST_F(Losses, OfManyElementsWhatIsMadeOfThemCounts) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss"}).Attach(net);
  std::vector<double> want;
  const auto step = [&](const Tensor& loss) {
    want.push_back(loss.item<double>());
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
  };
  const auto none = F::CrossEntropyFuncOptions().reduction(torch::kNone);
  step((F::cross_entropy(net->forward(X()), K(), none) * torch::linspace(0, 1, 12)).mean());
  const Tensor each = F::cross_entropy(net->forward(X()), K(), none);
  step(((1 - (-each).exp()).pow(2) * each).mean());  // focal loss: all of it flows through the term
  step(F::kl_div(torch::log_softmax(net->forward(X()), 1), torch::softmax(Y(), 1),
                 F::KLDivFuncOptions().reduction(torch::kBatchMean)));
  step(F::cross_entropy(net->forward(X()), K(), F::CrossEntropyFuncOptions().reduction(torch::kSum)) / 7);
  Expect(Values()[""], want);
  EXPECT_EQ(Values().size(), 1u);
}

// What backward starts from is made of one term, and is something else than it.
TEST_F(Losses, ATermThatIsMadeIntoSomethingElseIsNotTheLoss) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.01);
  Start({"loss"}).Attach(net);
  std::vector<double> terms;
  const auto step = [&](const std::function<Tensor(const Tensor&)>& made) {
    const Tensor term = F::mse_loss(net->forward(X()), Y());
    terms.push_back(term.item<double>());
    optimizer.zero_grad();
    made(term).backward();
    optimizer.step();
  };
  step([](const Tensor& l) { return l.sqrt(); });
  step([](const Tensor& l) { return -l; });
  step([](const Tensor& l) { return l + 1.5; });
  step([](const Tensor& l) { return l.exp(); });
  step([](const Tensor& l) { return l.clamp_max(.5); });
  Expect(Values()["loss_mse"], terms);
  EXPECT_EQ(Values().count(""), 0u);
}

// Added to a sum that began with 0, or looked at before: the loss all the same.
TEST_F(Losses, ATermThatComesOutAsItIsStaysTheLoss) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.01);
  Start({"loss"}).Attach(net);
  std::vector<double> want;
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    Tensor total = torch::zeros({});
    total = total + F::mse_loss(net->forward(X()), Y());
    want.push_back(total.item<double>());
    total.backward();
    optimizer.step();
  }
  const Tensor target = torch::softmax(Y(), 1);
  for (int step = 0; step < 2; ++step) {
    optimizer.zero_grad();
    const Tensor x = X().requires_grad_();
    const Tensor loss = F::kl_div(torch::log_softmax(net->forward(x), 1), target,
                                  F::KLDivFuncOptions().reduction(torch::kBatchMean));
    torch::autograd::grad({loss * 2}, {x}, {}, true);
    want.push_back(loss.item<double>());
    (loss * 8).backward();
    optimizer.step();
  }
  Expect(Values()[""], want);
}

TEST_F(Losses, OfAMultipleOfATermOfManyElementsTheMeanIsTheLoss) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.01);
  Start({"loss"}).Attach(net);
  const auto none = F::MSELossFuncOptions().reduction(torch::kNone);
  std::vector<double> want;
  for (const double scale : {1024., 1. / 3}) {
    optimizer.zero_grad();
    const Tensor mean = F::mse_loss(net->forward(X()), Y(), none).mean();
    want.push_back(mean.item<double>());
    (mean * scale).backward();
    optimizer.step();
  }
  Expect(Values()[""], want);
}

// A look at gradients before the backward pass, and two backward passes over one forward pass.
TEST_F(Losses, OnlyWhatGaveGradientsIsTheLossAndTwoOfOnePassAreTerms) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.01);
  Start({"loss"}).Attach(net);
  Train(net, optimizer, X(), K());  // gradients come by hooks, as is known then
  kept_.clear();
  optimizer.zero_grad();
  const Tensor x = X().requires_grad_();
  Tensor out = net->forward(x);
  const Tensor want = F::mse_loss(out, Y());
  torch::autograd::grad({F::l1_loss(out, Y())}, {x}, {}, true);
  want.backward();
  optimizer.step();
  Expect(Values()[""], {want.item<double>()});
  kept_.clear();
  optimizer.zero_grad();
  out = net->forward(X());
  const Tensor a = F::mse_loss(out, Y()), b = F::l1_loss(out, Y());
  a.backward({}, true);
  b.backward();
  optimizer.step();
  Expect(Values()["loss_mse"], {a.item<double>()});
  Expect(Values()["loss_l1"], {b.item<double>()});
  EXPECT_EQ(Values().count(""), 0u);
}

// Over one forward pass they are terms also where their function is one: no micro-batches, of which the mean is the loss.
TEST_F(Losses, TwoBackwardPassesOverOneForwardPassAreTermsOfOneFunction) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.01);
  Start({"loss"}).Attach(net);
  std::vector<double> terms;
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    const Tensor out = net->forward(X()), a = F::mse_loss(out, Y()), b = F::mse_loss(out, Y());
    a.backward({}, true);
    b.backward();
    optimizer.step();
    terms.insert(terms.end(), {a.item<double>(), b.item<double>()});
  }
  Expect(Values()["loss_mse"], terms);
  EXPECT_EQ(Values().count(""), 0u);
}

TEST_F(Losses, GivenAfterTheTermsWereSeenTheTotalReplacesThem) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Probe& probe = Start({"loss"});
  Also({"loss"}, "test");
  probe.Attach(net);
  std::vector<double> want, tested;
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    const Tensor out = net->forward(X());
    const Tensor total = F::mse_loss(out, Y()) + out.exp().mean();
    if (step == 0) {
      probe.Loss(total);
      total.backward();
    } else {
      total.backward();
      probe.Loss(total);
    }
    want.push_back(total.item<double>());
    optimizer.step();
    net->eval();
    {
      torch::NoGradGuard no_grad;
      for (int batch = 0; batch < 2; ++batch) tested.push_back(F::mse_loss(net->forward(X()), Y()).item<double>());
    }
    net->train();
  }
  probe.Detach();
  EXPECT_EQ(Values().size(), 1u);
  Expect(Values()[""], want);
  EXPECT_EQ(Values("test").size(), 1u);
  Expect(Values("test")[""], tested);
}

TEST_F(Losses, AnEvaluationWithGradientModeOnIsAnEvaluation) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Probe& probe = Start({"loss"});
  Also({"loss"}, "test");
  probe.Attach(net);
  std::vector<double> want, tested;
  for (int step = 0; step < 3; ++step) {
    net->eval();
    tested.push_back(F::mse_loss(net->forward(X()), Y()).item<double>());
    net->train();
    optimizer.zero_grad();
    const Tensor loss = F::mse_loss(net->forward(X()), Y());
    want.push_back(loss.item<double>());
    loss.backward();
    optimizer.step();
  }
  probe.Detach();
  Expect(Values()[""], want);
  Expect(Values("test")[""], tested);
}

// FixMatch: labels by a pass without gradients between the forward pass and its loss.
TEST_F(Losses, APassWithoutGradientsBetweenForwardAndLossIsApart) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Probe& probe = Start({"loss", "activations"});
  Also({"loss", "activations"}, "no_grad");
  probe.Attach(net);
  std::vector<double> want;
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    const Tensor out = net->forward(X());
    Tensor pseudo;
    {
      torch::NoGradGuard no_grad;
      pseudo = net->forward(X()).argmax(1);
    }
    const Tensor loss = F::cross_entropy(out, pseudo);
    want.push_back(loss.item<double>());
    loss.backward();
    optimizer.step();
  }
  probe.Detach();
  Expect(Values()[""], want);
  std::map<std::string, int> activations;
  for (const Kept& kept : Of("activations")) {
    ++activations[kept.message.tag];
    EXPECT_EQ(kept.message.call, 0);
  }
  EXPECT_EQ(activations["default"], 9);
  EXPECT_EQ(activations["no_grad"], 9);
}

class WithTeacher : public Losses, public ::testing::WithParamInterface<bool> {};

// A teacher that follows the student: its layers, its operators and what it gives are not the student's.
TEST_P(WithTeacher, TheLossIsTheStudents) {
  auto student = Net(), teacher = Net();
  torch::optim::SGD optimizer(student->parameters(), 0.05);
  Probe& probe = Start({"loss", "activations", "network_output"});
  probe.Attach(student, {.name = "student"});
  if (GetParam()) probe.Attach(teacher, {.name = "teacher"});
  std::vector<double> want;
  for (int step = 0; step < 4; ++step) {
    const Tensor x = X();
    optimizer.zero_grad();
    const Tensor out = student->forward(x);
    Tensor target;
    if (step % 2 == 0) {
      torch::NoGradGuard no_grad;
      target = teacher->forward(x);
    } else {
      target = teacher->forward(x).detach();
    }
    const Tensor loss = step < 2 ? F::mse_loss(out, target) : F::mse_loss(target, out);
    want.push_back(loss.item<double>());
    loss.backward();
    optimizer.step();
  }
  probe.Detach();
  Expect(Values()[""], want);
  std::map<std::string, int> activations;
  for (const Kept& kept : Of("activations")) ++activations[kept.message.root];
  EXPECT_EQ(activations["student"], 12);
  EXPECT_EQ(activations.size(), GetParam() && activations.count("teacher") != 0 ? 2u : 1u);
  for (const Kept& kept : Of("network_output")) EXPECT_EQ(kept.message.root, "student");
}
INSTANTIATE_TEST_SUITE_P(Attached, WithTeacher, ::testing::Bool());

// What an unattached network makes of our output is not our activation, but its loss is what we are trained by.
TEST_F(Losses, ThroughANetworkThatIsNotAttached) {
  for (const bool frozen : {false, true}) {
    kept_.clear();
    auto net = Net(), judge = torch::nn::Sequential(torch::nn::Linear(4, 6), torch::nn::ReLU(), torch::nn::Linear(6, 1));
    if (frozen) {
      for (auto& parameter : judge->parameters()) parameter.set_requires_grad(false);
    }
    torch::optim::SGD optimizer(net->parameters(), 0.05);
    Probe& probe = Start({"loss", "activations"});
    probe.Attach(net);
    std::vector<double> want;
    for (int step = 0; step < 3; ++step) {
      optimizer.zero_grad();
      const Tensor loss = F::binary_cross_entropy_with_logits(judge->forward(net->forward(X())), torch::ones({12, 1}));
      want.push_back(loss.item<double>());
      loss.backward();
      optimizer.step();
    }
    probe.Detach();
    Expect(Values()[""], want);
    std::set<std::string> names;
    for (const Kept& kept : Of("activations")) names.insert(kept.message.module);
    EXPECT_EQ(names, (std::set<std::string>{"0", "1", "2"})) << frozen;
    probe_.reset();
  }
}

TEST_F(Losses, OfTwoModelsInARowTheOneThatIsTrainedHasTheLoss) {
  auto generator = torch::nn::Sequential(torch::nn::Linear(4, 8));
  auto critic = torch::nn::Sequential(torch::nn::Linear(8, 1));
  torch::optim::SGD of_generator(generator->parameters(), 0.1), of_critic(critic->parameters(), 0.1);
  Probe& probe = Start({"loss"});
  probe.Attach(generator, {.name = "generator"});
  probe.Attach(critic, {.name = "critic"});
  const Tensor one = torch::ones({2, 1}), zero = torch::zeros({2, 1});
  std::vector<double> real, fake, fooled;
  for (int i = 0; i < 4; ++i) {
    of_critic.zero_grad();
    const Tensor a = F::binary_cross_entropy_with_logits(critic->forward(torch::randn({2, 8})), one);
    const Tensor b = F::binary_cross_entropy_with_logits(
        critic->forward(generator->forward(torch::randn({2, 4})).detach()), zero);
    real.push_back(a.item<double>());
    fake.push_back(b.item<double>());
    (a + b).backward();
    of_critic.step();
    of_generator.zero_grad();
    const Tensor c = F::binary_cross_entropy_with_logits(critic->forward(generator->forward(torch::randn({2, 4}))), one);
    fooled.push_back(c.item<double>());
    c.backward();
    of_generator.step();
  }
  probe.Detach();
  EXPECT_EQ(Values().size(), 3u);
  Expect(Values()["loss_binary_cross_entropy_with_logits"], real);
  Expect(Values()["loss_binary_cross_entropy_with_logits_2"], fake);
  Expect(Values()[""], fooled);
}

TEST_F(Losses, TheIgnoredLabelGoesWithTheLabels) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"input_labels"}).Attach(net);
  for (const int64_t ignored : {int64_t{-100}, int64_t{0}, int64_t{3}}) {
    optimizer.zero_grad();
    F::cross_entropy(net->forward(X()), K(), F::CrossEntropyFuncOptions().ignore_index(ignored)).backward();
    optimizer.step();
  }
  std::vector<std::string> names;
  for (const Kept& kept : Of("input_labels")) names.push_back(kept.message.param);
  EXPECT_EQ(names, (std::vector<std::string>{"", "ignore_index=0", "ignore_index=3"}));
}

TEST_F(Losses, LabelsThatAreNoClassesSaySo) {
  auto net = Net(1);
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"input_labels"}).Attach(net);
  for (const bool counts : {true, false}) {
    optimizer.zero_grad();
    const Tensor out = net->forward(X());
    if (counts)
      F::poisson_nll_loss(out, torch::randint(0, 3, {12, 1}), F::PoissonNLLLossFuncOptions()).backward();
    else
      F::multi_margin_loss(out, torch::zeros({12}, torch::kLong)).backward();
    optimizer.step();
  }
  std::vector<std::string> names;
  for (const Kept& kept : Of("input_labels")) names.push_back(kept.message.param);
  EXPECT_EQ(names, (std::vector<std::string>{"no_classes", ""}));
}

// The loss is over outputs of so many calls that a parameter lies far behind it.
TEST_F(Losses, OfACellThatIsUnrolledVeryLongIsFound) {
  torch::nn::GRUCell cell(8, 6);
  torch::nn::Sequential net(cell);
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss"}).Attach(net);
  std::vector<double> want;
  for (int step = 0; step < 2; ++step) {
    optimizer.zero_grad();
    Tensor state = torch::zeros({2, 6});
    std::vector<Tensor> states;
    for (int t = 0; t < 600; ++t) states.push_back(state = cell(torch::ones({2, 8}), state));
    const Tensor loss = F::mse_loss(torch::stack(states), torch::ones({600, 2, 6}));
    want.push_back(loss.item<double>());
    loss.backward();
    optimizer.step();
  }
  probe_->Detach();
  Expect(Values()[""], want);
}

// Residual blocks in evaluation: the sum has no history, and no entry in the table of operators.
TEST_F(Losses, WithoutGradientsOperatorsHandOnWhatTheyCameFrom) {
  struct Residual : torch::nn::Module {
    Residual() {
      a = register_module("a", torch::nn::Linear(8, 8));
      b = register_module("b", torch::nn::Linear(8, 4));
    }
    Tensor forward(const Tensor& x) { return b(torch::relu(a(x) + x)); }
    torch::nn::Linear a{nullptr}, b{nullptr};
  };
  auto net = std::make_shared<Residual>();
  auto other = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Probe& probe = Start({"loss"});
  Also({"activations", "loss"}, "test");
  probe.Attach(net);
  double tested = 0;
  for (int step = 0; step < 2; ++step) {
    optimizer.zero_grad();
    F::cross_entropy(net->forward(X()), K()).backward();
    optimizer.step();
  }
  {
    torch::NoGradGuard no_grad;
    net->eval();
    const Tensor out = net->forward(X());
    F::cross_entropy(other->forward(X()), K());  // of nobody
    tested = F::cross_entropy(out * 2, K()).item<double>();
    net->train();
  }
  probe.Detach();
  std::vector<std::string> names;
  for (const Kept& kept : Of("activations")) names.push_back(kept.message.module);
  EXPECT_EQ(names, (std::vector<std::string>{"a", "a > relu", "b"}));
  Expect(Values("test")[""], {tested});
}

TEST_F(Losses, AnImageOfTheLossThatComesLateIsNotTheNextSteps) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Probe& probe = Start({"loss"});
  probe.Attach(net);
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    const Tensor loss = net->forward(X()).pow(2).mean();
    loss.backward();
    optimizer.step();
    probe.Loss(loss);
  }
  EXPECT_TRUE(Values().empty());
}

// Two models with one encoder: whose a loss is shows at the layers that only one has.
TEST_F(Losses, OfModelsThatShareALayerEachHasItsOwn) {
  struct Headed : torch::nn::Module {
    explicit Headed(torch::nn::Linear shared) {
      encoder = register_module("encoder", std::move(shared));
      head = register_module("head", torch::nn::Linear(16, 4));
    }
    Tensor forward(const Tensor& x) { return head(torch::relu(encoder(x))); }
    torch::nn::Linear encoder{nullptr}, head{nullptr};
  };
  torch::nn::Linear shared(8, 16);
  auto first = std::make_shared<Headed>(shared), second = std::make_shared<Headed>(shared);
  torch::optim::SGD of_first(first->parameters(), 0.05), of_second(second->head->parameters(), 0.05);
  Probe& probe = Start({"loss"});
  probe.Attach(first);
  probe.Attach(second);
  std::map<std::string, std::vector<double>> want, got;
  for (int step = 0; step < 4; ++step) {
    for (auto* model : {&first, &second}) {
      auto& optimizer = model == &first ? of_first : of_second;
      first->zero_grad();
      second->zero_grad();
      const Tensor loss = F::mse_loss((*model)->forward(X()), Y());
      want[model == &first ? "model" : "model1"].push_back(loss.item<double>());
      loss.backward();
      optimizer.step();
    }
  }
  probe.Detach();
  for (const Kept& loss : Of("loss")) got[loss.message.root].push_back(loss.message.scalar);
  EXPECT_EQ(got, want);
}

}  // namespace
}  // namespace ikkuna
