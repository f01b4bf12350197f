// What stands in the store's folder: names of any bytes, files of killed daemons, the catalogue, which is a cache.
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

#include "tests/daemon/sinks/store_faults_fixture.h"

namespace ikkuna::sinks {
namespace {

TEST_F(StoreFaultsTest, TextsAndNamesOfAnyBytesComeBackAsTheyAre) {
  OpenAndBegin();
  const std::vector<std::string> texts = {std::string("a\0b", 3),    std::string(1, '\0'), "",
                                          "\xff\xfe\xc0\x80",        "\xed\xa0\x80",       "'; DROP TABLE value; --",
                                          std::string(300'000, 'z'), "\n\x1b[31m"};
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
  std::vector<std::string> ids = {"../../x",
                                  "..",
                                  ".",
                                  "/etc/passwd",
                                  "a/b",
                                  "a_b",
                                  "A_b",
                                  "a.b",
                                  "Job",
                                  "job",
                                  "JOB",
                                  "-rf",
                                  "~",
                                  "~root",
                                  "nul",
                                  "a b",
                                  "a\nb",
                                  std::string("a\0b", 3),
                                  "x.a0.r0",
                                  "\xc3\xa9",
                                  "\xc3\x89",
                                  "\xff",
                                  std::string(255, 'a'),
                                  std::string(254, 'a') + "b",
                                  std::string(255, '.'),
                                  "%41",
                                  "catalogue.db",
                                  "events",
                                  "lock",
                                  ""};
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
    OpenStore();
    ProducerInfo all = Producer({"job", 0, kAllRanks}, 9);
    all.pid = 0;  // no process, and no run that went on
    if (!store_->Begin(all).ok()) ::_exit(1);
    Begin();
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
  EXPECT_NE(TextOf("store_unclosed").find("1 run went on"), std::string::npos) << TextOf("store_unclosed");
  const auto producers = store_->LoadProducers();
  ASSERT_TRUE(producers.ok());
  for (const ProducerStatus& one : *producers) EXPECT_EQ(one.state, RunState::kDisconnected);
  EXPECT_EQ(store_->LoadProgress(kRun)->done_seq, 9u);
  EXPECT_EQ(ReadOne("a").numbers, std::vector<double>{4.5});
  Reopen();
  EXPECT_EQ(Said("store_unclosed"), 1u);  // that one was closed
  EXPECT_EQ(ReadOne("a").numbers, std::vector<double>{4.5});
}

// Nothing goes from a store without a word, whoever took it.
TEST_F(StoreFaultsTest, WhatWentWhileNoDaemonRanIsTold) {
  TwoRuns();
  const std::string gone = file({"bad", 0, 0});
  fs::remove(gone);
  OpenStore();
  EXPECT_EQ(Said("run_file_removed"), 1u);
  EXPECT_NE(TextOf("run_file_removed").find(gone), std::string::npos) << TextOf("run_file_removed");
  Reopen();
  EXPECT_EQ(Said("run_file_removed"), 1u) << "once";
  // Without a catalogue nobody knows of a run in it.
  run_.reset();
  store_.reset();
  fs::remove(folder() + "/catalogue.db");
  Spill(gone, "");
  OpenStore();
  EXPECT_EQ(Said("run_file_removed"), 2u);
  EXPECT_NE(TextsOf("run_file_removed").back().find("was empty"), std::string::npos);
  EXPECT_FALSE(fs::exists(gone));
  // Kept, and in the order in which they were told.
  Flush();
  Reopen();
  EventQuery query;
  query.kind = "run_file_removed";
  const auto events = store_->ListEvents(query);
  ASSERT_EQ(events->size(), 2u);
  EXPECT_LT(events->at(0).id, events->at(1).id);
}

TEST_F(StoreFaultsTest, AnEmptyFileOfTheDaemonsOwnEventsIsBegunAnew) {
  TwoRuns();
  Spill(folder() + "/events.db", "");
  OpenStore();
  EXPECT_EQ(Said("run_file_removed"), 1u);
  EXPECT_EQ(store_->ListRuns()->size(), 2u);
  Flush();
  Reopen();
  EventQuery query;
  query.kind = "run_file_removed";
  EXPECT_EQ(store_->ListEvents(query)->size(), 1u);
}

// Whoever goes on behind the last event that it saw would miss those that get its id once more.
TEST_F(StoreFaultsTest, IdsOfEventsDoNotComeAgainWhereTheDaemonsOwnEventsAreTakenAway) {
  TwoRuns();
  OpenStore();
  auto batch = std::make_shared<Batch>();
  for (int i = 0; i < 3; ++i) {
    batch->events.push_back(EventOf("own", {}));
    batch->events.back().id = store_->TakeEventId();
  }
  const uint64_t last = batch->events.back().id;
  store_->Offer(batch);
  Flush();
  for (const bool closed : {false, true}) {
    if (closed) store_.reset();
    fs::remove(folder() + "/events.db");
    if (closed) OpenStore();
    ASSERT_TRUE(Eventually([&] { return Said("run_file_removed") == (closed ? 2u : 1u); }));
    EXPECT_NE(TextsOf("run_file_removed").back().find("daemon's own events"), std::string::npos)
        << TextsOf("run_file_removed").back();
    Flush();
    EventQuery query;
    query.after_id = last;
    EXPECT_EQ(store_->ListEvents(query)->size(), 1u) << "what was said since";
    EXPECT_GT(store_->TakeEventId(), last);
  }
  store_.reset();
}

TEST_F(StoreFaultsTest, ALinkToNothingIsNotWrittenThrough) {
  TwoRuns();
  const std::string link = file({"bad", 0, 0});
  const std::string elsewhere = dir_.path() + "/elsewhere";
  fs::remove(link);
  fs::create_symlink(elsewhere, link);
  OpenStore();
  EXPECT_EQ(Said("run_unreadable"), 1u);
  EXPECT_NE(TextOf("run_unreadable").find("a link to a file that is not there"), std::string::npos);
  Begin({"bad", 0, 0}, 1);
  Put(Series("a"), 1, 5);
  Flush();
  EXPECT_EQ(ReadOne("a").numbers, std::vector<double>{5});
  Reopen();
  EXPECT_EQ(ReadOne("a").numbers, std::vector<double>{5});
  EXPECT_FALSE(fs::exists(elsewhere));
  EXPECT_TRUE(fs::is_symlink(link));
}

// Its values are read from the file while it is written; what fails there names it.
TEST_F(StoreFaultsTest, WhatCannotBeReadOfALiveRunIsNamed) {
  TwoRuns();
  OpenStore();
  const RunKey bad{"bad", 0, 0};
  Begin(bad, 7);
  SeriesQuery list;
  list.limit = 1;
  ASSERT_TRUE(store_->ListSeries(list).ok());  // it is loaded, but for its values
  fs::resize_file(file(bad), 20'000);
  ReadQuery query;
  query.filter.run = "bad";
  std::string why;
  ASSERT_TRUE(Eventually([&] {
    const auto read = store_->Read(query);
    if (!read) why = read.error().text;
    while (read && why.empty()) {
      auto part = (*read)->Next();
      if (!part) why = part.error().text;
      if (!part || !*part) break;
    }
    return !why.empty();
  }));
  EXPECT_NE(why.find(file(bad)), std::string::npos) << why;
  EXPECT_NE(why.find("'bad'"), std::string::npos) << why;
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
      db, "SELECT count(*) FROM run",
      [](void* n, int, char** text, char**) { return *static_cast<int*>(n) = std::atoi(text[0]), 0; }, &rows, nullptr);
  sqlite3_close(db);
  EXPECT_EQ(rows, 2);
}

}  // namespace
}  // namespace ikkuna::sinks
