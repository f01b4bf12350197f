// Loops whose model or shape changes while nothing is due: what is taken at each period's step is what it is by hand,
// whatever the period. At period 1 everything is heard; the longer it is, the more has to be found out afterwards.
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>

#include "shared/codes.h"
#include "tests/probe/torch/capture_fixture.h"
#include "tests/probe/torch/replaceable.h"

namespace ikkuna {
namespace {

namespace nn = torch::nn;

// A trainer, which writes down what each of its steps was made of.
class Trainer {
 public:
  using Values = std::map<uint64_t, Tensor>;

  explicit Trainer(Probe& probe) : probe_(probe) {
    Renew();
    probe_.Attach(net);
  }
  void Renew() { optimizer = std::make_unique<torch::optim::SGD>(net->parameters(), torch::optim::SGDOptions(.05).momentum(.9)); }
  Tensor Loss() { return F::cross_entropy(net->forward(torch::randn({12, 8})), torch::randint(4, {12})); }
  // The backward pass is done, and the write comes.
  void Write() {
    Note();
    optimizer->step();
    ++steps;
  }
  void Note() {
    Note("weights", "fc1", net->fc1->weight);
    Note("weights", "head", net->head->weight);
    Note("weight_gradients", "fc1", net->fc1->weight.grad());
    Note("weight_gradients", "head", net->head->weight.grad());
    if (net->gain.defined() && net->gain.grad().defined()) Note("weight_gradients", "model", net->gain.grad());
  }
  void Step() {
    optimizer->zero_grad();
    Loss().backward();
    Write();
  }
  // A batch whose write is left out: it has a number of its own.
  void Skip() {
    optimizer->zero_grad();
    Loss().backward();
    optimizer->zero_grad();
    ++steps;
  }
  Tensor Evaluate() {
    torch::NoGradGuard no_grad;
    net->eval();
    const Tensor out = net->forward(torch::randn({12, 8}));
    net->train();
    return out;
  }

  std::shared_ptr<Replaceable> net = std::make_shared<Replaceable>();
  std::unique_ptr<torch::optim::Optimizer> optimizer;
  uint64_t steps = 0;
  std::map<std::string, std::map<std::string, Values>> wrote;  // by kind and module

 private:
  void Note(const std::string& kind, const std::string& module, const Tensor& tensor) {
    wrote[kind][module][steps] = tensor.detach().clone();
  }
  Probe& probe_;
};

struct Loop {  // no period above its own is tried
  const char* name;
  std::function<void(Trainer&, uint64_t)> step;  // one iteration, of this number
  uint32_t period_max = 20;
};

void PrintTo(const Loop& loop, std::ostream* out) { *out << loop.name; }

const Loop kLoops[] = {
    {"plain", [](Trainer& trainer, uint64_t) { trainer.Step(); }},
    {"a_module_is_replaced",
     [](Trainer& trainer, uint64_t i) {
       if (i == 43 || i == 78) {
         trainer.net->head = trainer.net->replace_module("head", nn::Linear(16, 4));
         trainer.Renew();
       }
       trainer.Step();
     }},
    {"all_modules_are_replaced",
     [](Trainer& trainer, uint64_t i) {
       if (i == 43 || i == 78) {
         trainer.net->fc1 = trainer.net->replace_module("fc1", nn::Linear(8, 16));
         trainer.net->head = trainer.net->replace_module("head", nn::Linear(16, 4));
         trainer.Renew();
       }
       trainer.Step();
     },
     7},  // see below
    {"a_parameter_is_registered",
     [](Trainer& trainer, uint64_t i) {
       if (i == 43) {
         trainer.net->gain = trainer.net->register_parameter("gain", torch::ones({16}));
         trainer.Renew();
       }
       trainer.Step();
     }},
    {"all_but_a_new_parameter_are_frozen",
     [](Trainer& trainer, uint64_t i) {
       if (i == 43) {
         trainer.net->gain = trainer.net->register_parameter("gain", torch::ones({16}));
         for (Tensor& parameter : trainer.net->fc1->parameters()) parameter.requires_grad_(false);
         trainer.optimizer = std::make_unique<torch::optim::SGD>(
             std::vector<Tensor>{trainer.net->gain, trainer.net->head->weight, trainer.net->head->bias}, .05);
       }
       trainer.optimizer->zero_grad();
       trainer.Loss().backward();
       if (i < 43) return trainer.Write();
       trainer.wrote["weight_gradients"]["head"][trainer.steps] = trainer.net->head->weight.grad().clone();
       trainer.wrote["weights"]["head"][trainer.steps] = trainer.net->head->weight.detach().clone();
       trainer.optimizer->step();
       ++trainer.steps;
     }},
    {"another_optimizer_takes_over",
     [](Trainer& trainer, uint64_t i) {
       if (i == 43) trainer.optimizer = std::make_unique<torch::optim::AdamW>(trainer.net->parameters());
       trainer.Step();
     }},
    {"evaluations_between",
     [](Trainer& trainer, uint64_t i) {
       if (i % 11 == 10) trainer.Evaluate();
       trainer.Step();
     }},
    {"a_look_through_eval_mode",
     [](Trainer& trainer, uint64_t i) {
       if (i % 11 == 10) {
         trainer.net->eval();
         trainer.optimizer->zero_grad();
         Tensor x = torch::randn({12, 8}, torch::requires_grad());
         F::cross_entropy(trainer.net->forward(x), torch::randint(4, {12})).backward();
         trainer.optimizer->zero_grad();
         trainer.net->train();
       }
       trainer.Step();
     }},
    {"a_look_by_autograd_grad",
     [](Trainer& trainer, uint64_t i) {
       if (i % 11 == 10) {
         Tensor x = torch::randn({12, 8}, torch::requires_grad());
         const Tensor loss = F::cross_entropy(trainer.net->forward(x), torch::randint(4, {12}));
         torch::autograd::grad({loss}, {x});
       }
       trainer.Step();
     }},
    {"a_batch_is_left_out",
     [](Trainer& trainer, uint64_t i) {
       if (i % 11 == 10) static_cast<void>(trainer.Loss());
       trainer.Step();
     }},
    {"micro_batches",
     [](Trainer& trainer, uint64_t i) {
       trainer.optimizer->zero_grad();
       for (uint64_t batch = 0; batch <= i % 3; ++batch) trainer.Loss().backward();
       trainer.Write();
     }},
    {"skipped_steps",
     [](Trainer& trainer, uint64_t i) {
       if (i % 11 == 10) trainer.Skip();
       trainer.Step();
     }},
    {"evaluation_comes_first",
     [](Trainer& trainer, uint64_t i) {
       for (int batch = 0; i == 0 && batch < 3; ++batch) trainer.Evaluate();
       trainer.Step();
     }},
    {"trains_in_eval_mode",
     [](Trainer& trainer, uint64_t i) {
       if (i == 0) trainer.net->eval();
       trainer.Step();
     }},
    {"begins_to_train_in_eval_mode",
     [](Trainer& trainer, uint64_t i) {
       if (i == 43) trainer.net->eval();
       trainer.Step();
     }},
    {"several_losses",
     [](Trainer& trainer, uint64_t) {
       trainer.optimizer->zero_grad();
       const Tensor out = trainer.net->forward(torch::randn({12, 8}));
       F::cross_entropy(out, torch::randint(4, {12})).backward({}, true);
       out.pow(2).mean().backward();
       trainer.Write();
     }},
    {"a_gradient_penalty",
     [](Trainer& trainer, uint64_t) {
       trainer.optimizer->zero_grad();
       Tensor x = torch::randn({12, 8}, torch::requires_grad());
       const Tensor loss = F::cross_entropy(trainer.net->forward(x), torch::randint(4, {12}));
       const Tensor slope = torch::autograd::grad({loss}, {x}, {}, true, true)[0];
       (loss + slope.pow(2).sum()).backward();
       trainer.Write();
     }},
    {"scaled_and_unscaled",
     [](Trainer& trainer, uint64_t) {
       trainer.optimizer->zero_grad();
       (trainer.Loss() * 1024).backward();
       for (const Tensor& parameter : trainer.net->parameters()) parameter.grad().div_(1024);
       trainer.Write();
     }},
    {"clipped",
     [](Trainer& trainer, uint64_t) {
       trainer.optimizer->zero_grad();
       trainer.Loss().backward();
       nn::utils::clip_grad_norm_(trainer.net->parameters(), .1);
       trainer.Write();
     }},
    {"weights_are_clamped_behind_each_write",
     [](Trainer& trainer, uint64_t) {
       trainer.Step();
       torch::NoGradGuard no_grad;
       for (Tensor& parameter : trainer.net->parameters()) parameter.clamp_(-.3, .3);
     }},
    {"weights_are_restored_now_and_then",
     [](Trainer& trainer, uint64_t i) {
       if (i % 29 == 28) {
         torch::NoGradGuard no_grad;
         for (Tensor& parameter : trainer.net->parameters()) parameter.copy_(torch::randn_like(parameter) * .1);
       }
       trainer.Step();
     }},
    {"an_average_is_kept",
     [](Trainer& trainer, uint64_t) {
       static std::vector<Tensor> average;
       trainer.Step();
       torch::NoGradGuard no_grad;
       average.resize(4);
       const auto parameters = trainer.net->parameters();
       for (size_t p = 0; p < parameters.size(); ++p) {
         if (!average[p].defined()) average[p] = parameters[p].clone();
         average[p].mul_(.9).add_(parameters[p], .1);
       }
     }},
    {"another_network_looks_on",
     [](Trainer& trainer, uint64_t) {
       static nn::Linear teacher(8, 4);
       const Tensor x = torch::randn({12, 8});
       trainer.optimizer->zero_grad();
       Tensor want;
       {
         torch::NoGradGuard no_grad;
         want = teacher(x);
       }
       F::mse_loss(trainer.net->forward(x), want).backward();
       trainer.Write();
     }},
    {"two_optimizers_take_turns",
     [](Trainer& trainer, uint64_t i) {
       static std::unique_ptr<torch::optim::Optimizer> other;
       if (i == 0) other = std::make_unique<torch::optim::Adam>(trainer.net->parameters());
       if (i % 2 == 1) trainer.optimizer.swap(other);
       trainer.Step();
       if (i % 2 == 1) trainer.optimizer.swap(other);
     }},
    {"two_optimizers_have_a_part_each",
     [](Trainer& trainer, uint64_t i) {
       static std::unique_ptr<torch::optim::Optimizer> other;
       if (i == 0) {
         other = std::make_unique<torch::optim::Adam>(trainer.net->fc1->parameters());
         trainer.optimizer = std::make_unique<torch::optim::SGD>(trainer.net->head->parameters(), .05);
       }
       trainer.net->zero_grad();
       trainer.Loss().backward();
       trainer.Write();
       other->step();
     }},
    {"an_optimizer_by_hand",
     [](Trainer& trainer, uint64_t) {
       trainer.optimizer->zero_grad();
       trainer.Loss().backward();
       trainer.Note();
       torch::NoGradGuard no_grad;
       for (Tensor& parameter : trainer.net->parameters()) parameter.sub_(parameter.grad(), .05);
       ++trainer.steps;
     }},
    {"gradients_are_zeroed_in_place",
     [](Trainer& trainer, uint64_t) {
       trainer.optimizer->zero_grad(false);
       trainer.Loss().backward();
       trainer.Write();
     }},
    {"gradients_are_cleared_behind_the_write",
     [](Trainer& trainer, uint64_t) {
       trainer.Loss().backward();
       trainer.Write();
       trainer.optimizer->zero_grad();
     }},
    {"a_closure",
     [](Trainer& trainer, uint64_t) {
       trainer.optimizer->step([&] {
         trainer.optimizer->zero_grad();
         const Tensor loss = trainer.Loss();
         loss.backward();
         trainer.Note();
         return loss;
       });
       ++trainer.steps;
     }},
    {"an_optimizer_of_lists",
     [](Trainer& trainer, uint64_t) {
       trainer.optimizer->zero_grad();
       trainer.Loss().backward();
       trainer.Note();
       torch::NoGradGuard no_grad;
       std::vector<Tensor> parameters = trainer.net->parameters(), gradients;
       for (const Tensor& parameter : parameters) gradients.push_back(parameter.grad());
       at::_foreach_add_(parameters, gradients, -.05);
       ++trainer.steps;
     }},
    {"another_thread_runs_backward",
     [](Trainer& trainer, uint64_t) {
       trainer.optimizer->zero_grad();
       const Tensor loss = trainer.Loss();
       std::thread([&] { loss.backward(); }).join();
       trainer.Write();
     }},
    {"another_thread_takes_over",
     [](Trainer& trainer, uint64_t i) {
       if (i < 75) return trainer.Step();
       std::thread([&] { trainer.Step(); }).join();
     }},
    {"evaluations_on_another_thread",
     [](Trainer& trainer, uint64_t i) {
       trainer.Step();
       if (i % 11 == 10) std::thread([&] { trainer.Evaluate(); }).join();
     }},
    {"a_batch_is_abandoned_by_an_exception",
     [](Trainer& trainer, uint64_t i) {
       if (i % 11 == 10) {
         try {
           const Tensor loss = trainer.Loss();
           throw std::runtime_error("no such image");
         } catch (const std::runtime_error&) {
         }
       }
       trainer.Step();
     }},
    {"a_batch_that_is_kept_is_left_out",
     [](Trainer& trainer, uint64_t i) {
       static Tensor kept;
       if (i % 11 == 10) kept = trainer.Loss();
       trainer.Step();
     }},
    {"the_average_of_two_gradients",
     [](Trainer& trainer, uint64_t) {
       const auto parameters = trainer.net->parameters();
       const auto one = torch::autograd::grad({trainer.Loss()}, parameters);
       const auto two = torch::autograd::grad({trainer.Loss()}, parameters);
       for (size_t p = 0; p < parameters.size(); ++p) parameters[p].mutable_grad() = (one[p] + two[p]) / 2;
       trainer.Write();
     }},
    {"gradients_by_autograd_grad",
     [](Trainer& trainer, uint64_t) {
       const auto parameters = trainer.net->parameters();
       const auto gradients = torch::autograd::grad({trainer.Loss()}, parameters);
       for (size_t p = 0; p < parameters.size(); ++p) parameters[p].mutable_grad() = gradients[p];
       trainer.Write();
     }},
};

class SparsePeriods : public Capture, public ::testing::WithParamInterface<std::tuple<Loop, uint32_t>> {
 protected:
  static std::string StepOf(const Tensor& tensor, const Trainer::Values& values) {
    for (const auto& [step, value] : values) {
      if (tensor.sizes() == value.sizes() && torch::equal(tensor, value)) return "it is that of step " + std::to_string(step);
    }
    return "it is that of no step";
  }
};

TEST_P(SparsePeriods, HaveTheNumbersOfTheirSteps) {
  const auto& [loop, period] = GetParam();
  if (period > loop.period_max) return;
  constexpr uint64_t kIterations = 120;
  Trainer trainer(Start({"weights", "weight_gradients"}, "default", period));
  for (uint64_t i = 0; i < kIterations; ++i) loop.step(trainer, i);
  probe_->Detach();
  std::map<std::string, size_t> compared;
  for (const Kept& kept : kept_) {
    const ProbeMessage& message = kept.message;
    if (message.param != "weight" && message.param != "gain") continue;
    const auto& values = trainer.wrote[message.kind][message.module.empty() ? "model" : message.module];
    const auto at = values.find(message.global_step);
    if (at == values.end()) continue;  // no such step by hand: the count below tells
    EXPECT_TRUE(torch::equal(kept.tensor, at->second)) << message.kind << " of " << message.module << ", step "
                                                       << message.global_step << ": " << StepOf(kept.tensor, values);
    EXPECT_EQ(message.flags, 0) << message.kind << " of " << message.module << ", step " << message.global_step;
    ++compared[message.kind + " of " + (message.module.empty() ? "model" : message.module)];
  }
  for (const auto& [kind, modules] : trainer.wrote) {
    for (const auto& [module, values] : modules) {
      size_t due = 0;
      for (const auto& [step, value] : values) due += step % period == 0 ? 1 : 0;
      EXPECT_EQ(compared[kind + " of " + module], due) << kind << " of " << module;
    }
  }
}

// Two models that train against each other, of which one's backward pass gives the other gradients that are not used.
struct Adversaries {
  const char* name;
  int critic_steps;      // for each of the generator's
  bool frozen;           // the critic takes no gradients while the generator trains
  bool clears_both;      // the generator's step clears the critic's gradients, too
  bool penalty = false;  // of the slope of the critic
};

void PrintTo(const Adversaries& adversaries, std::ostream* out) { *out << adversaries.name; }

class SparseAdversaries : public Capture,
                          public ::testing::WithParamInterface<std::tuple<Adversaries, uint32_t>> {};

TEST_P(SparseAdversaries, HaveTheNumbersOfTheirSteps) {
  const auto& [kind, period] = GetParam();
  nn::Sequential generator(nn::Linear(4, 8), nn::Tanh(), nn::Linear(8, 8));
  nn::Sequential critic(nn::Linear(8, 8), nn::Tanh(), nn::Linear(8, 1));
  torch::optim::Adam of_generator(generator->parameters()), of_critic(critic->parameters());
  Probe& probe = Start({"weight_gradients", "weights"}, "default", period);
  probe.Attach(generator, AttachOptions{.name = "generator"});
  probe.Attach(critic, AttachOptions{.name = "critic"});
  std::map<std::string, std::map<uint64_t, std::pair<Tensor, Tensor>>> wrote;  // by root and step: gradient, weight
  const auto write = [&](const std::string& root, nn::Sequential& model, torch::optim::Optimizer& optimizer) {
    auto& steps = wrote[root];
    const Tensor weight = model->parameters()[0];
    steps[steps.size()] = {weight.grad().clone(), weight.detach().clone()};
    optimizer.step();
  };
  for (int round = 0; round < 60; ++round) {
    for (int i = 0; i < kind.critic_steps; ++i) {
      of_critic.zero_grad();
      const Tensor real = torch::randn({6, 8}), fake = generator->forward(torch::randn({6, 4})).detach();
      Tensor loss = critic->forward(fake).mean() - critic->forward(real).mean();
      if (kind.penalty) {
        Tensor between = ((real + fake) / 2).requires_grad_();
        const Tensor score = critic->forward(between);
        const Tensor slope = torch::autograd::grad({score.sum()}, {between}, {}, true, true)[0];
        loss = loss + (slope.norm(2, 1) - 1).pow(2).mean();
      }
      loss.backward();
      write("critic", critic, of_critic);
    }
    if (kind.frozen) {
      for (Tensor& parameter : critic->parameters()) parameter.requires_grad_(false);
    }
    of_generator.zero_grad();
    if (kind.clears_both) of_critic.zero_grad();
    (-critic->forward(generator->forward(torch::randn({6, 4}))).mean()).backward();
    write("generator", generator, of_generator);
    for (Tensor& parameter : critic->parameters()) parameter.requires_grad_(true);
  }
  probe.Detach();
  std::map<std::string, size_t> compared;
  for (const Kept& kept : kept_) {
    const ProbeMessage& message = kept.message;
    if (message.module != "0" || message.param != "weight") continue;
    const auto& steps = wrote[message.root];
    const auto at = steps.find(message.global_step);
    if (at == steps.end()) continue;
    const bool gradient = message.kind == "weight_gradients";
    const Tensor& want = gradient ? at->second.first : at->second.second;
    std::string is = "no step";
    for (const auto& [step, values] : steps) {
      if (torch::equal(kept.tensor, gradient ? values.first : values.second)) is = "step " + std::to_string(step);
    }
    EXPECT_TRUE(torch::equal(kept.tensor, want))
        << message.kind << " of the " << message.root << ", step " << message.global_step << ", is that of " << is
        << ", flags " << message.flags;
    ++compared[message.root + " " + message.kind];
  }
  for (const auto& [root, steps] : wrote) {
    for (const char* of : {"weights", "weight_gradients"}) {
      EXPECT_EQ(compared[root + " " + of], (steps.size() + period - 1) / period) << root << " " << of;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Pairs, SparseAdversaries,
    ::testing::Combine(::testing::Values(Adversaries{"one_each", 1, false, false}, Adversaries{"clears_both", 1, false, true},
                                         Adversaries{"frozen_critic", 1, true, false},
                                         Adversaries{"five_to_one", 5, false, false},
                                         Adversaries{"slope_penalty", 3, false, false, true}),
                       ::testing::Values(1u, 3u, 7u, 20u)),
    [](const auto& info) {
      return std::string(std::get<0>(info.param).name) + "_" + std::to_string(std::get<1>(info.param));
    });

// What nobody could see is said: a model of which all parameters are replaced, where nothing is due and no operator heard.
TEST_F(Capture, StepsOfAModelThatIsReplacedUnseenAreFlagged) {
  Trainer trainer(Start({"weights", "batch_finished"}, "default", 20));
  const auto until = [&](uint64_t end) {
    while (trainer.steps < end) trainer.Step();
  };
  until(43);
  trainer.net->fc1 = trainer.net->replace_module("fc1", nn::Linear(8, 16));
  trainer.net->head = trainer.net->replace_module("head", nn::Linear(16, 4));
  trainer.Renew();
  until(50);
  // The service thread looks four times a second.
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
  until(120);
  probe_->Detach();
  bool flagged = false;
  for (const Kept& kept : Of("weights", "head")) {
    if (kept.message.param != "weight" || kept.message.global_step < 43) continue;
    const Tensor& by_hand = trainer.wrote["weights"]["head"].at(kept.message.global_step);
    flagged |= (kept.message.flags & kFlagStepInferred) != 0;
    EXPECT_TRUE(flagged || torch::equal(kept.tensor, by_hand)) << kept.message.global_step;
  }
  EXPECT_TRUE(flagged);
}

INSTANTIATE_TEST_SUITE_P(Loops, SparsePeriods,
                         ::testing::Combine(::testing::ValuesIn(kLoops), ::testing::Values(1u, 3u, 7u, 20u)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param).name) + "_" + std::to_string(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace ikkuna
