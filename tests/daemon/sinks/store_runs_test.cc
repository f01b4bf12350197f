// What becomes of whole runs, and the store in use by many: at rest, deleted, copied, closed.
#include <sqlite3.h>
#include <sys/stat.h>

#include <limits>
#include <random>

#include <fstream>

#include "daemon/sinks/run_file.h"
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
  sqlite3_stmt* statement = nullptr;
  // The log is gone a moment before the store has said so in the file, and lets go of it.
  const auto mode = [&] {
    sqlite3_close(db);
    EXPECT_EQ(sqlite3_open_v2(file().c_str(), &db, SQLITE_OPEN_READONLY, nullptr), SQLITE_OK);
    sqlite3_busy_timeout(db, 60'000);
    sqlite3_prepare_v2(db, "PRAGMA journal_mode", -1, &statement, nullptr);
    std::string read;
    if (sqlite3_step(statement) == SQLITE_ROW) read = reinterpret_cast<const char*>(sqlite3_column_text(statement, 0));
    sqlite3_finalize(statement);
    return read;
  };
  EXPECT_TRUE(Eventually([&] { return mode() == "delete"; }));
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

// The next daemon's graph, and TensorBoard behind it, know again what comes again, as the store itself does.
// Somebody deletes the folder while the daemon lives: a trainer that comes then is known, and recorded as soon as possible.
TEST_F(StoreTest, ARunThatBeginsWhenTheFolderIsGoneIsNoEnd) {
  OpenAndBegin();
  // Away at once: upkeep may put another file there meanwhile.
  std::filesystem::rename(dir_.path() + "/data/runs", dir_.path() + "/removed");
  std::filesystem::remove_all(dir_.path() + "/removed");
  EXPECT_TRUE(store_->Begin(Producer({"another", 0, 0}, 9)).ok());
  EXPECT_TRUE(store_->Begin(Producer({"another", 0, 0}, 9)).ok());
}

TEST_F(StoreTest, ARunThatComesBackSaysWhichStepsWaitToBeWritten) {
  OpenAndBegin();
  const uint32_t a = Series("a"), b = Series("b");
  Put(a, 3, 1);
  Flush();
  Put(b, 7, 1);
  Put(a, 5, 1);
  Begin();
  const Timeline timeline = run_->series().Find(a)->name.timeline;
  EXPECT_EQ(run_->recorded()->steps.at(timeline), (std::vector<uint64_t>{3, 5, 7}));
  EXPECT_EQ(run_->recorded()->next, (std::vector<uint64_t>{6, 8}));
}

TEST_F(StoreTest, WhatACommitSaysOfStepsOutlivesTheDaemon) {
  OpenAndBegin();
  auto batch = BatchOf(run_, 1, {{Series("a"), 0, 1}});
  batch->progress = Progress{30, 0, 0, 9, 9, 44, {{"critic", 2}, {"model", 7}}, {{"late", 300}, {"void", 1}}, 12};
  store_->Offer(batch);
  Flush();
  for (int i = 0; i < 2; ++i) {
    SCOPED_TRACE(i == 0 ? "from its file" : "from the catalogue");
    run_.reset();
    store_.reset();
    if (i == 0) std::filesystem::remove(dir_.path() + "/data/runs/here/catalogue.db");
    OpenStore();
    EXPECT_EQ(*store_->LoadProgress(kRun), *batch->progress);
    const auto producers = store_->LoadProducers();
    ASSERT_EQ(producers->at(0).roots.size(), 2u);
    EXPECT_EQ(producers->at(0).roots[1].steps_observed, 7u);
    EXPECT_EQ(producers->at(0).missing, (std::vector<Count>{{"late", 300}, {"void", 1}}));
  }
}

TEST_F(StoreTest, ARunThatGoesOnSaysWhichStepsItHas) {
  OpenAndBegin();
  EXPECT_TRUE(run_->recorded()->steps.empty());
  const uint32_t a = Series("a"), b = Series("b"), c = Series("c");
  for (uint64_t step = 0; step < 5000; ++step) {
    if (step != 4990) Put(a, step, double(step));
  }
  Put(b, 7, 7);
  Flush();
  for (const bool compacted : {false, true}) {
    SCOPED_TRACE(compacted);
    if (compacted) EndRun();
    Reopen();
    Begin();
    const auto recorded = run_->recorded();
    ASSERT_GE(recorded->next.size(), b);
    EXPECT_EQ(recorded->next[a - 1], 5000u);
    EXPECT_EQ(recorded->next[b - 1], 8u);
    EXPECT_TRUE(recorded->next.size() < c || recorded->next[c - 1] == 0);
    ASSERT_EQ(recorded->steps.size(), 1u);
    std::vector<uint64_t> expected;
    for (uint64_t step = 4999 - RecordedSteps::kBehindMax; step < 5000; ++step) {
      if (step != 4990) expected.push_back(step);
    }
    EXPECT_EQ(recorded->steps.begin()->second, expected);
  }
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
  std::atomic<bool> done{false};
  std::atomic<uint64_t> offered{0}, reads{0};
  std::jthread writer([&](const std::stop_token& stop) {
    for (uint64_t step = 0; !stop.stop_requested() && (step < 6000 || reads < 4); ++step) {
      // No more than the queue takes, however long the reader stands still.
      while (!stop.stop_requested() && store_->Counters().waiting > 1'000'000) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      std::vector<Sample> samples;
      for (uint32_t id : ids) samples.push_back({id, 0, double(step)});
      store_->Offer(BatchOf(run_, step, std::move(samples)));
      offered = step + 1;
      if (step % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    done = true;
  });
  while (!done) {
    const uint64_t at_least = offered;
    const SeriesColumns read = ReadOne("s" + std::to_string(reads++ % 300));
    ASSERT_GE(read.steps.size(), at_least);
    for (size_t i = 0; i < read.steps.size(); ++i) ASSERT_EQ(read.steps[i], i);
    ASSERT_GE(Info("s0")->count, at_least);
  }
  writer.join();
  Flush();
  EXPECT_EQ(store_->Counters().dropped, 0u);
  EXPECT_EQ(ReadOne("s299").steps.size(), offered);
  EXPECT_GT(reads, 3u);
}

TEST_F(StoreTest, AReaderLooksAtARunWhenItComesToIt) {
  OpenStore();
  ReadQuery query;
  for (const char* id : {"a", "b", "c"}) {
    ProducerInfo info = Producer({id, 0, 0}, static_cast<unsigned char>(id[0]));
    info.start_unix_ns = kStartNs + id[0];
    run_ = *store_->Begin(info);
    Put(Series("x"), 1, id[0]);
    Flush();
    ProducerStatus over;
    over.info = info;
    over.state = RunState::kFinished;
    store_->SaveProducer(over);
    ASSERT_TRUE(Eventually([&] { return !std::filesystem::exists(file(info.run_key) + "-wal"); }));
    query.filter.topic = "x";
  }
  auto reader = store_->Read(query);  // newest first
  ASSERT_TRUE(reader.ok());
  // One is deleted, one goes on, before it is their turn.
  ASSERT_TRUE(store_->DeleteRun({"b", 0, 0}).ok());
  ProducerInfo again = Producer({"a", 0, 0}, 'a');
  again.start_unix_ns = kStartNs + 'a';
  run_ = *store_->Begin(again);
  Put(Series("x"), 2, 7);
  std::vector<double> read;
  for (;;) {
    auto part = (*reader)->Next();
    ASSERT_TRUE(part.ok()) << part.error().text;
    if (!*part) break;
    read.insert(read.end(), (*part)->numbers.begin(), (*part)->numbers.end());
  }
  EXPECT_EQ(read, (std::vector<double>{'c', 'a', 7}));
}

TEST_F(StoreTest, OfAStatusThatIsSavedAgainOnlyWhatIsOtherIsWritten) {
  const std::string path = dir_.path() + "/one.run";
  { std::ofstream made(path); }
  auto file = RunFile::Open(path, Database::Mode::kCreate, true);
  ASSERT_TRUE(file.ok()) << file.error().text;
  sqlite3* db = (*file)->database().handle();
  ProducerStatus first;
  first.info = Producer();
  for (int i = 0; i < 200; ++i) first.info.facts.emplace_back("fact-" + std::to_string(i), "x");
  first.notes = {"a note"};
  first.drops = {{"ring_full", 3}};
  first.roots.resize(1);
  first.roots[0].name = "model";
  ASSERT_TRUE((*file)->SaveProducer(first, "here").ok());
  ProducerStatus next = first;
  ++next.handled;
  const int before = sqlite3_total_changes(db);
  ASSERT_TRUE((*file)->SaveProducer(next, "here", &first).ok());
  EXPECT_EQ(sqlite3_total_changes(db) - before, 1);
  // Each part that changes is there, and what went is gone.
  ProducerStatus last = next;
  last.info.facts.resize(2);
  last.notes = {"another", "and one more"};
  last.drops = {{"oversize", 1}};
  last.missing = {{"unnamed", 2}};
  last.roots[0].step = 17;
  last.state = RunState::kFinished;
  ASSERT_TRUE((*file)->SaveProducer(last, "here", &next).ok());
  auto head = (*file)->LoadHead();
  ASSERT_TRUE(head.ok()) << head.error().text;
  EXPECT_EQ(head->host, "here");
  EXPECT_EQ(head->producer.handled, last.handled);
  EXPECT_EQ(head->producer.info.facts, last.info.facts);
  EXPECT_EQ(head->producer.notes, last.notes);
  EXPECT_EQ(head->producer.drops, last.drops);
  EXPECT_EQ(head->producer.missing, last.missing);
  EXPECT_EQ(head->producer.state, RunState::kFinished);
  ASSERT_EQ(head->producer.roots.size(), 1u);
  EXPECT_EQ(head->producer.roots[0].step, 17u);
}

}  // namespace
}  // namespace ikkuna::sinks
