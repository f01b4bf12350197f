// Odd evaluations: where they stand, in which mode they run, and what they compare.
#include <stdexcept>
#include <thread>

#include "tests/probe/torch/odd_loops.h"

namespace ikkuna::odd {
namespace {

Tensor Evaluate(Ledger& t, bool classes = true, int64_t rows = 12) {
  torch::NoGradGuard no_grad;
  t.net->eval();
  const Tensor out = t.Out(rows);
  Tensor loss;
  if (classes) {
    const Tensor k = t.K(rows);
    loss = t.Tested(F::cross_entropy(out, k), out, k);
  } else {
    t.Tested(loss = F::mse_loss(out, t.Y(rows)));
  }
  t.net->train();
  return loss;
}
void GiveEvaluated(Ledger& t) {
  torch::NoGradGuard no_grad;
  t.net->eval();
  const Tensor loss = t.Out().pow(2).mean();
  t.probe.Loss(loss);
  t.Tested(loss);
  t.net->train();
}

const Loop kEvaluations[] = {
    {"evaluations_in_the_midst",
     [](Ledger& t, uint64_t i) {
       Classify(t);
       if (i % 4 == 2) {
         for (const int64_t rows : {12, 12, 5}) Evaluate(t, true, rows);
       }
     }},
    {"evaluations_at_each_step",
     [](Ledger& t, uint64_t) {
       Classify(t);
       Evaluate(t);
     }},
    {"evaluations_before_training",
     [](Ledger& t, uint64_t i) {
       if (i == 0) {
         for (int batch = 0; batch < 64; ++batch) Evaluate(t);
       }
       Classify(t);
     }},
    {"evaluations_before_each_step",
     [](Ledger& t, uint64_t) {
       Evaluate(t);
       Classify(t);
     }},
    {"evaluations_in_inference_mode",
     [](Ledger& t, uint64_t i) {
       Classify(t);
       if (i % 4 != 2) return;
       c10::InferenceMode inference;
       Evaluate(t);
     }},
    {"evaluations_in_training_mode",
     [](Ledger& t, uint64_t i) {
       Classify(t);
       if (i % 4 != 2) return;
       torch::NoGradGuard no_grad;
       const Tensor out = t.Out(), k = t.K();
       t.Tested(F::cross_entropy(out, k), out, k, "no_grad");
     }},
    {"evaluations_in_training_mode_with_gradients",
     [](Ledger& t, uint64_t i) {
       Classify(t);
       if (i % 4 == 2) F::cross_entropy(t.Out(), t.K()).item<double>();
     }},
    {"evaluations_with_gradients",
     [](Ledger& t, uint64_t i) {
       Classify(t);
       if (i % 4 != 2) return;
       t.net->eval();
       const Tensor out = t.Out(), k = t.K();
       t.Tested(F::cross_entropy(out, k), out, k);
       t.net->train();
     }},
    {"evaluations_amid_accumulation",
     [](Ledger& t, uint64_t i) {
       t.optimizer->zero_grad();
       for (int micro = 0; micro < 3; ++micro) {
         const Tensor out = t.Out(), k = t.K();
         (t.Classified(F::cross_entropy(out, k), out, k) / 3).backward();
         if (micro == 1 && i % 4 == 2) Evaluate(t);
       }
       t.Write();
     }},
    {"evaluations_between_forward_and_backward",
     [](Ledger& t, uint64_t i) {
       const Tensor out = t.Out(), k = t.K(), loss = t.Classified(F::cross_entropy(out, k), out, k);
       if (i % 4 == 2) Evaluate(t);
       t.Train(loss);
     }},
    {"evaluations_between_backward_and_write",
     [](Ledger& t, uint64_t i) {
       const Tensor out = t.Out(), k = t.K();
       t.optimizer->zero_grad();
       t.Classified(F::cross_entropy(out, k), out, k).backward();
       if (i % 4 == 2) Evaluate(t);
       t.Write();
     }},
    {"evaluations_of_another_model",
     [](Ledger& t, uint64_t i) {
       static nn::Sequential other = Net();
       Classify(t);
       if (i % 4 != 2) return;
       torch::NoGradGuard no_grad;
       other->eval();
       F::cross_entropy(other->forward(t.X()), t.K());
     }},
    {"evaluations_of_whole_sets",
     [](Ledger& t, uint64_t i) {
       Classify(t);
       if (i % 4 != 2) return;
       torch::NoGradGuard no_grad;
       t.net->eval();
       const Tensor out = torch::cat({t.Out(), t.Out(), t.Out()}), k = t.K(36);
       t.Tested(F::cross_entropy(out, k), out, k);
       t.net->train();
     }},
    {"evaluations_of_views",
     [](Ledger& t, uint64_t i) {
       Classify(t);
       if (i % 4 != 2) return;
       torch::NoGradGuard no_grad;
       t.net->eval();
       const Tensor out = (t.Out() + t.Out()) / 2, k = t.K();
       t.Tested(F::cross_entropy(out, k), out, k);
       t.net->train();
     }},
    {"evaluations_by_a_sum",
     [](Ledger& t, uint64_t i) {
       t.Train(t.Loss(F::mse_loss(t.Out(), t.Y())));
       if (i % 4 != 2) return;
       torch::NoGradGuard no_grad;
       t.net->eval();
       t.Tested(F::mse_loss(t.Out(), t.Y(), kSummed) / 48);
       t.net->train();
     }},
    {"evaluations_of_each",
     [](Ledger& t, uint64_t i) {
       t.Train(t.Loss(F::mse_loss(t.Out(), t.Y())));
       if (i % 4 != 2) return;
       torch::NoGradGuard no_grad;
       t.net->eval();
       F::mse_loss(t.Out(), t.Y(), kEach).mean();
       t.net->train();
     },
     {"reduction=none are not known"}},
    {"evaluations_whose_loss_is_outside_the_guard",
     [](Ledger& t, uint64_t i) {
       Classify(t);
       if (i % 4 != 2) return;
       t.net->eval();
       for (int batch = 0; batch < 3; ++batch) {
         Tensor out;
         {
           torch::NoGradGuard no_grad;
           out = t.Out();
         }
         const Tensor k = t.K();
         t.Tested(F::cross_entropy(out, k), out, k);
       }
       t.net->train();
     }},
    {"evaluations_whose_loss_is_outside_inference_mode",
     [](Ledger& t, uint64_t i) {
       Classify(t);
       if (i % 4 != 2) return;
       t.net->eval();
       Tensor out;
       {
         c10::InferenceMode inference;
         out = t.Out();
       }
       const Tensor k = t.K();
       t.Tested(F::cross_entropy(out, k), out, k);
       t.net->train();
     }},
    {"evaluations_whose_loss_comes_in_training_mode",
     [](Ledger& t, uint64_t i) {
       Classify(t);
       if (i % 4 != 2) return;
       torch::NoGradGuard no_grad;
       t.net->eval();
       const Tensor out = t.Out(), k = t.K();
       t.net->train();
       t.Tested(F::cross_entropy(out, k), out, k);
     }},
    {"evaluations_of_detached_outputs",
     [](Ledger& t, uint64_t i) {
       Classify(t);
       if (i % 4 != 2) return;
       t.net->eval();
       F::cross_entropy(t.Out().detach(), t.K());  // of which pass it is shows nowhere
       t.net->train();
     }},
    {"labels_of_a_pass_without_gradients",
     [](Ledger& t, uint64_t) {
       Tensor pseudo;
       {
         torch::NoGradGuard no_grad;
         pseudo = t.Out();
       }
       const Tensor out = t.Out();
       t.Train(t.Loss(F::mse_loss(pseudo, out)));
     }},
    {"labels_of_a_pass_without_gradients_behind",
     [](Ledger& t, uint64_t) {
       const Tensor out = t.Out();
       Tensor pseudo;
       {
         torch::NoGradGuard no_grad;
         pseudo = t.Out();
       }
       t.Train(t.Loss(F::mse_loss(pseudo, out)));
     }},
    {"evaluations_in_chunks",
     [](Ledger& t, uint64_t i) {
       Classify(t);
       if (i % 4 != 2) return;
       torch::NoGradGuard no_grad;
       t.net->eval();
       for (int batch = 0; batch < 2; ++batch) {
         const Tensor out = torch::cat({t.Out(5), t.Out(5), t.Out(2)}), k = t.K();
         t.Tested(F::cross_entropy(out, k), out, k);
       }
       t.net->train();
     }},
    {"training_in_evaluation_mode",
     [](Ledger& t, uint64_t i) {
       t.net->eval();
       const Tensor out = t.Out(), k = t.K();
       const Tensor loss = F::cross_entropy(out, k);
       if (i == 0) t.Tested(loss, out, k);  // what it is shows when it is written
       t.Train(i == 0 ? loss : t.Classified(loss, out, k));
       if (i % 4 == 2) Evaluate(t);
     }},
    {"evaluations_before_training_beside_an_average",
     [](Ledger& t, uint64_t i) {
       static nn::Sequential average = Net();
       if (i == 0) {
         t.probe.Attach(average, AttachOptions{.name = "average"});
         for (int batch = 0; batch < 70; ++batch) Evaluate(t);
       }
       Classify(t);
     }},
    {"evaluations_of_weights_that_are_swapped_in",
     [](Ledger& t, uint64_t i) {
       const std::vector<Tensor> parameters = t.net->parameters();
       if (i % 4 == 2) t.Flag("weight_updates", kFlagWeightsChangedOutside);
       Classify(t);
       if (i % 4 != 2) return;
       torch::NoGradGuard no_grad;
       std::vector<Tensor> own;
       for (const Tensor& p : parameters) {
         own.push_back(p.detach().clone());
         p.copy_(p * .5);
       }
       t.SwappedIn();
       Evaluate(t);
       for (size_t p = 0; p < own.size(); ++p) parameters[p].copy_(own[p]);
     }},
    {"evaluations_of_two_sets",
     [](Ledger& t, uint64_t i) {
       Classify(t);
       if (i % 4 != 2) return;
       for (const char* set : {"test", "no_grad"}) {
         t.probe.Tag(set);
         torch::NoGradGuard no_grad;
         t.net->eval();
         for (const int64_t rows : {12, 3}) {
           const Tensor out = t.Out(rows), k = t.K(rows);
           t.Tested(F::cross_entropy(out, k), out, k, set);
         }
         t.net->train();
       }
       t.probe.Tag("");
     }},
    {"evaluations_of_a_frozen_half",
     [](Ledger& t, uint64_t i) {
       t.net[0]->as<nn::Linear>()->weight.set_requires_grad(false);
       t.net[0]->as<nn::Linear>()->bias.set_requires_grad(false);
       Classify(t);
       if (i % 4 == 2) Evaluate(t);
     }},
    {"evaluations_that_end_training",
     [](Ledger& t, uint64_t i) {
       if (i < 30) Classify(t);
       if (i >= 30) Evaluate(t);
     }},
    {"training_behind_gradients_of_the_input",
     [](Ledger& t, uint64_t i) {
       if (i % 4 == 2) {
         const Tensor x = t.X().requires_grad_();
         (void)torch::autograd::grad({F::cross_entropy(t.net->forward(x), t.K())}, {x});
       }
       Classify(t);
     }},
    {"adversarial_training",
     [](Ledger& t, uint64_t) {
       const Tensor x = t.X().requires_grad_(), k = t.K();
       const Tensor slope = torch::autograd::grad({F::cross_entropy(t.net->forward(x), k)}, {x})[0];
       const Tensor out = t.net->forward((x + .1 * slope.sign()).detach());
       t.Train(t.Classified(F::cross_entropy(out, k), out, k));
     }},
    {"evaluations_by_two_functions",
     [](Ledger& t, uint64_t i) {
       t.Train(t.Loss(F::mse_loss(t.Out(), t.Y())));
       if (i % 4 != 2) return;
       torch::NoGradGuard no_grad;
       t.net->eval();
       const Tensor out = t.Out(), y = t.Y();
       t.Tested(F::mse_loss(out, y), "mse");
       t.Tested(F::l1_loss(out, y), "l1");
       t.net->train();
     },
     {"another function"}},
    {"evaluations_whose_first_batch_fails",
     [](Ledger& t, uint64_t i) {
       Classify(t);
       if (i % 4 != 2) return;
       try {
         torch::NoGradGuard no_grad;
         t.net->eval();
         F::cross_entropy(t.Out(), torch::randint(4, {7}));
       } catch (const std::exception&) {
       }
       Evaluate(t);
     }},
    {"evaluations_that_give_their_loss",
     [](Ledger& t, uint64_t i) {
       const Tensor out = t.Out(), loss = t.Loss(out.pow(2).mean());
       t.probe.Loss(loss);
       t.Train(loss);
       if (i % 4 != 2) return;
       torch::NoGradGuard no_grad;
       t.net->eval();
       for (int batch = 0; batch < 2; ++batch) {
         const Tensor tested = t.Out().pow(2).mean();
         t.probe.Loss(tested);
         t.Tested(tested);
       }
       t.net->train();
     }},
    {"evaluations_that_nobody_asks_for_give_their_loss",
     [](Ledger& t, uint64_t i) {
       Classify(t);
       if (i % 4 == 2) GiveEvaluated(t);
     },
     {},
     {},
     nullptr,
     true},
    {"evaluations_that_nobody_asks_for_give_their_loss_before_the_write",
     [](Ledger& t, uint64_t i) {
       const Tensor out = t.Out(), k = t.K();
       t.optimizer->zero_grad();
       t.Classified(F::cross_entropy(out, k), out, k).backward();
       if (i % 4 == 2) GiveEvaluated(t);
       t.Write();
     },
     {},
     {},
     nullptr,
     true},
    {"evaluations_that_nobody_asks_for_give_their_loss_before_backward",
     [](Ledger& t, uint64_t i) {
       const Tensor out = t.Out(), k = t.K(), loss = t.Classified(F::cross_entropy(out, k), out, k);
       if (i % 4 == 2) GiveEvaluated(t);
       t.Train(loss);
     },
     {},
     {},
     nullptr,
     true},
    {"evaluations_give_their_loss_beside_one_that_is_recognised",
     [](Ledger& t, uint64_t i) {
       Classify(t);
       if (i % 4 == 2) GiveEvaluated(t);
     }},
    {"evaluations_on_another_thread",
     [](Ledger& t, uint64_t i) {
       Classify(t);
       if (i % 4 == 2) std::thread([&] { Evaluate(t); }).join();
     }},
};

class OddEvaluations : public OddLoops {};
TEST_P(OddEvaluations, AreWhatTheLoopKnows) { Run(); }
INSTANTIATE_TEST_SUITE_P(Loops, OddEvaluations, ::testing::Combine(::testing::ValuesIn(kEvaluations), kPeriods),
                         NameOf);

}  // namespace
}  // namespace ikkuna::odd
