#include "daemon/service/server.h"

#include <grpc/grpc.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server_posix.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "daemon/service/monitor_service.h"
#include "daemon/service/open_calls.h"
#include "daemon/service/roles.h"
#include "daemon/service/tcp_port.h"
#include "daemon/service/unix_listener.h"

namespace ikkuna::service {
namespace {

constexpr int kKeepaliveTime_ms = 30'000;
constexpr int kKeepaliveTimeout_ms = 10'000;
constexpr int kMinPingInterval_ms = 10'000;  // clients may keep alive too
constexpr int kMaxRequestBytes = 4 << 20;    // a few values of 1 MiB that are published together
constexpr int kMaxCallsPerConnection = 128;
constexpr size_t kMaxGrpcMemoryBytes = 256u << 20;  // buffers of all connections together

void EnablePlugins() {
  static std::once_flag once;
  std::call_once(once, [] {
    // Never given back: the last user of gRPC that goes waits for a poller of its, which may sleep ten seconds after a
    // reader was slow. What it would free the end of the process frees as well.
    grpc_init();
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

void SetLimits(grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(kMaxRequestBytes);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTime_ms);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeout_ms);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingInterval_ms);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxCallsPerConnection);
  // Otherwise a second daemon would bind the same port and get half of the clients.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  grpc::ResourceQuota quota("ikkuna-daemon");
  quota.Resize(kMaxGrpcMemoryBytes);
  builder->SetResourceQuota(quota);
}

}  // namespace

struct Server::Impl {
  explicit Impl(Monitor& monitor) : service(monitor, callers, calls) {}

  Callers callers;
  OpenCalls calls;
  MonitorService service;
  std::unique_ptr<grpc::Server> grpc_server;  // before the service in destruction: it holds a pointer to it
  std::unique_ptr<UnixListener> listener;
  std::string socket_path;
  int tcp_port = 0;
  std::vector<std::string> notes;
  std::chrono::milliseconds stop_grace{};
  std::chrono::milliseconds stop_linger{};
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() { Stop(); }

const std::string& Server::socket_path() const { return impl_->socket_path; }
int Server::tcp_port() const { return impl_->tcp_port; }
const std::vector<std::string>& Server::notes() const { return impl_->notes; }

Result<std::unique_ptr<Server>> Server::Start(const ServerOptions& options, Monitor& monitor) {
  if (options.directory.empty() && options.listen.empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 "the service has neither a directory for its socket nor an address to listen on"};
  }
  if (options.listen.empty() &&
      (!options.token_file.empty() || !options.tls_cert_file.empty() || !options.tls_key_file.empty())) {
    return Error{
        ErrorCode::kInvalidArgument,
        "--token-file, --tls-cert and --tls-key are for TCP; pass --listen host:port as well (the Unix socket goes by "
        "user)"};
  }
  Result<std::shared_ptr<const Access>> access = Access::Read(options);
  if (!access) return access.error();
  EnablePlugins();
  auto impl = std::make_unique<Impl>(monitor);
  impl->callers.Set(*std::move(access));
  impl->stop_grace = options.stop_grace;
  impl->stop_linger = options.stop_linger;
  grpc::ServerBuilder builder;
  SetLimits(&builder);
  if (!options.listen.empty()) {
    Result<TcpPort> port = PrepareTcpPort(options);
    if (!port) return port.error();
    impl->notes = port->notes;
    builder.AddListeningPort(port->address, port->credentials, &impl->tcp_port);
  }
  builder.RegisterService(&impl->service);
  builder.SetContextAllocator(Callers::ContextsOf(options.listen.empty() ? std::optional(::geteuid()) : std::nullopt));
  impl->grpc_server = builder.BuildAndStart();
  std::unique_ptr<Server> server(new Server(std::move(impl)));
  Impl& self = *server->impl_;
  if (!self.grpc_server || (!options.listen.empty() && self.tcp_port == 0)) {
    return Error{ErrorCode::kSystem,
                 options.listen.empty()
                     ? "cannot start gRPC"
                     : "cannot listen on '" + options.listen +
                           "': gRPC refused the address or the certificate; check --listen, --tls-cert and --tls-key"};
  }
  if (!options.directory.empty()) {
    std::string path = options.directory + "/grpc.sock";
    std::vector<uid_t> uids;
    for (const AllowedUser& user : options.allow_users) uids.push_back(user.uid);
    Result<std::unique_ptr<UnixListener>> listener = UnixListener::Start(
        path, uids,
        [raw = self.grpc_server.get()](UniqueFd socket) { grpc::AddInsecureChannelFromFd(raw, socket.release()); });
    if (!listener) return listener.error();
    self.listener = std::move(*listener);
    self.socket_path = path;
  }
  self.grpc_server->GetHealthCheckService()->SetServingStatus("ikkuna.v1.Monitor", true);
  return server;
}

void Server::Stop() {
  if (!impl_) return;
  if (impl_->listener) impl_->listener->Stop();
  const auto begin = std::chrono::steady_clock::now();
  if (impl_->calls.EndWatches(begin + impl_->stop_grace)) std::this_thread::sleep_for(impl_->stop_linger);
  if (impl_->grpc_server) {
    // Ends the health service's streams. Calls that are running are waited for, however long: they use the Monitor.
    const auto used =
        std::min<std::chrono::steady_clock::duration>(std::chrono::steady_clock::now() - begin, impl_->stop_grace);
    impl_->grpc_server->Shutdown(std::chrono::system_clock::now() + (impl_->stop_grace - used));
    impl_->grpc_server->Wait();
  }
  impl_->calls.StopWorkers();
}

}  // namespace ikkuna::service
