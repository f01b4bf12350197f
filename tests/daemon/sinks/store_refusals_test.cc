// A file that cannot be written, moved or read at the moment is not given up, and it is said.
#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <future>
#include <thread>

#include "tests/daemon/sinks/store_faults_fixture.h"

namespace ikkuna::sinks {
namespace {

class StoreRefusalsTest : public StoreFaultsTest {
 protected:
  // Ends the process where it hangs: nothing else ends the store's thread.
  void CloseWatched() {
    std::promise<void> closed;
    std::thread watch([done = closed.get_future()] {
      if (done.wait_for(test::kWatchdog) == std::future_status::ready) return;
      std::fputs("Close hangs\n", stderr);
      std::_Exit(1);
    });
    store_->Close();
    closed.set_value();
    watch.join();
  }
};

TEST_F(StoreRefusalsTest, ARunThatGoesOnWhileTheDiskIsFullKeepsItsSeriesAndItsFile) {
  SmallDisk disk(dir_.path() + "/data", 6);
  if (!disk.mounted()) GTEST_SKIP() << "NOT TESTED: no file system can be mounted here";
  OpenStore();
  Begin({"live", 0, 0});
  const uint32_t a = Series("a"), b = Series("b");
  for (uint64_t step = 0; step < 100; ++step) {
    Put(a, step, ValueOf("a", step));
    Put(b, step, ValueOf("b", step));
  }
  Flush();
  Reopen();
  const std::string ballast = dir_.path() + "/data/ballast";
  Spill(ballast, std::string(8 << 20, 'b'));
  Begin({"live", 0, 0});
  ASSERT_GE(Said("store_failing"), 1u);
  // In another order, and not all of them.
  const uint32_t c = Series("c");
  EXPECT_EQ(Series("b"), b);
  Put(c, 7, 1);
  Put(b, 100, ValueOf("b", 100));
  EXPECT_EQ(ReadOne("a").steps.size(), 100u);
  EXPECT_EQ(ReadOne("b").steps.size(), 101u);
  fs::remove(ballast);
  ASSERT_TRUE(Eventually([&] { return store_->Counters().written == 2; }));
  EXPECT_EQ(Said("run_file_broken"), 0u) << TextOf("run_file_broken");
  EXPECT_FALSE(fs::exists(file({"live", 0, 0}) + ".broken-1"));
  Reopen();
  EXPECT_EQ(ReadOne("c").numbers, std::vector<double>{1});
  const SeriesColumns read = ReadOne("b");
  ASSERT_EQ(read.steps.size(), 101u);
  for (uint64_t step = 0; step <= 100; ++step) EXPECT_EQ(read.numbers[step], ValueOf("b", step));
  EXPECT_EQ(ReadOne("a").steps.size(), 100u);
  store_.reset();
}

class UnmovableTest : public StoreRefusalsTest {
 protected:
  // A run that goes on in a file that is broken, of a name beside which no other is free.
  void Break() {
    OpenStore();
    Fill({"bad", 0, 0}, 7, 5'000);
    Reopen();
    Begin({"bad", 0, 0});
    for (int i = 1; i < 1'000; ++i) fs::create_directory(Aside(i));
    const int fd = ::open(file({"bad", 0, 0}).c_str(), O_RDWR | O_CLOEXEC);
    const off_t size = ::lseek(fd, 0, SEEK_END);
    const std::string junk(static_cast<size_t>(size) - 4096, '\x5a');
    ASSERT_EQ(::pwrite(fd, junk.data(), junk.size(), 4096), static_cast<ssize_t>(junk.size()));
    ::close(fd);
    const uint32_t s0 = Series("s0");
    uint64_t step = 10'000;
    ASSERT_TRUE(Eventually([&] {
      for (int n = 0; n < 1'000; ++n, ++step) Put(s0, step, ValueOf("s0", step));
      (void)store_->Flush(Soon());
      return Said("store_failing") + Said("run_file_broken") > 0;
    }));
    Put(s0, 1'000'000, 1);
  }
  std::string Aside(int i) const { return file({"bad", 0, 0}) + ".broken-" + std::to_string(i); }
};

TEST_F(UnmovableTest, ABrokenFileThatCannotBeMovedIsSaidOnceAndWaitedFor) {
  Break();
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(store_->Flush(Soon()).ok());
  EXPECT_EQ(Said("run_file_broken"), 0u) << TextOf("run_file_broken");
  EXPECT_EQ(Said("store_failing"), 1u);
  EXPECT_NE(TextOf("store_failing").find("cannot be moved aside"), std::string::npos) << TextOf("store_failing");
  fs::remove(Aside(999));
  ASSERT_TRUE(Eventually([&] { return Said("store_recovered") == 1; }));
  EXPECT_EQ(Said("run_file_broken"), 1u);
  EXPECT_TRUE(fs::is_regular_file(Aside(999)));
  ReadQuery query;
  query.step_min = 1'000'000;
  EXPECT_EQ(ReadOne("s0", query).numbers, std::vector<double>{1});
}

TEST_F(UnmovableTest, TheStoreEndsAllTheSame) {
  Break();
  CloseWatched();
  EXPECT_GT(DropsFor(store_->Counters(), "disk"), 0u);
  ExpectIdentity(store_->Counters());
}

TEST_F(StoreRefusalsTest, AFileThatTakesNoMoreBecauseItCannotBeCompactedIsSaidAndTheStoreEnds) {
  OpenAndBegin();
  const uint32_t a = Series("a");
  run_.reset();
  store_.reset();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(file().c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "CREATE TRIGGER no BEFORE INSERT ON step BEGIN SELECT RAISE(ABORT, 'no'); END", nullptr,
                         nullptr, nullptr),
            SQLITE_OK);
  sqlite3_close(db);
  OpenAndBegin();
  ASSERT_EQ(Series("a"), a);
  Status flushed;
  for (uint64_t step = 0; flushed && step < 200'000;) {
    for (int n = 0; n < 4'000; ++n, ++step) Put(a, step, ValueOf("a", step));
    flushed = store_->Flush(Soon());
  }
  ASSERT_FALSE(flushed.ok());
  EXPECT_NE(flushed.error().text.find("before it is compacted"), std::string::npos) << flushed.error().text;
  // What is said of the run itself is taken, and is no recovery.
  const size_t failing = Said("store_failing");
  for (int i = 0; i < 4; ++i) {
    ProducerStatus status;
    status.info = Producer(kRun);
    store_->SaveProducer(status);
    EXPECT_FALSE(store_->Flush(Soon()).ok());
  }
  EXPECT_EQ(Said("store_recovered"), 0u);
  EXPECT_EQ(Said("store_failing"), failing);
  CloseWatched();
  const SinkCounters counters = store_->Counters();
  ExpectIdentity(counters);
  EXPECT_GT(DropsFor(counters, "disk"), 0u);
  Reopen();
  EXPECT_EQ(ReadOne("a").steps.size(), counters.written);
}

TEST_F(StoreRefusalsTest, ListsOfARunThatCannotBeReadAreAnErrorAndNotEmpty) {
  TwoRuns();
  OpenStore();
  ASSERT_TRUE(Eventually([&] { return store_->ListRuns()->size() == 2; }));
  auto locker = std::make_unique<Locker>(file({"bad", 0, 0}));
  SeriesQuery series;
  EventQuery events;
  series.filter.run = events.filter.run = "bad";
  EXPECT_FALSE(store_->ListSeries(series).ok());
  EXPECT_FALSE(store_->ListEvents(events).ok());
  // Others are shown.
  EXPECT_EQ(store_->ListSeries({})->series.size(), 41u);
  const auto listed = store_->ListEvents({});
  ASSERT_TRUE(listed.ok());
  EXPECT_FALSE(listed->empty());
  ASSERT_EQ(listed->unread.size(), 1u) << "and the one that is not is named";
  EXPECT_NE(listed->unread[0].find("'bad'"), std::string::npos) << listed->unread[0];
  locker.reset();
  EXPECT_TRUE(store_->ListEvents({})->unread.empty());
  EXPECT_EQ(store_->ListSeries(series)->series.size(), 41u);
  EXPECT_FALSE(store_->ListEvents(events)->empty());
}

TEST_F(StoreRefusalsTest, EventsThatAreBrokenAreNamedWithoutADaemonToo) {
  TwoRuns();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(file({"bad", 0, 0}).c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "UPDATE event SET sum = sum + 1", nullptr, nullptr, nullptr), SQLITE_OK);
  ASSERT_GT(sqlite3_changes(db), 0);
  sqlite3_close(db);
  auto all = StoredRuns::Open(dir_.path() + "/data");
  ASSERT_TRUE(all.ok()) << all.error().text;
  const auto events = (*all)->ListEvents({});
  ASSERT_TRUE(events.ok()) << events.error().text;
  EXPECT_FALSE(events->empty()) << "others are shown";
  ASSERT_EQ(events->unread.size(), 1u);
  EXPECT_NE(events->unread[0].find("bad"), std::string::npos) << events->unread[0];
  EventQuery bad;
  bad.filter.run = "bad";
  EXPECT_FALSE((*all)->ListEvents(bad).ok());
}

}  // namespace
}  // namespace ikkuna::sinks
