#include "daemon/service/roles.h"

#include <grpcpp/generic/async_generic_service.h>

#include <atomic>
#include <utility>

#include "daemon/service/access.h"

namespace ikkuna::service {
namespace {

// A context that knows the socket its call came through; made and freed by gRPC for each call.
class DoorContext final : public grpc::CallbackServerContext {
 public:
  explicit DoorContext(std::optional<uid_t> uid) : uid_(uid) {}
  std::optional<uid_t> uid() const { return uid_; }

 private:
  const std::optional<uid_t> uid_;
};

class DoorContexts final : public grpc::ContextAllocator {
 public:
  explicit DoorContexts(std::optional<uid_t> uid) : uid_(uid) {}
  grpc::CallbackServerContext* NewCallbackServerContext() override { return new DoorContext(uid_); }
  // Of a call of a method that nobody has. What is not made here gRPC makes inside an object of its own, and gives it
  // to Release() all the same.
  grpc::GenericCallbackServerContext* NewGenericCallbackServerContext() override {
    return new grpc::GenericCallbackServerContext;
  }
  // gRPC gives both kinds to the first.
  void Release(grpc::CallbackServerContext* context) override { delete context; }
  void Release(grpc::GenericCallbackServerContext* context) override { delete context; }

 private:
  const std::optional<uid_t> uid_;
};

// Asks before any service does, the health service and reflection included.
class Doorman final : public grpc::AuthMetadataProcessor {
 public:
  explicit Doorman(const Callers& callers) : callers_(callers) {}
  bool IsBlocking() const override { return false; }
  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* peer, OutputMetadata*,
                       OutputMetadata*) override {
    Result<Caller> caller = callers_.OfPeer(metadata, *peer);
    if (!caller) return {grpc::StatusCode::UNAUTHENTICATED, caller.error().text};
    return grpc::Status::OK;
  }

 private:
  const Callers& callers_;
};

Error NobodyIsKnown() { return {ErrorCode::kPermissionDenied, "the daemon does not know yet who may ask it"}; }

}  // namespace

std::shared_ptr<const Access> Callers::access() const { return std::atomic_load(&access_); }
void Callers::Set(std::shared_ptr<const Access> access) { std::atomic_store(&access_, std::move(access)); }

Result<Caller> Callers::Who(const grpc::CallbackServerContext& context) const {
  const auto* door = dynamic_cast<const DoorContext*>(&context);
  // A server that was built without ContextsOf() lets nobody in.
  if (door == nullptr) return Error{ErrorCode::kPermissionDenied, "the call came through no socket of this daemon"};
  if (door->uid()) return OfUser(*door->uid());
  const std::shared_ptr<const grpc::AuthContext> peer = context.auth_context();
  return OfPeer(context.client_metadata(), *peer);
}

Result<Caller> Callers::OfUser(uid_t uid) const {
  const std::shared_ptr<const Access> now = access();
  if (!now) return NobodyIsKnown();
  return now->OfUser(uid);
}

Result<Caller> Callers::OfPeer(const CallMetadata& metadata, const grpc::AuthContext& peer) const {
  const std::shared_ptr<const Access> now = access();
  if (!now) return NobodyIsKnown();
  return now->OfPeer(metadata, peer);
}

std::unique_ptr<grpc::ContextAllocator> Callers::ContextsOf(std::optional<uid_t> uid) {
  return std::make_unique<DoorContexts>(uid);
}

std::shared_ptr<grpc::AuthMetadataProcessor> Callers::MakeDoorman() const { return std::make_shared<Doorman>(*this); }

}  // namespace ikkuna::service
