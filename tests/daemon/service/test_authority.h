// TestAuthority: certificates for tests, made when they are needed, so that each test has those it asks for: of another
// authority, out of date, without a name.
#pragma once

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>

namespace ikkuna::test {

struct CertificateAndKey {
  std::string certificate;  // PEM, both
  std::string key;
};

// What stands in a certificate.
struct CertificateText {
  std::string common_name;  // empty: none
  int begins_days = -1;     // from today
  int ends_days = 30;
  bool of_localhost = false;  // for a server that is called localhost and 127.0.0.1
};

class TestAuthority {
 public:
  explicit TestAuthority(const std::string& name) : key_(EVP_EC_gen("P-256")) {
    certificate_ = Make({name}, key_, nullptr, true);
  }
  ~TestAuthority() {
    X509_free(certificate_);
    EVP_PKEY_free(key_);
  }
  TestAuthority(const TestAuthority&) = delete;
  TestAuthority& operator=(const TestAuthority&) = delete;

  std::string certificate() const { return Pem(certificate_); }

  CertificateAndKey Sign(const CertificateText& text) const {
    EVP_PKEY* key = EVP_EC_gen("P-256");
    X509* certificate = Make(text, key, certificate_, false);
    CertificateAndKey made{Pem(certificate), Pem(key)};
    X509_free(certificate);
    EVP_PKEY_free(key);
    return made;
  }

 private:
  // `issuer` null: signed by itself.
  X509* Make(const CertificateText& text, EVP_PKEY* key, X509* issuer, bool is_authority) const {
    static long serial = 1;
    X509* made = X509_new();
    X509_set_version(made, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(made), serial++);
    X509_gmtime_adj(X509_getm_notBefore(made), text.begins_days * 86'400L);
    X509_gmtime_adj(X509_getm_notAfter(made), text.ends_days * 86'400L);
    X509_NAME* subject = X509_get_subject_name(made);
    AddName(subject, "O", "ikkuna tests");
    if (!text.common_name.empty()) AddName(subject, "CN", text.common_name);
    X509_set_issuer_name(made, issuer == nullptr ? subject : X509_get_subject_name(issuer));
    X509_set_pubkey(made, key);
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer == nullptr ? made : issuer, made, nullptr, nullptr, 0);
    Extend(made, &context, NID_basic_constraints, is_authority ? "critical,CA:TRUE" : "CA:FALSE");
    if (text.of_localhost) Extend(made, &context, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
    X509_sign(made, key_, EVP_sha256());
    return made;
  }
  static void AddName(X509_NAME* subject, const char* field, const std::string& text) {
    X509_NAME_add_entry_by_txt(subject, field, MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(text.data()),
                               static_cast<int>(text.size()), -1, 0);
  }
  static void Extend(X509* certificate, X509V3_CTX* context, int nid, const char* value) {
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, context, nid, value);
    X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
  }
  template <typename Write>
  static std::string Written(Write write) {
    BIO* bio = BIO_new(BIO_s_mem());
    write(bio);
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio, &data);
    std::string text(data, static_cast<size_t>(size));
    BIO_free(bio);
    return text;
  }
  static std::string Pem(X509* certificate) {
    return Written([&](BIO* bio) { PEM_write_bio_X509(bio, certificate); });
  }
  static std::string Pem(EVP_PKEY* key) {
    return Written([&](BIO* bio) { PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr); });
  }

  EVP_PKEY* key_;
  X509* certificate_ = nullptr;
};

}  // namespace ikkuna::test
