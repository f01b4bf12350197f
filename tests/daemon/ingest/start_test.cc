// Where the line of a run goes on that continues another, of what its trainer says, does and leaves unsaid.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/daemon/ingest/ingest_fixture.h"

namespace ikkuna::ingest {
namespace {

TEST_F(IngestTest, OneThatOnlySaysThatItGoesOnAndIsThroughBeforeItIsReadBeganAtItsFirstStep) {
  auto core = MakeCore();
  TestProducer one(temp_.sub("dir")), two(temp_.sub("dir"));
  ASSERT_TRUE(LetGoOn(*core, one, two));
  shm::RootStatus& root = two.pub().status().roots[0];
  shm::StoreRelaxed(root.start_step, 5);
  shm::StoreRelaxed(root.step, 10);
  shm::StoreRelaxed(root.phase, static_cast<uint32_t>(shm::Phase::kIdle));
  ASSERT_TRUE(two.Connect()) << two.reject();
  two.Finish();
  ASSERT_TRUE(Reaches(*core, two, RunState::kFinished));
  const auto info = core->StatusOf(two.hello().uuid).info;
  EXPECT_EQ(info.continues, 0u);
  EXPECT_EQ(info.start_step, 5u);
}

// It says no first step, and evaluates its checkpoint before it trains.
TEST_F(IngestTest, OneThatEvaluatesFirstGoesOnFromTheStepOfThat) {
  auto core = MakeCore();
  TestProducer one(temp_.sub("dir")), two(temp_.sub("dir"));
  ASSERT_TRUE(LetGoOn(*core, one, two));
  shm::StoreRelaxed(two.pub().status().roots[0].phase, static_cast<uint32_t>(shm::Phase::kEvaluate));
  ASSERT_TRUE(two.Connect()) << two.reject();
  two.Scalar(Kind::kLoss, 500, 1);
  ASSERT_TRUE(AllHandled(*core, two));
  EXPECT_EQ(core->StatusOf(two.hello().uuid).info.start_step, 500u);
  // A daemon that is killed now leaves a file that says so, too.
  const auto kept = store_->LoadProducers();
  const auto is_two = [&](const ProducerStatus& one) { return one.info.uuid == two.hello().uuid; };
  const auto saved = std::find_if(kept->begin(), kept->end(), is_two);
  ASSERT_NE(saved, kept->end());
  EXPECT_EQ(saved->info.start_step, 500u);
  // And the next one takes that over, before anything more comes.
  core->Stop();
  two.Disconnect();
  core = MakeCore();
  ASSERT_TRUE(two.Connect()) << two.reject();
  EXPECT_EQ(core->StatusOf(two.hello().uuid).info.start_step, 500u);
  // Another model, such as a teacher, counts from 0; the one that trains decides.
  two.Scalar(Kind::kLoss, 0, 1);
  ASSERT_TRUE(AllHandled(*core, two));
  EXPECT_EQ(core->StatusOf(two.hello().uuid).info.start_step, 0u);
  shm::RootStatus& root = two.pub().status().roots[0];
  shm::StoreRelaxed(root.start_step, 500);
  shm::StoreRelaxed(root.phase, static_cast<uint32_t>(shm::Phase::kTrain));
  two.Step(500, 1);
  two.Finish();
  ASSERT_TRUE(Reaches(*core, two, RunState::kFinished));
  EXPECT_EQ(core->StatusOf(two.hello().uuid).info.start_step, 500u);
  EXPECT_TRUE(core->StatusOf(two.hello().uuid).notes.empty());
}

TEST_F(IngestTest, OneThatGoesOnAndCountsFromZeroIsTold) {
  auto core = MakeCore();
  TestProducer one(temp_.sub("dir")), two(temp_.sub("dir"));
  ASSERT_TRUE(LetGoOn(*core, one, two));
  ASSERT_TRUE(two.Connect()) << two.reject();
  shm::RootStatus& root = two.pub().status().roots[0];
  shm::StoreRelaxed(root.step, 1);
  two.Step(0, 1);
  two.Finish();
  ASSERT_TRUE(Reaches(*core, two, RunState::kFinished));
  ASSERT_EQ(core->Events("note").size(), 1u);
  EXPECT_NE(core->Events("note")[0].text.find("counts its steps from 0 on"), std::string::npos);
  const std::vector<std::string> notes = core->StatusOf(two.hello().uuid).notes;
  EXPECT_NE(std::find(notes.begin(), notes.end(), core->Events("note")[0].text), notes.end());
}

TEST_F(IngestTest, ModelsThatGoOnFromDifferentStepsAreTold) {
  auto core = MakeCore();
  TestProducer one(temp_.sub("dir")), two(temp_.sub("dir"));
  ASSERT_TRUE(LetGoOn(*core, one, two));
  const auto train = [&](size_t index, uint64_t start) {
    shm::RootStatus& root = two.pub().status().roots[index];
    shm::StoreRelaxed(root.start_step, start);
    shm::StoreRelaxed(root.step, start + 2);
    shm::StoreRelaxed(root.phase, static_cast<uint32_t>(shm::Phase::kTrain));
  };
  train(0, 500);
  ASSERT_TRUE(two.Connect()) << two.reject();
  ASSERT_TRUE(Eventually([&] { return core->StatusOf(two.hello().uuid).info.start_step == 500; }));
  EXPECT_TRUE(core->StatusOf(two.hello().uuid).notes.empty());
  train(1, 100);
  ASSERT_TRUE(Eventually([&] { return core->StatusOf(two.hello().uuid).notes.size() == 1; }));
  EXPECT_NE(core->StatusOf(two.hello().uuid).notes[0].find("different steps, 500 and 100"), std::string::npos);
  two.Finish();
  ASSERT_TRUE(Reaches(*core, two, RunState::kFinished));
}

}  // namespace
}  // namespace ikkuna::ingest
