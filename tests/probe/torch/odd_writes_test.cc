// Odd steps: batches that are left out, loss scales, optimizers of lists, several optimizers.
#include <stdexcept>
#include <thread>

#include "tests/probe/torch/odd_loops.h"

namespace ikkuna::odd {
namespace {

std::vector<Tensor> Gradients(const std::vector<Tensor>& parameters) {
  std::vector<Tensor> gradients;
  for (const Tensor& p : parameters) gradients.push_back(p.grad());
  return gradients;
}
std::vector<Tensor>& Buffers(const std::vector<Tensor>& parameters, std::vector<Tensor>& buffers) {
  if (buffers.empty()) {
    for (const Tensor& p : parameters) buffers.push_back(torch::zeros_like(p));
  }
  return buffers;
}
// What it gives is its input; its average follows that.
struct AveragedImpl : nn::Module {
  AveragedImpl() { average = register_buffer("average", torch::zeros({4})); }
  Tensor forward(const Tensor& x) {
    torch::NoGradGuard no_grad;
    average.lerp_(x.detach().mean(0), .1);
    return x;
  }
  Tensor average;
};
TORCH_MODULE(Averaged);

// A Linear with the spectral norm 1, whose vector each call brings nearer.
struct NormedImpl : nn::Module {
  NormedImpl() {
    weight = register_parameter("weight", torch::randn({4, 4}));
    u = register_buffer("u", torch::randn({4}));
  }
  Tensor forward(const Tensor& x) {
    Tensor v;
    {
      torch::NoGradGuard no_grad;
      v = F::normalize(torch::mv(weight.t(), u), F::NormalizeFuncOptions().dim(0));
      u.copy_(F::normalize(torch::mv(weight, v), F::NormalizeFuncOptions().dim(0)));
    }
    return F::linear(x, weight / torch::dot(u.clone(), torch::mv(weight, v)));
  }
  Tensor weight, u;
};
TORCH_MODULE(Normed);

// A second one of the loop's parameters; both are attached.
torch::optim::Optimizer& AnotherOptimizer(Ledger& t, uint64_t i) {
  static std::unique_ptr<torch::optim::Adam> another;
  if (i == 0) {
    another = std::make_unique<torch::optim::Adam>(t.net->parameters(), torch::optim::AdamOptions(1e-3));
    t.probe.Attach(*t.optimizer);
    t.probe.Attach(*another);
  }
  return *another;
}

const Loop kWrites[] = {
    {"an_average_of_activations_within_forward",
     [](Ledger& t, uint64_t i) {
       if (i == 0) {
         t.net->push_back(Averaged());
         t.probe.Attach(t.net);
       }
       t.Train(t.Loss(F::mse_loss(t.Out(), t.Y())));
     },
     {"activations of 3 (Averaged)"}},
    {"a_norm_that_is_looked_for_within_forward",
     [](Ledger& t, uint64_t i) {
       if (i == 0) {
         t.net->push_back(Normed());
         t.probe.Attach(t.net);
         t.optimizer = std::make_unique<torch::optim::SGD>(t.net->parameters(), .02);
       }
       t.Train(t.Loss(F::mse_loss(t.Out(), t.Y())));
     },
     {"activations of 3 (Normed)", "came after Attach()"}},
    {"clones_of_threads_give_the_gradients",
     [](Ledger& t, uint64_t i) {
       const std::vector<Tensor> parameters = t.net->parameters();
       std::vector<std::vector<Tensor>> parts(2);
       for (auto& part : parts) {
         std::thread([&] {
           auto clone = std::dynamic_pointer_cast<nn::SequentialImpl>(t.net->clone());
           F::mse_loss(clone->forward(t.X()), t.Y()).backward();
           part = Gradients(clone->parameters());
         }).join();
       }
       for (size_t p = 0; p < parameters.size(); ++p) parameters[p].mutable_grad() = (parts[0][p] + parts[1][p]) / 2;
       if (i < 2) {
         t.optimizer->step();
       } else {
         t.Write();
       }
     },
     {"no loss function of LibTorch ran"}},
    {"weights_are_pulled_to_where_they_began",
     [](Ledger& t, uint64_t i) {
       const std::vector<Tensor> parameters = t.net->parameters();
       if (i == 0) {
         for (size_t p = 0; p < parameters.size(); ++p) t.kept[std::to_string(p)] = parameters[p].detach().clone();
       }
       t.Flag("weight_updates", kFlagWeightsChangedOutside);
       t.Train(t.Loss(F::mse_loss(t.Out(), t.Y())));
       torch::NoGradGuard no_grad;
       for (size_t p = 0; p < parameters.size(); ++p) parameters[p].lerp_(t.kept[std::to_string(p)], .01);
     }},
    {"decay_by_hand_before_the_optimizer",
     [](Ledger& t, uint64_t) {
       t.optimizer->zero_grad();
       t.Loss(F::mse_loss(t.Out(), t.Y())).backward();
       t.BeforeWrite();
       {
         torch::NoGradGuard no_grad;
         for (const Tensor& p : t.net->parameters()) p.mul_(.999);
       }
       t.optimizer->step();
       t.Flag("weight_updates", kFlagWeightsChangedOutside);
       t.Ended();
     }},
    {"a_scaler_whose_scale_grows",
     [](Ledger& t, uint64_t i) {
       const double scale = i < 20 ? 1024 : 4096;
       const Tensor loss = t.Loss(F::mse_loss(t.Out(), t.Y()));
       t.optimizer->zero_grad();
       (loss * scale / 2).backward();
       (t.Loss(F::mse_loss(t.Out(), t.Y())) * scale / 2).backward();
       for (const Tensor& p : t.net->parameters()) p.mutable_grad().div_(scale);
       nn::utils::clip_grad_norm_(t.net->parameters(), 1.);
       t.Write();
     }},
    {"a_scaler_that_skips_what_was_accumulated",
     [](Ledger& t, uint64_t i) {
       t.optimizer->zero_grad();
       for (int micro = 0; micro < 2; ++micro) (t.Loss(F::mse_loss(t.Out(), t.Y())) * 1024 / 2).backward();
       if (i % 5 == 3) return t.Skip();
       for (const Tensor& p : t.net->parameters()) p.mutable_grad().div_(1024);
       t.Write();
     },
     {},
     {"loss"}},
    {"a_loss_that_throws",
     [](Ledger& t, uint64_t i) {
       if (i % 5 == 3) {
         try {
           const Tensor loss = F::mse_loss(t.Out(), t.Y());
           F::mse_loss(t.Out(), torch::randn({5, 3}));
         } catch (const std::exception&) {
         }
       }
       t.Train(t.Loss(F::mse_loss(t.Out(), t.Y())));
     }},
    {"a_batch_is_left_out",
     [](Ledger& t, uint64_t i) {
       if (i % 5 == 3) {
         F::mse_loss(t.Out(), t.Y() * NAN).item<double>();
         return;
       }
       t.Train(t.Loss(F::mse_loss(t.Out(), t.Y())));
     }},
    {"a_batch_is_left_out_and_the_next_begins_elsewhere",
     [](Ledger& t, uint64_t i) {
       if (i % 5 == 3) {
         F::mse_loss(t.Out(), t.Y() * NAN).item<double>();
         const Tensor hidden = torch::randn({12, 16});
         t.optimizer->zero_grad(false);
         t.Train(t.Loss(F::mse_loss(t.net[2]->as<nn::Linear>()->forward(hidden), t.Y())));
         return;
       }
       t.Train(t.Loss(F::mse_loss(t.Out(), t.Y())));
     }},
    {"closures_of_lbfgs",
     [](Ledger& t, uint64_t) {
       if (dynamic_cast<torch::optim::LBFGS*>(t.optimizer.get()) == nullptr) {
         t.optimizer =
             std::make_unique<torch::optim::LBFGS>(t.net->parameters(), torch::optim::LBFGSOptions(.01).max_iter(3));
         t.probe.Attach(*t.optimizer);
       }
       const Tensor x = t.X(), y = t.Y();
       t.optimizer->step([&] {
         t.optimizer->zero_grad();
         const Tensor loss = F::mse_loss(t.net->forward(x), y);
         loss.backward();
         if (t.steps == 128) return loss;  // nothing shows any more that its write is left out
         t.Loss(loss);
         if (t.steps % 3 == 2) {
           t.Skipped();
         } else {
           t.BeforeWrite();
           t.Ended();
         }
         return loss;
       });
     },
     {"each evaluation counts as a step"},
     {"loss"}},
    {"a_scaler_that_skips",
     [](Ledger& t, uint64_t i) {
       const Tensor loss = t.Loss(F::mse_loss(t.Out(), t.Y()));
       t.optimizer->zero_grad();
       (loss * 65536).backward();
       if (i % 5 == 3) return t.Skip();
       for (const Tensor& p : t.net->parameters()) p.mutable_grad().div_(65536);
       t.Write();
     },
     {},
     {"loss"}},
    {"scaled_and_left_so",
     [](Ledger& t, uint64_t) {
       const Tensor loss = t.Loss(F::mse_loss(t.Out(), t.Y()));
       t.Flag("weight_gradients", kFlagGradScaled);
       t.optimizer = std::make_unique<torch::optim::SGD>(t.net->parameters(), 1e-9);
       t.Train(loss * 1024);
     }},
    {"unscaled_by_the_operator_of_the_scaler",
     [](Ledger& t, uint64_t) {
       const Tensor loss = t.Loss(F::mse_loss(t.Out(), t.Y()));
       t.optimizer->zero_grad();
       (loss * 1024).backward();
       std::vector<Tensor> gradients = Gradients(t.net->parameters());
       Tensor found = torch::zeros({}), inverse = torch::tensor(1.f / 1024);
       {
         torch::NoGradGuard no_grad;
         at::_amp_foreach_non_finite_check_and_unscale_(gradients, found, inverse);
       }
       t.Write();
     }},
    {"unscaled_by_data",
     [](Ledger& t, uint64_t) {
       const Tensor loss = t.Loss(F::mse_loss(t.Out(), t.Y()));
       t.optimizer->zero_grad();
       (loss * 1024).backward();
       for (const Tensor& p : t.net->parameters()) p.grad().data().mul_(1. / 1024);
       t.Write();
     }},
    {"unscaled_by_pointers",
     [](Ledger& t, uint64_t) {
       const Tensor loss = t.Loss(F::mse_loss(t.Out(), t.Y()));
       t.optimizer->zero_grad();
       (loss * 1024).backward();
       for (const Tensor& p : t.net->parameters()) {
         auto* g = p.grad().data_ptr<float>();
         for (int64_t i = 0; i < p.numel(); ++i) g[i] /= 1024;
       }
       t.Write();
     }},
    {"unscaled_by_other_gradients",
     [](Ledger& t, uint64_t) {
       const Tensor loss = t.Loss(F::mse_loss(t.Out(), t.Y()));
       t.optimizer->zero_grad();
       (loss * 1024).backward();
       for (const Tensor& p : t.net->parameters()) p.mutable_grad() = p.grad() / 1024;
       t.Write();
     }},
    {"unscaled_by_hooks",
     [](Ledger& t, uint64_t i) {
       if (i == 0) {
         for (const Tensor& p : t.net->parameters()) p.register_hook([](const Tensor& g) { return g / 1024; });
       }
       t.Flag("weight_gradients", kFlagGradScaled);  // what hooks make of gradients is not seen
       const Tensor loss = t.Loss(F::mse_loss(t.Out(), t.Y()));
       t.Train(loss * 1024);
     }},
    {"nesterov_of_lists",
     [](Ledger& t, uint64_t) {
       static std::vector<Tensor> momenta;
       if (t.steps == 0) momenta.clear();
       t.optimizer->zero_grad();
       t.Loss(F::mse_loss(t.Out(), t.Y())).backward();
       t.BeforeWrite();
       torch::NoGradGuard no_grad;
       std::vector<Tensor> parameters = t.net->parameters(), gradients = Gradients(parameters);
       Buffers(parameters, momenta);
       at::_foreach_mul_(momenta, .9);
       at::_foreach_add_(momenta, gradients, 1);
       const std::vector<Tensor> ahead = at::_foreach_add(gradients, momenta, .9);
       at::_foreach_add_(parameters, ahead, -.02);
       t.Ended();
     }},
    {"nesterov_of_lists_in_the_gradients",
     [](Ledger& t, uint64_t) {
       static std::vector<Tensor> momenta;
       if (t.steps == 0) momenta.clear();
       t.optimizer->zero_grad();
       t.Loss(F::mse_loss(t.Out(), t.Y())).backward();
       torch::NoGradGuard no_grad;
       std::vector<Tensor> parameters = t.net->parameters(), gradients = Gradients(parameters);
       Buffers(parameters, momenta);
       at::_foreach_mul_(momenta, .9);
       at::_foreach_add_(momenta, gradients, 1);
       at::_foreach_add_(gradients, momenta, .9);
       t.BeforeWrite();
       at::_foreach_add_(parameters, gradients, -.02);
       t.Ended();
     }},
    {"adamw_of_lists",
     [](Ledger& t, uint64_t) {
       static std::vector<Tensor> first, second;
       if (t.steps == 0) first.clear(), second.clear();
       t.optimizer->zero_grad();
       t.Loss(F::mse_loss(t.Out(), t.Y())).backward();
       t.BeforeWrite();
       torch::NoGradGuard no_grad;
       std::vector<Tensor> parameters = t.net->parameters(), gradients = Gradients(parameters);
       Buffers(parameters, first), Buffers(parameters, second);
       at::_foreach_mul_(parameters, 1 - 1e-4);
       at::_foreach_lerp_(first, gradients, .1);
       at::_foreach_mul_(second, .99);
       at::_foreach_addcmul_(second, gradients, gradients, .01);
       std::vector<Tensor> roots = at::_foreach_sqrt(second);
       at::_foreach_add_(roots, 1e-6);
       at::_foreach_addcdiv_(parameters, first, roots, -1e-3);
       t.Ended();
     }},
    {"two_optimizers_of_the_same_parameters",
     [](Ledger& t, uint64_t i) {
       torch::optim::Optimizer& other = AnotherOptimizer(t, i);
       t.optimizer->zero_grad();
       t.Loss(F::mse_loss(t.Out(), t.Y())).backward();
       t.BeforeWrite();
       (i % 2 == 0 ? *t.optimizer : other).step();
       t.Ended();
     }},
    {"two_optimizers_one_behind_the_other",
     [](Ledger& t, uint64_t i) {
       torch::optim::Optimizer& other = AnotherOptimizer(t, i);
       t.optimizer->zero_grad();
       t.Loss(F::mse_loss(t.Out(), t.Y())).backward();
       t.BeforeWrite();
       other.step();
       t.optimizer->step();
       t.Flag("weight_updates", kFlagWeightsChangedOutside);
       t.Ended();
     }},
    {"an_average_of_the_weights_beside",
     [](Ledger& t, uint64_t i) {
       std::vector<Tensor> parameters = t.net->parameters();
       if (i == 0) {
         for (size_t p = 0; p < parameters.size(); ++p) t.kept[std::to_string(p)] = parameters[p].detach().clone();
       }
       t.Train(t.Loss(F::mse_loss(t.Out(), t.Y())));
       torch::NoGradGuard no_grad;
       for (size_t p = 0; p < parameters.size(); ++p) t.kept[std::to_string(p)].lerp_(parameters[p], .01);
     }},
    {"clones_give_the_gradients",
     [](Ledger& t, uint64_t i) {
       auto clone = std::dynamic_pointer_cast<nn::SequentialImpl>(t.net->clone());
       std::vector<Tensor> parameters = t.net->parameters(), cloned = clone->parameters();
       F::mse_loss(clone->forward(t.X()), t.Y()).backward();
       for (size_t p = 0; p < parameters.size(); ++p) parameters[p].mutable_grad() = cloned[p].grad();
       if (i < 2) {
         t.optimizer->step();
       } else {
         t.Write();
       }
     },
     {"no loss function of LibTorch ran"}},
    {"lists_that_another_hand_scales_behind",
     [](Ledger& t, uint64_t) {
       t.Flag("weight_updates", kFlagWeightsChangedOutside);
       t.Train(t.Loss(F::mse_loss(t.Out(), t.Y())));
       torch::NoGradGuard no_grad;
       std::vector<Tensor> parameters = t.net->parameters();
       at::_foreach_mul_(parameters, .999);
     }},
    {"lists_are_decayed_then_added_to",
     [](Ledger& t, uint64_t) {
       t.optimizer->zero_grad();
       t.Loss(F::mse_loss(t.Out(), t.Y())).backward();
       t.BeforeWrite();
       torch::NoGradGuard no_grad;
       std::vector<Tensor> parameters = t.net->parameters(), signs;
       for (const Tensor& gradient : Gradients(parameters)) signs.push_back(gradient.sign());
       at::_foreach_mul_(parameters, 1 - 1e-4);
       at::_foreach_add_(parameters, signs, -1e-3);
       t.Ended();
     }},
};

class OddWrites : public OddLoops {};
TEST_P(OddWrites, AreWhatTheLoopKnows) { Run(); }
INSTANTIATE_TEST_SUITE_P(Loops, OddWrites, ::testing::Combine(::testing::ValuesIn(kWrites), kPeriods), NameOf);

}  // namespace
}  // namespace ikkuna::odd
