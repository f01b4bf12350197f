// The trainer of the overhead benchmark: one of ikkuna-train's networks on one fixed batch of 128 images, SGD with
// momentum. It does what its standard input says, so that one process trains with a probe and without:
//
//   overhead_trainer MODEL [THREADS]
//
// A line is `attach`, `detach`, or a number of steps, which is answered with the steps' durations in ns, separated by
// spaces, first the wall clock's and then, after a `|`, the training thread's own processor time.
#include <time.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <torch/nn/functional/loss.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include "ikkuna/probe.hpp"
#include "probe/examples/models.h"

namespace {

constexpr int64_t kBatchSize = 128;

uint64_t Ns(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

void Print(const std::vector<uint64_t>& durations, char end) {
  for (const uint64_t ns : durations) std::printf("%llu ", static_cast<unsigned long long>(ns));
  std::putchar(end);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: overhead_trainer MODEL [THREADS]\n");
    return 2;
  }
  at::set_num_threads(argc > 2 ? std::atoi(argv[2]) : 1);
  torch::manual_seed(1);
  const auto model = trainer::MakeNetwork(argv[1]);
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.01).momentum(0.9));
  const at::Tensor images = torch::randn({kBatchSize, 1, 28, 28});
  const at::Tensor labels = torch::randint(10, {kBatchSize}, at::kLong);
  std::unique_ptr<ikkuna::Probe> probe;
  for (std::string line; std::getline(std::cin, line);) {
    if (line == "attach") {
      // The daemon decides how much watching may cost.
      probe = std::make_unique<ikkuna::Probe>(ikkuna::ProbeOptions{.run = argv[1], .budget = 1.0, .quiet = true});
      probe->Attach(model);
      probe->Attach(optimizer);
      continue;
    }
    if (line == "detach") {
      probe.reset();
      continue;
    }
    const int steps = std::atoi(line.c_str());
    std::vector<uint64_t> wall, cpu;
    for (int i = 0; i < steps; ++i) {
      const uint64_t wall_begin = Ns(CLOCK_MONOTONIC), cpu_begin = Ns(CLOCK_THREAD_CPUTIME_ID);
      optimizer.zero_grad();
      const at::Tensor loss = torch::nn::functional::cross_entropy(model->Forward(images, trainer::Observer()), labels);
      loss.backward();
      optimizer.step();
      wall.push_back(Ns(CLOCK_MONOTONIC) - wall_begin);
      cpu.push_back(Ns(CLOCK_THREAD_CPUTIME_ID) - cpu_begin);
    }
    Print(wall, '|');
    Print(cpu, '\n');
    std::fflush(stdout);
  }
}
