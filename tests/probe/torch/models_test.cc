// Several models in one process: each on a thread of its own, one trained and others evaluated, one after another.
#include <algorithm>
#include <barrier>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/probe/torch/evaluations_fixture.h"
#include "tests/probe/torch/scenario.h"

namespace ikkuna {
namespace scenario {
namespace {

class Models : public AtPeriods {
  bool Repeats() const override { return false; }
};
INSTANTIATE_TEST_SUITE_P(Periods, Models, ::testing::Values(1u, 3u, 7u));

// Each thread trains its own; the backward of the second begins when that of the first has ended, and goes on until the
// first has written.
void TwoThreads(uint32_t period, bool attached, const std::function<Tensor(Mlp&)>& loss_of) {
  constexpr int kSteps = 100;
  Scenario s(period);
  Mlp first, second;
  s.Attach(first);
  if (attached) s.Attach(second);
  std::barrier meet(2);
  second.f1->weight.register_hook([&](const torch::Tensor& gradient) {
    meet.arrive_and_wait();
    meet.arrive_and_wait();
    return gradient;
  });
  std::thread other([&] {
    torch::optim::SGD optimizer(second.parameters(), .05);
    for (int i = 0; i < kSteps; ++i) {
      optimizer.zero_grad();
      if (attached) s.Forward(second);
      loss_of(second).backward();
      if (attached) s.Step(second);
      optimizer.step();
    }
  });
  torch::optim::SGD optimizer(first.parameters(), .05);
  for (int i = 0; i < kSteps; ++i) {
    optimizer.zero_grad();
    s.Forward(first);
    loss_of(first).backward();
    meet.arrive_and_wait();
    s.Step(first);
    optimizer.step();
    meet.arrive_and_wait();
  }
  other.join();
  s.Check();
}

TEST_P(Models, EachOnAThreadOfItsOwn) {
  TwoThreads(GetParam(), true, [&](Mlp& model) { return Loss(model); });
}

TEST_P(Models, BesideAThreadThatTrainsWhatNobodyAttached) {
  TwoThreads(GetParam(), false, [&](Mlp& model) { return Loss(model); });
}

// Nothing is in step: threads and models as they come, some of them several on a thread.
TEST_P(Models, AtRandomOnSeveralThreads) {
  constexpr int kThreads = 3, kModels = 5, kSteps = 80;
  Scenario s(GetParam());
  std::vector<std::unique_ptr<Mlp>> models;
  for (int m = 0; m < kModels; ++m) {
    models.push_back(std::make_unique<Mlp>());
    s.Attach(*models.back());
  }
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::vector<Mlp*> mine;
      std::vector<std::unique_ptr<torch::optim::SGD>> optimizers;
      for (int m = t; m < kModels; m += kThreads) {
        mine.push_back(models[static_cast<size_t>(m)].get());
        optimizers.push_back(
            std::make_unique<torch::optim::SGD>(mine.back()->parameters(), torch::optim::SGDOptions(.02)));
      }
      uint32_t random = 1234u + static_cast<uint32_t>(t);
      for (int i = 0; i < kSteps; ++i) {
        random = random * 1664525u + 1013904223u;
        const size_t which = (random >> 16) % mine.size();
        Mlp& model = *mine[which];
        if ((random >> 20) % 4 == 0) {
          torch::NoGradGuard no_grad;
          model.eval();
          torch::nn::functional::cross_entropy(model.forward(x_), y_);
          model.train();
        }
        optimizers[which]->zero_grad();
        const int passes = (random >> 24) % 8 == 0 ? 2 : 1;
        s.Forward(model);
        for (int pass = 0; pass < passes; ++pass) Loss(model).backward();
        s.Step(model);
        optimizers[which]->step();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  s.Check();
}

}  // namespace
}  // namespace scenario

namespace {

// An average of the weights, evaluated on the thread that trains: an evaluation each epoch, and nobody says where it
// ends.
TEST_F(Evaluations, OfAnAverageEndWhereTrainingGoesOn) {
  auto net = Net(), average = Net();
  torch::optim::SGD optimizer(net->parameters(), .05);
  Start();
  probe_->Attach(average, {.name = "average"});
  probe_->Attach(net, {.name = "net"});
  average->eval();
  std::vector<Frame> want;
  for (uint64_t epoch = 1; epoch <= 4; ++epoch) {
    Train(net, optimizer, 5);
    want.push_back({"average", 5 * epoch, 3, {}});
    for (int batch = 0; batch < 3; ++batch) want.back().losses.push_back(Evaluate(average));
    if (epoch == 3) {
      EXPECT_EQ(frames_.size(), 2u) << "none waits for the end of the run";
    }
  }
  probe_->Detach();
  EXPECT_TRUE(frames_ == want);
  EXPECT_EQ(frames_.size(), want.size());
}

// A teacher that runs in each micro-batch: one evaluation a step.
TEST_F(Evaluations, OfATeacherAreOneAStep) {
  auto net = Net(), teacher = Net();
  torch::optim::SGD optimizer(net->parameters(), .05);
  Start();
  probe_->Attach(teacher, {.name = "teacher"});
  probe_->Attach(net, {.name = "net"});
  teacher->eval();
  for (int step = 0; step < 6; ++step) {
    optimizer.zero_grad();
    for (int part = 0; part < 3; ++part) {
      Evaluate(teacher);
      F::cross_entropy(net->forward(X()), K()).backward();
    }
    optimizer.step();
  }
  probe_->Detach();
  std::vector<std::pair<uint64_t, size_t>> seen;
  for (const Frame& frame : frames_) seen.emplace_back(frame.step, frame.batches);
  EXPECT_EQ(seen, (std::vector<std::pair<uint64_t, size_t>>{{0, 3}, {1, 3}, {2, 3}, {3, 3}, {4, 3}, {5, 3}}));
}

// On a thread that does not train, which has other things to do than to say that it is done.
TEST_F(Evaluations, OnAnotherThreadEndWhenTheyAreLeft) {
  for (const bool itself : {true, false}) {
    auto net = Net(), snapshot = Net();
    torch::optim::SGD optimizer(net->parameters(), .05);
    Start();
    probe_->Attach(net, {.name = "net"});
    if (!itself) probe_->Attach(snapshot, {.name = "net2"});
    snapshot->eval();
    std::barrier turn(2);
    constexpr int kEpochs = 3, kSteps = 80;
    std::vector<Frame> want;
    std::thread other([&] {
      for (int epoch = 0; epoch < kEpochs; ++epoch) {
        turn.arrive_and_wait();
        if (itself) net->eval();
        want.push_back({itself ? "net" : "net2", uint64_t{kSteps} * static_cast<uint64_t>(epoch + 1), 2, {}});
        for (int batch = 0; batch < 2; ++batch) want.back().losses.push_back(Evaluate(itself ? net : snapshot));
        net->train();
        turn.arrive_and_wait();
      }
      turn.arrive_and_wait();
    });
    for (int epoch = 0; epoch < kEpochs; ++epoch) {
      Train(net, optimizer, kSteps);
      {
        std::lock_guard lock(mutex_);
        EXPECT_EQ(frames_.size(), static_cast<size_t>(epoch));
      }
      turn.arrive_and_wait();
      turn.arrive_and_wait();
    }
    probe_->Detach();
    turn.arrive_and_wait();
    other.join();
    EXPECT_EQ(frames_.size(), size_t{kEpochs}) << itself;
    EXPECT_TRUE(frames_ == want) << itself;
    probe_.reset();
  }
}

// Each thread its part of one set.
TEST_F(Evaluations, OfOneSetBySeveralThreadsAreOne) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), .05);
  Start().Attach(net, {.name = "net"});
  constexpr size_t kThreads = 3, kBatches = 4;
  for (int epoch = 0; epoch < 2; ++epoch) {
    net->train();
    Train(net, optimizer, 3);
    net->eval();
    std::barrier all(kThreads);
    std::vector<std::thread> threads;
    for (size_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        for (size_t batch = 0; batch < kBatches; ++batch) {
          Evaluate(net);
          all.arrive_and_wait();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  probe_->Detach();
  EXPECT_EQ(begun_, (std::multiset<std::pair<std::string, uint64_t>>{{"net", 3}, {"net", 6}}));
  ASSERT_EQ(frames_.size(), 2u);
  for (const Frame& frame : frames_) {
    EXPECT_EQ(frame.batches, kThreads * kBatches);
    EXPECT_EQ(frame.losses.size(), kThreads * kBatches);
  }
}

// What a thread has named is its own.
TEST_F(Evaluations, OfTwoThreadsBearTheTagsOfEach) {
  auto net = Net();
  Capture::Start({});
  std::mutex mutex;
  std::map<std::string, int> losses;
  for (const char* tag : {"validation", "final", "test"}) {
    probe_->Subscribe(
        {"loss"},
        [&](const ProbeMessage& message) {
          std::lock_guard lock(mutex);
          ++losses[message.tag];
        },
        1, tag);
  }
  probe_->Attach(net);
  net->eval();
  std::barrier both(2);
  std::thread other([&] {
    probe_->Tag("final");
    both.arrive_and_wait();
    for (int batch = 0; batch < 3; ++batch) Evaluate(net);
    both.arrive_and_wait();
  });
  both.arrive_and_wait();
  probe_->Tag("validation");
  for (int batch = 0; batch < 5; ++batch) Evaluate(net);
  both.arrive_and_wait();
  other.join();
  probe_->Detach();
  EXPECT_EQ(losses, (std::map<std::string, int>{{"validation", 5}, {"final", 3}}));
}

// The teacher has trained before, the student not yet: what is said of it is of its own steps.
TEST_F(Evaluations, BeforeTheFirstStepAreOfTheModelsOwnSteps) {
  auto teacher = Net(), student = Net();
  torch::optim::SGD of_teacher(teacher->parameters(), .05), of_student(student->parameters(), .05);
  Start();
  probe_->Attach(teacher, {.name = "teacher"});
  probe_->Attach(student, {.name = "student"});
  probe_->Attach(of_teacher);
  probe_->Attach(of_student);
  Train(teacher, of_teacher, 7);
  for (int round = 0; round < 2; ++round) {
    student->eval();
    Evaluate(student);
    student->train();
    Train(student, of_student, 2);
  }
  probe_->Detach();
  ASSERT_EQ(frames_.size(), 2u);
  EXPECT_EQ(frames_[0].step, 0u);
  EXPECT_EQ(frames_[1].step, 2u);
}

// Training divides its sum by the rows: so does the evaluation of an average, which trains nothing.
TEST_F(Evaluations, OfAnAverageAreInTheUnitOfTraining) {
  auto net = Net(), average = Net();
  torch::optim::SGD optimizer(net->parameters(), .05);
  Start();
  Also({"loss"}, "default");
  probe_->Attach(average, {.name = "average"});
  probe_->Attach(net, {.name = "net"});
  const auto sum = [](const Tensor& out) {
    return F::mse_loss(out, Y(), F::MSELossFuncOptions().reduction(torch::kSum));
  };
  for (int step = 0; step < 5; ++step) {
    optimizer.zero_grad();
    (sum(net->forward(X())) / 12).backward();
    optimizer.step();
  }
  average->eval();
  Tensor given;
  {
    torch::NoGradGuard no_grad;
    given = sum(average->forward(X()));
  }
  probe_->Detach();
  ASSERT_EQ(frames_.size(), 1u);
  ASSERT_EQ(frames_[0].losses.size(), 1u);
  EXPECT_FLOAT_EQ(frames_[0].losses[0], given.item<double>() / 12);
}

// Beside a thread that sleeps during its backward passes a snapshot is evaluated: each batch is heard.
TEST_F(Evaluations, OfASnapshotBesideAThreadThatTrainsAreWhole) {
  auto net = Net(), snapshot = Net();
  torch::optim::SGD optimizer(net->parameters(), .05);
  Start();
  Also({"activations"}, "default", 7);
  probe_->Attach(net, {.name = "net"});
  probe_->Attach(snapshot, {.name = "snapshot"});
  snapshot->eval();
  std::barrier turn(2);
  constexpr int kSteps = 200;
  bool over = false;
  net[0]->as<torch::nn::Linear>()->weight.register_hook([&](const Tensor& gradient) {
    if (over) return gradient;
    turn.arrive_and_wait();
    turn.arrive_and_wait();
    return gradient;
  });
  std::vector<double> want;
  std::thread other([&] {
    for (int step = 0; step < kSteps; ++step) {
      turn.arrive_and_wait();
      want.push_back(Evaluate(snapshot));
      turn.arrive_and_wait();
    }
  });
  Train(net, optimizer, kSteps);
  over = true;
  other.join();
  probe_->Detach();
  std::vector<double> got;
  for (const Frame& frame : frames_) got.insert(got.end(), frame.losses.begin(), frame.losses.end());
  EXPECT_EQ(got.size(), want.size());
  EXPECT_TRUE(got == want);
}

// ---------------------------------------------------------------------------------------------------------------
// Whose learning rates

TEST_F(Losses, RatesAreThoseOfTheModelsOwnOptimizer) {
  for (const bool said : {false, true}) {
    kept_.clear();
    auto generator = torch::nn::Sequential(torch::nn::Linear(4, 8)),
         critic = torch::nn::Sequential(torch::nn::Linear(8, 1));
    torch::optim::SGD of_generator(generator->parameters(), .125), of_critic(critic->parameters(), .25);
    Probe& probe = Start({"learning_rate"});
    probe.Attach(generator, {.name = "generator", .manual_steps = said});
    probe.Attach(critic, {.name = "critic", .manual_steps = said});
    probe.Attach(of_generator);
    if (said) probe.Attach(of_critic);
    for (int step = 0; step < 4; ++step) {
      of_critic.zero_grad();
      critic->forward(torch::randn({2, 8})).mean().backward();
      of_critic.step();
      if (said) probe.Step(*critic);
      of_generator.zero_grad();
      critic->forward(generator->forward(torch::randn({2, 4}))).mean().backward();
      of_generator.step();
      if (said) probe.Step(*generator);
    }
    probe.Detach();
    std::map<std::string, std::set<double>> rates;
    for (const Kept& kept : Of("learning_rate")) rates[kept.message.root].insert(kept.message.scalar);
    std::map<std::string, std::set<double>> want{{"generator", {.125}}};
    if (said) want["critic"] = {.25};
    EXPECT_EQ(rates, want) << said;
    probe_.reset();
  }
}

// ---------------------------------------------------------------------------------------------------------------
// A model that never steps

// A target network in training mode, whose output is detached: nothing goes out for it, and when it does train after
// all its first step says that a pass is missing.
TEST_F(Losses, OfATargetWhoseOutputIsDetachedNothingGoesOut) {
  auto net = Net(), target = Net();
  torch::optim::SGD optimizer(net->parameters(), .05), of_target(target->parameters(), .05);
  Start({"activations", "pass_started", "batch_finished"});
  probe_->Attach(net, {.name = "net"});
  probe_->Attach(target, {.name = "target"});
  const auto of_target_now = [&] {
    size_t count = 0;
    for (const Kept& kept : kept_) count += kept.message.root == "target";
    return count;
  };
  size_t after = 0;
  for (int step = 0; step < 100; ++step) {
    if (step == 70) after = of_target_now();
    const Tensor x = X(), aim = target->forward(x).detach();
    optimizer.zero_grad();
    F::mse_loss(net->forward(x), aim).backward();
    optimizer.step();
  }
  EXPECT_EQ(of_target_now(), after);
  for (int step = 0; step < 2; ++step) Train(target, of_target, X(), K());
  probe_->Detach();
  std::vector<Kept> steps;
  std::set<uint32_t> begun;
  for (const Kept& kept : kept_) {
    if (kept.message.root != "target") continue;
    if (kept.message.kind == "pass_started") begun.insert(kept.message.pass);
    if (kept.message.kind == "batch_finished") steps.push_back(kept);
  }
  ASSERT_EQ(steps.size(), 2u);
  EXPECT_TRUE(std::any_of(steps[0].message.passes.begin(), steps[0].message.passes.end(),
                          [&](uint32_t pass) { return begun.count(pass) == 0; }));
  ASSERT_EQ(steps[1].message.passes.size(), 1u);
  EXPECT_EQ(begun.count(steps[1].message.passes[0]), 1u);
}

}  // namespace
}  // namespace ikkuna
