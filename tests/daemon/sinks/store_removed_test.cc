// Somebody deletes, moves or replaces the file of a run that goes on: it is said and counted, and the run goes on.
#include <filesystem>

#include "tests/daemon/sinks/store_faults_fixture.h"

namespace ikkuna::sinks {
namespace {

class StoreRemovedTest : public StoreFaultsTest {
 protected:
  const RunKey key_{"live", 0, 0};

  std::string path() const { return file(key_); }
  void Remove() {
    fs::remove(path());
    fs::remove(path() + "-wal");
  }
  void ExpectNewOne(uint64_t step) {
    const SeriesColumns read = ReadOne("s3");
    ASSERT_EQ(read.steps, std::vector<uint64_t>{step});
    EXPECT_EQ(read.numbers, std::vector<double>{0.5});
  }
};

TEST_F(StoreRemovedTest, ADeletedFileIsSaidAndCountedAndTheRunGoesOnInANewOne) {
  OpenStore();
  Fill(key_, 7, kSteps);
  ASSERT_EQ(store_->Counters().written, kValues);
  Remove();
  Put(Series("s3"), 90'000, 0.5, 900);
  Flush();
  ASSERT_EQ(Said("run_file_removed"), 1u);
  EXPECT_NE(TextOf("run_file_removed").find("the " + std::to_string(kValues) + " values"), std::string::npos)
      << TextOf("run_file_removed");
  SinkCounters counters = store_->Counters();
  ExpectIdentity(counters);
  EXPECT_EQ(counters.written, 1u);
  EXPECT_EQ(DropsFor(counters, "file_removed"), kValues);
  EXPECT_TRUE(fs::exists(path()));
  ExpectNewOne(90'000);
  EXPECT_EQ(store_->ListRuns()->front().values, 1u);
  EXPECT_EQ(store_->ListRuns()->front().unrecorded, (std::vector<Count>{{"file_removed", kValues}}));
  Reopen();
  ExpectNewOne(90'000);
  EXPECT_EQ(store_->LoadProgress(key_)->progress.done_seq, 900u);
  store_.reset();
}

TEST_F(StoreRemovedTest, ItIsNoticedWhereNothingComes) {
  OpenStore();
  Fill(key_, 7, kSteps);
  Remove();
  EXPECT_TRUE(Eventually([&] { return Said("run_file_removed") == 1; }));
  EXPECT_TRUE(Eventually([&] { return fs::exists(path()); }));
  EXPECT_EQ(DropsFor(store_->Counters(), "file_removed"), kValues);
  store_.reset();
}

TEST_F(StoreRemovedTest, TheLogOfTheOldFileIsNoneOfTheNewOne) {
  OpenStore();
  Fill(key_, 7, kSteps);
  fs::remove(path());
  ASSERT_TRUE(fs::exists(path() + "-wal"));
  Put(Series("s3"), 90'000, 0.5);
  Flush();
  EXPECT_EQ(Said("run_file_removed"), 1u);
  ExpectNewOne(90'000);
  Reopen();
  ExpectNewOne(90'000);
  EXPECT_EQ(Said("run_file_broken"), 0u) << TextOf("run_file_broken");
  store_.reset();
}

TEST_F(StoreRemovedTest, AFileThatIsMovedAwayIsWholeWhereItIs) {
  OpenStore();
  Fill(key_, 7, kSteps);
  const std::string elsewhere = dir_.path() + "/elsewhere.run";
  fs::rename(path(), elsewhere);
  Put(Series("s3"), 90'000, 0.5);
  Flush();
  EXPECT_EQ(Said("run_file_removed"), 1u);
  ExpectNewOne(90'000);
  store_.reset();
  auto moved = StoredRuns::Open(elsewhere);
  ASSERT_TRUE(moved.ok()) << moved.error().text;
  bool failed = false;
  // With the commit that found it moved, which is in the new one as well.
  const SeriesColumns read = ReadOne(**moved, "s3");
  ASSERT_GE(read.steps.size(), kSteps);
  for (uint64_t step = 0; step < kSteps; ++step) ASSERT_EQ(read.numbers[step], ValueOf("s3", step));
  EXPECT_FALSE(failed);
}

TEST_F(StoreRemovedTest, AnOlderCopyInItsPlaceIsGoneOnWith) {
  OpenStore();
  Fill(key_, 7, 100);
  const std::string copy = dir_.path() + "/copy.run";
  ASSERT_TRUE(store_->ExportFile(key_, copy).ok());
  for (uint64_t step = 100; step < 200; ++step) Put(Series("s3"), step, ValueOf("s3", step), step);
  Flush();
  fs::rename(copy, path());  // as one who restores a backup does
  Put(Series("s3"), 90'000, 0.5, 900);
  Flush();
  EXPECT_EQ(Said("run_file_removed"), 1u);
  const SeriesColumns read = ReadOne("s3");
  ASSERT_EQ(read.steps.size(), 101u);
  for (uint64_t step = 0; step < 100; ++step) ASSERT_EQ(read.numbers[step], ValueOf("s3", step));
  EXPECT_EQ(read.numbers[100], 0.5);
  EXPECT_EQ(store_->ListRuns()->front().values, 100u * 40 + 10 + 1);
  EXPECT_EQ(store_->LoadProgress(key_)->progress.done_seq, 900u);
  store_.reset();
}

}  // namespace
}  // namespace ikkuna::sinks
