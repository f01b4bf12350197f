// What an evaluation's loss counts: the same as training's.
#include <functional>
#include <optional>
#include <string>

#include "tests/probe/torch/losses_fixture.h"

namespace ikkuna {
namespace {

using Made = std::function<Tensor(const Tensor& out)>;

class LossUnits : public Losses {
 protected:
  // Trains by one and evaluates two batches by the other; what is published of them, by name.
  std::map<std::string, std::vector<double>> Evaluated(const std::optional<Made>& training, const Made& evaluation,
                                                       int steps = 3) {
    kept_.clear();
    probe_.reset();
    auto net = Net();
    torch::optim::SGD optimizer(net->parameters(), 1e-4);
    Probe& probe = Start({"loss"});
    Also({"loss"}, "test");
    probe.Attach(net);
    for (step_ = 0; training && step_ < steps; ++step_) {
      optimizer.zero_grad();
      (*training)(net->forward(X())).backward();
      optimizer.step();
    }
    net->eval();
    for (int batch = 0; batch < 2; ++batch) {
      torch::NoGradGuard no_grad;
      out_ = net->forward(X());
      evaluation(out_);
    }
    probe.Detach();
    return Values("test");
  }
  // The last batch's, under the only name there is.
  void ExpectLast(const std::map<std::string, std::vector<double>>& got, const std::string& name, const Made& made) {
    const double want = made(out_).item<double>();
    ASSERT_EQ(got.size(), 1u);
    ASSERT_EQ(got.count(name), 1u) << got.begin()->first;
    ASSERT_EQ(got.at(name).size(), 2u);
    EXPECT_NEAR(got.at(name)[1], want, 1e-4 * std::abs(want));
  }

  const Tensor y_ = torch::randn({12, 4});
  const Tensor k_ = torch::tensor({0, 1, 2, 3, 0, 1, 2, 3, 0, 1, -100, -100});
  Tensor out_;
  int step_ = 0;
  const Made mse_ = [this](const Tensor& out) { return F::mse_loss(out, y_); };
  const Made mse_sum_ = [this](const Tensor& out) {
    return F::mse_loss(out, y_, F::MSELossFuncOptions().reduction(torch::kSum));
  };
  const Made mse_none_ = [this](const Tensor& out) {
    return F::mse_loss(out, y_, F::MSELossFuncOptions().reduction(torch::kNone));
  };
  const Made l1_ = [this](const Tensor& out) { return F::l1_loss(out, y_); };
  const Made nll_ = [this](const Tensor& out) { return F::nll_loss(torch::log_softmax(out, 1), k_); };
  const Made nll_sum_ = [this](const Tensor& out) {
    return F::nll_loss(torch::log_softmax(out, 1), k_, F::NLLLossFuncOptions().reduction(torch::kSum));
  };
  const Made ce_ = [this](const Tensor& out) { return F::cross_entropy(out, k_); };
  const Made ce_sum_ = [this](const Tensor& out) {
    return F::cross_entropy(out, k_, F::CrossEntropyFuncOptions().reduction(torch::kSum));
  };
};

// The test loop of LibTorch's own example sums, and divides by the data set.
TEST_F(LossUnits, ASumIsTheMeanWhereTrainingIsByTheMeanOrNothingIsKnown) {
  for (const bool trains : {true, false}) {
    const auto by = [&](const Made& made) { return trains ? std::optional(made) : std::nullopt; };
    ExpectLast(Evaluated(by(mse_), mse_sum_), "", mse_);
    ExpectLast(Evaluated(by(ce_), ce_sum_), "", ce_);
    ExpectLast(Evaluated(by(mse_), mse_), "", mse_);
  }
  const Made by_tokens = [this](const Tensor& out) { return ce_sum_(out) / 10; };
  ExpectLast(Evaluated(by_tokens, ce_sum_), "", ce_);
  ExpectLast(Evaluated(by_tokens, ce_), "", ce_);
}

// An average of the weights makes no steps: it is in the unit of the model that trains, also where that was there long
// before, or has gone on with the steps of an earlier process.
TEST_F(LossUnits, AnAverageHasTheUnitOfTheModelThatTrains) {
  for (const bool resumed : {false, true}) {
    kept_.clear();
    probe_ = nullptr;
    auto net = Net(), average = Net();
    torch::optim::SGD optimizer(net->parameters(), 1e-4);
    probe_ = std::make_unique<Probe>(
        ProbeOptions{.run = "capture", .start_step = resumed ? uint64_t{1000} : uint64_t{0}, .quiet = true});
    Also({"loss"}, "default");
    Also({"loss"}, "test");
    const auto train = [&](int steps) {
      for (int step = 0; step < steps; ++step) {
        optimizer.zero_grad();
        mse_sum_(net->forward(X())).backward();
        optimizer.step();
      }
    };
    probe_->Attach(net);
    if (!resumed) train(20);
    probe_->Attach(average);
    train(2);
    average->eval();
    torch::NoGradGuard no_grad;
    for (int batch = 0; batch < 2; ++batch) mse_sum_(out_ = average->forward(X()));
    probe_->Detach();
    ExpectLast(Values("test"), "", mse_sum_);
  }
}

TEST_F(LossUnits, ProbabilitiesAndOneOfSeveralColumns) {
  const Tensor p = torch::softmax(y_, 1), rows = torch::randint(0, 4, {12});
  const Made mean = [&](const Tensor& out) { return F::cross_entropy(out, p); };
  ExpectLast(Evaluated(mean,
                       [&](const Tensor& out) {
                         return F::cross_entropy(out, p, F::CrossEntropyFuncOptions().reduction(torch::kSum));
                       }),
             "", mean);
  const Made margin = [&](const Tensor& out) { return F::multi_margin_loss(out, rows); };
  ExpectLast(Evaluated(margin,
                       [&](const Tensor& out) {
                         return F::multi_margin_loss(out, rows, F::MultiMarginLossFuncOptions().reduction(torch::kSum));
                       }),
             "", margin);
}

TEST_F(LossUnits, ASumStaysOneWhereTrainingIsByTheSum) {
  ExpectLast(Evaluated(mse_sum_, mse_sum_), "", mse_sum_);
  ExpectLast(Evaluated(mse_sum_, mse_), "loss_mse_mean", mse_);
}

TEST_F(LossUnits, ASumIsDividedByTheRowsAsTrainingsWas) {
  const Made by_rows = [this](const Tensor& out) { return mse_sum_(out) / 12; };
  ExpectLast(Evaluated(by_rows, mse_sum_), "", by_rows);
  ExpectLast(Evaluated(by_rows, mse_), "loss_mse_mean", mse_);
  const Tensor target = torch::softmax(y_, 1);
  const auto kl = [&](F::KLDivFuncOptions::reduction_t reduction) {
    return Made([&target, reduction](const Tensor& out) {
      return F::kl_div(torch::log_softmax(out, 1), target, F::KLDivFuncOptions().reduction(reduction));
    });
  };
  for (const bool trains : {true, false}) {
    const auto by = trains ? std::optional(kl(torch::kBatchMean)) : std::nullopt;
    ExpectLast(Evaluated(by, kl(torch::kBatchMean)), "", kl(torch::kBatchMean));
  }
  ExpectLast(Evaluated(kl(torch::kSum), kl(torch::kSum)), "", kl(torch::kSum));
  ExpectLast(Evaluated(kl(torch::kMean), kl(torch::kSum)), "", kl(torch::kMean));
}

TEST_F(LossUnits, WhatCannotBeToldHasANameOfItsOwn) {
  ExpectLast(Evaluated([this](const Tensor& out) { return mse_sum_(out) / 7; }, mse_sum_), "loss_mse_sum",
             mse_sum_);
  const Tensor weight = torch::tensor({1.f, 2.f, 3.f, 4.f});
  const Made weighted = [&](const Tensor& out) {
    return F::cross_entropy(out, k_, F::CrossEntropyFuncOptions().weight(weight).reduction(torch::kSum));
  };
  ExpectLast(Evaluated(ce_, weighted), "loss_cross_entropy_sum", weighted);
}

// What `batchmean` divides by are the rows; by another number the loop divides, and the term is what the function gave.
TEST_F(LossUnits, ATermByKlDivIsItsSumUnlessItIsDividedByTheRows) {
  const Tensor target = torch::softmax(y_, 1);
  for (const double divisor : {12., 7.}) {
    double sum = 0;
    const Made both = [&](const Tensor& out) {
      const Tensor term = F::kl_div(torch::log_softmax(out, 1), target, F::KLDivFuncOptions().reduction(torch::kSum));
      sum = term.item<double>();
      return term / divisor + F::l1_loss(out, y_);
    };
    Evaluated(both, [](const Tensor& out) { return out; });
    ASSERT_EQ(Values()["loss_kl_div"].size(), 3u);
    EXPECT_FLOAT_EQ(Values()["loss_kl_div"].back(), divisor == 12 ? sum / 12 : sum);
  }
}

// The names that training has: of a sum that it adds to another the evaluation is the sum, too.
TEST_F(LossUnits, OfSeveralTermsEachIsInItsOwnUnit) {
  const Made both = [this](const Tensor& out) { return mse_sum_(out) + ce_(out); };
  const auto got = Evaluated(both, [this](const Tensor& out) { return mse_sum_(out) + ce_sum_(out); });
  ASSERT_EQ(got.size(), 2u);
  EXPECT_FLOAT_EQ(got.at("loss_mse")[1], mse_sum_(out_).item<float>());
  EXPECT_FLOAT_EQ(got.at("loss_cross_entropy")[1], ce_(out_).item<float>());
}

TEST_F(LossUnits, OfElementsThatTheTrainerReducesTheUnitIsSeen) {
  const Made sum = [this](const Tensor& out) { return mse_none_(out).sum(); };
  ExpectLast(Evaluated(sum, mse_sum_), "", mse_sum_);
  ExpectLast(Evaluated(sum, mse_), "loss_mse_mean", mse_);
  for (const bool whole : {true, false}) {
    const Made mean = [&](const Tensor& out) { return whole ? mse_none_(out).mean() : mse_none_(out).mean(1).mean(); };
    ExpectLast(Evaluated(mean, mse_sum_), "", mse_);
    ExpectLast(Evaluated(mean, mse_), "", mse_);
  }
  const Tensor weights = torch::rand({12, 4});
  for (const Made& other : {Made([this](const Tensor& out) { return mse_none_(out).sum(1).mean(); }),
                            Made([this](const Tensor& out) { return mse_none_(out).mean(1).sum(); }),
                            Made([this](const Tensor& out) { return mse_none_(out).sum() / 12; }),
                            Made([&](const Tensor& out) { return (mse_none_(out) * weights).mean(); })}) {
    ExpectLast(Evaluated(other, mse_sum_), "loss_mse_sum", mse_sum_);
    ExpectLast(Evaluated(other, mse_), "loss_mse_mean", mse_);
  }
}

TEST_F(LossUnits, BesideOneThatTrainingGivesItIsWhatTheFunctionGives) {
  const Made given = [this](const Tensor& out) {
    const Tensor loss = ce_sum_(out);
    probe_->Loss(loss);
    return loss;
  };
  ExpectLast(Evaluated(given, ce_sum_), "", ce_sum_);
  ExpectLast(Evaluated(given, ce_), "", ce_);
  ExpectLast(Evaluated(given,
                       [this](const Tensor& out) {
                         probe_->Loss(ce_sum_(out));
                         return ce_sum_(out);
                       }),
             "", ce_sum_);
}

TEST_F(LossUnits, AnotherFunctionThanTrainingsIsNotItsLoss) {
  const Made l1_sum = [this](const Tensor& out) {
    return F::l1_loss(out, y_, F::L1LossFuncOptions().reduction(torch::kSum));
  };
  ExpectLast(Evaluated(mse_, l1_), "loss_l1", l1_);
  ExpectLast(Evaluated(mse_, l1_sum), "loss_l1_sum", l1_sum);
  ExpectLast(Evaluated(mse_sum_, l1_sum), "loss_l1_sum", l1_sum);
  // It was a term of it before.
  ExpectLast(Evaluated([this](const Tensor& out) { return step_ == 0 ? mse_(out) + l1_(out) : mse_(out); }, l1_),
             "loss_l1", l1_);
}

TEST_F(LossUnits, TwoFunctionsThatMakeTheSameLossAreOne) {
  ExpectLast(Evaluated(ce_sum_, nll_sum_), "", nll_sum_);
  ExpectLast(Evaluated(ce_sum_, nll_), "loss_nll_mean", nll_);
  ExpectLast(Evaluated(ce_, nll_sum_), "", nll_);
  ExpectLast(Evaluated(nll_sum_, ce_sum_), "", ce_sum_);
  const Tensor target = torch::rand({12, 4});
  const Made logits_sum = [&](const Tensor& out) {
    return F::binary_cross_entropy_with_logits(
        out, target, F::BinaryCrossEntropyWithLogitsFuncOptions().reduction(torch::kSum));
  };
  const Made bce_sum = [&](const Tensor& out) {
    return F::binary_cross_entropy(torch::sigmoid(out), target,
                                   F::BinaryCrossEntropyFuncOptions().reduction(torch::kSum));
  };
  ExpectLast(Evaluated(logits_sum, bce_sum), "", bce_sum);
}

// The first term is a sum, the second a mean: each evaluation is in the unit of its own.
TEST_F(LossUnits, TermsByOneFunctionEachHaveTheirUnit) {
  const Made both = [this](const Tensor& out) {
    const Tensor first = mse_sum_(out);
    return first + mse_(out * 2);
  };
  const auto got = Evaluated(both, both);
  ASSERT_EQ(got.size(), 2u);
  EXPECT_FLOAT_EQ(got.at("loss_mse")[1], mse_sum_(out_).item<float>());
  EXPECT_FLOAT_EQ(got.at("loss_mse_2")[1], mse_(out_ * 2).item<float>());
}

TEST_F(LossUnits, TwoReductionsOfOneTermAreNoUnit) {
  const Made one_or_other = [this](const Tensor& out) { return step_ % 2 == 0 ? mse_(out) : mse_sum_(out); };
  ExpectLast(Evaluated(one_or_other, mse_sum_, 12), "loss_mse_sum", mse_sum_);
  ExpectLast(Evaluated(one_or_other, mse_, 12), "loss_mse_mean", mse_);
}

TEST_F(LossUnits, AShortLastBatchDisplacesNoUnit) {
  const Made by_rows = [this](const Tensor& out) { return mse_sum_(out) / 12; };
  const auto with_short = [&](const std::function<bool()>& is_short) {
    return Made([this, is_short](const Tensor& out) {
      const int64_t rows = is_short() ? 5 : 12;
      return F::mse_loss(out.slice(0, 0, rows), y_.slice(0, 0, rows),
                         F::MSELossFuncOptions().reduction(torch::kSum)) / 12;
    });
  };
  ExpectLast(Evaluated(with_short([this] { return step_ == 4; }), mse_sum_, 5), "", by_rows);
  ExpectLast(Evaluated(with_short([this] { return step_ % 5 == 4; }), mse_sum_, 40), "", by_rows);
  ExpectLast(Evaluated(with_short([this] { return step_ >= 4; }), mse_sum_, 8), "loss_mse_sum", mse_sum_);
}

// A label in many that does not count is no rounding.
TEST_F(LossUnits, RowsAndLabelsAreToldApart) {
  const Tensor x = torch::randn({128, 4}), k = torch::randint(0, 4, {128});
  const auto with = [&](bool ignores) {
    return Made([&, ignores](const Tensor& out) {
      const Tensor labels = k.clone();
      if (ignores) labels[3] = -100;
      return F::cross_entropy(out.slice(0, 0, 1) + x, labels,
                              F::CrossEntropyFuncOptions().reduction(torch::kSum));
    });
  };
  const Made with_one = with(true), with_none = with(false);
  const Made rows = [&](const Tensor& out) { return with_one(out) / 128; };
  const Made labels = [&](const Tensor& out) { return with_one(out) / 127; };
  ExpectLast(Evaluated(rows, with_one), "", rows);
  ExpectLast(Evaluated(labels, with_one), "", labels);
  // One batch in which both are the same tells nothing against what the others show.
  for (const int odd : {0, 2}) {
    const auto mixed = [&](const Made& made) {
      return Made([&, odd, made](const Tensor& out) { return step_ == odd ? with_none(out) / 128 : made(out); });
    };
    ExpectLast(Evaluated(mixed(rows), with_one), "", rows);
    ExpectLast(Evaluated(mixed(labels), with_one), "", labels);
  }
}

}  // namespace
}  // namespace ikkuna
