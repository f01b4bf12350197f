#include "shared/base/utf8.h"

#include <cstdint>

namespace ikkuna {

namespace {

bool IsContinuation(unsigned char byte) { return (byte & 0xc0) == 0x80; }

// Bytes of the valid character at the start of `text`; 0 when there is none.
size_t CharacterBytes(std::string_view text) {
  if (text.empty()) return 0;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  size_t bytes;
  uint32_t point;
  uint32_t least;  // below it the form is overlong
  if (lead >= 0xc2 && lead <= 0xdf) {
    bytes = 2, point = lead & 0x1f, least = 0x80;
  } else if (lead >= 0xe0 && lead <= 0xef) {
    bytes = 3, point = lead & 0x0f, least = 0x800;
  } else if (lead >= 0xf0 && lead <= 0xf4) {
    bytes = 4, point = lead & 0x07, least = 0x10000;
  } else {
    return 0;
  }
  if (text.size() < bytes) return 0;
  for (size_t i = 1; i < bytes; ++i) {
    if (!IsContinuation(byte(i))) return 0;
    point = point << 6 | (byte(i) & 0x3f);
  }
  const bool surrogate = point >= 0xd800 && point <= 0xdfff;
  return point < least || point > 0x10ffff || surrogate ? 0 : bytes;
}

}  // namespace

bool IsValidUtf8(std::string_view text) {
  while (!text.empty()) {
    const size_t bytes = CharacterBytes(text);
    if (bytes == 0) return false;
    text.remove_prefix(bytes);
  }
  return true;
}

std::string_view CutUtf8(std::string_view text, size_t bytes_max) {
  if (text.size() <= bytes_max) return text;
  size_t end = bytes_max;
  while (end > 0 && IsContinuation(static_cast<unsigned char>(text[end]))) --end;
  return text.substr(0, end);
}

std::string CleanUtf8(std::string_view text, size_t bytes_max) {
  std::string clean;
  while (!text.empty() && clean.size() < bytes_max) {
    const size_t bytes = CharacterBytes(text);
    if (bytes > bytes_max - clean.size()) break;
    if (bytes == 0) {
      clean += '?';
      text.remove_prefix(1);
    } else {
      clean.append(text.substr(0, bytes));
      text.remove_prefix(bytes);
    }
  }
  return clean;
}

std::string WireName(std::string_view name, size_t bytes_max) {
  if (name.size() <= bytes_max && IsValidUtf8(name)) return std::string(name);
  uint64_t hash = 14695981039346656037u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  std::string mark = "~";
  for (int shift = 60; shift >= 0; shift -= 4) mark += "0123456789abcdef"[hash >> shift & 15];
  return CleanUtf8(name, bytes_max - mark.size()) + mark;
}

}  // namespace ikkuna
