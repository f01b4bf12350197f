// Counted: a number with its noun, as a sentence has it: "1 run", "2 runs".
//
// Thread rule: functions without state.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace ikkuna {

// Of nouns whose plural is an s.
inline std::string Plural(uint64_t n, std::string_view one) { return std::string(one) + (n == 1 ? "" : "s"); }
inline std::string Counted(uint64_t n, std::string_view one) { return std::to_string(n) + " " + Plural(n, one); }
// The verb behind it, of what has happened to them.
inline std::string Were(uint64_t n) { return n == 1 ? "was" : "were"; }

}  // namespace ikkuna
