#include "daemon/service/doors.h"

#include <grpc/grpc.h>
#include <grpcpp/resource_quota.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "daemon/service/access.h"
#include "daemon/service/tcp_port.h"

namespace ikkuna::service {
namespace {

constexpr size_t kMaxOpen = 1024;      // connections of our own user, of all others, of TCP; or a quarter of our files
constexpr size_t kMaxOfOneUser = 128;  // another user's
constexpr size_t kMaxOfOneHost = 128;  // another machine's
constexpr size_t kMaxFormerDoors = 4;  // TLS files that were replaced and whose connections go on
constexpr size_t kBytes = 256u << 20;  // buffers of all connections of one door
constexpr size_t kOtherUserBytes = 32u << 20;
constexpr int kIdleTcp_ms = 5 * 60'000;  // a connection that asks nothing: its client opens another when it does

size_t MaxOpen() {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return kMaxOpen / 4;
  return static_cast<size_t>(std::clamp<rlim_t>(files.rlim_cur / 4, 1, kMaxOpen));
}

bool IsOurs(uid_t uid) { return uid == ::geteuid() || uid == 0; }

Error CannotStart(const std::string& what) {
  return {ErrorCode::kSystem, "cannot start gRPC for " + what + "; its log says why (GRPC_VERBOSITY=debug)"};
}

}  // namespace

Doors::Doors(const ServerOptions& options, Callers& callers, Build build)
    : callers_(callers), build_(std::move(build)), max_open_(MaxOpen()), options_(options) {}

Doors::~Doors() {
  StopAccepting();
  Close(std::chrono::system_clock::now());
}

Result<std::unique_ptr<Doors>> Doors::Open(const ServerOptions& options, Callers& callers, Build build) {
  if (Status fits = CheckServerOptions(options); !fits) return fits.error();
  Result<std::shared_ptr<const Access>> access = Access::Read(options);
  if (!access) return access.error();
  callers.Set(*access);
  std::unique_ptr<Doors> doors(new Doors(options, callers, std::move(build)));
  if (!options.listen.empty()) {
    if (Status opened = doors->OpenTcp(**access); !opened) return opened.error();
  }
  if (!options.directory.empty()) {
    if (Status opened = doors->OpenUnix(); !opened) return opened.error();
  }
  return doors;
}

Status Doors::OpenTcp(const Access& access) {
  Result<TcpPort> port = OpenTcpPort(options_.listen);
  if (!port) return port.error();
  loopback_ = port->loopback;
  tcp_port_ = port->port;
  if (Status safe = CheckTransport(options_, loopback_); !safe) return safe;
  Result<std::unique_ptr<Door>> door = MakeTcpDoor(access);
  if (!door) return door.error();
  tcp_ = std::move(*door);
  Result<std::unique_ptr<AcceptLoop>> loop =
      AcceptLoop::Start(std::move(port->listening), [this](UniqueFd socket) { TakeTcp(std::move(socket)); });
  if (!loop) return loop.error();
  tcp_loop_ = std::move(*loop);
  return {};
}

Status Doors::OpenUnix() {
  // Our own user's is made at once: where gRPC cannot start, the daemon says so now.
  Result<std::unique_ptr<Door>> own = MakeUserDoor(::geteuid());
  if (!own) return own.error();
  users_[::geteuid()] = std::move(*own);
  socket_path_ = options_.directory + "/grpc.sock";
  Result<std::unique_ptr<UnixListener>> listener =
      UnixListener::Start(socket_path_, callers_.access()->has_other_users(),
                          [this](UniqueFd socket, uid_t uid) { TakeUser(std::move(socket), uid); });
  if (!listener) return listener.error();
  unix_ = std::move(*listener);
  return {};
}

Result<std::unique_ptr<Doors::Door>> Doors::MakeUserDoor(uid_t uid) const {
  grpc::ServerBuilder builder;
  return Start(&builder, grpc::InsecureServerCredentials(), uid);
}

Result<std::unique_ptr<Doors::Door>> Doors::MakeTcpDoor(const Access& access) const {
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kIdleTcp_ms);
  return Start(&builder, MakeTcpCredentials(access, callers_), {});
}

Result<std::unique_ptr<Doors::Door>> Doors::Start(grpc::ServerBuilder* builder,
                                                  std::shared_ptr<grpc::ServerCredentials> credentials,
                                                  std::optional<uid_t> uid) const {
  auto door = std::make_unique<Door>();
  grpc::ResourceQuota quota("ikkuna-daemon");
  quota.Resize(uid && !IsOurs(*uid) ? kOtherUserBytes : kBytes);
  builder->SetResourceQuota(quota);
  // Also for the first word of HTTP/2 on a connection without TLS.
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS,
                              static_cast<int>(options_.handshake_timeout.count()));
  builder->SetContextAllocator(Callers::ContextsOf(uid));
  door->acceptor = builder->experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, std::move(credentials));
  door->server = build_(builder);
  if (!door->server) return CannotStart(uid ? "user " + std::to_string(*uid) : "TCP");
  return door;
}

void Doors::TakeUser(UniqueFd socket, uid_t uid) {
  if (!callers_.OfUser(uid)) {
    ++refused_users_;
    return;
  }
  std::lock_guard lock(mutex_);
  std::unique_ptr<Door>& door = users_[uid];
  if (!door) {
    Result<std::unique_ptr<Door>> made = MakeUserDoor(uid);
    if (!made) {
      ++refused_failed_;
      users_.erase(uid);
      return;
    }
    door = std::move(*made);
  }
  if (IsFull(uid, *door)) {
    ++refused_too_many_;
    return;
  }
  Enter(*door, std::move(socket), "");
}

void Doors::TakeTcp(UniqueFd socket) {
  std::string host = RemoteHost(socket.get());
  std::lock_guard lock(mutex_);
  if (IsTcpFull(host)) {
    ++refused_too_many_;
    return;
  }
  Enter(*tcp_, std::move(socket), std::move(host));
}

void Doors::Enter(Door& door, UniqueFd socket, std::string host) {
  struct stat info {};
  if (::fstat(socket.get(), &info) != 0) return;
  door.connections.push_back({socket.get(), info.st_ino, std::move(host)});
  grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters parameters;
  parameters.fd = socket.release();
  door.acceptor->HandleNewConnection(&parameters);
}

size_t Doors::CountOpen(Door& door) {
  std::erase_if(door.connections, [](const Connection& connection) {
    struct stat info {};
    return ::fstat(connection.fd, &info) != 0 || !S_ISSOCK(info.st_mode) || info.st_ino != connection.inode;
  });
  return door.connections.size();
}

size_t Doors::CountOpenUsers(bool others) {
  size_t open = 0;
  for (auto& [uid, door] : users_) {
    if (door && IsOurs(uid) != others) open += CountOpen(*door);
  }
  return open;
}

bool Doors::IsFull(uid_t uid, Door& door) {
  if (IsOurs(uid)) return CountOpenUsers(false) >= max_open_;
  return CountOpen(door) >= std::min(kMaxOfOneUser, max_open_) || CountOpenUsers(true) >= max_open_;
}

bool Doors::IsTcpFull(const std::string& host) {
  size_t open = 0;
  size_t of_host = 0;
  const auto count = [&](Door& door) {
    open += CountOpen(door);
    of_host += static_cast<size_t>(std::count_if(door.connections.begin(), door.connections.end(),
                                                 [&](const Connection& other) { return other.host == host; }));
  };
  count(*tcp_);
  for (const std::unique_ptr<Door>& door : former_tcp_) count(*door);
  return open >= max_open_ || (!host.empty() && of_host >= kMaxOfOneHost);
}

Status Doors::Reload(const ServerOptions& options) {
  if (Status fits = CheckServerOptions(options); !fits) return fits;
  if (options.listen != options_.listen || options.directory != options_.directory) {
    return Error{ErrorCode::kFailedPrecondition,
                 options.listen != options_.listen
                     ? "--listen cannot change while the daemon runs; restart it to go from '" + options_.listen +
                           "' to '" + options.listen + "'"
                     : "--dir cannot change while the daemon runs; restart it"};
  }
  if (tcp_port_ != 0) {
    if (Status safe = CheckTransport(options, loopback_); !safe) return safe;
  }
  Result<std::shared_ptr<const Access>> access = Access::Read(options);
  if (!access) return access.error();
  std::unique_ptr<Door> tcp;
  if (tcp_port_ != 0 && (*access)->tls() != callers_.access()->tls()) {
    Result<std::unique_ptr<Door>> made = MakeTcpDoor(**access);
    if (!made) return made.error();
    tcp = std::move(*made);
  }
  if (unix_) {
    if (Status mode = unix_->OpenToOthers((*access)->has_other_users()); !mode) return mode;
  }
  callers_.Set(*access);
  options_ = options;
  std::vector<std::unique_ptr<Door>> unused;
  {
    std::lock_guard lock(mutex_);
    if (tcp) {
      former_tcp_.push_back(std::move(tcp_));
      tcp_ = std::move(tcp);
    }
    unused = TakeOutUnused();
  }
  for (const std::unique_ptr<Door>& door : unused) door->server->Shutdown(std::chrono::system_clock::now());
  return {};
}

std::vector<std::unique_ptr<Doors::Door>> Doors::TakeOutUnused() {
  std::vector<std::unique_ptr<Door>> unused;
  for (auto user = users_.begin(); user != users_.end();) {
    if (callers_.OfUser(user->first)) {
      ++user;
    } else {
      unused.push_back(std::move(user->second));
      user = users_.erase(user);
    }
  }
  for (auto door = former_tcp_.begin(); door != former_tcp_.end();) {
    if (CountOpen(**door) != 0 && former_tcp_.size() <= kMaxFormerDoors) {
      ++door;
    } else {
      unused.push_back(std::move(*door));
      door = former_tcp_.erase(door);
    }
  }
  return unused;
}

void Doors::StopAccepting() {
  if (unix_) unix_->Stop();
  if (tcp_loop_) tcp_loop_->Stop();
}

void Doors::Close(std::chrono::system_clock::time_point deadline) {
  std::vector<std::unique_ptr<Door>> all;
  {
    std::lock_guard lock(mutex_);
    for (auto& [uid, door] : users_) all.push_back(std::move(door));
    users_.clear();
    if (tcp_) all.push_back(std::move(tcp_));
    for (std::unique_ptr<Door>& door : former_tcp_) all.push_back(std::move(door));
    former_tcp_.clear();
  }
  for (const std::unique_ptr<Door>& door : all) {
    door->server->Shutdown(deadline);
    door->server->Wait();
  }
}

RefusedConnections Doors::refused() const { return {refused_users_, refused_too_many_, refused_failed_}; }

}  // namespace ikkuna::service
