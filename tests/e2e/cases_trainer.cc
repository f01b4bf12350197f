// Loops that people of other tools reported as watched wrongly, and others of each kind; each states what is true of it
// (cases_life.h). tests/regressions/test_cases.py compares with what a client reads.
//
//   cases_trainer STEPS CASE...
#include <torch/torch.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/e2e/cases_life.h"
#include "tests/e2e/cases_losses.h"
#include "tests/e2e/cases_steps.h"

namespace cases {
namespace {

using Case = std::function<void(Life&)>;

// --- Modules that are replaced.

void RunReplaced(Life& life, const std::map<int64_t, int64_t>& outputs_from, bool adam) {
  Net net;
  life.Watch(net);
  std::unique_ptr<optim::Optimizer> optimizer;
  const auto renew = [&] {
    if (adam)
      optimizer = std::make_unique<optim::Adam>(net->parameters(), optim::AdamOptions(.01));
    else
      optimizer = std::make_unique<optim::SGD>(net->parameters(), .05);
    life.Watch(*optimizer);
  };
  renew();
  for (int64_t step = 0; step < life.steps(); ++step) {
    if (const auto found = outputs_from.find(step); found != outputs_from.end()) {
      net->ReplaceHead(found->second);
      renew();
    }
    optimizer->zero_grad();
    const Tensor out = net->forward(X()), loss = F::mse_loss(out, Y(out.size(1)));
    loss.backward();
    life.Loss(step, loss);
    life.Activation(step, "head", out);
    life.Step(step, *net, *optimizer);
  }
  life.End(*net);
}

// The head becomes a stack of layers with names of their own.
void ReplacedByAStack(Life& life) {
  struct Stacked : nn::Module {
    Stacked() {
      fc1 = register_module("fc1", nn::Linear(8, 16));
      head = register_module("head", nn::Sequential(nn::Linear(16, 4)));
    }
    nn::Linear fc1{nullptr};
    nn::Sequential head{nullptr};
  };
  auto net = std::make_shared<Stacked>();
  life.Watch(net);
  auto optimizer = std::make_unique<optim::SGD>(net->parameters(), .05);
  life.Watch(*optimizer);
  for (int64_t step = 0; step < life.steps(); ++step) {
    if (step == 3) {
      net->head = net->replace_module("head", nn::Sequential(nn::Linear(16, 6), nn::ReLU(), nn::Linear(6, 4)));
      optimizer = std::make_unique<optim::SGD>(net->parameters(), .05);
      life.Watch(*optimizer);
    }
    optimizer->zero_grad();
    const Tensor loss = F::mse_loss(net->head->forward(torch::relu(net->fc1(X()))), Y());
    loss.backward();
    life.Loss(step, loss);
    life.Step(step, *net, *optimizer);
  }
  life.End(*net);
}

// --- Optimizers that go, come, and get more to do.

void RunRenewed(Life& life, bool attached) {
  nn::Sequential net(nn::Linear(8, 6), nn::ReLU(), nn::Linear(6, 4));
  life.Watch(net);
  std::unique_ptr<optim::Optimizer> optimizer =
      std::make_unique<optim::Adam>(net->parameters(), optim::AdamOptions(.1));
  life.Watch(*optimizer);
  std::vector<std::string> where_it_was;
  for (int64_t step = 0; step < life.steps(); ++step) {
    if (step == 3 || (attached && step == 5)) {
      optimizer.reset();
      for (size_t i = 0; i < 2000; ++i) where_it_was.emplace_back(16 + i % 500, '\xff');
      if (!attached)
        optimizer = std::make_unique<optim::Adam>(net->parameters(), optim::AdamOptions(.01));
      else if (step == 3)
        optimizer = std::make_unique<optim::SGD>(net->parameters(), optim::SGDOptions(.02).momentum(.9));
      else
        optimizer = std::make_unique<optim::AdamW>(net->parameters(), optim::AdamWOptions(.03));
      if (attached) life.Watch(*optimizer);
    }
    optimizer->zero_grad();
    const Tensor loss = F::mse_loss(net->forward(X()), Y());
    loss.backward();
    life.Loss(step, loss);
    life.Step(step, *net, *optimizer, attached || step < 3);
  }
  life.End(*net);
}

void Unfrozen(Life& life) {
  Net net;
  for (Tensor& parameter : net->fc1->parameters()) parameter.set_requires_grad(false);
  life.Watch(net);
  optim::Adam optimizer(net->head->parameters(), optim::AdamOptions(.01));
  life.Watch(optimizer);
  for (int64_t step = 0; step < life.steps(); ++step) {
    if (step == 3) {
      for (Tensor& parameter : net->fc1->parameters()) parameter.set_requires_grad(true);
      optimizer.add_param_group(
          optim::OptimizerParamGroup(net->fc1->parameters(), std::make_unique<optim::AdamOptions>(.001)));
    }
    optimizer.zero_grad();
    const Tensor loss = F::mse_loss(net->forward(X()), Y());
    loss.backward();
    life.Loss(step, loss);
    life.Step(step, *net, optimizer);
  }
  life.End(*net);
}

// A group before the first step and one amid, while a schedule moves the rates.
void Scheduled(Life& life) {
  nn::Sequential net(nn::Linear(8, 6), nn::Tanh(), nn::Linear(6, 6), nn::Tanh(), nn::Linear(6, 4));
  for (const size_t frozen : {0, 2}) {
    for (Tensor& parameter : net[frozen]->parameters()) parameter.set_requires_grad(false);
  }
  life.Watch(net);
  optim::SGD optimizer(net[4]->parameters(), optim::SGDOptions(.05).momentum(.9));
  life.Watch(optimizer);
  for (int64_t step = 0; step < life.steps(); ++step) {
    if (step == 0 || step == 4) {
      const auto& layer = net[step == 0 ? 2 : 0];
      for (Tensor& parameter : layer->parameters()) parameter.set_requires_grad(true);
      optimizer.add_param_group(
          optim::OptimizerParamGroup(layer->parameters(), std::make_unique<optim::SGDOptions>(.01)));
    }
    optimizer.zero_grad();
    const Tensor loss = F::mse_loss(net->forward(X()), Y());
    loss.backward();
    life.Loss(step, loss);
    life.Step(step, *net, optimizer);
    for (auto& group : optimizer.param_groups()) group.options().set_lr(group.options().get_lr() * .9);
  }
  life.End(*net);
}

template <typename Optimizer, typename Model>
void RunSparse(Life& life, Model net, Optimizer optimizer) {
  life.Watch(net);
  life.Watch(optimizer);
  for (int64_t step = 0; step < life.steps(); ++step) {
    optimizer.zero_grad();
    const Tensor loss = F::mse_loss(net->forward(torch::randint(0, 50, {12, 3})), Y());
    loss.backward();
    life.Loss(step, loss);
    life.Step(step, *net, optimizer);
  }
  life.End(*net);
}

void SparseEmbedding(Life& life) {
  nn::Sequential net(nn::Embedding(nn::EmbeddingOptions(50, 8).sparse(true)), nn::Flatten(), nn::Linear(24, 4));
  RunSparse(life, net, optim::SGD(net->parameters(), .05));
}

void SparseBag(Life& life) {
  nn::Sequential net(nn::EmbeddingBag(nn::EmbeddingBagOptions(50, 8).sparse(true).mode(torch::kSum)), nn::Linear(8, 4));
  RunSparse(life, net, optim::Adagrad(net->parameters(), optim::AdagradOptions(.05)));
}

// --- Modules whose output is no plain tensor.

template <typename Layer, typename Options>
void RunPacked(Life& life, const Options& options, int64_t width) {
  struct Tagger : nn::Module {
    Tagger(const Options& with, int64_t outputs) {
      emb = register_module("emb", nn::Embedding(20, 4));
      rnn = register_module("rnn", Layer(with));
      head = register_module("head", nn::Linear(outputs, 3));
    }
    nn::Embedding emb{nullptr};
    Layer rnn{nullptr};
    nn::Linear head{nullptr};
  };
  auto net = std::make_shared<Tagger>(options, width);
  life.Watch(net);
  optim::SGD optimizer(net->parameters(), .05);
  life.Watch(optimizer);
  for (int64_t step = 0; step < life.steps(); ++step) {
    optimizer.zero_grad();
    const auto packed = nn::utils::rnn::pack_padded_sequence(net->emb(torch::randint(0, 20, {4, 5})),
                                                             torch::tensor(std::vector<int64_t>{5, 4, 2, 1}), true);
    const Tensor out = std::get<0>(net->rnn->forward_with_packed_input(packed)).data();
    const Tensor scores = net->head(out).slice(0, 0, 4), labels = torch::randint(0, 3, {4});
    const Tensor loss = F::cross_entropy(scores, labels);
    loss.backward();
    life.Loss(step, loss);
    life.Accuracy(step, scores, labels);
    life.Activation(step, "rnn", out);
    life.Step(step, *net, optimizer);
  }
  life.End(*net);
}

const std::map<std::string, Case> kCases = {
    {"metricloss", MetricLoss},
    {"metriclate", MetricLate},
    {"composite", Composite},
    {"penalty", Penalty},
    {"uncertainty", Uncertainty},
    {"stacked", Stacked},
    {"reduced", Reduced},
    {"triplet", Triplet},
    {"smoothed", Smoothed},
    {"distilled", Distilled},
    {"vae", [](Life& life) { RunVae(life, Given::kNever, 1); }},
    {"vaefix", [](Life& life) { RunVae(life, Given::kBeforeBackward, 1); }},
    {"vaefixlate", [](Life& life) { RunVae(life, Given::kBehindBackward, 1); }},
    {"vaemicro", [](Life& life) { RunVae(life, Given::kBeforeBackward, 3); }},
    {"evaluated", [](Life& life) { RunEvaluated(life, Evaluation::kPlain); }},
    {"evaluatedgiven", [](Life& life) { RunEvaluated(life, Evaluation::kGiven); }},
    {"evaluatedterms", [](Life& life) { RunEvaluated(life, Evaluation::kNothingGiven); }},
    {"ignore0", [](Life& life) { RunIgnored(life, 0); }},
    {"ignore", [](Life& life) { RunIgnored(life, -100); }},
    {"ignoresequences", IgnoredInSequences},
    {"softtargets", SoftTargets},
    {"replace",
     [](Life& life) {
       RunReplaced(life, {{3, 4}}, false);
     }},
    {"replacetwice",
     [](Life& life) {
       RunReplaced(life, {{2, 5}, {4, 3}}, true);
     }},
    {"replacestack", ReplacedByAStack},
    {"reopt", [](Life& life) { RunRenewed(life, false); }},
    {"reoptclass", [](Life& life) { RunRenewed(life, true); }},
    {"group", Unfrozen},
    {"groupscheduled", Scheduled},
    {"sparse", SparseEmbedding},
    {"sparsebag", SparseBag},
    {"rawptr", [](Life& life) { RunByHand(life, Hand::kPointers); }},
    {"rawaccumulated", [](Life& life) { RunByHand(life, Hand::kAccumulated); }},
    {"newdata", [](Life& life) { RunByHand(life, Hand::kNewData); }},
    {"autogradgrad", [](Life& life) { RunByHand(life, Hand::kAutogradGrad); }},
    {"gradassigned", [](Life& life) { RunByHand(life, Hand::kAssigned); }},
    {"lbfgs", [](Life& life) { RunLbfgs(life, false); }},
    {"lbfgsmanual", [](Life& life) { RunLbfgs(life, true); }},
    {"sharpness", Sharpness},
    {"gp", [](Life& life) { RunWalks(life, Walks::kPenalty); }},
    {"twoback", [](Life& life) { RunWalks(life, Walks::kTwice); }},
    {"threeback", [](Life& life) { RunWalks(life, Walks::kThrice); }},
    {"doublebackprop", [](Life& life) { RunWalks(life, Walks::kDoubleBackprop); }},
    {"critic", [](Life& life) { RunWalks(life, Walks::kCritic); }},
    {"nanskip", [](Life& life) { RunSkipped(life, [](int64_t batch, int64_t) { return batch % 5 == 3; }); }},
    {"nanskipends",
     [](Life& life) {
       RunSkipped(life, [](int64_t batch, int64_t batches) {
         return batch < 2 || batch == 6 || batch == 7 || batch >= batches - 2;
       });
     }},
    {"nanskipkept", SkippedAndKept},
    {"skippedlate", SkippedBehindBackward},
    {"packed", [](Life& life) { RunPacked<nn::LSTM>(life, nn::LSTMOptions(4, 6).batch_first(true), 6); }},
    {"packedproj",
     [](Life& life) {
       RunPacked<nn::LSTM>(life, nn::LSTMOptions(4, 6).batch_first(true).num_layers(2).proj_size(3), 3);
     }},
    {"packedgru",
     [](Life& life) { RunPacked<nn::GRU>(life, nn::GRUOptions(4, 6).batch_first(true).bidirectional(true), 12); }},
};

}  // namespace
}  // namespace cases

int main(int argc, char** argv) {
  at::set_num_threads(1);
  const int64_t steps = argc > 1 ? std::strtoll(argv[1], nullptr, 10) : 0;
  for (int i = 2; i < argc; ++i) {
    const auto found = cases::kCases.find(argv[i]);
    if (found == cases::kCases.end() || steps <= 0) {
      std::fprintf(stderr, "no case '%s', or no steps\n", argv[i]);
      return 2;
    }
    for (const bool watched : {false, true}) {
      cases::Life life(argv[i], watched, steps);
      found->second(life);
    }
  }
  return 0;
}
