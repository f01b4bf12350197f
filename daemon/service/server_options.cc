#include "daemon/service/server_options.h"

#include <algorithm>
#include <charconv>
#include <limits>

namespace ikkuna::service {
namespace {

constexpr size_t kMaxAllowedUsers = 64;          // each that connects costs a gRPC server of its own
constexpr size_t kMaxControlCertificates = 256;  // looked through for each call

Error Invalid(std::string text) { return {ErrorCode::kInvalidArgument, std::move(text)}; }

Status CheckUsers(const ServerOptions& options) {
  if (options.allow_users.size() > kMaxAllowedUsers) {
    return Invalid("--allow-uid names " + std::to_string(options.allow_users.size()) + " users; at most " +
                   std::to_string(kMaxAllowedUsers) + " may be");
  }
  for (size_t i = 0; i < options.allow_users.size(); ++i) {
    for (size_t k = 0; k < i; ++k) {
      if (options.allow_users[i].uid == options.allow_users[k].uid &&
          options.allow_users[i].role != options.allow_users[k].role) {
        return Invalid("--allow-uid names user " + std::to_string(options.allow_users[i].uid) +
                       " twice, with two roles; keep one of them");
      }
    }
  }
  return {};
}

}  // namespace

Result<AllowedUser> ParseAllowedUser(const std::string& text) {
  const size_t colon = text.find(':');
  const std::string number = text.substr(0, colon);
  AllowedUser user;
  uint64_t uid = 0;
  const auto [end, code] = std::from_chars(number.data(), number.data() + number.size(), uid);
  // The greatest number is the kernel's "no user".
  if (number.empty() || code != std::errc() || end != number.data() + number.size() ||
      uid >= std::numeric_limits<uid_t>::max()) {
    return Invalid("'" + text + "' is no user id; pass UID or UID:control, such as 1001 (id -u NAME tells it)");
  }
  user.uid = static_cast<uid_t>(uid);
  if (colon == std::string::npos) return user;
  const std::string role = text.substr(colon + 1);
  if (role != "read" && role != "control") {
    return Invalid("'" + text + "': '" + role + "' is no role; it is read or control");
  }
  user.role = role == "control" ? Role::kControl : Role::kRead;
  return user;
}

std::string AllowedUserText(const AllowedUser& user) {
  return std::to_string(user.uid) + (user.role == Role::kControl ? ":control" : "");
}

Status CheckServerOptions(const ServerOptions& options) {
  if (options.directory.empty() && options.listen.empty()) {
    return Invalid("the service has neither a directory for its socket nor an address to listen on");
  }
  if (Status users = CheckUsers(options); !users) return users;
  const bool tls = !options.tls_cert_file.empty();
  if (tls != !options.tls_key_file.empty()) {
    return Invalid(std::string("--tls-cert and --tls-key go together; pass ") + (tls ? "--tls-key" : "--tls-cert") +
                   " as well");
  }
  const bool client_ca = !options.tls_client_ca_file.empty();
  if (options.listen.empty()) {
    if (options.token_file.empty() && !tls && !client_ca && options.control_certificates.empty()) return {};
    return Invalid(
        "tokens, TLS and client certificates are for TCP, which is off; pass --listen host:port as well (the Unix "
        "socket goes by user)");
  }
  if (client_ca && !tls) {
    return Invalid("--tls-client-ca asks for client certificates, which come with TLS; pass --tls-cert and --tls-key");
  }
  if (!options.control_certificates.empty() && !client_ca) {
    return Invalid("--control-certificate names client certificates; pass --tls-client-ca FILE as well");
  }
  if (options.control_certificates.size() > kMaxControlCertificates) {
    return Invalid("--control-certificate is given " + std::to_string(options.control_certificates.size()) +
                   " times; at most " + std::to_string(kMaxControlCertificates) + " may be");
  }
  if (std::find(options.control_certificates.begin(), options.control_certificates.end(), "") !=
      options.control_certificates.end()) {
    return Invalid("--control-certificate: the name must not be empty");
  }
  if (options.token_file.empty() && !client_ca) {
    return Invalid("--listen '" + options.listen + "' would let everyone in" + (tls ? ", although encrypted" : "") +
                   "; pass --token-file FILE (openssl rand -hex 32 > FILE), " +
                   (tls ? "or --tls-client-ca FILE, " : "or --tls-cert, --tls-key and --tls-client-ca, ") +
                   "or leave --listen out for the Unix socket alone");
  }
  return {};
}

}  // namespace ikkuna::service
