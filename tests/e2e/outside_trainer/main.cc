// The ten-line trainer: a model, an optimizer, a loop, and three lines for the probe.
#include <ikkuna/probe.hpp>
#include <torch/torch.h>

int main() {
  torch::manual_seed(1);
  torch::nn::Sequential model(torch::nn::Linear(4, 8), torch::nn::ReLU(), torch::nn::Linear(8, 3));
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  ikkuna::Probe probe({.run = "outside"});  // probe
  probe.Attach(model);                      // probe
  probe.Attach(optimizer);                  // probe
  for (int step = 0; step < 2000; ++step) {
    auto input = torch::randn({32, 4});
    optimizer.zero_grad();
    torch::nn::functional::cross_entropy(model->forward(input), input.argmax(1).clamp_max(2)).backward();
    optimizer.step();
  }
}
