// Names in the hands of people: patterns over them, lists of them. The one matcher of the daemon and its client. The
// name that was probably meant: shared/base/suggestion.h.
//
// Thread rule: none, no state.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ikkuna {

// One or more shell patterns separated by '|': * is any run of characters, dots included, ? one byte; everything else
// (brackets, a backslash) stands for itself. An empty pattern matches everything. Linear in practice, quadratic at
// worst, whatever the pattern.
bool MatchesPatterns(std::string_view patterns, std::string_view name);

// No pattern characters in it: it matches one name only.
bool IsLiteral(std::string_view patterns);

// "a, b, c", or "a, b and 7 more" when there are more than `most`.
std::string Listed(std::span<const std::string> names, size_t most = SIZE_MAX);

}  // namespace ikkuna
