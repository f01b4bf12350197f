// What goes wrong with disks and files costs the run that it concerns, and is said.
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cctype>
#include <fstream>
#include <mutex>
#include <random>
#include <set>

#include "tests/daemon/sinks/store_faults_fixture.h"

namespace ikkuna::sinks {
namespace {

TEST_F(StoreFaultsTest, BytesFlippedAnywhereNeverShowAWrongNumberAndCostThatRunAlone) {
  const std::string whole = TwoRuns();
  ASSERT_GT(whole.size(), 100'000u);
  std::mt19937_64 random{11};
  int said = 0, lost = 0;
  for (int i = 0; i < 60; ++i) {
    std::string broken = whole;
    // Some in the first pages, where the tables are described.
    const size_t at = i < 15 ? random() % 8'192 : random() % broken.size();
    SCOPED_TRACE("byte " + std::to_string(at));
    broken[at] = static_cast<char>(broken[at] ^ (1 + random() % 255));
    Spill(file({"bad", 0, 0}), broken);
    bool told = false;
    const uint64_t read = LookAtAll(&told);
    EXPECT_LE(read, kValues);
    if (read < kValues) { EXPECT_TRUE(told) << read; }
    said += told ? 1 : 0;
    lost += read < kValues ? 1 : 0;
    if (HasFailure()) return;
    // What follows begins with the same good file.
    fs::remove(file({"bad", 0, 0}) + "-wal");
    for (const auto& item : fs::directory_iterator(folder())) {
      if (item.path().string().find(".broken-") != std::string::npos) fs::remove(item.path());
    }
  }
  // Most of the file is numbers: most flips are seen.
  EXPECT_GT(lost, 20);
  EXPECT_GT(said, 20);
}

void ListsOneAndLacksOne(Recorded& recorded) {
  const auto page = recorded.ListSeries({});
  ASSERT_TRUE(page.ok()) << page.error().text;
  EXPECT_EQ(page->series.size(), 41u);
  ASSERT_EQ(page->unread.size(), 1u);
  EXPECT_NE(page->unread[0].find("bad"), std::string::npos) << page->unread[0];
}

// Damage that takes a row out of reach leaves nothing that looks broken: the counts miss it.
TEST_F(StoreFaultsTest, RowsThatAreHiddenAreMissed) {
  const std::string whole = TwoRuns();
  for (const std::string table : {"value", "chunk", "step", "segment", "tally", "series", "timeline"}) {
    SCOPED_TRACE(table);
    Spill(file({"bad", 0, 0}), whole);
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(file({"bad", 0, 0}).c_str(), &db), SQLITE_OK);
    const std::string hide = "DELETE FROM " + table + " WHERE rowid = (SELECT max(rowid) FROM " + table + ")";
    ASSERT_EQ(sqlite3_exec(db, hide.c_str(), nullptr, nullptr, nullptr), SQLITE_OK);
    ASSERT_EQ(sqlite3_changes(db), 1);
    sqlite3_close(db);
    {
      auto alone = StoredRuns::Open(file({"bad", 0, 0}));
      ASSERT_TRUE(alone.ok()) << alone.error().text;
      bool failed = false;
      EXPECT_LT(ReadIsRight(**alone, "bad", &failed), kValues);
      EXPECT_TRUE(failed);
    }
    if (table == "timeline") {
      // Its list of series cannot be read at all: a list of all says what it lacks.
      auto all = StoredRuns::Open(dir_.path() + "/data");
      ASSERT_TRUE(all.ok()) << all.error().text;
      ListsOneAndLacksOne(**all);
      OpenStore();
      ListsOneAndLacksOne(*store_);
      store_.reset();
      break;
    }
    bool told = false;
    EXPECT_LT(LookAtAll(&told), kValues);
    EXPECT_TRUE(told);
  }
}

// Numbers that nobody asked for are not looked at: they cost neither time nor what is asked for.
TEST_F(StoreFaultsTest, TextsAreReadWithoutTheNumbersOfTheirRun) {
  TwoRuns();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(file({"bad", 0, 0}).c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "UPDATE chunk SET heads = x'00'", nullptr, nullptr, nullptr), SQLITE_OK);
  ASSERT_GT(sqlite3_changes(db), 0);
  sqlite3_close(db);
  OpenStore();
  ReadQuery query;
  query.filter.run = "bad";
  query.types = {ValueType::kText};
  size_t texts = 0;
  for (const SeriesColumns& part : ReadFrom(*store_, query)) texts += part.others.size();
  EXPECT_EQ(texts, kSteps / 10);
  EXPECT_EQ(Said("run_file_broken"), 0u);
  bool failed = false;
  EXPECT_LT(ReadIsRight(*store_, "bad", &failed), kValues);
  EXPECT_TRUE(failed);
}

TEST_F(StoreFaultsTest, FilesCutOffAnywhereCostThatRunAlone) {
  const std::string whole = TwoRuns();
  const size_t pages = whole.size() / 4096;
  for (size_t page = 0; page < pages; page += 1 + pages / 24) {
    for (const size_t more : {size_t{0}, size_t{1'000}}) {
      SCOPED_TRACE(page * 4096 + more);
      Spill(file({"bad", 0, 0}), whole.substr(0, page * 4096 + more));
      bool told = false;
      EXPECT_LT(LookAtAll(&told), kValues);
      EXPECT_TRUE(told);
      if (HasFailure()) return;
    }
  }
}

TEST_F(StoreFaultsTest, EmptyAndForeignFilesAreLeftAndSaid) {
  TwoRuns();
  Spill(folder() + "/empty.a0.r0.run", "");
  Spill(folder() + "/text.a0.r0.run", std::string(10'000, 'x'));
  fs::create_directory(folder() + "/folder.a0.r0.run");
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open((folder() + "/other.a0.r0.run").c_str(), &db), SQLITE_OK);
  sqlite3_exec(db, "CREATE TABLE a (b); INSERT INTO a VALUES (1)", nullptr, nullptr, nullptr);
  sqlite3_close(db);
  const std::string other = Slurp(folder() + "/other.a0.r0.run");
  OpenStore();
  EXPECT_EQ(Said("run_unreadable"), 3u);  // nothing was ever in the empty one
  EXPECT_EQ(store_->ListRuns()->size(), 2u);
  // A run of that name gets another file.
  Begin({"other", 0, 0}, 9);
  Put(Series("a"), 1, 5);
  Begin({"text", 0, 0}, 10);
  Put(Series("a"), 1, 6);
  Flush();
  EXPECT_EQ(Slurp(folder() + "/other.a0.r0.run"), other);
  EXPECT_TRUE(fs::exists(folder() + "/other.a0.r0.2.run"));
  EXPECT_EQ(Slurp(folder() + "/text.a0.r0.run"), std::string(10'000, 'x'));
  EXPECT_TRUE(fs::exists(folder() + "/text.a0.r0.2.run"));
  EXPECT_EQ(store_->Counters().dropped, 0u);
  Reopen();
  EXPECT_EQ(store_->ListRuns()->size(), 4u);
}

TEST_F(StoreFaultsTest, ManyFilesThatAreLeftForOneReasonAreOneEvent) {
  TwoRuns();
  for (int i = 0; i < 9; ++i) Spill(folder() + "/text" + std::to_string(i) + ".a0.r0.run", std::string(10'000, 'x'));
  OpenStore();
  EXPECT_EQ(Said("run_unreadable"), 1u);
  EXPECT_TRUE(TextOf("run_unreadable").starts_with("9 files of runs, '" + folder() + "/text")) << TextOf("run_unreadable");
  store_.reset();
}

TEST_F(StoreFaultsTest, AFileThatBreaksWhileItIsWrittenIsSetAsideAndTheRunGoesOn) {
  OpenStore();
  Fill({"good", 0, 0}, 7, kSteps);
  Fill({"bad", 0, 0}, 7, 5'000);
  ASSERT_TRUE(store_->TagRun({"bad", 0, 0}, {"kept"}, {}).ok());
  Reopen();
  Begin({"bad", 0, 0});
  {
    // All pages but the first: what the store reads next is nonsense.
    const int fd = ::open(file({"bad", 0, 0}).c_str(), O_RDWR | O_CLOEXEC);
    const off_t size = ::lseek(fd, 0, SEEK_END);
    const std::string junk(static_cast<size_t>(size) - 4096, '\x5a');
    ASSERT_EQ(::pwrite(fd, junk.data(), junk.size(), 4096), static_cast<ssize_t>(junk.size()));
    ::close(fd);
  }
  const uint32_t a = Series("s0");
  uint64_t step = 10'000;
  ASSERT_TRUE(Eventually([&] {
    for (int n = 0; n < 1'000; ++n, ++step) Put(a, step, ValueOf("s0", step));
    Flush();
    return Said("run_file_broken") == 1;
  }));
  for (uint64_t n = 0; n < 400; ++n) Put(a, step + n, ValueOf("s0", step + n));
  Flush();
  EXPECT_TRUE(fs::exists(file({"bad", 0, 0}) + ".broken-1"));
  // What was in it is counted: every value that was offered is there, or under its reason.
  const uint64_t lost = DropsFor(store_->Counters(), "file_broken");
  const RunInfo listed = store_->FindRuns("bad")->front();
  uint64_t unrecorded = 0;
  for (const Count& count : listed.unrecorded) unrecorded += count.reason == "file_broken" ? count.count : 0;
  EXPECT_EQ(listed.values + unrecorded, 5'000u * 40 + 500 + (step - 10'000) + 400);
  EXPECT_EQ(unrecorded, 5'000u * 40 + 500 + lost);
  EXPECT_NE(TextOf("run_file_broken").find("the " + std::to_string(unrecorded) + " values"), std::string::npos)
      << TextOf("run_file_broken");
  ExpectIdentity(store_->Counters());
  ReadQuery query;
  query.filter.run = "bad";
  query.step_min = step;
  EXPECT_EQ(ReadOne("s0", query).steps.size(), 400u);
  EndRun(RunState::kFinished, {"bad", 0, 0});
  const SeriesColumns read = ReadOne("s0", query);
  ASSERT_EQ(read.steps.size(), 400u);
  EXPECT_EQ(read.numbers.back(), ValueOf("s0", step + 399));
  const auto runs = store_->FindRuns("bad");
  ASSERT_EQ(runs->size(), 1u);
  EXPECT_EQ(runs->front().tags, std::vector<std::string>{"kept"});
  bool failed = false;
  EXPECT_EQ(ReadIsRight(*store_, "good", &failed), kValues);
  EXPECT_FALSE(failed);
}

TEST_F(StoreFaultsTest, AFullDiskIsWaitedForAndNothingThatWasCommittedIsLost) {
  SmallDisk disk(dir_.path() + "/data", 6);
  if (!disk.mounted()) GTEST_SKIP() << "NOT TESTED: no file system can be mounted here";
  options_.tail_bytes_max = 2 << 20;
  OpenAndBegin();
  const std::string ballast = dir_.path() + "/data/ballast";
  Spill(ballast, std::string(3 << 20, 'b'));
  std::vector<uint32_t> ids;
  for (int i = 0; i < 200; ++i) ids.push_back(Series("s" + std::to_string(i)));
  uint64_t step = 0, committed = 0;
  auto some = [&](int steps) {
    for (int n = 0; n < steps; ++n, ++step) {
      std::vector<Sample> samples;
      for (size_t i = 0; i < ids.size(); ++i) samples.push_back({ids[i], 0, ValueOf("s" + std::to_string(i), step)});
      auto batch = BatchOf(run_, step, std::move(samples));
      batch->progress = Progress{step + 1, 0, 0};
      store_->Offer(batch);
    }
  };
  // Until nothing goes any more.
  ASSERT_TRUE(Eventually([&] {
    some(200);
    (void)store_->Flush(Soon());
    committed = store_->LoadProgress(kRun)->done_seq;
    return Said("store_failing") > 0 && committed < step;
  }));
  EXPECT_NE(TextOf("store_failing").find("full"), std::string::npos) << TextOf("store_failing");
  // Readers are answered meanwhile.
  EXPECT_GE(ReadOne("s0").steps.size(), committed);
  some(20'000);  // more than the queue takes: dropped under a name
  const SinkCounters counters = store_->Counters();
  ExpectIdentity(counters);
  EXPECT_GT(DropsFor(counters, "disk"), 0u);
  fs::remove(ballast);
  ASSERT_TRUE(Eventually([&] { return store_->LoadProgress(kRun)->done_seq > committed; }));
  ASSERT_TRUE(Eventually([&] { return Said("store_recovered") > 0; }));
  store_->Close();
  run_.reset();
  store_.reset();
  OpenStore();
  const SeriesColumns read = ReadOne("s7");
  ASSERT_GE(read.steps.size(), committed);
  for (uint64_t i = 0; i < committed; ++i) {
    ASSERT_EQ(read.steps[i], i);
    ASSERT_EQ(read.numbers[i], ValueOf("s7", i));
  }
  store_.reset();
}

TEST_F(StoreFaultsTest, ARunWhoseFileTakesNothingHasItsShareOfTheQueueAndOthersAreRecorded) {
  OpenStore();
  std::vector<RunPtr> bad;
  std::vector<uint32_t> series;
  for (const char* id : {"bad-1", "bad-2", "bad-3"}) {
    fs::create_directory(file({id, 0, 0}) + "-wal");  // it can have no log, and is tried again
    Begin({id, 0, 0}, static_cast<unsigned char>(1 + bad.size()));
    series.push_back(Series("a"));
    bad.push_back(run_);
  }
  ASSERT_EQ(Said("store_failing"), 3u);
  Begin({"good", 0, 0}, 9);
  const uint32_t a = Series("a");
  constexpr uint64_t kMany = Store::kBatchesQueuedMax;
  for (uint64_t step = 0; step < kMany; ++step) {
    for (size_t i = 0; i < bad.size(); ++i) store_->Offer(BatchOf(bad[i], step, {{series[i], 0, 1}}));
  }
  for (uint64_t step = 0; step < 1'000; ++step) Put(a, step, ValueOf("a", step));
  ASSERT_TRUE(Eventually([&] { return store_->Counters().written == 1'000; }));
  SinkCounters counters = store_->Counters();
  ExpectIdentity(counters);
  EXPECT_EQ(DropsFor(counters, "queue_full"), 0u);
  EXPECT_LE(counters.waiting, Store::kBatchesQueuedMax / 2);
  EXPECT_GT(counters.waiting, Store::kBatchesQueuedMax / 2 - 10);  // events wait beside them
  EXPECT_EQ(DropsFor(counters, "disk"), 3 * kMany - counters.waiting);
  // What had its share is there when its disk is.
  for (const char* id : {"bad-1", "bad-2", "bad-3"}) fs::remove(file({id, 0, 0}) + "-wal");
  ASSERT_TRUE(Eventually([&] { return store_->Counters().waiting == 0; }));
  ReadQuery query;
  query.filter.run = "bad-1";
  EXPECT_GT(ReadOne("a", query).steps.size(), Store::kBatchesQueuedMax / 8);
  EXPECT_EQ(DropsFor(store_->Counters(), "disk"), DropsFor(counters, "disk"));
}

TEST_F(StoreFaultsTest, ARunWhoseFileFailsWithAFullQueueGivesItBack) {
  OpenStore();
  Begin({"bad", 0, 0}, 1);
  const RunPtr bad = run_;
  const uint32_t b = Series("a");
  Begin({"good", 0, 0}, 9);
  // Its file goes, and what takes its place cannot be read: what was in it and what was to come are in the queue's
  // account. In one step, or the store would have made a new one in between.
  const std::string locked = dir_.path() + "/locked";
  const Locker locker(locked);
  ASSERT_EQ(::renameat2(AT_FDCWD, locked.c_str(), AT_FDCWD, file({"bad", 0, 0}).c_str(), RENAME_EXCHANGE), 0);
  const uint32_t a = Series("a");
  uint64_t bad_step = 0, step = 0;
  const auto until = Soon();
  // Its upkeep may fail first, and say so, while the queue is full still.
  const auto gives_back = [&] {
    const std::vector<std::string> texts = TextsOf("store_failing");
    return std::any_of(texts.begin(), texts.end(),
                       [](const std::string& text) { return text.starts_with("What is recorded"); });
  };
  while (!gives_back() && std::chrono::steady_clock::now() < until) {
    store_->Offer(BatchOf(bad, bad_step++, {{b, 0, 1}}));
    // Once the queue is full the store shall come to its lock and to a processor.
    if (bad_step > Store::kBatchesQueuedMax) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ASSERT_TRUE(gives_back());
  const uint64_t full_before = DropsFor(store_->Counters(), "queue_full");
  for (; step < 1'000; ++step) Put(a, step, 1);
  ReadQuery query;
  query.filter.run = "good";
  ASSERT_TRUE(Eventually([&] { return ReadOne("a", query).steps.size() == 1'000; }));
  EXPECT_TRUE(Eventually([&] { return store_->Counters().waiting <= Store::kBatchesQueuedMax / 4; }));
  const SinkCounters counters = store_->Counters();
  ExpectIdentity(counters);
  EXPECT_EQ(DropsFor(counters, "queue_full"), full_before);
}

TEST_F(StoreFaultsTest, ASmallDiskIsPausedBeforeItIsFull) {
  SmallDisk disk(dir_.path() + "/data", 12);
  if (!disk.mounted()) GTEST_SKIP() << "NOT TESTED: no file system can be mounted here";
  options_.free_bytes_pause = 3 << 20;
  OpenAndBegin();
  std::vector<uint32_t> ids;
  for (int i = 0; i < 100; ++i) ids.push_back(Series("s" + std::to_string(i)));
  // Most of it is full of something else, so that not much is to be written.
  const std::string disk_path = dir_.path() + "/data";
  Flush();
  Spill(disk_path + "/ballast", std::string(fs::space(disk_path).available - options_.free_bytes_pause - (1 << 20), 'b'));
  uint64_t step = 0;
  // At the store's own pace, which looks at what is free once a second: some each time that it is there to look.
  while (!store_->GetStatus().paused) {
    for (int n = 0; n < 4; ++n, ++step) {
      std::vector<Sample> samples;
      for (size_t i = 0; i < ids.size(); ++i) samples.push_back({ids[i], 0, ValueOf("s" + std::to_string(i), step)});
      store_->Offer(BatchOf(run_, step, std::move(samples)));
    }
    Flush();
    ASSERT_GT(fs::space(disk_path).available, uint64_t{1} << 20) << "nobody looks at what is free";
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  Flush();
  EXPECT_EQ(store_->GetStatus().file_system, "tmpfs");
  EXPECT_EQ(Said("store_failing"), 0u) << TextOf("store_failing");
  EXPECT_GT(store_->Counters().written, 0u);
  store_.reset();
}

TEST_F(StoreFaultsTest, AReadOnlyDiskIsWaitedForRefusedAtTheStartAndReadWithoutADaemon) {
  SmallDisk disk(dir_.path() + "/data", 32);
  if (!disk.mounted()) GTEST_SKIP() << "NOT TESTED: no file system can be mounted here";
  OpenStore();
  Fill({"done", 0, 0}, 7, kSteps);
  EndRun(RunState::kFinished, {"done", 0, 0});
  Fill({"live", 0, 0}, 2, kSteps);
  // Files that are open for writing keep it from being read-only: the store goes, but for what it was told.
  run_.reset();
  store_.reset();
  ASSERT_TRUE(disk.Remount(true));
  auto refused = Store::Open(options_);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().text.find("Read-only file system"), std::string::npos) << refused.error().text;
  EXPECT_NE(refused.error().text.find("--data-dir"), std::string::npos) << refused.error().text;
  auto alone = StoredRuns::Open(dir_.path() + "/data");
  ASSERT_TRUE(alone.ok()) << alone.error().text;
  for (const std::string& one : (*alone)->unread()) ADD_FAILURE() << one;
  for (const char* run : {"done", "live"}) {
    bool failed = false;
    EXPECT_EQ(ReadIsRight(**alone, run, &failed), kValues) << run;
    EXPECT_FALSE(failed) << run;
  }
  EXPECT_FALSE((*alone)->ListEvents({})->empty());
  alone->reset();
  ASSERT_TRUE(disk.Remount(false));
  OpenStore();
  EXPECT_EQ(store_->ListRuns()->size(), 2u);
  store_.reset();
}

TEST_F(StoreFaultsTest, ALimitOnTheSizeOfFilesIsAFullDisk) {
  const std::string report = dir_.path() + "/report";
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1 << 20, 1 << 20};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    int code = 1;
    {
      OpenAndBegin();
      std::vector<uint32_t> ids;
      for (int i = 0; i < 100; ++i) ids.push_back(Series("s" + std::to_string(i)));
      for (uint64_t step = 0; step < 4'000; ++step) {
        std::vector<Sample> samples;
        for (size_t i = 0; i < ids.size(); ++i) samples.push_back({ids[i], 0, ValueOf("s" + std::to_string(i), step)});
        store_->Offer(BatchOf(run_, step, std::move(samples)));
      }
      (void)store_->Flush(Soon());
      const SinkCounters counters = store_->Counters();
      if (Said("store_failing") > 0 && counters.offered == counters.written + counters.dropped + counters.waiting) code = 0;
      store_->Close();
    }
    ::_exit(code);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(StoreFaultsTest, AFileThatAnotherProgramLocksIsWaitedFor) {
  TwoRuns();
  OpenStore();  // the catalogue knows both, whatever was on its way when the first store closed
  store_.reset();
  auto locker = std::make_unique<Locker>(file({"bad", 0, 0}));
  OpenStore();  // from the catalogue
  ASSERT_EQ(store_->ListRuns()->size(), 2u);
  // Nobody knows the ids that its series have: its producer comes again.
  auto run = store_->Begin(Producer({"bad", 0, 0}));
  ASSERT_FALSE(run.ok());
  EXPECT_EQ(run.error().code, ErrorCode::kUnavailable) << run.error().text;
  EXPECT_EQ(Said("store_failing"), 1u);
  Begin({"good", 0, 0});
  Put(Series("s0"), 90'000, 1);
  // The other is not held up.
  ASSERT_TRUE(Eventually([&] { return store_->Counters().written == 1; }));
  locker.reset();
  ASSERT_TRUE(Eventually([&] { return store_->Begin(Producer({"bad", 0, 0})).ok(); }));
  EXPECT_TRUE(Eventually([&] { return Said("store_recovered") == 1; }));
}

TEST_F(StoreFaultsTest, AFileThatIsBusyWhenTheStoreOpensIsTriedAgainAndGoneOnWith) {
  OpenStore();
  const RunKey key{"bad", 0, 0};
  Fill(key, 7, 200);
  ASSERT_TRUE(store_->ExportFile(key, folder() + "/bad.a0.r0.copy.run").ok());
  Put(Series("s3"), 300, ValueOf("s3", 300), 301);
  Flush();
  const uint32_t id = Series("s3");
  run_.reset();
  store_.reset();
  auto locker = std::make_unique<Locker>(file(key));
  fs::remove(folder() + "/catalogue.db");  // which would know it
  OpenStore();
  // Neither the copy nor a new file takes its place.
  EXPECT_TRUE(store_->ListRuns()->empty());
  ASSERT_EQ(Said("run_unreadable"), 2u);
  for (int i = 0; i < 2; ++i) {
    auto refused = store_->Begin(Producer(key));
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, ErrorCode::kUnavailable) << refused.error().text;
  }
  Begin({"other", 0, 0}, 9);
  Put(Series("a"), 1, 1);
  Flush();
  EXPECT_EQ(store_->Counters().written, 1u);
  EXPECT_TRUE(store_->TakeFound().empty());
  locker.reset();
  ASSERT_TRUE(Eventually([&] { return Said("run_readable") == 1; }));
  // Whoever numbers runs, and shows who goes on, hears of it.
  const auto found = store_->TakeFound();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].info.run_key, key);
  EXPECT_EQ(found[0].state, RunState::kDisconnected);
  EXPECT_EQ(found[0].handled, 301u);
  EXPECT_TRUE(store_->TakeFound().empty());
  Begin(key);
  EXPECT_EQ(store_->LoadProgress(key)->done_seq, 301u);
  EXPECT_EQ(Series("s3"), id);
  EXPECT_EQ(ReadOne("s3").steps.size(), 201u);
  EXPECT_FALSE(fs::exists(folder() + "/bad.a0.r0.2.run"));
  // Ids of events go on above those of the file that came late.
  EXPECT_GT(store_->TakeEventId(), store_->ListEvents({})->back().id);
  std::set<uint64_t> ids;
  EventQuery all;
  all.limit = 10'000;
  const auto events = store_->ListEvents(all);
  for (const Event& event : *events) ids.insert(event.id);
  EXPECT_EQ(ids.size(), 2u + Said("run_unreadable") + Said("run_readable"));
}

TEST_F(StoreFaultsTest, OnAFullDiskARunCanBeDeleted) {
  SmallDisk disk(dir_.path() + "/data", 8);
  if (!disk.mounted()) GTEST_SKIP() << "NOT TESTED: no file system can be mounted here";
  TwoRuns();
  OpenStore();
  Spill(dir_.path() + "/data/ballast", std::string(8 << 20, 'b'));  // as much as there is
  ASSERT_LT(fs::space(dir_.path() + "/data").available, 4096u);
  Status removed = store_->DeleteRun({"bad", 0, 0});
  EXPECT_TRUE(removed.ok()) << removed.error().text;
  EXPECT_FALSE(fs::exists(file({"bad", 0, 0})));
  EXPECT_GT(fs::space(dir_.path() + "/data").available, 100'000u);
  const uint64_t id = store_->TakeEventId();
  store_.reset();
  // With the run went the highest ids of events: they do not come again.
  fs::remove(dir_.path() + "/data/ballast");
  OpenStore();
  EXPECT_GT(store_->TakeEventId() + 1, id);
  store_.reset();
}

TEST_F(StoreFaultsTest, WhatTheFileRefusesIsFoundAndDroppedAlone) {
  OpenAndBegin();
  const uint32_t a = Series("a");
  std::vector<uint32_t> many;
  for (int i = 0; i < 4'000; ++i) many.push_back(Series("m" + std::to_string(i)));
  Put(a, 1, 1);
  Flush();
  run_.reset();
  store_.reset();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(file().c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db,
                         "CREATE TRIGGER no BEFORE INSERT ON log WHEN length(NEW.frames) > 20000 BEGIN SELECT "
                         "RAISE(ABORT, 'too much'); END",
                         nullptr, nullptr, nullptr),
            SQLITE_OK);
  sqlite3_close(db);
  OpenStore();
  Begin();
  for (uint64_t step = 2; step < 40; ++step) {
    std::vector<Sample> samples{{a, 0, double(step)}};
    if (step == 17) {
      for (uint32_t id : many) samples.push_back({id, 0, ValueOf("m", id)});
    }
    auto batch = BatchOf(run_, step, std::move(samples));
    batch->progress = Progress{step, 0, 0};
    store_->Offer(batch);
  }
  Flush();
  const SeriesColumns read = ReadOne("a");
  EXPECT_EQ(read.steps.size(), 38u);
  EXPECT_EQ(std::count(read.steps.begin(), read.steps.end(), 17u), 0);
  const SinkCounters counters = store_->Counters();
  ExpectIdentity(counters);
  EXPECT_EQ(DropsFor(counters, "refused"), 4'001u);
  EXPECT_EQ(counters.waiting, 0u);
  EXPECT_EQ(store_->LoadProgress(kRun)->done_seq, 39u);
  EXPECT_EQ(Said("values_dropped"), 1u);
  EXPECT_NE(TextOf("values_dropped").find("step 17"), std::string::npos) << TextOf("values_dropped");
}

TEST_F(StoreFaultsTest, AnEventWithAnIdThatIsTakenIsDroppedAndCountedAlone) {
  OpenAndBegin();
  const uint32_t a = Series("a");
  auto batch = BatchOf(run_, 1, {{a, 0, 1}});
  for (const char* kind : {"one", "two", "three"}) {
    batch->events.push_back(EventOf(kind));
    batch->events.back().id = std::string(kind) == "three" ? 1'001 : 1'000;
  }
  store_->Offer(batch);
  Flush();
  std::string kinds;
  EventQuery query;
  query.filter.run = kRun.run_id;
  const auto events = store_->ListEvents(query);
  for (const Event& event : *events) kinds += event.kind + " ";
  EXPECT_EQ(kinds, "one three ");
  EXPECT_EQ(store_->Counters().events_dropped, 1u);
  EXPECT_EQ(ReadOne("a").steps.size(), 1u);
}

}  // namespace
}  // namespace ikkuna::sinks
