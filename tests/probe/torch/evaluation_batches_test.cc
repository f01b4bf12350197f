// What one batch of an evaluation is, and which evaluation it belongs to.
#include <torch/torch.h>

#include <atomic>
#include <barrier>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/probe/torch/evaluations_fixture.h"

namespace ikkuna {
namespace {

// Training calls the model again behind its step, for a metric, or twice for one loss; an evaluation once a batch.
TEST_F(Evaluations, OfAModelThatTrainingCallsTwiceAreByTheLoss) {
  for (const bool views : {false, true}) {
    auto net = Net();
    torch::optim::SGD optimizer(net->parameters(), .05);
    Start().Attach(net, {.name = "net"});
    Also({"loss"}, "default");
    for (int step = 0; step < 6; ++step) {
      optimizer.zero_grad();
      const Tensor x = X(), y = K();
      const Tensor out = views ? (net->forward(x) + net->forward(x + .1)) / 2 : net->forward(x);
      F::cross_entropy(out, y).backward();
      optimizer.step();
      if (!views) (net->forward(x).argmax(1) == y).sum();
    }
    net->eval();
    std::vector<double> want;
    for (int batch = 0; batch < 5; ++batch) want.push_back(Evaluate(net));
    probe_->Detach();
    ASSERT_EQ(frames_.size(), 1u);
    EXPECT_EQ(frames_[0].losses, want) << views;
    EXPECT_TRUE(named_.empty()) << *named_.begin();
    probe_.reset();
  }
}

// A cell that an evaluation unrolls for longer than training did: a batch is one.
TEST_F(Evaluations, OfACellThatIsUnrolledLongerAreOneABatch) {
  torch::nn::GRUCell cell(8, 6);
  torch::nn::Linear head(6, 4);
  struct Both : torch::nn::Module {};
  auto net = std::make_shared<Both>();
  net->register_module("cell", cell);
  net->register_module("head", head);
  torch::optim::SGD optimizer(net->parameters(), .05);
  Start().Attach(net, {.name = "net"});
  const auto loss = [&](int steps) {
    Tensor state = torch::zeros({12, 6});
    for (int t = 0; t < steps; ++t) state = cell(torch::randn({12, 8}), state);
    return F::cross_entropy(head(state), K());
  };
  for (int step = 0; step < 4; ++step) {
    optimizer.zero_grad();
    loss(5).backward();
    optimizer.step();
  }
  net->eval();
  std::vector<double> want;
  {
    torch::NoGradGuard no_grad;
    for (int batch = 0; batch < 3; ++batch) want.push_back(loss(8).item<double>());
  }
  probe_->Detach();
  ASSERT_EQ(frames_.size(), 1u);
  EXPECT_EQ(frames_[0].batches, 3u);
  EXPECT_TRUE(frames_[0].losses == want);
}

// Each call goes on with what the last gave, as of a cell; but a loss behind each is a result of its own, and an
// evaluation that never ends would else be one batch for ever.
TEST_F(Evaluations, OfARolloutWithALossACallAreABatchACall) {
  for (const bool given : {false, true}) {
    auto net = Net(8);
    torch::optim::SGD optimizer(net->parameters(), .05);
    Start().Attach(net, {.name = "net"});
    const auto loss = [&](const Tensor& out) {
      if (!given) return F::mse_loss(out, torch::ones({12, 8}));
      Tensor own = (out - 1).abs().mean();
      probe_->Loss(own);
      return own;
    };
    for (int step = 0; step < 4; ++step) {
      optimizer.zero_grad();
      loss(net->forward(X())).backward();
      optimizer.step();
    }
    net->eval();
    std::vector<double> want;
    {
      torch::NoGradGuard no_grad;
      Tensor state = X();
      for (int call = 0; call < 100; ++call) want.push_back(loss(state = net->forward(state)).item<double>());
    }
    probe_->Detach();
    ASSERT_EQ(frames_.size(), 1u);
    EXPECT_EQ(frames_[0].batches, 100u) << given;
    ASSERT_EQ(frames_[0].losses.size(), want.size()) << given;
    for (size_t i = 0; i < want.size(); ++i) EXPECT_FLOAT_EQ(frames_[0].losses[i], want[i]) << i;
    probe_.reset();
  }
}

TEST_F(Evaluations, OfARolloutWithoutALossAreBatchesOfSoManyCalls) {
  auto net = Net(8);
  Start().Attach(net, {.name = "net"});
  net->eval();
  torch::NoGradGuard no_grad;
  Tensor state = X();
  for (int call = 0; call < 2500; ++call) state = net->forward(state);
  probe_->Detach();
  ASSERT_EQ(frames_.size(), 1u);
  EXPECT_EQ(frames_[0].batches, 3u);
}

// Nobody listens for the first step of a model that is only evaluated; for its evaluations somebody does.
TEST_F(Evaluations, OfAModelThatIsNeverTrainedAreAllHeard) {
  auto net = Net();
  Start().Attach(net, {.name = "net"});
  net->eval();
  std::vector<double> want;
  for (int batch = 0; batch < 300; ++batch) want.push_back(Evaluate(net));
  probe_->Detach();
  ASSERT_EQ(frames_.size(), 1u);
  EXPECT_EQ(frames_[0].batches, want.size());
  EXPECT_EQ(frames_[0].losses, want);
}

// While a thread is in the midst of a batch, of which more is to come, another one has run so many that they are named.
TEST_F(Evaluations, OfManyBatchesNoneIsNamedWhileItRuns) {
  auto net = Net();
  Start();
  std::mutex mutex;
  std::set<uint32_t> named;
  size_t losses = 0, late = 0;
  probe_->Subscribe(
      {"loss", "passes_named"},
      [&](const ProbeMessage& message) {
        std::lock_guard lock(mutex);
        named.insert(message.passes.begin(), message.passes.end());
        losses += message.kind == "loss";
        late += message.kind == "loss" && named.count(message.pass) != 0;
      },
      1, "test");
  probe_->Attach(net, {.name = "net"});
  net->eval();
  std::barrier turn(2);
  std::thread other([&] {
    torch::NoGradGuard no_grad;
    const Tensor out = net->forward(X());
    turn.arrive_and_wait();
    turn.arrive_and_wait();
    F::cross_entropy(out, K());
  });
  turn.arrive_and_wait();
  constexpr size_t kBatches = 200;
  for (size_t batch = 0; batch < kBatches; ++batch) Evaluate(net);
  turn.arrive_and_wait();
  other.join();
  probe_->Detach();
  EXPECT_GE(named.size(), kBatches / 2) << "as they end";
  EXPECT_EQ(losses, kBatches + 1);
  EXPECT_EQ(late, 0u);
  ASSERT_EQ(frames_.size(), 1u);
  EXPECT_EQ(frames_[0].batches, kBatches + 1);
  EXPECT_EQ(frames_[0].losses.size(), kBatches + 1);
}

// A thread is in the midst of telling its last loss when another one, whose batch was the last, names them all.
TEST_F(Evaluations, OfSeveralThreadsAreToldBeforeTheirEnd) {
  auto net = Net();
  Capture::Start({});
  std::mutex mutex;
  std::vector<std::string> told;
  std::atomic<bool> telling{false}, ended{false};
  probe_->Subscribe(
      {"loss", "batch_finished"},
      [&](const ProbeMessage& message) {
        if (!telling.exchange(true)) ended.wait(false);
        std::lock_guard lock(mutex);
        told.push_back(message.kind);
      },
      1, "test");
  probe_->Attach(net);
  net->eval();
  std::barrier both(2);
  std::thread other([&] {
    Evaluate(net);
    both.arrive_and_wait();
    probe_->Tag("");
  });
  Evaluate(net);
  both.arrive_and_wait();
  while (!telling.load()) std::this_thread::yield();
  probe_->Tag("");
  ended.store(true);
  ended.notify_all();
  other.join();
  probe_->Detach();
  EXPECT_EQ(told, (std::vector<std::string>{"loss", "loss", "batch_finished"}));
}

// Others train on behind each of its layers; what goes on is not left.
TEST_F(Evaluations, OfABatchThatGoesOnWhileOthersTrainIsOne) {
  auto net = Net();
  torch::nn::Linear first(8, 16), middle(16, 16), last(16, 4);
  torch::nn::Sequential snapshot(first, middle, last);
  torch::optim::SGD optimizer(net->parameters(), .05);
  Start();
  Also({"loss"}, "default");
  probe_->Attach(net, {.name = "net"});
  probe_->Attach(snapshot, {.name = "snapshot"});
  snapshot->eval();
  Train(net, optimizer, 5);
  std::barrier turn(2);
  double want = 0;
  std::thread other([&] {
    torch::NoGradGuard no_grad;
    Tensor out = first(X());
    turn.arrive_and_wait();
    turn.arrive_and_wait();
    out = middle(out);
    turn.arrive_and_wait();
    turn.arrive_and_wait();
    want = F::cross_entropy(last(out), K()).item<double>();
  });
  for (int layer = 0; layer < 2; ++layer) {
    turn.arrive_and_wait();
    Train(net, optimizer, 40);
    turn.arrive_and_wait();
  }
  other.join();
  probe_->Detach();
  ASSERT_EQ(frames_.size(), 1u);
  EXPECT_EQ(frames_[0].step, 5u);
  EXPECT_EQ(frames_[0].batches, 1u);
  EXPECT_EQ(frames_[0].losses, std::vector<double>{want});
}

using Tagged = std::multiset<std::string>;

TEST_F(Evaluations, OfABatchInTheMidstOfWhichAnotherThreadSaysATagIsOne) {
  torch::nn::Linear first(8, 16), last(16, 4);
  torch::nn::Sequential net(first, last);
  Capture::Start({});
  for (const char* tag : {"test", "final"}) Also({"activations"}, tag);
  probe_->Attach(net);
  net->eval();
  torch::NoGradGuard no_grad;
  const Tensor hidden = first(X());
  std::thread([&] { probe_->Tag("final"); }).join();
  last(hidden);
  Evaluate(net);
  probe_->Detach();
  Tagged seen;
  for (const Kept& kept : Of("activations")) seen.insert(kept.message.tag + " " + kept.message.module);
  EXPECT_EQ(seen, (Tagged{"test 0", "test 1", "final 0", "final 1"}));
}

// A thread that has taken its tag back has said that: what others say later is not for it.
TEST_F(Evaluations, OfAThreadThatHasTakenItsTagBackAreByTheirMode) {
  auto net = Net();
  Capture::Start({});
  for (const char* tag : {"test", "mine", "final"}) Also({"pass_started"}, tag);
  probe_->Attach(net);
  net->eval();
  probe_->Tag("mine");
  Evaluate(net);
  probe_->Tag("");
  std::thread([&] { probe_->Tag("final"); }).join();
  Evaluate(net);
  std::thread([&] { Evaluate(net); }).join();
  probe_->Detach();
  Tagged tags;
  for (const Kept& kept : Of("pass_started")) tags.insert(kept.message.tag);
  EXPECT_EQ(tags, (Tagged{"mine", "test", "final"}));
}

// In training mode without gradients, then in evaluation mode: the second begins with another layer, and is its own.
TEST_F(Evaluations, InAnotherModeAreOthersWhicheverLayerBeginsThem) {
  torch::nn::Linear generator(8, 8), critic(8, 4);
  torch::nn::Sequential net(generator, critic);
  Capture::Start({});
  for (const char* tag : {"test", "no_grad"}) Also({"activations"}, tag);
  probe_->Attach(net);
  torch::NoGradGuard no_grad;
  generator(X());
  net->eval();
  critic(X());
  probe_->Detach();
  Tagged seen;
  for (const Kept& kept : Of("activations")) seen.insert(kept.message.tag + " " + kept.message.module);
  EXPECT_EQ(seen, (Tagged{"no_grad 0", "test 1"}));
}

}  // namespace
}  // namespace ikkuna
