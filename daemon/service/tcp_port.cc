#include "daemon/service/tcp_port.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

namespace ikkuna::service {
namespace {

constexpr int kTcpBacklog = 4096;     // what the kernel has at most
constexpr int kTriesForOnePort = 16;  // a free port of one address may be taken on the host's next

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

struct HostPort {
  std::string host;
  int port = 0;
};

Result<HostPort> Split(const std::string& listen) {
  Error error{ErrorCode::kInvalidArgument,
              "--listen '" + listen + "' is no address; pass host:port, such as 127.0.0.1:50051 or [::1]:50051"};
  size_t colon = listen.rfind(':');
  if (colon == std::string::npos || colon == 0) return error;
  HostPort parts{listen.substr(0, colon), 0};
  const std::string number = listen.substr(colon + 1);
  if (parts.host.front() == '[' && parts.host.back() == ']') {
    parts.host = parts.host.substr(1, parts.host.size() - 2);
  } else if (parts.host.find(':') != std::string::npos) {
    return error;
  }
  const auto [end, code] = std::from_chars(number.data(), number.data() + number.size(), parts.port);
  if (parts.host.empty() || number.empty() || code != std::errc() || end != number.data() + number.size() ||
      parts.port < 0 || parts.port > 65535) {
    return error;
  }
  return parts;
}

Result<AddressList> Resolve(const HostPort& parts, const std::string& listen) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  int code = getaddrinfo(parts.host.c_str(), "0", &hints, &found);
  if (code != 0) {
    return Error{ErrorCode::kInvalidArgument,
                 "--listen '" + listen + "': cannot find the address of '" + parts.host + "': " + gai_strerror(code)};
  }
  return AddressList(found, &freeaddrinfo);
}

bool IsLoopback(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    return (ntohl(reinterpret_cast<const sockaddr_in*>(address)->sin_addr.s_addr) >> 24) == 127;
  }
  if (address->sa_family == AF_INET6) {
    return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
  }
  return false;
}

bool IsLoopback(const addrinfo* addresses) {
  for (; addresses != nullptr; addresses = addresses->ai_next) {
    if (!IsLoopback(addresses->ai_addr)) return false;
  }
  return true;
}

void SetPort(sockaddr* address, int port) {
  if (address->sa_family == AF_INET) reinterpret_cast<sockaddr_in*>(address)->sin_port = htons(port);
  if (address->sa_family == AF_INET6) reinterpret_cast<sockaddr_in6*>(address)->sin6_port = htons(port);
}

int PortOf(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) return 0;
  return ntohs(address.ss_family == AF_INET ? reinterpret_cast<const sockaddr_in*>(&address)->sin_port
                                            : reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port);
}

// Invalid: errno says why.
UniqueFd Listen(const addrinfo& address) {
  UniqueFd fd(::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  int one = 1;
  // A daemon that starts again does not wait for the connections of the last to be forgotten. Two that listen on one
  // port exclude each other all the same.
  if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0) return UniqueFd();
  // Inherited by every connection.
  ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (address.ai_family == AF_INET6) {
    // "[::]" is every address of the host; the others are listed by themselves.
    int only_v6 = IN6_IS_ADDR_UNSPECIFIED(&reinterpret_cast<const sockaddr_in6*>(address.ai_addr)->sin6_addr) ? 0 : 1;
    ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &only_v6, sizeof only_v6);
  }
  if (::bind(fd.get(), address.ai_addr, address.ai_addrlen) != 0 || ::listen(fd.get(), kTcpBacklog) != 0) {
    return UniqueFd();
  }
  return fd;
}

// One of the host's addresses is enough, but a port that is taken on any of them is an error.
Result<TcpPort> ListenOnAll(addrinfo* addresses, int wanted, const std::string& listen) {
  TcpPort opened;
  opened.port = wanted;
  int last_errno = 0;
  for (addrinfo* address = addresses; address != nullptr; address = address->ai_next) {
    SetPort(address->ai_addr, opened.port);
    UniqueFd fd = Listen(*address);
    if (!fd) {
      last_errno = errno;
      if (last_errno != EADDRINUSE) continue;
      return Error{ErrorCode::kAlreadyExists,
                   "cannot listen on '" + listen +
                       "': the port is in use by another process; pass another port to --listen, or 0 for a free one"};
    }
    if (opened.port == 0) opened.port = PortOf(fd.get());
    opened.listening.push_back(std::move(fd));
  }
  if (opened.listening.empty()) return PosixError("cannot listen on '" + listen + "'", last_errno);
  return opened;
}

}  // namespace

Result<TcpPort> OpenTcpPort(const std::string& listen) {
  Result<HostPort> parts = Split(listen);
  if (!parts) return parts.error();
  Result<AddressList> addresses = Resolve(*parts, listen);
  if (!addresses) return addresses.error();
  Result<TcpPort> opened = ListenOnAll(addresses->get(), parts->port, listen);
  for (int i = 1; i < kTriesForOnePort && parts->port == 0 && !opened; ++i) {
    opened = ListenOnAll(addresses->get(), 0, listen);
  }
  if (opened) opened->loopback = IsLoopback(addresses->get());
  return opened;
}

Status CheckTransport(const ServerOptions& options, bool loopback) {
  if (loopback || !options.tls_cert_file.empty()) return {};
  return Error{ErrorCode::kInvalidArgument,
               "--listen '" + options.listen +
                   "' is reachable from other machines and the token would cross the network readable; pass --tls-cert "
                   "and --tls-key as well, or listen on 127.0.0.1"};
}

std::shared_ptr<grpc::ServerCredentials> MakeTcpCredentials(const Access& access, const Callers& callers) {
  std::shared_ptr<grpc::ServerCredentials> credentials;
  if (access.tls()) {
    // A client that shows no certificate gets as far as its first call, which is refused with a sentence; one that
    // shows a wrong certificate does not.
    grpc::SslServerCredentialsOptions ssl(access.tls()->client_ca.empty()
                                              ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                              : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
    ssl.pem_key_cert_pairs.push_back({access.tls()->key, access.tls()->cert});
    ssl.pem_root_certs = access.tls()->client_ca;
    credentials = grpc::SslServerCredentials(ssl);
  } else {
    // Checks that the peer is on this machine; the token decides the rest.
    credentials = grpc::experimental::LocalServerCredentials(LOCAL_TCP);
  }
  credentials->SetAuthMetadataProcessor(callers.MakeDoorman());
  return credentials;
}

std::string RemoteHost(int socket_fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  const auto* peer = reinterpret_cast<const sockaddr*>(&address);
  if (::getpeername(socket_fd, reinterpret_cast<sockaddr*>(&address), &length) != 0 || IsLoopback(peer)) return "";
  if (peer->sa_family == AF_INET) {
    return std::string(reinterpret_cast<const char*>(&reinterpret_cast<const sockaddr_in*>(peer)->sin_addr), 4);
  }
  if (peer->sa_family != AF_INET6) return "";
  const auto* bytes = reinterpret_cast<const char*>(&reinterpret_cast<const sockaddr_in6*>(peer)->sin6_addr);
  if (!IN6_IS_ADDR_V4MAPPED(&reinterpret_cast<const sockaddr_in6*>(peer)->sin6_addr)) return std::string(bytes, 8);
  return bytes[12] == 127 ? "" : std::string(bytes + 12, 4);
}

}  // namespace ikkuna::service
