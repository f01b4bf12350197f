#include "probe/examples/models.h"

#include <stdexcept>
#include <vector>

#include <torch/nn/modules.h>

namespace trainer {
namespace {

namespace nn = torch::nn;

nn::Conv2d Conv3x3(int64_t in, int64_t out, int64_t stride) {
  return nn::Conv2d(nn::Conv2dOptions(in, out, 3).stride(stride).padding(1).bias(false));
}

// Calls the children one by one when somebody wants to see what they give.
at::Tensor Run(nn::Sequential& layers, const std::string& path, at::Tensor x, const Observer& observer) {
  if (!observer) return layers->forward(x);
  size_t i = 0;
  for (auto& layer : *layers) {
    x = layer.forward<at::Tensor>(x);
    observer(path + "." + std::to_string(i++), x);
  }
  return x;
}

class FullyConnected : public Network {
 public:
  explicit FullyConnected(const std::vector<int64_t>& widths) {
    for (size_t i = 0; i + 1 < widths.size(); ++i) {
      if (i > 0) layers_->push_back(nn::ReLU());
      layers_->push_back(nn::Linear(widths[i], widths[i + 1]));
    }
    register_module("layers", layers_);
  }
  at::Tensor Forward(at::Tensor images, const Observer& observer) override {
    return Run(layers_, "layers", images.view({images.size(0), -1}), observer);
  }

 private:
  nn::Sequential layers_;
};

class AlexNetMini : public Network {
 public:
  AlexNetMini() {
    register_module("features", features_);
    register_module("classifier", classifier_);
  }
  at::Tensor Forward(at::Tensor images, const Observer& observer) override {
    at::Tensor x = Run(features_, "features", images, observer).flatten(1);
    if (observer) observer("features.2 > flatten", x);
    return Run(classifier_, "classifier", x, observer);
  }

 private:
  nn::Sequential features_{nn::Conv2d(nn::Conv2dOptions(1, 4, 3)),
                           nn::ReLU(),
                           nn::Conv2d(nn::Conv2dOptions(4, 8, 3)),
                           nn::ReLU(),
                           nn::MaxPool2d(2),
                           nn::Dropout(0.25)};
  nn::Sequential classifier_{nn::Linear(1152, 16), nn::ReLU(), nn::Dropout(0.5), nn::Linear(16, 10)};
};

// Two convolutions and a way around them; where the shape changes, the way has a convolution, too.
class ResidualBlock : public nn::Module {
 public:
  ResidualBlock(int64_t in, int64_t out, int64_t stride)
      : conv1_(Conv3x3(in, out, stride)), bn1_(out), conv2_(Conv3x3(out, out, 1)), bn2_(out) {
    register_module("conv1", conv1_);
    register_module("bn1", bn1_);
    register_module("conv2", conv2_);
    register_module("bn2", bn2_);
    if (in != out || stride != 1) {
      shortcut_ =
          nn::Sequential(nn::Conv2d(nn::Conv2dOptions(in, out, 1).stride(stride).bias(false)), nn::BatchNorm2d(out));
      register_module("shortcut", shortcut_);
    }
  }
  at::Tensor Forward(const at::Tensor& x, const std::string& path, const Observer& observer) {
    auto seen = [&](const char* name, at::Tensor output) {
      if (observer) observer(path + "." + name, output);
      return output;
    };
    at::Tensor around = shortcut_ ? Run(shortcut_, path + ".shortcut", x, observer) : x;
    at::Tensor y = seen("conv1", conv1_->forward(x));
    y = seen("bn1", bn1_->forward(y));
    y = seen("bn1 > relu", y.relu());
    y = seen("conv2", conv2_->forward(y));
    y = seen("bn2", bn2_->forward(y));
    return seen("bn2 > relu", (y + around).relu());
  }

 private:
  nn::Conv2d conv1_;
  nn::BatchNorm2d bn1_;
  nn::Conv2d conv2_;
  nn::BatchNorm2d bn2_;
  nn::Sequential shortcut_{nullptr};
};

class ResNetSmall : public Network {
 public:
  ResNetSmall() {
    register_module("stem", stem_);
    AddStage("stage1", 16, 16, 1);
    AddStage("stage2", 16, 32, 2);
    register_module("head", head_);
  }
  at::Tensor Forward(at::Tensor images, const Observer& observer) override {
    at::Tensor x = Run(stem_, "stem", images, observer);
    for (auto& [path, block] : blocks_) x = block->Forward(x, path, observer);
    x = at::adaptive_avg_pool2d(x, {1, 1});
    if (observer) observer("stage2.1.bn2 > adaptive_avg_pool2d", x);
    x = x.flatten(1);
    if (observer) observer("stage2.1.bn2 > flatten", x);
    x = head_->forward(x);
    if (observer) observer("head", x);
    return x;
  }

 private:
  void AddStage(const std::string& name, int64_t in, int64_t out, int64_t stride) {
    auto stage = std::make_shared<nn::Module>(name);
    for (int i = 0; i < 2; ++i) {
      auto block = std::make_shared<ResidualBlock>(i == 0 ? in : out, out, i == 0 ? stride : 1);
      stage->register_module(std::to_string(i), block);
      blocks_.emplace_back(name + "." + std::to_string(i), block);
    }
    register_module(name, stage);
  }

  nn::Sequential stem_{Conv3x3(1, 16, 1), nn::BatchNorm2d(16), nn::ReLU(), nn::MaxPool2d(2)};
  std::vector<std::pair<std::string, std::shared_ptr<ResidualBlock>>> blocks_;
  nn::Linear head_{32, 10};
};

}  // namespace

std::shared_ptr<Network> MakeNetwork(const std::string& name) {
  if (name == "fc") return std::make_shared<FullyConnected>(std::vector<int64_t>{784, 1024, 1024, 1024, 10});
  if (name == "tiny") return std::make_shared<FullyConnected>(std::vector<int64_t>{784, 16, 10});
  if (name == "alexnet-mini") return std::make_shared<AlexNetMini>();
  if (name == "resnet-small") return std::make_shared<ResNetSmall>();
  throw std::invalid_argument("no model is called " + name);
}

}  // namespace trainer
