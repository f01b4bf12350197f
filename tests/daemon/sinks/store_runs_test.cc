// What becomes of whole runs, and the store in use by many: at rest, deleted, copied, closed.
#include <sqlite3.h>
#include <sys/stat.h>

#include <limits>
#include <random>

#include "tests/daemon/sinks/store_fixture.h"

namespace ikkuna::sinks {
namespace {

TEST_F(StoreTest, AFinishedRunIsOneFileOfDeleteJournal) {
  OpenAndBegin();
  const uint32_t a = Series("a");
  for (uint64_t step = 0; step < 5000; ++step) Put(a, step, double(step));
  Flush();
  EndRun();
  EXPECT_FALSE(std::filesystem::exists(file() + "-shm"));
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open_v2(file().c_str(), &db, SQLITE_OPEN_READONLY, nullptr), SQLITE_OK);
  sqlite3_busy_timeout(db, 60'000);  // the log is gone a moment before the store lets go
  sqlite3_stmt* statement = nullptr;
  sqlite3_prepare_v2(db, "PRAGMA journal_mode", -1, &statement, nullptr);
  ASSERT_EQ(sqlite3_step(statement), SQLITE_ROW);
  EXPECT_STREQ(reinterpret_cast<const char*>(sqlite3_column_text(statement, 0)), "delete");
  sqlite3_finalize(statement);
  for (const char* nothing : {"SELECT count(*) FROM log", "PRAGMA freelist_count"}) {
    sqlite3_prepare_v2(db, nothing, -1, &statement, nullptr);
    ASSERT_EQ(sqlite3_step(statement), SQLITE_ROW);
    EXPECT_EQ(sqlite3_column_int(statement, 0), 0) << nothing;
    sqlite3_finalize(statement);
  }
  sqlite3_close(db);
  // A last word opens it once more.
  auto batch = std::make_shared<Batch>();
  batch->run = run_;
  batch->events.push_back(Event{});
  batch->events[0].kind = "late";
  store_->Offer(batch);
  Flush();
  EXPECT_EQ(store_->ListEvents({})->back().kind, "late");
}

TEST_F(StoreTest, ADeletedRunIsGoneAndMayComeAgain) {
  OpenAndBegin();
  Put(Series("a"), 1, 1);
  Flush();
  EXPECT_EQ(store_->DeleteRun(kRun).error().code, ErrorCode::kFailedPrecondition);
  EXPECT_EQ(store_->DeleteRun({"nobody", 0, 0}).error().code, ErrorCode::kNotFound);
  auto batch = std::make_shared<Batch>();
  batch->run = run_;
  batch->events.push_back(Event{});
  store_->Offer(batch);
  Flush();
  const uint64_t id = store_->ListEvents({})->back().id;
  EndRun();
  ASSERT_TRUE(store_->DeleteRun(kRun).ok());
  EXPECT_FALSE(std::filesystem::exists(file()));
  EXPECT_TRUE(store_->ListRuns()->empty());
  Reopen();
  EXPECT_TRUE(store_->ListRuns()->empty());
  EXPECT_GT(store_->TakeEventId(), id);
  Begin(kRun, 11);
  Put(Series("a"), 1, 5);
  EXPECT_EQ(ReadOne("a").numbers, std::vector<double>{5});
}

TEST_F(StoreTest, ARunIsCopiedWhileItGoesOnAndTakenInElsewhere) {
  OpenAndBegin();
  const uint32_t a = Series("a");
  for (uint64_t step = 0; step < 2000; ++step) Put(a, step, double(step));
  auto batch = std::make_shared<Batch>();
  batch->run = run_;
  batch->events.push_back(Event{});
  batch->events[0].kind = "seen";
  store_->Offer(batch);
  const std::string copy = dir_.path() + "/copy.run";
  ASSERT_TRUE(store_->ExportFile(kRun, copy).ok());
  EXPECT_FALSE(store_->ExportFile(kRun, copy).ok());  // it is there
  auto alone = StoredRuns::Open(copy);
  ASSERT_TRUE(alone.ok()) << alone.error().text;
  EXPECT_EQ(ReadOne(**alone, "a").steps.size(), 2000u);
  EXPECT_EQ(store_->ImportFile(copy).error().code, ErrorCode::kAlreadyExists);
  EndRun();
  ASSERT_TRUE(store_->DeleteRun(kRun).ok());
  const uint64_t before = store_->TakeEventId();
  auto key = store_->ImportFile(copy);
  ASSERT_TRUE(key.ok()) << key.error().text;
  EXPECT_EQ(*key, kRun);
  EXPECT_EQ(ReadOne("a").steps.size(), 2000u);
  EXPECT_EQ(store_->ListEvents({})->back().kind, "seen");
  EXPECT_GT(store_->ListEvents({})->back().id, before);
  EXPECT_FALSE(store_->ImportFile("/etc/passwd").ok());
  Reopen();
  EXPECT_EQ(ReadOne("a").steps.size(), 2000u);
}

TEST_F(StoreTest, WhatWaitsIsReadWithoutACommit) {
  OpenAndBegin();
  const uint32_t a = Series("a");
  Put(a, 1, 1);
  Put(a, 2, 2);
  EXPECT_EQ(ReadOne("a").numbers, (std::vector<double>{1, 2}));
  EXPECT_EQ(Info("a")->count, 2u);
  EXPECT_EQ(store_->ListRuns()->front().values, 2u);
}

TEST_F(StoreTest, AfterCloseNothingHangsAndOffersCountAsDropped) {
  OpenAndBegin();
  const uint32_t a = Series("a");
  Put(a, 1, 1);
  store_->Close();
  Put(a, 2, 2);
  const SinkCounters counters = store_->Counters();
  EXPECT_EQ(counters.written, 1u);
  EXPECT_EQ(counters.dropped, 1u);
  EXPECT_EQ(counters.waiting, 0u);
  EXPECT_TRUE(store_->Flush(Soon()).ok());
  EXPECT_FALSE(store_->Begin(Producer({"other", 0, 0})).ok());
}

TEST_F(StoreTest, ManyThreadsOfferAndReadAtOnceAndEveryAnswerIsWhole) {
  options_.tail_bytes_max = 4 << 20;
  OpenAndBegin();
  std::vector<uint32_t> ids;
  for (int i = 0; i < 300; ++i) ids.push_back(Series("s" + std::to_string(i)));
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> offered{0};
  std::thread writer([&] {
    for (uint64_t step = 0; step < 6000; ++step) {
      std::vector<Sample> samples;
      for (uint32_t id : ids) samples.push_back({id, 0, double(step)});
      store_->Offer(BatchOf(run_, step, std::move(samples)));
      offered = step + 1;
      if (step % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    stop = true;
  });
  uint64_t reads = 0;
  while (!stop) {
    const uint64_t at_least = offered;
    const SeriesColumns read = ReadOne("s" + std::to_string(reads++ % 300));
    ASSERT_GE(read.steps.size(), at_least);
    for (size_t i = 0; i < read.steps.size(); ++i) ASSERT_EQ(read.steps[i], i);
    ASSERT_GE(Info("s0")->count, at_least);
  }
  writer.join();
  Flush();
  EXPECT_EQ(store_->Counters().dropped, 0u);
  EXPECT_EQ(ReadOne("s299").steps.size(), 6000u);
  EXPECT_GT(reads, 3u);
}

}  // namespace
}  // namespace ikkuna::sinks
