// Freeze: what a daemon's command does to a model, under optimizers that hold on to gradients and with tied weights.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "probe/ikkuna/probe.hpp"
#include "tests/probe/core/daemon_by_hand.h"

namespace ikkuna {
namespace {

using shm::CommandType;

struct LayerImpl : torch::nn::Module {
  explicit LayerImpl(const torch::Tensor& given) {
    weight = register_parameter("weight", given);
    bias = register_parameter("bias", torch::zeros(8));
  }
  torch::Tensor forward(const torch::Tensor& x) { return torch::nn::functional::linear(x, weight, bias); }
  torch::Tensor weight, bias;
};
TORCH_MODULE(Layer);

struct Net : torch::nn::Module {
  explicit Net(bool tied) {
    first = register_module("first", Layer(torch::randn({8, 8}) / 8));
    second = register_module("second", Layer(tied ? first->weight : torch::randn({8, 8}) / 8));
  }
  torch::Tensor forward(const torch::Tensor& x) { return second(torch::relu(first(x))); }
  Layer first{nullptr}, second{nullptr};
};

class Freeze : public ::testing::Test {
 protected:
  void Start(bool tied = false) {
    torch::manual_seed(3);
    net_ = std::make_shared<Net>(tied);
    probe_ = std::make_unique<Probe>(
        ProbeOptions{.run = "freeze", .allow_control = true, .directory = daemon_.directory(), .quiet = true});
    probe_->Attach(net_);
    daemon_.Accept({});
    // The daemon is met by a thread of the probe: its first command is taken when that has been done.
    optimizer_ = std::make_unique<torch::optim::SGD>(Distinct(), torch::optim::SGDOptions(.1).momentum(.9));
    TrainUntilHeard(daemon_.Command(CommandType::kUnfreeze));
  }
  // The step at whose end the trainer heard of the command is the last. A thread of the probe may take it before.
  void TrainUntilHeard(uint64_t number) {
    do {
      Train();
    } while (daemon_.view().ReadStatus().status.command_done < number);
  }
  std::vector<torch::Tensor> Distinct() {
    std::vector<torch::Tensor> distinct;
    for (const torch::Tensor& one : net_->parameters()) {
      const auto same = [&](const torch::Tensor& other) { return other.is_same(one); };
      if (std::none_of(distinct.begin(), distinct.end(), same)) distinct.push_back(one);
    }
    return distinct;
  }
  void Train() {
    optimizer_->zero_grad(false);
    net_->forward(torch::randn({4, 8})).square().sum().backward();
    optimizer_->step();
  }
  uint32_t ModuleId(const std::string& name) {
    daemon_.ReadRegistry();
    for (const shm::RegistryEntry& entry : daemon_.registry()) {
      if (entry.type == shm::EntryType::kModule && entry.name == name) return entry.id;
    }
    ADD_FAILURE() << "no module " << name;
    return 0;
  }
  bool Noted(const std::string& text) {
    daemon_.ReadRegistry();
    for (const shm::RegistryEntry& entry : daemon_.registry()) {
      if (entry.type == shm::EntryType::kNote && entry.second.find(text) != std::string::npos) return true;
    }
    return false;
  }

  DaemonByHand daemon_;
  std::shared_ptr<Net> net_;
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
  std::unique_ptr<Probe> probe_;
};

// AdamW decays a weight, which ends the step for us, and then reads the gradient that it has looked up before.
TEST_F(Freeze, OptimizersThatHoldOnToAGradientGoOn) {
  Start();
  optimizer_ = std::make_unique<torch::optim::AdamW>(Distinct(), torch::optim::AdamWOptions(.01).weight_decay(.1));
  for (int i = 0; i < 3; ++i) Train();
  TrainUntilHeard(daemon_.Command(CommandType::kFreeze, 1, ModuleId("first")));
  const torch::Tensor weight = net_->first->weight.detach().clone(), bias = net_->first->bias.detach().clone();
  const torch::Tensor other = net_->second->weight.detach().clone();
  for (int i = 0; i < 5; ++i) Train();
  EXPECT_FALSE(net_->first->weight.requires_grad());
  EXPECT_TRUE(torch::equal(net_->first->weight, weight)) << "from the very next step on";
  EXPECT_TRUE(torch::equal(net_->first->bias, bias));
  EXPECT_FALSE(torch::equal(net_->second->weight, other));
  TrainUntilHeard(daemon_.Command(CommandType::kUnfreeze, 1, ModuleId("first")));
  for (int i = 0; i < 3; ++i) Train();
  EXPECT_FALSE(torch::equal(net_->first->weight, weight));
  EXPECT_TRUE(probe_->active());
}

// Two forward passes, then their backward passes: the graph of the second is older than the freeze, and LibTorch leaves
// alone what does not require a gradient any more.
TEST_F(Freeze, AGraphThatIsOlderGivesNoGradient) {
  Start();
  TrainUntilHeard(daemon_.Command(CommandType::kFreeze, 1, ModuleId("first")));
  const torch::Tensor weight = net_->first->weight.detach().clone();
  for (int i = 0; i < 3; ++i) {
    optimizer_->zero_grad(false);
    const torch::Tensor one = net_->forward(torch::randn({4, 8})).square().sum();
    const torch::Tensor two = net_->forward(torch::randn({4, 8})).square().sum();
    one.backward();
    two.backward();
    optimizer_->step();
  }
  EXPECT_FALSE(net_->first->weight.grad().defined());
  EXPECT_TRUE(torch::equal(net_->first->weight, weight));
}

TEST_F(Freeze, TiedWeightsAreOneAndTheLastThatTrainsIsKept) {
  Start(true);
  for (torch::Tensor& bias : std::vector<torch::Tensor>{net_->first->bias, net_->second->bias})
    bias.set_requires_grad(false);
  TrainUntilHeard(daemon_.Command(CommandType::kFreeze, 1, ModuleId("second")));
  for (int i = 0; i < 3; ++i) Train();  // throws where nothing is left to train
  EXPECT_TRUE(net_->first->weight.requires_grad());
  EXPECT_TRUE(Noted("nothing left to train"));

  net_->first->bias.set_requires_grad(true);
  TrainUntilHeard(daemon_.Command(CommandType::kFreeze, 1, ModuleId("second")));
  for (int i = 0; i < 3; ++i) Train();
  EXPECT_FALSE(net_->first->weight.requires_grad());
  EXPECT_TRUE(Noted("leaves as it was: second.bias, which did not train")) << "both names of the weight were frozen";
  TrainUntilHeard(daemon_.Command(CommandType::kUnfreeze, 1, ModuleId("first")));
  for (int i = 0; i < 3; ++i) Train();
  EXPECT_TRUE(net_->first->weight.requires_grad());
  EXPECT_TRUE(probe_->active());
}

TEST_F(Freeze, ActsAtTheStepThatWasAgreedOnOrNotAtAll) {
  Start();
  const uint64_t made = daemon_.view().ReadStatus().status.roots[0].step;
  const uint64_t late = daemon_.Command(CommandType::kFreeze, 1, ModuleId("first"), 0, made);  // of the step before
  TrainUntilHeard(late);
  Train();
  EXPECT_TRUE(net_->first->weight.requires_grad());
  EXPECT_EQ(daemon_.view().ReadStatus().status.command_late, late);
  const uint64_t now = daemon_.view().ReadStatus().status.roots[0].step;
  daemon_.Command(CommandType::kStop, 1, 0, 0, now + 3 + 1);
  Train();
  Train();
  EXPECT_FALSE(probe_->StopRequested());
  Train();
  EXPECT_TRUE(probe_->StopRequested()) << "three steps are finished: the one agreed on would begin";
  EXPECT_EQ(daemon_.view().ReadStatus().status.command_late, late);
}

}  // namespace
}  // namespace ikkuna
