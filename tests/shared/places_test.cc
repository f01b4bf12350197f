// Where runs are kept: which variable counts, and paths that can be made and that cannot.
#include "shared/places.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace ikkuna {
namespace {

class PlacesTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/tmp/ikkuna-places.XXXXXX";
    root_ = ::mkdtemp(pattern.data());
    for (const char* name : {"IKKUNA_DATA", "XDG_DATA_HOME"}) ::unsetenv(name);
    ::setenv("HOME", "/home/someone", 1);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  std::string root_;
};

TEST_F(PlacesTest, TheFirstVariableThatIsSetCounts) {
  EXPECT_EQ(*DefaultDataDirectory(), "/home/someone/.local/share/ikkuna");
  ::setenv("XDG_DATA_HOME", "", 1);
  EXPECT_EQ(*DefaultDataDirectory(), "/home/someone/.local/share/ikkuna");
  ::setenv("XDG_DATA_HOME", "relative", 1);
  EXPECT_EQ(*DefaultDataDirectory(), "/home/someone/.local/share/ikkuna") << "the specification says to ignore it";
  ::setenv("XDG_DATA_HOME", "/data", 1);
  EXPECT_EQ(*DefaultDataDirectory(), "/data/ikkuna");
  ::setenv("IKKUNA_DATA", "/mine/", 1);
  EXPECT_EQ(*DefaultDataDirectory(), "/mine");
  ::setenv("IKKUNA_DATA", "here", 1);
  EXPECT_EQ(*DefaultDataDirectory(), std::filesystem::current_path().string() + "/here");
  EXPECT_EQ(*DataDirectory("/told/./so"), "/told/so");
  EXPECT_EQ(*DataDirectory(""), std::filesystem::current_path().string() + "/here");
}

TEST_F(PlacesTest, WithoutAHomeOfTheEnvironmentThatOfTheUserCounts) {
  ::unsetenv("HOME");
  const auto directory = DefaultDataDirectory();
  if (directory) {
    EXPECT_TRUE(directory.value().ends_with("/.local/share/ikkuna"));
  } else {
    EXPECT_NE(directory.error().text.find("IKKUNA_DATA"), std::string::npos);
  }
}

TEST_F(PlacesTest, AHostsNameIsOnePartOfAPath) {
  const std::string host = HostName();
  EXPECT_FALSE(host.empty());
  EXPECT_EQ(host.find('/'), std::string::npos);
  EXPECT_NE(host, "..");
  EXPECT_EQ(HostDirectory("/data"), "/data/hosts/" + host);
}

// A container whose name is another each time goes on with the runs of the one before.
TEST_F(PlacesTest, AHostMayBeGivenAName) {
  ::setenv("IKKUNA_HOST", "node 7/x", 1);
  EXPECT_EQ(HostName(), "node_7_x");
  EXPECT_EQ(HostDirectory("/data"), "/data/hosts/node_7_x");
  ::setenv("IKKUNA_HOST", std::string(1000, 'x').c_str(), 1);
  EXPECT_LE(HostName().size(), 255u);
  ::setenv("IKKUNA_HOST", "..", 1);
  EXPECT_EQ(HostName(), "localhost");
  ::setenv("IKKUNA_HOST", "", 1);
  EXPECT_NE(HostName(), "");
  ::unsetenv("IKKUNA_HOST");
}

TEST_F(PlacesTest, DirectoriesAreMadeForNobodyElse) {
  const mode_t before = ::umask(0);
  EXPECT_TRUE(MakePrivateDirectories(root_ + "/a/b/c").ok());
  ::umask(before);
  for (const char* made : {"/a", "/a/b", "/a/b/c"}) {
    struct stat found {};
    ASSERT_EQ(::stat((root_ + made).c_str(), &found), 0) << made;
    EXPECT_EQ(found.st_mode & 0777, 0700u) << made;
  }
  // One that is there stays as it is, also behind a link.
  ::chmod((root_ + "/a").c_str(), 0755);
  ::symlink((root_ + "/a").c_str(), (root_ + "/link").c_str());
  EXPECT_TRUE(MakePrivateDirectories(root_ + "/link/b").ok());
  struct stat found {};
  ASSERT_EQ(::stat((root_ + "/a").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0755u);
}

TEST_F(PlacesTest, AnErrorNamesWhatIsInTheWay) {
  std::ofstream(root_ + "/file") << "x";
  const auto made = MakePrivateDirectories(root_ + "/file/deeper");
  ASSERT_FALSE(made.ok());
  EXPECT_NE(made.error().text.find("'" + root_ + "/file'"), std::string::npos) << made.error().text;
  EXPECT_NE(made.error().text.find("ot a directory"), std::string::npos) << made.error().text;
}

}  // namespace
}  // namespace ikkuna
