// TlsFiles: the certificate we show, its key, and the authorities whose client certificates we take.
//
// Immutable once read. Thread rule: any thread. No OpenSSL type shows here.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "daemon/service/server_options.h"
#include "shared/base/result.h"

namespace ikkuna::service {

struct TlsFiles {
  std::string cert;       // PEM: ours, then those between it and its authority
  std::string key;        // PEM
  std::string client_ca;  // PEM; empty: no client certificate is asked for

  bool operator==(const TlsFiles&) const = default;
};

// Reads the files of `options`, which names a certificate and a key, and makes sure that they are what they should be
// and belong together. `notes` gets a sentence for what is odd but works, such as a certificate that is out of date.
Result<TlsFiles> ReadTlsFiles(const ServerOptions& options, std::vector<std::string>* notes);

// Says again and again whether a client's certificate is good, since a connection may outlive the certificate and the
// authority that it was opened with.
class ClientCertificates {
 public:
  // `client_ca` has passed ReadTlsFiles().
  explicit ClientCertificates(const std::string& client_ca);
  ~ClientCertificates();
  ClientCertificates(const ClientCertificates&) = delete;
  ClientCertificates& operator=(const ClientCertificates&) = delete;

  // `chain` as the client sent it, PEM. Error: kPermissionDenied, with OpenSSL's reason.
  Status Check(const std::string& certificate, const std::string& chain) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ikkuna::service
