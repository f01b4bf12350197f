// OddLoops: loops that write down what is true of each of their steps and evaluations, beside a probe at some period.
// Each number that it publishes, its step, its name and its flags are what the loop knows itself; what it cannot know
// is absent, and said.
#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "shared/codes.h"
#include "tests/probe/core/daemon_by_hand.h"
#include "tests/probe/torch/capture_fixture.h"

namespace ikkuna::odd {

namespace nn = torch::nn;

// A number that stands for a tensor: no two of a run are alike.
inline double PrintOf(const Tensor& tensor) {
  const Tensor flat = tensor.detach().to(torch::kDouble).reshape({-1});
  return (flat * torch::arange(1, flat.numel() + 1, torch::kDouble).sqrt()).sum().item<double>();
}

// A trainer, and what is true of its steps. The loop says what it does.
class Ledger {
 public:
  struct Entry {
    std::string what;  // "loss_mse", "weights 0"
    double value = 0;
    uint16_t flags = 0;
  };
  using Steps = std::map<std::pair<std::string, uint64_t>, std::vector<Entry>>;  // by tag and step

  Ledger(Probe& probe, nn::Sequential model) : probe(probe), net(std::move(model)) {
    optimizer = std::make_unique<torch::optim::SGD>(net->parameters(), .02);
  }

  static Tensor X(int64_t rows = 12) { return torch::randn({rows, 8}); }
  static Tensor Y(int64_t rows = 12) { return torch::randn({rows, 4}); }
  static Tensor K(int64_t rows = 12) { return torch::randint(4, {rows}); }
  Tensor Out(int64_t rows = 12) { return net->forward(X(rows)); }

  // What is true of the step under way; `name`: of a term, "mse_2". What it is given it gives back.
  Tensor Loss(const Tensor& loss, const std::string& name = "") {
    Note("default", "loss" + (name.empty() ? "" : "_" + name), loss.item<double>());
    return loss;
  }
  // The loss of a classification, of which the accuracy is known.
  Tensor Classified(const Tensor& loss, const Tensor& out, const Tensor& labels) {
    Compared("default", out, labels);
    return Loss(loss);
  }
  void Compared(const std::string& tag, const Tensor& out, const Tensor& labels) {
    Note(tag, "network_output", PrintOf(out));
    Note(tag, "input_labels", PrintOf(labels));
  }
  // Of an evaluation.
  void Tested(const Tensor& loss, const std::string& name = "", const std::string& tag = "test") {
    Note(tag, "loss" + (name.empty() ? "" : "_" + name), loss.item<double>());
  }
  Tensor Tested(const Tensor& loss, const Tensor& out, const Tensor& labels, const std::string& tag = "test") {
    Compared(tag, out, labels);
    Tested(loss, "", tag);
    return loss;
  }
  // The gradients are what the optimizer takes; it has not written yet.
  void BeforeWrite() {
    NoteWeights();
    for (const auto& item : net->named_parameters()) {
      if (!IsWeight(item.key()) || !item.value().grad().defined()) continue;
      Note("default", "weight_gradients " + ModuleOf(item.key()), PrintOf(item.value().grad()));
    }
  }
  void Ended() { ++steps; }
  void Write() {
    BeforeWrite();
    optimizer->step();
    Ended();
  }
  void Train(const Tensor& root) {
    optimizer->zero_grad();
    root.backward();
    Write();
  }
  // An evaluation has other weights, which are taken out again: the update is over when they come.
  void SwappedIn() {
    for (const auto& item : net->named_parameters()) CloseUpdate(item.key(), item.value());
  }
  // Its gradients are thrown away: it has a number all the same.
  void Skip() {
    optimizer->zero_grad();
    Skipped();
  }
  void Skipped() {
    NoteWeights();
    for (const char* kind : {"weights", "weight_updates"}) Flag(kind, kFlagStepSkipped);
    Ended();
  }
  // Flags of the step under way.
  void Flag(const std::string& what, uint16_t flags) { flags_[{what, steps}] |= flags; }
  void Finish() {
    for (const auto& item : net->named_parameters()) CloseUpdate(item.key(), item.value());
    for (auto& [at, entries] : wrote) {
      for (Entry& entry : entries) {
        const std::string kind = entry.what.substr(0, entry.what.find(' '));
        if (const auto flags = flags_.find({kind, at.second}); at.first == "default" && flags != flags_.end())
          entry.flags |= flags->second;
      }
    }
  }

  Probe& probe;
  nn::Sequential net;
  std::unique_ptr<torch::optim::Optimizer> optimizer;
  uint64_t steps = 0;
  Steps wrote;
  std::map<std::string, Tensor> kept;  // of the loop's own, from one iteration to the next

 private:
  static bool IsWeight(const std::string& parameter) { return parameter.find("weight") != std::string::npos; }
  static std::string ModuleOf(const std::string& parameter) { return parameter.substr(0, parameter.rfind('.')); }
  void Note(const std::string& tag, const std::string& what, double value) {
    wrote[{tag, steps}].push_back({what, value, 0});
  }
  void NoteWeights() {
    for (const auto& item : net->named_parameters()) {
      if (!IsWeight(item.key())) continue;
      CloseUpdate(item.key(), item.value());
      Note("default", "weights " + ModuleOf(item.key()), PrintOf(item.value()));
      weights_[item.key()] = {steps, item.value().detach().clone()};
    }
  }
  void CloseUpdate(const std::string& parameter, const Tensor& now) {
    const auto before = weights_.find(parameter);
    if (before == weights_.end()) return;
    const auto& [step, weight] = before->second;
    wrote[{"default", step}].push_back({"weight_updates " + ModuleOf(parameter), PrintOf(now - weight), 0});
    weights_.erase(before);
  }

  std::map<std::pair<std::string, uint64_t>, uint16_t> flags_;
  std::map<std::string, std::pair<uint64_t, Tensor>> weights_;  // of the step before
};

inline nn::Sequential Net(int64_t out = 4) {
  return nn::Sequential(nn::Linear(8, 16), nn::ReLU(), nn::Linear(16, out));
}
inline void Classify(Ledger& t) {
  const Tensor out = t.Out(), k = t.K();
  t.Train(t.Classified(F::cross_entropy(out, k), out, k));
}

inline const auto kEach = F::MSELossFuncOptions().reduction(torch::kNone);
inline const auto kSummed = F::MSELossFuncOptions().reduction(torch::kSum);

struct Loop {
  const char* name;
  std::function<void(Ledger&, uint64_t)> iteration;
  std::vector<const char*> notes = {};    // what is said, a part of each
  std::vector<std::string> lacking = {};  // kinds that may be absent under a period above 1
  const char* lack_noted = nullptr;       // what is said of them then
  bool unasked = false;                   // nobody asks for evaluations
};
inline void PrintTo(const Loop& loop, std::ostream* out) { *out << loop.name; }

class OddLoops : public Capture, public ::testing::WithParamInterface<std::tuple<Loop, uint32_t>> {
 protected:
  using Entry = Ledger::Entry;

  void SetUp() override {
    Capture::SetUp();
    probe_ = std::make_unique<Probe>(ProbeOptions{.run = "odd", .directory = daemon_.directory(), .quiet = true});
    daemon_.Accept({});
  }
  void Run() {
    const auto& [loop, period] = GetParam();
    Also({"loss", "weights", "weight_gradients", "weight_updates", "network_output", "input_labels"}, "default",
         period);
    for (const char* tag : {"test", "no_grad"})
      if (!loop.unasked) Also({"loss", "network_output", "input_labels"}, tag, period);
    Ledger ledger(*probe_, Net());
    probe_->Attach(ledger.net);
    constexpr uint64_t kIterations = 43;
    for (uint64_t i = 0; i < kIterations; ++i) loop.iteration(ledger, i);
    probe_->Detach();
    ledger.Finish();
    if (loop.unasked) std::erase_if(ledger.wrote, [](const auto& step) { return step.first.first != "default"; });
    CompareNumbers(ledger, loop, period);
    CompareNotes(loop, period);
  }

 private:
  void Also(std::vector<std::string> kinds, const std::string& tag, uint32_t period) {
    kinds.insert(kinds.end(), {"batch_finished", "passes_named"});
    probe_->Subscribe(
        kinds,
        [this](const ProbeMessage& message) {
          std::lock_guard lock(mutex_);
          const Tensor& tensor = message.tensor;
          kept_.push_back({message, {}});
          kept_.back().message.tensor = Tensor();
          if (tensor.defined()) kept_.back().message.scalar = PrintOf(tensor);
          if (message.kind == "input_labels" && !c10::isIntegralType(tensor.scalar_type(), false))
            kept_.back().message.param = kNoClasses;
        },
        period, tag);
  }
  static bool IsMarker(const ProbeMessage& message) {
    return message.kind == "batch_finished" || message.kind == "passes_named";
  }
  static std::string KindOf(const std::string& what) { return what.substr(0, what.find(' ')); }
  // As the daemon takes them: what bears a pass is of the step or evaluation that names that; accuracy is of classes.
  Ledger::Steps Published() const {
    std::map<std::pair<std::string, uint32_t>, uint64_t> named;
    std::set<std::tuple<std::string, uint32_t, uint16_t>> no_classes;
    for (const auto& [message, tensor] : kept_) {
      if (message.param == kNoClasses) no_classes.insert({message.tag, message.pass, message.call});
      if (!IsMarker(message)) continue;
      for (const uint32_t pass : message.passes) named[{message.tag, pass}] = message.global_step;
    }
    Ledger::Steps steps;
    for (const auto& [message, tensor] : kept_) {
      if (IsMarker(message)) continue;
      const bool compared = message.kind == "network_output" || message.kind == "input_labels";
      if (compared && no_classes.count({message.tag, message.pass, message.call}) != 0) continue;
      const auto by = named.find({message.tag, message.pass});
      if (message.pass != 0 && by == named.end()) continue;
      std::string what = message.kind == "loss" && !message.param.empty() ? message.param : message.kind;
      if (!message.module.empty()) what += " " + message.module;
      const uint64_t step = message.pass == 0 ? message.global_step : by->second;
      steps[{message.tag, step}].push_back({what, message.scalar, message.flags});
    }
    return steps;
  }
  static bool Near(double left, double right) {
    return left == right || (std::isnan(left) && std::isnan(right)) || std::abs(left - right) <= 2e-5 * std::abs(right);
  }
  // The first few of a kind tell enough.
  void Fail(const std::string& problem, const std::pair<std::string, uint64_t>& at, const Entry& entry) {
    constexpr int kShown = 3;
    if (failures_[problem + KindOf(entry.what)]++ >= kShown) return;
    ADD_FAILURE() << problem << ": " << entry.what << " = " << entry.value << " of step " << at.second << ", tag "
                  << at.first << ", flags " << entry.flags;
  }
  void CompareNumbers(const Ledger& ledger, const Loop& loop, uint32_t period) {
    Ledger::Steps got = Published();
    bool classes = false;
    for (const auto& [at, entries] : ledger.wrote) {
      for (const Entry& want : entries) classes |= want.what == "input_labels";
      if (at.second % period != 0) continue;
      std::vector<Entry>& published = got[at];
      for (const Entry& want : entries) {
        const auto found = std::find_if(published.begin(), published.end(), [&](const Entry& one) {
          return one.what == want.what && Near(one.value, want.value);
        });
        const bool may_lack =
            period > 1 && std::find(loop.lacking.begin(), loop.lacking.end(), KindOf(want.what)) != loop.lacking.end();
        if (found == published.end()) {
          if (!may_lack) Fail("absent", at, want);
          continue;
        }
        if (found->flags != want.flags) Fail("flagged otherwise", at, *found);
        published.erase(found);
      }
    }
    for (const auto& [at, entries] : got) {
      for (const Entry& one : entries) {
        const bool compared = one.what == "network_output" || one.what == "input_labels";
        if (classes || !compared) Fail("not so", at, one);
      }
    }
    compares_classes_ = classes;
  }
  void CompareNotes(const Loop& loop, uint32_t period) {
    daemon_.Drain();
    std::vector<std::string> said;
    for (const shm::RegistryEntry& entry : daemon_.registry()) {
      if (entry.type == shm::EntryType::kNote) said.push_back(entry.second);
    }
    std::vector<const char*> notes = loop.notes;
    if (period > 1 && loop.lack_noted != nullptr) notes.push_back(loop.lack_noted);
    for (const char* note : notes) {
      const auto found = std::find_if(said.begin(), said.end(),
                                      [&](const std::string& one) { return one.find(note) != std::string::npos; });
      if (found == said.end())
        ADD_FAILURE() << "not said: " << note;
      else
        said.erase(found);
    }
    for (const std::string& note : said) {
      if (compares_classes_ || note.find("accuracy") == std::string::npos) ADD_FAILURE() << "said: " << note;
    }
  }

  static constexpr const char* kNoClasses = "no_classes";
  DaemonByHand daemon_;
  std::mutex mutex_;
  std::map<std::string, int> failures_;
  bool compares_classes_ = false;
};

inline std::string NameOf(const ::testing::TestParamInfo<std::tuple<Loop, uint32_t>>& info) {
  return std::string(std::get<0>(info.param).name) + "_" + std::to_string(std::get<1>(info.param));
}
inline const auto kPeriods = ::testing::Values(1u, 3u, 7u);

}  // namespace ikkuna::odd
