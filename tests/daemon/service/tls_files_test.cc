#include "daemon/service/tls_files.h"

#include "tests/daemon/service/doors_fixture.h"

namespace ikkuna::service {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class TlsFilesTest : public test::DoorsTest {
 protected:
  void SetUp() override {
    DoorsTest::SetUp();
    pair_ = authority_.Sign({.common_name = "localhost", .of_localhost = true});
    options_.tls_cert_file = Write("cert.pem", pair_.certificate, 0644);
    options_.tls_key_file = Write("key.pem", pair_.key);
    options_.tls_client_ca_file = Write("ca.pem", authority_.certificate(), 0644);
  }
  std::string Error() {
    notes_.clear();
    Result<TlsFiles> files = ReadTlsFiles(options_, &notes_);
    return files ? "" : files.error().text;
  }

  test::TestAuthority authority_{"authority"};
  test::CertificateAndKey pair_;
  ServerOptions options_;
  std::vector<std::string> notes_;
};

TEST_F(TlsFilesTest, WhatBelongsTogetherIsRead) {
  EXPECT_EQ(Error(), "");
  EXPECT_THAT(notes_, IsEmpty());
  // A chain, and a key that stands in the certificate's file, as some tools write them.
  Write("cert.pem", pair_.certificate + authority_.certificate());
  EXPECT_EQ(Error(), "");
  options_.tls_cert_file = options_.tls_key_file = Write("both.pem", pair_.key + pair_.certificate);
  EXPECT_EQ(Error(), "");
}

TEST_F(TlsFilesTest, AKeyOfAnotherCertificateIsRefused) {
  Write("key.pem", authority_.Sign({.common_name = "localhost"}).key);
  EXPECT_EQ(Error(), "--tls-key: '" + options_.tls_key_file + "' is not the key of the certificate in '" +
                         options_.tls_cert_file + "' (its first one); pass the two that were made together");
  // The authority's certificate first: what is shown would not be ours.
  Write("key.pem", pair_.key);
  Write("cert.pem", authority_.certificate() + pair_.certificate);
  EXPECT_THAT(Error(), HasSubstr("is not the key of the certificate"));
}

TEST_F(TlsFilesTest, WhatIsNoPemIsRefused) {
  for (const std::string& broken :
       {std::string("no certificate"), pair_.key, pair_.certificate.substr(0, pair_.certificate.size() / 2),
        std::string("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        pair_.certificate + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}) {
    Write("cert.pem", broken);
    EXPECT_EQ(Error(), "--tls-cert: '" + options_.tls_cert_file + "' has no certificate in PEM") << broken;
  }
  Write("cert.pem", pair_.certificate);
  for (const std::string& broken : {std::string("no key"), pair_.certificate, pair_.key.substr(0, 100)}) {
    Write("key.pem", broken);
    EXPECT_THAT(Error(), HasSubstr("has no private key in PEM, or one under a password")) << broken;
  }
  Write("key.pem", pair_.key);
  Write("ca.pem", pair_.key);
  EXPECT_EQ(Error(), "--tls-client-ca: '" + options_.tls_client_ca_file + "' has no certificate in PEM");
  Write("ca.pem", "");
  EXPECT_THAT(Error(), HasSubstr("--tls-client-ca: '" + options_.tls_client_ca_file + "' is empty"));
  options_.tls_client_ca_file = folder_ + "/missing";
  EXPECT_THAT(Error(), HasSubstr("--tls-client-ca: cannot read"));
}

TEST_F(TlsFilesTest, AKeyThatOthersMayReadIsRefused) {
  Write("key.pem", pair_.key, 0644);
  EXPECT_THAT(Error(), HasSubstr("--tls-key: '" + options_.tls_key_file + "' may be read or written by other users"));
}

TEST_F(TlsFilesTest, WhatIsOutOfDateIsNoted) {
  pair_ = authority_.Sign({.common_name = "localhost", .begins_days = -20, .ends_days = -10});
  Write("cert.pem", pair_.certificate);
  Write("key.pem", pair_.key);
  EXPECT_EQ(Error(), "");
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_THAT(notes_[0], HasSubstr("is out of date"));
  pair_ = authority_.Sign({.common_name = "localhost", .begins_days = 10, .ends_days = 20});
  Write("cert.pem", pair_.certificate);
  Write("key.pem", pair_.key);
  EXPECT_EQ(Error(), "");
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_THAT(notes_[0], HasSubstr("is not valid yet"));
}

TEST_F(TlsFilesTest, ClientCertificatesAreCheckedAgainstTheAuthority) {
  test::TestAuthority other("authority");  // of the same name
  ClientCertificates check(authority_.certificate());
  const std::string anna = authority_.Sign({.common_name = "anna"}).certificate;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(check.Check(anna, anna).ok());
  EXPECT_TRUE(check.Check(anna, "").ok());
  const auto refusal = [&](const std::string& certificate, const std::string& chain) {
    Status checked = check.Check(certificate, chain);
    return checked ? "" : checked.error().text;
  };
  const std::string stranger = other.Sign({.common_name = "anna"}).certificate;
  EXPECT_THAT(refusal(stranger, ""), HasSubstr("the client certificate is refused: "));
  // That the client sends its authority along makes it no authority of ours.
  EXPECT_THAT(refusal(stranger, stranger + other.certificate()), HasSubstr("refused"));
  const std::string late = authority_.Sign({.common_name = "anna", .begins_days = -9, .ends_days = -1}).certificate;
  EXPECT_THAT(refusal(late, ""), HasSubstr("expired"));
  EXPECT_THAT(refusal("", ""), HasSubstr("cannot be read"));
  EXPECT_THAT(refusal("garbage", anna), HasSubstr("cannot be read"));
  EXPECT_THAT(refusal(anna + anna, ""), HasSubstr("cannot be read"));
}

}  // namespace
}  // namespace ikkuna::service
