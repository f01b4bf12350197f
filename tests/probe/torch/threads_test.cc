// Threads: loops with threads that come and go or share the work of a step, and probes that end beside them.
#include <malloc.h>

#include <atomic>
#include <barrier>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "shared/codes.h"
#include "tests/probe/torch/notes_fixture.h"

namespace ikkuna {
namespace {

class Threads : public Capture {};

TEST_F(Threads, AThreadThatBeginsDuringAnothersBackwardIsHeard) {
  torch::nn::Linear first(8, 6), last(6, 3);
  torch::nn::Sequential net(first, last);
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"activations"}).Attach(net);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  // In the midst of a backward pass, of which operators have been heard already, another thread runs a forward pass.
  const auto outputs_of_both = [&] {
    const size_t before = Of("activations", "1").size();
    optimizer.zero_grad();
    const Tensor hidden = first->forward(x);
    hidden.register_hook([&](const Tensor& gradient) {
      std::thread([&] { F::cross_entropy(net->forward(x), y); }).join();
      return gradient;
    });
    F::cross_entropy(last->forward(hidden), y).backward();
    optimizer.step();
    return Of("activations", "1").size() - before;
  };
  Train(net, optimizer, x, y);
  EXPECT_EQ(outputs_of_both(), 2u) << "early on";
  for (int step = 0; step < 100; ++step) Train(net, optimizer, x, y);
  std::thread([&] { Train(net, optimizer, x, y); }).join();
  EXPECT_EQ(outputs_of_both(), 2u) << "where several threads train";
}

// A thread an epoch: each takes over from the one before, whose last step is closed with its update.
TEST_F(Threads, ALossScaleIsNotThatOfWhatAnotherThreadStartsFrom) {
  torch::nn::Sequential scaled(torch::nn::Linear(8, 4)), plain(torch::nn::Linear(8, 4));
  Probe& probe = Start({"layer_gradients"});
  probe.Attach(scaled, {.name = "scaled"});
  probe.Attach(plain, {.name = "plain"});
  std::barrier turn(2);
  scaled->parameters()[0].register_hook([&](const Tensor& gradient) {
    turn.arrive_and_wait();
    turn.arrive_and_wait();
    return gradient;
  });
  const Tensor out = plain->forward(torch::randn({2, 8}));
  std::thread other([&] {
    (F::mse_loss(scaled->forward(torch::randn({2, 8})), torch::randn({2, 4})) * 1024).backward();
  });
  turn.arrive_and_wait();
  out.backward(torch::ones_like(out));
  turn.arrive_and_wait();
  other.join();
  probe.Detach();
  ASSERT_EQ(Of("layer_gradients").size(), 2u);
  for (const Kept& kept : Of("layer_gradients")) {
    EXPECT_EQ((kept.message.flags & kFlagGradScaled) != 0, kept.message.root == "scaled") << kept.message.root;
  }
}

TEST_F(Threads, ThreadsThatComeAndGoTrainOneModel) {
  torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::Linear(6, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"loss", "weights", "weight_updates", "batch_finished"}).Attach(net);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  constexpr uint64_t kEpochs = 20, kSteps = 5;
  for (uint64_t epoch = 0; epoch < kEpochs; ++epoch) {
    std::thread([&] {
      for (uint64_t step = 0; step < kSteps; ++step) Train(net, optimizer, x, y);
    }).join();
  }
  const Tensor last = net->parameters()[0].detach().clone();
  probe_->Detach();
  ASSERT_EQ(Of("loss").size(), kEpochs * kSteps);
  ASSERT_EQ(Of("batch_finished").size(), kEpochs * kSteps);
  ASSERT_EQ(Of("weight_updates", "0").size(), kEpochs * kSteps);
  for (uint64_t step = 0; step < kEpochs * kSteps; ++step) {
    EXPECT_EQ(Of("loss")[step].message.global_step, step);
    EXPECT_EQ(Of("batch_finished")[step].message.global_step, step);
    const Tensor after = step + 1 < kEpochs * kSteps ? Of("weights", "0")[step + 1].tensor : last;
    EXPECT_TRUE(torch::equal(Of("weight_updates", "0")[step].tensor, after - Of("weights", "0")[step].tensor)) << step;
  }
}

// A thread for each backward pass, a thousand of them: what each was needed for goes on to the next.
TEST_F(Threads, ThreadsThatRunBackwardLeaveNothingBehind) {
  torch::nn::Sequential net(torch::nn::Linear(8, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  size_t losses = 0;
  Probe& probe = Start({});
  probe.Subscribe({"loss"}, [&](const ProbeMessage&) { ++losses; });
  probe.Attach(net);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  const auto train = [&](int steps) {
    for (int step = 0; step < steps; ++step) {
      optimizer.zero_grad();
      const Tensor loss = F::cross_entropy(net->forward(x), y);
      std::thread([&] { loss.backward(); }).join();
      optimizer.step();
    }
  };
  train(200);
  const size_t before = ::mallinfo2().uordblks;
  train(1000);
  EXPECT_EQ(losses, 1200u);
  if (kNoHeapCount != nullptr) GTEST_SKIP() << kNoHeapCount;
  EXPECT_LT(::mallinfo2().uordblks, before + (size_t{128} << 10));
}

// Without destructor: it can be looked at to the very end of its thread.
thread_local bool locals_gone = false;
struct OfThread {
  ~OfThread() { locals_gone = true; }
};

// What a thread captures at its end is told by the next that comes: what of the trainer's is its own is gone by then.
TEST_F(Threads, NoCallbackRunsOnAThreadWhoseLocalsAreGone) {
  torch::nn::Sequential net(torch::nn::Linear(8, 3));
  Start({});
  std::vector<std::string> told;
  bool late = false;
  probe_->Subscribe(
      {"loss", "batch_finished"},
      [&](const ProbeMessage& message) {
        late |= locals_gone;
        told.push_back(message.kind);
      },
      1, "test");
  probe_->Attach(net);
  net->eval();
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  std::thread([&] {
    torch::NoGradGuard no_grad;
    F::cross_entropy(net->forward(x), y);
    thread_local OfThread made_behind_ours;
    static_cast<void>(made_behind_ours);
  }).join();
  EXPECT_FALSE(late);
  probe_->Log("next", 1.0);
  EXPECT_EQ(told, (std::vector<std::string>{"loss", "batch_finished"}));
}

// A thread that is about to end ends the probe as well: nobody comes any more, which is counted.
TEST_F(Notes, WhatNobodyIsToldAnyMoreIsCounted) {
  if (kNoHeapCount != nullptr) GTEST_SKIP() << "what is kept of such a thread is never freed";
  Asks({Kind::kLoss});
  auto net = Net();
  size_t told = 0;
  probe_->Subscribe({"weight_updates", "batch_finished"}, [&](const ProbeMessage&) { ++told; });
  probe_->Attach(net);
  std::thread([&] {
    struct AtEnd {
      Probe* probe = nullptr;
      ~AtEnd() { probe->Detach(); }
    };
    thread_local AtEnd made_before_ours;
    made_before_ours.probe = probe_.get();
    torch::optim::SGD optimizer(net->parameters(), .05);
    Train(net, optimizer, Mse, 1);
  }).join();
  EXPECT_EQ(told, 0u);
  ExpectOne({"3 messages for Subscribe() were dropped"});
}

// Halts the calling thread before one of its operators of this name, counted from 1, until `turn` has come twice.
class HaltAt {
 public:
  HaltAt(const char* name, int count, std::barrier<>* turn) {
    name_ = name;
    left_ = count;
    turn_ = turn;
    handle_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback([](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
          if (std::string_view(function.name()) != name_ || --left_ != 0) return nullptr;
          turn_->arrive_and_wait();
          turn_->arrive_and_wait();
          return nullptr;
        }).scopes({at::RecordScope::FUNCTION}));
  }
  ~HaltAt() { at::removeCallback(handle_); }
  HaltAt(const HaltAt&) = delete;
  HaltAt& operator=(const HaltAt&) = delete;

 private:
  at::CallbackHandle handle_;
  static inline thread_local std::string_view name_;
  static inline thread_local int left_ = 0;
  static inline thread_local std::barrier<>* turn_ = nullptr;
};

// One trains, and is in the midst of its first optimizer.step() when another begins: its step closes with what it has
// written so far, and nobody looks into its optimizer.
TEST_F(Threads, AnUpdateInTheMidstOfWhichAnotherBeginsSaysSo) {
  torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::Linear(6, 3));
  torch::optim::Adam adam(net->parameters(), torch::optim::AdamOptions(.01));
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  // The state of the second parameter is made, or the last parameter is just being written.
  for (const auto& [name, count] : {std::pair{"aten::zeros_like", 3}, {"aten::addcdiv_", 8}}) {
    kept_.clear();
    Probe& probe = Start({"weight_updates", "exp_avg", "learning_rate"});
    probe.Attach(net);
    probe.Attach(adam);
    std::barrier turn(2);
    std::thread first([&] {
      const HaltAt halt(name, count, &turn);
      for (int step = 0; step < 2; ++step) {
        Train(net, adam, x, y);
        if (count < 4) break;
      }
    });
    turn.arrive_and_wait();
    net->forward(x);
    turn.arrive_and_wait();
    first.join();
    probe.Detach();
    const uint64_t last = count < 4 ? 0 : 1;
    ASSERT_EQ(Of("weight_updates", "0").size(), last + 1) << name;
    for (const Kept& kept : Of("weight_updates")) {
      EXPECT_EQ((kept.message.flags & kFlagWeightsChangedOutside) != 0, kept.message.global_step == last) << name;
    }
    if (last == 0) {
      EXPECT_TRUE(Of("exp_avg").empty());
    }
    probe_.reset();
  }
}

// Threads that live on and hand over when they have written: each update is whole, and moments are those of its step.
TEST_F(Threads, UpdatesOfThreadsThatTakeTurnsAreWhole) {
  constexpr uint64_t kSteps = 8;
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  for (const bool one_writes : {false, true}) {
    for (const bool attached : {true, false}) {
      kept_.clear();
      torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::Linear(6, 5), torch::nn::Linear(5, 3));
      // One layer has gradients, and is in no optimizer: of one that is not attached that shows in its second step.
      std::vector<Tensor> trained = net->parameters();
      if (attached) trained.erase(trained.begin() + 2, trained.begin() + 4);
      torch::optim::Adam adam(trained, torch::optim::AdamOptions(.01));
      Probe& probe = Start({"weight_updates", "exp_avg"});
      probe.Attach(net);
      if (attached) probe.Attach(adam);
      std::barrier turn(3);
      std::vector<std::thread> threads;
      const auto take_turns = [&](uint64_t who) {
        for (uint64_t step = 0; step < kSteps; ++step) {
          if (step % 2 == who) {
            net->zero_grad();
            F::cross_entropy(net->forward(x), y).backward();
            if (!one_writes) adam.step();
          }
          turn.arrive_and_wait();
          if (one_writes && who == 2) adam.step();
          turn.arrive_and_wait();
        }
      };
      for (const uint64_t who : {0, 1}) threads.emplace_back(take_turns, who);
      take_turns(2);
      for (std::thread& thread : threads) thread.join();
      probe.Detach();
      ASSERT_EQ(Of("weight_updates", "0").size(), kSteps) << one_writes << attached;
      for (const Kept& kept : Of("weight_updates", "0")) {
        EXPECT_EQ(kept.message.flags, 0) << kept.message.global_step << one_writes << attached;
      }
      EXPECT_EQ(Of("exp_avg", "0").size(), attached ? kSteps * 2 : 0) << one_writes;
      probe_.reset();
    }
  }
}

// Of optimizers that share parameters the one that writes cannot be seen: that the other one stands still says nothing,
// and its state is not looked up while its thread may be in the midst of a step.
TEST_F(Threads, RatesOfThreadsWithOptimizersOfTheirOwnGoOn) {
  constexpr int kRounds = 6;
  torch::nn::Sequential net(torch::nn::Linear(8, 3));
  torch::optim::Adam often(net->parameters()), rarely(net->parameters());
  Probe& probe = Start({"learning_rate"});
  probe.Attach(net);
  probe.Attach(often);
  probe.Attach(rarely);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  std::barrier turn(2);
  std::thread other([&] {
    for (int round = 0; round < kRounds; ++round) {
      Train(net, rarely, x, y);
      turn.arrive_and_wait();
      turn.arrive_and_wait();
    }
  });
  for (int round = 0; round < kRounds; ++round) {
    turn.arrive_and_wait();
    for (int step = 0; step < 3; ++step) Train(net, often, x, y);
    turn.arrive_and_wait();
  }
  other.join();
  probe.Detach();
  EXPECT_EQ(Of("learning_rate").size(), size_t{4 * kRounds});
}

// What a thread left open is closed by whichever comes next, before anybody trains on.
TEST_F(Threads, TheLastStepOfAThreadThatEndedHasItsUpdate) {
  torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::Linear(6, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"weights", "weight_updates"}).Attach(net);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  const auto train_on_a_thread = [&] {
    std::thread([&] {
      for (int step = 0; step < 3; ++step) Train(net, optimizer, x, y);
    }).join();
  };
  train_on_a_thread();
  const Tensor left = net->parameters()[0].detach().clone();
  probe_->Log("epoch", 1.0);
  train_on_a_thread();
  probe_->Detach();
  ASSERT_EQ(Of("weight_updates", "0").size(), 6u);
  // What is logged takes no number: it is of the step that comes.
  std::vector<uint64_t> steps;
  for (const Kept& kept : Of("weight_updates", "0")) steps.push_back(kept.message.global_step);
  EXPECT_EQ(steps, (std::vector<uint64_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_TRUE(torch::equal(Of("weight_updates", "0")[2].tensor, left - Of("weights", "0")[2].tensor));
}

// Of threads that take turns one ends: what its last step did to the weights is read before another trains on.
TEST_F(Threads, TheLastUpdateOfAThreadIsTakenBeforeOthersGoOn) {
  torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::Linear(6, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1), of_thread(net->parameters(), 0.1);
  Start({"weights", "weight_updates", "batch_finished"}).Attach(net);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  Train(net, optimizer, x, y);
  std::thread([&] { Train(net, of_thread, x, y); }).join();
  for (int step = 0; step < 3; ++step) Train(net, optimizer, x, y);
  probe_->Detach();
  const auto weights = Of("weights", "0"), updates = Of("weight_updates", "0");
  ASSERT_EQ(weights.size(), 5u);
  ASSERT_EQ(updates.size(), 5u);
  EXPECT_EQ(Of("batch_finished").size(), 5u);
  for (size_t step = 0; step + 1 < 5; ++step) {
    EXPECT_EQ(weights[step].message.global_step, step);
    EXPECT_EQ(updates[step].message.flags, 0);
    EXPECT_TRUE(torch::equal(updates[step].tensor, weights[step + 1].tensor - weights[step].tensor)) << step;
  }
}

// Forward and backward on a worker, the step on another thread: one step, one number.
TEST_F(Threads, AStepThatAnotherThreadTakesIsTheOneOfThePass) {
  torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::Linear(6, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"loss", "activations", "weight_gradients", "batch_started", "batch_finished"}).Attach(net);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  constexpr uint64_t kSteps = 80;
  std::mutex mutex;
  std::condition_variable turn;
  uint64_t passes = 0, steps = 0;
  std::thread worker([&] {
    for (uint64_t i = 0; i < kSteps; ++i) {
      std::unique_lock lock(mutex);
      turn.wait(lock, [&] { return steps == i; });
      F::cross_entropy(net->forward(x), y).backward();
      ++passes;
      turn.notify_all();
    }
  });
  for (uint64_t i = 0; i < kSteps; ++i) {
    std::unique_lock lock(mutex);
    turn.wait(lock, [&] { return passes == i + 1; });
    optimizer.step();
    optimizer.zero_grad();
    ++steps;
    turn.notify_all();
  }
  worker.join();
  probe_->Detach();
  for (const char* kind : {"loss", "batch_started", "batch_finished"}) {
    ASSERT_EQ(Of(kind).size(), kSteps) << kind;
    for (uint64_t i = 0; i < kSteps; ++i) EXPECT_EQ(Of(kind)[i].message.global_step, i) << kind;
  }
  ASSERT_EQ(Of("activations", "0").size(), kSteps);
  ASSERT_EQ(Of("weight_gradients", "0").size(), kSteps);
  for (uint64_t i = 0; i < kSteps; ++i) {
    EXPECT_EQ(Of("activations", "0")[i].message.call, 0);
    EXPECT_EQ(Of("activations", "0")[i].message.global_step, i);
    EXPECT_EQ(Of("weight_gradients", "0")[i].message.global_step, i);
  }
}

// Passes on several threads for one write share its number, from the first step on.
TEST_F(Threads, PassesOfSeveralThreadsForOneWriteShareItsStep) {
  torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::Linear(6, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({});
  std::mutex mutex;
  std::multimap<uint64_t, std::string> seen;  // kinds by step
  probe_->Subscribe({"loss", "weight_gradients", "batch_started", "batch_finished"}, [&](const ProbeMessage& message) {
    std::lock_guard lock(mutex);
    seen.emplace(message.global_step, message.kind);
  });
  probe_->Attach(net);
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  constexpr int kSteps = 20;
  for (int step = 0; step < kSteps; ++step) {
    optimizer.zero_grad();
    // Both passes are under way before either ends, as in a loop that hands shards to a pool.
    std::atomic<int> begun{0};
    std::vector<std::thread> shards;
    for (int shard = 0; shard < 2; ++shard) {
      shards.emplace_back([&] {
        const Tensor loss = F::cross_entropy(net->forward(x), y);
        begun.fetch_add(1);
        while (begun.load() < 2) std::this_thread::yield();
        loss.backward();
      });
    }
    for (std::thread& shard : shards) shard.join();
    optimizer.step();
  }
  probe_->Detach();
  std::map<uint64_t, int> losses;
  for (const auto& [step, kind] : seen) losses[step] += kind == "loss";
  std::vector<uint64_t> shared;
  for (const auto& [step, count] : losses) {
    if (count == 2) shared.push_back(step);
    EXPECT_LE(count, 2);
  }
  ASSERT_EQ(shared.size(), size_t{kSteps});
  for (const uint64_t step : shared) {
    const auto [from, to] = seen.equal_range(step);
    std::multiset<std::string> kinds;
    for (auto it = from; it != to; ++it) kinds.insert(it->second);
    EXPECT_EQ(kinds.count("weight_gradients"), 2u) << step;
    EXPECT_EQ(kinds.count("batch_finished"), 1u) << step;
    EXPECT_EQ(kinds.count("batch_started"), 1u) << step;
  }
  EXPECT_EQ(shared.back() - shared.front() + 1, shared.size()) << "no number is left out";
}

// A thread that only evaluates is no reason to leave what a training thread left to nobody.
TEST_F(Threads, ThreadsThatComeAndGoBesideOneThatEvaluates) {
  torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::Linear(6, 3));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"loss", "weights", "weight_updates"}).Attach(net);
  Also({"loss"}, "test");
  const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
  constexpr uint64_t kEpochs = 10, kSteps = 5;
  for (uint64_t epoch = 0; epoch < kEpochs; ++epoch) {
    net->eval();
    {
      torch::NoGradGuard no_grad;
      F::cross_entropy(net->forward(x), y);
    }
    net->train();
    std::thread([&] {
      for (uint64_t step = 0; step < kSteps; ++step) Train(net, optimizer, x, y);
    }).join();
  }
  const Tensor last = net->parameters()[0].detach().clone();
  probe_->Detach();
  std::vector<uint64_t> steps;
  size_t evaluated = 0;
  for (const Kept& kept : Of("loss")) {
    if (kept.message.tag == "test")
      ++evaluated;
    else
      steps.push_back(kept.message.global_step);
  }
  EXPECT_EQ(evaluated, kEpochs);
  ASSERT_EQ(steps.size(), kEpochs * kSteps);
  for (uint64_t step = 0; step < steps.size(); ++step) EXPECT_EQ(steps[step], step);
  ASSERT_EQ(Of("weight_updates", "0").size(), kEpochs * kSteps);
  for (uint64_t step = 0; step < kEpochs * kSteps; ++step) {
    const Tensor after = step + 1 < kEpochs * kSteps ? Of("weights", "0")[step + 1].tensor : last;
    EXPECT_TRUE(torch::equal(Of("weight_updates", "0")[step].tensor, after - Of("weights", "0")[step].tensor)) << step;
  }
}

// What a probe held goes with it: a search over a thousand trainings attaches a thousand probes.
TEST_F(Threads, AProbeThatIsGoneHoldsNothing) {
  const auto files = [] { return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}); };
  std::weak_ptr<torch::nn::Module> model;
  std::weak_ptr<int> captured;
  Tensor weight;
  const auto before = files();
  for (int trial = 0; trial < 5; ++trial) {
    torch::nn::Sequential net(torch::nn::Linear(8, 3));
    torch::optim::SGD optimizer(net->parameters(), 0.1);
    auto mine = std::make_shared<int>(trial);
    model = net.ptr();
    captured = mine;
    weight = net->parameters()[0];
    auto probe = std::make_unique<Probe>(ProbeOptions{.run = "trial", .quiet = true});
    probe->Subscribe({"weight_updates"}, [mine](const ProbeMessage&) {});
    probe->Attach(net);
    probe->Attach(optimizer);
    for (int step = 0; step < 3; ++step) Train(net, optimizer, torch::randn({4, 8}), torch::randint(3, {4}));
    std::thread([&] { Train(net, optimizer, torch::randn({4, 8}), torch::randint(3, {4})); }).join();
  }
  EXPECT_TRUE(model.expired());
  EXPECT_TRUE(captured.expired());
  EXPECT_EQ(weight.use_count(), 1u);
  EXPECT_EQ(files(), before);
}

// A probe ends while other threads are in the midst of operators, hooks and backward passes of its models.
TEST_F(Threads, AProbeMayEndWhileOtherThreadsTrain) {
  for (int trial = 0; trial < 60; ++trial) {
    torch::nn::Sequential net(torch::nn::Linear(8, 6), torch::nn::ReLU(), torch::nn::Linear(6, 3));
    const Tensor x = torch::randn({4, 8}), y = torch::randint(3, {4});
    F::cross_entropy(net->forward(x), y).backward();  // gradients are there, and zeroed in place: threads share them
    auto probe = std::make_unique<Probe>(ProbeOptions{.run = "trial", .quiet = true});
    std::atomic<uint64_t> heard{0};
    probe->Subscribe({"layer_gradients", "weight_updates"}, [&](const ProbeMessage&) { heard.fetch_add(1); });
    probe->Attach(net);
    std::atomic<bool> stop{false};
    std::vector<std::thread> crew;
    for (int t = 0; t < 3; ++t) {
      crew.emplace_back([&] {
        torch::optim::SGD optimizer(net->parameters(), 0.01);
        while (!stop.load()) {
          optimizer.zero_grad(false);
          F::cross_entropy(net->forward(x), y).backward();
          optimizer.step();
        }
      });
    }
    while (heard.load() < 50) std::this_thread::yield();
    probe.reset();
    const uint64_t before = heard.load();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    stop.store(true);
    for (std::thread& thread : crew) thread.join();
    EXPECT_LE(heard.load(), before + 3 * 8) << "but for what was under way";
  }
}

}  // namespace
}  // namespace ikkuna
