#include "daemon/cli/offline.h"

#include <utility>

#include "daemon/monitor/stored_monitor.h"
#include "daemon/service/in_process.h"
#include "daemon/sinks/stored_runs.h"

namespace ikkuna::cli {

struct Offline::Impl {
  explicit Impl(std::unique_ptr<sinks::StoredRuns> opened) : stored(std::move(opened)), monitor(*stored) {}

  const std::unique_ptr<sinks::StoredRuns> stored;
  StoredMonitor monitor;
  std::unique_ptr<service::InProcess> service;
};

Offline::Offline(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Offline::~Offline() = default;

Result<std::unique_ptr<Offline>> Offline::Open(const std::string& path) {
  Result<std::unique_ptr<sinks::StoredRuns>> stored = sinks::StoredRuns::Open(path);
  if (!stored) return stored.error();
  auto impl = std::make_unique<Impl>(*std::move(stored));
  Result<std::unique_ptr<service::InProcess>> service = service::InProcess::Start(impl->monitor.monitor());
  if (!service) return service.error();
  impl->service = *std::move(service);
  return std::unique_ptr<Offline>(new Offline(std::move(impl)));
}

std::shared_ptr<grpc::Channel> Offline::channel() const { return impl_->service->channel(); }
const std::vector<std::string>& Offline::notes() const { return impl_->stored->unread(); }

}  // namespace ikkuna::cli
