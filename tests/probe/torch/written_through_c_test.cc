// One tracker for every front end: each loop is run twice, once watched by the LibTorch front end and once by a front
// end that knows the C interface alone and is told by hand what there is to see. What a daemon gets of each step is the
// same, bit by bit: its flags, what it lacks, and every array and loss of the passes that it names.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "probe/ikkuna/probe.hpp"
#include "shared/passes.h"
#include "tests/probe/core/daemon_by_hand.h"
#include "tests/probe/torch/front_end_by_hand.h"

namespace ikkuna::through_c {
namespace {

constexpr uint64_t kKinds = KindBit(Kind::kWeights) | KindBit(Kind::kBiases) | KindBit(Kind::kWeightGradients) |
                            KindBit(Kind::kBiasGradients) | KindBit(Kind::kWeightUpdates) |
                            KindBit(Kind::kBiasUpdates) | KindBit(Kind::kActivations) | KindBit(Kind::kLayerGradients) |
                            KindBit(Kind::kLoss);

constexpr const char* kMissing = "a pass that is missing";
constexpr int kSteps = 20;

using torch::optim::SGD;
using torch::optim::SGDOptions;

// A loop's side of it: what it does, and what of that is told by hand where no LibTorch front end watches.
class Watched {
 public:
  Watched(bool by_hand, uint32_t period) {
    torch::manual_seed(5);
    ::setenv("IKKUNA_DIR", daemon_.directory().c_str(), 1);
    ::setenv("IKKUNA_WAIT_MS", "120000", 1);
    ::setenv("IKKUNA_ARENA_MB", "4", 1);
    if (by_hand) {
      ikkuna_options options{};
      options.size = sizeof options;
      options.quiet = 1;
      options.budget = -1;
      session_ = ikkuna_open(&options);
      hand_ = std::make_unique<Hand>(session_);
    } else {
      probe_ = std::make_unique<Probe>(ProbeOptions{.run = "loop", .quiet = true});
    }
    shm::DemandItem item = Ask(kKinds | KindBit(Kind::kPassStarted) | KindBit(Kind::kPassesNamed), Level::kTensor);
    item.period = period;
    daemon_.Accept({item});
    x = torch::randn({4, 6});
    y = torch::randn({4, 3});
  }
  ~Watched() {
    End();
    ::unsetenv("IKKUNA_DIR");
    ::unsetenv("IKKUNA_WAIT_MS");
    ::unsetenv("IKKUNA_ARENA_MB");
  }
  void End() {
    if (hand_) hand_->End();
    hand_.reset();
    ikkuna_close(std::exchange(session_, nullptr));
    if (probe_) probe_->Detach();
    Read();
    probe_.reset();
  }
  std::shared_ptr<Net> Attach(bool manual = false) {
    auto net = std::make_shared<Net>();
    if (hand_) hand_->Attach(*net, manual);
    if (probe_) probe_->Attach(*net, AttachOptions{.manual_steps = manual});
    return net;
  }
  torch::Tensor Loss(Net& net) {
    const auto pass = hand_ ? hand_->Forward(net) : nullptr;
    const torch::Tensor hidden = net.fc1->forward(x);
    if (hand_) hand_->Layer(pass, 0, hidden);
    const torch::Tensor output = net.fc2->forward(torch::tanh(hidden));
    if (hand_) hand_->Layer(pass, 1, output);
    const torch::Tensor loss = torch::nn::functional::mse_loss(output, y);
    if (hand_) hand_->Loss(pass, loss);
    return loss;
  }
  void Backward(const torch::Tensor& loss, bool retain = false) {
    loss.backward({}, retain);
    if (hand_) hand_->BackwardEnded();
  }
  void ZeroGrad(Net& net) {
    net.zero_grad();
    if (hand_) hand_->Cleared(net);
  }
  void Step(Net& net, torch::optim::Optimizer& optimizer) {
    if (hand_) hand_->Write(net);
    optimizer.step();
  }
  // A write that nobody sees.
  void Unseen(Net& net) {
    for (auto& parameter : net.parameters()) {
      auto* values = parameter.data_ptr<float>();
      const auto* gradients = parameter.grad().data_ptr<float>();
      for (int64_t i = 0; i < parameter.numel(); ++i) values[i] -= .1f * gradients[i];
    }
  }
  void Boundary(Net& net) {
    if (hand_) hand_->Boundary(net);
    if (probe_) probe_->Step(net);
  }
  void Evaluate(Net& net) {
    net.eval();
    {
      torch::NoGradGuard no_grad;
      if (hand_) hand_->Evaluation(net);
      static_cast<void>(net.fc2->forward(torch::tanh(net.fc1->forward(x))));
    }
    net.train();
  }
  void OnThread(const std::function<void()>& body) {
    std::thread([&] {
      body();
      if (hand_) hand_->ThreadEnds();
    }).join();
  }
  void Read() {
    std::lock_guard lock(mutex_);
    for (auto& got : daemon_.Drain()) got_.push_back(std::move(got));
  }

  // What is told of each step that ended, as lines.
  std::map<std::string, std::vector<std::string>> Steps() {
    std::map<std::pair<int, uint32_t>, std::vector<std::string>> passes;
    std::map<std::pair<int, uint64_t>, std::vector<std::string>> own;
    std::map<std::string, std::vector<std::string>> steps;
    std::map<uint32_t, std::string> modules, params;
    for (const auto& entry : daemon_.registry()) {
      if (entry.type == shm::EntryType::kModule) modules[entry.id] = entry.name;
      if (entry.type == shm::EntryType::kParam) params[entry.id] = entry.name;
    }
    for (const auto& [record, payload] : got_) {
      const auto kind = static_cast<Kind>(record.kind);
      if (record.tag != kTagDefault) continue;
      std::ostringstream line;
      line << KindName(kind) << " " << modules[record.module] << "." << params[record.param] << " flags "
           << record.flags;
      if (kind == Kind::kLoss) line << " " << std::hexfloat << record.scalar;
      for (const unsigned char byte : payload) line << " " << static_cast<int>(byte);
      // Modules without parameters are the LibTorch front end's own finding.
      const bool functional = (kind == Kind::kActivations || kind == Kind::kLayerGradients) &&
                              modules[record.module] != "fc1" && modules[record.module] != "fc2";
      const bool marker = record.type == static_cast<uint8_t>(RecordType::kMarker);
      if (kind == Kind::kPassStarted) passes[{record.root, record.pass}].push_back("started");
      if (!marker && !functional && record.pass != 0) passes[{record.root, record.pass}].push_back(line.str());
      if (!marker && record.pass == 0) own[{record.root, record.global_step}].push_back(line.str());
      if (kind != Kind::kPassesNamed && kind != Kind::kBatchFinished) continue;
      auto& step = steps[std::to_string(record.root) + ":" + std::to_string(record.global_step)];
      for (uint32_t i = 0; i < shm::kPassesInMarker; ++i) {
        if ((record.marker.named[i / 64] >> (i % 64) & 1) == 0) continue;
        const auto& named = passes[{record.root, record.marker.first_pass + i}];
        if (named.empty()) step.push_back(kMissing);
        step.insert(step.end(), named.begin(), named.end());
      }
      if (kind != Kind::kBatchFinished) continue;
      const auto& mine = own[{record.root, record.global_step}];
      step.insert(step.end(), mine.begin(), mine.end());
      step.push_back("ended with flags " + std::to_string(record.flags) + ", lacking " +
                     std::to_string(record.marker.dropped_kinds) + ", of passes " +
                     std::to_string(record.marker.passes));
      std::sort(step.begin(), step.end());
    }
    return steps;
  }

  torch::Tensor x, y;

 private:
  DaemonByHand daemon_;
  ikkuna_session* session_ = nullptr;
  std::unique_ptr<Hand> hand_;
  std::unique_ptr<Probe> probe_;
  std::mutex mutex_;
  std::vector<DaemonByHand::Got> got_;
};

class ThroughC : public ::testing::TestWithParam<uint32_t> {
 protected:
  // At least `steps` of them ended, the same in both.
  void Compare(const std::function<void(Watched&)>& loop, size_t steps) {
    std::map<std::string, std::vector<std::string>> told[2];
    for (const bool by_hand : {false, true}) {
      Watched run(by_hand, GetParam());
      loop(run);
      run.End();
      told[by_hand ? 1 : 0] = run.Steps();
    }
    EXPECT_GE(told[0].size(), steps / GetParam());
    EXPECT_EQ(told[0].size(), told[1].size());
    size_t lacking = 0;
    for (const auto& [step, lines] : told[0]) {
      EXPECT_GT(lines.size(), 2u) << "step " << step;
      // LibTorch's front end slept through a pass, and says so; this one is always told.
      const bool lacks = std::find(lines.begin(), lines.end(), kMissing) != lines.end();
      lacking += lacks;
      if (lacks) continue;
      ASSERT_EQ(lines, told[1][step]) << "step " << step;
    }
    EXPECT_LT(lacking, GetParam() == 1 ? 1 : told[0].size());
  }
  // Rounds of a loop over one model, by SGD.
  using Round = std::function<void(Watched&, Net&, SGD&, int)>;
  void CompareRounds(uint64_t steps, const Round& round) {
    Compare(
        [&](Watched& run) {
          const auto net = run.Attach();
          SGD optimizer(net->parameters(), SGDOptions(.1));
          for (int i = 0; i < kSteps; ++i) {
            round(run, *net, optimizer, i);
            run.Read();
          }
        },
        steps);
  }
};
INSTANTIATE_TEST_SUITE_P(Periods, ThroughC, ::testing::Values(1u, 3u));

TEST_P(ThroughC, Plain) {
  Compare(
      [](Watched& run) {
        const auto net = run.Attach();
        SGD optimizer(net->parameters(), SGDOptions(.1).momentum(.9));
        for (int i = 0; i < kSteps; ++i) {
          run.ZeroGrad(*net);
          run.Backward(run.Loss(*net));
          run.Step(*net, optimizer);
          run.Read();
        }
      },
      kSteps);
}

TEST_P(ThroughC, Accumulation) {
  CompareRounds(kSteps, [](Watched& run, Net& net, SGD& optimizer, int) {
    run.ZeroGrad(net);
    for (int micro = 0; micro < 3; ++micro) run.Backward(run.Loss(net));
    run.Step(net, optimizer);
  });
}

TEST_P(ThroughC, SkippedSteps) {
  CompareRounds(kSteps - 1, [](Watched& run, Net& net, SGD& optimizer, int i) {
    run.ZeroGrad(net);
    run.Backward(run.Loss(net));
    if (i % 4 != 3) run.Step(net, optimizer);
  });
}

TEST_P(ThroughC, TwoModels) {
  Compare(
      [](Watched& run) {
        const auto first = run.Attach(), second = run.Attach();
        SGD optimizer(first->parameters(), SGDOptions(.1)), other(second->parameters(), SGDOptions(.1));
        for (int i = 0; i < kSteps; ++i) {
          run.ZeroGrad(*first);
          run.Backward(run.Loss(*first));
          run.Step(*first, optimizer);
          run.ZeroGrad(*second);
          run.Backward(run.Loss(*second));
          run.Step(*second, other);
          run.Read();
        }
      },
      2 * kSteps);
}

TEST_P(ThroughC, EvaluationsBetween) {
  CompareRounds(kSteps, [](Watched& run, Net& net, SGD& optimizer, int i) {
    run.ZeroGrad(net);
    run.Backward(run.Loss(net));
    run.Step(net, optimizer);
    if (i % 5 == 4) run.Evaluate(net);
  });
}

TEST_P(ThroughC, PassesOnAWorker) {
  CompareRounds(kSteps, [](Watched& run, Net& net, SGD& optimizer, int) {
    run.ZeroGrad(net);
    run.OnThread([&] { run.Backward(run.Loss(net)); });
    run.Step(net, optimizer);
  });
}

TEST_P(ThroughC, AClosure) {
  Compare(
      [](Watched& run) {
        const auto net = run.Attach(true);
        SGD optimizer(net->parameters(), SGDOptions(.01));
        for (int i = 0; i < kSteps; ++i) {
          for (int evaluation = 0; evaluation < 3; ++evaluation) {
            run.ZeroGrad(*net);
            run.Backward(run.Loss(*net));
            run.Step(*net, optimizer);
          }
          run.Boundary(*net);
          run.Read();
        }
      },
      kSteps);
}

TEST_P(ThroughC, ARetainedGraph) {
  CompareRounds(kSteps, [](Watched& run, Net& net, SGD& optimizer, int) {
    run.ZeroGrad(net);
    const torch::Tensor loss = run.Loss(net);
    run.Backward(loss, true);
    run.Backward(loss);
    run.Step(net, optimizer);
  });
}

TEST_P(ThroughC, StepsThatAreSaid) {
  Compare(
      [](Watched& run) {
        const auto net = run.Attach(true);
        for (int i = 0; i < kSteps; ++i) {
          run.ZeroGrad(*net);
          run.Backward(run.Loss(*net));
          run.Unseen(*net);
          run.Boundary(*net);
          run.Read();
        }
      },
      kSteps);
}

TEST_P(ThroughC, AWriteThatIsNotSeen) {
  Compare(
      [](Watched& run) {
        const auto net = run.Attach();
        for (int i = 0; i < kSteps; ++i) {
          run.ZeroGrad(*net);
          run.Backward(run.Loss(*net));
          run.Unseen(*net);
          run.Read();
        }
      },
      kSteps - 1);
}

TEST_P(ThroughC, PassesThatAreDropped) {
  CompareRounds(kSteps, [](Watched& run, Net& net, SGD& optimizer, int i) {
    run.ZeroGrad(net);
    if (i % 3 == 1) static_cast<void>(run.Loss(net));
    run.Backward(run.Loss(net));
    run.Step(net, optimizer);
  });
}

// Two threads, each of which trains the model for itself, in turns that repeat themselves.
TEST_P(ThroughC, Hogwild) {
  Compare(
      [](Watched& run) {
        const auto net = run.Attach();
        SGD optimizer(net->parameters(), SGDOptions(.05));
        std::mutex mutex;
        std::condition_variable changed;
        int turn = 0;
        const auto in_turn = [&](int mine, const std::function<void()>& body) {
          std::unique_lock lock(mutex);
          changed.wait(lock, [&] { return turn == mine; });
          body();
          ++turn;
          changed.notify_all();
        };
        const auto train = [&](int thread) {
          run.OnThread([&, thread] {
            torch::Tensor loss;
            for (int i = 0; i < kSteps; ++i) {
              const int first = 6 * i + thread;
              in_turn(first, [&] { loss = run.Loss(*net); });
              in_turn(first + 2, [&] { run.Backward(std::exchange(loss, {})); });
              in_turn(first + 4, [&] {
                run.Step(*net, optimizer);
                run.Read();
              });
            }
          });
        };
        std::thread other([&] { train(1); });
        train(0);
        other.join();
      },
      2 * kSteps);
}

}  // namespace
}  // namespace ikkuna::through_c
