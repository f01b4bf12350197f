// A Server over a ScriptedMonitor in a folder of its own, and a client connected to its Unix socket.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "daemon/service/server.h"
#include "ikkuna/v1/monitor.grpc.pb.h"
#include "tests/daemon/service/scripted_monitor.h"

namespace ikkuna::test {

class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "ikkuna-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }

  std::string Write(const std::string& name, const std::string& text) const {
    std::string file = path_ + "/" + name;
    std::ofstream(file) << text;
    return file;
  }

 private:
  std::string path_;
};

// A call that hangs fails after this.
inline void SetWatchdog(grpc::ClientContext* context) {
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
}

class ServiceTest : public ::testing::Test {
 protected:
  void StartServer(service::ServerOptions options = {}) {
    options.directory = dir_.path();
    Result<std::unique_ptr<service::Server>> server = service::Server::Start(options, monitor_);
    ASSERT_TRUE(server.ok()) << server.error().text;
    server_ = std::move(*server);
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(64 << 20);
    channel_ =
        grpc::CreateCustomChannel("unix:" + server_->socket_path(), grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::Monitor::NewStub(channel_);
  }

  // One unary call, such as Call(&v1::Monitor::Stub::ListRuns, request, &response).
  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (v1::Monitor::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response) {
    grpc::ClientContext context;
    SetWatchdog(&context);
    return ((*stub_).*method)(&context, request, response);
  }

  TempDir dir_;
  ScriptedMonitor monitor_;
  std::unique_ptr<service::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Monitor::Stub> stub_;
};

}  // namespace ikkuna::test
