// The end of the process: a probe that is a static object, and one that nobody destroys, with a model attached and
// steps open. Each trainer is this program once more, by exec: LibTorch's threads do not survive a fork.
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "probe/ikkuna/probe.hpp"
#include "tests/probe/core/child.h"
#include "tests/probe/core/daemon_by_hand.h"

namespace ikkuna {
namespace {

constexpr char kDirectory[] = "IKKUNA_TESTS_EXIT_DIR";  // set for the trainer
constexpr uint64_t kSteps = 20;

enum class Life { kStatic, kNeverDestroyed };
enum class Threads { kMain, kSecondBeside, kSecondAlone };

void Train(torch::nn::Sequential net, uint64_t steps) {
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(.05).momentum(.9));
  for (uint64_t step = 0; step < steps; ++step) {
    optimizer.zero_grad();
    net->forward(torch::randn({4, 8})).square().sum().backward();
    optimizer.step();
  }
}

void BeTrainer(const std::string& directory, Life life, Threads threads) {
  const ProbeOptions options{.run = "exit", .budget = 0, .directory = directory, .quiet = true};
  Probe* probe = nullptr;
  if (life == Life::kStatic) {
    static Probe of_process(options);
    probe = &of_process;
  } else {
    probe = new Probe(options);
  }
  torch::nn::Sequential net(torch::nn::Linear(8, 16), torch::nn::ReLU(), torch::nn::Linear(16, 4));
  auto optimizer = std::make_shared<torch::optim::SGD>(net->parameters(), .05);
  probe->Attach(net);
  probe->Attach(*optimizer);
  probe->Subscribe({"loss", "weights"}, [](const ProbeMessage&) {});
  if (threads != Threads::kSecondAlone) Train(net, threads == Threads::kMain ? kSteps : kSteps / 2);
  if (threads != Threads::kMain) {
    std::thread([&] { Train(net, threads == Threads::kSecondAlone ? kSteps : kSteps / 2); }).join();
  }
  // A pass is open, and so is an evaluation; main returns.
  net->forward(torch::randn({4, 8}));
  net->eval();
  torch::NoGradGuard no_grad;
  net->forward(torch::randn({4, 8}));
}

class Exit : public ::testing::TestWithParam<std::tuple<Life, Threads>> {};
INSTANTIATE_TEST_SUITE_P(Ways, Exit,
                         ::testing::Combine(::testing::Values(Life::kStatic, Life::kNeverDestroyed),
                                            ::testing::Values(Threads::kMain, Threads::kSecondBeside,
                                                              Threads::kSecondAlone)));

TEST_P(Exit, TheProcessEndsWithZeroAndTheDaemonSeesItFinished) {
  const auto [life, threads] = GetParam();
  if (const char* directory = ::getenv(kDirectory)) return BeTrainer(directory, life, threads);

  DaemonByHand daemon;
  const auto* const info = ::testing::UnitTest::GetInstance()->current_test_info();
  const std::string filter = std::string("--gtest_filter=") + info->test_suite_name() + "." + info->name();
  std::vector<std::string> environment{std::string(kDirectory) + "=" + daemon.directory(), "IKKUNA_WAIT_MS=120000"};
  for (char** variable = environ; *variable != nullptr; ++variable) {
    // It is of no shard.
    if (!std::string_view(*variable).starts_with("GTEST_")) environment.emplace_back(*variable);
  }
  std::vector<char*> variables;
  for (std::string& variable : environment) variables.push_back(variable.data());
  variables.push_back(nullptr);
  Child child([&]() -> int {
    ::dup2(2, 1);
    ::execle("/proc/self/exe", "trainer", filter.c_str(), nullptr, variables.data());
    return 127;
  });
  daemon.Accept({Ask(KindBit(Kind::kWeightUpdates) | KindBit(Kind::kActivations), Level::kSummary)});
  ASSERT_FALSE(HasFatalFailure()) << child.End() << child.said();
  const int status = child.End();
  EXPECT_TRUE(WIFEXITED(status)) << WTERMSIG(status) << "\n" << child.said();
  EXPECT_EQ(WEXITSTATUS(status), 0) << child.said();
  EXPECT_EQ(child.said().find("ikkuna: "), std::string::npos) << child.said();
  const shm::PubStatus last = daemon.view().ReadStatus().status;
  EXPECT_EQ(static_cast<shm::ProducerState>(last.state), shm::ProducerState::kFinished);
  EXPECT_EQ(last.roots[0].step, kSteps);
  uint64_t finished = 0;
  for (const auto& got : daemon.Drain()) {
    finished += got.record.kind == static_cast<uint8_t>(Kind::kBatchFinished) && got.record.tag == kTagDefault;
  }
  // Its own destructor closes the last step; of one that nobody destroys that stays open.
  EXPECT_GE(finished, life == Life::kStatic ? kSteps : kSteps - 1);
}

}  // namespace
}  // namespace ikkuna
