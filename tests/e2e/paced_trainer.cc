// A trainer whose step can be made longer while it runs, and which says after each step what its weights are: a line
// `STEP LOSS f1=HASH f2=HASH f3=HASH trains=110` (of each module's weights and bias; which of the three require
// gradients).
//
//   --log FILE  --optimizer sgd|adam  --pace FILE (microseconds that each step sleeps; read at every step)
//   --frozen f1: the trainer itself does not train that layer
//   Ends when a client asks it to stop.
#include <chrono>
#include <fstream>
#include <memory>
#include <thread>

#include <torch/torch.h>

#include "probe/ikkuna/probe.hpp"
#include "tests/e2e/small_training.h"

int main(int argc, char** argv) {
  using namespace small_training;
  const Arguments arguments(argc, argv);
  const std::string pace = arguments.Text("--pace");
  torch::manual_seed(5);
  at::set_num_threads(1);
  Mlp model;
  const Batches batches(16);
  std::unique_ptr<torch::optim::Optimizer> optimizer;
  if (arguments.Text("--optimizer") == "adam") {
    optimizer = std::make_unique<torch::optim::Adam>(model.parameters(), torch::optim::AdamOptions(.001));
  } else {
    optimizer = std::make_unique<torch::optim::SGD>(model.parameters(), torch::optim::SGDOptions(.01).momentum(.9));
  }
  if (arguments.Text("--frozen") == "f1") {
    for (torch::Tensor& parameter : model.f1->parameters()) parameter.set_requires_grad(false);
  }
  Lines log(arguments.Text("--log"));
  ikkuna::Probe probe({.run = "paced", .allow_control = true, .budget = .01});
  probe.Attach(model);
  probe.Attach(*optimizer);
  probe.Epoch(0);
  for (int64_t step = 0; !probe.StopRequested(); ++step) {
    const size_t batch = static_cast<size_t>(step) % batches.size();
    optimizer->zero_grad(false);  // gradients of zero stay: momentum alone moves whoever has one
    const torch::Tensor loss = torch::nn::functional::cross_entropy(model.forward(batches.x[batch]), batches.y[batch]);
    loss.backward();
    optimizer->step();
    log.Write("%lld %a f1=%llx f2=%llx f3=%llx trains=%d%d%d\n", static_cast<long long>(step), loss.item<double>(),
              static_cast<unsigned long long>(HashOf(*model.f1)), static_cast<unsigned long long>(HashOf(*model.f2)),
              static_cast<unsigned long long>(HashOf(*model.f3)), model.f1->weight.requires_grad(),
              model.f2->weight.requires_grad(), model.f3->weight.requires_grad());
    int64_t sleep_us = 0;
    if (!pace.empty() && std::ifstream(pace) >> sleep_us && sleep_us > 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(sleep_us));
    }
  }
}
