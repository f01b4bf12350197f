// ikkuna-train: an ordinary LibTorch trainer. What Ikkuna needs of it are the lines marked `// ikkuna`.
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <fstream>
#include <memory>
#include <optional>
#include <system_error>

#include <ATen/Parallel.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include "probe/examples/dataset.h"
#include "probe/examples/dump.h"
#include "probe/examples/models.h"
#include "probe/examples/options.h"
#include "probe/examples/progress.h"
#include "probe/ikkuna/probe.hpp"  // ikkuna

namespace trainer {
namespace {

namespace F = torch::nn::functional;

volatile std::sig_atomic_t g_interrupted = 0;

// tiny is there to make many steps: few images, so that an epoch's end and its test pass stay short.
constexpr int64_t kTinyTrainImages = 16384, kTinyTestImages = 1000, kAll = 60000;
constexpr int64_t kTestBatch = 500;

at::ScalarType NumberType(const std::string& name) {
  if (name == "double") return at::kDouble;
  if (name == "half") return at::kHalf;
  return name == "bfloat16" ? at::kBFloat16 : at::kFloat;
}

class Training {
 public:
  explicit Training(const Options& options);
  void Run();

 private:
  // Trains for one epoch; false when training is over.
  bool Epoch(int64_t epoch);
  void Step(const int64_t* indices, int64_t epoch);
  // Forward and backward pass of one micro-batch; returns its loss.
  double Pass(const int64_t* indices, int64_t micro, bool dumped);
  void Test(int64_t epoch);
  bool Over() const { return g_interrupted != 0 || (options_.max_steps > 0 && steps_ >= options_.max_steps); }

  const Options& options_;
  const at::ScalarType dtype_;
  const Dataset train_;
  const Dataset test_;
  DataOrder order_;
  std::shared_ptr<Network> model_;
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
  Progress progress_;
  std::optional<Dump> dump_;
  Observer observer_;
  std::ofstream losses_;
  std::unique_ptr<ikkuna::Probe> probe_;  // ikkuna

  int64_t steps_ = 0;
  at::Tensor output_, labels_;  // of the last pass, for its accuracy
};

Training::Training(const Options& options)
    : options_(options),
      dtype_(NumberType(options.dtype)),
      train_(options.data_dir, "train", options.model == "tiny" ? kTinyTrainImages : kAll),
      test_(options.data_dir, "t10k",
            options.model == "tiny" ? std::min(kTinyTestImages, options.test_images) : options.test_images),
      order_(train_.size(), options.seed),
      progress_(options.log_every) {
  torch::manual_seed(options.seed);
  model_ = MakeNetwork(options.model);
  model_->to(dtype_);
  for (auto& parameter : model_->named_parameters()) {
    for (const std::string& prefix : options.freeze) {
      if (parameter.key().starts_with(prefix)) parameter.value().set_requires_grad(false);
    }
  }
  if (options.optimizer == "adam") {
    optimizer_ = std::make_unique<torch::optim::Adam>(model_->parameters(), torch::optim::AdamOptions(options.lr));
  } else {
    optimizer_ = std::make_unique<torch::optim::SGD>(model_->parameters(),
                                                     torch::optim::SGDOptions(options.lr).momentum(options.momentum));
  }
  if (!options.dump_dir.empty()) {
    dump_.emplace(options.dump_dir, options.dump_steps);
    observer_ = [this](const std::string& module, const at::Tensor& output) { dump_->Output(module, output); };
  }
  if (!options.losses.empty()) {
    losses_.open(options.losses);
    if (!losses_)
      throw std::system_error(errno, std::generic_category(), "cannot write '" + options.losses + "' of --losses");
  }
  if (!options.probe) return;
  probe_ = std::make_unique<ikkuna::Probe>(ikkuna::ProbeOptions{// ikkuna
                                                                .run = options.run,
                                                                .allow_control = options.allow_control,
                                                                .budget = options.budget});
  probe_->Attach(model_);                                                                          // ikkuna
  probe_->Attach(*optimizer_);                                                                     // ikkuna
  for (const auto& [name, value] : Hyperparameters(options)) probe_->Hyperparameter(name, value);  // ikkuna
}

void Training::Run() {
  for (int64_t epoch = 0; epoch < options_.epochs; ++epoch) {
    if (probe_) probe_->Epoch(static_cast<uint32_t>(epoch));  // ikkuna
    const bool more = Epoch(epoch);
    if (options_.test_images > 0 && g_interrupted == 0) Test(epoch);
    if (!more) break;
  }
  if (dump_) dump_->Finish();
  progress_.Done(steps_);
}

bool Training::Epoch(int64_t epoch) {
  const int64_t images_a_step = options_.batch_size * options_.accumulate;
  const int64_t* indices = order_.NextEpoch();
  for (int64_t begin = 0; begin + images_a_step <= train_.size(); begin += images_a_step) {
    Step(indices + begin, epoch);
    if (Over() || (probe_ && probe_->StopRequested())) return false;  // ikkuna
  }
  return true;
}

void Training::Step(const int64_t* indices, int64_t epoch) {
  const bool dumped = dump_ && dump_->Covers(steps_);
  if (dumped) dump_->BeginStep(steps_, *model_, *optimizer_);
  optimizer_->zero_grad();
  double loss = 0;
  for (int64_t micro = 0; micro < options_.accumulate; ++micro) {
    loss += Pass(indices + micro * options_.batch_size, micro, dumped);
  }
  loss /= static_cast<double>(options_.accumulate);
  if (options_.clip > 0) torch::nn::utils::clip_grad_norm_(model_->parameters(), options_.clip);
  if (dumped) dump_->BeforeUpdate(*model_);
  optimizer_->step();
  if (dumped) dump_->AfterUpdate(*model_, *optimizer_);
  ++steps_;
  if (losses_.is_open()) {
    char line[64];
    losses_.write(line, std::snprintf(line, sizeof line, "%a\n", loss)).flush();
  }
  if (progress_.Due(steps_)) {
    progress_.Training(steps_, epoch, loss, output_.argmax(1).eq(labels_).to(at::kDouble).mean().item<double>());
  }
}

double Training::Pass(const int64_t* indices, int64_t micro, bool dumped) {
  const Batch batch = train_.At(indices, options_.batch_size, dtype_);
  if (probe_) probe_->Samples(static_cast<uint64_t>(options_.batch_size));  // ikkuna
  if (dumped) dump_->BeginPass(steps_, micro, "default");
  const at::Tensor output = model_->Forward(batch.images, dumped ? observer_ : Observer());
  const at::Tensor loss = F::cross_entropy(output, batch.labels);
  if (dumped) dump_->EndPass(batch.images, batch.labels, output, loss);
  (options_.accumulate > 1 ? loss / options_.accumulate : loss).backward();
  if (dumped) dump_->AfterBackward(*model_);
  output_ = output.detach();
  labels_ = batch.labels;
  return loss.item<double>();
}

void Training::Test(int64_t epoch) {
  model_->eval();
  const at::NoGradGuard no_grad;
  const bool dumped = dump_ && epoch == 0;
  std::vector<int64_t> indices(static_cast<size_t>(test_.size()));
  for (size_t i = 0; i < indices.size(); ++i) indices[i] = static_cast<int64_t>(i);
  double loss = 0, right = 0;
  for (int64_t begin = 0, pass = 0; begin < test_.size(); begin += kTestBatch, ++pass) {
    const Batch batch = test_.At(indices.data() + begin, std::min(kTestBatch, test_.size() - begin), dtype_);
    if (dumped) dump_->BeginPass(steps_, pass, "test");
    const at::Tensor output = model_->Forward(batch.images, dumped ? observer_ : Observer());
    const at::Tensor batch_loss = F::cross_entropy(output, batch.labels);
    if (dumped) dump_->EndPass(batch.images, batch.labels, output, batch_loss);
    loss += batch_loss.item<double>() * static_cast<double>(batch.labels.size(0));
    right += output.argmax(1).eq(batch.labels).sum().item<double>();
  }
  progress_.Test(epoch, loss / static_cast<double>(test_.size()), right / static_cast<double>(test_.size()));
  model_->train();
}

}  // namespace
}  // namespace trainer

int main(int argc, char** argv) {
  trainer::Options options;
  int exit_code = 0;
  if (!trainer::ParseOptions(argc, argv, &options, &exit_code)) return exit_code;
  // The step under way is finished; a second signal ends the program at once.
  struct sigaction action = {};
  action.sa_handler = [](int) { trainer::g_interrupted = 1; };
  action.sa_flags = SA_RESTART | SA_RESETHAND;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  if (options.threads > 0) at::set_num_threads(options.threads);
  try {
    trainer::Training(options).Run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ikkuna-train: %s\n", error.what());
    return 1;
  }
}
