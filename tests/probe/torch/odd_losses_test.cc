// Odd losses: which number stands under `loss`, and which go by the names of terms.
#include <stdexcept>

#include "tests/probe/torch/odd_loops.h"

namespace ikkuna::odd {
namespace {

Tensor Decay(const nn::Sequential& net) {
  Tensor sum = torch::zeros({});
  for (const Tensor& p : net->parameters()) sum = sum + p.pow(2).sum();
  return sum;
}

struct Halved : torch::autograd::Function<Halved> {
  static Tensor forward(torch::autograd::AutogradContext*, const Tensor& x) { return x / 2; }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 const torch::autograd::variable_list& gradient) {
    return {gradient[0] / 2};
  }
};
struct SquaredError : torch::autograd::Function<SquaredError> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& y) {
    context->save_for_backward({x, y});
    return (x - y).pow(2).mean();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradient) {
    const auto saved = context->get_saved_variables();
    return {gradient[0] * 2 * (saved[0] - saved[1]) / static_cast<double>(saved[0].numel()), Tensor()};
  }
};

const Loop kTerms[] = {
    {"two_terms",
     [](Ledger& t, uint64_t) {
       const Tensor out = t.Out(), k = t.K();
       t.Compared("default", out, k);
       t.Train(t.Loss(F::cross_entropy(out, k), "cross_entropy") + .1 * t.Loss(F::mse_loss(out, t.Y()), "mse"));
     },
     {"several terms"}},
    {"the_next_batch_is_computed_before_backward",
     [](Ledger& t, uint64_t) {
       const auto compute = [&] { return F::mse_loss(t.Out(), t.Y()); };
       Tensor now = t.kept["next"].defined() ? t.kept["next"] : compute();
       t.kept["next"] = compute();
       t.Train(t.Loss(now));
     },
     {},
     {"loss"},
     "begin in the step before their own"},
    {"last_chunk_is_smaller",
     [](Ledger& t, uint64_t) {
       t.optimizer->zero_grad();
       for (const int64_t rows : {5, 5, 2}) {
         (t.Loss(F::mse_loss(t.Out(rows), t.Y(rows))) * (static_cast<double>(rows) / 12)).backward();
       }
       t.Write();
     }},
    {"each_then_mean", [](Ledger& t, uint64_t) { t.Train(t.Loss(F::mse_loss(t.Out(), t.Y(), kEach).mean())); }},
    {"each_then_weighted_mean",
     [](Ledger& t, uint64_t) {
       t.Train(t.Loss((F::mse_loss(t.Out(), t.Y(), kEach) * torch::rand({12, 1})).mean()));
     }},
    {"each_then_masked_mean",
     [](Ledger& t, uint64_t) {
       const Tensor mask = (torch::rand({12, 1}) > .3).to(torch::kFloat);
       t.Train(t.Loss((F::mse_loss(t.Out(), t.Y(), kEach).mean(1, true) * mask).sum() / mask.sum()));
     }},
    {"each_selected",
     [](Ledger& t, uint64_t) {
       const Tensor each = F::mse_loss(t.Out(), t.Y(), kEach).mean(1);
       t.Train(t.Loss(each.masked_select(each > each.median()).mean()));
     }},
    {"each_hardest",
     [](Ledger& t, uint64_t) {
       t.Train(t.Loss(std::get<0>(F::mse_loss(t.Out(), t.Y(), kEach).mean(1).topk(5)).mean()));
     }},
    {"each_times_a_reciprocal",
     [](Ledger& t, uint64_t) { t.Train(t.Loss(F::mse_loss(t.Out(), t.Y(), kEach).sum()) * (1 / 7.)); },
     {"multiplies"}},
    {"each_backward_with_weights",
     [](Ledger& t, uint64_t) {
       t.optimizer->zero_grad();
       F::mse_loss(t.Out(), t.Y(), kEach).backward(torch::ones({12, 4}) / 48);
       t.Write();
     },
     {"many elements"}},
    {"each_and_its_largest",
     [](Ledger& t, uint64_t) {
       const Tensor each = F::mse_loss(t.Out(), t.Y(), kEach);
       t.Train(each.mean() + each.max());
     },
     {"several terms"}},
    {"root_of_the_mean_of_each",
     [](Ledger& t, uint64_t) { t.Train(t.Loss(F::mse_loss(t.Out(), t.Y(), kEach).mean().sqrt())); }},
    {"root_of_the_mean",
     [](Ledger& t, uint64_t) { t.Train(t.Loss(F::mse_loss(t.Out(), t.Y()), "mse").sqrt()); },
     {"several terms"}},
    {"outputs_of_two_batches",
     [](Ledger& t, uint64_t) {
       const Tensor out = torch::cat({t.Out(), t.Out()}), k = t.K(24);
       t.Train(t.Classified(F::cross_entropy(out, k), out, k));
     }},
    {"divided_for_accumulation",
     [](Ledger& t, uint64_t) {
       t.optimizer->zero_grad();
       for (int i = 0; i < 4; ++i) (t.Loss(F::mse_loss(t.Out(), t.Y())) / 4).backward();
       t.Write();
     }},
    {"divided_in_place",
     [](Ledger& t, uint64_t) {
       t.optimizer->zero_grad();
       for (int i = 0; i < 4; ++i) {
         Tensor loss = F::mse_loss(t.Out(), t.Y());
         t.Loss(loss);
         loss /= 4;
         loss.backward();
       }
       t.Write();
     }},
    {"added_to_in_place",
     [](Ledger& t, uint64_t) {
       Tensor loss = F::mse_loss(t.Out(), t.Y());
       t.Loss(loss, "mse");
       loss += 1e-3 * Decay(t.net);
       t.Train(loss);
     },
     {"several terms"}},
    {"micro_batches_summed_for_one_backward",
     [](Ledger& t, uint64_t) {
       Tensor total = torch::zeros({});
       for (int i = 0; i < 3; ++i)
         total = total + t.Loss(F::mse_loss(t.Out(), t.Y()), i == 0 ? "mse" : "mse_" + std::to_string(i + 1)) / 3;
       t.Train(total);
     },
     {"several terms"}},
    {"a_loss_a_row",
     [](Ledger& t, uint64_t) {
       const Tensor out = t.Out(3), y = t.Y(3);
       std::vector<Tensor> rows;
       for (int64_t row = 0; row < 3; ++row)
         rows.push_back(t.Loss(F::mse_loss(out[row], y[row]), row == 0 ? "mse" : "mse_" + std::to_string(row + 1)));
       t.Train(torch::stack(rows).mean());
     },
     {"several terms"}},
    {"label_smoothing",
     [](Ledger& t, uint64_t) {
       const Tensor out = t.Out(), k = t.K();
       t.Train(t.Classified(F::cross_entropy(out, k, F::CrossEntropyFuncOptions().label_smoothing(.1)), out, k));
     }},
    {"a_penalty_by_hand",
     [](Ledger& t, uint64_t) {
       const Tensor out = t.Out(), k = t.K();
       t.Compared("default", out, k);
       t.Train(t.Loss(F::cross_entropy(out, k), "cross_entropy") + 1e-3 * Decay(t.net));
     },
     {"several terms"}},
    {"mixup",
     [](Ledger& t, uint64_t) {
       const Tensor out = t.Out();
       const Tensor one = t.Loss(F::cross_entropy(out, t.K()), "cross_entropy");
       t.Train(.3 * one + .7 * t.Loss(F::cross_entropy(out, t.K()), "cross_entropy_2"));
     },
     {"several terms", "several losses of one pass have class labels"}},
    {"an_auxiliary_head",
     [](Ledger& t, uint64_t) {
       const Tensor x = t.X(), hidden = torch::relu(t.net[0]->as<nn::Linear>()->forward(x)), k = t.K();
       const Tensor out = t.net[2]->as<nn::Linear>()->forward(hidden);
       const Tensor main = t.Loss(F::cross_entropy(out, k), "cross_entropy");
       t.Train(main + .4 * t.Loss(F::cross_entropy(hidden.slice(1, 0, 4), k), "cross_entropy_2"));
     },
     {"several terms", "several losses of one pass have class labels"}},
    {"distillation",
     [](Ledger& t, uint64_t) {
       const Tensor out = t.Out(), k = t.K();
       t.Compared("default", out, k);
       const Tensor soft = F::kl_div(torch::log_softmax(out / 4, 1), torch::softmax(t.Y(), 1),
                                     F::KLDivFuncOptions().reduction(torch::kBatchMean));
       t.Train(.5 * t.Loss(F::cross_entropy(out, k), "cross_entropy") + .5 * 16 * t.Loss(soft, "kl_div"));
     },
     {"several terms"}},
    {"contrastive_by_hand",
     [](Ledger& t, uint64_t) {
       const Tensor a = torch::nn::functional::normalize(t.Out()), b = torch::nn::functional::normalize(t.Out());
       const Tensor similar = torch::mm(a, b.t()) / .1;
       t.Train((torch::logsumexp(similar, 1) - similar.diag()).mean());
     },
     {"no loss function of LibTorch ran"}},
    {"contrastive_by_cross_entropy",
     [](Ledger& t, uint64_t) {
       const Tensor a = t.Out(), b = t.Out(), similar = torch::mm(a, b.t()), k = torch::arange(12);
       t.Train(t.Classified(F::cross_entropy(similar, k), similar, k));
     }},
    {"contrastive_both_ways",
     [](Ledger& t, uint64_t) {
       const Tensor a = t.Out(), b = t.Out(), similar = torch::mm(a, b.t()), k = torch::arange(12);
       const Tensor one = t.Loss(F::cross_entropy(similar, k), "cross_entropy");
       t.Train((one + t.Loss(F::cross_entropy(similar.t(), k), "cross_entropy_2")) / 2);
     },
     {"several terms", "several losses of one pass have class labels"}},
    {"bce_with_logits",
     [](Ledger& t, uint64_t) {
       t.Train(t.Loss(F::binary_cross_entropy_with_logits(
           t.Out(), torch::rand({12, 4}), F::BinaryCrossEntropyWithLogitsFuncOptions().pos_weight(torch::rand({4})))));
     }},
    {"nll_of_log_softmax",
     [](Ledger& t, uint64_t) {
       const Tensor out = torch::log_softmax(t.Out(), 1), k = t.K();
       t.Train(t.Classified(F::nll_loss(out, k), out, k));
     }},
    {"gaussian_nll_by_hand",
     [](Ledger& t, uint64_t) {
       const Tensor out = t.Out(), mean = out.slice(1, 0, 2), log_variance = out.slice(1, 2, 4);
       t.Train(.5 * (log_variance + (torch::randn({12, 2}) - mean).pow(2) / log_variance.exp()).mean());
     },
     {"no loss function of LibTorch ran"}},
    {"huber",
     [](Ledger& t, uint64_t) { t.Train(t.Loss(F::huber_loss(t.Out(), t.Y(), F::HuberLossFuncOptions().delta(.5)))); }},
    {"triplet", [](Ledger& t, uint64_t) { t.Train(t.Loss(F::triplet_margin_loss(t.Out(), t.Out(), t.Out()))); }},
    {"cosine_embedding",
     [](Ledger& t, uint64_t) {
       t.Train(t.Loss(F::cosine_embedding_loss(t.Out(), t.Out(), torch::randint(2, {12}) * 2 - 1)));
     }},
    {"a_function_of_its_own",
     [](Ledger& t, uint64_t) { t.Train(SquaredError::apply(t.Out(), t.Y())); },
     {"no loss function of LibTorch ran"}},
    {"a_term_through_a_function_of_its_own",
     [](Ledger& t, uint64_t) { t.Train(Halved::apply(t.Loss(F::mse_loss(t.Out(), t.Y()), "mse"))); },
     {"several terms"}},
    {"an_output_through_a_function_of_its_own",
     [](Ledger& t, uint64_t) { t.Train(t.Loss(F::mse_loss(Halved::apply(t.Out()), t.Y()))); }},
    {"one_without_gradients_before",
     [](Ledger& t, uint64_t) {
       const Tensor out = t.Out(), y = t.Y();
       {
         torch::NoGradGuard no_grad;
         F::mse_loss(out, t.Y());
         F::l1_loss(out, y);
       }
       t.Train(t.Loss(F::mse_loss(out, y)));
     }},
    {"several_looked_at_one_trained_by",
     [](Ledger& t, uint64_t i) {
       const Tensor out = t.Out(), k = t.K(), first = F::cross_entropy(out, k), second = F::cross_entropy(out, t.K());
       (void)second;
       if (i % 2 == 0) F::l1_loss(out, t.Y()).item<double>();
       t.Train(t.Classified(first, out, k));
     }},
    {"the_largest_of_two",
     [](Ledger& t, uint64_t) {
       const Tensor out = t.Out(), a = F::mse_loss(out, t.Y()), b = F::mse_loss(out, t.Y());
       t.Train(t.Loss(a.item<double>() > b.item<double>() ? a : b));
     }},
    {"in_double",
     [](Ledger& t, uint64_t) { t.Train(t.Loss(F::mse_loss(t.Out().to(torch::kDouble), t.Y().to(torch::kDouble)))); }},
    {"not_a_number_now_and_then",
     [](Ledger& t, uint64_t i) {
       Tensor y = t.Y();
       if (i % 7 == 0) y[0][0] = NAN;
       const Tensor loss = t.Loss(F::mse_loss(t.Out(), y));
       t.optimizer->zero_grad();
       loss.backward();
       nn::utils::clip_grad_norm_(t.net->parameters(), 1.);
       for (const Tensor& p : t.net->parameters()) p.mutable_grad().nan_to_num_(0);
       t.Write();
     }},
    {"a_graph_walked_twice",
     [](Ledger& t, uint64_t) {
       const Tensor loss = t.Loss(F::mse_loss(t.Out(), t.Y()));
       t.optimizer->zero_grad();
       loss.backward({}, true);
       loss.backward();
       t.Write();
     }},
    {"a_gradient_penalty",
     [](Ledger& t, uint64_t) {
       const Tensor x = t.X().requires_grad_(), out = t.net->forward(x);
       const Tensor slope = torch::autograd::grad({out.sum()}, {x}, {}, true, true)[0];
       t.Train(t.Loss(F::mse_loss(out, t.Y()), "mse") + .1 * (slope.norm(2, 1) - 1).pow(2).mean());
     },
     {"several terms"}},
    {"weighted", [](Ledger& t, uint64_t) { t.Train(2.5 * t.Loss(F::mse_loss(t.Out(), t.Y()))); }, {"multiplies"}},
    {"sum_by_rows", [](Ledger& t, uint64_t) { t.Train(t.Loss(F::mse_loss(t.Out(), t.Y(), kSummed) / 12)); }},
    {"by_two_models_of_which_one_is_attached",
     [](Ledger& t, uint64_t) {
       static nn::Sequential other = Net();
       t.Train(t.Loss(F::mse_loss(t.Out(), other->forward(t.X()).detach())));
     }},
    {"each_scaled_before_the_mean",
     [](Ledger& t, uint64_t) {
       t.Flag("weight_gradients", kFlagGradScaled);
       t.optimizer = std::make_unique<torch::optim::SGD>(t.net->parameters(), 1e-9);
       const Tensor each = F::mse_loss(t.Out(), t.Y(), kEach);
       t.Loss(each.mean());
       t.Train((each * 1024).mean());
     }},
    {"each_scaled_before_the_sum",
     [](Ledger& t, uint64_t) {
       t.Flag("weight_gradients", kFlagGradScaled);
       t.optimizer = std::make_unique<torch::optim::SGD>(t.net->parameters(), 1e-9);
       const Tensor each = F::mse_loss(t.Out(), t.Y(), kEach);
       t.Loss(each.sum() / 7);
       t.Train((each * 1024).sum() / 7);
     }},
    {"a_head_behind_a_loss",
     [](Ledger& t, uint64_t) {
       const Tensor hidden = torch::relu(t.net[0]->as<nn::Linear>()->forward(t.X()));
       const Tensor first = t.Loss(F::l1_loss(hidden, torch::randn({12, 16})), "l1");
       const Tensor out = t.net[2]->as<nn::Linear>()->forward(hidden), k = t.K();
       t.Compared("default", out, k);
       t.Train(first + t.Loss(F::cross_entropy(out, k), "cross_entropy"));
     },
     {"several terms"}},
    {"two_roots_of_one_backward",
     [](Ledger& t, uint64_t) {
       const Tensor out = t.Out(), one = t.Loss(F::mse_loss(out, t.Y()), "mse"),
                    two = t.Loss(F::l1_loss(out, t.Y()), "l1");
       t.optimizer->zero_grad();
       torch::autograd::backward({one, two});
       t.Write();
     },
     {"several terms"}},
    {"backward_for_some_parameters",
     [](Ledger& t, uint64_t) {
       const Tensor loss = t.Loss(F::mse_loss(t.Out(), t.Y()));
       t.optimizer->zero_grad();
       std::vector<Tensor> head = t.net[2]->parameters();
       loss.backward({}, false, false, head);
       t.Write();
     }},
    {"an_empty_batch_now_and_then",
     [](Ledger& t, uint64_t i) { t.Train(t.Loss(F::mse_loss(t.Out(i % 7 == 0 ? 0 : 12), t.Y(i % 7 == 0 ? 0 : 12)))); }},
    {"another_function_every_other_step",
     [](Ledger& t, uint64_t i) {
       const Tensor out = t.Out(), y = t.Y();
       t.Train(t.Loss(i % 2 == 0 ? F::mse_loss(out, y) : F::l1_loss(out, y)));
     }},
    {"one_of_a_stack",
     [](Ledger& t, uint64_t) { t.Train(torch::stack({t.Loss(F::mse_loss(t.Out(), t.Y()))}).mean()); }},
    {"twice_the_same",
     [](Ledger& t, uint64_t) {
       const Tensor loss = t.Loss(F::mse_loss(t.Out(), t.Y()), "mse");
       t.Train(loss + loss);
     },
     {"several terms"}},
    {"each_by_weights_of_its_own_and_scaled",
     [](Ledger& t, uint64_t) {
       t.Flag("weight_gradients", kFlagGradScaled);
       t.optimizer = std::make_unique<torch::optim::SGD>(t.net->parameters(), 1e-9);
       const Tensor mean = t.Loss((F::mse_loss(t.Out(), t.Y(), kEach) * torch::rand({12, 1})).sum() / 7);
       t.Train(mean * 1024);
     }},
    {"gradients_that_are_never_cleared",
     [](Ledger& t, uint64_t) {
       t.optimizer = std::make_unique<torch::optim::SGD>(t.net->parameters(), 1e-4);
       t.Loss(F::mse_loss(t.Out(), t.Y())).backward();
       t.Write();
     }},
    {"a_teacher_that_is_attached_compared_first",
     [](Ledger& t, uint64_t i) {
       static nn::Sequential teacher = Net();
       if (i == 0) t.probe.Attach(teacher, AttachOptions{.name = "teacher"});
       Tensor target;
       {
         torch::NoGradGuard no_grad;
         target = teacher->forward(t.X());
       }
       const Tensor out = t.Out();
       t.Train(t.Loss(F::mse_loss(target, out)));
     }},
    {"a_look_at_a_detached_output",
     [](Ledger& t, uint64_t) {
       const Tensor out = t.Out(), y = t.Y();
       F::l1_loss(out.detach(), t.Y()).item<double>();
       t.Train(t.Loss(F::mse_loss(out, y)));
     }},
    {"half_a_loss_scaled_and_weighted",
     [](Ledger& t, uint64_t) {
       t.Flag("weight_gradients", kFlagGradScaled);
       t.optimizer = std::make_unique<torch::optim::SGD>(t.net->parameters(), 1e-9);
       const Tensor each = F::mse_loss(t.Out(), t.Y(), kEach);
       t.Loss(.5 * each.mean());
       t.Train((each * .5 * 1024).mean());
     }},
    {"the_mean_of_a_weighted_sum_of_each",
     [](Ledger& t, uint64_t) {
       const Tensor weights = torch::rand({12, 1}), each = F::mse_loss(t.Out(), t.Y(), kEach);
       t.Train(t.Loss((each * weights).sum() / weights.sum()));
     }},
    {"in_inference_of_nothing",
     [](Ledger& t, uint64_t) {
       {
         c10::InferenceMode inference;
         F::mse_loss(t.Y(), t.Y());
       }
       t.Train(t.Loss(F::mse_loss(t.Out(), t.Y())));
     }},
    {"clamped_where_it_does_not_matter",
     [](Ledger& t, uint64_t) { t.Train(t.Loss(F::mse_loss(t.Out(), t.Y())).clamp_max(1e6)); }},
    {"summed_with_a_weight_that_is_learnt",
     [](Ledger& t, uint64_t i) {
       if (i == 0) t.kept["s"] = torch::zeros({}, torch::requires_grad());
       const Tensor& s = t.kept["s"];
       t.Train(t.Loss(F::mse_loss(t.Out(), t.Y()), "mse") * torch::exp(-s) + s);
     },
     {"several terms"}},
    {"given_twice_a_step",
     [](Ledger& t, uint64_t) {
       const Tensor out = t.Out(), a = F::mse_loss(out, t.Y()), total = a + out.exp().mean();
       t.probe.Loss(t.Loss(a));
       t.probe.Loss(t.Loss(total));
       t.Train(total);
     }},
    {"given_once",
     [](Ledger& t, uint64_t i) {
       const Tensor out = t.Out(), loss = F::mse_loss(out, t.Y());
       if (i == 0) t.probe.Loss(t.Loss(loss * 2));
       t.Train(loss);
     },
     {"probe.Loss() has given it before"}},
    {"given_each_time",
     [](Ledger& t, uint64_t) {
       const Tensor out = t.Out(), loss = t.Loss(F::mse_loss(out, t.Y()) + out.exp().mean());
       t.probe.Loss(loss);
       t.Train(loss);
     }},
    {"given_from_the_middle_on",
     [](Ledger& t, uint64_t i) {
       const Tensor out = t.Out(), term = F::mse_loss(out, t.Y()), loss = term + 1e-3 * out.exp().mean();
       if (i < 21)
         t.Loss(term, "mse");
       else
         t.probe.Loss(t.Loss(loss));
       t.Train(loss);
     },
     {"several terms"}},
};

class OddLosses : public OddLoops {};
TEST_P(OddLosses, AreWhatTheLoopKnows) { Run(); }
INSTANTIATE_TEST_SUITE_P(Loops, OddLosses, ::testing::Combine(::testing::ValuesIn(kTerms), kPeriods), NameOf);

}  // namespace
}  // namespace ikkuna::odd
