// The C interface against a daemon's side held by hand: what is asked arrives, what is not asked costs no record.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "probe/ikkuna/probe.h"
#include "shared/stats/derive.h"
#include "tests/probe/core/c_fixture.h"

namespace ikkuna {
namespace {

using namespace std::chrono_literals;

// Until the probe's service thread has taken so many commands of the daemon's, and no more.
bool TakesCommands(DaemonByHand& daemon, uint64_t count) {
  const auto done = [&] { return daemon.view().ReadStatus().status.command_done; };
  for (const auto end = std::chrono::steady_clock::now() + test::kWatchdog;
       done() < count && std::chrono::steady_clock::now() < end;) {
    std::this_thread::sleep_for(1ms);
  }
  return done() == count;
}

// However many are claimed: a record says what a store can keep, or its producer would be quarantined.
TEST_F(CInterface, SamplesWithoutEndStayWithinTheFormat) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  ASSERT_NE(session, nullptr);
  const uint16_t root = ikkuna_root(session, "net");
  daemon.Accept({Ask(KindBit(Kind::kLoss), Level::kSummary)});
  for (uint64_t step = 0; step < 3; ++step) {
    CStep one(session, root, step);
    one.Loss(0.25);
    ikkuna_samples(one.step(), step == 0 ? uint64_t{1} << 63 : UINT64_MAX);
  }
  int markers = 0;
  for (const auto& message : daemon.Drain()) {
    if (message.record.kind != static_cast<uint8_t>(Kind::kBatchFinished)) continue;
    ++markers;
    EXPECT_EQ(message.record.marker.samples, kMaxStep);
  }
  EXPECT_EQ(markers, 3);
  ikkuna_close(session);
}

TEST_F(CInterface, SummariesTensorsScalarsAndTexts) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  options.run = "by hand";
  ikkuna_session* session = ikkuna_open(&options);
  ASSERT_NE(session, nullptr);
  const uint16_t root = ikkuna_root(session, "net");
  const uint32_t fc = ikkuna_module(session, root, "fc", "Linear", 0);
  const int64_t sizes[] = {2, 3};
  const uint32_t weight = ikkuna_param(session, root, fc, "weight", IKKUNA_F32, 2, sizes, IKKUNA_TRAINABLE);
  ASSERT_TRUE(root != 0 && fc != 0 && weight != 0);
  daemon.Accept({Ask(KindBit(Kind::kWeights) | KindBit(Kind::kLoss) | KindBit(Kind::kScalar) | KindBit(Kind::kText),
                     Level::kSummary),
                 Ask(KindBit(Kind::kActivations), Level::kTensor)});
  const float values[] = {1, 2, 3, 4, 5, 9};
  CStep step(session, root, 0);
  EXPECT_EQ(step.Wanted(IKKUNA_WEIGHTS, fc), IKKUNA_SUMMARY);
  EXPECT_EQ(step.Wanted(IKKUNA_ACTIVATIONS, fc), IKKUNA_TENSOR);
  EXPECT_EQ(step.Wanted(IKKUNA_BIASES, fc), IKKUNA_NOTHING);
  EXPECT_EQ(step.Tensor(IKKUNA_WEIGHTS, fc, weight, values, {2, 3}), 1);
  EXPECT_EQ(step.Tensor(IKKUNA_ACTIVATIONS, fc, 0, values, {2, 3}, 0), 1);
  EXPECT_EQ(step.Tensor(IKKUNA_ACTIVATIONS, fc, 0, values, {2, 3}, 1), 1);
  EXPECT_EQ(step.Tensor(IKKUNA_BIASES, fc, 0, values, {2, 3}), 0);
  EXPECT_EQ(step.Loss(0.25), 1);
  EXPECT_EQ(ikkuna_log(step.step(), "temperature", 3.5), 1);
  EXPECT_EQ(ikkuna_log_text(step.step(), "phase", "warm-up"), 1);
  EXPECT_EQ(ikkuna_rate(step.step(), "all", 0.1), 0);
  step.End();

  const auto got = daemon.Drain();
  ASSERT_EQ(got.size(), 9u);
  EXPECT_EQ(got[0].record.kind, static_cast<uint8_t>(Kind::kBatchStarted));
  EXPECT_EQ(got[1].record.kind, static_cast<uint8_t>(Kind::kPassStarted));
  EXPECT_EQ(got[1].record.pass, 1u);
  EXPECT_EQ(got[2].record.type, static_cast<uint8_t>(RecordType::kSummary));
  EXPECT_EQ(got[2].record.param, weight);
  EXPECT_EQ(got[2].record.pass, 0u);
  EXPECT_DOUBLE_EQ(stats::Mean(got[2].record.stats), 4.0);
  EXPECT_DOUBLE_EQ(stats::Norm2(got[2].record.stats), std::sqrt(136.0));
  for (uint16_t call = 0; call < 2; ++call) {
    const auto& tensor = got[3u + call];
    EXPECT_EQ(tensor.record.type, static_cast<uint8_t>(RecordType::kTensor));
    EXPECT_EQ(tensor.record.call, call);
    EXPECT_EQ(tensor.record.pass, 1u);
    ASSERT_EQ(tensor.payload.size(), sizeof values);
    EXPECT_EQ(std::memcmp(tensor.payload.data(), values, sizeof values), 0);
  }
  EXPECT_DOUBLE_EQ(got[5].record.scalar, 0.25);
  EXPECT_DOUBLE_EQ(got[6].record.scalar, 3.5);
  EXPECT_EQ(std::string(got[7].record.text.bytes, got[7].record.text.length), "warm-up");
  EXPECT_EQ(got[8].record.kind, static_cast<uint8_t>(Kind::kBatchFinished));
  EXPECT_EQ(got[8].record.marker.first_pass, 1u);
  EXPECT_EQ(got[8].record.marker.passes, 1u);
  EXPECT_EQ(got[8].record.marker.lowest_open, 2u);
  ikkuna_close(session);
  EXPECT_EQ(daemon.view().ReadStatus().status.state, static_cast<uint32_t>(shm::ProducerState::kFinished));
}

TEST_F(CInterface, OnlyTheMomentsThatAreAskedAreTaken) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  ASSERT_NE(session, nullptr);
  const uint16_t root = ikkuna_root(session, "net");
  const uint32_t fc = ikkuna_module(session, root, "fc", "Linear", 0);
  const int64_t three[] = {3};
  const uint32_t weight = ikkuna_param(session, root, fc, "weight", IKKUNA_F32, 1, three, IKKUNA_TRAINABLE);
  shm::DemandItem cheap = Ask(KindBit(Kind::kWeights), Level::kSummary), dear = cheap;
  cheap.moments = kCheapMoments;
  dear.period = 2;
  daemon.Accept({cheap, dear});
  const float values[] = {1, 2, 4};
  for (uint64_t step = 0; step < 2; ++step) {
    CStep(session, root, step).Tensor(IKKUNA_WEIGHTS, fc, weight, values, {3});
  }
  int summaries = 0;
  for (const auto& message : daemon.Drain()) {
    if (message.record.type != static_cast<uint8_t>(RecordType::kSummary)) continue;
    ++summaries;
    const bool all = message.record.global_step == 0;
    EXPECT_EQ(message.record.stats.left_out, all ? 0 : kAllMoments & ~kCheapMoments);
    EXPECT_EQ(message.record.stats.sum4 != 0, all);
    EXPECT_DOUBLE_EQ(stats::Norm2(message.record.stats), std::sqrt(21.0));
  }
  EXPECT_EQ(summaries, 2);
  ikkuna_close(session);
}

TEST_F(CInterface, AfterTheLastUnsubscribeNotOneRecord) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  daemon.Accept({Ask(KindBit(Kind::kLoss), Level::kSummary)});
  // Whether its loss was asked for.
  const auto step = [&](uint64_t number) {
    CStep one(session, root, number);
    const bool wanted = one.Wanted(IKKUNA_LOSS) != IKKUNA_NOTHING;
    one.Loss(1);
    return wanted;
  };
  EXPECT_TRUE(step(0));
  EXPECT_EQ(daemon.Drain().size(), 4u);
  daemon.Demand({});
  uint64_t next = 1;
  while (next < 20 && step(next))
    ++next;  // where the service thread looks just then, what was asked holds a step longer
  ++next;
  daemon.Drain();
  const uint64_t before = daemon.view().ReadStatus().status.attempted;
  for (; next < 50; ++next) EXPECT_FALSE(step(next)) << next;
  EXPECT_EQ(daemon.Drain().size(), 0u);
  EXPECT_EQ(daemon.view().ReadStatus().status.attempted, before);
  EXPECT_EQ(daemon.view().ReadStatus().status.roots[root - 1].step, 50u) << "steps are counted all the same";
  ikkuna_close(session);
}

TEST_F(CInterface, ItsCostIsCountedAndKeptInTheBudget) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  options.budget = 0.01;
  options.quiet = 1;
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  const uint32_t module = ikkuna_module(session, root, "fc", "Linear", 0);
  daemon.Accept({Ask(KindBit(Kind::kWeights), Level::kSummary)}, 500'000);
  const std::vector<float> data(1 << 18, 1.f);
  const int64_t size = static_cast<int64_t>(data.size());
  const uint32_t weight = ikkuna_param(session, root, module, "weight", IKKUNA_F32, 1, &size, IKKUNA_TRAINABLE);
  // Steps that are little else than our own calls: far above the hundredth that is allowed.
  for (uint64_t step = 0; step < 20'000; ++step) {
    CStep(session, root, step).Tensor(IKKUNA_WEIGHTS, module, weight, data.data(), {size});
    daemon.Drain();
    const shm::PubStatus status = daemon.view().ReadStatus().status;
    ASSERT_LE(status.probe_ns, status.step_ns);
    ASSERT_LE(status.fixed_ns, status.probe_ns);
    ASSERT_EQ(status.steps_timed, step + 1);
    if (status.shift_summary >= 4) break;
  }
  const shm::PubStatus status = daemon.view().ReadStatus().status;
  EXPECT_GE(status.shift_summary, 4u);
  EXPECT_EQ(status.budget_ppm, 10'000u) << "the lower of the trainer's and the daemon's";
  EXPECT_GT(status.roots[root - 1].last_step_ns, 0u);
  ikkuna_close(session);
  EXPECT_EQ(daemon.view().ReadStatus().status.roots[root - 1].phase, static_cast<uint32_t>(shm::Phase::kIdle));
}

TEST_F(CInterface, RootsThatTakeTurnsShareTheTimeThatPasses) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t roots[] = {ikkuna_root(session, "generator"), ikkuna_root(session, "critic")};
  daemon.Accept({});
  const auto begin = std::chrono::steady_clock::now();
  for (uint64_t step = 0; step < 10; ++step) {
    for (const uint16_t root : roots) {
      const CStep one(session, root, step);
      std::this_thread::sleep_for(1ms);
    }
  }
  const std::chrono::nanoseconds passed = std::chrono::steady_clock::now() - begin;
  const shm::PubStatus status = daemon.view().ReadStatus().status;
  EXPECT_EQ(status.steps_timed, 20u);
  EXPECT_GT(status.step_ns, 0u);
  EXPECT_LE(status.step_ns, static_cast<uint64_t>(passed.count()));
  ikkuna_close(session);
}

TEST_F(CInterface, AnEvaluationIsOnTheAccountOfWhatWasAskedOfIt) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  const uint32_t module = ikkuna_module(session, root, "fc", "Linear", 0);
  shm::DemandItem of_tests = Ask(KindBit(Kind::kActivations), Level::kSummary);
  of_tests.tag = kTagTest;
  daemon.Accept({of_tests});
  const float value = 1;
  uint64_t step = 0;
  const auto evaluate = [&] {
    CStep(session, root, step, IKKUNA_TAG_TEST).Tensor(IKKUNA_ACTIVATIONS, module, 0, &value, {});
  };
  // Of the training step itself nothing is asked.
  const auto train = [&] {
    const CStep one(session, root, step++);
    std::this_thread::sleep_for(1ms);
  };
  const auto fixed_ns = [&] { return daemon.view().ReadStatus().status.fixed_ns; };
  // The first ones are rare: no period could change what they cost.
  evaluate();
  EXPECT_EQ(daemon.view().ReadStatus().status.roots[0].phase, static_cast<uint32_t>(shm::Phase::kEvaluate));
  train();
  EXPECT_EQ(daemon.view().ReadStatus().status.roots[0].phase, static_cast<uint32_t>(shm::Phase::kTrain));
  EXPECT_EQ(daemon.Drain().size(), 4u);
  EXPECT_EQ(fixed_ns(), daemon.view().ReadStatus().status.probe_ns);
  // One at each step is not.
  for (int i = 0; i < 20; ++i) {
    evaluate();
    train();
  }
  const uint64_t while_rare = fixed_ns();
  for (int i = 0; i < 20; ++i) {
    evaluate();
    train();
  }
  EXPECT_EQ(fixed_ns(), while_rare);
  EXPECT_GT(daemon.view().ReadStatus().status.probe_ns, while_rare);
  // Of a step without an evaluation before it the cost is nobody's.
  train();
  EXPECT_GT(fixed_ns(), while_rare);
  ikkuna_close(session);
}

// An evaluation in the middle of a step neither ends it nor takes its values.
TEST_F(CInterface, AnEvaluationStandsWithinAStep) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  shm::DemandItem of_tests = Ask(KindBit(Kind::kLoss), Level::kSummary);
  of_tests.tag = kTagTest;
  daemon.Accept({Ask(KindBit(Kind::kLoss), Level::kSummary), of_tests});
  for (uint64_t step = 0; step < 2; ++step) {
    CStep one(session, root, step);
    one.Loss(1);
    CStep(session, root, step, IKKUNA_TAG_TEST).Loss(2);
    one.Loss(3);
    one.End();
    const auto got = daemon.Drain();
    ASSERT_EQ(got.size(), 9u);
    std::vector<double> training, test;
    for (const auto& one : got) {
      if (one.record.kind != static_cast<uint8_t>(Kind::kLoss)) continue;
      (one.record.tag == kTagTest ? test : training).push_back(one.record.scalar);
    }
    EXPECT_EQ(training, (std::vector<double>{1, 3}));
    EXPECT_EQ(test, (std::vector<double>{2}));
    EXPECT_EQ(got.back().record.tag, kTagDefault);
    EXPECT_EQ(daemon.view().ReadStatus().status.roots[root - 1].step, step + 1);
  }
  ikkuna_close(session);
}

TEST_F(CInterface, StopIsNotHeardWhereControlIsNotAllowed) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  daemon.Accept({});
  EXPECT_EQ(daemon.view().ReadStatus().status.control, static_cast<uint32_t>(shm::Control::kNone));
  daemon.Command(shm::CommandType::kStop);
  ASSERT_TRUE(TakesCommands(daemon, 1));
  CStep(session, root, 0).Loss(1);
  EXPECT_EQ(ikkuna_stop_requested(session), 0);
  ikkuna_close(session);
}

TEST_F(CInterface, StopArrivesAndTheEndOfTheDaemonEmptiesTheDemand) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  options.allow_control = 1;
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  daemon.Accept({Ask(KindBit(Kind::kLoss), Level::kSummary)});
  CStep(session, root, 0).Loss(1);
  EXPECT_EQ(ikkuna_stop_requested(session), 0);
  EXPECT_EQ(daemon.view().ReadStatus().status.control, static_cast<uint32_t>(shm::Control::kStopOnly));
  daemon.Command(shm::CommandType::kStop);
  ASSERT_TRUE(TakesCommands(daemon, 1));
  CStep(session, root, 1).Loss(1);
  EXPECT_EQ(ikkuna_stop_requested(session), 1);
  daemon.Hang();
  bool empty = false;
  const auto end = std::chrono::steady_clock::now() + test::kWatchdog;
  for (uint64_t i = 2; !empty && std::chrono::steady_clock::now() < end; ++i) {
    const CStep one(session, root, i);
    empty = one.Wanted(IKKUNA_INPUT_DATA) == IKKUNA_NOTHING && one.Wanted(IKKUNA_LOSS) == IKKUNA_NOTHING;
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_TRUE(empty);
  ikkuna_close(session);
}

// One in a position to act with others: not before the step that was agreed on, nor after it.
TEST_F(CInterface, AStopActsAtItsStepOrNotAtAll) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  options.allow_control = 1;
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  const uint16_t other = ikkuna_root(session, "other");
  daemon.Accept({});
  const auto stop_at = [&](uint64_t step) {
    shm::Command command{};
    command.type = static_cast<uint32_t>(shm::CommandType::kStop);
    command.root = root;
    command.argument = step + 1;
    ASSERT_TRUE(daemon.ctl().Push(command, daemon.view().ReadStatus().status.command_done).ok());
  };
  auto standing = std::make_unique<CStep>(session, root, 4);
  stop_at(3);
  // The service thread takes it while the trainer stands in its step.
  ASSERT_TRUE(TakesCommands(daemon, 1));
  EXPECT_EQ(daemon.view().ReadStatus().status.command_late, 0u);
  standing.reset();
  CStep(session, root, 5).Loss(1);
  EXPECT_EQ(ikkuna_stop_requested(session), 0) << "the others have stopped before";
  EXPECT_EQ(daemon.view().ReadStatus().status.command_late, 1u);
  stop_at(7);
  ASSERT_TRUE(TakesCommands(daemon, 2));
  CStep(session, root, 6).Loss(1);
  CStep(session, root, 7, IKKUNA_TAG_TEST).Loss(1);
  CStep(session, other, 7).Loss(1);
  EXPECT_EQ(ikkuna_stop_requested(session), 0);
  CStep(session, root, 7).Loss(1);
  EXPECT_EQ(ikkuna_stop_requested(session), 1);
  EXPECT_EQ(daemon.view().ReadStatus().status.command_late, 1u);
  ikkuna_close(session);
}

TEST_F(CInterface, AStepThatGoesBackIsRefusedWithASentence) {
  DaemonByHand daemon;
  const ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  daemon.Accept({Ask(KindBit(Kind::kLoss), Level::kSummary)});
  const auto step = [&](uint64_t number) {
    CStep one(session, root, number);
    one.Loss(1);
    return one.began();
  };
  EXPECT_STREQ(ikkuna_error(session), "");
  EXPECT_TRUE(step(0));
  EXPECT_TRUE(step(1));
  EXPECT_FALSE(step(0));
  EXPECT_NE(std::string(ikkuna_error(session)).find("step 0 of 'net' is not taken"), std::string::npos);
  EXPECT_FALSE(step(1));
  EXPECT_FALSE(step(static_cast<uint64_t>(-1)));
  EXPECT_NE(std::string(ikkuna_error(session)).find("step -1"), std::string::npos) << ikkuna_error(session);
  EXPECT_FALSE(step(uint64_t{1} << 63));
  EXPECT_TRUE(CStep(session, root, 1, IKKUNA_TAG_TEST).began()) << "an evaluation at a step that was";
  EXPECT_TRUE(step(5));
  std::vector<uint64_t> losses;
  for (const auto& got : daemon.Drain()) {
    if (got.record.kind == static_cast<uint8_t>(Kind::kLoss)) losses.push_back(got.record.global_step);
  }
  EXPECT_EQ(losses, (std::vector<uint64_t>{0, 1, 5}));
  size_t notes = 0;
  for (const auto& entry : daemon.registry()) {
    notes += entry.type == shm::EntryType::kNote && entry.second.find("not taken") != std::string::npos;
  }
  EXPECT_EQ(notes, 1u) << "told once, not at every step";
  EXPECT_EQ(daemon.view().ReadStatus().status.roots[0].step, 6u);
  ikkuna_close(session);
}

TEST_F(CInterface, WhatCanNeverFitGoesAsItsStatistics) {
  DaemonByHand daemon;
  const ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  daemon.Accept({Ask(KindBit(Kind::kNetworkOutput) | KindBit(Kind::kLoss), Level::kTensor)});
  const std::vector<float> large((5 << 20) / sizeof(float), 2.0f);  // of an arena of 4 MiB
  for (uint64_t step = 0; step < 3; ++step) {
    CStep one(session, root, step);
    one.Tensor(IKKUNA_NETWORK_OUTPUT, 0, 0, large.data(), {static_cast<int64_t>(large.size())});
    one.Loss(0.5);
  }
  int outputs = 0, losses = 0, ends = 0;
  for (const auto& got : daemon.Drain()) {
    const auto kind = static_cast<Kind>(got.record.kind);
    losses += kind == Kind::kLoss;
    if (kind == Kind::kBatchFinished) {
      ++ends;
      EXPECT_EQ(got.record.marker.dropped_kinds, 0u);
    }
    if (kind != Kind::kNetworkOutput) continue;
    ++outputs;
    EXPECT_EQ(got.record.type, static_cast<uint8_t>(RecordType::kSummary));
    EXPECT_EQ(got.record.stats.n, large.size());
    EXPECT_EQ(got.record.stats.shift + got.record.stats.sum1 / static_cast<double>(large.size()), 2.0);
  }
  EXPECT_EQ(outputs, 3);
  EXPECT_EQ(losses, 3);
  EXPECT_EQ(ends, 3);
  EXPECT_EQ(daemon.view().ReadStatus().dropped_total, 0u);
  bool told = false;
  for (const auto& entry : daemon.registry())
    told |= entry.second.find("do not fit into the arena") != std::string::npos;
  EXPECT_TRUE(told);
  ikkuna_close(session);
}

TEST_F(CInterface, TheEndOfAStepSaysWhichKindsWereDroppedOfIt) {
  DaemonByHand daemon;
  const ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  daemon.Accept({Ask(KindBit(Kind::kNetworkOutput) | KindBit(Kind::kLoss), Level::kTensor)});
  const std::vector<float> half((3 << 20) / sizeof(float), 1.0f);  // two do not fit into 4 MiB at a time
  const auto step = [&](uint64_t number, int outputs) {
    CStep one(session, root, number);
    for (uint16_t i = 0; i < outputs; ++i) {
      one.Tensor(IKKUNA_NETWORK_OUTPUT, 0, 0, half.data(), {static_cast<int64_t>(half.size())}, i);
    }
    one.Loss(0.5);
    one.End();
    uint64_t dropped = 0;
    for (const auto& got : daemon.Drain()) {
      if (got.record.kind == static_cast<uint8_t>(Kind::kBatchFinished)) dropped = got.record.marker.dropped_kinds;
    }
    return dropped;
  };
  EXPECT_EQ(step(0, 1), 0u);
  EXPECT_EQ(step(1, 2), KindBit(Kind::kNetworkOutput));
  EXPECT_EQ(step(2, 1), 0u) << "another step's drop is not this one's";
  ikkuna_close(session);
}

TEST_F(CInterface, AResumedRunSaysWhereItBegan) {
  DaemonByHand daemon;
  const ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  daemon.Accept({});
  CStep(session, root, 500, IKKUNA_TAG_TEST).End();
  for (uint64_t step = 500; step < 503; ++step) CStep(session, root, step).End();
  const shm::RootStatus status = daemon.view().ReadStatus().status.roots[0];
  EXPECT_EQ(status.start_step, 500u);
  EXPECT_EQ(status.step, 503u);
  ikkuna_close(session);
}

TEST_F(CInterface, OffSecondAndNullDoNothing) {
  ::setenv("IKKUNA_WAIT_MS", "0", 1);
  ::setenv("IKKUNA", "off", 1);
  ikkuna_session* off = ikkuna_open(nullptr);
  ASSERT_NE(off, nullptr);
  EXPECT_EQ(ikkuna_root(off, "net"), 0);
  EXPECT_EQ(ikkuna_step_begin(off, 1, 0, 0, 0), nullptr);
  EXPECT_EQ(ikkuna_next_due(off, 1, 0, 0), UINT64_MAX);
  EXPECT_EQ(ikkuna_due(off, 1, 0, 0), 0u);
  ikkuna_close(off);
  ::unsetenv("IKKUNA");
  ikkuna_session* first = ikkuna_open(nullptr);
  ikkuna_session* second = ikkuna_open(nullptr);
  EXPECT_NE(ikkuna_root(first, "net"), 0);
  EXPECT_EQ(ikkuna_root(second, "net"), 0);
  ikkuna_close(second);
  ikkuna_close(first);
  ikkuna_session* again = ikkuna_open(nullptr);
  EXPECT_NE(ikkuna_root(again, "net"), 0);
  EXPECT_EQ(ikkuna_version(), uint32_t{IKKUNA_VERSION});
  // Nothing costs nothing.
  const float value = 1;
  const ikkuna_array array = CArray(&value, {});
  EXPECT_EQ(ikkuna_step_wanted(nullptr, IKKUNA_WEIGHTS, 1), IKKUNA_NOTHING);
  EXPECT_EQ(ikkuna_step_array(nullptr, IKKUNA_WEIGHTS, 1, 1, 0, &array), 0);
  EXPECT_EQ(ikkuna_pass_array(nullptr, IKKUNA_ACTIVATIONS, 1, 1, 0, 0, &array), 0);
  EXPECT_EQ(ikkuna_log(nullptr, "x", 1), 0);
  ikkuna_pass_abandon(ikkuna_pass_begin(nullptr));
  EXPECT_EQ(ikkuna_step_end(nullptr, 0), 0);
  ikkuna_close(again);
  ikkuna_close(nullptr);
}

}  // namespace
}  // namespace ikkuna
