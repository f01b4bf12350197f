// The C interface: refusals, passes that are open at once, what is asked of the demand, handles that outlive a session.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "probe/core/session.h"
#include "shared/base/clock.h"
#include "shared/passes.h"
#include "shared/stats/derive.h"
#include "tests/probe/core/c_fixture.h"

namespace ikkuna {
namespace {

// Every refusal says what to do, and what a subscriber had asked for is counted as lost.
TEST_F(CInterface, WhatCannotBePublishedIsRefusedWithASentence) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  const uint32_t fc = ikkuna_module(session, root, "fc", "Linear", 0);
  const int64_t one[] = {1}, negative[] = {-1};
  const uint32_t weight = ikkuna_param(session, root, fc, "weight", IKKUNA_F32, 1, one, IKKUNA_TRAINABLE);
  const uint32_t other_module = ikkuna_module(session, root, "other", "Linear", 0);
  const uint32_t elsewhere = ikkuna_module(session, ikkuna_root(session, "second"), "fc", "Linear", 0);
  ASSERT_TRUE(fc != 0 && weight != 0 && other_module != 0 && elsewhere != 0);
  uint64_t all = 0;
  for (uint8_t kind = 1; kind < 64; ++kind) all |= IsKnownKind(kind) ? KindBit(static_cast<Kind>(kind)) : 0;
  daemon.Accept({Ask(all, Level::kSummary)});
  const auto error = [&] { return std::string(ikkuna_error(session)); };
  EXPECT_EQ(error(), "");
  EXPECT_EQ(ikkuna_step_begin(session, root, UINT16_MAX, 0, 0), nullptr);
  EXPECT_NE(error().find("ikkuna_tag()"), std::string::npos) << error();
  EXPECT_EQ(ikkuna_step_begin(session, 9, IKKUNA_TAG_DEFAULT, 0, 0), nullptr);
  EXPECT_EQ(ikkuna_module(session, 9, "x", "Linear", 0), 0u);
  EXPECT_NE(error().find("ikkuna_root()"), std::string::npos) << error();
  EXPECT_EQ(ikkuna_module(session, root, "x", "Linear", 1u << 20), 0u);
  EXPECT_NE(error().find("no such flags"), std::string::npos) << error();
  EXPECT_EQ(ikkuna_param(session, root, 99, "w", IKKUNA_F32, 1, one, 0), 0u);
  EXPECT_NE(error().find("ikkuna_module()"), std::string::npos) << error();
  EXPECT_EQ(ikkuna_param(session, root, fc, "w", IKKUNA_F32, 1, negative, 0), 0u);
  EXPECT_NE(error().find("parameter 'w': dimension 0 has the size -1"), std::string::npos) << error();
  EXPECT_EQ(ikkuna_param(session, root, fc, "w", 99, 0, nullptr, 0), 0u);
  EXPECT_NE(error().find("data type"), std::string::npos) << error();

  CStep step(session, root, 0);
  EXPECT_EQ(ikkuna_step_begin(session, root, IKKUNA_TAG_DEFAULT, 1, 0), nullptr);
  EXPECT_NE(error().find("step 0 of 'net' is open"), std::string::npos) << error();
  const CStep test(session, root, 0, IKKUNA_TAG_TEST);
  EXPECT_EQ(ikkuna_step_begin(session, root, IKKUNA_TAG_TEST, 1, 0), nullptr);
  EXPECT_NE(error().find("is open: end it"), std::string::npos) << error();

  const float value = 1;
  ikkuna_array array = CArray(&value, {});
  const auto of_step = [&](int kind, uint32_t module, uint32_t param, uint16_t flags = 0) {
    return ikkuna_step_array(step.step(), kind, module, param, flags, &array);
  };
  const auto of_pass = [&](int kind, uint32_t module) {
    return ikkuna_pass_array(step.pass(), kind, module, 0, 0, 0, &array);
  };
  const auto expect = [&](int result, const char* says) {
    EXPECT_EQ(result, -1) << says;
    EXPECT_NE(error().find(says), std::string::npos) << error();
  };
  daemon.Drain();
  const uint64_t unnamed = daemon.view().ReadStatus().dropped_total;
  expect(of_step(IKKUNA_WEIGHTS, 0, 0), "weights need the ids");
  expect(of_step(IKKUNA_WEIGHTS, fc, 0), "weights need the ids");
  expect(of_step(IKKUNA_WEIGHTS, fc + 1, weight), "weights need the ids");
  expect(of_step(IKKUNA_WEIGHTS, fc, weight + 1), "weights need the ids");
  expect(of_step(IKKUNA_WEIGHTS, elsewhere, weight), "gave for this root");
  expect(of_step(IKKUNA_WEIGHTS, other_module, weight), "weights need the ids");
  expect(of_pass(IKKUNA_ACTIVATIONS, elsewhere), "activations need the ids");
  EXPECT_EQ(daemon.view().ReadStatus().dropped_total, unnamed + 7) << "what was wanted and has no name is counted";
  expect(of_step(IKKUNA_ACTIVATIONS, fc, 0), "activations belong to a pass");
  expect(of_pass(IKKUNA_WEIGHTS, fc), "weights belong to the step");
  expect(of_pass(IKKUNA_NETWORK_OUTPUT, fc), "network_output are the model's");
  expect(of_pass(IKKUNA_LOSS, 0), "none that carries arrays");
  expect(of_step(1 /* batch_started */, 0, 0), "none that carries arrays");
  expect(of_step(250, 0, 0), "none that carries arrays");
  expect(of_step(-5, 0, 0), "none that carries arrays");
  expect(of_step(IKKUNA_WEIGHTS, fc, weight, 1u << 9), "no such flags");
  expect(ikkuna_pass_scalar(step.pass(), IKKUNA_WEIGHTS, 0, 1), "no scalar of a pass");
  const uint64_t before = daemon.view().ReadStatus().dropped_total;
  array.size = 8;
  expect(of_step(IKKUNA_WEIGHTS, fc, weight), "sizeof(ikkuna_array)");
  expect(ikkuna_step_array(step.step(), IKKUNA_WEIGHTS, fc, weight, 0, nullptr), "no array is given");
  array = CArray(nullptr, {});
  expect(of_step(IKKUNA_WEIGHTS, fc, weight), "no data");
  array = CArray(&value, {}, 77);
  expect(of_pass(IKKUNA_ACTIVATIONS, fc), "activations at step 0: its data type");
  const ikkuna_array good = CArray(&value, {});
  array = CArray(&value, {}, IKKUNA_I32);
  expect(ikkuna_step_difference(step.step(), IKKUNA_WEIGHT_UPDATES, fc, weight, 0, &good, &array),
         "differ in their data type");
  EXPECT_EQ(daemon.view().ReadStatus().dropped_total, before + 5) << "what was wanted and cannot be read is counted";
  EXPECT_EQ(daemon.Drain().size(), 0u);
  // Right ones arrive, and the step says what it lacks.
  array = good;
  EXPECT_EQ(of_step(IKKUNA_WEIGHTS, fc, weight), 1);
  EXPECT_EQ(of_pass(IKKUNA_NETWORK_OUTPUT, 0), 1);
  step.End();
  const auto got = daemon.Drain();
  ASSERT_EQ(got.size(), 3u);
  EXPECT_EQ(got.back().record.marker.dropped_kinds, KindBit(Kind::kWeights) | KindBit(Kind::kActivations) |
                                                        KindBit(Kind::kWeightUpdates) | KindBit(Kind::kNetworkOutput) |
                                                        KindBit(Kind::kLoss));
  // Another thread has errors of its own.
  std::thread([&] { EXPECT_STREQ(ikkuna_error(session), ""); }).join();
  ikkuna_close(session);
}

// Passes that a marker names, from its first on.
std::vector<uint32_t> Named(const shm::MarkerInfo& marker) {
  std::vector<uint32_t> named;
  for (uint32_t i = 0; i < shm::kPassesInMarker; ++i) {
    if ((marker.named[i / 64] >> (i % 64) & 1) != 0) named.push_back(marker.first_pass + i);
  }
  return named;
}

TEST_F(CInterface, PassesOfAStepAreOpenAtOnceOnAnyThreadAndTheStepNamesThoseThatEnded) {
  DaemonByHand daemon;
  const ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  const uint32_t fc = ikkuna_module(session, root, "fc", "Linear", 0);
  daemon.Accept({Ask(KindBit(Kind::kLoss) | KindBit(Kind::kActivations), Level::kSummary)});
  ikkuna_step* step = ikkuna_step_begin(session, root, IKKUNA_TAG_DEFAULT, 0, 0);
  constexpr int kThreads = 4;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      ikkuna_pass* outer = ikkuna_pass_begin(step);
      ikkuna_pass* inner = ikkuna_pass_begin(step);
      const float value = static_cast<float>(t);
      const ikkuna_array array = CArray(&value, {});
      EXPECT_EQ(ikkuna_pass_array(inner, IKKUNA_ACTIVATIONS, fc, 0, 0, 0, &array), 1);
      EXPECT_EQ(ikkuna_pass_array(outer, IKKUNA_ACTIVATIONS, fc, 0, 7, 0, &array), 1);
      EXPECT_EQ(ikkuna_pass_scalar(outer, IKKUNA_LOSS, 0, t), 1);
      ikkuna_pass_spent(outer, 1000);
      EXPECT_EQ(ikkuna_pass_end(outer), 1);
      if (t % 2 == 0) {
        EXPECT_EQ(ikkuna_pass_end(inner), 1);
      } else {
        ikkuna_pass_abandon(inner);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ikkuna_pass* left = ikkuna_pass_begin(step);
  ikkuna_pass_scalar(left, IKKUNA_LOSS, 0, 9);
  EXPECT_EQ(ikkuna_step_end(step, IKKUNA_FLAG_STEP_INFERRED), 1);
  EXPECT_EQ(ikkuna_pass_end(left), -1);
  EXPECT_NE(std::string(ikkuna_error(session)).find("end passes first"), std::string::npos);

  std::vector<uint32_t> ended, begun;
  shm::Record last{};
  for (const auto& got : daemon.Drain()) {
    if (got.record.kind == static_cast<uint8_t>(Kind::kPassStarted)) begun.push_back(got.record.pass);
    // Outer ones and every second inner one ended.
    const bool inner_of_odd = got.record.kind == static_cast<uint8_t>(Kind::kActivations) && got.record.call == 0 &&
                              std::lround(got.record.stats.max) % 2 == 1;
    if (got.record.kind == static_cast<uint8_t>(Kind::kActivations) && !inner_of_odd) ended.push_back(got.record.pass);
    last = got.record;
  }
  std::sort(ended.begin(), ended.end());
  EXPECT_EQ(begun.size(), 2u * kThreads + 1);
  EXPECT_EQ(last.kind, static_cast<uint8_t>(Kind::kBatchFinished));
  EXPECT_EQ(last.flags, kFlagStepInferred);
  EXPECT_EQ(Named(last.marker), ended);
  EXPECT_EQ(last.marker.passes, ended.size());
  EXPECT_EQ(last.marker.lowest_open, 2u * kThreads + 2) << "nothing of it is named any more";
  ikkuna_close(session);
}

TEST_F(CInterface, WhatIsDueIsKnownBeforeAStepBeginsAndCountsAsNoOccasion) {
  DaemonByHand daemon;
  const ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  shm::DemandItem weights = Ask(KindBit(Kind::kWeights), Level::kSummary), test = weights;
  weights.period = 10;
  test.tag = kTagTest;
  test.period = 7;
  daemon.Accept({weights, test});
  // Who asks before the first step waits for the daemon as that would (IKKUNA_WAIT_MS).
  EXPECT_EQ(ikkuna_next_due(session, root, IKKUNA_TAG_DEFAULT, 1), 10u);
  CStep(session, root, 0).End();
  EXPECT_EQ(ikkuna_next_due(session, root, IKKUNA_TAG_DEFAULT, 10), 10u);
  EXPECT_EQ(ikkuna_due(session, root, IKKUNA_TAG_DEFAULT, 9), 0u);
  EXPECT_NE(ikkuna_due(session, root, IKKUNA_TAG_DEFAULT, 20) & KindBit(Kind::kWeights), 0u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(ikkuna_next_due(session, root, IKKUNA_TAG_TEST, 8), 14u);
  // It would be thinned if the questions had been evaluations.
  EXPECT_EQ(CStep(session, root, 14, IKKUNA_TAG_TEST).Wanted(IKKUNA_WEIGHTS, 1), IKKUNA_SUMMARY);
  const uint64_t generation = ikkuna_demand_generation(session);
  EXPECT_EQ(ikkuna_demand_generation(session), generation);
  daemon.Demand({});
  EXPECT_NE(ikkuna_demand_generation(session), generation);
  EXPECT_EQ(ikkuna_next_due(session, root, IKKUNA_TAG_DEFAULT, 1), UINT64_MAX);
  ikkuna_close(session);
}

TEST_F(CInterface, NamesThatAreGivenAgainAreRenewed) {
  DaemonByHand daemon;
  const ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  EXPECT_EQ(ikkuna_root(session, "net"), root);
  const uint16_t other = ikkuna_root(session, "other");
  const uint32_t fc = ikkuna_module(session, root, "fc", "Linear", 0);
  EXPECT_NE(ikkuna_module(session, other, "fc", "Linear", 0), fc);
  EXPECT_EQ(ikkuna_module(session, root, "fc", "LoRALinear", IKKUNA_FUNCTIONAL), fc);
  const int64_t sizes[] = {2, 3}, grown[] = {4, 3};
  const uint32_t bias = ikkuna_param(session, root, fc, "b", IKKUNA_F32, 2, sizes, IKKUNA_BIAS | IKKUNA_TRAINABLE);
  EXPECT_EQ(ikkuna_param(session, root, fc, "b", IKKUNA_F16, 2, grown, IKKUNA_BIAS), bias);
  const uint32_t buffer = ikkuna_param(session, root, fc, "running_mean", IKKUNA_F32, 1, sizes, IKKUNA_BUFFER);
  EXPECT_NE(buffer, bias);
  const uint16_t validation = ikkuna_tag(session, "validation");
  EXPECT_EQ(ikkuna_tag(session, "validation"), validation);
  EXPECT_GT(validation, IKKUNA_TAG_NO_GRAD);
  EXPECT_EQ(ikkuna_tag(session, "test"), IKKUNA_TAG_TEST);
  for (int i = 0; i < 300; ++i) static_cast<void>(ikkuna_tag(session, ("fold" + std::to_string(i)).c_str()));
  EXPECT_EQ(ikkuna_tag(session, "one more"), UINT16_MAX);
  EXPECT_EQ(ikkuna_step_begin(session, root, ikkuna_tag(session, "one more"), 0, 0), nullptr) << "no step of training";
  ikkuna_fact(session, "lr", "0.1");
  ikkuna_note(session, "the head is compiled: no activations of it");
  daemon.Accept({Ask(KindBit(Kind::kLearningRate), Level::kSummary)});
  CStep step(session, root, 0);
  EXPECT_EQ(ikkuna_rate(step.step(), "head", 0.25), 1);
  step.End();
  std::string type;
  uint32_t module_flags = 0, bias_flags = 0, buffer_flags = 0;
  int64_t rows = 0;
  bool noted = false;
  for (const auto& entry : daemon.registry()) {
    if (entry.type == shm::EntryType::kModule && entry.id == fc) type = entry.second, module_flags = entry.flags;
    if (entry.type == shm::EntryType::kParam && entry.id == bias) bias_flags = entry.flags, rows = entry.sizes[0];
    if (entry.type == shm::EntryType::kParam && entry.id == buffer) buffer_flags = entry.flags;
    noted |= entry.type == shm::EntryType::kNote && entry.second.find("the head is compiled") != std::string::npos;
  }
  EXPECT_EQ(type, "LoRALinear");
  EXPECT_EQ(module_flags, uint32_t{shm::kEntryFunctional});
  EXPECT_EQ(bias_flags, uint32_t{shm::kEntryBias});
  EXPECT_EQ(rows, 4);
  EXPECT_EQ(buffer_flags, uint32_t{shm::kEntryBuffer});
  EXPECT_TRUE(noted);
  double rate = 0;
  for (const auto& got : daemon.Drain()) {
    if (got.record.kind == static_cast<uint8_t>(Kind::kLearningRate)) rate = got.record.scalar;
  }
  EXPECT_EQ(rate, 0.25);
  ikkuna_close(session);
}

TEST_F(CInterface, AnUpdateIsTheDifferenceOfWhatItIsGiven) {
  DaemonByHand daemon;
  const ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  const uint32_t fc = ikkuna_module(session, root, "fc", "Linear", 0);
  daemon.Accept({Ask(KindBit(Kind::kWeightUpdates), Level::kSummary), Ask(KindBit(Kind::kBiasUpdates), Level::kTensor)});
  // Row-major now, column-major before.
  const float now[] = {1, 2, 3, 4, 5, 6}, before[] = {0, 3, 1, 4, 2, 5};
  const std::vector<int64_t> sizes{2, 3}, strides{1, 2};
  const uint32_t weight = ikkuna_param(session, root, fc, "weight", IKKUNA_F32, 2, sizes.data(), IKKUNA_TRAINABLE);
  const ikkuna_array a = CArray(now, sizes);
  ikkuna_array b = CArray(before, sizes);
  b.strides = strides.data();
  CStep step(session, root, 0);
  EXPECT_EQ(ikkuna_step_difference(step.step(), IKKUNA_WEIGHT_UPDATES, fc, weight, IKKUNA_FLAG_WEIGHTS_OUTSIDE, &a, &b), 1);
  EXPECT_EQ(ikkuna_step_difference(step.step(), IKKUNA_BIAS_UPDATES, fc, weight, 0, &a, &b), 1);
  step.End();
  bool summary = false, tensor = false;
  for (const auto& got : daemon.Drain()) {
    if (got.record.kind == static_cast<uint8_t>(Kind::kWeightUpdates)) {
      summary = true;
      EXPECT_EQ(got.record.flags, kFlagWeightsChangedOutside);
      EXPECT_EQ(stats::Mean(got.record.stats), 1);
      EXPECT_EQ(stats::Variance(got.record.stats), 0);
    }
    if (got.record.kind != static_cast<uint8_t>(Kind::kBiasUpdates)) continue;
    tensor = true;
    const std::vector<float> ones(6, 1.0f);
    ASSERT_EQ(got.payload.size(), sizeof now);
    EXPECT_EQ(std::memcmp(got.payload.data(), ones.data(), sizeof now), 0);
  }
  EXPECT_TRUE(summary && tensor);
  ikkuna_close(session);
}

TEST_F(CInterface, HandlesThatOutliveTheirSessionDoNothing) {
  DaemonByHand daemon;
  const ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  daemon.Accept({Ask(KindBit(Kind::kLoss) | KindBit(Kind::kScalar), Level::kSummary)});
  ikkuna_step* step = ikkuna_step_begin(session, root, IKKUNA_TAG_DEFAULT, 0, 0);
  ikkuna_pass* pass = ikkuna_pass_begin(step);
  ikkuna_pass* other = ikkuna_pass_begin(step);
  ikkuna_pass_scalar(pass, IKKUNA_LOSS, 0, 1);
  ikkuna_close(session);
  EXPECT_EQ(ikkuna_pass_scalar(pass, IKKUNA_LOSS, 1, 1), 0);
  EXPECT_EQ(ikkuna_log(step, "x", 1), 0);
  EXPECT_EQ(ikkuna_step_wanted(step, IKKUNA_LOSS, 0), IKKUNA_NOTHING);
  EXPECT_EQ(ikkuna_pass_begin(step), nullptr);
  EXPECT_EQ(ikkuna_pass_end(pass), 0);
  EXPECT_EQ(ikkuna_step_end(step, 0), 0);
  ikkuna_pass_abandon(other);
  const auto got = daemon.Drain();
  EXPECT_EQ(got.back().record.kind, static_cast<uint8_t>(Kind::kBatchFinished)) << "the session has ended it";
  EXPECT_EQ(got.back().record.marker.dropped_kinds, KindBit(Kind::kLoss)) << "and what it had of it is not all";
}

// The front end may ask for a name at every step.
TEST_F(CInterface, NamesThatAreGivenAgainUnchangedTakeNoRoom) {
  DaemonByHand daemon;
  const ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  const int64_t sizes[] = {2, 3};
  const auto name = [&](uint32_t flags) {
    const uint32_t fc = ikkuna_module(session, root, "fc", "Linear", 0);
    return ikkuna_param(session, root, fc, "w", IKKUNA_F32, 2, sizes, flags);
  };
  const uint32_t weight = name(IKKUNA_TRAINABLE);
  daemon.Accept({});
  const uint64_t before = daemon.view().ReadStatus().status.registry_used_bytes;
  for (int i = 0; i < 100'000; ++i) ASSERT_EQ(name(IKKUNA_TRAINABLE), weight);
  EXPECT_EQ(daemon.view().ReadStatus().status.registry_used_bytes, before);
  EXPECT_EQ(name(0), weight);
  EXPECT_GT(daemon.view().ReadStatus().status.registry_used_bytes, before);
  ikkuna_close(session);
}

// What waits for its name takes memory in the daemon.
TEST_F(CInterface, AStepOfManyPassesNamesThemAsTheyEnd) {
  DaemonByHand daemon;
  const ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  shm::DemandItem of_tests = Ask(KindBit(Kind::kLoss), Level::kSummary);
  of_tests.tag = kTagTest;
  daemon.Accept({of_tests});
  ikkuna_step* step = ikkuna_step_begin(session, root, IKKUNA_TAG_TEST, 0, 0);
  constexpr uint32_t kPasses = 300;
  for (uint32_t i = 0; i < kPasses; ++i) {
    ikkuna_pass* pass = ikkuna_pass_begin(step);
    ikkuna_pass_scalar(pass, IKKUNA_LOSS, 0, i);
    EXPECT_EQ(ikkuna_pass_end(pass), 1);
  }
  ikkuna_samples(step, 5);
  EXPECT_EQ(ikkuna_step_end(step, 0), 1);
  std::vector<uint32_t> named;
  uint32_t longest = 0, waiting = 0, total = 0;
  for (const auto& got : daemon.Drain()) {
    waiting += got.record.kind == static_cast<uint8_t>(Kind::kPassStarted);
    longest = std::max(longest, waiting);
    const bool finished = got.record.kind == static_cast<uint8_t>(Kind::kBatchFinished);
    if (!finished && got.record.kind != static_cast<uint8_t>(Kind::kPassesNamed)) continue;
    const std::vector<uint32_t> more = Named(got.record.marker);
    named.insert(named.end(), more.begin(), more.end());
    waiting -= static_cast<uint32_t>(more.size());
    total = got.record.marker.passes;
    if (finished) {
      EXPECT_EQ(got.record.marker.samples, 0u) << "an evaluation is no training";
    }
  }
  EXPECT_EQ(named.size(), kPasses);
  EXPECT_EQ(total, kPasses);
  EXPECT_TRUE(std::is_sorted(named.begin(), named.end()));
  EXPECT_LE(longest, probe::StepPasses::kNameAtOnce + 1);
  ikkuna_close(session);
}

// Whichever threads end a root's steps, the time of a step is that since the one before.
TEST_F(CInterface, StepsThatEndOnOtherThreadsEachTimeHaveTheTimeThatPasses) {
  DaemonByHand daemon;
  const ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  daemon.Accept({});
  const auto step_ns = [&] { return daemon.view().ReadStatus().status.step_ns; };
  const uint64_t begin = MonotonicNs();
  for (uint64_t i = 0; i < 20; ++i) {
    std::thread([&] {
      const CStep one(session, root, i);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }).join();
  }
  EXPECT_GE(step_ns(), 20u * 2'000'000 / 2) << "no step was taken for one that took no time";
  EXPECT_LE(step_ns(), MonotonicNs() - begin);
  ikkuna_close(session);
}

TEST_F(CInterface, AnEvaluationsEpochIsNotTrainings) {
  DaemonByHand daemon;
  const ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  daemon.Accept({Ask(KindBit(Kind::kLoss), Level::kSummary)});
  CStep(session, root, 0, IKKUNA_TAG_DEFAULT, 3).Loss(1);
  CStep(session, root, 0, IKKUNA_TAG_TEST, 0).End();
  EXPECT_EQ(daemon.view().ReadStatus().status.roots[root - 1].epoch, 3u);
  CStep(session, root, 1, IKKUNA_TAG_DEFAULT, 3).Loss(1);
  for (const auto& got : daemon.Drain()) EXPECT_EQ(got.record.train_step, got.record.global_step);
  ikkuna_close(session);
}

TEST_F(CInterface, ShorterOptionsOfAnEarlierVersionAreTaken) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  options.start_step = 77;
  options.size = offsetof(ikkuna_options, rank);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  daemon.Accept({});
  CStep(session, root, 3).End();
  EXPECT_EQ(daemon.view().ReadStatus().status.roots[root - 1].step, 4u);
  ikkuna_close(session);
}

// What a step has of two of three micro-batches is not its whole loss.
TEST_F(CInterface, AStepLacksThePassThatIsOpenAtItsEnd) {
  DaemonByHand daemon;
  const ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  daemon.Accept({Ask(KindBit(Kind::kLoss) | KindBit(Kind::kWeights), Level::kSummary)});
  for (uint64_t number = 0; number < 2; ++number) {
    ikkuna_step* step = ikkuna_step_begin(session, root, IKKUNA_TAG_DEFAULT, number, 0);
    ikkuna_pass* pass = ikkuna_pass_begin(step);
    ikkuna_pass_scalar(pass, IKKUNA_LOSS, 0, 1);
    if (number == 0) ikkuna_pass_end(pass);
    ikkuna_step_end(step, 0);
    if (number == 1) ikkuna_pass_end(pass);
  }
  std::vector<uint64_t> dropped;
  for (const auto& got : daemon.Drain()) {
    if (got.record.kind == static_cast<uint8_t>(Kind::kBatchFinished))
      dropped.push_back(got.record.marker.dropped_kinds);
  }
  EXPECT_EQ(dropped, (std::vector<uint64_t>{0, KindBit(Kind::kLoss)}));
  ikkuna_close(session);
}

TEST_F(CInterface, WhatIsWantedAndRefusedIsCounted) {
  DaemonByHand daemon;
  const ikkuna_options options = OptionsFor(daemon);
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  const uint32_t fc = ikkuna_module(session, root, "fc", "Linear", 0);
  const std::vector<int64_t> sizes{2};
  const uint32_t weight = ikkuna_param(session, root, fc, "weight", IKKUNA_F32, 1, sizes.data(), 0);
  EXPECT_EQ(ikkuna_param(session, root, fc, "odd", 257, 1, sizes.data(), 0), 0u) << "256 more than a float";
  daemon.Accept({Ask(KindBit(Kind::kActivations) | KindBit(Kind::kWeights), Level::kSummary)});
  const float values[2] = {1, 2};
  const ikkuna_array array = CArray(values, sizes);
  CStep step(session, root, 0);
  EXPECT_EQ(ikkuna_step_array(step.step(), IKKUNA_ACTIVATIONS, fc, 0, 0, &array), -1);
  EXPECT_EQ(ikkuna_pass_array(step.pass(), IKKUNA_WEIGHTS, fc, weight, 0, 0, &array), -1);
  EXPECT_EQ(ikkuna_step_array(step.step(), IKKUNA_WEIGHTS, fc, weight, 1u << 9, &array), -1);
  EXPECT_EQ(ikkuna_pass_scalar(step.pass(), IKKUNA_ACTIVATIONS, 0, 1), -1);
  EXPECT_EQ(ikkuna_step_array(step.step(), IKKUNA_BIASES, fc, 0, 1u << 9, &array), -1) << "and is not wanted";
  step.End();
  EXPECT_EQ(daemon.view().ReadStatus().status.dropped[static_cast<size_t>(DropReason::kFailed)], 4u);
  EXPECT_EQ(daemon.Drain().back().record.marker.dropped_kinds, KindBit(Kind::kActivations) | KindBit(Kind::kWeights));
  ikkuna_close(session);
}

// -1 for "not known", as a language without unsigned numbers would give it.
TEST_F(CInterface, AFirstStepBeyondAllNumbersIsNotTaken) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  options.start_step = UINT64_MAX;
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root_tracked(session, "net", 0);
  EXPECT_EQ(ikkuna_next_step(session, root), 0u);
  ikkuna_close(session);
}

// What it would publish there is of the attempt that it goes on with.
TEST_F(CInterface, AStepBelowTheFirstIsRefused) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  options.start_step = 50;
  ikkuna_session* session = ikkuna_open(&options);
  const uint16_t root = ikkuna_root(session, "net");
  daemon.Accept({});
  EXPECT_EQ(ikkuna_step_begin(session, root, IKKUNA_TAG_DEFAULT, 48, 0), nullptr);
  EXPECT_NE(std::string(ikkuna_error(session)).find("begins at step 50"), std::string::npos) << ikkuna_error(session);
  CStep(session, root, 49, IKKUNA_TAG_TEST).End();
  CStep(session, root, 50).End();
  EXPECT_EQ(daemon.view().ReadStatus().status.roots[root - 1].step, 51u);
  ikkuna_close(session);
}

TEST_F(CInterface, ARankAloneIsTaken) {
  ::unsetenv("WORLD_SIZE");
  ::setenv("RANK", "5", 1);
  for (const uint32_t rank : {3u, 0u}) {
    DaemonByHand daemon;
    ikkuna_options options = OptionsFor(daemon);
    options.rank = rank;
    ikkuna_session* session = ikkuna_open(&options);
    daemon.Accept({});
    EXPECT_EQ(daemon.hello().rank, rank != 0 ? 3u : 5u) << "0 alone is the environment's";
    ikkuna_close(session);
  }
  ::unsetenv("RANK");
}

TEST_F(CInterface, WhereThereIsNoRoomForANameTheErrorSaysSo) {
  DaemonByHand daemon;
  ikkuna_options options = OptionsFor(daemon);
  options.quiet = 1;
  ikkuna_session* session = ikkuna_open(&options);
  EXPECT_EQ(ikkuna_module(session, 9, "x", "Linear", 0), 0u);
  size_t roots = 0;
  while (roots <= kMaxRoots && ikkuna_root(session, ("net" + std::to_string(roots)).c_str()) != 0) ++roots;
  EXPECT_EQ(roots, kMaxRoots);
  EXPECT_NE(std::string(ikkuna_error(session)).find("a limit of the format"), std::string::npos)
      << ikkuna_error(session);
  ikkuna_close(session);
}

}  // namespace
}  // namespace ikkuna
