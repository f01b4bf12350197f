// Evaluations: a probe without a daemon, and the evaluations that it captured, as they ended.
#pragma once

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/probe/torch/losses_fixture.h"

namespace ikkuna {

class Evaluations : public Losses {
 protected:
  struct Frame {
    std::string root;
    uint64_t step = 0;
    size_t batches = 0;
    std::vector<double> losses;
    bool operator==(const Frame& other) const {
      return root == other.root && step == other.step && batches == other.batches && losses == other.losses;
    }
  };
  // In the order in which they ended; of the tag test.
  Probe& Start() {
    begun_.clear();
    values_.clear();
    frames_.clear();
    named_.clear();
    named_passes_.clear();
    Capture::Start({});
    probe_->Subscribe(
        {"loss", "pass_started", "batch_started", "passes_named", "batch_finished"},
        [this](const ProbeMessage& message) {
          std::lock_guard lock(mutex_);
          if (message.kind == "batch_started") begun_.insert({message.root, message.global_step});
          if (message.kind == "loss") values_[{message.root, message.pass}].push_back({message.param, message.scalar});
          if (message.kind != "passes_named" && message.kind != "batch_finished") return;
          std::vector<uint32_t>& passes = named_passes_[{message.root, message.global_step}];
          passes.insert(passes.end(), message.passes.begin(), message.passes.end());
          if (message.kind == "passes_named") return;
          Frame frame{message.root, message.global_step, passes.size(), {}};
          for (const uint32_t pass : std::exchange(passes, {})) {
            for (const auto& [name, value] : values_[{message.root, pass}]) {
              if (name.empty())
                frame.losses.push_back(value);
              else
                named_.insert(name);
            }
          }
          frames_.push_back(frame);
        },
        1, "test");
    return *probe_;
  }
  double Evaluate(torch::nn::Sequential& net) {
    torch::NoGradGuard no_grad;
    return F::cross_entropy(net->forward(X()), K()).item<double>();
  }
  void Train(torch::nn::Sequential& net, torch::optim::Optimizer& optimizer, int steps) {
    for (int step = 0; step < steps; ++step) Capture::Train(net, optimizer, X(), K());
  }

  std::mutex mutex_;
  std::multiset<std::pair<std::string, uint64_t>> begun_;
  std::map<std::pair<std::string, uint32_t>, std::vector<std::pair<std::string, double>>> values_;
  std::vector<Frame> frames_;
  std::set<std::string> named_;
  std::map<std::pair<std::string, uint64_t>, std::vector<uint32_t>> named_passes_;
};

}  // namespace ikkuna
