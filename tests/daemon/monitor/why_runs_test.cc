// Why something is missing, of runs that go on, of runs that are over, and of runs that an earlier daemon left in a
// file.
#include <algorithm>
#include <cstdlib>

#include "tests/daemon/monitor/house.h"
#include "tests/probe/core/c_step.h"

namespace ikkuna {
namespace {

class WhyRunsTest : public testing::Test {
 protected:
  void Open(const std::vector<std::string>& subscribers, uint64_t memory_bytes = 64 << 20) {
    house_.reset();
    house_ = std::make_unique<House>(temp_, subscribers, memory_bytes);
  }
  // "reason module kind", without doubles.
  std::vector<std::string> Why(const std::string& run, const std::string& module = {}, const std::string& kind = {}) {
    std::vector<std::string> lines;
    const auto answer = house_->runs().Why({{run}, module, kind});
    EXPECT_TRUE(answer.ok()) << (answer ? "" : answer.failure().text);
    if (!answer) return lines;
    for (const MissingValue& one : answer->missing) {
      EXPECT_EQ(one.run.run_id, run);
      lines.push_back(std::string(WhyReasonName(one.line.reason)) + " " + one.line.module + " " + one.line.kind);
      text_ += one.line.text + "\n";
    }
    return lines;
  }
  static void AddModule(TestProducer& producer, uint32_t id, const std::string& name, bool trainable) {
    shm::RegistryEntry module;
    module.type = shm::EntryType::kModule;
    module.root = 1;
    module.id = id;
    module.name = name;
    module.second = "Linear";
    EXPECT_TRUE(producer.pub().Append(module));
    shm::RegistryEntry param;
    param.type = shm::EntryType::kParam;
    param.root = 1;
    param.id = id;
    param.parent = id;
    param.value = 4;
    param.dtype = DType::kF32;
    param.sizes = {2, 2};
    param.name = "weight";
    if (trainable) param.flags = shm::kEntryTrainable;
    EXPECT_TRUE(producer.pub().Append(param));
  }
  static void Summary(TestProducer& producer, Kind kind, uint64_t step, uint32_t module) {
    const float data[4] = {1, 2, 3, 4};
    producer.Publish(step, kind, [&](shm::Record& record) {
      record.type = static_cast<uint8_t>(RecordType::kSummary);
      record.module = module;
      record.param = kind == Kind::kActivations ? 0 : module;
      record.dtype = static_cast<uint8_t>(DType::kF32);
      record.layout = static_cast<uint8_t>(Layout::kRowMajor);
      record.ndim = 2;
      record.sizes[0] = record.sizes[1] = 2;
      record.stats = ComputeStats(data, DType::kF32, 4);
    });
  }

  TempDirectory temp_;
  std::unique_ptr<House> house_;
  std::string text_;
};

// One run with every reason that a model gives; asked while it goes on, when it is over, and after a restart of the
// daemon that subscribes to something else.
TEST_F(WhyRunsTest, WhatTheModelGivesAndWhatNobodyAsked) {
  Open({"loss", "mean(weights)", "mean(weight_gradients)", "mean(activations)", "scalar"});
  TestProducer trainer(temp_.sub("sockets"));
  trainer.hello().run_id = "job";
  trainer.Register();                        // fc: all it can have
  AddModule(trainer, 2, "frozen", false);    // no gradient
  AddModule(trainer, 3, "unreached", true);  // no gradient either
  AddModule(trainer, 4, "never", true);      // never called
  ASSERT_TRUE(trainer.Connect()) << trainer.reject();
  for (uint64_t step = 0; step < 5; ++step) {
    trainer.Marker(Kind::kBatchStarted, step);
    for (const uint32_t module : {1u, 2u, 3u, 4u}) Summary(trainer, Kind::kWeights, step, module);
    for (const uint32_t module : {1u, 2u, 3u}) Summary(trainer, Kind::kActivations, step, module);
    for (const uint32_t module : {1u, 4u}) Summary(trainer, Kind::kWeightGradients, step, module);
    trainer.Marker(Kind::kBatchFinished, step);
  }
  house_->Settled(trainer);
  const auto check = [&](const char* when) {
    text_.clear();
    EXPECT_THAT(Why("job", "", "weights"), IsEmpty()) << when << text_;
    EXPECT_THAT(Why("job", "", "weight_gradients"),
                UnorderedElementsAre("no_gradient frozen weight_gradients", "no_gradient unreached weight_gradients"))
        << when;
    EXPECT_THAT(text_, HasSubstr("'frozen' is frozen")) << when;
    EXPECT_THAT(Why("job", "", "activations"), ElementsAre("never_called never activations")) << when;
    EXPECT_THAT(Why("job", "", "loss"), ElementsAre("never_called  loss")) << when;
    EXPECT_THAT(Why("job", "", "biases"), ElementsAre("not_asked  biases")) << when;
    EXPECT_THAT(Why("job", "frozen", "weights|weight_gradients"), ElementsAre("no_gradient frozen weight_gradients"))
        << when;
    EXPECT_THAT(Why("job"), testing::Contains("never_called  scalar")) << when;
  };
  check("live");
  // What was mistyped is not "nothing is missing".
  const auto kind = house_->runs().Why({{"job"}, "", "weight_gradiants"});
  ASSERT_FALSE(kind.ok());
  EXPECT_EQ(kind.failure().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(kind.failure().text, HasSubstr("did you mean 'weight_gradients'?"));
  const auto module = house_->runs().Why({{"job"}, "frozzen", ""});
  ASSERT_FALSE(module.ok());
  EXPECT_EQ(module.failure().subject, "frozzen");
  EXPECT_THAT(module.failure().text, HasSubstr("has no module 'frozzen'; did you mean 'frozen'?"));
  EXPECT_TRUE(house_->runs().Why({{"job"}, "nothing|fro*", "weights"}).ok());
  trainer.Finish();
  house_->Settled(trainer, RunState::kFinished);
  check("over");
  Open({"mean(biases)", "loss"});  // what is asked now was not asked then, and the other way about
  check("of an earlier daemon");
}

TEST_F(WhyRunsTest, DropsAndWhatTheyWithheld) {
  Open({"loss", "mean(activations)", "message_mean(activations_mean)"});
  auto trainer = Trainer(temp_, "job");
  for (uint64_t step = 0; step < 4; ++step) {
    trainer->Marker(Kind::kBatchStarted, step);
    Summary(*trainer, Kind::kActivations, step, 1);
    trainer->Scalar(Kind::kLoss, step, 1);
    if (step == 2) trainer->pub().CountDrop(DropReason::kOversize);
    trainer->Publish(step, Kind::kBatchFinished, [&](shm::Record& record) {
      record.type = static_cast<uint8_t>(RecordType::kMarker);
      record.marker.dropped_kinds = step == 2 ? KindBit(Kind::kActivations) : 0;
    });
  }
  house_->Settled(*trainer);
  const auto check = [&](const char* when, bool subscribers) {
    text_.clear();
    const std::vector<std::string> lines = Why("job", "", "activations");
    EXPECT_THAT(lines, testing::Contains("dropped  ")) << when;
    EXPECT_THAT(lines, testing::Contains("withheld  ")) << when;
    EXPECT_THAT(text_, HasSubstr("1 message was dropped (oversize)")) << when;
    EXPECT_EQ(text_.find("of 'mean(activations") != std::string::npos, subscribers) << when << "\n" << text_;
  };
  check("live", true);
  EXPECT_EQ(house_->Values("job", "loss").size(), 4u) << "a drop of another kind costs the loss nothing";
  EXPECT_EQ(house_->Values("job", "activations_mean").size(), 3u);
  trainer->Finish();
  house_->Settled(*trainer, RunState::kFinished);
  check("over", true);
  Open({"mean(activations)"});
  check("of an earlier daemon", false);
}

TEST_F(WhyRunsTest, ThinnedNotYetUncapturedAndUnseen) {
  Open({"mean(weights, subsample=100)", "loss"});
  TestProducer own(temp_.sub("sockets"));
  TestProducer* const trainer = &own;
  trainer->hello().run_id = "job";
  trainer->Register();
  shm::RegistryEntry note;
  note.type = shm::EntryType::kNote;
  note.id = 1;
  note.name = "buffers of fc are not captured: a sparse tensor";
  EXPECT_TRUE(trainer->pub().Append(note));
  ASSERT_TRUE(trainer->Connect()) << trainer->reject();
  EXPECT_THAT(Why("job", "", "buffers"), testing::Contains("uncaptured fc buffers"));
  EXPECT_THAT(Why("job", "", "weights"), ElementsAre("not_yet  weights"));
  shm::StoreRelaxed(trainer->pub().status().budget_ppm, 10'000u);
  shm::StoreRelaxed(trainer->pub().status().shift_summary, 3u);
  Train(*trainer, 0, 1);
  house_->Settled(*trainer);
  ASSERT_TRUE(Eventually([&] { return Why("job", "", "weights") == std::vector<std::string>{"thinned  "}; }));
  trainer->Finish();
  house_->Settled(*trainer, RunState::kFinished);
  Open({"loss"});
  text_.clear();
  EXPECT_THAT(Why("job", "", "weights"), ElementsAre("thinned  ")) << text_;
  EXPECT_THAT(text_, HasSubstr("came at one in 8"));
  EXPECT_THAT(Why("job", "", "buffers"), testing::Contains("uncaptured fc buffers"));
}

// The whole way of the probe: a tensor above the arena goes as its statistics; who needs the tensor is told, who does
// not has every number.
TEST_F(WhyRunsTest, ATensorAboveTheArenaIsServedByItsStatistics) {
  Open({"norm(weights)", "norm(weights, order=3)", "loss"});
  ::setenv("IKKUNA_WAIT_MS", "120000", 1);
  const std::string directory = temp_.sub("sockets");
  ikkuna_options options{};
  options.size = sizeof options;
  options.directory = directory.c_str();
  options.run_id = "job";
  options.arena_mb = 1;
  options.budget = -1;
  options.quiet = 1;
  ikkuna_session* session = ikkuna_open(&options);
  ::unsetenv("IKKUNA_WAIT_MS");
  const uint16_t root = ikkuna_root(session, "model");
  const uint32_t big = ikkuna_module(session, root, "big", "Linear", 0);
  const uint32_t small = ikkuna_module(session, root, "small", "Linear", 0);
  const int64_t big_sizes[] = {1024, 1024};  // 4 MiB
  const int64_t small_sizes[] = {4, 4};
  const uint32_t big_weight = ikkuna_param(session, root, big, "weight", IKKUNA_F32, 2, big_sizes,
                                             IKKUNA_TRAINABLE);
  const uint32_t small_weight = ikkuna_param(session, root, small, "weight", IKKUNA_F32, 2, small_sizes,
                                               IKKUNA_TRAINABLE);
  const std::vector<float> data(1024 * 1024, 1.0f);
  constexpr uint64_t kSteps = 20;
  for (uint64_t step = 0; step < kSteps; ++step) {
    CStep one(session, root, step);
    one.Tensor(IKKUNA_WEIGHTS, big, big_weight, data.data(), {1024, 1024});
    one.Tensor(IKKUNA_WEIGHTS, small, small_weight, data.data(), {4, 4});
    one.Loss(1.0);
  }
  ASSERT_TRUE(Eventually([&] { return house_->Values("job", "loss").size() == kSteps; }));
  ReadOptions of_big;
  of_big.query.filter.module = "big";
  const auto norms = house_->Values("job", "weights_norm2", of_big);
  ASSERT_EQ(norms.size(), kSteps);
  for (const auto& [step, norm] : norms) EXPECT_DOUBLE_EQ(norm, 1024);
  EXPECT_THAT(house_->Values("job", "weights_norm3", of_big), IsEmpty());
  ReadOptions of_small;
  of_small.query.filter.module = "small";
  EXPECT_EQ(house_->Values("job", "weights_norm3", of_small).size(), kSteps);
  const std::vector<std::string> lines = Why("job", "big", "weights");
  EXPECT_THAT(lines, testing::Contains("no_tensor  ")) << text_;
  EXPECT_THAT(lines, testing::Not(testing::Contains("dropped  ")));
  ikkuna_close(session);
}

TEST_F(WhyRunsTest, OfNobodyAndOfTooMuch) {
  Open({"mean(weight_gradients)", "mean(weights)"});
  EXPECT_EQ(house_->runs().Why({}).failure().reason, Reason::kNoSuchRun);
  TestProducer trainer(temp_.sub("sockets"));
  trainer.hello().run_id = "job";
  trainer.Register();
  for (uint32_t module = 2; module < 3000; ++module) AddModule(trainer, module, "m" + std::to_string(module), true);
  ASSERT_TRUE(trainer.Connect()) << trainer.reject();
  trainer.Marker(Kind::kBatchStarted, 0);
  Summary(trainer, Kind::kWeightGradients, 0, 1);
  Summary(trainer, Kind::kWeights, 0, 1);
  trainer.Marker(Kind::kBatchFinished, 0);
  house_->Settled(trainer);
  const auto answer = house_->runs().Why({{"job"}, "", ""});
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->missing.size(), WhyAnswer::kMissingMax);
  EXPECT_TRUE(answer->more);
  const auto one = house_->runs().Why({{"job"}, "m17", "weights"});
  ASSERT_EQ(one->missing.size(), 1u);
  EXPECT_FALSE(one->more);
}

}  // namespace
}  // namespace ikkuna
