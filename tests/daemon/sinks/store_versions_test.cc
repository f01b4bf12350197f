// Files that another version of the store has written: they are left as they are, and what goes on goes elsewhere.
#include <algorithm>
#include <filesystem>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "tests/daemon/sinks/store_faults_fixture.h"

namespace ikkuna::sinks {
namespace {

class StoreVersionsTest : public StoreFaultsTest {};

TEST_F(StoreVersionsTest, AFileOfAnotherVersionIsLeftAsItIs) {
  for (const auto& [version, text] : {std::pair("1000", "newer version"), std::pair("2", "before its first release")}) {
    TwoRuns();
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(file({"bad", 0, 0}).c_str(), &db), SQLITE_OK);
    sqlite3_exec(db, (std::string("PRAGMA user_version = ") + version).c_str(), nullptr, nullptr, nullptr);
    sqlite3_close(db);
    const std::string other = Slurp(file({"bad", 0, 0}));
    OpenStore();
    EXPECT_EQ(Said("run_unreadable"), 1u);
    EXPECT_NE(TextOf("run_unreadable").find(text), std::string::npos) << TextOf("run_unreadable");
    // Its producer comes back: it is recorded, elsewhere.
    Begin({"bad", 0, 0}, 1);
    Put(Series("a"), 1, 5);
    Flush();
    EXPECT_EQ(ReadOne("a").numbers, std::vector<double>{5});
    EXPECT_EQ(store_->ImportFile(file({"bad", 0, 0})).error().code, ErrorCode::kFailedPrecondition);
    Reopen();
    EXPECT_EQ(ReadOne("a").numbers, std::vector<double>{5});
    run_.reset();
    store_.reset();
    EXPECT_EQ(Slurp(file({"bad", 0, 0})), other);
    auto alone = StoredRuns::Open(file({"bad", 0, 0}));
    ASSERT_FALSE(alone.ok());
    EXPECT_NE(alone.error().text.find(text), std::string::npos);
    fs::remove_all(dir_.path() + "/data");
    std::lock_guard lock(said_mutex_);
    said_.clear();
  }
}

TEST_F(StoreVersionsTest, EventsOfTheDaemonGoToAnotherFileWhereANewerVersionHasTheirs) {
  TwoRuns();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open((folder() + "/events.db").c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "PRAGMA user_version = 1000", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  const std::string newer = Slurp(folder() + "/events.db");
  for (int life = 0; life < 2; ++life) {
    OpenStore();
    if (life == 0) { EXPECT_TRUE(store_->DeleteRun({"bad", 0, 0}).ok()); }
    Flush();
    store_.reset();
    EXPECT_EQ(Slurp(folder() + "/events.db"), newer);
    EXPECT_TRUE(fs::exists(folder() + "/events.2.db"));
    EXPECT_FALSE(fs::exists(folder() + "/events.3.db"));
  }
  auto alone = StoredRuns::Open(dir_.path() + "/data");
  ASSERT_TRUE(alone.ok());
  const auto events = (*alone)->ListEvents({});
  EXPECT_TRUE(std::any_of(events->begin(), events->end(), [](const Event& e) { return e.kind == "run_unreadable"; }));
}

}  // namespace
}  // namespace ikkuna::sinks
