// Notes: each sentence that the probe says about what it cannot know or does not take, as a daemon reads it.
#include <malloc.h>
#include <torch/script.h>

#include <barrier>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "tests/probe/torch/notes_fixture.h"

namespace ikkuna {
namespace {

TEST_F(Notes, OfALoopThatIsKnownThereIsNone) {
  auto net = Net();
  torch::optim::Adam optimizer(net->parameters());
  probe_->Attach(net);
  probe_->Attach(optimizer);
  Asks({Kind::kLoss, Kind::kWeights, Kind::kWeightUpdates, Kind::kActivations, Kind::kLayerGradients,
        Kind::kInputLabels, Kind::kLearningRate, Kind::kExpAvg});
  Train(
      net, optimizer, [](const Tensor& out) { return F::cross_entropy(out, K()); }, 12);
  probe_->Detach();
  ExpectNone();
}

// ---------------------------------------------------------------------------------------------------------------
// Steps

TEST_F(Notes, StepsThatAreInferred) {
  auto net = Net();
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kWeights});
  for (int step = 0; step < 6; ++step) {
    net->zero_grad();
    Mse(net->forward(X())).backward();
    for (auto& p : net->parameters()) {
      auto* w = p.data_ptr<float>();
      const auto* g = p.grad().data_ptr<float>();
      for (int64_t k = 0; k < p.numel(); ++k) w[k] -= .1f * g[k];
    }
  }
  probe_->Detach();
  ExpectOne({"steps of student end as inferred", "their write of the parameters was not seen", "call probe.Step()"});
}

TEST_F(Notes, PassesThatBeginAStepAhead) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss, Kind::kActivations}, 3);
  Tensor loss = Mse(net->forward(X()));
  for (int micro = 0; micro < 2 * 12; ++micro) {
    if (micro % 2 == 0) optimizer.zero_grad();
    const Tensor next = Mse(net->forward(X()));
    loss.backward();
    if (micro % 2 == 1) optimizer.step();
    loss = next;
  }
  probe_->Detach();
  ExpectOne({"passes of student begin in the step before their own", "losses", "period 1"});
}

TEST_F(Notes, TheFirstStepOfAThreadThatBeganDuringAnothersBackward) {
  nn::Linear first(8, 16), last(16, 4);
  nn::Sequential net(first, last);
  torch::optim::SGD optimizer(net->parameters(), 0.05), of_thread(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss});
  // The callback sleeps during backward of a loop that has one thread, for long.
  Train(net, optimizer, Mse, 100);
  optimizer.zero_grad();
  const Tensor hidden = first->forward(X());
  hidden.register_hook([&](const Tensor& gradient) {
    std::thread([&] { Train(net, of_thread, Mse, 1); }).join();
    return gradient;
  });
  Mse(last->forward(hidden)).backward();
  optimizer.step();
  probe_->Detach();
  ExpectOne({"of student was the first of a thread that began late", "its forward pass was not heard"});
}

// ---------------------------------------------------------------------------------------------------------------
// Optimizers

TEST_F(Notes, AnLbfgs) {
  auto net = Net();
  torch::optim::LBFGS optimizer(net->parameters());
  probe_->Attach(net);
  probe_->Attach(optimizer);
  probe_->Attach(optimizer);
  Asks({});
  ExpectOne({"LBFGS", "each evaluation counts as a step", "probe.Step()", "manual_steps"});
}

TEST_F(Notes, AnOptimizerThatIsDestroyed) {
  auto net = Net();
  probe_->Attach(net);
  Asks({Kind::kLearningRate, Kind::kExpAvg});
  for (const bool shared : {false, true}) {
    auto first = std::make_shared<torch::optim::Adam>(net->parameters());
    if (shared) {
      probe_->Attach(first);
    } else {
      probe_->Attach(*first);
    }
    Train(net, *first, Mse);
    first.reset();
    torch::optim::Adam second(net->parameters());
    Train(net, second, Mse);
  }
  ExpectOne({"an attached optimizer was destroyed", "learning rates and moments end", "attach the one that goes on"});
}

TEST_F(Notes, AnOptimizerThatStandsStillWhileAnotherWrites) {
  auto net = Net();
  torch::optim::Adam first(net->parameters()), second(net->parameters());
  probe_->Attach(net);
  probe_->Attach(first);
  Asks({Kind::kLearningRate});
  Train(net, first, Mse);
  Train(net, second, Mse, 6);
  ExpectOne({"an attached optimizer steps no more while its parameters are written", "attach the one that goes on"});
}

TEST_F(Notes, AnOptimizerThatMovesAndChangesItsGroups) {
  auto net = Net();
  auto first = std::make_unique<torch::optim::SGD>(net->parameters(), 0.05);
  probe_->Attach(net);
  probe_->Attach(*first);
  Asks({Kind::kLearningRate});
  Train(net, *first, Mse);
  torch::optim::SGD second = std::move(*first);
  second.param_groups()[0].set_options(std::make_unique<torch::optim::SGDOptions>(0.1));
  Train(net, second, Mse);
  ExpectOne({"an attached optimizer was moved, and its groups changed", "attach the one that goes on"});
}

struct PlainOptions : torch::optim::OptimizerCloneableOptions<PlainOptions> {};  // without a get_lr()
class PlainOptimizer : public torch::optim::Optimizer {
 public:
  explicit PlainOptimizer(std::vector<Tensor> parameters)
      : Optimizer(std::move(parameters), std::make_unique<PlainOptions>()) {}
  Tensor step(LossClosure = nullptr) override {
    torch::NoGradGuard no_grad;
    for (auto& p : param_groups()[0].params()) p.add_(p.grad(), -0.05);
    return {};
  }
};

TEST_F(Notes, AnOptimizerOfAClassOfItsOwn) {
  auto net = Net();
  probe_->Attach(net);
  Asks({Kind::kLearningRate});
  PlainOptimizer by_reference(net->parameters());
  probe_->Attach(by_reference);
  Train(net, by_reference, Mse);
  ExpectOne({"are not captured: its options are of a class of its own", "std::shared_ptr"});
  const auto shared = std::make_shared<PlainOptimizer>(net->parameters());
  probe_->Attach(shared);
  Train(net, *shared, Mse);
  ExpectOne({"its options have no get_lr()", "learning rates of an attached optimizer are not captured"});
}

// ---------------------------------------------------------------------------------------------------------------
// Modules and parameters

struct Growing : nn::Module {
  Growing() {
    body = register_module("body", nn::Linear(8, 16));
    head = register_module("head", nn::Linear(16, 4));
  }
  Tensor forward(const Tensor& x) {
    Tensor hidden = body(x);
    if (gain.defined()) hidden = hidden * gain;
    return head(hidden);
  }
  nn::Linear body{nullptr}, head{nullptr};
  Tensor gain;
};

TEST_F(Notes, AModuleThatIsReplaced) {
  auto net = std::make_shared<Growing>();
  torch::optim::SGD first(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kWeights});
  Train(net, first, Mse, 2);
  net->head = net->replace_module("head", nn::Linear(16, 4));
  torch::optim::SGD second(net->parameters(), 0.05);
  Train(net, second, Mse, 4);
  ExpectOne({"parameters of student were replaced or removed before step 2: head.weight, head.bias"});
  ExpectOne({"parameters of student came after Attach(), before step 2: head.weight, head.bias"});
}

TEST_F(Notes, AParameterThatIsRegisteredLater) {
  auto net = std::make_shared<Growing>();
  torch::optim::SGD first(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kWeights});
  Train(net, first, Mse, 1);
  net->gain = net->register_parameter("gain", torch::ones({16}));
  torch::optim::SGD second(net->parameters(), 0.05);
  Train(net, second, Mse, 4);
  ExpectOne({"parameters of student came after Attach(), before step 1: gain"});
}

// What comes late is noted as what is there at Attach() is, and once.
TEST_F(Notes, ModulesThatComeLateWithoutAnActivation) {
  auto net = std::make_shared<Growing>();
  probe_->Attach(net, {.name = "student"});
  net->register_module("late", nn::Softsign());
  probe_->Attach(net);
  net->register_module("later", nn::Tanhshrink());
  probe_->Attach(net);
  probe_->Attach(net);
  Asks({});
  ExpectOne({"activations of late (Softsign) of student", "no operator is known"});
  ExpectOne({"activations of later (Tanhshrink) of student", "no operator is known"});
}

// Past the room for what comes late one sentence says so, whatever else comes.
TEST_F(Notes, AModelThatGrowsWithoutBound) {
  auto net = std::make_shared<Growing>();
  probe_->Attach(net, {.name = "student"});
  for (int i = 0; i < 4200; ++i) net->register_parameter("p" + std::to_string(i), torch::zeros({1}));
  probe_->Attach(net);
  net->register_parameter("one_more", torch::zeros({1}));
  net->register_module("with", nn::Linear(1, 1));
  probe_->Attach(net);
  for (int i = 0; i < 8400; ++i) net->register_module("m" + std::to_string(i), nn::Tanh());
  probe_->Attach(net);
  Asks({});
  ExpectOne({"student grows without bound: parameters from p4096 on are not watched"});
  ExpectOne({"student grows without bound: modules from m"});
}

TEST_F(Notes, AWeightThatIsComputedFromParameters) {
  struct Normed : nn::Module {
    Normed() { layer = register_module("layer", nn::Linear(8, 4)); }
    Tensor forward(const Tensor& x) { return F::linear(x, layer->weight / layer->weight.norm(), layer->bias); }
    nn::Linear layer{nullptr};
  };
  auto net = std::make_shared<Normed>();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kActivations});
  Train(net, optimizer, Mse);
  ExpectOne({"activations of layer of student are not captured", "weight is computed from its parameters"});
}

TEST_F(Notes, WhatHasNoActivationAndWhatIsTheSame) {
  struct Own : nn::Module {
    Own() { weight = register_parameter("weight", torch::randn({8, 8})); }
    Tensor weight;
  };
  struct Net : nn::Module {
    Net() {
      register_module("own", std::make_shared<Own>());
      register_module("softsign", nn::Softsign());
      register_module("relu", nn::ReLU());
      register_module("tied", register_module("first", nn::Linear(8, 8)));
      register_parameter("phase", torch::zeros({2}, torch::kComplexFloat));
    }
  };
  probe_->Attach(std::make_shared<Net>(), {.name = "student"});
  Asks({});
  ExpectOne(
      {"activations of Net, own (Own) of student are not captured", "a class of one's own", "'module > operator'"});
  ExpectOne({"activations of softsign (Softsign) of student are not captured", "no operator is known"});
  ExpectOne({"activations of relu (ReLU) of student are named by position", "only a Sequential proves"});
  ExpectOne({"tied.weight of student is the same parameter as first.weight", "published there"});
  ExpectOne({"tied.bias of student is the same parameter as first.bias", "published there"});
  ExpectOne({"phase of student is not captured", "ComplexFloat"});
  EXPECT_EQ(Said().size(), 6u);
}

TEST_F(Notes, ModulesOfOneWeightThatTheirOrderAloneTellsApart) {
  struct Tied : nn::Module {
    Tied() {
      source = register_module("source", nn::Embedding(10, 8));
      target = register_module("target", nn::Embedding(10, 8));
      target->weight.set_data(source->weight.detach());  // one storage
    }
    nn::Embedding source{nullptr}, target{nullptr};
  };
  auto net = std::make_shared<Tied>();
  torch::optim::SGD optimizer(net->parameters(), .05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kActivations});
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    const Tensor tokens = torch::randint(0, 10, {4});
    F::mse_loss(net->source(tokens) + net->target(tokens), torch::randn({4, 8})).backward();
    optimizer.step();
  }
  ExpectOne({"told apart by their order alone", "activations of source", "and target", "of student"});
}

TEST_F(Notes, AModelThatIsAttachedAgainUnderAnotherName) {
  auto net = Net();
  probe_->Attach(net, {.name = "student"});
  for (int i = 0; i < 3; ++i) probe_->Attach(net, {.name = "teacher"});
  Asks({});
  ExpectOne({"student was attached again as teacher", "keeps its first name"});
}

TEST_F(Notes, MoreModelsThanThereIsRoomFor) {
  for (int i = 0; i < 20; ++i) probe_->Attach(Net());
  Asks({});
  ExpectOne({"more than 16 models were attached", "not watched"});
}

TEST_F(Notes, ActivationsThatCannotBeRead) {
  nn::Sequential net(nn::Linear(8, 4));
  net->to(torch::kComplexFloat);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kActivations});
  for (int step = 0; step < 3; ++step) net->forward(torch::randn({2, 8}, torch::kComplexFloat)).abs().sum().backward();
  ExpectOne({"activations of 0", "are not captured"});
}

TEST_F(Notes, AnUpdateThatSpansAChangeOfType) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kWeightUpdates});
  Train(net, optimizer, Mse);
  net->to(torch::kDouble);
  net->forward(X().to(torch::kDouble)).sum().backward();
  ExpectOne({"the update of 0", "spans a change of its type"});
  ExpectOne({"the update of 2", "spans a change of its type"});
}

// ---------------------------------------------------------------------------------------------------------------
// What the trainer and the daemon ask for

TEST_F(Notes, FreezingWhatSeveralThreadsTrain) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05), of_thread(net->parameters(), 0.05);
  probe_->Attach(net, {.name = "student"});
  Asks({Kind::kLoss});
  Train(net, optimizer, Mse);
  std::mutex mutex;
  std::condition_variable turn;
  bool trained = false, done = false;
  std::thread other([&] {
    Train(net, of_thread, Mse);
    std::unique_lock lock(mutex);
    trained = true;
    turn.notify_all();
    turn.wait(lock, [&] { return done; });
  });
  {
    std::unique_lock lock(mutex);
    turn.wait(lock, [&] { return trained; });
  }
  daemon_.Drain();
  uint32_t module = 0;
  for (const shm::RegistryEntry& entry : daemon_.registry()) {
    if (entry.type == shm::EntryType::kModule && entry.name == "0") module = entry.id;
  }
  const uint64_t number = daemon_.Command(shm::CommandType::kFreeze, 1, module);
  do {
    Train(net, optimizer, Mse, 1);
    daemon_.Drain();
  } while (daemon_.view().ReadStatus().status.command_done < number);
  Train(net, optimizer, Mse, 2);
  {
    std::lock_guard lock(mutex);
    done = true;
  }
  turn.notify_all();
  other.join();
  EXPECT_TRUE(net->parameters()[0].requires_grad());
  ExpectOne({"freeze refused after step", "several threads train student"});
}

// What is refused at once is said on stderr, which is where whoever writes the trainer looks.
TEST_F(Notes, WhatIsRefusedIsPrinted) {
  Asks({});
  ::testing::internal::CaptureStderr();
  probe_->Attach(torch::jit::Module("scripted"), {.name = "scripted"});
  probe_->Attach(std::shared_ptr<nn::Module>());
  probe_->Attach(std::shared_ptr<torch::optim::Optimizer>());
  probe_->Subscribe({"no such kind"}, [](const ProbeMessage&) {});
  EXPECT_TRUE(probe_->active());
  probe_.reset();
  const std::string printed = ::testing::internal::GetCapturedStderr();
  for (const char* words :
       {"ikkuna: torch::jit::Module 'scripted' is not watched: its operators do not tell which module",
        "ikkuna: Attach() got a null model", "ikkuna: Attach() got a null optimizer",
        "ikkuna: Subscribe() knows no kind 'no such kind'"}) {
    const size_t first = printed.find(words);
    EXPECT_NE(first, std::string::npos) << words << " in: " << printed;
    EXPECT_EQ(printed.find(words, first + 1), std::string::npos) << words << " twice in: " << printed;
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Loops that are not what they look like

class NotesOfKind : public Notes, public ::testing::WithParamInterface<Kind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, NotesOfKind, ::testing::Values(Kind::kWeightUpdates, Kind::kLoss));

TEST_P(NotesOfKind, AnOptimizerThatEvaluatesTwiceAStep) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), .05);
  probe_->Attach(net);
  Asks({GetParam()});
  for (int step = 0; step < 12; ++step) {  // sharpness-aware minimization
    const Tensor x = X(), y = Y();
    std::vector<Tensor> away;
    optimizer.zero_grad();
    F::mse_loss(net->forward(x), y).backward();
    {
      torch::NoGradGuard no_grad;
      for (const Tensor& parameter : net->parameters()) {
        away.push_back(.05 * parameter.grad());
        parameter.add_(away.back());
      }
    }
    optimizer.zero_grad();
    F::mse_loss(net->forward(x), y).backward();
    {
      torch::NoGradGuard no_grad;
      for (size_t i = 0; i < away.size(); ++i) net->parameters()[i].sub_(away[i]);
    }
    optimizer.step();
  }
  ExpectOne({"each second step of", "manual_steps", "Step()"});
}

class NotesOfPeriod : public Notes, public ::testing::WithParamInterface<uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Periods, NotesOfPeriod, ::testing::Values(1u, 7u, 100u));

TEST_P(NotesOfPeriod, AnOptimizerThatNobodyAttachedWritesBehindAnEvaluation) {
  auto net = Net();
  torch::optim::SGD head(net[2]->parameters(), .05), body(net[0]->parameters(), .05);
  probe_->Attach(net);
  Asks({Kind::kWeightUpdates}, GetParam());
  for (int step = 0; step < 12; ++step) {
    net->zero_grad();
    Mse(net->forward(X())).backward();
    head.step();
    {
      torch::NoGradGuard no_grad;
      net->forward(X());
    }
    body.step();
  }
  ExpectOne({"the update of 0", "behind an evaluation"});
}

TEST_F(Notes, LayersThatRunWithoutGradientsBeforeATrainingPass) {
  struct Frozen : nn::Module {
    Frozen() {
      body = register_module("body", nn::Linear(8, 8));
      head = register_module("head", nn::Linear(8, 4));
    }
    Tensor forward(const Tensor& x) {
      Tensor features;
      {
        torch::NoGradGuard no_grad;
        features = torch::relu(body(x));
      }
      return head(features);
    }
    nn::Linear body{nullptr}, head{nullptr};
  };
  auto net = std::make_shared<Frozen>();
  torch::optim::SGD optimizer(net->head->parameters(), .05);
  probe_->Attach(net);
  Asks({Kind::kActivations});
  Train(net, optimizer, Mse);
  ExpectOne({"layers of", "without gradients", "no_grad"});
}

TEST_F(Notes, TwoNetworksThatAreOneModelAndStepInTurns) {
  struct Gan : nn::Module {
    Gan() {
      generator = register_module("generator", nn::Linear(8, 8));
      critic = register_module("critic", nn::Linear(8, 1));
    }
    nn::Linear generator{nullptr}, critic{nullptr};
  };
  auto gan = std::make_shared<Gan>();
  torch::optim::SGD of_generator(gan->generator->parameters(), .05), of_critic(gan->critic->parameters(), .05);
  probe_->Attach(gan);
  Asks({Kind::kLayerGradients});
  for (int step = 0; step < 4; ++step) {
    gan->zero_grad();
    const Tensor fake = gan->generator(X());
    gan->critic(fake.detach()).mean().backward();
    of_critic.step();
    gan->zero_grad();
    (-gan->critic(fake)).mean().backward();
    of_generator.step();
  }
  ExpectOne({"layer gradients of", "an earlier step was made of"});
}

// What is not asked any more is not taken for the rest of a step that goes on, and the step says that it lacks it.
TEST_F(Notes, AStepThatGoesOnGivesUpWhatNobodyAsksFor) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), .05);
  probe_->Attach(net);
  Asks({Kind::kActivations, Kind::kLoss});
  for (int pass = 0; pass < 20; ++pass) Mse(net->forward(X())).backward();
  daemon_.Drain();
  daemon_.Demand({Ask(KindBit(Kind::kLoss), Level::kSummary)});
  for (int pass = 0; pass < 40; ++pass) Mse(net->forward(X())).backward();
  optimizer.step();
  probe_->Detach();
  size_t activations = 0, losses = 0;
  uint64_t dropped = 0;
  for (const auto& got : daemon_.Drain()) {
    activations += got.record.kind == static_cast<uint8_t>(Kind::kActivations);
    losses += got.record.kind == static_cast<uint8_t>(Kind::kLoss);
    if (got.record.kind == static_cast<uint8_t>(Kind::kBatchFinished)) dropped = got.record.marker.dropped_kinds;
  }
  EXPECT_GT(activations, 0u);
  EXPECT_LT(activations, 3u * 32) << "of 40 passes of three modules";
  EXPECT_GE(losses, 40u);
  EXPECT_EQ(dropped, KindBit(Kind::kActivations));
  ExpectOne({"a step of", "has given up"});
}

TEST_F(Notes, WhatIsSaidBeforeAModelIsAttached) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), .05);
  probe_->Log("early", 1.0);
  probe_->Epoch(1);
  probe_->Step();
  probe_->Attach(net);
  Asks({Kind::kLoss});
  Train(net, optimizer, Mse);
  probe_->Step(*Net());
  ExpectOne({"what is logged before a model is attached"});
  ExpectOne({"probe.Epoch() before a model is attached"});
  ExpectOne({"probe.Step() before a model is attached"});
  ExpectOne({"probe.Step() of a module that is not attached"});
}

// An evaluation on a thread that does not train, which nothing ends: it is said how to.
TEST_F(Notes, EvaluationsThatNothingTellsApart) {
  auto net = Net(), snapshot = Net();
  torch::optim::SGD optimizer(net->parameters(), .05);
  probe_->Attach(net);
  probe_->Attach(snapshot, {.name = "snapshot"});
  shm::DemandItem training = Ask(KindBit(Kind::kLoss), Level::kSummary), evaluation = training;
  evaluation.tag = kTagTest;
  daemon_.Accept({training, evaluation});
  snapshot->eval();
  std::barrier turn(2);
  constexpr int kRounds = 4;
  std::thread other([&] {
    for (int round = 0; round < kRounds; ++round) {
      turn.arrive_and_wait();
      torch::NoGradGuard no_grad;
      Mse(snapshot->forward(X()));
      turn.arrive_and_wait();
    }
  });
  for (int round = 0; round < kRounds; ++round) {
    Train(net, optimizer, Mse, 30);
    turn.arrive_and_wait();
    turn.arrive_and_wait();
  }
  other.join();
  probe_->Detach();
  ExpectOne({"an evaluation of snapshot goes on", "probe.Tag()"});
}

// Copies of the weights are for updates: they go when nobody asks for these any more.
TEST_F(Notes, CopiesForUpdatesThatNobodyAsksForAreFreed) {
  if (kNoHeapCount != nullptr) GTEST_SKIP() << kNoHeapCount;
  nn::Sequential net(nn::Linear(1024, 4096), nn::Linear(4096, 4));
  torch::optim::SGD optimizer(net->parameters(), .001);
  probe_->Attach(net);
  Asks({Kind::kWeightUpdates});
  const auto step = [&] {
    optimizer.zero_grad();
    net->forward(torch::ones({1, 1024})).square().mean().backward();
    optimizer.step();
  };
  const auto used = [] { return ::mallinfo2().uordblks + ::mallinfo2().hblkhd; };
  for (int i = 0; i < 4; ++i) step();
  const size_t with = used();
  daemon_.Drain();
  daemon_.Demand({Ask(KindBit(Kind::kLoss), Level::kSummary)});
  for (int i = 0; i < 4; ++i) step();
  EXPECT_LT(used() + (size_t{12} << 20), with) << "of 16 MiB";
}

}  // namespace
}  // namespace ikkuna
