// The server as a whole: what it answers besides its calls, that rules can change, and that an end is an end.
#include "daemon/service/server.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <sys/stat.h>

#include <thread>

#include "tests/daemon/service/service_fixture.h"

namespace ikkuna::test {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::string kServerToken = "0123456789abcdef0123456789abcdef";

class ServerTest : public ServiceTest {
 protected:
  service::ServerOptions TcpOptions() {
    service::ServerOptions options;
    options.listen = "127.0.0.1:0";
    options.token_file = dir_.Write("token", kServerToken + "\n");
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
std::string RawAnswer(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
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
  EXPECT_EQ(RawAnswer(channel_, "/grpc.health.v1.Health/Check", request), std::string("\x08\x01", 2));
  EXPECT_EQ(RawAnswer(channel_, "/grpc.health.v1.Health/Check", ""), std::string("\x08\x01", 2));
}

TEST_F(ServerTest, ReflectionNamesTheServiceAndItsFile) {
  StartServer();
  const std::string method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  // ServerReflectionRequest{list_services: ""} and {file_containing_symbol: "ikkuna.v1.Monitor"}.
  EXPECT_THAT(RawAnswer(channel_, method, std::string("\x3a\x00", 2)), HasSubstr("ikkuna.v1.Monitor"));
  const std::string symbol = "ikkuna.v1.Monitor";
  std::string request = std::string("\x22") + static_cast<char>(symbol.size()) + symbol;
  std::string file = RawAnswer(channel_, method, request);
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

TEST_F(ServerTest, ReloadChangesWhoMayAsk) {
  service::ServerOptions options = TcpOptions();
  auto server = StartOrFail(options);
  ASSERT_TRUE(server);
  EXPECT_THAT(server->socket_path(), IsEmpty());
  EXPECT_THAT(server->notes(), IsEmpty());
  auto channel = Plain(server->tcp_port());
  EXPECT_TRUE(AskStatus(channel, "Bearer " + kServerToken).ok());
  const std::string next = "fedcba9876543210fedcba9876543210";
  dir_.Write("token", "read " + next + "\n");
  ASSERT_TRUE(server->Reload(options).ok());
  EXPECT_EQ(AskStatus(channel, "Bearer " + kServerToken).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(AskStatus(channel, "Bearer " + next).ok());
  dir_.Write("token", "");
  Status refused = server->Reload(options);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().text, HasSubstr("is empty"));
  EXPECT_TRUE(AskStatus(channel, "Bearer " + next).ok());
}

TEST_F(ServerTest, ARoleReachesTheMonitor) {
  service::ServerOptions options = TcpOptions();
  dir_.Write("token", "read " + kServerToken + "\ncontrol " + kServerToken + "more\n");
  auto server = StartOrFail(options);
  ASSERT_TRUE(server);
  auto stub = v1::Monitor::NewStub(Plain(server->tcp_port()));
  for (const auto& [token, role] :
       {std::pair{kServerToken, v1::ROLE_READ}, std::pair{kServerToken + "more", v1::ROLE_CONTROL}}) {
    grpc::ClientContext context;
    SetWatchdog(&context);
    context.AddMetadata("authorization", "Bearer " + token);
    v1::GetStatusResponse response;
    ASSERT_TRUE(stub->GetStatus(&context, {}, &response).ok());
    EXPECT_EQ(response.role(), role);
  }
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

}  // namespace
}  // namespace ikkuna::test
