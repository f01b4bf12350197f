// Server: the daemon's gRPC interface over a Monitor, on a Unix socket and, if asked, on TCP.
//
// Owner: the daemon's main, which keeps the Monitor alive until Stop() has returned. Thread rule: Start and Stop from
// one thread that is no signal handler. No gRPC type shows here, so that whoever includes it needs none.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "daemon/monitor/monitor.h"
#include "daemon/service/server_options.h"
#include "shared/base/result.h"

namespace ikkuna::service {

class Server {
 public:
  // Serves when it returns. Errors: kInvalidArgument (options that do not go together, with what to pass),
  // kAlreadyExists (port or socket in use), else what the system said.
  static Result<std::unique_ptr<Server>> Start(const ServerOptions& options, Monitor& monitor);

  // Ends every stream, lets the calls in progress finish, removes the socket. Returns when no call touches the Monitor
  // any more. Called by the destructor too.
  void Stop();
  ~Server();

  // Path of the Unix socket; empty: none.
  const std::string& socket_path() const;
  // The port that was bound; 0: no TCP.
  int tcp_port() const;
  // What the operator should know, such as a port that needs no token; one sentence each.
  const std::vector<std::string>& notes() const;

  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace ikkuna::service
