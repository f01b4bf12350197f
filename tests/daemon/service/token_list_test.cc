#include "daemon/service/token_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace ikkuna::service {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const std::string kReadToken = "0123456789abcdef0123456789abcdef";
const std::string kControlToken = "fedcba9876543210fedcba9876543210";

std::string Who(const TokenList& list, const std::string& authorization) {
  const std::optional<Caller> caller = list.Find(authorization);
  if (!caller) return "nobody";
  EXPECT_FALSE(caller->uid.has_value());
  return caller->name + (caller->role == Role::kControl ? " control" : " read");
}

std::string Refusal(const std::string& text) {
  Result<TokenList> list = TokenList::Parse(text, "FILE");
  return list ? "" : list.error().text;
}

TEST(TokenListTest, AnOnlyTokenControls) {
  // As `openssl rand -hex 32 > FILE` writes it, with and without the end of the line, and as an editor of Windows does.
  for (const char* end : {"\n", "", "\r\n", "\n\n\n"}) {
    Result<TokenList> list = TokenList::Parse(kControlToken + end, "FILE");
    ASSERT_TRUE(list.ok()) << list.error().text;
    EXPECT_EQ(Who(*list, "Bearer " + kControlToken), "token control");
  }
}

TEST(TokenListTest, EachTokenHasItsRoleAndItsName) {
  Result<TokenList> list = TokenList::Parse("# of the group\n\n read " + kReadToken + "\tgrafana  \n#\ncontrol " +
                                                kControlToken + "\n" + kReadToken + "anna anna\n",
                                            "FILE");
  ASSERT_TRUE(list.ok()) << list.error().text;
  EXPECT_EQ(Who(*list, "Bearer " + kReadToken), "token:grafana read");
  EXPECT_EQ(Who(*list, "bearer " + kControlToken), "token control");
  EXPECT_EQ(Who(*list, "Bearer " + kReadToken + "anna"), "token:anna control");
}

TEST(TokenListTest, WhatIsNotATokenOfTheFileIsNobody) {
  Result<TokenList> list = TokenList::Parse("read " + kReadToken + " name\n", "FILE");
  ASSERT_TRUE(list.ok());
  for (const std::string& given :
       {std::string(), std::string("Bearer"), std::string("Bearer "), kReadToken, "Basic " + kReadToken,
        "Bearer  " + kReadToken, "Bearer " + kReadToken + "0", "Bearer " + kReadToken.substr(1),
        "Bearer " + kReadToken.substr(0, 31) + "X", "Bearer " + kReadToken + std::string(1, '\0'),
        std::string("Bearer name"), std::string("Bearer read"), "Bearer read " + kReadToken,
        "Bearer " + std::string(100'000, 'a')}) {
    EXPECT_EQ(Who(*list, given), "nobody") << given.substr(0, 60);
  }
}

TEST(TokenListTest, LinesThatAreNoneAreRefusedWithoutTheToken) {
  EXPECT_THAT(Refusal("short\n"), HasSubstr("line 1 of 'FILE' has 5 characters where a token of 16 to 512"));
  EXPECT_THAT(Refusal("# a\n" + kReadToken + "\nwrite " + kControlToken),
              HasSubstr("line 3 of 'FILE' has 5 characters"));
  EXPECT_THAT(Refusal("read\n"), HasSubstr("has a role and no token"));
  EXPECT_THAT(Refusal("read " + kReadToken + " two names\n"), HasSubstr("has more than"));
  EXPECT_THAT(Refusal(kReadToken + " " + std::string(65, 'n')), HasSubstr("has a name that is longer than 64"));
  EXPECT_THAT(Refusal(std::string(513, 't')), HasSubstr("has 513 characters"));
  EXPECT_THAT(Refusal("\xc3\xa4" + kReadToken), HasSubstr("a character in its token that no header may hold"));
  EXPECT_THAT(Refusal(std::string(20, '\0')), HasSubstr("a character in its token"));
  EXPECT_THAT(Refusal("# only words\n\n"), HasSubstr("'FILE' has no token"));
  const std::string twice = Refusal("read " + kReadToken + "\ncontrol " + kReadToken + "\n");
  EXPECT_THAT(twice, HasSubstr("line 2 of 'FILE' repeats the token of an earlier line"));
  EXPECT_THAT(twice, Not(HasSubstr(kReadToken)));
  std::string many;
  for (int i = 0; i < 1025; ++i) many += kReadToken + std::to_string(i) + "\n";
  EXPECT_THAT(Refusal(many), HasSubstr("line 1025 of 'FILE' is one token too many"));
}

class TokenFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ikkuna-token-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    path_ = folder_ + "/tokens";
    std::ofstream(path_) << kReadToken << "\n";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string Error() {
    Result<TokenList> list = TokenList::Read(path_);
    return list ? "" : list.error().text;
  }
  std::string folder_;
  std::string path_;
};

TEST_F(TokenFileTest, AFileThatOthersMayReadIsRefused) {
  for (const mode_t mode : {0600, 0400, 0700}) {
    ASSERT_EQ(::chmod(path_.c_str(), mode), 0);
    EXPECT_EQ(Error(), "") << std::oct << mode;
  }
  for (const mode_t mode : {0644, 0640, 0604, 0620, 0602, 0666}) {
    ASSERT_EQ(::chmod(path_.c_str(), mode), 0);
    EXPECT_EQ(Error(), "--token-file: '" + path_ + "' may be read or written by other users; chmod 600 closes it")
        << std::oct << mode;
  }
}

TEST_F(TokenFileTest, AFileOfAnotherUserIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give a file away";
  ASSERT_EQ(::chmod(path_.c_str(), 0600), 0);
  ASSERT_EQ(::chown(path_.c_str(), 4242, static_cast<gid_t>(-1)), 0);
  EXPECT_EQ(Error(), "--token-file: '" + path_ + "' belongs to user 4242, who could change it; give it to user 0");
}

TEST_F(TokenFileTest, WhatIsNoFileIsRefused) {
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  EXPECT_THAT(Error(), HasSubstr("--token-file: cannot read '" + path_ + "': No such file"));
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);  // the open of one would wait for ever
  EXPECT_THAT(Error(), HasSubstr("is no file"));
  path_ = folder_;
  EXPECT_THAT(Error(), HasSubstr("is no file"));
  path_ = "/dev/zero";
  EXPECT_THAT(Error(), HasSubstr("is no file"));
  path_ = folder_ + "/large";
  std::ofstream(path_) << std::string(1024 * 1024 + 1, '#');
  ASSERT_EQ(::chmod(path_.c_str(), 0600), 0);
  EXPECT_THAT(Error(), HasSubstr("is larger than 1 MiB"));
}

}  // namespace
}  // namespace ikkuna::service
