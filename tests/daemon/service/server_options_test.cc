#include "daemon/service/server_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ikkuna::service {
namespace {

using ::testing::HasSubstr;

std::string Refusal(const ServerOptions& options) {
  Status fits = CheckServerOptions(options);
  return fits ? "" : fits.error().text;
}

TEST(ServerOptionsTest, AllowedUsersHaveARole) {
  for (const char* text : {"1001", "1001:control", "0", "4294967294"}) {
    Result<AllowedUser> user = ParseAllowedUser(text);
    ASSERT_TRUE(user.ok()) << text;
    EXPECT_EQ(AllowedUserText(*user), text);
  }
  EXPECT_EQ(*ParseAllowedUser("7:read"), (AllowedUser{7, Role::kRead}));
  EXPECT_EQ(*ParseAllowedUser("7:control"), (AllowedUser{7, Role::kControl}));
  for (const char* text :
       {"", ":control", "anna", "-1", "+1", " 1", "1 ", "1.5", "0x10", "4294967295", "99999999999999999999"}) {
    Result<AllowedUser> user = ParseAllowedUser(text);
    ASSERT_FALSE(user.ok()) << text;
    EXPECT_THAT(user.error().text, HasSubstr("is no user id; pass UID or UID:control"));
  }
  EXPECT_EQ(ParseAllowedUser("1:write").error().text, "'1:write': 'write' is no role; it is read or control");
  EXPECT_FALSE(ParseAllowedUser("1:control:read").ok());
  EXPECT_FALSE(ParseAllowedUser("1:").ok());
}

// Each option is there or not: what is let through is named here by hand.
TEST(ServerOptionsTest, EveryCombination) {
  for (int bits = 0; bits < 128; ++bits) {
    ServerOptions options;
    if (bits & 1) options.directory = "/d";
    if (bits & 2) options.listen = "127.0.0.1:1";
    if (bits & 4) options.token_file = "t";
    if (bits & 8) options.tls_cert_file = "c";
    if (bits & 16) options.tls_key_file = "k";
    if (bits & 32) options.tls_client_ca_file = "a";
    if (bits & 64) options.control_certificates = {"anna"};
    const int tcp = bits & ~1;
    const bool good = tcp == 0 ? bits == 1
                               : tcp == (2 | 4) || tcp == (2 | 4 | 8 | 16) || tcp == (2 | 8 | 16 | 32) ||
                                     tcp == (2 | 8 | 16 | 32 | 64) || tcp == (2 | 4 | 8 | 16 | 32) ||
                                     tcp == (2 | 4 | 8 | 16 | 32 | 64);
    EXPECT_EQ(Refusal(options).empty(), good) << bits << ": " << Refusal(options);
  }
}

TEST(ServerOptionsTest, RefusalsSayWhatToPass) {
  ServerOptions options;
  EXPECT_THAT(Refusal(options), HasSubstr("neither a directory for its socket nor an address"));
  options.listen = "127.0.0.1:0";
  EXPECT_THAT(Refusal(options),
              HasSubstr("would let everyone in; pass --token-file FILE (openssl rand -hex 32 > FILE), "
                        "or --tls-cert, --tls-key and --tls-client-ca"));
  options.tls_cert_file = "c";
  EXPECT_EQ(Refusal(options), "--tls-cert and --tls-key go together; pass --tls-key as well");
  options.tls_key_file = "k";
  EXPECT_THAT(Refusal(options), HasSubstr("would let everyone in, although encrypted; pass --token-file"));
  options.tls_cert_file = "";
  EXPECT_EQ(Refusal(options), "--tls-cert and --tls-key go together; pass --tls-cert as well");
  options = {};
  options.directory = "/d";
  options.token_file = "t";
  EXPECT_THAT(Refusal(options), HasSubstr("pass --listen host:port as well"));
  options = {};
  options.listen = "h:1";
  options.tls_cert_file = "c";
  options.tls_key_file = "k";
  options.tls_client_ca_file = "a";
  options.control_certificates = {"anna", ""};
  EXPECT_EQ(Refusal(options), "--control-certificate: the name must not be empty");
}

TEST(ServerOptionsTest, AUserHasOneRole) {
  ServerOptions options;
  options.directory = "/d";
  options.allow_users = {{1, Role::kRead}, {2, Role::kControl}, {1, Role::kRead}};
  EXPECT_EQ(Refusal(options), "");
  options.allow_users.push_back({1, Role::kControl});
  EXPECT_EQ(Refusal(options), "--allow-uid names user 1 twice, with two roles; keep one of them");
  options.allow_users.assign(65, {});
  EXPECT_THAT(Refusal(options), HasSubstr("--allow-uid names 65 users; at most 64 may be"));
}

}  // namespace
}  // namespace ikkuna::service
