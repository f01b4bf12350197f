#include "daemon/service/in_process.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <chrono>
#include <utility>

#include "daemon/service/access.h"
#include "daemon/service/monitor_service.h"
#include "daemon/service/open_calls.h"
#include "daemon/service/roles.h"

namespace ikkuna::service {

struct InProcess::Impl {
  explicit Impl(Monitor& monitor) : service(monitor, callers, calls) {}

  Callers callers;
  OpenCalls calls;
  MonitorService service;
  std::unique_ptr<grpc::Server> server;
};

Result<std::unique_ptr<InProcess>> InProcess::Start(Monitor& monitor) {
  Result<std::shared_ptr<const Access>> access = Access::Read(ServerOptions());
  if (!access) return access.error();
  auto impl = std::make_unique<Impl>(monitor);
  impl->callers.Set(*std::move(access));
  grpc::ServerBuilder builder;
  builder.RegisterService(&impl->service);
  builder.SetContextAllocator(Callers::ContextsOf(::geteuid()));
  impl->server = builder.BuildAndStart();
  if (!impl->server) return Error{ErrorCode::kSystem, "cannot start gRPC"};
  return std::unique_ptr<InProcess>(new InProcess(std::move(impl)));
}

InProcess::InProcess(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

InProcess::~InProcess() {
  impl_->calls.EndWatches(std::chrono::steady_clock::now());
  impl_->server->Shutdown(std::chrono::system_clock::now());
  impl_->server->Wait();
  impl_->calls.StopWorkers();
}

std::shared_ptr<grpc::Channel> InProcess::channel() const { return impl_->server->InProcessChannel({}); }

}  // namespace ikkuna::service
