// TcpPort: the sockets behind --listen, and what has to be shown to get through them.
//
// Thread rule: functions without state.
#pragma once

#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>
#include <vector>

#include "daemon/service/access.h"
#include "daemon/service/roles.h"
#include "daemon/service/server_options.h"
#include "shared/base/result.h"
#include "shared/base/unique_fd.h"

namespace ikkuna::service {

struct TcpPort {
  std::vector<UniqueFd> listening;  // one for each address of the host; non-blocking
  int port = 0;                     // the same for all
  bool loopback = false;            // none of the addresses can be reached from another machine
};

// Binds and listens. Errors: kInvalidArgument (no address), kAlreadyExists (the port is in use), else the system's.
Result<TcpPort> OpenTcpPort(const std::string& listen);

// What CheckServerOptions() cannot know, since it takes a look at the network: a token is sent in the clear to nobody
// but a loopback address.
Status CheckTransport(const ServerOptions& options, bool loopback);

// By the TLS files of `access`, or for a loopback address without; `callers`, which outlives them, decides on each
// call.
std::shared_ptr<grpc::ServerCredentials> MakeTcpCredentials(const Access& access, const Callers& callers);

// Of the peer of a connected socket: its address, of which IPv6 counts by the network of 64 bits that one host may have
// to itself. Empty: a loopback address, behind which tunnels and proxies bring many, or no address at all.
std::string RemoteHost(int socket_fd);

}  // namespace ikkuna::service
