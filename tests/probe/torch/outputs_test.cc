// Output and labels of losses: which go out, and how long the trainer's tensors are kept for it.
#include <cmath>
#include <vector>

#include "tests/probe/torch/losses_fixture.h"

namespace ikkuna {
namespace {

class Outputs : public Losses {
 protected:
  // The rows of the outputs that steps are made of, and of their labels.
  int64_t Rows(const std::string& kind, const std::string& tag = "default") const {
    int64_t rows = 0;
    for (const Kept& kept : Of(kind)) rows += kept.message.tag == tag ? kept.tensor.size(0) : 0;
    return rows;
  }
};

TEST_F(Outputs, OfALossAtEachTimeStepAllCount) {
  torch::nn::GRUCell cell(8, 6);
  torch::nn::Linear head(6, 4);
  struct Net : torch::nn::Module {};
  auto net = std::make_shared<Net>();
  net->register_module("cell", cell);
  net->register_module("head", head);
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"network_output", "input_labels"}).Attach(net);
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    Tensor state = torch::zeros({12, 6}), loss = torch::zeros({});
    for (int t = 0; t < 5; ++t) {
      state = cell(torch::randn({12, 8}), state);
      loss = loss + F::cross_entropy(head(state), K());
    }
    loss.backward();
    optimizer.step();
  }
  EXPECT_EQ(Rows("network_output"), 3 * 5 * 12);
  EXPECT_EQ(Rows("input_labels"), 3 * 5 * 12);
}

TEST_F(Outputs, OfMoreSamplesThanAreKeptOfOnePassEachAsAPassAllCount) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"network_output"}).Attach(net);
  for (int step = 0; step < 2; ++step) {
    optimizer.zero_grad();
    Tensor loss = torch::zeros({});
    for (int sample = 0; sample < 100; ++sample) loss = loss + F::cross_entropy(net->forward(X()), K());
    (loss / 100).backward();
    optimizer.step();
  }
  EXPECT_EQ(Rows("network_output"), 2 * 100 * 12);
}

// Training calls the model twice for each backward pass, evaluation once a batch.
TEST_F(Outputs, OfAnEvaluationOfAModelThatTrainingCallsTwice) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss"}).Attach(net);
  Also({"network_output", "input_labels", "batch_finished"}, "test");
  for (int step = 0; step < 4; ++step) {
    optimizer.zero_grad();
    (F::cross_entropy(net->forward(X()), K()) + F::cross_entropy(net->forward(X()), K())).backward();
    optimizer.step();
  }
  net->eval();
  {
    torch::NoGradGuard no_grad;
    for (int batch = 0; batch < 5; ++batch) F::cross_entropy(net->forward(X()), K());
  }
  probe_->Detach();
  EXPECT_EQ(Rows("network_output", "test"), 5 * 12);
  EXPECT_EQ(Rows("input_labels", "test"), 5 * 12);
}

// What no backward will reach lives no longer for us than its graph.
TEST_F(Outputs, OfLossesThatNobodyTrainsByAreLetGo) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"network_output", "input_labels"}).Attach(net);
  std::vector<c10::weak_intrusive_ptr<c10::StorageImpl>> labels;
  for (int step = 0; step < 3; ++step) {
    for (int look = 0; look < 20; ++look) {  // a validation that forgot no_grad
      const Tensor own = K();
      labels.emplace_back(own.storage().getWeakStorageImpl());
      F::cross_entropy(net->forward(X()), own).item<double>();
    }
    size_t alive = 0;
    for (const auto& one : labels) alive += !one.expired();
    EXPECT_LE(alive, 1u) << "step " << step;
    optimizer.zero_grad();
    F::cross_entropy(net->forward(X()), K()).backward();
    optimizer.step();
  }
  EXPECT_EQ(Rows("network_output"), 3 * 12);
}

TEST_F(Outputs, ALossThatIsNotANumberKeepsItsName) {
  auto net = Net();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss"}).Attach(net);
  for (int step = 0; step < 4; ++step) {
    optimizer.zero_grad();
    Tensor x = X();
    if (step == 2) x[0][0] = NAN;
    Tensor loss = torch::zeros({});
    loss = loss + F::cross_entropy(net->forward(x), K());
    loss.backward();
    if (step == 2) {
      torch::NoGradGuard no_grad;
      for (const Tensor& parameter : net->parameters()) parameter.mutable_grad().nan_to_num_();
    }
    optimizer.step();
  }
  ASSERT_EQ(Values().size(), 1u);
  ASSERT_EQ(Values()[""].size(), 4u);
  EXPECT_TRUE(std::isnan(Values()[""][2]));
}

// Products of one input with several weights of a module are one pass.
TEST_F(Outputs, ProductsOfOneInputBeginOnePass) {
  struct Gates : torch::nn::Module {
    Gates() {
      for (const char* name : {"i", "f", "o"}) weights.push_back(register_parameter(name, torch::randn({8, 4})));
    }
    Tensor forward(const Tensor& x) { return x.mm(weights[0]).sigmoid() * x.mm(weights[1]).tanh() + x.mm(weights[2]); }
    std::vector<Tensor> weights;
  };
  auto net = std::make_shared<Gates>();
  torch::optim::SGD optimizer(net->parameters(), 0.05);
  Start({"loss", "pass_started"}).Attach(net);
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    F::cross_entropy(net->forward(X()), K()).backward();
    optimizer.step();
    torch::NoGradGuard no_grad;
    net->weights[0].t().mm(torch::eye(8));  // a look at a weight is no evaluation
  }
  EXPECT_EQ(Of("pass_started").size(), 3u);
  EXPECT_EQ(Values()[""].size(), 3u);
}

}  // namespace
}  // namespace ikkuna
