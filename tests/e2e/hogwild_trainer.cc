// Several threads train one model at once, without a lock, each with an optimizer of its own (Niu et al. 2011).
//
//   --threads N  --steps N (of each thread)
#include <atomic>
#include <thread>

#include <torch/torch.h>

#include "probe/ikkuna/probe.hpp"
#include "tests/e2e/small_training.h"

int main(int argc, char** argv) {
  using namespace small_training;
  const Arguments arguments(argc, argv);
  const int64_t threads = arguments.Number("--threads", 4), steps = arguments.Number("--steps", 500);
  torch::manual_seed(5);
  at::set_num_threads(1);
  Mlp model;
  const Batches batches(16);
  // Gradients exist before the threads do, and are zeroed in place: what they race for are numbers, never a tensor.
  torch::nn::functional::cross_entropy(model.forward(batches.x[0]), batches.y[0]).backward();
  ikkuna::Probe probe({.run = "hogwild", .allow_control = true, .budget = 0});
  probe.Attach(model);
  std::atomic<int64_t> made{0};
  std::vector<std::thread> crew;
  for (int64_t t = 0; t < threads; ++t) {
    crew.emplace_back([&, t] {
      torch::optim::SGD optimizer(model.parameters(), torch::optim::SGDOptions(.01));
      for (int64_t i = 0; i < steps && !probe.StopRequested(); ++i) {
        const size_t batch = static_cast<size_t>(t + i) % batches.size();
        optimizer.zero_grad(false);
        torch::nn::functional::cross_entropy(model.forward(batches.x[batch]), batches.y[batch]).backward();
        optimizer.step();
        made.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : crew) thread.join();
  std::printf("made %lld steps\n", static_cast<long long>(made.load()));
}
