// TokenList: the tokens of --token-file, each with its role.
//
// The file: one token a line, `[read|control] TOKEN [NAME]`; without a role it controls, so that `openssl rand -hex 32
// > FILE` is such a file. Empty lines and those that begin with # say nothing. It belongs to our user or root, and
// nobody else may read it. Tokens without a name are one caller, 'token': what one of them subscribed or publishes, another
// may change.
//
// Immutable. Thread rule: any thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/monitor/caller.h"
#include "shared/base/result.h"

namespace ikkuna::service {

class TokenList {
 public:
  // Errors name the file and the line, and never a token.
  static Result<TokenList> Read(const std::string& path);
  // `name` stands for the file in errors.
  static Result<TokenList> Parse(std::string_view text, const std::string& name);

  // The caller of the value of an `authorization` header, "Bearer <token>"; empty: no token of this list. How long it
  // takes does not depend on how much of a token is right.
  std::optional<Caller> Find(std::string_view authorization) const;

 private:
  using Digest = std::array<uint8_t, 32>;  // SHA-256: of one length for all, and no token stays in memory

  struct Entry {
    Digest digest;
    Role role;
    std::string name;  // empty: none was given
  };

  static Digest DigestOf(std::string_view token);

  std::vector<Entry> entries_;
};

}  // namespace ikkuna::service
