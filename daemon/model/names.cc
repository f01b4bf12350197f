#include "daemon/model/names.h"

namespace ikkuna {

namespace {

// Bytes of the character of UTF-8 that begins there; 1 of what begins none.
size_t CharacterAt(std::string_view text, size_t at) {
  size_t bytes = 1;
  while (at + bytes < text.size() && (static_cast<unsigned char>(text[at + bytes]) & 0xc0) == 0x80) ++bytes;
  return bytes;
}

bool MatchesOne(std::string_view pattern, std::string_view name) {
  size_t p = 0, n = 0;
  size_t star = std::string_view::npos, star_name = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_name = n;
    } else if (p < pattern.size() && pattern[p] == '?') {
      ++p;
      n += CharacterAt(name, n);
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      // The last * takes one character more; earlier ones never need to be tried again.
      p = star + 1;
      n = ++star_name;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace

bool MatchesPatterns(std::string_view patterns, std::string_view name) {
  if (patterns.empty()) return true;
  while (true) {
    const size_t bar = patterns.find('|');
    if (MatchesOne(patterns.substr(0, bar), name)) return true;
    if (bar == std::string_view::npos) return false;
    patterns.remove_prefix(bar + 1);
  }
}

bool IsLiteral(std::string_view patterns) {
  return !patterns.empty() && patterns.find_first_of("*?|") == std::string_view::npos;
}

std::string Listed(std::span<const std::string> names, size_t most) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < most; ++i) text += (i == 0 ? "" : ", ") + names[i];
  if (names.size() > most) text += " and " + std::to_string(names.size() - most) + " more";
  return text;
}

}  // namespace ikkuna
