// Doors: the sockets of the service and the gRPC servers behind them, by who comes in.
//
// Each user of the Unix socket has a grpc::Server of its own, made when they first connect, and so does TCP for each
// set of TLS files: a call knows its grpc::Server and nothing else of its connection. All serve the same services. Who
// takes connections without end gets no more than their share, so that files and other users keep theirs.
//
// Owner: Server. Thread rule: Open, Reload, StopAccepting and Close from one thread, the rest from any.
#pragma once

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "daemon/service/accept_loop.h"
#include "daemon/service/roles.h"
#include "daemon/service/server.h"
#include "daemon/service/server_options.h"
#include "daemon/service/unix_listener.h"
#include "shared/base/result.h"
#include "shared/base/unique_fd.h"

namespace ikkuna::service {

class Doors {
 public:
  // Registers the services, sets their limits and starts. Called for each door, also long after Open(), from any
  // thread.
  using Build = std::function<std::unique_ptr<grpc::Server>(grpc::ServerBuilder*)>;

  // Open when it returns. `callers` outlives it. Errors as of Server::Start.
  static Result<std::unique_ptr<Doors>> Open(const ServerOptions& options, Callers& callers, Build build);

  // As Server::Reload.
  Status Reload(const ServerOptions& options);

  // No connection comes in any more, and the Unix socket is gone.
  void StopAccepting();
  // Ends the health service's streams, lets the other calls finish until `deadline` and cancels them then. Those that
  // are running are waited for, however long. StopAccepting() comes before.
  void Close(std::chrono::system_clock::time_point deadline);
  ~Doors();

  // Empty: none.
  const std::string& socket_path() const { return socket_path_; }
  // 0: none.
  int tcp_port() const { return tcp_port_; }
  RefusedConnections refused() const;

  Doors(const Doors&) = delete;
  Doors& operator=(const Doors&) = delete;

 private:
  struct Connection {
    int fd;  // gRPC's: only to ask whether it is still open
    uint64_t inode;
    std::string host;  // of TCP
  };
  struct Door {
    std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor;
    std::unique_ptr<grpc::Server> server;
    std::vector<Connection> connections;
  };

  Doors(const ServerOptions& options, Callers& callers, Build build);
  Status OpenUnix();
  Status OpenTcp(const Access& access);
  Result<std::unique_ptr<Door>> MakeUserDoor(uid_t uid) const;
  Result<std::unique_ptr<Door>> MakeTcpDoor(const Access& access) const;
  Result<std::unique_ptr<Door>> Start(grpc::ServerBuilder* builder,
                                      std::shared_ptr<grpc::ServerCredentials> credentials,
                                      std::optional<uid_t> uid) const;

  void TakeUser(UniqueFd socket, uid_t uid);
  void TakeTcp(UniqueFd socket);
  static void Enter(Door& door, UniqueFd socket, std::string host);
  // Forgets the connections that have ended.
  static size_t CountOpen(Door& door);
  size_t CountOpenUsers(bool others);
  bool IsFull(uid_t uid, Door& door);
  bool IsTcpFull(const std::string& host);
  // Of those that are let in no more, and of TLS files that no connection uses any more.
  std::vector<std::unique_ptr<Door>> TakeOutUnused();

  // Constant after Open.
  Callers& callers_;
  const Build build_;
  std::string socket_path_;
  int tcp_port_ = 0;
  bool loopback_ = false;
  size_t max_open_ = 0;  // of our own user, of all others, of TCP: each

  ServerOptions options_;  // as read last; of the thread that calls Reload

  std::mutex mutex_;
  // Guarded by mutex_.
  std::map<uid_t, std::unique_ptr<Door>> users_;
  std::unique_ptr<Door> tcp_;
  std::list<std::unique_ptr<Door>> former_tcp_;  // of TLS files that were replaced, the oldest first

  std::atomic<uint64_t> refused_users_{0};
  std::atomic<uint64_t> refused_too_many_{0};
  std::atomic<uint64_t> refused_failed_{0};

  // Last: their threads use all of the above.
  std::unique_ptr<UnixListener> unix_;
  std::unique_ptr<AcceptLoop> tcp_loop_;
};

}  // namespace ikkuna::service
