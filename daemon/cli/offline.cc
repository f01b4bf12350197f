#include "daemon/cli/offline.h"

namespace ikkuna::cli {

struct Offline::Impl {
  std::shared_ptr<grpc::Channel> channel;
  std::vector<std::string> notes;
};

Offline::Offline(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Offline::~Offline() = default;

Result<std::unique_ptr<Offline>> Offline::Open(const std::string& path) {
  return Error{ErrorCode::kFailedPrecondition, "cannot read '" + path + "' without a daemon yet"};
}

std::shared_ptr<grpc::Channel> Offline::channel() const { return impl_->channel; }
const std::vector<std::string>& Offline::notes() const { return impl_->notes; }

}  // namespace ikkuna::cli
