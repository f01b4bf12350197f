// Doze: steps of which nothing is wanted. The write that ends one goes unheard; it shows by a parameter that has moved
// when the next backward pass begins. Numbers and values have to be those of a loop that is heard.
#include <chrono>
#include <map>
#include <random>
#include <thread>

#include "tests/probe/core/daemon_by_hand.h"
#include "tests/probe/torch/capture_fixture.h"

namespace ikkuna {
namespace {

class Doze : public Capture {
 protected:
  // Behind backward: whether the optimizer's write is heard.
  static bool Heard() { return at::hasCallbacks(); }

  torch::nn::Sequential net_{torch::nn::Linear(4, 3), torch::nn::Tanh(), torch::nn::Linear(3, 2)};
  Tensor x_ = torch::randn({5, 4});
  Tensor y_ = torch::randint(2, {5}, torch::kLong);
};

// What a loop of plain steps, micro-batches, skipped steps, evaluations and things that are said has at each period's
// step is what it has at that step by hand.
TEST_F(Doze, RandomLoopsKeepTheirNumbers) {
  for (uint32_t seed = 0; seed < 4; ++seed) {
    std::mt19937 random(seed);
    const auto chance = [&](int one_in) { return random() % static_cast<uint32_t>(one_in) == 0; };
    torch::nn::Sequential net(torch::nn::Linear(4, 3), torch::nn::Tanh(), torch::nn::Linear(3, 2));
    const auto weight = net->parameters()[0];
    std::unique_ptr<torch::optim::Optimizer> optimizer;
    if (seed % 2 == 0) {
      optimizer = std::make_unique<torch::optim::SGD>(net->parameters(), torch::optim::SGDOptions(0.01).momentum(0.9));
    } else {
      optimizer = std::make_unique<torch::optim::AdamW>(net->parameters());
    }
    kept_.clear();
    Probe& probe = Start({"weight_gradients", "weight_updates", "loss"}, "default", 7 + 6 * seed);
    probe.Attach(net);
    std::map<uint64_t, Tensor> gradients, updates;
    std::map<uint64_t, std::vector<double>> losses;  // of each micro-batch
    size_t unheard = 0;
    for (uint64_t step = 0; step < 800; ++step) {
      const bool skipped = chance(300);
      const int batches = step % 300 > 200 ? 1 + static_cast<int>(random() % 3) : 1;
      std::vector<double> each;
      if (chance(2)) optimizer->zero_grad(chance(2));
      for (int batch = 0; batch < batches; ++batch) {
        if (batch == 0) optimizer->zero_grad(chance(2));
        const Tensor loss = F::cross_entropy(net->forward(torch::randn({5, 4})), y_);
        loss.backward();
        each.push_back(loss.item<double>());
        unheard += Heard() ? 0 : 1;
      }
      const Tensor before = weight.detach().clone();
      if (!skipped) {
        gradients[step] = weight.grad().clone();
        optimizer->step();
        updates[step] = weight.detach() - before;
        losses[step] = each;
      }
      if (chance(50)) {
        torch::NoGradGuard no_grad;
        net->eval();
        net->forward(x_);
        net->train();
      }
      if (chance(60)) probe.Epoch(static_cast<uint32_t>(step));
      if (chance(60)) probe.Log("said", 1.0);
      if (chance(30)) probe.Samples(5);
    }
    probe_.reset();
    EXPECT_GT(unheard, 100u) << "seed " << seed;
    size_t compared = 0;
    for (const auto& [kind, expected] : {std::pair{"weight_gradients", &gradients}, std::pair{"weight_updates", &updates}}) {
      for (const Kept& kept : Of(kind, "0")) {
        const auto by_hand = expected->find(kept.message.global_step);
        if (by_hand == expected->end()) continue;  // a skipped step's
        EXPECT_TRUE(torch::equal(kept.tensor, by_hand->second))
            << kind << " of step " << kept.message.global_step << ", seed " << seed;
        EXPECT_EQ(kept.message.flags, 0) << kind << " of step " << kept.message.global_step << ", seed " << seed;
        ++compared;
      }
    }
    std::map<uint64_t, std::vector<double>> told;
    for (const Kept& kept : Of("loss")) told[kept.message.global_step].push_back(kept.message.scalar);
    for (const auto& [step, each] : told) {
      if (losses.count(step) == 0) continue;  // a skipped step's
      EXPECT_EQ(each, losses[step]) << "loss of step " << step << ", seed " << seed;
    }
    EXPECT_GT(compared, 2 * (800 / (7 + 6 * seed)) - 20) << "seed " << seed;
  }
}

class DozeBesideADaemon : public Doze {
 protected:
  void Begin() {
    probe_ = std::make_unique<Probe>(
        ProbeOptions{.run = "doze", .allow_control = true, .budget = 0, .directory = daemon_.directory(), .quiet = true});
    probe_->Attach(net_);
    shm::DemandItem rarely = Ask(KindBit(Kind::kWeightGradients), Level::kSummary);
    rarely.period = 1 << 20;
    daemon_.Accept({rarely});
    for (int step = 0; step < 200; ++step) Step();
    ASSERT_FALSE(Unheard());
  }
  void Step() { Train(net_, optimizer_, x_, y_); }
  bool Unheard() {  // a step
    optimizer_.zero_grad();
    F::cross_entropy(net_->forward(x_), y_).backward();
    const bool heard = Heard();
    optimizer_.step();
    return heard;
  }
  uint64_t Steps() { return daemon_.view().ReadStatus().status.roots[0].step; }

  DaemonByHand daemon_;
  torch::optim::SGD optimizer_{net_->parameters(), 0.001};
};

TEST_F(DozeBesideADaemon, NoOperatorIsHeardAndEachStepCounts) {
  Begin();
  EXPECT_EQ(Steps(), 200u);  // the 201st is not known to be over
  for (int step = 0; step < 50; ++step) EXPECT_FALSE(Unheard());
  EXPECT_EQ(Steps(), 250u);
  probe_->Log("said", 1.0);
  EXPECT_EQ(Steps(), 251u);
  probe_.reset();
  EXPECT_EQ(Steps(), 251u);
}

TEST_F(DozeBesideADaemon, TheLastStepOfALoopThatPausesCounts) {
  Begin();
  for (int tries = 0; tries < 100 && Steps() != 201; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    torch::zeros({1});
  }
  EXPECT_EQ(Steps(), 201u);
}

TEST_F(DozeBesideADaemon, TheLastStepCountsWhenTheProbeEnds) {
  Begin();
  probe_.reset();
  EXPECT_EQ(Steps(), 201u);
}

TEST_F(DozeBesideADaemon, WhatIsSubscribedWakes) {
  Begin();
  std::vector<uint64_t> steps;
  probe_->Subscribe({"weight_updates"}, [&](const ProbeMessage& message) {
    if (message.module == "0") steps.push_back(message.global_step);
  });
  for (int step = 0; step < 6; ++step) Step();
  probe_.reset();
  ASSERT_GE(steps.size(), 3u);
  for (size_t i = 1; i < steps.size(); ++i) EXPECT_EQ(steps[i], steps[i - 1] + 1);
}

// A commanded step has to be seen when it is written.
TEST_F(DozeBesideADaemon, ACommandThatWaitsWakes) {
  Begin();
  daemon_.Command(shm::CommandType::kStop, kAnyRoot, 0, 0, 231);
  for (int step = 201; step < 229; ++step) Step();
  EXPECT_FALSE(probe_->StopRequested());
  Step();
  EXPECT_TRUE(probe_->StopRequested()) << "step 229 is written, 230 comes next: " << Steps();
}

// A second model, and one thread more, may write what ends whose step.
TEST_F(DozeBesideADaemon, AModelMoreWakes) {
  Begin();
  torch::nn::Sequential other(torch::nn::Linear(4, 2));
  probe_->Attach(other);
  EXPECT_EQ(Steps(), 201u);
  EXPECT_TRUE(Unheard());
}

TEST_F(DozeBesideADaemon, WritesThatNobodyHearsCount) {
  Begin();
  for (int step = 0; step < 40; ++step) {
    optimizer_.zero_grad();
    F::cross_entropy(net_->forward(x_), y_).backward();
    for (const Tensor& parameter : net_->parameters()) {
      float* const data = parameter.data_ptr<float>();
      const float* const gradient = parameter.grad().data_ptr<float>();
      for (int64_t i = 0; i < parameter.numel(); ++i) data[i] -= 0.01f * gradient[i];
    }
  }
  probe_->Log("said", 1.0);
  EXPECT_GE(Steps(), 240u);
}

}  // namespace
}  // namespace ikkuna
