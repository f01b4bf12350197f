#include "daemon/service/access.h"

#include <grpc/grpc_security_constants.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "shared/base/utf8.h"

namespace ikkuna::service {
namespace {

constexpr size_t kMaxNameBytes = 128;  // twice what X.520 allows a common name

Error Denied(std::string text) { return {ErrorCode::kPermissionDenied, std::move(text)}; }

// A property that the peer has exactly once; else empty.
std::string Property(const grpc::AuthContext& peer, const char* name) {
  const std::vector<grpc::string_ref> values = peer.FindPropertyValues(name);
  return values.size() == 1 ? std::string(values[0].data(), values[0].size()) : std::string();
}

bool IsPresentable(const std::string& name) {
  return !name.empty() && name.size() <= kMaxNameBytes && IsValidUtf8(name) &&
         std::none_of(name.begin(), name.end(),
                      [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; });
}

}  // namespace

Result<std::shared_ptr<const Access>> Access::Read(const ServerOptions& options) {
  std::shared_ptr<Access> access(new Access);
  for (const AllowedUser& user : options.allow_users) access->users_[user.uid] = user.role;
  if (!options.token_file.empty()) {
    Result<TokenList> tokens = TokenList::Read(options.token_file);
    if (!tokens) return tokens.error();
    access->tokens_ = std::move(*tokens);
  }
  if (!options.tls_cert_file.empty()) {
    Result<TlsFiles> tls = ReadTlsFiles(options, &access->notes_);
    if (!tls) return tls.error();
    access->tls_ = std::move(*tls);
    if (!access->tls_->client_ca.empty()) {
      access->client_certificates_ = std::make_unique<ClientCertificates>(access->tls_->client_ca);
    }
  }
  access->control_certificates_.insert(options.control_certificates.begin(), options.control_certificates.end());
  return std::shared_ptr<const Access>(std::move(access));
}

Result<Caller> Access::OfUser(uid_t uid) const {
  Caller caller{"uid:" + std::to_string(uid), uid, Role::kControl};
  if (uid == ::geteuid() || uid == 0) return caller;
  const auto found = users_.find(uid);
  if (found == users_.end()) {
    return Denied("user " + std::to_string(uid) + " may not ask this daemon, which is user " +
                  std::to_string(::geteuid()) + "'s; its owner lets others in with --allow-uid " + std::to_string(uid));
  }
  caller.role = found->second;
  return caller;
}

Result<Caller> Access::OfPeer(const CallMetadata& metadata, const grpc::AuthContext& peer) const {
  const auto [first, last] = metadata.equal_range("authorization");
  if (first == last) {
    if (client_certificates_) return OfCertificate(peer);
    return Denied("no token: send the metadata 'authorization: Bearer <token>' (--token-file)");
  }
  if (!tokens_) return Denied("this daemon takes no token (--token-file); show a client certificate alone");
  if (std::next(first) != last) return Denied("more than one token: send one 'authorization'");
  std::optional<Caller> caller = tokens_->Find({first->second.data(), first->second.size()});
  if (!caller) return Denied("the token is not one of this daemon's (--token-file)");
  return *std::move(caller);
}

Result<Caller> Access::OfCertificate(const grpc::AuthContext& peer) const {
  const std::string certificate = Property(peer, GRPC_X509_PEM_CERT_PROPERTY_NAME);
  if (certificate.empty()) {
    return Denied(tokens_
                      ? "neither a token nor a client certificate: send the metadata 'authorization: Bearer <token>' "
                        "(--token-file), or show a certificate that --tls-client-ca knows"
                      : "no client certificate: show one that --tls-client-ca knows");
  }
  if (Status good = client_certificates_->Check(certificate, Property(peer, GRPC_X509_PEM_CERT_CHAIN_PROPERTY_NAME));
      !good) {
    return good.error();
  }
  const std::string name = Property(peer, GRPC_X509_CN_PROPERTY_NAME);
  if (!IsPresentable(name)) return Denied("the client certificate has no common name (CN) that can be shown");
  const bool controls = control_certificates_.count(name) != 0;
  return Caller{"certificate:" + name, {}, controls ? Role::kControl : Role::kRead};
}

}  // namespace ikkuna::service
