// What changes when the options and the files they name are read again, and what does not.
#include "tests/daemon/service/doors_fixture.h"

namespace ikkuna::test {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

const std::string kOldToken = "Bearer 0123456789abcdef0123456789abcdef";
const std::string kNewToken = "Bearer fedcba9876543210fedcba9876543210";

class ReloadTest : public DoorsTest {
 protected:
  service::ServerOptions Options() {
    service::ServerOptions options;
    options.directory = folder_;
    options.listen = "localhost:0";
    options.token_file = Write("tokens", "read " + kOldToken.substr(7) + "\n");
    return options;
  }
  service::ServerOptions TlsOptions() {
    service::ServerOptions options = Options();
    WritePair(servers_);
    options.tls_cert_file = folder_ + "/cert.pem";
    options.tls_key_file = folder_ + "/key.pem";
    options.tls_client_ca_file = Write("clients.pem", clients_.certificate());
    options.control_certificates = {"anna"};
    return options;
  }
  void WritePair(const TestAuthority& authority) {
    const CertificateAndKey own = authority.Sign({.common_name = "localhost", .of_localhost = true});
    Write("cert.pem", own.certificate);
    Write("key.pem", own.key);
  }
  TestAuthority servers_{"servers"};
  TestAuthority next_servers_{"next servers"};
  TestAuthority clients_{"clients"};
  TestAuthority next_clients_{"next clients"};
};

TEST_F(ReloadTest, ATokenThatIsGoneIsRefusedOnTheConnectionItCameBy) {
  service::ServerOptions options = Options();
  ASSERT_EQ(Refusal(options), "");
  auto channel = PlainTcp();
  OpenWatch watch(channel, kOldToken);
  EXPECT_EQ(watch.Next(), "token read");
  EXPECT_EQ(Ask(channel, kOldToken), "token read");
  EXPECT_THAT(Ask(channel, kNewToken), StartsWith("UNAUTHENTICATED"));

  Write("tokens", "control " + kNewToken.substr(7) + " next\n");
  EXPECT_THAT(Ask(channel, kNewToken), StartsWith("UNAUTHENTICATED"));  // nothing is read before it is asked for
  ASSERT_EQ(ReloadRefusal(options), "");
  EXPECT_THAT(Ask(channel, kOldToken), StartsWith("UNAUTHENTICATED: the token is not one of this daemon's"));
  EXPECT_EQ(Ask(channel, kNewToken), "token:next control");
  // The connection stayed, and a stream that asks again learns it.
  service_.Poke();
  EXPECT_THAT(watch.Next(), StartsWith("refused: the token is not one of this daemon's"));
}

TEST_F(ReloadTest, ATokenMayGetAnotherRole) {
  service::ServerOptions options = Options();
  ASSERT_EQ(Refusal(options), "");
  auto channel = PlainTcp();
  OpenWatch watch(channel, kOldToken);
  EXPECT_EQ(watch.Next(), "token read");
  Write("tokens", "control " + kOldToken.substr(7) + "\n");
  ASSERT_EQ(ReloadRefusal(options), "");
  service_.Poke();
  EXPECT_EQ(watch.Next(), "token control");
}

TEST_F(ReloadTest, ABadFileLeavesEverythingAsItWas) {
  service::ServerOptions options = TlsOptions();
  ASSERT_EQ(Refusal(options), "");
  auto anna = TcpChannel(Tls(servers_.certificate(), clients_.Sign({.common_name = "anna"})));
  const auto unchanged = [&] {
    EXPECT_EQ(Ask(anna), "certificate:anna control");
    EXPECT_EQ(Ask(anna, kOldToken), "token read");
    EXPECT_THAT(Ask(anna, kNewToken), StartsWith("UNAUTHENTICATED"));
    EXPECT_EQ(Ask(TcpChannel(Tls(servers_.certificate())), kOldToken), "token read");
  };
  unchanged();
  // Each with a good change beside it, which must not be taken alone.
  service::ServerOptions next = options;
  next.control_certificates = {};
  Write("tokens", kNewToken.substr(7) + "\nshort\n");
  EXPECT_THAT(ReloadRefusal(next), HasSubstr("line 2 of '" + options.token_file + "' has 5 characters"));
  unchanged();
  Write("tokens", kNewToken.substr(7), 0644);
  EXPECT_THAT(ReloadRefusal(next), HasSubstr("chmod 600 closes it"));
  unchanged();
  ASSERT_EQ(::unlink(options.token_file.c_str()), 0);
  EXPECT_THAT(ReloadRefusal(next), HasSubstr("cannot read '" + options.token_file + "'"));
  unchanged();
  Write("tokens", kNewToken.substr(7));
  Write("key.pem", next_servers_.Sign({.common_name = "localhost"}).key);
  EXPECT_THAT(ReloadRefusal(next), HasSubstr("is not the key of the certificate"));
  unchanged();
  WritePair(next_servers_);
  Write("clients.pem", "nothing");
  EXPECT_THAT(ReloadRefusal(next),
              HasSubstr("--tls-client-ca: '" + folder_ + "/clients.pem' has no certificate in PEM"));
  unchanged();
  Write("clients.pem", clients_.certificate());
  next.tls_key_file = "";
  EXPECT_EQ(ReloadRefusal(next), "--tls-cert and --tls-key go together; pass --tls-key as well");
  unchanged();
  next = options;
  next.listen = "localhost:1";
  EXPECT_EQ(ReloadRefusal(next),
            "--listen cannot change while the daemon runs; restart it to go from 'localhost:0' to 'localhost:1'");
  next = options;
  next.directory = "/elsewhere";
  EXPECT_EQ(ReloadRefusal(next), "--dir cannot change while the daemon runs; restart it");
  unchanged();
  // And then it is taken after all.
  WritePair(servers_);
  ASSERT_EQ(ReloadRefusal(options), "");
  EXPECT_EQ(Ask(anna, kNewToken), "token control");
}

TEST_F(ReloadTest, NewTlsFilesLeaveConnectionsOpen) {
  service::ServerOptions options = TlsOptions();
  ASSERT_EQ(Refusal(options), "");
  const CertificateAndKey anna = clients_.Sign({.common_name = "anna"});
  auto open = TcpChannel(Tls(servers_.certificate(), anna));
  OpenWatch watch(open);
  EXPECT_EQ(watch.Next(), "certificate:anna control");

  WritePair(next_servers_);
  ASSERT_EQ(ReloadRefusal(options), "");
  service_.Poke();
  EXPECT_EQ(watch.Next(), "certificate:anna control");
  EXPECT_EQ(Ask(open), "certificate:anna control");
  EXPECT_EQ(Ask(TcpChannel(Tls(next_servers_.certificate(), anna))), "certificate:anna control");
  EXPECT_THAT(Ask(TcpChannel(Tls(servers_.certificate(), anna))), StartsWith("UNAVAILABLE"));
}

TEST_F(ReloadTest, ManyNewTlsFilesDoNotPileUp) {
  service::ServerOptions options = TlsOptions();
  ASSERT_EQ(Refusal(options), "");
  const CertificateAndKey anna = clients_.Sign({.common_name = "anna"});
  auto first = TcpChannel(Tls(servers_.certificate(), anna));
  OpenWatch watch(first);
  EXPECT_EQ(watch.Next(), "certificate:anna control");
  // Those that nobody uses go at once, so the first stays however often files are replaced.
  for (int i = 0; i < 12; ++i) {
    WritePair(servers_);
    ASSERT_EQ(ReloadRefusal(options), "");
  }
  service_.Poke();
  EXPECT_EQ(watch.Next(), "certificate:anna control");
  // Those that are used go when too many are: the oldest is cut off.
  std::vector<std::shared_ptr<grpc::Channel>> used;
  for (int i = 0; i < 6; ++i) {
    used.push_back(TcpChannel(Tls(servers_.certificate(), anna)));
    EXPECT_EQ(Ask(used.back()), "certificate:anna control");
    WritePair(servers_);
    ASSERT_EQ(ReloadRefusal(options), "");
  }
  EXPECT_EQ(watch.Next(), "ended");
  // Who was cut off connects again.
  EXPECT_EQ(Ask(TcpChannel(Tls(servers_.certificate(), anna))), "certificate:anna control");
}

TEST_F(ReloadTest, AnAuthorityThatIsGoneTakesItsCertificatesAlong) {
  service::ServerOptions options = TlsOptions();
  ASSERT_EQ(Refusal(options), "");
  auto old_anna = TcpChannel(Tls(servers_.certificate(), clients_.Sign({.common_name = "anna"})));
  auto bare = TcpChannel(Tls(servers_.certificate()));
  EXPECT_EQ(Ask(old_anna), "certificate:anna control");
  EXPECT_EQ(Ask(bare, kOldToken), "token read");

  Write("clients.pem", next_clients_.certificate());
  ASSERT_EQ(ReloadRefusal(options), "");
  EXPECT_THAT(Ask(old_anna), StartsWith("UNAUTHENTICATED: the client certificate is refused: "));
  EXPECT_EQ(Ask(bare, kOldToken), "token read");
  EXPECT_EQ(Ask(TcpChannel(Tls(servers_.certificate(), next_clients_.Sign({.common_name = "anna"})))),
            "certificate:anna control");
  // Both, as while clients get their new ones.
  Write("clients.pem", clients_.certificate() + next_clients_.certificate());
  ASSERT_EQ(ReloadRefusal(options), "");
  EXPECT_EQ(Ask(old_anna), "certificate:anna control");
  // No certificates any more.
  options.tls_client_ca_file = "";
  options.control_certificates = {};
  ASSERT_EQ(ReloadRefusal(options), "");
  EXPECT_THAT(Ask(old_anna), StartsWith("UNAUTHENTICATED: no token"));
  EXPECT_EQ(Ask(bare, kOldToken), "token read");
}

TEST_F(ReloadTest, WhoControlsMayChange) {
  service::ServerOptions options = TlsOptions();
  ASSERT_EQ(Refusal(options), "");
  auto anna = TcpChannel(Tls(servers_.certificate(), clients_.Sign({.common_name = "anna"})));
  auto bob = TcpChannel(Tls(servers_.certificate(), clients_.Sign({.common_name = "bob"})));
  OpenWatch watch(anna);
  EXPECT_EQ(watch.Next(), "certificate:anna control");
  EXPECT_EQ(Ask(bob), "certificate:bob read");
  options.control_certificates = {"bob"};
  ASSERT_EQ(ReloadRefusal(options), "");
  EXPECT_EQ(Ask(anna), "certificate:anna read");
  EXPECT_EQ(Ask(bob), "certificate:bob control");
  service_.Poke();
  EXPECT_EQ(watch.Next(), "certificate:anna read");
}

TEST_F(ReloadTest, TlsMayGoFromALoopbackAddressAlone) {
  service::ServerOptions options = TlsOptions();
  options.listen = "0.0.0.0:0";
  ASSERT_EQ(Refusal(options), "");
  service::ServerOptions plain = Options();
  plain.listen = "0.0.0.0:0";
  EXPECT_THAT(ReloadRefusal(plain), HasSubstr("the token would cross the network readable"));

  ASSERT_EQ(Refusal(Options()), "");
  auto open = PlainTcp();
  EXPECT_EQ(Ask(open, kOldToken), "token read");
  ASSERT_EQ(ReloadRefusal(TlsOptions()), "");
  EXPECT_EQ(Ask(TcpChannel(Tls(servers_.certificate())), kOldToken), "token read");
  EXPECT_THAT(Ask(PlainTcp(), kOldToken), StartsWith("UNAVAILABLE"));
  EXPECT_EQ(Ask(open, kOldToken), "token read");  // it is on this machine
}

TEST_F(ReloadTest, UsersComeAndGo) {
  if (::geteuid() != 0) GTEST_SKIP() << "SKIP: needs root to become other users";
  service::ServerOptions options = UnixOptions();
  ASSERT_EQ(Refusal(options), "");
  EXPECT_EQ(ChannelAs(4242), nullptr);  // the socket's mode
  options.allow_users = {{4242, Role::kRead}};
  ASSERT_EQ(ReloadRefusal(options), "");
  auto other = ChannelAs(4242);
  OpenWatch watch(other);
  EXPECT_EQ(watch.Next(), "uid:4242 read uid=4242");
  options.allow_users = {{4242, Role::kControl}, {4243, Role::kRead}};
  ASSERT_EQ(ReloadRefusal(options), "");
  service_.Poke();
  EXPECT_EQ(watch.Next(), "uid:4242 control uid=4242");
  auto own = UnixChannel();
  OpenWatch own_watch(own);
  EXPECT_EQ(own_watch.Next(), "uid:0 control uid=0");

  // Who is let in no more is cut off, whatever they were doing; nobody else is.
  options.allow_users = {{4243, Role::kRead}};
  ASSERT_EQ(ReloadRefusal(options), "");
  EXPECT_EQ(watch.Next(), "ended");
  EXPECT_THAT(Ask(ChannelAs(4242)), StartsWith("UNAVAILABLE"));
  service_.Poke();
  EXPECT_EQ(own_watch.Next(), "uid:0 control uid=0");
  EXPECT_EQ(Ask(ChannelAs(4243)), "uid:4243 read uid=4243");
  options.allow_users = {};
  ASSERT_EQ(ReloadRefusal(options), "");
  EXPECT_EQ(ChannelAs(4243), nullptr);
}

}  // namespace
}  // namespace ikkuna::test
