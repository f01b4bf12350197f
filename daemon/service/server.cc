#include "daemon/service/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "daemon/service/access.h"
#include "daemon/service/doors.h"
#include "daemon/service/keep_grpc.h"
#include "daemon/service/monitor_service.h"
#include "daemon/service/open_calls.h"
#include "daemon/service/roles.h"

namespace ikkuna::service {
namespace {

constexpr int kKeepaliveTime_ms = 30'000;
constexpr int kKeepaliveTimeout_ms = 10'000;
constexpr int kMinPingInterval_ms = 10'000;  // clients may keep alive too
constexpr int kMaxRequestBytes = 4 << 20;    // a few values of 1 MiB that are published together
constexpr int kMaxCallsPerConnection = 128;

void EnablePlugins() {
  static std::once_flag once;
  std::call_once(once, [] {
    KeepGrpc();
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    // Reflection tells what is linked in; of the service's own file, which has no messages, nothing else would be.
    [[maybe_unused]] const void* volatile file = &descriptor_table_ikkuna_2fv1_2fmonitor_2eproto;
  });
}

void SetLimits(grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(kMaxRequestBytes);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTime_ms);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeout_ms);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingInterval_ms);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxCallsPerConnection);
}

}  // namespace

struct Server::Impl {
  explicit Impl(Monitor& monitor) : service(monitor, callers, calls) {}

  Callers callers;
  OpenCalls calls;
  MonitorService service;
  std::unique_ptr<Doors> doors;  // before the service in destruction: its servers hold pointers to it
  std::vector<std::string> notes;
  std::chrono::milliseconds stop_grace{};
  std::chrono::milliseconds stop_linger{};
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() { Stop(); }

const std::string& Server::socket_path() const { return impl_->doors->socket_path(); }
int Server::tcp_port() const { return impl_->doors->tcp_port(); }
const std::vector<std::string>& Server::notes() const { return impl_->notes; }
RefusedConnections Server::refused_connections() const { return impl_->doors->refused(); }

Result<std::unique_ptr<Server>> Server::Start(const ServerOptions& options, Monitor& monitor) {
  EnablePlugins();
  auto impl = std::make_unique<Impl>(monitor);
  impl->stop_grace = options.stop_grace;
  impl->stop_linger = options.stop_linger;
  Result<std::unique_ptr<Doors>> doors =
      Doors::Open(options, impl->callers, [service = &impl->service](grpc::ServerBuilder* builder) {
        SetLimits(builder);
        builder->RegisterService(service);
        std::unique_ptr<grpc::Server> server = builder->BuildAndStart();
        if (server) server->GetHealthCheckService()->SetServingStatus("ikkuna.v1.Monitor", true);
        return server;
      });
  if (!doors) return doors.error();
  impl->doors = std::move(*doors);
  impl->notes = impl->callers.access()->notes();
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Status Server::Reload(const ServerOptions& options) {
  Status reloaded = impl_->doors->Reload(options);
  if (reloaded) impl_->notes = impl_->callers.access()->notes();
  return reloaded;
}

void Server::Stop() {
  if (!impl_ || !impl_->doors) return;
  impl_->doors->StopAccepting();
  const auto begin = std::chrono::steady_clock::now();
  if (impl_->calls.EndWatches(begin + impl_->stop_grace)) std::this_thread::sleep_for(impl_->stop_linger);
  const auto used =
      std::min<std::chrono::steady_clock::duration>(std::chrono::steady_clock::now() - begin, impl_->stop_grace);
  impl_->doors->Close(std::chrono::system_clock::now() + (impl_->stop_grace - used));
  impl_->calls.StopWorkers();
}

}  // namespace ikkuna::service
