// Optimizers: those that are destroyed, moved, superseded, loaded or grow while they are watched.
#include <map>
#include <sstream>

#include "tests/probe/torch/capture_fixture.h"

namespace ikkuna {
namespace {

class OptimizersOf : public Capture {
 protected:
  using Net = torch::nn::Sequential;
  static Net Model() { return Net(torch::nn::Linear(8, 6), torch::nn::ReLU(), torch::nn::Linear(6, 3)); }
  void Train(Net& net, torch::optim::Optimizer& optimizer, int steps = 1) {
    for (int i = 0; i < steps; ++i) {
      Capture::Train(net, optimizer, torch::randn({4, 8}), torch::randint(3, {4}));
    }
  }
  // Of each step, by group.
  std::map<std::string, std::map<uint64_t, double>> Rates() const {
    std::map<std::string, std::map<uint64_t, double>> rates;
    for (const Kept& kept : Of("learning_rate")) {
      rates[kept.message.param][kept.message.global_step] = kept.message.scalar;
    }
    return rates;
  }
};

TEST_F(OptimizersOf, OneThatIsDestroyedIsNotReadAnyMore) {
  auto net = Model();
  auto optimizer = std::make_unique<torch::optim::Adam>(net->parameters(), torch::optim::AdamOptions(.1));
  Probe& probe = Start({"learning_rate", "exp_avg"});
  probe.Attach(net);
  probe.Attach(*optimizer);
  Train(net, *optimizer, 3);
  optimizer.reset();
  std::vector<std::string> junk;
  for (int i = 0; i < 2000; ++i) junk.emplace_back(16 + i % 500, '\xff');
  optimizer = std::make_unique<torch::optim::Adam>(net->parameters(), torch::optim::AdamOptions(.01));
  Train(net, *optimizer, 3);
  EXPECT_EQ(Rates()["group0"], (std::map<uint64_t, double>{{0, .1}, {1, .1}, {2, .1}}));
  EXPECT_EQ(Of("exp_avg").size(), 3 * 4u);
  probe.Attach(*optimizer);
  Train(net, *optimizer, 2);
  probe.Detach();
  EXPECT_EQ(Rates()["group0"][7], .01);
  EXPECT_EQ(Rates()["group0"].size(), 5u);
  EXPECT_EQ(Of("exp_avg").size(), 6 * 4u) << "also of the step that was open when it was attached, which was its own";
}

TEST_F(OptimizersOf, OneOnTheStackThatEndsWithItsScope) {
  auto net = Model();
  Probe& probe = Start({"learning_rate", "exp_avg"});
  probe.Attach(net);
  for (int fold = 0; fold < 4; ++fold) {
    torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.5 + fold).momentum(0.9));
    probe.Attach(optimizer);
    Train(net, optimizer, 2);
  }
  const auto rates = Rates()["group0"];
  ASSERT_EQ(rates.size(), 8u);
  for (const auto& [step, rate] : rates) EXPECT_EQ(rate, 0.5 + static_cast<double>(step / 2));
}

TEST_F(OptimizersOf, OneThatMovesKeepsItsRatesWhileItsGroupsStay) {
  auto net = Model();
  auto first = std::make_unique<torch::optim::SGD>(net->parameters(), 0.5);
  Probe& probe = Start({"learning_rate", "exp_avg"});
  probe.Attach(net);
  probe.Attach(*first);
  Train(net, *first);
  torch::optim::SGD second = std::move(*first);
  first.reset();
  second.param_groups()[0].options().set_lr(0.25);
  Train(net, second, 2);
  EXPECT_EQ(Rates()["group0"][1], 0.25) << "its options have moved with it";
  std::vector<torch::optim::SGD> many;
  many.push_back(std::move(second));
  for (int i = 0; i < 10; ++i) many.emplace_back(Model()->parameters(), 0.1);
  Train(net, many[0], 2);
  many.clear();
  torch::optim::SGD last(net->parameters(), 0.125);
  Train(net, last, 2);
  EXPECT_EQ(Rates()["group0"].count(6), 0u);
}

TEST_F(OptimizersOf, OneThatLivesOnWhileAnotherStepsEnds) {
  auto net = Model();
  torch::optim::Adam first(net->parameters(), torch::optim::AdamOptions(.1));
  torch::optim::AdamW second(net->parameters(), torch::optim::AdamWOptions(.01));
  Probe& probe = Start({"learning_rate"});
  probe.Attach(net);
  probe.Attach(first);
  Train(net, first, 4);
  Train(net, second, 4);
  const auto rates = Rates()["group0"];
  EXPECT_EQ(rates.size(), 4u) << "not the rate of one that does not step";
}

TEST_F(OptimizersOf, TwoThatTrainDifferentParametersHaveRatesOfTheirOwn) {
  torch::nn::Linear body(8, 6), head(6, 3);
  Net net(body, torch::nn::ReLU(), head);
  torch::optim::SGD first(body->parameters(), 0.5);
  torch::optim::Adam second(head->parameters(), torch::optim::AdamOptions(.01));
  Probe& probe = Start({"learning_rate"});
  probe.Attach(net);
  probe.Attach(first);
  probe.Attach(second);
  for (int step = 0; step < 3; ++step) {
    first.param_groups()[0].options().set_lr(.5 / (step + 1));
    first.zero_grad();
    second.zero_grad();
    F::cross_entropy(net->forward(torch::randn({4, 8})), torch::randint(3, {4})).backward();
    first.step();
    second.step();
  }
  probe.Detach();
  EXPECT_EQ(Rates()["group0"], (std::map<uint64_t, double>{{0, .5}, {1, .25}, {2, .5 / 3}}));
  EXPECT_EQ(Rates()["group1"], (std::map<uint64_t, double>{{0, .01}, {1, .01}, {2, .01}}));
}

TEST_F(OptimizersOf, AGroupThatIsAddedBringsItsRate) {
  torch::nn::Linear body(8, 6), head(6, 3);
  Net net(body, torch::nn::ReLU(), head);
  for (auto& parameter : body->parameters()) parameter.set_requires_grad(false);
  torch::optim::Adam optimizer(head->parameters(), torch::optim::AdamOptions(.01));
  Probe& probe = Start({"learning_rate", "exp_avg"});
  probe.Attach(net);
  probe.Attach(optimizer);
  Train(net, optimizer, 3);
  for (auto& parameter : body->parameters()) parameter.set_requires_grad(true);
  optimizer.add_param_group(torch::optim::OptimizerParamGroup(
      body->parameters(), std::make_unique<torch::optim::AdamOptions>(.001)));
  Train(net, optimizer, 3);
  optimizer.param_groups()[1].options().set_lr(.002);
  Train(net, optimizer, 1);
  probe.Detach();
  EXPECT_EQ(Rates()["group0"].size(), 7u);
  EXPECT_EQ(Rates()["group1"], (std::map<uint64_t, double>{{3, .001}, {4, .001}, {5, .001}, {6, .002}}));
  EXPECT_EQ(Of("exp_avg", "0").size(), 4 * 2u);
}

// Gradual unfreezing, where the body has had gradients all along.
TEST_F(OptimizersOf, AGroupThatIsAddedLateBringsItsRateAtOnce) {
  torch::nn::Linear body(8, 6), head(6, 3);
  Net net(body, torch::nn::ReLU(), head);
  torch::optim::Adam optimizer(head->parameters(), torch::optim::AdamOptions(.01));
  Probe& probe = Start({"learning_rate", "exp_avg"});
  probe.Attach(net);
  probe.Attach(optimizer);
  Train(net, optimizer, 20);
  optimizer.add_param_group(torch::optim::OptimizerParamGroup(
      body->parameters(), std::make_unique<torch::optim::AdamOptions>(.001)));
  Train(net, optimizer, 2);
  probe.Detach();
  EXPECT_EQ(Rates()["group1"], (std::map<uint64_t, double>{{20, .001}, {21, .001}}));
  EXPECT_EQ(Of("exp_avg", "0").size(), 2 * 2u);
}

TEST_F(OptimizersOf, OptionsThatAreReplacedAreReadAnew) {
  auto net = Model();
  torch::optim::RMSprop optimizer(net->parameters(), torch::optim::RMSpropOptions(.1));
  Probe& probe = Start({"learning_rate"});
  probe.Attach(net);
  probe.Attach(optimizer);
  Train(net, optimizer);
  optimizer.param_groups()[0].set_options(std::make_unique<torch::optim::RMSpropOptions>(.2));
  Train(net, optimizer);
  optimizer.param_groups().clear();
  Train(net, optimizer);
  EXPECT_EQ(Rates()["group0"], (std::map<uint64_t, double>{{0, .1}, {1, .2}}));
}

// What the trainer holds of its options, and what it saves, is as without us.
TEST_F(OptimizersOf, OptionsStayWhereTheyAreAndAreSavedAsEver) {
  auto net = Model();
  torch::optim::Adam optimizer(net->parameters(), torch::optim::AdamOptions(.1).betas({.8, .9}));
  auto& options = static_cast<torch::optim::AdamOptions&>(optimizer.param_groups()[0].options());
  Probe& probe = Start({"learning_rate", "exp_avg_sq"});
  probe.Attach(net);
  probe.Attach(optimizer);
  probe.Attach(optimizer);
  Train(net, optimizer);
  options.lr(.3);
  EXPECT_EQ(optimizer.param_groups()[0].options().get_lr(), .3);
  EXPECT_EQ(options.betas(), std::make_tuple(.8, .9));
  EXPECT_NE(dynamic_cast<torch::optim::AdamOptions*>(&optimizer.param_groups()[0].options()), nullptr);
  std::stringstream file;
  torch::save(optimizer, file);
  torch::optim::Adam loaded(net->parameters(), torch::optim::AdamOptions(.7));
  torch::load(loaded, file);
  EXPECT_EQ(loaded.param_groups()[0].options().get_lr(), .3);
  Train(net, optimizer);
  file.clear();
  file.seekg(0);
  torch::load(optimizer, file);
  Train(net, optimizer);
  probe.Detach();
  EXPECT_EQ(Rates()["group0"], (std::map<uint64_t, double>{{0, .1}, {1, .3}, {2, .3}}));
  EXPECT_EQ(Of("exp_avg_sq").size(), 3 * 4u);
}

struct OwnOptions : torch::optim::OptimizerCloneableOptions<OwnOptions> {
  explicit OwnOptions(double lr) : lr(lr) {}
  double get_lr() const override { return lr; }
  double lr;
};
class OwnOptimizer : public torch::optim::Optimizer {
 public:
  OwnOptimizer(std::vector<Tensor> parameters, double lr)
      : Optimizer(std::move(parameters), std::make_unique<OwnOptions>(lr)) {}
  Tensor step(LossClosure = nullptr) override {
    torch::NoGradGuard no_grad;
    for (auto& group : param_groups()) {
      for (auto& p : group.params()) {
        if (p.grad().defined()) p.add_(p.grad(), -group.options().get_lr());
      }
    }
    return {};
  }
};

TEST_F(OptimizersOf, OneOfAClassOfItsOwnIsReadThroughItsSharedPointer) {
  auto net = Model();
  Probe& probe = Start({"learning_rate"});
  probe.Attach(net);
  {
    OwnOptimizer by_reference(net->parameters(), 0.5);
    probe.Attach(by_reference);
    Train(net, by_reference);
  }
  auto shared = std::make_shared<OwnOptimizer>(net->parameters(), 0.25);
  probe.Attach(shared);
  Train(net, *shared);
  EXPECT_EQ(shared.use_count(), 1);
  shared.reset();
  torch::optim::SGD other(net->parameters(), 0.1);
  Train(net, other);
  EXPECT_EQ(Rates()["group0"], (std::map<uint64_t, double>{{1, 0.25}}));
}

}  // namespace
}  // namespace ikkuna
