// Several threads train one model at once, without a lock, each with an optimizer of its own (Niu et al. 2011).
//
//   --threads N  --steps N (of each thread)
//   --late N: none of that; one thread trains N steps, and in the midst of the last one's backward pass another thread
//   takes the first step of its own
#include <atomic>
#include <functional>
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
  if (const int64_t alone = arguments.Number("--late", 0); alone > 0) {
    const auto step = [&](torch::optim::Optimizer& optimizer, const std::function<void()>& amid_backward) {
      optimizer.zero_grad(false);
      const torch::Tensor hidden = model.f1(batches.x[0]);
      hidden.register_hook([&](const torch::Tensor&) { amid_backward(); });
      const torch::Tensor output = model.f3(torch::relu(model.f2(torch::relu(hidden))));
      torch::nn::functional::cross_entropy(output, batches.y[0]).backward();
      optimizer.step();
      made.fetch_add(1);
    };
    torch::optim::SGD optimizer(model.parameters(), torch::optim::SGDOptions(.01));
    torch::optim::SGD second(model.parameters(), torch::optim::SGDOptions(.01));
    const auto other_thread = [&] { std::thread([&] { step(second, [] {}); }).join(); };
    for (int64_t i = 1; i < alone; ++i) step(optimizer, [] {});
    step(optimizer, other_thread);
    std::printf("made %lld steps\n", static_cast<long long>(made.load()));
    return 0;
  }
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
