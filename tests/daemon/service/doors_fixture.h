// Doors over a service that says who asked, and clients that come in by them: as another user, with a token, with a
// certificate.
#pragma once

#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "daemon/service/doors.h"
#include "daemon/service/roles.h"
#include "ikkuna/v1/monitor.grpc.pb.h"
#include "shared/base/unique_fd.h"
#include "tests/daemon/service/test_authority.h"
#include "tests/watchdog.h"

namespace ikkuna::test {

// GetStatus answers, in `version`, who asked, and in `pid` how often that was; Watch says it at the start and again
// whenever Poke() is called.
class WhoService final : public v1::Monitor::CallbackService {
 public:
  explicit WhoService(const service::Callers& callers) : callers_(callers) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context, const v1::GetStatusRequest*,
                                      v1::GetStatusResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    Result<Caller> caller = callers_.Who(*context);
    if (caller) response->set_version(Text(*caller));
    reactor->Finish(caller ? grpc::Status::OK : grpc::Status(grpc::StatusCode::UNAUTHENTICATED, caller.error().text));
    return reactor;
  }

  grpc::ServerWriteReactor<v1::WatchResponse>* Watch(grpc::CallbackServerContext* context,
                                                     const v1::WatchRequest*) override {
    return new Stream(*this, context);
  }

  void Poke() {
    std::lock_guard lock(mutex_);
    for (Stream* stream : streams_) stream->Say();
  }

  static std::string Text(const Caller& caller) {
    return caller.name + (caller.role == Role::kControl ? " control" : " read") +
           (caller.uid ? " uid=" + std::to_string(*caller.uid) : "");
  }

 private:
  class Stream final : public grpc::ServerWriteReactor<v1::WatchResponse> {
   public:
    Stream(WhoService& service, grpc::CallbackServerContext* context) : service_(service), context_(context) {
      std::lock_guard lock(service_.mutex_);
      service_.streams_.insert(this);
      Say();
    }
    // With the service's mutex held, as all of it.
    void Say() {
      if (ended_) return;
      if (writing_) {
        again_ = true;
        return;
      }
      Result<Caller> caller = service_.callers_.Who(*context_);
      message_.set_cursor(caller ? Text(*caller) : "refused: " + caller.error().text);
      writing_ = true;
      StartWrite(&message_);
    }
    void OnWriteDone(bool) override {
      std::lock_guard lock(service_.mutex_);
      writing_ = false;
      if (std::exchange(again_, false)) Say();
    }
    void OnCancel() override {
      std::lock_guard lock(service_.mutex_);
      ended_ = true;
      Finish(grpc::Status::CANCELLED);
    }
    void OnDone() override {
      {
        std::lock_guard lock(service_.mutex_);
        service_.streams_.erase(this);
      }
      delete this;
    }

   private:
    WhoService& service_;
    grpc::CallbackServerContext* const context_;
    v1::WatchResponse message_;
    bool writing_ = false;
    bool again_ = false;
    bool ended_ = false;
  };

  const service::Callers& callers_;
  std::mutex mutex_;
  std::set<Stream*> streams_;  // guarded by mutex_
};

// A call that hangs fails after this.
inline void SetDoorsWatchdog(grpc::ClientContext* context) {
  context->set_deadline(std::chrono::system_clock::now() + kWatchdog);
}

// The daemon's user for the kernel is one thread's matter: only the calling thread is `uid` inside the scope.
class AsUser {
 public:
  explicit AsUser(uid_t uid) { done_ = ::syscall(SYS_setresuid, -1, uid, -1) == 0; }
  ~AsUser() {
    if (done_ && ::syscall(SYS_setresuid, -1, 0, -1) != 0) std::abort();
  }
  AsUser(const AsUser&) = delete;
  AsUser& operator=(const AsUser&) = delete;
  bool done() const { return done_; }

 private:
  bool done_ = false;
};

class DoorsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    static std::once_flag once;
    std::call_once(once, [] {
      grpc::EnableDefaultHealthCheckService(true);
      grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    });
    std::string name = (std::filesystem::temp_directory_path() / "ikkuna-doors-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    ASSERT_EQ(::chmod(folder_.c_str(), 0711), 0);
  }
  void TearDown() override {
    doors_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  // A file that only we may read.
  std::string Write(const std::string& name, const std::string& text, mode_t mode = 0600) const {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path) << text;
    EXPECT_EQ(::chmod(path.c_str(), mode), 0);
    return path;
  }

  Status Open(const service::ServerOptions& options) {
    doors_.reset();
    Result<std::unique_ptr<service::Doors>> doors =
        service::Doors::Open(options, callers_, [this](grpc::ServerBuilder* builder) {
          builder->RegisterService(&service_);
          return builder->BuildAndStart();
        });
    if (!doors) return doors.error();
    doors_ = std::move(*doors);
    return {};
  }
  // "" if they opened.
  std::string Refusal(const service::ServerOptions& options) {
    Status opened = Open(options);
    return opened ? "" : opened.error().text;
  }
  std::string ReloadRefusal(const service::ServerOptions& options) {
    Status reloaded = doors_->Reload(options);
    return reloaded ? "" : reloaded.error().text;
  }

  service::ServerOptions UnixOptions() const {
    service::ServerOptions options;
    options.directory = folder_;
    return options;
  }

  UniqueFd ConnectUnix() const {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, doors_->socket_path().c_str());
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return UniqueFd();
    return fd;
  }
  // A connection that `uid` opened; empty: they could not.
  std::shared_ptr<grpc::Channel> ChannelAs(uid_t uid) const {
    UniqueFd fd;
    {
      AsUser user(uid);
      EXPECT_TRUE(user.done());
      fd = ConnectUnix();
    }
    if (!fd) return nullptr;
    EXPECT_EQ(::fcntl(fd.get(), F_SETFL, O_NONBLOCK), 0);
    return grpc::CreateInsecureChannelFromFd("daemon", fd.release());
  }
  std::shared_ptr<grpc::Channel> UnixChannel() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel("unix:" + doors_->socket_path(), grpc::InsecureChannelCredentials(), arguments);
  }
  // A connection of its own, with no other test's.
  std::shared_ptr<grpc::Channel> TcpChannel(const std::shared_ptr<grpc::ChannelCredentials>& credentials) const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel("localhost:" + std::to_string(doors_->tcp_port()), credentials, arguments);
  }
  std::shared_ptr<grpc::Channel> PlainTcp() const { return TcpChannel(grpc::InsecureChannelCredentials()); }
  static std::shared_ptr<grpc::ChannelCredentials> Tls(const std::string& authority,
                                                       const CertificateAndKey& own = {}) {
    grpc::SslCredentialsOptions ssl;
    ssl.pem_root_certs = authority;
    ssl.pem_cert_chain = own.certificate;
    ssl.pem_private_key = own.key;
    return grpc::SslCredentials(ssl);
  }

  // Who the daemon says that asks, or "CODE: text". `patient`: a connection that does not come about is tried again.
  static std::string Ask(const std::shared_ptr<grpc::Channel>& channel, const std::string& authorization = "",
                         bool patient = false) {
    if (!channel) return "not connected";
    grpc::ClientContext context;
    SetDoorsWatchdog(&context);
    context.set_wait_for_ready(patient);
    if (!authorization.empty()) context.AddMetadata("authorization", authorization);
    v1::GetStatusResponse response;
    grpc::Status status = v1::Monitor::NewStub(channel)->GetStatus(&context, {}, &response);
    if (status.ok()) return response.version();
    const char* code = status.error_code() == grpc::StatusCode::UNAUTHENTICATED ? "UNAUTHENTICATED"
                       : status.error_code() == grpc::StatusCode::UNAVAILABLE   ? "UNAVAILABLE"
                                                                                : "other";
    return std::string(code) + ": " + status.error_message();
  }

  std::string folder_;
  service::Callers callers_;
  WhoService service_{callers_};
  std::unique_ptr<service::Doors> doors_;
};

// One Watch, read line by line.
class OpenWatch {
 public:
  explicit OpenWatch(const std::shared_ptr<grpc::Channel>& channel, const std::string& authorization = "")
      : stub_(v1::Monitor::NewStub(channel)) {
    SetDoorsWatchdog(&context_);
    if (!authorization.empty()) context_.AddMetadata("authorization", authorization);
    reader_ = stub_->Watch(&context_, {});
  }
  ~OpenWatch() {
    if (!reader_) return;
    context_.TryCancel();
    v1::WatchResponse ignored;
    while (reader_->Read(&ignored)) {
    }
    (void)reader_->Finish();
  }
  // "ended": the stream has.
  std::string Next() {
    v1::WatchResponse response;
    return reader_->Read(&response) ? response.cursor() : "ended";
  }

 private:
  std::unique_ptr<v1::Monitor::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::WatchResponse>> reader_;
};

}  // namespace ikkuna::test
