// Server: the daemon's gRPC interface over a Monitor, on a Unix socket and, if asked, on TCP.
//
// Owner: the daemon's main, which keeps the Monitor alive until Stop() has returned. Thread rule: Start, Reload, notes
// and Stop from one thread that is no signal handler. No gRPC type shows here, so that whoever includes it needs none.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "daemon/monitor/monitor.h"
#include "daemon/service/server_options.h"
#include "shared/base/result.h"

namespace ikkuna::service {

// Connections that were closed at once, by reason.
struct RefusedConnections {
  uint64_t users = 0;     // of users that --allow-uid does not name
  uint64_t too_many = 0;  // more at a time than one user, one host or all of them may have
  uint64_t failed = 0;    // no gRPC server could be made for them: out of memory or threads
};

class Server {
 public:
  // Serves when it returns. Errors: kInvalidArgument (options that do not go together, with what to pass),
  // kAlreadyExists (port or socket in use), else what the system said.
  static Result<std::unique_ptr<Server>> Start(const ServerOptions& options, Monitor& monitor);

  // Reads again who may ask: the files that `options` name, the lists of users and of certificates. Where it begins and
  // which files it names may differ from what Start() got, the address and the directory may not. Connections stay
  // open; from here on their calls are those of whom the new rules say, or are refused, and calls of users who may not
  // connect any more are cut off. Error: everything stays as it was.
  Status Reload(const ServerOptions& options);

  // Ends every stream, lets the calls in progress finish, removes the socket. Returns when no call touches the Monitor
  // any more. Called by the destructor too.
  void Stop();
  ~Server();

  // Path of the Unix socket; empty: none.
  const std::string& socket_path() const;
  // The port that was bound; 0: no TCP.
  int tcp_port() const;
  // What the operator should know as of Start() or the last Reload(), such as a certificate that is out of date; one
  // sentence each.
  const std::vector<std::string>& notes() const;
  RefusedConnections refused_connections() const;

  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace ikkuna::service
