// Small files that an option names: a token, a key, a certificate.
//
// Thread rule: functions without state.
#pragma once

#include <string>

#include "shared/base/result.h"

namespace ikkuna::service {

// What is wrong with the file that `flag` names.
Error RefuseOptionFile(const char* flag, const std::string& path, const std::string& why);

// The whole of a regular file of at most 1 MiB that is not empty. `flag` stands in errors.
Result<std::string> ReadOptionFile(const char* flag, const std::string& path);

// The same of a file that only our user may read: it belongs to us or to root, and its mode lets nobody else in. The
// group of a file of root may read it, since that is how service managers hand over secrets.
Result<std::string> ReadSecretFile(const char* flag, const std::string& path);

}  // namespace ikkuna::service
