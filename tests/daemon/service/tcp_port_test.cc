// TCP: where it listens, and what has to be shown there.
#include "daemon/service/tcp_port.h"

#include "tests/daemon/service/doors_fixture.h"
#include "tests/daemon/service/raw_call.h"

namespace ikkuna::test {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const std::string kReadToken = "0123456789abcdef0123456789abcdef";
const std::string kControlToken = "fedcba9876543210fedcba9876543210";

class TcpDoorsTest : public DoorsTest {
 protected:
  service::ServerOptions TokenOptions() const {
    service::ServerOptions options;
    options.listen = "127.0.0.1:0";
    options.token_file = Write("tokens", "read " + kReadToken + " board\ncontrol " + kControlToken + "\n");
    return options;
  }
  // TLS with client certificates and no token.
  service::ServerOptions CertificateOptions() const {
    service::ServerOptions options = TlsOptions();
    options.tls_client_ca_file = Write("clients.pem", clients_.certificate());
    options.control_certificates = {"anna"};
    return options;
  }
  service::ServerOptions TlsOptions() const {
    const CertificateAndKey own = servers_.Sign({.common_name = "localhost", .of_localhost = true});
    service::ServerOptions options;
    options.listen = "localhost:0";
    options.tls_cert_file = Write("cert.pem", own.certificate);
    options.tls_key_file = Write("key.pem", own.key);
    return options;
  }
  std::shared_ptr<grpc::Channel> As(const CertificateAndKey& certificate) const {
    return TcpChannel(Tls(servers_.certificate(), certificate));
  }
  std::shared_ptr<grpc::Channel> Named(const std::string& name) const {
    return As(clients_.Sign({.common_name = name}));
  }

  TestAuthority servers_{"servers"};
  TestAuthority clients_{"clients"};
};

TEST_F(TcpDoorsTest, EachTokenHasItsRole) {
  ASSERT_EQ(Refusal(TokenOptions()), "");
  ASSERT_GT(doors_->tcp_port(), 0);
  EXPECT_EQ(doors_->socket_path(), "");
  auto channel = PlainTcp();
  EXPECT_EQ(Ask(channel, "Bearer " + kReadToken), "token:board read");
  EXPECT_EQ(Ask(channel, "Bearer " + kControlToken), "token control");
  EXPECT_EQ(Ask(channel),
            "UNAUTHENTICATED: no token: send the metadata 'authorization: Bearer <token>' (--token-file)");
  const std::string wrong = "UNAUTHENTICATED: the token is not one of this daemon's (--token-file)";
  EXPECT_EQ(Ask(channel, "Bearer 0123456789abcdef0123456789abcdeX"), wrong);
  EXPECT_EQ(Ask(channel, "Bearer"), wrong);
  EXPECT_EQ(Ask(channel, kReadToken), wrong);
  EXPECT_EQ(Ask(channel, "Bearer " + kReadToken + "0"), wrong);
}

TEST_F(TcpDoorsTest, TwoTokensAreNone) {
  ASSERT_EQ(Refusal(TokenOptions()), "");
  grpc::ClientContext context;
  SetDoorsWatchdog(&context);
  context.AddMetadata("authorization", "Bearer " + kReadToken);
  context.AddMetadata("authorization", "Bearer " + kControlToken);
  v1::GetStatusResponse response;
  grpc::Status status = v1::Monitor::NewStub(PlainTcp())->GetStatus(&context, {}, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_THAT(status.error_message(), HasSubstr("more than one token"));
}

TEST_F(TcpDoorsTest, HealthAndReflectionAskForItToo) {
  ASSERT_EQ(Refusal(TokenOptions()), "");
  auto channel = PlainTcp();
  const std::string health = "/grpc.health.v1.Health/Check";
  EXPECT_EQ(RawCall(channel, health, "").error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(RawCall(channel, health, "Bearer " + kReadToken).error_code(), grpc::StatusCode::OK);
  EXPECT_EQ(RawCall(channel, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "").error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(RawCall(channel, "/no.such/Call", "").error_code(), grpc::StatusCode::UNAUTHENTICATED);
  OpenWatch watch(channel);
  EXPECT_EQ(watch.Next(), "ended");
}

TEST_F(TcpDoorsTest, ACertificateSaysWhoItIs) {
  ASSERT_EQ(Refusal(CertificateOptions()), "");
  EXPECT_EQ(Ask(Named("anna")), "certificate:anna control");
  EXPECT_EQ(Ask(Named("bob")), "certificate:bob read");
  EXPECT_EQ(Ask(Named("anna ")), "certificate:anna  read");
  EXPECT_EQ(Ask(Named("Anna")), "certificate:Anna read");
  EXPECT_EQ(Ask(Named("\xc3\xa4nna")), "certificate:\xc3\xa4nna read");
  EXPECT_EQ(Ask(As({})), "UNAUTHENTICATED: no client certificate: show one that --tls-client-ca knows");
  EXPECT_EQ(Ask(Named("bob"), "Bearer " + kControlToken),
            "UNAUTHENTICATED: this daemon takes no token (--token-file); show a client certificate alone");
}

TEST_F(TcpDoorsTest, NamesThatSayNothingAreRefused) {
  ASSERT_EQ(Refusal(CertificateOptions()), "");
  const std::string refusal = "UNAUTHENTICATED: the client certificate has no common name (CN) that can be shown";
  EXPECT_EQ(Ask(Named("")), refusal);
  EXPECT_EQ(Ask(Named("anna\nbob")), refusal);
  EXPECT_EQ(Ask(Named(std::string("anna\0bob", 8))), refusal);
}

TEST_F(TcpDoorsTest, ACertificateOfAnotherAuthorityGetsNowhere) {
  ASSERT_EQ(Refusal(CertificateOptions()), "");
  TestAuthority namesake("clients");
  EXPECT_THAT(Ask(As(namesake.Sign({.common_name = "anna"}))), StartsWith("UNAVAILABLE"));
  EXPECT_THAT(Ask(As(servers_.Sign({.common_name = "anna"}))), StartsWith("UNAVAILABLE"));
  EXPECT_THAT(Ask(As(clients_.Sign({.common_name = "anna", .begins_days = -9, .ends_days = -1}))),
              StartsWith("UNAVAILABLE"));
  EXPECT_THAT(Ask(PlainTcp()), StartsWith("UNAVAILABLE"));
  EXPECT_EQ(Ask(Named("anna")), "certificate:anna control");
}

TEST_F(TcpDoorsTest, TokenOrCertificateWhereBothAreTaken) {
  service::ServerOptions options = CertificateOptions();
  options.token_file = TokenOptions().token_file;
  ASSERT_EQ(Refusal(options), "");
  auto nobody = As({});
  EXPECT_THAT(Ask(nobody), StartsWith("UNAUTHENTICATED: neither a token nor a client certificate"));
  EXPECT_EQ(Ask(nobody, "Bearer " + kReadToken), "token:board read");
  EXPECT_EQ(Ask(nobody, "Bearer " + kControlToken), "token control");
  auto anna = Named("anna");
  EXPECT_EQ(Ask(anna), "certificate:anna control");
  // What is said counts, not what is known besides.
  EXPECT_EQ(Ask(anna, "Bearer " + kReadToken), "token:board read");
  EXPECT_THAT(Ask(anna, "Bearer wrong"), StartsWith("UNAUTHENTICATED: the token is not one of this daemon's"));
}

TEST_F(TcpDoorsTest, TlsWithATokenAsksForTheToken) {
  service::ServerOptions options = TlsOptions();
  options.token_file = TokenOptions().token_file;
  ASSERT_EQ(Refusal(options), "");
  EXPECT_THAT(Ask(As({})), StartsWith("UNAUTHENTICATED: no token"));
  EXPECT_EQ(Ask(As({}), "Bearer " + kReadToken), "token:board read");
  // A certificate that nobody asked for says nothing.
  EXPECT_THAT(Ask(Named("anna")), StartsWith("UNAUTHENTICATED: no token"));
  EXPECT_THAT(Ask(PlainTcp(), "Bearer " + kReadToken), StartsWith("UNAVAILABLE"));
}

TEST_F(TcpDoorsTest, BothKindsOfDoorAtOnce) {
  service::ServerOptions options = TokenOptions();
  options.directory = folder_;
  ASSERT_EQ(Refusal(options), "");
  EXPECT_EQ(Ask(PlainTcp(), "Bearer " + kReadToken), "token:board read");
  EXPECT_THAT(Ask(UnixChannel()), StartsWith("uid:"));
}

TEST_F(TcpDoorsTest, ATokenIsNotSentInTheClearToOtherMachines) {
  service::ServerOptions options = TokenOptions();
  for (const char* listen : {"0.0.0.0:0", "[::]:0"}) {
    options.listen = listen;
    EXPECT_THAT(Refusal(options),
                AnyOf(HasSubstr("pass --tls-cert and --tls-key as well, or listen on 127.0.0.1"),
                      HasSubstr("cannot listen on '[::]:0'"), HasSubstr("cannot find the address of '::'")));
  }
  service::ServerOptions tls = TlsOptions();
  tls.token_file = options.token_file;
  tls.listen = "0.0.0.0:0";
  ASSERT_EQ(Refusal(tls), "");
  EXPECT_EQ(Ask(As({}), "Bearer " + kReadToken), "token:board read");
}

TEST_F(TcpDoorsTest, EveryLoopbackAddressWillDo) {
  service::ServerOptions options = TokenOptions();
  options.listen = "localhost:0";
  ASSERT_EQ(Refusal(options), "");
  EXPECT_EQ(Ask(PlainTcp(), "Bearer " + kReadToken), "token:board read");
  auto v4 = grpc::CreateChannel("127.0.0.1:" + std::to_string(doors_->tcp_port()), grpc::InsecureChannelCredentials());
  EXPECT_EQ(Ask(v4, "Bearer " + kReadToken), "token:board read");
}

TEST_F(TcpDoorsTest, FilesThatAreNotWhatTheyShouldBeAreRefused) {
  service::ServerOptions options = TokenOptions();
  Write("tokens", kReadToken, 0644);
  EXPECT_THAT(Refusal(options), HasSubstr("may be read or written by other users; chmod 600 closes it"));
  Write("tokens", "short");
  EXPECT_THAT(Refusal(options), HasSubstr("has 5 characters where a token of 16 to 512"));
  options = CertificateOptions();
  Write("key.pem", servers_.Sign({.common_name = "other"}).key);
  EXPECT_THAT(Refusal(options), HasSubstr("is not the key of the certificate"));
}

TEST_F(TcpDoorsTest, AddressesThatAreNoneAreRefused) {
  for (const char* listen : {"50051", ":50051", "127.0.0.1:", "127.0.0.1:port", "127.0.0.1:70000", "127.0.0.1:-1",
                             "127.0.0.1:+1", "127.0.0.1: 1", "::1:50051", "[]:1"}) {
    Result<service::TcpPort> port = service::OpenTcpPort(listen);
    ASSERT_FALSE(port.ok()) << listen;
    EXPECT_EQ(port.error().text, std::string("--listen '") + listen +
                                     "' is no address; pass host:port, such as 127.0.0.1:50051 or [::1]:50051");
  }
  Result<service::TcpPort> port = service::OpenTcpPort("no such host:1");
  ASSERT_FALSE(port.ok());
  EXPECT_THAT(port.error().text, HasSubstr("cannot find the address of 'no such host'"));
  port = service::OpenTcpPort("192.0.2.1:0");  // an address of nobody
  ASSERT_FALSE(port.ok());
  EXPECT_THAT(port.error().text, HasSubstr("cannot listen on '192.0.2.1:0'"));
}

TEST_F(TcpDoorsTest, APortInUseIsRefused) {
  service::ServerOptions options = TokenOptions();
  ASSERT_EQ(Refusal(options), "");
  const std::string listen = "127.0.0.1:" + std::to_string(doors_->tcp_port());
  Result<service::TcpPort> second = service::OpenTcpPort(listen);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::kAlreadyExists);
  EXPECT_EQ(second.error().text,
            "cannot listen on '" + listen +
                "': the port is in use by another process; pass another port to --listen, or 0 for a free one");
  // A daemon that starts again gets its port back at once, although connections to it were open.
  auto channel = PlainTcp();
  EXPECT_EQ(Ask(channel, "Bearer " + kReadToken), "token:board read");
  doors_.reset();
  options.listen = listen;
  EXPECT_EQ(Refusal(options), "");
}

}  // namespace
}  // namespace ikkuna::test
