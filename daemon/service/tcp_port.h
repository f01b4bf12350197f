// What a TCP port of the service needs: an address that can be bound, and credentials that let nobody in unasked.
//
// Thread rule: functions without state.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>
#include <vector>

#include "daemon/service/server.h"
#include "shared/base/result.h"

namespace ikkuna::service {

struct TcpPort {
  std::string address;  // as gRPC takes it
  std::shared_ptr<grpc::ServerCredentials> credentials;
  std::vector<std::string> notes;
};

// Checks options.listen, the token and the TLS files, and that the port is free.
Result<TcpPort> PrepareTcpPort(const ServerOptions& options);

// True if `given`, the value of an authorization header, is "Bearer " and the token. Takes the same time for every
// wrong token of one length.
bool IsBearerOf(const std::string& token, const std::string& given);

}  // namespace ikkuna::service
