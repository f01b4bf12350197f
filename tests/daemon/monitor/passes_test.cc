// Passes from a trainer's ring to what a person is shown: the values of steps, what was discarded, that it adds up.
#include "tests/daemon/monitor/house.h"

namespace ikkuna {
namespace {

class PassesTest : public testing::Test {
 protected:
  void Open() {
    house_.reset();
    house_ = std::make_unique<House>(temp_, std::vector<std::string>{"loss", "mean(weights)"});
  }
  // A step of one pass and, before it, one that no backward pass reached.
  static void StepWithASkippedBatch(TestProducer& trainer, uint64_t step, uint32_t first) {
    trainer.Marker(Kind::kBatchStarted, step);
    trainer.Pass(step, first, -1000);
    trainer.Pass(step, first + 1, static_cast<double>(step));
    trainer.Summary(step, 1);
    trainer.Name(Kind::kBatchFinished, step, {first + 1}, first + 2);
    trainer.pub().status().roots[0].step = step + 1;
  }
  static uint64_t NoStep(const ProducerStatus& status) {
    for (const Count& count : status.missing) {
      if (count.reason == "no_step") return count.count;
    }
    return 0;
  }
  static void ExpectBalanced(const ProducerStatus& status) {
    EXPECT_EQ(status.handled + status.dropped_total + status.lost_in_daemon + status.killed, status.attempted);
  }
  std::string Why(const std::string& run, const std::string& kind) {
    auto answer = house_->runs().Why({{run}, "", kind});
    EXPECT_TRUE(answer.ok()) << (answer ? "" : answer.failure().text);
    std::string text;
    if (!answer) return text;
    for (const auto& one : answer->missing) {
      text += std::string(WhyReasonName(one.line.reason)) + " " + std::to_string(one.line.count) + ": " +
              one.line.text + "\n";
    }
    return text;
  }

  TempDirectory temp_;
  std::unique_ptr<House> house_;
};

TEST_F(PassesTest, WhatBelongsToNoStepIsHandledAndShownAsThat) {
  Open();
  auto trainer = Trainer(temp_, "job");
  for (uint64_t step = 0; step < 10; ++step) {
    StepWithASkippedBatch(*trainer, step, static_cast<uint32_t>(1 + 2 * step));
  }
  ProducerStatus status = house_->Settled(*trainer);
  EXPECT_EQ(NoStep(status), 10u);
  EXPECT_EQ(status.handled, 10u * 7);
  EXPECT_EQ(status.roots[0].steps_observed, 10u);
  ExpectBalanced(status);
  const auto check = [&](const char* when) {
    const auto losses = house_->Values("job", "loss");
    EXPECT_EQ(losses.size(), 10u) << when;
    for (const auto& [step, value] : losses) EXPECT_EQ(value, static_cast<double>(step)) << when;
    EXPECT_THAT(Why("job", "loss"), HasSubstr("no_step 10: 10 messages of all subscribers were discarded: no step was made "
                                              "of the pass"))
        << when;
  };
  check("live");
  trainer->Finish();
  house_->Settled(*trainer, RunState::kFinished);
  check("over");
  Open();
  check("of an earlier daemon");
}

TEST_F(PassesTest, ADaemonThatComesInTheMiddleOfThemMakesNoStepOfAHalf) {
  Open();
  auto trainer = Trainer(temp_, "job");
  trainer->Marker(Kind::kBatchStarted, 0);
  trainer->Pass(0, 1, 1);
  trainer->Pass(0, 2, 100);  // of a thread that is slow
  trainer->Summary(0, 1);
  trainer->Name(Kind::kBatchFinished, 0, {1}, 2);
  trainer->Marker(Kind::kBatchStarted, 1);
  trainer->Pass(1, 3, 200);
  house_->Settled(*trainer);
  house_->Stop();
  trainer->Disconnect();
  Open();
  ASSERT_TRUE(trainer->Connect()) << trainer->reject();
  trainer->Scalar(Kind::kLoss, 1, 300, 3);
  trainer->Scalar(Kind::kLoss, 1, 400, 2);
  trainer->Summary(1, 1);
  trainer->Name(Kind::kBatchFinished, 1, {3}, 2);  // its beginning was another daemon's
  trainer->Marker(Kind::kBatchStarted, 2);
  trainer->Pass(2, 4, 500);
  trainer->Summary(2, 7);
  trainer->Name(Kind::kBatchFinished, 2, {2, 4}, 5);  // the half of a pass
  trainer->Marker(Kind::kBatchStarted, 3);
  trainer->Pass(3, 5, 5);
  trainer->Name(Kind::kBatchFinished, 3, {5}, 6);
  const ProducerStatus status = house_->Settled(*trainer);
  EXPECT_EQ(house_->Values("job", "loss"), (std::map<uint64_t, double>{{0, 1}, {3, 5}}));
  EXPECT_EQ(house_->Values("job", "weights_mean"), (std::map<uint64_t, double>{{0, 1}, {2, 7}}));
  EXPECT_EQ(NoStep(status), 4u) << "one each of the two passes that were open, by either daemon";
  ExpectBalanced(status);
  trainer->Finish();
  house_->Settled(*trainer, RunState::kFinished);
}

TEST_F(PassesTest, AnEndThatWasDroppedTakesItsPassesAlong) {
  Open();
  auto trainer = Trainer(temp_, "job");
  trainer->Marker(Kind::kBatchStarted, 0);
  trainer->Pass(0, 1, 1000);
  trainer->pub().CountDrop(DropReason::kRingFull);  // batch_finished of step 0
  trainer->Marker(Kind::kBatchStarted, 1);
  trainer->Pass(1, 2, 1);
  trainer->Name(Kind::kBatchFinished, 1, {2}, 3);
  const ProducerStatus status = house_->Settled(*trainer);
  EXPECT_EQ(house_->Values("job", "loss"), (std::map<uint64_t, double>{{1, 1}}));
  EXPECT_EQ(NoStep(status), 1u);
  ExpectBalanced(status);
}

TEST_F(PassesTest, WhatATrainerLeavesOpenWhenItDiesIsCounted) {
  int go[2];
  ASSERT_EQ(::pipe2(go, O_CLOEXEC), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    char byte;
    if (::read(go[0], &byte, 1) != 1) ::_exit(1);
    auto trainer = Trainer(temp_, "job");
    trainer->Marker(Kind::kBatchStarted, 0);
    trainer->Pass(0, 1, 1);
    trainer->Name(Kind::kBatchFinished, 0, {1}, 2);
    trainer->Marker(Kind::kBatchStarted, 1);
    trainer->Pass(1, 2, 1);
    trainer->Pass(1, 3, 1);
    ::kill(::getpid(), SIGKILL);
  }
  ASSERT_GT(child, 0);
  Open();
  ASSERT_EQ(::write(go[1], "g", 1), 1);
  int ended = 0;
  ASSERT_EQ(::waitpid(child, &ended, 0), child);
  ASSERT_TRUE(Eventually([&] {
    const auto all = house_->ingest().Producers();
    return all.size() == 1 && all[0].state == RunState::kDied && all[0].in_flight == 0;
  }));
  const ProducerStatus status = house_->ingest().Producers()[0];
  EXPECT_EQ(NoStep(status), 2u);
  ExpectBalanced(status);
  EXPECT_EQ(house_->Values("job", "loss").size(), 1u);
  ::close(go[0]);
  ::close(go[1]);
}

TEST_F(PassesTest, OneThatLiesAboutThemIsQuarantinedAndHarmsNobody) {
  Open();
  auto liar = Trainer(temp_, "liar");
  auto trainer = Trainer(temp_, "job");
  liar->Marker(Kind::kBatchStarted, 0);
  liar->Publish(0, Kind::kBatchFinished, [](shm::Record& record) {
    record.type = static_cast<uint8_t>(RecordType::kMarker);
    record.marker.first_pass = UINT32_MAX;
    record.marker.named[0] = 3;  // a pass 0
    record.marker.passes = 2;
  });
  ASSERT_TRUE(Eventually([&] {
    for (const ProducerStatus& status : house_->ingest().Producers()) {
      if (status.info.uuid == liar->hello().uuid) return status.state == RunState::kQuarantined;
    }
    return false;
  }));
  StepWithASkippedBatch(*trainer, 0, 1);
  house_->Settled(*trainer);
  EXPECT_EQ(house_->Values("job", "loss").size(), 1u);
}

}  // namespace
}  // namespace ikkuna
