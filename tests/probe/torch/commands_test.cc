// Commands: when the trainer heeds what a client asks, in steps that do not end.
#include "tests/probe/torch/notes_fixture.h"

namespace ikkuna {
namespace {

class Commands : public Notes, public ::testing::WithParamInterface<uint32_t> {
 protected:
  // Passes of one step until a stop has come.
  int PassesUntilStop(nn::Sequential& net) {
    daemon_.Drain();
    daemon_.Command(shm::CommandType::kStop);
    int passes = 0;
    for (; passes < 200 && !probe_->StopRequested(); ++passes) Mse(net->forward(X())).backward();
    return passes;
  }
};
INSTANTIATE_TEST_SUITE_P(Periods, Commands, ::testing::Values(1u, 7u, 100u));

TEST_P(Commands, AreHeededInAStepThatGoesOn) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), .05);
  probe_->Attach(net);
  Asks({Kind::kLoss}, GetParam());
  Train(net, optimizer, Mse, 20);
  EXPECT_LE(PassesUntilStop(net), 40);
  EXPECT_TRUE(probe_->StopRequested());
}

// Where writes are not seen, and nothing is due, no pass is heard: only that gradients come.
TEST_P(Commands, AreHeededInAnInferredStepThatGoesOn) {
  auto net = Net();
  probe_->Attach(net);
  Asks({Kind::kLoss}, GetParam());
  for (int step = 0; step < 20; ++step) {
    net->zero_grad();
    Mse(net->forward(X())).backward();
    for (const Tensor& parameter : net->parameters()) {
      auto* const values = parameter.data_ptr<float>();
      const auto* const gradient = parameter.grad().const_data_ptr<float>();
      for (int64_t i = 0; i < parameter.numel(); ++i) values[i] -= .05f * gradient[i];
    }
  }
  EXPECT_LE(PassesUntilStop(net), 40);
  EXPECT_TRUE(probe_->StopRequested());
}

}  // namespace
}  // namespace ikkuna
