// Access: who may do what, as the options and the files they name said when they were read last.
//
// Owner: Callers, which replaces it as a whole. Immutable. Thread rule: any thread.
#pragma once

#include <grpcpp/security/auth_context.h>
#include <grpcpp/support/string_ref.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "daemon/monitor/caller.h"
#include "daemon/service/server_options.h"
#include "daemon/service/tls_files.h"
#include "daemon/service/token_list.h"
#include "shared/base/result.h"

namespace ikkuna::service {

// As a call carries it: keys in lower case.
using CallMetadata = std::multimap<grpc::string_ref, grpc::string_ref>;

class Access {
 public:
  // Reads the files that `options`, which have passed CheckServerOptions(), name.
  static Result<std::shared_ptr<const Access>> Read(const ServerOptions& options);

  // A user who connected to the Unix socket. Error: kPermissionDenied.
  Result<Caller> OfUser(uid_t uid) const;
  // A peer of a TCP port: by its token, else by its certificate. A token that is sent must be right, whatever
  // certificate comes with it. Error: kPermissionDenied.
  Result<Caller> OfPeer(const CallMetadata& metadata, const grpc::AuthContext& peer) const;

  // Empty: no TLS.
  const std::optional<TlsFiles>& tls() const { return tls_; }
  // Users besides our own and root may connect.
  bool has_other_users() const { return !users_.empty(); }
  // What the operator should know; one sentence each.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  Access() = default;
  Result<Caller> OfCertificate(const grpc::AuthContext& peer) const;

  std::map<uid_t, Role> users_;
  std::optional<TokenList> tokens_;
  std::optional<TlsFiles> tls_;
  std::unique_ptr<ClientCertificates> client_certificates_;  // null: none are taken
  std::set<std::string> control_certificates_;
  std::vector<std::string> notes_;
};

}  // namespace ikkuna::service
