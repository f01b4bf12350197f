// Notes: what a probe says about what it cannot know or does not take, as a daemon reads it.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "shared/codes.h"
#include "tests/probe/core/daemon_by_hand.h"
#include "tests/probe/torch/capture_fixture.h"

namespace ikkuna {

namespace nn = torch::nn;

class Notes : public ::testing::Test {
 protected:
  void SetUp() override {
    ::setenv("IKKUNA_WAIT_MS", "120000", 1);  // what is asked is known before the first step
    torch::manual_seed(3);
    probe_ = std::make_unique<Probe>(ProbeOptions{
        .run = "notes", .allow_control = true, .budget = 0, .directory = daemon_.directory(), .quiet = true});
  }
  void TearDown() override {
    probe_.reset();
    ::unsetenv("IKKUNA_WAIT_MS");
  }

  void Asks(std::initializer_list<Kind> kinds, uint32_t period = 1) {
    uint64_t set = 0;
    for (const Kind kind : kinds) set |= KindBit(kind);
    shm::DemandItem item = Ask(set, Level::kSummary);
    item.period = period;
    daemon_.Accept({item});
  }
  static nn::Sequential Net() { return nn::Sequential(nn::Linear(8, 16), nn::ReLU(), nn::Linear(16, 4)); }
  static Tensor X() { return torch::randn({12, 8}); }
  static Tensor Y() { return torch::randn({12, 4}); }
  static Tensor K() { return torch::randint(0, 4, {12}); }
  // Three steps of a loss that the loop makes of the output.
  template <typename Model>
  void Train(Model& model, torch::optim::Optimizer& optimizer, const std::function<Tensor(const Tensor&)>& loss,
             int steps = 3) {
    for (int step = 0; step < steps; ++step) {
      optimizer.zero_grad();
      loss(model->forward(X())).backward();
      optimizer.step();
    }
  }
  static Tensor Mse(const Tensor& out) { return F::mse_loss(out, Y()); }

  std::vector<std::string> Said() {
    Drain();
    std::vector<std::string> notes;
    for (const shm::RegistryEntry& entry : daemon_.registry()) {
      if (entry.type == shm::EntryType::kNote) notes.push_back(entry.second);
    }
    return notes;
  }
  // Each step that has ended says that it lacks these kinds, and no others.
  void ExpectDropped(uint64_t kinds) {
    Drain();
    EXPECT_FALSE(dropped_.empty());
    for (const uint64_t dropped : dropped_) EXPECT_EQ(dropped, kinds);
  }
  void Drain() {
    for (const auto& got : daemon_.Drain()) {
      if (got.record.kind == static_cast<uint8_t>(Kind::kBatchFinished))
        dropped_.push_back(got.record.marker.dropped_kinds);
    }
  }
  // Among all notes one begins a sentence with the first of these words, and has the others in it.
  void ExpectOne(std::initializer_list<std::string> words) {
    std::string all;
    std::vector<std::string> with_first;
    for (const std::string& note : Said()) {
      all += "\n  " + note;
      if (note.find(*words.begin()) != std::string::npos) with_first.push_back(note);
    }
    ASSERT_EQ(with_first.size(), 1u) << "'" << *words.begin() << "' among:" << all;
    for (const std::string& word : words) {
      EXPECT_NE(with_first[0].find(word), std::string::npos) << "'" << word << "' in: " << with_first[0];
    }
  }
  void ExpectNone() {
    for (const std::string& note : Said()) ADD_FAILURE() << note;
  }

  DaemonByHand daemon_;
  std::vector<uint64_t> dropped_;  // by step
  std::unique_ptr<Probe> probe_;
};

}  // namespace ikkuna
