// Somebody deletes, moves or replaces the file of a run that goes on: it is said and counted, and the run goes on.
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <filesystem>

#include "tests/daemon/sinks/store_faults_fixture.h"

namespace ikkuna::sinks {
namespace {

class StoreRemovedTest : public StoreFaultsTest {
 protected:
  const RunKey key_{"live", 0, 0};

  std::string path() const { return file(key_); }
  // The log is the store's to look after: it makes the new file as soon as the old one is gone.
  void Remove() { fs::remove(path()); }
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
  EXPECT_EQ(store_->LoadProgress(key_)->done_seq, 900u);
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
  ASSERT_TRUE(fs::exists(path() + "-wal"));
  fs::remove(path());
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

TEST_F(StoreRemovedTest, ACopyBesideItDoesNotTakeItsPlaceAtTheNextStart) {
  OpenStore();
  Fill(key_, 7, 100);
  const std::string stem = folder() + "/live.a0.r0.";
  ASSERT_TRUE(store_->ExportFile(key_, stem + "backup.run").ok());
  ASSERT_TRUE(store_->ExportFile(key_, stem + "2.run").ok());  // as the store itself might have called it
  for (uint64_t step = 100; step < 200; ++step) Put(Series("s3"), step, ValueOf("s3", step), step);
  Flush();
  Reopen();
  EXPECT_EQ(store_->ListRuns()->size(), 1u);
  EXPECT_EQ(ReadOne("s3").steps.size(), 200u);
  EXPECT_EQ(store_->LoadProgress(key_)->done_seq, 199u);
  EXPECT_EQ(Said("run_unreadable"), 2u);
  EXPECT_NE(TextOf("run_unreadable").find("backup.run' is left as it is"), std::string::npos) << TextOf("run_unreadable");
  // Where the copy is all that is left it is what there is.
  store_.reset();
  fs::remove(path());
  fs::remove(stem + "2.run");
  OpenStore();
  EXPECT_EQ(ReadOne("s3").steps.size(), 100u);
  store_.reset();
}

TEST_F(StoreRemovedTest, ARunAtRestThatSomebodyDeletesLeavesTheList) {
  TwoRuns();
  OpenStore();
  ASSERT_EQ(store_->ListRuns()->size(), 2u);
  fs::remove(file({"bad", 0, 0}));
  EXPECT_TRUE(Eventually([&] { return store_->ListRuns()->size() == 1; }));
  ASSERT_TRUE(Eventually([&] { return Said("run_file_removed") == 1; }));
  EXPECT_NE(TextOf("run_file_removed").find("'bad'"), std::string::npos) << TextOf("run_file_removed");
  EXPECT_NE(TextOf("run_file_removed").find(std::to_string(kValues)), std::string::npos);
  EXPECT_FALSE(store_->TagRun({"bad", 0, 0}, {"kept"}, {}).ok());
  EXPECT_FALSE(fs::exists(file({"bad", 0, 0})));
  store_.reset();
}

// Its values would be shown under the name of the other.
TEST_F(StoreRemovedTest, AnothersFileInThePlaceOfARunAtRestIsNotItsOwn) {
  for (const bool folder : {false, true}) {
    TwoRuns();
    OpenStore();
    const std::string place = file({"bad", 0, 0});
    const auto runs = store_->ListRuns();
    ASSERT_EQ(runs->size(), 2u);
    const RunKey other = runs->at(0).info.run_key.run_id == "bad" ? runs->at(1).info.run_key : runs->at(0).info.run_key;
    fs::remove(place);
    if (folder) {
      fs::create_directory(place);
    } else {
      fs::copy_file(file(other), dir_.path() + "/copy");
      fs::rename(dir_.path() + "/copy", place);
    }
    EXPECT_TRUE(Eventually([&] { return store_->ListRuns()->size() == 1; }));
    EXPECT_TRUE(Eventually([&] { return Said("run_file_removed") == 1; }));
    EXPECT_EQ(store_->ListRuns()->at(0).info.run_key, other);
    EXPECT_TRUE(fs::exists(place)) << "whatever it is, it stays";
    store_.reset();
    fs::remove_all(dir_.path() + "/data");
    std::lock_guard lock(said_mutex_);
    said_.clear();
  }
}

// What can be opened there may be no file at all.
TEST_F(StoreRemovedTest, WhateverTakesThePlaceOfALiveRunsFileItGoesOnInAnother) {
  for (const auto* what : {"folder", "link", "loop", "pipe"}) {
    OpenStore();
    Fill(key_, 7, kSteps);
    Remove();
    if (what == std::string("folder")) {
      fs::create_directories(path() + "/in");
    } else if (what == std::string("pipe")) {
      ASSERT_EQ(::mkfifo(path().c_str(), 0600), 0);
    } else {
      fs::create_symlink(what == std::string("link") ? dir_.path() + "/nowhere" : path(), path());
    }
    Put(Series("s3"), 90'000, 0.5, 900);
    Flush();
    EXPECT_EQ(Said("store_failing"), 0u) << TextOf("store_failing");
    EXPECT_EQ(Said("run_file_removed"), 1u) << what;
    EXPECT_EQ(Said("run_unreadable"), 1u) << what;
    ExpectNewOne(90'000);
    EXPECT_EQ(store_->Counters().written, 1u);
    Reopen();
    ExpectNewOne(90'000);
    run_.reset();
    store_.reset();
    fs::remove_all(dir_.path() + "/data");
    EXPECT_FALSE(fs::exists(dir_.path() + "/nowhere"));
    std::lock_guard lock(said_mutex_);
    said_.clear();
  }
}

TEST_F(StoreRemovedTest, AFileAtRestThatSomebodyCutsIsToldWithoutAReader) {
  for (const uintmax_t bytes : {uintmax_t{0}, uintmax_t{50}, uintmax_t{4096}, uintmax_t{3 * 4096}}) {
    TwoRuns();
    OpenStore();
    const std::string cut = file({"bad", 0, 0});
    fs::resize_file(cut, bytes);
    EXPECT_TRUE(Eventually([&] { return Said("run_file_broken") == 1; })) << bytes;
    EXPECT_NE(TextOf("run_file_broken").find(cut), std::string::npos) << TextOf("run_file_broken");
    ReadQuery query;
    query.filter.run = "bad";
    const auto reader = store_->Read(query);
    EXPECT_TRUE(!reader || !(*reader)->Next()) << "nor is any of it shown";
    EXPECT_EQ(Said("run_file_broken"), 1u);
    store_.reset();
    fs::remove_all(dir_.path() + "/data");
    std::lock_guard lock(said_mutex_);
    said_.clear();
  }
}

TEST_F(StoreRemovedTest, WhoReadsARunThatIsDeletedIsToldThat) {
  TwoRuns();
  OpenStore();
  ReadQuery query;
  query.filter.run = "bad";
  auto reader = store_->Read(query);
  ASSERT_TRUE(reader.ok()) << reader.error().text;
  ASSERT_TRUE(store_->DeleteRun({"bad", 0, 0}).ok());
  auto part = (*reader)->Next();
  while (part && *part) part = (*reader)->Next();
  ASSERT_FALSE(part.ok());
  EXPECT_EQ(part.error().code, ErrorCode::kNotFound) << part.error().text;
  EXPECT_NE(part.error().text.find("deleted"), std::string::npos) << part.error().text;
  store_.reset();
}

TEST_F(StoreRemovedTest, NeitherATagNorAQuestionMakesAnEmptyFileOfOneThatIsGone) {
  for (const bool asks : {false, true}) {
    TwoRuns();
    OpenStore();
    const RunKey bad{"bad", 0, 0};
    fs::remove(file(bad));
    if (asks) {
      bool failed = false;
      EXPECT_EQ(ReadIsRight(*store_, "bad", &failed), 0u);
    } else {
      Status tagged = store_->TagRun(bad, {"kept"}, {});
      ASSERT_FALSE(tagged.ok());
      EXPECT_EQ(tagged.error().code, ErrorCode::kNotFound) << tagged.error().text;
    }
    EXPECT_FALSE(fs::exists(file(bad)));
    // At the latest when the store has looked for files that are missing.
    EXPECT_TRUE(Eventually([&] { return store_->ListRuns()->size() == 1; }));
    EXPECT_FALSE(fs::exists(file(bad)));
    store_.reset();
    fs::remove_all(dir_.path() + "/data");
  }
}

TEST_F(StoreRemovedTest, ATagOfOneThatGoesOnIsInTheNewFile) {
  OpenStore();
  Fill(key_, 7, kSteps);
  Remove();
  const Status tagged = store_->TagRun(key_, {"kept"}, {});
  EXPECT_TRUE(tagged.ok()) << tagged.error().text;
  EXPECT_EQ(Said("run_file_removed"), 1u);
  Reopen();
  EXPECT_EQ(store_->ListRuns()->front().tags, std::vector<std::string>{"kept"});
  store_.reset();
}

TEST_F(StoreRemovedTest, OneThatGoesOnBeginsAnewWithWhatWasLostCounted) {
  OpenStore();
  Fill(key_, 7, kSteps);
  Put(Series("s3"), kSteps, 1, 900);
  Flush();
  Reopen();  // its producer is not back yet: at rest
  fs::remove(file(key_));
  Begin(key_);
  EXPECT_EQ(store_->LoadProgress(key_)->done_seq, 900u);
  EXPECT_EQ(store_->ListRuns()->front().values, 0u);
  Put(Series("s3"), 90'000, 0.5, 901);
  Flush();
  ExpectNewOne(90'000);
  EXPECT_EQ(store_->ListRuns()->front().values, 1u);
  EXPECT_EQ(store_->ListRuns()->front().unrecorded, (std::vector<Count>{{"file_removed", kValues + 1}}));
  EXPECT_EQ(Said("run_file_removed"), 1u);
  store_.reset();
}

TEST_F(StoreRemovedTest, AForeignFileInThePlaceOfARunAtRestStaysAndTheRunGoesOnElsewhere) {
  OpenStore();
  Fill(key_, 7, kSteps);
  Reopen();
  sqlite3* db = nullptr;
  const std::string beside = dir_.path() + "/foreign";
  ASSERT_EQ(sqlite3_open(beside.c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "CREATE TABLE a (b); INSERT INTO a VALUES (1)", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  const std::string foreign = Slurp(beside);
  fs::rename(beside, file(key_));
  Begin(key_);
  Put(Series("s3"), 90'000, 0.5);
  Flush();
  ExpectNewOne(90'000);
  EXPECT_EQ(Said("run_file_removed"), 1u);
  EXPECT_EQ(Said("store_failing"), 0u) << TextOf("store_failing");
  EXPECT_EQ(store_->Counters().waiting, 0u);
  Reopen();
  ExpectNewOne(90'000);
  EXPECT_EQ(Slurp(file(key_)), foreign);
  EXPECT_TRUE(fs::exists(folder() + "/live.a0.r0.2.run"));
  store_.reset();
}

// A database of another program, with a row that is in its log alone.
void MakeForeign(const std::string& path) {
  sqlite3* db = nullptr;
  const std::string made = path + ".made";
  ASSERT_EQ(sqlite3_open(made.c_str(), &db), SQLITE_OK);
  ASSERT_EQ(
      sqlite3_exec(
          db,
          "PRAGMA journal_mode = WAL; CREATE TABLE a (b); PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO a VALUES (1)",
          nullptr, nullptr, nullptr),
      SQLITE_OK);
  Spill(path, Slurp(made));
  Spill(path + "-wal", Slurp(made + "-wal"));
  sqlite3_close(db);
}
int RowsOf(const std::string& path) {
  sqlite3* db = nullptr;
  int rows = -1;
  auto take = [](void* at, int, char** texts, char**) { return *static_cast<int*>(at) = std::stoi(texts[0]), 0; };
  EXPECT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(db, "SELECT count(*) FROM a", take, &rows, nullptr), SQLITE_OK) << sqlite3_errmsg(db);
  sqlite3_close(db);
  return rows;
}

TEST_F(StoreRemovedTest, TheLogOfAForeignFileInItsPlaceIsLeftToIt) {
  OpenStore();
  Fill(key_, 7, 100);
  const std::string beside = dir_.path() + "/foreign";
  MakeForeign(beside);
  fs::rename(beside + "-wal", path() + "-wal");
  fs::rename(beside, path());
  Put(Series("s3"), 90'000, 0.5);
  Flush();
  EXPECT_EQ(Said("run_file_removed"), 1u);
  ExpectNewOne(90'000);
  store_.reset();
  EXPECT_EQ(RowsOf(path()), 1);
}

TEST_F(StoreRemovedTest, ToDeleteARunDeletesNoForeignFileThatTookItsPlace) {
  TwoRuns();
  OpenStore();
  const RunKey bad{"bad", 0, 0};
  const std::string beside = dir_.path() + "/foreign";
  MakeForeign(beside);
  ASSERT_EQ(RowsOf(beside), 1);
  const std::string foreign = Slurp(beside);
  fs::rename(beside, file(bad));
  const Status removed = store_->DeleteRun(bad);
  ASSERT_FALSE(removed.ok());
  EXPECT_EQ(removed.error().code, ErrorCode::kNotFound);
  EXPECT_NE(removed.error().text.find("another program"), std::string::npos) << removed.error().text;
  EXPECT_EQ(Slurp(file(bad)), foreign);
  EXPECT_EQ(store_->ListRuns()->size(), 1u);
  EXPECT_EQ(Said("run_file_removed"), 1u);
  store_.reset();
}

TEST_F(StoreRemovedTest, ToDeleteARunDeletesNothingThatIsNoDatabase) {
  const std::string text(5'000, 'x');
  for (const bool moved : {true, false}) {
    TwoRuns();
    OpenStore();
    const RunKey bad{"bad", 0, 0};
    const std::string beside = dir_.path() + "/archive";
    Spill(beside, text);
    if (moved) {
      fs::rename(beside, file(bad));
    } else {
      fs::remove(file(bad));  // what is made now may get its number
      Spill(file(bad), text);
    }
    const Status removed = store_->DeleteRun(bad);
    ASSERT_FALSE(removed.ok());
    EXPECT_EQ(removed.error().code, ErrorCode::kNotFound) << removed.error().text;
    EXPECT_EQ(Slurp(file(bad)), text);
    EXPECT_EQ(store_->ListRuns()->size(), 1u);
    store_.reset();
    fs::remove_all(dir_.path() + "/data");
  }
}

TEST_F(StoreRemovedTest, RetentionDeletesNothingThatIsNoDatabase) {
  TwoRuns();
  const std::string text(5'000, 'x');
  OpenStore();
  const uint64_t bytes = store_->store_bytes();
  store_.reset();
  const std::string bad = file({"bad", 0, 0});
  options_.bytes_max = bytes;
  OpenStore();
  Spill(dir_.path() + "/archive", text);
  fs::rename(dir_.path() + "/archive", bad);
  // It is the oldest, and does not fit.
  Begin({"live", 0, 0}, 9);
  const uint32_t a = Series("a");
  for (uint64_t step = 0; step < 40'000; ++step) Put(a, step, ValueOf("a", step));
  Flush();
  EXPECT_TRUE(Eventually([&] { return Said("run_file_removed") + Said("run_retired") > 0; }));
  EXPECT_EQ(Slurp(bad), text);
  store_.reset();
}

TEST_F(StoreRemovedTest, ABrokenFileThatIsOursIsDeletedWithItsRun) {
  TwoRuns();
  OpenStore();
  const RunKey bad{"bad", 0, 0};
  { std::ofstream broken(file(bad), std::ios::trunc); broken << std::string(9'000, 'x'); }
  const Status removed = store_->DeleteRun(bad);
  EXPECT_TRUE(removed.ok()) << removed.error().text;
  EXPECT_FALSE(fs::exists(file(bad)));
  store_.reset();
}

TEST_F(StoreRemovedTest, ToDeleteARunDeletesNoDatabaseThatAnotherProgramHasLocked) {
  TwoRuns();
  OpenStore();
  const RunKey bad{"bad", 0, 0};
  MakeForeign(dir_.path() + "/foreign");
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open((dir_.path() + "/foreign").c_str(), &db), SQLITE_OK);
  // With a write-ahead log it could be read all the same.
  ASSERT_EQ(sqlite3_exec(db, "PRAGMA journal_mode = DELETE", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  fs::rename(dir_.path() + "/foreign", file(bad));
  Locker locker(file(bad));
  EXPECT_FALSE(store_->DeleteRun(bad).ok());
  EXPECT_TRUE(fs::exists(file(bad)));
  store_.reset();
}

TEST_F(StoreRemovedTest, WhatCannotBeReadNowIsNotDeletedAndTheRunStays) {
  TwoRuns();
  OpenStore();
  const RunKey bad{"bad", 0, 0};
  MakeForeign(dir_.path() + "/foreign");
  ASSERT_EQ(RowsOf(dir_.path() + "/foreign"), 1);
  fs::rename(dir_.path() + "/foreign", file(bad));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{3, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const Status removed = store_->DeleteRun(bad);
  const auto runs = store_->ListRuns();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_FALSE(removed.ok());
  EXPECT_EQ(removed.error().code, ErrorCode::kSystem) << removed.error().text;
  EXPECT_EQ(runs->size(), 2u);
  EXPECT_TRUE(fs::exists(file(bad)));
  EXPECT_EQ(store_->DeleteRun(bad).error().code, ErrorCode::kNotFound);
  EXPECT_TRUE(fs::exists(file(bad)));
  store_.reset();
}

TEST_F(StoreRemovedTest, WhatIsNoDatabaseInThePlaceOfARunIsNotCalledItsBrokenFile) {
  OpenStore();
  Fill(key_, 7, kSteps);
  Reopen();
  const std::string text(5'000, 'x');
  Spill(dir_.path() + "/archive", text);
  fs::rename(dir_.path() + "/archive", path());
  Begin(key_);
  Put(Series("s3"), 90'000, 0.5);
  Flush();
  ExpectNewOne(90'000);
  EXPECT_EQ(Said("run_file_broken"), 0u) << TextOf("run_file_broken");
  EXPECT_EQ(Said("run_file_removed"), 1u);
  EXPECT_EQ(Slurp(path()), text);
  EXPECT_FALSE(fs::exists(path() + ".broken-1"));
  store_.reset();
}

TEST_F(StoreRemovedTest, TheLogOfAnEndedRunThatIsOpenDoesNotMakeAForeignFileIts) {
  OpenStore();
  Fill(key_, 7, 100);
  // A reader keeps the log from being folded and cut.
  sqlite3* reader = nullptr;
  ASSERT_EQ(sqlite3_open_v2(path().c_str(), &reader, SQLITE_OPEN_READWRITE, "unix-excl"), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(reader, "BEGIN; SELECT count(*) FROM log", nullptr, nullptr, nullptr), SQLITE_OK)
      << sqlite3_errmsg(reader);
  for (uint64_t step = 100; step < 200; ++step) Put(Series("s3"), step, ValueOf("s3", step));
  ProducerStatus status;
  status.info = Producer(key_);
  status.state = RunState::kFinished;
  store_->SaveProducer(status);
  Flush();
  MakeForeign(dir_.path() + "/foreign");
  ASSERT_EQ(RowsOf(dir_.path() + "/foreign"), 1);
  const std::string foreign = Slurp(dir_.path() + "/foreign");
  fs::rename(dir_.path() + "/foreign", path());
  EXPECT_FALSE(store_->DeleteRun(key_).ok());
  ASSERT_TRUE(fs::exists(path()));
  EXPECT_EQ(Slurp(path()), foreign);
  EXPECT_EQ(RowsOf(path()), 1);
  EXPECT_TRUE(store_->ListRuns()->empty());
  sqlite3_close(reader);
  store_.reset();
}

TEST_F(StoreRemovedTest, ARunThatIsDeletedIsNotSaidToGoOnWhateverWaitsOfIt) {
  Gate gate;
  const RunKey bad{"bad", 0, 0};
  options_.on_committed = [&](const RunKey& run, uint64_t) {
    if (run == key_) gate.Pass();
  };
  TwoRuns();
  OpenStore();
  Begin(key_, 9);
  Flush();
  gate.Close();
  Put(Series("a"), 1, 1, 5);
  ASSERT_TRUE(Eventually([&] { return gate.Waits(); }));
  auto last = std::make_shared<Batch>();
  last->events.push_back(EventOf("last", bad));
  store_->Offer(last);
  MakeForeign(dir_.path() + "/foreign");
  ASSERT_EQ(RowsOf(dir_.path() + "/foreign"), 1);
  fs::rename(dir_.path() + "/foreign", file(bad));
  const Status removed = store_->DeleteRun(bad);
  EXPECT_FALSE(removed.ok());
  const auto runs = store_->FindRuns("bad");
  gate.Open();
  EXPECT_EQ(removed.error().code, ErrorCode::kNotFound) << removed.error().text;
  EXPECT_TRUE(runs->empty());
  EXPECT_EQ(RowsOf(file(bad)), 1);
  ASSERT_EQ(Said("run_file_removed"), 1u);
  EXPECT_NE(TextOf("run_file_removed").find("not listed any more"), std::string::npos) << TextOf("run_file_removed");
  store_.reset();
}

TEST_F(StoreRemovedTest, ToDeleteARunDeletesNoFileOfAnotherRun) {
  TwoRuns();
  OpenStore();
  const RunKey bad{"bad", 0, 0}, good{"good", 0, 0};
  fs::rename(file(good), file(bad));
  ASSERT_FALSE(store_->DeleteRun(bad).ok());
  EXPECT_TRUE(fs::exists(file(bad)));
  store_.reset();
  auto alone = StoredRuns::Open(file(bad));
  ASSERT_TRUE(alone.ok()) << alone.error().text;
  bool failed = false;
  EXPECT_EQ(ReadIsRight(**alone, "good", &failed), kValues);
}

TEST_F(StoreRemovedTest, WhoHearsOfItFindsTheEventListedAndTheRunGone) {
  std::atomic<Store*> store{nullptr};
  std::atomic<int> listed{-1}, runs{-1};
  options_.on_event = [&](const Event& heard) {
    Store* asked = store;
    if (!asked || heard.kind != "run_file_removed") return;
    const auto events = asked->ListEvents({});
    runs = static_cast<int>(asked->ListRuns()->size());
    listed = static_cast<int>(
        std::count_if(events->begin(), events->end(), [&](const Event& e) { return e.id == heard.id; }));
  };
  TwoRuns();
  OpenStore();
  store = store_.get();
  fs::remove(file({"bad", 0, 0}));
  ASSERT_TRUE(Eventually([&] { return listed >= 0; }));
  EXPECT_EQ(listed, 1) << "who hears an event finds it in the list";
  EXPECT_EQ(runs, 1) << "and what it says is so";
  store = nullptr;
  store_.reset();
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
  EXPECT_EQ(store_->LoadProgress(key_)->done_seq, 900u);
  store_.reset();
}

}  // namespace
}  // namespace ikkuna::sinks
