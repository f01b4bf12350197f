// Server: the daemon's gRPC interface over a Monitor, on a Unix socket and, if asked, on TCP.
//
// Owner: the daemon's main, which keeps the Monitor alive until Stop() has returned. Thread rule: Start and Stop from
// one thread that is no signal handler. No gRPC type shows here, so that whoever includes it needs none.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "daemon/monitor.h"
#include "shared/base/result.h"

namespace ikkuna::service {

struct ServerOptions {
  // "<directory>/grpc.sock" is served. The directory exists and its lock is held; empty: no Unix socket.
  std::string directory;
  // Users that may connect to the Unix socket besides our own.
  std::vector<uid_t> allow_uids;

  // "host:port" or "[v6 address]:port"; port 0 picks a free one; empty: no TCP. Needs a token or TLS.
  std::string listen;
  // File whose first line is the token that clients send as `authorization: Bearer <token>`. Without TLS only for a
  // loopback address, since it would cross the network readable.
  std::string token_file;
  // PEM files, both or none.
  std::string tls_cert_file;
  std::string tls_key_file;

  // How long Stop() waits for readers that are slow to take what they are still to get; then they are cut off.
  std::chrono::milliseconds stop_grace{2'000};
  // How long connections stay open after the last word of a watch: a client that writes to a closed one, if only that
  // its window is open again, throws away what it has not read.
  std::chrono::milliseconds stop_linger{200};
};

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
