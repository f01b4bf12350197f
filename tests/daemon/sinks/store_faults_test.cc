// What goes wrong with disks and files costs the run that it concerns, and is said.
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cctype>
#include <fstream>
#include <mutex>
#include <random>
#include <set>

#include "tests/daemon/sinks/store_fixture.h"

namespace ikkuna::sinks {
namespace {

namespace fs = std::filesystem;

double ValueOf(const std::string& series, uint64_t step) {
  return std::cos(double(std::hash<std::string>{}(series) % 1000 + step) * 12.9898) * 43758.5453;
}

std::string Slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void Spill(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << bytes;
}

// A file system of its own, small; where none can be mounted the test is skipped.
class SmallDisk {
 public:
  SmallDisk(std::string path, int megabytes) : path_(std::move(path)) {
    fs::create_directories(path_);
    mounted_ = ::mount("none", path_.c_str(), "tmpfs", 0, ("size=" + std::to_string(megabytes) + "m").c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  bool Remount(bool read_only) {
    return ::mount("none", path_.c_str(), nullptr, MS_REMOUNT | (read_only ? MS_RDONLY : 0), nullptr) == 0;
  }

 private:
  std::string path_;
  bool mounted_ = false;
};

class StoreFaultsTest : public StoreTest {
 protected:
  StoreFaultsTest() {
    options_.free_bytes_min = 0;
    options_.free_bytes_pause = 0;
    options_.bytes_max = 0;
    options_.on_event = [this](const Event& event) {
      std::lock_guard lock(said_mutex_);
      said_.push_back(event);
    };
  }
  ~StoreFaultsTest() override { store_.reset(); }  // it speaks to what stands here

  size_t Said(const std::string& kind) {
    std::lock_guard lock(said_mutex_);
    return static_cast<size_t>(
        std::count_if(said_.begin(), said_.end(), [&](const Event& event) { return event.kind == kind; }));
  }
  std::string TextOf(const std::string& kind) {
    std::lock_guard lock(said_mutex_);
    for (const Event& event : said_) {
      if (event.kind == kind) return event.text;
    }
    return "";
  }
  std::string folder() const { return dir_.path() + "/data/runs/here"; }

  // Numbers in several segments and in the tail, texts, an event.
  void Fill(const RunKey& key, unsigned char uuid, uint64_t steps) {
    Begin(key, uuid);
    std::vector<uint32_t> ids;
    for (int i = 0; i < 40; ++i) ids.push_back(Series("s" + std::to_string(i)));
    const uint32_t t = Series("t", ValueType::kText);
    for (uint64_t step = 0; step < steps; ++step) {
      std::vector<Sample> samples;
      for (size_t i = 0; i < ids.size(); ++i) samples.push_back({ids[i], 0, ValueOf("s" + std::to_string(i), step)});
      std::vector<OtherValue> others;
      if (step % 10 == 0) others.push_back({t, 0, Text{"text of step " + std::to_string(step)}});
      auto batch = BatchOf(run_, step, std::move(samples), std::move(others));
      if (step % 100 == 0) batch->events.push_back(EventOf("e" + std::to_string(step), key));
      store_->Offer(batch);
    }
    Flush();
  }
  // What can be read is what was written, under its name; how much that was.
  uint64_t ReadIsRight(Recorded& recorded, const std::string& run, bool* failed) {
    ReadQuery query;
    query.filter.run = run;
    uint64_t read = 0;
    auto reader = recorded.Read(query);
    if (!reader.ok()) {
      *failed = true;
      return 0;
    }
    for (;;) {
      auto part = (*reader)->Next();
      if (!part.ok()) {
        *failed = true;
        return read;
      }
      if (!*part) return read;
      const SeriesColumns& columns = **part;
      const std::string& topic = columns.series->name.topic;
      EXPECT_EQ(columns.run->run_key.run_id, run);
      for (size_t i = 0; i < columns.steps.size(); ++i) {
        ++read;
        if (topic == "t") {
          EXPECT_EQ(std::get<Text>(columns.others[i]).text, "text of step " + std::to_string(columns.steps[i]));
        } else {
          EXPECT_EQ(columns.numbers[i], ValueOf(topic, columns.steps[i])) << topic << " " << columns.steps[i];
        }
        EXPECT_EQ(columns.epochs[i], columns.steps[i] / 100);
        EXPECT_EQ(columns.unix_ns[i], kStartNs + static_cast<int64_t>(columns.steps[i]) * 1'000'000);
      }
    }
  }
  static constexpr uint64_t kSteps = 700;
  static constexpr uint64_t kValues = kSteps * 40 + kSteps / 10;

  // Two runs at rest; gives the bytes of the first's file, and closes the store.
  std::string TwoRuns() {
    OpenStore();
    Fill({"bad", 0, 0}, 7, kSteps);
    EndRun(RunState::kFinished, {"bad", 0, 0});
    Fill({"good", 0, 0}, 7, kSteps);
    EndRun(RunState::kFinished, {"good", 0, 0});
    run_.reset();
    store_.reset();
    return Slurp(file({"bad", 0, 0}));
  }
  // The store over the broken file: everything is asked, the good run is whole, nothing is wrong. How much of the bad one
  // is there.
  uint64_t LookAtAll(bool* said) {
    {
      std::lock_guard lock(said_mutex_);
      said_.clear();
    }
    OpenStore();
    bool good_failed = false, bad_failed = false;
    EXPECT_EQ(ReadIsRight(*store_, "good", &good_failed), kValues);
    EXPECT_FALSE(good_failed);
    const uint64_t read = ReadIsRight(*store_, "bad", &bad_failed);
    // Asked for together, the good one is there as well.
    uint64_t together = 0;
    if (auto reader = store_->Read({}); reader.ok()) {
      for (;;) {
        auto part = (*reader)->Next();
        if (!part.ok() || !*part) break;
        if ((*part)->run->run_key.run_id == "good") together += (*part)->steps.size();
      }
    }
    EXPECT_EQ(together, kValues);
    EXPECT_TRUE(store_->ListRuns().ok());
    EXPECT_TRUE(store_->ListSeries({}).ok());
    EventQuery events;
    events.limit = 10'000;
    EXPECT_TRUE(store_->ListEvents(events).ok());
    (void)store_->ListModules({"bad", 0, 0});
    *said = Said("run_unreadable") + Said("run_file_broken") > 0;
    if (bad_failed) { EXPECT_TRUE(*said); }
    store_.reset();
    return read;
  }

  std::mutex said_mutex_;
  std::vector<Event> said_;
};

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
  EXPECT_TRUE(fs::exists(folder() + "/text.a0.r0.run.broken-1"));
  EXPECT_EQ(store_->Counters().dropped, 0u);
  Reopen();
  EXPECT_EQ(store_->ListRuns()->size(), 4u);
}

TEST_F(StoreFaultsTest, AFileOfANewerVersionIsLeftAsItIs) {
  TwoRuns();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(file({"bad", 0, 0}).c_str(), &db), SQLITE_OK);
  sqlite3_exec(db, "PRAGMA user_version = 1000", nullptr, nullptr, nullptr);
  sqlite3_close(db);
  const std::string newer = Slurp(file({"bad", 0, 0}));
  OpenStore();
  EXPECT_EQ(Said("run_unreadable"), 1u);
  EXPECT_NE(TextOf("run_unreadable").find("newer version"), std::string::npos) << TextOf("run_unreadable");
  // Its producer comes back: it is recorded, elsewhere.
  Begin({"bad", 0, 0}, 1);
  Put(Series("a"), 1, 5);
  Flush();
  EXPECT_EQ(ReadOne("a").numbers, std::vector<double>{5});
  EXPECT_EQ(store_->ImportFile(file({"bad", 0, 0})).error().code, ErrorCode::kFailedPrecondition);
  Reopen();
  EXPECT_EQ(ReadOne("a").numbers, std::vector<double>{5});
  store_.reset();
  EXPECT_EQ(Slurp(file({"bad", 0, 0})), newer);
  auto alone = StoredRuns::Open(file({"bad", 0, 0}));
  ASSERT_FALSE(alone.ok());
  EXPECT_NE(alone.error().text.find("newer version"), std::string::npos);
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
    committed = store_->LoadProgress(kRun)->progress.done_seq;
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
  ASSERT_TRUE(Eventually([&] { return store_->LoadProgress(kRun)->progress.done_seq > committed; }));
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

TEST_F(StoreFaultsTest, ASmallDiskIsPausedBeforeItIsFull) {
  SmallDisk disk(dir_.path() + "/data", 12);
  if (!disk.mounted()) GTEST_SKIP() << "NOT TESTED: no file system can be mounted here";
  options_.free_bytes_pause = 3 << 20;
  OpenAndBegin();
  std::vector<uint32_t> ids;
  for (int i = 0; i < 100; ++i) ids.push_back(Series("s" + std::to_string(i)));
  uint64_t step = 0;
  ASSERT_TRUE(Eventually([&] {
    for (int n = 0; n < 8; ++n, ++step) {
      std::vector<Sample> samples;
      for (size_t i = 0; i < ids.size(); ++i) samples.push_back({ids[i], 0, ValueOf("s" + std::to_string(i), step)});
      store_->Offer(BatchOf(run_, step, std::move(samples)));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return store_->GetStatus().paused;
  }));
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
  int ready[2], done[2];
  ASSERT_EQ(::pipe(ready) | ::pipe(done), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    sqlite3* db = nullptr;
    const bool locked = sqlite3_open(file({"bad", 0, 0}).c_str(), &db) == SQLITE_OK &&
                        sqlite3_exec(db, "BEGIN EXCLUSIVE", nullptr, nullptr, nullptr) == SQLITE_OK;
    char byte = locked ? 'y' : 'n';
    (void)!::write(ready[1], &byte, 1);
    (void)!::read(done[0], &byte, 1);
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  ASSERT_EQ(byte, 'y');
  OpenStore();  // from the catalogue
  ASSERT_EQ(store_->ListRuns()->size(), 2u);
  auto run = store_->Begin(Producer({"bad", 0, 0}));
  ASSERT_TRUE(run.ok()) << run.error().text;
  EXPECT_EQ(Said("store_failing"), 1u);
  Begin({"good", 0, 0});
  Put(Series("s0"), 90'000, 1);
  // The other is not held up.
  ASSERT_TRUE(Eventually([&] { return store_->CountersOf({"good", 0, 0})->written == 1; }));
  ASSERT_EQ(::write(done[1], "x", 1), 1);
  ::waitpid(child, nullptr, 0);
  for (int fd : {ready[0], ready[1], done[0], done[1]}) ::close(fd);
  EXPECT_TRUE(Eventually([&] { return Said("store_recovered") == 1; }));
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
  EXPECT_EQ(store_->LoadProgress(kRun)->progress.done_seq, 39u);
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

TEST_F(StoreFaultsTest, TextsAndNamesOfAnyBytesComeBackAsTheyAre) {
  OpenAndBegin();
  const std::vector<std::string> texts = {std::string("a\0b", 3), std::string(1, '\0'), "", "\xff\xfe\xc0\x80", "\xed\xa0\x80",
                                          "'; DROP TABLE value; --", std::string(300'000, 'z'), "\n\x1b[31m"};
  for (size_t i = 0; i < texts.size(); ++i) {
    const uint32_t t = Series("t" + std::to_string(i), ValueType::kText, Precision::kDouble,
                              "m" + texts[i].substr(0, 200));
    ASSERT_NE(t, 0u);
    store_->Offer(BatchOf(run_, i, {}, {{t, 0, Text{texts[i]}}}));
  }
  Flush();
  for (int life = 0; life < 2; ++life) {
    for (size_t i = 0; i < texts.size(); ++i) {
      const SeriesColumns read = ReadOne("t" + std::to_string(i));
      ASSERT_EQ(read.others.size(), 1u) << i;
      EXPECT_EQ(std::get<Text>(read.others[0]).text, texts[i]) << i;
      EXPECT_EQ(read.series->name.module, "m" + texts[i].substr(0, 200)) << i;
    }
    Reopen();
  }
}

TEST_F(StoreFaultsTest, RunsOfAnyIdAreFilesOfTheirOwnInTheirFolder) {
  OpenStore();
  std::vector<std::string> ids = {"../../x",  "..",   ".",    "/etc/passwd", "a/b", "a_b", "A_b", "a.b", "Job", "job", "JOB",
                                  "-rf",      "~",    "~root", "nul",         "a b", "a\nb", std::string("a\0b", 3),
                                  "x.a0.r0",  "\xc3\xa9", "\xc3\x89", "\xff", std::string(255, 'a'), std::string(254, 'a') + "b",
                                  std::string(255, '.'), "%41", "catalogue.db", "events", "lock", ""};
  unsigned char uuid = 1;
  for (const std::string& id : ids) {
    auto run = store_->Begin(Producer({id, 0, 0}, uuid));
    ASSERT_TRUE(run.ok()) << run.error().text;
    run_ = *run;
    Put(Series("a"), 1, uuid++);
  }
  Flush();
  auto check = [&] {
    for (size_t i = 0; i < ids.size(); ++i) {
      double value = 0;
      for (const SeriesColumns& part : ReadFrom(*store_, {})) {
        if (part.run->run_key.run_id == ids[i]) value += part.numbers[0];
      }
      EXPECT_EQ(value, double(i + 1)) << ids[i];
    }
  };
  check();
  Reopen();
  EXPECT_EQ(store_->ListRuns()->size(), ids.size());
  check();
  std::set<std::string> lower;
  size_t files = 0;
  for (const auto& item : fs::recursive_directory_iterator(dir_.path())) {
    if (!item.is_regular_file()) continue;
    EXPECT_EQ(item.path().parent_path().string(), folder());
    std::string name = item.path().filename().string();
    if (!name.ends_with(".run")) continue;
    ++files;
    EXPECT_LE(name.size(), 200u);
    EXPECT_NE(name[0], '.');
    EXPECT_NE(name[0], '-');
    for (char& c : name) {
      EXPECT_TRUE(std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-' || c == '~') << name;
      c = static_cast<char>(std::tolower(c));
    }
    EXPECT_TRUE(lower.insert(name).second) << name;
  }
  EXPECT_EQ(files, ids.size());
}

TEST_F(StoreFaultsTest, ADaemonThatWasKilledIsSaidAndItsRunsAreDisconnected) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    OpenAndBegin();
    Put(Series("a"), 1, 4.5, 9);
    Flush();
    (void)!::write(ready[1], "y", 1);
    for (;;) ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
  OpenStore();
  EXPECT_EQ(Said("store_unclosed"), 1u);
  EXPECT_NE(TextOf("store_unclosed").find("pid " + std::to_string(child)), std::string::npos);
  EXPECT_NE(TextOf("store_unclosed").find("1 runs"), std::string::npos) << TextOf("store_unclosed");
  EXPECT_EQ(store_->LoadProducers()->front().state, RunState::kDisconnected);
  EXPECT_EQ(store_->LoadProgress(kRun)->progress.done_seq, 9u);
  EXPECT_EQ(ReadOne("a").numbers, std::vector<double>{4.5});
  Reopen();
  EXPECT_EQ(Said("store_unclosed"), 1u);  // that one was closed
  EXPECT_EQ(ReadOne("a").numbers, std::vector<double>{4.5});
}

TEST_F(StoreFaultsTest, TheCatalogueIsACacheThatMayBeMissingBrokenOlderOrLying) {
  TwoRuns();
  const std::string catalogue = folder() + "/catalogue.db";
  ASSERT_TRUE(fs::exists(catalogue));
  const std::string whole = Slurp(catalogue);
  auto as_it_was = [&](const char* what) {
    SCOPED_TRACE(what);
    OpenStore();
    const auto runs = store_->ListRuns();
    ASSERT_EQ(runs->size(), 2u);
    for (const RunInfo& run : *runs) {
      EXPECT_EQ(run.values, kValues);
      EXPECT_EQ(run.series, 41u);
      EXPECT_EQ(run.state, RunState::kFinished);
      EXPECT_EQ(run.info.facts, Producer().facts);
      bool failed = false;
      EXPECT_EQ(ReadIsRight(*store_, run.info.run_key.run_id, &failed), kValues);
    }
    store_.reset();
    EXPECT_TRUE(fs::exists(catalogue));
  };
  as_it_was("whole");
  fs::remove(catalogue);
  as_it_was("missing");
  Spill(catalogue, "");
  as_it_was("empty");
  Spill(catalogue, std::string(50'000, '?'));
  as_it_was("nonsense");
  for (size_t at = 100; at < whole.size(); at += whole.size() / 40) {
    std::string broken = whole;
    broken[at] = static_cast<char>(broken[at] ^ 0x55);
    Spill(catalogue, broken);
    as_it_was("flipped");
    if (HasFailure()) return;
  }
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(catalogue.c_str(), &db), SQLITE_OK);
  sqlite3_exec(db, "PRAGMA user_version = 0; DROP TABLE run", nullptr, nullptr, nullptr);
  sqlite3_close(db);
  as_it_was("older");
  // A file that was changed behind its back is looked at anew.
  ASSERT_EQ(sqlite3_open(file({"bad", 0, 0}).c_str(), &db), SQLITE_OK);
  sqlite3_exec(db, "INSERT INTO tag VALUES ('by hand')", nullptr, nullptr, nullptr);
  sqlite3_close(db);
  OpenStore();
  EXPECT_EQ(store_->FindRuns("bad")->size(), 1u);
  EXPECT_EQ(store_->FindRuns("bad")->front().tags, std::vector<std::string>{"by hand"});
  // What is at rest stands in it again.
  store_.reset();
  ASSERT_EQ(sqlite3_open(catalogue.c_str(), &db), SQLITE_OK);
  int rows = 0;
  sqlite3_exec(
      db, "SELECT count(*) FROM run", [](void* n, int, char** text, char**) { return *static_cast<int*>(n) = std::atoi(text[0]), 0; },
      &rows, nullptr);
  sqlite3_close(db);
  EXPECT_EQ(rows, 2);
}

}  // namespace
}  // namespace ikkuna::sinks
