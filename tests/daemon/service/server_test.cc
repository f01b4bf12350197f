// Who gets in, what is refused at the start, and that an end is an end.
#include "daemon/service/server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "shared/base/unique_fd.h"
#include "tests/daemon/service/service_fixture.h"
#include "tests/daemon/service/test_certificate.h"

namespace ikkuna::test {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::string kToken = "0123456789abcdef0123456789abcdef";

class ServerTest : public ServiceTest {
 protected:
  // The text of the refusal; "" if it started.
  std::string Refusal(const service::ServerOptions& options) {
    Result<std::unique_ptr<service::Server>> server = service::Server::Start(options, monitor());
    return server.ok() ? "" : server.error().text;
  }
  service::ServerOptions TcpOptions() {
    service::ServerOptions options;
    options.listen = "127.0.0.1:0";
    options.token_file = dir_.Write("token", kToken + "\n");
    ::chmod(options.token_file.c_str(), 0600);
    return options;
  }
  std::unique_ptr<service::Server> StartOrFail(const service::ServerOptions& options) {
    Result<std::unique_ptr<service::Server>> server = service::Server::Start(options, monitor());
    EXPECT_TRUE(server.ok()) << server.error().text;
    return server.ok() ? std::move(*server) : nullptr;
  }
};

grpc::Status AskStatus(const std::shared_ptr<grpc::Channel>& channel, const std::string& authorization) {
  auto stub = v1::Monitor::NewStub(channel);
  grpc::ClientContext context;
  SetWatchdog(&context);
  if (!authorization.empty()) context.AddMetadata("authorization", authorization);
  v1::GetStatusResponse response;
  return stub->GetStatus(&context, v1::GetStatusRequest(), &response);
}

std::shared_ptr<grpc::Channel> Plain(int port) {
  return grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials());
}

// A call by its name with the bytes of its messages, as a client without our files makes it. Streams: the first answer.
std::string RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                    const std::string& request) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  SetWatchdog(&context);
  grpc::CompletionQueue queue;
  auto next = [&] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  auto call = stub.PrepareCall(&context, method, &queue);
  call->StartCall(nullptr);
  EXPECT_TRUE(next());
  grpc::Slice slice(request);
  call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  next();  // a call that was refused meanwhile takes no request any more
  grpc::ByteBuffer answer;
  call->Read(&answer, nullptr);
  std::string text;
  if (next()) {
    std::vector<grpc::Slice> slices;
    EXPECT_TRUE(answer.Dump(&slices).ok());
    for (const grpc::Slice& part : slices) text.append(reinterpret_cast<const char*>(part.begin()), part.size());
  }
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  next();
  queue.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue.Next(&tag, &ok)) {
  }
  return text;
}

TEST_F(ServerTest, HealthSaysServing) {
  StartServer();
  const std::string service = "ikkuna.v1.Monitor";
  // HealthCheckRequest{service}, HealthCheckResponse{status: SERVING}.
  std::string request = std::string("\x0a") + static_cast<char>(service.size()) + service;
  EXPECT_EQ(RawCall(channel_, "/grpc.health.v1.Health/Check", request), std::string("\x08\x01", 2));
  EXPECT_EQ(RawCall(channel_, "/grpc.health.v1.Health/Check", ""), std::string("\x08\x01", 2));
}

TEST_F(ServerTest, ReflectionNamesTheServiceAndItsFile) {
  StartServer();
  const std::string method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  // ServerReflectionRequest{list_services: ""} and {file_containing_symbol: "ikkuna.v1.Monitor"}.
  EXPECT_THAT(RawCall(channel_, method, std::string("\x3a\x00", 2)), HasSubstr("ikkuna.v1.Monitor"));
  const std::string symbol = "ikkuna.v1.Monitor";
  std::string request = std::string("\x22") + static_cast<char>(symbol.size()) + symbol;
  std::string file = RawCall(channel_, method, request);
  EXPECT_THAT(file, HasSubstr("ikkuna/v1/monitor.proto"));
  EXPECT_THAT(file, HasSubstr("GetStatusRequest"));
}

TEST_F(ServerTest, TheSocketIsForItsUserAndGoneAfterStop) {
  StartServer();
  struct stat info {};
  ASSERT_EQ(::stat(server_->socket_path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(server_->socket_path(), dir_.path() + "/grpc.sock");
  EXPECT_EQ(server_->tcp_port(), 0);
  EXPECT_TRUE(AskStatus(channel_, "").ok());
  server_->Stop();
  EXPECT_NE(::stat((dir_.path() + "/grpc.sock").c_str(), &info), 0);
  server_->Stop();
}

TEST_F(ServerTest, ASecondServerInTheFolderIsRefusedAndASocketLeftBehindIsReplaced) {
  StartServer();
  service::ServerOptions options;
  options.directory = dir_.path();
  EXPECT_EQ(Refusal(options), "cannot serve on '" + dir_.path() + "/grpc.sock': another process listens there");
  EXPECT_TRUE(AskStatus(channel_, "").ok());
  server_.reset();

  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, (dir_.path() + "/grpc.sock").c_str());
  UniqueFd left(::socket(AF_UNIX, SOCK_STREAM, 0));
  ASSERT_EQ(::bind(left.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  left.reset();
  EXPECT_EQ(Refusal(options), "");
}

TEST_F(ServerTest, ASocketPathThatIsTooLongSaysSo) {
  service::ServerOptions options;
  options.directory = "/tmp/" + std::string(120, 'x');
  EXPECT_THAT(Refusal(options), HasSubstr("a socket's path has at most 107 bytes"));
  options.directory = dir_.path() + "/missing";
  EXPECT_THAT(Refusal(options), HasSubstr("No such file or directory"));
}

// The exit code of a child under another uid that connects and waits for the server's first bytes: 0 it was served, 1
// the connection was closed on it, 2 it could not connect, 3 no such user for us.
int ConnectAs(uid_t uid, const std::string& path) {
  pid_t child = ::fork();
  if (child == 0) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    if (::setresgid(uid, uid, uid) != 0 || ::setresuid(uid, uid, uid) != 0) ::_exit(3);
    int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
    if (::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) ::_exit(2);
    ::alarm(60);
    // The preface of HTTP/2 and empty SETTINGS, which the server answers.
    static const char kPreface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
    if (::send(fd, kPreface, sizeof kPreface - 1, MSG_NOSIGNAL) < 0) ::_exit(1);
    char byte = 0;
    ::_exit(::read(fd, &byte, 1) == 1 ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(ServerTest, OtherUsersGetInOnlyIfAllowed) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become another user";
  ASSERT_EQ(::chmod(dir_.path().c_str(), 0711), 0);
  service::ServerOptions options;
  options.directory = dir_.path();
  options.allow_users = {{4242, Role::kRead}};
  auto server = StartOrFail(options);
  ASSERT_TRUE(server);
  struct stat info {};
  ASSERT_EQ(::stat(server->socket_path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0666u);
  EXPECT_EQ(ConnectAs(4242, server->socket_path()), 0);
  EXPECT_EQ(ConnectAs(4243, server->socket_path()), 1);
  EXPECT_EQ(ConnectAs(0, server->socket_path()), 0);
  server.reset();
  options.allow_users = {};
  server = StartOrFail(options);
  ASSERT_TRUE(server);
  EXPECT_EQ(ConnectAs(4242, server->socket_path()), 2);
}

TEST_F(ServerTest, TcpNeedsTheToken) {
  auto server = StartOrFail(TcpOptions());
  ASSERT_TRUE(server);
  ASSERT_GT(server->tcp_port(), 0);
  EXPECT_THAT(server->socket_path(), IsEmpty());
  EXPECT_THAT(server->notes(), IsEmpty());
  auto channel = Plain(server->tcp_port());
  grpc::Status status = AskStatus(channel, "");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_THAT(status.error_message(), HasSubstr("authorization: Bearer <token>"));
  status = AskStatus(channel, "Bearer 0123456789abcdef0123456789abcdeX");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(status.error_message(), "the token is not that of this daemon");
  EXPECT_EQ(AskStatus(channel, "Bearer").error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(AskStatus(channel, kToken).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(AskStatus(channel, "Bearer " + kToken + "0").error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(AskStatus(channel, "Bearer " + kToken).ok());
  // The other services of the port ask for it too.
  EXPECT_EQ(RawCall(channel, "/grpc.health.v1.Health/Check", ""), "");
  EXPECT_EQ(
      RawCall(channel, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", std::string("\x3a\x00", 2)),
      "");
}

TEST_F(ServerTest, WatchesNeedTheTokenToo) {
  auto server = StartOrFail(TcpOptions());
  ASSERT_TRUE(server);
  auto stub = v1::Monitor::NewStub(Plain(server->tcp_port()));
  grpc::ClientContext context;
  SetWatchdog(&context);
  auto reader = stub->Watch(&context, v1::WatchRequest());
  v1::WatchResponse response;
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(monitor_.hub.watchers(), 0u);
}

TEST_F(ServerTest, BothDoorsLeadToOneMonitor) {
  service::ServerOptions options = TcpOptions();
  options.directory = dir_.path();
  auto server = StartOrFail(options);
  ASSERT_TRUE(server);
  EXPECT_TRUE(AskStatus(Plain(server->tcp_port()), "Bearer " + kToken).ok());
  auto unix_channel = grpc::CreateChannel("unix:" + server->socket_path(), grpc::InsecureChannelCredentials());
  EXPECT_TRUE(AskStatus(unix_channel, "").ok());
}

TEST_F(ServerTest, TlsEncryptsAndATokenStillCounts) {
  service::ServerOptions options;
  options.listen = "localhost:0";
  options.tls_cert_file = dir_.Write("cert.pem", kTestCertificate);
  options.tls_key_file = dir_.Write("key.pem", kTestKey);
  auto secure = [](int port) {
    grpc::SslCredentialsOptions ssl;
    ssl.pem_root_certs = kTestCertificate;
    return grpc::CreateChannel("localhost:" + std::to_string(port), grpc::SslCredentials(ssl));
  };
  {
    auto server = StartOrFail(options);
    ASSERT_TRUE(server);
    ASSERT_EQ(server->notes().size(), 1u);
    EXPECT_THAT(server->notes()[0], HasSubstr("asks for no token"));
    EXPECT_TRUE(AskStatus(secure(server->tcp_port()), "").ok());
    EXPECT_EQ(AskStatus(Plain(server->tcp_port()), "").error_code(), grpc::StatusCode::UNAVAILABLE);
  }
  options.token_file = dir_.Write("token", kToken);
  auto server = StartOrFail(options);
  ASSERT_TRUE(server);
  ASSERT_EQ(server->notes().size(), 1u);
  EXPECT_THAT(server->notes()[0], HasSubstr("readable by other users"));
  EXPECT_EQ(AskStatus(secure(server->tcp_port()), "").error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(AskStatus(secure(server->tcp_port()), "Bearer " + kToken).ok());
}

TEST_F(ServerTest, TcpIsRefusedWithoutTokenOrTls) {
  service::ServerOptions options;
  options.listen = "127.0.0.1:0";
  EXPECT_THAT(Refusal(options),
              HasSubstr("pass --token-file FILE (openssl rand -hex 32 > FILE), or --tls-cert and --tls-key"));
  options = TcpOptions();
  options.listen = "0.0.0.0:0";
  EXPECT_THAT(Refusal(options), HasSubstr("pass --tls-cert and --tls-key as well, or listen on 127.0.0.1"));
  options.tls_cert_file = "cert.pem";
  EXPECT_EQ(Refusal(options), "--tls-cert and --tls-key go together; pass --tls-key as well");
  options.tls_cert_file = "";
  options.tls_key_file = "key.pem";
  EXPECT_EQ(Refusal(options), "--tls-cert and --tls-key go together; pass --tls-cert as well");
  options.tls_cert_file = dir_.path() + "/missing.pem";
  EXPECT_THAT(Refusal(options), HasSubstr("--tls-cert: cannot read '" + dir_.path() + "/missing.pem'"));
  options.tls_cert_file = dir_.Write("cert.pem", "no certificate");
  options.tls_key_file = dir_.Write("key.pem", "no key");
  EXPECT_THAT(Refusal(options), HasSubstr("check --listen, --tls-cert and --tls-key"));
  options = service::ServerOptions();
  EXPECT_THAT(Refusal(options), HasSubstr("neither a directory"));
  options.directory = dir_.path();
  options.token_file = "token";
  EXPECT_THAT(Refusal(options), HasSubstr("pass --listen host:port as well"));
}

TEST_F(ServerTest, TokensThatAreNoneAreRefused) {
  service::ServerOptions options = TcpOptions();
  dir_.Write("token", "short");
  EXPECT_THAT(Refusal(options), HasSubstr("has 5 characters; a token needs at least 16"));
  dir_.Write("token", "with blanks in the middle of it");
  EXPECT_THAT(Refusal(options), HasSubstr("has a blank or a character that no header may hold"));
  dir_.Write("token", "");
  EXPECT_THAT(Refusal(options), HasSubstr("is empty"));
  options.token_file = dir_.path() + "/missing";
  EXPECT_THAT(Refusal(options), HasSubstr("--token-file: cannot read"));
}

TEST_F(ServerTest, AddressesThatAreNoneAreRefused) {
  service::ServerOptions options = TcpOptions();
  for (const char* listen :
       {"50051", ":50051", "127.0.0.1:", "127.0.0.1:port", "127.0.0.1:70000", "127.0.0.1:-1", "::1:50051", "[]:1"}) {
    options.listen = listen;
    EXPECT_EQ(Refusal(options), std::string("--listen '") + listen +
                                    "' is no address; pass host:port, such as 127.0.0.1:50051 or [::1]:50051");
  }
  options.listen = "no such host:1";
  EXPECT_THAT(Refusal(options), HasSubstr("cannot find the address of 'no such host'"));
}

TEST_F(ServerTest, APortInUseIsRefusedAlsoByAnotherDaemon) {
  service::ServerOptions options = TcpOptions();
  auto first = StartOrFail(options);
  ASSERT_TRUE(first);
  options.listen = "127.0.0.1:" + std::to_string(first->tcp_port());
  EXPECT_EQ(Refusal(options),
            "cannot listen on '" + options.listen +
                "': the port is in use by another process; pass another port to --listen, or 0 for a free one");
  first.reset();
  EXPECT_EQ(Refusal(options), "");
}

TEST_F(ServerTest, StopWaitsForACallThatUsesTheMonitor) {
  std::mutex mutex;
  std::condition_variable changed;
  bool inside = false;
  std::atomic<bool> left{false};
  monitor_.before_read = [&] {
    {
      std::lock_guard lock(mutex);
      inside = true;
    }
    changed.notify_all();
    // Longer than the grace of the shutdown.
    std::this_thread::sleep_for(std::chrono::seconds(3));
    left = true;
  };
  StartServer();
  std::thread reader([&] {
    std::vector<v1::ReadSamplesResponse> answers;
    Read({}, &answers);
  });
  {
    std::unique_lock lock(mutex);
    ASSERT_TRUE(changed.wait_for(lock, std::chrono::minutes(1), [&] { return inside; }));
  }
  server_->Stop();
  EXPECT_TRUE(left);
  reader.join();
}

TEST_F(ServerTest, GarbageOnTheSocketHurtsNobody) {
  StartServer();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, server_->socket_path().c_str());
  for (int i = 0; i < 20; ++i) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
    ASSERT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    std::string garbage(static_cast<size_t>(1 + 997 * i), static_cast<char>(i * 37));
    ::send(fd.get(), garbage.data(), garbage.size(), MSG_NOSIGNAL);
  }
  EXPECT_TRUE(AskStatus(channel_, "").ok());
}

}  // namespace
}  // namespace ikkuna::test
