// Notes on losses and accuracy: why they are not known, and what the trainer can do about it.
#include <ATen/autocast_mode.h>

#include "tests/probe/torch/notes_fixture.h"

namespace ikkuna {
namespace {

TEST_F(Notes, ALossOfSeveralTerms) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss});
  Train(net, optimizer, [](const Tensor& out) {
    const Tensor first = F::cross_entropy(out, K());
    return first + F::mse_loss(out, Y());
  });
  ExpectOne({"the loss of student is not known", "several terms", "loss_cross_entropy, loss_mse", "probe.Loss(total)"});
}

// However many there are, what to do about it is still said.
TEST_F(Notes, ALossOfVeryManyTerms) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss});
  Train(net, optimizer, [](const Tensor& out) {
    Tensor sum = torch::zeros({});
    for (int term = 0; term < 400; ++term) sum = sum + F::mse_loss(out, Y());
    return sum;
  });
  ExpectOne({"the loss of student is not known", "loss_mse, loss_mse_2", "probe.Loss(total)"});
}

TEST_F(Notes, ALossThatLibTorchHasNoFunctionFor) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss});
  Train(
      net, optimizer, [](const Tensor& out) { return (out - Y()).pow(2).mean(); }, 6);
  ExpectOne({"the loss of student is not known", "no loss function of LibTorch ran", "probe.Loss(loss)"});
}

TEST_F(Notes, BackwardThatStartsFromSomethingElse) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss});
  Tensor kept;
  Train(net, optimizer, [&](const Tensor& out) {
    kept = F::mse_loss(out, Y());
    return out.exp().mean();
  });
  ExpectOne(
      {"the loss of student is not known", "backward starts from nothing that a loss function", "probe.Loss(total)"});
}

TEST_F(Notes, ALossOfManyElements) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss});
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    F::mse_loss(net->forward(X()), Y(), F::MSELossFuncOptions().reduction(torch::kNone)).backward(torch::ones({12, 4}));
    optimizer.step();
  }
  ExpectOne({"the loss of student is not known", "gives many elements", "probe.Loss(total)"});
}

TEST_F(Notes, TargetsThatAreNoClassIndices) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kInputLabels, Kind::kNetworkOutput});
  Train(net, optimizer, Mse);
  ExpectOne({"the accuracy of student is not known", "targets of its mse loss", "no class indices"});
}

TEST_F(Notes, ALossThatIsGivenTooLate) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss});
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    const Tensor loss = net->forward(X()).exp().mean();
    loss.backward();
    optimizer.step();
    probe_->Loss(loss);
  }
  ExpectOne({"probe.Loss() of student came when its step had ended", "before optimizer.step()"});
}

// Of a step of which nothing is wanted the forward pass is not heard: the loss is not late for that.
TEST_F(Notes, ALossThatIsGivenBeforeBackwardOfAStepThatIsNotDue) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss}, 7);
  Train(
      net, optimizer,
      [&](const Tensor& out) {
        const Tensor loss = out.pow(2).mean();
        probe_->Loss(loss);
        return loss;
      },
      24);
  ExpectNone();
}

// Integers that are counts or signs: an accuracy of them means nothing.
TEST_F(Notes, IntegerTargetsOfALossThatIsNoClassification) {
  nn::Sequential net(nn::Linear(8, 1));
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kInputLabels, Kind::kNetworkOutput});
  Train(net, optimizer, [](const Tensor& out) {
    return F::poisson_nll_loss(out, torch::randint(0, 3, {12, 1}), F::PoissonNLLLossFuncOptions());
  });
  ExpectOne({"the accuracy of student is not known", "targets of its poisson_nll loss", "no class indices"});
}

TEST_F(Notes, ALossThatIsNotOneNumber) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss});
  Train(net, optimizer, [&](const Tensor& out) {
    probe_->Loss(out.exp());
    return out.exp().mean();
  });
  ExpectOne({"probe.Loss() of student got what is not one number"});
}

TEST_F(Notes, ALossOfAModelWithoutALayerThatIsKnown) {
  struct Line : nn::Module {
    Line() { slope = register_parameter("slope", torch::randn({8})); }
    Tensor forward(const Tensor& x) { return x * slope; }
    Tensor slope;
  };
  auto net = std::make_shared<Line>();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss});
  Train(
      net, optimizer, [](const Tensor& out) { return out.pow(2).mean(); }, 6);
  ExpectOne({"the loss of student is not known", "no loss function of LibTorch ran", "probe.Loss(loss)"});
}

TEST_F(Notes, ASumWhoseMeanIsNotSeen) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss});
  Train(net, optimizer, [](const Tensor& out) {
    return F::mse_loss(out, Y(), F::MSELossFuncOptions().reduction(torch::kSum)) * 0.3 / 12;
  });
  ExpectOne({"the loss of student is not known", "or their sum", "probe.Loss(total)"});
}

TEST_F(Notes, BackwardPassesOfDifferentLossesInOneStep) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss});
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    F::cross_entropy(net->forward(X()), K()).backward();
    Mse(net->forward(X())).backward();
    optimizer.step();
  }
  ExpectOne({"the loss of student is not known", "loss_cross_entropy, loss_mse", "probe.Loss(total)"});
}

// A loss for each row, of one pass: each has a name of its own until there are too many, which is said, and counted.
TEST_F(Notes, MoreLossesOfAPassThanAreKept) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss});
  Train(
      net, optimizer,
      [](const Tensor& out) {
        Tensor sum = torch::zeros({});
        const Tensor target = Y();
        for (int term = 0; term < 1030; ++term) sum = sum + F::mse_loss(out, target);
        return sum;
      },
      1);
  probe_->Detach();
  ExpectDropped(KindBit(Kind::kLoss));
  ExpectOne({"a pass of student has more than 1024 losses", "further ones are not published"});
}

// The loss of training and that of an evaluation are the same number: the term, which the note says where it is weighted.
TEST_F(Notes, ALossThatTheLoopWeights) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 1e-6);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss});
  const auto loss = [&](double weight) { return [weight](const Tensor& out) { return weight * Mse(out); }; };
  Train(net, optimizer, loss(1));
  Train(net, optimizer, loss(1024));  // a loss scale
  Train(net, optimizer, loss(2), 1);  // one step may be what is left of an accumulation
  Train(net, optimizer, loss(1), 1);
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    for (int micro = 0; micro < 4; ++micro) (Mse(net->forward(X())) / 4).backward();
    optimizer.step();
  }
  ExpectNone();
  Train(net, optimizer, loss(2.5));
  ExpectOne({"the loss of student is its mse before the loop multiplies it (by 2.5)", "probe.Loss(total)"});
}

TEST_F(Notes, ALossThatTheLoopWeightsByLessThanOne) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss});
  Train(net, optimizer, [](const Tensor& out) { return Mse(out) * 0.3; });
  ExpectOne({"the loss of student is its mse before the loop multiplies it (by 0.3)"});
}

TEST_F(Notes, AnEvaluationLossThatCannotBeComparedWithTrainings) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  shm::DemandItem training = Ask(KindBit(Kind::kLoss), Level::kSummary), evaluation = training;
  evaluation.tag = kTagTest;
  daemon_.Accept({training, evaluation});
  const auto sum = F::MSELossFuncOptions().reduction(torch::kSum);
  Train(net, optimizer, [&](const Tensor& out) { return F::mse_loss(out, Y(), sum) / 7; });
  net->eval();
  {
    torch::NoGradGuard no_grad;
    Mse(net->forward(X()));
    F::mse_loss(net->forward(X()), Y(), sum);
  }
  probe_->Detach();
  ExpectOne({"evaluation losses of student by mse with reduction=mean", "loss_mse_mean", "probe.Loss(loss)"});
  ExpectOne({"evaluation losses of student by mse with reduction=sum", "loss_mse_sum", "probe.Loss(loss)"});
}

TEST_F(Notes, AnEvaluationByAnotherFunctionThanTrainings) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  shm::DemandItem training = Ask(KindBit(Kind::kLoss), Level::kSummary), evaluation = training;
  evaluation.tag = kTagTest;
  daemon_.Accept({training, evaluation});
  for (const bool given : {false, true}) {
    net->train();
    Train(net, optimizer, [&](const Tensor& out) {
      const Tensor loss = Mse(out);
      if (given) probe_->Loss(loss);
      return loss;
    });
    net->eval();
    torch::NoGradGuard no_grad;
    const Tensor out = net->forward(X());
    given ? Mse(out) : F::l1_loss(out, Y());
  }
  probe_->Detach();
  ExpectOne({"evaluation losses of student by l1", "another function", "loss_l1", "probe.Loss(loss)"});
  ExpectOne({"evaluation losses of student by mse", "training gives by probe.Loss()", "published as loss;",
             "probe.Loss(loss)"});
}

TEST_F(Notes, AnEvaluationWithoutTraining) {
  auto net = Net();
  probe_->Attach(net, {.name = "student"});
  shm::DemandItem evaluation = Ask(KindBit(Kind::kLoss), Level::kSummary);
  evaluation.tag = kTagTest;
  daemon_.Accept({evaluation});
  net->eval();
  // No step comes that would wait for what is asked.
  for (bool published = false; !published;) {
    torch::NoGradGuard no_grad;
    const Tensor out = net->forward(X());
    F::triplet_margin_loss(out, Y(), Y(), F::TripletMarginLossFuncOptions().reduction(torch::kSum));
    for (const auto& got : daemon_.Drain()) published |= got.record.kind == static_cast<uint8_t>(Kind::kLoss);
  }
  probe_->Detach();
  ExpectOne({"evaluation losses of student by triplet_margin", "are sums over what is not counted",
             "loss_triplet_margin_sum", "probe.Loss(loss)"});
  for (const std::string& note : Said()) EXPECT_EQ(note.find("training"), std::string::npos) << note;
}

// Of passes that nobody records the last is known: a micro-batch, which is no weighted loss.
TEST_F(Notes, AnAverageOverPassesThatAreNotRecordedIsNoWeight) {
  auto net = Net();
  probe_->Attach(net, {.name = "student"});
  daemon_.Accept({});
  for (int step = 0; step < 6; ++step) {
    net->zero_grad();
    for (int micro = 0; micro < 4; ++micro) (Mse(net->forward(X())) / 4).backward();
    torch::NoGradGuard no_grad;
    for (Tensor& weight : net->parameters()) weight.copy_(weight - .05 * weight.grad());
  }
  probe_->Detach();
  for (const std::string& note : Said()) EXPECT_EQ(note.find("multiplies"), std::string::npos) << note;
}

TEST_F(Notes, LabelsOfSeveralLossesOfOnePass) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kInputLabels, Kind::kNetworkOutput});
  Train(net, optimizer, [](const Tensor& out) { return F::cross_entropy(out, K()) + F::cross_entropy(out, K()); });
  probe_->Detach();
  ExpectDropped(KindBit(Kind::kInputLabels) | KindBit(Kind::kNetworkOutput));
  ExpectOne({"the accuracy of student is not known", "several losses of one pass have class labels"});
}

// A teacher's logits beside the labels: the accuracy is that of the labels.
TEST_F(Notes, LabelsBesideATeachersAreTheAccuracy) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kInputLabels, Kind::kNetworkOutput});
  for (const bool first : {true, false}) {
    Train(net, optimizer, [&](const Tensor& out) {
      const auto distill = [&] {
        return F::kl_div(torch::log_softmax(out, 1), torch::softmax(Y(), 1),
                         F::KLDivFuncOptions().reduction(torch::kBatchMean));
      };
      Tensor sum = torch::zeros({});
      if (first) sum = sum + distill();
      sum = sum + F::cross_entropy(out, K());
      return first ? sum : sum + distill();
    });
  }
  net->eval();
  {
    torch::NoGradGuard no_grad;
    const Tensor out = net->forward(X());
    F::kl_div(torch::log_softmax(out, 1), torch::softmax(Y(), 1), F::KLDivFuncOptions().reduction(torch::kBatchMean));
    F::cross_entropy(out, K());
  }
  probe_->Detach();
  for (const std::string& note : Said()) EXPECT_EQ(note.find("accuracy"), std::string::npos) << note;
}

// What autocast makes of a weight is not a weight that the trainer computes.
TEST_F(Notes, AutocastIsNoParametrization) {
  nn::Sequential net(nn::Linear(8, 16), nn::ReLU(), nn::Linear(16, 4));
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss});
  at::autocast::set_autocast_enabled(at::kCPU, true);
  for (int step = 0; step < 24; ++step) {
    optimizer.zero_grad();
    const Tensor loss = Mse(net->forward(X()).to(torch::kFloat));
    at::autocast::clear_cache();
    loss.backward();
    optimizer.step();
  }
  at::autocast::set_autocast_enabled(at::kCPU, false);
  probe_->Detach();
  for (const std::string& note : Said())
    EXPECT_EQ(note.find("computed from its parameters"), std::string::npos) << note;
}

}  // namespace
}  // namespace ikkuna
