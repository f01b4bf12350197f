// What may be wrong with a store when it is opened, and what the text says about it.
#include "daemon/sinks/store_open.h"

#include <gmock/gmock.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <fstream>

#include "tests/daemon/sinks/sinks_fixture.h"

namespace ikkuna::sinks {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string OpenText(const std::string& data_dir) {
  SeriesCatalogue catalogue;
  StoreOptions options;
  options.data_dir = data_dir;
  auto store = Store::Open(options, catalogue);
  return store ? "opened" : store.error().text;
}

void Execute(const std::string& path, const char* sql) {
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(db, sql, nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(db);
  sqlite3_close(db);
}

// Runs `work` in a child without the rights of root, which may write everywhere. False: this user cannot.
bool AsNobody(const std::function<int()>& work, int* result) {
  if (getuid() != 0) {
    *result = work();
    return true;
  }
  const pid_t child = fork();
  if (child == 0) {
    if (setgid(65534) != 0 || setuid(65534) != 0) _exit(100);
    _exit(work());
  }
  int status = 0;
  waitpid(child, &status, 0);
  *result = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return *result != 100;
}

TEST(StoreOpen, MakesTheFolderWithItsParents) {
  TempDir dir;
  EXPECT_EQ(OpenText(dir.path() + "/a/b/c"), "opened");
  EXPECT_TRUE(std::filesystem::exists(dir.path() + "/a/b/c/ikkuna.db"));
}

TEST(StoreOpen, ASecondDaemonIsRefusedAndToldWhoHasIt) {
  TempDir dir;
  SeriesCatalogue catalogue;
  StoreOptions options;
  options.data_dir = dir.path();
  auto first = Store::Open(options, catalogue);
  ASSERT_TRUE(first.ok()) << first.error().text;
  SeriesCatalogue another;
  auto second = Store::Open(options, another);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::kAlreadyExists);
  EXPECT_EQ(second.error().text, "cannot open run store '" + dir.path() + "/ikkuna.db': another ikkuna-daemon (pid " +
                                     std::to_string(getpid()) +
                                     ") has it open; stop that one or pass another --data-dir");
  first->reset();
  EXPECT_EQ(OpenText(dir.path()), "opened");
}

TEST(StoreOpen, ADeadDaemonHoldsNothing) {
  TempDir dir;
  const pid_t child = fork();
  if (child == 0) {
    SeriesCatalogue catalogue;
    StoreOptions options;
    options.data_dir = dir.path();
    auto store = Store::Open(options, catalogue);
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(OpenText(dir.path()), "opened");
}

TEST(StoreOpen, AFolderThatMayNotBeWrittenIsNamed) {
  TempDir dir;
  ASSERT_EQ(chmod(dir.path().c_str(), 0555), 0);
  const std::string data_dir = dir.path() + "/data";
  int result = 0;
  const bool ran = AsNobody(
      [&] {
        return OpenText(data_dir) ==
                       "cannot open run store '" + data_dir + "/ikkuna.db': permission denied; pass --data-dir"
                   ? 0
                   : 1;
      },
      &result);
  ASSERT_EQ(chmod(dir.path().c_str(), 0755), 0);
  if (!ran) GTEST_SKIP() << "SKIP: cannot give up the rights of root here";
  EXPECT_EQ(result, 0);
}

TEST(StoreOpen, AFileThatMayNotBeWrittenIsRefused) {
  TempDir dir;
  ASSERT_EQ(OpenText(dir.path()), "opened");
  const std::string path = dir.path() + "/ikkuna.db";
  ASSERT_EQ(chmod(dir.path().c_str(), 0777), 0);
  ASSERT_EQ(chmod((dir.path() + "/ikkuna.lock").c_str(), 0666), 0);
  ASSERT_EQ(chmod(path.c_str(), 0444), 0);
  int result = 0;
  const bool ran = AsNobody(
      [&] {
        return OpenText(dir.path()) == "cannot open run store '" + path + "': the file is read-only; pass --data-dir"
                   ? 0
                   : 1;
      },
      &result);
  if (!ran) GTEST_SKIP() << "SKIP: cannot give up the rights of root here";
  EXPECT_EQ(result, 0);
}

TEST(StoreOpen, AFolderThatIsAFileIsNamed) {
  TempDir dir;
  std::ofstream(dir.path() + "/file") << "text";
  EXPECT_EQ(OpenText(dir.path() + "/file/data"),
            "cannot open run store '" + dir.path() + "/file/data/ikkuna.db': not a directory; pass --data-dir");
}

TEST(StoreOpen, ANewerSchemaIsRefused) {
  TempDir dir;
  ASSERT_EQ(OpenText(dir.path()), "opened");
  Execute(dir.path() + "/ikkuna.db", "PRAGMA user_version = 9");
  const std::string text = OpenText(dir.path());
  EXPECT_THAT(text, HasSubstr("written by a newer version (schema 9, this one knows 1)"));
  EXPECT_THAT(text, HasSubstr("pass another --data-dir"));
}

TEST(StoreOpen, AnotherProgramsDatabaseIsLeftAlone) {
  TempDir dir;
  Execute(dir.path() + "/ikkuna.db", "CREATE TABLE theirs (a); INSERT INTO theirs VALUES (1)");
  EXPECT_THAT(OpenText(dir.path()), HasSubstr("a database of another program; pass --data-dir"));
  Execute(dir.path() + "/ikkuna.db", "SELECT a FROM theirs");
}

TEST(StoreOpen, AFileThatIsNoDatabaseIsLeftAlone) {
  TempDir dir;
  std::ofstream(dir.path() + "/ikkuna.db") << std::string(10'000, 'x');
  const std::string text = OpenText(dir.path());
  EXPECT_THAT(text, StartsWith("cannot open run store '" + dir.path() + "/ikkuna.db': "));
  EXPECT_THAT(text, HasSubstr("not a database"));
  EXPECT_THAT(text, HasSubstr("pass --data-dir"));
  EXPECT_EQ(std::filesystem::file_size(dir.path() + "/ikkuna.db"), 10'000u);
}

TEST(StoreOpen, ATornFileIsReportedAndNothingCrashes) {
  TempDir dir;
  ASSERT_EQ(OpenText(dir.path()), "opened");
  std::filesystem::resize_file(dir.path() + "/ikkuna.db", 5'000);
  EXPECT_THAT(OpenText(dir.path()), StartsWith("cannot open run store"));
}

}  // namespace
}  // namespace ikkuna::sinks
