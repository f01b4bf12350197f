// UTF-8: every name and text that crosses a process or is served is valid UTF-8, made so by its writer and checked by
// its reader. Valid means RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. U+0000 is valid.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ikkuna {

bool IsValidUtf8(std::string_view text);

// The longest prefix of `text` of at most `bytes_max` bytes that ends at a character boundary; `text` is valid.
std::string_view CutUtf8(std::string_view text, size_t bytes_max);

// `text` with each byte that belongs to no valid character replaced by '?', cut to `bytes_max` as above.
std::string CleanUtf8(std::string_view text, size_t bytes_max);

// A name as it may be written: itself where it is valid and fits, else cleaned, cut, and followed by '~' and 16 digits
// that are made of all its bytes (FNV-1a), so that two names stay two. The same in every process. `bytes_max` is at
// least 32.
std::string WireName(std::string_view name, size_t bytes_max);

}  // namespace ikkuna
