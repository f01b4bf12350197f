// Loss terms in loops whose backward passes start elsewhere, several times or on another thread, and of models that
// have no layers; the outputs and labels that go with them.
#include <functional>
#include <map>
#include <memory>
#include <thread>

#include "shared/codes.h"
#include "tests/probe/torch/losses_fixture.h"

namespace ikkuna {
namespace {

namespace nn = torch::nn;

class Terms : public Losses {
 protected:
  // Runs it on a thread of its own.
  static void Elsewhere(const std::function<void()>& work) { std::thread(work).join(); }
};

// ---------------------------------------------------------------------------------------------------------------
// Threads

TEST_F(Terms, OfPassesThatOtherThreadsRanTheLossIsFound) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss", "batch_finished"}).Attach(net);
  std::vector<double> want;
  for (int step = 0; step < 5; ++step) {
    optimizer.zero_grad();
    Tensor out;
    Elsewhere([&] { out = net->forward(X()); });
    const Tensor loss = F::mse_loss(out, Y());
    want.push_back(loss.item<double>());
    loss.backward();
    optimizer.step();
  }
  probe_->Detach();
  Expect(Values()[""], want);
  EXPECT_EQ(Values().size(), 1u);
  for (const Kept& end : Of("batch_finished")) EXPECT_EQ(end.message.passes.size(), 1u);
}

TEST_F(Terms, GivenOnAThreadThatRanNoPassItIsTheLoss) {
  for (const bool recognised : {false, true}) {
    SCOPED_TRACE(recognised);
    kept_.clear();
    auto net = Net();
    torch::optim::SGD optimizer(net->parameters(), 0.05);
    Probe& probe = Start({"loss"});
    probe.Attach(net);
    std::vector<double> want;
    for (int step = 0; step < 5; ++step) {
      optimizer.zero_grad();
      std::vector<Tensor> parts(2);
      for (Tensor& part : parts) {
        Elsewhere([&] {
          const Tensor out = net->forward(X());
          part = recognised ? F::mse_loss(out, Y()) : out.pow(2).mean();
        });
      }
      const Tensor total = parts[0] + 0.1 * parts[1];
      want.push_back(total.item<double>());
      total.backward();
      probe.Loss(step % 2 == 0 ? total : torch::tensor(total.item<double>(), torch::kDouble));
      optimizer.step();
    }
    probe.Detach();
    Expect(Values()[""], want);
    EXPECT_EQ(Values().size(), 1u);
    probe_.reset();
  }
}

// What came too late or was no number does not put what is recognised out.
TEST_F(Terms, ALossThatWasNotTakenSilencesNothing) {
  for (const bool late : {false, true}) {
    SCOPED_TRACE(late);
    kept_.clear();
    auto net = Net();
    torch::optim::SGD optimizer(net->parameters(), 0.05);
    Probe& probe = Start({"loss"});
    probe.Attach(net);
    std::vector<double> want;
    for (int step = 0; step < 4; ++step) {
      optimizer.zero_grad();
      const Tensor loss = F::mse_loss(net->forward(X()), Y());
      want.push_back(loss.item<double>());
      loss.backward();
      if (!late) probe.Loss(torch::ones({3}));
      optimizer.step();
      if (late) Elsewhere([&] { probe.Loss(torch::tensor(1.f)); });
    }
    probe.Detach();
    Expect(Values()[""], want);
    probe_.reset();
  }
}

TEST_F(Terms, BackwardOnAnotherThreadStartsFromWhatItStartsFrom) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss"}).Attach(net);
  std::vector<double> terms, want;
  const auto step = [&](const Tensor& root) {
    optimizer.zero_grad();
    Elsewhere([&] { root.backward(); });
    optimizer.step();
  };
  for (int i = 0; i < 3; ++i) {
    const Tensor out = net->forward(X()), term = F::mse_loss(out, Y());
    terms.push_back(term.item<double>());
    step(term + out.exp().mean());
  }
  Expect(Values()["loss_mse"], terms);
  for (int i = 0; i < 3; ++i) {
    const Tensor term = F::mse_loss(net->forward(X()), Y());
    want.push_back(term.item<double>());
    step(term / 2);
  }
  Expect(Values()["loss_mse"], terms);
  Expect(Values()[""], want);
}

// ---------------------------------------------------------------------------------------------------------------
// Backward

TEST_F(Terms, WithAGradientOfItsOwnBackwardStartsFromMoreThanATerm) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss"}).Attach(net);
  std::vector<double> terms, want;
  const Tensor one = torch::tensor(1.f);
  for (int i = 0; i < 3; ++i) {
    optimizer.zero_grad();
    const Tensor out = net->forward(X()), term = F::mse_loss(out, Y());
    terms.push_back(term.item<double>());
    (term + out.exp().mean()).backward(one);
    optimizer.step();
  }
  Expect(Values()["loss_mse"], terms);
  EXPECT_EQ(Values().size(), 1u);
  for (int i = 0; i < 3; ++i) {
    optimizer.zero_grad();
    const Tensor term = F::mse_loss(net->forward(X()), Y());
    want.push_back(term.item<double>());
    term.backward(one);
    optimizer.step();
  }
  Expect(Values()[""], want);
}

// The weight of an adversarial term, from the gradient of the last layer alone (VQGAN, GradNorm).
TEST_F(Terms, ATermThatWasLookedAtBeforeIsPartOfWhatGaveGradients) {
  nn::Linear first(8, 16), last(16, 4);
  nn::Sequential net(first, nn::ReLU(), last);
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss"}).Attach(net);
  std::vector<double> terms;
  for (int step = 0; step < 4; ++step) {
    optimizer.zero_grad();
    const Tensor out = net->forward(X()), rec = F::l1_loss(out, Y()), other = -out.mean();
    terms.push_back(rec.item<double>());
    const Tensor weight = torch::autograd::grad({rec}, {last->weight}, {}, true)[0].norm();
    const Tensor against = torch::autograd::grad({other}, {last->weight}, {}, true)[0].norm();
    (rec + (weight / (against + 1e-4)).clamp(0, 10).detach() * other).backward();
    optimizer.step();
  }
  Expect(Values()["loss_l1"], terms);
  EXPECT_EQ(Values().size(), 1u);
}

TEST_F(Terms, OfOneStepDifferentFunctionsGoByNameAndLikeOnesAreAveraged) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss"}).Attach(net);
  std::vector<double> first, second, like;
  for (int step = 0; step < 4; ++step) {
    optimizer.zero_grad();
    const Tensor a = F::cross_entropy(net->forward(X()), K());
    first.push_back(a.item<double>());
    a.backward();
    const Tensor b = F::mse_loss(net->forward(X()), Y());
    second.push_back(b.item<double>());
    b.backward();
    optimizer.step();
  }
  EXPECT_EQ(Values().size(), 2u);
  Expect(Values()["loss_cross_entropy"], first);
  Expect(Values()["loss_mse"], second);
  kept_.clear();
  optimizer.zero_grad();
  for (int pass = 0; pass < 2; ++pass) {
    const Tensor loss = F::mse_loss(net->forward(X()), Y());
    like.push_back(loss.item<double>());
    loss.backward();
  }
  optimizer.step();
  Expect(Values()[""], like);
}

// A step with several terms says nothing about those that come when the loss is one again.
TEST_F(Terms, WhenTheLossIsOneAgainTestsAreByIt) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss"});
  Also({"loss"}, "test");
  probe_->Attach(net);
  for (const bool several : {true, false}) {
    kept_.clear();
    for (int step = 0; step < 3; ++step) {
      optimizer.zero_grad();
      const Tensor out = net->forward(X()), loss = F::mse_loss(out, Y());
      (several ? loss + F::l1_loss(out, Y()) : loss).backward();
      optimizer.step();
    }
    net->eval();
    double tested = 0;
    {
      torch::NoGradGuard no_grad;
      tested = F::mse_loss(net->forward(X()), Y()).item<double>();
    }
    net->train();
    optimizer.zero_grad();
    F::mse_loss(net->forward(X()), Y()).backward();  // the evaluation is over
    Expect(Values("test")[several ? "loss_mse" : ""], {tested});
    EXPECT_EQ(Values("test").size(), 1u);
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Values and scales

TEST_F(Terms, OfASumThatIsDividedTheMeanIsTheLossWhateverFollows) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.001);
  Start({"loss"}).Attach(net);
  const auto sum = F::CrossEntropyFuncOptions().reduction(torch::kSum);
  const auto none = F::CrossEntropyFuncOptions().reduction(torch::kNone);
  const Tensor tokens = torch::tensor(7.f);
  std::vector<double> want;
  const auto step = [&](const std::function<Tensor(const Tensor& mean)>& made, bool reduced, bool tensor) {
    const Tensor term = F::cross_entropy(net->forward(X()), K(), reduced ? sum : none);
    const Tensor total = reduced ? term : term.sum();
    const Tensor mean = tensor ? total / tokens : total / 7;
    want.push_back(mean.item<double>());
    optimizer.zero_grad();
    made(mean).backward();
    optimizer.step();
  };
  for (const bool reduced : {true, false}) {
    for (const bool tensor : {true, false}) {
      step([](const Tensor& mean) { return mean; }, reduced, tensor);
      step([](const Tensor& mean) { return mean / 4; }, reduced, tensor);
      step([](const Tensor& mean) { return mean * 1024 / 4; }, reduced, tensor);
    }
  }
  Expect(Values()[""], want);
  EXPECT_EQ(Values().size(), 1u);
}

TEST_F(Terms, ALossScaleIsToldFromAWeight) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 1e-9);
  Probe& probe = Start({"weight_gradients", "layer_gradients", "loss"});
  probe.Attach(net);
  const auto none = F::MSELossFuncOptions().reduction(torch::kNone);
  const auto distill = [](const Tensor& out) {
    return F::kl_div(torch::log_softmax(out, 1), torch::softmax(Y(), 1),
                     F::KLDivFuncOptions().reduction(torch::kBatchMean));
  };
  const auto step = [&](const char* what, bool scaled, const std::function<Tensor(const Tensor&)>& made,
                        const Tensor& gradient = {}) {
    SCOPED_TRACE(what);
    kept_.clear();
    optimizer.zero_grad();
    const Tensor root = made(net->forward(X()));
    root.backward(gradient);
    optimizer.step();
    int flagged = 0, gradients = 0;
    for (const Kept& kept : kept_) {
      if (kept.message.kind == "loss") continue;
      ++gradients;
      flagged += (kept.message.flags & kFlagGradScaled) != 0;
    }
    EXPECT_GE(gradients, 5);
    EXPECT_EQ(flagged, scaled ? gradients : 0);
  };
  step("a term", true, [](const Tensor& out) { return F::mse_loss(out, Y()) * 1024; });
  step("by a tensor", true, [](const Tensor& out) { return F::mse_loss(out, Y()) * torch::tensor(65536.f); });
  step("and divided", true, [](const Tensor& out) { return F::mse_loss(out, Y()) * 1024 / 3; });
  step("of several terms", true,
       [](const Tensor& out) { return (F::cross_entropy(out, K()) + 1e-4 * F::mse_loss(out, Y())) * 1024; });
  step("each term", true,
       [](const Tensor& out) { return F::cross_entropy(out, K()) * 1024 + F::mse_loss(out, Y()) * 1024; });
  step("of many elements", true, [&](const Tensor& out) {
    return (F::mse_loss(out, Y(), none) * torch::rand({12, 4})).mean() * 1024;
  });
  step("of a loss by hand", true, [](const Tensor& out) { return (out - Y()).pow(2).mean() * 1024; });
  step(
      "by a gradient", true, [](const Tensor& out) { return F::mse_loss(out, Y()); }, torch::tensor(1024.f));
  step("nothing", false, [](const Tensor& out) { return F::mse_loss(out, Y()); });
  step("twice", false, [](const Tensor& out) { return 2 * F::cross_entropy(out, K()); });
  step("a temperature", false, [&](const Tensor& out) { return distill(out) * 16 * 16; });
  step("a term of weight", false,
       [](const Tensor& out) { return F::cross_entropy(out, K()) + 256 * F::mse_loss(out, Y()); });
  step("accumulated", false, [](const Tensor& out) { return F::mse_loss(out, Y()) / 8; });
}

// ---------------------------------------------------------------------------------------------------------------
// Models without layers

struct ByHand : nn::Module {
  explicit ByHand(std::function<Tensor(ByHand&, const Tensor&)> made) : made_(std::move(made)) {
    w = register_parameter("w", torch::randn({8, 4}) / 3);
    v = register_parameter("v", torch::randn({4, 4}) / 2);
    b = register_parameter("b", torch::zeros({4}));
  }
  Tensor forward(const Tensor& x) { return made_(*this, x); }
  Tensor w, v, b;

 private:
  std::function<Tensor(ByHand&, const Tensor&)> made_;
};

struct Form {
  const char* name;
  std::function<Tensor(ByHand&, const Tensor&)> made;
  bool layers;
  size_t passes = 1;  // of a forward pass: the first layer called again on what is given anew begins another
};
void PrintTo(const Form& form, std::ostream* out) { *out << form.name; }

class WithoutLayers : public Losses, public ::testing::WithParamInterface<Form> {
 protected:
  void SetUp() override {
    Losses::SetUp();
    net_ = std::make_shared<ByHand>(GetParam().made);
    optimizer_ = std::make_unique<torch::optim::SGD>(net_->parameters(), 0.05);
  }
  std::shared_ptr<ByHand> net_;
  std::unique_ptr<torch::optim::SGD> optimizer_;
};

TEST_P(WithoutLayers, TheLossIsKnownAndTheOutputToo) {
  Start({"loss", "network_output", "activations", "batch_finished"}).Attach(net_);
  std::vector<double> want;
  for (int step = 0; step < 4; ++step) {
    optimizer_->zero_grad();
    for (int micro = 0; micro < 2; ++micro) {
      const Tensor loss = F::cross_entropy(net_->forward(X()), K());
      want.push_back(loss.item<double>());
      loss.backward();
    }
    optimizer_->step();
  }
  probe_->Detach();
  Expect(Values()[""], want);
  EXPECT_EQ(Of("network_output").size(), want.size());
  ASSERT_EQ(Of("batch_finished").size(), 4u);
  for (const Kept& end : Of("batch_finished")) EXPECT_EQ(end.message.passes.size(), 2 * GetParam().passes);
  EXPECT_EQ(!Of("activations").empty(), GetParam().layers);
}

TEST_P(WithoutLayers, TheLossThatIsGivenIsTaken) {
  for (const bool before : {true, false}) {
    SCOPED_TRACE(before);
    kept_.clear();
    Probe& probe = Start({"loss", "batch_finished"});
    probe.Attach(net_);
    std::vector<double> want;
    for (int step = 0; step < 4; ++step) {
      optimizer_->zero_grad();
      const Tensor loss = net_->forward(X()).pow(2).mean();
      want.push_back(loss.item<double>());
      if (before) probe.Loss(loss);
      loss.backward();
      if (!before) probe.Loss(loss);
      optimizer_->step();
    }
    probe.Detach();
    Expect(Values()[""], want);
    EXPECT_EQ(Of("batch_finished").size(), 4u);
    probe_.reset();
  }
}
const Tensor& Adjacency() {
  static const Tensor adjacency = torch::softmax(torch::randn({12, 12}), 1);
  return adjacency;
}
INSTANTIATE_TEST_SUITE_P(
    Forms, WithoutLayers,
    ::testing::Values(
        Form{"graph",
             [](ByHand& net, const Tensor& x) {
               return torch::mm(Adjacency(),
                                torch::mm(torch::relu(torch::mm(Adjacency(), torch::mm(x, net.w))), net.v));
             },
             true},
        Form{"bmm",
             [](ByHand& net, const Tensor& x) {
               return torch::bmm(x.unsqueeze(0), net.w.unsqueeze(0)).squeeze(0) + net.b;
             },
             true},
        Form{"baddbmm",
             [](ByHand& net, const Tensor& x) {
               return torch::baddbmm(net.b, x.unsqueeze(0), net.w.unsqueeze(0)).squeeze(0);
             },
             true},
        Form{"einsum",
             [](ByHand& net, const Tensor& x) {
               return torch::einsum("bi,io->bo", {x, net.w});
             },
             true},
        Form{"matmul", [](ByHand& net, const Tensor& x) { return torch::matmul(net.w.t(), x.t()).t() + net.b; }, true},
        Form{"mv",
             [](ByHand& net, const Tensor& x) {
               std::vector<Tensor> rows;
               for (int64_t row = 0; row < x.size(0); ++row) rows.push_back(torch::mv(net.w.t(), x[row]));
               return torch::stack(rows);
             },
             true, 12},
        Form{"elementwise", [](ByHand& net, const Tensor& x) { return (x.unsqueeze(2) * net.w).sum(1) + net.b; },
             false},
        Form{"cell",
             [](ByHand& net, const Tensor& x) {
               Tensor state = torch::zeros({12, 4});
               for (int64_t t = 0; t < 8; ++t)
                 state = torch::tanh(x.select(1, t).unsqueeze(1) * net.w[t] + state * net.b);
               return state;
             },
             false}),
    [](const auto& info) { return std::string(info.param.name); });

// What a loop makes of weights alone is no pass: a regularization, an iteration that looks for a norm.
TEST_F(Terms, ProductsOfWeightsAreNoLayers) {
  nn::Linear first(8, 8), last(8, 4);
  nn::Sequential net(first, nn::ReLU(), last);
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss", "activations", "batch_finished"});
  Also({"activations"}, "no_grad");
  probe_->Attach(net);
  Tensor u = torch::randn({8});
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    {
      torch::NoGradGuard no_grad;
      u = torch::mv(first->weight, u);
    }
    const Tensor apart = torch::mm(first->weight, first->weight.t()).sub(torch::eye(8)).pow(2).sum();
    (F::mse_loss(net->forward(X()), Y()) + apart * 0).backward();
    optimizer.step();
  }
  probe_->Detach();
  std::map<std::string, int> names;
  for (const Kept& kept : Of("activations")) ++names[kept.message.tag + " " + kept.message.module];
  EXPECT_EQ(names, (std::map<std::string, int>{{"default 0", 3}, {"default 1", 3}, {"default 2", 3}}));
  for (const Kept& end : Of("batch_finished")) EXPECT_EQ(end.message.passes.size(), 1u);
}

// ---------------------------------------------------------------------------------------------------------------
// Outputs and labels

TEST_F(Terms, OutputAndLabelsAreOfTheLossThatTrains) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"network_output", "input_labels"}).Attach(net);
  std::vector<Tensor> outputs, labels;
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    outputs.push_back(net->forward(X()));
    labels.push_back(K());
    const Tensor unused = F::cross_entropy(outputs.back(), K());  // a look, with a gradient
    const Tensor loss = F::cross_entropy(outputs.back(), labels.back());
    F::cross_entropy(outputs.back() * 2, K());
    loss.backward();
    optimizer.step();
  }
  const auto got = Of("network_output"), with = Of("input_labels");
  ASSERT_EQ(got.size(), 3u);
  ASSERT_EQ(with.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(torch::equal(got[i].tensor, outputs[i]));
    EXPECT_TRUE(torch::equal(with[i].tensor, labels[i]));
    EXPECT_EQ(got[i].message.call, with[i].message.call);
  }
}

// The memory may be the trainer's, and gone when the next batch begins.
TEST_F(Terms, LabelsAreReadWhileTheyAreThere) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"input_labels"});
  Also({"input_labels"}, "test");
  probe_->Attach(net);
  std::vector<std::vector<int64_t>> want;
  for (const bool training : {true, false}) {
    net->train(training);
    for (int batch = 0; batch < 4; ++batch) {
      std::vector<int64_t> memory(12, batch % 4);
      want.push_back(memory);
      {
        const torch::AutoGradMode grad(training);
        const Tensor loss = F::cross_entropy(net->forward(X()), torch::from_blob(memory.data(), {12}, torch::kLong));
        if (training) loss.backward();
      }
      std::fill(memory.begin(), memory.end(), -1);
    }
    if (training) optimizer.step();
  }
  probe_->Detach();
  const auto got = Of("input_labels");
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(torch::equal(got[i].tensor, torch::tensor(want[i]))) << i;
}

TEST_F(Terms, OfSeveralLossesWithClassLabelsNoneIsTheAccuracy) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"network_output", "input_labels"}).Attach(net);
  const auto step = [&](const std::function<void(const Tensor&)>& backward) {
    kept_.clear();
    optimizer.zero_grad();
    backward(net->forward(X()));
    optimizer.step();
    return Of("network_output").size();
  };
  EXPECT_EQ(step([](const Tensor& out) { (F::cross_entropy(out, K()) + .3 * F::cross_entropy(out, K())).backward(); }),
            0u);
  EXPECT_EQ(step([](const Tensor& out) { (F::cross_entropy(out, K()) + .3 * F::mse_loss(out, Y())).backward(); }), 2u);
}

// ---------------------------------------------------------------------------------------------------------------
// Evaluation

// An average of the weights makes no steps: each of its evaluations is of the step that training has come to.
TEST_F(Terms, AnEvaluationOfAModelThatMakesNoStepsIsOfTheStepsOfTheOneThatTrains) {
  auto net = Net(), average = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss"});
  Also({"activations", "batch_finished"}, "test");
  probe_->Attach(average, {.name = "average"});
  probe_->Attach(net, {.name = "net"});
  average->eval();
  for (int step = 0; step < 3; ++step) {
    Train(net, optimizer, X(), K());
    torch::NoGradGuard no_grad;
    average->forward(X());
    probe_->Tag("");  // the evaluation is over
  }
  probe_->Detach();
  std::vector<uint64_t> steps;
  for (const Kept& kept : Of("activations", "0")) steps.push_back(kept.message.global_step);
  EXPECT_EQ(steps, (std::vector<uint64_t>{1, 2, 3}));
}

}  // namespace
}  // namespace ikkuna
