// The cap where finished runs, runs that end and runs that go on are there together.
#include <fstream>

#include "tests/daemon/sinks/store_retention_fixture.h"

namespace ikkuna::sinks {
namespace {

class StoreCapTest : public StoreRetentionTest {
 protected:
  // Of a run that ends its state, without waiting for its file to be at rest.
  void End(const RunPtr& run) {
    ProducerStatus status;
    status.info = *run->info();
    status.state = RunState::kFinished;
    store_->SaveProducer(status);
  }
  // Who reads a run keeps it from coming to rest.
  std::unique_ptr<SeriesReader> Hold(const std::string& run) {
    ReadQuery query;
    query.filter.run = run;
    auto reader = store_->Read(query);
    EXPECT_TRUE(reader.ok());
    EXPECT_TRUE((*reader)->Next().ok());
    return std::move(*reader);
  }
  uint64_t Thinned(const std::string& run) {
    const auto runs = store_->FindRuns(run);
    return runs.ok() && runs->size() == 1 ? runs->front().thinned : UINT64_MAX;
  }
  // Finished runs at rest, one that lives, and one that goes on to its end; the cap is just above all.
  void FillUpToTheCap(const std::vector<std::string>& finished) {
    OpenStore();
    for (const std::string& id : finished) Finished(id, static_cast<unsigned char>(id[0]), kStartNs + id[0], kLong);
    Live();
    Grow(live_, 0, kLong);
    Grow(ending_, 0, kLong);
    live_.reset();
    ending_.reset();
    run_.reset();
    store_.reset();  // each is one file now
    uint64_t bytes = 0;
    for (const auto& item : fs::directory_iterator(dir_.path() + "/data/runs/here")) {
      if (item.path().extension() == ".run") bytes += item.file_size();
    }
    options_.bytes_max = bytes + (128 << 10);
    OpenStore();
    Live();
  }
  void Live() {
    Begin({"live", 0, 0}, 50);
    live_ = run_;
    Begin({"ending", 0, 0}, 51);
    ending_ = run_;
  }

  static constexpr uint64_t kLong = 60'000, kMore = 30'000;
  RunPtr live_, ending_;
};

TEST_F(StoreCapTest, WhileARunComesToRestNothingIsThinnedForWhatAFinishedOneWillGive) {
  FillUpToTheCap({"a", "b", "c"});
  auto reader = Hold("ending");
  End(ending_);
  Grow(live_, kLong, kMore);
  ASSERT_TRUE(Eventually([&] { return store_->store_bytes() > *options_.bytes_max; }));  // the store has seen it
  std::this_thread::sleep_for(std::chrono::milliseconds(1'500));
  EXPECT_EQ(Said("run_thinned"), 0u);
  EXPECT_EQ(Said("store_over_cap"), 0u);
  EXPECT_EQ(Thinned("live"), 0u);
  EXPECT_EQ(Thinned("ending"), 0u);
  EXPECT_EQ(Ids(), (std::vector<std::string>{"a", "b", "c", "ending", "live"}));
  reader.reset();
  ASSERT_TRUE(Eventually([&] { return store_->store_bytes() <= *options_.bytes_max; })) << store_->store_bytes();
  EXPECT_GE(Said("run_retired"), 1u);
  EXPECT_NE(TextOf("run_retired").find("'a'"), std::string::npos);
  EXPECT_EQ(Thinned("live"), 0u);
  EXPECT_EQ(Thinned("ending"), 0u);
  EXPECT_EQ(Said("run_thinned"), 0u);
}

TEST_F(StoreCapTest, AFinishedRunThatCannotComeToRestLeavesInItsTurn) {
  options_.rest_within = std::chrono::milliseconds(1);
  FillUpToTheCap({});
  auto reader = Hold("ending");
  End(ending_);
  Grow(live_, kLong, kMore);
  ASSERT_TRUE(Eventually([&] { return Said("run_retired") == 1; }));
  EXPECT_NE(TextOf("run_retired").find("'ending'"), std::string::npos) << TextOf("run_retired");
  EXPECT_EQ(Ids(), (std::vector<std::string>{"live"}));
}

TEST_F(StoreCapTest, WhereRunsEndFasterThanTheyComeToRestTheCapBitesAllTheSame) {
  options_.rest_within = std::chrono::milliseconds(3'000);
  FillUpToTheCap({"a", "b", "c"});
  Grow(live_, kLong, kMore);
  // One run is on its way to rest at any time: each is for a second at least.
  unsigned char uuid = 100;
  EXPECT_TRUE(Eventually([&] {
    ++uuid;
    ProducerInfo info = Producer({"short-" + std::to_string(uuid), 0, 0}, uuid);
    info.start_unix_ns = Now();
    run_ = *store_->Begin(info);
    End(run_);
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    return Said("run_retired") >= 1;
  }));
  EXPECT_NE(TextOf("run_retired").find("'a'"), std::string::npos) << TextOf("run_retired");
  EXPECT_EQ(Said("run_thinned"), 0u);
}

TEST_F(StoreCapTest, FreeSpaceAroundTheLimitIsSaidOnceNotEachTime) {
  SmallDisk disk(dir_.path() + "/data", 24);
  if (!disk.mounted()) GTEST_SKIP() << "NOT TESTED: no file system can be mounted here";
  options_.free_bytes_min = uint64_t{8} << 20;
  OpenStore();
  const std::string ballast = dir_.path() + "/data/ballast";
  Spill(ballast, "b");
  // So that this is free, on the straight way there.
  auto leave = [&](uint64_t bytes) {
    const uint64_t free = fs::space(dir_.path() + "/data").available;
    if (free < bytes) return fs::resize_file(ballast, fs::file_size(ballast) - (bytes - free));
    std::ofstream(ballast, std::ios::app) << std::string(free - bytes, 'b');
  };
  const uint64_t low = *options_.free_bytes_min - (1 << 20), near = *options_.free_bytes_min + (512 << 10);
  leave(low);
  ASSERT_TRUE(Eventually([&] { return Said("store_low_space") == 1; }));
  leave(near);
  std::this_thread::sleep_for(std::chrono::milliseconds(1'500));
  leave(low);
  std::this_thread::sleep_for(std::chrono::milliseconds(1'500));
  EXPECT_EQ(Said("store_low_space"), 1u);
  // Where there was room it is said anew.
  leave(*options_.free_bytes_min + (2 << 20));
  std::this_thread::sleep_for(std::chrono::milliseconds(1'500));
  leave(low);
  ASSERT_TRUE(Eventually([&] { return Said("store_low_space") == 2; }));
  store_.reset();
}

}  // namespace
}  // namespace ikkuna::sinks
