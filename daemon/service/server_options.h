// ServerOptions: where the service is reached and who may ask what, as an operator writes it; and the one place that
// knows which of it goes together.
//
// Plain values. Thread rule: functions without state.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

#include "daemon/monitor/caller.h"
#include "shared/base/result.h"

namespace ikkuna::service {

// Another user who may connect to the Unix socket.
struct AllowedUser {
  uid_t uid = 0;
  // kRead: looks at everything and changes what is their own.
  Role role = Role::kRead;

  bool operator==(const AllowedUser&) const = default;
};

// "1001" (reads), "1001:read" or "1001:control". Error: kInvalidArgument, without the name of the option.
Result<AllowedUser> ParseAllowedUser(const std::string& text);
// What ParseAllowedUser reads: "1001" or "1001:control".
std::string AllowedUserText(const AllowedUser& user);

struct ServerOptions {
  // "<directory>/grpc.sock" is served. The directory exists and its lock is held; empty: no Unix socket.
  std::string directory;
  // --allow-uid UID[:ROLE], several times. Our own user and root control without being named.
  std::vector<AllowedUser> allow_users;

  // --listen: "host:port" or "[v6 address]:port"; port 0 picks a free one; empty: no TCP. TCP lets nobody in who shows
  // neither a token nor a client certificate; without TLS it is for a loopback address and a token alone, since the
  // token would cross the network readable.
  std::string listen;
  // --token-file: tokens that clients send as `authorization: Bearer <token>`; token_file.h has the format.
  std::string token_file;
  // --tls-cert, --tls-key: PEM files, both or none.
  std::string tls_cert_file;
  std::string tls_key_file;
  // --tls-client-ca: PEM file of the authorities whose client certificates are taken. Needs the two above.
  std::string tls_client_ca_file;
  // --control-certificate NAME, several times: common names of the client certificates that control; others read.
  std::vector<std::string> control_certificates;

  // How long a peer that connects may take to get through TLS and to its first word of HTTP/2.
  std::chrono::milliseconds handshake_timeout{10'000};

  // How long Stop() waits for readers that are slow to take what they are still to get; then they are cut off.
  std::chrono::milliseconds stop_grace{2'000};
  // How long connections stay open after the last word of a watch: a client that writes to a closed one, if only that
  // its window is open again, throws away what it has not read.
  std::chrono::milliseconds stop_linger{200};
};

// Whether the options go together; looks at no file. Error: kInvalidArgument, with what to pass.
Status CheckServerOptions(const ServerOptions& options);

}  // namespace ikkuna::service
