// A Server in a folder of its own, over a ScriptedMonitor or what a test gives it, and a client connected to its Unix
// socket.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/service/server.h"
#include "ikkuna/v1/monitor.grpc.pb.h"
#include "tests/daemon/service/scripted_monitor.h"
#include "tests/watchdog.h"

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
  context->set_deadline(std::chrono::system_clock::now() + kWatchdog);
}

// What programs read of a failure.
inline v1::ErrorDetail DetailOf(const grpc::Status& status) {
  v1::StatusDetails details;
  v1::ErrorDetail detail;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), static_cast<int>(status.error_code()));
  EXPECT_EQ(details.message(), status.error_message());
  if (details.details_size() == 1) {
    EXPECT_TRUE(details.details(0).UnpackTo(&detail));
  }
  return detail;
}

class ServiceTest : public ::testing::Test {
 protected:
  // What is served.
  virtual Monitor& monitor() { return monitor_.monitor(); }

  void StartServer(service::ServerOptions options = {}) {
    options.directory = dir_.path();
    Result<std::unique_ptr<service::Server>> server = service::Server::Start(options, monitor());
    ASSERT_TRUE(server.ok()) << server.error().text;
    server_ = std::move(*server);
    channel_ = NewChannel();
    stub_ = v1::Monitor::NewStub(channel_);
  }
  // A connection of its own, with the limits that a client has by default.
  std::shared_ptr<grpc::Channel> NewChannel() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel("unix:" + server_->socket_path(), grpc::InsecureChannelCredentials(), arguments);
  }

  // One unary call, such as Call(&v1::Monitor::Stub::ListRuns, request, &response).
  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (v1::Monitor::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response) {
    grpc::ClientContext context;
    SetWatchdog(&context);
    grpc::Status status = ((*stub_).*method)(&context, request, response);
    if (status.ok()) {
      EXPECT_LT(response->ByteSizeLong(), 1u << 20);
    }
    return status;
  }
  // A whole read.
  grpc::Status Read(const v1::ReadSamplesRequest& request, std::vector<v1::ReadSamplesResponse>* answers) {
    grpc::ClientContext context;
    SetWatchdog(&context);
    auto reader = stub_->ReadSamples(&context, request);
    v1::ReadSamplesResponse answer;
    while (reader->Read(&answer)) {
      EXPECT_LT(answer.ByteSizeLong(), 1u << 20);
      answers->push_back(answer);
    }
    return reader->Finish();
  }

  TempDir dir_;
  ScriptedMonitor monitor_;
  std::unique_ptr<service::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Monitor::Stub> stub_;
};

}  // namespace ikkuna::test
