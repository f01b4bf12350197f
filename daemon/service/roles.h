// Callers: who makes a call and what they may do: by the kernel's word on the Unix socket, by token or client
// certificate on TCP.
//
// Owner: Server, which outlives every call. Thread rule: any thread; what Set() changes holds for every call that asks
// Who() after it. A stream that lasts asks again now and then, so that it ends when its caller is let in no more.
//
// gRPC tells a call nothing of the socket it came through, so each user and each set of TLS files has a grpc::Server of
// its own (doors.h). All of them serve the same service objects; the context of a call says through which it came.
#pragma once

#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/server_context.h>

#include <memory>
#include <optional>

#include "daemon/monitor/caller.h"
#include "daemon/service/access.h"
#include "shared/base/result.h"

namespace ikkuna::service {

class Callers {
 public:
  // Nobody is known before the first Set().
  Callers() = default;
  Callers(const Callers&) = delete;
  Callers& operator=(const Callers&) = delete;

  // Asked for each call as it begins. Error: kPermissionDenied, which refuses the call with UNAUTHENTICATED.
  Result<Caller> Who(const grpc::CallbackServerContext& context) const;

  // As Access has them.
  Result<Caller> OfUser(uid_t uid) const;
  Result<Caller> OfPeer(const CallMetadata& metadata, const grpc::AuthContext& peer) const;

  // The contexts of a grpc::Server whose connections are all of one user; no uid: of a TCP port.
  static std::unique_ptr<grpc::ContextAllocator> ContextsOf(std::optional<uid_t> uid);
  // For the credentials of a TCP port; *this outlives it.
  std::shared_ptr<grpc::AuthMetadataProcessor> MakeDoorman() const;

  std::shared_ptr<const Access> access() const;
  void Set(std::shared_ptr<const Access> access);

 private:
  std::shared_ptr<const Access> access_;  // by std::atomic_load and std::atomic_store
};

}  // namespace ikkuna::service
