#include "daemon/service/token_list.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <strings.h>

#include <algorithm>

#include "daemon/service/secret_file.h"

namespace ikkuna::service {
namespace {

constexpr size_t kMinTokenBytes = 16;   // 64 random bits in hexadecimal
constexpr size_t kMaxTokenBytes = 512;  // what fits into a header beside the rest of it
constexpr size_t kMaxNameBytes = 64;
constexpr size_t kMaxTokens = 1024;  // compared with every one of them for each call

std::vector<std::string_view> Words(std::string_view line) {
  static constexpr std::string_view kBlanks = " \t\r";
  std::vector<std::string_view> words;
  for (size_t begin = line.find_first_not_of(kBlanks); begin != line.npos;) {
    const size_t end = std::min(line.find_first_of(kBlanks, begin), line.size());
    words.push_back(line.substr(begin, end - begin));
    begin = line.find_first_not_of(kBlanks, end);
  }
  return words;
}

std::optional<Role> RoleNamed(std::string_view word) {
  if (word == "read") return Role::kRead;
  if (word == "control") return Role::kControl;
  return {};
}

bool IsPrintable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= '!' && c <= '~'; });
}

}  // namespace

TokenList::Digest TokenList::DigestOf(std::string_view token) {
  Digest digest;
  SHA256(reinterpret_cast<const unsigned char*>(token.data()), token.size(), digest.data());
  return digest;
}

Result<TokenList> TokenList::Read(const std::string& path) {
  Result<std::string> text = ReadSecretFile("--token-file", path);
  if (!text) return text.error();
  Result<TokenList> list = Parse(*text, path);
  OPENSSL_cleanse(text->data(), text->size());
  return list;
}

Result<TokenList> TokenList::Parse(std::string_view text, const std::string& name) {
  TokenList list;
  size_t number = 0;
  const auto wrong = [&](const std::string& why) {
    return Error{ErrorCode::kInvalidArgument,
                 "--token-file: line " + std::to_string(number) + " of '" + name + "' " + why};
  };
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::vector<std::string_view> words = Words(text.substr(begin, end - begin));
    begin = end + 1;
    ++number;
    if (words.empty() || words[0].front() == '#') continue;
    const std::optional<Role> role = RoleNamed(words[0]);
    if (role) words.erase(words.begin());
    if (words.empty()) return wrong("has a role and no token; it is [read|control] TOKEN [NAME]");
    // A role that is spelled wrong must not pass for a token: its line would let in whoever knows the word.
    if (words[0].size() < kMinTokenBytes || words[0].size() > kMaxTokenBytes) {
      return wrong("has " + std::to_string(words[0].size()) + " characters where a token of " +
                   std::to_string(kMinTokenBytes) + " to " + std::to_string(kMaxTokenBytes) +
                   " should be, such as those of 'openssl rand -hex 32'; it is [read|control] TOKEN [NAME]");
    }
    if (!IsPrintable(words[0])) return wrong("has a character in its token that no header may hold");
    if (words.size() > 2) return wrong("has more than [read|control] TOKEN [NAME]; a name has no blanks");
    Entry entry{DigestOf(words[0]), role.value_or(Role::kControl), words.size() == 2 ? std::string(words[1]) : ""};
    if (entry.name.size() > kMaxNameBytes || !IsPrintable(entry.name)) {
      return wrong("has a name that is longer than " + std::to_string(kMaxNameBytes) +
                   " characters or not of letters, digits and signs");
    }
    for (const Entry& other : list.entries_) {
      if (other.digest == entry.digest) return wrong("repeats the token of an earlier line");
    }
    if (list.entries_.size() == kMaxTokens)
      return wrong("is one token too many: at most " + std::to_string(kMaxTokens));
    list.entries_.push_back(std::move(entry));
  }
  if (list.entries_.empty()) {
    return Error{ErrorCode::kInvalidArgument, "--token-file: '" + name +
                                                  "' has no token; it is [read|control] TOKEN "
                                                  "[NAME] a line, such as that of 'openssl rand -hex 32'"};
  }
  return list;
}

std::optional<Caller> TokenList::Find(std::string_view authorization) const {
  static constexpr std::string_view kScheme = "Bearer ";
  if (authorization.size() <= kScheme.size() ||
      ::strncasecmp(authorization.data(), kScheme.data(), kScheme.size()) != 0) {
    return {};
  }
  const Digest given = DigestOf(authorization.substr(kScheme.size()));
  const Entry* found = nullptr;
  for (const Entry& entry : entries_) {
    if (CRYPTO_memcmp(entry.digest.data(), given.data(), given.size()) == 0) found = &entry;
  }
  if (found == nullptr) return {};
  return Caller{found->name.empty() ? "token" : "token:" + found->name, {}, found->role};
}

}  // namespace ikkuna::service
