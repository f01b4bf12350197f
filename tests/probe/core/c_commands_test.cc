// Commands of clients through the C interface: when they come, on which thread, and how they are answered.
#include <atomic>
#include <functional>
#include <thread>

#include "probe/core/c_handle.h"
#include "tests/probe/core/c_tracked_loop.h"

namespace ikkuna {
namespace {

class Commands : public CInterface {
 protected:
  ikkuna_session* Start(int control, bool handler = true, bool with_root = true) {
    ikkuna_options options = OptionsFor(daemon_);
    options.quiet = 1;
    options.control = control;
    options.context = this;
    if (handler)
      options.on_command = [](void* self, const ikkuna_command* command) {
        static_cast<Commands*>(self)->Take(*command);
      };
    if (prepared_) options.prepared = [](void* self) { return static_cast<Commands*>(self)->prepared_() ? 1 : 0; };
    session_ = ikkuna_open(&options);
    daemon_.Accept({});
    if (with_root) root_ = ikkuna_root(session_, "net");
    return session_;
  }
  void TearDown() override {
    ikkuna_close(session_);
    CInterface::TearDown();
  }
  void Take(const ikkuna_command& command) {
    EXPECT_EQ(command.size, sizeof command);
    EXPECT_EQ(std::this_thread::get_id(), trainer_);
    taken_.push_back(command);
    if (on_take_) on_take_(command);
  }
  bool Done(uint64_t number) {
    const auto end = std::chrono::steady_clock::now() + test::kWatchdog;
    while (daemon_.view().ReadStatus().status.command_done != number) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }
  void Step(uint64_t step) { ikkuna_step_end(ikkuna_step_begin(session_, root_, IKKUNA_TAG_DEFAULT, step, 0), 0); }
  std::string Notes() {
    daemon_.ReadRegistry();
    std::string notes;
    for (const auto& entry : daemon_.registry()) {
      if (entry.type == shm::EntryType::kNote) notes += entry.second + "\n";
    }
    return notes;
  }

  DaemonByHand daemon_;
  ikkuna_session* session_ = nullptr;
  uint16_t root_ = 0;
  const std::thread::id trainer_ = std::this_thread::get_id();
  std::vector<ikkuna_command> taken_;
  std::function<void(const ikkuna_command&)> on_take_;
  std::function<bool()> prepared_;
};

TEST_F(Commands, ComeBeforeTheStepTheyAreForAndAreAnswered) {
  Start(IKKUNA_CONTROL_ALL);
  on_take_ = [&](const ikkuna_command& command) {
    // Under no lock: it may ask and name.
    EXPECT_NE(ikkuna_module(session_, root_, "fc", "Linear", 0), 0u);
    if (command.type == IKKUNA_COMMAND_EVALUATE) {
      EXPECT_EQ(ikkuna_command_done(session_, command.id, 0, "no data to evaluate on"), 1);
    }
  };
  Step(0);
  const uint64_t freeze = daemon_.Command(shm::CommandType::kFreeze, root_, 7, 3, 6);  // before step 5
  const uint64_t thaw = daemon_.Command(shm::CommandType::kUnfreeze, kAnyRoot);
  const uint64_t evaluate = daemon_.Command(shm::CommandType::kEvaluate, root_);
  const uint64_t capture = daemon_.Command(shm::CommandType::kCapture, root_, 0, 0, 9);
  ASSERT_TRUE(Done(capture));
  Step(1);
  ASSERT_EQ(taken_.size(), 2u);
  EXPECT_EQ(taken_[0].id, thaw);
  EXPECT_EQ(taken_[0].root, 0u) << "of every root";
  EXPECT_EQ(taken_[0].step, 1u);
  EXPECT_EQ(taken_[1].id, evaluate);
  EXPECT_NE(Notes().find("evaluate refused (command " + std::to_string(evaluate) + "): no data"), std::string::npos)
      << Notes();
  Step(4);
  EXPECT_EQ(taken_.size(), 2u);
  Step(5);
  ASSERT_EQ(taken_.size(), 3u);
  EXPECT_EQ(taken_[2].id, freeze);
  EXPECT_EQ(taken_[2].type, static_cast<uint32_t>(IKKUNA_COMMAND_FREEZE));
  EXPECT_EQ(taken_[2].module, 7u);
  EXPECT_EQ(taken_[2].param, 3u);
  Step(9);
  EXPECT_EQ(taken_.size(), 3u) << "its step, 8, is past";
  EXPECT_EQ(daemon_.view().ReadStatus().status.command_late, capture);
  // Later, from any thread; once.
  std::thread([&] { EXPECT_EQ(ikkuna_command_done(session_, freeze, 1, "bias left as it was"), 1); }).join();
  EXPECT_NE(Notes().find("freeze done (command " + std::to_string(freeze) + "): bias left"), std::string::npos)
      << Notes();
  EXPECT_EQ(ikkuna_command_done(session_, freeze, 1, nullptr), -1);
  EXPECT_NE(std::string(ikkuna_error(session_)).find("no command of this number"), std::string::npos);
  EXPECT_EQ(ikkuna_command_done(session_, thaw, 1, nullptr), 1);
  EXPECT_EQ(Notes().find("unfreeze"), std::string::npos) << "what is done as asked needs no note";
  EXPECT_EQ(daemon_.view().ReadStatus().status.control, static_cast<uint32_t>(shm::Control::kAll));
}

// Without a hand that does it nothing but a stop is allowed.
TEST_F(Commands, WithoutAHandlerATrainerCanOnlyBeStopped) {
  Start(IKKUNA_CONTROL_ALL, false);
  daemon_.Command(shm::CommandType::kFreeze, root_);
  ASSERT_TRUE(Done(daemon_.Command(shm::CommandType::kStop)));
  Step(0);
  EXPECT_EQ(ikkuna_stop_requested(session_), 1);
  EXPECT_EQ(daemon_.view().ReadStatus().status.control, static_cast<uint32_t>(shm::Control::kStopOnly));
  EXPECT_NE(Notes().find("does not take"), std::string::npos);
}

TEST_F(Commands, AHandlerAloneAllowsNothing) {
  Start(IKKUNA_CONTROL_NONE);
  daemon_.Command(shm::CommandType::kFreeze, root_);
  ASSERT_TRUE(Done(daemon_.Command(shm::CommandType::kStop)));
  Step(0);
  EXPECT_EQ(taken_.size(), 0u);
  EXPECT_EQ(ikkuna_stop_requested(session_), 0);
}

// No rank gets a command of several before all have said that they will act: not before the front end has.
TEST_F(Commands, APreparationIsAcknowledgedByTheFrontEnd) {
  std::atomic<bool> ready{false};
  std::atomic<int> asked{0};
  prepared_ = [&] {
    EXPECT_NE(std::this_thread::get_id(), trainer_);
    ++asked;
    return ready.load();
  };
  Start(IKKUNA_CONTROL_ALL);
  const uint64_t prepare = daemon_.Command(shm::CommandType::kPrepare);
  const uint64_t stop = daemon_.Command(shm::CommandType::kStop);
  const auto end = std::chrono::steady_clock::now() + test::kWatchdog;
  for (uint64_t step = 0; asked < 3; ++step) {  // also while steps are made, which take commands
    ASSERT_LT(std::chrono::steady_clock::now(), end);
    Step(step);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(daemon_.view().ReadStatus().status.command_done, prepare - 1);
  EXPECT_EQ(ikkuna_stop_requested(session_), 0);
  ready = true;
  ASSERT_TRUE(Done(stop));
}

// Of a tracked root a boundary is where its steps are seen to end, and where its first begins.
TEST_F(Commands, ReachATrackedRoot) {
  Start(IKKUNA_CONTROL_ALL);
  Net net(session_, "tracked");
  Trainer trainer(session_);
  const auto step = [&] {
    net.ZeroGrad();
    Graph graph = trainer.Forward(net);
    trainer.Backward({&graph});
    trainer.Write(net);
  };
  ASSERT_TRUE(Done(daemon_.Command(shm::CommandType::kFreeze, net.root, 0, 0, 1)));
  const uint64_t later = daemon_.Command(shm::CommandType::kUnfreeze, net.root, 0, 0, 4);
  ASSERT_TRUE(Done(later));
  step();
  ASSERT_EQ(taken_.size(), 1u);
  EXPECT_EQ(taken_[0].step, 0u);
  step();
  EXPECT_EQ(taken_.size(), 1u);
  step();  // its write is the boundary before step 3
  ASSERT_EQ(taken_.size(), 2u);
  EXPECT_EQ(taken_[1].id, later);
  EXPECT_EQ(taken_[1].step, 3u);
}

// What a front end does on a command, a freeze or an evaluation, must not reach what of the step before is not read
// yet.
TEST_F(Commands, ComeBehindWhatIsToBeTaken) {
  Start(IKKUNA_CONTROL_ALL);
  Net net(session_, "tracked");
  daemon_.Demand({Ask(KindBit(Kind::kWeightGradients), Level::kTensor)});
  ikkuna_thread* thread = ikkuna_thread_begin(session_);
  ikkuna_take take{};
  take.size = sizeof take;
  const auto step = [&](int64_t task) {
    ikkuna_pass* pass = ikkuna_on_pass(thread, net.root, 0);
    ikkuna_on_reached(thread, pass, task);
    ikkuna_on_gradient(thread, net.root, task, 0);
    ikkuna_on_backward_end(thread, task);
    const int takes = ikkuna_on_write(thread, net.root, IKKUNA_WRITE_ARITHMETIC, net.weight_id, IKKUNA_SEEN_GRADIENT);
    ikkuna_pass_end(pass);
    return takes;
  };
  on_take_ = [&](const ikkuna_command&) {
    EXPECT_EQ(ikkuna_next_take(thread, &take), 0);
    EXPECT_GE(ikkuna_on_evaluation(thread, net.root), 0);
  };
  ASSERT_TRUE(Done(daemon_.Command(shm::CommandType::kEvaluate, net.root, 0, 0, 2)));  // before step 1
  ASSERT_EQ(step(1), 1);
  EXPECT_EQ(taken_.size(), 0u);
  ASSERT_EQ(ikkuna_next_take(thread, &take), 1);
  EXPECT_EQ(take.take, static_cast<uint32_t>(IKKUNA_TAKE_GRADIENTS));
  ikkuna_step_end(take.step, 0);
  EXPECT_EQ(ikkuna_next_take(thread, &take), 0);
  ASSERT_EQ(taken_.size(), 1u);
  EXPECT_EQ(taken_[0].step, 1u);
  // Who takes nothing gets them with the next that is seen.
  ASSERT_TRUE(Done(daemon_.Command(shm::CommandType::kEvaluate, net.root, 0, 0, 3)));
  ASSERT_EQ(step(2), 1);
  EXPECT_EQ(taken_.size(), 1u);
  ikkuna_on_write(thread, net.root, IKKUNA_WRITE_ARITHMETIC, net.bias_id, IKKUNA_SEEN_GRADIENT);
  ASSERT_EQ(taken_.size(), 2u);
  EXPECT_EQ(taken_[1].step, 2u);
  ikkuna_thread_end(thread);
}

// A step that is skipped ends where the next one's gradients come: that is the boundary of the next, not of the one
// behind it.
TEST_F(Commands, BehindASkippedStepAreForTheStepThatFollows) {
  Start(IKKUNA_CONTROL_ALL);
  Net net(session_, "tracked");
  Trainer trainer(session_);
  const auto step = [&](bool writes) {
    net.ZeroGrad();
    Graph graph = trainer.Forward(net);
    trainer.Backward({&graph});
    if (writes) trainer.Write(net);
  };
  for (int i = 0; i < 10; ++i) step(true);
  step(false);  // step 10
  const uint64_t number = ikkuna_next_step(session_, net.root);
  ASSERT_EQ(number, 11u);
  ASSERT_TRUE(Done(daemon_.Command(shm::CommandType::kFreeze, net.root, 0, 0, number + 1)));
  const uint64_t behind = daemon_.Command(shm::CommandType::kUnfreeze, net.root, 0, 0, number + 2);
  ASSERT_TRUE(Done(behind));
  step(false);  // ends step 10
  ASSERT_EQ(taken_.size(), 1u);
  EXPECT_EQ(taken_[0].step, number);
  EXPECT_EQ(taken_[0].type, static_cast<uint32_t>(IKKUNA_COMMAND_FREEZE));
  EXPECT_EQ(daemon_.view().ReadStatus().status.command_late, 0u);
  trainer.Write(net);
  ASSERT_EQ(taken_.size(), 2u);
  EXPECT_EQ(taken_[1].id, behind);
  EXPECT_EQ(taken_[1].step, number + 1);
}

// The thread of the session runs before ikkuna_open() has returned; a front end without its handle cannot act.
TEST_F(Commands, NothingIsPreparedBeforeThereIsARoot) {
  std::atomic<int> early{0}, asked{0};
  prepared_ = [&] {
    early += root_ == 0;
    return ++asked > 0;
  };
  Start(IKKUNA_CONTROL_ALL, true, false);
  daemon_.Command(shm::CommandType::kFreeze, 0, 0, 0, 9);
  const uint64_t prepare = daemon_.Command(shm::CommandType::kPrepare);
  // The session's thread looks at what is there before it writes its clock again.
  const auto clock = [&] { return daemon_.view().ReadStatus().status.clock_generation; };
  for (int round = 0; round < 2; ++round) {
    const auto end = std::chrono::steady_clock::now() + test::kWatchdog;
    for (const uint64_t seen = clock(); clock() == seen;) ASSERT_LT(std::chrono::steady_clock::now(), end);
  }
  EXPECT_EQ(asked, 0);
  root_ = 1;
  EXPECT_EQ(ikkuna_root(session_, "net"), 1u);
  ASSERT_TRUE(Done(prepare));
  EXPECT_EQ(early, 0);
  EXPECT_GT(asked, 0);
}

// An evaluation that is done on a command is the trainer's time.
TEST_F(Commands, WhatIsDoneOnThemIsOnNobodysAccount) {
  Start(IKKUNA_CONTROL_ALL);
  constexpr uint64_t kLong = 300'000'000;
  on_take_ = [&](const ikkuna_command&) {
    for (const uint64_t begin = MonotonicNs(); MonotonicNs() - begin < kLong;) {
    }
  };
  ASSERT_TRUE(Done(daemon_.Command(shm::CommandType::kEvaluate, root_)));
  ikkuna_step* step = ikkuna_step_begin(session_, root_, IKKUNA_TAG_DEFAULT, 0, 0);
  ASSERT_EQ(taken_.size(), 1u);
  EXPECT_LT(session_->state->roots[root_ - 1u].spent.total_ns.load(), kLong);
  ikkuna_step_end(step, 0);
}

TEST_F(Commands, ThatAreNeverAnsweredAreSaidAtTheEndAndDoNotGrow) {
  Start(IKKUNA_CONTROL_ALL);
  uint64_t first = 0;
  for (uint64_t i = 0; i < 20; ++i) {
    uint64_t number = 0;
    for (int more = 0; more < 55; ++more) {
      number = daemon_.Command(shm::CommandType::kEvaluate, root_);
      if (i * 55 + static_cast<uint64_t>(more) == 76) first = number;
    }
    ASSERT_TRUE(Done(number));
    Step(i);
  }
  EXPECT_EQ(taken_.size(), 1100u);
  EXPECT_EQ(session_->state->commands.size(), 1024u);
  ikkuna_close(std::exchange(session_, nullptr));
  EXPECT_NE(Notes().find("without an answer to 1024 commands, the first " + std::to_string(first)), std::string::npos)
      << Notes();
}

}  // namespace
}  // namespace ikkuna
