// Files of runs on their way out and in.
#include <sqlite3.h>
#include <sys/stat.h>

#include <atomic>
#include <fstream>
#include <random>
#include <thread>

#include "shared/base/clock.h"
#include "tests/daemon/sinks/store_faults_fixture.h"

namespace ikkuna::sinks {
namespace {

class StoreImportTest : public StoreTest {
 protected:
  StoreImportTest() {
    TakeLimitsAway();
    options_.tail_bytes_max = 1 << 20;
  }
  // A store of another host, in the same folder of the test.
  void OpenElsewhere() {
    StoreOptions options = options_;
    options.data_dir = dir_.path() + "/elsewhere";
    options.host = "there";
    auto store = Store::Open(options);
    ASSERT_TRUE(store.ok()) << store.error().text;
    elsewhere_ = std::move(store).value();
  }
  std::string copy() const { return dir_.path() + "/copy.run"; }
  // Numbers in segments and in the tail, texts, histograms, events.
  void Fill(uint64_t steps) {
    const uint32_t t = Series("t", ValueType::kText), h = Series("h", ValueType::kHistogram);
    std::vector<uint32_t> ids;
    for (int i = 0; i < 60; ++i) ids.push_back(Series("s" + std::to_string(i)));
    for (uint64_t step = 0; step < steps; ++step) {
      std::vector<Sample> samples;
      for (uint32_t id : ids) samples.push_back({id, 0, double(id) + double(step) / 7});
      std::vector<OtherValue> others;
      if (step % 50 == 0)
        others = {{t, 0, Text{"x" + std::to_string(step)}}, {h, 0, Histogram{0, 1, 2, 1, 1, 0, 0, 0, {1, 1}}}};
      auto batch = BatchOf(run_, step, std::move(samples), std::move(others));
      if (step % 100 == 0) batch->events.push_back(EventOf("e" + std::to_string(step)));
      store_->Offer(batch);
    }
  }
  // How many rows it changed.
  static int Sql(const std::string& path, const std::string& sql) {
    sqlite3* db = nullptr;
    EXPECT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
    char* error = nullptr;
    EXPECT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, &error), SQLITE_OK) << sql << ": " << (error ? error : "");
    const int changed = sqlite3_total_changes(db);
    sqlite3_close(db);
    return changed;
  }
  // The error of an import that leaves nothing behind.
  Error Refused(const std::string& path) {
    auto taken = elsewhere_->ImportFile(path);
    EXPECT_FALSE(taken.ok());
    EXPECT_TRUE(elsewhere_->ListRuns()->empty());
    for (const auto& item : fs::directory_iterator(dir_.path() + "/elsewhere/runs/there")) {
      EXPECT_EQ(item.path().string().find(".run"), std::string::npos) << item.path();
    }
    if (taken.ok()) return {};
    EXPECT_NE(taken.error().text.find("'" + path + "'"), std::string::npos) << taken.error().text;
    return taken.error();
  }

  std::unique_ptr<Store> elsewhere_;
};

TEST_F(StoreImportTest, ALiveRunIsCopiedAsItIsAtOneMoment) {
  OpenAndBegin();
  const uint32_t a = Series("a"), b = Series("b");
  std::jthread writer([&](const std::stop_token& stop) {
    for (uint64_t step = 0; !stop.stop_requested(); ++step) {
      store_->Offer(BatchOf(run_, step, {{a, 0, double(step)}, {b, 0, double(step)}}));
      // No faster than the disk: what has no room in the queue would be missing for another reason.
      while (!stop.stop_requested() && (step % 20 == 0 || store_->Counters().waiting > 10'000)) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        if (store_->Counters().waiting <= 10'000) break;
      }
    }
  });
  uint64_t before = 0;
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(Eventually([&] { return store_->ListRuns()->at(0).values > 2 * before; }));
    const std::string path = copy() + std::to_string(i);
    ASSERT_TRUE(store_->ExportFile(kRun, path).ok());
    EXPECT_FALSE(fs::exists(path + "-wal"));
    auto alone = StoredRuns::Open(path);
    ASSERT_TRUE(alone.ok()) << alone.error().text;
    // Both series have all steps up to the same one.
    const SeriesColumns read_a = ReadOne(**alone, "a"), read_b = ReadOne(**alone, "b");
    EXPECT_EQ(read_a.steps, read_b.steps);
    ASSERT_GT(read_a.steps.size(), before);
    before = read_a.steps.size();
    for (size_t n = 0; n < before; ++n) ASSERT_EQ(read_a.steps[n], n);
  }
}

TEST_F(StoreImportTest, ACopyThatNobodyWaitsForAnyMoreEnds) {
  Gate gate;
  options_.on_committed = [&](const RunKey&, uint64_t) { gate.Pass(); };
  OpenAndBegin();
  const uint32_t a = Series("a");
  Put(a, 0, 1, 1);
  Flush();
  gate.Close();
  Put(a, 1, 1, 2);
  ASSERT_TRUE(Eventually([&] { return gate.Waits(); }));
  Put(a, 2, 1, 3);  // nothing is written while the gate is closed
  Status copied;
  std::thread client([&] { copied = store_->ExportFile(kRun, copy()); });
  EXPECT_TRUE(Eventually([&] { return fs::exists(copy()); }));
  store_->EndCopies();
  client.join();
  gate.Open();
  ASSERT_FALSE(copied.ok());
  EXPECT_NE(copied.error().text.find("the daemon ends"), std::string::npos) << copied.error().text;
  EXPECT_FALSE(fs::exists(copy()));
  Flush();
  EXPECT_FALSE(store_->ExportFile(kRun, copy()).ok());
  EXPECT_FALSE(fs::exists(copy()));
}

TEST_F(StoreImportTest, ACopyThatWouldLackWhatWaitsIsRefusedAndSaysHowMuch) {
  SmallDisk disk(dir_.path() + "/data", 6);
  if (!disk.mounted()) GTEST_SKIP() << "NOT TESTED: no file system can be mounted here";
  OpenAndBegin();
  const uint32_t a = Series("a");
  for (uint64_t step = 0; step < 10; ++step) Put(a, step, 1);
  Flush();
  Begin({"other", 0, 0}, 9);
  Put(Series("b"), 1, 1);
  Flush();
  const std::string ballast = dir_.path() + "/data/ballast";
  Spill(ballast, std::string(8 << 20, 'b'));  // as much as there is: what was recorded can be read, and nothing be added
  Begin();
  std::string text(100'000, 'x');
  for (uint64_t step = 10; step < 15; ++step) {
    store_->Offer(BatchOf(run_, step, {{a, 0, 1}}, {{Series("t", ValueType::kText), 0, Text{text}}}));
  }
  const Status copied = store_->ExportFile(kRun, copy());
  ASSERT_FALSE(copied.ok());
  EXPECT_EQ(copied.error().code, ErrorCode::kUnavailable);
  EXPECT_NE(copied.error().text.find("10 of its values wait to be written and would be missing"), std::string::npos)
      << copied.error().text;
  EXPECT_FALSE(fs::exists(copy()));
  // Another run, of which nothing waits, is copied all the same.
  const Status other = store_->ExportFile({"other", 0, 0}, copy() + "-other");
  EXPECT_TRUE(other.ok()) << other.error().text;
  fs::remove(ballast);
  ASSERT_TRUE(Eventually([&] { return store_->ExportFile(kRun, copy()).ok(); }));
  auto alone = StoredRuns::Open(copy());
  ASSERT_TRUE(alone.ok()) << alone.error().text;
  EXPECT_EQ(ReadOne(**alone, "a").steps.size(), 15u);
  store_.reset();
}

TEST_F(StoreImportTest, WhatIsExportedAndImportedIsTheSameRunElsewhere) {
  OpenAndBegin();
  Fill(2'000);
  Flush();
  ASSERT_TRUE(store_->TagRun(kRun, {"good"}, {}).ok());
  ASSERT_TRUE(store_->ExportFile(kRun, copy()).ok());
  OpenElsewhere();
  // Its ids of events are those of another daemon.
  for (int i = 0; i < 50; ++i) (void)elsewhere_->TakeEventId();
  auto key = elsewhere_->ImportFile(copy());
  ASSERT_TRUE(key.ok()) << key.error().text;
  EXPECT_EQ(*key, kRun);
  // Its attempt counts for those that come.
  const auto found = elsewhere_->TakeFound();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].info.run_key, kRun);
  EXPECT_EQ(found[0].state, RunState::kDied);
  EXPECT_TRUE(elsewhere_->TakeFound().empty());
  auto check = [&] {
    const RunInfo run = elsewhere_->ListRuns()->at(0);
    EXPECT_EQ(run.host, "here");
    EXPECT_EQ(run.tags, std::vector<std::string>{"good"});
    EXPECT_EQ(run.state, RunState::kDied);  // it went on when it was copied; nobody here will end it
    EXPECT_EQ(run.values, store_->ListRuns()->at(0).values);
    for (const char* topic : {"s0", "s59", "t", "h"}) {
      const SeriesColumns here = ReadOne(topic), there = ReadOne(*elsewhere_, topic);
      EXPECT_EQ(here.steps, there.steps);
      EXPECT_EQ(here.numbers, there.numbers);
      EXPECT_EQ(here.others, there.others);
    }
    EventQuery query;
    query.limit = 1'000;
    uint64_t id = 50;
    size_t events = 0;
    const auto listed = elsewhere_->ListEvents(query);
    for (const Event& event : *listed) {
      EXPECT_GT(event.id, id);
      id = event.id;
      events += event.run == kRun ? 1 : 0;
    }
    EXPECT_EQ(events, 20u);
    EXPECT_GT(elsewhere_->TakeEventId(), id);
  };
  check();
  EXPECT_EQ(elsewhere_->ImportFile(copy()).error().code, ErrorCode::kAlreadyExists);
  elsewhere_.reset();
  OpenElsewhere();
  check();
  // It is a finished run like any other.
  EXPECT_TRUE(elsewhere_->DeleteRun(kRun).ok());
  EXPECT_TRUE(elsewhere_->ImportFile(copy()).ok());
}

// Its events get ids above all that were there.
TEST_F(StoreImportTest, TheLastEventsAreThoseThatHappenedLastWhateverWasImported) {
  OpenAndBegin();
  Fill(2'000);
  Flush();
  ASSERT_TRUE(store_->ExportFile(kRun, copy()).ok());
  OpenElsewhere();
  for (int i = 0; i < 3; ++i) {
    auto batch = std::make_shared<Batch>();
    batch->events.push_back(EventOf("now" + std::to_string(i), {}));
    batch->events[0].unix_ns = UnixNs();
    elsewhere_->Offer(batch);
  }
  ASSERT_TRUE(elsewhere_->Flush(Soon()).ok());
  ASSERT_TRUE(elsewhere_->ImportFile(copy()).ok());
  EventQuery query;
  query.last = 4;
  const auto kinds = [&](Recorded& from) {
    std::vector<std::string> found;
    const auto listed = from.ListEvents(query);
    EXPECT_TRUE(listed.ok());
    if (listed) {
      for (const Event& event : *listed) found.push_back(event.kind);
    }
    return found;
  };
  EXPECT_EQ(kinds(*elsewhere_), (std::vector<std::string>{"e1900", "now0", "now1", "now2"}));
  elsewhere_.reset();
  auto stored = StoredRuns::Open(dir_.path() + "/elsewhere");
  ASSERT_TRUE(stored.ok()) << stored.error().text;
  EXPECT_EQ(kinds(**stored), (std::vector<std::string>{"e1900", "now0", "now1", "now2"}));
}

TEST_F(StoreImportTest, AFileThatADeadDaemonLeftWithItsLogIsTakenWithIt) {
  OpenAndBegin();
  Fill(300);
  Flush();
  const std::string left = dir_.path() + "/left";
  fs::create_directory(left);
  for (const char* suffix : {"", "-wal"}) fs::copy_file(file() + suffix, left + "/x.run" + suffix);
  OpenElsewhere();
  ASSERT_GT(fs::file_size(left + "/x.run-wal"), 0u);
  const auto before = fs::file_size(left + "/x.run-wal");
  auto key = elsewhere_->ImportFile(left + "/x.run");
  ASSERT_TRUE(key.ok()) << key.error().text;
  EXPECT_EQ(ReadOne(*elsewhere_, "s0").steps.size(), 300u);
  EXPECT_EQ(fs::file_size(left + "/x.run-wal"), before);  // what was brought is as it was
}

TEST_F(StoreImportTest, WhatIsNoRunIsRefusedWithASentence) {
  OpenElsewhere();
  const std::string path = dir_.path() + "/x.run";
  EXPECT_NE(Refused(path).text.find("No such file"), std::string::npos);
  fs::create_directory(path);
  EXPECT_NE(Refused(path).text.find("no file"), std::string::npos);
  fs::remove(path);
  { std::ofstream(path) << ""; }
  (void)Refused(path);
  { std::ofstream(path) << std::string(100'000, 'x'); }
  EXPECT_NE(Refused(path).text.find("not a database"), std::string::npos);
  fs::remove(path);
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  (void)Refused(path);  // and does not wait for a writer
  fs::remove(path);
  Sql(path, "CREATE TABLE meta (a)");
  EXPECT_NE(Refused(path).text.find("another program"), std::string::npos);
}

TEST_F(StoreImportTest, WhatWasTamperedWithIsRefused) {
  options_.tail_bytes_max = StoreOptions{}.tail_bytes_max;  // nothing leaves `log` before the run's end
  OpenAndBegin();
  Fill(1'500);
  Flush();
  const std::string live = dir_.path() + "/live.run";  // with rows in `log`
  ASSERT_TRUE(store_->ExportFile(kRun, live).ok());
  EndRun();
  ASSERT_TRUE(store_->ExportFile(kRun, copy()).ok());
  OpenElsewhere();
  const std::string path = dir_.path() + "/x.run";
  for (const char* sql : {
           "CREATE TRIGGER t AFTER UPDATE ON event BEGIN DELETE FROM value; END",
           "CREATE VIEW v AS SELECT 1",
           "CREATE TABLE extra (a)",
           "DROP TABLE event; CREATE VIEW event AS SELECT 1 AS id",
           "DROP INDEX value_by_series",
           "PRAGMA user_version = 77",
           "UPDATE meta SET value = 'someone-else' WHERE name = 'run_id'",
           "UPDATE meta SET value = '' WHERE name = 'run_id'",
           "DELETE FROM meta WHERE name = 'uuid'",
           "UPDATE series SET topic = 'renamed' WHERE id = 5",
           "UPDATE series SET timeline = 99 WHERE id = 5",
           "DELETE FROM series WHERE id = 5",
           "UPDATE timeline SET tag = 'test'",
           "UPDATE value SET value = 'forged' WHERE id = 1",
           "UPDATE value SET step = step + 1 WHERE id = 1",
           "UPDATE event SET text = 'forged'",
           "UPDATE chunk SET id = id + 1000000",
           "UPDATE chunk SET data = zeroblob(length(data)) WHERE id = (SELECT min(id) FROM chunk)",
           "UPDATE chunk SET heads = substr(heads, 1, 10) WHERE id = (SELECT max(id) FROM chunk)",
           "UPDATE step SET stamps = zeroblob(1000)",
           "DELETE FROM step",
           "DELETE FROM value WHERE id = 1",
           "DELETE FROM chunk WHERE id = (SELECT max(id) FROM chunk)",
           "DELETE FROM segment WHERE id = (SELECT min(id) FROM segment)",
           "UPDATE tally SET tallies = x'00'",
           "UPDATE log SET frames = zeroblob(100), totals = zeroblob(10)",
       }) {
    SCOPED_TRACE(sql);
    const bool of_log = std::string(sql).find(" log ") != std::string::npos;
    fs::copy_file(of_log ? live : copy(), path, fs::copy_options::overwrite_existing);
    const int changed = Sql(path, sql);
    if (std::string(sql).starts_with("UPDATE") || std::string(sql).starts_with("DELETE")) { ASSERT_GT(changed, 0); }
    const std::string text = Refused(path).text;
    EXPECT_GT(text.size(), path.size() + 20);
    if (HasFailure()) return;
  }
  std::string whole;
  {
    std::ifstream in(copy(), std::ios::binary);
    whole.assign(std::istreambuf_iterator<char>(in), {});
  }
  std::mt19937_64 random{5};
  int refused = 0;
  for (int i = 0; i < 40; ++i) {
    std::string broken = whole;
    const size_t at = random() % broken.size();
    broken[at] = static_cast<char>(broken[at] ^ 0x10);
    std::ofstream(path, std::ios::binary | std::ios::trunc) << broken;
    auto taken = elsewhere_->ImportFile(path);
    if (!taken.ok()) {
      ++refused;
      continue;
    }
    // Pages that are free, or a fact: what it is made of is as it was.
    EXPECT_EQ(ReadOne(*elsewhere_, "s7").numbers, ReadOne("s7").numbers);
    EXPECT_TRUE(elsewhere_->DeleteRun(kRun).ok());
  }
  EXPECT_GT(refused, 10);
  EXPECT_TRUE(elsewhere_->ImportFile(copy()).ok());
}

TEST_F(StoreImportTest, WhatWouldLeaveAtOnceIsNotTakenIn) {
  OpenAndBegin();
  Fill(300);
  Flush();
  ASSERT_TRUE(store_->ExportFile(kRun, copy()).ok());
  options_.age_max = std::chrono::hours(1);
  OpenElsewhere();
  EXPECT_EQ(Refused(copy()).code, ErrorCode::kFailedPrecondition);
  elsewhere_.reset();
  options_.age_max = std::chrono::hours(0);
  options_.bytes_max = 10'000;
  OpenElsewhere();
  EXPECT_EQ(Refused(copy()).code, ErrorCode::kResourceExhausted);
  elsewhere_.reset();
  options_.bytes_max = 0;
  options_.free_bytes_min = uint64_t{1} << 60;
  OpenElsewhere();
  EXPECT_EQ(Refused(copy()).code, ErrorCode::kResourceExhausted);
}

TEST_F(StoreImportTest, AnImportThatWasInterruptedLeavesNothing) {
  OpenStore();
  const std::string part = dir_.path() + "/data/runs/here/x.a0.r0.run.part-7";
  std::ofstream(part) << "half";
  std::ofstream(part + "-wal") << "half";
  Reopen();
  EXPECT_FALSE(fs::exists(part));
  EXPECT_FALSE(fs::exists(part + "-wal"));
}

TEST_F(StoreImportTest, TagsStandInTheRunsFileAndTravelWithIt) {
  OpenAndBegin();
  Put(Series("a"), 1, 1);
  EndRun();
  ASSERT_TRUE(store_->TagRun(kRun, {"b", "a", "b"}, {}).ok());
  ASSERT_TRUE(Eventually([&] { return !fs::exists(file() + "-wal"); }));
  EXPECT_EQ(store_->TagRun({"nobody", 0, 0}, {"a"}, {}).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(store_->TagRun(kRun, {std::string(256, 'x')}, {}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(store_->TagRun(kRun, {"\xff"}, {}).error().code, ErrorCode::kInvalidArgument);
  std::vector<std::string> many;
  for (int i = 0; i < 65; ++i) many.push_back("t" + std::to_string(i));
  EXPECT_EQ(store_->TagRun(kRun, many, {}).error().code, ErrorCode::kResourceExhausted);
  Reopen();
  EXPECT_EQ(store_->ListRuns()->at(0).tags, (std::vector<std::string>{"a", "b"}));
  ASSERT_TRUE(store_->ExportFile(kRun, copy()).ok());
  auto alone = StoredRuns::Open(copy());
  ASSERT_TRUE(alone.ok());
  EXPECT_EQ((*alone)->ListRuns()->at(0).tags, (std::vector<std::string>{"a", "b"}));
  // Also of one that goes on.
  Begin();
  ASSERT_TRUE(store_->TagRun(kRun, {"c"}, {"a"}).ok());
  Put(Series("a"), 2, 1);
  Flush();
  Reopen();
  EXPECT_EQ(store_->ListRuns()->at(0).tags, (std::vector<std::string>{"b", "c"}));
}

TEST_F(StoreImportTest, ALastWordLeavesOneFileAgain) {
  OpenAndBegin();
  Put(Series("a"), 1, 1);
  EndRun();
  auto batch = std::make_shared<Batch>();
  batch->run = run_;
  batch->events.push_back(EventOf("late"));
  store_->Offer(batch);
  Flush();
  EXPECT_TRUE(Eventually([&] { return !fs::exists(file() + "-wal"); }));
  EXPECT_EQ(store_->ListEvents({})->back().kind, "late");
  store_.reset();
  // A store that is closed has nothing but files: runs that go on and its own events as well.
  for (const auto& item : fs::directory_iterator(dir_.path() + "/data/runs/here")) {
    const std::string name = item.path().filename().string();
    EXPECT_TRUE(name.ends_with(".run") || name.ends_with(".db") || name == "lock") << name;
  }
}

TEST_F(StoreImportTest, AFileThatIsTheCallersAloneIsMovedInAndTakesNoRoomTwice) {
  OpenStore();
  Begin();
  Put(Series("a"), 1, 2.5);
  Flush();
  EndRun();
  const std::string staged = dir_.path() + "/staged.run";
  ASSERT_TRUE(store_->ExportFile(kRun, staged).ok());
  ASSERT_TRUE(store_->DeleteRun(kRun).ok());
  struct stat before {}, after {};
  ASSERT_EQ(::stat(staged.c_str(), &before), 0);
  auto taken = store_->ImportFile(staged, true);
  ASSERT_TRUE(taken.ok()) << taken.error().text;
  EXPECT_FALSE(std::filesystem::exists(staged));
  ASSERT_EQ(::stat(file().c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
  EXPECT_EQ(ReadOne("a").numbers, std::vector<double>{2.5});
}

TEST_F(StoreImportTest, ACopyThatWouldLeaveTooLittleFreeIsRefusedWithASentence) {
  OpenStore();
  Begin();
  Put(Series("a"), 1, 2.5);
  Flush();
  EXPECT_TRUE(store_->CheckRoom(1).ok());
  options_.free_bytes_min = uint64_t{1} << 60;
  Reopen();
  EXPECT_FALSE(store_->CheckRoom(1).ok()) << "what comes in stays";
  // A copy that leaves is how one makes room: up to what the store keeps for its own last words.
  EXPECT_TRUE(store_->ExportFile(kRun, dir_.path() + "/other.run").ok());
  options_.free_bytes_pause = uint64_t{1} << 60;
  Reopen();
  const std::string copy = dir_.path() + "/copy.run";
  Status copied = store_->ExportFile(kRun, copy);
  ASSERT_FALSE(copied.ok());
  EXPECT_EQ(copied.error().code, ErrorCode::kResourceExhausted);
  EXPECT_NE(copied.error().text.find("shall stay free"), std::string::npos) << copied.error().text;
  EXPECT_FALSE(std::filesystem::exists(copy));
}

}  // namespace
}  // namespace ikkuna::sinks
