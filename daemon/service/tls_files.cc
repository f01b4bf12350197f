#include "daemon/service/tls_files.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509_vfy.h>

#include <ctime>
#include <map>
#include <mutex>

#include "daemon/service/secret_file.h"

namespace ikkuna::service {
namespace {

// How long a certificate that was good is not looked at again: a call costs a look-up instead of a signature.
constexpr std::chrono::seconds kGoodFor{60};
constexpr size_t kMaxRemembered = 1024;  // then all are forgotten, and checked again

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(X509_STORE* store) const { X509_STORE_free(store); }
  void operator()(X509_STORE_CTX* context) const { X509_STORE_CTX_free(context); }
  void operator()(STACK_OF(X509) * stack) const { sk_X509_pop_free(stack, X509_free); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

// A key under a password has nobody to ask for it; OpenSSL would ask the terminal.
int NoPassword(char*, int, int, void*) { return -1; }

Owned<BIO> Open(const std::string& pem) {
  return Owned<BIO>(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// Every certificate of `pem`; empty: there is none, or one of them is broken.
std::vector<Owned<X509>> Certificates(const std::string& pem) {
  std::vector<Owned<X509>> all;
  Owned<BIO> bio = Open(pem);
  while (bio) {
    Owned<X509> one(PEM_read_bio_X509(bio.get(), nullptr, NoPassword, nullptr));
    if (!one) break;
    all.push_back(std::move(one));
  }
  // The end of the file is the error "no start line"; every other is a broken certificate.
  if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) all.clear();
  ERR_clear_error();
  return all;
}

void NoteDates(const char* flag, const std::string& path, const X509& certificate, std::vector<std::string>* notes) {
  if (X509_cmp_current_time(X509_get0_notAfter(&certificate)) < 0) {
    notes->push_back(std::string(flag) + ": the certificate in '" + path +
                     "' is out of date, clients will refuse it; replace the file and send SIGHUP");
  } else if (X509_cmp_current_time(X509_get0_notBefore(&certificate)) > 0) {
    notes->push_back(std::string(flag) + ": the certificate in '" + path +
                     "' is not valid yet, clients will refuse it; look at the clock");
  }
}

}  // namespace

Result<TlsFiles> ReadTlsFiles(const ServerOptions& options, std::vector<std::string>* notes) {
  TlsFiles files;
  Result<std::string> cert = ReadOptionFile("--tls-cert", options.tls_cert_file);
  if (!cert) return cert.error();
  Result<std::string> key = ReadSecretFile("--tls-key", options.tls_key_file);
  if (!key) return key.error();
  const std::vector<Owned<X509>> certificates = Certificates(*cert);
  if (certificates.empty()) return RefuseOptionFile("--tls-cert", options.tls_cert_file, "has no certificate in PEM");
  Owned<BIO> key_bio = Open(*key);
  Owned<EVP_PKEY> private_key(PEM_read_bio_PrivateKey(key_bio.get(), nullptr, NoPassword, nullptr));
  ERR_clear_error();
  if (!private_key) {
    return RefuseOptionFile("--tls-key", options.tls_key_file, "has no private key in PEM, or one under a password");
  }
  const bool fits = X509_check_private_key(certificates.front().get(), private_key.get()) == 1;
  ERR_clear_error();
  if (!fits) {
    return RefuseOptionFile("--tls-key", options.tls_key_file,
                            "is not the key of the certificate in '" + options.tls_cert_file +
                                "' (its first one); pass the two that were made together");
  }
  NoteDates("--tls-cert", options.tls_cert_file, *certificates.front(), notes);
  files.cert = std::move(*cert);
  files.key = std::move(*key);
  if (options.tls_client_ca_file.empty()) return files;
  Result<std::string> client_ca = ReadOptionFile("--tls-client-ca", options.tls_client_ca_file);
  if (!client_ca) return client_ca.error();
  const std::vector<Owned<X509>> authorities = Certificates(*client_ca);
  if (authorities.empty())
    return RefuseOptionFile("--tls-client-ca", options.tls_client_ca_file, "has no certificate in PEM");
  for (const Owned<X509>& authority : authorities) {
    NoteDates("--tls-client-ca", options.tls_client_ca_file, *authority, notes);
  }
  files.client_ca = std::move(*client_ca);
  return files;
}

struct ClientCertificates::Impl {
  Owned<X509_STORE> store;  // constant after construction, but for OpenSSL's own locks

  std::mutex mutex;
  std::map<std::string, std::chrono::steady_clock::time_point> good_until;  // guarded by mutex; by certificate
};

ClientCertificates::ClientCertificates(const std::string& client_ca) : impl_(std::make_unique<Impl>()) {
  impl_->store.reset(X509_STORE_new());
  for (const Owned<X509>& authority : Certificates(client_ca)) {
    X509_STORE_add_cert(impl_->store.get(), authority.get());  // takes a reference of its own
  }
  // As gRPC in its handshake: what the file names is trusted, whether or not it is a root.
  X509_STORE_set_flags(impl_->store.get(), X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_TRUSTED_FIRST);
}

ClientCertificates::~ClientCertificates() = default;

Status ClientCertificates::Check(const std::string& certificate, const std::string& chain) const {
  const auto now = std::chrono::steady_clock::now();
  {
    std::lock_guard lock(impl_->mutex);
    const auto known = impl_->good_until.find(certificate);
    if (known != impl_->good_until.end() && now < known->second) return {};
  }
  const auto refuse = [](const std::string& why) {
    return Error{ErrorCode::kPermissionDenied, "the client certificate is refused: " + why};
  };
  std::vector<Owned<X509>> own = Certificates(certificate);
  if (own.size() != 1) return refuse("it cannot be read");
  Owned<STACK_OF(X509)> between(sk_X509_new_null());
  for (Owned<X509>& one : Certificates(chain)) sk_X509_push(between.get(), one.release());
  Owned<X509_STORE_CTX> context(X509_STORE_CTX_new());
  if (!context || !between ||
      X509_STORE_CTX_init(context.get(), impl_->store.get(), own.front().get(), between.get()) != 1) {
    return refuse("OpenSSL is out of memory");
  }
  X509_STORE_CTX_set_default(context.get(), "ssl_client");
  const bool good = X509_verify_cert(context.get()) == 1;
  const int code = X509_STORE_CTX_get_error(context.get());
  ERR_clear_error();
  if (!good) return refuse(X509_verify_cert_error_string(code));
  std::lock_guard lock(impl_->mutex);
  if (impl_->good_until.size() >= kMaxRemembered) impl_->good_until.clear();
  impl_->good_until[certificate] = now + kGoodFor;
  return {};
}

}  // namespace ikkuna::service
