#include "daemon/service/tcp_port.h"

#include <arpa/inet.h>
#include <grpcpp/security/auth_metadata_processor.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>
#include <utility>

#include "shared/base/unique_fd.h"

namespace ikkuna::service {
namespace {

constexpr size_t kMinTokenBytes = 16;          // 64 random bits in hexadecimal
constexpr size_t kMaxFileBytes = 1024 * 1024;  // of a token or PEM file

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

struct HostPort {
  std::string host;
  std::string port;
};

Result<HostPort> Split(const std::string& listen) {
  Error error{ErrorCode::kInvalidArgument,
              "--listen '" + listen + "' is no address; pass host:port, such as 127.0.0.1:50051 or [::1]:50051"};
  size_t colon = listen.rfind(':');
  if (colon == std::string::npos || colon == 0) return error;
  HostPort parts{listen.substr(0, colon), listen.substr(colon + 1)};
  if (parts.host.front() == '[' && parts.host.back() == ']') {
    parts.host = parts.host.substr(1, parts.host.size() - 2);
  } else if (parts.host.find(':') != std::string::npos) {
    return error;
  }
  unsigned port = 0;
  auto [end, code] = std::from_chars(parts.port.data(), parts.port.data() + parts.port.size(), port);
  if (parts.host.empty() || parts.port.empty() || code != std::errc() || end != parts.port.data() + parts.port.size() ||
      port > 65535) {
    return error;
  }
  return parts;
}

Result<AddressList> Resolve(const HostPort& parts, const std::string& listen) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  int code = getaddrinfo(parts.host.c_str(), parts.port.c_str(), &hints, &found);
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

// gRPC says only that it could not bind; this says why. One of the host's addresses is enough, as for gRPC, but a port
// that is taken on any of them is an error.
Status CheckPortIsFree(const addrinfo* addresses, const std::string& listen) {
  int last_errno = 0;
  bool bound = false;
  for (const addrinfo* address = addresses; address != nullptr; address = address->ai_next) {
    UniqueFd fd(::socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    int one = 1;
    if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0) {
      last_errno = errno;
      continue;
    }
    if (::bind(fd.get(), address->ai_addr, address->ai_addrlen) == 0) {
      bound = true;
      continue;
    }
    last_errno = errno;
    if (last_errno == EADDRINUSE) {
      return Error{ErrorCode::kAlreadyExists,
                   "cannot listen on '" + listen +
                       "': the port is in use by another process; pass another port to --listen, "
                       "or 0 for a free one"};
    }
  }
  if (!bound) return PosixError("cannot listen on '" + listen + "'", last_errno);
  return {};
}

Result<std::string> ReadFile(const char* flag, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return PosixError(std::string(flag) + ": cannot read '" + path + "'", errno);
  std::string text(kMaxFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return PosixError(std::string(flag) + ": cannot read '" + path + "'", errno);
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.empty() || text.size() > kMaxFileBytes) {
    return Error{ErrorCode::kInvalidArgument,
                 std::string(flag) + ": '" + path + "' " + (text.empty() ? "is empty" : "is larger than 1 MiB")};
  }
  return text;
}

Result<std::string> ReadToken(const std::string& path, std::vector<std::string>* notes) {
  Result<std::string> text = ReadFile("--token-file", path);
  if (!text) return text.error();
  std::string token = text->substr(0, text->find_first_of("\r\n"));
  if (token.size() < kMinTokenBytes) {
    return Error{ErrorCode::kInvalidArgument,
                 "--token-file: the first line of '" + path + "' has " + std::to_string(token.size()) +
                     " characters; a token needs at least " + std::to_string(kMinTokenBytes) +
                     ", such as those of 'openssl rand -hex 32'"};
  }
  for (char c : token) {
    if (c < '!' || c > '~') {
      return Error{ErrorCode::kInvalidArgument,
                   "--token-file: the token in '" + path + "' has a blank or a character that no header may hold"};
    }
  }
  struct stat file {};
  if (::stat(path.c_str(), &file) == 0 && (file.st_mode & (S_IRGRP | S_IROTH)) != 0) {
    notes->push_back("'" + path + "', the token, is readable by other users; chmod 600 closes it");
  }
  return token;
}

class TokenProcessor final : public grpc::AuthMetadataProcessor {
 public:
  explicit TokenProcessor(std::string token) : token_(std::move(token)) {}
  bool IsBlocking() const override { return false; }
  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext*, OutputMetadata* consumed,
                       OutputMetadata*) override {
    auto found = metadata.find("authorization");
    if (found == metadata.end()) {
      return {grpc::StatusCode::UNAUTHENTICATED,
              "no token: send the metadata 'authorization: Bearer <token>' (--token-file)"};
    }
    std::string given(found->second.data(), found->second.size());
    if (!IsBearerOf(token_, given)) return {grpc::StatusCode::UNAUTHENTICATED, "the token is not that of this daemon"};
    consumed->insert({"authorization", given});
    return grpc::Status::OK;
  }

 private:
  const std::string token_;
};

}  // namespace

bool IsBearerOf(const std::string& token, const std::string& given) {
  static constexpr char kScheme[] = "Bearer ";
  constexpr size_t kSchemeBytes = sizeof kScheme - 1;
  if (given.size() != kSchemeBytes + token.size() || given.compare(0, kSchemeBytes, kScheme) != 0) return false;
  unsigned char difference = 0;
  for (size_t i = 0; i < token.size(); ++i)
    difference |= static_cast<unsigned char>(token[i] ^ given[kSchemeBytes + i]);
  return difference == 0;
}

Result<TcpPort> PrepareTcpPort(const ServerOptions& options) {
  bool tls = !options.tls_cert_file.empty();
  if (tls != !options.tls_key_file.empty()) {
    return Error{ErrorCode::kInvalidArgument, std::string("--tls-cert and --tls-key go together; pass ") +
                                                  (tls ? "--tls-key" : "--tls-cert") + " as well"};
  }
  if (!tls && options.token_file.empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 "--listen '" + options.listen +
                     "' would let everyone in; pass --token-file FILE (openssl rand -hex 32 > "
                     "FILE), or --tls-cert and --tls-key, or leave --listen out for the Unix socket alone"};
  }
  Result<HostPort> parts = Split(options.listen);
  if (!parts) return parts.error();
  Result<AddressList> addresses = Resolve(*parts, options.listen);
  if (!addresses) return addresses.error();
  bool loopback = true;
  for (const addrinfo* address = addresses->get(); address != nullptr; address = address->ai_next) {
    loopback = loopback && IsLoopback(address->ai_addr);
  }
  if (!tls && !loopback) {
    return Error{ErrorCode::kInvalidArgument,
                 "--listen '" + options.listen +
                     "' is reachable from other machines and the token would cross the network "
                     "readable; pass --tls-cert and --tls-key as well, or listen on 127.0.0.1"};
  }
  TcpPort port;
  port.address =
      (parts->host.find(':') != std::string::npos ? "[" + parts->host + "]" : parts->host) + ":" + parts->port;
  if (tls) {
    Result<std::string> cert = ReadFile("--tls-cert", options.tls_cert_file);
    if (!cert) return cert.error();
    Result<std::string> key = ReadFile("--tls-key", options.tls_key_file);
    if (!key) return key.error();
    grpc::SslServerCredentialsOptions ssl;
    ssl.pem_key_cert_pairs.push_back({*key, *cert});
    port.credentials = grpc::SslServerCredentials(ssl);
  } else {
    // Checks that the peer is on this machine; the token decides the rest.
    port.credentials = grpc::experimental::LocalServerCredentials(LOCAL_TCP);
  }
  if (options.token_file.empty()) {
    port.notes.push_back("'" + options.listen +
                         "' asks for no token: whoever reaches it may read and control every run");
  } else {
    Result<std::string> token = ReadToken(options.token_file, &port.notes);
    if (!token) return token.error();
    port.credentials->SetAuthMetadataProcessor(std::make_shared<TokenProcessor>(*token));
  }
  if (Status free = CheckPortIsFree(addresses->get(), options.listen); !free) return free.error();
  return port;
}

}  // namespace ikkuna::service
