// Every class of torch::nn, in every form of its forward call: what stands under the module's name is what the call
// returned, or there is nothing, and a note says so.
#include <filesystem>
#include <fstream>
#include <functional>
#include <regex>
#include <set>
#include <sstream>
#include <tuple>

#include "build_paths.h"
#include "probe/core/session.h"
#include "probe/torch/watched_model.h"
#include "tests/probe/torch/capture_fixture.h"

namespace ikkuna {
namespace {

namespace nn = torch::nn;

class Modules : public Capture {
 protected:
  // A layer before the module, so that what flows in comes from the model.
  template <typename Module>
  void Run(const char* what, Module module, std::vector<int64_t> shape,
           const std::function<Tensor(Module&, const Tensor&)>& call) {
    SCOPED_TRACE(what);
    kept_.clear();
    nn::Sequential net(nn::Linear(shape.back(), shape.back()));
    net->push_back(module);
    const bool known = CapturedOrNoted(net);
    Start({"activations"}).Attach(net);
    const Tensor x = net[0]->as<nn::Linear>()->forward(torch::randn(shape));
    Tensor returned;
    try {
      returned = call(module, x).detach().clone();
    } catch (const std::exception& error) {
      ADD_FAILURE() << error.what();
    }
    probe_.reset();
    if (!returned.defined()) return;
    const auto got = Of("activations", "1");
    for (const Kept& kept : got) {
      EXPECT_TRUE(kept.tensor.sizes() == returned.sizes() && torch::equal(kept.tensor, returned))
          << kept.tensor.sizes() << " for " << returned.sizes();
    }
    captured_ += got.empty() ? 0 : 1;
    EXPECT_TRUE(!got.empty() || !known) << "neither an activation nor a note";
    for (const Kept& kept : Of("activations")) {
      const std::string& name = kept.message.module;
      if (name.rfind("1.", 0) == 0 && name.find('>') == std::string::npos) children_.insert(name);
    }
  }
  // Whether the module is published and no note says that its activation is not.
  static bool CapturedOrNoted(nn::Sequential& net) {
    auto session = probe::Session::Open({});
    const torch_probe::WatchedModel model(*session, *net, nullptr, {}, 0);
    bool published = false;
    for (size_t i = 0; i < model.module_count(); ++i) {
      published |= model.module(static_cast<int>(i)).path == "1" && model.module(static_cast<int>(i)).id != 0;
    }
    for (const std::string& note : model.notes()) {
      if (note.rfind("activations of ", 0) == 0 && note.find("1 (") != std::string::npos) return false;
    }
    return published;
  }

  int captured_ = 0;
  std::set<std::string> children_;
};

#define PLAIN(Type, options, ...)                                     \
  Run<nn::Type>(#Type " " #options, nn::Type options, {__VA_ARGS__}, \
                [](nn::Type& m, const Tensor& x) { return m->forward(x); })
#define FORM(Type, options, shape, expression) \
  Run<nn::Type>(#Type " " #expression, nn::Type options, {shape}, [](nn::Type& m, const Tensor& x) { return expression; })
#define SHAPE(...) __VA_ARGS__

TEST_F(Modules, Linear) {
  PLAIN(Linear, (8, 5), 4, 8);
  PLAIN(Linear, (8, 5), 2, 3, 8);
  PLAIN(Linear, (8, 5), 8);
  PLAIN(Linear, (nn::LinearOptions(8, 5).bias(false)), 4, 8);
  PLAIN(Linear, (nn::LinearOptions(8, 5).bias(false)), 2, 3, 8);
  FORM(Bilinear, (8, 8, 3), SHAPE(4, 8), m->forward(x, x));
  EXPECT_EQ(captured_, 6);
  PLAIN(Identity, (), 4, 8);
  PLAIN(Flatten, (), 2, 2, 4);
  PLAIN(Unflatten, (nn::UnflattenOptions(1, {2, 4})), 2, 8);
  EXPECT_EQ(captured_, 8);
}

TEST_F(Modules, Convolutions) {
  PLAIN(Conv1d, (2, 3, 2), 1, 2, 8);
  PLAIN(Conv1d, (nn::Conv1dOptions(2, 3, 3).padding(torch::kSame)), 1, 2, 8);
  PLAIN(Conv1d, (nn::Conv1dOptions(2, 3, 3).padding(1).padding_mode(torch::kCircular)), 1, 2, 8);
  PLAIN(Conv2d, (2, 3, 2), 1, 2, 4, 4);
  PLAIN(Conv2d, (2, 3, 2), 2, 4, 4);
  PLAIN(Conv2d, (nn::Conv2dOptions(2, 4, 3).padding(torch::kSame).groups(2)), 1, 2, 4, 4);
  PLAIN(Conv2d, (nn::Conv2dOptions(2, 3, 3).padding(1).padding_mode(torch::kReflect).bias(false)), 1, 2, 4, 4);
  PLAIN(Conv3d, (1, 2, 2), 1, 1, 4, 4, 4);
  PLAIN(Conv3d, (nn::Conv3dOptions(1, 2, 3).padding(torch::kSame)), 1, 1, 4, 4, 4);
  PLAIN(ConvTranspose1d, (2, 3, 2), 1, 2, 8);
  PLAIN(ConvTranspose2d, (2, 3, 2), 1, 2, 4, 4);
  PLAIN(ConvTranspose3d, (1, 2, 2), 1, 1, 4, 4, 4);
  FORM(ConvTranspose2d, (nn::ConvTranspose2dOptions(2, 3, 2).stride(2)), SHAPE(1, 2, 4, 4),
       m->forward(x, std::vector<int64_t>{9, 9}));
  EXPECT_EQ(captured_, 13);
}

TEST_F(Modules, Norms) {
  PLAIN(BatchNorm1d, (8), 4, 8);
  PLAIN(BatchNorm1d, (nn::BatchNorm1dOptions(8).affine(false)), 4, 8);
  PLAIN(BatchNorm1d, (nn::BatchNorm1dOptions(8).track_running_stats(false)), 4, 8);
  PLAIN(BatchNorm2d, (2), 2, 2, 4, 4);
  PLAIN(BatchNorm3d, (2), 2, 2, 2, 4, 4);
  PLAIN(InstanceNorm1d, (nn::InstanceNorm1dOptions(2).affine(true)), 2, 2, 8);
  PLAIN(InstanceNorm2d, (nn::InstanceNorm2dOptions(2).affine(true)), 2, 2, 4, 4);
  PLAIN(InstanceNorm3d, (nn::InstanceNorm3dOptions(2).affine(true)), 1, 2, 2, 4, 4);
  PLAIN(InstanceNorm2d, (nn::InstanceNorm2dOptions(2).track_running_stats(true)), 2, 2, 4, 4);
  PLAIN(LayerNorm, (nn::LayerNormOptions({8})), 4, 8);
  PLAIN(GroupNorm, (nn::GroupNormOptions(2, 4)), 2, 4, 8);
  EXPECT_EQ(captured_, 11);
  PLAIN(BatchNorm1d, (nn::BatchNorm1dOptions(8).affine(false).track_running_stats(false)), 4, 8);
  PLAIN(InstanceNorm2d, (2), 2, 2, 4, 4);
  PLAIN(LayerNorm, (nn::LayerNormOptions({8}).elementwise_affine(false)), 4, 8);
  PLAIN(GroupNorm, (nn::GroupNormOptions(2, 4).affine(false)), 2, 4, 8);
  PLAIN(LocalResponseNorm, (2), 2, 4, 4, 4);
  PLAIN(CrossMapLRN2d, (2), 2, 4, 4, 4);
}

TEST_F(Modules, Embeddings) {
  FORM(Embedding, (10, 4), SHAPE(4, 8), (static_cast<void>(x), m->forward(torch::randint(10, {3, 2}))));
  FORM(Embedding, (nn::EmbeddingOptions(10, 4).padding_idx(0).max_norm(0.5)), SHAPE(4, 8),
       (static_cast<void>(x), m->forward(torch::randint(10, {3, 2}))));
  FORM(Embedding, (nn::EmbeddingOptions(10, 4).sparse(true)), SHAPE(4, 8),
       (static_cast<void>(x), m->forward(torch::randint(10, {5}))));
  FORM(EmbeddingBag, (10, 4), SHAPE(4, 8), (static_cast<void>(x), m->forward(torch::randint(10, {3, 2}))));
  FORM(EmbeddingBag, (nn::EmbeddingBagOptions(10, 4).mode(torch::kSum)), SHAPE(4, 8),
       (static_cast<void>(x), m->forward(torch::randint(10, {6}), torch::tensor(std::vector<int64_t>{0, 2}),
                                         torch::rand({6}))));
  FORM(EmbeddingBag, (nn::EmbeddingBagOptions(10, 4).mode(torch::kMax)), SHAPE(4, 8),
       (static_cast<void>(x), m->forward(torch::randint(10, {6}), torch::tensor(std::vector<int64_t>{0, 2}))));
  EXPECT_EQ(captured_, 6);
}

template <typename Module>
Tensor Packed(Module& module, const Tensor& x) {
  const Tensor lengths = torch::tensor(std::vector<int64_t>{4, 3, 1});
  return std::get<0>(module->forward_with_packed_input(nn::utils::rnn::pack_padded_sequence(x, lengths, true))).data();
}

TEST_F(Modules, Recurrent) {
  FORM(LSTM, (8, 6), SHAPE(4, 3, 8), std::get<0>(m->forward(x)));
  FORM(LSTM, (nn::LSTMOptions(8, 6).batch_first(true).num_layers(2).bidirectional(true)), SHAPE(3, 4, 8),
       std::get<0>(m->forward(x)));
  FORM(LSTM, (nn::LSTMOptions(8, 6).proj_size(3)), SHAPE(4, 3, 8), std::get<0>(m->forward(x)));
  FORM(LSTM, (nn::LSTMOptions(8, 6).bias(false)), SHAPE(4, 3, 8),
       std::get<0>(m->forward(x, std::make_tuple(torch::zeros({1, 3, 6}), torch::zeros({1, 3, 6})))));
  FORM(LSTM, (nn::LSTMOptions(8, 6).batch_first(true)), SHAPE(3, 4, 8), Packed(m, x));
  FORM(LSTM, (nn::LSTMOptions(8, 6).batch_first(true).num_layers(2)), SHAPE(3, 4, 8), Packed(m, x));
  FORM(GRU, (8, 6), SHAPE(4, 3, 8), std::get<0>(m->forward(x)));
  FORM(GRU, (nn::GRUOptions(8, 6).batch_first(true)), SHAPE(3, 4, 8), Packed(m, x));
  FORM(RNN, (8, 6), SHAPE(4, 3, 8), std::get<0>(m->forward(x)));
  FORM(RNN, (nn::RNNOptions(8, 6).nonlinearity(torch::kReLU)), SHAPE(4, 3, 8), std::get<0>(m->forward(x)));
  FORM(RNN, (nn::RNNOptions(8, 6).batch_first(true)), SHAPE(3, 4, 8), Packed(m, x));
  FORM(RNN, (nn::RNNOptions(8, 6).batch_first(true).nonlinearity(torch::kReLU)), SHAPE(3, 4, 8), Packed(m, x));
  FORM(LSTMCell, (8, 6), SHAPE(4, 8), std::get<0>(m->forward(x)));
  FORM(GRUCell, (8, 6), SHAPE(4, 8), m->forward(x));
  FORM(GRUCell, (nn::GRUCellOptions(8, 6).bias(false)), SHAPE(4, 8), m->forward(x, torch::randn({4, 6})));
  FORM(RNNCell, (8, 6), SHAPE(4, 8), m->forward(x));
  FORM(RNNCell, (nn::RNNCellOptions(8, 6).nonlinearity(torch::kReLU)), SHAPE(4, 8), m->forward(x));
  EXPECT_EQ(captured_, 17);
}

TEST_F(Modules, AttentionAndTransformers) {
  FORM(MultiheadAttention, (8, 2), SHAPE(3, 2, 8), std::get<0>(m->forward(x, x, x)));
  FORM(MultiheadAttention, (8, 2), SHAPE(3, 2, 8),
       std::get<0>(m->forward(x, torch::randn({5, 2, 8}), torch::randn({5, 2, 8}))));
  FORM(MultiheadAttention, (8, 2), SHAPE(3, 2, 8), [&] {
    const Tensor memory = torch::randn({5, 2, 8});
    return std::get<0>(m->forward(x, memory, memory));
  }());
  FORM(MultiheadAttention, (nn::MultiheadAttentionOptions(8, 2).kdim(4).vdim(4).add_bias_kv(true)), SHAPE(3, 2, 8),
       std::get<0>(m->forward(x, torch::randn({5, 2, 4}), torch::randn({5, 2, 4}))));
  FORM(MultiheadAttention, (nn::MultiheadAttentionOptions(8, 2).bias(false)), SHAPE(3, 2, 8),
       std::get<0>(m->forward(x, x, x)));
  EXPECT_EQ(captured_, 5);
  // Containers: nothing stands under their own names.
  PLAIN(TransformerEncoderLayer, (8, 2), 3, 2, 8);
  FORM(TransformerDecoderLayer, (8, 2), SHAPE(3, 2, 8), m->forward(x, x));
  FORM(Transformer, (nn::TransformerOptions(8, 2, 1, 1)), SHAPE(3, 2, 8), m->forward(x, x));
  PLAIN(TransformerEncoder, (nn::TransformerEncoderOptions(nn::TransformerEncoderLayer(8, 2), 1)), 3, 2, 8);
  FORM(TransformerDecoder, (nn::TransformerDecoderOptions(nn::TransformerDecoderLayer(8, 2), 1)), SHAPE(3, 2, 8),
       m->forward(x, x));
  EXPECT_EQ(captured_, 5);
  EXPECT_GE(children_.size(), 10u);
}

// Each of its three calls runs the head on all rows, and a cluster on those that are its own, or on all.
TEST_F(Modules, AdaptiveSoftmax) {
  using Softmax = nn::AdaptiveLogSoftmaxWithLoss;
  const Tensor classes = torch::tensor(std::vector<int64_t>{0, 5, 7, 9});
  const std::vector<std::function<Tensor(Softmax&, const Tensor&)>> calls = {
      [&](Softmax& m, const Tensor& x) { return m->forward(x, classes).output; },
      [](Softmax& m, const Tensor& x) { return m->log_prob(x); },
      [](Softmax& m, const Tensor& x) { return m->predict(x); }};
  for (const auto& call : calls) {
    Tensor head;
    std::vector<Tensor> clusters;
    Run<Softmax>("AdaptiveLogSoftmaxWithLoss",
                 Softmax(nn::AdaptiveLogSoftmaxWithLossOptions(8, 10, {4, 6}).div_value(2.)), {4, 8},
                 [&](Softmax& m, const Tensor& x) {
                   const Tensor input = x.detach();
                   head = input.matmul(m->head->weight.detach().clone().t());
                   for (const auto& tail : *m->tail) {
                     Tensor hidden = input;
                     for (const Tensor& weight : tail->parameters())
                       hidden = hidden.matmul(weight.detach().clone().t());
                     clusters.push_back(hidden);
                   }
                   return call(m, x);
                 });
    EXPECT_EQ(captured_, 0) << "what it returns no operator gives";
    ASSERT_EQ(Of("activations", "1.head").size(), 1u);
    EXPECT_TRUE(torch::allclose(Of("activations", "1.head")[0].tensor, head));
    // Rows of a cluster's output, whichever they are.
    size_t seen = 0;
    for (size_t i = 0; i < clusters.size(); ++i) {
      for (const Kept& kept : Of("activations", "1.tail." + std::to_string(i) + ".1")) {
        ++seen;
        for (int64_t row = 0; row < kept.tensor.size(0); ++row) {
          const Tensor far = (clusters[i] - kept.tensor[row]).abs().amax(1);
          EXPECT_LT(far.min().item<double>(), 1e-5) << i << " " << row;
        }
      }
    }
    EXPECT_TRUE(seen == 2 || &call == &calls[2]) << seen;
  }
}

// They have no forward call: what they hold is found under their names, whoever calls it.
TEST_F(Modules, Containers) {
  struct Net : nn::Module {
    Net() {
      sequential = register_module("sequential", nn::Sequential(nn::Linear(8, 8), nn::Tanh()));
      list = register_module("list", nn::ModuleList(nn::Linear(8, 8), nn::Linear(8, 8)));
      std::vector<std::pair<std::string, std::shared_ptr<nn::Module>>> named{{"a", nn::Linear(8, 8).ptr()}};
      dict = register_module("dict", nn::ModuleDict(named));
      parameters_ = register_module("parameters", nn::ParameterList());
      parameters_->append(torch::randn({8, 8}));  // it never requires a gradient
      torch::OrderedDict<std::string, Tensor> weights;
      weights.insert("w", torch::randn({8, 8}).requires_grad_(true));
      named_ = register_module("named", nn::ParameterDict(weights));
    }
    Tensor forward(const Tensor& x) {
      returned.clear();
      const auto keep = [&](const std::string& name, Tensor y) {
        returned.emplace_back(name, y.detach().clone());
        return y;
      };
      Tensor y = keep("sequential.1", sequential->forward(x));
      for (size_t i = 0; i < list->size(); ++i)
        y = keep("list." + std::to_string(i), list->at<nn::LinearImpl>(i).forward(y));
      y = keep("dict.a", (*dict)["a"]->as<nn::Linear>()->forward(y));
      y = keep("parameters", y.matmul((*parameters_)[0]));
      return keep("named", y.matmul((*named_)["w"]));
    }
    nn::Sequential sequential{nullptr};
    nn::ModuleList list{nullptr};
    nn::ModuleDict dict{nullptr};
    nn::ParameterList parameters_{nullptr};
    nn::ParameterDict named_{nullptr};
    std::vector<std::pair<std::string, Tensor>> returned;
  };
  auto net = std::make_shared<Net>();
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  Start({"activations", "weights", "biases", "weight_gradients"}).Attach(net);
  Train(net, optimizer, torch::randn({4, 8}), torch::randint(8, {4}));
  for (const auto& [name, returned] : net->returned) {
    const bool operators = name == "parameters" || name == "named";  // what a parameter of a list goes into
    const auto got = Of("activations", operators ? name + " > matmul" : name);
    ASSERT_EQ(got.size(), 1u) << name;
    EXPECT_TRUE(torch::equal(got[0].tensor, returned)) << name;
    EXPECT_TRUE(!operators || Of("activations", name).empty()) << name;
  }
  std::set<std::string> weights, want;
  for (const Kept& kept : Of("weights")) weights.insert(kept.message.module + "." + kept.message.param);
  for (const Kept& kept : Of("biases")) weights.insert(kept.message.module + "." + kept.message.param);
  for (const auto& item : net->named_parameters()) want.insert(item.key());
  EXPECT_EQ(weights, want);
  EXPECT_EQ(Of("weight_gradients").size() + Of("biases").size(), want.size() - 1);
}

TEST_F(Modules, WithoutParameters) {
  PLAIN(ReLU, (), 4, 8);
  PLAIN(ReLU, (nn::ReLUOptions(true)), 4, 8);
  PLAIN(ReLU6, (), 4, 8);
  PLAIN(LeakyReLU, (), 4, 8);
  PLAIN(RReLU, (), 4, 8);
  PLAIN(PReLU, (), 4, 8);
  PLAIN(ELU, (), 4, 8);
  PLAIN(SELU, (), 4, 8);
  PLAIN(CELU, (), 4, 8);
  PLAIN(GLU, (), 4, 8);
  PLAIN(GELU, (), 4, 8);
  PLAIN(SiLU, (), 4, 8);
  PLAIN(Mish, (), 4, 8);
  PLAIN(Sigmoid, (), 4, 8);
  PLAIN(Tanh, (), 4, 8);
  PLAIN(Hardtanh, (), 4, 8);
  PLAIN(Hardshrink, (), 4, 8);
  PLAIN(Softshrink, (), 4, 8);
  PLAIN(LogSigmoid, (), 4, 8);
  PLAIN(Softplus, (), 4, 8);
  PLAIN(Threshold, (0.1, 20.), 4, 8);
  PLAIN(Softmax, (1), 4, 8);
  PLAIN(Softmax2d, (), 2, 2, 4, 4);
  PLAIN(LogSoftmax, (1), 4, 8);
  PLAIN(Dropout, (), 4, 8);
  PLAIN(Dropout2d, (), 2, 2, 4, 4);
  PLAIN(Dropout3d, (), 2, 2, 2, 4, 4);
  PLAIN(AlphaDropout, (), 4, 8);
  PLAIN(FeatureAlphaDropout, (), 2, 2, 4, 4);
  EXPECT_EQ(captured_, 29);
  PLAIN(Softmin, (1), 4, 8);
  PLAIN(Softsign, (), 4, 8);
  PLAIN(Tanhshrink, (), 4, 8);
  FORM(CosineSimilarity, (), SHAPE(4, 8), m->forward(x, x + 1));
  FORM(PairwiseDistance, (), SHAPE(4, 8), m->forward(x, x + 1));
  PLAIN(PixelShuffle, (2), 1, 4, 4, 4);
  PLAIN(PixelUnshuffle, (2), 1, 1, 4, 4);
  PLAIN(Upsample, (nn::UpsampleOptions().scale_factor(std::vector<double>{2, 2}).mode(torch::kNearest)), 1, 1, 4, 4);
  PLAIN(Fold, (nn::FoldOptions({4, 4}, {2, 2})), 1, 8, 9);
  PLAIN(Unfold, (nn::UnfoldOptions({2, 2})), 1, 2, 4, 4);
  PLAIN(ReflectionPad1d, (1), 1, 2, 8);
  PLAIN(ReflectionPad2d, (1), 1, 2, 4, 4);
  PLAIN(ReflectionPad3d, (1), 1, 2, 2, 4, 4);
  PLAIN(ReplicationPad1d, (1), 1, 2, 8);
  PLAIN(ReplicationPad2d, (1), 1, 2, 4, 4);
  PLAIN(ReplicationPad3d, (1), 1, 2, 2, 4, 4);
  PLAIN(ZeroPad1d, (1), 1, 2, 8);
  PLAIN(ZeroPad2d, (1), 1, 2, 4, 4);
  PLAIN(ZeroPad3d, (1), 1, 2, 2, 4, 4);
  PLAIN(ConstantPad1d, (1, 2.), 1, 2, 8);
  PLAIN(ConstantPad2d, (1, 2.), 1, 2, 4, 4);
  PLAIN(ConstantPad3d, (1, 2.), 1, 2, 2, 4, 4);
}

TEST_F(Modules, Pooling) {
  PLAIN(MaxPool1d, (2), 1, 2, 8);
  PLAIN(MaxPool2d, (2), 1, 2, 4, 4);
  PLAIN(MaxPool3d, (2), 1, 2, 4, 4, 4);
  FORM(MaxPool1d, (2), SHAPE(1, 2, 8), std::get<0>(m->forward_with_indices(x)));
  FORM(MaxPool2d, (2), SHAPE(1, 2, 4, 4), std::get<0>(m->forward_with_indices(x)));
  FORM(MaxPool3d, (2), SHAPE(1, 2, 4, 4, 4), std::get<0>(m->forward_with_indices(x)));
  PLAIN(AvgPool1d, (2), 1, 2, 8);
  PLAIN(AvgPool2d, (2), 1, 2, 4, 4);
  PLAIN(AvgPool3d, (2), 1, 2, 4, 4, 4);
  PLAIN(AdaptiveMaxPool1d, (2), 1, 2, 8);
  PLAIN(AdaptiveMaxPool2d, (2), 1, 2, 4, 4);
  PLAIN(AdaptiveMaxPool3d, (2), 1, 2, 4, 4, 4);
  PLAIN(AdaptiveAvgPool1d, (2), 1, 2, 8);
  PLAIN(AdaptiveAvgPool2d, (2), 1, 2, 4, 4);
  PLAIN(AdaptiveAvgPool3d, (2), 1, 2, 4, 4, 4);
  EXPECT_GE(captured_, 15);
  PLAIN(FractionalMaxPool2d, (nn::FractionalMaxPool2dOptions(2).output_size(2)), 1, 2, 4, 4);
  PLAIN(FractionalMaxPool3d, (nn::FractionalMaxPool3dOptions(2).output_size(2)), 1, 2, 4, 4, 4);
  FORM(MaxUnpool1d, (2), SHAPE(1, 1, 8), m->forward(x, torch::arange(0, 16, 2).view({1, 1, 8})));
  FORM(MaxUnpool2d, (2), SHAPE(1, 1, 2, 4), m->forward(x, torch::arange(8).view({1, 1, 2, 4})));
  FORM(MaxUnpool3d, (2), SHAPE(1, 1, 2, 2, 2), m->forward(x, torch::arange(8).view({1, 1, 2, 2, 2})));
  PLAIN(LPPool1d, (2, 2), 1, 2, 8);
  PLAIN(LPPool2d, (2, 2), 1, 2, 4, 4);
  PLAIN(LPPool3d, (2, 2), 1, 2, 4, 4, 4);
}

// The losses of torch::nn are modules, too.
TEST_F(Modules, LossesAndWrappers) {
  const Tensor classes = torch::tensor(std::vector<int64_t>{0, 1, 2, 3});
  Run<nn::CrossEntropyLoss>("CrossEntropyLoss", nn::CrossEntropyLoss(), {4, 8},
                            [&](nn::CrossEntropyLoss& m, const Tensor& x) { return m->forward(x, classes); });
  FORM(MSELoss, (), SHAPE(4, 8), m->forward(x, torch::zeros({4, 8})));
  FORM(L1Loss, (), SHAPE(4, 8), m->forward(x, torch::zeros({4, 8})));
  FORM(HuberLoss, (), SHAPE(4, 8), m->forward(x, torch::zeros({4, 8})));
  FORM(KLDivLoss, (), SHAPE(4, 8), m->forward(x, torch::ones({4, 8})));
  FORM(BCEWithLogitsLoss, (), SHAPE(4, 8), m->forward(x, torch::ones({4, 8})));
  FORM(CosineEmbeddingLoss, (), SHAPE(4, 8), m->forward(x, x + 1, torch::ones({4})));
  FORM(TripletMarginLoss, (), SHAPE(4, 8), m->forward(x, x + 1, x - 1));
  FORM(MultiLabelSoftMarginLoss, (), SHAPE(4, 8), m->forward(x, torch::ones({4, 8})));
  FORM(BCELoss, (), SHAPE(4, 8), m->forward(x.sigmoid(), torch::ones({4, 8})));
  FORM(CTCLoss, (), SHAPE(5, 2, 8),
       m->forward(x.log_softmax(2), torch::ones({2, 2}, torch::kLong), torch::full({2}, 5, torch::kLong),
                  torch::full({2}, 2, torch::kLong)));
  FORM(HingeEmbeddingLoss, (), SHAPE(4, 8), m->forward(x, torch::ones({4, 8})));
  FORM(MarginRankingLoss, (), SHAPE(4, 8), m->forward(x, x + 1, torch::ones({4, 8})));
  FORM(MultiLabelMarginLoss, (), SHAPE(4, 8), m->forward(x, torch::full({4, 8}, -1, torch::kLong)));
  Run<nn::MultiMarginLoss>("MultiMarginLoss", nn::MultiMarginLoss(), {4, 8},
                           [&](nn::MultiMarginLoss& m, const Tensor& x) { return m->forward(x, classes); });
  Run<nn::NLLLoss>("NLLLoss", nn::NLLLoss(), {4, 8},
                   [&](nn::NLLLoss& m, const Tensor& x) { return m->forward(x.log_softmax(1), classes); });
  FORM(PoissonNLLLoss, (), SHAPE(4, 8), m->forward(x, torch::ones({4, 8})));
  FORM(SmoothL1Loss, (), SHAPE(4, 8), m->forward(x, torch::zeros({4, 8})));
  FORM(SoftMarginLoss, (), SHAPE(4, 8), m->forward(x, torch::ones({4, 8})));
  FORM(TripletMarginWithDistanceLoss, (), SHAPE(4, 8), m->forward(x, x + 1, x - 1));
  Run<nn::Functional>("Functional", nn::Functional(torch::relu), {4, 8},
                      [](nn::Functional& m, const Tensor& x) { return m->forward(x); });
}

std::string Read(const std::filesystem::path& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// Every class that this LibTorch declares is in a test above: a release that brings another shows it here.
TEST(ModulesOfLibTorch, AreAllExercised) {
  const std::string tests = Read(IKKUNA_SOURCE_DIR "/tests/probe/torch/modules_test.cc");
  ASSERT_FALSE(tests.empty());
  std::set<std::string> exercised, declared;
  const std::regex use(R"((?:PLAIN\(|FORM\(|nn::)([A-Za-z0-9]+))"),
      declaration(R"(\n *TORCH_MODULE(?:_IMPL)?\(([A-Za-z0-9]+))");
  for (std::sregex_iterator it(tests.begin(), tests.end(), use), end; it != end; ++it) exercised.insert((*it)[1]);
  std::stringstream folders(IKKUNA_TORCH_INCLUDE_DIRS);
  for (std::string folder; std::getline(folders, folder, ';');) {
    const auto modules = std::filesystem::path(folder) / "torch/nn/modules";
    if (!std::filesystem::exists(modules)) continue;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(modules)) {
      if (entry.path().extension() != ".h") continue;
      const std::string header = Read(entry.path());
      for (std::sregex_iterator it(header.begin(), header.end(), declaration), end; it != end; ++it) {
        declared.insert((*it)[1]);
      }
    }
  }
  EXPECT_GE(declared.size(), 120u) << "in " IKKUNA_TORCH_INCLUDE_DIRS;
  for (const std::string& name : declared) {
    EXPECT_TRUE(exercised.count(name) != 0) << "torch::nn::" << name << " has no test in modules_test.cc";
  }
}

}  // namespace
}  // namespace ikkuna
