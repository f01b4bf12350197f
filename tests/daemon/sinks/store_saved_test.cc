// What is said and counted of a run beside its values reaches its file: with the commit that it belongs to, at the run's end
// and where nothing else comes, and before a copy is made of it.
#include <filesystem>
#include <future>

#include "tests/daemon/sinks/store_fixture.h"

namespace ikkuna::sinks {
namespace {

namespace fs = std::filesystem;

class StoreSavedTest : public HeardStoreTest {
 protected:
  // What a daemon that is killed now leaves.
  std::vector<Count> UnrecordedNow() {
    const std::string copy = dir_.path() + "/copy.run";
    for (const char* suffix : {"", "-wal"}) {
      std::error_code code;
      fs::remove(copy + suffix, code);
      fs::copy_file(file() + suffix, copy + suffix, code);
    }
    auto stored = StoredRuns::Open(copy);
    if (!stored) return {};
    const auto runs = (*stored)->ListRuns();
    return runs && !runs->empty() ? runs->front().unrecorded : std::vector<Count>{};
  }
  uint64_t ValuesSaidToBeDropped() {
    uint64_t values = 0;
    for (const std::string& text : TextsOf("values_dropped")) values += std::stoull(text);
    return values;
  }
  // Drops of which an event speaks at once, and more within the while in which none does again.
  void RepeatThrice() {
    OpenAndBegin();
    const uint32_t a = Series("a");
    Put(a, 1, 1);
    Flush();
    Put(a, 1, 2);
    Flush();
    ASSERT_TRUE(Eventually([&] { return Said("values_dropped") == 1; }));
    Flush();
    for (int i = 0; i < 2; ++i) Put(a, 1, 3);
    Flush();
  }
  const std::vector<Count> thrice_{{"repeated", 3}};
};

TEST_F(StoreSavedTest, WhatACommitDoesNotTakeIsCountedInTheSameCommit) {
  RepeatThrice();
  EXPECT_EQ(UnrecordedNow(), thrice_);
  EXPECT_EQ(store_->ListRuns()->front().unrecorded, thrice_);
}

TEST_F(StoreSavedTest, TheLastDropsBeforeTheStoreClosesAreSavedAndSaid) {
  RepeatThrice();
  Reopen();
  EXPECT_EQ(store_->ListRuns()->front().unrecorded, thrice_);
  EXPECT_EQ(ValuesSaidToBeDropped(), 3u);
  EventQuery query;
  query.limit = 100;
  const auto events = store_->ListEvents(query);
  ASSERT_TRUE(events.ok());
  EXPECT_EQ(std::count_if(events->begin(), events->end(), [](const Event& e) { return e.kind == "values_dropped"; }), 2);
}

TEST_F(StoreSavedTest, TheLastDropsOfARunThatEndsAreSavedAndSaid) {
  RepeatThrice();
  EndRun();
  EXPECT_TRUE(Eventually([&] { return ValuesSaidToBeDropped() == 3; }));
  Reopen();
  EXPECT_EQ(store_->ListRuns()->front().unrecorded, thrice_);
}

TEST_F(StoreSavedTest, DropsAreSavedWhereNothingElseComes) {
  options_.free_bytes_pause = uint64_t{1} << 60;
  options_.free_bytes_min = uint64_t{1};
  OpenAndBegin();
  ASSERT_TRUE(Eventually([&] { return store_->GetStatus().paused; }));
  const uint32_t a = Series("a");
  Flush();
  for (uint64_t step = 0; step < 5; ++step) Put(a, step, 1);
  const std::vector<Count> paused{{"paused", 5}};
  EXPECT_TRUE(Eventually([&] { return UnrecordedNow() == paused; }));
  EXPECT_EQ(store_->ListRuns()->front().unrecorded, paused);
  Put(a, 5, 1);
  Flush();  // which does not wait for the second after which they are saved
  EXPECT_EQ(UnrecordedNow(), (std::vector<Count>{{"paused", 6}}));
}

TEST_F(StoreSavedTest, ACopyHasTheModulesThatWereSaidBefore) {
  Gate gate;
  const RunKey other{"other", 0, 0};
  options_.on_committed = [&](const RunKey& run, uint64_t) {
    if (run == other) gate.Pass();
  };
  OpenAndBegin();
  Put(Series("a"), 1, 1);
  const RunPtr run = run_;
  Begin(other, 9);
  Flush();
  gate.Close();
  Put(Series("a"), 1, 1, 5);
  ASSERT_TRUE(Eventually([&] { return gate.Waits(); }));
  ModuleInfo module;
  module.name = "features.0";
  module.type = "Conv2d";
  store_->SaveModules(kRun, {module});
  const std::string copy = dir_.path() + "/copy.run";
  auto exported = std::async(std::launch::async, [&] { return store_->ExportFile(kRun, copy); });
  // Time enough for one that does not wait.
  (void)exported.wait_for(std::chrono::milliseconds(150));
  gate.Open();
  const Status done = exported.get();
  ASSERT_TRUE(done.ok()) << done.error().text;
  auto stored = StoredRuns::Open(copy);
  ASSERT_TRUE(stored.ok()) << stored.error().text;
  const auto modules = (*stored)->ListModules(kRun);
  ASSERT_TRUE(modules.ok()) << modules.error().text;
  ASSERT_EQ(modules->size(), 1u);
  EXPECT_EQ(modules->front().type, "Conv2d");
  store_.reset();
}

}  // namespace
}  // namespace ikkuna::sinks
