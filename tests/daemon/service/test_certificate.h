// A self-signed certificate for localhost, valid for a hundred years, with its key: for tests only, secret to nobody.
#pragma once

namespace ikkuna::test {

inline constexpr char kTestCertificate[] = R"pem(-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIUdnXMrnkZ+xU1O9diThWPQDYlBSswCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTA5MDA0NloYDzIxMjYxMDI4
MDkwMDQ2WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASpWeka/XYDiFeMYWCEyW6zH7GBirVygPyswFA0Z1/+6j2+Ice/VBPP
vIOYtv8rrMCrZjR+OJAjHJu8u0rxx56uo28wbTAdBgNVHQ4EFgQU5EMruuK1kL0h
nTitK0iM4Hnzr7YwHwYDVR0jBBgwFoAU5EMruuK1kL0hnTitK0iM4Hnzr7YwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSAAwRQIhAJWXFrOWOy6SDlmlibq79pO06LuLRS42qNxj0x1nYmj9AiBG
l/kGXNhtgmJdgpMTrPNpVw+JZiMQCcwYuUnqhppmoA==
-----END CERTIFICATE-----
)pem";

inline constexpr char kTestKey[] = R"pem(-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg3V97PcPZBl9lWV89
TkxVDdVY+RX4pQL/+Ylt8DiOeiehRANCAASpWeka/XYDiFeMYWCEyW6zH7GBirVy
gPyswFA0Z1/+6j2+Ice/VBPPvIOYtv8rrMCrZjR+OJAjHJu8u0rxx56u
-----END PRIVATE KEY-----
)pem";

}  // namespace ikkuna::test
